//! What the status page draws: the last minutes, a sample a second, and the last failovers.
//!
//! Bounded: the oldest sample and the oldest failover make room.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use crate::status::{FailoverView, PastFailover, Recent, Sample, View};

/// Five minutes of samples.
const MOST_SAMPLES: usize = 300;
/// Failovers that are kept.
const MOST_FAILOVERS: usize = 20;

/// The last minutes.
#[derive(Debug, Default)]
pub struct History {
    samples: VecDeque<Sample>,
    failovers: VecDeque<PastFailover>,
    /// How many there were at the last look.
    counted: u64,
}

impl History {
    /// Looks; to be called about once a second.
    pub fn look(&mut self, now: SystemTime, view: &View) {
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let traffic = &view.traffic;
        let (requests, bytes) = (traffic.requests_per_second, traffic.bytes_per_second);
        // One that came and went between two looks is in the report alone.
        let outage = view.outage_ms.unwrap_or(0).max(self.note(since, view));
        // In an outage the last answer is an old one.
        let answer = view.answer_ms.filter(|_| view.outage_ms.is_none());
        let sample = (since.as_secs(), requests, bytes, traffic.sessions, traffic.held_sessions, answer, outage);
        self.samples.push_back(sample);
        if self.samples.len() > MOST_SAMPLES {
            self.samples.pop_front();
        }
    }

    /// The last failover, whose report goes on for a while after it is first seen. Returns how long it held requests, in
    /// milliseconds, when it is first seen.
    fn note(&mut self, now: Duration, view: &View) -> u64 {
        let count = view.counters.failovers();
        let Some(report) = view.last_failover.clone() else { return 0 };
        let is_new = count != self.counted;
        if !is_new {
            self.failovers.pop_back();
        }
        self.counted = count;
        let hold = report.phases.iter().find(|(phase, _)| phase == "hold").map_or(0, |(_, held)| held.ceil() as u64);
        let at_ms = (now.as_millis() as u64).saturating_sub(report.ago_ms);
        self.failovers.push_back(PastFailover { at_ms, report });
        if self.failovers.len() > MOST_FAILOVERS {
            self.failovers.pop_front();
        }
        if is_new { hold } else { 0 }
    }

    /// All of it, with the view of this moment.
    pub fn show(&self, now: SystemTime, view: View) -> Recent {
        let now_ms = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let aged = |failover: &PastFailover| {
            let report = FailoverView { ago_ms: now_ms.saturating_sub(failover.at_ms), ..failover.report.clone() };
            PastFailover { report, at_ms: failover.at_ms }
        };
        let failovers = self.failovers.iter().rev().map(aged).collect();
        Recent { view, samples: self.samples.iter().copied().collect(), failovers }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_and_a_report_that_grows_replaces_itself() {
        let (start, mut history) = (SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000), History::default());
        let mut view = View::default();
        for second in 0..1000 {
            if second % 10 == 0 {
                view.counters.failovers_planned += 1;
            }
            view.last_failover = Some(FailoverView {
                ago_ms: second % 10 * 1000,
                phases: vec![("hold".into(), 1.0); 1 + (second % 10) as usize],
                ..FailoverView::default()
            });
            history.look(start + Duration::from_secs(second), &view);
        }
        assert_eq!((history.samples.len(), history.failovers.len()), (MOST_SAMPLES, MOST_FAILOVERS));
        let paused: Vec<u64> = history.samples.iter().rev().take(11).map(|sample| sample.6).collect();
        assert_eq!(paused, [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0], "its hold is in one sample");
        let now = start + Duration::from_secs(999);
        let shown = history.show(now, view);
        assert_eq!(shown.failovers.iter().map(|one| one.report.phases.len()).collect::<Vec<_>>(), [10; 20]);
        assert_eq!((shown.failovers[0].report.ago_ms, shown.failovers[1].report.ago_ms), (9_000, 19_000));
        let text = serde_json::to_string(&shown).unwrap();
        assert!(text.len() < 64 * 1024, "{} bytes", text.len());
    }
}
