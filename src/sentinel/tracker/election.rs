//! From `+try-failover` to `+selected-slave`: requests flow, and a reply to a write waits until every replica has it that
//! may be chosen.
//!
//! Sentinel chooses by priority and by offsets that may be seconds old, not by who has everything: what one of them lacks
//! may be lost, so it is not acknowledged. Where all are level this takes one look at each; it never takes longer than
//! [`ELECTION_WITHIN`], and it never keeps a request back.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{Output, Tracker};
use crate::config::HostPort;
use crate::sentinel::report::{ReplicaFact, Role};

/// A replica is chosen 60 to 130 ms after `+try-failover`.
const ELECTION_WITHIN: Duration = Duration::from_millis(500);
/// A replica that has what the master had so long before it was asked is level with it.
const LEVEL_WITHIN: Duration = Duration::from_millis(100);

/// The election, if there is one.
#[derive(Debug, Default)]
pub(super) struct Election {
    under_way: Option<Electing>,
}

/// A Sentinel is about to choose a replica.
#[derive(Debug)]
struct Electing {
    since: Instant,
    leader: HostPort,
    /// Replies of before this are on every replica that may be chosen.
    covered: Option<Instant>,
}

impl Election {
    fn begin(&mut self, now: Instant, leader: HostPort) {
        self.under_way = Some(Electing { since: now, leader, covered: None });
    }

    pub(super) fn end(&mut self) {
        self.under_way = None;
    }

    /// Ends the one that this Sentinel runs for.
    pub(super) fn end_of(&mut self, leader: &HostPort) {
        self.under_way.take_if(|electing| electing.leader == *leader);
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// Replies of before this are on every replica that may be chosen.
    pub(super) fn covered_until(&self) -> Option<Instant> {
        self.under_way.as_ref()?.covered
    }

    /// Nobody was chosen within the time that it takes.
    fn has_run_out(&self, now: Instant) -> bool {
        self.under_way.as_ref().is_some_and(|electing| now >= electing.since + ELECTION_WITHIN)
    }

    fn cover(&mut self, until: Option<Instant>) {
        if let Some(electing) = &mut self.under_way {
            electing.covered = electing.covered.max(until);
        }
    }
}

/// How far the replicas are that may be chosen.
enum Reached {
    /// All of them have the stream up to here at least.
    All(u64),
    /// One of them has not said yet.
    Unknown,
    /// There is none whose promotion could be waited for.
    Nobody,
}

impl Tracker {
    /// A Sentinel has begun a failover while the master lives. One of a dead master is another matter.
    pub(super) fn begin_election(&mut self, now: Instant, leader: HostPort) {
        let says_so =
            self.followed.addr().is_some_and(|addr| matches!(self.nodes.role(addr), Some(Role::Master { .. })));
        let lives =
            self.situation.is_following() && !self.followed.is_called_down() && !self.followed.is_early() && says_so;
        let electable = self.electable(now);
        if lives && !electable.is_empty() {
            self.election.begin(now, leader);
            self.out.extend(electable.into_iter().map(Output::AskNode));
            self.ask_master();
        }
    }

    /// Looks how far the replicas have come.
    pub(super) fn elect(&mut self, now: Instant) {
        if !self.election.is_under_way() {
            return;
        }
        let mut is_over =
            !self.situation.is_following() || self.followed.is_called_down() || self.election.has_run_out(now);
        match self.reached(now) {
            Reached::All(offset) => self.election.cover(self.followed.samples().replicated_until(offset + 1)),
            Reached::Unknown => {}
            Reached::Nobody => is_over = true,
        }
        if is_over {
            self.election.end();
        }
    }

    fn reached(&self, now: Instant) -> Reached {
        let mut least: Option<u64> = None;
        for addr in self.electable(now) {
            match self.nodes.role(addr) {
                // Sentinel cannot promote it, or we cannot see how far it is.
                _ if self.nodes.is_refused(addr) => {}
                Some(Role::Unreadable(_)) => {}
                Some(Role::Replica { offset, .. }) => least = Some(least.map_or(*offset, |least| least.min(*offset))),
                _ => return Reached::Unknown,
            }
        }
        least.map_or(Reached::Nobody, Reached::All)
    }

    /// Between two questions to each node while replicas are compared with the master.
    pub(super) fn compares_every(&self) -> Option<Duration> {
        if self.election.is_under_way() {
            Some(Duration::from_millis(5))
        } else {
            self.planned.is_looked_into().then_some(Duration::from_millis(20))
        }
    }

    /// The replicas that a Sentinel may choose, by what any of them lists: also one that has lost its master, if that is
    /// not longer ago than ten times down-after (sentinel.c, sentinelSelectSlave).
    pub(super) fn electable(&self, now: Instant) -> BTreeSet<SocketAddr> {
        let longest = 10 * self.sentinels.down_after().unwrap_or_default();
        let may_be_chosen = |replica: &&ReplicaFact| {
            let is_fresh = replica.link_down_for <= longest;
            !replica.never_promoted && is_fresh && !replica.down && !self.followed.is_at(replica.addr)
        };
        let listed = self.sentinels.answers(now).flat_map(|answer| answer.replicas.iter().flatten());
        listed.filter(may_be_chosen).map(|replica| replica.addr).collect()
    }

    /// The replica that is farthest behind the master by what both have said since `since`, in words; `None` when all are
    /// level, or nobody lets us look.
    pub(super) fn lagging(&self, now: Instant, since: Instant) -> Option<String> {
        let master = self.followed.addr()?;
        if matches!(self.nodes.role(master), Some(Role::Unreadable(_))) {
            return None;
        }
        let Some((_, end)) = self.followed.samples().last().filter(|(asked, _)| *asked >= since) else {
            return Some(format!("{master} has not answered yet"));
        };
        let behind = |addr: SocketAddr| {
            let answer = self.nodes.answer(addr).filter(|answer| answer.asked >= since)?;
            match answer.role {
                Role::Replica { offset, .. } => {
                    let has = self.followed.samples().replicated_until(offset + 1);
                    let level = has.is_some_and(|has| has >= since && answer.asked <= has + LEVEL_WITHIN);
                    Some(if level { 0 } else { end.saturating_sub(offset).max(1) })
                }
                Role::Unreadable(_) => Some(0),
                _ => None,
            }
        };
        // One that does not say is behind any that does.
        let far = |addr: SocketAddr| (behind(addr).unwrap_or(u64::MAX), addr);
        let (worst, addr) = self.electable(now).into_iter().map(far).max()?;
        match worst {
            0 => None,
            u64::MAX => Some(format!("the replica {addr} does not answer")),
            bytes => Some(format!("the replica {addr} is {bytes} bytes behind {master}")),
        }
    }
}
