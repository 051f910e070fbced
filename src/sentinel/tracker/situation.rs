//! Where the decision is: which state, since when requests are held, and why.
//!
//! The transitions, by name:
//!
//! ```text
//! Searching ──verified──► Following ◄──same process answers── Silent
//!                          │  ▲ │                               ▲ │
//!     candidate, vanished  │  │ └──silence, refused, restarted──┘ │ candidate, higher epoch,
//!     replica, ROLE=slave, │  │                                   │ ROLE=slave
//!     higher epoch,        ▼  │ commit (early or by the epoch),   ▼
//!     unconfirmed       Switching  or release: the candidate is a replica
//! ```
//!
//! Nothing here decides on a transition; each one is made by a method of this file, and by no other.

use std::time::{Duration, Instant};

use super::failover::Failover;

/// The states.
#[derive(Debug)]
pub(super) enum State {
    /// No master has been verified yet.
    Searching,
    /// Requests flow to the master.
    Following,
    /// The master is silent or gone; no failover is known.
    Silent {
        /// Nobody listens there any more, or the process is another one.
        gone: bool,
    },
    /// A failover is under way.
    Switching(Box<Failover>),
}

/// The state, with the outage that it is part of.
#[derive(Debug)]
pub(super) struct Situation {
    state: State,
    outage_since: Option<Instant>,
    /// The outage has lasted longer than requests are held.
    failing: bool,
    /// For people: why requests are held, or why there is no master.
    reason: String,
}

impl Situation {
    pub(super) fn new(now: Instant) -> Situation {
        Situation {
            state: State::Searching,
            outage_since: Some(now),
            failing: false,
            reason: "no Sentinel has answered yet".into(),
        }
    }

    pub(super) fn state(&self) -> &State {
        &self.state
    }

    pub(super) fn is_searching(&self) -> bool {
        matches!(self.state, State::Searching)
    }

    pub(super) fn is_following(&self) -> bool {
        matches!(self.state, State::Following)
    }

    pub(super) fn is_silent(&self) -> bool {
        matches!(self.state, State::Silent { .. })
    }

    /// The master is silent because there is no such process any more.
    pub(super) fn is_gone(&self) -> bool {
        matches!(self.state, State::Silent { gone: true })
    }

    /// The failover under way.
    pub(super) fn failover(&self) -> Option<&Failover> {
        match &self.state {
            State::Switching(failover) => Some(failover),
            _ => None,
        }
    }

    pub(super) fn failover_mut(&mut self) -> Option<&mut Failover> {
        match &mut self.state {
            State::Switching(failover) => Some(failover),
            _ => None,
        }
    }

    pub(super) fn outage_since(&self) -> Option<Instant> {
        self.outage_since
    }

    /// How long the present outage has lasted.
    pub(super) fn outage(&self, now: Instant) -> Duration {
        self.outage_since.map_or(Duration::ZERO, |since| now - since)
    }

    pub(super) fn is_failing(&self) -> bool {
        self.failing
    }

    pub(super) fn reason(&self) -> &str {
        &self.reason
    }

    pub(super) fn explain(&mut self, why: String) {
        self.reason = why;
    }

    /// Adds to the reason.
    pub(super) fn explain_further(&mut self, why: &str) {
        self.reason += why;
    }

    pub(super) fn fall_silent(&mut self, now: Instant, gone: bool, why: String) {
        self.reason = why;
        self.outage_since.get_or_insert(now);
        self.state = State::Silent { gone };
    }

    /// The master that was silent is no process any more.
    pub(super) fn find_gone(&mut self) {
        if let State::Silent { gone } = &mut self.state {
            *gone = true;
        }
    }

    pub(super) fn switch(&mut self, now: Instant, failover: Failover, why: String) {
        self.reason = why;
        self.outage_since.get_or_insert(now);
        self.state = State::Switching(Box::new(failover));
    }

    /// Requests flow: the outage is over.
    pub(super) fn follow(&mut self) {
        self.state = State::Following;
        self.outage_since = None;
        self.failing = false;
        self.reason.clear();
    }

    /// Requests are held, whatever the state is: the outage begins now, unless it has begun.
    pub(super) fn hold(&mut self, now: Instant, why: String) {
        self.reason = why;
        self.outage_since.get_or_insert(now);
    }

    /// The end of that, in the same state.
    pub(super) fn end_hold(&mut self) {
        self.outage_since = None;
        self.failing = false;
    }

    /// The present outage is timed from this instant.
    pub(super) fn time_outage_from(&mut self, began: Option<Instant>) {
        self.outage_since = began;
    }

    /// Requests fail from now on.
    pub(super) fn fail(&mut self) {
        self.failing = true;
    }
}
