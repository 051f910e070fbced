//! One decision: what has run out, what the state makes of it, and what the sessions are told.
//!
//! Every report ends here, so that a transition is decided on all that is known and published once.

use std::time::{Duration, Instant};

use tracing::Level;

use super::{Output, State, Tracker};
use crate::config::{HoldTimeout, Minority};
use crate::sentinel::consensus::Consensus;
use crate::topology::{Entry, Phase};

/// A minority is told, and stopped if so configured, when it lasts this long: a failover takes as long.
const MINORITY_AFTER: Duration = Duration::from_secs(3);

impl Tracker {
    pub(super) fn decide(&mut self, now: Instant) {
        self.expire(now);
        match self.state {
            State::Searching => self.search(now),
            State::Following | State::Silent { .. } => {
                self.watch(now);
                self.settle_doubt(now);
            }
            State::Switching(_) => self.switch(now),
        }
        self.elect(now);
        self.plan(now);
        self.check_deadline(now);
        self.note_disagreement(now);
        self.note_rivals(now);
        self.note_stranger(now);
        self.record_memory(now);
        self.tell_long_hold();
        self.publish(now);
    }

    fn expire(&mut self, now: Instant) {
        self.count_sentinels(now);
        if self.paused.is_some_and(|(_, until)| now >= until) {
            self.end_pause(now);
            let why = "neither renewed nor released in time, as when a restore that asked for it was killed";
            self.log(Level::WARN, format!("the hold has run out ({why}): it keeps no request back any more"));
        }
        self.distrust.retain(|_, until| now < *until);
        self.suspects.retain(|_, until| now < *until);
        // What a node said before we stopped asking it is no evidence any more.
        let watched = self.nodes(now);
        self.nodes.retain(|addr, _| watched.contains_key(addr));
        self.forget_peers(now);
    }

    /// A command's hold has a limit of its own: what is left of an outage is timed from its end.
    pub(super) fn end_pause(&mut self, now: Instant) {
        if self.paused.take().is_some() && self.outage_since.is_some() {
            self.outage_since = Some(now);
        }
    }

    /// Held by a command, while nobody is known to replace the master: it may be silent, busy loading, or for a moment
    /// the replica of a stranger, as during a restore.
    pub(super) fn held_by_command(&self) -> bool {
        let undisturbed = match &self.state {
            State::Following | State::Silent { .. } => true,
            State::Switching(failover) => failover.candidate.is_none(),
            State::Searching => false,
        };
        self.paused.is_some() && undisturbed
    }

    pub(super) fn search(&mut self, now: Instant) {
        let named = match self.consensus_at_start(now) {
            Consensus::None => {
                // Answers without a master: it has another name, most likely. A Sentinel may also be away for a moment.
                let answered = self.all_answers(now).find_map(|(_, answer)| answer.problem.clone());
                if let Some(problem) = &answered {
                    self.notice(problem.clone());
                }
                let problem = self
                    .why_nobody(now)
                    .or(answered)
                    .or_else(|| self.sentinels.values().find_map(|sentinel| sentinel.error.clone()));
                self.reason = problem.unwrap_or_else(|| "no Sentinel has answered yet".into());
                self.start_without_sentinels(now);
                return;
            }
            Consensus::Conflicting { epoch, addrs } => {
                self.reason = format!("the Sentinels name different masters at epoch {epoch}: {addrs:?}");
                return;
            }
            Consensus::Agreed(named) => named,
        };
        if named.epoch < self.floor() && self.below_floor(now, &named) {
            return;
        }
        if let Err(why) = self.believed(now, &named) {
            self.reason = why;
            self.start_without_sentinels(now);
            return;
        }
        match self.verify(&named, self.started) {
            Ok(info) => {
                let under_way = match self.under_way(now, &named, info.as_ref()) {
                    Ok(under_way) => under_way,
                    Err(why) => {
                        self.reason = why;
                        return;
                    }
                };
                let began = self.outage_since;
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
                self.leave_memory(named.addr, info.as_ref());
                self.commit(now, named.addr, named.epoch, info.as_ref(), false);
                if let Some(found) = under_way {
                    self.join(now, found, began);
                }
                self.note_family(now);
            }
            Err(why) => self.reason = why,
        }
    }

    pub(super) fn check_minority(&mut self, now: Instant) {
        let known = self.known_sentinels();
        let heard = self.answers(now).count();
        let outvoted = self.answers(now).any(|answer| matches!(answer.quorum, Some(Err(_))));
        let cut_off = known > 1 && heard > 0 && heard * 2 <= known && outvoted && !self.replicas_acknowledge();
        if !cut_off {
            if self.minority_since.take().is_some_and(|since| now > since + MINORITY_AFTER) {
                self.log(Level::WARN, "a majority of the Sentinels is reachable again".into());
                if self.settings.minority == Minority::Stop {
                    self.outage_since = None;
                    self.failing = false;
                }
            }
            return;
        }
        let since = *self.minority_since.get_or_insert(now);
        let told = now > since + MINORITY_AFTER;
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
    pub(super) fn replicas_acknowledge(&self) -> bool {
        let Some(info) = self.master.as_ref().and_then(|master| self.nodes.get(&master.addr)?.info.as_ref()) else {
            return false;
        };
        let mut lags = info.lags.iter().map(|(_, lag)| *lag).chain(info.named.iter().map(|named| named.lag)).peekable();
        lags.peek().is_some() && lags.all(|lag| lag <= 2)
    }

    pub(super) fn in_stopped_minority(&self, now: Instant) -> bool {
        self.settings.minority == Minority::Stop
            && self.minority_since.is_some_and(|since| now > since + MINORITY_AFTER)
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

    /// Said once, when Sentinel has told its `down-after-milliseconds`; `status` goes on to say it.
    fn tell_long_hold(&mut self) {
        if let Some(text) = self.long_hold().filter(|_| !self.long_hold_told) {
            self.long_hold_told = true;
            self.log(Level::WARN, text);
        }
    }

    pub(super) fn down_after(&self) -> Option<Duration> {
        self.last_answers().filter_map(|answer| Some(answer.claim.as_ref()?.down_after)).max()
    }

    pub(super) fn check_deadline(&mut self, now: Instant) {
        let limit = self.hold_timeout();
        let held =
            (!matches!(self.state, State::Following) || self.in_stopped_minority(now)) && !self.held_by_command();
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
            _ if self.held_by_command() => Phase::Paused,
            State::Following if self.doubt.is_some() => Phase::Switching,
            State::Following if self.electing.is_some() => Phase::Electing,
            State::Following => Phase::Stable,
            State::Searching | State::Silent { .. } => Phase::Suspect,
            State::Switching(_) => Phase::Switching,
        }
    }

    pub(super) fn publish(&mut self, now: Instant) {
        let phase = self.phase(now);
        let outage_since = match phase {
            Phase::Stable | Phase::Electing => None,
            Phase::Paused => self.paused.map(|(since, _)| since),
            _ => self.outage_since.or(self.doubt.map(|doubt| doubt.since)),
        };
        let covered_until = self.electing.as_ref().and_then(|electing| electing.covered);
        let what = (self.term, self.master.clone(), phase, outage_since, covered_until);
        if self.published.as_ref() == Some(&what) {
            return;
        }
        if self.published.as_ref().is_none_or(|(_, _, last, ..)| *last != phase) {
            self.phase_since = now;
        }
        self.published = Some(what);
        let reason = match phase {
            Phase::Failing => format!("no master for {} s: {}", self.hold_timeout().as_secs(), self.reason),
            Phase::Paused => "held by the operator".into(),
            Phase::Electing => "Sentinel is about to choose a new master".into(),
            Phase::Switching if matches!(self.state, State::Following) => {
                "this process did not run for a while, and the master is asked anew".into()
            }
            _ => self.reason.clone(),
        };
        self.outputs.push(Output::Publish(Entry {
            generation: 0,
            term: self.term,
            master: self.master.clone(),
            phase,
            outage_since,
            replicated_until: self.replicated_until,
            covered_until,
            diverged_from: self.diverged_from,
            reason,
        }));
    }
}
