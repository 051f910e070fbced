//! Whether this host is cut off with a minority of the Sentinels.
//!
//! Only where the replicas do not acknowledge either: whoever they acknowledge to is not replaced behind our back.

use std::time::{Duration, Instant};

use tracing::Level;

use super::Tracker;
use crate::config::Minority;

/// A minority is reported, and stopped if so configured, when it lasts this long: a failover takes as long.
const MINORITY_AFTER: Duration = Duration::from_secs(3);
/// A replica that acknowledged longer ago may have been promoted.
const MOST_LAG_SECONDS: u64 = 2;

/// Since when this host is cut off.
#[derive(Debug, Default)]
pub(super) struct CutOff {
    since: Option<Instant>,
}

impl CutOff {
    /// It lasts.
    fn begin(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// It is over; true when it had lasted.
    fn end(&mut self, now: Instant) -> bool {
        let had_lasted = self.lasts(now);
        self.since = None;
        had_lasted
    }

    /// It is no passing state any more.
    fn lasts(&self, now: Instant) -> bool {
        self.since.is_some_and(|since| now > since + MINORITY_AFTER)
    }
}

impl Tracker {
    pub(super) fn check_minority(&mut self, now: Instant) {
        let total = self.sentinels.total();
        let heard = self.sentinels.answers(now).count();
        let outvoted = self.sentinels.answers(now).any(|answer| matches!(answer.quorum, Some(Err(_))));
        let cut_off = total > 1 && heard > 0 && heard * 2 <= total && outvoted && !self.replicas_acknowledge();
        if !cut_off {
            if self.cut_off.end(now) {
                self.out.log(Level::WARN, "a majority of the Sentinels is reachable again".into());
                if self.settings.minority == Minority::Stop {
                    self.situation.end_hold();
                }
            }
            return;
        }
        self.cut_off.begin(now);
        if !self.cut_off.lasts(now) {
            return;
        }
        let what = format!(
            "this host reaches only {heard} of {total} Sentinels, and the replicas do not acknowledge: the others may have another master, and writes here may be lost"
        );
        self.out.notice_in_any_case(Level::ERROR, what.clone());
        if self.settings.minority == Minority::Stop {
            self.situation.hold(now, what);
        }
    }

    /// Every replica has acknowledged within 2 s: none had been promoted by then.
    pub(super) fn replicas_acknowledge(&self) -> bool {
        let Some(info) = self.followed.addr().and_then(|master| self.nodes.info(master)) else { return false };
        let mut lags = info.lags.iter().map(|(_, lag)| *lag).chain(info.named.iter().map(|named| named.lag)).peekable();
        lags.peek().is_some() && lags.all(|lag| lag <= MOST_LAG_SECONDS)
    }

    pub(super) fn in_stopped_minority(&self, now: Instant) -> bool {
        self.settings.minority == Minority::Stop && self.cut_off.lasts(now)
    }
}
