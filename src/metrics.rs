//! Every metric: its name, its help, and the counters that the data path may touch.
//!
//! Rare events go through the `metrics` macros with the names below; without [`install`] they cost nothing. What
//! happens for each request is counted in [`Relay`], one per worker thread, with plain relaxed loads and stores; it
//! is read when somebody scrapes. Nobody else writes a metric's name as a string.

use std::fmt::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

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
    MASTER_INFO "gauge" "switchmaster_master_info" "The current master, as labels; always 1."
    PHASE "gauge" "switchmaster_phase" "1 for the phase requests are in now, 0 for the others."
    READY "gauge" "switchmaster_ready" "1 when /ready would answer 200."
    AUTH_NOT_NEEDED "counter" "switchmaster_auth_not_needed_total" "Times a node without any password took a client that sent one."
    CLIENT_AUTH_FAILURES "counter" "switchmaster_client_auth_failures_total" "Times a client's AUTH was refused by Redis."
    BACKENDS_WARM "counter" "switchmaster_backends_warm_total" "Sessions that got a connection to Redis that was ready before they asked."
    BACKENDS_DETACHED "counter" "switchmaster_backends_detached_total" "Connections to Redis that sessions gave back after being idle for detach_idle_after."
    BACKEND_DIALS "counter" "switchmaster_backend_dials_total" "Connections to Redis nodes begun."
    BACKEND_DIAL_FAILURES "counter" "switchmaster_backend_dial_failures_total" "Connections to Redis nodes that failed."
    BACKUP_LAST_RUN "gauge" "switchmaster_backup_last_run_timestamp_seconds" "When `backup create` last ended, well or not, in seconds since the Unix epoch; 0: never."
    BACKUP_EXIT_CODE "gauge" "switchmaster_backup_last_exit_code" "Exit code of the last `backup create`; 0: done."
    BACKUP_LAST_SUCCESS "gauge" "switchmaster_backup_last_success_timestamp_seconds" "When the last good backup was begun, in seconds since the Unix epoch; 0: never."
    BACKUP_LAST_VERIFIED "gauge" "switchmaster_backup_last_verified_timestamp_seconds" "When a stored backup last passed `backup verify`, in seconds since the Unix epoch; 0: never."
    BACKUP_DURATION "gauge" "switchmaster_backup_duration_seconds" "How long the last good backup took."
    BACKUP_PLAIN_BYTES "gauge" "switchmaster_backup_plain_bytes" "Bytes of the RDB of the last good backup."
    BACKUP_STORED_BYTES "gauge" "switchmaster_backup_stored_bytes" "Bytes that the store keeps of it."
    BACKUP_KEYS "gauge" "switchmaster_backup_keys" "Keys in it."
    BACKUP_KEY_DROP "gauge" "switchmaster_backup_key_drop" "1 when it has less than half the keys of the one before it."
    BACKUP_STREAM_SHIPPED "gauge" "switchmaster_backup_stream_shipped_timestamp_seconds" "`backup follow`: everything that had arrived by then is in the store, in seconds since the Unix epoch."
    BACKUP_STREAM_OFFSET "gauge" "switchmaster_backup_stream_shipped_offset" "`backup follow`: the replication offset of that moment."
    BACKUP_STREAM_LAG "gauge" "switchmaster_backup_stream_lag_bytes" "`backup follow`: how far the replica is ahead of that offset."
    BACKUP_STREAM_SPOOL "gauge" "switchmaster_backup_stream_spool_bytes" "`backup follow`: bytes that wait on this host for the store."
    BUILD_INFO "gauge" "switchmaster_build_info" "The version that runs, as a label; always 1."
    PROCESS_START_TIME "gauge" "process_start_time_seconds" "Start time of the process, in seconds since the Unix epoch."
    PROCESS_RESIDENT_MEMORY "gauge" "process_resident_memory_bytes" "Resident memory of the process, in bytes."
    PROCESS_OPEN_FDS "gauge" "process_open_fds" "File descriptors that are open now."
}

/// How the names of the metrics about backups begin; their label is `master_name`.
pub const BACKUP: &str = "switchmaster_backup_";
/// Values of the label `kind` of [`FAILOVERS`].
pub const FAILOVER_KINDS: [&str; 4] = ["planned", "crash", "restart", "restore"];
/// Values of the label `phase` of [`FAILOVER_PHASE_SECONDS`].
pub const FAILOVER_PHASES: [&str; 4] = ["hold", "promotion", "attach", "confirm"];
/// How many reasons for a session's end [`Relay`] can tell apart.
pub const CLOSE_REASONS: usize = 24;

/// Upper bounds of the histograms' buckets, in seconds.
const BUCKETS: [f64; 20] =
    [0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 3.0, 5.0, 10.0, 15.0, 30.0, 60.0];

/// Makes the `metrics` macros record, describes every metric and gives each a first value of zero, so that the first
/// scrape shows them all. Later calls return the same handle.
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
        start_at_zero();
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

/// Registers every metric whose labels are known beforehand.
fn start_at_zero() {
    for &(name, kind, _) in ALL {
        match (name, kind) {
            // Its only labels are those of the master; `admin::scrape` writes it out.
            (MASTER_INFO, _) => {}
            // Their labels are known only to the scraper.
            (SESSIONS_CLOSED | PHASE | BYTES, _) => {}
            // Told by the runs of `backup`, if there are any.
            (name, _) if name.starts_with(BACKUP) => {}
            (BUILD_INFO, _) => gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0),
            (FAILOVERS, _) => FAILOVER_KINDS.iter().for_each(|kind| counter!(FAILOVERS, "kind" => *kind).increment(0)),
            (FAILOVER_PHASE_SECONDS, _) => {
                for phase in FAILOVER_PHASES {
                    let _registered = histogram!(FAILOVER_PHASE_SECONDS, "phase" => phase);
                }
            }
            (PROCESS_START_TIME, _) => {
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
                gauge!(PROCESS_START_TIME).set(now.as_secs_f64());
            }
            (_, "counter") => counter!(name).increment(0),
            (_, "gauge") => gauge!(name).set(0.0),
            _ => {
                let _registered = histogram!(name);
            }
        }
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
pub struct Relay {
    /// Client connections accepted.
    pub accepted: Counter,
    /// Client connections refused because `max_clients` were open.
    pub refused: Counter,
    /// Sessions that ended; see [`Relay::close`].
    pub closed: Counter,
    /// The same by reason, in the order of the session's own list of reasons.
    pub closed_by: [Counter; CLOSE_REASONS],
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

impl Relay {
    /// Counts the end of a session. `reason` is its place in the list of reasons; the last slot takes what is beyond.
    pub fn close(&self, reason: usize) {
        self.closed.add(1);
        self.closed_by[reason.min(CLOSE_REASONS - 1)].add(1);
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
    fn an_unknown_close_reason_is_still_counted() {
        let relay = Relay::default();
        relay.close(1);
        relay.close(1000);
        assert_eq!(relay.closed.get(), 2);
        assert_eq!(relay.closed_by[1].get(), 1);
        assert_eq!(relay.closed_by[CLOSE_REASONS - 1].get(), 1);
    }
}
