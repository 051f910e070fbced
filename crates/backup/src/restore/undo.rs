//! After a restore that was given up: the target becomes a master again, unless the Sentinels have another one.
//!
//! Two masters are worse than none: where Sentinels monitor the target, each REPLICAOF NO ONE comes after their word
//! that it is still theirs. A node that was replaced is left to them.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::node::{Facts, Node};
use crate::config::Config;
use crate::node::role::Role;
use crate::{Error, output, source};

/// How long the target may take to be a master again: it refuses REPLICAOF while it loads.
const WITHIN: Duration = Duration::from_secs(60);
/// How long to wait for Sentinels that take the target for down, and have not begun to replace it.
const DOWN: Duration = Duration::from_secs(3);
/// How long no Sentinel may answer before the last word of theirs is taken for the present one.
const UNHEARD: Duration = Duration::from_secs(10);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// How the target was left.
#[derive(Debug)]
pub enum State {
    /// A master, with so many keys.
    Master {
        /// In all databases.
        keys: u64,
        /// They are those from before.
        untouched: bool,
    },
    /// The Sentinels have another master.
    Replaced {
        /// Which.
        by: SocketAddr,
        /// What it holds, where it says so: its keys, and whether they are of the history from before.
        holds: Option<(u64, bool)>,
    },
    /// A replica of somebody whom no Sentinel told it to follow.
    Replica(String),
    /// Nobody listens there any more.
    Gone,
    /// It does not answer, or has not obeyed.
    Unknown(String),
}

/// Undoes the REPLICAOF to `ours`. `before` is what the target was; `sentinels` asks those that monitor it, if any do.
pub async fn undo(node: &mut Node, ours: SocketAddr, before: &Facts, sentinels: Option<&Config>) -> State {
    let target = node.addr();
    tokio::select! {
        biased;
        by = replaced(target, sentinels) => {
            let mut new = Node::new(by, sentinels.and_then(|config| config.sentinel.redis_auth.clone()));
            let info = new.info().await.ok();
            State::Replaced { by, holds: info.map(|info| (info.keys(), info.descends_from(before))) }
        }
        state = back(node, ours, before, sentinels) => state,
    }
}

/// Returns when the Sentinels name another master than `target`.
async fn replaced(target: SocketAddr, sentinels: Option<&Config>) -> SocketAddr {
    let Some(config) = sentinels else { return std::future::pending().await };
    loop {
        if let Ok(named) = source::named(config).await
            && named.addr != target
        {
            return named.addr;
        }
        sleep(LOOK).await;
    }
}

async fn back(node: &mut Node, ours: SocketAddr, before: &Facts, sentinels: Option<&Config>) -> State {
    let started = Instant::now();
    let mut last = String::new();
    while started.elapsed() < WITHIN {
        match node.role().await {
            Ok(Role::Master { .. }) => match node.info().await {
                Ok(info) => {
                    let untouched = info.keyspace == before.keyspace && info.descends_from(before);
                    return State::Master { keys: info.keys(), untouched };
                }
                Err(error) => last = error.to_string(),
            },
            Ok(role) if role.is_replica_of(ours) => match may_be_master(node.addr(), sentinels, started).await {
                Ok(()) => match node.replicaof(None).await {
                    Ok(()) => continue,
                    Err(error) => last = error.to_string(),
                },
                Err(why) => last = why,
            },
            // Sentinel's own doing is seen by `replaced` within moments.
            Ok(Role::Replica { host, port, .. }) if sentinels.is_none() => {
                return State::Replica(format!("{host}:{port}"));
            }
            Ok(other) => last = format!("it is {other:?}"),
            Err(_) if node.is_gone().await => return State::Gone,
            Err(error) => last = error.to_string(),
        }
        sleep(LOOK).await;
    }
    State::Unknown(last)
}

/// Whether the Sentinels still have it as their master and are not about to replace it. `Err` says why not.
async fn may_be_master(target: SocketAddr, sentinels: Option<&Config>, started: Instant) -> Result<(), String> {
    let Some(config) = sentinels else { return Ok(()) };
    match source::named(config).await {
        Ok(named) if named.addr != target => Err(format!("the Sentinels name {}", named.addr)),
        Ok(named) if named.failover => Err("a Sentinel is replacing it".into()),
        Ok(named) if named.down && started.elapsed() < DOWN => Err("a Sentinel takes it for down".into()),
        Ok(_) => Ok(()),
        Err(error) if started.elapsed() < UNHEARD => Err(error.to_string()),
        Err(error) => {
            tracing::warn!("{target} becomes a master again without the word of a Sentinel: {error}");
            Ok(())
        }
    }
}

/// The error of a restore that was given up because of `error`: what is where now, and what to do about it. `safety` is
/// the backup of what was there, and what it lacks.
pub fn failure(
    error: &Error,
    target: SocketAddr,
    state: &State,
    before: &Facts,
    safety: Option<(String, Option<String>)>,
) -> String {
    let keys = output::count(before.keys(), "key");
    let mut needed = true;
    let mut text = format!("given up: {error}\n");
    text += &match state {
        State::Master { untouched: true, .. } => {
            needed = false;
            format!("{target} is a master again, with the data that it had ({keys})")
        }
        State::Master { keys: now, .. } => {
            format!("{target} is a master again, with {} ({} before)", output::count(*now, "key"), before.keys())
        }
        State::Replaced { by, holds } => {
            let has = match holds {
                Some((now, true)) => {
                    needed = false;
                    format!("with the data from before, {}", output::count(*now, "key"))
                }
                Some((now, false)) => format!("with {}, not those from before ({keys})", output::count(*now, "key")),
                None => format!("but does not say what it holds ({keys} before)"),
            };
            format!(
                "Sentinel has replaced {target} meanwhile: {by} is the master now, {has}. {target} is left to Sentinel, \
                 which makes it a replica within a minute; nothing has to be done about it"
            )
        }
        State::Replica(by) => format!("{target} is a replica of {by} now: somebody else told it so"),
        State::Gone => format!(
            "nobody listens at {target} any more: its process has ended, see its log; started again, it is a master with \
             what it has on its disk, unless Sentinel has replaced it"
        ),
        State::Unknown(last) => format!(
            "{target} could not be made a master again ({last}): look at it, and send REPLICAOF NO ONE if the Sentinels \
             still name it as the master"
        ),
    };
    match safety {
        Some((id, lacking)) if needed => {
            text += &format!("\nto go back to what was there: switchmaster backup restore {id}");
            lacking.iter().for_each(|lacking| text += &format!("\nwarning: {lacking}"));
        }
        Some((id, _)) => text += &format!("\nbackup {id} of it is not needed, and stays for a week"),
        None if needed => text += "\nno safety backup was taken",
        None => {}
    }
    text
}
