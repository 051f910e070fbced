//! The start: what may be under way while the first master is looked for.
//!
//! A first master is followed only when every node that the Sentinels list has said what it is, or had the time to. A
//! failover that runs is joined: requests are held on the old master's side of it, and `switching` decides as ever.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{Output, State, Tracker};
use crate::config::HostPort;
use crate::sentinel::consensus::Named;
use crate::sentinel::event::Kind;
use crate::sentinel::report::{Info, ReplicaFact, Role, SentinelAnswer};

/// How long the first answers of Sentinels are waited for once one has answered.
const SENTINELS_WITHIN: Duration = Duration::from_millis(500);
/// The same for those of the replicas: one that is silent for longer is taken for away.
const REPLICAS_WITHIN: Duration = Duration::from_secs(1);

/// A failover that was found at the start.
#[derive(Debug)]
pub(super) struct Found {
    candidate: Option<SocketAddr>,
    /// The Sentinel that runs it, when we hear it.
    leader: Option<HostPort>,
    /// An earlier run had committed to the candidate.
    followed: bool,
    why: String,
}

/// A failover that a Sentinel's event told of before there was a master to fail over from.
#[derive(Debug)]
pub(super) struct Heard {
    of: Option<SocketAddr>,
    candidate: SocketAddr,
    leader: HostPort,
}

impl Tracker {
    /// Takes note of what happens while no master is followed yet.
    pub(super) fn hear(&mut self, from: HostPort, kind: &Kind, of: Option<SocketAddr>, node: Option<SocketAddr>) {
        match (kind, node) {
            (Kind::Candidate | Kind::Promoted, Some(candidate)) => {
                self.heard = Some(Heard { of, candidate, leader: from });
            }
            (Kind::Aborted { .. } | Kind::Table | Kind::SwitchMaster | Kind::Ended, _)
                if self.heard.as_ref().is_some_and(|heard| heard.leader == from) =>
            {
                self.heard = None;
            }
            _ => {}
        }
    }

    /// Whether `named`, which says that it is the master, is being replaced at this moment. `Err`: not known yet, and
    /// what is waited for.
    pub(super) fn under_way(&self, now: Instant, named: &Named, info: Option<&Info>) -> Result<Option<Found>, String> {
        let first = self.first_answer.unwrap_or(now);
        let unheard = self.sentinels.values().any(|one| one.answered.is_none() && one.lost_since.is_none());
        if unheard && now < first + SENTINELS_WITHIN {
            return Err("waiting for the other Sentinels".into());
        }
        let leader = self.leading(now, named.addr);
        let before = self.unsettled_before(named);
        let found = |candidate: Option<SocketAddr>, leader, why| {
            Ok(Some(Found { candidate, leader, followed: candidate.is_some() && candidate == before, why }))
        };
        let counts = |heard: &&Heard| heard.of == Some(named.addr) && self.electorate.has_voice(&heard.leader);
        if let Some(heard) = self.heard.as_ref().filter(counts) {
            let why = format!("Sentinel {} promotes {}", heard.leader, heard.candidate);
            return found(Some(heard.candidate), Some(heard.leader.clone()), why);
        }
        if let Some(promoted) = info.and_then(|info| self.promoted_from(named.addr, info)) {
            let why = format!("{promoted} was promoted from {}, and no Sentinel has announced it", named.addr);
            return found(Some(promoted), leader, why);
        }
        if let Some(candidate) = before {
            let undone = self.nodes.get(&candidate).and_then(|node| node.answer.as_ref());
            if !undone.is_some_and(|answer| matches!(answer.role, Role::Replica { link_up: true, .. })) {
                let why = format!("the failover to {candidate} was not settled when this process last ended");
                return found(Some(candidate), leader, why);
            }
        }
        if let Some(leader) = leader {
            let why = format!("Sentinel {leader} is replacing {}", named.addr);
            return found(None, Some(leader), why);
        }
        let unknown = |addr: &SocketAddr| {
            let asked = self.nodes.get(addr);
            asked.is_none_or(|node| node.answer.is_none() && node.refused.is_none() && node.silent.is_none())
        };
        match self.listed_replicas(now).find(|addr| *addr != named.addr && unknown(addr)) {
            Some(addr) if now < first + REPLICAS_WITHIN => Err(format!("waiting for {addr} to say what it is")),
            _ => Ok(None),
        }
    }

    /// Follows what `search` has just committed to as the old master of a failover.
    pub(super) fn join(&mut self, now: Instant, found: Found, began: Option<Instant>) {
        // One outage, from the start on.
        self.outage_since = began;
        let until = now + self.hold_timeout();
        let replicas: Vec<SocketAddr> = self.listed_replicas(now).collect();
        self.suspects.extend(replicas.into_iter().map(|addr| (addr, until)));
        self.settings.candidate = found.candidate.filter(|_| found.followed);
        self.remember_candidate(self.settings.candidate);
        self.hold(now, found.candidate, found.leader, found.why);
    }

    /// So that a restart before the epoch confirms it goes on with it.
    pub(super) fn remember_candidate(&mut self, candidate: Option<SocketAddr>) {
        self.outputs.extend(candidate.map(Output::RememberCandidate));
    }

    /// The nodes to be asked before there is a master.
    pub(super) fn asked_at_the_start(&self, now: Instant) -> impl Iterator<Item = SocketAddr> {
        let searching = matches!(self.state, State::Searching);
        let candidate = self.settings.candidate.filter(|_| searching);
        // Others are not given the credentials, and cannot answer where some are needed.
        self.listed_replicas(now).chain(candidate).filter(move |addr| searching && self.trusts(*addr))
    }

    /// An early commit of an earlier run that was neither confirmed nor undone when that ended.
    fn unsettled_before(&self, named: &Named) -> Option<SocketAddr> {
        let floor = (named.addr, named.epoch);
        self.settings.candidate.filter(|addr| self.settings.floor == Some(floor) && *addr != named.addr)
    }

    /// A Sentinel that is replacing `master` and has not announced the new one.
    pub(super) fn leading(&self, now: Instant, master: SocketAddr) -> Option<HostPort> {
        let leads = |answer: &SentinelAnswer| {
            answer.claim.as_ref().is_some_and(|claim| claim.failover && claim.addr == master)
                // Between the promotion and its end it names the new master, which is still a replica in its table.
                && !lists(answer).any(|replica| replica.addr == master)
        };
        let fresh = self.fresh();
        let heard = self.sentinels.iter().filter(|(_, sentinel)| {
            sentinel.connected && sentinel.answered.is_some_and(|answered| now < answered + fresh)
        });
        let heard = heard.filter(|(at, _)| self.electorate.has_voice(at));
        heard.filter(|(_, sentinel)| sentinel.answer.as_ref().is_some_and(leads)).map(|(at, _)| at.clone()).next()
    }

    /// A listed replica that says it is a master, with the history of `master`, which is `info`'s, as its second.
    fn promoted_from(&self, master: SocketAddr, info: &Info) -> Option<SocketAddr> {
        let promoted = self.nodes.iter().find(|(addr, node)| {
            **addr != master
                && matches!(node.answer.as_ref().map(|answer| &answer.role), Some(Role::Master { .. }))
                && node.info.as_ref().is_some_and(|other| other.replid2.as_ref() == Some(&info.replid))
        });
        promoted.map(|(addr, _)| *addr)
    }

    /// Every replica that a Sentinel lists, perhaps several times.
    pub(super) fn listed_replicas(&self, now: Instant) -> impl Iterator<Item = SocketAddr> {
        self.answers(now).flat_map(lists).map(|replica| replica.addr)
    }
}

fn lists(answer: &SentinelAnswer) -> impl Iterator<Item = &ReplicaFact> {
    answer.replicas.iter().flatten()
}
