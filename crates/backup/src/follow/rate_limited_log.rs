//! Logs once a minute what would otherwise be logged each second.
//!
//! The first time it is logged at once, and so is the first time after things were well.

use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_secs(60);

/// One thing that may go wrong for long.
#[derive(Debug, Default)]
pub struct RateLimitedLog {
    logged: Option<Instant>,
}

impl RateLimitedLog {
    /// Logs it, unless it was logged within the last minute.
    pub fn log(&mut self, log: impl FnOnce()) {
        if self.logged.is_none_or(|logged| logged.elapsed() >= INTERVAL) {
            self.logged = Some(Instant::now());
            log();
        }
    }

    /// It is well again.
    pub fn reset(&mut self) {
        self.logged = None;
    }
}
