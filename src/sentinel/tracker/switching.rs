//! A failover under way: from the hold to the commit. Where it comes to nothing, see `release` and `abandoned`.
//!
//! A commit is made only for a node whose own ROLE says master in an answer to a question asked after the hold began.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tracing::Level;

use super::evidence::Verdict;
use super::failover::Failover;
use super::followed::{EarlyCommit, Inherited};
use super::following::CONFIRM_WITHIN;
use super::history::ChangeKind;
use super::sentinels::SentinelState;
use super::show::ms;
use super::{Output, Tracker};
use crate::config::HostPort;
use crate::sentinel::consensus::{Consensus, Named};
use crate::sentinel::lineage::Kinship;
use crate::sentinel::report::{Info, Role};
use crate::topology::Master;

/// What the PINGs of an old master and the Sentinels' hellos add to its stream until its last look: so much, and so
/// much more in each second of the hold. More missing bytes than that are writes.
const IDLE_GAP: (u64, u64) = (1024, 512);
/// How long after the promotion the old master's last replies are waited for; a few milliseconds, but on a busy host.
pub(super) const DRAINED_WITHIN: Duration = Duration::from_millis(500);
/// A majority that names the old master again is asked this long after the hold began, at the earliest.
const BACK_AFTER: Duration = Duration::from_millis(500);

impl Tracker {
    /// Holds for a candidate that a Sentinel's event names.
    pub(super) fn hold_for(&mut self, now: Instant, candidate: SocketAddr, leader: Option<HostPort>) {
        if let Some(failover) = self.situation.failover_mut()
            && failover.candidate() == Some(candidate)
        {
            return failover.announce(leader);
        }
        if self.situation.is_searching() {
            return;
        }
        let who = leader.as_ref().map(HostPort::to_string).unwrap_or_default();
        self.hold(now, Some(candidate), leader, format!("Sentinel {who} promotes {candidate}"));
    }

    pub(super) fn hold(&mut self, now: Instant, candidate: Option<SocketAddr>, leader: Option<HostPort>, why: String) {
        let (lives, crash) = match self.situation.failover() {
            Some(failover) => (failover.lives(), failover.is_crash()),
            None if self.situation.is_silent() => (false, true),
            None => (true, self.followed.is_called_down()),
        };
        let kind = if lives { "the master lives" } else { "the master is down" };
        self.out.log(Level::INFO, format!("holding requests: {why} ({kind})"));
        if candidate.is_some() && self.held_by_command() {
            // Until now a command held the requests, within a limit of its own.
            self.situation.time_outage_from(Some(now));
        }
        self.election.end();
        self.situation.switch(now, Failover::new(now, (lives, crash), candidate, leader), why);
        self.out.extend(candidate.map(Output::AskNode));
        self.ask_master();
        self.ask_sentinels();
    }

    /// A Sentinel gave up, or its table was rewritten.
    pub(super) fn abort(&mut self, now: Instant, from: &HostPort, of: Option<SocketAddr>) {
        let current = self.followed.addr();
        let previous = self.followed.early().map(|early| early.previous.addr);
        if let (true, Some(master), true) =
            (self.situation.is_following(), current, previous.is_some() && of == previous)
        {
            let text = format!("the failover to {master} was aborted after the early commit: writes to it are at risk");
            self.out.log(Level::ERROR, text);
            self.hold(now, Some(master), None, "the failover was aborted".into());
        }
        if let Some(failover) = self.situation.failover_mut()
            && failover.leader().is_none_or(|leader| leader == from)
            && (of.is_none() || of == current || of == previous)
        {
            failover.give_up(now);
            if let Some(candidate) = failover.candidate() {
                self.promotions.distrust(now, candidate);
            }
        }
    }

    pub(super) fn switch(&mut self, now: Instant) {
        self.find_candidate(now);
        let is_over = self.switch_by_consensus(now) || self.switch_early(now) || self.abandon(now);
        if !is_over {
            self.release(now);
        }
    }

    /// A failover of which only that it runs is known: a node whose promotion is expected turns master.
    fn find_candidate(&mut self, now: Instant) {
        let (Some(master), Some(failover)) = (self.followed.addr(), self.situation.failover()) else { return };
        if failover.candidate().is_none()
            && let Some(addr) = self.turned_master(master)
        {
            let leader = failover.leader().cloned();
            self.hold(now, Some(addr), leader, format!("{addr} says it is a master"));
        }
    }

    /// Commits to the node that the Sentinels name at a higher epoch, or whatever the rules for going back allow.
    fn switch_by_consensus(&mut self, now: Instant) -> bool {
        let (Some(master), Some(failover)) = (self.followed.master().cloned(), self.situation.failover()) else {
            return false;
        };
        let since = failover.since();
        let named = match (self.lower(now), self.consensus(now)) {
            (Some(lower), _) if lower.addr != master.addr => lower,
            (_, Consensus::Agreed(named)) => named,
            (_, Consensus::Conflicting { epoch, addrs }) => {
                let why = format!("the Sentinels name different masters at epoch {epoch}: {addrs:?}");
                self.situation.explain(why);
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
        if !self.may_switch_to(now, since, &named, &master) {
            return false;
        }
        if self.situation.failover_mut().is_some_and(|failover| failover.choose(named.addr)) {
            self.out.push(Output::AskNode(named.addr));
        }
        match self.verify(&named, self.gap.behind(since)) {
            Ok(info) => {
                self.finish_switch(now, named.addr, named.epoch, info.as_ref(), false);
                true
            }
            Err(why) => {
                self.situation.explain(why);
                false
            }
        }
    }

    /// Whether the Sentinels name another node in a way that allows to go there: at a higher epoch; by a majority at the
    /// same, or at a lower one that it insists on; or, after an early commit, by a majority back to the old master.
    fn may_switch_to(&self, now: Instant, since: Instant, named: &Named, master: &Master) -> bool {
        if named.epoch != master.epoch {
            return named.majority || (named.epoch > master.epoch && !self.may_be_demoted(now, named.addr));
        }
        // Not before the others had the time to hear of the promotion, unless it is undone already.
        let undone = matches!(self.nodes.role(master.addr), Some(Role::Replica { .. }));
        let back = self
            .followed
            .early()
            .is_some_and(|early| early.previous.addr == named.addr && (undone || now > early.since + CONFIRM_WITHIN));
        named.majority && (!master.provisional || (back && !named.failover && named.asked > since + BACK_AFTER))
    }

    /// A Sentinel to which the candidate was a master already when it was chosen has not heard of the promotion yet: it
    /// may demote it until then. It hears of it with the others, which make the majority.
    fn may_be_demoted(&self, now: Instant, candidate: SocketAddr) -> bool {
        let Some(failover) = self.situation.failover() else { return false };
        let demotes = |(at, sentinel): (&HostPort, &SentinelState)| {
            let names = sentinel.answer.as_ref().is_some_and(|answer| answer.names(candidate));
            sentinel.connected && !names && failover.was_master_to(at) == Some(true)
        };
        let is_it = failover.candidate() == Some(candidate) && now < failover.since() + CONFIRM_WITHIN;
        is_it && self.sentinels.iter().any(demotes)
    }

    /// Goes on as soon as the candidate itself says master, where nothing speaks against it.
    fn switch_early(&mut self, now: Instant) -> bool {
        let (Some(master), Some(failover)) = (self.followed.master(), self.situation.failover()) else { return false };
        let Some(candidate) = failover.candidate().filter(|candidate| *candidate != master.addr) else { return false };
        let (since, lives, epoch) = (failover.since(), failover.lives(), master.epoch);
        let verdict = self.verdict(candidate, self.gap.behind(since), None);
        let Verdict::Master(Some(info), kinship) = verdict else { return false };
        let against = self.against_early(now, candidate, kinship);
        let Some(failover) = self.situation.failover_mut() else { return false };
        let promoted = failover.promote(now);
        if let Some(why) = against {
            if failover.explain(now) {
                self.out.log(Level::INFO, format!("{candidate} is promoted; waiting for the epoch: {why}"));
            }
            return false;
        }
        if lives && !self.is_drained(promoted, &info) && now < promoted + DRAINED_WITHIN {
            return false;
        }
        self.finish_switch(now, candidate, epoch, Some(&info), true);
        true
    }

    /// One more look at the old master, asked after the promotion was seen and after the last reply: while nobody writes to
    /// it, every reply it gave until then is covered. On a busy host replies may still trickle in.
    fn is_drained(&self, promoted: Instant, info: &Info) -> bool {
        let quiet = |asked: Instant| asked >= promoted && self.replies.are_none_since(asked);
        let covered = info.second_offset.unwrap_or_default();
        self.followed.samples().last().is_some_and(|(asked, offset)| quiet(asked) || offset >= covered)
    }

    /// Why no early commit may be made; `None` when it may.
    fn against_early(&self, now: Instant, candidate: SocketAddr, kinship: Kinship) -> Option<String> {
        let failover = self.situation.failover()?;
        if self.followed.is_early() {
            return Some("the last early commit is not settled".into());
        }
        if kinship != Kinship::Heir {
            return Some("its history does not continue our master's".into());
        }
        if self.promotions.is_distrusted(candidate) {
            return Some("a failover to it was aborted a moment ago".into());
        }
        let Some(leader) = failover.leader() else {
            return Some("the Sentinel that runs the failover is not heard".into());
        };
        if failover.is_ending() || !self.sentinels.is_connected(leader) {
            return Some("the failover was aborted or its Sentinel is lost".into());
        }
        if !self.trusts(candidate) {
            return Some("neither our master nor most Sentinels have named it as a replica".into());
        }
        self.undecided_sentinel(now, failover)
    }

    /// A Sentinel to which the candidate may be a master still, which it would demote again.
    fn undecided_sentinel(&self, now: Instant, failover: &Failover) -> Option<String> {
        for (at, _) in self.sentinels.iter().filter(|(at, _)| !self.sentinels.has_no_say(now, at)) {
            match failover.was_master_to(at) {
                Some(false) => {}
                Some(true) => {
                    return Some(format!("Sentinel {at} still takes it for a master and may demote it again"));
                }
                None if self.sentinels.is_long_dead(now, at) => {}
                None => return Some(format!("Sentinel {at} has not said whether it was a master lately")),
            }
        }
        let answered = failover.answered_by().filter(|at| self.sentinels.electorate().has_say(at)).count();
        (answered * 2 <= self.sentinels.total()).then(|| "less than half of the Sentinels have answered".into())
    }

    fn finish_switch(&mut self, now: Instant, addr: SocketAddr, epoch: u64, info: Option<&Info>, early: bool) {
        let (Some(old), Some(failover)) = (self.followed.master().cloned(), self.situation.failover()) else { return };
        let (lives, promoted, leader) = (failover.lives(), failover.promoted(), failover.leader().cloned());
        let kind = if failover.is_crash() { ChangeKind::Crash } else { ChangeKind::Planned };
        let held = self.situation.outage_since().unwrap_or(failover.since());
        let foreign = info.is_some_and(|info| self.family.kinship(info) != Kinship::Heir);
        let second = info.filter(|_| !foreign).and_then(|info| info.second_offset);
        let samples = self.followed.samples();
        let inherited = Inherited {
            replicated_until: second.filter(|_| lives).and_then(|second| samples.replicated_until(second)),
            diverged_from: second.and_then(|second| samples.diverged_from(second)),
        };
        let gap = second.zip(samples.last()).map(|(second, (_, last))| (last + 1).saturating_sub(second));
        if gap != Some(0) {
            // Sentinel or the node's absence may have shown it before the node itself did.
            self.count_abandoned(now, addr, old.addr);
        }
        self.record(now, kind, addr, promoted.map(|at| at - held), gap);
        self.undo_early(now, &old);
        if early {
            self.history.count_early_commit();
            self.remember_candidate(Some(addr));
            let replies = self.replies.count();
            self.followed.begin_early(EarlyCommit { since: now, previous: old.clone(), leader, replies });
        }
        let how = if early { "early, to be confirmed" } else { "by the epoch" };
        let idle = IDLE_GAP.0 + IDLE_GAP.1 * (now - held).as_secs();
        let level = if foreign || gap.is_some_and(|gap| gap > idle) { Level::WARN } else { Level::INFO };
        let (old, kind, gap, held_ms) = (old.addr, kind.name(), describe_gap(gap, foreign), ms(now - held));
        let promoted = promoted.map_or_else(|| "unknown".into(), |at| format!("{} ms", ms(at - held)));
        let text = format!(
            "new master {addr} (was {old}, {kind}, epoch {epoch}, {how}): held {held_ms} ms, promotion seen after {promoted}{gap}"
        );
        self.out.log(level, text);
        self.commit(now, addr, epoch, info, early);
        self.gap.end_doubt(); // it was asked behind the gap
        self.followed.inherit(inherited);
        if early {
            // Confirmation is asked for at once.
            self.ask_sentinels();
        }
        if let Some((candidate, leader)) = self.promotions.take_ahead(addr) {
            self.hold_for(now, candidate, Some(leader));
        }
    }

    /// The early commit to `old` was wrong: whatever that has replied is gone.
    fn undo_early(&mut self, now: Instant, old: &Master) {
        let Some(wrong) = self.followed.undo_early() else { return };
        let at_risk = self.replies.since(wrong.replies);
        self.history.count_undone(at_risk);
        let (old, lasted) = (old.addr, ms(now - wrong.since));
        self.out.log(
            Level::ERROR,
            format!(
                "the early commit to {old} was undone: what was written to it in {lasted} ms is lost with it, at most {at_risk} writes of this host"
            ),
        );
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
        if let Some(info) = info {
            self.family.remember_history(&info.replid);
        }
        if !provisional {
            self.out.push(Output::Remember(master.clone()));
        }
        self.followed.commit(now, master, info, self.nodes.answer(addr));
        self.situation.follow();
        self.earlier.wait_for(None);
        self.abandoned.forget();
        self.restarts.settle();
        self.promotions.expect_none();
    }
}

/// What of the old master's stream is not on the new one.
fn describe_gap(gap: Option<u64>, foreign: bool) -> String {
    match gap {
        Some(0) => "; it has all of the old master's stream".into(),
        Some(gap) => format!("; {gap} bytes of the old master's stream are not on it"),
        None if foreign => {
            "; its history does not continue the old master's: writes of before the failover may not be on it, \
             how many nobody can tell"
                .into()
        }
        None => String::new(),
    }
}
