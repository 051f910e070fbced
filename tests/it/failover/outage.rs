//! No master at all: requests wait until the deadline, then fail in words, and everything works when one is back.

use std::time::{Duration, Instant};

use switchmaster::demo::cluster::{ClusterSpec, until};
use switchmaster::demo::wire::{Reply, Wire, encode};

use crate::support::figures::{Figures, Target, rounds};
use crate::support::stage::{LIMIT, Stage, ask, soon};

const HOLD: Duration = Duration::from_secs(3);

#[tokio::test]
async fn an_outage_holds_then_fails_and_ends() {
    let mut figures = Figures::of("outage");
    for _ in 0..rounds() {
        let stage = Stage::with(ClusterSpec::default(), &[("SWITCHMASTER_HOLD_TIMEOUT", "3s")]).await;
        let mut writer = stage.open().await;
        let mut reader = stage.open().await;
        assert_eq!(ask(&mut writer, &["SET", "key", "before"]).await.text(), Some("OK"));
        assert_eq!(ask(&mut reader, &["GET", "key"]).await.text(), Some("before"));

        let began = Instant::now();
        stage.cluster.nodes().iter().for_each(|node| _ = node.kill9());
        held(&stage).await;
        send(&mut writer, &["SET", "key", "in the gap"]).await;
        send(&mut reader, &["GET", "key"]).await;
        let mut late = soon(Wire::connect(stage.proxy.addr())).await.unwrap();
        send(&mut late, &["PING"]).await;
        for wire in [&mut writer, &mut reader, &mut late] {
            let reply = soon(wire.receive()).await.unwrap();
            assert!(matches!(&reply, Reply::Error(text) if text.starts_with("MASTERDOWN")), "{reply}");
            assert!(began.elapsed() >= HOLD, "{reply} after {:?}", began.elapsed());
        }
        figures.note_time("held for 3 s until, ms", Target::None, began.elapsed());
        let asked = Instant::now();
        let begun = stage.metric("switchmaster_sessions_held_total").await;
        for wire in [&mut writer, &mut reader, &mut late] {
            let reply = ask(wire, &["GET", "key"]).await;
            assert!(matches!(&reply, Reply::Error(text) if text.starts_with("MASTERDOWN")), "{reply}");
        }
        figures.note_time("three new ones fail within, ms", Target::None, asked.elapsed());
        assert_eq!(stage.metric("switchmaster_sessions_held_total").await, begun, "new requests fail at once");

        // A new session of predis 3, which says all this in one write, reads an error to each; QUIT is obeyed.
        let hello = ["HELLO", "2", "AUTH", "default", "secret", "SETNAME", "app"];
        let (lib, version) = (["CLIENT", "SETINFO", "LIB-NAME", "predis"], ["CLIENT", "SETINFO", "LIB-VER", "3"]);
        let requests: [&[&str]; 5] = [&hello, &lib, &version, &["SELECT", "1"], &["QUIT"]];
        let mut bytes = Vec::new();
        requests.iter().for_each(|request| encode(&mut bytes, request));
        let mut predis = soon(Wire::connect(stage.proxy.addr())).await.unwrap();
        soon(predis.send(&bytes)).await.unwrap();
        for request in &requests[..4] {
            let reply = soon(predis.receive()).await.unwrap();
            assert!(matches!(&reply, Reply::Error(text) if text.starts_with("MASTERDOWN")), "{request:?}: {reply}");
        }
        assert_eq!(soon(predis.receive()).await.unwrap().text(), Some("OK"));
        assert!(soon(predis.receive()).await.is_err(), "closed behind QUIT");
        // What answers with a list is closed, and nothing was lost with it.
        let closed = |reason: &'static str| stage.metric(reason);
        let lost = closed("switchmaster_sessions_closed_total{reason=\"lost_reply\"}").await;
        let mut list = soon(Wire::connect(stage.proxy.addr())).await.unwrap();
        send(&mut list, &["LRANGE", "list", "0", "-1"]).await;
        assert!(soon(list.receive()).await.is_err());
        drop(list);
        until("the close to be counted", LIMIT, async || {
            match closed("switchmaster_sessions_closed_total{reason=\"outage\"}").await {
                1.0 => Ok(()),
                other => Err(other.to_string()),
            }
        })
        .await
        .unwrap();
        assert_eq!(closed("switchmaster_sessions_closed_total{reason=\"lost_reply\"}").await, lost);

        stage.cluster.node(0).restart().await.unwrap();
        let back = Instant::now();
        for wire in [&mut writer, &mut reader, &mut late] {
            until("service", LIMIT, async || match ask(wire, &["SET", "key", "after"]).await {
                Reply::Simple(_) => Ok(()),
                other => Err(other.to_string()),
            })
            .await
            .unwrap();
            assert_eq!(ask(wire, &["GET", "key"]).await.text(), Some("after"));
        }
        figures.note_time("served after its return, ms", Target::None, back.elapsed());

        // A short one: what waits is served, also on a connection that was opened in the gap.
        stage.cluster.node(0).kill9();
        held(&stage).await;
        send(&mut writer, &["SET", "key", "again"]).await;
        let mut late = soon(Wire::connect(stage.proxy.addr())).await.unwrap();
        send(&mut late, &["PING"]).await;
        stage.cluster.node(0).restart().await.unwrap();
        assert_eq!(soon(writer.receive()).await.unwrap().text(), Some("OK"));
        assert_eq!(soon(late.receive()).await.unwrap().text(), Some("PONG"));
    }
}

async fn held(stage: &Stage) {
    until("requests to be held", LIMIT, async || match stage.metric("switchmaster_phase{phase=\"stable\"}").await {
        0.0 => Ok(()),
        other => Err(other.to_string()),
    })
    .await
    .unwrap();
}

async fn send(wire: &mut Wire, request: &[&str]) {
    let mut bytes = Vec::new();
    encode(&mut bytes, request);
    soon(wire.send(&bytes)).await.unwrap();
}
