//! What is ours: the histories of our masters, whoever was one or a replica of one, and who may be promoted.
//!
//! No stranger can be in here: a node gets in while the master that we follow, or most Sentinels, list it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Instant;

use crate::sentinel::lineage::{Kinship, Lineage};
use crate::sentinel::memory::Memory;
use crate::sentinel::report::Info;

/// Members that are remembered; the one seen least lately goes.
const MOST_MEMBERS: usize = 64;

/// Our masters and their replicas.
#[derive(Debug, Default)]
pub(super) struct Family {
    lineage: Lineage,
    /// With when each was last seen.
    members: BTreeMap<SocketAddr, Instant>,
    /// The replicas that may be promoted: those of when most Sentinels last named our master, and any since.
    electable: BTreeSet<SocketAddr>,
}

/// What is listed of our master's replicas at one instant.
pub(super) struct Listing {
    /// Listed by the master, or by most Sentinels.
    pub(super) seen: Vec<SocketAddr>,
    /// Of these, those whose link is up.
    pub(super) present: BTreeSet<SocketAddr>,
    /// Most Sentinels name our master now.
    pub(super) by_most: bool,
}

impl Family {
    /// As an earlier run has left it.
    pub(super) fn recall(&mut self, memory: Option<&Memory>, now: Instant) {
        self.forget();
        let Some(memory) = memory else { return };
        self.electable.extend(&memory.replicas);
        memory.history.iter().for_each(|replid| self.lineage.remember(replid));
        if !memory.history.is_empty() {
            let nodes = memory.family.iter().chain(&memory.replicas).chain([&memory.addr]);
            self.members = nodes.map(|addr| (*addr, now)).collect();
        }
    }

    /// The history of a verified master.
    pub(super) fn remember_history(&mut self, replid: &str) {
        self.lineage.remember(replid);
    }

    /// Another history begins: nothing of before is ours.
    pub(super) fn forget(&mut self) {
        *self = Family::default();
    }

    pub(super) fn note(&mut self, now: Instant, master: SocketAddr, listing: Listing) {
        let seen = listing.present.iter().copied().chain(listing.seen).chain([master]);
        self.members.extend(seen.map(|addr| (addr, now)));
        while self.members.len() > MOST_MEMBERS
            && let Some(oldest) = self.members.iter().min_by_key(|(_, seen)| **seen).map(|(addr, _)| *addr)
        {
            self.members.remove(&oldest);
        }
        // One that leaves while few Sentinels are heard may be leaving as the next master.
        if listing.by_most {
            self.electable.clear();
        }
        self.electable.extend(listing.present);
        self.electable.remove(&master);
    }

    pub(super) fn kinship(&self, info: &Info) -> Kinship {
        self.lineage.kinship(info)
    }

    pub(super) fn histories(&self) -> impl Iterator<Item = &str> {
        self.lineage.known()
    }

    pub(super) fn contains(&self, addr: SocketAddr) -> bool {
        self.members.contains_key(&addr)
    }

    pub(super) fn members(&self) -> impl Iterator<Item = SocketAddr> {
        self.members.keys().copied()
    }

    pub(super) fn electable(&self) -> impl Iterator<Item = SocketAddr> {
        self.electable.iter().copied()
    }
}
