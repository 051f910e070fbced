//! A candidate that gives no sign while the old master lives: the hold ends without its word, and it is watched.
//!
//! It may still turn master, as one that was frozen does when it goes on: requests are then held at once, and what was
//! written since is at risk.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tracing::Level;

use super::evidence::Verdict;
use super::show::ms;
use super::switching::{DISTRUST_FOR, PROMOTED_WITHIN};
use super::{State, Tracker};
use crate::sentinel::consensus::Consensus;
use crate::sentinel::lineage::Kinship;
use crate::sentinel::report::Role;

/// A master that answered longer ago is not known to live.
const LIVES_WITHIN: Duration = Duration::from_secs(1);

/// Nodes that were to be promoted, or may have been, and did not say what became of that.
#[derive(Debug)]
pub(super) struct Abandoned {
    pub(super) nodes: Vec<SocketAddr>,
    pub(super) since: Instant,
    /// Replies that sessions had received before: those since then may be lost.
    replies: u64,
    /// Since then all of them are replicas, and no Sentinel promotes one.
    settled: Option<Instant>,
}

impl Tracker {
    /// Goes back to the old master at `planned_hold_limit` if that lives, a majority names it and the candidate says
    /// nothing; true then.
    pub(super) fn abandon(&mut self, now: Instant) -> bool {
        let (Some(master), State::Switching(failover)) = (self.master.clone(), &self.state) else { return false };
        let limit = self.settings.planned_hold_limit;
        let began = self.outage_since.unwrap_or(failover.since);
        let (since, candidate) = (failover.since, failover.candidate);
        if now < began + limit || now < since + limit.min(PROMOTED_WITHIN) || failover.promoted.is_some() {
            return false;
        }
        // What an earlier run wrote there is not given up for want of an answer.
        if candidate == Some(master.addr) || (candidate.is_some() && candidate == self.settings.candidate) {
            return false;
        }
        let is_named = matches!(self.consensus(now), Consensus::Agreed(named) if named.addr == master.addr
            && named.epoch >= master.epoch && named.majority && !named.down && !master.provisional);
        let lives = self.nodes.get(&master.addr).and_then(|node| node.answer.as_ref()).is_some_and(|answer| {
            matches!(answer.role, Role::Master { .. })
                && answer.asked >= since
                && now < answer.asked + LIVES_WITHIN
                && self.process.connection == Some(answer.connection)
        });
        let nodes: Vec<SocketAddr> = match candidate {
            Some(candidate) => vec![candidate],
            None => self.listed_replicas(now).filter(|addr| *addr != master.addr).collect(),
        };
        let promoted = nodes.iter().any(|addr| matches!(self.role(*addr), Some(Role::Master { .. })));
        if !is_named || !lives || promoted || self.restart.is_some() {
            return false;
        }
        let names: Vec<String> = nodes.iter().map(SocketAddr::to_string).collect();
        let who = if candidate.is_some() { names.join(", ") } else { format!("none of {}", names.join(", ")) };
        self.log(
            Level::WARN,
            format!(
                "{} lives and a majority of the Sentinels names it, while {who} {} for {} ms: requests flow to the old master again. Should a promotion still come to pass, what is written from now on is at risk",
                master.addr,
                if candidate.is_some() { "says nothing of its promotion" } else { "says that it was promoted" },
                ms(now - began),
            ),
        );
        self.abandoned = Some(Abandoned { nodes, since: now, replies: self.replies, settled: None });
        self.resume(now, "planned_hold_limit has passed");
        true
    }

    /// Watches what was abandoned; true when one of them turned master, and requests are held again.
    pub(super) fn watch_abandoned(&mut self, now: Instant, master: SocketAddr) -> bool {
        let Some(abandoned) = &self.abandoned else { return false };
        let turned = |addr: &SocketAddr| {
            *addr != master && matches!(self.verdict(*addr, abandoned.since, None), Verdict::Master(_, Kinship::Heir))
        };
        if let Some(addr) = abandoned.nodes.iter().copied().find(turned) {
            self.count_abandoned(now, addr, master);
            let leader = self.leading(now, master);
            self.hold(now, Some(addr), leader, format!("{addr} says it is a master"));
            return true;
        }
        let is_replica = |addr: &SocketAddr| {
            let node = self.nodes.get(addr);
            node.is_some_and(|node| node.refused.is_some())
                || matches!(self.role(*addr), Some(Role::Replica { link_up: true, .. }))
        };
        let settled = self.leading(now, master).is_none() && abandoned.nodes.iter().all(is_replica);
        if let Some(abandoned) = &mut self.abandoned {
            let since = settled.then(|| *abandoned.settled.get_or_insert(now));
            abandoned.settled = since;
            // An order to promote it may still be on its way.
            if since.is_some_and(|since| now > since + DISTRUST_FOR) {
                self.abandoned = None;
            }
        }
        false
    }

    /// Counts what was written to `master` since a promotion was given up, now that `addr` is promoted after all.
    pub(super) fn count_abandoned(&mut self, now: Instant, addr: SocketAddr, master: SocketAddr) {
        let Some(abandoned) = self.abandoned.take_if(|abandoned| abandoned.nodes.contains(&addr)) else { return };
        let at_risk = self.replies.saturating_sub(abandoned.replies);
        self.counters.writes_at_risk += at_risk;
        let lasted = ms(now - abandoned.since);
        self.log(
            Level::ERROR,
            format!(
                "{addr} was promoted after all: what was written to {master} in the last {lasted} ms is at risk, at most {at_risk} writes of this host"
            ),
        );
    }

    /// For `status`: what is at risk.
    pub(super) fn abandoned_warning(&self, now: Instant) -> Option<String> {
        let abandoned = self.abandoned.as_ref()?;
        let names: Vec<String> = abandoned.nodes.iter().map(SocketAddr::to_string).collect();
        Some(format!(
            "a failover to {} was begun and not finished, {} s ago: should it turn master, what is written until then is lost. End or repair that node",
            names.join(", "),
            (now - abandoned.since).as_secs()
        ))
    }
}
