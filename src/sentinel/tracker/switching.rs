//! A failover under way: from the hold to the commit or the release.
//!
//! A commit is made only for a node whose own ROLE says master in an answer to a question asked after the hold
//! began; the hold ends with the old master only when the candidate is surely none.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tracing::Level;

use super::evidence::Verdict;
use super::following::CONFIRM_WITHIN;
use super::show::ms;
use super::{Failover, Output, Process, Provisional, SentinelState, State, Tracker};
use crate::config::HostPort;
use crate::sentinel::consensus::Consensus;
use crate::sentinel::lineage::Kinship;
use crate::sentinel::report::{Info, Peer, Role};
use crate::topology::Master;

/// A candidate of an aborted failover may still be promoted by a command on its way.
pub(super) const DISTRUST_FOR: Duration = Duration::from_secs(15);
/// A chosen candidate is promoted within 0.2 s; after this time the hold may end, if the candidate is a replica.
pub(super) const PROMOTED_WITHIN: Duration = Duration::from_millis(1500);
/// A Sentinel lost this long, and listed by no other, has no say in whether an early commit is safe.
const DEAD_AFTER: Duration = Duration::from_secs(30);
/// What the PINGs of an old master and the Sentinels' hellos add to its stream until its last look: so much, and so
/// much more in each second of the hold. More missing bytes than that are writes.
const IDLE_GAP: (u64, u64) = (1024, 512);
/// How long after the promotion the old master's last replies are waited for; a few milliseconds, but on a busy host.
pub(super) const DRAINED_WITHIN: Duration = Duration::from_millis(500);
/// How long the answers of a replica that left the master's list are waited for.
const VANISHED_FOR: Duration = Duration::from_millis(300);

impl Tracker {
    /// Holds for a candidate that a Sentinel's event names.
    pub(super) fn hold_for(&mut self, now: Instant, candidate: SocketAddr, leader: Option<HostPort>) {
        if let State::Switching(failover) = &mut self.state
            && failover.candidate == Some(candidate)
        {
            failover.only_vanished = false;
            failover.leader = leader.or(failover.leader.take());
            return;
        }
        if matches!(self.state, State::Searching) {
            return;
        }
        let who = leader.as_ref().map(HostPort::to_string).unwrap_or_default();
        self.hold(now, Some(candidate), leader, format!("Sentinel {who} promotes {candidate}"));
    }

    pub(super) fn hold(&mut self, now: Instant, candidate: Option<SocketAddr>, leader: Option<HostPort>, why: String) {
        let (lives, crash) = match &self.state {
            State::Silent { .. } => (false, true),
            State::Switching(failover) => (failover.lives, failover.crash),
            _ => (true, self.called_down),
        };
        let kind = if lives { "the master lives" } else { "the master is down" };
        self.log(Level::INFO, format!("holding requests: {why} ({kind})"));
        self.reason = why;
        if candidate.is_some() && self.held_by_command() {
            // Until now a command held the requests, within a limit of its own.
            self.outage_since = Some(now);
        }
        self.outage_since.get_or_insert(now);
        self.electing = None;
        self.state = State::Switching(Box::new(Failover {
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
            no_early: None,
        }));
        if let Some(candidate) = candidate {
            self.outputs.push(Output::AskNode(candidate));
        }
        self.ask_master();
        self.ask_sentinels();
    }

    /// A Sentinel gave up, or its table was rewritten.
    pub(super) fn abort(&mut self, now: Instant, from: &HostPort, of: Option<SocketAddr>) {
        let previous = self.provisional.as_ref().map(|provisional| provisional.previous.addr);
        if let (State::Following, Some(master), true) =
            (&self.state, self.master.clone(), previous.is_some() && of == previous)
        {
            self.log(
                Level::ERROR,
                format!("the failover to {} was aborted after the early commit: writes to it are at risk", master.addr),
            );
            self.hold(now, Some(master.addr), None, "the failover was aborted".into());
        }
        let current = self.master.as_ref().map(|master| master.addr);
        if let State::Switching(failover) = &mut self.state
            && (failover.leader.is_none() || failover.leader.as_ref() == Some(from))
            && (of.is_none() || of == current || of == previous)
        {
            failover.ending.get_or_insert(now);
            failover.leader = None;
            if let Some(candidate) = failover.candidate {
                self.distrust.insert(candidate, now + DISTRUST_FOR);
                self.suspects.insert(candidate, now + DISTRUST_FOR);
            }
        }
    }

    pub(super) fn switch(&mut self, now: Instant) {
        self.find_candidate(now);
        if self.switch_by_consensus(now) || self.switch_early(now) || self.abandon(now) {
            return;
        }
        self.release(now);
    }

    /// A failover of which only that it runs is known: a node that is watched for it turns master.
    fn find_candidate(&mut self, now: Instant) {
        let (Some(master), State::Switching(failover)) = (self.master.as_ref(), &self.state) else { return };
        if failover.candidate.is_none()
            && let Some(addr) = self.turned_master(master.addr)
        {
            let leader = failover.leader.clone();
            self.hold(now, Some(addr), leader, format!("{addr} says it is a master"));
        }
    }

    /// Commits to the node that the Sentinels name at a higher epoch, or whatever the rules for going back allow.
    pub(super) fn switch_by_consensus(&mut self, now: Instant) -> bool {
        let (Some(master), State::Switching(failover)) = (self.master.clone(), &self.state) else { return false };
        let since = failover.since;
        let lower = self.lower(now);
        let named = match (lower, self.consensus(now)) {
            (Some(lower), _) if lower.addr != master.addr => lower,
            (_, Consensus::Agreed(named)) => named,
            (_, Consensus::Conflicting { epoch, addrs }) => {
                self.reason = format!("the Sentinels name different masters at epoch {epoch}: {addrs:?}");
                return false;
            }
            (_, Consensus::None) => return false,
        };
        if named.addr == master.addr {
            if named.epoch > master.epoch {
                self.adopt_epoch(now, named.epoch);
            }
            return false;
        }
        // Not before the others had the time to hear of the promotion, unless it is undone already.
        let undone = matches!(self.role(master.addr), Some(Role::Replica { .. }));
        let back = self.provisional.as_ref().is_some_and(|provisional| {
            provisional.previous.addr == named.addr && (undone || now > provisional.since + CONFIRM_WITHIN)
        }) && named.epoch == master.epoch;
        let allowed = named.epoch > master.epoch
            || (named.epoch == master.epoch && named.majority && !master.provisional)
            || (back && named.majority && !named.failover && named.asked > since + Duration::from_millis(500))
            || (named.epoch < master.epoch && named.majority);
        if !allowed {
            return false;
        }
        if let State::Switching(failover) = &mut self.state
            && failover.candidate != Some(named.addr)
        {
            failover.candidate = Some(named.addr);
            failover.only_vanished = false;
            self.outputs.push(Output::AskNode(named.addr));
        }
        match self.verify(&named, self.behind_gap(since)) {
            Ok(info) => {
                self.finish_switch(now, named.addr, named.epoch, info.as_ref(), false);
                true
            }
            Err(why) => {
                self.reason = why;
                false
            }
        }
    }

    /// Goes on as soon as the candidate itself says master, where nothing speaks against it.
    pub(super) fn switch_early(&mut self, now: Instant) -> bool {
        let (Some(master), State::Switching(failover)) = (self.master.clone(), &self.state) else { return false };
        let Some(candidate) = failover.candidate else { return false };
        if candidate == master.addr {
            return false;
        }
        let (since, lives) = (failover.since, failover.lives);
        let asked_after = self.behind_gap(since);
        let Verdict::Master(Some(info), kinship) = self.verdict(candidate, asked_after, None) else { return false };
        let against = self.against_early(now, candidate, kinship);
        let State::Switching(failover) = &mut self.state else { return false };
        let promoted = *failover.promoted.get_or_insert(now);
        failover.only_vanished = false;
        if let Some(why) = against {
            if failover.no_early.is_none() && now > promoted + Duration::from_millis(100) {
                failover.no_early = Some(why.clone());
                self.log(Level::INFO, format!("{candidate} is promoted; waiting for the epoch: {why}"));
            }
            return false;
        }
        // One more look at the old master, asked after the promotion was seen and after the last reply: while nobody
        // writes to it, every reply it gave until then is covered. On a busy host replies may still trickle in.
        let quiet = |asked: Instant| asked >= promoted && self.replied_at.is_none_or(|replied| replied < asked);
        let covered = info.second_offset.unwrap_or_default();
        let settled = self.samples.last().is_some_and(|(asked, offset)| quiet(asked) || offset >= covered);
        if lives && !settled && now < promoted + DRAINED_WITHIN {
            return false;
        }
        self.finish_switch(now, candidate, master.epoch, Some(&info), true);
        true
    }

    /// Why no early commit may be made; `None` when it may.
    pub(super) fn against_early(&self, now: Instant, candidate: SocketAddr, kinship: Kinship) -> Option<String> {
        let State::Switching(failover) = &self.state else { return None };
        if self.provisional.is_some() {
            return Some("the last early commit is not settled".into());
        }
        if kinship != Kinship::Heir {
            return Some("its history does not continue our master's".into());
        }
        if self.distrust.contains_key(&candidate) {
            return Some("a failover to it was aborted a moment ago".into());
        }
        let Some(leader) = &failover.leader else {
            return Some("the Sentinel that runs the failover is not heard".into());
        };
        if failover.ending.is_some() || !self.sentinels.get(leader).is_some_and(|sentinel| sentinel.connected) {
            return Some("the failover was aborted or its Sentinel is lost".into());
        }
        if !self.trusts(candidate) {
            return Some("neither our master nor most Sentinels have named it as a replica".into());
        }
        for (at, sentinel) in self.sentinels.iter().filter(|(at, _)| !self.has_no_say(now, at)) {
            match failover.demoted.get(at) {
                Some(false) => {}
                Some(true) => {
                    return Some(format!("Sentinel {at} still takes it for a master and may demote it again"));
                }
                None if self.long_dead(now, at, sentinel) => {}
                None => return Some(format!("Sentinel {at} has not said whether it was a master lately")),
            }
        }
        if failover.demoted.keys().filter(|at| self.electorate.has_say(at)).count() * 2 <= self.known_sentinels() {
            return Some("less than half of the Sentinels have answered".into());
        }
        None
    }

    /// It does not answer us, and whoever lists it has marked it down: it watches nothing that it could demote. Where
    /// nobody lists it, only time tells.
    pub(super) fn long_dead(&self, now: Instant, at: &HostPort, sentinel: &SentinelState) -> bool {
        let Some(since) = sentinel.lost_since else { return false };
        let is_it = |peer: &&Peer| match &sentinel.run_id {
            Some(id) if !peer.run_id.is_empty() => *id == peer.run_id,
            _ => peer.addr == *at || self.settings.address_map.map(&peer.addr) == self.settings.address_map.map(at),
        };
        let mut listed = self.answers(now).flat_map(|answer| answer.peers.iter().flatten()).filter(is_it).peekable();
        if listed.peek().is_none() { now > since + DEAD_AFTER } else { listed.all(|peer| peer.s_down) }
    }

    /// Ends the hold with the old master, where that is safe.
    pub(super) fn release(&mut self, now: Instant) {
        let Some(master) = self.master.clone() else { return };
        let limit = self.settings.planned_hold_limit.min(PROMOTED_WITHIN);
        let named_old = match self.consensus(now) {
            Consensus::Agreed(named) => {
                named.addr == master.addr
                    && named.epoch >= master.epoch
                    && named.majority
                    && !named.failover
                    && !master.provisional
            }
            _ => false,
        };
        let State::Switching(failover) = &mut self.state else { return };
        if failover.promoted.is_none() && now > failover.since + limit {
            failover.ending.get_or_insert(now);
        }
        if named_old {
            failover.old_named_since.get_or_insert(now);
        } else {
            failover.old_named_since = None;
        }
        let insisted = failover.old_named_since.is_some_and(|since| now > since + Duration::from_secs(3));
        let (since, ending, candidate, only_vanished) =
            (failover.since, failover.ending, failover.candidate, failover.only_vanished);
        let from = match ending {
            Some(ending) => ending,
            None if only_vanished || insisted => since,
            None if candidate == Some(master.addr) || candidate.is_none() => since,
            None => return,
        };
        let from = self.behind_gap(from);
        let candidate_settled = match candidate {
            Some(candidate) if candidate == master.addr => !master.provisional,
            None => named_old,
            Some(candidate) => {
                self.nodes.get(&candidate).is_some_and(|node| {
                    let replica = node.answer.as_ref().is_some_and(|answer| {
                        answer.asked >= from
                            && matches!(answer.role, Role::Replica { link_up, .. } if link_up || only_vanished)
                    });
                    replica || node.refused.is_some_and(|at| at >= from)
                }) || (only_vanished
                    && now > since + VANISHED_FOR
                    && !matches!(self.role(candidate), Some(Role::Master { .. })))
            }
        };
        if !(candidate_settled || insisted) {
            return;
        }
        let Some(answer) =
            self.nodes.get(&master.addr).and_then(|node| node.answer.as_ref()).filter(|answer| answer.asked >= from)
        else {
            return;
        };
        let alive = matches!(answer.role, Role::Master { .. } | Role::Unreadable(_));
        let same = self.process.connection == Some(answer.connection);
        if !alive {
            return;
        }
        if !same || self.restart.as_ref().is_some_and(|restart| restart.replaced) {
            self.check_restart(now, &master);
            return;
        }
        let why = match candidate {
            _ if only_vanished => "no failover: the replica was not promoted",
            Some(candidate) if candidate == master.addr => "the epoch has confirmed the master after all",
            None => "the master is a master again",
            Some(candidate) => {
                self.counters.failovers_aborted += 1;
                self.distrust.insert(candidate, now + DISTRUST_FOR);
                self.suspects.insert(candidate, now + DISTRUST_FOR);
                self.outputs.push(Output::Remember(master.clone()));
                "the failover was aborted, the old master stays"
            }
        };
        self.resume(now, why);
        if let Some(Role::Master { replicas, .. }) = self.role(master.addr) {
            self.replicas = replicas.iter().copied().collect();
        }
    }

    pub(super) fn finish_switch(
        &mut self,
        now: Instant,
        addr: SocketAddr,
        epoch: u64,
        info: Option<&Info>,
        early: bool,
    ) {
        let (Some(old), State::Switching(failover)) = (self.master.clone(), &self.state) else { return };
        let (lives, crash, promoted) = (failover.lives, failover.crash, failover.promoted);
        let leader = failover.leader.clone();
        let held = self.outage_since.unwrap_or(failover.since);
        let foreign = info.is_some_and(|info| self.lineage.kinship(info) != Kinship::Heir);
        let second = info.filter(|_| !foreign).and_then(|info| info.second_offset);
        let replicated_until = second.filter(|_| lives).and_then(|second| self.samples.replicated_until(second));
        let diverged_from = second.and_then(|second| self.samples.diverged_from(second));
        let gap = second.zip(self.samples.last()).map(|(second, (_, last))| (last + 1).saturating_sub(second));
        if gap != Some(0) {
            // Sentinel or the node's absence may have told of it before the node itself did.
            self.count_abandoned(now, addr, old.addr);
        }
        let kind = if crash { "crash" } else { "planned" };
        if crash {
            self.counters.failovers_crash += 1;
        } else {
            self.counters.failovers_planned += 1;
        }
        self.record(now, kind, addr, promoted.map(|at| at - held), gap);
        if let Some(wrong) = self.provisional.take() {
            let at_risk = self.record_undone(wrong.replies);
            self.log(
                Level::ERROR,
                format!(
                    "the early commit to {} was undone: what was written to it in {} ms is lost with it, at most {at_risk} writes of this host",
                    old.addr,
                    ms(now - wrong.since)
                ),
            );
        }
        if early {
            self.counters.early_commits += 1;
            self.remember_candidate(Some(addr));
            self.provisional = Some(Provisional { since: now, previous: old.clone(), leader, replies: self.replies });
        }
        let how = if early { "early, to be confirmed" } else { "by the epoch" };
        let idle = IDLE_GAP.0 + IDLE_GAP.1 * (now - held).as_secs();
        let level = if foreign || gap.is_some_and(|gap| gap > idle) { Level::WARN } else { Level::INFO };
        let gap = match gap {
            Some(0) => "; it has all of the old master's stream".into(),
            Some(gap) => format!("; {gap} bytes of the old master's stream are not on it"),
            None if foreign => {
                "; its history does not continue the old master's: writes of before the failover may not be on it, \
                 how many nobody can tell"
                    .into()
            }
            None => String::new(),
        };
        self.log(
            level,
            format!(
                "new master {addr} (was {}, {kind}, epoch {epoch}, {how}): held {} ms, promotion seen after {}{gap}",
                old.addr,
                ms(now - held),
                promoted.map_or_else(|| "unknown".into(), |at| format!("{} ms", ms(at - held))),
            ),
        );
        self.commit(now, addr, epoch, info, early);
        self.doubt = None; // it was asked behind the gap
        self.replicated_until = replicated_until;
        self.diverged_from = diverged_from;
        if early {
            // Confirmation is asked for at once.
            self.ask_sentinels();
        }
    }

    /// Sends the sessions to this process: a new term.
    pub(super) fn commit(
        &mut self,
        now: Instant,
        addr: SocketAddr,
        epoch: u64,
        info: Option<&Info>,
        provisional: bool,
    ) {
        let master = Master { addr, run_id: info.map(|info| info.run_id.clone()), epoch, provisional };
        if let Some(old) = self.master.as_ref().map(|old| old.addr).filter(|old| *old != addr) {
            self.replicas.insert(old, 0);
        }
        self.term += 1;
        self.samples.clear();
        self.replicated_until = None;
        self.diverged_from = None;
        let answer = self.nodes.get(&addr).and_then(|node| node.answer.as_ref());
        self.process = Process {
            run_id: master.run_id.clone(),
            connection: answer.map(|answer| answer.connection),
            replid: info.map(|info| info.replid.clone()),
            keys: info.map_or(0, |info| info.keys),
        };
        self.replicas.remove(&addr);
        self.listed = false;
        if let Some(Role::Master { replicas, .. }) = answer.map(|answer| &answer.role)
            && !provisional
        {
            self.replicas = replicas.iter().copied().collect();
            self.listed = true;
        }
        if let Some(info) = info {
            self.lineage.remember(&info.replid);
        }
        if !provisional {
            self.outputs.push(Output::Remember(master.clone()));
        }
        self.master = Some(master);
        self.settings.candidate = None;
        self.abandoned = None;
        self.state = State::Following;
        self.outage_since = None;
        self.failing = false;
        self.called_down = false;
        self.restart = None;
        // Nobody is promoted out of the history of the one before any more.
        self.suspects.clear();
        self.life = now;
        self.reason.clear();
    }
}
