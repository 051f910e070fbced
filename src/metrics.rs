//! Every metric: its name, its help, and the counters that the data path may touch.
//!
//! Rare events go through the `metrics` macros with the names below. What happens for each request is counted in
//! [`Relay`], one per worker thread, with plain relaxed loads and stores; it is read when somebody scrapes.

use std::sync::atomic::{AtomicU64, Ordering};

/// The counters of one worker thread. Only that thread writes, so a load and a store suffice.
#[derive(Debug, Default)]
pub struct Relay {
    /// Client connections accepted.
    pub accepted: Counter,
    /// Client connections refused because `max_clients` were open.
    pub refused: Counter,
    /// Sessions that ended.
    pub closed: Counter,
    /// Requests sent on.
    pub requests: Counter,
    /// Replies received from backends (what the control plane takes as a sign of life).
    pub replies: Counter,
    /// Bytes from clients to backends.
    pub bytes_up: Counter,
    /// Bytes from backends to clients.
    pub bytes_down: Counter,
}

/// A counter with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning thread may call this.
    pub fn add(&self, n: u64) {
        self.0
            .store(self.0.load(Ordering::Relaxed) + n, Ordering::Relaxed);
    }

    /// The count so far; any thread.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
