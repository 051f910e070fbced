//! Starting in odd conditions: with little said, nobody there yet, names and addresses of every kind, least rights.
//!
//! Whatever the network is like, the process stays; whatever is said wrongly, it ends with its reason.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use switchmaster::demo::cluster::{Cluster, ClusterSpec};
use switchmaster::demo::proxy::{Proxy, ProxySpec};
use switchmaster::demo::server::free_port;
use switchmaster::demo::wire::{Reply, Wire, encode};
use tokio::time::timeout;

use crate::support::proxy::{LIMIT, run, spec, start, start_as, view, wait_log, wait_settled, wait_stable, wait_view};

/// One master, one Sentinel: enough where nothing fails over.
fn single() -> ClusterSpec {
    ClusterSpec { replicas: 0, sentinels: 1, ..ClusterSpec::default() }
}

/// The binary without any setting.
fn bare() -> ProxySpec {
    let environment = vec![("SWITCHMASTER_CONFIG".to_owned(), "/dev/null".to_owned())];
    ProxySpec {
        binary: env!("CARGO_BIN_EXE_switchmaster").into(),
        listen: None,
        admin: None,
        also_listen: Vec::new(),
        arguments: Vec::new(),
        environment,
        descriptors: None,
    }
}

/// SET and GET through `proxy`.
async fn works(proxy: &Proxy, password: Option<&str>) {
    let attempt = timeout(LIMIT, async {
        let mut wire = Wire::connect(proxy.addr()).await.unwrap();
        if let Some(password) = password {
            assert_eq!(wire.ask(&["AUTH", password]).await.unwrap().text(), Some("OK"));
        }
        assert_eq!(wire.ask(&["SET", "key", "value"]).await.unwrap().text(), Some("OK"));
        assert_eq!(wire.ask(&["GET", "key"]).await.unwrap().text(), Some("value"));
    });
    attempt.await.unwrap_or_else(|_| panic!("no answer\n{}", proxy.log()));
}

/// A client whose PING is held: no answer, no error, no end.
async fn held(proxy: &Proxy) -> Wire {
    let mut wire = Wire::connect(proxy.addr()).await.unwrap();
    let mut ping = Vec::new();
    encode(&mut ping, &["PING"]);
    wire.send(&ping).await.unwrap();
    let early = timeout(Duration::from_millis(300), wire.receive()).await;
    assert!(early.is_err(), "not held: {early:?}\n{}", proxy.log());
    wire
}

async fn answered(mut wire: Wire, proxy: &Proxy) {
    let reply = timeout(LIMIT, wire.receive()).await.unwrap_or_else(|_| panic!("no answer\n{}", proxy.log()));
    assert_eq!(reply.unwrap(), Reply::Simple("PONG".into()), "{}", proxy.log());
}

#[tokio::test]
async fn sentinel_hosts_and_a_password_are_enough() {
    let cluster =
        Cluster::start(ClusterSpec { sentinels: 3, ..ClusterSpec { password: Some("secret".into()), ..single() } })
            .await
            .unwrap();
    let hosts: Vec<String> = cluster.sentinel_addrs().iter().map(SocketAddr::to_string).collect();
    let mut by_environment = bare();
    by_environment.set("REDIS_SENTINEL_HOSTS", hosts.join(",")).set("REDIS_PASSWORD", "secret");
    let proxy = start_as(&by_environment).await;
    works(&proxy, Some("secret")).await;
    let seen = wait_view(&proxy, "all Sentinels", |view| view.agreement.agreeing == 3).await;
    assert_eq!(seen.master_name, cluster.master_name());
    assert!(seen.master.unwrap().run_id.is_some(), "the password was used");

    // One of them, as Laravel has it in its .env; the others are learnt.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(".env");
    let text = format!(
        "APP_NAME=Laravel\nREDIS_HOST=127.0.0.1\nREDIS_PORT=6379\nREDIS_SENTINEL_HOSTS=\"{}\"\n\
         REDIS_SENTINEL_SERVICE_NAME=mymaster\nREDIS_PASSWORD='secret'\nREDIS_CLIENT=predis # composer\n",
        hosts[1]
    );
    fs::write(&file, text).unwrap();
    let mut by_laravel = bare();
    by_laravel.arguments = vec!["--laravel-env".into(), file.display().to_string()];
    let proxy = start_as(&by_laravel).await;
    works(&proxy, Some("secret")).await;
    let seen = wait_view(&proxy, "all Sentinels", |view| view.agreement.agreeing == 3).await;
    assert!(seen.master.unwrap().run_id.is_some(), "the password was used");
}

#[tokio::test]
async fn several_masters_want_a_name() {
    let names = vec!["orders".to_owned(), "cache".to_owned()];
    let cluster = Cluster::start(ClusterSpec { masters: names, ..single() }).await.unwrap();
    let sentinel = cluster.sentinel_addr(0).to_string();
    let (listen, admin) = (free_port().unwrap().to_string(), free_port().unwrap().to_string());
    let environment = [
        ("SWITCHMASTER_CONFIG", "/dev/null"),
        ("SWITCHMASTER_LISTEN", &listen),
        ("SWITCHMASTER_ADMIN", &admin),
        ("SWITCHMASTER_SENTINELS", &sentinel),
    ];
    let ended = run(&["serve"], &environment).await;
    let told = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(64), "{told}");
    assert!(told.contains("several masters: cache, orders; choose one with --master-name"), "{told}");

    let mut named = bare();
    named.set("SWITCHMASTER_SENTINELS", &sentinel);
    for (name, node) in [("orders", 0), ("cache", 1)] {
        named.arguments = vec!["--master-name".into(), name.into()];
        let proxy = start_as(&named).await;
        works(&proxy, None).await;
        assert_eq!(wait_stable(&proxy).await, cluster.node_addr(node).to_string());
    }

    named.arguments = vec!["--master-name".into(), "order".into()];
    let proxy = start_as(&named).await;
    let told = "does not monitor a master named order";
    wait_view(&proxy, told, |view| view.warnings.iter().any(|warning| warning.contains(told))).await;
    assert!(proxy.log().contains(told), "{}", proxy.log());
}

#[tokio::test]
async fn an_ipv6_cluster_is_followed() {
    if let Err(error) = TcpListener::bind("[::1]:0") {
        eprintln!("no IPv6 on this machine ({error}): nothing was tested");
        return;
    }
    follows(ClusterSpec { host: "::1".into(), ..ClusterSpec::with_password("secret") }).await;
}

#[tokio::test]
async fn a_cluster_that_goes_by_host_names_is_followed() {
    follows(ClusterSpec { host: "localhost".into(), ..ClusterSpec::with_password("secret") }).await;
}

/// Through a planned failover, with an early commit.
async fn follows(cluster: ClusterSpec) {
    let host = cluster.host.clone();
    let cluster = Cluster::start(cluster).await.unwrap();
    let mut spec = spec(&cluster);
    if host == "localhost" {
        let addrs = cluster.sentinel_addrs();
        let named: Vec<String> = addrs.iter().map(|addr| format!("localhost:{}", addr.port())).collect();
        spec.set("SWITCHMASTER_SENTINELS", named.join(","));
    }
    let proxy = start_as(&spec).await;
    wait_settled(&proxy, &cluster).await;
    let mut wire = Wire::open(proxy.addr(), cluster.auth().as_ref(), 0).await.unwrap();
    assert_eq!(wire.ask(&["SET", "key", "value"]).await.unwrap().text(), Some("OK"));
    cluster.failover(LIMIT).await.unwrap();
    let new = cluster.wait_for_master_change(0, LIMIT).await.unwrap();
    let addr = cluster.node_addr(new).to_string();
    wait_view(&proxy, "the new master", |view| view.master.as_ref().is_some_and(|master| master.addr == addr)).await;
    let reply = timeout(LIMIT, wire.ask(&["GET", "key"])).await.unwrap().unwrap();
    assert_eq!(reply.text(), Some("value"), "{}", proxy.log());
    assert_eq!(wait_stable(&proxy).await, addr);
    assert_eq!(view(&proxy).await.counters.early_commits, 1, "{}", proxy.log());
}

#[tokio::test]
async fn a_placeholder_and_the_proxy_itself_are_no_master() {
    let cluster = Cluster::start(single()).await.unwrap();
    let own = SocketAddr::from(([127, 0, 0, 1], free_port().unwrap()));
    for (name, ip, port) in [("nowhere", "0.0.0.0", "6379"), ("mirror", "127.0.0.1", &*own.port().to_string())] {
        let reply = cluster.ask_sentinel(0, &["SENTINEL", "MONITOR", name, ip, port, "1"]).await.unwrap();
        assert_eq!(reply.text(), Some("OK"), "{reply}");
    }
    for (name, told) in [("nowhere", "which is no address of a node"), ("mirror", "which is this proxy")] {
        let mut spec = spec(&cluster);
        spec.listen = Some(own);
        spec.set("SWITCHMASTER_MASTER_NAME", name);
        let proxy = start_as(&spec).await;
        let _client = held(&proxy).await;
        let seen = wait_view(&proxy, told, |view| view.warnings.iter().any(|warning| warning.contains(told))).await;
        assert_eq!(seen.master, None);
        assert!(seen.traffic.accepted <= 5 && seen.traffic.dials == 0, "a loop: {:?}", seen.traffic);
    }
}

#[tokio::test]
async fn a_cold_start_without_sentinels_holds_until_they_come() {
    let cluster = Cluster::start(ClusterSpec { sentinels: 3, ..single() }).await.unwrap();
    cluster.sentinels().iter().for_each(|sentinel| _ = sentinel.kill9());
    let proxy = start(&cluster).await;
    let client = held(&proxy).await;
    wait_log(&proxy, &["WARN", "a Sentinel is lost", "connection refused"]).await;
    for sentinel in cluster.sentinels() {
        sentinel.restart().await.unwrap();
    }
    answered(client, &proxy).await;
    works(&proxy, None).await;
}

#[tokio::test]
async fn a_cold_start_without_a_master_holds_until_there_is_one() {
    let cluster = Cluster::start(ClusterSpec::default()).await.unwrap();
    cluster.node(0).kill9();
    let proxy = start(&cluster).await;
    let client = held(&proxy).await;
    answered(client, &proxy).await;
    assert_ne!(wait_stable(&proxy).await, cluster.node_addr(0).to_string());
    works(&proxy, None).await;
}

/// What the documentation says a user of ours needs.
const REDIS_RULES: &str = "-@all +auth +hello +ping +info +role +client|setname";
const SENTINEL_RULES: &str = "-@all +auth +hello +ping +info +role +client|setname +subscribe +psubscribe +unsubscribe \
    +punsubscribe +sentinel|master +sentinel|masters +sentinel|replicas +sentinel|slaves +sentinel|sentinels \
    +sentinel|get-master-addr-by-name +sentinel|ckquorum +sentinel|myid &*";

#[tokio::test]
async fn the_least_rights_are_enough_for_an_early_commit() {
    let cluster = ClusterSpec {
        acl_user: Some(("switchmaster".into(), "node-secret".into(), REDIS_RULES.into())),
        sentinel_password: Some("watch".into()),
        sentinel_config: vec![format!("user switchmaster on >sentinel-secret {SENTINEL_RULES}")],
        ..ClusterSpec::with_password("secret")
    };
    let cluster = Cluster::start(cluster).await.unwrap();
    let mut spec = spec(&cluster);
    spec.set("SWITCHMASTER_REDIS_USERNAME", "switchmaster").set("SWITCHMASTER_REDIS_PASSWORD", "node-secret");
    spec.set("SWITCHMASTER_SENTINEL_USERNAME", "switchmaster").set("SWITCHMASTER_SENTINEL_PASSWORD", "sentinel-secret");
    let proxy = start_as(&spec).await;
    wait_settled(&proxy, &cluster).await;
    let mut wire = Wire::open(proxy.addr(), cluster.auth().as_ref(), 1).await.unwrap();
    assert_eq!(wire.ask(&["SET", "key", "value"]).await.unwrap().text(), Some("OK"));
    cluster.failover(LIMIT).await.unwrap();
    cluster.wait_for_master_change(0, LIMIT).await.unwrap();
    assert_eq!(timeout(LIMIT, wire.ask(&["GET", "key"])).await.unwrap().unwrap().text(), Some("value"));
    assert_ne!(wait_stable(&proxy).await, cluster.node_addr(0).to_string());
    let seen =
        wait_view(&proxy, "nothing to warn of, once every Sentinel knows", |view| view.warnings.is_empty()).await;
    assert_eq!((seen.counters.early_commits, seen.counters.early_commits_wrong), (1, 0), "{}", proxy.log());

    // A wrong password for the Sentinels is told, and nobody is routed anywhere.
    spec.set("SWITCHMASTER_SENTINEL_PASSWORD", "wr0ng");
    let proxy = start_as(&spec).await;
    let _client = held(&proxy).await;
    wait_log(&proxy, &["WARN", "a Sentinel is lost", "WRONGPASS"]).await;
    assert!(!proxy.log().contains("wr0ng"));
}

#[tokio::test]
async fn the_demo_serves_its_status_where_it_is_told_to() {
    use tokio::io::{AsyncBufReadExt, BufReader};
    let [listen, admin] = [free_port().unwrap(), free_port().unwrap()].map(|port| format!("127.0.0.1:{port}"));
    let mut demo = tokio::process::Command::new(env!("CARGO_BIN_EXE_switchmaster"))
        .args(["demo", "--listen", &listen, "--admin", &admin])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines();
    let line = timeout(LIMIT, async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.starts_with("Proxy: ") {
                return line;
            }
        }
        panic!("the demo has ended");
    });
    let line = line.await.unwrap();
    assert!(line.contains(&format!("metrics: http://{admin}/metrics")), "{line}");
    let pid = rustix::process::Pid::from_raw(demo.id().unwrap() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(timeout(LIMIT, demo.wait()).await.is_ok(), "it cleans up");
}
