//! Clients whose AUTH was refused: counted, and logged at most once a minute.
//!
//! The passwords are never looked at. The decision when to log takes `now` and reads no clock.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::upstream::Upstream;

/// Between two lines.
const EVERY: Duration = Duration::from_secs(60);

static REFUSED: Mutex<Refused> = Mutex::new(Refused::new());

/// Failed logins that were not logged yet.
#[derive(Debug)]
struct Refused {
    count: u64,
    last: Option<SocketAddr>,
    logged: Option<Instant>,
    /// Somebody will look again when the minute is over.
    awaited: bool,
}

/// A line for the log.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    count: u64,
    last: Option<SocketAddr>,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from: &dyn fmt::Display = match &self.last {
            Some(addr) => addr,
            None => &"a Unix socket",
        };
        write!(f, "{} times a client's AUTH was refused, the last time from {from}: look at its password", self.count)
    }
}

/// A client's AUTH was refused. `from` is `None` for a Unix socket. Needs a tokio runtime.
pub fn note(upstream: &Upstream, from: Option<SocketAddr>) {
    let master = upstream.label().to_owned();
    metrics::counter!(crate::metrics::CLIENT_AUTH_FAILURES, "master" => master).increment(1);
    let mut refused = REFUSED.lock().unwrap_or_else(PoisonError::into_inner);
    let (line, again) = refused.note(Instant::now(), from);
    drop(refused);
    log(line);
    if let Some(pause) = again {
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            log(REFUSED.lock().unwrap_or_else(PoisonError::into_inner).end(Instant::now()));
        });
    }
}

fn log(line: Option<Line>) {
    if let Some(line) = line {
        tracing::warn!("{line}");
    }
}

impl Refused {
    const fn new() -> Refused {
        Refused { count: 0, last: None, logged: None, awaited: false }
    }

    /// What is to be logged now, and when to ask for the rest with [`Refused::end`].
    fn note(&mut self, now: Instant, from: Option<SocketAddr>) -> (Option<Line>, Option<Duration>) {
        self.count += 1;
        self.last = from;
        let left = self.logged.map_or(Duration::ZERO, |at| EVERY.saturating_sub(now.saturating_duration_since(at)));
        if left.is_zero() {
            return (self.take(now), None);
        }
        (None, (!std::mem::replace(&mut self.awaited, true)).then_some(left))
    }

    fn end(&mut self, now: Instant) -> Option<Line> {
        self.awaited = false;
        if self.count == 0 { None } else { self.take(now) }
    }

    fn take(&mut self, now: Instant) -> Option<Line> {
        self.logged = Some(now);
        Some(Line { count: std::mem::take(&mut self.count), last: self.last })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_refusals_are_two_lines_that_say_how_many() {
        let mut refused = Refused::new();
        let (now, from) = (Instant::now(), Some("10.0.0.9:50000".parse().expect("an address")));
        assert_eq!(refused.note(now, None), (Some(Line { count: 1, last: None }), None));
        let at = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(refused.note(at(10), None), (None, Some(Duration::from_secs(50))));
        for _ in 0..998 {
            assert_eq!(refused.note(at(20), from), (None, None));
        }
        assert_eq!(refused.end(at(60)), Some(Line { count: 999, last: from }));
        assert_eq!(refused.note(at(61), None), (None, Some(Duration::from_secs(59))), "a minute from the last line");
        assert_eq!(refused.end(at(120)), Some(Line { count: 1, last: None }));
        assert_eq!(refused.end(at(180)), None);
        let line = Line { count: 999, last: from }.to_string();
        assert!(line.contains("999 times") && line.contains("10.0.0.9:50000"), "{line}");
    }
}
