//! A throwaway cluster of real Redis and Sentinel processes on loopback, for the demo and the tests.
//!
//! Everything lives in one temporary folder and ends with the [`Cluster`]; nothing waits without a limit.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::relay::{Passage, Relay};
use super::server::{Binary, ClusterError, Server, free_port};
pub use super::spec::{ClusterSpec, ConfigFiles, Member};
use super::spec::{Port, Ports, source};
use crate::node::role::Role;
use crate::secret::{Credentials, Secret};
use crate::wire::{Reply, Wire};

/// Masters with their replicas, and the Sentinels that watch them.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Server>,
    sentinels: Vec<Server>,
    /// In front of the nodes, then of the Sentinels; empty unless partitionable.
    relays: Vec<Relay>,
    spec: ClusterSpec,
    dir: TempDir,
}

impl Cluster {
    /// Starts everything and waits until it is whole: replicas online, Sentinels acquainted.
    pub async fn start(spec: ClusterSpec) -> Result<Cluster, ClusterError> {
        let mut attempts = 5;
        loop {
            attempts -= 1;
            match Cluster::try_start(&spec).await {
                // Somebody was faster: again, with all ports anew.
                Err(ClusterError::PortTaken(_)) if attempts > 0 => {}
                outcome => return outcome,
            }
        }
    }

    async fn try_start(spec: &ClusterSpec) -> Result<Cluster, ClusterError> {
        let (server, sentinel) = (Binary::redis_server()?, Binary::redis_sentinel()?);
        let dir = tempfile::Builder::new().prefix("switchmaster-").tempdir()?;
        let count = spec.masters.len() * spec.group_size();
        let mut cluster =
            Cluster { nodes: Vec::new(), sentinels: Vec::new(), relays: Vec::new(), spec: spec.clone(), dir };
        for (kind, binary, total) in [("node", &server, count), ("sentinel", &sentinel, spec.sentinels)] {
            for index in 0..total {
                let addr = SocketAddr::new(spec.ip_of(index), free_port()?);
                let folder = cluster.dir.path().join(format!("{kind}-{index}"));
                fs::create_dir(&folder)?;
                let process =
                    Server::new(format!("{kind} {index}"), addr, binary.clone(), folder.join(format!("{kind}.conf")));
                if spec.partitionable {
                    let relay = Relay::start(addr, free_port()?);
                    cluster.relays.push(relay.map_err(|_| ClusterError::PortTaken(addr))?);
                }
                if kind == "node" { cluster.nodes.push(process) } else { cluster.sentinels.push(process) }
            }
        }
        let ports = cluster.ports();
        for index in 0..count {
            let folder = cluster.dir.path().join(format!("node-{index}"));
            fs::write(folder.join("node.conf"), spec.node_conf(index, &folder, &ports))?;
            cluster.nodes[index].start().await?;
        }
        cluster.replicas_online(Duration::from_secs(20)).await?;
        for index in 0..spec.sentinels {
            let folder = cluster.dir.path().join(format!("sentinel-{index}"));
            fs::write(folder.join("sentinel.conf"), spec.sentinel_conf(index, &folder, &ports))?;
            cluster.sentinels[index].start().await?;
        }
        cluster.wait_ready(Duration::from_secs(30)).await?;
        Ok(cluster)
    }

    /// What it was started with.
    pub fn spec(&self) -> &ClusterSpec {
        &self.spec
    }

    /// The first monitored name.
    pub fn master_name(&self) -> &str {
        &self.spec.masters[0]
    }

    /// Node `index`: 0 was started as the (first) master.
    pub fn node(&self, index: usize) -> &Server {
        &self.nodes[index]
    }

    /// Every node.
    pub fn nodes(&self) -> &[Server] {
        &self.nodes
    }

    /// Sentinel `index`.
    pub fn sentinel(&self, index: usize) -> &Server {
        &self.sentinels[index]
    }

    /// Every Sentinel.
    pub fn sentinels(&self) -> &[Server] {
        &self.sentinels
    }

    /// The address by which node `index` is known to Sentinel (that of its relay, if it has one).
    pub fn node_addr(&self, index: usize) -> SocketAddr {
        self.relays.get(index).map_or(self.nodes[index].addr(), Relay::addr)
    }

    /// The address by which Sentinel `index` is known.
    pub fn sentinel_addr(&self, index: usize) -> SocketAddr {
        self.relays.get(self.nodes.len() + index).map_or(self.sentinels[index].addr(), Relay::addr)
    }

    /// The addresses of all Sentinels.
    pub fn sentinel_addrs(&self) -> Vec<SocketAddr> {
        (0..self.sentinels.len()).map(|index| self.sentinel_addr(index)).collect()
    }

    /// The index of the node known as `addr`.
    pub fn node_at(&self, addr: SocketAddr) -> Option<usize> {
        (0..self.nodes.len()).find(|&index| self.node_addr(index) == addr)
    }

    /// The credentials of the `default` user, if it has a password.
    pub fn auth(&self) -> Option<Credentials> {
        self.spec.password.as_deref().map(|password| Credentials { username: None, password: Secret::new(password) })
    }

    /// The relay in front of a process, in a partitionable cluster.
    pub fn relay(&self, member: Member) -> Option<&Relay> {
        match member {
            Member::Node(index) => self.relays.get(index),
            Member::Sentinel(index) => self.relays.get(self.nodes.len() + index),
            Member::Outside => None,
        }
    }

    /// Cuts every member of `left` from every member of `right`, in both directions, without closing anything.
    pub fn partition(&self, left: &[Member], right: &[Member]) {
        assert!(self.spec.partitionable, "ClusterSpec::partitionable is off");
        for (&from, &to) in left.iter().flat_map(|a| right.iter().map(move |b| (a, b))) {
            for (dialler, server) in [(from, to), (to, from)] {
                if let Some(relay) = self.relay(server) {
                    relay.set_for(source(dialler), Passage::BlackHole);
                }
            }
        }
    }

    /// Ends every partition and delay.
    pub fn heal(&self) {
        self.relays.iter().for_each(Relay::restore);
    }

    /// A connection to node `index`, past its relay, authenticated.
    pub async fn connect(&self, index: usize) -> io::Result<Wire> {
        let mut wire = Wire::connect(self.nodes[index].addr()).await?;
        if let Some(password) = &self.spec.password {
            // Replicas as in the guide have none: their refusal is fine.
            wire.ask(&["AUTH", password]).await?;
        }
        Ok(wire)
    }

    /// One request to node `index`, past its relay, answered within a second.
    pub async fn ask_node(&self, index: usize, request: &[&str]) -> io::Result<Reply> {
        within_a_second(async { self.connect(index).await?.ask(request).await }).await
    }

    /// One request to Sentinel `index`, past its relay, answered within a second.
    pub async fn ask_sentinel(&self, index: usize, request: &[&str]) -> io::Result<Reply> {
        within_a_second(async {
            let mut wire = Wire::connect(self.sentinels[index].addr()).await?;
            if let Some(password) = &self.spec.sentinel_password {
                wire.ask(&["AUTH", password]).await?;
            }
            wire.ask(request).await
        })
        .await
    }

    /// The node that says ROLE=master and that most of the answering Sentinels name, with its index.
    pub async fn who_is_master(&self) -> Result<usize, String> {
        self.who_is_master_of(self.master_name()).await
    }

    /// The same for one of several masters.
    pub async fn who_is_master_of(&self, name: &str) -> Result<usize, String> {
        let mut votes: Vec<SocketAddr> = Vec::new();
        let mut silent = 0;
        for sentinel in 0..self.sentinels.len() {
            match self.ask_sentinel(sentinel, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", name]).await {
                Ok(reply) => votes.extend(address(reply.items())),
                Err(_) => silent += 1,
            }
        }
        let voted = votes.iter().find(|&addr| 2 * votes.iter().filter(|other| *other == addr).count() > votes.len());
        let &addr = voted.ok_or_else(|| format!("Sentinels name {votes:?}, {silent} silent"))?;
        let index = self.node_at(addr).ok_or_else(|| format!("Sentinels name {addr}, which is not a node"))?;
        match self.ask_node(index, &["ROLE"]).await {
            Ok(role) if Role::parse(&role).is_some_and(|role| role.is_master()) => Ok(index),
            Ok(role) => Err(format!("{addr} says {role}")),
            Err(error) => Err(format!("{addr}: {error}")),
        }
    }

    /// Waits until everything that runs is whole: replicas online, Sentinels agreed, acquainted and undisturbed.
    pub async fn wait_ready(&self, limit: Duration) -> Result<(), ClusterError> {
        until("the cluster to be whole", limit, async || {
            for name in &self.spec.masters {
                let master = self.who_is_master_of(name).await?;
                self.check_replicas(name, master).await?;
                for sentinel in (0..self.sentinels.len()).filter(|&index| self.sentinels[index].is_running()) {
                    self.check_sentinel(sentinel, name).await?;
                }
            }
            Ok(())
        })
        .await
    }

    /// Waits until a master is agreed on and every node that runs follows it. The Sentinels, which look at a replica
    /// only every 10 s, may not know so yet; [`Cluster::wait_ready`] waits for them too.
    pub async fn wait_replicating(&self, limit: Duration) -> Result<usize, ClusterError> {
        until("every node to follow the master", limit, async || {
            let master = self.who_is_master().await?;
            self.check_replicas(self.master_name(), master).await?;
            Ok(master)
        })
        .await
    }

    /// `SENTINEL FAILOVER`, asked again while it is refused for the moment. Returns when it was accepted.
    pub async fn failover(&self, limit: Duration) -> Result<Instant, ClusterError> {
        until("SENTINEL FAILOVER to be accepted", limit, async || {
            let mut refusals = String::new();
            for sentinel in 0..self.sentinels.len() {
                let asked = Instant::now();
                match self.ask_sentinel(sentinel, &["SENTINEL", "FAILOVER", self.master_name()]).await {
                    Ok(Reply::Simple(_)) => return Ok(asked),
                    Ok(other) => write!(refusals, "{other} ").unwrap_or_default(),
                    // One that is only slow has most likely accepted it: to ask another would make it two failovers.
                    Err(error)
                        if error.kind() == io::ErrorKind::TimedOut
                            && self.ask_sentinel(sentinel, &["PING"]).await.is_ok() =>
                    {
                        return Ok(asked);
                    }
                    Err(error) => write!(refusals, "{error} ").unwrap_or_default(),
                }
            }
            Err(refusals)
        })
        .await
    }

    /// Waits until most Sentinels name another master than node `old` and that one agrees; returns its index.
    pub async fn wait_for_master_change(&self, old: usize, limit: Duration) -> Result<usize, ClusterError> {
        until("a new master", limit, async || match self.who_is_master().await {
            Ok(index) if index == old => Err(format!("still node {old}")),
            other => other,
        })
        .await
    }

    /// The largest configuration epoch that any Sentinel knows.
    pub async fn epoch(&self, limit: Duration) -> Result<u64, ClusterError> {
        until("the Sentinels to tell their epochs", limit, async || {
            let mut highest = 0;
            for sentinel in 0..self.sentinels.len() {
                let reply = self.ask_sentinel(sentinel, &["SENTINEL", "MASTER", self.master_name()]).await;
                let epoch = reply.map_err(|error| error.to_string())?;
                let epoch = epoch.field("config-epoch").and_then(|text| text.parse().ok());
                highest = highest.max(epoch.ok_or("a Sentinel gives no config-epoch")?);
            }
            Ok(highest)
        })
        .await
    }

    fn ports(&self) -> Ports {
        let nodes = self.nodes.iter().enumerate();
        let sentinels = self.sentinels.iter().enumerate();
        let port = |bound: SocketAddr, known: SocketAddr| Port { bound: bound.port(), known: known.port() };
        Ports {
            nodes: nodes.map(|(index, node)| port(node.addr(), self.node_addr(index))).collect(),
            sentinels: sentinels.map(|(index, sentinel)| port(sentinel.addr(), self.sentinel_addr(index))).collect(),
        }
    }

    async fn replicas_online(&self, limit: Duration) -> Result<(), ClusterError> {
        let size = self.spec.group_size();
        until("the replicas to be online", limit, async || {
            for master in (0..self.nodes.len()).step_by(size) {
                let role = self.ask_node(master, &["ROLE"]).await.map_err(|error| error.to_string())?;
                match Role::parse(&role) {
                    Some(Role::Master { replicas, .. }) if replicas.len() >= self.spec.replicas => {}
                    _ => return Err(format!("node {master} says {role}")),
                }
                for replica in master + 1..master + size {
                    self.check_link(replica, master).await?;
                }
            }
            Ok(())
        })
        .await
    }

    async fn check_replicas(&self, name: &str, master: usize) -> Result<(), String> {
        let group = self.group_of(name);
        let members = group..group + self.spec.group_size();
        for replica in members.filter(|&index| index != master && self.nodes[index].is_running()) {
            self.check_link(replica, master).await?;
        }
        Ok(())
    }

    async fn check_link(&self, replica: usize, master: usize) -> Result<(), String> {
        let role = self.ask_node(replica, &["ROLE"]).await.map_err(|error| format!("node {replica}: {error}"))?;
        match Role::parse(&role) {
            Some(Role::Replica { port, link_up: true, .. }) if port == self.node_addr(master).port() => Ok(()),
            _ => Err(format!("node {replica} says {role}")),
        }
    }

    async fn check_sentinel(&self, sentinel: usize, name: &str) -> Result<(), String> {
        let complain = |what: &str| format!("sentinel {sentinel}: {what}");
        let master = self.ask_sentinel(sentinel, &["SENTINEL", "MASTER", name]).await;
        let master = master.map_err(|error| complain(&error.to_string()))?;
        if master.field("flags") != Some("master") {
            return Err(complain(&format!("the master's flags are {:?}", master.field("flags"))));
        }
        let running_sentinels = self.sentinels.iter().filter(|sentinel| sentinel.is_running()).count();
        for (what, expected, flags) in
            [("REPLICAS", self.running_replicas(name), "slave"), ("SENTINELS", running_sentinels - 1, "sentinel")]
        {
            let list = self.ask_sentinel(sentinel, &["SENTINEL", what, name]).await;
            let list = list.map_err(|error| complain(&error.to_string()))?;
            let well = list.items().iter().filter(|item| {
                item.field("flags") == Some(flags)
                    && (what == "SENTINELS"
                        || item.field("master-link-status") == Some("ok")
                            && item.field("role-reported") == Some("slave"))
            });
            let well = well.count();
            if well < expected {
                let flags: Vec<_> = list.items().iter().map(|item| (item.field("name"), item.field("flags"))).collect();
                return Err(complain(&format!("{well} of {expected} {what} are well: {flags:?}")));
            }
        }
        Ok(())
    }

    /// The first node of the master called `name`.
    fn group_of(&self, name: &str) -> usize {
        self.spec.masters.iter().position(|other| other == name).unwrap_or(0) * self.spec.group_size()
    }

    fn running_replicas(&self, name: &str) -> usize {
        let group = self.group_of(name);
        let running = self.nodes[group..group + self.spec.group_size()].iter().filter(|node| node.is_running()).count();
        running.saturating_sub(1)
    }
}

/// The address in Sentinel's `[ip, port]`.
fn address(reply: &[Reply]) -> Option<SocketAddr> {
    let [ip, port] = reply else { return None };
    let ip = match ip.text()? {
        "localhost" => IpAddr::from(Ipv4Addr::LOCALHOST),
        ip => ip.parse().ok()?,
    };
    Some(SocketAddr::new(ip, port.text()?.parse().ok()?))
}

/// Probes every 20 ms until the probe succeeds; its last complaint is in the error.
pub async fn until<T>(
    what: &str,
    limit: Duration,
    mut probe: impl AsyncFnMut() -> Result<T, String>,
) -> Result<T, ClusterError> {
    let started = Instant::now();
    loop {
        match probe().await {
            Ok(value) => return Ok(value),
            Err(last) if started.elapsed() > limit => {
                return Err(ClusterError::TimedOut { what: what.into(), limit, last });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn within_a_second<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(Duration::from_secs(1), work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
