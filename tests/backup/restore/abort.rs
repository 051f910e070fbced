//! Live restores that are refused or given up: what was there stays or is told, and clients always flow again.

use std::time::Duration;

use switchmaster::backup::Config;
use switchmaster::backup::restore::survey::Survey;
use switchmaster::backup::{Error, Manifest};
use switchmaster::demo::cluster::{Cluster, ClusterSpec, until};
use switchmaster::demo::wire::Reply;
use switchmaster::secret::Secret;

use super::data::{Saved, config, no_sentinel};
use super::live::replace;
use crate::it::proxy;
use crate::it::stage::{LIMIT, Stage, ask};
use crate::lone::Lone;

/// A backup with `count` small keys.
pub async fn backup_of(count: usize) -> Saved {
    let from = Lone::start(&[]).await;
    let mut wire = from.open(0).await;
    ask(&mut wire, &["DEBUG", "POPULATE", &count.to_string(), "restored", "20"]).await;
    Saved::of(&from.save().await)
}

/// A cluster whose Sentinels never agree that the master is down, with one key in it.
async fn patient(down_after: Duration) -> Cluster {
    let mut spec = ClusterSpec::with_password("secret");
    spec.down_after = down_after;
    spec.quorum = Some(4);
    let cluster = Cluster::start(spec).await.unwrap();
    cluster.ask_node(0, &["SET", "old", "data"]).await.unwrap();
    cluster
}

pub fn says(error: &Error, parts: &[&str]) {
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

async fn refused(config: &Config, target: Option<std::net::SocketAddr>, saved: &Saved, parts: &[&str]) {
    let error = Survey::take(config, target, &[], &saved.manifest, 1).await.expect_err("it is refused");
    println!("{error}");
    says(&error, parts);
}

#[tokio::test]
async fn whatever_could_go_wrong_is_asked_before_anything_is_touched() {
    let stage = Stage::start().await;
    let other =
        Stage::with(ClusterSpec::with_password("secret"), &[("SWITCHMASTER_ADMIN_TOKEN", "a-token-of-its-own")]).await;
    let saved = backup_of(10).await;
    let config = config(&stage.cluster);
    let manifest = saved.manifest.clone();
    let survey = async |config: &Config, proxies: &[std::net::SocketAddr]| {
        Survey::take(config, None, proxies, &manifest, 1).await
    };
    assert!(survey(&config, &[stage.proxy.admin()]).await.is_ok());
    // A proxy that cannot be reached, and one of another cluster.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = survey(&config, &[stage.proxy.admin(), nobody]).await.unwrap_err();
    says(&error, &["nobody listens", &nobody.to_string(), "nothing was changed"]);
    assert_eq!(error.exit_code(), 69);
    let error = survey(&config, &[stage.proxy.admin(), other.proxy.admin()]).await.unwrap_err();
    says(&error, &["fronts another master", &other.proxy.admin().to_string()]);
    // A proxy that takes no commands of ours.
    let mut wrong = super::data::config(&other.cluster);
    wrong.admin_token = Some(Secret::new("another-token-than-its-own"));
    let survey_of_other = survey(&wrong, &[other.proxy.admin()]).await.unwrap();
    let error = replace(survey_of_other, &saved, &wrong).await.unwrap_err();
    says(&error, &["does not hold its clients", "admin_token is another one", "nothing was changed"]);
    assert_eq!(proxy::view(&other.proxy).await.phase, "stable");
    // A replica, a node whose Sentinel is not known, a newer version.
    refused(&config, Some(stage.cluster.node(1).addr()), &saved, &["is a replica of mymaster"]).await;
    let mut stranger = no_sentinel();
    stranger.sentinel.redis_auth = stage.cluster.auth();
    refused(&stranger, Some(stage.cluster.node(0).addr()), &saved, &["watched by a Sentinel"]).await;
    let newer = Saved { manifest: Manifest { rdb_version: 99, ..saved.manifest.clone() }, ..saved };
    refused(&config, None, &newer, &["RDB version 99", "nothing was changed"]).await;
    assert_eq!(stage.cluster.ask_node(0, &["DBSIZE"]).await.unwrap(), Reply::Integer(0));
}

#[tokio::test]
async fn a_sentinel_that_takes_the_master_for_down_ends_it() {
    let cluster = patient(Duration::from_secs(2)).await;
    let saved = backup_of(4000).await;
    // It answers nobody while it loads so few bytes so slowly: 4 s.
    cluster.ask_node(0, &["CONFIG", "SET", "key-load-delay", "1000"]).await.unwrap();
    let config = config(&cluster);
    let survey = Survey::take(&config, None, &[], &saved.manifest, 1).await.unwrap();
    let error = replace(survey, &saved, &config).await.unwrap_err();
    println!("{error}");
    says(&error, &["takes the master for down", "a master again, with", "(1 before)", "backup restore 2", "-safety"]);
    assert_eq!(error.exit_code(), 86);
    let role = cluster.ask_node(0, &["ROLE"]).await.unwrap();
    assert_eq!(role.items()[0].text(), Some("master"), "{role}");
}

/// However fast the machine is: the target lingers at each key, for longer than there is time in all.
#[tokio::test]
async fn what_would_take_longer_than_sentinel_waits_is_given_up_with_the_old_data_in_place() {
    let cluster = patient(Duration::from_secs(5)).await;
    let from = Lone::start(&[]).await;
    ask(&mut from.open(0).await, &["CONFIG", "SET", "rdbcompression", "no"]).await;
    ask(&mut from.open(0).await, &["DEBUG", "POPULATE", "400", "restored", "262144"]).await;
    let saved = Saved::of(&from.save().await);
    // 40 s where 22 s are allowed; it answers after each key, and keeps what it has until it has all.
    for (name, value) in [
        ("key-load-delay", "100000"),
        ("loading-process-events-interval-bytes", "1024"),
        ("repl-diskless-load", "swapdb"),
    ] {
        assert_eq!(cluster.ask_node(0, &["CONFIG", "SET", name, value]).await.unwrap().to_string(), "+OK");
    }
    let config = config(&cluster);
    let survey = Survey::take(&config, None, &[], &saved.manifest, 1).await.unwrap();
    let error = replace(survey, &saved, &config).await.unwrap_err();
    println!("{error}");
    says(&error, &["not done within the 22 s", "down-after-milliseconds", "a master again, with", "-safety"]);
    assert_eq!(error.exit_code(), 86);
    assert_eq!(cluster.ask_node(0, &["GET", "old"]).await.unwrap(), Reply::Bulk(b"data".to_vec()));
    assert_eq!(cluster.ask_node(0, &["DBSIZE"]).await.unwrap(), Reply::Integer(1));
    assert_eq!(cluster.who_is_master().await.unwrap(), 0, "no Sentinel failed over");
}

#[tokio::test]
async fn a_target_that_dies_is_told_and_its_proxies_are_released() {
    let mut spec = ClusterSpec::with_password("secret");
    spec.down_after = Duration::from_secs(5);
    let stage = Stage::with(spec, &[]).await;
    stage.cluster.ask_node(0, &["SET", "old", "data"]).await.unwrap();
    let saved = backup_of(20_000).await;
    stage.cluster.ask_node(0, &["CONFIG", "SET", "key-load-delay", "200"]).await.unwrap();
    let config = config(&stage.cluster);
    let survey = Survey::take(&config, None, &[stage.proxy.admin()], &saved.manifest, 1).await.unwrap();
    let kill = async {
        proxy::wait_view(&stage.proxy, "the hold", |view| view.phase == "paused").await;
        until("the link", LIMIT, async || {
            let log = std::fs::read_to_string(stage.cluster.node(0).log_path()).unwrap();
            if log.contains("MASTER <-> REPLICA sync: Loading DB in memory") { Ok(()) } else { Err(log) }
        })
        .await
        .unwrap();
        stage.cluster.node(0).kill9();
    };
    let (outcome, ()) = tokio::join!(replace(survey, &saved, &config), kill);
    let error = outcome.unwrap_err();
    println!("{error}");
    says(&error, &["given up", "nobody listens", "backup restore 2", "-safety"]);
    // Sentinel promotes a replica, which has what was there before.
    let new = stage.cluster.wait_for_master_change(0, LIMIT).await.unwrap();
    let addr = stage.cluster.node_addr(new).to_string();
    proxy::wait_view(&stage.proxy, "the new master", |view| {
        view.phase == "stable" && view.master.as_ref().is_some_and(|master| master.addr == addr)
    })
    .await;
}
