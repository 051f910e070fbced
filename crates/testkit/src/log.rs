//! What one load client did and saw, request by request, so that any stretch of time can be asked about later.
//!
//! Bounded: past [`MOST_SAMPLES`] requests a client ends, rather than forget.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::report::{ClientReport, Outcome, Report, Stall, longer};
use super::verify::Written;
use super::workload::Kind;

/// Requests that one client may send.
pub(super) const MOST_SAMPLES: usize = 4_000_000;

/// The record of one client.
#[derive(Debug)]
pub(super) struct Log {
    kind: Kind,
    number: usize,
    db: u32,
    started: Instant,
    samples: Vec<Sample>,
    ok: u64,
    errors: Vec<(Instant, String)>,
    losses: Vec<Instant>,
    reconnects: Vec<Instant>,
    refusals: Vec<Instant>,
    stale: Vec<Instant>,
    doubled: Vec<Instant>,
    open_since: Option<Instant>,
    /// Since when the client has had no connection, and earlier such gaps.
    cut_since: Option<Instant>,
    gaps: Vec<(Instant, Duration)>,
    connections: Option<(SocketAddr, SocketAddr)>,
    /// Writers: whether write `i` was acknowledged.
    acknowledged: Vec<bool>,
    /// Writers: the last acknowledged write. Counters: the last value, and increments of unknown fate since.
    last: Option<u64>,
    unknown: u64,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    sent: u64,
    took: u32,
    outcome: Outcome,
}

impl Log {
    pub(super) fn new(kind: Kind, number: usize, db: u32, started: Instant) -> Log {
        Log {
            kind,
            number,
            db,
            started,
            samples: Vec::new(),
            ok: 0,
            errors: Vec::new(),
            losses: Vec::new(),
            reconnects: Vec::new(),
            refusals: Vec::new(),
            stale: Vec::new(),
            doubled: Vec::new(),
            open_since: None,
            cut_since: None,
            gaps: Vec::new(),
            connections: None,
            acknowledged: Vec::new(),
            last: None,
            unknown: 0,
        }
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    pub(super) fn number(&self) -> usize {
        self.number
    }

    pub(super) fn db(&self) -> u32 {
        self.db
    }

    pub(super) fn is_full(&self) -> bool {
        self.samples.len() >= MOST_SAMPLES
    }

    pub(super) fn is_served(&self) -> bool {
        self.connections.is_some() && (self.kind == Kind::Idle || self.answered() > 0)
    }

    /// Right replies so far.
    pub(super) fn answered(&self) -> u64 {
        self.ok
    }

    /// The number of the next write.
    pub(super) fn next_write(&mut self) -> u64 {
        self.acknowledged.push(false);
        self.acknowledged.len() as u64 - 1
    }

    /// The last acknowledged write, or the counter's last value.
    pub(super) fn last(&self) -> Option<u64> {
        self.last
    }

    pub(super) fn opened(&mut self, local: SocketAddr) {
        if let Some(cut) = self.cut_since.take() {
            self.gaps.push((cut, cut.elapsed()));
        }
        match &mut self.connections {
            Some((_, now)) => *now = local,
            None => self.connections = Some((local, local)),
        }
    }

    pub(super) fn reconnected(&mut self) {
        self.reconnects.push(Instant::now());
    }

    pub(super) fn refused(&mut self, why: String) {
        let now = Instant::now();
        self.refusals.push(now);
        if self.errors.len() < 10_000 && why.contains(": -") {
            self.errors.push((now, why));
        }
    }

    /// The connection ended; `since` is when the request was sent that it took with it.
    pub(super) fn lost_connection(&mut self, since: Option<Instant>) {
        self.cut_since = Some(since.unwrap_or_else(Instant::now));
        self.losses.push(Instant::now());
    }

    pub(super) fn sent(&mut self, at: Instant) {
        self.open_since = Some(at);
    }

    pub(super) fn all_answered(&mut self) {
        self.open_since = None;
    }

    pub(super) fn ended(&mut self, sent: Instant, outcome: Outcome) {
        let took = sent.elapsed().as_micros().min(u128::from(u32::MAX)) as u32;
        let sent = sent.saturating_duration_since(self.started).as_micros() as u64;
        self.ok += u64::from(outcome == Outcome::Ok);
        self.samples.push(Sample { sent, took, outcome });
    }

    pub(super) fn error(&mut self, text: String) {
        if self.errors.len() < 10_000 {
            self.errors.push((Instant::now(), text));
        }
    }

    pub(super) fn acknowledge(&mut self, write: u64) {
        self.acknowledged[write as usize] = true;
        self.last = Some(write);
    }

    pub(super) fn stale(&mut self) {
        self.stale.push(Instant::now());
    }

    /// The increment ran, or may have run, without an answer.
    pub(super) fn unknown_increment(&mut self) {
        self.unknown += 1;
    }

    /// The counter answered `value`: it may have risen by one, and by the increments of unknown fate.
    pub(super) fn counted(&mut self, value: u64) {
        let last = self.last.unwrap_or(0);
        if value > last + 1 + self.unknown {
            self.doubled.push(Instant::now());
        } else if value <= last {
            self.stale.push(Instant::now());
        }
        self.unknown = 0;
        self.last = Some(value);
    }

    pub(super) fn written(&self) -> Option<Written> {
        let (kind, number, db) = (self.kind, self.number, self.db);
        match kind {
            Kind::Writer | Kind::Script => {
                // Those still under way now are neither acknowledged nor given up.
                let settled = self.acknowledged.len() - self.in_flight();
                let acknowledged = self.acknowledged[..settled].to_vec();
                Some(Written::Keys { kind, number, db, acknowledged })
            }
            Kind::Counter => {
                let unknown = self.unknown + self.in_flight() as u64;
                Some(Written::Counter { number, db, last: self.last.unwrap_or(0), unknown })
            }
            Kind::Reader | Kind::Idle => None,
        }
    }

    pub(super) fn first_reply_after(&self, after: Instant) -> Option<Instant> {
        let after = after.saturating_duration_since(self.started).as_micros() as u64;
        let replied = |sample: &Sample| sample.sent + u64::from(sample.took);
        let from = self.samples.partition_point(|sample| replied(sample) < after);
        let first = self.samples[from..].iter().find(|sample| sample.outcome == Outcome::Ok)?;
        Some(self.started + Duration::from_micros(replied(first)))
    }

    pub(super) fn add_to(&self, report: &mut Report, index: usize, from: Instant, to: Instant) {
        let within = |at: &&Instant| (from..to).contains(*at);
        let micros = |at: Instant| at.saturating_duration_since(self.started).as_micros() as u64;
        let (first, end) = (micros(from), micros(to));
        let begin = self.samples.partition_point(|sample| sample.sent < first);
        let mut longest: Option<Stall> = None;
        let mut requests = 0;
        for sample in self.samples[begin..].iter().take_while(|sample| sample.sent < end) {
            requests += 1;
            match sample.outcome {
                Outcome::Ok => report.ok += 1,
                Outcome::Error => {}
                Outcome::Lost => report.lost_requests += 1,
                Outcome::Crossed => report.crossed += 1,
                Outcome::Hung => report.hung += 1,
            }
            if longest.is_none_or(|stall| stall.took.as_micros() < u128::from(sample.took)) {
                let took = Duration::from_micros(sample.took.into());
                let sent = self.started + Duration::from_micros(sample.sent);
                longest = Some(Stall { took, sent, client: index, open: false });
            }
        }
        for &(sent, took) in self.gaps.iter().filter(|(cut, _)| within(&cut)) {
            longest = longer(longest, Some(Stall { took, sent, client: index, open: false }));
        }
        for sent in self.open_since.iter().chain(&self.cut_since).filter(within).copied() {
            let open = Stall { took: sent.elapsed(), sent, client: index, open: true };
            longest = longer(longest, Some(open));
        }
        report.requests += requests;
        let errors: Vec<_> = self.errors.iter().filter(|(at, _)| within(&at)).cloned().collect();
        for (_, text) in &errors {
            let word = text.split_whitespace().next().unwrap_or("").to_owned();
            *report.errors.entry(word).or_default() += 1;
        }
        let count = |moments: &[Instant]| moments.iter().filter(within).count() as u64;
        report.connections_lost += count(&self.losses);
        report.reconnects += count(&self.reconnects);
        report.refused += count(&self.refusals);
        report.stale += count(&self.stale);
        report.doubled += count(&self.doubled);
        report.clients.push(ClientReport {
            name: format!("{} {}", self.kind.name(), self.number),
            requests,
            errors,
            losses: self.losses.iter().filter(within).copied().collect(),
            longest,
            connections: self.connections,
        });
    }

    fn in_flight(&self) -> usize {
        let sent = match self.kind {
            Kind::Counter => return usize::from(self.open_since.is_some()),
            _ => self.acknowledged.len(),
        };
        sent - self.samples.len().min(sent)
    }
}
