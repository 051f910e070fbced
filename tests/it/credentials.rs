//! Users that may not ask, and passwords that change: whatever we may ask the nodes, clients are served and the host
//! stays in service; what is wrong is reported.

use std::time::Duration;

use switchmaster::demo::cluster::{Cluster, ClusterSpec, until};
use switchmaster::demo::proxy::Proxy;
use switchmaster::demo::wire::{Reply, Wire};
use switchmaster::status::CredentialsState;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::proxy::{LIMIT, spec, start_as, view, wait_log, wait_settled, wait_stable, wait_view};

/// Status and body of an answer of the admin server.
async fn http(proxy: &Proxy, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(proxy.admin()).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", proxy.admin());
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
    (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.trim().to_owned()).unwrap_or_default())
}

async fn on_every_node(cluster: &Cluster, request: &[&str]) {
    for index in 0..cluster.nodes().len() {
        let reply = cluster.ask_node(index, request).await.unwrap();
        assert_eq!(reply.text(), Some("OK"), "{reply}");
    }
}

async fn client(proxy: &Proxy, auth: &[&str]) -> Wire {
    let mut wire = Wire::connect(proxy.addr()).await.unwrap();
    let reply = wire.ask(&[&["AUTH"], auth].concat()).await.unwrap();
    assert_eq!(reply.text(), Some("OK"), "{reply}\n{}", proxy.log());
    wire
}

/// In service, whatever else is said, now and for as long as a load balancer would need to take the host out.
async fn stays_ready(proxy: &Proxy) {
    for _ in 0..10 {
        let (status, body) = http(proxy, "/ready").await;
        assert_eq!(status, 200, "{body}\n{}", proxy.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_configured_user_who_may_not_ask_role_keeps_the_host_in_service() {
    let cluster = Cluster::start(ClusterSpec::default()).await.unwrap();
    let rules = ["ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "+@all", "-@admin", "-@dangerous"];
    on_every_node(&cluster, &rules).await;
    let mut spec = spec(&cluster);
    spec.set("SWITCHMASTER_REDIS_USERNAME", "app").set("SWITCHMASTER_REDIS_PASSWORD", "pw");
    let proxy = start_as(&spec).await;
    wait_stable(&proxy).await;
    wait_log(&proxy, &["ERROR", "does not let our user ask ROLE", "+role"]).await;
    let mut wire = client(&proxy, &["app", "pw"]).await;
    let reply = wire.ask(&["INCR", "n"]).await.unwrap();
    assert!(matches!(reply, Reply::Integer(_)), "{reply}");
    stays_ready(&proxy).await;
    let (_, body) = http(&proxy, "/ready").await;
    assert!(body.starts_with("degraded: ") && body.contains("+role +info"), "{body}");
    let (status, body) = http(&proxy, "/health").await;
    assert_eq!(status, 200, "{body}");
    let seen = view(&proxy).await;
    assert_eq!(seen.credentials, CredentialsState::NotPermitted);
    assert!(seen.warnings.iter().any(|warning| warning.contains("+role +info")), "{:?}", seen.warnings);
    assert!(seen.master.is_some_and(|master| master.run_id.is_some()), "asked as nobody, the nodes answer");
}

#[tokio::test]
async fn learnt_credentials_that_may_not_ask_role_change_nothing() {
    let cluster = Cluster::start(ClusterSpec::with_password("secret")).await.unwrap();
    let rules = [
        "ACL",
        "SETUSER",
        "app",
        "on",
        ">pw",
        "~app:*",
        "&*",
        "-@all",
        "+@read",
        "+@write",
        "+@connection",
        "+@transaction",
    ];
    on_every_node(&cluster, &rules).await;
    let mut spec = spec(&cluster);
    spec.unset("SWITCHMASTER_REDIS_PASSWORD");
    let proxy = start_as(&spec).await;
    wait_stable(&proxy).await;
    wait_view(&proxy, "a missing password", |view| view.credentials == CredentialsState::Missing).await;
    stays_ready(&proxy).await;
    let before = view(&proxy).await.term;
    let mut wire = client(&proxy, &["app", "pw"]).await;
    assert_eq!(wire.ask(&["SET", "app:a", "1"]).await.unwrap().text(), Some("OK"));
    wait_view(&proxy, "a refusal", |view| view.credentials == CredentialsState::NotPermitted).await;
    stays_ready(&proxy).await;
    let (status, body) = http(&proxy, "/health").await;
    assert_eq!(status, 200, "{body}");
    assert!(body.contains("degraded") && body.contains("NOPERM") && body.contains("~switchmaster:health:*"), "{body}");
    assert_eq!(view(&proxy).await.term, before, "{}", proxy.log());
    // The next one that may ask is used.
    let _other = client(&proxy, &["secret"]).await;
    wait_view(&proxy, "credentials that work", |view| view.credentials == CredentialsState::Learnt).await;
    until("a write of the check", LIMIT, async || match http(&proxy, "/health").await {
        (200, body) if body.contains("\"ok\"") => Ok(()),
        (status, body) => Err(format!("{status} {body}")),
    })
    .await
    .unwrap();
}

/// As an operator does it: the replicas' link, the nodes, the Sentinels, then the clients.
async fn rotate(cluster: &Cluster, new: &str) {
    for index in 0..cluster.nodes().len() {
        let mut wire = cluster.connect(index).await.unwrap();
        for setting in ["masterauth", "requirepass"] {
            assert_eq!(wire.ask(&["CONFIG", "SET", setting, new]).await.unwrap().text(), Some("OK"));
        }
    }
    for index in 0..cluster.sentinels().len() {
        let request = ["SENTINEL", "SET", cluster.master_name(), "auth-pass", new];
        assert_eq!(cluster.ask_sentinel(index, &request).await.unwrap().text(), Some("OK"));
    }
}

#[tokio::test]
async fn a_rotated_password_is_followed_by_what_clients_show() {
    for configured in [false, true] {
        let cluster = Cluster::start(ClusterSpec::with_password("old-one")).await.unwrap();
        let mut spec = spec(&cluster);
        if !configured {
            spec.unset("SWITCHMASTER_REDIS_PASSWORD");
        }
        let proxy = start_as(&spec).await;
        wait_stable(&proxy).await;
        let mut old = client(&proxy, &["old-one"]).await;
        wait_settled(&proxy, &cluster).await;
        rotate(&cluster, "new-one").await;
        let mut new = client(&proxy, &["new-one"]).await;
        assert_eq!(new.ask(&["SET", "a", "1"]).await.unwrap().text(), Some("OK"));
        wait_log(&proxy, &["with the credentials of a client from now on"]).await;
        until("the check with the new password", LIMIT, async || match http(&proxy, "/health").await {
            (200, body) if body.contains("\"ok\"") && body.contains("accessible") => Ok(()),
            (status, body) => Err(format!("{status} {body}")),
        })
        .await
        .unwrap();
        let seen = wait_view(&proxy, "the state", |view| match configured {
            true => view.credentials == CredentialsState::Refused,
            false => view.credentials == CredentialsState::Learnt && view.warnings.is_empty(),
        })
        .await;
        let told = seen.warnings.iter().any(|warning| warning.contains("set redis_password"));
        assert_eq!(told, configured, "{:?}", seen.warnings);
        assert_eq!(seen.term, 1, "no session was moved for it\n{}", proxy.log());
        assert_eq!(old.ask(&["GET", "a"]).await.unwrap().text(), Some("1"), "it is still logged in");
        stays_ready(&proxy).await;

        let request = ["SENTINEL", "FAILOVER", cluster.master_name()];
        until("a failover to begin", LIMIT, async || {
            let reply = cluster.ask_sentinel(0, &request).await.map_err(|error| error.to_string())?;
            if reply.text() == Some("OK") { Ok(()) } else { Err(reply.to_string()) }
        })
        .await
        .unwrap();
        wait_view(&proxy, "another master", |view| view.term > 1 && view.phase == "stable").await;
        let reply = new.ask(&["INCR", "n"]).await.unwrap();
        assert!(matches!(reply, Reply::Integer(_)), "{reply}");
        stays_ready(&proxy).await;
        let (status, body) = http(&proxy, "/health").await;
        assert_eq!(status, 200, "{body}");
        for secret in ["old-one", "new-one"] {
            assert!(!proxy.log().contains(secret), "a password in the log");
        }
    }
}

#[tokio::test]
async fn a_password_that_is_changed_in_its_file_needs_no_restart() {
    let cluster = Cluster::start(ClusterSpec::with_password("old-one")).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "old-one\n").unwrap();
    let mut spec = spec(&cluster);
    spec.unset("SWITCHMASTER_REDIS_PASSWORD").set("SWITCHMASTER_REDIS_PASSWORD_FILE", file.display().to_string());
    spec.set("SWITCHMASTER_LEARN_CREDENTIALS", "false");
    let proxy = start_as(&spec).await;
    wait_settled(&proxy, &cluster).await;
    rotate(&cluster, "new-one").await;
    let refused = |view: &switchmaster::status::View| view.credentials == CredentialsState::Refused;
    let seen = wait_view(&proxy, "the refusal, with nobody's help", refused).await;
    assert!(seen.warnings.iter().any(|warning| warning.contains("the file that it comes from")), "{:?}", seen.warnings);
    stays_ready(&proxy).await;
    let (status, body) = http(&proxy, "/health").await;
    assert_eq!(status, 200, "{body}");
    assert!(body.contains("degraded") && body.contains("set redis_password"), "{body}");
    std::fs::write(&file, "new-one\n").unwrap();
    let seen = wait_view(&proxy, "the new password", |view| {
        view.credentials == CredentialsState::Configured && view.warnings.is_empty()
    })
    .await;
    assert_eq!(seen.term, 1, "{}", proxy.log());
    until("the check with the new password", LIMIT, async || match http(&proxy, "/health").await {
        (200, body) if body.contains("accessible") => Ok(()),
        (status, body) => Err(format!("{status} {body}")),
    })
    .await
    .unwrap();
    assert!(!proxy.log().contains("new-one"));
}

#[tokio::test]
async fn clients_with_wrong_passwords_are_counted_and_logged_once_a_minute_without_these() {
    let cluster = Cluster::start(ClusterSpec::with_password("secret")).await.unwrap();
    let proxy = start_as(&spec(&cluster)).await;
    wait_stable(&proxy).await;
    let mut wire = Wire::connect(proxy.addr()).await.unwrap();
    let from = wire.local_addr().unwrap().to_string();
    for request in
        [&["AUTH", "hunter2"][..], &["AUTH", "nobody", "hunter2"], &["HELLO", "3", "AUTH", "default", "hunter2"]]
    {
        let reply = wire.ask(request).await.unwrap();
        assert!(matches!(&reply, Reply::Error(error) if error.starts_with("WRONGPASS")), "{reply}");
    }
    assert_eq!(wire.ask(&["AUTH", "secret"]).await.unwrap().text(), Some("OK"));
    let (_, metrics) = http(&proxy, "/metrics").await;
    assert!(
        metrics.lines().any(|line| line == "switchmaster_client_auth_failures_total{master=\"mymaster\"} 3"),
        "{metrics}"
    );
    wait_log(&proxy, &["WARN", "AUTH was refused", "1 times", &from]).await;
    let lines = proxy.log().lines().filter(|line| line.contains("AUTH was refused")).count();
    assert_eq!(lines, 1, "{}", proxy.log());
    assert!(!proxy.log().contains("hunter2"), "{}", proxy.log());
}

/// A backup tool or a `redis-cli --rdb` through the proxy: its master lists it, at port 0, for as long as it stays.
#[tokio::test]
async fn a_client_that_says_psync_is_no_replica_that_leaves() {
    let cluster = Cluster::start(ClusterSpec::default()).await.unwrap();
    let proxy = start_as(&spec(&cluster)).await;
    wait_settled(&proxy, &cluster).await;
    let mut wire = Wire::connect(proxy.addr()).await.unwrap();
    wire.send(b"*3\r\n$5\r\nPSYNC\r\n$1\r\n?\r\n$2\r\n-1\r\n").await.unwrap();
    until("the master to list it", LIMIT, async || {
        let reply = cluster.ask_node(0, &["ROLE"]).await.map_err(|error| error.to_string())?;
        let listed = reply.items().get(1 + 1).map_or(0, |replicas| replicas.items().len());
        if listed == 3 { Ok(()) } else { Err(reply.to_string()) }
    })
    .await
    .unwrap();
    let seen = view(&proxy).await.confirmed_ago_ms;
    tokio::time::sleep(Duration::from_millis(600)).await; // some heartbeats, which list it
    drop(wire);
    until("the master to miss it", LIMIT, async || {
        let reply = cluster.ask_node(0, &["ROLE"]).await.map_err(|error| error.to_string())?;
        let listed = reply.items().get(1 + 1).map_or(0, |replicas| replicas.items().len());
        if listed == 2 { Ok(()) } else { Err(reply.to_string()) }
    })
    .await
    .unwrap();
    tokio::time::sleep(Duration::from_millis(600)).await; // and some that do not
    let after = view(&proxy).await;
    assert_eq!((after.phase.as_str(), after.term, after.replicas.len()), ("stable", 1, 2), "{seen:?}\n{}", proxy.log());
    assert!(!proxy.log().contains(":0 left") && !proxy.log().contains("holding"), "{}", proxy.log());
}
