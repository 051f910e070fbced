//! Sessions that only wait, and sessions that an operator kills.

use std::time::Instant;

use switchmaster::demo::cluster::{ClusterSpec, until};
use switchmaster::demo::load::LoadSpec;
use switchmaster::demo::wire::{Reply, Wire, encode};
use switchmaster::net::raise_descriptor_limit;

use super::planned::{assert_nothing_missing, assert_nothing_noticed};
use crate::support::figures::{Figures, Target, rounds, turn};
use crate::support::stage::{LIMIT, Stage, ask, more, served, soon};

const IDLE: usize = 5_000;
/// Asserted of a debug build; the README states what a release build was measured with.
const MOST_BYTES: f64 = 8.0 * 1024.0;

#[tokio::test]
#[ignore = "needs the machine to itself: make test runs it by itself"]
async fn thousands_of_idle_sessions_cost_little_and_survive() {
    let _turn = turn().await;
    raise_descriptor_limit();
    let mut figures = Figures::of("5,000 idle");
    for _ in 0..rounds().min(3) {
        let stage = Stage::with(ClusterSpec::default(), &[]).await;
        let load = stage.load(LoadSpec { writers: 10, readers: 5, rate: 100.0, ..LoadSpec::default() }).await;
        more(&load, 1_000).await;
        let bare = stage.resident();
        let mut idle = Vec::with_capacity(IDLE);
        for _ in 0..IDLE {
            idle.push(soon(Wire::connect(stage.proxy.addr())).await.unwrap());
        }
        until("all of them to be accepted", LIMIT, async || {
            let open = stage.metric("switchmaster_sessions").await;
            if open >= (IDLE + 15) as f64 { Ok(()) } else { Err(open.to_string()) }
        })
        .await
        .unwrap();
        let each = (stage.resident() - bare) / IDLE as f64;
        figures.note("bytes each, without a backend", Target::AtMost(MOST_BYTES), each);
        assert!(each < MOST_BYTES, "{each} bytes");
        ping_all(&mut idle).await;
        let each = (stage.resident() - bare) / IDLE as f64;
        figures.note("bytes each, with a backend", Target::AtMost(MOST_BYTES), each);
        assert!(each < MOST_BYTES, "{each} bytes");

        let before = Instant::now();
        let (_, new) = stage.fail_over().await;
        served(&load, Instant::now()).await;
        figures.note_time(
            "longest stall of the load, ms",
            Target::AtMost(300.0),
            load.report_since(before).longest_pause(),
        );
        let asked = Instant::now();
        ping_all(&mut idle).await;
        figures.note_time("all asking at once after it, ms", Target::None, asked.elapsed());
        let each = (stage.resident() - bare) / IDLE as f64;
        figures.note("bytes each, after the failover", Target::AtMost(MOST_BYTES), each);
        assert_nothing_noticed(&load.stop(LIMIT).await.unwrap());
        assert_nothing_missing(&load.verify(stage.cluster.node_addr(new)).await.unwrap());
    }
}

/// All of them ask at once.
async fn ping_all(wires: &mut [Wire]) {
    let mut ping = Vec::new();
    encode(&mut ping, &["PING"]);
    for wire in wires.iter_mut() {
        soon(wire.send(&ping)).await.unwrap();
    }
    for wire in wires {
        assert_eq!(soon(wire.receive()).await.unwrap().text(), Some("PONG"));
    }
}

/// The master is what it was: the client sees what it would see on a direct connection, and nobody else anything.
#[tokio::test]
async fn a_killed_connection_ends_its_session_and_no_other() {
    let mut figures = Figures::of("CLIENT KILL");
    for _ in 0..rounds() {
        let stage = Stage::start().await;
        let load = stage.load(LoadSpec { writers: 4, readers: 4, rate: 100.0, ..LoadSpec::default() }).await;
        let mut bystander = stage.open().await;
        let id = ask(&mut bystander, &["CLIENT", "ID"]).await;
        let (mut idle, mut blocked) = (stage.open().await, stage.open().await);
        for (wire, name) in [(&mut idle, "idle-victim"), (&mut blocked, "blocked-victim")] {
            assert_eq!(ask(wire, &["CLIENT", "SETNAME", name]).await.text(), Some("OK"));
        }
        let mut pop = Vec::new();
        encode(&mut pop, &["BLPOP", "nothing-there", "0"]);
        soon(blocked.send(&pop)).await.unwrap();
        let quiet = stage.lines();
        for (wire, name) in [(&mut idle, "idle-victim"), (&mut blocked, "blocked-victim")] {
            let killed = kill(&stage, name).await;
            let end = soon(wire.receive()).await;
            assert!(end.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::UnexpectedEof), "{end:?}");
            figures.note_time("until the client sees FIN, ms", Target::AtMost(1_000.0), killed.elapsed());
        }
        more(&load, 300).await;
        assert_eq!(ask(&mut bystander, &["CLIENT", "ID"]).await, id, "another connection of the bystander's");
        assert_nothing_noticed(&load.stop(LIMIT).await.unwrap());
        assert_eq!(stage.metric("switchmaster_failovers_total").await, 0.0);
        drop((idle, blocked));
        until("both ends to be counted", LIMIT, async || {
            match stage.metric("switchmaster_sessions_closed_total{reason=\"upstream_closed\"}").await {
                2.0 => Ok(()),
                _ => Err(stage.metrics().await),
            }
        })
        .await
        .unwrap();
        assert_eq!(stage.lines(), quiet, "{}", stage.proxy.log());
    }
}

/// Kills the connection of this name at the master.
async fn kill(stage: &Stage, name: &str) -> Instant {
    let mut master = stage.cluster.connect(0).await.unwrap();
    let list = ask(&mut master, &["CLIENT", "LIST"]).await;
    let mark = format!(" name={name} ");
    let line = list.text().unwrap().lines().find(|line| line.contains(&mark)).expect("it is in CLIENT LIST").to_owned();
    let id = line.split_whitespace().find_map(|field| field.strip_prefix("id=")).unwrap();
    let killed = Instant::now();
    assert_eq!(ask(&mut master, &["CLIENT", "KILL", "ID", id]).await, Reply::Integer(1));
    killed
}
