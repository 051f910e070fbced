//! The operator's hold: requests wait because a command asked for it.
//!
//! It has a limit of its own, and never outlasts it.

use std::time::Instant;

/// The hold, if there is one.
#[derive(Debug, Default)]
pub(super) struct Pause {
    /// From when and until when at the latest.
    held: Option<(Instant, Instant)>,
}

impl Pause {
    /// Begins, or goes on until another instant.
    pub(super) fn begin(&mut self, now: Instant, until: Instant) {
        self.held = Some((self.since().unwrap_or(now), until));
    }

    /// True when there was one.
    pub(super) fn end(&mut self) -> bool {
        self.held.take().is_some()
    }

    pub(super) fn since(&self) -> Option<Instant> {
        self.held.map(|(since, _)| since)
    }

    pub(super) fn has_run_out(&self, now: Instant) -> bool {
        self.held.is_some_and(|(_, until)| now >= until)
    }
}
