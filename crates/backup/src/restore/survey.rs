//! Everything that is asked before a live restore: the node, who monitors it, the proxies in front of it.
//!
//! Whatever could refuse later is asked here, and nothing is changed.

use std::net::SocketAddr;

use super::node::{Facts, Node};
use super::preflight::{self, Emptying};
use super::proxies::Proxies;
use super::settings;
use crate::config::Config;
use crate::net::ListenAddr;
use crate::remote::Remote;
use crate::source::{self, Topology};
use crate::{Error, Manifest};

/// What is known of the target.
#[derive(Debug)]
pub struct Survey {
    /// A connection to it.
    pub node: Node,
    /// What it says of itself.
    pub facts: Facts,
    /// Its `replica-lazy-flush`, or why that may not be changed.
    pub lazy: Result<String, String>,
    /// What the data to come takes there, in bytes, as far as it is known.
    pub size: u64,
    /// What the Sentinels say, where they monitor it.
    pub monitored: Option<Topology>,
    /// The proxies that were named.
    pub proxies: Proxies,
}

impl Survey {
    /// Asks. `target` is the node to restore to, else the master that Sentinel names; `size` is what the data takes there,
    /// in bytes.
    pub async fn take(
        config: &Config,
        target: Option<SocketAddr>,
        proxies: &[SocketAddr],
        manifest: &Manifest,
        size: u64,
    ) -> Result<Survey, Error> {
        let found = known(config, target).await?;
        let master = found.as_ref().map(|topology| topology.master);
        let mut addr = target.or(master).expect("one of the two");
        let mut node = Node::new(addr, config.sentinel.redis_auth.clone());
        let facts = node.facts().await?;
        let monitored = found.filter(|topology| is_master_of(topology, addr, &facts.run_id));
        if let Some(topology) = &monitored
            && topology.master != addr
        {
            // The node has several addresses: it goes by the one that the Sentinels know.
            addr = topology.master;
            node = Node::new(addr, config.sentinel.redis_auth.clone());
        }
        let refuse = |why: String| Error::Restore(format!("{addr} {why}; nothing was changed"));
        if let Some(topology) = &monitored {
            if topology.failover {
                return Err(refuse("is being replaced by Sentinel: try again when that is over".into()));
            }
            if !topology.majority {
                return Err(refuse("is not what a majority of the Sentinels names as the master".into()));
            }
        } else if facts.watched == Some(true) {
            return Err(refuse(
                "is watched by a Sentinel that is not known here, and would be replaced in the middle of the restore: name \
                 one with --sentinel (and --master-name)"
                    .into(),
            ));
        }
        preflight::serves(&facts, manifest, size)
            .map_err(|why| Error::Restore(format!("{addr}: {why}; nothing was changed")))?;
        let remote = |admin: &SocketAddr| Remote { admin: ListenAddr::Tcp(*admin), token: config.admin_token.clone() };
        let proxies = Proxies::survey(proxies.iter().map(remote).collect(), addr, &facts.run_id).await?;
        let lazy = node.setting(settings::LAZY).await.map_err(|error| error.to_string());
        Ok(Survey { node, facts, lazy, size, monitored, proxies })
    }

    /// The other nodes that the Sentinels know.
    pub fn replicas(&self) -> Vec<SocketAddr> {
        let nodes = self.monitored.iter().flat_map(|topology| &topology.candidates);
        nodes.map(|candidate| candidate.addr).filter(|addr| *addr != self.node.addr()).collect()
    }

    /// How the target lets go of its old data.
    pub fn emptying(&self) -> Emptying {
        preflight::emptying(&self.facts, &self.lazy, self.size)
    }
}

/// What the Sentinels say; `None`: nothing that matters to `target`.
async fn known(config: &Config, target: Option<SocketAddr>) -> Result<Option<Topology>, Error> {
    let found = source::find(config).await;
    let Some(target) = target else { return found.map(Some) };
    match found {
        Ok(topology)
            if topology.master != target && topology.candidates.iter().any(|candidate| candidate.addr == target) =>
        {
            Err(Error::Usage(format!(
                "{target} is a replica of {}: restore to the master {}, its replicas follow",
                topology.name, topology.master
            )))
        }
        Ok(topology) => Ok(Some(topology)),
        // Whether a Sentinel that we do not know watches it, the node itself tells.
        Err(Error::Unavailable(_) | Error::Usage(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether the node at `addr`, a process with this ID, is the master that the Sentinels name, perhaps by another address.
fn is_master_of(topology: &Topology, addr: SocketAddr, run_id: &str) -> bool {
    let same = |node: &source::Node| !run_id.is_empty() && node.run_id == run_id;
    topology.master == addr || topology.master_node().is_some_and(same)
}
