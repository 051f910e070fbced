//! Log lines: to standard error, and never many.
//!
//! Each place in the code that logs has a budget of its own: what floods it is counted and reported in one line, and keeps
//! nothing else out of the log. DEBUG and TRACE have no limit: who asks for them wants all of it.

use std::collections::HashMap;
use std::fmt::{self, Write};
use std::io::IsTerminal;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Metadata};
use tracing_subscriber::layer::{Context, Filter, Layer, SubscriberExt};
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::LogConfig;

/// Lines that one place may log at once.
const BURST: u32 = 100;
/// One more for each of these.
const REFILL: Duration = Duration::from_secs(1);
/// After a line was left out, until it is said how many were.
const REPORT_AFTER: Duration = Duration::from_secs(10);
/// Bytes that are repeated of a line that was left out.
const SAMPLE: usize = 300;

/// Changes the lowest level that is logged.
pub type SetLevel = Arc<dyn Fn(Level) + Send + Sync>;

/// Begins to log: coloured for a terminal, plain into a pipe, JSON on request. Once in a process.
pub fn start(log: &LogConfig) -> SetLevel {
    let (level, handle) = reload::Layer::new(LevelFilter::from(log.level));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    // To say on standard error that standard error is gone, as with a terminal that was closed, ends the task that logs.
    let lines = lines.log_internal_errors(false);
    let logged = tracing_subscriber::registry().with(level);
    let limiter = Limiter::default();
    match log.json {
        true => logged.with(lines.json().flatten_event(true).with_filter(limiter)).init(),
        false => {
            let lines = lines.with_ansi(std::io::stderr().is_terminal()).with_target(false);
            logged.with(lines.with_filter(limiter)).init();
        }
    }
    Arc::new(move |level| _ = handle.reload(LevelFilter::from(level)))
}

/// Lets through what is in the budget of its place.
#[derive(Clone, Debug, Default)]
struct Limiter(Arc<Mutex<Places>>);

#[derive(Debug, Default)]
struct Places {
    budgets: HashMap<Identifier, Budget>,
    /// A thread will say what was left out.
    is_awaited: bool,
}

/// What one place may log.
#[derive(Debug)]
struct Budget {
    left: u32,
    /// When one was last added.
    refilled: Instant,
    left_out: u64,
    /// The first line that was left out.
    sample: String,
}

impl<S> Filter<S> for Limiter {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        *event.metadata().level() > Level::INFO || self.admit(event)
    }
}

impl Limiter {
    fn admit(&self, event: &Event<'_>) -> bool {
        let now = Instant::now();
        let mut places = self.lock();
        let budget = places.budgets.entry(event.metadata().callsite()).or_insert_with(|| Budget::full(now));
        if budget.take(now) {
            return true;
        }
        budget.left_out += 1;
        if budget.left_out == 1 {
            event.record(&mut Sample(&mut budget.sample));
        }
        if !places.is_awaited {
            let limiter = self.clone();
            let report = move || {
                thread::sleep(REPORT_AFTER);
                limiter.report();
            };
            places.is_awaited = thread::Builder::new().name("log".into()).spawn(report).is_ok();
        }
        false
    }

    /// Not while the lock is held: it is logged like any other line.
    fn report(&self) {
        let mut places = self.lock();
        places.is_awaited = false;
        let left_out: Vec<(u64, String)> = places.budgets.values_mut().filter_map(Budget::report).collect();
        drop(places);
        for (count, sample) in left_out {
            tracing::warn!("{count} more lines like this one were left out: {sample}");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Budget {
    fn full(now: Instant) -> Budget {
        Budget { left: BURST, refilled: now, left_out: 0, sample: String::new() }
    }

    fn take(&mut self, now: Instant) -> bool {
        let more = now.saturating_duration_since(self.refilled).as_secs() / REFILL.as_secs();
        if more > 0 {
            self.left = u64::from(self.left).saturating_add(more).min(BURST.into()) as u32;
            self.refilled += REFILL * u32::try_from(more).unwrap_or(u32::MAX);
        }
        let taken = self.left > 0;
        self.left -= u32::from(taken);
        taken
    }

    fn report(&mut self) -> Option<(u64, String)> {
        let (count, sample) = (std::mem::take(&mut self.left_out), std::mem::take(&mut self.sample));
        (count > 0).then_some((count, sample))
    }
}

/// The text of a line, cut.
struct Sample<'a>(&'a mut String);

impl Visit for Sample<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.0, "{value:?}");
            let end = (0..=SAMPLE.min(self.0.len())).rev().find(|at| self.0.is_char_boundary(*at));
            self.0.truncate(end.unwrap_or(0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_logs_so_many_at_once_and_one_a_second() {
        let now = Instant::now();
        let mut budget = Budget::full(now);
        let taken = |budget: &mut Budget, at| (0..1000).filter(|_| budget.take(at)).count();
        assert_eq!(taken(&mut budget, now), 100);
        assert_eq!(taken(&mut budget, now + Duration::from_millis(900)), 0);
        assert_eq!(taken(&mut budget, now + Duration::from_millis(1100)), 1);
        assert_eq!(taken(&mut budget, now + Duration::from_millis(3900)), 2, "since the last was added");
        assert_eq!(taken(&mut budget, now + Duration::from_secs(3600)), 100);
        assert_eq!(budget.report(), None);
        budget.left_out = 7;
        budget.sample = "x".into();
        assert_eq!((budget.report(), budget.report()), (Some((7, "x".into())), None));
    }
}
