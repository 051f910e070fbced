//! The cluster, the proxy in front of it, and how each fault is inflicted and healed.
//!
//! Nothing waits without a limit; a limit that is exceeded is a violation or an error with what was seen last.

use std::cell::Cell;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use switchmaster::demo::cluster::{Cluster, ClusterSpec, Member, until};
use switchmaster::demo::proxy::{Proxy, ProxySpec};
use switchmaster::demo::relay::Passage;
use switchmaster::demo::wire::Reply;
use switchmaster::net::ListenAddr;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::namespace::Namespace;
use super::schedule::{Fault, Kind};

const LIMIT: Duration = Duration::from_secs(40);
const SENTINELS: usize = 3;
const NODES: usize = 3;

/// What a test fails with.
pub type Failure = Box<dyn std::error::Error>;

/// Everything that faults are inflicted on.
#[derive(Debug)]
pub struct World {
    /// The servers.
    pub cluster: Cluster,
    /// The proxy.
    pub proxy: Proxy,
    /// Where clients connect.
    pub door: ListenAddr,
    /// When a planned failover was last asked for.
    pub failover_asked: Cell<Option<Instant>>,
    _dir: TempDir,
    namespace: Option<Namespace>,
    hasty: bool,
}

impl World {
    /// Starts it all. `hasty`: Sentinels look at nodes each second, not each ten, so that they heal sooner.
    pub async fn start(namespace: Option<Namespace>, hasty: bool) -> Result<World, Failure> {
        let cluster = Cluster::start(ClusterSpec {
            failover_timeout: Duration::from_secs(3),
            appendonly: true,
            partitionable: true,
            // Without fsync an append is never postponed: what was acknowledged is in the file when the process dies.
            node_config: vec!["appendfsync no".into(), "repl-timeout 5".into(), "repl-ping-replica-period 1".into()],
            ..ClusterSpec::with_password("chaos")
        })
        .await?;
        let mut spec = ProxySpec::of(&cluster, env!("CARGO_BIN_EXE_switchmaster"));
        if let Some(namespace) = &namespace {
            let named = (0..SENTINELS)
                .map(|index| format!("{}:{}", namespace.sentinel_name(index), cluster.sentinel_addr(index).port()));
            spec.set("SWITCHMASTER_SENTINELS", named.collect::<Vec<_>>().join(","));
        }
        for (name, value) in std::env::vars().filter(|(name, _)| name.starts_with("CHAOS_PROXY_")) {
            spec.set(&name.replace("CHAOS_PROXY_", "SWITCHMASTER_"), value);
        }
        let dir = tempfile::tempdir()?;
        let socket = dir.path().join("redis.sock");
        spec.also_listen.push(format!("unix:{}", socket.display()));
        let proxy = Proxy::start(&spec).await?;
        let is_unix = std::env::var_os("CHAOS_UNIX").is_some_and(|value| !value.is_empty());
        let door = if is_unix { ListenAddr::Unix(socket) } else { ListenAddr::Tcp(proxy.addr()) };
        let failover_asked = Cell::new(None);
        let world = World { cluster, proxy, door, failover_asked, _dir: dir, namespace, hasty };
        world.hurry().await;
        world.wait_until_followed().await?;
        Ok(world)
    }

    /// The name of the node that is master, which the cluster agrees on.
    pub async fn master(&self) -> Result<usize, Failure> {
        Ok(until("a master", LIMIT, async || self.cluster.who_is_master().await).await?)
    }

    /// Inflicts a fault on the master `old`, and returns when it has had its effect; some of it is left for `heal`.
    pub async fn inflict(&self, fault: &Fault, old: usize) -> Result<(), Failure> {
        let cluster = &self.cluster;
        let sentinel = fault.which % SENTINELS;
        let replica = (old + 1 + fault.which % (NODES - 1)) % NODES;
        let pause = |most: u64| sleep(Duration::from_millis((fault.depth * most as f64) as u64));
        match fault.kind {
            Kind::Planned => _ = self.fail_over(old).await?,
            Kind::PlannedTwice => {
                if fault.twist {
                    self.let_list_replicas(sentinel, false).await?;
                }
                let second = self.fail_over(old).await?;
                pause(300).await;
                self.fail_over(second).await?;
            }
            Kind::PlannedThenKill => {
                cluster.failover(LIMIT).await?;
                pause(2500).await;
                let victim = if fault.twist { old } else { self.another_master(old).await.unwrap_or(old) };
                cluster.node(victim).kill9();
                until("a living master", LIMIT, async || cluster.who_is_master().await).await?;
            }
            Kind::Kill => {
                if fault.twist {
                    self.slow_down(old, Duration::from_millis(40));
                    sleep(Duration::from_millis(300)).await;
                }
                cluster.node(old).kill9();
                if let (true, Some(relay)) = (fault.twist, cluster.relay(Member::Node(old))) {
                    // What was on its way is lost, as it would be with the host.
                    relay.set(Passage::Refuse);
                    relay.set_for([127, 0, 0, 1].into(), Passage::Refuse);
                }
                cluster.wait_for_master_change(old, LIMIT).await?;
            }
            Kind::KillTwice => {
                cluster.node(old).kill9();
                let second = cluster.wait_for_master_change(old, LIMIT).await?;
                pause(500).await;
                cluster.node(second).kill9();
                cluster.node(old).restart().await?;
                until("a living master", LIMIT, async || cluster.who_is_master().await).await?;
            }
            Kind::StopShort => {
                cluster.node(old).stop();
                pause(600).await;
                cluster.node(old).cont();
            }
            Kind::StopLong => {
                cluster.node(old).stop();
                cluster.wait_for_master_change(old, LIMIT).await?;
                pause(1000).await;
                cluster.node(old).cont();
            }
            Kind::RestartFast => {
                cluster.node(old).kill9();
                pause(100).await;
                cluster.node(old).restart().await?;
            }
            Kind::RestartEmpty => {
                let dir = cluster.node(old).log_path().parent().map(PathBuf::from).unwrap_or_default();
                cluster.node(old).kill9();
                fs::remove_dir_all(dir.join("appendonlydir"))
                    .or_else(|_| fs::remove_file(dir.join("appendonly.aof")))?;
                cluster.node(old).restart().await?;
                sleep(Duration::from_secs(1)).await;
            }
            Kind::MasterFromSentinels | Kind::MasterFromAll => {
                let mut others: Vec<Member> = (0..SENTINELS).map(Member::Sentinel).collect();
                if fault.kind == Kind::MasterFromAll {
                    others.extend((0..NODES).filter(|&node| node != old).map(Member::Node));
                }
                cluster.partition(&[Member::Node(old)], &others);
                cluster.wait_for_master_change(old, LIMIT).await?;
                pause(1500).await;
            }
            Kind::ProxyFromMaster => {
                cluster.partition(&[Member::Outside], &[Member::Node(old)]);
                sleep(Duration::from_millis(200)).await;
                pause(4000).await;
            }
            Kind::ProxyFromSentinels => {
                let sentinels: Vec<Member> = (0..SENTINELS).map(Member::Sentinel).collect();
                cluster.partition(&[Member::Outside], &sentinels);
                pause(1000).await;
                if fault.twist {
                    self.fail_over(old).await?;
                }
                pause(1500).await;
            }
            Kind::HalfOpen => {
                let namespace = self.namespace()?;
                namespace.mute(cluster.node_addr(old).port())?;
                cluster.wait_for_master_change(old, LIMIT).await?;
                pause(1500).await;
            }
            Kind::SlowReplies => {
                self.slow_down(old, Duration::from_millis(20 + (fault.depth * 150.0) as u64));
                sleep(Duration::from_secs(2)).await;
            }
            Kind::ReplicaLoss => {
                cluster.node(replica).kill9();
                pause(2000).await;
            }
            Kind::SentinelKilled => {
                cluster.sentinel(sentinel).kill9();
                pause(500).await;
                if fault.twist {
                    self.fail_over(old).await?;
                }
            }
            Kind::SentinelStopped => {
                cluster.sentinel(sentinel).stop();
                pause(1500).await;
                self.fail_over(old).await?;
                cluster.sentinel(sentinel).cont();
            }
            Kind::SentinelLying => {
                let dir = cluster.sentinel(sentinel).log_path().parent().map(PathBuf::from).unwrap_or_default();
                let config = dir.join("sentinel.conf");
                let lie = fs::read(&config)?;
                let new = self.fail_over(old).await?;
                cluster.sentinel(sentinel).kill9();
                fs::write(&config, lie)?;
                let others = (0..NODES).map(Member::Node).chain(Self::other_sentinels(sentinel));
                cluster.partition(&[Member::Sentinel(sentinel)], &others.collect::<Vec<_>>());
                cluster.sentinel(sentinel).restart().await?;
                sleep(Duration::from_millis(1500)).await;
                self.follows(new).await?;
            }
            Kind::SentinelIsolated => {
                let others = (0..NODES).map(Member::Node).chain(Self::other_sentinels(sentinel));
                cluster.partition(&[Member::Sentinel(sentinel)], &others.collect::<Vec<_>>());
                pause(1500).await;
                self.fail_over(old).await?;
            }
            Kind::SentinelsRestarted => {
                for sentinel in cluster.sentinels() {
                    sentinel.kill9();
                }
                pause(1500).await;
                for sentinel in cluster.sentinels() {
                    sentinel.restart().await?;
                }
                self.hurry().await;
                if fault.twist {
                    self.fail_over(old).await?;
                }
            }
            Kind::DnsFailure => {
                self.namespace()?.forget_names()?;
                cluster.sentinel(sentinel).restart().await?;
                self.hurry().await;
                // Time to connect again, without the name.
                sleep(Duration::from_millis(1200)).await;
                pause(500).await;
                self.fail_over(old).await?;
            }
        }
        Ok(())
    }

    /// Ends what is left of a fault, and waits until cluster and proxy are whole. Returns the master.
    pub async fn heal(&self) -> Result<usize, Failure> {
        self.cluster.heal();
        if let Some(namespace) = &self.namespace {
            namespace.unmute();
            namespace.restore_names()?;
        }
        for server in self.cluster.nodes().iter().chain(self.cluster.sentinels()) {
            if server.is_running() {
                server.cont();
            } else {
                server.restart().await?;
            }
        }
        for sentinel in 0..SENTINELS {
            self.let_list_replicas(sentinel, true).await?;
        }
        self.hurry().await;
        self.cluster.wait_ready(Duration::from_secs(60)).await?;
        self.wait_until_sentinels_act().await?;
        self.wait_until_followed().await?;
        self.master().await
    }

    /// Waits until no Sentinel is in TILT: one that was stopped watches for 30 s and does not act (sentinel.c), and a
    /// crash meanwhile is an outage that nobody ends.
    async fn wait_until_sentinels_act(&self) -> Result<(), Failure> {
        Ok(until("the Sentinels to leave TILT", Duration::from_secs(60), async || {
            for index in 0..SENTINELS {
                let info = self.cluster.ask_sentinel(index, &["INFO", "sentinel"]).await;
                if !info.map_err(|error| error.to_string())?.to_string().contains("sentinel_tilt:0") {
                    return Err(format!("Sentinel {index} is in TILT"));
                }
            }
            Ok(())
        })
        .await?)
    }

    /// Waits until the proxy follows the master that the cluster has, with requests flowing, and hears every Sentinel:
    /// who does not hear the one that leads a failover sees it late.
    async fn wait_until_followed(&self) -> Result<(), Failure> {
        let master = self.master().await?;
        let addr = self.cluster.node_addr(master).to_string();
        Ok(until("the proxy to follow the master", Duration::from_secs(20), async || {
            let status = self.status().await?;
            let (phase, named) = (status["phase"].as_str(), status["master"]["addr"].as_str());
            if phase != Some("stable") || named != Some(&addr) || status["master"]["provisional"] == true {
                return Err(format!("{phase:?} {named:?} {} instead of {addr}", status["reason"]));
            }
            let sentinels = status["sentinels"].as_array().map(Vec::as_slice).unwrap_or_default();
            let heard =
                sentinels.iter().filter(|sentinel| sentinel["connected"] == true && sentinel["names"] == addr.as_str());
            match heard.count() {
                SENTINELS => Ok(()),
                _ => Err(format!("it does not hear every Sentinel: {sentinels:?}")),
            }
        })
        .await?)
    }

    /// Whether the proxy names node `index` now.
    async fn follows(&self, index: usize) -> Result<(), Failure> {
        let (status, addr) = (self.status().await?, self.cluster.node_addr(index).to_string());
        if status["master"]["addr"].as_str() == Some(&addr) {
            return Ok(());
        }
        Err(format!("violation: the proxy follows {} instead of {addr}", status["master"]).into())
    }

    /// Connections of clients, through the proxy, at nodes that are not the master; they have `limit` to go.
    pub async fn strays(&self, master: usize, limit: Duration) -> Vec<String> {
        let began = Instant::now();
        loop {
            let mut strays = Vec::new();
            for node in (0..NODES).filter(|&node| node != master) {
                if let Ok(Reply::Bulk(bytes)) = self.cluster.ask_node(node, &["CLIENT", "LIST"]).await {
                    let list = String::from_utf8_lossy(&bytes).into_owned();
                    let named = list.lines().filter(|line| line.contains("name=chaos-"));
                    strays.extend(named.map(|line| format!("node {node}: {line}")));
                }
            }
            if strays.is_empty() || began.elapsed() > limit {
                return strays;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Open file descriptors of the proxy.
    pub fn descriptors(&self) -> usize {
        let pid = self.proxy.pid().as_raw_nonzero();
        fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
    }

    /// A metric of the proxy with no label but `master`.
    pub async fn metric(&self, name: &str) -> Result<f64, String> {
        let text = self.get("/metrics").await?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('{')?.rsplit(' ').next());
        line.and_then(|value| value.parse().ok()).ok_or(format!("no metric {name}"))
    }

    /// How sessions ended so far, by reason.
    pub async fn closed_sessions(&self) -> String {
        let text = self.get("/metrics").await.unwrap_or_default();
        let reasons = text.lines().filter_map(|line| line.strip_prefix("switchmaster_sessions_closed_total{reason="));
        reasons.filter(|line| !line.ends_with(" 0")).collect::<Vec<_>>().join("\n")
    }

    async fn status(&self) -> Result<serde_json::Value, String> {
        serde_json::from_str(&self.get("/status.json").await?).map_err(|error| error.to_string())
    }

    async fn get(&self, path: &str) -> Result<String, String> {
        let ask = async {
            let mut stream = TcpStream::connect(self.proxy.admin()).await?;
            let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.proxy.admin());
            stream.write_all(request.as_bytes()).await?;
            let mut text = String::new();
            stream.read_to_string(&mut text).await?;
            Ok::<_, std::io::Error>(text)
        };
        let text = tokio::time::timeout(Duration::from_secs(5), ask).await.map_err(|_| "the admin port is silent")?;
        let text = text.map_err(|error| error.to_string())?;
        text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).ok_or_else(|| "not HTTP".into())
    }

    /// A planned failover away from `old`, to its end.
    pub async fn fail_over(&self, old: usize) -> Result<usize, Failure> {
        self.failover_asked.set(Some(Instant::now()));
        self.cluster.failover(LIMIT).await?;
        match self.cluster.wait_for_master_change(old, Duration::from_secs(8)).await {
            Ok(new) => Ok(new),
            // Sentinel gave it up, as it may: once more.
            Err(_) => {
                self.failover_asked.set(Some(Instant::now()));
                self.cluster.failover(LIMIT).await?;
                Ok(self.cluster.wait_for_master_change(old, LIMIT).await?)
            }
        }
    }

    /// Whether a Sentinel says what it knows of the replicas. While one does not, no promotion is followed before the
    /// epoch has risen.
    async fn let_list_replicas(&self, sentinel: usize, may: bool) -> Result<(), Failure> {
        let rule = if may { "+sentinel|replicas" } else { "-sentinel|replicas" };
        let request = ["ACL", "SETUSER", "default", rule];
        Ok(until("a Sentinel to take a rule", LIMIT, async || {
            self.cluster.ask_sentinel(sentinel, &request).await.map(drop).map_err(|error| error.to_string())
        })
        .await?)
    }

    /// What the proxy and node `node` say to each other arrives this much later.
    fn slow_down(&self, node: usize, delay: Duration) {
        if let Some(relay) = self.cluster.relay(Member::Node(node)) {
            relay.set_for([127, 0, 0, 1].into(), Passage::Delay(delay));
        }
    }

    /// A node other than `old` that calls itself a master.
    async fn another_master(&self, old: usize) -> Option<usize> {
        for node in (0..NODES).filter(|&node| node != old) {
            let role = self.cluster.ask_node(node, &["ROLE"]).await.ok()?;
            if role.items().first().and_then(Reply::text) == Some("master") {
                return Some(node);
            }
        }
        None
    }

    fn other_sentinels(but: usize) -> impl Iterator<Item = Member> {
        (0..SENTINELS).filter(move |&sentinel| sentinel != but).map(Member::Sentinel)
    }

    fn namespace(&self) -> Result<&Namespace, Failure> {
        self.namespace.as_ref().ok_or_else(|| "no namespace".into())
    }

    /// Sentinels look at nodes each second. A process forgets it when it ends.
    async fn hurry(&self) {
        if self.hasty {
            for sentinel in 0..SENTINELS {
                let request = ["SENTINEL", "DEBUG", "info-period", "1000", "publish-period", "500"];
                let _ = self.cluster.ask_sentinel(sentinel, &request).await;
            }
        }
    }
}
