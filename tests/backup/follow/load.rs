//! Clients that know what was acknowledged, and what must therefore be there.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use switchmaster::demo::cluster::{Cluster, until};
use switchmaster::wire::{Reply, Wire};

use super::LIMIT;

/// A client that counts in several databases, and knows what was acknowledged.
pub struct Counter {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<(Wire, u64)>,
}

impl Counter {
    /// Goes on from `count`, which is in the data set.
    pub async fn start(cluster: &Cluster, mut count: u64) -> Counter {
        let master = until("a master", LIMIT, async || cluster.who_is_master().await).await.unwrap();
        let mut wire = cluster.connect(master).await.unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                count += 1;
                step(&mut wire, count).await;
                tokio::time::sleep(Duration::from_micros(500)).await;
            }
            (wire, count)
        });
        Counter { stop, task }
    }

    /// Ends, and returns the last count that was acknowledged.
    pub async fn stop(self) -> (Wire, u64) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

/// A counter that is incremented at a steady pace by a client that never waits for one reply before the next request.
pub struct Pace {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Paced>,
}

/// What a [`Pace`] did.
pub struct Paced {
    /// Increments that were acknowledged before the FLUSHALL.
    pub count: u64,
    /// How long they took.
    pub took: Duration,
    /// When (in milliseconds since 1970) so many had been sent, before they were.
    pub sent: Vec<(u64, u64)>,
}

impl Pace {
    /// So many increments of `counter` a second; what a busy machine misses is made up for.
    pub async fn start(cluster: &Cluster, per_second: u64) -> Pace {
        let master = until("a master", LIMIT, async || cluster.who_is_master().await).await.unwrap();
        let mut wire = cluster.connect(master).await.unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let (began, mut count, mut sent) = (Instant::now(), 0, Vec::new());
            while !stopped.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(2)).await;
                let due = began.elapsed().as_millis() as u64 * per_second / 1000;
                let batch = due.saturating_sub(count).min(per_second);
                sent.push((now_ms(), count + batch));
                increment(&mut wire, count, batch, &[]).await;
                count += batch;
            }
            // The accident in the midst of it, between two increments.
            increment(&mut wire, count, 50, &["FLUSHALL"]).await;
            let took = began.elapsed();
            increment(&mut wire, 0, 50, &[]).await;
            Paced { count: count + 50, took, sent }
        });
        Pace { stop, task }
    }

    /// FLUSHALL, and some increments more.
    pub async fn flush(self) -> Paced {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

impl Paced {
    /// Increments a second.
    pub fn rate(&self) -> f64 {
        self.count as f64 / self.took.as_secs_f64()
    }
}

/// `batch` increments of a counter that is at `count`, and a last request, in one go.
async fn increment(wire: &mut Wire, count: u64, batch: u64, last: &[&str]) {
    let mut bytes = Vec::new();
    (0..batch).for_each(|_| switchmaster::wire::encode(&mut bytes, &["INCR", "counter"]));
    if !last.is_empty() {
        switchmaster::wire::encode(&mut bytes, last);
    }
    wire.send(&bytes).await.unwrap();
    for number in 1..=batch {
        assert_eq!(wire.receive().await.unwrap(), Reply::Integer((count + number) as i64));
    }
    if !last.is_empty() {
        assert_eq!(wire.receive().await.unwrap(), Reply::Simple("OK".into()), "{last:?}");
    }
}

/// Counts to `count` in databases 0 (a transaction), 1 (a script, expiring keys) and 9 (single commands).
pub async fn step(wire: &mut Wire, count: u64) {
    let text = count.to_string();
    let tail = format!("k:{}", count % 100);
    let lua = "redis.call('SELECT', 1) redis.call('INCR', KEYS[1]) redis.call('HSET', 'h', ARGV[1], ARGV[1]) return 1";
    let requests: &[&[&str]] = &[
        &["MULTI"],
        &["INCR", "counter"],
        &["RPUSH", "list", &text],
        &["LTRIM", "list", "-50", "-1"],
        &["EXEC"],
        &["EVAL", lua, "1", "counter", &tail],
        &["SELECT", "1"],
        &["SET", &tail, &text, "EX", "100000"],
        &["SET", "short", &text, "PX", "5"],
        &["SELECT", "9"],
        &["INCR", "counter"],
        &["SADD", "set", &tail],
        &["SELECT", "0"],
    ];
    let mut bytes = Vec::new();
    requests.iter().for_each(|request| switchmaster::wire::encode(&mut bytes, request));
    wire.send(&bytes).await.unwrap();
    for request in requests {
        let reply = wire.receive().await.unwrap();
        assert!(!matches!(reply, Reply::Error(_)), "{request:?}: {reply}");
    }
}

/// The counters of the three databases.
pub async fn counters(addr: SocketAddr) -> Vec<String> {
    let mut found = Vec::new();
    for db in [0, 1, 9] {
        let reply = Wire::open(addr, None, db).await.unwrap().ask(&["GET", "counter"]).await.unwrap();
        found.push(reply.text().unwrap_or("none").to_owned());
    }
    found
}

pub fn all(count: u64) -> Vec<String> {
    vec![count.to_string(); 3]
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64
}
