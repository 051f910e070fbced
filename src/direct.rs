//! `direct`: where the master is, for scripts and for the night when the proxy is to be gone around ([`find`]).
//!
//! It asks the running switchmaster, and the Sentinels of the configuration where that does not know or does not run.
//! What it returns was a master by its own word, or by that of the Sentinels where nobody may ask it; it changes nothing.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use switchmaster_protocol::sentinel::client::{AddressMap, Node};
use switchmaster_protocol::sentinel::login::Login;
use switchmaster_protocol::sentinel::report::Role;
use switchmaster_protocol::sentinel::survey::{SentinelSurvey, SurveyError, Surveyed};

use crate::config::SentinelConfig;
use crate::remote::Remote;

/// For the running switchmaster's answer: one that is stopped takes connections and says nothing.
const PROXY_LIMIT: Duration = Duration::from_secs(2);
/// For connecting to the master, and for its answer.
const NODE_LIMIT: Duration = Duration::from_secs(2);

/// Where the master is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Direct {
    /// As this host can dial it.
    pub addr: SocketAddr,
    /// What should be known before it is used.
    pub warning: Option<String>,
}

/// Why no master is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DirectError {
    /// Nobody knows one for sure now.
    Unavailable(String),
    /// Several are monitored, and none was chosen.
    Ambiguous(String),
}

impl fmt::Display for DirectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DirectError::Unavailable(why) | DirectError::Ambiguous(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for DirectError {}

impl DirectError {
    /// The process's exit code: 69, unavailable; 64 where a master has to be chosen.
    pub fn exit_code(&self) -> u8 {
        match self {
            DirectError::Unavailable(_) => 69,
            DirectError::Ambiguous(_) => 64,
        }
    }
}

/// The master that `proxy` follows; without such a one, or an answer, the master that the Sentinels name.
pub async fn find(proxy: Option<Remote>, sentinel: &SentinelConfig) -> Result<Direct, DirectError> {
    let unknown = match proxy {
        Some(proxy) => match followed(&proxy).await {
            Ok(addr) => return Ok(Direct { addr, warning: None }),
            Err(why) => format!("{why}; "),
        },
        None => String::new(),
    };
    named(sentinel).await.map_err(|error| match error {
        DirectError::Unavailable(why) => DirectError::Unavailable(format!("{unknown}{why}")),
        ambiguous @ DirectError::Ambiguous(_) => ambiguous,
    })
}

async fn followed(proxy: &Remote) -> Result<SocketAddr, String> {
    let silent = format!("the switchmaster at {} does not answer within {} s", proxy.admin, PROXY_LIMIT.as_secs());
    let view = tokio::time::timeout(PROXY_LIMIT, proxy.look()).await.map_err(|_| silent)?;
    let view = view.map_err(|error| error.to_string())?;
    // Elsewhere what it has is the master of before. A hold by command changes nothing of who is master.
    let is_settled = matches!(view.phase.as_str(), "stable" | "paused");
    let master = view.master.filter(|_| is_settled).and_then(|master| master.addr.parse().ok());
    master.ok_or_else(|| format!("the running switchmaster has no master (phase {})", view.phase))
}

async fn named(config: &SentinelConfig) -> Result<Direct, DirectError> {
    let SentinelConfig { addrs, master_name, auth, redis_auth, address_map, .. } = config;
    let map = AddressMap::new(address_map.clone());
    let survey =
        SentinelSurvey { sentinels: addrs, master_name: master_name.as_deref(), auth: auth.as_ref(), map: &map };
    let surveyed = survey.run().await?;
    let master = surveyed.master()?;
    let Surveyed { name, known, .. } = surveyed;
    let addr = master.addr;
    let unavailable = |why: String| DirectError::Unavailable(format!("the Sentinels name {addr} as {name}, {why}"));
    if master.failover {
        return Err(unavailable("and are failing it over: ask again in a moment".into()));
    }
    let mut warnings = Vec::new();
    if !master.majority {
        warnings.push(format!("only {} of {known} Sentinels name it", master.support));
    }
    let login = Login { id: 0, credentials: redis_auth.clone() };
    let asked = async { Node::connect(addr, &login, &map, 0, NODE_LIMIT).await?.ask(false, None, NODE_LIMIT).await };
    match asked.await.map(|answer| answer.role) {
        Ok(Role::Master { .. }) => {}
        Ok(Role::Replica { .. }) => return Err(unavailable("and it says that it is a replica".into())),
        Ok(Role::Occupied(why)) => return Err(unavailable(format!("and it is busy: {why}"))),
        Ok(Role::Unreadable(why)) => warnings.push(format!("it could not be asked for its role: {why}")),
        Err(error) => return Err(unavailable(format!("and it does not answer: {error}"))),
    }
    let warning = (!warnings.is_empty()).then(|| format!("{addr}: {}", warnings.join("; ")));
    Ok(Direct { addr, warning })
}

impl From<SurveyError> for DirectError {
    fn from(error: SurveyError) -> DirectError {
        match error {
            SurveyError::SeveralMasters(_) => DirectError::Ambiguous(error.to_string()),
            SurveyError::Unreachable(_) | SurveyError::Undecided(_) => DirectError::Unavailable(error.to_string()),
        }
    }
}
