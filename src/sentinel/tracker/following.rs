//! While a master is followed: its answers, its silence, and what ends that.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tracing::Level;

use super::evidence::Verdict;
use super::failover::Failover;
use super::history::ChangePhase;
use super::show::ms;
use super::{Output, Tracker};
use crate::sentinel::consensus::{Consensus, Named};
use crate::sentinel::lineage::Kinship;
use crate::sentinel::report::{NodeAnswer, Role};
use crate::topology::Master;

/// An early commit must be confirmed by the epoch within this time (the leader sees a promotion within 1.2 s).
pub(super) const CONFIRM_WITHIN: Duration = Duration::from_secs(3);
/// How long a replica that left the master's list may take to turn master.
const VANISHED_WATCHED_FOR: Duration = Duration::from_secs(5);

impl Tracker {
    pub(super) fn watch(&mut self, now: Instant) {
        let Some(master) = self.followed.master().cloned() else { return };
        if self.follow_consensus(now, &master)
            || self.settle_early(now, &master)
            || self.watch_abandoned(now, master.addr)
            || self.vanished_turned_master(now, &master)
        {
            return;
        }
        self.check_restart(now, &master);
        self.check_silence(now, master.addr);
        self.check_minority(now);
    }

    /// Reacts to what the Sentinels name; true when that ended `Following` or `Silent`.
    fn follow_consensus(&mut self, now: Instant, master: &Master) -> bool {
        if let Some(lower) = self.lower(now)
            && self.follow_lower(now, master, &lower)
        {
            return true;
        }
        let Consensus::Agreed(named) = self.consensus(now) else { return false };
        if named.addr == master.addr {
            if named.epoch > master.epoch {
                self.adopt_epoch(now, named.epoch);
            }
            return false;
        }
        let forward = named.epoch > master.epoch;
        let outvoted = named.epoch == master.epoch && named.majority && !master.provisional;
        // One Sentinel alone holds us only for a node that is what it says: it may be wrong.
        let heir = self.trusts(named.addr)
            && matches!(
                self.verdict(named.addr, self.start.at(), named.run_id.as_deref()),
                Verdict::Master(_, Kinship::Heir | Kinship::Kin)
            );
        let moves = (forward && (named.majority || heir)) || outvoted;
        if moves {
            let why = format!("Sentinel names {} at epoch {}", named.addr, named.epoch);
            self.hold(now, Some(named.addr), None, why);
        }
        moves
    }

    /// A majority insists on an epoch below ours; true when it names another master there.
    fn follow_lower(&mut self, now: Instant, master: &Master, lower: &Named) -> bool {
        let text =
            format!("a majority of Sentinels has named {} at the lower epoch {} for 10 s", lower.addr, lower.epoch);
        if lower.addr != master.addr {
            self.out.log(Level::WARN, text);
            self.hold(now, Some(lower.addr), None, "the Sentinels' table was rewritten".into());
            return true;
        }
        // REMOVE and MONITOR begin at 0: the next failover will be above that, not above ours.
        if matches!(self.consensus(now), Consensus::Agreed(named) if named.epoch == lower.epoch) {
            self.out.log(Level::WARN, text);
            self.adopt_epoch(now, lower.epoch);
        }
        false
    }

    pub(super) fn adopt_epoch(&mut self, now: Instant, epoch: u64) {
        let early = self.followed.confirm(epoch);
        let Some(master) = self.followed.master() else { return };
        self.out.push(Output::Remember(master.clone()));
        if let Some(early) = early {
            let after = now - early.since;
            self.history.time(&mut self.out, ChangePhase::Confirm, after);
            let text =
                format!("{} is confirmed by epoch {epoch}, {} ms after the early commit", master.addr, ms(after));
            self.out.log(Level::INFO, text);
        }
    }

    /// An early commit that is not confirmed in time, whose node is no master any more, or whose Sentinel is lost
    /// before the others have heard of it, is held; true then.
    fn settle_early(&mut self, now: Instant, master: &Master) -> bool {
        let Some(early) = self.followed.early() else { return false };
        let demoted = matches!(self.nodes.role(master.addr), Some(Role::Replica { .. }));
        let orphaned = !early.leader.as_ref().is_some_and(|leader| self.sentinels.is_connected(leader));
        let why = if demoted {
            format!("{} was demoted again before the epoch confirmed it", master.addr)
        } else if orphaned {
            format!("the Sentinel that promotes {} is lost before the epoch confirmed it", master.addr)
        } else if now >= early.since + CONFIRM_WITHIN {
            format!("the epoch has not confirmed {} within {} ms", master.addr, ms(CONFIRM_WITHIN))
        } else {
            return false;
        };
        let (lasted, previous) = (ms(now - early.since), early.previous.addr);
        let text = format!("{why}: what was written to it in the last {lasted} ms is at risk (old master {previous})");
        self.out.log(Level::ERROR, text);
        self.hold(now, Some(master.addr), None, why);
        true
    }

    /// A node whose promotion is expected says master, and no Sentinel has announced it.
    fn vanished_turned_master(&mut self, now: Instant, master: &Master) -> bool {
        let Some(addr) = self.turned_master(master.addr) else { return false };
        let insists = |named: &Named| named.confirms(master.addr, master.epoch) && !named.failover;
        // After a failed failover a majority may insist on the old master: that was waited for once already.
        let settled = self.promotions.is_distrusted(addr)
            && matches!(self.consensus(now), Consensus::Agreed(named) if insists(&named));
        if !settled {
            self.hold(now, Some(addr), None, format!("{addr} says it is a master"));
        }
        !settled
    }

    /// A node whose promotion is expected and that was promoted out of `master`'s history.
    pub(super) fn turned_master(&self, master: SocketAddr) -> Option<SocketAddr> {
        let turned = |addr: &SocketAddr| {
            *addr != master && matches!(self.verdict(*addr, self.start.at(), None), Verdict::Master(_, Kinship::Heir))
        };
        self.promotions.expected().find(turned)
    }

    fn check_silence(&mut self, now: Instant, master: SocketAddr) {
        let life = self.followed.life();
        if !self.situation.is_following() || now <= life + self.settings.suspect_after {
            return;
        }
        let error = self.nodes.get(master).and_then(|node| node.silent.clone());
        let why = error.unwrap_or_else(|| format!("{master} has been silent for {} ms", ms(now - life)));
        self.fall_silent(now, false, why);
    }

    pub(super) fn fall_silent(&mut self, now: Instant, gone: bool, why: String) {
        self.out.log(Level::WARN, format!("holding new requests: {why}"));
        self.situation.fall_silent(now, gone, why);
        self.ask_sentinels();
        self.ask_master();
    }

    /// The same process answers again.
    pub(super) fn resume(&mut self, now: Instant, why: &str) {
        let held = ms(self.situation.outage(now));
        self.out.log(Level::INFO, format!("requests flow again after {held} ms: {why}"));
        self.earlier.wait_for(None);
        self.situation.follow();
        self.followed.live(now);
        self.restarts.settle();
    }

    pub(super) fn on_replies(&mut self, now: Instant, count: u64) {
        self.replies.note(now, count);
        self.followed.live(now);
        if self.situation.is_silent() && !self.situation.is_gone() {
            self.resume(now, "the master answers sessions again");
        }
        self.history.note_replies(&mut self.out, now);
    }

    pub(super) fn on_master_gone(&mut self, now: Instant, error: String) {
        if self.situation.is_following() {
            self.fall_silent(now, true, error);
        }
        self.situation.find_gone();
    }

    pub(super) fn on_master_answer(&mut self, now: Instant, answer: &NodeAnswer) {
        self.followed.answer(now, answer.asked);
        match &answer.role {
            Role::Master { offset, replicas } => self.on_master_says_master(now, answer, *offset, replicas),
            Role::Replica { master, .. } => self.on_master_says_replica(now, *master),
            Role::Occupied(_) if self.situation.is_silent() && !self.situation.is_gone() => {
                self.resume(now, "the master is busy but alive");
            }
            Role::Occupied(_) => {}
            Role::Unreadable(_) => self.on_master_unreadable(now, answer),
        }
    }

    fn on_master_says_master(
        &mut self,
        now: Instant,
        answer: &NodeAnswer,
        offset: u64,
        replicas: &[(SocketAddr, u64)],
    ) {
        let is_same = self.followed.identify(answer.info.as_ref())
            || self.followed.is_process_of(answer)
            || (answer.info_refused.is_some() && self.is_taken_for_the_same(now));
        if !is_same {
            return self.on_other_process(now, answer);
        }
        self.followed.connect(answer.connection);
        if let Some(info) = &answer.info {
            if self.followed.was_replica_since(info) {
                self.on_replaced(now, info.replid.clone());
            }
            self.followed.count_keys(info.keys);
            self.family.remember_history(&info.replid);
        }
        if self.restarts.is_replaced() {
            return;
        }
        let number = self.followed.sample(answer.asked, offset);
        self.out.push(Output::Sampled(number));
        self.master_is_alive(now, answer);
        if self.situation.is_following() {
            self.check_vanished(now, replicas);
        }
        if self.situation.is_following() {
            self.followed.list(replicas);
            self.note_family(now);
        }
    }

    fn on_master_says_replica(&mut self, now: Instant, of: Option<SocketAddr>) {
        if (self.situation.is_following() || self.situation.is_silent()) && !self.followed.is_early() {
            let candidate = of.filter(|addr| self.is_replica(*addr));
            self.hold(now, candidate, None, "the master says it is a replica now".into());
        }
    }

    fn on_master_unreadable(&mut self, now: Instant, answer: &NodeAnswer) {
        if !self.followed.is_connection_of(answer) && !self.is_taken_for_the_same(now) {
            return self.on_restart(now, format!("connection {}", answer.connection));
        }
        self.followed.connect(answer.connection);
        self.master_is_alive(now, answer);
    }

    /// The process that was verified has answered.
    fn master_is_alive(&mut self, now: Instant, answer: &NodeAnswer) {
        if self.situation.is_silent() {
            self.resume(now, "the same master answers");
        }
        if self.situation.is_following() {
            self.out.push(Output::Prove(answer.asked));
        }
    }

    /// A replica that left the master's list may have been promoted: hold, and ask it.
    fn check_vanished(&mut self, now: Instant, replicas: &[(SocketAddr, u64)]) {
        if self.followed.is_early() || !self.followed.is_listed() {
            return;
        }
        let is_listed = |known: &SocketAddr| replicas.iter().any(|(addr, _)| addr == known);
        let gone: Vec<SocketAddr> = self.followed.replicas().filter(|known| !is_listed(known)).collect();
        gone.iter().for_each(|addr| self.promotions.expect(*addr, now + VANISHED_WATCHED_FOR));
        if let Some(addr) = gone.first() {
            self.hold(now, Some(*addr), None, format!("the replica {addr} left the master"));
            self.situation.failover_mut().into_iter().for_each(Failover::take_for_vanished);
        }
    }
}
