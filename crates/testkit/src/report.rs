//! What load clients saw, added up: requests, errors, lost connections, pauses, and what the final master lacks.
//!
//! Plain data: nothing here connects to anything.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How one request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With the reply that it had to get.
    Ok,
    /// With an error reply.
    Error,
    /// Its connection ended first.
    Lost,
    /// With a reply that belongs to another request, or to none.
    Crossed,
    /// Not at all, within `LoadSpec::reply_limit`.
    Hung,
}

/// What the clients of a load saw in a stretch of time.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// From the first request to the last reply that are counted.
    pub elapsed: Duration,
    /// Requests that ended, in whatever way.
    pub requests: u64,
    /// Requests that got the reply they had to get.
    pub ok: u64,
    /// Error replies by first word, such as `UNKNOWNRESULT`.
    pub errors: BTreeMap<String, u64>,
    /// Requests whose connection ended before the reply.
    pub lost_requests: u64,
    /// Connections that ended, with or without a request outstanding.
    pub connections_lost: u64,
    /// Connections opened again after a loss.
    pub reconnects: u64,
    /// Attempts to connect (with AUTH and SELECT) that failed.
    pub refused: u64,
    /// Replies that belonged to another request.
    pub crossed: u64,
    /// Requests without a reply within the limit.
    pub hung: u64,
    /// Acknowledged writes that a reader did not find, or a counter that went back.
    pub stale: u64,
    /// Increments that ran more often than they were sent.
    pub doubled: u64,
    /// The longest time between a request and its reply, or the next connection; open ones included.
    pub longest: Option<Stall>,
    /// Each client by itself.
    pub clients: Vec<ClientReport>,
}

/// A pause of one client.
#[derive(Clone, Copy, Debug)]
pub struct Stall {
    /// How long.
    pub took: Duration,
    /// When the request was sent.
    pub sent: Instant,
    /// Which client.
    pub client: usize,
    /// Whether the reply had still not come when the report was made.
    pub open: bool,
}

/// What one client saw.
#[derive(Clone, Debug)]
pub struct ClientReport {
    /// What it is, such as `writer 3`.
    pub name: String,
    /// Requests that ended.
    pub requests: u64,
    /// Its error replies: when they came, and what they said.
    pub errors: Vec<(Instant, String)>,
    /// When it lost connections.
    pub losses: Vec<Instant>,
    /// Its longest pause.
    pub longest: Option<Stall>,
    /// The local address of its first connection, and of the one it has now.
    pub connections: Option<(SocketAddr, SocketAddr)>,
}

/// What a node holds of what was acknowledged.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Writes that were acknowledged.
    pub acknowledged: u64,
    /// Acknowledged writes that are not there.
    pub missing: u64,
    /// Values that nobody wrote there.
    pub foreign: u64,
    /// Writes without an acknowledgement (error or lost), and how many of them ran all the same.
    pub unacknowledged: u64,
    /// See above.
    pub unacknowledged_ran: u64,
    /// Increments that ran more often than they were sent.
    pub doubled: u64,
    /// The first few of what is wrong, in words.
    pub examples: Vec<String>,
}

impl Report {
    /// Error replies of any kind.
    pub fn error_count(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Error replies other than `allowed`, lost or refused connections, crossed, hung, stale and doubled ones.
    pub fn broken_promises(&self, allowed: &[&str]) -> u64 {
        let errors: u64 =
            self.errors.iter().filter(|(word, _)| !allowed.contains(&word.as_str())).map(|(_, n)| n).sum();
        errors
            + self.connections_lost
            + self.refused
            + self.lost_requests
            + self.crossed
            + self.hung
            + self.stale
            + self.doubled
    }

    /// The longest pause, or zero.
    pub fn longest_pause(&self) -> Duration {
        self.longest.map_or(Duration::ZERO, |stall| stall.took)
    }

    /// Adds what other clients saw, or the same ones at another time.
    pub fn merge(&mut self, other: Report) {
        self.elapsed = self.elapsed.max(other.elapsed);
        self.requests += other.requests;
        self.ok += other.ok;
        for (word, count) in other.errors {
            *self.errors.entry(word).or_default() += count;
        }
        self.lost_requests += other.lost_requests;
        self.connections_lost += other.connections_lost;
        self.reconnects += other.reconnects;
        self.refused += other.refused;
        self.crossed += other.crossed;
        self.hung += other.hung;
        self.stale += other.stale;
        self.doubled += other.doubled;
        let offset = self.clients.len();
        let moved = other.longest.map(|stall| Stall { client: stall.client + offset, ..stall });
        self.longest = longer(self.longest, moved);
        self.clients.extend(other.clients);
    }
}

impl Verdict {
    /// Adds what another verification found.
    pub fn merge(&mut self, other: Verdict) {
        self.acknowledged += other.acknowledged;
        self.missing += other.missing;
        self.foreign += other.foreign;
        self.unacknowledged += other.unacknowledged;
        self.unacknowledged_ran += other.unacknowledged_ran;
        self.doubled += other.doubled;
        self.examples.extend(other.examples);
    }

    pub(super) fn example(&mut self, text: impl FnOnce() -> String) {
        if self.examples.len() < 10 {
            self.examples.push(text());
        }
    }
}

/// The longer of two pauses.
pub(super) fn longer(one: Option<Stall>, other: Option<Stall>) -> Option<Stall> {
    match (one, other) {
        (Some(a), Some(b)) => Some(if b.took > a.took { b } else { a }),
        (a, b) => a.or(b),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut row = |name: &str, value: String| writeln!(f, "{name:<22} {value}");
        row("requests", format!("{} in {:.1} s", self.requests, self.elapsed.as_secs_f64()))?;
        let words: Vec<String> = self.errors.iter().map(|(word, count)| format!("{count} {word}")).collect();
        row("errors", if words.is_empty() { "0".into() } else { words.join(", ") })?;
        row("connections lost", format!("{} (requests: {})", self.connections_lost, self.lost_requests))?;
        row("reconnects, refused", format!("{}, {}", self.reconnects, self.refused))?;
        row(
            "wrong replies",
            format!("{} crossed, {} stale, {} doubled, {} hung", self.crossed, self.stale, self.doubled, self.hung),
        )?;
        match self.longest {
            Some(stall) => {
                let name = self.clients.get(stall.client).map_or("", |client| client.name.as_str());
                let open = if stall.open { ", still waiting" } else { "" };
                row("longest pause", format!("{} ms ({name}{open})", stall.took.as_millis()))
            }
            None => row("longest pause", "-".into()),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} acknowledged writes missing, {} values foreign, {} increments doubled; \
             of {} unacknowledged writes {} ran",
            self.missing, self.acknowledged, self.foreign, self.doubled, self.unacknowledged, self.unacknowledged_ran
        )?;
        self.examples.iter().try_for_each(|example| write!(f, "\n  {example}"))
    }
}
