//! Which nodes are asked, how often, and which may be given our credentials.
//!
//! A node that is not in here gets no byte from the control plane; one that is not trusted gets no credentials.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{State, Tracker};

/// How a node should be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watch {
    /// Between two questions.
    pub every: Duration,
    /// It may be given our credentials: a majority names it, or it was a replica of our master.
    pub trusted: bool,
}

impl Tracker {
    /// The nodes to be asked, and how.
    pub fn nodes(&self, now: Instant) -> HashMap<SocketAddr, Watch> {
        const FAST: Duration = Duration::from_millis(5);
        const BRISK: Duration = Duration::from_millis(20);
        const STEADY: Duration = Duration::from_millis(50);
        let mut nodes: HashMap<SocketAddr, Watch> = HashMap::new();
        let mut watch = |addr: SocketAddr, every: Duration, trusted: bool| {
            let entry = nodes.entry(addr).or_insert(Watch { every, trusted });
            entry.every = entry.every.min(every);
            entry.trusted |= trusted;
        };
        if let Some(master) = &self.master {
            // A Sentinel that is not heard may promote a replica behind our back: only the heartbeat would tell.
            let unheard = self.sentinels.values().any(|sentinel| sentinel.lost_since.is_some());
            let unusual = now < self.unusual_until || self.provisional.is_some() || self.doubt.is_some() || unheard;
            let every = match &self.state {
                State::Following if unusual => STEADY.min(self.settings.heartbeat),
                State::Following => self.settings.heartbeat,
                State::Switching(failover) if now < failover.since + Duration::from_secs(2) => FAST,
                _ => STEADY,
            };
            watch(master.addr, every, true);
        }
        if let State::Switching(failover) = &self.state {
            let every = if now < failover.since + Duration::from_secs(3) { FAST } else { STEADY };
            if let Some(candidate) = failover.candidate {
                watch(candidate, every, self.trusts(candidate));
            }
            if let Some(provisional) = &self.provisional {
                watch(provisional.previous.addr, STEADY, true);
            }
        }
        for addr in self.suspects.keys() {
            watch(*addr, BRISK, self.trusts(*addr));
        }
        if let Some(every) = self.compares_every() {
            let nodes = self.electable(now).into_iter().chain(self.master.as_ref().map(|master| master.addr));
            nodes.for_each(|addr| watch(addr, every, self.trusts(addr)));
        }
        for addr in self.abandoned.iter().flat_map(|abandoned| &abandoned.nodes) {
            watch(*addr, FAST, self.trusts(*addr));
        }
        for addr in self.asked_at_the_start(now) {
            watch(addr, BRISK, true);
        }
        let current = self.master.as_ref().map(|master| (master.addr, master.epoch));
        // Nobody else can be followed: a stranger is not even asked.
        for (addr, epoch) in self.named(now) {
            if current.is_none_or(|(master, current)| addr != master && epoch >= current) && self.trusts(addr) {
                watch(addr, STEADY, true);
            }
        }
        for addr in self.worth_asking_at_the_start(now) {
            watch(addr, STEADY, true);
        }
        nodes
    }
}
