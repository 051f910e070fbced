//! Whether every thread still turns ([`Watchdog`]).
//!
//! Each thread sets its own flag while its runtime turns, and whoever looks takes them all. Without a watchdog in the
//! service manager there are no flags, and nothing is done.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// One thread's flag.
#[derive(Clone, Debug)]
pub(super) struct Beat {
    turned: Arc<AtomicBool>,
    every: Duration,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Watchdog {
    /// How long the service manager waits for a sign of life; `None`: for ever.
    limit: Option<Duration>,
    beats: Vec<(String, Beat)>,
}

impl Watchdog {
    pub(super) fn new(limit: Option<Duration>) -> Watchdog {
        Watchdog { limit, beats: Vec::new() }
    }

    /// Between two looks: a thread may be late for two of them.
    pub(super) fn every(&self) -> Option<Duration> {
        self.limit.map(|limit| limit / 4)
    }

    /// The flag of one more thread.
    pub(super) fn watch(&mut self, thread: &str) -> Option<Beat> {
        let beat = Beat { turned: Arc::new(AtomicBool::new(true)), every: self.every()? / 2 };
        self.beats.push((thread.to_owned(), beat.clone()));
        Some(beat)
    }

    /// The threads that have not turned since the last look.
    pub(super) fn stuck(&self) -> Vec<&str> {
        let has_turned = |beat: &Beat| beat.turned.swap(false, Ordering::Relaxed);
        // Every flag is taken, also behind one that is not set.
        self.beats.iter().filter(|(_, beat)| !has_turned(beat)).map(|(thread, _)| thread.as_str()).collect()
    }
}

impl Beat {
    /// Sets it for ever, from the thread that it is of.
    pub(super) async fn run(beat: Option<Beat>) {
        let Some(beat) = beat else { return std::future::pending().await };
        loop {
            beat.turn();
            tokio::time::sleep(beat.every).await;
        }
    }

    fn turn(&self) {
        self.turned.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thread_that_does_not_turn_is_named() {
        let mut watchdog = Watchdog::new(Some(Duration::from_secs(8)));
        let [one, two] = ["one", "two"].map(|thread| watchdog.watch(thread).unwrap());
        assert!(watchdog.stuck().is_empty(), "each has a whole interval");
        one.turn();
        assert_eq!(watchdog.stuck(), ["two"]);
        assert_eq!(watchdog.stuck(), ["one", "two"]);
        two.turn();
        one.turn();
        assert!(watchdog.stuck().is_empty());
    }

    #[test]
    fn without_a_service_manager_nothing_is_watched() {
        let mut watchdog = Watchdog::new(None);
        assert!(watchdog.watch("one").is_none() && watchdog.every().is_none() && watchdog.stuck().is_empty());
    }
}
