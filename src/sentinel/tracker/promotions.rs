//! Nodes that may turn master at any moment, and those whose promotion is not followed early.
//!
//! Both for a limited time; nothing here is evidence.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// A candidate of an aborted failover may still be promoted by a command on its way.
pub(super) const DISTRUST_FOR: Duration = Duration::from_secs(15);

/// Promotions that may come.
#[derive(Debug, Default)]
pub(super) struct Promotions {
    /// Watched until then.
    expected: BTreeMap<SocketAddr, Instant>,
    /// Candidates of an aborted failover: no early commit on them until then.
    distrusted: BTreeMap<SocketAddr, Instant>,
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
