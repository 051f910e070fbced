//! A configuration that is read again while clients are served: what changes is seen in what the proxy does, what cannot
//! change is named, and a wrong one changes nothing.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use switchmaster::demo::cluster::{Cluster, ClusterSpec, until};
use switchmaster::demo::load::{Load, LoadSpec};
use switchmaster::demo::proxy::Proxy;
use switchmaster::demo::server::free_port;
use switchmaster::demo::wire::{Reply, Wire, encode};
use switchmaster::status::{CredentialsState, View};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::support::proxy::{
    LIMIT, closed_for, get, spec, start_as, verb, view, wait_log, wait_settled, wait_stable, wait_view,
};

/// A proxy that is configured by a file.
struct Configured {
    proxy: Proxy,
    file: PathBuf,
    _folder: TempDir,
}

impl Configured {
    async fn start(cluster: &Cluster, text: &str) -> Configured {
        Configured::start_without(cluster, text, "SWITCHMASTER_REDIS_PASSWORD").await
    }

    /// Without this variable, whose key is in the file.
    async fn start_without(cluster: &Cluster, text: &str, variable: &str) -> Configured {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        fs::write(&file, text).unwrap();
        let mut spec = spec(cluster);
        spec.unset(variable).set("SWITCHMASTER_CONFIG", file.display().to_string());
        Configured { proxy: start_as(&spec).await, file, _folder: folder }
    }

    /// In one step: whoever reads the file meanwhile finds the old one or the new one.
    fn write(&self, text: &str) {
        let next = self.file.with_extension("next");
        fs::write(&next, text).unwrap();
        fs::rename(next, &self.file).unwrap();
    }

    /// What `switchmaster reload` says, and its exit code.
    async fn reload(&self) -> (Option<i32>, String) {
        let output = verb(&self.proxy, &["reload"]).await;
        (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    }
}

async fn on_every_node(cluster: &Cluster, request: &[&str]) {
    for index in 0..cluster.nodes().len() {
        let reply = cluster.ask_node(index, request).await.unwrap();
        assert_eq!(reply.text(), Some("OK"), "{reply}");
    }
}

#[tokio::test]
async fn a_reload_under_load_changes_what_it_can_and_names_the_rest() {
    let cluster = Cluster::start(ClusterSpec::with_password("of-clients")).await.unwrap();
    let user = ["ACL", "SETUSER", "watch", "on", ">hunter-1", "~*", "&*", "+@all"];
    on_every_node(&cluster, &user).await;
    let common = "redis_username = \"watch\"\nlearn_credentials = false\n";
    let before = "hold_timeout = \"50s\"\nretain_bytes = \"1KiB\"\nredis_password = \"hunter-1\"\nworkers = 1\n";
    let mut configured = Configured::start(&cluster, &format!("{common}{before}")).await;
    wait_settled(&configured.proxy, &cluster).await;
    let load = LoadSpec { writers: 6, readers: 3, counters: 3, rate: 200.0, auth: cluster.auth(), ..LoadSpec::none() };
    let load = Load::start(configured.proxy.addr(), load).unwrap();
    load.wait_until_served(LIMIT).await.unwrap();
    let mut early = Wire::connect(configured.proxy.addr()).await.unwrap();
    assert_eq!(early.ask(&["AUTH", "of-clients"]).await.unwrap().text(), Some("OK"));
    on_every_node(&cluster, &["ACL", "SETUSER", "watch", "resetpass", ">hunter-2"]).await;
    for index in 0..cluster.nodes().len() {
        cluster.ask_node(index, &["CLIENT", "KILL", "USER", "watch"]).await.unwrap();
    }
    wait_view(&configured.proxy, "a refusal", |view| view.credentials == CredentialsState::Refused).await;
    assert!(!configured.proxy.log().contains("DEBUG"));

    let after = "hold_timeout = \"15s\"\nretain_bytes = \"1MiB\"\nredis_password = \"hunter-2\"\nworkers = 2\n\
        max_clients = 5\nlog_level = \"debug\"\nlog_format = \"json\"\n";
    configured.write(&format!("{common}{after}"));
    configured.proxy.signal(Signal::HUP);
    let proxy = &configured.proxy;
    let changed =
        ["INFO", "reloaded: ", "hold_timeout 50s -> 15s", "retain_bytes 1KiB -> 1MiB", "log_level info -> debug"];
    wait_log(proxy, &changed).await;
    wait_log(proxy, &["redis_password has changed"]).await;
    wait_log(proxy, &["WARN", "needs a restart: workers 1 -> 2"]).await;
    wait_log(proxy, &["WARN", "needs a restart: log_format text -> json"]).await;
    assert!(!proxy.log().contains("hunter"), "a password in the log");

    wait_log(proxy, &["DEBUG"]).await;
    wait_view(proxy, "the new password", |view| view.credentials == CredentialsState::Configured).await;
    let mut one_more = Wire::connect(proxy.addr()).await.unwrap();
    let reply = one_more.receive().await.unwrap();
    assert!(matches!(&reply, Reply::Error(error) if error.contains("max number of clients")), "{reply}");
    let answered = load.answered();
    until("more traffic", LIMIT, async || if load.answered() > answered + 500 { Ok(()) } else { Err(String::new()) })
        .await
        .unwrap();
    let report = load.stop(LIMIT).await.unwrap();
    assert_eq!(report.broken_promises(&[]), 0, "{report}\n{}", proxy.log());
    assert_eq!((report.errors.len(), report.connections_lost, report.refused), (0, 0, 0), "{report}");

    // The session is older than the reload: it keeps what would not have fitted before, and sends it again.
    wait_settled(proxy, &cluster).await;
    let master = cluster.who_is_master().await.unwrap();
    cluster.node(master).stop();
    let large = "x".repeat(100_000);
    let mut request = Vec::new();
    encode(&mut request, &["ECHO", &large]);
    early.send(&request).await.unwrap();
    wait_view(proxy, "the silence", |view| view.phase != "stable").await;
    cluster.node(master).kill9();
    let reply = timeout(LIMIT, early.receive()).await.expect("an answer").unwrap();
    assert_eq!(reply.text(), Some(large.as_str()));

    // Nobody is left who could become the master.
    wait_view(proxy, "the next master", |view| view.phase == "stable").await;
    cluster.sentinels().iter().for_each(|sentinel| _ = sentinel.kill9());
    cluster.nodes().iter().filter(|node| node.is_running()).for_each(|node| _ = node.kill9());
    let outage = Instant::now();
    let reply = timeout(LIMIT, early.ask(&["PING"])).await.expect("an answer").unwrap();
    assert!(matches!(&reply, Reply::Error(error) if error.contains("no master for 15 s")), "{reply}");
    assert!(outage.elapsed() > Duration::from_secs(14), "{:?}\n{}", outage.elapsed(), proxy.log());
}

#[tokio::test]
async fn a_wrong_file_changes_nothing_and_says_where() {
    let cluster = Cluster::start(ClusterSpec { replicas: 0, sentinels: 1, ..ClusterSpec::default() }).await.unwrap();
    let mut configured = Configured::start(&cluster, "hold_timeout = \"30s\"\n").await;
    wait_stable(&configured.proxy).await;
    configured.write("# what somebody typed\nhold_timeout = 5\nretain_byte = \"1MiB\"\n");
    configured.proxy.signal(Signal::HUP);
    wait_log(&configured.proxy, &["ERROR", "not reloaded", "config.toml line 2 column 16: hold_timeout: expected"])
        .await;
    wait_log(&configured.proxy, &["ERROR", "line 3 column 1: unknown key retain_byte; did you mean retain_bytes?"])
        .await;
    let (code, told) = configured.reload().await;
    assert_eq!(code, Some(64), "{told}");
    assert!(told.contains("line 2 column 16") && told.contains("retain_bytes?"), "{told}");
    assert_eq!(view(&configured.proxy).await.hold_timeout_ms, Some(30_000));

    configured.write("hold_timeout = \"45s\"\nsentinels = [\"127.0.0.1:1\"]\n");
    assert_eq!(configured.reload().await, (Some(0), "reloaded: hold_timeout 30s -> 45s\n".to_owned()));
    wait_view(&configured.proxy, "the new value", |view| view.hold_timeout_ms == Some(45_000)).await;
    assert_eq!(configured.reload().await, (Some(0), "reloaded: nothing has changed\n".to_owned()));
    fs::remove_file(&configured.file).unwrap();
    let (code, told) = configured.reload().await;
    assert!(code == Some(64) && told.contains("cannot be read"), "{told}");
}

#[tokio::test]
async fn a_key_of_a_newer_version_stops_neither_a_start_nor_a_reload() {
    let cluster = Cluster::start(ClusterSpec { replicas: 0, sentinels: 1, ..ClusterSpec::default() }).await.unwrap();
    let configured = Configured::start(&cluster, "durability = \"async\"\nhold_timeout = \"30s\"\n").await;
    wait_stable(&configured.proxy).await;
    wait_log(&configured.proxy, &["WARN", "line 1 column 1: unknown key durability"]).await;
    configured.write("pool = \"shared\"\nhold_timeout = \"45s\"\n");
    let (code, told) = configured.reload().await;
    assert_eq!(code, Some(0), "{told}");
    assert!(told.starts_with("reloaded: hold_timeout 30s -> 45s\nwarning: "), "{told}");
    assert!(told.contains("line 1 column 1: unknown key pool"), "{told}");
}

#[tokio::test]
async fn with_other_sentinels_no_session_is_touched_and_failovers_are_followed_by_them() {
    let cluster = Cluster::start(ClusterSpec::default()).await.unwrap();
    let at = |indexes: &[usize]| {
        let addrs = indexes.iter().map(|index| format!("\"{}\"", cluster.sentinel_addr(*index)));
        format!("sentinels = [{}]\n", addrs.collect::<Vec<_>>().join(", "))
    };
    let configured = Configured::start_without(&cluster, &at(&[0]), "SWITCHMASTER_SENTINELS").await;
    let proxy = &configured.proxy;
    wait_settled(proxy, &cluster).await;
    let load = LoadSpec { writers: 4, counters: 2, rate: 200.0, ..LoadSpec::none() };
    let load = Load::start(proxy.addr(), load).unwrap();
    load.wait_until_served(LIMIT).await.unwrap();
    cluster.sentinel(0).kill9();
    configured.write(&at(&[1, 2]));
    let (code, told) = configured.reload().await;
    assert_eq!(code, Some(0), "{told}");
    let listed = |index| cluster.sentinel_addr(index).to_string();
    let expected = format!("reloaded: sentinels [\"{}\"] -> [\"{}\", \"{}\"]\n", listed(0), listed(1), listed(2));
    assert_eq!(told, expected);
    wait_view(proxy, "two of three", |view| view.phase == "stable" && view.agreement.agreeing == 2).await;
    let old = cluster.who_is_master().await.unwrap();
    cluster.ask_sentinel(1, &["SENTINEL", "FAILOVER", cluster.master_name()]).await.unwrap();
    cluster.wait_for_master_change(old, LIMIT).await.unwrap();
    let new = cluster.node_addr(cluster.who_is_master().await.unwrap()).to_string();
    wait_view(proxy, "the new master", |view| {
        view.phase == "stable" && view.master.as_ref().is_some_and(|master| master.addr == new)
    })
    .await;
    // A list with a mistake in it: those of before stay, and the one that does not answer is shown.
    configured.write("sentinels = [\"127.0.0.1:1\"]\n");
    assert_eq!(configured.reload().await.0, Some(0));
    let is_mistake = |view: &View| view.sentinels.iter().any(|one| one.addr == "127.0.0.1:1" && !one.connected);
    wait_view(proxy, "the mistake", |view| is_mistake(view) && view.agreement.agreeing == 2).await;
    configured.write(&at(&[1, 2]));
    assert_eq!(configured.reload().await.0, Some(0));
    let is_right = |view: &View| !view.sentinels.iter().any(|one| one.addr == "127.0.0.1:1");
    wait_view(proxy, "the two again", |view| is_right(view) && view.agreement.agreeing == 2).await;
    let report = load.stop(LIMIT).await.unwrap();
    assert_eq!(report.broken_promises(&[]), 0, "{report}\n{}", proxy.log());
    assert_eq!((report.errors.len(), report.connections_lost, report.refused), (0, 0, 0), "{report}");
}

/// What clients see at a listener.
async fn pings(wire: &mut Wire) -> Option<String> {
    let asked = timeout(LIMIT, wire.ask(&["PING"])).await.expect("an answer");
    asked.ok().and_then(|reply| reply.text().map(str::to_owned))
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// A proxy whose listeners are in its file: two free ports, and Unix sockets in the file's folder.
struct Listeners {
    configured: Configured,
    ports: [SocketAddr; 2],
}

impl Listeners {
    async fn start(cluster: &Cluster) -> Listeners {
        let ports = [(); 2].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port().unwrap())));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        let mut spec = spec(cluster);
        spec.listen = Some(ports[0]);
        // Empty is not set.
        spec.set("SWITCHMASTER_LISTEN", "").set("SWITCHMASTER_CONFIG", file.display().to_string());
        fs::write(&file, Listeners::text(&ports, folder.path(), "A, unix:/one?mode=600", "")).unwrap();
        let configured = Configured { proxy: start_as(&spec).await, file, _folder: folder };
        wait_settled(&configured.proxy, cluster).await;
        Listeners { configured, ports }
    }

    fn folder(&self) -> &Path {
        self.configured.file.parent().unwrap()
    }

    /// A and B are the ports; a Unix socket is in the folder.
    fn text(ports: &[SocketAddr], folder: &Path, listen: &str, rest: &str) -> String {
        let named = listen.split(", ").map(|one| {
            let one = one.replace('A', &ports[0].to_string()).replace('B', &ports[1].to_string());
            format!("\"{}\"", one.replace("unix:", &format!("unix:{}", folder.display())))
        });
        format!("drain_grace = \"20s\"\nlisten = [{}]\n{rest}", named.collect::<Vec<_>>().join(", "))
    }

    async fn reload(&self, listen: &str, rest: &str) -> (Option<i32>, String) {
        self.configured.write(&Listeners::text(&self.ports, self.folder(), listen, rest));
        self.configured.reload().await
    }
}

#[tokio::test]
async fn listeners_come_and_go_and_no_session_of_one_that_stays_is_touched() {
    let cluster = Cluster::start(ClusterSpec::default()).await.unwrap();
    let listeners = Listeners::start(&cluster).await;
    let proxy = &listeners.configured.proxy;
    let (one, two) = (listeners.folder().join("one"), listeners.folder().join("two"));
    assert_eq!(mode(&one), 0o600);
    let load = LoadSpec { writers: 6, readers: 3, counters: 3, rate: 200.0, ..LoadSpec::none() };
    let load = Load::start(listeners.ports[0], load).unwrap();
    load.wait_until_served(LIMIT).await.unwrap();
    let mut stays = Wire::connect(listeners.ports[0]).await.unwrap();
    assert_eq!(stays.ask(&["MULTI"]).await.unwrap().text(), Some("OK"));
    let mut idle = Wire::connect_unix(&one).await.unwrap();
    assert_eq!(pings(&mut idle).await.as_deref(), Some("PONG"));
    let mut blocked = Wire::connect_unix(&one).await.unwrap();
    let mut request = Vec::new();
    encode(&mut request, &["BLPOP", "nothing", "0"]);
    blocked.send(&request).await.unwrap();
    let mut within = Wire::connect_unix(&one).await.unwrap();
    assert_eq!(within.ask(&["MULTI"]).await.unwrap().text(), Some("OK"));

    let (code, told) = listeners.reload("A, B, unix:/two?mode=660", "").await;
    assert!(code == Some(0) && told.starts_with("reloaded: listen ["), "{code:?} {told}");
    let mut at_b = Wire::connect(listeners.ports[1]).await.unwrap();
    let mut at_two = Wire::connect_unix(&two).await.unwrap();
    for wire in [&mut at_b, &mut at_two] {
        assert_eq!(pings(wire).await.as_deref(), Some("PONG"));
    }
    assert!(!one.exists() && mode(&two) == 0o660);
    assert!(timeout(LIMIT, idle.receive()).await.expect("its end").is_err(), "{}", proxy.log());
    let answer = timeout(LIMIT, blocked.receive()).await.expect("an answer").unwrap();
    assert!(matches!(answer, Reply::Nil), "{answer}: as if its time were over");
    assert!(timeout(LIMIT, blocked.receive()).await.expect("its end").is_err());
    // A transaction has until drain_grace to end.
    assert_eq!(within.ask(&["SET", "in-time", "1"]).await.unwrap().text(), Some("QUEUED"));
    let ended = within.ask(&["EXEC"]).await.unwrap();
    assert!(!matches!(ended, Reply::Error(_)), "{ended}");
    assert!(timeout(LIMIT, within.receive()).await.expect("its end").is_err());
    wait_view(proxy, "three that were closed", |view| closed_for(view, "drained") == 3).await;

    // Who may connect changes in place.
    assert_eq!(listeners.reload("A, B, unix:/two?mode=666", "").await.0, Some(0));
    assert_eq!(mode(&two), 0o666);
    // One that is taken: nothing changes, neither here nor elsewhere.
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("A, unix:/three, unix:/two?mode=600, {}", held.local_addr().unwrap());
    let (code, told) = listeners.reload(&listen, "hold_timeout = \"7s\"\n").await;
    assert_eq!(code, Some(64), "{told}");
    let who = format!("{} is in use, held by", held.local_addr().unwrap());
    assert!(told.contains("config.toml line 2: listen: ") && told.contains(&who), "{told}");
    wait_log(proxy, &["ERROR", "not reloaded, nothing changes", &who]).await;
    assert_ne!(view(proxy).await.hold_timeout_ms, Some(7000));
    assert!(mode(&two) == 0o666 && !listeners.folder().join("three").exists());
    let (code, told) = listeners.reload("A, B, unix:/two?mode=666&group=no-such-group", "").await;
    assert!(code == Some(64) && told.contains("there is no group"), "{code:?} {told}");
    assert_eq!(mode(&two), 0o666);
    for wire in [&mut at_b, &mut at_two] {
        assert_eq!(pings(wire).await.as_deref(), Some("PONG"));
    }

    assert_eq!(stays.ask(&["SET", "key", "1"]).await.unwrap().text(), Some("QUEUED"));
    assert!(!matches!(stays.ask(&["EXEC"]).await.unwrap(), Reply::Error(_)), "the same connection throughout");
    let report = load.stop(LIMIT).await.unwrap();
    assert_eq!(report.broken_promises(&[]), 0, "{report}\n{}", proxy.log());
    assert_eq!((report.errors.len(), report.connections_lost, report.refused), (0, 0, 0), "{report}");
}

#[tokio::test]
async fn the_first_listener_may_go_and_come_back() {
    let cluster = Cluster::start(ClusterSpec { replicas: 0, sentinels: 1, ..ClusterSpec::default() }).await.unwrap();
    let mut listeners = Listeners::start(&cluster).await;
    for round in 0..5 {
        let (code, told) = listeners.reload("B, unix:/one?mode=600", "").await;
        assert_eq!(code, Some(0), "{round}: {told}");
        until("the port to be closed", LIMIT, async || match Wire::connect(listeners.ports[0]).await {
            Ok(_) => Err("it accepts".into()),
            Err(_) => Ok(()),
        })
        .await
        .unwrap();
        let health = get(&listeners.configured.proxy, "/health").await;
        assert!(health.contains("\"ok\""), "it goes by another listener: {health}");
        // Settings reach sessions, and idle ones are looked at, without the first listener of the start.
        let mut wire = Wire::connect(listeners.ports[1]).await.unwrap();
        let before = view(&listeners.configured.proxy).await.traffic.detached;
        assert_eq!(pings(&mut wire).await.as_deref(), Some("PONG"));
        let (code, told) = listeners.reload("B, unix:/one?mode=600", "detach_idle_after = \"100ms\"\n").await;
        assert_eq!(code, Some(0), "{told}");
        wait_view(&listeners.configured.proxy, "idle backends", |view| view.traffic.detached > before).await;
        assert_eq!(listeners.reload("A, B, unix:/one?mode=600", "").await.0, Some(0));
        assert_eq!(pings(&mut wire).await.as_deref(), Some("PONG"));
        let mut again = Wire::connect(listeners.ports[0]).await.unwrap();
        assert_eq!(pings(&mut again).await.as_deref(), Some("PONG"));
    }
    // What is open now is drained and closed, whenever it was opened.
    listeners.configured.proxy.signal(Signal::TERM);
    assert!(listeners.configured.proxy.wait(LIMIT).await.expect("its end").success());
    assert!(!listeners.folder().join("one").exists());
}

#[tokio::test]
async fn with_reloads_the_listener_and_idle_sessions_follow() {
    let cluster = Cluster::start(ClusterSpec { replicas: 0, sentinels: 1, ..ClusterSpec::default() }).await.unwrap();
    let configured = Configured::start(&cluster, "drain_grace = \"30s\"\n").await;
    let proxy = &configured.proxy;
    wait_stable(proxy).await;
    let mut wire = Wire::connect(proxy.addr()).await.unwrap();
    assert_eq!(wire.ask(&["PING"]).await.unwrap().text(), Some("PONG"));
    configured.write("drain_grace = \"30s\"\ndetach_idle_after = \"100ms\"\n");
    let (code, told) = configured.reload().await;
    assert_eq!((code, told.as_str()), (Some(0), "reloaded: detach_idle_after 0s -> 100ms\n"));
    wait_view(proxy, "the idle backend to be given back", |view| view.traffic.detached > 0).await;
    assert_eq!(wire.ask(&["PING"]).await.unwrap().text(), Some("PONG"));
}
