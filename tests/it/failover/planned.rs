//! Planned failovers: nobody notices, and no acknowledged write is missing.

use std::time::{Duration, Instant};

use switchmaster::demo::cluster::{ClusterSpec, until};
use switchmaster::demo::load::{Load, LoadSpec};
use switchmaster::demo::report::{Report, Verdict};
use switchmaster::demo::wire::encode;

use crate::support::figures::{Figures, Target, rounds, turn};
use crate::support::stage::{LIMIT, MOST_LINES, Stage, ask, more, served, soon};

#[tokio::test]
async fn a_planned_failover_costs_no_error_and_no_write() {
    let _turn = turn().await;
    let mut figures = Figures::of("planned");
    for _ in 0..rounds() {
        let stage = Stage::start().await;
        let load = stage.load(LoadSpec::default()).await;
        more(&load, 1_000).await;
        let quiet = stage.lines();
        more(&load, 10_000).await;
        assert_eq!(stage.lines(), quiet, "logged while nothing happened:\n{}", stage.proxy.log());

        let before = Instant::now();
        let (asked, new) = stage.fail_over().await;
        served(&load, Instant::now()).await;
        let verdict = load.verify(stage.cluster.node_addr(new)).await.unwrap();
        figures.note_time("longest stall, ms", Target::AtMost(300.0), load.report_since(before).longest_pause());
        assert_nothing_missing(&verdict);

        // Until Sentinel has demoted the old master it takes writes from whoever still sends them there.
        stage.cluster.wait_replicating(LIMIT).await.unwrap();
        stage.settled().await;
        more(&load, 1_000).await;
        let report = load.stop(LIMIT).await.unwrap();
        assert_nothing_noticed(&report);
        assert_nothing_missing(&load.verify(stage.cluster.node_addr(new)).await.unwrap());
        figures.note_time("longest stall in all, ms", Target::None, load.report_since(asked).longest_pause());
        let lines = stage.lines() - quiet;
        figures.note("log lines", Target::AtMost(MOST_LINES as f64), lines as f64);
        assert!(lines <= MOST_LINES, "{lines} lines:\n{}", stage.proxy.log());
        assert_eq!(stage.metric("switchmaster_failovers_total{kind=\"planned\"}").await, 1.0);
        assert_eq!(stage.metric("switchmaster_failovers_total").await, 1.0);
    }
}

/// Back and forth. At once, Sentinel may promote a replica that is still copying the last new master: what that one
/// had acknowledged meanwhile is lost by Redis, and the log must say so. With replicas that have caught up, nothing is.
#[tokio::test]
async fn failovers_in_a_row_lose_no_acknowledged_write() {
    let _turn = turn().await;
    let many = rounds() > 1;
    let mut runs = vec![
        FailBacks { name: "fail-backs, at once", scripts: 0, caught_up: false },
        FailBacks { name: "fail-backs, slow scripts", scripts: 3, caught_up: true },
    ];
    if many {
        runs.push(FailBacks { name: "fail-backs", scripts: 0, caught_up: true });
    }
    for run in runs {
        run.run(if many { 15 } else { 3 }).await;
    }
}

struct FailBacks {
    name: &'static str,
    scripts: usize,
    /// Wait before each failover until a replica has what the master has.
    caught_up: bool,
}

impl FailBacks {
    async fn run(&self, failovers: usize) {
        let mut figures = Figures::of(self.name);
        let spec = ClusterSpec { failover_timeout: Duration::from_secs(3), ..ClusterSpec::with_password("secret") };
        let stage = Stage::with(spec, &[]).await;
        let (writers, rate) = if self.scripts == 0 { (10, 200.0) } else { (3, 8.0) };
        let load = LoadSpec { writers, readers: 5, counters: 2, scripts: self.scripts, rate, ..LoadSpec::default() };
        let load = stage.load(load).await;
        let (mut slowest, mut missing) = (Duration::ZERO, 0);
        for _ in 0..failovers {
            if self.caught_up {
                stage.caught_up().await;
            }
            let quiet = stage.lines();
            let before = Instant::now();
            let (_, new) = stage.fail_over().await;
            served(&load, Instant::now()).await;
            slowest = slowest.max(load.report_since(before).longest_pause());
            let verdict = load.verify(stage.cluster.node_addr(new)).await.unwrap();
            if verdict.missing > missing {
                let told = stage.proxy.log().lines().skip(quiet).any(|line| line.contains("are not on it"));
                assert!(told && !self.caught_up, "{verdict}");
                missing = verdict.missing;
            }
        }
        let master = stage.cluster.wait_replicating(LIMIT).await.unwrap();
        stage.settled().await;
        let report = load.stop(LIMIT).await.unwrap();
        let stale = if missing > 0 { report.stale } else { 0 };
        assert_eq!(report.broken_promises(&["UNKNOWNRESULT"]) - stale, 0, "{report}\n{}", stage.proxy.log());
        let verdict = load.verify(stage.cluster.node_addr(master)).await.unwrap();
        assert_eq!((verdict.missing.saturating_sub(missing), verdict.doubled), (0, 0), "{verdict}");
        let wrong = stage.metric("switchmaster_early_commits_wrong_total").await;
        let early = stage.metric("switchmaster_early_commits_total").await;
        assert_eq!(wrong, 0.0, "early commits that were wrong, of {early}\n{}", stage.proxy.log());
        figures.note("failovers", Target::None, failovers as f64);
        figures.note("early commits", Target::None, early);
        figures.note("wrong early commits", Target::AtMost(0.0), wrong);
        figures.note("lost replies", Target::None, report.error_count() as f64);
        figures.note("acknowledged writes missing", Target::AtMost(0.0), missing as f64);
        figures.note_time("longest stall, ms", Target::None, slowest);
    }
}

/// Values larger than one read, many requests in flight, and increments, which show when one runs twice.
#[tokio::test]
async fn pipelines_of_large_values_and_counters_do_not_notice() {
    let _turn = turn().await;
    let mut figures = Figures::of("pipelines, planned");
    for _ in 0..rounds() {
        let stage = Stage::start().await;
        let (load, counters) = pipelines(&stage).await;
        let before = Instant::now();
        let (_, new) = stage.fail_over().await;
        served(&load, Instant::now()).await;
        served(&counters, Instant::now()).await;
        for load in [&load, &counters] {
            assert_nothing_noticed(&load.stop(LIMIT).await.unwrap());
            assert_nothing_missing(&load.verify(stage.cluster.node_addr(new)).await.unwrap());
        }
        let stall = load.report_since(before).longest_pause().max(counters.report_since(before).longest_pause());
        figures.note_time("longest stall, ms", Target::AtMost(300.0), stall);
    }
}

/// Writers of 16 × 64 KiB, and counters.
pub async fn pipelines(stage: &Stage) -> (Load, Load) {
    let large = LoadSpec { writers: 6, pipeline: 16, value_size: 64 * 1024, rate: 48.0, ..LoadSpec::none() };
    let counters = LoadSpec { counters: 8, readers: 0, rate: 300.0, ..LoadSpec::none() };
    let loads = (stage.load(large).await, stage.load(counters).await);
    more(&loads.0, 64).await;
    more(&loads.1, 1_000).await;
    loads
}

/// A connection for each request, as php-fpm makes them.
#[tokio::test]
async fn a_connection_for_each_request_does_not_notice() {
    let _turn = turn().await;
    let mut figures = Figures::of("php-fpm");
    for _ in 0..rounds() {
        let stage = Stage::start().await;
        let spec = LoadSpec { writers: 10, readers: 10, rate: 50.0, connect_each_time: true, ..LoadSpec::default() };
        let load = stage.load(spec).await;
        more(&load, 500).await;
        let before = Instant::now();
        let (_, new) = stage.fail_over().await;
        served(&load, Instant::now()).await;
        more(&load, 500).await;
        let report = load.stop(LIMIT).await.unwrap();
        assert_eq!(report.broken_promises(&[]), 0, "{report}\n{}", stage.proxy.log());
        assert_nothing_missing(&load.verify(stage.cluster.node_addr(new)).await.unwrap());
        figures.note_time("longest stall, ms", Target::AtMost(300.0), load.report_since(before).longest_pause());
    }
}

/// No error, no loss, and every client has the connection it began with.
pub fn assert_nothing_noticed(report: &Report) {
    assert_eq!(report.broken_promises(&[]), 0, "{report}");
    for client in &report.clients {
        let (first, last) = client.connections.expect("connected");
        assert_eq!(first, last, "{} has another connection", client.name);
    }
}

/// Everything acknowledged is there, once.
pub fn assert_nothing_missing(verdict: &Verdict) {
    assert!(verdict.acknowledged > 0, "{verdict}");
    assert_eq!(verdict.missing + verdict.foreign + verdict.doubled, 0, "{verdict}");
}

/// `CLIENT PAUSE … WRITE` before the failover, as hooks of charts do it: the old master's stream stands still before the
/// writes are sent, so that the new master surely lacks them, whether the old one still runs them or not.
#[tokio::test]
async fn writes_that_a_paused_master_keeps_waiting_run_on_the_new_one() {
    let _turn = turn().await;
    let stage = still_stage().await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(stage.open().await);
    }
    let [counter, pusher, script, transaction, publisher] = &mut clients[..] else { unreachable!() };
    assert_eq!(ask(counter, &["INCR", "n"]).await.to_string(), ":1");
    for request in [&["MULTI"][..], &["INCR", "m"], &["INCR", "m"]] {
        ask(transaction, request).await;
    }
    stage.caught_up().await;
    let old = stage.cluster.who_is_master().await.unwrap();
    stage.cluster.ask_node(old, &["CLIENT", "PAUSE", "60000", "WRITE"]).await.unwrap();
    looked_at(&stage, old).await;
    let requests: [&[&str]; 5] = [
        &["INCR", "n"],
        &["RPUSH", "l", "a"],
        &["EVAL", "return redis.call('incr', KEYS[1])", "1", "s"],
        &["EXEC"],
        &["PUBLISH", "channel", "text"],
    ];
    for (client, request) in [counter, pusher, script, transaction, publisher].into_iter().zip(requests) {
        let mut bytes = Vec::new();
        encode(&mut bytes, request);
        soon(client.send(&bytes)).await.unwrap();
    }
    let (_, new) = stage.fail_over().await;
    let mut replies = Vec::new();
    for client in &mut clients {
        replies.push(soon(client.receive()).await.unwrap().to_string());
    }
    let log = stage.proxy.log();
    assert_eq!(replies[..3], [":2", ":1", ":1"], "{log}");
    assert_eq!(replies[3], "[:1, :2]", "{log}");
    assert!(replies[4].contains("UNKNOWNRESULT"), "subscribers of the old master may have heard it: {}", replies[4]);
    for (key, value) in [("n", "2"), ("m", "2"), ("s", "1")] {
        assert_eq!(stage.cluster.ask_node(new, &["GET", key]).await.unwrap().text(), Some(value), "{key}");
    }
    assert_eq!(stage.cluster.ask_node(new, &["LLEN", "l"]).await.unwrap().to_string(), ":1");
}

/// A cluster whose stream moves by writes and the Sentinels' hellos alone.
pub async fn still_stage() -> Stage {
    let node_config = vec!["repl-ping-replica-period 3600".into()];
    Stage::with(ClusterSpec { node_config, ..ClusterSpec::with_password("secret") }, &[]).await
}

/// Waits until the proxy has had an answer to a ROLE that it sent from now on: it asks one after the other.
pub async fn looked_at(stage: &Stage, node: usize) {
    let mut first = None;
    until("the proxy to ask for ROLE", LIMIT, async || {
        let stats = stage.cluster.ask_node(node, &["INFO", "commandstats"]).await.map_err(|error| error.to_string())?;
        let calls = stats.text().and_then(|text| text.split("cmdstat_role:calls=").nth(1)?.split(',').next());
        let calls: u64 = calls.and_then(|calls| calls.parse().ok()).unwrap_or_default();
        let first = *first.get_or_insert(calls);
        if calls > first + 2 { Ok(()) } else { Err(format!("{first}, now {calls}")) }
    })
    .await
    .unwrap();
}
