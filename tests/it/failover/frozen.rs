//! The proxy itself does not run for a while (SIGSTOP, a starved host), around a planned failover.

use std::time::Duration;

use rustix::process::{Signal, kill_process};
use switchmaster::demo::load::LoadSpec;
use switchmaster::demo::roles::RoleWatch;
use switchmaster::demo::wire::encode;

use crate::support::figures::turn;
use crate::support::stage::{LIMIT, Stage, ask, more, served, soon};

/// Longer than the gap between two looks that makes control doubt (`tracker/gap.rs`).
const NOTICED: Duration = Duration::from_millis(300);

/// What waited in the sockets of a frozen proxy is not for the old master, which says +OK to it and is thrown away.
#[tokio::test]
async fn what_waits_for_a_frozen_proxy_goes_to_the_new_master() {
    let _turn = turn().await;
    let stage = Stage::start().await;
    let roles = RoleWatch::start(&stage.cluster).unwrap();
    let mut clients = Vec::new();
    for _ in 0..8 {
        let mut client = stage.open().await;
        ask(&mut client, &["INCR", "n"]).await;
        clients.push(client);
    }
    let proxy = stage.proxy.pid();
    // A control: frozen, and nothing happened meanwhile.
    kill_process(proxy, Signal::STOP).unwrap();
    send(&mut clients).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    kill_process(proxy, Signal::CONT).unwrap();
    for client in &mut clients {
        soon(client.receive()).await.unwrap();
    }
    assert_eq!(ask(&mut clients[0], &["GET", "n"]).await.text(), Some("16"));
    assert_eq!(stage.metric("switchmaster_failovers_total").await, 0.0);

    stage.caught_up().await;
    let frozen = std::time::Instant::now();
    kill_process(proxy, Signal::STOP).unwrap();
    let asked = stage.cluster.failover(LIMIT).await.unwrap();
    send(&mut clients).await;
    let promoted = roles.wait_for_promotion(asked, LIMIT).await;
    // A failover can be over before that, and who was frozen for less does not know that it was.
    tokio::time::sleep_until((frozen + NOTICED).into()).await;
    kill_process(proxy, Signal::CONT).unwrap();
    let new = promoted.unwrap().node;
    for client in &mut clients {
        let reply = soon(client.receive()).await.unwrap();
        assert!(reply.to_string().starts_with(':'), "{reply}\n{}", stage.proxy.log());
    }
    let count = stage.cluster.ask_node(new, &["GET", "n"]).await.unwrap();
    assert_eq!(count.text(), Some("24"), "acknowledged writes are missing\n{}", stage.proxy.log());
}

async fn send(clients: &mut [switchmaster::demo::wire::Wire]) {
    for client in clients {
        let mut bytes = Vec::new();
        encode(&mut bytes, &["INCR", "n"]);
        soon(client.send(&bytes)).await.unwrap();
    }
}

/// Again and again, wherever in the failover that is.
#[tokio::test]
async fn a_proxy_that_stutters_acknowledges_nothing_that_is_thrown_away() {
    let _turn = turn().await;
    let stage = Stage::start().await;
    let load = stage.load(LoadSpec { writers: 8, readers: 0, rate: 100.0, ..LoadSpec::default() }).await;
    for (stopped, running) in [(150, 60), (250, 100), (700, 90)] {
        stage.settled().await;
        stage.caught_up().await;
        more(&load, 200).await;
        let proxy = stage.proxy.pid();
        let stutter = tokio::spawn(async move {
            loop {
                kill_process(proxy, Signal::STOP).unwrap();
                tokio::time::sleep(Duration::from_millis(stopped)).await;
                kill_process(proxy, Signal::CONT).unwrap();
                tokio::time::sleep(Duration::from_millis(running)).await;
            }
        });
        let (_, new) = stage.fail_over().await;
        stutter.abort();
        let _ = stutter.await;
        kill_process(proxy, Signal::CONT).unwrap();
        served(&load, std::time::Instant::now()).await;
        let verdict = load.verify(stage.cluster.node_addr(new)).await.unwrap();
        assert_eq!((verdict.missing, verdict.doubled), (0, 0), "{verdict}\n{}", stage.proxy.log());
        stage.cluster.wait_replicating(LIMIT).await.unwrap();
    }
    load.stop(LIMIT).await.unwrap();
}
