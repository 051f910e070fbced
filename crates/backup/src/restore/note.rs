//! What a restore is about to change in the nodes, noted in the store: a restore that is killed cannot undo it, and the next
//! one does.
//!
//! The note is there before anything is changed and goes when all is as it was. Whoever finds one asks first whether its
//! restore is still at work: that listens, for as long as it lives, where the target is to find it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::confirm;
use super::node::{Facts, Node};
use super::settings::{Change, Settings};
use super::survey::Survey;
use super::undo::{self, State};
use crate::config::Config;
use crate::process::{self, Process};
use crate::store::Store;
use crate::{Error, output, source};

/// How long whoever restores may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(2);

/// One restore of a whole data set.
#[derive(Debug, Serialize, Deserialize)]
pub struct Note {
    /// Host and process, for people.
    owner: String,
    /// Who restores, as its own host knows it.
    process: Option<Process>,
    /// When it began, by the clock of its host.
    began: Timestamp,
    /// The node that is overwritten.
    target: SocketAddr,
    /// Sentinels monitor it.
    monitored: bool,
    /// Where it is to find its data.
    serving: SocketAddr,
    /// The history of what it holds before.
    replid: String,
    /// Its keys by database before.
    keyspace: BTreeMap<u32, u64>,
    /// Settings of it and of its replicas.
    settings: Vec<Change>,
}

impl Note {
    /// Of a restore to the target of `survey`, which is to find its data at `serving`.
    pub fn new(survey: &Survey, serving: SocketAddr, settings: &Settings) -> Note {
        Note {
            owner: format!("{} (process {})", process::host(), std::process::id()),
            process: Process::current(),
            began: Timestamp::now(),
            target: survey.node.addr(),
            monitored: survey.monitored.is_some(),
            serving,
            replid: survey.facts.replid.clone(),
            keyspace: survey.facts.keyspace.clone(),
            settings: settings.changes().to_vec(),
        }
    }

    /// What the target holds now: it may have been written to, and the first who synchronises with it gives its history
    /// another name.
    pub fn look_again(&mut self, survey: &Survey) {
        if survey.node.addr() == self.target {
            (self.replid, self.keyspace) = (survey.facts.replid.clone(), survey.facts.keyspace.clone());
        }
    }

    /// Leaves it in the store. A store that takes none is no failure: a restore that is not killed needs none.
    pub async fn leave(&self, store: &Store, master_name: &str) {
        let written = match serde_json::to_vec(self) {
            Ok(bytes) => store.put_over(&name(master_name, self.target), bytes).await,
            Err(error) => Err(Error::Internal(error.to_string())),
        };
        if let Err(error) = written {
            tracing::warn!("should this restore be killed, the next one cannot put back what it changes: {error}");
        }
    }

    /// Takes it away.
    pub async fn take_away(&self, store: &Store, master_name: &str) {
        if let Err(error) = store.delete(&name(master_name, self.target)).await {
            tracing::warn!("{error}");
        }
    }

    /// Whether its restore still runs.
    async fn is_at_work(&self) -> bool {
        if self.process.as_ref().is_some_and(Process::has_died) {
            return false;
        }
        matches!(timeout(CONNECT, TcpStream::connect(self.serving)).await, Ok(Ok(_)))
    }

    /// What it left, for people.
    fn story(&self) -> String {
        let Note { owner, began, target, .. } = self;
        format!("the restore to {target} that {owner} began at {} was killed", output::seconds(*began))
    }

    /// Undoes what its restore left. Returns what could not be undone.
    async fn undo(&self, config: &Config) -> Vec<String> {
        let Note { target, serving, replid, keyspace, settings, .. } = self;
        let auth = config.sentinel.redis_auth.as_ref();
        let mut node = Node::new(*target, auth.cloned());
        let mut left = Vec::new();
        let mut replaced = self.monitored;
        if node.role().await.is_ok_and(|role| role.is_replica_of(*serving)) {
            let before = Facts { replid: replid.clone(), keyspace: keyspace.clone(), ..Facts::default() };
            let state = undo::undo(&mut node, *serving, &before, self.monitored.then_some(config)).await;
            let had = output::count(before.keys(), "key");
            match &state {
                State::Master { untouched: true, .. } => {
                    tracing::warn!("{target} is a master again, with the data that it had ({had})");
                }
                State::Master { keys, .. } => {
                    let keys = output::count(*keys, "key");
                    tracing::warn!("{target} is a master again, with {keys} ({had} before)");
                }
                State::Replaced { by, .. } => tracing::warn!("Sentinel has replaced {target} by {by}"),
                other => left.push(format!(
                    "{target} is a replica of {serving}, where nobody is any more, and could not be made a master again \
                     ({other:?}): send it REPLICAOF NO ONE if the Sentinels still name it as the master"
                )),
            }
            replaced &= matches!(state, State::Replaced { .. });
        }
        left.extend(Settings::left(settings.clone(), auth).put_back().await);
        if replaced {
            // The failover wrote them into the files.
            let mut nodes: Vec<SocketAddr> = settings.iter().map(|change| change.node).collect();
            nodes.dedup();
            for addr in nodes {
                let written = Node::new(addr, auth.cloned()).ask(&["CONFIG", "REWRITE"]).await;
                tracing::debug!("CONFIG REWRITE of {addr}: {written:?}");
            }
        }
        left
    }
}

/// Looks for restores of backups of `master_name` that were killed, and undoes what they left; asks before, unless `yes`.
///
/// # Errors
/// [`Error::Locked`]: one to the same target, which is `target` or else the master that Sentinel names, is at work.
/// [`Error::Usage`] and [`Error::Restore`] when it was not confirmed.
pub async fn clear(
    store: &Store,
    master_name: &str,
    target: Option<SocketAddr>,
    yes: bool,
    config: &Config,
) -> Result<(), Error> {
    let notes = match store.list(&folder(master_name)).await {
        Ok(notes) => notes,
        Err(error) => {
            tracing::warn!("whether a restore was killed before is not known: {error}");
            return Ok(());
        }
    };
    for object in notes {
        let Ok(Some(bytes)) = store.get(&object.name).await else { continue };
        let note: Note = match serde_json::from_slice(&bytes) {
            Ok(note) => note,
            Err(error) => {
                tracing::warn!("{} is no note of a restore: {error}", store.url(&object.name));
                continue;
            }
        };
        if note.is_at_work().await {
            let target = match target {
                Some(target) => Some(target),
                None => source::named(config).await.ok().map(|named| named.addr),
            };
            if target == Some(note.target) {
                let Note { owner, target, .. } = &note;
                return Err(Error::Locked(format!(
                    "{owner} restores a backup of {master_name} to {target} now; nothing was changed"
                )));
            }
            continue;
        }
        let story = note.story();
        confirm::ask(&format!("{story}: what it left is undone first.\n"), yes)?;
        tracing::warn!("{story}: undoing what it left");
        let left = note.undo(config).await;
        left.iter().for_each(|left| tracing::warn!("{left}"));
        if left.is_empty() {
            note.take_away(store, master_name).await;
        }
    }
    Ok(())
}

fn folder(master_name: &str) -> String {
    format!("{master_name}/restore")
}

fn name(master_name: &str, target: SocketAddr) -> String {
    let target = target.to_string().replace(['[', ']'], "").replace(':', "-");
    format!("{}/{target}.json", folder(master_name))
}
