//! What is remembered of the last change of master, for people and for the metrics.
//!
//! Nothing here decides; what cannot be known (idle clients, an unreadable node) is left out, never guessed.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::outbox::Outbox;
use super::{Output, Tracker};
use crate::status::{AbortView, Counters, FailoverView};

/// A first reply later than this says that nobody asked, not that sessions were slow to move.
const ATTACH_WITHIN: Duration = Duration::from_secs(1);

/// What sessions were moved for: the label `kind` of [`crate::metrics::FAILOVERS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// The old master lived.
    Planned,
    /// The old master was silent, or a Sentinel had called it down.
    Crash,
    /// Another process answers at the master's address.
    Restart,
    /// The master's data set was replaced in place.
    Restore,
}

impl ChangeKind {
    /// Every kind, in the order of [`crate::metrics::FAILOVER_KINDS`].
    pub const ALL: [ChangeKind; 4] = [ChangeKind::Planned, ChangeKind::Crash, ChangeKind::Restart, ChangeKind::Restore];

    /// In logs, metrics and `status`.
    pub fn name(self) -> &'static str {
        match self {
            ChangeKind::Planned => "planned",
            ChangeKind::Crash => "crash",
            ChangeKind::Restart => "restart",
            ChangeKind::Restore => "restore",
        }
    }
}

/// A part of a change that is timed: the label `phase` of [`crate::metrics::FAILOVER_PHASE_SECONDS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangePhase {
    /// Requests were held.
    Hold,
    /// From the first sign to the promotion as we saw it.
    Promotion,
    /// From the commit to the first reply.
    Attach,
    /// From an early commit to the epoch that confirms it.
    Confirm,
}

impl ChangePhase {
    /// Every phase, in the order of [`crate::metrics::FAILOVER_PHASES`].
    pub const ALL: [ChangePhase; 4] =
        [ChangePhase::Hold, ChangePhase::Promotion, ChangePhase::Attach, ChangePhase::Confirm];

    /// In metrics and `status`.
    pub fn name(self) -> &'static str {
        match self {
            ChangePhase::Hold => "hold",
            ChangePhase::Promotion => "promotion",
            ChangePhase::Attach => "attach",
            ChangePhase::Confirm => "confirm",
        }
    }
}

/// The last change and the last that was given up, with what was counted since the start.
#[derive(Debug, Default)]
pub(super) struct History {
    last: Option<Change>,
    last_abort: Option<(Instant, String)>,
    counters: Counters,
}

/// A change of master.
#[derive(Debug)]
struct Change {
    /// The commit.
    at: Instant,
    /// A reply has been relayed since, or it is too late to know.
    attached: bool,
    /// `ago_ms` is filled in when somebody looks.
    shown: FailoverView,
}

impl History {
    fn note(
        &mut self,
        now: Instant,
        kind: ChangeKind,
        (from, to): (Option<SocketAddr>, SocketAddr),
        offset_gap_bytes: Option<u64>,
    ) {
        let counter = match kind {
            ChangeKind::Planned => &mut self.counters.failovers_planned,
            ChangeKind::Crash => &mut self.counters.failovers_crash,
            ChangeKind::Restart => &mut self.counters.failovers_restart,
            ChangeKind::Restore => &mut self.counters.failovers_restore,
        };
        *counter += 1;
        let from = from.map_or_else(String::new, |from| from.to_string());
        let (kind, to) = (kind.name().into(), to.to_string());
        let shown = FailoverView { kind, from, to, offset_gap_bytes, ..FailoverView::default() };
        self.last = Some(Change { at: now, attached: false, shown });
    }

    pub(super) fn time(&mut self, out: &mut Outbox, phase: ChangePhase, duration: Duration) {
        out.push(Output::Phase(phase, duration));
        if let Some(last) = &mut self.last {
            last.shown.phases.push((phase.name().into(), duration.as_secs_f64() * 1000.0));
        }
    }

    pub(super) fn count_early_commit(&mut self) {
        self.counters.early_commits += 1;
    }

    /// The early commit was undone: at most so many replies of its master are gone.
    pub(super) fn count_undone(&mut self, at_risk: u64) {
        self.counters.early_commits_wrong += 1;
        self.counters.writes_at_risk += at_risk;
        if let Some(last) = &mut self.last {
            last.shown.writes_at_risk = at_risk;
        }
    }

    pub(super) fn count_at_risk(&mut self, at_risk: u64) {
        self.counters.writes_at_risk += at_risk;
    }

    /// The old master stays.
    pub(super) fn count_aborted(&mut self) {
        self.counters.failovers_aborted += 1;
    }

    pub(super) fn count_emptied(&mut self) {
        self.counters.empty_restarts += 1;
    }

    /// A Sentinel gave a failover up, and why.
    pub(super) fn note_abort(&mut self, now: Instant, reason: String) {
        self.last_abort = Some((now, reason));
    }

    /// Whether one was given up at `since` or later.
    pub(super) fn was_aborted_since(&self, since: Instant) -> bool {
        self.last_abort.as_ref().is_some_and(|(aborted, _)| *aborted >= since)
    }

    /// Whether the first reply after a commit is still waited for.
    pub(super) fn is_attaching(&self, now: Instant) -> bool {
        self.last.as_ref().is_some_and(|last| !last.attached && now < last.at + ATTACH_WITHIN)
    }

    /// Sessions have received replies.
    pub(super) fn note_replies(&mut self, out: &mut Outbox, now: Instant) {
        if self.is_attaching(now)
            && let Some(last) = &mut self.last
        {
            last.attached = true;
            let after = now - last.at;
            self.time(out, ChangePhase::Attach, after);
        }
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// `age` makes milliseconds of an instant.
    pub(super) fn last_failover(&self, age: impl Fn(Instant) -> u64) -> Option<FailoverView> {
        self.last.as_ref().map(|last| FailoverView { ago_ms: age(last.at), ..last.shown.clone() })
    }

    pub(super) fn last_abort(&self, age: impl Fn(Instant) -> u64) -> Option<AbortView> {
        self.last_abort.as_ref().map(|(at, reason)| AbortView { reason: reason.clone(), ago_ms: age(*at) })
    }
}

impl Tracker {
    /// Records a change from the present master to `to`; to be called before the commit.
    pub(super) fn record(
        &mut self,
        now: Instant,
        kind: ChangeKind,
        to: SocketAddr,
        promotion: Option<Duration>,
        offset_gap_bytes: Option<u64>,
    ) {
        self.history.note(now, kind, (self.followed.addr(), to), offset_gap_bytes);
        if let Some(promotion) = promotion {
            self.history.time(&mut self.out, ChangePhase::Promotion, promotion);
        }
        self.history.time(&mut self.out, ChangePhase::Hold, self.situation.outage(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{FAILOVER_KINDS, FAILOVER_PHASES};

    #[test]
    fn every_kind_and_phase_has_its_metric() {
        assert_eq!(ChangeKind::ALL.map(ChangeKind::name), FAILOVER_KINDS);
        assert_eq!(ChangePhase::ALL.map(ChangePhase::name), FAILOVER_PHASES);
    }
}
