//! Watches what each node says of itself, to know the moment of a promotion better than any Sentinel does.
//!
//! It asks ROLE every few milliseconds on connections and a thread of its own, and only remembers changes.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::cluster::{Cluster, until};
use super::server::ClusterError;
use crate::node::role::Role;
use crate::secret::Credentials;
use crate::wire::Wire;

/// Between two questions to a node.
const INTERVAL: Duration = Duration::from_millis(4);

/// The watch; dropping it ends it.
#[derive(Debug)]
pub struct RoleWatch {
    seen: Arc<Mutex<Vec<RoleChange>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// A node's role became another (or was heard for the first time).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoleChange {
    /// `cluster.node(i)`.
    pub node: usize,
    /// Whether it is now a master.
    pub is_master: bool,
    /// When the answer came, at most about 5 ms after the change.
    pub at: Instant,
    /// When it was asked the last time that it said otherwise: the change was after this.
    pub not_before: Option<Instant>,
}

impl RoleWatch {
    /// Watches every node of `cluster`.
    pub fn start(cluster: &Cluster) -> io::Result<RoleWatch> {
        let nodes: Vec<SocketAddr> = cluster.nodes().iter().map(|node| node.addr()).collect();
        let auth = cluster.auth();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let changes = seen.clone();
        let thread = std::thread::Builder::new().name("roles".into()).spawn(move || {
            runtime.block_on(async {
                for (node, addr) in nodes.into_iter().enumerate() {
                    tokio::spawn(watch(node, addr, auth.clone(), changes.clone()));
                }
                let _ = stopped.await;
            });
        })?;
        Ok(RoleWatch { seen, stop: Some(stop), thread: Some(thread) })
    }

    /// Every change so far, oldest first.
    pub fn changes(&self) -> Vec<RoleChange> {
        self.seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// The first promotion after `after`: a node that became a master.
    pub fn promotion_after(&self, after: Instant) -> Option<RoleChange> {
        let changes = self.changes();
        // A node first heard as a master, or one that was down, was not promoted by that.
        let promoted = changes.iter().enumerate().find(|(index, change)| {
            let before = changes[..*index].iter().rev().find(|earlier| earlier.node == change.node);
            change.at > after && change.is_master && before.is_some_and(|before| !before.is_master)
        });
        promoted.map(|(_, change)| *change)
    }

    /// Waits for the first promotion after `after`.
    pub async fn wait_for_promotion(&self, after: Instant, limit: Duration) -> Result<RoleChange, ClusterError> {
        until("a promotion", limit, async || self.promotion_after(after).ok_or(format!("{:?}", self.changes()))).await
    }
}

impl Drop for RoleWatch {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn watch(node: usize, addr: SocketAddr, auth: Option<Credentials>, seen: Arc<Mutex<Vec<RoleChange>>>) {
    let mut last = None;
    let mut said = None;
    loop {
        let _: io::Result<()> = async {
            let mut wire = Wire::connect(addr).await?;
            if let Some(auth) = &auth {
                // A node without a password refuses it; ROLE will tell.
                wire.ask(&auth.auth()).await?;
            }
            loop {
                let asked = Instant::now();
                let role = timeout(Duration::from_secs(5), wire.ask(&["ROLE"])).await??;
                let Some(is_master) = Role::parse(&role).map(|role| role.is_master()) else {
                    return Err(io::Error::other(role.to_string()));
                };
                let not_before = said.replace(asked);
                if last != Some(is_master) {
                    last = Some(is_master);
                    let change = RoleChange { node, is_master, at: Instant::now(), not_before };
                    seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(change);
                }
                tokio::time::sleep(INTERVAL).await;
            }
        }
        .await;
        tokio::time::sleep(INTERVAL).await;
    }
}
