//! Settings of the nodes that are other ones while a restore runs, and are put back.
//!
//! A server that is given another data set frees its own first, and answers nobody meanwhile: some seconds for millions
//! of keys, after which Sentinel replaces it. With [`LAZY`] it frees in the background, and with [`LOAD`] it loads what
//! it receives at once and keeps the old data until it has the new, to go back to; both need room for the two. And a
//! server waits for five seconds whether further replicas come before it sends its data to one: [`AT_ONCE`] says how
//! many there are.
//!
//! Whoever is killed in between leaves them so, which changes nothing but later synchronisations.

use std::net::SocketAddr;

use super::node::Node;
use super::preflight;
use super::survey::Survey;
use crate::backup::Error;
use crate::secret::Credentials;

/// Since Redis 4; `no` by default.
pub const LAZY: &str = "replica-lazy-flush";
/// Since Redis 6; `disabled` by default, which is to receive all, to write it to the disk, and then to load it.
pub const LOAD: &str = "repl-diskless-load";
/// Since Redis 7; 0 by default, which is to wait for `repl-diskless-sync-delay`.
pub const AT_ONCE: &str = "repl-diskless-sync-max-replicas";

/// What was changed, where, and what it was.
#[derive(Debug, Default)]
pub struct Settings {
    auth: Option<Credentials>,
    changed: Vec<(SocketAddr, &'static str, String)>,
}

impl Settings {
    /// Changes those of the target and of its replicas. What a node does not let us change stays: a restore goes
    /// without, and the survey has told what that costs.
    pub async fn change(survey: &mut Survey, auth: Option<&Credentials>) -> Settings {
        let mut settings = Settings { auth: auth.cloned(), ..Settings::default() };
        let replicas = survey.facts.replicas.max(1).to_string();
        let node = &mut survey.node;
        settings.set(node, AT_ONCE, &replicas).await;
        if preflight::room_for_both(&survey.facts, survey.size).is_ok() {
            settings.set(node, LAZY, "yes").await;
            settings.set(node, LOAD, "swapdb").await;
        }
        let master = node.addr();
        let others = survey.monitored.iter().flat_map(|topology| &topology.candidates);
        for addr in others.map(|candidate| candidate.addr).filter(|addr| *addr != master) {
            let mut replica = Node::new(addr, settings.auth.clone());
            // The safety backup.
            settings.set(&mut replica, AT_ONCE, "1").await;
            if replica.info().await.is_ok_and(|facts| preflight::room_for_both(&facts, survey.size).is_ok()) {
                settings.set(&mut replica, LAZY, "yes").await;
            }
        }
        settings
    }

    async fn set(&mut self, node: &mut Node, name: &'static str, value: &str) {
        let set = async {
            let was = node.setting(name).await?;
            if was != value {
                node.set(name, value).await?;
                self.changed.push((node.addr(), name, was));
            }
            Ok::<(), Error>(())
        };
        if let Err(error) = set.await {
            tracing::debug!("{name} stays as it is: {error}");
        }
    }

    /// Puts them back. Returns what could not be.
    pub async fn put_back(self) -> Vec<String> {
        let mut left = Vec::new();
        for (addr, name, was) in self.changed {
            let mut node = Node::new(addr, self.auth.clone());
            match node.set(name, &was).await {
                Ok(()) => {}
                // Started again, it reads its file.
                Err(_) if node.is_gone().await => {}
                Err(error) => left.push(format!("{name} of {addr} was {was} before, and is not put back: {error}")),
            }
        }
        left
    }
}
