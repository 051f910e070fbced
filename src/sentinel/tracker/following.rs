//! While a master is followed: its answers, its silence, its restart, and what ends all that.
//!
//! A master is the process that was verified: the same control connection, or the same run id.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tracing::Level;

use super::evidence::Verdict;
use super::show::ms;
use super::{Output, Restart, State, Tracker};
use crate::config::HostPort;
use crate::sentinel::consensus::{Consensus, Named};
use crate::sentinel::lineage::Kinship;
use crate::sentinel::report::{Info, NodeAnswer, Role};
use crate::topology::Master;

/// An early commit must be confirmed by the epoch within this time (the leader sees a promotion within 1.2 s).
pub(super) const CONFIRM_WITHIN: Duration = Duration::from_secs(3);

impl Tracker {
    pub(super) fn watch(&mut self, now: Instant) {
        let Some(master) = self.master.clone() else { return };
        if self.follow_consensus(now, &master) {
            return;
        }
        if self.settle_provisional(now, &master) {
            return;
        }
        if self.watch_abandoned(now, master.addr) || self.vanished_turned_master(now, &master) {
            return;
        }
        self.check_restart(now, &master);
        if matches!(self.state, State::Following) && now > self.life + self.settings.suspect_after {
            let error =
                self.nodes.get(&master.addr).and_then(|node| node.silent.as_ref()).map(|(_, error)| error.clone());
            self.fall_silent(
                now,
                false,
                error.unwrap_or_else(|| format!("{} has been silent for {} ms", master.addr, ms(now - self.life))),
            );
        }
        self.check_minority(now);
    }

    /// Reacts to what the Sentinels name; true when that ended `Following` or `Silent`.
    pub(super) fn follow_consensus(&mut self, now: Instant, master: &Master) -> bool {
        if let Some(lower) = self.lower(now) {
            let text =
                format!("a majority of Sentinels has named {} at the lower epoch {} for 10 s", lower.addr, lower.epoch);
            if lower.addr != master.addr {
                self.log(Level::WARN, text);
                self.hold(now, Some(lower.addr), None, "the Sentinels' table was rewritten".into());
                return true;
            }
            // REMOVE and MONITOR begin at 0: the next failover will be above that, not above ours.
            if matches!(self.consensus(now), Consensus::Agreed(named) if named.epoch == lower.epoch) {
                self.log(Level::WARN, text);
                self.adopt_epoch(now, lower.epoch);
            }
        }
        match self.consensus(now) {
            Consensus::Agreed(named) if named.addr == master.addr && named.epoch > master.epoch => {
                self.adopt_epoch(now, named.epoch);
                false
            }
            Consensus::Agreed(named) if named.addr != master.addr => {
                let forward = named.epoch > master.epoch;
                let outvoted = named.epoch == master.epoch && named.majority && !master.provisional;
                // One Sentinel alone holds us only for a node that is what it says: it may be wrong.
                let heir = self.trusts(named.addr)
                    && matches!(
                        self.verdict(named.addr, self.started, named.run_id.as_deref()),
                        Verdict::Master(_, Kinship::Heir | Kinship::Kin)
                    );
                if (forward && (named.majority || heir)) || outvoted {
                    self.hold(
                        now,
                        Some(named.addr),
                        None,
                        format!("Sentinel names {} at epoch {}", named.addr, named.epoch),
                    );
                    return true;
                }
                false
            }
            _ => false,
        }
    }

    pub(super) fn adopt_epoch(&mut self, now: Instant, epoch: u64) {
        let provisional = self.provisional.take();
        let Some(master) = &mut self.master else { return };
        master.epoch = epoch;
        master.provisional = false;
        let master = master.clone();
        self.outputs.push(Output::Remember(master.clone()));
        if let Some(provisional) = provisional {
            let after = now - provisional.since;
            self.phase_took("confirm", after);
            self.log(
                Level::INFO,
                format!("{} is confirmed by epoch {epoch}, {} ms after the early commit", master.addr, ms(after)),
            );
        }
    }

    /// An early commit that is not confirmed in time, whose node is no master any more, or whose Sentinel is lost
    /// before it told the others, is held; true then.
    pub(super) fn settle_provisional(&mut self, now: Instant, master: &Master) -> bool {
        let Some(provisional) = &self.provisional else { return false };
        let demoted = matches!(self.role(master.addr), Some(Role::Replica { .. }));
        let heard = |leader: &HostPort| self.sentinels.get(leader).is_some_and(|sentinel| sentinel.connected);
        let orphaned = !provisional.leader.as_ref().is_some_and(heard);
        if !demoted && !orphaned && now < provisional.since + CONFIRM_WITHIN {
            return false;
        }
        let why = if demoted {
            format!("{} was demoted again before the epoch confirmed it", master.addr)
        } else if orphaned {
            format!("the Sentinel that promotes {} is lost before the epoch confirmed it", master.addr)
        } else {
            format!("the epoch has not confirmed {} within {} ms", master.addr, ms(CONFIRM_WITHIN))
        };
        self.log(
            Level::ERROR,
            format!(
                "{why}: what was written to it in the last {} ms is at risk (old master {})",
                ms(now - provisional.since),
                provisional.previous.addr
            ),
        );
        self.hold(now, Some(master.addr), None, why);
        true
    }

    /// A node we keep an eye on says master: a promotion nobody told us of.
    pub(super) fn vanished_turned_master(&mut self, now: Instant, master: &Master) -> bool {
        let Some(addr) = self.turned_master(master.addr) else { return false };
        let ours = |named: &Named| {
            named.addr == master.addr && named.epoch >= master.epoch && named.majority && !named.failover
        };
        // After a failed failover a majority may insist on the old master: that was waited for once already.
        let settled = self.distrust.contains_key(&addr)
            && matches!(self.consensus(now), Consensus::Agreed(named) if ours(&named));
        if settled {
            return false;
        }
        self.hold(now, Some(addr), None, format!("{addr} says it is a master"));
        true
    }

    /// A node that we keep an eye on and that was promoted out of `master`'s history.
    pub(super) fn turned_master(&self, master: SocketAddr) -> Option<SocketAddr> {
        let turned = |addr: &SocketAddr| {
            *addr != master && matches!(self.verdict(*addr, self.started, None), Verdict::Master(_, Kinship::Heir))
        };
        self.suspects.keys().copied().find(turned)
    }

    pub(super) fn role(&self, addr: SocketAddr) -> Option<&Role> {
        self.nodes.get(&addr).and_then(|node| node.answer.as_ref()).map(|answer| &answer.role)
    }

    pub(super) fn fall_silent(&mut self, now: Instant, gone: bool, why: String) {
        self.log(Level::WARN, format!("holding new requests: {why}"));
        self.reason = why;
        self.outage_since.get_or_insert(now);
        self.state = State::Silent { gone };
        self.ask_sentinels();
        self.ask_master();
    }

    /// The same process answers again.
    pub(super) fn resume(&mut self, now: Instant, why: &str) {
        let held = self.outage_since.map_or(Duration::ZERO, |since| now - since);
        self.log(Level::INFO, format!("requests flow again after {} ms: {why}", ms(held)));
        self.settings.candidate = None;
        self.state = State::Following;
        self.life = now;
        self.outage_since = None;
        self.failing = false;
        self.restart = None;
        self.reason.clear();
    }

    pub(super) fn on_master_gone(&mut self, now: Instant, error: String) {
        match &mut self.state {
            State::Following => self.fall_silent(now, true, error),
            State::Silent { gone } => *gone = true,
            _ => {}
        }
    }

    pub(super) fn on_master_answer(&mut self, now: Instant, answer: &NodeAnswer) {
        let same_connection = self.process.connection == Some(answer.connection);
        let run_id = answer.info.as_ref().map(|info| info.run_id.as_str());
        let same_run = run_id.is_some() && run_id == self.process.run_id.as_deref();
        let same = same_connection || same_run;
        self.life = now;
        match &answer.role {
            Role::Master { offset, replicas } => {
                if self.process.run_id.is_none()
                    && let Some(info) = &answer.info
                {
                    // The first readable answer after a start without credentials.
                    self.process.run_id = Some(info.run_id.clone());
                    if let Some(master) = &mut self.master {
                        master.run_id = Some(info.run_id.clone());
                    }
                } else if !same && (answer.info_refused.is_none() || !self.is_taken_for_the_same(now)) {
                    match &answer.info {
                        Some(info) if !info.loading => self.on_restart(now, &info.run_id.clone()),
                        Some(_) => {}
                        None if answer.info_refused.is_some() => {
                            self.on_restart(now, &format!("connection {}", answer.connection));
                        }
                        None => {}
                    }
                    return;
                }
                self.process.connection = Some(answer.connection);
                if let Some(info) = &answer.info {
                    if self.was_replica_since(info) {
                        self.on_replaced(now, info.replid.clone());
                    }
                    self.process.keys = info.keys;
                    self.lineage.remember(&info.replid);
                }
                if self.restart.as_ref().is_some_and(|restart| restart.replaced) {
                    return;
                }
                let number = self.samples.add(answer.asked, *offset);
                self.outputs.push(Output::Sampled(number));
                if matches!(self.state, State::Silent { .. }) {
                    self.resume(now, "the same master answers");
                }
                if matches!(self.state, State::Following) {
                    self.outputs.push(Output::Prove(answer.asked));
                    self.check_vanished(now, replicas);
                }
                if matches!(self.state, State::Following) {
                    self.replicas = replicas.iter().copied().collect();
                    self.listed = true;
                    self.note_family(now);
                }
            }
            Role::Replica { master, .. } => {
                let at = *master;
                if matches!(self.state, State::Following | State::Silent { .. }) && self.provisional.is_none() {
                    let candidate = at.filter(|addr| self.is_replica(*addr));
                    self.hold(now, candidate, None, "the master says it is a replica now".into());
                }
            }
            Role::Occupied(_) => {
                if matches!(self.state, State::Silent { gone: false }) {
                    self.resume(now, "the master is busy but alive");
                }
            }
            Role::Unreadable(_) => {
                if same_connection || self.is_taken_for_the_same(now) {
                    self.process.connection = Some(answer.connection);
                    if matches!(self.state, State::Silent { .. }) {
                        self.resume(now, "the same master answers");
                    }
                    if matches!(self.state, State::Following) {
                        self.outputs.push(Output::Prove(answer.asked));
                    }
                } else {
                    self.on_restart(now, &format!("connection {}", answer.connection));
                }
            }
        }
    }

    /// A new connection to a node that does not say which process it is. It is taken for the same one unless nobody
    /// listened there in between, or sessions, which a restart cuts off as well, say otherwise.
    fn is_taken_for_the_same(&self, now: Instant) -> bool {
        let cut = self.session_eof.is_some_and(|at| now < at + Duration::from_secs(2));
        let gone = matches!(self.state, State::Silent { gone: true });
        (!cut && !gone) || self.process.connection.is_none()
    }

    /// A replica that left the master's list may have been promoted: hold, and ask it.
    pub(super) fn check_vanished(&mut self, now: Instant, replicas: &[(SocketAddr, u64)]) {
        if self.provisional.is_some() || !self.listed {
            return;
        }
        let gone: Vec<SocketAddr> =
            self.replicas.keys().copied().filter(|known| !replicas.iter().any(|(addr, _)| addr == known)).collect();
        for addr in &gone {
            self.suspects.insert(*addr, now + Duration::from_secs(5));
        }
        if let Some(addr) = gone.first() {
            self.hold(now, Some(*addr), None, format!("the replica {addr} left the master"));
            if let State::Switching(failover) = &mut self.state {
                failover.only_vanished = true;
            }
        }
    }

    /// A master that is made a replica and a master again begins a new history and keeps the one it had as a replica
    /// as its second (replication.c, `shiftReplicationId`). One that has had no replica for an hour begins a new one
    /// too, but without a second (`clearReplicationId2`): nothing happened to its data.
    fn was_replica_since(&self, info: &Info) -> bool {
        self.process.replid.as_ref().is_some_and(|known| *known != info.replid) && info.replid2.is_some()
    }

    fn on_replaced(&mut self, now: Instant, replid: String) {
        self.restarted(now, replid, true, "the master was a replica for a moment: its data set may be another one");
    }

    pub(super) fn on_restart(&mut self, now: Instant, run_id: &str) {
        self.restarted(now, run_id.to_owned(), false, "the master's process was restarted");
    }

    fn restarted(&mut self, now: Instant, which: String, replaced: bool, why: &str) {
        if self.restart.as_ref().is_some_and(|restart| restart.which == which) {
            return;
        }
        self.restart = Some(Restart { seen: now, which, replaced });
        match &mut self.state {
            State::Following => self.fall_silent(now, true, why.into()),
            State::Silent { gone } => *gone = true,
            _ => {}
        }
        self.ask_sentinels();
    }

    /// A restarted master is taken when the Sentinels, asked after it was seen, still name it; with no Sentinel at
    /// all, because it answers.
    pub(super) fn check_restart(&mut self, now: Instant, master: &Master) -> bool {
        let Some(restart) = self.restart.clone() else { return false };
        let still = match self.consensus(now) {
            Consensus::None => {
                !self.sentinels.iter().any(|(at, sentinel)| sentinel.connected && self.electorate.has_voice(at))
            }
            Consensus::Agreed(named) => {
                named.addr == master.addr
                    && named.epoch >= master.epoch
                    && named.majority
                    && !named.failover
                    && named.asked >= restart.seen
                    && !self.answers(now).any(|answer| answer.claim.as_ref().is_some_and(|claim| claim.o_down))
            }
            Consensus::Conflicting { .. } => false,
        };
        if !still {
            return false;
        }
        let info = match self.verdict(master.addr, restart.seen - Duration::from_secs(1), None) {
            Verdict::Master(info, _) => info,
            Verdict::Unreadable => None,
            Verdict::No(_) => return false,
        };
        if restart.replaced {
            self.record(now, "restore", master.addr, None, None);
            self.counters.failovers_restore += 1;
            self.log(
                Level::WARN,
                format!("the data set of the master {} was replaced in place: sessions begin anew there", master.addr),
            );
            self.commit(now, master.addr, master.epoch, info.as_ref(), false);
            return true;
        }
        let keys = self.process.keys;
        if let Some(info) = info.as_ref().filter(|info| info.keys == 0 && keys > 0) {
            let text = format!(
                "the master {} was restarted with an EMPTY data set ({keys} keys before): its replicas copy that within seconds. Stop it now if a replica still has the data, promote that replica, and switch persistence on (run_id {})",
                master.addr, info.run_id
            );
            self.log(Level::ERROR, text.clone());
            self.counters.empty_restarts += 1;
            self.empty_restart = Some((now, text));
        }
        self.record(now, "restart", master.addr, None, None);
        self.counters.failovers_restart += 1;
        self.log(
            Level::WARN,
            format!("the master {} was restarted in place: sessions are moved to the new process", master.addr),
        );
        self.commit(now, master.addr, master.epoch, info.as_ref(), false);
        true
    }
}
