//! One decision: what has run out, and what the state makes of all that is known.
//!
//! Every report ends here, so that a transition is decided on all that is known and published once.

use std::time::{Duration, Instant};

use tracing::Level;

use super::Tracker;
use super::situation::State;
use crate::config::HoldTimeout;
use crate::sentinel::hold;

impl Tracker {
    pub(super) fn decide(&mut self, now: Instant) {
        self.expire(now);
        match self.situation.state() {
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
        if let Some(master) = self.followed.addr() {
            self.sentinels.note_disagreement(now, master);
        }
        self.note_rivals(now);
        self.note_stranger(now);
        self.record_memory(now);
        if let Some(text) = self.long_hold() {
            self.out.warn_of_long_hold(text);
        }
        self.publish(now);
    }

    fn expire(&mut self, now: Instant) {
        self.sentinels.count(now, &self.earlier.sentinels());
        if self.pause.has_run_out(now) {
            self.end_pause(now);
            let why = "neither renewed nor released in time, as when a restore that asked for it was killed";
            self.out.log(Level::WARN, format!("the hold has run out ({why}): it keeps no request back any more"));
        }
        self.promotions.expire(now);
        let watched = self.nodes(now);
        self.nodes.forget_all_but(|addr| watched.contains_key(addr));
        self.sentinels.forget_peers(now);
    }

    /// A command's hold has a limit of its own: what is left of an outage is timed from its end.
    pub(super) fn end_pause(&mut self, now: Instant) {
        if self.pause.end() && self.situation.outage_since().is_some() {
            self.situation.time_outage_from(Some(now));
        }
    }

    /// Held by a command, while nobody is known to replace the master: it may be silent, busy loading, or for a while
    /// the replica of a stranger, as during a restore.
    pub(super) fn held_by_command(&self) -> bool {
        let undisturbed = match self.situation.state() {
            State::Following | State::Silent { .. } => true,
            State::Switching(failover) => failover.candidate().is_none(),
            State::Searching => false,
        };
        self.pause.since().is_some() && undisturbed
    }

    pub(super) fn hold_timeout(&self) -> Duration {
        match self.settings.hold_timeout {
            HoldTimeout::Fixed(limit) => limit,
            HoldTimeout::Auto => hold::longest(self.sentinels.down_after()),
        }
    }

    fn check_deadline(&mut self, now: Instant) {
        let limit = self.hold_timeout();
        let held = (!self.situation.is_following() || self.in_stopped_minority(now)) && !self.held_by_command();
        let has_passed = self.situation.outage_since().is_some_and(|since| now >= since + limit);
        if held && has_passed && !self.situation.is_failing() {
            self.situation.fail();
            let (limit, reason) = (limit.as_secs(), self.situation.reason());
            self.out.log(Level::ERROR, format!("no master for {limit} s, requests fail from now on: {reason}"));
        }
    }
}
