//! From the workers' counters and the view to Prometheus text.
//!
//! Runs only when somebody asks; the data path never waits for it. The master's labels are written out here, since
//! a gauge once registered would show the masters of the past for ever.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use metrics::{counter, gauge};
use metrics_exporter_prometheus::PrometheusHandle;

use super::view::{Traffic, View};
use crate::metrics as names;
use crate::metrics::Relay;
use crate::topology::Phase;

const PHASES: [Phase; 6] =
    [Phase::Stable, Phase::Electing, Phase::Suspect, Phase::Switching, Phase::Paused, Phase::Failing];

/// Sums what the workers counted. `reasons` names the slots of [`Relay::closed_by`], in order.
pub fn traffic(relays: &[std::sync::Arc<Relay>], reasons: &[&str]) -> Traffic {
    let sum = |pick: fn(&Relay) -> &names::Counter| relays.iter().map(|relay| pick(relay).get()).sum::<u64>();
    // Ends before beginnings: a difference is then never negative.
    let (closed, released) = (sum(|relay| &relay.closed), sum(|relay| &relay.released));
    let (accepted, held) = (sum(|relay| &relay.accepted), sum(|relay| &relay.held));
    let by_slot = |slot: usize| relays.iter().map(|relay| relay.closed_by[slot].get()).sum::<u64>();
    let named = reasons.len().min(names::CLOSE_REASONS);
    let mut closed_by: Vec<_> = (0..named).map(|slot| (reasons[slot].to_string(), by_slot(slot))).collect();
    closed_by.push(("other".into(), (named..names::CLOSE_REASONS).map(by_slot).sum()));
    Traffic {
        sessions: accepted.saturating_sub(closed),
        held_sessions: held.saturating_sub(released),
        accepted,
        refused: sum(|relay| &relay.refused),
        closed,
        closed_by,
        requests: sum(|relay| &relay.requests),
        replies: sum(|relay| &relay.replies),
        bytes_up: sum(|relay| &relay.bytes_up),
        bytes_down: sum(|relay| &relay.bytes_down),
        held,
        moved: sum(|relay| &relay.moved),
        replayed: sum(|relay| &relay.replayed),
        lost: sum(|relay| &relay.lost),
        withheld: sum(|relay| &relay.withheld),
        dials: sum(|relay| &relay.dials),
        warm: sum(|relay| &relay.warm),
        detached: sum(|relay| &relay.detached),
        dial_failures: sum(|relay| &relay.dial_failures),
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

/// The text of `/metrics`. `state_dir`: where `backup` leaves what came of its last run.
pub fn render(handle: &PrometheusHandle, view: &View, state_dir: Option<&Path>) -> String {
    let traffic = &view.traffic;
    gauge!(names::SESSIONS).set(traffic.sessions as f64);
    gauge!(names::HELD_SESSIONS).set(traffic.held_sessions as f64);
    counter!(names::SESSIONS_ACCEPTED).absolute(traffic.accepted);
    counter!(names::SESSIONS_REFUSED).absolute(traffic.refused);
    for (reason, count) in &traffic.closed_by {
        counter!(names::SESSIONS_CLOSED, "reason" => reason.clone()).absolute(*count);
    }
    counter!(names::REQUESTS).absolute(traffic.requests);
    counter!(names::REPLIES).absolute(traffic.replies);
    counter!(names::BYTES, "direction" => "up").absolute(traffic.bytes_up);
    counter!(names::BYTES, "direction" => "down").absolute(traffic.bytes_down);
    counter!(names::SESSIONS_HELD).absolute(traffic.held);
    counter!(names::SESSIONS_MOVED).absolute(traffic.moved);
    counter!(names::REQUESTS_REPLAYED).absolute(traffic.replayed);
    counter!(names::REPLIES_LOST).absolute(traffic.lost);
    counter!(names::REPLIES_WITHHELD).absolute(traffic.withheld);
    counter!(names::BACKEND_DIALS).absolute(traffic.dials);
    counter!(names::BACKENDS_WARM).absolute(traffic.warm);
    counter!(names::BACKENDS_DETACHED).absolute(traffic.detached);
    counter!(names::BACKEND_DIAL_FAILURES).absolute(traffic.dial_failures);

    let counters = &view.counters;
    counter!(names::FAILOVERS, "kind" => "planned").absolute(counters.failovers_planned);
    counter!(names::FAILOVERS, "kind" => "crash").absolute(counters.failovers_crash);
    counter!(names::FAILOVERS, "kind" => "restart").absolute(counters.failovers_restart);
    counter!(names::FAILOVERS, "kind" => "restore").absolute(counters.failovers_restore);
    counter!(names::FAILOVERS_ABORTED).absolute(counters.failovers_aborted);
    counter!(names::EARLY_COMMITS).absolute(counters.early_commits);
    counter!(names::EARLY_COMMITS_WRONG).absolute(counters.early_commits_wrong);
    counter!(names::EMPTY_RESTARTS).absolute(counters.empty_restarts);
    counter!(names::WRITES_AT_RISK).absolute(counters.writes_at_risk);
    if let Some(gap) = view.last_failover.as_ref().and_then(|failover| failover.offset_gap_bytes) {
        gauge!(names::OFFSET_GAP_BYTES).set(gap as f64);
    }

    let connected = view.sentinels.iter().filter(|sentinel| sentinel.connected).count();
    gauge!(names::SENTINELS_KNOWN).set(view.agreement.known as f64);
    gauge!(names::SENTINELS_CONNECTED).set(connected as f64);
    gauge!(names::SENTINELS_AGREEING).set(view.agreement.agreeing as f64);
    for phase in PHASES {
        gauge!(names::PHASE, "phase" => phase.name()).set(f64::from(phase.name() == view.phase));
    }
    gauge!(names::READY).set(f64::from(view.readiness.ready));
    gauge!(names::PROCESS_RESIDENT_MEMORY).set(resident_bytes() as f64);
    gauge!(names::PROCESS_OPEN_FDS).set(open_fds() as f64);

    let mut text = handle.render();
    master_info(&mut text, view);
    backups(&mut text, view, state_dir);
    text
}

#[cfg(feature = "backup")]
fn backups(text: &mut String, view: &View, state_dir: Option<&Path>) {
    let mut records = state_dir.map(crate::backup::report::read_state).unwrap_or_default();
    records.entry(view.master_name.clone()).or_default();
    text.push_str(&crate::backup::report::exposition(&records));
}

#[cfg(not(feature = "backup"))]
fn backups(_: &mut String, _: &View, _: Option<&Path>) {}

fn master_info(text: &mut String, view: &View) {
    let name = names::MASTER_INFO;
    names::write_head(text, name);
    if let Some(master) = &view.master {
        let (addr, run_id) =
            (names::escape_label(&master.addr), names::escape_label(master.run_id.as_deref().unwrap_or("")));
        let (epoch, provisional) = (master.epoch, master.provisional);
        let _ = writeln!(
            text,
            "{name}{{addr=\"{addr}\",run_id=\"{run_id}\",epoch=\"{epoch}\",provisional=\"{provisional}\"}} 1"
        );
    }
}

/// 0 where there is no /proc.
fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.trim().parse().ok());
    kib.unwrap_or(0u64) * 1024
}

/// 0 where there is no /proc.
fn open_fds() -> u64 {
    // Linux 6.2 and later tell the number without a walk over what may be tens of thousands.
    match fs::metadata("/proc/self/fd") {
        Ok(folder) if folder.len() > 0 => folder.len(),
        _ => fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64),
    }
}
