//! Which node a backup is taken from: the topology as the Sentinels tell it, and the node that is disturbed least.
//!
//! [`find`] asks, [`choose`] decides and asks nothing. A node is only ever known through a Sentinel, and every node
//! that is not chosen has a reason in plain words.

mod node;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::Error;
use crate::config::{Config, HostPort, Monitored};
use crate::node::info::InfoRole;
use crate::sentinel::client::AddressMap;
use crate::sentinel::consensus::Named;
use crate::sentinel::survey::{SentinelSurvey, SurveyError, Surveyed};

pub(crate) use node::refused;
pub use node::{AskError, Node, dial};

/// For connecting to a node, and for each answer.
const LIMIT: Duration = Duration::from_secs(2);

/// What the Sentinels and the nodes say.
#[derive(Clone, Debug, PartialEq)]
pub struct Topology {
    /// The monitored name.
    pub name: String,
    /// The master that the Sentinels name.
    pub master: SocketAddr,
    /// Its config-epoch.
    pub epoch: u64,
    /// More than half of all Sentinels name it. Without, this host may be on the wrong side of a partition.
    pub majority: bool,
    /// A Sentinel is replacing the master now.
    pub failover: bool,
    /// `down-after-milliseconds`, the shortest that a Sentinel has.
    pub down_after: Duration,
    /// `failover-timeout`.
    pub failover_timeout: Duration,
    /// The Sentinels that answered.
    pub sentinels: Vec<HostPort>,
    /// The master first, then the replicas by address.
    pub candidates: Vec<Candidate>,
}

/// A node that a Sentinel knows.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Mapped and resolved.
    pub addr: SocketAddr,
    /// What it says of itself, or why it could not be asked.
    pub node: Result<Node, AskError>,
}

impl Topology {
    /// What the master says of itself.
    pub fn master_node(&self) -> Option<&Node> {
        self.candidates.iter().find(|candidate| candidate.addr == self.master)?.node.as_ref().ok()
    }
}

/// Why a node may not be the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Which node.
    pub addr: SocketAddr,
    /// In plain words.
    pub reason: String,
    /// It may be otherwise in a moment: a link that comes back, a save that ends.
    pub passing: bool,
    /// It does not take our credentials.
    pub denied: bool,
}

/// The node that a backup disturbs least: one that is never promoted (`replica-priority 0`) before others, then the
/// one that lags least. Nodes of `avoid`, with which an earlier attempt failed, come last. The master is taken only if
/// `allow_master`, and then only when no replica will do.
///
/// # Errors
/// No node may serve: why, for each.
pub fn choose<'a>(
    topology: &'a Topology,
    allow_master: bool,
    avoid: &BTreeSet<SocketAddr>,
) -> Result<&'a Node, Vec<Refusal>> {
    let mut refusals = Vec::new();
    let mut eligible = Vec::new();
    for candidate in &topology.candidates {
        match judge(topology, candidate, allow_master) {
            Ok(node) => eligible.push(node),
            Err((passing, reason)) => {
                let denied = candidate.node.as_ref().is_err_and(|error| error.denied);
                refusals.push(Refusal { addr: candidate.addr, reason, passing, denied });
            }
        }
    }
    let offset = topology.master_node().map_or(0, |master| master.offset);
    let rank = |node: &&Node| {
        let is_master = node.addr == topology.master;
        (is_master, avoid.contains(&node.addr), node.priority != 0, offset.saturating_sub(node.offset), node.addr)
    };
    eligible.into_iter().min_by_key(rank).ok_or(refusals)
}

fn judge<'a>(topology: &Topology, candidate: &'a Candidate, allow_master: bool) -> Result<&'a Node, (bool, String)> {
    let node = candidate.node.as_ref().map_err(|error| (!error.denied, error.reason.clone()))?;
    let passing = |reason: String| Err((true, reason));
    match &node.role {
        InfoRole::Master if candidate.addr != topology.master => {
            return passing("says that it is a master, which the Sentinels do not".into());
        }
        InfoRole::Master if !allow_master => {
            return Err((false, "is the master (--allow-master takes it when no replica will do)".into()));
        }
        InfoRole::Replica { .. } if candidate.addr == topology.master => {
            return passing("is the master for the Sentinels, and calls itself a replica".into());
        }
        InfoRole::Replica { link_up: false } => return passing("has lost the link to its master".into()),
        InfoRole::Master | InfoRole::Replica { .. } => {}
    }
    if node.loading {
        return passing("is loading its data".into());
    }
    if let Some(child) = node.child {
        return passing(format!("has a {child} running"));
    }
    match topology.master_node() {
        Some(master) if master.replid != node.replid => {
            passing(format!("has another history than the master (replication ID {:.8}…)", node.replid))
        }
        _ => Ok(node),
    }
}

/// The error for a topology in which no node may serve: [`Error::Unavailable`] when credentials are in the way and
/// nothing that passes, else [`Error::NoSource`].
pub fn no_source(topology: &Topology, refusals: &[Refusal]) -> Error {
    let mut text = format!("no node of {} may serve as the source:", topology.name);
    for Refusal { addr, reason, .. } in refusals {
        text += &format!("\n  {addr} {reason}");
    }
    if topology.candidates.len() < 2 {
        text += "\n  the Sentinels know no replica: add one, or take the master by --allow-master";
    }
    let denied = refusals.iter().any(|refusal| refusal.denied) && !refusals.iter().any(|refusal| refusal.passing);
    if denied { Error::Unavailable(text) } else { Error::NoSource(text) }
}

/// Asks the Sentinels of the configuration and those that they know, then every node that they name.
///
/// # Errors
/// [`Error::Unavailable`] when no Sentinel names a master, or they do not agree on one; [`Error::Usage`] when they
/// monitor several and none was chosen.
pub async fn find(config: &Config) -> Result<Topology, Error> {
    let surveyed = survey(config).await?;
    let named = surveyed.master()?;
    let Surveyed { name, answers, .. } = surveyed;
    let told = || answers.iter().map(|(_, answer)| answer);
    // Only those who follow the same master know its replicas as they are now.
    let current = || told().filter(|answer| answer.claim.as_ref().is_some_and(|claim| claim.addr == named.addr));
    let claims = || current().filter_map(|answer| answer.claim.as_ref());
    let replicas = current().filter_map(|answer| answer.replicas.as_ref()).flatten().map(|replica| replica.addr);
    let mut addrs: BTreeSet<SocketAddr> = replicas.collect();
    addrs.remove(&named.addr);
    Ok(Topology {
        master: named.addr,
        epoch: named.epoch,
        majority: named.majority,
        failover: named.failover,
        down_after: claims().map(|claim| claim.down_after).min().unwrap_or_default(),
        failover_timeout: claims().map(|claim| claim.failover_timeout).max().unwrap_or_default(),
        sentinels: answers.iter().map(|(at, _)| at.clone()).collect(),
        candidates: nodes(config, std::iter::once(named.addr).chain(addrs)).await,
        name,
    })
}

/// Whom the Sentinels name as the master now. Asks no node: it may be one that does not answer.
///
/// # Errors
/// As [`find`].
pub async fn named(config: &Config) -> Result<Named, Error> {
    Ok(survey(config).await?.master()?)
}

async fn survey(config: &Config) -> Result<Surveyed, SurveyError> {
    let Monitored { addrs, master_name, auth, address_map, .. } = &config.sentinel;
    let map = AddressMap::new(address_map.clone());
    SentinelSurvey { sentinels: addrs, master_name: master_name.as_deref(), auth: auth.as_ref(), map: &map }.run().await
}

impl From<SurveyError> for Error {
    fn from(error: SurveyError) -> Error {
        match error {
            SurveyError::SeveralMasters(_) => Error::Usage(error.to_string()),
            SurveyError::Undecided(_) => Error::Unavailable(error.to_string()),
            SurveyError::Unreachable(_) => Error::Unavailable(format!(
                "{error}; backups find their source through Sentinel: name one with --sentinel, or set up one that \
                 monitors this Redis"
            )),
        }
    }
}

async fn nodes(config: &Config, addrs: impl Iterator<Item = SocketAddr>) -> Vec<Candidate> {
    let mut questions = JoinSet::new();
    let mut candidates: Vec<Candidate> = Vec::new();
    for (index, addr) in addrs.enumerate() {
        let auth = config.sentinel.redis_auth.clone();
        questions.spawn(async move { (index, Node::ask(addr, auth.as_ref(), LIMIT).await) });
        candidates.push(Candidate { addr, node: Err("was not asked".into()) });
    }
    while let Some(answer) = questions.join_next().await {
        if let Ok((index, node)) = answer {
            candidates[index].node = node;
        }
    }
    candidates
}
