//! From the workers' counters and the view to Prometheus text.
//!
//! Runs only when somebody asks; the data path never waits for it. What is of an upstream is written out here, since a
//! metric once registered would show the label that it had before the name was known, and the masters of the past, for
//! ever. Only events (histograms, and what is counted when it happens) are the recorder's.

use std::fmt::{Display, Write};
use std::time::{Duration, Instant, SystemTime};

use metrics::gauge;
use metrics_exporter_prometheus::PrometheusHandle;

use super::process;
use crate::close_reason::CloseReason;
use crate::metrics as names;
use crate::metrics::WorkerCounters;
use crate::status::{ReplicaView, SentinelView, Traffic, View};
use crate::topology::Phase;

const PHASES: [Phase; 6] =
    [Phase::Stable, Phase::Electing, Phase::Suspect, Phase::Switching, Phase::Paused, Phase::Failing];

/// Sums what the workers counted.
pub fn traffic(workers: &[std::sync::Arc<WorkerCounters>]) -> Traffic {
    let sum =
        |pick: fn(&WorkerCounters) -> &names::Counter| workers.iter().map(|worker| pick(worker).get()).sum::<u64>();
    // Ends before beginnings: a difference is then never negative.
    let (closed, released) = (sum(|worker| &worker.closed), sum(|worker| &worker.released));
    let (accepted, held) = (sum(|worker| &worker.accepted), sum(|worker| &worker.held));
    let closed_for = |reason: CloseReason| workers.iter().map(|worker| worker.closed_for(reason)).sum::<u64>();
    let closed_by = CloseReason::ALL.map(|reason| (reason.name().to_owned(), closed_for(reason))).into();
    Traffic {
        sessions: accepted.saturating_sub(closed),
        held_sessions: held.saturating_sub(released),
        accepted,
        refused: sum(|worker| &worker.refused),
        closed,
        closed_by,
        requests: sum(|worker| &worker.requests),
        replies: sum(|worker| &worker.replies),
        bytes_up: sum(|worker| &worker.bytes_up),
        bytes_down: sum(|worker| &worker.bytes_down),
        held,
        moved: sum(|worker| &worker.moved),
        replayed: sum(|worker| &worker.replayed),
        lost: sum(|worker| &worker.lost),
        withheld: sum(|worker| &worker.withheld),
        dials: sum(|worker| &worker.dials),
        warm: sum(|worker| &worker.warm),
        detached: sum(|worker| &worker.detached),
        dial_failures: sum(|worker| &worker.dial_failures),
        requests_per_second: 0.0,
        bytes_per_second: 0.0,
    }
}

/// Requests and bytes per second between two looks.
#[derive(Debug, Default)]
pub struct Rates {
    last: Option<(Instant, u64, u64)>,
    /// Requests per second.
    pub requests: f64,
    /// Bytes per second, both directions.
    pub bytes: f64,
}

impl Rates {
    /// Looks; call it about once a second.
    pub fn look(&mut self, now: Instant, traffic: &Traffic) {
        let (requests, bytes) = (traffic.requests, traffic.bytes_up + traffic.bytes_down);
        if let Some((then, old_requests, old_bytes)) = self.last {
            let seconds = now.saturating_duration_since(then).max(Duration::from_millis(1)).as_secs_f64();
            self.requests = requests.saturating_sub(old_requests) as f64 / seconds;
            self.bytes = bytes.saturating_sub(old_bytes) as f64 / seconds;
        }
        self.last = Some((now, requests, bytes));
    }
}

/// The text of `/metrics`, but for the backups.
pub fn render(handle: &PrometheusHandle, view: &View) -> String {
    names::start_at_zero(&view.master_name);
    if let Some(gap) = view.last_failover.as_ref().and_then(|failover| failover.offset_gap_bytes) {
        gauge!(names::OFFSET_GAP_BYTES, "master" => view.master_name.clone()).set(gap as f64);
    }
    let mut samples = Samples { text: handle.render(), master: names::escape_label(&view.master_name) };
    samples.traffic(&view.traffic);
    samples.control(view);
    samples.master(view);
    samples.nodes(view);
    process::write(&mut samples.text);
    samples.text
}

/// The samples of one upstream, each with its label.
struct Samples {
    text: String,
    /// The label's value, escaped.
    master: String,
}

impl Samples {
    fn one(&mut self, name: &str, value: impl Display) {
        names::write_head(&mut self.text, name);
        let _ = writeln!(self.text, "{name}{{master=\"{}\"}} {value}", self.master);
    }

    fn by<L: Display, V: Display>(&mut self, name: &str, label: &str, values: impl IntoIterator<Item = (L, V)>) {
        names::write_head(&mut self.text, name);
        for (of, value) in values {
            let _ = writeln!(self.text, "{name}{{{label}=\"{of}\",master=\"{}\"}} {value}", self.master);
        }
    }

    /// What the sessions did.
    fn traffic(&mut self, traffic: &Traffic) {
        self.one(names::SESSIONS, traffic.sessions);
        self.one(names::HELD_SESSIONS, traffic.held_sessions);
        self.one(names::SESSIONS_ACCEPTED, traffic.accepted);
        self.one(names::SESSIONS_REFUSED, traffic.refused);
        self.by(names::SESSIONS_CLOSED, "reason", traffic.closed_by.iter().map(|(reason, count)| (reason, count)));
        self.one(names::REQUESTS, traffic.requests);
        self.one(names::REPLIES, traffic.replies);
        self.by(names::BYTES, "direction", [("up", traffic.bytes_up), ("down", traffic.bytes_down)]);
        self.one(names::SESSIONS_HELD, traffic.held);
        self.one(names::SESSIONS_MOVED, traffic.moved);
        self.one(names::REQUESTS_REPLAYED, traffic.replayed);
        self.one(names::REPLIES_LOST, traffic.lost);
        self.one(names::REPLIES_WITHHELD, traffic.withheld);
        self.one(names::BACKEND_DIALS, traffic.dials);
        self.one(names::BACKENDS_WARM, traffic.warm);
        self.one(names::BACKENDS_DETACHED, traffic.detached);
        self.one(names::BACKEND_DIAL_FAILURES, traffic.dial_failures);
    }

    /// What control knows and did.
    fn control(&mut self, view: &View) {
        let counters = &view.counters;
        let kinds = [
            counters.failovers_planned,
            counters.failovers_crash,
            counters.failovers_restart,
            counters.failovers_restore,
        ];
        self.by(names::FAILOVERS, "kind", names::FAILOVER_KINDS.into_iter().zip(kinds));
        self.one(names::FAILOVERS_ABORTED, counters.failovers_aborted);
        self.one(names::EARLY_COMMITS, counters.early_commits);
        self.one(names::EARLY_COMMITS_WRONG, counters.early_commits_wrong);
        self.one(names::EMPTY_RESTARTS, counters.empty_restarts);
        self.one(names::WRITES_AT_RISK, counters.writes_at_risk);
        let connected = view.sentinels.iter().filter(|sentinel| sentinel.connected).count();
        self.one(names::SENTINELS_KNOWN, view.agreement.known);
        self.one(names::SENTINELS_CONNECTED, connected);
        self.one(names::SENTINELS_AGREEING, view.agreement.agreeing);
        let is_now = |phase: Phase| (phase.name(), u8::from(phase.name() == view.phase));
        self.by(names::PHASE, "phase", PHASES.map(is_now));
        self.one(names::READY, u8::from(view.readiness.ready));
    }

    fn master(&mut self, view: &View) {
        let name = names::MASTER_INFO;
        names::write_head(&mut self.text, name);
        let Some(master) = &view.master else { return };
        let (addr, run_id) =
            (names::escape_label(&master.addr), names::escape_label(master.run_id.as_deref().unwrap_or("")));
        let (epoch, provisional) = (master.epoch, master.provisional);
        let _ = writeln!(
            self.text,
            "{name}{{addr=\"{addr}\",run_id=\"{run_id}\",epoch=\"{epoch}\",provisional=\"{provisional}\",master=\"{}\"}} 1",
            self.master
        );
    }

    /// Each Sentinel, each replica, and when the master last changed.
    fn nodes(&mut self, view: &View) {
        let sentinels = || view.sentinels.iter().map(|sentinel| (names::escape_label(&sentinel.addr), sentinel));
        self.by(names::SENTINEL_CONNECTED, "sentinel", sentinels().map(|(addr, one)| (addr, u8::from(one.connected))));
        let agrees = |one: &SentinelView| one.connected && one.names_master(view.master.as_ref());
        self.by(names::SENTINEL_AGREES, "sentinel", sentinels().map(|(addr, one)| (addr, u8::from(agrees(one)))));
        let replicas = || view.replicas.iter().map(|replica| (names::escape_label(&replica.addr), replica));
        let is_up = |replica: &ReplicaView| u8::from(replica.link == "up");
        self.by(names::REPLICA_LINK_UP, "replica", replicas().map(|(addr, replica)| (addr, is_up(replica))));
        let bytes = replicas().filter_map(|(addr, replica)| Some((addr, replica.lag_bytes?)));
        self.by(names::REPLICA_LAG_BYTES, "replica", bytes);
        let seconds = replicas().filter_map(|(addr, replica)| Some((addr, replica.lag_seconds?)));
        self.by(names::REPLICA_LAG_SECONDS, "replica", seconds);
        let ago = view.last_failover.as_ref().map(|failover| Duration::from_millis(failover.ago_ms));
        let at = ago.and_then(|ago| SystemTime::now().checked_sub(ago)?.duration_since(SystemTime::UNIX_EPOCH).ok());
        self.one(names::LAST_FAILOVER, at.unwrap_or_default().as_secs());
    }
}
