//! Settings of the nodes that are other ones while a restore runs, and are put back.
//!
//! A server that is given another data set frees its own first, and answers nobody meanwhile: some seconds for millions
//! of keys, after which Sentinel replaces it. With [`LAZY`] it frees in the background, and with [`LOAD`] it loads what
//! it receives at once and keeps the old data until it has the new, to go back to; both need room for the two. And a
//! server waits for five seconds whether further replicas come before it sends its data to one: [`AT_ONCE`] says how
//! many there are.
//!
//! Whoever is killed in between leaves them so, which changes nothing but later synchronisations; a `Note`
//! tells the next restore what they were.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::node::{Facts, Node};
use super::preflight;
use crate::Error;
use crate::secret::Credentials;

/// Since Redis 4; `no` by default.
pub const LAZY: &str = "replica-lazy-flush";
/// Since Redis 6; `disabled` by default, which is to receive all, to write it to the disk, and then to load it.
pub const LOAD: &str = "repl-diskless-load";
/// Since Redis 7; 0 by default, which is to wait for `repl-diskless-sync-delay`.
pub const AT_ONCE: &str = "repl-diskless-sync-max-replicas";

/// What is changed, where, and what it was.
#[derive(Debug, Default)]
pub struct Settings {
    auth: Option<Credentials>,
    changes: Vec<Change>,
}

/// One setting of one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Which node.
    pub node: SocketAddr,
    /// Which setting.
    pub name: String,
    /// Its value before.
    pub was: String,
    /// Its value while the restore runs.
    pub set: String,
}

impl Settings {
    /// Those of the target and of its `replicas` that are to be others, for data of `size` bytes; nothing is changed yet.
    /// What a node does not let us change stays: a restore goes without, and the survey has told what that costs.
    pub async fn plan(
        target: &mut Node,
        facts: &Facts,
        replicas: impl IntoIterator<Item = SocketAddr>,
        size: u64,
        auth: Option<&Credentials>,
    ) -> Settings {
        let mut settings = Settings { auth: auth.cloned(), changes: Vec::new() };
        settings.add(target, AT_ONCE, &facts.replicas.max(1).to_string()).await;
        if preflight::room_for_both(facts, size).is_ok() {
            settings.add(target, LAZY, "yes").await;
            settings.add(target, LOAD, "swapdb").await;
        }
        for addr in replicas {
            let mut replica = Node::new(addr, settings.auth.clone());
            // The safety backup.
            settings.add(&mut replica, AT_ONCE, "1").await;
            if replica.info().await.is_ok_and(|facts| preflight::room_for_both(&facts, size).is_ok()) {
                settings.add(&mut replica, LAZY, "yes").await;
            }
        }
        settings
    }

    /// Those that a restore changed which was killed.
    pub fn left(changes: Vec<Change>, auth: Option<&Credentials>) -> Settings {
        Settings { auth: auth.cloned(), changes }
    }

    /// What is to be changed.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    async fn add(&mut self, node: &mut Node, name: &'static str, value: &str) {
        match node.setting(name).await {
            Ok(was) if was == value => {}
            Ok(was) => {
                self.changes.push(Change { node: node.addr(), name: name.to_owned(), was, set: value.to_owned() });
            }
            Err(error) => tracing::debug!("{name} stays as it is: {error}"),
        }
    }

    /// Changes them.
    pub async fn make(&self) {
        for Change { node, name, set, .. } in &self.changes {
            if let Err(error) = Node::new(*node, self.auth.clone()).set(name, set).await {
                tracing::debug!("{name} of {node} stays as it is: {error}");
            }
        }
    }

    /// Puts back what is still as it was set. Returns what could not be.
    pub async fn put_back(self) -> Vec<String> {
        let mut left = Vec::new();
        for Change { node: addr, name, was, set } in self.changes {
            let mut node = Node::new(addr, self.auth.clone());
            let put = async {
                match node.setting(&name).await? {
                    found if found == set => node.set(&name, &was).await,
                    // Somebody has decided otherwise meanwhile.
                    _ => Ok::<(), Error>(()),
                }
            };
            match put.await {
                Ok(()) => {}
                // Started again, it reads its file.
                Err(_) if node.is_gone().await => {}
                Err(error) => left.push(format!("{name} of {addr} was {was} before, and is not put back: {error}")),
            }
        }
        left
    }
}
