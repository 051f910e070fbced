//! Every metric: its name, its help, and the counters that the data path may touch.
//!
//! Rare events go through the `metrics` macros with the names below; without [`install`] they cost nothing. What
//! happens for each request is counted in [`WorkerCounters`], one per worker thread, with plain relaxed loads and stores; it
//! is read when somebody scrapes. What is of one upstream has the label `master`, its name. Nobody else writes a metric's name as a string.

use std::fmt::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::close_reason::CloseReason;

/// Declares each name once: as a documented constant and as a row of [`ALL`].
macro_rules! names {
    ($($constant:ident $kind:literal $name:literal $help:literal)*) => {
        $(#[doc = $help] pub const $constant: &str = $name;)*

        /// Every metric as `(name, kind, help)`; the kind is `counter`, `gauge` or `histogram`.
        pub const ALL: &[(&str, &str, &str)] = &[$(($name, $kind, $help)),*];
    };
}

names! {
    SESSIONS "gauge" "switchmaster_sessions" "Client sessions that are open now."
    SESSIONS_ACCEPTED "counter" "switchmaster_sessions_accepted_total" "Client connections accepted."
    SESSIONS_REFUSED "counter" "switchmaster_sessions_refused_total" "Client connections refused because the limit was reached."
    SESSIONS_CLOSED "counter" "switchmaster_sessions_closed_total" "Sessions that ended, by reason."
    REQUESTS "counter" "switchmaster_requests_total" "Requests sent on to a Redis node."
    REPLIES "counter" "switchmaster_replies_total" "Replies received from Redis nodes."
    BYTES "counter" "switchmaster_bytes_total" "Bytes relayed, by direction: up is client to Redis, down is Redis to client."
    HELD_SESSIONS "gauge" "switchmaster_held_sessions" "Sessions whose requests are being held now."
    SESSIONS_HELD "counter" "switchmaster_sessions_held_total" "Times a session's requests began to be held."
    SESSIONS_MOVED "counter" "switchmaster_sessions_moved_total" "Times a session was restored on another master without its client noticing."
    REQUESTS_REPLAYED "counter" "switchmaster_requests_replayed_total" "Requests sent again to a new master."
    REPLIES_LOST "counter" "switchmaster_replies_lost_total" "Requests whose reply was lost with a master, so that nobody can know whether they ran."
    REPLIES_WITHHELD "counter" "switchmaster_replies_withheld_total" "Replies to writes that waited until the new master was seen to have them."
    FAILOVERS "counter" "switchmaster_failovers_total" "Changes of master, by kind: planned, crash, restart at the same address, or restore (its data set was replaced in place)."
    FAILOVER_PHASE_SECONDS "histogram" "switchmaster_failover_phase_seconds" "Duration of a failover's phases: promotion and hold (from the first sign to the promotion and to the end of the hold), attach (from there to the first reply, within 1 s), confirm (from an early commit to Sentinel's epoch)."
    HOLD_SECONDS "histogram" "switchmaster_hold_seconds" "How long each held session was held."
    EMPTY_RESTARTS "counter" "switchmaster_empty_restarts_total" "Times the master was restarted with an empty data set, which its replicas then copy."
    EARLY_COMMITS "counter" "switchmaster_early_commits_total" "Failovers followed before Sentinel announced them."
    EARLY_COMMITS_WRONG "counter" "switchmaster_early_commits_wrong_total" "Early commits that Sentinel did not confirm."
    FAILOVERS_ABORTED "counter" "switchmaster_failovers_aborted_total" "Failovers that Sentinel began and gave up."
    WRITES_AT_RISK "counter" "switchmaster_writes_at_risk_total" "At most this many acknowledged writes were discarded: replies given by masters whose early commit was undone, or by one whose replica was promoted when it was no longer waited for."
    OFFSET_GAP_BYTES "gauge" "switchmaster_offset_gap_bytes" "Bytes of the replication stream that the new master was behind the old one's last known offset, at the last failover where both could be read."
    SENTINELS_KNOWN "gauge" "switchmaster_sentinels_known" "Sentinels known for this master."
    SENTINELS_CONNECTED "gauge" "switchmaster_sentinels_connected" "Sentinels that are connected now."
    SENTINELS_AGREEING "gauge" "switchmaster_sentinels_agreeing" "Sentinels that name the current master."
    SENTINEL_CONNECTED "gauge" "switchmaster_sentinel_connected" "1 when this Sentinel is connected, else 0."
    SENTINEL_AGREES "gauge" "switchmaster_sentinel_agrees" "1 when this Sentinel names the current master, else 0."
    REPLICA_LINK_UP "gauge" "switchmaster_replica_link_up" "1 when this replica follows the master, else 0."
    REPLICA_LAG_BYTES "gauge" "switchmaster_replica_lag_bytes" "Bytes that this replica has yet to confirm, where that is known."
    REPLICA_LAG_SECONDS "gauge" "switchmaster_replica_lag_seconds" "Seconds since this replica last confirmed, where that is known."
    LAST_FAILOVER "gauge" "switchmaster_last_failover_timestamp_seconds" "When the master last changed, in seconds since the Unix epoch; 0: not since the start."
    MASTER_INFO "gauge" "switchmaster_master_info" "The current master, as labels; always 1."
    PHASE "gauge" "switchmaster_phase" "1 for the phase requests are in now, 0 for the others."
    READY "gauge" "switchmaster_ready" "1 when /ready would answer 200."
    AUTH_NOT_NEEDED "counter" "switchmaster_auth_not_needed_total" "Times a node without any password took a client that sent one."
    CLIENT_AUTH_FAILURES "counter" "switchmaster_client_auth_failures_total" "Times a client's AUTH was refused by Redis."
    BACKENDS_WARM "counter" "switchmaster_backends_warm_total" "Sessions that got a connection to Redis that was ready before they asked."
    BACKENDS_DETACHED "counter" "switchmaster_backends_detached_total" "Connections to Redis that sessions gave back after being idle for detach_idle_after."
    BACKEND_DIALS "counter" "switchmaster_backend_dials_total" "Connections to Redis nodes begun."
    BACKEND_DIAL_FAILURES "counter" "switchmaster_backend_dial_failures_total" "Connections to Redis nodes that failed."
    BUILD_INFO "gauge" "switchmaster_build_info" "The version that runs, as a label; always 1."
    PROCESS_START_TIME "gauge" "process_start_time_seconds" "Start time of the process, in seconds since the Unix epoch."
    PROCESS_CPU "counter" "process_cpu_seconds_total" "User and system time spent by the process, in seconds."
    PROCESS_VIRTUAL_MEMORY "gauge" "process_virtual_memory_bytes" "Virtual memory of the process, in bytes."
    PROCESS_RESIDENT_MEMORY "gauge" "process_resident_memory_bytes" "Resident memory of the process, in bytes."
    PROCESS_OPEN_FDS "gauge" "process_open_fds" "File descriptors that are open now."
    PROCESS_MAX_FDS "gauge" "process_max_fds" "File descriptors that may be open."
    PROCESS_THREADS "gauge" "process_threads" "Threads of the process."
}

/// Values of the label `kind` of [`FAILOVERS`].
pub const FAILOVER_KINDS: [&str; 4] = ["planned", "crash", "restart", "restore"];
/// Values of the label `phase` of [`FAILOVER_PHASE_SECONDS`].
pub const FAILOVER_PHASES: [&str; 4] = ["hold", "promotion", "attach", "confirm"];
/// Upper bounds of the histograms' buckets, in seconds.
const BUCKETS: [f64; 20] =
    [0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 3.0, 5.0, 10.0, 15.0, 30.0, 60.0];

/// Makes the `metrics` macros record, describes every metric and gives those of the process their first value; see
/// [`start_at_zero`] for the others. Later calls return the same handle.
///
/// # Panics
/// When another recorder was installed in this process.
pub fn install() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    let install = || {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &BUCKETS)
            .expect("there are buckets")
            .build_recorder();
        let handle = recorder.handle();
        metrics::set_global_recorder(recorder).expect("no other recorder is installed");
        describe();
        start_process();
        handle
    };
    HANDLE.get_or_init(install).clone()
}

/// Tells the recorder the help and the unit of every metric.
pub fn describe() {
    for &(name, kind, help) in ALL {
        let unit = match name.trim_end_matches("_total") {
            name if name.ends_with("_seconds") => Unit::Seconds,
            name if name.ends_with("_bytes") => Unit::Bytes,
            _ => Unit::Count,
        };
        match kind {
            "counter" => describe_counter!(name, unit, help),
            "gauge" => describe_gauge!(name, unit, help),
            _ => describe_histogram!(name, unit, help),
        }
    }
}

/// Gives what is of the whole process its first value.
fn start_process() {
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    gauge!(PROCESS_START_TIME).set(now.as_secs_f64());
}

/// Gives what is recorded of an upstream as it happens a first value of zero, once its name is known.
pub fn start_at_zero(master: &str) {
    if master.is_empty() {
        return;
    }
    for name in [AUTH_NOT_NEEDED, CLIENT_AUTH_FAILURES] {
        counter!(name, "master" => master.to_owned()).increment(0);
    }
    gauge!(OFFSET_GAP_BYTES, "master" => master.to_owned()).increment(0.0);
    let _registered = histogram!(HOLD_SECONDS, "master" => master.to_owned());
    for phase in FAILOVER_PHASES {
        let _registered = histogram!(FAILOVER_PHASE_SECONDS, "phase" => phase, "master" => master.to_owned());
    }
}

/// Appends the HELP and TYPE lines of a metric whose samples are written out by hand.
pub fn write_head(text: &mut String, name: &str) {
    let (_, kind, help) = ALL.iter().find(|(listed, ..)| *listed == name).expect("every name is listed");
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// A label's value as it stands between its quotes.
pub fn escape_label(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// The counters of one worker thread. Only that thread writes, so a load and a store suffice.
#[derive(Debug, Default)]
pub struct WorkerCounters {
    /// Client connections accepted.
    pub accepted: Counter,
    /// Client connections refused because `max_clients` were open.
    pub refused: Counter,
    /// Sessions that ended; see [`WorkerCounters::close`].
    pub closed: Counter,
    /// The same by reason, in the order of [`CloseReason::ALL`].
    closed_by: [Counter; CloseReason::ALL.len()],
    /// Requests sent on.
    pub requests: Counter,
    /// Replies received from backends (what the control plane takes as a sign of life).
    pub replies: Counter,
    /// Bytes from clients to backends.
    pub bytes_up: Counter,
    /// Bytes from backends to clients.
    pub bytes_down: Counter,
    /// Times a session's requests began to be held.
    pub held: Counter,
    /// Times that hold ended; `held − released` are held now.
    pub released: Counter,
    /// Times a session was restored on another master.
    pub moved: Counter,
    /// Requests sent again to a new master.
    pub replayed: Counter,
    /// Requests whose reply was lost.
    pub lost: Counter,
    /// Replies to writes that were withheld for a while.
    pub withheld: Counter,
    /// Dials to backends begun.
    pub dials: Counter,
    /// Sessions that got a connection that was ready.
    pub warm: Counter,
    /// Connections that idle sessions gave back.
    pub detached: Counter,
    /// Dials to backends that failed.
    pub dial_failures: Counter,
}

impl WorkerCounters {
    /// Counts the end of a session.
    pub fn close(&self, reason: CloseReason) {
        self.closed.add(1);
        self.closed_by[reason as usize].add(1);
    }

    /// Sessions that ended for this reason.
    pub fn closed_for(&self, reason: CloseReason) -> u64 {
        self.closed_by[reason as usize].get()
    }
}

/// A counter with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning thread may call this.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed) + n, Ordering::Relaxed);
    }

    /// The count so far; any thread.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_conventions_and_are_unique() {
        for (at, (name, kind, help)) in ALL.iter().enumerate() {
            assert!(name.starts_with("switchmaster_") || name.starts_with("process_"), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == "counter", "{name} is a {kind}");
            assert!(help.ends_with('.') || help.contains(';'), "{name}: {help}");
            assert!(ALL[..at].iter().all(|(other, ..)| other != name), "{name} twice");
        }
    }

    #[test]
    fn each_close_reason_has_a_counter_of_its_own() {
        let counters = WorkerCounters::default();
        CloseReason::ALL.iter().for_each(|reason| counters.close(*reason));
        assert_eq!(counters.closed.get(), CloseReason::ALL.len() as u64);
        assert!(CloseReason::ALL.iter().all(|reason| counters.closed_for(*reason) == 1));
    }
}
