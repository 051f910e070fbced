//! Starts and restarts in the middle of a planned failover: no acknowledged write is missing.

use std::time::Duration;

use switchmaster::demo::cluster::{Cluster, ClusterSpec};
use switchmaster::demo::proxy::{Proxy, ProxySpec};
use switchmaster::demo::wire::{Reply, Wire};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use crate::support::figures::turn;
use crate::support::proxy::{spec, start_as, wait_settled, wait_stable};
use crate::support::stage::{LIMIT, soon};

/// After `SENTINEL FAILOVER`, in milliseconds: before and after the promotion (0.2 s), before and after the epoch (1.1 s).
const INSTANTS: [u64; 6] = [0, 120, 300, 700, 1100, 2000];

/// One proxy at each instant, with a list of its own.
struct Starter {
    list: String,
    writer: JoinHandle<(Proxy, usize)>,
}

#[tokio::test]
async fn a_start_in_a_planned_failover_loses_no_acknowledged_write() {
    let _turn = turn().await;
    let cluster = Cluster::start(ClusterSpec::with_password("secret")).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut restarted = Vec::new();
    for instant in INSTANTS {
        let mut spec = spec(&cluster);
        spec.set("SWITCHMASTER_STATE_DIR", dir.path().join(instant.to_string()).display().to_string());
        std::fs::create_dir(dir.path().join(instant.to_string())).unwrap();
        let proxy = start_as(&spec).await;
        wait_settled(&proxy, &cluster).await;
        restarted.push((instant, spec, Some(proxy)));
    }
    let first = INSTANTS.iter().map(|&instant| (instant, spec(&cluster), None));
    let all: Vec<_> = restarted.into_iter().chain(first).collect();

    cluster.failover(LIMIT).await.unwrap();
    let asked = Instant::now();
    let auth = cluster.spec().password.clone().unwrap();
    let starters: Vec<Starter> = all
        .into_iter()
        .map(|(instant, spec, before)| {
            let list = format!("{}-{instant}", if before.is_some() { "again" } else { "first" });
            let writer = tokio::spawn(start_and_write(
                asked + Duration::from_millis(instant),
                spec,
                before,
                list.clone(),
                auth.clone(),
            ));
            Starter { list, writer }
        })
        .collect();
    let new = cluster.wait_for_master_change(0, LIMIT).await.unwrap();
    // Until then the old master takes writes from whoever sends them there.
    cluster.wait_replicating(LIMIT).await.unwrap();
    let mut direct = cluster.connect(new).await.unwrap();
    for Starter { list, writer } in starters {
        let (proxy, acknowledged) = writer.await.unwrap();
        wait_stable(&proxy).await;
        let reply = soon(direct.ask(&["LRANGE", &list, "0", "-1"])).await.unwrap();
        let have: std::collections::HashSet<&str> = reply.items().iter().filter_map(Reply::text).collect();
        let missing = (0..acknowledged).filter(|number| !have.contains(number.to_string().as_str())).count();
        println!("{list}: {acknowledged} acknowledged, {missing} missing");
        assert!(acknowledged > 0, "{list}\n{}", proxy.log());
        assert_eq!(missing, 0, "{list}: of {acknowledged}\n{}", proxy.log());
    }
}

/// Starts the proxy then, or again, and pushes 0, 1, 2, … for some seconds; how many were acknowledged.
async fn start_and_write(
    at: Instant,
    spec: ProxySpec,
    before: Option<Proxy>,
    list: String,
    password: String,
) -> (Proxy, usize) {
    sleep_until(at).await;
    drop(before);
    let proxy = Proxy::start(&spec).await.unwrap_or_else(|error| panic!("{error}"));
    let (end, mut acknowledged, mut open) = (Instant::now() + Duration::from_secs(4), 0, None);
    while Instant::now() < end || acknowledged == 0 {
        let attempt = async {
            let mut wire = match open.take() {
                Some(wire) => wire,
                None => {
                    let mut wire = Wire::connect(proxy.addr()).await?;
                    wire.ask(&["AUTH", &password]).await?;
                    wire
                }
            };
            let reply = wire.ask(&["RPUSH", &list, &acknowledged.to_string()]).await?;
            Ok::<_, std::io::Error>((wire, reply))
        };
        if let Ok((wire, reply)) = soon(attempt).await {
            acknowledged += usize::from(matches!(reply, Reply::Integer(_)));
            open = Some(wire);
        }
        sleep(Duration::from_millis(2)).await;
    }
    (proxy, acknowledged)
}
