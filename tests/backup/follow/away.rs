//! A store that is away for a while: what comes meanwhile waits, nothing is written elsewhere, and nothing is missing.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use switchmaster::backup::follow::replay::Goal;
use switchmaster::demo::cluster::{ClusterSpec, until};

use super::load::{Counter, all, counters, now_ms};
use super::scene::{Follower, Scene};
use super::{LIMIT, MASTER};
use crate::support::bucket::Bucket;

#[tokio::test]
async fn a_store_that_is_away_for_too_long_costs_a_new_base_and_says_so() {
    let scene = Scene::start(ClusterSpec::default()).await;
    let follower = scene.follow(&["--spool-limit", "256KiB"]);
    scene.based(&follower).await;
    let counter = Counter::start(&scene.cluster, 0).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    // Nothing can be written to the folder of a master that is a file.
    let (folder, away) = (scene.dir.path().join("store").join(MASTER), scene.dir.path().join("away"));
    fs::rename(&folder, &away).unwrap();
    fs::write(&folder, "").unwrap();
    follower.says("the spool is full").await;
    fs::remove_file(&folder).unwrap();
    fs::rename(&away, &folder).unwrap();
    let gap = now_ms();
    scene
        .wait(&follower, "a second base", async || match scene.manifests().await.len() {
            2.. => Ok(()),
            count => Err(format!("{count} bases")),
        })
        .await;
    let (_, count) = counter.stop().await;
    let moment = scene.moment(&follower).await;
    let target = scene.restore(&follower, &Goal::Time(moment)).await;
    assert_eq!(counters(target.addr).await, all(count));
    let error = scene.prepare(&Goal::Time(gap)).await.err().unwrap().to_string();
    assert!(error.contains("nothing was shipped of the time between"), "{error}");
    let (_, ranges) = error.split_once("moments that can be reached: ").expect(&error);
    assert_eq!(ranges.matches(" to ").count(), 2, "before the gap and after it: {error}");
}

/// As a share does whose mount point goes with it.
#[tokio::test]
async fn a_folder_that_vanishes_is_waited_for_and_never_made_anew() {
    let scene = Scene::start(ClusterSpec::default()).await;
    let follower = scene.follow(&["--base-every", "2s"]);
    scene.based(&follower).await;
    let counter = Counter::start(&scene.cluster, 0).await;
    let (store, away) = (scene.dir.path().join("store"), scene.dir.path().join("away"));
    fs::rename(&store, &away).unwrap();
    let before = names(scene.dir.path());
    follower.says("cannot ship: file://").await;
    follower.says("there is no such folder: mount it").await;
    // Neither a base nor a segment makes the folder, however often they are tried.
    follower.says("no base could be made").await;
    waits(&scene, &follower, 5).await;
    assert_eq!(names(scene.dir.path()), before);
    fs::rename(&away, &store).unwrap();
    follower.says("the store is back: shipping goes on").await;
    goes_on(&scene, follower, counter).await;
}

/// As a share does whose mount point stays.
#[tokio::test]
async fn an_empty_mount_point_is_no_store() {
    let scene = Scene::start(ClusterSpec::default()).await;
    let (store, disk) = (scene.dir.path().join("store"), scene.dir.path().join("disk"));
    fs::create_dir(&disk).unwrap();
    let mounted = (|| Ok::<_, String>((Mounted::at(&disk, &["-t", "tmpfs", "tmpfs"])?, bind(&disk, &store)?)))();
    let (_disk, share) = match mounted {
        Ok(mounted) => mounted,
        Err(why) => return eprintln!("SKIPPED: nothing can be mounted: {why}"),
    };
    let follower = scene.follow(&["--base-every", "2s"]);
    scene.based(&follower).await;
    let counter = Counter::start(&scene.cluster, 0).await;
    drop(share);
    follower.says("what was mounted there is not any more").await;
    follower.says("no base could be made").await;
    waits(&scene, &follower, 5).await;
    assert_eq!(names(&store), BTreeSet::new());
    let _share = bind(&disk, &store).unwrap();
    goes_on(&scene, follower, counter).await;
}

/// The terminal from which it was started goes: it ends as it does at SIGTERM; under `nohup` it goes on without.
#[tokio::test]
async fn the_end_of_the_terminal_ends_it_cleanly_and_not_at_all_under_nohup() {
    let scene = Scene::start(ClusterSpec::default()).await;
    let follower = scene.follow(&[]);
    scene.based(&follower).await;
    let log = follower.end(Signal::HUP).await;
    assert!(log.contains("stopped: everything up to"), "{log}");

    let mut child = scene.follow_under_nohup();
    let count = async || scene.segments(&scene.store()).await.len();
    let shipped = async |more: usize| {
        until("segments", LIMIT, async || {
            scene.cluster.ask_node(0, &["INCR", "ticks"]).await.map_err(|error| error.to_string())?;
            tokio::time::sleep(Duration::from_millis(50)).await;
            match count().await {
                found if found >= more => Ok(()),
                found => Err(format!("{found} of {more}")),
            }
        })
        .await
        .unwrap();
    };
    shipped(count().await + 1).await;
    drop((child.stdout.take(), child.stderr.take()));
    let pid = Pid::from_raw(child.id().unwrap() as i32).unwrap();
    kill_process(pid, Signal::HUP).unwrap();
    shipped(count().await + 3).await;
    // What it logs is read by nobody: a replica that goes ends it no more than the terminal does.
    for replica in [1, 2] {
        scene.cluster.ask_node(replica, &["CLIENT", "KILL", "TYPE", "replica"]).await.unwrap();
    }
    shipped(count().await + 3).await;
    kill_process(pid, Signal::TERM).unwrap();
    let ended = tokio::time::timeout(LIMIT, child.wait()).await.expect("it ends").unwrap();
    assert!(ended.success(), "{ended}");
}

#[tokio::test]
async fn a_bucket_that_stalls_is_caught_up_with() {
    let bucket = Bucket::start().await;
    let scene = Scene::in_bucket(ClusterSpec::default(), &bucket).await;
    let follower = scene.follow(&[]);
    scene.based(&follower).await;
    let counter = Counter::start(&scene.cluster, 0).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    let before = scene.segments(&scene.store()).await.len();
    bucket.faults.stall_uploads.store(true, Ordering::Relaxed);
    let began = now_ms();
    waits(&scene, &follower, 10).await;
    assert!(scene.segments(&scene.store()).await.len() <= before + 1, "one may have been under way");
    bucket.faults.stall_uploads.store(false, Ordering::Relaxed);
    println!("the bucket stalled for {} ms", now_ms() - began);
    goes_on(&scene, follower, counter).await;
}

/// Until so many segments wait in the spool.
async fn waits(scene: &Scene, follower: &Follower, count: usize) {
    let spool = scene.dir.path().join("spool").join(format!("switchmaster-follow-{MASTER}"));
    scene
        .wait(follower, "segments to wait", async || {
            let streams = fs::read_dir(&spool).unwrap().flatten();
            let waiting: usize = streams.map(|stream| fs::read_dir(stream.path()).map_or(0, Iterator::count)).sum();
            if waiting >= count { Ok(()) } else { Err(format!("{waiting} wait")) }
        })
        .await;
}

/// Everything is shipped, in one stream without a gap, and restored to the last increment.
async fn goes_on(scene: &Scene, follower: Follower, counter: Counter) {
    let (_, count) = counter.stop().await;
    let moment = scene.moment(&follower).await;
    let target = scene.restore(&follower, &Goal::Time(moment)).await;
    assert_eq!(counters(target.addr).await, all(count), "{}", follower.log());
    let segments = scene.segments(&scene.store()).await;
    let streams: BTreeSet<&String> = segments.iter().map(|(stream, _)| stream).collect();
    assert_eq!(streams.len(), 1, "{}", follower.log());
    assert!(segments.windows(2).all(|pair| pair[0].1.to == pair[1].1.from), "no gap: {segments:?}");
    let log = follower.terminate().await;
    assert!(!log.contains("this stream ends"), "{log}");
    println!("{count} steps in {} segments, exact", segments.len());
}

fn names(folder: &Path) -> BTreeSet<OsString> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect()
}

/// Unmounted when dropped.
struct Mounted(PathBuf);

fn bind(from: &Path, to: &Path) -> Result<Mounted, String> {
    Mounted::at(to, &["--bind", from.to_str().unwrap()])
}

impl Mounted {
    fn at(at: &Path, arguments: &[&str]) -> Result<Mounted, String> {
        let ran = Command::new("mount").args(arguments).arg(at).output().map_err(|error| error.to_string())?;
        match ran.status.success() {
            true => Ok(Mounted(at.to_owned())),
            false => Err(String::from_utf8_lossy(&ran.stderr).trim().to_owned()),
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
