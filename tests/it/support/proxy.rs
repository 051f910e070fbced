//! The real binary, as cargo built it: in front of a test's cluster, asked what it sees, or run to its end.

use std::process::{Output, Stdio};
use std::time::Duration;

use switchmaster::demo::cluster::{Cluster, until};
use switchmaster::demo::proxy::{Proxy, ProxySpec};
use switchmaster::status::View;
use switchmaster::verbs::{self as client, Show};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// For everything that should come soon, on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(30);

/// What commands over TCP must carry, if the test says nothing else.
pub const ADMIN_TOKEN: &str = "the-token-of-the-tests";

/// How to start the binary for `cluster`; to be changed before [`Proxy::start`]. `SWITCHMASTER_TEST_REUSE=1` runs every
/// test with connections that serve one session after another.
pub fn spec(cluster: &Cluster) -> ProxySpec {
    let mut spec = ProxySpec::of(cluster, env!("CARGO_BIN_EXE_switchmaster"));
    spec.set("SWITCHMASTER_ADMIN_TOKEN", ADMIN_TOKEN);
    if std::env::var_os("SWITCHMASTER_TEST_REUSE").is_some() {
        spec.set("SWITCHMASTER_REUSE_BACKENDS", "true");
    }
    spec
}

/// What the kernel says of its memory, in bytes: a field of proc_pid_status(5), as VmRSS or RssAnon.
pub fn memory(proxy: &Proxy, field: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", proxy.pid().as_raw_nonzero())).unwrap();
    let value = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).expect("a field");
    value.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") * 1024
}

/// The proxy for `cluster`, accepting connections on a free port.
pub async fn start(cluster: &Cluster) -> Proxy {
    start_as(&spec(cluster)).await
}

/// A proxy started in a way of its own.
pub async fn start_as(spec: &ProxySpec) -> Proxy {
    let proxy = Proxy::start(spec).await.unwrap_or_else(|error| panic!("{error}"));
    until("the admin address", LIMIT, async || match TcpStream::connect(proxy.admin()).await {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    })
    .await
    .unwrap_or_else(|error| panic!("{error}"));
    proxy
}

/// What it sees now; what `switchmaster status --json` prints.
pub async fn view(proxy: &Proxy) -> View {
    let mut out = Vec::new();
    client::status(proxy.admin(), Show { json: true, ..Show::default() }, &mut out).await.unwrap();
    serde_json::from_slice(&out).unwrap()
}

/// Waits until it sees what is expected.
pub async fn wait_view(proxy: &Proxy, what: &str, seen: impl Fn(&View) -> bool) -> View {
    until(what, LIMIT, async || {
        let view = view(proxy).await;
        if seen(&view) { Ok(view) } else { Err(format!("{view:?}")) }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", proxy.log()))
}

/// Waits until it follows a confirmed master and requests flow; returns that master's address.
pub async fn wait_stable(proxy: &Proxy) -> String {
    let view = wait_view(proxy, "a confirmed master", |view| {
        view.phase == "stable" && view.master.as_ref().is_some_and(|master| !master.provisional)
    })
    .await;
    view.master.map(|master| master.addr).unwrap_or_default()
}

/// Waits until it also follows all Sentinels and sees all replicas: ready for an early commit.
pub async fn wait_settled(proxy: &Proxy, cluster: &Cluster) {
    let (sentinels, replicas) = (cluster.spec().sentinels, cluster.spec().replicas);
    wait_view(proxy, "all Sentinels and replicas", |view| {
        view.phase == "stable" && view.agreement.agreeing == sentinels && view.replicas.len() == replicas
    })
    .await;
}

/// Waits until its log holds a line with all of `parts`, which it returns.
pub async fn wait_log(proxy: &Proxy, parts: &[&str]) -> String {
    let found = until("a log line", LIMIT, async || {
        let log = proxy.log();
        let line = log.lines().find(|line| parts.iter().all(|part| line.contains(part)));
        line.map(str::to_owned).ok_or_else(|| format!("no line with {parts:?} in\n{log}"))
    });
    found.await.unwrap_or_else(|error| panic!("{error}"))
}

/// Sessions that ended for `reason`.
pub fn closed_for(view: &View, reason: &str) -> u64 {
    view.traffic.closed_by.iter().find(|(name, _)| name == reason).map_or(0, |(_, count)| *count)
}

/// The body of an answer of its admin server.
pub async fn get(proxy: &Proxy, path: &str) -> String {
    let mut stream = TcpStream::connect(proxy.admin()).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", proxy.admin());
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()
}

/// Runs the binary to its end with nothing but `environment`.
pub async fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let child = tokio::process::Command::new(env!("CARGO_BIN_EXE_switchmaster"))
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    tokio::time::timeout(LIMIT, child.wait_with_output()).await.expect("it ends").unwrap()
}

/// The same, for a verb that talks to `proxy`.
pub async fn verb(proxy: &Proxy, arguments: &[&str]) -> Output {
    let (admin, socket) = (proxy.admin().to_string(), proxy.admin_socket());
    run(arguments, &[("SWITCHMASTER_ADMIN", &admin), ("SWITCHMASTER_ADMIN_SOCKET", socket.to_str().unwrap())]).await
}
