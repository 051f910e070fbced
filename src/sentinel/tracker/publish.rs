//! What sessions see: one entry whenever anything of it has changed.
//!
//! Nothing is decided here but the phase, which follows from the situation.

use std::time::Instant;

use super::situation::State;
use super::{Output, Tracker};
use crate::topology::{Entry, Master, Phase};

/// What was published last.
#[derive(Debug)]
pub(super) struct Publisher {
    last: Option<Published>,
    phase_since: Instant,
}

/// What a new entry is published for when it changes.
#[derive(Debug, PartialEq)]
struct Published {
    term: u64,
    master: Option<Master>,
    phase: Phase,
    outage_since: Option<Instant>,
    covered_until: Option<Instant>,
}

impl Publisher {
    pub(super) fn new(now: Instant) -> Publisher {
        Publisher { last: None, phase_since: now }
    }

    pub(super) fn phase_since(&self) -> Instant {
        self.phase_since
    }

    /// True when it is to be published.
    fn note(&mut self, now: Instant, next: Published) -> bool {
        if self.last.as_ref() == Some(&next) {
            return false;
        }
        if self.last.as_ref().is_none_or(|last| last.phase != next.phase) {
            self.phase_since = now;
        }
        self.last = Some(next);
        true
    }
}

impl Tracker {
    pub(super) fn phase(&self, now: Instant) -> Phase {
        match self.situation.state() {
            _ if self.situation.is_failing() => Phase::Failing,
            State::Following if self.in_stopped_minority(now) => Phase::Suspect,
            _ if self.held_by_command() => Phase::Paused,
            State::Following if self.gap.doubt().is_some() => Phase::Switching,
            State::Following if self.election.is_under_way() => Phase::Electing,
            State::Following => Phase::Stable,
            State::Searching | State::Silent { .. } => Phase::Suspect,
            State::Switching(_) => Phase::Switching,
        }
    }

    pub(super) fn publish(&mut self, now: Instant) {
        let phase = self.phase(now);
        let outage_since = match phase {
            Phase::Stable | Phase::Electing => None,
            Phase::Paused => self.pause.since(),
            _ => self.situation.outage_since().or(self.gap.doubt().map(|doubt| doubt.began)),
        };
        let (term, master) = (self.followed.term(), self.followed.master().cloned());
        let covered_until = self.election.covered_until();
        let next = Published { term, master: master.clone(), phase, outage_since, covered_until };
        if !self.publisher.note(now, next) {
            return;
        }
        let inherited = self.followed.inherited();
        self.out.push(Output::Publish(Entry {
            generation: 0,
            term,
            master,
            phase,
            outage_since,
            replicated_until: inherited.replicated_until,
            covered_until,
            diverged_from: inherited.diverged_from,
            reason: self.reason_of(phase),
        }));
    }

    fn reason_of(&self, phase: Phase) -> String {
        let reason = self.situation.reason();
        match phase {
            Phase::Failing => format!("no master for {} s: {reason}", self.hold_timeout().as_secs()),
            Phase::Paused => "held by the operator".into(),
            Phase::Electing => "Sentinel is about to choose a new master".into(),
            Phase::Switching if self.situation.is_following() => {
                "this process did not run for a while, and the master is asked anew".into()
            }
            _ => reason.to_owned(),
        }
    }
}
