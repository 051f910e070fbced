//! What a backup costs: the master's latency beside one, and the memory of the program. Minutes long, so only when asked
//! for: `cargo test --release --test backup measure:: -- --ignored --nocapture --test-threads 1`.
//!
//! `MEASURE_MIB` is the size of the data set (512 and 2048), `MEASURE_PAIRS` the number of pairs of rounds (6). Where
//! there are two cores, the master and its clients have the first one, the replica and the backup the second, as if
//! they were two hosts. Two hosts do not share a disk either: `TMPDIR=/dev/shm` keeps it out. Values are noise: the RDB
//! is as large as the data, and so is what is stored.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use switchmaster::demo::cluster::ClusterSpec;
use switchmaster::demo::server::Server;
use switchmaster::wire::{Reply, encode};
use tokio::process::Command;

use crate::create::site::Site;
use crate::support::bucket::{BUCKET, Bucket, KEY_ID, SECRET};
use crate::support::sentinels::known_replicas;

const MIB: usize = 1 << 20;
/// Bytes of one value of the data set.
const VALUE: usize = 16 * 1024;
/// No backup may take more of the host's memory.
const MOST_KIB: u64 = 64 * 1024;
/// Clients of the load, and requests each second of all of them, every second one a write.
const CLIENTS: u32 = 8;
const RATE: u32 = 4000;
/// A round without a backup.
const ALONE: Duration = Duration::from_secs(15);

fn number(variable: &str, or: usize) -> usize {
    std::env::var(variable).map_or(or, |value| value.parse().expect("a number"))
}

#[tokio::test]
#[ignore = "minutes, and a quiet machine"]
async fn the_master_does_not_feel_a_backup() {
    let site = Site::start(ClusterSpec { replicas: 1, ..ClusterSpec::default() }).await;
    noise(&site, number("MEASURE_MIB", 512)).await;
    let pid = |server: &Server| server.pid().unwrap().as_raw_nonzero().get();
    let mut others = site.cluster.sentinels().iter().chain([site.cluster.node(1)]);
    let own = std::process::id() as i32;
    let two = others.all(|server| pin(pid(server), 1)) && pin(own, 0) && pin(pid(site.cluster.node(0)), 0);
    println!("{}", if two { "the master and its clients on one core, the rest on the other" } else { "one core" });
    let addr = site.cluster.node_addr(0);
    load(addr, || std::thread::sleep(Duration::from_secs(3))).await;

    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    println!("round      requests     p50     p99   p99.9     max  (ms)");
    for round in 0..number("MEASURE_PAIRS", 6) {
        let without = load(addr, || std::thread::sleep(ALONE)).await;
        let environment = site.environment();
        let with = load(addr, move || {
            let (program, pinned) = (env!("CARGO_BIN_EXE_switchmaster"), ["taskset", "-c", "1"]);
            let words: Vec<&str> = pinned[..if two { 3 } else { 0 }].iter().copied().chain([program]).collect();
            let mut command = std::process::Command::new(words[0]);
            command.args(&words[1..]).args(["backup", "create"]).env_clear().envs(environment);
            let ended = command.output().unwrap();
            assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
            print!("{}", String::from_utf8_lossy(&ended.stdout));
        })
        .await;
        for (name, histogram) in [("alone", &without), ("beside", &with)] {
            let at = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1e6;
            let [p50, p99, p999] = [0.5, 0.99, 0.999].map(at);
            println!("{round} {name:<8} {:>8} {p50:7.3} {p99:7.3} {p999:7.3} {:7.3}", histogram.len(), at(1.0));
        }
        alone.push(without.value_at_quantile(0.99) as f64 / 1e6);
        beside.push(with.value_at_quantile(0.99) as f64 / 1e6);
        // Whatever is stored would only fill the disk.
        fs::remove_dir_all(site.folder().join("store/mymaster")).unwrap();
    }
    let mut differences: Vec<f64> = beside.iter().zip(&alone).map(|(with, without)| with - without).collect();
    let median = |values: &mut Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let [without, with, more] = [&mut alone, &mut beside, &mut differences].map(median);
    println!("median p99: alone {without:.3} ms, beside a backup {with:.3} ms, of the differences {more:+.3} ms");
    for names in known_replicas(&site.cluster).await {
        assert_eq!(names.len(), 1, "no Sentinel has learnt of another replica: {names:?}");
    }
}

#[tokio::test]
#[ignore = "minutes, and 10 GiB of disk"]
async fn memory_does_not_grow_with_the_data() {
    let mib = number("MEASURE_MIB", 2048);
    let site = Site::start(ClusterSpec { replicas: 1, ..ClusterSpec::default() }).await;
    noise(&site, mib).await;
    let bucket = Bucket::start().await;
    let endpoint = format!("http://{}", bucket.addr);
    let s3: Vec<(&str, String)> = vec![
        ("SWITCHMASTER_BACKUP_STORE", format!("s3://{BUCKET}/some/prefix")),
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_ACCESS_KEY_ID", KEY_ID.to_owned()),
        ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
    ];
    let target = site.folder().join("fetched.rdb");
    let fetch = ["fetch", "--output", target.to_str().unwrap()];
    println!("store   verb      VmHWM KiB   seconds");
    for (store, more) in [("folder", Vec::new()), ("bucket", s3)] {
        for words in [&["create"][..], &["verify"], &fetch] {
            let began = Instant::now();
            let mut command = Command::new(env!("CARGO_BIN_EXE_switchmaster"));
            command.arg("backup").args(words).env_clear().envs(site.environment()).envs(more.iter().cloned());
            let peak = peak(&mut command).await;
            println!("{store:<8}{:<8} {peak:>10} {:>9.1}", words[0], began.elapsed().as_secs_f64());
            assert!(peak > 1024 && peak <= MOST_KIB, "{store} {}: {peak} KiB", words[0]);
        }
        assert!(fs::metadata(&target).unwrap().len() > (mib * MIB) as u64);
        fs::remove_file(&target).unwrap();
    }
}

/// Runs it to its good end: the most memory that it had, in KiB. Its last moments may be missed.
async fn peak(command: &mut Command) -> u64 {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id().unwrap());
    let mut peak = 0;
    let ended = loop {
        if let Some(ended) = child.try_wait().unwrap() {
            break ended;
        }
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let now = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
        peak = peak.max(now.unwrap_or(0));
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert!(ended.success(), "{ended}");
    peak
}

/// Fills the master with so much that nothing packs, and waits for the replica.
async fn noise(site: &Site, mib: usize) {
    let mut wire = site.cluster.connect(0).await.unwrap();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut value = vec![0; VALUE];
    for batch in 0..mib * MIB / VALUE / 64 {
        let mut requests = Vec::new();
        for key in 0..64 {
            for word in value.chunks_mut(8) {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                word.copy_from_slice(&state.to_le_bytes());
            }
            encode(&mut requests, &[b"SET".as_slice(), format!("key:{batch}:{key}").as_bytes(), &value]);
        }
        wire.send(&requests).await.unwrap();
        for _ in 0..64 {
            assert_eq!(wire.receive().await.unwrap(), Reply::Simple("OK".into()));
        }
    }
    site.wait_for_replicas().await;
}

/// Puts a process with all its threads on one core; false where there is no such core.
fn pin(pid: i32, core: u32) -> bool {
    let arguments = ["-a", "-c", "-p", &core.to_string(), &pid.to_string()];
    std::process::Command::new("taskset")
        .args(arguments)
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|ended| ended.success())
}

/// Latencies in nanoseconds of requests at a fixed rate while `meanwhile` runs, each from the moment it was due: one
/// that waits for another has waited.
async fn load(addr: SocketAddr, meanwhile: impl FnOnce() + Send + 'static) -> Histogram<u64> {
    let over = Arc::new(AtomicBool::new(false));
    let began = Instant::now() + Duration::from_millis(50);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let over = over.clone();
            std::thread::spawn(move || one(addr, client, began, &over))
        })
        .collect();
    tokio::task::spawn_blocking(meanwhile).await.unwrap();
    over.store(true, Ordering::Relaxed);
    let mut all = Histogram::new(3).unwrap();
    for client in clients {
        all.add(client.join().unwrap()).unwrap();
    }
    all
}

fn one(addr: SocketAddr, client: u32, began: Instant, over: &AtomicBool) -> Histogram<u64> {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut histogram = Histogram::new(3).unwrap();
    let interval = Duration::from_secs(1) / RATE;
    let (mut request, mut reply) = (Vec::new(), [0; 256]);
    let mut sent = 0;
    while !over.load(Ordering::Relaxed) {
        let due = began + interval * (sent * CLIENTS + client);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let key = format!("load:{client}:{}", sent % 1000);
        request.clear();
        match sent % 2 {
            0 => encode(&mut request, &["SET", &key, &"x".repeat(100)]),
            _ => encode(&mut request, &["STRLEN", &key]),
        }
        stream.write_all(&request).unwrap();
        let mut read = 0;
        while read == 0 || reply[read - 1] != b'\n' {
            read += stream.read(&mut reply[read..]).unwrap();
        }
        assert_ne!(reply[0], b'-', "{}", String::from_utf8_lossy(&reply[..read]));
        histogram.record(due.elapsed().as_nanos().max(1) as u64).unwrap();
        sent += 1;
    }
    histogram
}
