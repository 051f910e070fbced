//! A failover under way: its candidate, its Sentinel, and how far it has come.
//!
//! Notes what was seen; `switching` and `release` decide what follows from it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::config::HostPort;
use crate::sentinel::report::SentinelAnswer;

/// A chosen candidate is promoted within 0.2 s; after this time the hold may end, if the candidate is a replica.
pub(super) const PROMOTED_WITHIN: Duration = Duration::from_millis(1500);
/// A majority that names the old master this long insists on it.
const INSISTED_AFTER: Duration = Duration::from_secs(3);
/// A promotion that is seen and not followed is explained in the log after this time.
const EXPLAINED_AFTER: Duration = Duration::from_millis(100);

/// One failover, from when its present candidate was first held for.
#[derive(Debug)]
pub(super) struct Failover {
    since: Instant,
    lives: bool,
    crash: bool,
    candidate: Option<SocketAddr>,
    leader: Option<HostPort>,
    /// From then on it may end with the old master.
    ending: Option<Instant>,
    promoted: Option<Instant>,
    only_vanished: bool,
    /// Each Sentinel's first report since `since` on whether the candidate was a master at its last INFO.
    demoted: HashMap<HostPort, bool>,
    /// A majority has named the old master since then.
    old_named_since: Option<Instant>,
    /// Why an early commit is not made was logged.
    explained: bool,
}

impl Failover {
    /// `lives`: the old master answered us when it began. `crash`: it was silent then, or a Sentinel had called it down.
    pub(super) fn new(
        now: Instant,
        (lives, crash): (bool, bool),
        candidate: Option<SocketAddr>,
        leader: Option<HostPort>,
    ) -> Failover {
        Failover {
            since: now,
            lives,
            crash,
            candidate,
            leader,
            ending: None,
            promoted: None,
            only_vanished: false,
            demoted: HashMap::new(),
            old_named_since: None,
            explained: false,
        }
    }

    pub(super) fn since(&self) -> Instant {
        self.since
    }

    /// The old master answered us when it began.
    pub(super) fn lives(&self) -> bool {
        self.lives
    }

    /// The old master was silent when it began, or a Sentinel had called it down.
    pub(super) fn is_crash(&self) -> bool {
        self.crash
    }

    pub(super) fn candidate(&self) -> Option<SocketAddr> {
        self.candidate
    }

    /// The Sentinel that runs it, when we hear it.
    pub(super) fn leader(&self) -> Option<&HostPort> {
        self.leader.as_ref()
    }

    /// It was given up, or its time has passed.
    pub(super) fn is_ending(&self) -> bool {
        self.ending.is_some()
    }

    /// When the candidate was first seen as a master with the right lineage.
    pub(super) fn promoted(&self) -> Option<Instant> {
        self.promoted
    }

    /// Held because a replica left the master's list; no Sentinel has reported a failover.
    pub(super) fn only_vanished(&self) -> bool {
        self.only_vanished
    }

    /// Whether the candidate was still a master to this Sentinel when it first answered.
    pub(super) fn was_master_to(&self, sentinel: &HostPort) -> Option<bool> {
        self.demoted.get(sentinel).copied()
    }

    /// The Sentinels that have answered whether it was.
    pub(super) fn answered_by(&self) -> impl Iterator<Item = &HostPort> {
        self.demoted.keys()
    }

    /// The Sentinel `from` answered.
    pub(super) fn hear(&mut self, from: &HostPort, answer: &SentinelAnswer) {
        if let (Some(candidate), Some(replicas)) = (self.candidate, &answer.replicas)
            && answer.asked >= self.since
        {
            let demoted = replicas.iter().any(|replica| replica.addr == candidate && replica.reported_master);
            self.demoted.entry(from.clone()).or_insert(demoted);
        }
    }

    /// No Sentinel has reported it: a replica left the master's list.
    pub(super) fn take_for_vanished(&mut self) {
        self.only_vanished = true;
    }

    /// A Sentinel names the candidate that is held for already.
    pub(super) fn announce(&mut self, leader: Option<HostPort>) {
        self.only_vanished = false;
        self.leader = leader.or(self.leader.take());
    }

    /// Goes on with another candidate; false when it is the same.
    pub(super) fn choose(&mut self, candidate: SocketAddr) -> bool {
        let is_new = self.candidate != Some(candidate);
        if is_new {
            self.candidate = Some(candidate);
            self.only_vanished = false;
        }
        is_new
    }

    /// The candidate is seen as a master; returns since when.
    pub(super) fn promote(&mut self, now: Instant) -> Instant {
        self.only_vanished = false;
        *self.promoted.get_or_insert(now)
    }

    /// The candidate is a master and is not followed yet; true when that is to be logged.
    pub(super) fn explain(&mut self, now: Instant) -> bool {
        let due = !self.explained && self.promoted.is_some_and(|promoted| now > promoted + EXPLAINED_AFTER);
        self.explained |= due;
        due
    }

    /// Its Sentinel is lost. Perhaps only we lost it, and it goes on: a promotion that is to come has its time.
    pub(super) fn lose(&mut self, sentinel: &HostPort) {
        if self.leader.as_ref() == Some(sentinel) {
            self.leader = None;
            self.ending.get_or_insert(self.since + PROMOTED_WITHIN);
        }
    }

    /// It was given up.
    pub(super) fn give_up(&mut self, now: Instant) {
        self.ending.get_or_insert(now);
        self.leader = None;
    }

    /// Time goes by: nobody was promoted within `limit`, and a majority names the old master or does not.
    pub(super) fn tick(&mut self, now: Instant, limit: Duration, old_is_named: bool) {
        if self.promoted.is_none() && now > self.since + limit {
            self.ending.get_or_insert(now);
        }
        let named_since = old_is_named.then(|| *self.old_named_since.get_or_insert(now));
        self.old_named_since = named_since;
    }

    /// A majority has named the old master for so long that it is believed, whatever the candidate says.
    pub(super) fn is_insisted_against(&self, now: Instant) -> bool {
        self.old_named_since.is_some_and(|since| now > since + INSISTED_AFTER)
    }

    /// The instant after which an answer proves that it has come to nothing; `None` while somebody may still be promoted.
    pub(super) fn over_since(&self, now: Instant, old: SocketAddr) -> Option<Instant> {
        let nobody_else = self.candidate.is_none_or(|candidate| candidate == old);
        let at_once = self.only_vanished || self.is_insisted_against(now) || nobody_else;
        self.ending.or(at_once.then_some(self.since))
    }
}
