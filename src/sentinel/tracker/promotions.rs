//! Nodes that may turn master at any moment, those whose promotion is not followed early, and a failover of a node that is
//! not followed yet.
//!
//! All for a limited time; nothing here is evidence.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::failover::PROMOTED_WITHIN;
use crate::config::HostPort;

/// A candidate of an aborted failover may still be promoted by a command on its way.
pub(super) const DISTRUST_FOR: Duration = Duration::from_secs(15);

/// A Sentinel promotes `candidate` in place of `of`, which is not followed yet.
#[derive(Debug)]
struct Ahead {
    of: SocketAddr,
    candidate: SocketAddr,
    leader: HostPort,
    until: Instant,
}

/// Promotions that may come.
#[derive(Debug, Default)]
pub(super) struct Promotions {
    /// Watched until then.
    expected: BTreeMap<SocketAddr, Instant>,
    /// Candidates of an aborted failover: no early commit on them until then.
    distrusted: BTreeMap<SocketAddr, Instant>,
    ahead: Option<Ahead>,
}

impl Promotions {
    pub(super) fn expect(&mut self, addr: SocketAddr, until: Instant) {
        self.expected.insert(addr, until);
    }

    /// A failover to this node was aborted.
    pub(super) fn distrust(&mut self, now: Instant, addr: SocketAddr) {
        self.distrusted.insert(addr, now + DISTRUST_FOR);
        self.expect(addr, now + DISTRUST_FOR);
    }

    pub(super) fn expire(&mut self, now: Instant) {
        self.expected.retain(|_, until| now < *until);
        self.distrusted.retain(|_, until| now < *until);
        self.ahead.take_if(|ahead| now >= ahead.until);
    }

    /// A Sentinel replaces the node `of`, which is not followed yet.
    pub(super) fn look_ahead(&mut self, now: Instant, of: SocketAddr, candidate: SocketAddr, leader: HostPort) {
        self.ahead = Some(Ahead { of, candidate, leader, until: now + PROMOTED_WITHIN });
    }

    /// That Sentinel gave it up.
    pub(super) fn give_up(&mut self, leader: &HostPort) {
        self.ahead.take_if(|ahead| ahead.leader == *leader);
    }

    /// Who replaces `master` already, which is followed from now on, and the Sentinel that promotes it.
    pub(super) fn take_ahead(&mut self, master: SocketAddr) -> Option<(SocketAddr, HostPort)> {
        self.ahead.take().filter(|ahead| ahead.of == master).map(|ahead| (ahead.candidate, ahead.leader))
    }

    /// A new master is followed: nobody is promoted out of the history of the one before any more.
    pub(super) fn expect_none(&mut self) {
        self.expected.clear();
    }

    pub(super) fn expected(&self) -> impl Iterator<Item = SocketAddr> {
        self.expected.keys().copied()
    }

    pub(super) fn is_distrusted(&self, addr: SocketAddr) -> bool {
        self.distrusted.contains_key(&addr)
    }
}
