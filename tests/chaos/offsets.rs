//! What each node says of its replication stream, sampled all the time: the proof that a write was or was not copied.
//!
//! It asks past every relay, on a thread of its own, and only remembers.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use switchmaster::demo::cluster::Cluster;
use switchmaster::demo::wire::{Reply, Wire};
use tokio::time::{sleep, timeout};

const INTERVAL: Duration = Duration::from_millis(20);

/// What a node said.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Which.
    pub node: usize,
    /// When it was asked: everything acknowledged before is in `offset`.
    pub asked: Instant,
    /// It calls itself a master.
    pub is_master: bool,
    /// `master_repl_offset`
    pub offset: i64,
    /// The beginning of `master_replid`: which history `offset` counts in.
    pub history: u64,
    /// `second_repl_offset − 1`: what it had of the stream before it was promoted.
    pub inherited: i64,
    /// The beginning of `master_replid2`: which history that was.
    pub inherited_history: u64,
}

/// The sampler; its thread ends with the program.
#[derive(Debug)]
pub struct Offsets(Arc<Mutex<Vec<Sample>>>);

impl Offsets {
    /// Samples every node of `cluster`.
    pub fn start(cluster: &Cluster) -> Offsets {
        let nodes: Vec<SocketAddr> = cluster.nodes().iter().map(|node| node.addr()).collect();
        let password = cluster.spec().password.clone();
        let samples = Arc::new(Mutex::new(Vec::new()));
        let seen = samples.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let watches = nodes
                    .into_iter()
                    .enumerate()
                    .map(|(node, addr)| tokio::spawn(watch(node, addr, password.clone(), seen.clone())));
                for watch in watches.collect::<Vec<_>>() {
                    let _ = watch.await;
                }
            });
        });
        Offsets(samples)
    }

    /// The samples since `from`; older ones than a minute before it are forgotten.
    pub fn since(&self, from: Instant) -> Vec<Sample> {
        let mut samples = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(limit) = from.checked_sub(Duration::from_secs(60)) {
            samples.retain(|sample| sample.asked > limit);
        }
        samples.iter().filter(|sample| sample.asked >= from).copied().collect()
    }
}

async fn watch(node: usize, addr: SocketAddr, password: Option<String>, seen: Arc<Mutex<Vec<Sample>>>) {
    loop {
        let _ = listen(node, addr, password.as_deref(), &seen).await;
        sleep(INTERVAL).await;
    }
}

async fn listen(
    node: usize,
    addr: SocketAddr,
    password: Option<&str>,
    seen: &Mutex<Vec<Sample>>,
) -> std::io::Result<()> {
    let mut wire = Wire::connect(addr).await?;
    if let Some(password) = password {
        wire.ask(&["AUTH", password]).await?;
    }
    loop {
        let asked = Instant::now();
        let reply = timeout(Duration::from_secs(20), wire.ask(&["INFO", "replication"])).await??;
        if let Some(sample) = reply.text().and_then(|text| read(node, asked, text)) {
            seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(sample);
        } else if let Reply::Error(error) = reply {
            return Err(std::io::Error::other(error));
        }
        sleep(INTERVAL).await;
    }
}

fn read(node: usize, asked: Instant, info: &str) -> Option<Sample> {
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let history = |name: &str| u64::from_str_radix(field(name)?.get(..16)?, 16).ok();
    Some(Sample {
        node,
        asked,
        is_master: field("role")? == "master",
        offset: field("master_repl_offset")?.parse().ok()?,
        history: history("master_replid")?,
        inherited: field("second_repl_offset")?.parse::<i64>().ok()? - 1,
        inherited_history: history("master_replid2")?,
    })
}
