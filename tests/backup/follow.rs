//! Point in time on real clusters: what was shipped is restored exactly, whatever happened while it was.
//!
//! Each test drives load it can account for: a client counts what was acknowledged, and pauses where a moment is taken.

mod away;
mod failover;
mod load;
mod permissions;
mod prune;
mod scene;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use switchmaster::backup::Error;
use switchmaster::backup::follow::replay::Goal;
use switchmaster::backup::follow::restore_point::RestorePoint;
use switchmaster::backup::follow::segment::Name;
use switchmaster::demo::cluster::ClusterSpec;
use switchmaster::wire::Reply;

use crate::lone::Lone;
use crate::zoo;
use load::{Counter, Pace, all, counters, now_ms, step};
use scene::{Follower, Scene};

const LIMIT: Duration = Duration::from_secs(60);
const MASTER: &str = "mymaster";

fn before(command: &str) -> Goal {
    Goal::parse(None, Some(command)).unwrap().unwrap()
}

/// Everything but the key that comes and goes.
async fn contents(addr: SocketAddr) -> BTreeMap<(u32, Vec<u8>), zoo::Exhibit> {
    let mut all = zoo::contents(addr, None).await.unwrap();
    all.retain(|(_, name), _| name != b"short");
    all
}

#[tokio::test]
async fn a_flushall_is_undone_to_the_last_command_before_it() {
    let scene = Scene::start(ClusterSpec::default()).await;
    let master = scene.cluster.node(0).addr();
    zoo::fill(master, None).await.unwrap();
    let counter = Counter::start(&scene.cluster, 0).await;
    let follower = scene.follow(&[]);
    scene.based(&follower).await;
    let at_base = scene.segments(&scene.store()).await.len();
    scene
        .wait(&follower, "some segments after the base", async || {
            let count = scene.segments(&scene.store()).await.len();
            if count >= at_base + 5 { Ok(()) } else { Err(format!("{count} segments")) }
        })
        .await;
    let (mut wire, count) = counter.stop().await;
    // The replica that the base came from: when a consumer of a stream was last seen is each node's own.
    let source: SocketAddr = scene.manifests().await[0].source.addr.parse().unwrap();
    let source = scene.cluster.node_at(source).unwrap();
    scene
        .wait(&follower, "the replica to have everything", async || {
            let (master, replica) =
                (scene.offset(0, "master_repl_offset:").await, scene.offset(source, "slave_repl_offset:").await);
            if master == replica { Ok(()) } else { Err(format!("{master} and {replica}")) }
        })
        .await;
    let expected = contents(scene.cluster.node(source).addr()).await;
    assert!(count > 0);
    assert_eq!(wire.ask(&["FLUSHALL"]).await.unwrap(), Reply::Simple("OK".into()));
    for count in 1..20 {
        step(&mut wire, count).await;
    }
    let target = scene.restore(&follower, &before("flushall")).await;
    assert_eq!(counters(target.addr).await, all(count));
    let found = contents(target.addr).await;
    assert_eq!(found.len(), expected.len());
    for (key, value) in &expected {
        assert_eq!(found.get(key), Some(value), "{key:?}");
    }
    let replay = scene.prepare(&before("FLUSHALL")).await.unwrap();
    assert!(replay.to_string().starts_with("just before FLUSHALL of 20"), "{replay}");
    let error = scene.prepare(&before("FLUSHDB")).await.err().unwrap().to_string();
    assert!(error.contains("in no segment") && error.contains("can be reached"), "{error}");
    scene.no_phantom().await;
    follower.terminate().await;
}

#[tokio::test]
async fn a_thousand_increments_a_second_are_restored_to_the_last_one_before_a_flushall() {
    let scene = Scene::start(ClusterSpec::default()).await;
    let follower = scene.follow(&[]);
    scene.based(&follower).await;
    let pace = Pace::start(&scene.cluster, 1_000).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let paced = pace.flush().await;
    println!("{} increments at {:.0}/s, then FLUSHALL", paced.count, paced.rate());
    scene.moment(&follower).await;
    let target = scene.restore(&follower, &before("FLUSHALL")).await;
    let found = target.open(0).await.ask(&["GET", "counter"]).await.unwrap();
    assert_eq!(found.text(), Some(&*paced.count.to_string()), "{}", follower.log());
    // A moment in the midst of it. How much of what had been sent had arrived by then, nobody can know.
    let (ms, sent) = paced.sent[paced.sent.len() / 2];
    let target = scene.restore(&follower, &Goal::Time(ms)).await;
    let found = target.open(0).await.ask(&["GET", "counter"]).await.unwrap();
    let found: u64 = found.text().unwrap().parse().unwrap();
    println!("at a moment when {sent} had been sent, {found} are restored");
    assert!(found <= sent, "{found} of {sent}");
}

#[tokio::test]
async fn moments_before_between_and_after_failovers_are_restored() {
    // A PING of the old master after the new one was promoted makes Redis synchronise its replicas anew.
    let quiet = vec!["repl-ping-replica-period 3600".to_owned()];
    let scene = Scene::start(ClusterSpec { node_config: quiet, ..ClusterSpec::default() }).await;
    let follower = two_failovers(&scene, [true, false]).await;
    // At a planned failover the old master takes the Sentinels' greetings for a second more: bytes that are thrown away.
    // At a crash the stream goes on.
    let segments = scene.segments(&scene.store()).await;
    let streams: BTreeSet<&String> = segments.iter().map(|(stream, _)| stream).collect();
    assert!(streams.len() <= 2, "{streams:?}\n{}", follower.log());
    let crossed = |pair: &[(String, Name)]| pair[0].0 == pair[1].0 && pair[0].1.replid != pair[1].1.replid;
    assert!(segments.windows(2).any(crossed), "no stream went on through a failover\n{}", follower.log());
    scene.no_phantom().await;
}

#[tokio::test]
async fn two_planned_failovers_are_survived_as_redis_is_configured_by_default() {
    let scene = Scene::start(ClusterSpec::default()).await;
    two_failovers(&scene, [true, true]).await;
}

/// Follows through two failovers, planned or by a crash, and restores a moment before each and one after both.
async fn two_failovers(scene: &Scene, planned: [bool; 2]) -> Follower {
    let follower = scene.follow(&[]);
    scene.based(&follower).await;
    let mut count = 0;
    let mut moments = Vec::new();
    for round in 0..=planned.len() {
        scene.in_reach(&follower).await;
        let counter = Counter::start(&scene.cluster, count).await;
        tokio::time::sleep(Duration::from_millis(700)).await;
        let wire;
        (wire, count) = counter.stop().await;
        drop(wire);
        moments.push((scene.moment(&follower).await, count));
        let old = scene.cluster.who_is_master().await.unwrap();
        match planned.get(round) {
            Some(true) => drop(scene.cluster.failover(LIMIT).await.unwrap()),
            Some(false) => drop(scene.cluster.node(old).kill9()),
            None => break,
        }
        scene.cluster.wait_for_master_change(old, LIMIT).await.unwrap();
        scene.cluster.wait_replicating(LIMIT).await.unwrap();
    }
    for (ms, count) in moments {
        let target = scene.restore(&follower, &Goal::Time(ms)).await;
        assert_eq!(counters(target.addr).await, all(count), "the moment {ms}\n{}", follower.log());
    }
    follower
}

#[tokio::test]
async fn a_follower_that_was_killed_goes_on_where_it_was() {
    let scene = Scene::start(ClusterSpec::default()).await;
    let follower = scene.follow(&[]);
    scene.based(&follower).await;
    let counter = Counter::start(&scene.cluster, 0).await;
    tokio::time::sleep(Duration::from_millis(800)).await;
    // Another one may not begin beside it.
    let spool = scene.dir.path().join("other");
    fs::create_dir(&spool).unwrap();
    let other = scene.follow_with(&[], &[("SWITCHMASTER_BACKUP_SPOOL_DIR", spool.display().to_string())]);
    assert_eq!(other.exit_code().await, Some(75), "a second follower began");
    follower.kill9().await;
    tokio::time::sleep(Duration::from_millis(800)).await;
    // The lock of the one that was killed lasts on: what comes meanwhile is received.
    let follower = scene.follow(&[]);
    scene
        .wait(&follower, "it to follow again", async || match follower.log().matches("following 127").count() {
            2.. => Ok(()),
            _ => Err(follower.log()),
        })
        .await;
    // As if its time was over.
    fs::remove_dir_all(scene.dir.path().join("store").join(MASTER).join("stream/lock")).unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (_, count) = counter.stop().await;
    let moment = scene.moment(&follower).await;
    let target = scene.restore(&follower, &Goal::Time(moment)).await;
    assert_eq!(counters(target.addr).await, all(count));
    let segments = scene.segments(&scene.store()).await;
    let streams: BTreeSet<&String> = segments.iter().map(|(stream, _)| stream).collect();
    assert_eq!((streams.len(), scene.manifests().await.len()), (1, 1), "one stream, one base\n{}", follower.log());
    assert!(segments.windows(2).all(|pair| pair[0].1.to == pair[1].1.from), "no gap: {segments:?}");
    // What is there when it is told to end is shipped.
    let (mut wire, _) = Counter::start(&scene.cluster, count).await.stop().await;
    step(&mut wire, count + 2).await;
    let log = follower.terminate().await;
    let last = &scene.segments(&scene.store()).await.pop().unwrap().1;
    let words = format!("stopped: everything up to {} is in the store (offset {})", RestorePoint(last.end_ms), last.to);
    assert!(log.contains("told to stop") && log.contains(&words), "{words} in\n{log}");
    let spool = scene.dir.path().join("spool").join(format!("switchmaster-follow-{MASTER}"));
    let left: Vec<_> = fs::read_dir(&spool).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["lock"]);
}

#[tokio::test]
async fn what_happens_is_told_to_programs() {
    let scene = Scene::start(ClusterSpec::default()).await;
    let follower = scene.follow(&["--json"]);
    scene.based(&follower).await;
    scene.moment(&follower).await;
    let log = follower.terminate().await;
    let lines = log.lines().filter(|line| line.starts_with('{'));
    let events: Vec<serde_json::Value> = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |kind: &str| events.iter().filter(|event| event["event"] == kind).collect::<Vec<_>>();
    let segments = scene.segments(&scene.store()).await;
    let shipped: Vec<u64> = of("shipped").iter().map(|event| event["to"].as_u64().unwrap()).collect();
    assert_eq!(shipped, segments.iter().map(|(_, name)| name.to).collect::<Vec<_>>(), "{log}");
    assert_eq!(of("base")[0]["id"], *scene.manifests().await[0].id, "{log}");
    let last = RestorePoint(segments.last().unwrap().1.end_ms).to_string();
    assert_eq!(events.last().unwrap(), &serde_json::json!({ "event": "stopped", "moment": last, "waiting": 0 }));
}

#[tokio::test]
async fn an_encrypted_stream_goes_on_without_the_identity_and_is_restored_with_it() {
    use age::secrecy::ExposeSecret;
    let scene = Scene::start(ClusterSpec::default()).await;
    let identity = age::x25519::Identity::generate();
    let (recipient, file) = (identity.to_public().to_string(), scene.dir.path().join("identity.txt"));
    fs::write(&file, identity.to_string().expose_secret()).unwrap();
    let follower = scene.follow(&["--recipient", &recipient]);
    scene.based(&follower).await;
    follower.terminate().await;
    let follower = scene.follow(&["--recipient", &recipient]);
    let (mut wire, count) = {
        let counter = Counter::start(&scene.cluster, 0).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        counter.stop().await
    };
    wire.ask(&["FLUSHALL"]).await.unwrap();
    step(&mut wire, 1).await;
    scene.moment(&follower).await;
    follower.terminate().await;
    let segments = scene.segments(&scene.store()).await;
    let streams: BTreeSet<&String> = segments.iter().map(|(stream, _)| stream).collect();
    assert_eq!((streams.len(), scene.manifests().await.len()), (1, 1));
    assert!(segments.iter().all(|(_, name)| name.encrypted));
    let error = scene.prepare(&before("FLUSHALL")).await.err().unwrap();
    assert!(matches!(&error, Error::Usage(text) if text.contains("--identity")), "{error}");
    let target = Lone::start(&["databases 16"]).await;
    let mut wire = target.open(0).await;
    wire.ask(&["SET", "old", "data"]).await.unwrap();
    let restored = scene
        .command(&["restore", "--before-command", "FLUSHALL", "--target", &target.addr.to_string()])
        .args(["--identity", &file.display().to_string(), "--no-safety-backup", "--yes"])
        .output()
        .await
        .unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&restored.stdout), String::from_utf8_lossy(&restored.stderr));
    assert!(restored.status.success(), "{said}");
    assert!(said.contains("just before FLUSHALL of 20"), "{said}");
    assert_eq!(counters(target.addr).await, all(count));
    assert_eq!(wire.ask(&["GET", "old"]).await.unwrap(), Reply::Nil);
    // Beyond the last shipped moment: refused before anything is touched.
    let refused = scene
        .command(&["restore", "--to", "2999-01-01T00:00:00Z", "--target", &target.addr.to_string()])
        .args(["--identity", &file.display().to_string(), "--no-safety-backup", "--yes"])
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(85), "{said}");
    assert!(said.contains("the last moment that was shipped is"), "{said}");
    assert_eq!(counters(target.addr).await, all(count));
}

#[tokio::test]
async fn moments_that_were_not_shipped_are_refused_with_the_limits() {
    let scene = Scene::start(ClusterSpec::default()).await;
    let error = scene.prepare(&Goal::Time(now_ms())).await.err().unwrap();
    assert!(matches!(&error, Error::NotFound(text) if text.contains("no backup")), "{error}");
    let start = now_ms();
    let follower = scene.follow(&[]);
    scene.based(&follower).await;
    for (goal, expected) in
        [(start - 60_000, "the oldest backup is of"), (now_ms() + 60_000, "the last moment that was shipped is")]
    {
        let error = scene.prepare(&Goal::Time(goal)).await.err().unwrap();
        let text = error.to_string();
        assert!(
            matches!(error, Error::NotFound(_))
                && text.contains(expected)
                && text.contains("moments that can be reached: 20"),
            "{text}"
        );
    }
    let text = fs::read_to_string(scene.textfile()).unwrap_or_default();
    scene
        .wait(&follower, "its metrics", async || {
            let text = fs::read_to_string(scene.textfile()).unwrap_or_default();
            let there = text.contains("stream_shipped_timestamp_seconds{master=\"mymaster\"}");
            if there { Ok(()) } else { Err(text) }
        })
        .await;
    drop(text);
}
