//! What each watched node said last.
//!
//! An answer is kept until the node refuses connections or is not watched any more; what it is worth is `evidence`'s
//! business. The fields of a [`NodeState`] are set in this file alone.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use crate::sentinel::report::{Info, NodeAnswer, Role};

/// Every watched node.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    known: BTreeMap<SocketAddr, NodeState>,
}

/// One node.
#[derive(Debug, Default)]
pub(super) struct NodeState {
    pub(super) answer: Option<NodeAnswer>,
    /// Of the connection of `answer`, or of an earlier answer on it.
    pub(super) info: Option<Info>,
    /// Nobody has listened there since then.
    pub(super) refused: Option<Instant>,
    /// Why it has not answered the last question.
    pub(super) silent: Option<String>,
}

impl Nodes {
    /// It was asked, whatever came of that.
    pub(super) fn asked(&mut self, addr: SocketAddr) {
        self.known.entry(addr).or_default();
    }

    pub(super) fn answered(&mut self, answer: &NodeAnswer, addr: SocketAddr) {
        let node = self.known.entry(addr).or_default();
        let same_connection = node.answer.as_ref().is_some_and(|last| last.connection == answer.connection);
        if answer.info.is_some() || !same_connection {
            node.info.clone_from(&answer.info);
        }
        node.refused = None;
        node.silent = None;
        node.answer = Some(answer.clone());
    }

    pub(super) fn refused(&mut self, now: Instant, addr: SocketAddr) {
        let node = self.known.entry(addr).or_default();
        node.refused = Some(now);
        node.answer = None;
    }

    pub(super) fn silent(&mut self, addr: SocketAddr, error: String) {
        self.known.entry(addr).or_default().silent = Some(error);
    }

    /// What a node said before it was last asked for is no evidence any more.
    pub(super) fn forget_all_but(&mut self, watched: impl Fn(&SocketAddr) -> bool) {
        self.known.retain(|addr, _| watched(addr));
    }

    pub(super) fn get(&self, addr: SocketAddr) -> Option<&NodeState> {
        self.known.get(&addr)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&SocketAddr, &NodeState)> {
        self.known.iter()
    }

    pub(super) fn answer(&self, addr: SocketAddr) -> Option<&NodeAnswer> {
        self.get(addr)?.answer.as_ref()
    }

    pub(super) fn info(&self, addr: SocketAddr) -> Option<&Info> {
        self.get(addr)?.info.as_ref()
    }

    pub(super) fn role(&self, addr: SocketAddr) -> Option<&Role> {
        Some(&self.answer(addr)?.role)
    }

    /// Nobody listens there, or has not since the last answer.
    pub(super) fn is_refused(&self, addr: SocketAddr) -> bool {
        self.get(addr).is_some_and(|node| node.refused.is_some())
    }
}
