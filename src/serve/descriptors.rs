//! Who gets how many of the process's descriptors ([`Share`]).
//!
//! Those of the control plane are kept back first: whatever clients do, Sentinels are followed.

use crate::config::{Config, Listen};
use crate::net::{self, ListenAddr};

/// Descriptors of the control plane: Sentinels, nodes, files, and the admin server's 96 and 16 connections.
const CONTROL: u64 = 160;
/// Those of a worker besides its listeners: its runtime's, and a client that is being accepted or refused.
const WORKER: u64 = 8;
/// More than this many spare ones are of no use.
const MOST_SPARE: u64 = 1 << 16;

/// What each gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    /// Of a client: its socket and its backend; a Unix socket is registered a second time while a write waits.
    each: u64,
    /// Clients that may be there at once.
    pub(super) clients: usize,
    /// What is left beyond theirs and the control plane's.
    pub(super) spare: usize,
}

impl Share {
    /// Raises the limit as far as it goes, and warns if that is not enough for `max_clients`.
    pub(super) fn take(config: &Config) -> Share {
        let limit = net::raise_descriptor_limit();
        let (share, wanted) = Share::of(limit, config);
        if limit < wanted {
            tracing::warn!(
                "max_clients = {} needs {wanted} descriptors ({} for each client), and the hard limit is {limit}: raise it \
                 (LimitNOFILE= in systemd, ulimit -Hn) or lower max_clients; {} clients are served at once",
                config.max_clients,
                share.each,
                share.clients
            );
        }
        share
    }

    /// Also returns what the configuration needs.
    fn of(limit: u64, config: &Config) -> (Share, u64) {
        let is_unix = |listen: &Listen| matches!(listen.addr, ListenAddr::Unix(_));
        let each = if config.listen.iter().any(is_unix) { 3 } else { 2 };
        let own = CONTROL + config.workers as u64 * (WORKER + config.listen.len() as u64);
        let clients = config.max_clients as u64;
        let wanted = own + clients * each;
        let room = limit - own.min(limit / 2);
        // Where there is not enough for all clients, a part stays spare nevertheless: connections made ready are worth it.
        let clients = if room < clients * each { (room - room / 8) / each } else { clients };
        let spare = (room - clients * each).min(MOST_SPARE);
        (Share { each, clients: clients as usize, spare: spare as usize }, wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_kept_for_control_and_shared_among_the_rest() {
        let mut config = Config { workers: 1, max_clients: 500, ..Config::default() };
        let own = CONTROL + WORKER + 1;
        let share = |limit, config: &Config| Share::of(limit, config).0;
        assert_eq!(Share::of(own + 1000, &config), (Share { each: 2, clients: 500, spare: 0 }, own + 1000));
        assert_eq!(share(own + 1100, &config), Share { each: 2, clients: 500, spare: 100 });
        assert_eq!(share(own + 800, &config), Share { each: 2, clients: 350, spare: 100 });
        assert_eq!(share(100, &config), Share { each: 2, clients: 22, spare: 6 }, "half of what there is");
        assert!(share(u64::MAX, &config).spare < 1 << 20, "no limit");
        config.listen.push(Listen::new(ListenAddr::Unix("/run/redis.sock".into())));
        assert_eq!(share(own + 1600, &config), Share { each: 3, clients: 500, spare: 99 });
    }
}
