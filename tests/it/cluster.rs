//! The harness itself: a cluster starts, fails over, loses and regains nodes, is partitioned, and leaves nothing behind.

use std::time::Duration;

use rustix::process::test_kill_process;
use switchmaster::demo::cluster::{Cluster, ClusterSpec, Member};
use switchmaster::demo::roles::RoleWatch;

const LIMIT: Duration = Duration::from_secs(30);

#[tokio::test]
async fn fails_over_dies_restarts_and_leaves_no_process() {
    let cluster = Cluster::start(ClusterSpec::with_password("secret")).await.unwrap();
    assert_eq!(cluster.who_is_master().await.unwrap(), 0);

    let roles = RoleWatch::start(&cluster).unwrap();
    let asked = cluster.failover(LIMIT).await.unwrap();
    let promotion = roles.wait_for_promotion(asked, LIMIT).await.unwrap();
    let second = cluster.wait_for_master_change(0, LIMIT).await.unwrap();
    assert_eq!(promotion.node, second);
    assert_eq!(cluster.wait_replicating(LIMIT).await.unwrap(), second);
    assert_eq!(cluster.epoch(LIMIT).await.unwrap(), 1);

    cluster.node(second).kill9();
    cluster.wait_for_master_change(second, LIMIT).await.unwrap();
    cluster.node(second).restart().await.unwrap();
    // The one that was promoted, or another: on a busy machine Sentinel may find that one down, too.
    let third = cluster.wait_replicating(LIMIT).await.unwrap();

    cluster.node(third).stop();
    assert!(cluster.ask_node(third, &["PING"]).await.is_err(), "a stopped node answers nothing");
    cluster.node(third).cont();
    assert_eq!(cluster.ask_node(third, &["PING"]).await.unwrap().text(), Some("PONG"));

    let pids: Vec<_> = cluster.nodes().iter().chain(cluster.sentinels()).map(|server| server.pid().unwrap()).collect();
    assert_eq!(pids.len(), 6);
    drop(cluster);
    for pid in pids {
        assert!(test_kill_process(pid).is_err(), "{pid:?} is still there");
    }
}

#[tokio::test]
async fn a_panic_leaves_no_process_either() {
    let (send, pids) = std::sync::mpsc::channel();
    let panicked = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let spec = ClusterSpec { replicas: 1, sentinels: 1, ..ClusterSpec::default() };
            let cluster = Cluster::start(spec).await.unwrap();
            cluster.nodes().iter().for_each(|node| send.send(node.pid().unwrap()).unwrap());
            panic!("on purpose");
        })
    });
    assert!(panicked.join().is_err());
    let pids: Vec<_> = pids.iter().collect();
    assert_eq!(pids.len(), 2);
    assert!(pids.into_iter().all(|pid| test_kill_process(pid).is_err()));
}

#[tokio::test]
async fn a_partitioned_sentinel_keeps_its_old_view_until_the_partition_heals() {
    let spec = ClusterSpec { partitionable: true, ..ClusterSpec::default() };
    let cluster = Cluster::start(spec).await.unwrap();
    let everyone_else = [Member::Node(0), Member::Node(1), Member::Node(2), Member::Sentinel(1), Member::Sentinel(2)];
    cluster.partition(&[Member::Sentinel(0)], &everyone_else);
    // It may still be heard, and would lead a failover of its own asking.
    let asked = cluster.ask_sentinel(1, &["SENTINEL", "FAILOVER", cluster.master_name()]).await.unwrap();
    assert_eq!(asked.text(), Some("OK"));
    let new = cluster.wait_for_master_change(0, LIMIT).await.unwrap();
    let question = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", cluster.master_name()];
    let stale = cluster.ask_sentinel(0, &question).await.unwrap();
    assert_eq!(stale.items()[1].text(), Some(cluster.node_addr(0).port().to_string().as_str()));
    cluster.heal();
    let port = cluster.node_addr(new).port().to_string();
    switchmaster::demo::cluster::until("the stale Sentinel to follow", LIMIT, async || {
        let reply = cluster.ask_sentinel(0, &question).await.map_err(|error| error.to_string())?;
        if reply.items()[1].text() == Some(&port) { Ok(()) } else { Err(reply.to_string()) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn the_guides_cluster_has_replicas_without_a_password() {
    let spec = ClusterSpec {
        replicas_require_password: false,
        acl_user: Some(("app".into(), "app-secret".into(), "~* &* +@all".into())),
        sentinel_password: Some("watch".into()),
        appendonly: true,
        masters: vec!["mymaster".into(), "second".into()],
        replicas: 1,
        ..ClusterSpec::with_password("secret")
    };
    let cluster = Cluster::start(spec).await.unwrap();
    assert_eq!(cluster.who_is_master_of("second").await.unwrap(), 2);
    let refusal = cluster.ask_node(1, &["AUTH", "secret"]).await.unwrap();
    assert!(refusal.to_string().contains("without any password configured"), "{refusal}");
    let user = cluster.ask_node(3, &["AUTH", "app", "app-secret"]).await.unwrap();
    assert_eq!(user.text(), Some("OK"));
}
