//! What backups read of the configuration: where the Sentinels, the store and the running switchmasters are, and as whom.
//!
//! Whoever calls has read and checked it.

use std::path::PathBuf;

use crate::callout::Address;
use crate::secret::{Credentials, Secret};

pub use switchmaster_protocol::address::HostPort;
pub use switchmaster_protocol::location::Location;
pub use switchmaster_protocol::settings::BackupConfig;

/// Everything that a backup or a restore runs on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The Sentinels, and the master that they monitor.
    pub sentinel: Monitored,
    /// Where backups are kept, and who can read them.
    pub backup: BackupConfig,
    /// What a switchmaster on another host wants to see before it takes orders.
    pub admin_token: Option<Secret>,
    /// Is sent a POST when a backup fails.
    pub webhook: Option<Address>,
    /// Where the proxy of this host keeps its state, and finds what came of the last run; `None`: nowhere.
    pub state_dir: Option<PathBuf>,
}

/// A monitored master, as it is found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Monitored {
    /// `host:port` of the Sentinels to begin with; their peers are learnt.
    pub addrs: Vec<HostPort>,
    /// The monitored name; `None` takes the only one there is.
    pub master_name: Option<String>,
    /// Credentials for the Sentinels.
    pub auth: Option<Credentials>,
    /// Credentials for the Redis nodes.
    pub redis_auth: Option<Credentials>,
    /// Address reported by Sentinel -> address to dial (NAT, containers).
    pub address_map: Vec<(HostPort, HostPort)>,
}
