//! The checker checked: it sees no fault where there is none, and every fault that is made on purpose.

use std::time::{Duration, Instant};

use switchmaster::demo::cluster::{Cluster, ClusterSpec, until};
use switchmaster::demo::load::{Load, LoadSpec};

const LIMIT: Duration = Duration::from_secs(30);

#[tokio::test]
async fn sees_no_fault_in_calm_and_every_fault_of_a_direct_connection() {
    let cluster = Cluster::start(ClusterSpec::with_password("secret")).await.unwrap();
    let spec = LoadSpec {
        writers: 8,
        readers: 4,
        counters: 2,
        scripts: 1,
        idle: 2,
        rate: 100.0,
        script_time: Duration::from_millis(2),
        auth: cluster.auth(),
        ..LoadSpec::none()
    };
    let load = Load::start(cluster.node_addr(0), spec).unwrap();
    load.wait_until_served(LIMIT).await.unwrap();
    until("some traffic", LIMIT, async || if load.answered() > 2_000 { Ok(()) } else { Err(String::new()) })
        .await
        .unwrap();
    let calm = load.report();
    assert_eq!(calm.broken_promises(&[]), 0, "{calm}");
    let verdict = load.verify(cluster.node_addr(0)).await.unwrap();
    assert!(verdict.acknowledged > 500 && verdict.missing + verdict.foreign + verdict.doubled == 0, "{verdict}");

    // Clients of the old master go on writing to it, and nobody will ever have those writes.
    let accepted = cluster.failover(LIMIT).await.unwrap();
    let new = cluster.wait_for_master_change(0, LIMIT).await.unwrap();
    let answered = load.answered();
    until("more traffic", LIMIT, async || if load.answered() > answered + 200 { Ok(()) } else { Err(String::new()) })
        .await
        .unwrap();
    let verdict = load.verify(cluster.node_addr(new)).await.unwrap();
    assert!(verdict.missing > 0, "{verdict}");

    let killed = cluster.node(0).kill9();
    until("the losses to be seen", LIMIT, async || {
        if load.report_since(killed).connections_lost == 17 { Ok(()) } else { Err(load.report().to_string()) }
    })
    .await
    .unwrap();
    assert_eq!(load.report_between(accepted, killed).connections_lost, 0);
    assert!(load.first_replies_after(Instant::now()).iter().all(Option::is_none));
    let report = load.stop(LIMIT).await.unwrap();
    assert_eq!(report.connections_lost, 17, "{report}");
    assert!(report.refused > 0, "{report}");
}

#[tokio::test]
async fn measures_a_pause_and_a_reply_that_never_comes() {
    let spec = ClusterSpec { replicas: 0, sentinels: 1, down_after: Duration::from_secs(60), ..ClusterSpec::default() };
    let cluster = Cluster::start(spec).await.unwrap();
    let spec =
        LoadSpec { writers: 2, counters: 1, pipeline: 4, reply_limit: Duration::from_millis(500), ..LoadSpec::none() };
    let load = Load::start(cluster.node_addr(0), spec).unwrap();
    load.wait_until_served(LIMIT).await.unwrap();
    cluster.node(0).stop();
    let mut answered = 0;
    until("what it had answered to be read", LIMIT, async || match std::mem::replace(&mut answered, load.answered()) {
        before if before == answered => Ok(()),
        before => Err(format!("{} more", answered - before)),
    })
    .await
    .unwrap();
    let silent = Instant::now();
    until("a pause", LIMIT, async || {
        if load.report().longest_pause() > Duration::from_millis(200) { Ok(()) } else { Err(String::new()) }
    })
    .await
    .unwrap();
    let paused = silent.elapsed();
    cluster.node(0).cont();
    let served = load.longest_wait_after(silent);
    assert!(served >= paused, "{served:?} of {paused:?}");
    assert_eq!(load.report().broken_promises(&[]), 0);

    cluster.node(0).stop();
    until(
        "requests to hang",
        LIMIT,
        async || {
            if load.report().hung >= 9 { Ok(()) } else { Err(load.report().to_string()) }
        },
    )
    .await
    .unwrap();
    cluster.node(0).cont();
    let answered = load.answered();
    until("service", LIMIT, async || if load.answered() > answered + 50 { Ok(()) } else { Err(String::new()) })
        .await
        .unwrap();
    let report = load.stop(LIMIT).await.unwrap();
    assert!(report.hung >= 9 && report.doubled == 0, "{report}");
    // What was buffered in the stopped server's socket ran when it went on.
    let verdict = load.verify(cluster.node_addr(0)).await.unwrap();
    assert!(verdict.unacknowledged_ran > 0 && verdict.missing == 0 && verdict.doubled == 0, "{verdict}");
}
