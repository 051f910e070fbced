//! What the ACL must allow: the rules of docs/point-in-time.md and not one more.

use std::fs;
use std::sync::atomic::Ordering;
use std::time::Duration;

use switchmaster::backup::follow::replay::Goal;
use switchmaster::demo::cluster::ClusterSpec;
use switchmaster::wire::Reply;

use super::LIMIT;
use super::load::{Counter, all, counters};
use super::scene::{Follower, Scene};
use crate::support::bucket::Bucket;

const RULES: &str = "-@all +psync +replconf +info";
/// Where the store keeps no lock, the master does.
const LOCK: &str = "~switchmaster:backup-lock:* +get +set +pexpire +del +watch +multi +exec";

fn spec(rules: &str) -> ClusterSpec {
    ClusterSpec { acl_user: Some(("follower".into(), "pw".into(), rules.into())), ..ClusterSpec::default() }
}

fn follow(scene: &Scene) -> Follower {
    let credentials = [("SWITCHMASTER_REDIS_USERNAME", "follower"), ("SWITCHMASTER_REDIS_PASSWORD", "pw")];
    scene.follow_with(&[], &credentials.map(|(name, value)| (name, value.to_owned())))
}

/// What each node refused to anybody.
async fn refused(scene: &Scene) -> Vec<String> {
    let mut refused = Vec::new();
    for node in 0..scene.cluster.nodes().len() {
        let log = scene.cluster.ask_node(node, &["ACL", "LOG"]).await.unwrap();
        let object = |entry: &Reply| entry.field("object").unwrap_or("?").to_owned();
        refused.extend(log.items().iter().map(object));
    }
    refused
}

#[tokio::test]
async fn three_commands_are_enough_also_through_a_failover() {
    let document = include_str!("../../../docs/point-in-time.md");
    assert!(document.contains(&format!(">PASSWORD {RULES}\n")) && document.contains(LOCK));
    let scene = Scene::start(spec(RULES)).await;
    let follower = follow(&scene);
    scene.based(&follower).await;
    let (_, count) = {
        let counter = Counter::start(&scene.cluster, 0).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        counter.stop().await
    };
    scene.moment(&follower).await;
    let old = scene.cluster.who_is_master().await.unwrap();
    scene.cluster.failover(LIMIT).await.unwrap();
    scene.cluster.wait_for_master_change(old, LIMIT).await.unwrap();
    scene.in_reach(&follower).await;
    let moment = scene.moment(&follower).await;
    let target = scene.restore(&follower, &Goal::Time(moment)).await;
    assert_eq!(counters(target.addr).await, all(count));
    follower.terminate().await;
    assert_eq!(refused(&scene).await, [""; 0]);
}

#[tokio::test]
async fn a_command_that_is_missing_is_told() {
    let scene = Scene::start(spec(&RULES.replace("+psync ", ""))).await;
    let follower = follow(&scene);
    follower.says("its ACL must allow our user +psync +replconf +info").await;
    assert!(refused(&scene).await.iter().all(|command| command == "psync"));
    follower.terminate().await;
}

#[tokio::test]
async fn a_lock_on_the_master_wants_its_own_commands_and_keys() {
    let bucket = Bucket::start().await;
    bucket.faults.refuse_conditions.store(true, Ordering::Relaxed);
    let scene = Scene::in_bucket(spec(RULES), &bucket).await;
    let follower = follow(&scene);
    let log = follower.log.clone();
    assert_eq!(follower.exit_code().await, Some(69));
    let log = fs::read_to_string(log).unwrap();
    assert!(log.contains("refuses SET for the lock"), "{log}");

    for node in 0..scene.cluster.nodes().len() {
        let mut request = vec!["ACL", "SETUSER", "follower"];
        request.extend(LOCK.split(' '));
        scene.cluster.ask_node(node, &request).await.unwrap();
        scene.cluster.ask_node(node, &["ACL", "LOG", "RESET"]).await.unwrap();
    }
    let follower = follow(&scene);
    scene.based(&follower).await;
    follower.terminate().await;
    assert_eq!(refused(&scene).await, [""; 0]);
}
