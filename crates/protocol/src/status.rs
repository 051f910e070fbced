//! What an operator is shown: the types behind `/status.json`, the page and the `status` verb.
//!
//! Plain data, no secrets, no clock: instants have become ages in milliseconds. Every field has a default, so that a
//! `status` of one version reads the answer of another.

use serde::{Deserialize, Serialize};

/// Everything that is known, at one moment.
///
/// The one description of the control plane's state: `sentinel::tracker` makes it at each look, the admin server fills in
/// the parts named as its own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct View {
    /// The admin server's: the version that runs.
    pub version: String,
    /// The admin server's: the process id.
    pub pid: u32,
    /// The admin server's: since the admin server started, in milliseconds.
    pub uptime_ms: u64,
    /// The admin server's: the process is about to end.
    pub draining: bool,
    /// The admin server's, from the topology: stable, electing, suspect, switching, paused or failing.
    pub phase: String,
    /// The admin server's, from the topology: why the phase is what it is.
    pub reason: String,
    /// The admin server's, from the topology: how long the present outage has lasted, in milliseconds.
    pub outage_ms: Option<u64>,
    /// The admin server's, from the topology: rises each time sessions must leave a node.
    pub term: u64,
    /// The admin server's, from the topology: where sessions belong.
    pub master: Option<MasterView>,

    /// The name under which Sentinel monitors the master.
    pub master_name: String,
    /// How long the phase has been what it is, in milliseconds.
    pub since_ms: Option<u64>,
    /// Age of the last answer in which the master said that it is the master, in milliseconds. Where it cannot be
    /// asked for want of credentials, any answer of the node that the Sentinels name counts.
    pub confirmed_ago_ms: Option<u64>,
    /// How long its last answer to ROLE took, in milliseconds.
    pub answer_ms: Option<f64>,
    /// The replicas known.
    pub replicas: Vec<ReplicaView>,
    /// The Sentinels known.
    pub sentinels: Vec<SentinelView>,
    /// How many Sentinels name the current master.
    pub agreement: Agreement,
    /// Sentinel's down-after-milliseconds.
    pub down_after_ms: Option<u64>,
    /// Sentinel's failover-timeout, in milliseconds.
    pub failover_timeout_ms: Option<u64>,
    /// How long requests are held in one outage, in milliseconds.
    pub hold_timeout_ms: Option<u64>,
    /// Whether the nodes accept our credentials.
    pub credentials: CredentialsState,
    /// The last change of master that was seen.
    pub last_failover: Option<FailoverView>,
    /// The last failover that a Sentinel gave up.
    pub last_abort: Option<AbortView>,
    /// Rare events since the start.
    pub counters: Counters,
    /// What somebody should look at, in plain words.
    pub warnings: Vec<String>,

    /// The admin server's: what the sessions did.
    pub traffic: Traffic,
    /// The admin server's: what `/ready` answers.
    pub readiness: Readiness,
}

/// The last minutes, for the page and for `top`: `/history.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Recent {
    /// Now.
    pub view: View,
    /// One a second, the latest last.
    pub samples: Vec<Sample>,
    /// The latest first.
    pub failovers: Vec<PastFailover>,
}

/// One second: its time in seconds since the Unix epoch, requests and bytes per second, sessions open and held, the
/// master's time to answer ROLE in milliseconds, and how long the outage has lasted, in milliseconds; 0: there is none.
pub type Sample = (u64, f64, f64, u64, u64, Option<f64>, u64);

/// A change of master, and when it ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PastFailover {
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// What became of it.
    #[serde(flatten)]
    pub report: FailoverView,
}

/// A verified master.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MasterView {
    /// `ip:port`.
    pub addr: String,
    /// The `run_id` of its process, if it could be read.
    pub run_id: Option<String>,
    /// Sentinel's config-epoch.
    pub epoch: u64,
    /// Followed before Sentinel announced it, and not confirmed yet.
    pub provisional: bool,
    /// Its replication offset.
    pub offset: Option<u64>,
}

/// A replica.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReplicaView {
    /// `ip:port`.
    pub addr: String,
    /// Its replication offset.
    pub offset: Option<u64>,
    /// Bytes behind the master.
    pub lag_bytes: Option<u64>,
    /// Seconds since it last acknowledged.
    pub lag_seconds: Option<f64>,
    /// `up`, `down`, or what else is known about its link to the master.
    pub link: String,
}

/// A Sentinel.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SentinelView {
    /// `ip:port`.
    pub addr: String,
    /// Whether our subscription to it stands.
    pub connected: bool,
    /// Age of its last answer, in milliseconds.
    pub answer_ago_ms: Option<u64>,
    /// The config-epoch it reports.
    pub epoch: Option<u64>,
    /// The address it names as master.
    pub names: Option<String>,
    /// It says that the master is down (s_down or o_down).
    pub master_down: bool,
    /// It is in TILT: it watches but does not act.
    pub tilt: bool,
    /// Why it is not connected, or names no master.
    pub error: Option<String>,
}

impl SentinelView {
    /// It names this master.
    pub fn names_master(&self, master: Option<&MasterView>) -> bool {
        let of = |master: &MasterView| {
            self.names.as_ref() == Some(&master.addr) && self.epoch.is_some_and(|epoch| epoch >= master.epoch)
        };
        master.is_some_and(of)
    }
}

/// Agreement about the current master.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Agreement {
    /// Sentinels that name the current master.
    pub agreeing: usize,
    /// Sentinels known.
    pub known: usize,
    /// Sentinel's quorum for this master.
    pub quorum: usize,
}

/// Whether the nodes accept our credentials.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CredentialsState {
    /// The nodes ask for none.
    #[default]
    NotNeeded,
    /// Taken from the configuration, and accepted.
    Configured,
    /// Learnt from a client's AUTH, and accepted.
    Learnt,
    /// The nodes ask for some, and none are known: failovers are followed only once Sentinel announces them.
    Missing,
    /// The nodes refuse them.
    Refused,
    /// The nodes accept them, but their user may not ask ROLE.
    NotPermitted,
}

impl CredentialsState {
    /// There are some, and they do not let us ask the nodes.
    pub fn is_wrong(self) -> bool {
        matches!(self, CredentialsState::Refused | CredentialsState::NotPermitted)
    }
}

/// A change of master.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FailoverView {
    /// planned, crash, restart, or restore (its data set was replaced in place).
    pub kind: String,
    /// The old master.
    pub from: String,
    /// The new one.
    pub to: String,
    /// How long ago it ended, in milliseconds.
    pub ago_ms: u64,
    /// Its phases with their durations in milliseconds, in order: promotion and hold from the first sign on, attach and
    /// confirm from the commit on.
    pub phases: Vec<(String, f64)>,
    /// Bytes the new master was behind the old one's last known offset, where both could be read.
    pub offset_gap_bytes: Option<u64>,
    /// It undid an early commit: at most this many acknowledged writes were discarded.
    pub writes_at_risk: u64,
}

/// A failover that a Sentinel gave up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AbortView {
    /// What follows `-failover-abort-` in Sentinel's event: no-good-slave, slave-timeout, not-elected.
    pub reason: String,
    /// How long ago, in milliseconds.
    pub ago_ms: u64,
}

/// Rare events since the start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "each is the metric of the same name")]
pub struct Counters {
    pub failovers_planned: u64,
    pub failovers_crash: u64,
    pub failovers_restart: u64,
    pub failovers_restore: u64,
    pub failovers_aborted: u64,
    pub early_commits: u64,
    pub early_commits_wrong: u64,
    pub writes_at_risk: u64,
    pub empty_restarts: u64,
}

impl Counters {
    /// Changes of master, of all kinds.
    pub fn failovers(&self) -> u64 {
        self.failovers_planned + self.failovers_crash + self.failovers_restart + self.failovers_restore
    }
}

/// What the sessions did, summed over all workers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "each is the counter of the same name in `metrics::WorkerCounters`")]
pub struct Traffic {
    /// Open now.
    pub sessions: u64,
    /// Held now.
    pub held_sessions: u64,
    pub accepted: u64,
    pub refused: u64,
    pub closed: u64,
    /// Sessions that ended, by reason; reasons that never occurred are listed too.
    pub closed_by: Vec<(String, u64)>,
    pub requests: u64,
    pub replies: u64,
    pub bytes_up: u64,
    pub bytes_down: u64,
    pub held: u64,
    pub moved: u64,
    pub replayed: u64,
    pub lost: u64,
    pub withheld: u64,
    pub dials: u64,
    pub warm: u64,
    pub detached: u64,
    pub dial_failures: u64,
    /// Requests per second, over the last seconds.
    pub requests_per_second: f64,
    /// Bytes per second in both directions, over the last seconds.
    pub bytes_per_second: f64,
}

/// What `/ready` answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Readiness {
    /// 200 or 503.
    pub ready: bool,
    /// In one word.
    pub state: State,
    /// Why, in a sentence.
    pub why: String,
}

/// A host's condition in one word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The master was confirmed lately.
    Ok,
    /// A failover is in progress, and requests are held; or it has just ended, and the Sentinels have yet to agree.
    Failover,
    /// Requests are served or held, but something should be looked at.
    Degraded,
    /// Requests cannot be served.
    #[default]
    Down,
}

impl State {
    /// The word of the body of `/ready`.
    pub fn name(self) -> &'static str {
        match self {
            State::Ok => "ok",
            State::Failover => "failover",
            State::Degraded => "degraded",
            State::Down => "down",
        }
    }
}
