//! `switchmaster doctor` against real servers: nothing on what deploy/redis ships, the guide's faults on the guide's files,
//! and each finding on a cluster that was broken so.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use switchmaster::address::HostPort;
use switchmaster::config::{Config, Sources};
use switchmaster::demo::cluster::{Cluster, ClusterSpec, ConfigFiles, until};
use switchmaster::doctor::check::{self, Finding};
use switchmaster::doctor::gather::Question;
use switchmaster::secret::{Credentials, Secret};
use switchmaster::sentinel::client::AddressMap;
use switchmaster::wire::{Reply, Wire};

use crate::support::proxy::run;

const LIMIT: Duration = Duration::from_secs(60);
const PASSWORD: &str = "pw";

/// Checks whose fault no test makes on real servers, and why; each has one on made-up facts.
const NOT_BROKEN_HERE: &[(&str, &str)] = &[
    ("versions-mixed", "there is one version here"),
    ("version-old", "there is no old one here"),
    ("clock-skew", "all have the clock of this host"),
];

fn auth(password: &str) -> Credentials {
    Credentials { username: None, password: Secret::new(password) }
}

fn question(cluster: &Cluster) -> Question {
    let sentinels = cluster.sentinel_addrs().into_iter();
    Question {
        sentinels: sentinels.map(|at| HostPort { host: at.ip().to_string(), port: at.port() }).collect(),
        master_name: None,
        sentinel_auth: cluster.spec().sentinel_password.as_deref().map(auth),
        redis_auth: cluster.auth(),
        map: AddressMap::new(Vec::new()),
    }
}

async fn examine(cluster: &Cluster) -> Vec<Finding> {
    check::run(&question(cluster).ask().await.unwrap())
}

fn ids(findings: &[Finding]) -> BTreeSet<&'static str> {
    findings.iter().map(|finding| finding.id).collect()
}

/// Waits until a finding is there.
async fn finds(cluster: &Cluster, id: &'static str) {
    let found = until(id, LIMIT, async || {
        let found = examine(cluster).await;
        if ids(&found).contains(id) { Ok(()) } else { Err(format!("{found:#?}")) }
    });
    found.await.unwrap();
}

/// Waits until nothing is found any more.
async fn is_sound(cluster: &Cluster) {
    let sound = until("nothing to be found", LIMIT, async || {
        let found = examine(cluster).await;
        if found.is_empty() { Ok(()) } else { Err(format!("{found:#?}")) }
    });
    sound.await.unwrap();
}

async fn deployed() -> Cluster {
    let spec = ClusterSpec {
        files: Some(ConfigFiles::DEPLOYED),
        sentinel_password: Some(PASSWORD.into()),
        ..ClusterSpec::with_password(PASSWORD)
    };
    Cluster::start(spec).await.unwrap()
}

/// A request to a node, over a connection that is logged in with `password` if that is right.
async fn node(cluster: &Cluster, index: usize, password: &str, request: &[&str]) {
    let mut wire = Wire::connect(cluster.node(index).addr()).await.unwrap();
    wire.ask(&["AUTH", password]).await.unwrap();
    let reply = wire.ask(request).await.unwrap();
    assert!(!matches!(reply, Reply::Error(_)), "{request:?}: {reply}");
}

async fn sentinel(cluster: &Cluster, index: usize, request: &[&str]) {
    let reply = cluster.ask_sentinel(index, request).await.unwrap();
    assert!(!matches!(reply, Reply::Error(_)), "{request:?}: {reply}");
}

/// Settings of nodes that make a finding: on which nodes, what, and what it was.
type NodeFault = (&'static str, &'static [usize], &'static [&'static str], &'static [&'static str]);

const NODE_FAULTS: &[NodeFault] = &[
    ("masterauth-missing", &[0], &["masterauth", ""], &["masterauth", PASSWORD]),
    ("masterauth-differs", &[0], &["masterauth", "other"], &["masterauth", PASSWORD]),
    ("requirepass-missing", &[1], &["requirepass", ""], &["requirepass", PASSWORD]),
    ("credentials-refused", &[1], &["requirepass", "other"], &["requirepass", PASSWORD]),
    ("open-to-all", &[0, 1, 2], &["requirepass", "", "bind", "0.0.0.0"], &["requirepass", PASSWORD]),
    ("min-replicas-unset", &[0, 1, 2], &["min-replicas-to-write", "0"], &["min-replicas-to-write", "1"]),
    ("min-replicas-too-high", &[0, 1, 2], &["min-replicas-to-write", "2"], &["min-replicas-to-write", "1"]),
    ("not-written", &[0], &["min-replicas-to-write", "2"], &["min-replicas-to-write", "1"]),
    ("settings-differ", &[1], &["maxmemory", "2gb"], &["maxmemory", "1gb"]),
    ("replica-writable", &[2], &["replica-read-only", "no"], &["replica-read-only", "yes"]),
    ("priority-zero", &[1, 2], &["replica-priority", "0"], &["replica-priority", "100"]),
    ("backlog-small", &[0], &["repl-backlog-size", "1mb"], &["repl-backlog-size", "64mb"]),
    (
        "replica-buffer-small",
        &[0],
        &["client-output-buffer-limit", "replica 1mb 1mb 60"],
        &["client-output-buffer-limit", "replica 512mb 256mb 60"],
    ),
    ("diskless-sync-off", &[0], &["repl-diskless-sync", "no"], &["repl-diskless-sync", "yes"]),
    ("persistence-off", &[1], &["appendonly", "no", "save", ""], &["appendonly", "yes", "save", "3600 1 300 100"]),
    ("evicts", &[0, 1, 2], &["maxmemory-policy", "allkeys-lru"], &["maxmemory-policy", "noeviction"]),
    ("maxmemory-unset", &[0, 1, 2], &["maxmemory", "0"], &["maxmemory", "1gb"]),
    ("idle-timeout", &[0, 1, 2], &["timeout", "300"], &["timeout", "0"]),
];

/// Settings of Sentinels that make a finding: on how many, what, and what it was.
type SentinelFault = (&'static str, usize, [&'static str; 2], [&'static str; 2]);

const SENTINEL_FAULTS: &[SentinelFault] = &[
    ("quorum-too-high", 3, ["quorum", "4"], ["quorum", "2"]),
    ("quorum-low", 3, ["quorum", "1"], ["quorum", "2"]),
    ("down-after-short", 3, ["down-after-milliseconds", "400"], ["down-after-milliseconds", "2000"]),
    ("down-after-slow", 3, ["down-after-milliseconds", "5000"], ["down-after-milliseconds", "2000"]),
    ("down-after-long", 3, ["down-after-milliseconds", "30000"], ["down-after-milliseconds", "2000"]),
    ("queue-hold", 3, ["down-after-milliseconds", "30000"], ["down-after-milliseconds", "2000"]),
    ("failover-timeout-long", 3, ["failover-timeout", "180000"], ["failover-timeout", "10000"]),
    ("sentinel-settings-differ", 1, ["failover-timeout", "9000"], ["failover-timeout", "10000"]),
];

/// Breaks what can be set at run time, one after the other, and mends it.
async fn settings(cluster: &Cluster, broken: &mut BTreeSet<&'static str>) {
    for (id, nodes, fault, mended) in NODE_FAULTS {
        for index in *nodes {
            node(cluster, *index, PASSWORD, &[&["CONFIG", "SET"], *fault].concat()).await;
        }
        finds(cluster, id).await;
        if *id == "open-to-all" {
            finds(cluster, "bind-loopback").await;
            broken.insert("bind-loopback");
        }
        for index in *nodes {
            let address = cluster.node(*index).addr().ip().to_string();
            let password = if *id == "credentials-refused" { "other" } else { PASSWORD };
            node(cluster, *index, password, &[&["CONFIG", "SET"], *mended].concat()).await;
            node(cluster, *index, PASSWORD, &["CONFIG", "SET", "bind", &address]).await;
        }
        broken.insert(id);
    }
    for (id, count, fault, mended) in SENTINEL_FAULTS {
        for (wanted, finding) in [(fault, Some(id)), (mended, None)] {
            for index in 0..*count {
                sentinel(cluster, index, &["SENTINEL", "SET", "mymaster", wanted[0], wanted[1]]).await;
            }
            if let Some(id) = finding {
                finds(cluster, id).await;
            }
        }
        broken.insert(id);
    }
    sentinel(cluster, 0, &["SENTINEL", "CONFIG", "SET", "announce-hostnames", "yes"]).await;
    finds(cluster, "hostnames-mixed").await;
    sentinel(cluster, 0, &["SENTINEL", "CONFIG", "SET", "announce-hostnames", "no"]).await;
    node(cluster, 1, PASSWORD, &["ACL", "SETUSER", "app", "on", ">x", "~*", "+@all"]).await;
    finds(cluster, "users-differ").await;
    node(cluster, 1, PASSWORD, &["ACL", "DELUSER", "app"]).await;
    broken.extend(["hostnames-mixed", "users-differ"]);

    for index in 0..3 {
        node(cluster, index, PASSWORD, &["ACL", "SETUSER", "mean", "on", ">x", "+ping", "+info", "+role"]).await;
    }
    let mean = Credentials { username: Some(b"mean".to_vec()), password: Secret::new("x") };
    let found = check::run(&Question { redis_auth: Some(mean), ..question(cluster) }.ask().await.unwrap());
    assert!(ids(&found).contains("not-readable"), "{found:#?}");
    broken.insert("not-readable");
    for index in 0..3 {
        node(cluster, index, PASSWORD, &["ACL", "DELUSER", "mean"]).await;
    }
    is_sound(cluster).await;
}

/// Breaks what servers do: they hang, follow nobody, cannot log in.
async fn conduct(cluster: &Cluster, broken: &mut BTreeSet<&'static str>) {
    let set = async |value: &str| {
        for index in 0..3 {
            sentinel(cluster, index, &["SENTINEL", "SET", "mymaster", "down-after-milliseconds", value]).await;
        }
    };
    set("60000").await;
    cluster.node(0).stop();
    finds(cluster, "master-down").await;
    finds(cluster, "node-unreachable").await;
    cluster.node(0).cont();
    for index in [1, 2] {
        node(cluster, index, PASSWORD, &["REPLICAOF", "NO", "ONE"]).await;
    }
    finds(cluster, "second-master").await;
    finds(cluster, "no-replica").await;
    let master = cluster.node_addr(0);
    for index in [1, 2] {
        let (host, port) = (master.ip().to_string(), master.port().to_string());
        node(cluster, index, PASSWORD, &["CONFIG", "SET", "masterauth", "wrong"]).await;
        node(cluster, index, PASSWORD, &["REPLICAOF", &host, &port]).await;
    }
    finds(cluster, "replica-link-down").await;
    for index in [1, 2] {
        node(cluster, index, PASSWORD, &["CONFIG", "SET", "masterauth", PASSWORD]).await;
    }
    set("2000").await;
    is_sound(cluster).await;

    cluster.node(2).stop();
    finds(cluster, "stale-replica").await;
    finds(cluster, "replica-lags").await;
    cluster.node(2).cont();
    sentinel(cluster, 0, &["SENTINEL", "SET", "mymaster", "auth-pass", "wrong"]).await;
    finds(cluster, "sentinel-cannot-log-in").await;
    sentinel(cluster, 0, &["SENTINEL", "SET", "mymaster", "auth-pass", PASSWORD]).await;

    cluster.sentinel(1).stop();
    finds(cluster, "sentinel-unreachable").await;
    cluster.sentinel(2).stop();
    finds(cluster, "sentinel-stale").await;
    finds(cluster, "no-quorum").await;
    cluster.sentinel(1).cont();
    cluster.sentinel(2).cont();
    finds(cluster, "tilt").await;
    is_sound(cluster).await;

    // One that begins anew with another master, as a mistake of an operator.
    let other = cluster.node_addr(1);
    sentinel(cluster, 0, &["SENTINEL", "REMOVE", "mymaster"]).await;
    let (host, port) = (other.ip().to_string(), other.port().to_string());
    sentinel(cluster, 0, &["SENTINEL", "MONITOR", "mymaster", &host, &port, "2"]).await;
    finds(cluster, "sentinels-disagree").await;
    broken.extend([
        "master-down",
        "node-unreachable",
        "second-master",
        "no-replica",
        "replica-link-down",
        "stale-replica",
        "replica-lags",
        "sentinel-cannot-log-in",
        "sentinel-unreachable",
        "sentinel-stale",
        "no-quorum",
        "tilt",
        "sentinels-disagree",
    ]);
}

/// What can only be so from the start, on clusters of one host.
async fn layouts(broken: &mut BTreeSet<&'static str>) {
    let spec = ClusterSpec {
        replicas: 3,
        sentinels: 4,
        node_config: vec!["rename-command SLAVEOF \"\"".into()],
        sentinel_config: vec!["sentinel notification-script mymaster /bin/true".into()],
        ..ClusterSpec::default()
    };
    let cluster = Cluster::start(spec).await.unwrap();
    sentinel(&cluster, 0, &["SENTINEL", "SET", "mymaster", "parallel-syncs", "1"]).await;
    let here = [
        "sentinels-even",
        "sentinel-scripts",
        "host-loss",
        "sentinels-same-host",
        "sentinel-open",
        "parallel-syncs-low",
        "commands-renamed",
    ];
    for id in here {
        finds(&cluster, id).await;
    }
    node(&cluster, 1, "", &["CONFIG", "SET", "replica-announce-ip", "192.0.2.9"]).await;
    node(&cluster, 1, "", &["CLIENT", "KILL", "TYPE", "MASTER"]).await;
    let folder = cluster.node(0).log_path().parent().unwrap().to_owned();
    fs::remove_dir_all(folder).unwrap();
    let mut wire = Wire::connect(cluster.node(0).addr()).await.unwrap();
    wire.ask(&["BGSAVE"]).await.unwrap();
    finds(&cluster, "bgsave-failed").await;
    finds(&cluster, "loopback").await;

    // A copied sentinel.conf.
    let conf = |index: usize| cluster.sentinel(index).log_path().with_extension("conf");
    let read = |path: &Path| fs::read_to_string(path).unwrap();
    let id = |text: &str| text.lines().find_map(|line| line.strip_prefix("sentinel myid ").map(str::to_owned)).unwrap();
    cluster.sentinel(1).kill9();
    let (first, second) = (read(&conf(0)), read(&conf(1)));
    fs::write(conf(1), second.replace(&format!("myid {}", id(&second)), &format!("myid {}", id(&first)))).unwrap();
    cluster.sentinel(1).start().await.unwrap();
    finds(&cluster, "myid-twice").await;

    let lone = Cluster::start(ClusterSpec { replicas: 0, sentinels: 1, ..ClusterSpec::default() }).await.unwrap();
    finds(&lone, "sentinels-few").await;
    broken.extend(here);
    broken.extend(["bgsave-failed", "loopback", "myid-twice", "sentinels-few"]);
    broken.insert(without_a_file(&lone).await);
}

/// A replica that was started by hand.
async fn without_a_file(cluster: &Cluster) -> &'static str {
    let folder = tempfile::tempdir().unwrap();
    let (master, port) = (cluster.node_addr(0), switchmaster::demo::server::free_port().unwrap());
    let mut child = tokio::process::Command::new("redis-server")
        .args(["--port", &port.to_string(), "--replicaof", "127.0.0.1", &master.port().to_string()])
        .args(["--dir", folder.path().to_str().unwrap()])
        .stdout(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    finds(cluster, "no-config-file").await;
    child.kill().await.unwrap();
    "no-config-file"
}

/// An application with every fault, on a path of its own.
async fn applications(cluster: &Cluster, broken: &mut BTreeSet<&'static str>) {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("config")).unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    let hosts: Vec<String> = cluster.sentinel_addrs().iter().map(ToString::to_string).collect();
    write(
        ".env",
        &format!(
            "REDIS_HOST=/run/nowhere.sock\nREDIS_PASSWORD={PASSWORD}\nREDIS_SENTINEL_PASSWORD={PASSWORD}\nREDIS_DB=3\n\
             REDIS_SENTINEL_HOSTS={}\n",
            hosts.join(",")
        ),
    );
    write(
        "composer.json",
        r#"{"require": {"monospice/laravel-redis-sentinel-drivers": "^2", "laravel/reverb": "^1"}}"#,
    );
    write("config/queue.php", "'connections' => [\n'redis' => [\n'retry_after' => 65,\n'block_for' => null,\n],\n],");
    write(
        "config/database.php",
        "'read_timeout' => 5,\n'command_retries' => env('RETRIES', 3),\n'retry' => Retry::three(),\n",
    );
    let (path, listen) = (folder.path().to_str().unwrap(), "127.0.0.1:6379");
    let arguments = ["doctor", "--laravel", path, "--listen", listen, "--json", "--admin", "off"];
    let output = run(&arguments, &[]).await;
    let said: serde_json::Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    assert_eq!(output.status.code(), Some(1));
    let found: BTreeSet<&str> =
        said["findings"].as_array().unwrap().iter().filter_map(|one| one["id"].as_str()).collect();
    let expected = [
        "laravel-not-here",
        "laravel-refused",
        "laravel-sentinel-package",
        "laravel-retry-after",
        "laravel-read-timeout",
        "laravel-command-retries",
        "laravel-reverb-socket",
    ];
    assert_eq!(found, expected.into_iter().collect(), "{said:#}");
    assert!(said["not_read"].to_string().contains("Retry::three()"), "{said:#}");
    let text = run(&["doctor", "--laravel", path, "--listen", listen, "--admin", "off"], &[]).await;
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("sentinels = [") && text.contains("# without effect here: REDIS_DB, REDIS_HOST"), "{text}");
    assert!(!text.contains(&format!("= \"{PASSWORD}\"")), "{text}");
    broken.extend(expected);
}

#[tokio::test]
async fn nothing_is_found_on_what_we_ship_and_each_fault_is() {
    let cluster = deployed().await;
    is_sound(&cluster).await;
    let hosts: Vec<String> = cluster.sentinel_addrs().iter().map(ToString::to_string).collect();
    let environment = [
        ("SWITCHMASTER_SENTINELS", hosts.join(",")),
        ("SWITCHMASTER_REDIS_PASSWORD", PASSWORD.to_owned()),
        ("SWITCHMASTER_SENTINEL_PASSWORD", PASSWORD.to_owned()),
    ];
    let environment: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let output = run(&["doctor"], &environment).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("3 of 3 Sentinels and 3 of 3 nodes answered") && text.contains("nothing found"), "{text}");
    let output = run(&["doctor", "--master-name", "nobody"], &environment).await;
    assert_eq!(output.status.code(), Some(64), "{}", String::from_utf8_lossy(&output.stderr));
    let output = run(&["doctor", "--sentinel", "127.0.0.1:1"], &[]).await;
    assert_eq!(output.status.code(), Some(69), "{}", String::from_utf8_lossy(&output.stderr));

    let mut broken = BTreeSet::new();
    applications(&cluster, &mut broken).await;
    settings(&cluster, &mut broken).await;
    conduct(&cluster, &mut broken).await;
    layouts(&mut broken).await;
    // The time-outs of a web server are read below /etc: on made-up facts alone.
    let excused = NOT_BROKEN_HERE.iter().map(|(id, _)| *id).chain(["laravel-web-timeout"]);
    let tested: BTreeSet<&str> = broken.into_iter().chain(excused).collect();
    assert_eq!(tested, check::all().map(|check| check.id).collect());
}

#[tokio::test]
async fn the_guides_own_files_have_these_faults() {
    let files = ConfigFiles {
        redis: include_str!("../fixtures/guide/redis.conf"),
        sentinel: include_str!("../fixtures/guide/sentinel.conf"),
    };
    let spec =
        ClusterSpec { files: Some(files), replicas_require_password: false, ..ClusterSpec::with_password(PASSWORD) };
    let cluster = Cluster::start(spec).await.unwrap();
    let found = examine(&cluster).await;
    for (id, places) in [
        ("requirepass-missing", 2),
        ("masterauth-missing", 1),
        ("min-replicas-unset", 3),
        ("down-after-slow", 1),
        ("failover-timeout-long", 1),
    ] {
        let there = found.iter().filter(|finding| finding.id == id).count();
        assert_eq!(there, places, "{id}: {found:#?}");
    }
    let down_after = found.iter().find(|finding| finding.id == "down-after-slow").unwrap();
    assert!(down_after.seen.contains("keep retry_after - timeout of every queue"), "{}", down_after.seen);
}

#[test]
fn the_page_has_every_finding_as_it_is() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/doctor.md")).unwrap();
    let table = page.split("<!-- findings -->").nth(1).unwrap().split("<!-- /findings -->").next().unwrap();
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| `")).collect();
    let expected: Vec<String> =
        check::all().map(|check| format!("| `{}` | {} | {} |", check.id, check.severity, check.means)).collect();
    assert_eq!(rows, expected, "docs/doctor.md, between the marks:\n{}", expected.join("\n"));
}

#[test]
fn a_check_of_the_configuration_says_what_a_dotenv_is_good_for() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(".env"), "REDIS_HOST=127.0.0.1\nREDIS_SENTINEL_ADDRESSES=a:1\nREDIS_PASSWORD=pw\n")
        .unwrap();
    let flags = [("laravel_env", vec![folder.path().to_str().unwrap().to_owned()])].into_iter().collect();
    let loaded = Config::load(&Sources { flags, ..Sources::default() }).unwrap();
    let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert!(warnings.iter().any(|warning| warning.contains("REDIS_SENTINEL_ADDRESSES")), "{warnings:?}");
    assert!(warnings.iter().any(|warning| warning.contains("names no Sentinels")), "{warnings:?}");
    let understood = loaded.understood();
    assert!(understood.contains("redis_password") && !understood.contains("pw\""), "{understood}");
    assert!(understood.contains("# without effect here: REDIS_HOST, REDIS_SENTINEL_ADDRESSES"), "{understood}");
}
