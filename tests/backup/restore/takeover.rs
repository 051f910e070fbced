//! Sentinel replaces the target in the middle of a restore: it is left to Sentinel, and clients go where it sends them.

use std::time::Duration;

use switchmaster::backup::Error;
use switchmaster::backup::restore::survey::Survey;
use switchmaster::demo::cluster::{ClusterSpec, until};
use switchmaster::demo::wire::Reply;

use super::abort::{backup_of, says};
use super::data::{Saved, config};
use super::live::replace;
use crate::it::proxy;
use crate::it::stage::{LIMIT, Stage, ask};

/// A cluster with 500 keys and a proxy, whose master loads a backup slowly.
async fn slow() -> (Stage, Saved) {
    let stage = Stage::with(ClusterSpec::with_password("secret"), &[]).await;
    for number in 0..500 {
        stage.cluster.ask_node(0, &["SET", &format!("old:{number}"), "data"]).await.unwrap();
    }
    stage.caught_up().await;
    stage.cluster.ask_node(0, &["CONFIG", "SET", "key-load-delay", "500"]).await.unwrap();
    (stage, backup_of(20_000).await)
}

fn log(stage: &Stage) -> String {
    std::fs::read_to_string(stage.cluster.node(0).log_path()).unwrap()
}

/// Restores, and does `blow` to the target as soon as it loads. Returns the error.
async fn restored_until(stage: &Stage, saved: &Saved, blow: impl AsyncFnOnce()) -> Error {
    let config = config(&stage.cluster);
    let survey = Survey::take(&config, None, &[stage.proxy.admin()], &saved.manifest, 1).await.unwrap();
    let blow = async {
        until("the loading", LIMIT, async || {
            let log = log(stage);
            if log.contains("MASTER <-> REPLICA sync: Loading DB in memory") { Ok(()) } else { Err(log) }
        })
        .await
        .unwrap();
        blow().await;
    };
    let (outcome, ()) = tokio::join!(replace(survey, saved, &config), blow);
    let error = outcome.unwrap_err();
    println!("{error}");
    error
}

/// Waits until the old target follows the new master, and shows that it was no master in between.
async fn left_to_sentinel(stage: &Stage) {
    stage.cluster.wait_replicating(Duration::from_secs(60)).await.unwrap();
    assert!(!log(stage).contains("MASTER MODE enabled"), "it was made a master beside another");
    let new = stage.cluster.who_is_master().await.unwrap();
    assert_eq!(stage.cluster.ask_node(new, &["EXISTS", "old:0", "old:499"]).await.unwrap(), Reply::Integer(2));
}

#[tokio::test]
async fn clients_are_released_to_the_new_master_while_the_old_one_is_still_silent() {
    let (stage, saved) = slow().await;
    let error = restored_until(&stage, &saved, async || _ = stage.cluster.node(0).stop()).await;
    says(&error, &["given up", "Sentinel has replaced", "with the data from before, 500 keys", "left to Sentinel"]);
    assert!(!error.to_string().contains("switchmaster backup restore"), "nothing is to be restored: {error}");
    // It is stopped all the while: nothing waited for it.
    let view = proxy::wait_view(&stage.proxy, "the new master", |view| {
        view.phase == "stable" && view.master.as_ref().is_some_and(|master| !master.provisional)
    })
    .await;
    assert_ne!(view.master.unwrap().addr, stage.cluster.node_addr(0).to_string());
    assert_eq!(ask(&mut stage.open().await, &["SET", "new", "data"]).await.to_string(), "+OK");
    stage.cluster.node(0).cont();
    left_to_sentinel(&stage).await;
}

#[tokio::test]
async fn a_target_that_comes_back_in_the_middle_of_a_failover_is_made_no_master() {
    let (stage, saved) = slow().await;
    let error = restored_until(&stage, &saved, async || {
        stage.cluster.node(0).stop();
        until("a failover", LIMIT, async || {
            let mut seen = String::new();
            for sentinel in 0..3 {
                let master = stage.cluster.ask_sentinel(sentinel, &["SENTINEL", "MASTER", "mymaster"]).await.unwrap();
                seen += master.field("flags").unwrap_or_default();
            }
            if seen.contains("failover_in_progress") { Ok(()) } else { Err(seen) }
        })
        .await
        .unwrap();
        stage.cluster.node(0).cont();
    })
    .await;
    says(&error, &["Sentinel has replaced", "left to Sentinel"]);
    left_to_sentinel(&stage).await;
}
