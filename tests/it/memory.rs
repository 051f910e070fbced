//! Memory: one bound for all that sessions hold, whatever clients do, and given back when they have left.

use std::fs;
use std::time::Duration;

use switchmaster::demo::cluster::{Cluster, ClusterSpec, until};
use switchmaster::demo::proxy::Proxy;
use switchmaster::demo::wire::Wire;
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::support::proxy::{LIMIT, spec, start_as, verb, view, wait_stable, wait_view};

const MIB: usize = 1024 * 1024;
/// `retain_total`, far less than what the clients below would take.
const BOUND: usize = 8 * MIB;
const CLIENTS: usize = 200;
/// The bound and 16 KiB for each client; and as much again, twice over, for what an allocator leaves unused.
const MOST: usize = 3 * (BOUND + CLIENTS * 16 * 1024);

/// Of Unix sockets, whose buffers in the kernel are small.
struct Stage {
    proxy: Proxy,
    cluster: Cluster,
    dir: TempDir,
}

async fn bounded() -> Stage {
    let spec_of =
        ClusterSpec { replicas: 0, sentinels: 1, down_after: Duration::from_secs(30), ..ClusterSpec::default() };
    let cluster = Cluster::start(spec_of).await.unwrap();
    let mut spec = spec(&cluster);
    spec.set("SWITCHMASTER_RETAIN_TOTAL", "8MiB").set("SWITCHMASTER_WORKERS", "1");
    let dir = tempfile::tempdir().unwrap();
    spec.also_listen.push(format!("unix:{}", dir.path().join("redis.sock").display()));
    let proxy = start_as(&spec).await;
    wait_stable(&proxy).await;
    Stage { proxy, cluster, dir }
}

async fn connect(stage: &Stage) -> Vec<UnixStream> {
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut wire = Wire::over(UnixStream::connect(stage.dir.path().join("redis.sock")).await.unwrap());
        assert_eq!(wire.ask(&["PING"]).await.unwrap().text(), Some("PONG"));
        clients.push(wire.into_parts().0);
    }
    clients
}

/// Sends as much as the sockets take, for as long as they take any.
async fn send_what_fits(clients: &[UnixStream], requests: &[u8], rounds: usize) {
    for _ in 0..rounds {
        for client in clients {
            let _ = client.try_write(requests);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Until nothing moves any more.
async fn until_still(proxy: &Proxy) {
    let mut last = (0, 0);
    until("the flow to stop", LIMIT, async || {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let traffic = view(proxy).await.traffic;
        let now = (traffic.bytes_up, traffic.bytes_down);
        if std::mem::replace(&mut last, now) == now { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await
    .unwrap();
}

async fn given_back(proxy: &Proxy, before: usize) {
    wait_view(proxy, "the clients' end", |view| view.traffic.sessions == 0).await;
    until("memory to be given back", LIMIT, async || {
        let now = resident(proxy);
        if now < before + 8 * MIB { Ok(()) } else { Err(format!("{} MiB, {} before", now / MIB, before / MIB)) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn pipelines_that_nobody_reads_are_bounded_and_given_back() {
    let stage = bounded().await;
    let proxy = &stage.proxy;
    let mut wire = Wire::connect(proxy.addr()).await.unwrap();
    assert_eq!(wire.ask(&[&b"SET"[..], b"value", &[b'x'; 1000]]).await.unwrap().text(), Some("OK"));
    let clients = connect(&stage).await;
    let before = resident(proxy);
    send_what_fits(&clients, &b"*2\r\n$3\r\nGET\r\n$5\r\nvalue\r\n".repeat(1000), 40).await;
    until_still(proxy).await;
    let grown = resident(proxy).saturating_sub(before);
    println!("{CLIENTS} pipelines unread: {} KiB more", grown / 1024);
    assert!(grown < MOST, "{} MiB more", grown / MIB);
    // Those who read are served.
    for _ in 0..10 {
        assert_eq!(timeout(LIMIT, wire.ask(&["GET", "value"])).await.unwrap().unwrap().text().unwrap().len(), 1000);
    }
    // And so is one who begins to read.
    let mut late = Wire::over(clients.into_iter().next().unwrap());
    for _ in 0..1000 {
        assert_eq!(timeout(LIMIT, late.receive()).await.unwrap().unwrap().text().unwrap().len(), 1000);
    }
    drop((wire, late));
    given_back(proxy, before).await;
}

#[tokio::test]
async fn held_clients_are_bounded_and_all_of_them_are_served_after_the_hold() {
    const REQUESTS: usize = 200;
    let stage = bounded().await;
    let proxy = &stage.proxy;
    let clients = connect(&stage).await;
    let before = resident(proxy);
    let held = verb(proxy, &["hold", "--for", "25s"]).await;
    assert_eq!(held.status.code(), Some(0), "{}", String::from_utf8_lossy(&held.stderr));
    // Small enough for the sockets, so that each is sent whole.
    let request = [&b"*3\r\n$5\r\nRPUSH\r\n$4\r\nlist\r\n$1000\r\n"[..], &[b'x'; 1000], b"\r\n"].concat();
    let all = request.repeat(REQUESTS);
    let senders: Vec<_> = clients
        .into_iter()
        .map(|client| {
            let all = all.clone();
            tokio::spawn(async move {
                let mut wire = Wire::over(client);
                wire.send(&all).await.unwrap();
                for _ in 0..REQUESTS {
                    wire.receive().await.unwrap();
                }
            })
        })
        .collect();
    until_still(proxy).await;
    let grown = resident(proxy).saturating_sub(before);
    println!("{CLIENTS} clients held: {} KiB more", grown / 1024);
    assert!(grown < MOST, "{} MiB more", grown / MIB);
    verb(proxy, &["release"]).await;
    for sender in senders {
        timeout(LIMIT, sender).await.expect("all replies").unwrap();
    }
    let mut direct = Wire::connect(stage.cluster.node_addr(0)).await.unwrap();
    let length = direct.ask(&["LLEN", "list"]).await.unwrap().to_string();
    assert!(length.contains(&(CLIENTS * REQUESTS).to_string()), "{length}");
    given_back(proxy, before).await;
}

/// A large request goes on in the little that is left, and nobody waits for somebody else's memory.
#[tokio::test]
async fn with_nothing_left_every_kind_of_request_is_served() {
    let stage = bounded().await;
    let proxy = &stage.proxy;
    let mut wire = Wire::connect(proxy.addr()).await.unwrap();
    assert_eq!(wire.ask(&[&b"SET"[..], b"value", &vec![b'x'; 10_000]]).await.unwrap().text(), Some("OK"));
    let clients = connect(&stage).await;
    send_what_fits(&clients, &b"*2\r\n$3\r\nGET\r\n$5\r\nvalue\r\n".repeat(1000), 20).await;
    until_still(proxy).await;
    for size in [3, 1_000, 3_000, 5_000, 20_000, 100_000, 3_000_000] {
        let value = vec![b'y'; size];
        let mut other = Wire::connect(proxy.addr()).await.unwrap();
        let served = async {
            assert_eq!(other.ask(&[&b"SET"[..], b"other", &value]).await.unwrap().text(), Some("OK"));
            assert_eq!(other.ask(&["GET", "other"]).await.unwrap().text().unwrap().len(), size);
            assert_eq!(other.ask(&["MULTI"]).await.unwrap().text(), Some("OK"));
            assert_eq!(other.ask(&[&b"SET"[..], b"other", &value]).await.unwrap().text(), Some("QUEUED"));
            assert_eq!(other.ask(&["EXEC"]).await.unwrap().items().len(), 1);
        };
        timeout(LIMIT, served).await.unwrap_or_else(|_| panic!("{size} bytes were not served"));
    }
    drop(clients);
}

/// Bytes of resident memory.
fn resident(proxy: &Proxy) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", proxy.pid().as_raw_nonzero())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<usize>().unwrap() * 1024
}
