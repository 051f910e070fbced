//! Ports that somebody else has already ([`taken`]): for `config check`, which is to say so before the start fails.

use crate::config::Config;
use crate::net::{ListenAddr, listens_at};

/// Systemd holds it for us, as far as can be seen: only root sees which process of root it is.
fn is_managers(holder: &str) -> bool {
    holder.starts_with("systemd (pid 1)") || holder == "a process of root"
}

/// What to say of each TCP port of `config` at which another program listens. Binds nothing; a socket that a service
/// manager holds is taken for ours.
pub fn taken(config: &Config) -> Vec<String> {
    let clients = config.listen.iter().filter_map(|listen| match listen.addr {
        ListenAddr::Tcp(addr) => Some(("listen", addr)),
        ListenAddr::Unix(_) => None,
    });
    let all = clients.chain(config.admin.map(|addr| ("admin", addr))).filter(|(_, addr)| addr.port() != 0);
    all.filter_map(|(key, addr)| {
        let holder = listens_at(addr).filter(|holder| !is_managers(holder))?;
        let way = match key {
            "listen" => {
                "stop that program, or give switchmaster another port (listen = \"6380\", and REDIS_PORT=6380 for the \
                 application) or a Unix socket; see docs/laravel.md"
            }
            _ => "give switchmaster another one (admin = \"9380\")",
        };
        Some(format!("{key}: {addr} is taken by {holder}: {way}"))
    })
    .collect()
}
