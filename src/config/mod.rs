//! From what the user wrote (flags, environment, file, Laravel `.env`) to what the program runs on ([`Config`]).
//!
//! Whatever leaves here is parsed, complete and checked: nothing behind it validates again, and nothing in here
//! binds a port or asks the network.

mod admin_socket;
mod changes;
mod check;
mod environment;
mod file;
mod keys;
mod laravel;
mod layer;
mod listen;
mod origin;
mod packages;
mod print;
mod problem;
mod sources;
mod suggest;
mod value;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::address;
use crate::callout::Address;
use crate::net::ListenAddr;
use crate::secret::{Credentials, Secret};

pub use crate::address::HostPort;
pub use crate::location::Location;
pub use crate::settings::BackupConfig;
pub use admin_socket::AdminSocket;
pub use changes::Changes;
pub use keys::{KEYS, Key, Reload};
pub use laravel::variables as laravel_variables;
pub use listen::Listen;
pub use origin::Origin;
pub use problem::{Problem, Problems};
pub use sources::{Loaded, Sources};

impl Config {
    /// Reads every source and merges them: flag over environment over file over Laravel `.env` over default.
    ///
    /// Fails with everything that is wrong, not only with the first thing. Reads files, binds nothing.
    pub fn load(sources: &Sources) -> Result<Loaded, Problems> {
        sources.load()
    }
}

/// Everything the program runs on. No `Option` that must be `Some`, no bare number of milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where clients connect.
    pub listen: Vec<Listen>,
    /// Where metrics, health and control are served; `None` switches them off.
    pub admin: Option<SocketAddr>,
    /// The same for this host, with commands for those to whom the kernel says that they may.
    pub admin_socket: AdminSocket,
    /// Commands that carry it are taken over TCP; `None`: none are.
    pub admin_token: Option<Secret>,
    /// Threads that relay; each has a runtime and an accept queue of its own.
    pub workers: usize,
    /// Client connections accepted at once; one more is answered with Redis's own error.
    pub max_clients: usize,
    /// How long SIGTERM waits for what is under way.
    pub drain_grace: Duration,
    /// Following Sentinel.
    pub sentinel: SentinelConfig,
    /// Sessions at a failover.
    pub failover: FailoverConfig,
    /// Connections to Redis besides those that sessions hold.
    pub backends: BackendConfig,
    /// A webhook and a heartbeat.
    pub notify: NotifyConfig,
    /// Backups.
    pub backup: BackupConfig,
    /// Where the last verified master is remembered across restarts; `None`: nowhere.
    pub state_dir: Option<PathBuf>,
    /// Log lines.
    pub log: LogConfig,
}

/// Following Sentinel and the nodes it names.
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// What to do with writes in a minority partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Minority {
    /// Say so, and go on.
    Warn,
    /// Hold requests.
    Stop,
}

/// Sessions at a failover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailoverConfig {
    /// How long requests are held in one outage.
    pub hold_timeout: HoldTimeout,
    /// How a request whose reply was lost ends.
    pub on_lost_reply: OnLostReply,
    /// How a blocking pop ends whose reply was lost.
    pub on_lost_pop: OnLostPop,
    /// Bytes of unreplied requests kept for replay, per session.
    pub retain_bytes: usize,
    /// Memory for all sessions: those requests and every buffer. Each worker has an equal share.
    pub retain_total_bytes: usize,
    /// How long a planned failover may hold requests while its candidate says nothing and the old master lives.
    pub planned_hold_limit: Duration,
}

/// Connections to Redis besides those that sessions hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendConfig {
    /// At most so many wait, in each worker, for sessions to come.
    pub warm: usize,
    /// A connection serves another session after a RESET.
    pub reuse: bool,
    /// A session gives its connection back when it was idle for this long, at the latest for twice as long; zero: never.
    pub detach_idle_after: Duration,
}

/// Who is called when something happens, or as long as nothing does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotifyConfig {
    /// Is sent a POST at each event.
    pub webhook: Option<Address>,
    /// Is called as long as the proxy runs and has a master.
    pub heartbeat: Option<Address>,
    /// Between two of its calls.
    pub heartbeat_interval: Duration,
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

/// How a blocking pop ends (BLPOP, BLMOVE, BZPOPMIN, XREADGROUP BLOCK and the like) when its master died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnLostPop {
    /// It is sent again: almost surely it still waited. Had it just popped, that element is gone.
    Resend,
    /// As a write under [`OnLostReply::Error`].
    Error,
    /// The connection is closed.
    Close,
}

/// Log lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Lowest level shown.
    pub level: tracing::Level,
    /// One JSON object per line instead of text.
    pub json: bool,
}

impl Default for Config {
    /// What runs with no file, no flag and nothing in the environment.
    fn default() -> Self {
        Config {
            listen: vec![Listen::new(ListenAddr::Tcp(loopback(6379)))],
            admin: Some(loopback(9379)),
            admin_socket: AdminSocket::default(),
            admin_token: None,
            workers: default_workers(),
            max_clients: 10_000,
            drain_grace: Duration::from_secs(30),
            sentinel: SentinelConfig {
                addrs: vec![HostPort { host: Ipv4Addr::LOCALHOST.to_string(), port: DEFAULT_SENTINEL_PORT }],
                master_name: None,
                auth: None,
                redis_auth: None,
                learn_credentials: true,
                poll_interval: Duration::from_secs(1),
                heartbeat: Duration::from_millis(200),
                suspect_after: Duration::from_millis(600),
                minority: Minority::Warn,
                address_map: Vec::new(),
            },
            failover: FailoverConfig {
                hold_timeout: HoldTimeout::Auto,
                on_lost_reply: OnLostReply::Error,
                on_lost_pop: OnLostPop::Resend,
                retain_bytes: 64 * 1024,
                retain_total_bytes: 64 * 1024 * 1024,
                // Held from +selected-slave: ROLE changes after 0.1 s, the epoch after 1.2 s at the leader's INFO, an
                // abort with its verdict within 2 s. Beyond 5 s it is no planned failover any more.
                planned_hold_limit: Duration::from_secs(5),
            },
            backends: BackendConfig { warm: 8, reuse: false, detach_idle_after: Duration::ZERO },
            notify: NotifyConfig { webhook: None, heartbeat: None, heartbeat_interval: Duration::from_secs(60) },
            backup: BackupConfig::default(),
            state_dir: None,
            log: LogConfig { level: tracing::Level::INFO, json: false },
        }
    }
}

/// The port of a Sentinel that is named without one.
pub const DEFAULT_SENTINEL_PORT: u16 = 26379;

/// One thread per core.
pub fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}
