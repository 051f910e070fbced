//! Odd clusters: replicas without a password, a rotated one, a wrong one, none at all.
//!
//! Each behaves as promised and says so in the log.

use std::time::Duration;

use switchmaster::demo::cluster::{Cluster, ClusterSpec, until};
use switchmaster::demo::load::{Load, LoadSpec};
use switchmaster::demo::proxy::Proxy;
use switchmaster::demo::wire::{Reply, Wire};

use crate::support::proxy::{
    LIMIT, closed_for, get, spec, start, start_as, view, wait_log, wait_settled, wait_stable, wait_view,
};

/// The cluster of the disaster recovery guide, but for its patience: down-after is 5 s there.
fn guide() -> ClusterSpec {
    ClusterSpec {
        replicas_require_password: false,
        down_after: Duration::from_secs(2),
        failover_timeout: Duration::from_secs(60),
        appendonly: true,
        ..ClusterSpec::with_password("YOUR_STRONG_REDIS_PASSWORD")
    }
}

/// Clients that say AUTH as Laravel does, some for ever and some for each request.
async fn clients(cluster: &Cluster, proxy: &Proxy) -> (Load, Load) {
    let spec = LoadSpec { writers: 4, readers: 2, counters: 1, rate: 100.0, auth: cluster.auth(), ..LoadSpec::none() };
    let web = LoadSpec { connect_each_time: true, rate: 20.0, writers: 2, counters: 0, ..spec.clone() };
    let (staying, coming) = (Load::start(proxy.addr(), spec).unwrap(), Load::start(proxy.addr(), web).unwrap());
    staying.wait_until_served(LIMIT).await.unwrap();
    coming.wait_until_served(LIMIT).await.unwrap();
    (staying, coming)
}

async fn answers(load: &Load, more: u64) {
    let before = load.answered();
    until("traffic to go on", LIMIT, async || {
        if load.answered() >= before + more { Ok(()) } else { Err(load.report().to_string()) }
    })
    .await
    .unwrap();
}

/// The proxy follows a master other than node `old` that the Sentinels have confirmed; its index.
async fn moved(cluster: &Cluster, proxy: &Proxy, old: usize) -> usize {
    let new = cluster.wait_for_master_change(old, LIMIT).await.unwrap();
    let addr = cluster.node_addr(new).to_string();
    wait_view(proxy, "the new master", |view| view.master.as_ref().is_some_and(|master| master.addr == addr)).await;
    assert_eq!(wait_stable(proxy).await, addr);
    new
}

/// The value of a metric without labels.
async fn metric(proxy: &Proxy, name: &str) -> f64 {
    let text = get(proxy, "/metrics").await;
    let value =
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('{')?.rsplit(' ').next()?.parse().ok());
    value.unwrap_or_else(|| panic!("no {name} in\n{text}"))
}

#[tokio::test]
async fn the_guides_cluster_fails_over_and_back_unnoticed() {
    // The third node never follows a master without a password, and Sentinel waits failover-timeout for it.
    let spec = ClusterSpec { failover_timeout: Duration::from_secs(5), ..guide() };
    let cluster = Cluster::start(spec).await.unwrap();
    let proxy = start(&cluster).await;
    wait_settled(&proxy, &cluster).await;
    let (staying, coming) = clients(&cluster, &proxy).await;
    cluster.failover(LIMIT).await.unwrap();
    let new = moved(&cluster, &proxy, 0).await;
    answers(&staying, 300).await;
    answers(&coming, 30).await;
    for load in [&staying, &coming] {
        let report = load.stop(LIMIT).await.unwrap();
        let verdict = load.verify_with(cluster.node(new).addr(), None).await.unwrap();
        println!("{report}{verdict}");
        assert_eq!(report.broken_promises(&[]) + verdict.missing, 0, "{report}{verdict}\n{}", proxy.log());
    }
    // Loudly: the node's name in the log, and a metric.
    wait_log(&proxy, &["WARN", &cluster.node_addr(new).to_string(), "needs no password"]).await;
    assert!(metric(&proxy, "switchmaster_auth_not_needed_total").await >= 7.0);

    // Who came while no password was needed is still somebody when the next master wants one again.
    let mut wire = Wire::open(proxy.addr(), cluster.auth().as_ref(), 3).await.unwrap();
    assert_eq!(wire.ask(&["SET", "between", "1"]).await.unwrap().text(), Some("OK"));
    let wrong = Wire::connect(proxy.addr()).await.unwrap().ask(&["AUTH", "wrong"]).await.unwrap();
    assert!(matches!(wrong, Reply::Error(_)), "only the configured password is waved through: {wrong}");
    // Sentinels must see the first node as a replica with a link before they may promote it (11 s after the switch).
    until("the first node to follow", LIMIT, async || {
        for sentinel in 0..3 {
            let ask = ["SENTINEL", "REPLICAS", cluster.master_name()];
            let seen = cluster.ask_sentinel(sentinel, &ask).await.map_err(|error| error.to_string())?;
            let port = cluster.node_addr(0).port().to_string();
            let first = seen.items().iter().find(|node| node.field("port") == Some(&port));
            let has = |key: &str, value: &str| first.is_some_and(|node| node.field(key) == Some(value));
            if !has("master-link-status", "ok") || !has("role-reported", "slave") || !has("flags", "slave") {
                return Err(seen.to_string());
            }
        }
        Ok(())
    })
    .await
    .unwrap();
    cluster.node(new).kill9();
    let last = moved(&cluster, &proxy, new).await;
    assert_eq!(last, 0, "the third node has not followed");
    let reply = wire.ask(&["GET", "between"]).await.unwrap();
    assert_eq!(reply.text(), Some("1"), "{reply}\n{}", proxy.log());
}

/// Both loads go on, and each of their clients has lost one reply at most and nothing else.
async fn a_reply_each_at_most([staying, coming]: [&Load; 2], proxy: &Proxy) {
    answers(staying, 300).await;
    answers(coming, 30).await;
    for load in [staying, coming] {
        let report = load.stop(LIMIT).await.unwrap();
        println!("{report}");
        assert_eq!(report.broken_promises(&["UNKNOWNRESULT"]), 0, "{report}\n{}", proxy.log());
        assert!(report.error_count() <= 7, "{report}");
    }
}

#[tokio::test]
async fn the_guides_cluster_survives_its_masters_death() {
    let cluster = Cluster::start(guide()).await.unwrap();
    let proxy = start(&cluster).await;
    wait_settled(&proxy, &cluster).await;
    let (staying, coming) = clients(&cluster, &proxy).await;
    cluster.node(0).kill9();
    moved(&cluster, &proxy, 0).await;
    a_reply_each_at_most([&staying, &coming], &proxy).await;
}

/// Sentinels and the proxy have a user of their own, so that the application's password is the only thing that changes.
fn with_a_user() -> ClusterSpec {
    let node = ["masteruser watcher"].map(str::to_owned).to_vec();
    let sentinel = ["sentinel auth-user mymaster watcher"].map(str::to_owned).to_vec();
    ClusterSpec {
        acl_user: Some(("watcher".into(), "secret".into(), "~* &* +@all".into())),
        node_config: node,
        sentinel_config: sentinel,
        ..ClusterSpec::with_password("secret")
    }
}

#[tokio::test]
async fn a_rotated_password_ends_sessions_with_an_alarm_and_without_a_loop() {
    let cluster = Cluster::start(with_a_user()).await.unwrap();
    let mut spec = spec(&cluster);
    spec.set("SWITCHMASTER_REDIS_USERNAME", "watcher");
    let proxy = start_as(&spec).await;
    wait_settled(&proxy, &cluster).await;
    let mut sessions = Vec::new();
    for _ in 0..5 {
        sessions.push(Wire::open(proxy.addr(), cluster.auth().as_ref(), 0).await.unwrap());
        assert_eq!(sessions.last_mut().unwrap().ask(&["PING"]).await.unwrap().text(), Some("PONG"));
    }
    for replica in [1, 2] {
        let rotated = cluster.ask_node(replica, &["CONFIG", "SET", "requirepass", "rotated"]).await.unwrap();
        assert_eq!(rotated.text(), Some("OK"));
    }
    cluster.failover(LIMIT).await.unwrap();
    until("a new master", LIMIT, async || {
        let view = view(&proxy).await;
        let moved = view.term > 1 && view.phase == "stable";
        if moved { Ok(()) } else { Err(format!("{:?}", view.master)) }
    })
    .await
    .unwrap();
    let new = wait_stable(&proxy).await;
    assert_ne!(new, cluster.node_addr(0).to_string());
    for session in &mut sessions {
        let ended = tokio::time::timeout(LIMIT, session.ask(&["PING"])).await.expect("an answer or the end");
        assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
    }
    wait_view(&proxy, "the reason", |view| closed_for(view, "auth_refused") == 5).await;
    wait_log(&proxy, &["ERROR", &new, "refuses the credentials of a client", "WRONGPASS"]).await;
    let log_lines = proxy.log().lines().filter(|line| line.contains("WRONGPASS")).count();
    assert_eq!(log_lines, 1, "one alarm, not one for each session\n{}", proxy.log());
    let dials = metric(&proxy, "switchmaster_backend_dials_total").await;
    assert!((5.0..=15.0).contains(&dials), "{dials} dials for 5 sessions");
    let mut fresh = Wire::connect(proxy.addr()).await.unwrap();
    assert_eq!(fresh.ask(&["AUTH", "rotated"]).await.unwrap().text(), Some("OK"));
    assert_eq!(fresh.ask(&["PING"]).await.unwrap().text(), Some("PONG"));
}

#[tokio::test]
async fn a_wrong_password_of_the_proxy_is_told_and_sentinel_is_followed() {
    let cluster = Cluster::start(ClusterSpec::with_password("secret")).await.unwrap();
    let mut spec = spec(&cluster);
    spec.set("SWITCHMASTER_REDIS_PASSWORD", "wr0ng");
    // Else a client's would be used instead.
    spec.set("SWITCHMASTER_LEARN_CREDENTIALS", "false");
    let proxy = start_as(&spec).await;
    wait_stable(&proxy).await;
    wait_log(&proxy, &["ERROR", "refuses our credentials", &cluster.node_addr(0).to_string()]).await;
    let seen = wait_view(&proxy, "a warning", |view| !view.warnings.is_empty()).await;
    assert!(seen.warnings.iter().any(|warning| warning.contains("set redis_password")), "{:?}", seen.warnings);
    let (staying, coming) = clients(&cluster, &proxy).await;
    cluster.failover(LIMIT).await.unwrap();
    moved(&cluster, &proxy, 0).await;
    // Without ROLE nothing proves that a write under way at the hold is on the new master: its reply is lost.
    a_reply_each_at_most([&staying, &coming], &proxy).await;
    let seen = view(&proxy).await;
    assert_eq!((seen.counters.early_commits, seen.counters.failovers_planned), (0, 1));
    assert!(!proxy.log().contains("wr0ng"), "the password is in the log");
}

#[tokio::test]
async fn without_credentials_sentinel_is_followed_until_a_client_brings_some() {
    let cluster = Cluster::start(ClusterSpec::with_password("secret")).await.unwrap();
    let mut spec = spec(&cluster);
    spec.unset("SWITCHMASTER_REDIS_PASSWORD");
    let proxy = start_as(&spec).await;
    wait_stable(&proxy).await;
    wait_log(&proxy, &["ERROR", "wants a password and there is none"]).await;
    let seen = wait_view(&proxy, "a warning", |view| !view.warnings.is_empty()).await;
    let told = "none is set";
    assert!(seen.warnings.iter().any(|warning| warning.contains(told)), "{:?}", seen.warnings);
    cluster.failover(LIMIT).await.unwrap();
    let second = moved(&cluster, &proxy, 0).await;
    assert_eq!(view(&proxy).await.counters.early_commits, 0);

    let mut wire = Wire::open(proxy.addr(), cluster.auth().as_ref(), 0).await.unwrap();
    assert_eq!(wire.ask(&["SET", "a", "1"]).await.unwrap().text(), Some("OK"));
    let seen = wait_view(&proxy, "the replicas, which only ROLE tells", |view| {
        view.credentials == switchmaster::status::CredentialsState::Learnt && view.replicas.len() == 2
    })
    .await;
    assert!(!seen.warnings.iter().any(|warning| warning.contains(told)), "{:?}", seen.warnings);
    // A node that was a master a moment ago may be demoted once more: only a candidate that is free of that doubt is
    // followed early.
    cluster.wait_ready(LIMIT).await.unwrap();
    cluster.failover(LIMIT).await.unwrap();
    moved(&cluster, &proxy, second).await;
    assert_eq!(view(&proxy).await.counters.early_commits, 1, "{}", proxy.log());
    assert_eq!(wire.ask(&["GET", "a"]).await.unwrap().text(), Some("1"));
}
