//! The master dies, is frozen, or comes back at once: only the fate of writes under way is unknown.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use switchmaster::demo::cluster::{Cluster, ClusterSpec, Member, until};
use switchmaster::demo::load::{Load, LoadSpec};
use switchmaster::demo::relay::Passage;
use switchmaster::demo::report::{Report, Verdict};
use switchmaster::demo::roles::RoleWatch;
use switchmaster::demo::wire::{Reply, Wire, encode};

use super::planned::{assert_nothing_missing, looked_at, pipelines, still_stage};
use crate::support::figures::{Figures, Target, rounds, turn};
use crate::support::proxy::view;
use crate::support::stage::{LIMIT, MOST_LINES, Stage, ask, more, served, soon};

#[tokio::test]
async fn a_killed_master_costs_at_most_one_reply_of_each_writer() {
    let _turn = turn().await;
    let mut figures = Figures::of("kill -9");
    for _ in 0..rounds() {
        let stage = Stage::start().await;
        let load = stage.load(LoadSpec::default()).await;
        let roles = RoleWatch::start(&stage.cluster).unwrap();
        let announced = hear_switch_master(&stage.cluster).await;
        more(&load, 5_000).await;
        let quiet = stage.lines();

        let killed = stage.cluster.node(0).kill9();
        let promotion = roles.wait_for_promotion(killed, LIMIT).await.unwrap();
        // The last moment at which the node was still heard as a replica: what follows is measured too long.
        let promotion = promotion.not_before.unwrap_or(promotion.at);
        let new = stage.cluster.wait_for_master_change(0, LIMIT).await.unwrap();
        served(&load, promotion).await;
        let served_after = load.longest_wait_after(promotion);
        more(&load, 1_000).await;
        stage.settled().await;
        stage.cluster.wait_replicating(LIMIT).await.unwrap();
        let report = load.stop(LIMIT).await.unwrap();
        assert_only_lost_replies(&report, 1);
        assert_no_error_since(&load, promotion);

        let announced = announced.lock().unwrap().expect("+switch-master was heard");
        let lead = announced.saturating_duration_since(promotion).as_secs_f64() - served_after.as_secs_f64();
        figures.note_time("served after the promotion, ms", Target::AtMost(150.0), served_after);
        figures.note("served before +switch-master by, ms", Target::AtLeast(0.0), lead * 1000.0);
        figures.note_time("longest stall, ms", Target::None, report.longest_pause());
        figures.note("lost replies, of 20 writers", Target::AtMost(20.0), report.error_count() as f64);
        let verdict = load.verify(stage.cluster.node_addr(new)).await.unwrap();
        assert_only_unreplicated(&verdict, &report);
        figures.note("acknowledged, never replicated", Target::None, verdict.missing as f64);
        let lines = stage.lines() - quiet;
        figures.note("log lines", Target::AtMost(MOST_LINES as f64), lines as f64);
        assert!(lines <= MOST_LINES, "{lines} lines:\n{}", stage.proxy.log());
        assert_eq!(stage.metric("switchmaster_failovers_total{kind=\"crash\"}").await, 1.0);
    }
}

#[tokio::test]
async fn a_frozen_master_that_comes_back_acknowledges_nothing() {
    let _turn = turn().await;
    let mut figures = Figures::of("SIGSTOP, SIGCONT");
    for _ in 0..rounds() {
        let stage = Stage::start().await;
        let load = stage.load(LoadSpec { counters: 2, ..LoadSpec::default() }).await;
        let roles = RoleWatch::start(&stage.cluster).unwrap();
        more(&load, 5_000).await;
        let stopped = stage.cluster.node(0).stop();
        let promotion = roles.wait_for_promotion(stopped, LIMIT).await.unwrap();
        let promotion = promotion.not_before.unwrap_or(promotion.at);
        let new = stage.cluster.wait_for_master_change(0, LIMIT).await.unwrap();
        served(&load, promotion).await;
        let switched = Instant::now();
        let at_switch = load.verify(stage.cluster.node_addr(new)).await.unwrap();
        figures.note_time("served after the promotion, ms", Target::AtMost(150.0), load.longest_wait_after(promotion));

        stage.cluster.node(0).cont();
        more(&load, 2_000).await;
        let master = stage.cluster.wait_replicating(LIMIT).await.unwrap();
        assert_eq!(master, new, "the frozen node did not become the master again");
        more(&load, 1_000).await;
        let whole = load.stop(LIMIT).await.unwrap();
        assert_only_lost_replies(&whole, 1);
        let after = load.report_since(switched);
        assert_eq!(after.broken_promises(&[]), 0, "after the switch:\n{after}\n{}", stage.proxy.log());
        let verdict = load.verify(stage.cluster.node_addr(new)).await.unwrap();
        assert_eq!(verdict.doubled + verdict.foreign, 0, "{verdict}");
        let acknowledged_by_old = verdict.missing.saturating_sub(at_switch.missing);
        assert_eq!(acknowledged_by_old, 0, "acknowledged after the switch and missing: {verdict}");
        assert_only_unreplicated(&verdict, &whole);
        figures.note("acknowledged by the old master", Target::AtMost(0.0), acknowledged_by_old as f64);
        figures.note("errors after the switch", Target::AtMost(0.0), after.broken_promises(&[]) as f64);
        figures.note("acknowledged, never replicated", Target::None, at_switch.missing as f64);
        figures.note("lost replies, of 22 writers", Target::AtMost(22.0), whole.error_count() as f64);
    }
}

/// Its connections stay open, nothing comes from them any more, and nothing says so: no RST, no FIN.
#[tokio::test]
async fn no_session_stays_at_a_half_open_master() {
    let _turn = turn().await;
    let mut figures = Figures::of("half-open");
    for _ in 0..rounds() {
        let spec = ClusterSpec { partitionable: true, ..ClusterSpec::with_password("secret") };
        let stage = Stage::with(spec, &[]).await;
        let load = stage.load(LoadSpec::default()).await;
        let mut idle = stage.open().await;
        let roles = RoleWatch::start(&stage.cluster).unwrap();
        more(&load, 3_000).await;
        let silent = Instant::now();
        stage.cluster.relay(Member::Node(0)).unwrap().set(Passage::BlackHole);
        let noticed = until("the silence to be noticed", LIMIT, async || {
            let suspect = stage.metric("switchmaster_phase{phase=\"suspect\"}").await;
            if suspect == 1.0 { Ok(Instant::now()) } else { Err("no suspicion".to_owned()) }
        });
        let noticed = noticed.await.unwrap();
        let promotion = roles.wait_for_promotion(silent, LIMIT).await.unwrap();
        let promotion = promotion.not_before.unwrap_or(promotion.at);
        served(&load, promotion).await;
        assert_eq!(ask(&mut idle, &["PING"]).await, Reply::Simple("PONG".into()));
        until("every session to have left", LIMIT, async || {
            let (left, all) =
                (stage.metric("switchmaster_sessions_moved_total").await, stage.metric("switchmaster_sessions").await);
            if left >= all { Ok(()) } else { Err(format!("{left} of {all} have")) }
        })
        .await
        .unwrap();
        figures.note_time("noticed after, ms", Target::None, noticed.duration_since(silent));
        figures.note_time("left after the promotion, ms", Target::AtMost(150.0), load.longest_wait_after(promotion));
        more(&load, 1_000).await;
        let report = load.stop(LIMIT).await.unwrap();
        assert_only_lost_replies(&report, 1);
        assert_no_error_since(&load, promotion);
        assert_eq!(stage.metric("switchmaster_failovers_total{kind=\"crash\"}").await, 1.0);
    }
}

#[tokio::test]
async fn no_counter_runs_twice_when_the_master_is_killed() {
    let _turn = turn().await;
    let mut figures = Figures::of("pipelines, kill -9");
    for _ in 0..rounds() {
        let stage = Stage::start().await;
        let (load, counters) = pipelines(&stage).await;
        let (killed, new) = stage.crash(0).await;
        served(&load, Instant::now()).await;
        served(&counters, Instant::now()).await;
        for (load, most) in [(&load, 16), (&counters, 1)] {
            let report = load.stop(LIMIT).await.unwrap();
            assert_only_lost_replies(&report, most);
            let verdict = load.verify(stage.cluster.node_addr(new)).await.unwrap();
            assert_eq!(verdict.foreign + verdict.doubled, 0, "{verdict}");
            figures.note("lost replies", Target::None, report.error_count() as f64);
        }
        let stall = load.report_since(killed).longest_pause().max(counters.report_since(killed).longest_pause());
        figures.note_time("longest stall, ms", Target::None, stall);
    }
}

/// Quicker than Sentinel notices, and with its data.
#[tokio::test]
async fn a_master_restarted_in_place_costs_only_replies_under_way() {
    let mut figures = Figures::of("restart in place");
    for _ in 0..rounds() {
        let spec = ClusterSpec {
            appendonly: true,
            node_config: vec!["appendfsync always".into()],
            down_after: Duration::from_secs(8),
            ..ClusterSpec::with_password("secret")
        };
        let stage = Stage::with(spec, &[]).await;
        let load = LoadSpec { writers: 6, readers: 4, counters: 2, ..LoadSpec::default() };
        let load = stage.load(load).await;
        more(&load, 500).await;
        stage.cluster.node(0).restart().await.unwrap();
        served(&load, Instant::now()).await;
        more(&load, 500).await;
        let report = load.stop(LIMIT).await.unwrap();
        assert_only_lost_replies(&report, 1);
        assert_nothing_missing(&load.verify(stage.cluster.node_addr(0)).await.unwrap());
        assert_eq!(stage.metric("switchmaster_failovers_total{kind=\"restart\"}").await, 1.0);
        assert!(!stage.proxy.log().contains("EMPTY"), "{}", stage.proxy.log());
        figures.note_time("longest stall, ms", Target::None, report.longest_pause());
        figures.note("lost replies, of 8 writers", Target::AtMost(8.0), report.error_count() as f64);
    }
}

#[tokio::test]
async fn a_master_that_comes_back_empty_is_told_loudly() {
    let spec = ClusterSpec { down_after: Duration::from_secs(8), ..ClusterSpec::with_password("secret") };
    let stage = Stage::with(spec, &[]).await;
    let load = stage.load(LoadSpec { writers: 4, readers: 0, rate: 100.0, ..LoadSpec::default() }).await;
    more(&load, 500).await;
    stage.cluster.node(0).restart().await.unwrap();
    served(&load, Instant::now()).await;
    let report = load.stop(LIMIT).await.unwrap();
    assert_only_lost_replies(&report, 1);
    until("the warning", LIMIT, async || {
        let log = stage.proxy.log();
        let told = log.lines().any(|line| line.contains("EMPTY") && (line.contains("WARN") || line.contains("ERROR")));
        if told { Ok(()) } else { Err(log) }
    })
    .await
    .unwrap();
    assert_eq!(stage.metric("switchmaster_empty_restarts_total").await, 1.0);
    assert!(view(&stage.proxy).await.warnings.iter().any(|warning| warning.contains("EMPTY")));
}

/// No error but lost replies, `most` for each client that writes, and no connection closed.
fn assert_only_lost_replies(report: &Report, most: usize) {
    // What never reached a replica is not there to be read: that is replication's loss, judged by the caller.
    let broken = report.broken_promises(&["UNKNOWNRESULT"]) - report.stale;
    assert_eq!(broken, 0, "{report}");
    assert_eq!(report.connections_lost, 0, "{report}");
    for client in &report.clients {
        let allowed = if client.name.starts_with("reader") { 0 } else { most };
        assert!(client.errors.len() <= allowed, "{}: {:?}", client.name, client.errors);
        let (first, last) = client.connections.expect("connected");
        assert_eq!(first, last, "{} has another connection", client.name);
    }
}

/// Requests sent after `moment` were all answered rightly.
fn assert_no_error_since(load: &Load, moment: Instant) {
    let report = load.report_since(moment);
    assert_eq!(report.ok, report.requests, "of the requests sent after the promotion:\n{report}");
}

/// Replication is asynchronous: what the old master acknowledged in its last moments may be missing, and with it what
/// readers looked for. That is a few of each writer's requests, not more.
fn assert_only_unreplicated(verdict: &Verdict, report: &Report) {
    assert_eq!(verdict.foreign + verdict.doubled, 0, "{verdict}");
    assert!(verdict.missing <= 200, "{verdict}");
    assert!(verdict.missing > 0 || report.stale == 0, "{verdict}\n{report}");
}

/// When the first Sentinel says +switch-master.
async fn hear_switch_master(cluster: &Cluster) -> Arc<Mutex<Option<Instant>>> {
    let heard = Arc::new(Mutex::new(None));
    for addr in cluster.sentinel_addrs() {
        let mut wire = soon(Wire::connect(addr)).await.unwrap();
        soon(wire.ask(&["SUBSCRIBE", "+switch-master"])).await.unwrap();
        let heard = heard.clone();
        tokio::spawn(async move {
            if wire.receive().await.is_ok() {
                heard.lock().unwrap().get_or_insert_with(Instant::now);
            }
        });
    }
    heard
}

/// What a master that hangs was sent after its stream stood still has not run on the new one: it runs there, and once.
/// Had the stream moved after the proxy's last look at it, nobody would know.
#[tokio::test]
async fn writes_sent_to_a_master_that_hangs_run_on_the_new_one() {
    let _turn = turn().await;
    let stage = still_stage().await;
    let mut client = stage.open().await;
    assert_eq!(ask(&mut client, &["INCR", "n"]).await.to_string(), ":1");
    stage.caught_up().await;
    // The Sentinels' hellos move the stream too.
    stage.cluster.ask_node(0, &["CLIENT", "PAUSE", "60000", "WRITE"]).await.unwrap();
    looked_at(&stage, 0).await;
    let stopped = stage.cluster.node(0).stop();
    let mut bytes = Vec::new();
    encode(&mut bytes, &["INCR", "n"]);
    soon(client.send(&bytes)).await.unwrap();
    let new = stage.cluster.wait_for_master_change(0, LIMIT).await.unwrap();
    let reply = soon(client.receive()).await.unwrap();
    assert_eq!(reply.to_string(), ":2", "{:?} after it hung\n{}", stopped.elapsed(), stage.proxy.log());
    stage.cluster.node(0).cont();
    assert_eq!(stage.cluster.ask_node(new, &["GET", "n"]).await.unwrap().text(), Some("2"));
}
