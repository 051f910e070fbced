//! From what the user wrote (`RawConfig`) to what the program runs on ([`Config`]): parsed, complete, checked.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::secret::Credentials;

/// Everything the program runs on. No `Option` that must be `Some`, no bare number of milliseconds.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where clients connect.
    pub listen: Vec<SocketAddr>,
    /// Where metrics, health and control are served; `None` switches them off.
    pub admin: Option<SocketAddr>,
    /// Threads that relay; each has a runtime and an accept queue of its own.
    pub workers: usize,
    /// Client connections accepted at once; one more is answered with Redis's own error.
    pub max_clients: usize,
    /// How long SIGTERM waits for sessions to end.
    pub drain_grace: Duration,
    /// Following Sentinel.
    pub sentinel: SentinelConfig,
    /// Sessions at a failover.
    pub failover: FailoverConfig,
    /// Where the last verified master is remembered across restarts; `None`: nowhere.
    pub state_dir: Option<PathBuf>,
    /// Log lines.
    pub log: LogConfig,
}

/// Following Sentinel and the nodes it names.
#[derive(Clone, Debug)]
pub struct SentinelConfig {
    /// `host:port` of the Sentinels to begin with; their peers are learnt.
    pub addrs: Vec<HostPort>,
    /// The monitored name; `None` takes the only one there is.
    pub master_name: Option<String>,
    /// Credentials for the Sentinels.
    pub auth: Option<Credentials>,
    /// Credentials for the Redis nodes.
    pub redis_auth: Option<Credentials>,
    /// Without `redis_auth`: use the credentials with which a client's AUTH succeeded.
    pub learn_credentials: bool,
    /// Between two slow polls of each Sentinel.
    pub poll_interval: Duration,
    /// Between two questions to the master while all is well.
    pub heartbeat: Duration,
    /// Silence of the master after which new requests are held.
    pub suspect_after: Duration,
    /// What to do with writes when this host sees only a minority of the Sentinels.
    pub minority: Minority,
    /// Address reported by Sentinel -> address to dial (NAT, containers).
    pub address_map: Vec<(HostPort, HostPort)>,
}

/// A host name or IP address with a port, not resolved yet.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    /// A name, an IPv4 address, or an IPv6 address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// What to do with writes in a minority partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Minority {
    /// Say so, and go on.
    Warn,
    /// Hold requests.
    Stop,
}

/// Sessions at a failover.
#[derive(Clone, Debug)]
pub struct FailoverConfig {
    /// How long requests are held in one outage.
    pub hold_timeout: HoldTimeout,
    /// How a request whose reply was lost ends.
    pub on_lost_reply: OnLostReply,
    /// Bytes of unreplied requests kept for replay, per session.
    pub retain_bytes: usize,
    /// The same over all sessions.
    pub retain_total_bytes: usize,
    /// How long a planned failover may hold requests before it must have been decided.
    pub planned_hold_limit: Duration,
}

/// How long requests are held in one outage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldTimeout {
    /// Sentinel's down-after + 10 s, at most 45 s.
    Auto,
    /// This long.
    Fixed(Duration),
}

/// How a request whose reply was lost ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnLostReply {
    /// `-UNKNOWNRESULT …` where the client reads errors (scalar replies), else the connection is closed.
    Error,
    /// The connection is closed, as a direct connection would be.
    Close,
    /// Idempotent writes are sent again, others end as under `Error`.
    RetryIdempotent,
    /// Every write is sent again: it may run twice.
    RetryAll,
}

/// Log lines.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// Lowest level shown.
    pub level: tracing::Level,
    /// One JSON object per line instead of text.
    pub json: bool,
}
