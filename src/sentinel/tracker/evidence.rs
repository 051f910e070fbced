//! What is believed: what the Sentinels agree on, and what a node says of itself.
//!
//! Only looks, but for two notes: who belongs to our master, and for how long a majority has insisted.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::Instant;

use super::Tracker;
use super::family::Listing;
use crate::sentinel::consensus::{self, Consensus, Named};
use crate::sentinel::lineage::Kinship;
use crate::sentinel::report::{Info, Role, SentinelAnswer};

/// What a node is, seen by the rules for a new master.
pub(super) enum Verdict {
    /// It says master, and nothing speaks against it.
    Master(Option<Info>, Kinship),
    /// We may not ask it.
    Unreadable,
    /// Not now, and why.
    No(String),
}

impl Tracker {
    /// Whom the Sentinels name. A claim of a node that most of them do not know counts for nothing: else one that lies
    /// would drown what the others say of the next failover.
    pub(super) fn consensus(&self, now: Instant) -> Consensus {
        let is_known = |addr| self.followed.is_at(addr) || self.trusts(addr);
        let most_know = |addr| self.sentinels.acquainted(addr) * 2 > self.sentinels.answers(now).count();
        let credible = |answer: &&SentinelAnswer| {
            answer.claim.as_ref().is_some_and(|claim| is_known(claim.addr) || most_know(claim.addr))
        };
        consensus::weigh(self.sentinels.answers(now).filter(credible), self.sentinels.total())
    }

    /// Every address that a Sentinel names, with its epoch.
    pub(super) fn named(&self, now: Instant) -> impl Iterator<Item = (SocketAddr, u64)> {
        self.sentinels.answers(now).filter_map(|answer| answer.claim.as_ref()).map(|claim| (claim.addr, claim.epoch))
    }

    /// It may be given our credentials, and one Sentinel is enough to go there: it was our master or a replica of one, or
    /// most of all Sentinels know it.
    pub(super) fn trusts(&self, addr: SocketAddr) -> bool {
        self.is_replica(addr)
            || (self.sentinels.electorate().is_anchored()
                && self.sentinels.acquainted(addr) * 2 > self.sentinels.total())
    }

    /// A replica of our master: by its own list, or to most of the Sentinels. Only they know one that is announced by a host
    /// name: a node's list is not worth a question to DNS with each heartbeat.
    pub(super) fn is_replica(&self, addr: SocketAddr) -> bool {
        let lists = |answer: &&SentinelAnswer| answer.lists(addr);
        self.family.contains(addr)
            || self.followed.has_replica(addr)
            || self.followed.early().is_some_and(|early| early.previous.addr == addr)
            || self.sentinels.last_answers().filter(lists).count() * 2 > self.sentinels.total()
    }

    /// What no stranger can have: our master's own list or that of most Sentinels named it while we followed that master.
    /// Where neither ever named a replica, it cannot be asked for.
    pub(super) fn is_bonded(&self, addr: SocketAddr) -> bool {
        let nobody_lists = || self.sentinels.last_answers().all(|answer| answer.replicas.is_none());
        self.family.contains(addr) || (!self.followed.is_listed() && nobody_lists())
    }

    /// Notes our master and its replicas, as itself and as most Sentinels list them.
    pub(super) fn note_family(&mut self, now: Instant) {
        let Some(master) = self.followed.master().filter(|master| !master.provisional) else { return };
        let master = master.addr;
        let own = self.followed.replicas().filter(|_| self.followed.is_listed());
        let mut present: BTreeSet<SocketAddr> = own.collect();
        let total = self.sentinels.total();
        let (mut listed, mut agree) = (HashMap::<SocketAddr, (usize, bool)>::new(), 0);
        for answer in self.sentinels.answers(now).filter(|answer| answer.names(master)) {
            agree += 1;
            for fact in answer.replicas.iter().flatten() {
                let (times, up) = listed.entry(fact.addr).or_default();
                *times += 1;
                *up |= !fact.down;
            }
        }
        listed.retain(|_, (times, _)| *times * 2 > total);
        present.extend(listed.iter().filter(|(_, (_, up))| *up).map(|(addr, _)| *addr));
        let listing = Listing { present, seen: listed.into_keys().collect(), by_most: agree * 2 > total };
        self.family.note(now, master, listing);
    }

    /// The epoch below which nothing is believed: our master's, or the one remembered from an earlier run.
    pub(super) fn floor(&self) -> u64 {
        let floor = || self.earlier.floor().map(|(_, epoch)| epoch);
        self.followed.master().map(|master| master.epoch).or_else(floor).unwrap_or(0)
    }

    /// A majority that has named a lower epoch for long enough.
    pub(super) fn lower(&mut self, now: Instant) -> Option<Named> {
        let floor = self.floor();
        self.sentinels.insisting_below(now, floor)
    }

    pub(super) fn verdict(&self, addr: SocketAddr, asked_after: Instant, run_id: Option<&str>) -> Verdict {
        let Some(node) = self.nodes.get(addr) else { return Verdict::No(format!("{addr} was not asked yet")) };
        if node.refused.is_some() {
            return Verdict::No(format!("{addr} refuses connections"));
        }
        let Some(answer) = node.answer.as_ref().filter(|answer| answer.asked >= asked_after) else {
            return Verdict::No(match &node.silent {
                Some(error) => error.clone(),
                None => format!("{addr} has not answered yet"),
            });
        };
        match &answer.role {
            Role::Replica { .. } => Verdict::No(format!("{addr} says it is a replica")),
            Role::Occupied(words) => Verdict::No(format!("{addr} answers {words}")),
            Role::Unreadable(_) => Verdict::Unreadable,
            Role::Master { .. } => match &node.info {
                None => Verdict::Master(None, Kinship::Unknown),
                Some(info) if info.loading => Verdict::No(format!("{addr} is still loading its data set")),
                Some(info) if run_id.is_some_and(|run_id| run_id != info.run_id) => Verdict::No(format!(
                    "{addr} is another process than the one Sentinel names (run_id differs: was it restarted, or is the address mapped wrongly?)"
                )),
                Some(info) => Verdict::Master(Some(info.clone()), self.family.kinship(info)),
            },
        }
    }

    /// The whole rule for following what the Sentinels agree on: verified on the node, and backed as its lineage demands.
    pub(super) fn verify(&self, named: &Named, asked_after: Instant) -> Result<Option<Info>, String> {
        // What a start may follow was weighed before (`believed`).
        let starting = self.followed.master().is_none();
        let backed = starting || (named.majority && self.is_bonded(named.addr));
        let near = starting || named.majority || self.trusts(named.addr);
        let support = || format!("only {} of {} Sentinels name {}", named.support, self.sentinels.total(), named.addr);
        match self.verdict(named.addr, asked_after, named.run_id.as_deref()) {
            Verdict::Master(info, Kinship::Heir | Kinship::Kin) if near => Ok(info),
            Verdict::Master(info, Kinship::Unknown) if backed => Ok(info),
            Verdict::Master(_, Kinship::Unknown) if named.majority => Err(self.stranger(named)),
            Verdict::Master(..) => Err(format!("{} and it does not share our master's history", support())),
            Verdict::Unreadable if backed && !named.down => Ok(None),
            Verdict::Unreadable => Err(format!("{} and its ROLE may not be read", support())),
            Verdict::No(why) => Err(why),
        }
    }

    /// Why sessions do not move to a node that a majority names, and what to do.
    pub(super) fn stranger(&self, named: &Named) -> String {
        format!(
            "{} of {} Sentinels name {} at epoch {}, whose data is of another history and which was never a replica of our master: no session moves there. If the name was given to other data on purpose, restart switchmaster; if not, ask each Sentinel `SENTINEL MASTER` and set right those that are wrong",
            named.support,
            self.sentinels.total(),
            named.addr,
            named.epoch
        )
    }
}
