//! The transitions of the decision, and the publication of what follows from them.
//!
//! A commit is made in one place, [`View::commit`], and only for a node whose own ROLE says master in an answer to
//! a question asked after the hold began. Nothing goes below the epoch of the last commit unless a majority has
//! insisted for 10 s.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tracing::Level;

use super::show::{ms, name};
use super::{Failover, Output, Process, Provisional, Restart, State, View};
use crate::config::{HoldTimeout, HostPort, Minority};
use crate::sentinel::lineage::Kinship;
use crate::sentinel::report::{Info, NodeAnswer, Role, SentinelAnswer};
use crate::sentinel::snapshot::CredentialsState;
use crate::sentinel::word::{self, Named, Word};
use crate::topology::{Entry, Master, Phase};

/// An early commit must be confirmed by the epoch within this time (the leader sees a promotion within 1.2 s).
const CONFIRM_WITHIN: Duration = Duration::from_secs(3);
/// A candidate of an aborted failover may still be promoted by a command on its way.
const DISTRUST_FOR: Duration = Duration::from_secs(15);
/// A lower epoch is believed when a majority has named it this long (REMOVE and MONITOR begin at 0).
const LOWER_AFTER: Duration = Duration::from_secs(10);
/// A Sentinel lost this long, and held for down by its peers, has no say in whether an early commit is safe.
const DEAD_AFTER: Duration = Duration::from_secs(30);
/// A chosen candidate is promoted within 0.2 s; after this time the hold may end, if the candidate is a replica.
pub(super) const PROMOTED_WITHIN: Duration = Duration::from_millis(1500);
/// How long the answers of a replica that left the master's list are waited for.
const VANISHED_FOR: Duration = Duration::from_millis(300);

/// What a node is, seen by the rules for a new master.
enum Verdict {
    /// It says master, and nothing speaks against it.
    Master(Option<Info>, Kinship),
    /// We may not ask it.
    Unreadable,
    /// Not now, and why.
    No(String),
}

impl View {
    pub(super) fn decide(&mut self, now: Instant) {
        self.expire(now);
        match self.state {
            State::Searching => self.search(now),
            State::Following | State::Silent { .. } => self.watch(now),
            State::Switching(_) => self.switch(now),
        }
        self.check_deadline(now);
        self.publish(now);
    }

    fn expire(&mut self, now: Instant) {
        if self.paused.is_some_and(|(_, until)| now >= until) {
            self.paused = None;
            self.log(Level::WARN, "the operator's hold has run out: requests flow again".into());
        }
        self.distrust.retain(|_, until| now < *until);
        self.suspects.retain(|_, until| now < *until);
        let named: Vec<HostPort> =
            self.answers(now).flat_map(|answer| answer.peers.iter().flatten()).map(|peer| peer.addr.clone()).collect();
        let heard = !named.is_empty();
        self.sentinels.retain(|at, sentinel| {
            let gone = sentinel.lost_since.is_some_and(|since| now > since + Duration::from_secs(60));
            !(sentinel.learnt && gone && heard && !named.contains(at))
        });
    }

    // ---- what the Sentinels say ----

    fn fresh(&self) -> Duration {
        (self.settings.poll_interval * 3).max(Duration::from_secs(5))
    }

    /// The last answers of connected Sentinels.
    pub(super) fn answers(&self, now: Instant) -> impl Iterator<Item = &SentinelAnswer> + Clone {
        let fresh = self.fresh();
        self.sentinels
            .values()
            .filter(move |sentinel| sentinel.connected && sentinel.answered.is_some_and(|at| now < at + fresh))
            .filter_map(|sentinel| sentinel.answer.as_ref())
    }

    pub(super) fn known_sentinels(&self) -> usize {
        word::known(self.sentinels.values().filter_map(|sentinel| sentinel.answer.as_ref()))
    }

    pub(super) fn word(&self, now: Instant) -> Word {
        word::weigh(self.answers(now), self.known_sentinels())
    }

    /// Every address that a Sentinel names, its epoch, and whether a majority or a quorum backs it.
    pub(super) fn named(&self, now: Instant) -> Vec<(SocketAddr, u64, bool)> {
        let known = self.known_sentinels();
        let mut named: Vec<(SocketAddr, u64, bool)> = Vec::new();
        for answer in self.answers(now) {
            let Some(claim) = &answer.claim else { continue };
            let backed = answer.quorum == Some(Ok(())) || known == 1;
            match named.iter_mut().find(|(addr, epoch, _)| (*addr, *epoch) == (claim.addr, claim.epoch)) {
                Some(entry) => entry.2 |= backed,
                None => named.push((claim.addr, claim.epoch, backed)),
            }
        }
        let most = word::majority(self.answers(now), known);
        for entry in &mut named {
            entry.2 |= most.as_ref().is_some_and(|most| (most.addr, most.epoch) == (entry.0, entry.1));
        }
        named
    }

    /// The epoch below which nothing is believed: our master's, or the one remembered from an earlier run.
    fn floor(&self) -> u64 {
        self.master.as_ref().map(|master| master.epoch).or(self.settings.floor.map(|(_, epoch)| epoch)).unwrap_or(0)
    }

    /// A majority that has named a lower epoch for long enough.
    fn lower(&mut self, now: Instant) -> Option<Named> {
        let most = word::majority(self.answers(now), self.known_sentinels()).filter(|named| named.epoch < self.floor());
        let Some(named) = most else {
            self.lower = None;
            return None;
        };
        match self.lower {
            Some((addr, epoch, since)) if (addr, epoch) == (named.addr, named.epoch) => {
                (now > since + LOWER_AFTER).then_some(named)
            }
            _ => {
                self.lower = Some((named.addr, named.epoch, now));
                None
            }
        }
    }

    // ---- what a node says ----

    fn verdict(&self, addr: SocketAddr, asked_after: Instant, run_id: Option<&str>) -> Verdict {
        let Some(node) = self.nodes.get(&addr) else { return Verdict::No(format!("{addr} was not asked yet")) };
        if node.refused.is_some() {
            return Verdict::No(format!("{addr} refuses connections"));
        }
        let Some(answer) = node.answer.as_ref().filter(|answer| answer.asked >= asked_after) else {
            return Verdict::No(match &node.silent {
                Some((_, error)) => error.clone(),
                None => format!("{addr} has not answered yet"),
            });
        };
        match &answer.role {
            Role::Replica { .. } => Verdict::No(format!("{addr} says it is a replica")),
            Role::Occupied(words) => Verdict::No(format!("{addr} answers {words}")),
            Role::Unreadable(_) => Verdict::Unreadable,
            Role::Master { .. } => match &node.info {
                None => Verdict::Master(None, Kinship::Unknown),
                Some(info) if info.loading => Verdict::No(format!("{addr} is still loading its data set")),
                Some(info) if run_id.is_some_and(|run_id| run_id != info.run_id) => Verdict::No(format!(
                    "{addr} is another process than the one Sentinel names (run_id differs: was it restarted, or is the address mapped wrongly?)"
                )),
                Some(info) => Verdict::Master(Some(info.clone()), self.lineage.kinship(info)),
            },
        }
    }

    /// The whole rule for following the word: verified on the node, and backed as its lineage demands.
    fn verify(&self, named: &Named, asked_after: Instant) -> Result<Option<Info>, String> {
        let backed = named.majority || (self.master.is_none() && named.quorum_ok);
        let support = || format!("only {} of {} Sentinels name {}", named.support, self.known_sentinels(), named.addr);
        match self.verdict(named.addr, asked_after, named.run_id.as_deref()) {
            Verdict::Master(info, Kinship::Heir | Kinship::Kin) => Ok(info),
            Verdict::Master(info, Kinship::Unknown) if backed => Ok(info),
            Verdict::Master(..) => Err(format!("{} and it does not share our master's history", support())),
            Verdict::Unreadable if backed && !named.down => Ok(None),
            Verdict::Unreadable => Err(format!("{} and its ROLE may not be read", support())),
            Verdict::No(why) => Err(why),
        }
    }

    // ---- Searching ----

    fn search(&mut self, now: Instant) {
        let named = match self.word(now) {
            Word::Nothing => {
                let problem = self.sentinels.values().find_map(|sentinel| sentinel.error.clone());
                self.reason = problem.unwrap_or_else(|| "no Sentinel has answered yet".into());
                return;
            }
            Word::Split { epoch, addrs } => {
                self.reason = format!("the Sentinels name different masters at epoch {epoch}: {addrs:?}");
                return;
            }
            Word::Named(named) => named,
        };
        if named.epoch < self.floor() && self.lower(now).is_none() {
            self.reason = format!(
                "the Sentinels name {} at epoch {}, but epoch {} was seen before",
                named.addr,
                named.epoch,
                self.floor()
            );
            return;
        }
        // The others get a moment, so that the first to answer is not believed only because it was first.
        let all = self.sentinels.values().all(|sentinel| sentinel.answered.is_some() || sentinel.lost_since.is_some());
        let first = self.sentinels.values().filter_map(|sentinel| sentinel.answered).min();
        if !all && !named.majority && first.is_some_and(|first| now < first + Duration::from_millis(500)) {
            self.reason = "waiting for the other Sentinels".into();
            return;
        }
        if !named.majority && (!named.quorum_ok || named.down) {
            self.reason = format!(
                "only {} of {} Sentinels name {}, and they have no quorum",
                named.support,
                self.known_sentinels(),
                named.addr
            );
            return;
        }
        match self.verify(&named, self.started) {
            Ok(info) => {
                self.log(
                    Level::INFO,
                    format!(
                        "following {} (epoch {}, named by {} of {} Sentinels)",
                        named.addr,
                        named.epoch,
                        named.support,
                        self.known_sentinels()
                    ),
                );
                self.commit(now, named.addr, named.epoch, info.as_ref(), false);
            }
            Err(why) => self.reason = why,
        }
    }

    // ---- Following and Silent ----

    fn watch(&mut self, now: Instant) {
        let Some(master) = self.master.clone() else { return };
        if self.follow_word(now, &master) {
            return;
        }
        if self.settle_provisional(now, &master) {
            return;
        }
        if self.vanished_turned_master(now, &master) {
            return;
        }
        self.check_restart(now, &master);
        if matches!(self.state, State::Following) {
            if now > self.life + self.settings.suspect_after {
                let error =
                    self.nodes.get(&master.addr).and_then(|node| node.silent.as_ref()).map(|(_, error)| error.clone());
                self.fall_silent(
                    now,
                    false,
                    error.unwrap_or_else(|| format!("{} has been silent for {} ms", master.addr, ms(now - self.life))),
                );
            }
        }
        self.check_minority(now);
    }

    /// Reacts to what the Sentinels name; true when that ended `Following` or `Silent`.
    fn follow_word(&mut self, now: Instant, master: &Master) -> bool {
        if let Some(lower) = self.lower(now)
            && lower.addr != master.addr
        {
            self.log(
                Level::WARN,
                format!("a majority of Sentinels has named {} at the lower epoch {} for 10 s", lower.addr, lower.epoch),
            );
            self.hold(now, Some(lower.addr), None, "the Sentinels' table was rewritten".into());
            return true;
        }
        match self.word(now) {
            Word::Named(named) if named.addr == master.addr && named.epoch > master.epoch => {
                self.adopt_epoch(now, named.epoch);
                false
            }
            Word::Named(named) if named.addr != master.addr => {
                let forward = named.epoch > master.epoch;
                let outvoted = named.epoch == master.epoch && named.majority && !master.provisional;
                // One Sentinel alone holds us only for a node that is what it says: it may be wrong.
                let heir = matches!(
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

    fn adopt_epoch(&mut self, now: Instant, epoch: u64) {
        let provisional = self.provisional.take();
        let Some(master) = &mut self.master else { return };
        master.epoch = epoch;
        master.provisional = false;
        let master = master.clone();
        self.outputs.push(Output::Remember(master.clone()));
        if let Some(provisional) = provisional {
            let after = now - provisional.since;
            self.counters.last_confirm_ms = Some(ms(after));
            self.outputs.push(Output::Confirmed(after));
            self.log(
                Level::INFO,
                format!("{} is confirmed by epoch {epoch}, {} ms after the early commit", master.addr, ms(after)),
            );
        }
    }

    /// An early commit that is not confirmed in time, or whose node is no master any more, is held; true then.
    fn settle_provisional(&mut self, now: Instant, master: &Master) -> bool {
        let Some(provisional) = &self.provisional else { return false };
        let demoted = matches!(self.role(master.addr), Some(Role::Replica { .. }));
        if !demoted && now < provisional.since + CONFIRM_WITHIN {
            return false;
        }
        let why = if demoted {
            format!("{} was demoted again before the epoch confirmed it", master.addr)
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
    fn vanished_turned_master(&mut self, now: Instant, master: &Master) -> bool {
        let turned = self.suspects.keys().copied().find(|addr| {
            *addr != master.addr && matches!(self.verdict(*addr, self.started, None), Verdict::Master(_, Kinship::Heir))
        });
        let Some(addr) = turned else { return false };
        let ours = |named: &Named| {
            named.addr == master.addr && named.epoch >= master.epoch && named.majority && !named.failover
        };
        // After a failed failover a majority may insist on the old master: that was waited for once already.
        let settled = self.distrust.contains_key(&addr) && matches!(self.word(now), Word::Named(named) if ours(&named));
        if settled {
            return false;
        }
        self.hold(now, Some(addr), None, format!("{addr} says it is a master"));
        true
    }

    fn role(&self, addr: SocketAddr) -> Option<&Role> {
        self.nodes.get(&addr).and_then(|node| node.answer.as_ref()).map(|answer| &answer.role)
    }

    fn fall_silent(&mut self, now: Instant, gone: bool, why: String) {
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
                self.unreadable = None;
                if self.credentials == CredentialsState::Refused {
                    let configured = self.settings.has_credentials;
                    self.credentials =
                        if configured { CredentialsState::Configured } else { CredentialsState::Learned };
                }
                if self.process.run_id.is_none()
                    && let Some(info) = &answer.info
                {
                    // The first readable answer after a start without credentials.
                    self.process.run_id = Some(info.run_id.clone());
                    if let Some(master) = &mut self.master {
                        master.run_id = Some(info.run_id.clone());
                    }
                } else if !same {
                    if let Some(info) = answer.info.as_ref().filter(|info| !info.loading) {
                        self.on_restart(now, &info.run_id.clone());
                    }
                    return;
                }
                self.process.connection = Some(answer.connection);
                if let Some(info) = &answer.info {
                    self.process.keys = info.keys;
                    self.lineage.remember(&info.replid);
                }
                self.samples.add(answer.asked, *offset);
                if matches!(self.state, State::Silent { .. }) {
                    self.resume(now, "the same master answers");
                }
                if matches!(self.state, State::Following) {
                    self.outputs.push(Output::Prove(answer.asked));
                    self.check_vanished(now, replicas);
                }
                if matches!(self.state, State::Following) {
                    self.replicas = replicas.iter().copied().collect();
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
            Role::Unreadable(words) => {
                if self.unreadable.is_none() {
                    let known = self.credentials != CredentialsState::None;
                    let what = if known { "refuses our credentials" } else { "wants a password and there is none" };
                    self.log(Level::ERROR, format!(
                        "Redis {} {what} ({words}): ROLE cannot be read, so a failover takes about a second longer and is not verified on the node",
                        self.master.as_ref().map_or_else(String::new, |master| master.addr.to_string())
                    ));
                }
                self.unreadable = Some(words.clone());
                if let Some(offered) =
                    self.offered.take().filter(|_| self.settings.learn_credentials && !self.settings.has_credentials)
                {
                    self.credentials = CredentialsState::Learned;
                    self.outputs.push(Output::UseCredentials(offered));
                } else if self.credentials != CredentialsState::None {
                    self.credentials = CredentialsState::Refused;
                }
                // The same connection is the same process. A new one is taken for it too unless sessions, which
                // a restart cuts off as well, say otherwise.
                let cut = self.session_eof.is_some_and(|at| now < at + Duration::from_secs(2));
                if same_connection || (self.process.run_id.is_none() && !cut) || self.process.connection.is_none() {
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

    /// A replica that left the master's list may have been promoted: hold, and ask it.
    fn check_vanished(&mut self, now: Instant, replicas: &[(SocketAddr, u64)]) {
        if self.provisional.is_some() {
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

    // ---- restart in place ----

    fn on_restart(&mut self, now: Instant, run_id: &str) {
        if self.restart.as_ref().is_some_and(|restart| restart.run_id == run_id) {
            return;
        }
        self.restart = Some(Restart { seen: now, run_id: run_id.to_owned() });
        match &mut self.state {
            State::Following => self.fall_silent(now, true, "the master's process was restarted".into()),
            State::Silent { gone } => *gone = true,
            _ => {}
        }
        self.ask_sentinels();
    }

    /// A restarted master is taken when the Sentinels, asked after it was seen, still name it; with no Sentinel at
    /// all, because it answers.
    fn check_restart(&mut self, now: Instant, master: &Master) -> bool {
        let Some(restart) = self.restart.clone() else { return false };
        let still = match self.word(now) {
            Word::Nothing => !self.sentinels.values().any(|sentinel| sentinel.connected),
            Word::Named(named) => {
                named.addr == master.addr
                    && named.epoch >= master.epoch
                    && named.majority
                    && !named.failover
                    && named.asked >= restart.seen
                    && !self.answers(now).any(|answer| answer.claim.as_ref().is_some_and(|claim| claim.o_down))
            }
            Word::Split { .. } => false,
        };
        if !still {
            return false;
        }
        let info = match self.verdict(master.addr, restart.seen - Duration::from_secs(1), None) {
            Verdict::Master(info, _) => info,
            Verdict::Unreadable => None,
            Verdict::No(_) => return false,
        };
        let keys = self.process.keys;
        if let Some(info) = info.as_ref().filter(|info| info.keys == 0 && keys > 0) {
            let text = format!(
                "the master {} was restarted with an EMPTY data set ({keys} keys before): its replicas copy that within seconds. Stop it now if a replica still has the data, promote that replica, and switch persistence on (run_id {})",
                master.addr, info.run_id
            );
            self.log(Level::ERROR, text.clone());
            self.empty_restart = Some((now, text));
        }
        self.finish(now, "restart", None, None);
        self.counters.restarts += 1;
        self.log(
            Level::WARN,
            format!("the master {} was restarted in place: sessions are moved to the new process", master.addr),
        );
        self.commit(now, master.addr, master.epoch, info.as_ref(), false);
        true
    }

    // ---- Switching ----

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
        let who = leader.as_ref().map(name).unwrap_or_default();
        self.hold(now, Some(candidate), leader, format!("Sentinel {who} promotes {candidate}"));
    }

    fn hold(&mut self, now: Instant, candidate: Option<SocketAddr>, leader: Option<HostPort>, why: String) {
        let (lives, crash) = match &self.state {
            State::Silent { .. } => (false, true),
            State::Switching(failover) => (failover.lives, failover.crash),
            _ => (true, self.called_down),
        };
        let kind = if lives { "the master lives" } else { "the master is down" };
        self.log(Level::INFO, format!("holding requests: {why} ({kind})"));
        self.reason = why;
        self.outage_since.get_or_insert(now);
        self.state = State::Switching(Failover {
            since: now,
            lives,
            crash,
            candidate,
            leader,
            ending: None,
            promoted: None,
            only_vanished: false,
            demoted: std::collections::HashMap::new(),
            old_named_since: None,
            no_early: None,
        });
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

    fn switch(&mut self, now: Instant) {
        if self.switch_by_word(now) || self.switch_early(now) {
            return;
        }
        self.release(now);
    }

    /// Commits to the node that the Sentinels name at a higher epoch, or whatever the rules for going back allow.
    fn switch_by_word(&mut self, now: Instant) -> bool {
        let (Some(master), State::Switching(failover)) = (self.master.clone(), &self.state) else { return false };
        let since = failover.since;
        let lower = self.lower(now);
        let named = match (lower, self.word(now)) {
            (Some(lower), _) if lower.addr != master.addr => lower,
            (_, Word::Named(named)) => named,
            (_, Word::Split { epoch, addrs }) => {
                self.reason = format!("the Sentinels name different masters at epoch {epoch}: {addrs:?}");
                return false;
            }
            (_, Word::Nothing) => return false,
        };
        if named.addr == master.addr {
            if named.epoch > master.epoch {
                self.adopt_epoch(now, named.epoch);
            }
            return false;
        }
        let back = self.provisional.as_ref().is_some_and(|provisional| provisional.previous.addr == named.addr)
            && named.epoch == master.epoch;
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
        match self.verify(&named, since) {
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
    fn switch_early(&mut self, now: Instant) -> bool {
        let (Some(master), State::Switching(failover)) = (self.master.clone(), &self.state) else { return false };
        let Some(candidate) = failover.candidate else { return false };
        if candidate == master.addr {
            return false;
        }
        let (since, lives) = (failover.since, failover.lives);
        let Verdict::Master(Some(info), kinship) = self.verdict(candidate, since, None) else { return false };
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
        // One more look at the old master, asked after the promotion was seen: while nobody writes to it, every
        // reply it gave until then is covered.
        let sampled = self.samples.last().is_some_and(|(asked, _)| asked >= promoted);
        if lives && !sampled && now < promoted + Duration::from_millis(20) {
            return false;
        }
        self.finish_switch(now, candidate, master.epoch, Some(&info), true);
        true
    }

    /// Why no early commit may be made; `None` when it may.
    fn against_early(&self, now: Instant, candidate: SocketAddr, kinship: Kinship) -> Option<String> {
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
        for (at, sentinel) in &self.sentinels {
            match failover.demoted.get(at) {
                Some(false) => {}
                Some(true) => {
                    return Some(format!("Sentinel {} still takes it for a master and may demote it again", name(at)));
                }
                None if self.long_dead(now, at, sentinel.lost_since) => {}
                None => return Some(format!("Sentinel {} has not said whether it was a master lately", name(at))),
            }
        }
        if failover.demoted.len() * 2 <= self.known_sentinels() {
            return Some("less than half of the Sentinels have answered".into());
        }
        None
    }

    fn long_dead(&self, now: Instant, at: &HostPort, lost_since: Option<Instant>) -> bool {
        let mut peers = self
            .answers(now)
            .flat_map(|answer| answer.peers.iter().flatten())
            .filter(|peer| peer.addr == *at)
            .peekable();
        lost_since.is_some_and(|since| now > since + DEAD_AFTER) && peers.all(|peer| peer.s_down)
    }

    /// Ends the hold with the old master, where that is safe.
    fn release(&mut self, now: Instant) {
        let Some(master) = self.master.clone() else { return };
        let limit = self.settings.planned_hold_limit.min(PROMOTED_WITHIN);
        let named_old = match self.word(now) {
            Word::Named(named) => {
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
        if !same {
            self.check_restart(now, &master);
            return;
        }
        let why = match candidate {
            _ if only_vanished => "no failover: the replica was not promoted",
            Some(candidate) if candidate == master.addr => "the epoch has confirmed the master after all",
            None => "the master is a master again",
            Some(candidate) => {
                self.counters.aborted += 1;
                self.distrust.insert(candidate, now + DISTRUST_FOR);
                self.suspects.insert(candidate, now + DISTRUST_FOR);
                "the failover was aborted, the old master stays"
            }
        };
        self.resume(now, why);
        if let Some(Role::Master { replicas, .. }) = self.role(master.addr) {
            self.replicas = replicas.iter().copied().collect();
        }
    }

    fn finish_switch(&mut self, now: Instant, addr: SocketAddr, epoch: u64, info: Option<&Info>, early: bool) {
        let (Some(old), State::Switching(failover)) = (self.master.clone(), &self.state) else { return };
        let (lives, crash, promoted) = (failover.lives, failover.crash, failover.promoted);
        let held = self.outage_since.unwrap_or(failover.since);
        let second =
            info.filter(|info| self.lineage.kinship(info) == Kinship::Heir).and_then(|info| info.second_offset);
        let replicated_until = second.filter(|_| lives).and_then(|second| self.samples.replicated_until(second));
        let gap = second.zip(self.samples.last()).map(|(second, (_, last))| {
            i64::try_from(last).unwrap_or(i64::MAX) - i64::try_from(second).unwrap_or(0) + 1
        });
        let kind = if crash { "crash" } else { "planned" };
        if crash {
            self.counters.crash += 1;
        } else {
            self.counters.planned += 1;
        }
        let wrong = self.provisional.take();
        if let Some(wrong) = &wrong {
            self.counters.early_commits_wrong += 1;

            self.log(
                Level::ERROR,
                format!(
                    "the early commit to {} was undone: what was written to it in {} ms is lost with it",
                    old.addr,
                    ms(now - wrong.since)
                ),
            );
        }
        if early {
            self.counters.early_commits += 1;
            self.provisional = Some(Provisional { since: now, previous: old.clone() });
        }
        self.finish(now, kind, promoted.map(|at| at - held), Some(early));
        let how = if early { "early, to be confirmed" } else { "by the epoch" };
        self.counters.last_offset_gap_bytes = gap;
        let gap = match gap {
            Some(gap) if gap > 0 => format!("; {gap} bytes of the old master's stream are not on it"),
            Some(_) => "; it has all of the old master's stream".into(),
            None => String::new(),
        };
        self.log(
            Level::INFO,
            format!(
                "new master {addr} (was {}, {kind}, epoch {epoch}, {how}): held {} ms, promotion seen after {}{gap}",
                old.addr,
                ms(now - held),
                promoted.map_or_else(|| "unknown".into(), |at| format!("{} ms", ms(at - held))),
            ),
        );
        self.commit(now, addr, epoch, info, early);
        self.replicated_until = replicated_until;
        if early {
            // Confirmation is asked for at once.
            self.ask_sentinels();
        }
    }

    fn finish(&mut self, now: Instant, kind: &'static str, promotion: Option<Duration>, early: Option<bool>) {
        let commit = self.outage_since.map_or(Duration::ZERO, |since| now - since);
        self.counters.last_hold_ms = Some(ms(commit));
        self.outputs.push(Output::FailedOver { kind, promotion, commit, early: early == Some(true) });
    }

    /// Sends the sessions to this process: a new term.
    fn commit(&mut self, now: Instant, addr: SocketAddr, epoch: u64, info: Option<&Info>, provisional: bool) {
        let master = Master { addr, run_id: info.map(|info| info.run_id.clone()), epoch, provisional };
        if let Some(old) = self.master.as_ref().map(|old| old.addr).filter(|old| *old != addr) {
            self.replicas.insert(old, 0);
        }
        self.term += 1;
        self.samples.clear();
        self.replicated_until = None;
        let answer = self.nodes.get(&addr).and_then(|node| node.answer.as_ref());
        self.process = Process {
            run_id: master.run_id.clone(),
            connection: answer.map(|answer| answer.connection),
            keys: info.map_or(0, |info| info.keys),
        };
        self.replicas.remove(&addr);
        if let Some(Role::Master { replicas, .. }) = answer.map(|answer| &answer.role) {
            if !provisional {
                self.replicas = replicas.iter().copied().collect();
            }
        }
        if let Some(info) = info {
            self.lineage.remember(&info.replid);
        }
        if !provisional {
            self.outputs.push(Output::Remember(master.clone()));
        }
        self.master = Some(master);
        self.state = State::Following;
        self.outage_since = None;
        self.failing = false;
        self.called_down = false;
        self.restart = None;
        self.suspects.remove(&addr);
        self.life = now;
        self.reason.clear();
    }

    // ---- the whole ----

    fn check_minority(&mut self, now: Instant) {
        let known = self.known_sentinels();
        let heard = self.answers(now).count();
        let outvoted = self.answers(now).any(|answer| matches!(answer.quorum, Some(Err(_))));
        let cut_off = known > 1 && heard > 0 && heard * 2 <= known && outvoted && !self.replicas_acknowledge();
        if !cut_off {
            if self.minority_since.take().is_some_and(|since| now > since + CONFIRM_WITHIN) {
                self.log(Level::WARN, "a majority of the Sentinels is reachable again".into());
                if self.settings.minority == Minority::Stop {
                    self.outage_since = None;
                    self.failing = false;
                }
            }
            return;
        }
        let since = *self.minority_since.get_or_insert(now);
        let told = now > since + CONFIRM_WITHIN;
        let what = format!(
            "this host reaches only {heard} of {known} Sentinels, and the replicas do not acknowledge: the others may have another master, and writes here may be lost"
        );
        if told && self.notices.insert(what.clone()) {
            self.log(Level::ERROR, what.clone());
        }
        if told && self.settings.minority == Minority::Stop {
            self.outage_since.get_or_insert(now);
            self.reason = what;
        }
    }

    /// Every replica has acknowledged within 2 s: none had been promoted by then.
    fn replicas_acknowledge(&self) -> bool {
        let Some(info) = self.master.as_ref().and_then(|master| self.nodes.get(&master.addr)?.info.as_ref()) else {
            return false;
        };
        !info.lags.is_empty() && info.lags.iter().all(|(_, lag)| *lag <= 2)
    }

    pub(super) fn in_stopped_minority(&self, now: Instant) -> bool {
        self.settings.minority == Minority::Stop
            && self.minority_since.is_some_and(|since| now > since + CONFIRM_WITHIN)
    }

    pub(super) fn hold_timeout(&self) -> Duration {
        match self.settings.hold_timeout {
            HoldTimeout::Fixed(limit) => limit,
            HoldTimeout::Auto => match self.down_after() {
                Some(down_after) => (down_after + Duration::from_secs(10)).min(Duration::from_secs(45)),
                None => Duration::from_secs(15),
            },
        }
    }

    pub(super) fn down_after(&self) -> Option<Duration> {
        self.sentinels.values().filter_map(|sentinel| Some(sentinel.answer.as_ref()?.claim.as_ref()?.down_after)).max()
    }

    fn check_deadline(&mut self, now: Instant) {
        let limit = self.hold_timeout();
        let held = !matches!(self.state, State::Following) || self.in_stopped_minority(now);
        if held && !self.failing && self.outage_since.is_some_and(|since| now >= since + limit) {
            self.failing = true;
            self.log(
                Level::ERROR,
                format!("no master for {} s, requests fail from now on: {}", limit.as_secs(), self.reason),
            );
        }
    }

    pub(super) fn phase(&self, now: Instant) -> Phase {
        match self.state {
            _ if self.failing => Phase::Failing,
            State::Following if self.in_stopped_minority(now) => Phase::Suspect,
            State::Following if self.paused.is_some() => Phase::Paused,
            State::Following => Phase::Stable,
            State::Searching | State::Silent { .. } => Phase::Suspect,
            State::Switching(_) => Phase::Switching,
        }
    }

    fn publish(&mut self, now: Instant) {
        let phase = self.phase(now);
        let outage_since = match phase {
            Phase::Stable => None,
            Phase::Paused => self.paused.map(|(since, _)| since),
            _ => self.outage_since,
        };
        let what = (self.term, self.master.clone(), phase, outage_since);
        if self.published.as_ref() == Some(&what) {
            return;
        }
        if self.published.as_ref().is_none_or(|(_, _, last, _)| *last != phase) {
            self.phase_since = now;
        }
        self.published = Some(what);
        let reason = match phase {
            Phase::Failing => format!("no master for {} s: {}", self.hold_timeout().as_secs(), self.reason),
            Phase::Paused => "held by the operator".into(),
            _ => self.reason.clone(),
        };
        self.outputs.push(Output::Publish(Entry {
            generation: 0,
            term: self.term,
            master: self.master.clone(),
            phase,
            outage_since,
            replicated_until: self.replicated_until,
            reason,
        }));
    }
}
