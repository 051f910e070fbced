//! What is remembered of the last change of master, for people and for the metrics.
//!
//! Nothing here decides; what cannot be known (idle clients, an unreadable node) is left out, never guessed.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{Output, State, View};
use crate::status::FailoverView;

/// A first reply later than this says that nobody asked, not that sessions were slow to move.
const ATTACH_WITHIN: Duration = Duration::from_secs(1);

/// A change of master.
#[derive(Debug)]
pub(super) struct Change {
    /// The commit.
    pub(super) at: Instant,
    /// A reply has been relayed since, or it is too late to tell.
    attached: bool,
    /// `ago_ms` is filled in when somebody looks.
    pub(super) shown: FailoverView,
}

impl View {
    /// Records the change from the present master to `to`; to be called before the commit.
    pub(super) fn record(
        &mut self,
        now: Instant,
        kind: &str,
        to: SocketAddr,
        promotion: Option<Duration>,
        offset_gap_bytes: Option<u64>,
    ) {
        let from = self.master.as_ref().map_or_else(String::new, |master| master.addr.to_string());
        let shown =
            FailoverView { kind: kind.into(), from, to: to.to_string(), offset_gap_bytes, ..FailoverView::default() };
        self.last_change = Some(Change { at: now, attached: false, shown });
        if let Some(promotion) = promotion {
            self.phase_took("promotion", promotion);
        }
        self.phase_took("hold", self.outage_since.map_or(Duration::ZERO, |since| now - since));
    }

    pub(super) fn phase_took(&mut self, phase: &'static str, duration: Duration) {
        self.outputs.push(Output::Phase(phase, duration));
        if let Some(last) = &mut self.last_change {
            last.shown.phases.push((phase.into(), duration.as_secs_f64() * 1000.0));
        }
    }

    /// The early commit was undone: whatever its master replied is gone. Returns how many replies that is at most.
    pub(super) fn record_undone(&mut self, replies_before: u64) -> u64 {
        let at_risk = self.replies.saturating_sub(replies_before);
        self.counters.early_commits_wrong += 1;
        self.counters.writes_at_risk += at_risk;
        if let Some(last) = &mut self.last_change {
            last.shown.writes_at_risk = at_risk;
        }
        at_risk
    }

    /// Whether the first reply after a commit is still waited for.
    pub(super) fn attaching(&self, now: Instant) -> bool {
        self.last_change.as_ref().is_some_and(|last| !last.attached && now < last.at + ATTACH_WITHIN)
    }

    pub(super) fn on_replies(&mut self, now: Instant, count: u64) {
        self.replies = count;
        self.replied_at = Some(now);
        self.life = now;
        if matches!(self.state, State::Silent { gone: false }) {
            self.resume(now, "the master answers sessions again");
        }
        if self.attaching(now)
            && let Some(last) = &mut self.last_change
        {
            last.attached = true;
            let after = now - last.at;
            self.phase_took("attach", after);
        }
    }
}
