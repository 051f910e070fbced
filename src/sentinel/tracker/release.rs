//! The end of a failover that came to nothing: requests flow to the old master again.
//!
//! Only when the candidate is surely no master, and the old one has said since that it is the one sessions talked to. What
//! must hold, in this order:
//!
//! 1. the failover is over: given up, out of time, or there was none but in our own eyes;
//! 2. the candidate has settled (`has_settled`), or a majority insists on the old master;
//! 3. the old master, asked since, lives;
//! 4. and is the same process with the same data: sessions move to another one as after a restart.
//!
//! What is asked since then is asked behind a gap of our own as well.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::failover::{Failover, PROMOTED_WITHIN};
use super::{Output, Tracker};
use crate::sentinel::consensus::Consensus;
use crate::sentinel::report::{NodeAnswer, Role};
use crate::topology::Master;

/// How long the answers of a replica that left the master's list are waited for.
const VANISHED_FOR: Duration = Duration::from_millis(300);

/// Which failover it was that came to nothing.
enum Outcome {
    /// A replica had only left the master's list.
    NoFailover,
    /// The master itself was held for, after an early commit that was not confirmed in time.
    Confirmed,
    /// Nobody was ever named as the candidate.
    NobodyChosen,
    /// The candidate was not promoted, or was demoted again.
    Aborted(SocketAddr),
}

impl Outcome {
    fn of(failover: &Failover, master: SocketAddr) -> Outcome {
        match failover.candidate() {
            _ if failover.only_vanished() => Outcome::NoFailover,
            Some(candidate) if candidate == master => Outcome::Confirmed,
            Some(candidate) => Outcome::Aborted(candidate),
            None => Outcome::NobodyChosen,
        }
    }

    fn why(&self) -> &'static str {
        match self {
            Outcome::NoFailover => "no failover: the replica was not promoted",
            Outcome::Confirmed => "the epoch has confirmed the master after all",
            Outcome::NobodyChosen => "the master is a master again",
            Outcome::Aborted(_) => "the failover was aborted, the old master stays",
        }
    }
}

impl Tracker {
    /// Ends the hold with the old master, where that is safe.
    pub(super) fn release(&mut self, now: Instant) {
        let Some(master) = self.followed.master().cloned() else { return };
        let is_named = self.is_named_again(now, &master);
        let limit = self.settings.planned_hold_limit.min(PROMOTED_WITHIN);
        self.situation.failover_mut().into_iter().for_each(|failover| failover.tick(now, limit, is_named));
        let Some(failover) = self.situation.failover() else { return };
        let Some(over) = failover.over_since(now, master.addr) else { return };
        let since = self.gap.behind(over);
        if !self.has_settled(now, failover, since, &master, is_named) && !failover.is_insisted_against(now) {
            return;
        }
        let Some(answer) = self.nodes.answer(master.addr).filter(|answer| lives(answer, since)) else { return };
        if !self.followed.is_connection_of(answer) || self.restarts.is_replaced() {
            self.check_restart(now, &master);
            return;
        }
        let outcome = Outcome::of(failover, master.addr);
        self.end_failover(now, &master, outcome);
    }

    /// A majority names the master, and no Sentinel is replacing it.
    fn is_named_again(&self, now: Instant, master: &Master) -> bool {
        matches!(self.consensus(now), Consensus::Agreed(named)
            if named.confirms(master.addr, master.epoch) && !named.failover && !master.provisional)
    }

    /// The candidate is surely no master, by what it said since then. Where nobody was chosen the majority says so, and
    /// where it is the master itself that was held for, the epoch.
    fn has_settled(&self, now: Instant, failover: &Failover, since: Instant, master: &Master, is_named: bool) -> bool {
        let Some(candidate) = failover.candidate() else { return is_named };
        if candidate == master.addr {
            return !master.provisional;
        }
        let only_vanished = failover.only_vanished();
        let is_replica = self.nodes.answer(candidate).is_some_and(|answer| {
            answer.asked >= since && matches!(answer.role, Role::Replica { link_up, .. } if link_up || only_vanished)
        });
        let is_refused = self.nodes.get(candidate).and_then(|node| node.refused).is_some_and(|at| at >= since);
        let says_master = matches!(self.nodes.role(candidate), Some(Role::Master { .. }));
        let is_waited_for = now <= failover.since() + VANISHED_FOR;
        is_replica || is_refused || (only_vanished && !says_master && !is_waited_for)
    }

    fn end_failover(&mut self, now: Instant, master: &Master, outcome: Outcome) {
        if let Outcome::Aborted(candidate) = outcome {
            self.history.count_aborted();
            self.promotions.distrust(now, candidate);
            self.out.push(Output::Remember(master.clone()));
        }
        self.resume(now, outcome.why());
        if let Some(Role::Master { replicas, .. }) = self.nodes.role(master.addr) {
            self.followed.replace_replicas(replicas);
        }
    }
}

/// It was asked since then, and says that it is a master, or nothing that we may read.
fn lives(answer: &NodeAnswer, since: Instant) -> bool {
    answer.asked >= since && matches!(answer.role, Role::Master { .. } | Role::Unreadable(_))
}
