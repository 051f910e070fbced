//! Following Sentinel: who is master, and when to hold.
//!
//! [`run`] is the watch task. It feeds what the followers (one per Sentinel) and the probers (one per node) hear to
//! the [`tracker::Tracker`], and does what that decides: it publishes to the [`crate::topology::Topology`] and knows no session.
//!
//! ```text
//! follower ─┐                    ┌─► topology.publish / prove
//! prober  ──┼─► Input ─► Tracker ┼─► ask a node, poll the Sentinels
//! sessions ─┘                    └─► log, metrics, status::View
//! ```

mod follower;
pub mod lineage;
mod memory;
mod prober;
mod task;
pub mod tracker;

pub use switchmaster_protocol::sentinel::{client, consensus, electorate, event, hold, report};

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use crate::config::{Config, HoldTimeout, SentinelConfig};
use crate::control::ControlRequest;
use crate::drain;
use crate::sentinel::client::AddressMap;
use crate::sentinel::follower::Context;
use crate::sentinel::memory::{Keeper, Memory};
use crate::sentinel::task::{Inbox, Task};
use crate::sentinel::tracker::{Settings, Tracker};
use crate::status;
use crate::topology::Report;
use crate::upstream::Upstream;

/// The parts of the configuration that following Sentinel needs.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Sentinels, credentials, paces.
    pub sentinel: SentinelConfig,
    /// How long requests are held in one outage.
    pub hold_timeout: HoldTimeout,
    /// How long a planned failover may hold requests while its candidate says nothing and the old master lives.
    pub planned_hold_limit: Duration,
    /// Where the last verified master is remembered.
    pub state_dir: Option<PathBuf>,
    /// The addresses that the proxy's listeners were really bound to: never a master.
    pub own: Vec<SocketAddr>,
}

impl Parts {
    /// Takes them out of the whole configuration.
    pub fn new(config: &Config, own: Vec<SocketAddr>) -> Parts {
        Parts {
            sentinel: config.sentinel.clone(),
            hold_timeout: config.failover.hold_timeout,
            planned_hold_limit: config.failover.planned_hold_limit,
            state_dir: config.state_dir.clone(),
            own,
        }
    }

    fn settings(&self) -> Settings {
        Settings {
            sentinels: self.sentinel.addrs.clone(),
            address_map: AddressMap::new(self.sentinel.address_map.clone()),
            heartbeat: self.sentinel.heartbeat,
            poll_interval: self.sentinel.poll_interval,
            suspect_after: self.sentinel.suspect_after,
            hold_timeout: self.hold_timeout,
            planned_hold_limit: self.planned_hold_limit,
            minority: self.sentinel.minority,
            credentials: self.sentinel.redis_auth.clone(),
            learn_credentials: self.sentinel.learn_credentials,
            floor: None,
            candidate: None,
        }
    }
}

/// Why [`run`] returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// No name is configured and a Sentinel monitors several masters; their names, sorted.
    SeveralMasters(Vec<String>),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::SeveralMasters(names) => {
                write!(f, "Sentinel monitors several masters: {}; choose one with --master-name", names.join(", "))
            }
        }
    }
}

impl std::error::Error for Error {}

/// Follows Sentinel until the runtime ends. Needs a tokio runtime with I/O and time; may be its only task.
///
/// `relay_replies` is the number of replies that all sessions have received so far: that it rises is a sign of life
/// of the master. `status` gets a new view every 100 ms and at each publication. `drain` is let go as soon as the
/// drain begins: sessions that still drain need a master, so following goes on. Newly `configured` parts say the same as those before
/// about all that needs a restart.
///
/// # Errors
/// Only [`Error::SeveralMasters`]. Absent Sentinels, DNS and nodes never end it.
pub async fn run(
    mut configured: watch::Receiver<Parts>,
    upstream: Arc<Upstream>,
    reports: mpsc::Receiver<Report>,
    relay_replies: impl Fn() -> u64,
    commands: mpsc::Receiver<ControlRequest>,
    status: watch::Sender<status::View>,
    drain: drain::Watch,
) -> Result<(), Error> {
    let parts = configured.borrow_and_update().clone();
    let name = parts.sentinel.master_name.clone();
    let memory = memory_at_start(&parts, name.as_deref());
    let mut tracker = Tracker::new(parts.settings(), Instant::now());
    memory.iter().for_each(|memory| tracker.recall(Some(memory.clone()), file(&parts, &memory.name)));
    let (out, messages) = mpsc::channel(1024);
    let (name_sender, name_receiver) = watch::channel(name);
    let (pace, pace_receiver) = watch::channel(parts.sentinel.poll_interval);
    let (credentials, _) = watch::channel(tracker.login());
    let (auth, auth_receiver) = watch::channel(parts.sentinel.auth.clone());
    let (own, own_receiver) = watch::channel(parts.own.clone());
    let context = Arc::new(Context {
        map: AddressMap::new(parts.sentinel.address_map.clone()),
        auth: auth_receiver,
        own: own_receiver,
        name: name_receiver,
        pace: pace_receiver,
    });
    let task = Task {
        tracker,
        parts,
        upstream,
        status,
        context,
        out,
        name: name_sender,
        pace,
        credentials,
        auth,
        own,
        followers: HashMap::new(),
        probers: HashMap::new(),
        next_number: 0,
        memory,
        keeper: Keeper::default(),
        asked: None,
        shown: None,
        names: BTreeMap::new(),
        named_since: None,
    };
    task.run(Inbox { messages, reports, commands, configured, drain: Some(drain) }, relay_replies).await
}

/// Without a name, that of the only master that is remembered.
fn memory_at_start(parts: &Parts, name: Option<&str>) -> Option<Memory> {
    match name {
        Some(name) => remembered(parts, name),
        None => parts.state_dir.as_deref().and_then(Memory::only),
    }
}

fn remembered(parts: &Parts, name: &str) -> Option<Memory> {
    let dir = parts.state_dir.as_ref()?;
    Memory::read(dir, name).unwrap_or_else(|error| {
        tracing::warn!("the remembered master in {} cannot be read ({error}): going on without it", dir.display());
        None
    })
}

/// Where the master `name` is remembered, for people.
fn file(parts: &Parts, name: &str) -> String {
    parts.state_dir.as_ref().map_or_else(String::new, |dir| Memory::path(dir, name).display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watch_task_may_run_on_a_thread_of_its_own() {
        fn movable<T: Send>(_: T) {}
        let started = |parts: Parts| {
            let (upstream, reports) = Upstream::new(None, None, true);
            let (_, commands) = mpsc::channel(1);
            let (status, _) = watch::channel(status::View::default());
            let (_, drain) = drain::channel();
            movable(run(watch::channel(parts).1, upstream, reports, || 0, commands, status, drain));
        };
        let _ = started;
    }
}
