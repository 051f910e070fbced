//! What `status`, `/ready` and the gauges show of the control plane: plain data, rebuilt at each look.

use std::net::SocketAddr;

use serde::Serialize;

/// The state of the control plane at one moment. Durations are in milliseconds, as the field names say.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Snapshot {
    /// The monitored name, once known.
    pub master_name: Option<String>,
    /// `topology::Phase::name` of the published phase; empty before the first look.
    pub phase: &'static str,
    /// How long it has been that.
    pub phase_for_ms: u64,
    /// Why, for people.
    pub reason: String,
    /// The published term.
    pub term: u64,
    /// The master, once verified.
    pub master: Option<MasterStatus>,
    /// Its replicas.
    pub replicas: Vec<ReplicaStatus>,
    /// Each Sentinel we know.
    pub sentinels: Vec<SentinelStatus>,
    /// Sentinels that name this master at the highest epoch.
    pub agreeing: usize,
    /// Sentinels that exist.
    pub known: usize,
    /// Votes needed to call the master down.
    pub quorum: u64,
    /// Sentinel's `down-after-milliseconds`.
    pub down_after_ms: u64,
    /// Sentinel's `failover-timeout`.
    pub failover_timeout_ms: u64,
    /// How long requests are held in one outage.
    pub hold_timeout_ms: u64,
    /// What we may read of the nodes.
    pub credentials: CredentialsState,
    /// What is wrong, where, and what to do about it.
    pub warnings: Vec<String>,
    /// What happened since the start.
    pub counters: Counters,
    /// For load balancers.
    pub ready: Ready,
}

/// The master.
#[derive(Clone, Debug, Serialize)]
pub struct MasterStatus {
    /// Where it is.
    pub addr: SocketAddr,
    /// Its process.
    pub run_id: Option<String>,
    /// Sentinel's config-epoch for it.
    pub epoch: u64,
    /// Not confirmed by the epoch yet.
    pub provisional: bool,
    /// `master_repl_offset`, bytes.
    pub offset: Option<u64>,
    /// Since its last sign of life.
    pub silent_ms: u64,
}

/// A replica.
#[derive(Clone, Debug, Serialize)]
pub struct ReplicaStatus {
    /// Where it is.
    pub addr: SocketAddr,
    /// What it has acknowledged, bytes of the stream.
    pub offset: Option<u64>,
    /// How far that is behind the master, bytes.
    pub behind: Option<u64>,
    /// Connected to the master.
    pub link_up: bool,
    /// Seconds since its last acknowledgement.
    pub lag_s: Option<u64>,
}

/// A Sentinel.
#[derive(Clone, Debug, Serialize)]
pub struct SentinelStatus {
    /// `host:port` as configured or learnt.
    pub addr: String,
    /// Connected and subscribed.
    pub connected: bool,
    /// Since its last answer.
    pub answer_age_ms: Option<u64>,
    /// The epoch of its claim.
    pub epoch: Option<u64>,
    /// Whom it names.
    pub names: Option<SocketAddr>,
    /// In TILT: it watches but does not act.
    pub tilt: bool,
    /// What is wrong with it.
    pub error: Option<String>,
}

/// What we may read of the Redis nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CredentialsState {
    /// There are none, and perhaps none are needed.
    #[default]
    None,
    /// Taken from a client whose AUTH succeeded.
    Learned,
    /// The operator's.
    Configured,
    /// There are some, and a node refused them.
    Refused,
}

/// What happened since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// New masters after a hold while the old one lived.
    pub planned: u64,
    /// New masters after the old one was silent or gone.
    pub crash: u64,
    /// The master's process was restarted in place.
    pub restarts: u64,
    /// Failovers that ended with the old master.
    pub aborted: u64,
    /// Commits before Sentinel's epoch rose.
    pub early_commits: u64,
    /// Early commits that Sentinel undid.
    pub early_commits_wrong: u64,
    /// The last failover: from the hold to the commit.
    pub last_hold_ms: Option<u64>,
    /// The last failover: bytes of the old master's stream, as far as it was seen, that the new one does not have;
    /// 0 or less is none.
    pub last_offset_gap_bytes: Option<i64>,
    /// The last early commit: from the commit to its epoch.
    pub last_confirm_ms: Option<u64>,
}

/// For load balancers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ready {
    /// In one word.
    pub state: ReadyState,
    /// Since a master was last known to answer, if ever.
    pub confirmed_ms_ago: Option<u64>,
}

/// Whether requests are served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ReadyState {
    /// Requests flow.
    Ok,
    /// Requests are held, and will go on.
    Failover,
    /// Requests flow, but something needs an operator.
    Degraded,
    /// There is no master.
    #[default]
    Down,
}
