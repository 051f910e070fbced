//! A cluster with the proxy in front of it, and what a failover test asks of the two.
//!
//! Whatever it waits for has a limit, and what was the case instead is in the message.

use std::time::{Duration, Instant};

use switchmaster::demo::cluster::{Cluster, ClusterSpec, until};
use switchmaster::demo::load::{Load, LoadSpec};
use switchmaster::demo::proxy::Proxy;
use switchmaster::demo::wire::{Reply, Wire};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::proxy;

/// How long anything may take.
pub const LIMIT: Duration = Duration::from_secs(40);
/// Lines that one failover may log.
pub const MOST_LINES: usize = 12;

/// A fresh cluster and a fresh proxy.
#[derive(Debug)]
pub struct Stage {
    // Dropped first: it must not log the end of the cluster as a failover.
    pub proxy: Proxy,
    pub cluster: Cluster,
}

impl Stage {
    /// The cluster of the acceptance tests: a password, two replicas, three Sentinels, down-after 1 s.
    pub async fn start() -> Stage {
        Stage::with(ClusterSpec::with_password("secret"), &[]).await
    }

    /// Another cluster, and settings of the proxy.
    pub async fn with(spec: ClusterSpec, settings: &[(&str, &str)]) -> Stage {
        let cluster = Cluster::start(spec).await.unwrap();
        let mut spec = proxy::spec(&cluster);
        for (name, value) in settings {
            spec.set(name, *value);
        }
        let proxy = proxy::start_as(&spec).await;
        let stage = Stage { proxy, cluster };
        stage.settled().await;
        stage
    }

    /// Waits until the proxy follows the master that all Sentinels name, confirmed by the epoch.
    pub async fn settled(&self) {
        let sentinels = self.cluster.sentinels().iter().filter(|sentinel| sentinel.is_running()).count();
        until("the proxy to be settled", LIMIT, async || {
            let metrics = self.metrics().await;
            let agreeing = value_of(&metrics, "switchmaster_sentinels_agreeing");
            let stable = value_of(&metrics, "switchmaster_phase{phase=\"stable\"}");
            let confirmed = metrics.contains("provisional=\"false\"");
            if agreeing == sentinels as f64 && stable == 1.0 && confirmed { Ok(()) } else { Err(metrics) }
        })
        .await
        .unwrap();
    }

    /// A load through the proxy, served.
    pub async fn load(&self, spec: LoadSpec) -> Load {
        let load = Load::start(self.proxy.addr(), LoadSpec { auth: self.cluster.auth(), ..spec }).unwrap();
        load.wait_until_served(LIMIT).await.unwrap();
        load
    }

    /// A connection through the proxy, authenticated.
    pub async fn open(&self) -> Wire {
        soon(Wire::open(self.proxy.addr(), self.cluster.auth().as_ref(), 0)).await.unwrap()
    }

    /// Waits until every replica of the present master has confirmed what the master has now: until then Sentinel may
    /// promote one that lacks it.
    pub async fn caught_up(&self) {
        let mut goal = None;
        until("the replicas to catch up", LIMIT, async || {
            let master = self.cluster.who_is_master().await?;
            let info =
                self.cluster.ask_node(master, &["INFO", "replication"]).await.map_err(|error| error.to_string())?;
            let info = info.text().unwrap_or_default();
            let number =
                |line: &str, mark: &str| line.split_once(mark)?.1.split(',').next()?.trim().parse::<u64>().ok();
            let has = info.lines().find_map(|line| number(line, "master_repl_offset:")).ok_or(info)?;
            let goal = *goal.get_or_insert(has);
            let replicas: Vec<&str> =
                info.lines().filter(|line| line.starts_with("slave") && line.contains(":ip=")).collect();
            let behind = |line: &&&str| !line.contains("state=online") || number(line, "offset=") < Some(goal);
            let mut following = 0;
            for node in (0..self.cluster.nodes().len()).filter(|&node| node != master) {
                let role = self.cluster.ask_node(node, &["ROLE"]).await.map_err(|error| error.to_string())?;
                following += usize::from(role.items().first().and_then(Reply::text) == Some("slave"));
            }
            if !replicas.is_empty() && replicas.len() == following && replicas.iter().filter(behind).count() == 0 {
                Ok(())
            } else {
                Err(info.to_owned())
            }
        })
        .await
        .unwrap();
    }

    /// `SENTINEL FAILOVER`, repeated should Sentinel give it up: when it was first asked, and the new master.
    pub async fn fail_over(&self) -> (Instant, usize) {
        let old = until("a master", LIMIT, async || self.cluster.who_is_master().await).await.unwrap();
        let asked = self.cluster.failover(LIMIT).await.unwrap();
        for _ in 0..3 {
            if let Ok(new) = self.cluster.wait_for_master_change(old, LIMIT / 4).await {
                return (asked, new);
            }
            println!("Sentinel gave the failover up: again");
            let _ = self.cluster.failover(Duration::from_secs(5)).await;
        }
        (asked, self.cluster.wait_for_master_change(old, LIMIT).await.unwrap())
    }

    /// `kill -9` of node `index`, the master: when, and the new master.
    pub async fn crash(&self, index: usize) -> (Instant, usize) {
        let killed = self.cluster.node(index).kill9();
        (killed, self.cluster.wait_for_master_change(index, LIMIT).await.unwrap())
    }

    /// Everything at /metrics.
    pub async fn metrics(&self) -> String {
        let work = async {
            let mut stream = TcpStream::connect(self.proxy.admin()).await?;
            let request = format!("GET /metrics HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.proxy.admin());
            stream.write_all(request.as_bytes()).await?;
            let mut text = String::new();
            stream.read_to_string(&mut text).await?;
            Ok::<_, std::io::Error>(text)
        };
        soon(work).await.unwrap()
    }

    /// The sum of a metric over its labels, or with the labels that are part of `name`.
    pub async fn metric(&self, name: &str) -> f64 {
        value_of(&self.metrics().await, name)
    }

    /// Lines that the proxy has logged.
    pub fn lines(&self) -> usize {
        self.proxy.log().lines().count()
    }

    /// Resident memory of the proxy in bytes.
    pub fn resident(&self) -> f64 {
        proxy::memory(&self.proxy, "VmRSS") as f64
    }
}

/// Waits until every client of `load` that asks has had a right reply after `moment`.
pub async fn served(load: &Load, moment: Instant) {
    until("every client to be served", LIMIT, async || {
        let waiting = load.first_replies_after(moment).iter().filter(|reply| reply.is_none()).count();
        if waiting == 0 { Ok(()) } else { Err(format!("{waiting} wait; {}", load.report())) }
    })
    .await
    .unwrap();
}

/// Waits until `count` more requests were answered.
pub async fn more(load: &Load, count: u64) {
    let enough = load.answered() + count;
    until(
        "more traffic",
        LIMIT,
        async || {
            if load.answered() >= enough { Ok(()) } else { Err(load.report().to_string()) }
        },
    )
    .await
    .unwrap();
}

/// Nothing waits for ever.
pub async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, work).await.unwrap_or_else(|_| panic!("not within {LIMIT:?}"))
}

/// One request and its reply, on a connection that must not end.
pub async fn ask(wire: &mut Wire, request: &[&str]) -> Reply {
    match soon(wire.ask(request)).await {
        Ok(reply) => reply,
        Err(error) => panic!("{}: {error}", request[0]),
    }
}

fn value_of(metrics: &str, name: &str) -> f64 {
    // More labels may follow those in `name`.
    let name = name.strip_suffix('}').unwrap_or(name);
    let values = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix(name).filter(|rest| rest.starts_with([' ', '{', ',', '}']))?;
        rest.rsplit(' ').next()?.parse::<f64>().ok()
    });
    values.sum()
}
