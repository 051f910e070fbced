//! Connections in the middle of something: MULTI, WATCH, blocked in a pop.

use std::time::{Duration, Instant};

use switchmaster::demo::cluster::until;
use switchmaster::demo::wire::{Reply, Wire, encode};

use crate::support::figures::{Figures, Target, rounds};
use crate::support::stage::{LIMIT, Stage, ask, soon};

#[tokio::test]
async fn transactions_and_blocking_pops_go_on_after_a_planned_failover() {
    go_on(Figures::of("transactions, planned"), false).await;
}

#[tokio::test]
async fn transactions_and_blocking_pops_go_on_after_a_crash() {
    go_on(Figures::of("transactions, kill -9"), true).await;
}

async fn go_on(mut figures: Figures, crash: bool) {
    for _ in 0..rounds() {
        let stage = Stage::start().await;
        let (mut open, mut watching, mut in_both) = (stage.open().await, stage.open().await, stage.open().await);
        let (mut popping, mut waiting, mut pusher) = (stage.open().await, stage.open().await, stage.open().await);
        for wire in [&mut watching, &mut in_both] {
            assert_eq!(ask(wire, &["WATCH", "watched"]).await.text(), Some("OK"));
        }
        for (wire, counter) in [(&mut open, "open"), (&mut in_both, "both")] {
            assert_eq!(ask(wire, &["MULTI"]).await.text(), Some("OK"));
            assert_eq!(ask(wire, &["SET", &format!("{counter}:key"), "value"]).await.text(), Some("QUEUED"));
            assert_eq!(ask(wire, &["INCR", counter]).await.text(), Some("QUEUED"));
        }
        send(&mut popping, &["BLPOP", "queue", "30"]).await;
        send(&mut waiting, &["BLPOP", "never", "5"]).await;
        let blocked = Instant::now();
        until("both pops to be blocked", LIMIT, async || {
            let clients = stage.cluster.ask_node(0, &["INFO", "clients"]).await.map_err(|error| error.to_string())?;
            let text = clients.text().unwrap_or_default();
            if text.contains("blocked_clients:2") { Ok(()) } else { Err(text.to_owned()) }
        })
        .await
        .unwrap();
        let timed_out = tokio::spawn(async move { (soon(waiting.receive()).await.unwrap(), blocked.elapsed()) });
        let (_, new) = if crash { stage.crash(0).await } else { stage.fail_over().await };

        assert_eq!(ask(&mut open, &["INCR", "open"]).await.text(), Some("QUEUED"));
        let result = ask(&mut open, &["EXEC"]).await;
        assert_eq!(result, Reply::Array(vec![Reply::Simple("OK".into()), Reply::Integer(1), Reply::Integer(2)]));
        assert_eq!(value(&stage, new, "open").await.as_deref(), Some("2"));

        assert_eq!(ask(&mut watching, &["MULTI"]).await.text(), Some("OK"));
        assert_eq!(ask(&mut watching, &["INCR", "watching"]).await.text(), Some("QUEUED"));
        for (wire, counter) in [(&mut watching, "watching"), (&mut in_both, "both")] {
            assert_eq!(ask(wire, &["EXEC"]).await, Reply::Nil, "{counter}");
            assert_eq!(value(&stage, new, counter).await, None);
            // The next try is a transaction like any other.
            assert_eq!(ask(wire, &["WATCH", "watched"]).await.text(), Some("OK"));
            assert_eq!(ask(wire, &["MULTI"]).await.text(), Some("OK"));
            assert_eq!(ask(wire, &["INCR", counter]).await.text(), Some("QUEUED"));
            assert_eq!(ask(wire, &["EXEC"]).await, Reply::Array(vec![Reply::Integer(1)]));
        }

        assert_eq!(ask(&mut pusher, &["RPUSH", "queue", "element"]).await, Reply::Integer(1));
        let pushed = Instant::now();
        let popped = soon(popping.receive()).await.unwrap();
        assert_eq!(popped.items().get(1).and_then(Reply::text), Some("element"), "{popped}");
        figures.note_time("a pop gets its element within, ms", Target::None, pushed.elapsed());
        let (nothing, took) = timed_out.await.unwrap();
        assert_eq!(nothing, Reply::Nil);
        figures.note_time("a pop of 5 s times out after, ms", Target::None, took);
        assert!(took > Duration::from_millis(4_900) && took < Duration::from_secs(20), "{took:?}");
    }
}

async fn value(stage: &Stage, node: usize, key: &str) -> Option<String> {
    stage.cluster.ask_node(node, &["GET", key]).await.unwrap().text().map(str::to_owned)
}

async fn send(wire: &mut Wire, request: &[&str]) {
    let mut bytes = Vec::new();
    encode(&mut bytes, request);
    soon(wire.send(&bytes)).await.unwrap();
}
