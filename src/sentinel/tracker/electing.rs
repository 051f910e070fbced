//! From `+try-failover` to `+selected-slave`: requests flow, and a reply to a write waits until every replica has it that
//! may be chosen.
//!
//! Sentinel chooses by priority and by offsets that may be seconds old, not by who has everything: what one of them lacks
//! may be lost, so it is not acknowledged. Where all are level this takes one look at each; it never takes longer than
//! [`ELECTION_WITHIN`], and it never keeps a request back.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{Output, State, Tracker};
use crate::config::HostPort;
use crate::sentinel::report::{ReplicaFact, Role};

/// A replica is chosen 60 to 130 ms after `+try-failover`.
const ELECTION_WITHIN: Duration = Duration::from_millis(500);
/// A replica that has what the master had so long before it was asked is level with it.
const LEVEL_WITHIN: Duration = Duration::from_millis(100);

/// A Sentinel is about to choose a replica.
#[derive(Debug)]
pub(super) struct Electing {
    since: Instant,
    pub(super) leader: HostPort,
    /// Replies of before this are on every replica that may be chosen.
    pub(super) covered: Option<Instant>,
}

impl Tracker {
    /// A Sentinel has begun a failover while the master lives. One of a dead master is another matter.
    pub(super) fn begin_election(&mut self, now: Instant, leader: HostPort) {
        let lives = matches!(self.state, State::Following)
            && !self.called_down
            && self.provisional.is_none()
            && self.master.as_ref().is_some_and(|master| matches!(self.role(master.addr), Some(Role::Master { .. })));
        let electable = self.electable(now);
        if lives && !electable.is_empty() {
            self.electing = Some(Electing { since: now, leader, covered: None });
            self.outputs.extend(electable.into_iter().map(Output::AskNode));
            self.ask_master();
        }
    }

    /// Looks how far the replicas have come.
    pub(super) fn elect(&mut self, now: Instant) {
        let Some(electing) = &self.electing else { return };
        let is_over =
            !matches!(self.state, State::Following) || self.called_down || now >= electing.since + ELECTION_WITHIN;
        let mut least = None;
        for addr in self.electable(now) {
            let Some(node) = self.nodes.get(&addr) else { return self.end_election_if(is_over) };
            let offset = match node.answer.as_ref().map(|answer| &answer.role) {
                // Sentinel cannot promote it, or we cannot see how far it is.
                _ if node.refused.is_some() => continue,
                Some(Role::Unreadable(_)) => continue,
                Some(Role::Replica { offset, .. }) => *offset,
                _ => return self.end_election_if(is_over),
            };
            least = Some(least.map_or(offset, |least: u64| least.min(offset)));
        }
        let covered = least.and_then(|offset| self.samples.replicated_until(offset + 1));
        if let Some(electing) = &mut self.electing {
            electing.covered = electing.covered.max(covered);
        }
        self.end_election_if(is_over || least.is_none());
    }

    fn end_election_if(&mut self, is_over: bool) {
        if is_over {
            self.electing = None;
        }
    }

    /// Between two questions to each node while replicas are compared with the master.
    pub(super) fn compares_every(&self) -> Option<Duration> {
        match (&self.electing, &self.planned) {
            (Some(_), _) => Some(Duration::from_millis(5)),
            (None, Some(planned)) if planned.looks() => Some(Duration::from_millis(20)),
            _ => None,
        }
    }

    /// The replicas that a Sentinel may choose, by what any of them lists.
    pub(super) fn electable(&self, now: Instant) -> BTreeSet<SocketAddr> {
        let master = self.master.as_ref().map(|master| master.addr);
        let may_be_chosen = |replica: &&ReplicaFact| {
            !replica.never_promoted && replica.link_up && !replica.down && Some(replica.addr) != master
        };
        self.answers(now)
            .flat_map(|answer| answer.replicas.iter().flatten())
            .filter(may_be_chosen)
            .map(|replica| replica.addr)
            .collect()
    }

    /// The replica that is farthest behind the master by what both have said since `since`, in words; `None` when all are
    /// level, or nobody lets us look.
    pub(super) fn lagging(&self, now: Instant, since: Instant) -> Option<String> {
        let master = self.master.as_ref()?.addr;
        if matches!(self.role(master), Some(Role::Unreadable(_))) {
            return None;
        }
        let Some((_, end)) = self.samples.last().filter(|(asked, _)| *asked >= since) else {
            return Some(format!("{master} has not answered yet"));
        };
        let behind = |addr: SocketAddr| {
            let node = self.nodes.get(&addr)?;
            let answer = node.answer.as_ref().filter(|answer| answer.asked >= since && node.refused.is_none())?;
            match answer.role {
                Role::Replica { offset, .. } => {
                    let has = self.samples.replicated_until(offset + 1);
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
