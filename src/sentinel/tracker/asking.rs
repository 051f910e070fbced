//! Which nodes are asked, how often, and which may be given our credentials.
//!
//! A node that is not in here gets no byte from the control plane; one that is not trusted gets no credentials.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::Tracker;
use super::situation::State;

/// While a failover is decided.
const FAST: Duration = Duration::from_millis(5);
/// While a promotion may come.
const BRISK: Duration = Duration::from_millis(20);
/// While anything else is unusual.
const STEADY: Duration = Duration::from_millis(50);
/// How long the old master is asked that fast, and how long the candidate.
const FAST_FOR: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(3));

/// How a node should be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Between two questions.
    pub every: Duration,
    /// It may be given our credentials: a majority names it, or it was a replica of our master.
    pub trusted: bool,
}

/// Until when the master is asked more often, since something goes on.
#[derive(Debug)]
pub(super) struct Attention {
    until: Instant,
}

impl Attention {
    pub(super) fn new(now: Instant) -> Attention {
        Attention { until: now }
    }

    pub(super) fn pay(&mut self, until: Instant) {
        self.until = self.until.max(until);
    }

    pub(super) fn is_paid(&self, now: Instant) -> bool {
        now < self.until
    }
}

/// The nodes to be asked: each as often, and as trusted, as whatever asks the most.
#[derive(Default)]
struct Plan(HashMap<SocketAddr, Pace>);

impl Plan {
    fn add(&mut self, addr: SocketAddr, every: Duration, trusted: bool) {
        let pace = self.0.entry(addr).or_insert(Pace { every, trusted });
        pace.every = pace.every.min(every);
        pace.trusted |= trusted;
    }
}

impl Tracker {
    /// The nodes to be asked, and how.
    pub fn nodes(&self, now: Instant) -> HashMap<SocketAddr, Pace> {
        let mut plan = Plan::default();
        self.ask_the_master(now, &mut plan);
        self.ask_the_candidate(now, &mut plan);
        for addr in self.promotions.expected() {
            plan.add(addr, BRISK, self.trusts(addr));
        }
        if let Some(every) = self.compares_every() {
            let compared = self.electable(now).into_iter().chain(self.followed.addr());
            compared.for_each(|addr| plan.add(addr, every, self.trusts(addr)));
        }
        for addr in self.abandoned.nodes() {
            plan.add(addr, FAST, self.trusts(addr));
        }
        for addr in self.asked_at_the_start(now) {
            plan.add(addr, BRISK, true);
        }
        let current = self.followed.master().map(|master| (master.addr, master.epoch));
        // Nobody else can be followed: a stranger is not even asked.
        for (addr, epoch) in self.named(now) {
            if current.is_none_or(|(master, current)| addr != master && epoch >= current) && self.trusts(addr) {
                plan.add(addr, STEADY, true);
            }
        }
        for addr in self.worth_asking_at_the_start(now) {
            plan.add(addr, STEADY, true);
        }
        plan.0
    }

    fn ask_the_master(&self, now: Instant, plan: &mut Plan) {
        let Some(master) = self.followed.addr() else { return };
        // A Sentinel that is not heard may promote a replica behind our back: only the heartbeat would show that.
        let unheard = self.sentinels.states().any(|sentinel| sentinel.lost_since.is_some());
        let doubted = self.gap.doubt().is_some();
        let unusual = self.attention.is_paid(now) || self.followed.is_early() || doubted || unheard;
        let every = match self.situation.state() {
            State::Following if unusual => STEADY.min(self.settings.heartbeat),
            State::Following => self.settings.heartbeat,
            State::Switching(failover) if now < failover.since() + FAST_FOR.0 => FAST,
            _ => STEADY,
        };
        plan.add(master, every, true);
    }

    fn ask_the_candidate(&self, now: Instant, plan: &mut Plan) {
        let (Some(_), Some(failover)) = (self.followed.addr(), self.situation.failover()) else { return };
        let every = if now < failover.since() + FAST_FOR.1 { FAST } else { STEADY };
        if let Some(candidate) = failover.candidate() {
            plan.add(candidate, every, self.trusts(candidate));
        }
        if let Some(early) = self.followed.early() {
            plan.add(early.previous.addr, STEADY, true);
        }
    }
}
