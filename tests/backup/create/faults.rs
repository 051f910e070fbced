//! What goes wrong while the data is on its way: failovers, dead and silent nodes, a full disk, a signal.

use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::Duration;

use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process};
use switchmaster::backup::Error;
use switchmaster::backup::replica::{Begin, Replica, Sink, Want};
use switchmaster::backup::source::Node;
use switchmaster::demo::cluster::ClusterSpec;
use switchmaster::demo::server::free_port;
use tokio::process::{Child, Command};

use super::site::{LIMIT, Site, created};
use crate::support::sentinels::known_replicas;

/// A stream of some seconds.
const KEYS: usize = 4000;
const AT_EACH_KEY: Duration = Duration::from_micros(500);

async fn slow() -> Site {
    let site = Site::start(ClusterSpec::with_password("S3cret")).await;
    site.fill(0, KEYS).await;
    site.linger(AT_EACH_KEY).await;
    site
}

#[tokio::test]
async fn every_backup_with_a_failover_in_it_ends_well_or_with_its_own_code() {
    let rounds = std::env::var("BACKUP_FAILOVERS").map_or(2, |rounds| rounds.parse().expect("a number"));
    let site = slow().await;
    let (mut made, mut codes) = (0, Vec::new());
    for round in 0..rounds {
        let master = site.cluster.wait_replicating(LIMIT).await.unwrap();
        let before = known_replicas(&site.cluster).await;
        let (outcome, next) = tokio::join!(site.create(), async {
            site.streaming().await;
            site.cluster.failover(LIMIT).await.unwrap();
            site.cluster.wait_for_master_change(master, LIMIT).await.unwrap()
        });
        match outcome {
            Ok(outcome) => {
                let manifest = created(Ok(outcome)).manifest;
                assert_eq!((manifest.counts.keys(), manifest.source.role.as_str()), (KEYS as u64, "replica"));
                made += 1;
            }
            Err(error) => {
                assert!(matches!(error.exit_code(), 69 | 80 | 81), "round {round}: {error:?}");
                codes.push(error.exit_code());
            }
        }
        assert_eq!(site.objects().await, 2 * made, "round {round}");
        assert_ne!(next, master);
        site.cluster.wait_ready(LIMIT).await.unwrap();
        // The old master takes the place of the new one in the list; nobody else is in it.
        for (sentinel, names) in known_replicas(&site.cluster).await.iter().enumerate() {
            assert_eq!(names.len(), before[sentinel].len(), "round {round}: {names:?}");
            assert!(names.iter().all(|name| !name.ends_with(":0")), "{names:?}");
        }
    }
    // Nothing half-published is left to be cleared away, neither there nor here.
    assert_eq!(site.store.abort_stale_multiparts("mymaster", Timestamp::MAX).await.unwrap(), 0);
    assert_eq!(std::fs::read_dir(site.spool()).unwrap().count(), 0);
    println!("{rounds} backups with a failover in each: {made} made, others ended with {codes:?}");
    assert!(made > 0, "{codes:?}");
}

#[tokio::test]
async fn a_replica_killed_in_the_middle_is_replaced_by_the_other() {
    let site = slow().await;
    let (outcome, killed) = tokio::join!(site.create(), async {
        let source = site.streaming().await;
        site.cluster.node(source).kill9();
        source
    });
    let manifest = created(outcome).manifest;
    assert_ne!(manifest.source.addr, site.cluster.node_addr(killed).to_string());
    assert_eq!((manifest.counts.keys(), manifest.source.role.as_str()), (KEYS as u64, "replica"));
    assert_eq!(site.objects().await, 2);
}

#[tokio::test]
async fn a_source_that_falls_silent_is_left() {
    let site = slow().await;
    let node = Node::ask(site.cluster.node_addr(1), site.cluster.auth().as_ref(), LIMIT).await.unwrap();
    let mut replica = Replica::connect(&node, site.cluster.auth().as_ref(), Want::Rdb).await.unwrap();
    replica.silence = Duration::from_secs(2);
    assert!(matches!(replica.psync(None).await.unwrap(), Begin::Full { .. }));
    let mut endless = Endless;
    let (outcome, ()) = tokio::join!(replica.rdb(&mut endless), async {
        assert_eq!(site.streaming().await, 1);
        site.cluster.node(1).stop();
    });
    let error = outcome.unwrap_err();
    site.cluster.node(1).cont();
    assert!(matches!(&error, Error::Truncated(text) if text.contains("sent nothing for 2 s")), "{error:?}");
}

/// An RDB that never ends.
struct Endless;

impl Sink for Endless {
    fn take(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        Ok(bytes.len())
    }

    fn ended(&self) -> bool {
        false
    }
}

/// A process in the environment of the site, with its output piped.
fn started(site: &Site, program: &str, args: &[&str]) -> Child {
    Command::new(program)
        .args(args)
        .env_clear()
        .envs(site.environment())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn a_signal_in_the_middle_leaves_nothing() {
    let site = slow().await;
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let child = started(&site, env!("CARGO_BIN_EXE_switchmaster"), &["backup", "create"]);
        site.streaming().await;
        kill_process(Pid::from_raw(child.id().unwrap() as i32).unwrap(), signal).unwrap();
        let ended = tokio::time::timeout(LIMIT, child.wait_with_output()).await.expect("it ends").unwrap();
        let told = String::from_utf8_lossy(&ended.stderr);
        assert_eq!((ended.status.code(), ended.status.signal()), (Some(130), None), "{told}");
        assert!(told.contains("interrupted"), "{told}");
        assert_eq!(site.objects().await, 0);
        assert_eq!(std::fs::read_dir(site.spool()).unwrap().count(), 0);
        assert!(site.is_unlocked().await, "it gave the lock back");
        site.nobody_streams().await;
    }
    created(site.create().await);
}

/// Started under `nohup` it goes on when the terminal goes, and all that it wrote to with it.
#[tokio::test]
async fn the_end_of_the_terminal_ends_nothing_under_nohup() {
    let site = slow().await;
    let script = ["-c", "trap '' HUP; exec \"$0\" backup create", env!("CARGO_BIN_EXE_switchmaster")];
    let mut child = started(&site, "sh", &script);
    site.streaming().await;
    drop((child.stdout.take(), child.stderr.take()));
    kill_process(Pid::from_raw(child.id().unwrap() as i32).unwrap(), Signal::HUP).unwrap();
    let ended = tokio::time::timeout(LIMIT, child.wait()).await.expect("it ends").unwrap();
    assert!(ended.success(), "{ended}");
    assert_eq!(site.objects().await, 2);
    assert!(site.is_unlocked().await);
}

#[tokio::test]
async fn a_spool_without_room_ends_it_before_the_disk_is_full() {
    let site = Site::start(ClusterSpec::default()).await;
    site.fill(0, 30_000).await;
    // 6 MiB hold neither the data nor, with less of it, all that is to come.
    for (size, words) in [("3m", "are needed"), ("5m", "has no room after")] {
        let script = format!(
            "mount -t tmpfs -o size={size} none \"$SWITCHMASTER_BACKUP_SPOOL_DIR\" && exec {} backup create",
            env!("CARGO_BIN_EXE_switchmaster")
        );
        let ended = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
            .env_clear()
            .envs(site.environment())
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        let told = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(84), "{told}");
        assert!(told.contains(words) && told.contains("backup_spool_dir"), "{told}");
        assert_eq!(site.objects().await, 0);
    }
}

#[tokio::test]
async fn without_a_sentinel_it_says_what_to_do() {
    let mut site = Site::start(ClusterSpec { replicas: 1, ..ClusterSpec::default() }).await;
    site.config.sentinel.addrs.truncate(1);
    site.config.sentinel.addrs[0].port = free_port().unwrap();
    let error = site.create().await.unwrap_err();
    assert_eq!(error.exit_code(), 69);
    assert!(error.to_string().contains("--sentinel"), "{error}");
    assert_eq!(site.objects().await, 0);
}
