//! The replies that sessions have received, as far as they are a sign of life and a measure of what may be lost.
//!
//! A count over all sessions; which request a reply was to is not known here.

use std::time::Instant;

/// How many, and when the last were seen.
#[derive(Debug, Default)]
pub(super) struct Replies {
    count: u64,
    seen: Option<Instant>,
}

impl Replies {
    pub(super) fn note(&mut self, now: Instant, count: u64) {
        self.count = count;
        self.seen = Some(now);
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// How many there were since the count was `before`.
    pub(super) fn since(&self, before: u64) -> u64 {
        self.count.saturating_sub(before)
    }

    /// None were seen at `at` or later.
    pub(super) fn are_none_since(&self, at: Instant) -> bool {
        self.seen.is_none_or(|seen| seen < at)
    }
}
