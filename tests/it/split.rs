//! Split views: proxies that hear different Sentinels, and Sentinels that believe different masters.
//!
//! What two proxies write must end on one master, or be named in their logs.

use std::time::{Duration, Instant};

use switchmaster::demo::cluster::{Cluster, ClusterSpec, Member, until};
use switchmaster::demo::load::{Load, LoadSpec};
use switchmaster::demo::proxy::{Proxy, ProxySpec};
use switchmaster::demo::relay::{Passage, Relay};
use switchmaster::demo::report::{Report, Verdict};
use switchmaster::demo::roles::RoleWatch;

use crate::support::proxy::{LIMIT, spec, start, start_as, view, wait_settled, wait_stable, wait_view};

/// A proxy that reaches Sentinel `index` only through a relay of its own.
fn through_a_relay(cluster: &Cluster, index: usize) -> (Relay, ProxySpec) {
    let known = cluster.sentinel_addr(index);
    let relay = Relay::start(known, 0).unwrap();
    let mut spec = spec(cluster);
    spec.set("SWITCHMASTER_ADDRESS_MAP", format!("{known}={}", relay.addr()));
    (relay, spec)
}

/// Writers and readers through `proxy`, at a pace that leaves room for other tests.
async fn load(cluster: &Cluster, proxy: &Proxy) -> Load {
    let clients = LoadSpec { writers: 8, readers: 4, rate: 150.0, auth: cluster.auth(), ..LoadSpec::none() };
    let load = Load::start(proxy.addr(), clients).unwrap();
    load.wait_until_served(LIMIT).await.unwrap();
    load
}

/// Waits for `more` further requests to be answered rightly.
async fn served(load: &Load, more: u64) {
    let before = load.answered();
    until("traffic to go on", LIMIT, async || {
        if load.answered() >= before + more { Ok(()) } else { Err(load.report().to_string()) }
    })
    .await
    .unwrap();
}

/// Ends a load and compares it with what node `master` holds.
async fn judged(cluster: &Cluster, load: &Load, master: usize) -> (Report, Verdict) {
    let report = load.stop(LIMIT).await.unwrap();
    (report, load.verify(cluster.node(master).addr()).await.unwrap())
}

/// The lines in which a proxy names writes that may be lost.
fn alarms(proxy: &Proxy) -> Vec<String> {
    let telling = ["at risk", "is lost with it", "stream are not on it"];
    proxy.log().lines().filter(|line| telling.iter().any(|words| line.contains(words))).map(str::to_owned).collect()
}

/// No error, nothing foreign, and where acknowledged writes are missing the proxy's log says so.
fn explained(name: &str, report: &Report, verdict: &Verdict, proxy: &Proxy) {
    let log = proxy.log();
    // Readers look for what writers were told is there.
    let stale = if verdict.missing > 0 { report.stale } else { 0 };
    assert_eq!(report.broken_promises(&["UNKNOWNRESULT"]) - stale, 0, "{name}: {report}\n{log}");
    assert_eq!(verdict.foreign, 0, "{name}: {verdict}");
    assert!(verdict.missing == 0 || !alarms(proxy).is_empty(), "{name}: {verdict}\n{log}");
}

fn leading_failover(cluster: &Cluster) -> [&str; 3] {
    ["SENTINEL", "FAILOVER", cluster.master_name()]
}

#[tokio::test]
async fn a_proxy_that_does_not_hear_the_leader_ends_where_the_others_are() {
    let cluster = Cluster::start(ClusterSpec::with_password("secret")).await.unwrap();
    let (relay, deaf_spec) = through_a_relay(&cluster, 0);
    let (hears, deaf) = tokio::join!(start(&cluster), async { start_as(&deaf_spec).await });
    wait_settled(&hears, &cluster).await;
    wait_settled(&deaf, &cluster).await;
    let (one, other) = (load(&cluster, &hears).await, load(&cluster, &deaf).await);
    relay.set(Passage::BlackHole);
    wait_view(&deaf, "the leader to be lost", |view| view.sentinels.iter().any(|sentinel| !sentinel.connected)).await;

    let from = Instant::now();
    assert_eq!(cluster.ask_sentinel(0, &leading_failover(&cluster)).await.unwrap().text(), Some("OK"));
    let new = cluster.wait_for_master_change(0, LIMIT).await.unwrap();
    let addr = cluster.node_addr(new).to_string();
    for proxy in [&hears, &deaf] {
        wait_view(proxy, "the new master", |view| view.master.as_ref().is_some_and(|master| master.addr == addr)).await;
        assert_eq!(wait_stable(proxy).await, addr);
    }
    served(&one, 500).await;
    served(&other, 500).await;
    for (name, load, proxy) in [("hears the leader", &one, &hears), ("does not", &other, &deaf)] {
        let pause = load.report_since(from).longest_pause();
        let (report, verdict) = judged(&cluster, load, new).await;
        println!("{name}: pause {} ms, {verdict}\n{:#?}", pause.as_millis(), alarms(proxy));
        explained(name, &report, &verdict, proxy);
        // Who hears the leader loses nothing; who does not sees the replica leave at its next heartbeat.
        let most = if std::ptr::eq(proxy, &hears) { 0 } else { verdict.acknowledged / 4 };
        assert!(verdict.missing <= most, "{name}: {verdict}\n{}", proxy.log());
    }
    assert_eq!(view(&hears).await.counters.early_commits_wrong, 0);
}

#[tokio::test]
async fn a_leader_killed_at_the_promotion_splits_nobody_beyond_what_the_logs_name() {
    let cluster = Cluster::start(ClusterSpec::with_password("secret")).await.unwrap();
    let (relay, mut deaf_spec) = through_a_relay(&cluster, 0);
    let mut hears_spec = spec(&cluster);
    for spec in [&mut deaf_spec, &mut hears_spec] {
        spec.set("SWITCHMASTER_HOLD_TIMEOUT", "60s");
    }
    let (hears, deaf) = tokio::join!(start_as(&hears_spec), start_as(&deaf_spec));
    wait_settled(&hears, &cluster).await;
    wait_settled(&deaf, &cluster).await;
    let (one, other) = (load(&cluster, &hears).await, load(&cluster, &deaf).await);
    relay.set(Passage::BlackHole);
    wait_view(&deaf, "the leader to be lost", |view| view.sentinels.iter().any(|sentinel| !sentinel.connected)).await;

    let roles = RoleWatch::start(&cluster).unwrap();
    // The watch must have heard every node once before it can tell a promotion.
    until("every role", LIMIT, async || if roles.changes().len() == 3 { Ok(()) } else { Err(String::new()) })
        .await
        .unwrap();
    let asked = Instant::now();
    assert_eq!(cluster.ask_sentinel(0, &leading_failover(&cluster)).await.unwrap().text(), Some("OK"));
    let promotion = roles.wait_for_promotion(asked, LIMIT).await.unwrap();
    let killed = cluster.sentinel(0).kill9();
    println!("the leader was killed {} ms after the promotion", (killed - promotion.at).as_millis());

    // The two Sentinels that are left never heard of it: some 17 s later they demote the candidate again.
    let limit = Duration::from_secs(60);
    let master = until("one master for both", limit, async || {
        let (a, b) = (view(&hears).await, view(&deaf).await);
        let master = cluster.who_is_master().await?;
        let masters = roles.changes().iter().fold([true, false, false], |mut masters, change| {
            masters[change.node] = change.is_master;
            masters
        });
        let addr = cluster.node_addr(master).to_string();
        let at = |view: &switchmaster::status::View| {
            view.phase == "stable"
                && view.master.as_ref().is_some_and(|master| master.addr == addr && !master.provisional)
        };
        match at(&a) && at(&b) && masters.iter().filter(|is| **is).count() == 1 {
            true if killed.elapsed() > Duration::from_secs(5) => Ok(master),
            _ => Err(format!("{masters:?} {:?} {:?} {:?} {:?}", a.phase, a.master, b.phase, b.master)),
        }
    })
    .await
    .unwrap();
    println!("node {master} is the master {:.1} s after the kill", killed.elapsed().as_secs_f64());
    served(&one, 500).await;
    served(&other, 500).await;
    for (name, load, proxy) in [("hears the leader", &one, &hears), ("does not", &other, &deaf)] {
        let pause = load.report_since(asked).longest_pause();
        let (report, verdict) = judged(&cluster, load, master).await;
        let wrong = view(proxy).await.counters.early_commits_wrong;
        println!("{name}: pause {} ms, {wrong} wrong, {verdict}\n{:#?}", pause.as_millis(), alarms(proxy));
        explained(name, &report, &verdict, proxy);
        // What is lost is what was written between the kill and its notice, not until the epoch was due.
        assert!(verdict.missing <= verdict.acknowledged / 20, "{name}: {verdict}\n{}", proxy.log());
    }
}

#[tokio::test]
async fn a_sentinel_that_was_cut_off_never_leads_back() {
    let cluster = Cluster::start(ClusterSpec { partitionable: true, ..ClusterSpec::default() }).await.unwrap();
    let proxy = start(&cluster).await;
    wait_settled(&proxy, &cluster).await;
    let rest = [Member::Node(0), Member::Node(1), Member::Node(2), Member::Sentinel(1), Member::Sentinel(2)];
    cluster.partition(&[Member::Sentinel(0)], &rest);
    assert_eq!(cluster.ask_sentinel(1, &leading_failover(&cluster)).await.unwrap().text(), Some("OK"));
    let new = cluster.wait_for_master_change(0, LIMIT).await.unwrap();
    let (old_addr, addr) = (cluster.node_addr(0).to_string(), cluster.node_addr(new).to_string());
    wait_view(&proxy, "the new master", |view| view.master.as_ref().is_some_and(|master| master.addr == addr)).await;
    assert_eq!(wait_stable(&proxy).await, addr);

    // Started now: the stale Sentinel first, then alone (it still names peers, and they know better).
    let mut spec = spec(&cluster);
    let (stale, good) = (cluster.sentinel_addr(0), cluster.sentinel_addr(1));
    spec.set("SWITCHMASTER_SENTINELS", format!("{stale},{good}"));
    let listed_first = start_as(&spec).await;
    spec.set("SWITCHMASTER_SENTINELS", stale.to_string());
    let alone = start_as(&spec).await;
    for proxy in [&proxy, &listed_first, &alone] {
        wait_view(proxy, "the stale Sentinel to be heard", |view| {
            view.sentinels.iter().any(|sentinel| sentinel.names.as_deref() == Some(old_addr.as_str()))
        })
        .await;
        assert_eq!(wait_stable(proxy).await, addr);
        let load = load(&cluster, proxy).await;
        served(&load, 200).await;
        let (report, verdict) = judged(&cluster, &load, new).await;
        assert_eq!(report.broken_promises(&[]) + verdict.missing, 0, "{report}{verdict}");
        let view = wait_view(proxy, "the stale Sentinel to be told", |view| {
            view.warnings.iter().any(|warning| warning.contains("its table is old"))
        })
        .await;
        assert_eq!(view.master.unwrap().addr, addr);
    }
    for started_late in [&listed_first, &alone] {
        assert!(!started_late.log().contains(&format!("following {old_addr}")), "{}", started_late.log());
    }
}

#[tokio::test]
async fn traffic_goes_on_without_any_sentinel_and_they_are_followed_again() {
    let cluster = Cluster::start(ClusterSpec::with_password("secret")).await.unwrap();
    let proxy = start(&cluster).await;
    wait_settled(&proxy, &cluster).await;
    let load = load(&cluster, &proxy).await;
    cluster.sentinels().iter().for_each(|sentinel| _ = sentinel.kill9());
    wait_view(&proxy, "every Sentinel to be lost", |view| view.sentinels.iter().all(|sentinel| !sentinel.connected))
        .await;
    served(&load, 1000).await;
    assert_eq!(view(&proxy).await.phase, "stable");
    for sentinel in cluster.sentinels() {
        sentinel.restart().await.unwrap();
    }
    cluster.wait_ready(LIMIT).await.unwrap();
    wait_settled(&proxy, &cluster).await;
    cluster.failover(LIMIT).await.unwrap();
    let new = cluster.wait_for_master_change(0, LIMIT).await.unwrap();
    let addr = cluster.node_addr(new).to_string();
    wait_view(&proxy, "the new master", |view| view.master.as_ref().is_some_and(|master| master.addr == addr)).await;
    served(&load, 500).await;
    let (report, verdict) = judged(&cluster, &load, new).await;
    println!("{report}{verdict}");
    assert_eq!(report.broken_promises(&[]) + verdict.missing, 0, "{report}{verdict}\n{}", proxy.log());
}
