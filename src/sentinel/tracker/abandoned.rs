//! A candidate that gives no sign while the old master lives: the hold ends without its answer, and it is watched.
//!
//! It may still turn master, as one that was frozen does when it goes on: requests are then held at once, and what was
//! written since is at risk.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tracing::Level;

use super::Tracker;
use super::evidence::Verdict;
use super::failover::{Failover, PROMOTED_WITHIN};
use super::promotions::DISTRUST_FOR;
use super::show::ms;
use crate::sentinel::consensus::Consensus;
use crate::sentinel::lineage::Kinship;
use crate::sentinel::report::Role;
use crate::topology::Master;

/// A master that answered longer ago is not known to live.
const LIVES_WITHIN: Duration = Duration::from_secs(1);

/// The failover that was not waited for any longer, while it is not known to have come to nothing.
#[derive(Debug, Default)]
pub(super) struct Abandoned {
    open: Option<Open>,
}

/// Nodes that were to be promoted, or may have been, and did not say what became of that.
#[derive(Debug)]
struct Open {
    nodes: Vec<SocketAddr>,
    since: Instant,
    /// Replies that sessions had received before: those since then may be lost.
    replies: u64,
    /// Since then all of them are replicas, and no Sentinel promotes one.
    settled: Option<Instant>,
}

impl Abandoned {
    fn begin(&mut self, now: Instant, nodes: Vec<SocketAddr>, replies: u64) {
        self.open = Some(Open { nodes, since: now, replies, settled: None });
    }

    /// Another master is followed.
    pub(super) fn forget(&mut self) {
        self.open = None;
    }

    #[cfg(test)]
    pub(super) fn is_none(&self) -> bool {
        self.open.is_none()
    }

    #[cfg(test)]
    pub(super) fn is_some(&self) -> bool {
        self.open.is_some()
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = SocketAddr> {
        self.open.iter().flat_map(|open| open.nodes.iter().copied())
    }

    /// It looks as if nothing came of it, or does not. An order to promote one of them may still be on its way.
    fn settle(&mut self, now: Instant, settled: bool) {
        if let Some(open) = &mut self.open {
            open.settled = settled.then(|| *open.settled.get_or_insert(now));
        }
        self.open.take_if(|open| open.settled.is_some_and(|since| now > since + DISTRUST_FOR));
    }

    /// This node is promoted after all: since when it was not waited for, and how many replies there had been by then.
    fn close(&mut self, addr: SocketAddr) -> Option<(Instant, u64)> {
        self.open.take_if(|open| open.nodes.contains(&addr)).map(|open| (open.since, open.replies))
    }

    /// For `status`: what is at risk.
    pub(super) fn warning(&self, now: Instant) -> Option<String> {
        let open = self.open.as_ref()?;
        Some(format!(
            "a failover to {} was begun and not finished, {} s ago: should it turn master, what is written until then is lost. End or repair that node",
            list(&open.nodes),
            (now - open.since).as_secs()
        ))
    }
}

impl Tracker {
    /// Goes back to the old master at `planned_hold_limit` if that lives, a majority names it and the candidate says
    /// nothing; true then.
    pub(super) fn abandon(&mut self, now: Instant) -> bool {
        let (Some(master), Some(failover)) = (self.followed.master(), self.situation.failover()) else { return false };
        let candidate = failover.candidate();
        let began = self.situation.outage_since().unwrap_or(failover.since());
        let nodes: Vec<SocketAddr> = match candidate {
            Some(candidate) => vec![candidate],
            None => self.sentinels.listed_replicas(now).filter(|addr| *addr != master.addr).collect(),
        };
        let promoted = nodes.iter().any(|addr| matches!(self.nodes.role(*addr), Some(Role::Master { .. })));
        if !self.is_waited_for_in_vain(now, began, failover, master)
            || !self.is_named_and_lives(now, master, failover.since())
            || promoted
            || self.restarts.is_open()
        {
            return false;
        }
        let (who, what) = match candidate {
            Some(candidate) => (candidate.to_string(), "says nothing of its promotion"),
            None => (format!("none of {}", list(&nodes)), "says that it was promoted"),
        };
        let text = format!(
            "{} lives and a majority of the Sentinels names it, while {who} {what} for {} ms: requests flow to the old master again. Should a promotion still come to pass, what is written from now on is at risk",
            master.addr,
            ms(now - began),
        );
        self.out.log(Level::WARN, text);
        self.abandoned.begin(now, nodes, self.replies.count());
        self.resume(now, "planned_hold_limit has passed");
        true
    }

    /// The time for a promotion has passed, and it is not one that an earlier run had followed: what that wrote there is not
    /// given up for want of an answer.
    fn is_waited_for_in_vain(&self, now: Instant, began: Instant, failover: &Failover, master: &Master) -> bool {
        let limit = self.settings.planned_hold_limit;
        let candidate = failover.candidate();
        let has_passed = now >= began + limit && now >= failover.since() + limit.min(PROMOTED_WITHIN);
        let was_followed = candidate.is_some() && candidate == self.earlier.candidate();
        has_passed && failover.promoted().is_none() && candidate != Some(master.addr) && !was_followed
    }

    fn is_named_and_lives(&self, now: Instant, master: &Master, since: Instant) -> bool {
        let is_named = matches!(self.consensus(now), Consensus::Agreed(named)
            if named.confirms(master.addr, master.epoch) && !named.down && !master.provisional);
        let lives = self.nodes.answer(master.addr).is_some_and(|answer| {
            matches!(answer.role, Role::Master { .. })
                && answer.asked >= since
                && now < answer.asked + LIVES_WITHIN
                && self.followed.is_connection_of(answer)
        });
        is_named && lives
    }

    /// Watches what was abandoned; true when one of them turned master, and requests are held again.
    pub(super) fn watch_abandoned(&mut self, now: Instant, master: SocketAddr) -> bool {
        let Some(open) = &self.abandoned.open else { return false };
        let turned = |addr: &SocketAddr| {
            *addr != master && matches!(self.verdict(*addr, open.since, None), Verdict::Master(_, Kinship::Heir))
        };
        if let Some(addr) = open.nodes.iter().copied().find(turned) {
            self.count_abandoned(now, addr, master);
            let leader = self.sentinels.leading(now, master).cloned();
            self.hold(now, Some(addr), leader, format!("{addr} says it is a master"));
            return true;
        }
        let is_replica = |addr: &SocketAddr| {
            self.nodes.is_refused(*addr) || matches!(self.nodes.role(*addr), Some(Role::Replica { link_up: true, .. }))
        };
        let settled = self.sentinels.leading(now, master).is_none() && open.nodes.iter().all(is_replica);
        self.abandoned.settle(now, settled);
        false
    }

    /// Counts what was written to `master` since a promotion was given up, now that `addr` is promoted after all.
    pub(super) fn count_abandoned(&mut self, now: Instant, addr: SocketAddr, master: SocketAddr) {
        let Some((since, replies)) = self.abandoned.close(addr) else { return };
        let at_risk = self.replies.since(replies);
        self.history.count_at_risk(at_risk);
        let lasted = ms(now - since);
        self.out.log(
            Level::ERROR,
            format!(
                "{addr} was promoted after all: what was written to {master} in the last {lasted} ms is at risk, at most {at_risk} writes of this host"
            ),
        );
    }
}

fn list(nodes: &[SocketAddr]) -> String {
    nodes.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", ")
}
