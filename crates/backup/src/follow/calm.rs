//! Says once a minute what would otherwise be said each second.
//!
//! The first time is said at once, and so is the first one after things were well.

use std::time::{Duration, Instant};

const AGAIN: Duration = Duration::from_secs(60);

/// One thing that may go wrong for long.
#[derive(Debug, Default)]
pub struct Calm {
    said: Option<Instant>,
}

impl Calm {
    /// Says it, unless it was said within the last minute.
    pub fn say(&mut self, say: impl FnOnce()) {
        if self.said.is_none_or(|said| said.elapsed() >= AGAIN) {
            self.said = Some(Instant::now());
            say();
        }
    }

    /// It is well again.
    pub fn over(&mut self) {
        self.said = None;
    }
}
