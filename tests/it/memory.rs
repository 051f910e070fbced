//! Memory: one bound for all that sessions hold, whatever clients do, and given back when they have left.

use std::sync::Mutex;
use std::time::Duration;

use switchmaster::demo::cluster::{Cluster, ClusterSpec, until};
use switchmaster::demo::proxy::Proxy;
use switchmaster::demo::wire::Wire;
use switchmaster::resp::request::encode;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::support::proxy::{LIMIT, get, memory, spec, start_as, verb, view, wait_stable, wait_view};

const MIB: usize = 1024 * 1024;
/// `retain_total`, far less than what the clients below would take.
const BOUND: usize = 8 * MIB;
const CLIENTS: usize = 200;
/// The bound and 16 KiB for each client; and as much again, twice over, for what an allocator leaves unused.
const MOST: usize = 3 * (BOUND + CLIENTS * 16 * 1024);
/// What the README says, for at most so many clients at once as there are here, without the program itself: of that 9 MiB
/// are in memory when it is optimised, and 25 when it is not.
const PROMISED: usize = 2 * BOUND + 3 * CLIENTS * 24 * 1024 + 32 * MIB - 9 * MIB;

/// Of Unix sockets, whose buffers in the kernel are small.
struct Stage {
    proxy: Proxy,
    cluster: Cluster,
    dir: TempDir,
    /// Connections that stay as long as this does.
    kept: Mutex<Vec<Wire<UnixStream>>>,
}

impl Stage {
    fn keep(&self, connections: Vec<Wire<UnixStream>>) {
        self.kept.lock().unwrap().extend(connections);
    }
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
    Stage { proxy, cluster, dir, kept: Mutex::default() }
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

/// What it takes more than `before`, which is no more than what is promised of all of it.
fn bounded_growth(proxy: &Proxy, what: &str, before: usize) {
    let now = resident(proxy);
    let grown = now.saturating_sub(before);
    println!("{what}: {} KiB more, {} in all", grown / 1024, now / 1024);
    assert!(grown < MOST, "{what}: {} MiB more", grown / MIB);
    assert!(now < PROMISED, "{what}: {} MiB, and {} MiB are promised", now / MIB, PROMISED / MIB);
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
    bounded_growth(proxy, "pipelines that are not read", before);
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
    bounded_growth(proxy, "clients that are held", before);
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

/// Sends one request after the other, whose replies are read.
async fn ask_all(wire: &mut Wire<UnixStream>, requests: &[Vec<Vec<u8>>]) {
    for request in requests {
        timeout(LIMIT, wire.ask(request)).await.expect("a reply").unwrap();
    }
}

/// Every way in which a client makes its session keep something, by clients that are never heard of again: the bound holds
/// while they are there, others are served, and what they took comes back.
async fn stays_bounded(what: &str, way: impl AsyncFn(&Stage, &[UnixStream])) {
    let stage = bounded().await;
    let proxy = &stage.proxy;
    let mut wire = Wire::connect(proxy.addr()).await.unwrap();
    assert_eq!(wire.ask(&["PING"]).await.unwrap().text(), Some("PONG"));
    let clients = connect(&stage).await;
    let before = resident(proxy);
    way(&stage, &clients).await;
    until_still(proxy).await;
    bounded_growth(proxy, what, before);
    let value = vec![b'y'; 20_000];
    let served = async {
        assert_eq!(wire.ask(&[&b"SET"[..], b"other", &value]).await.unwrap().text(), Some("OK"));
        assert_eq!(wire.ask(&["GET", "other"]).await.unwrap().text().unwrap().len(), 20_000);
    };
    timeout(LIMIT, served).await.unwrap_or_else(|_| panic!("{what}: others are not served"));
    drop((wire, clients, std::mem::take(&mut *stage.kept.lock().unwrap())));
    given_back(proxy, before).await;
}

#[tokio::test]
async fn half_requests_are_bounded() {
    let mut list = b"*5000\r\n$4\r\nMGET\r\n".to_vec();
    list.extend(b"$7\r\nkey-000\r\n".repeat(4000));
    let bulk = [&b"*3\r\n$3\r\nSET\r\n$5\r\nlarge\r\n$500000000\r\n"[..], &[b'x'; 60_000]].concat();
    let inline = [&b"GET "[..], &[b'x'; 60_000]].concat();
    for (what, half) in [("half a list", list), ("half a value", bulk), ("a line without an end", inline)] {
        stays_bounded(what, async |_, clients| {
            for client in clients {
                let _ = client.try_write(&half);
            }
        })
        .await;
    }
}

/// What is kept of a session for a move: an open transaction, what was said by CLIENT, the names of subscriptions.
#[tokio::test]
async fn what_makes_a_session_is_bounded() {
    let words = |request: &[&[u8]]| request.iter().map(|word| word.to_vec()).collect::<Vec<Vec<u8>>>();
    let queue = vec![words(&[b"SET", b"k", &[b'x'; 900]]); 200];
    let transaction = [vec![words(&[b"MULTI"])], queue].concat();
    let name = vec![words(&[b"CLIENT", b"SETNAME", &[b'n'; 60_000]])];
    let tracked = |kind: u8| words(&[b"CLIENT", b"TRACKING", b"ON", b"BCAST", b"PREFIX", &[kind; 60_000]]);
    let tracking = [vec![words(&[b"HELLO", b"3"])], (b'a'..=b'd').map(tracked).collect()].concat();
    for (what, requests) in [("transactions", transaction), ("names of clients", name), ("tracked prefixes", tracking)]
    {
        stays_bounded(what, async |stage, clients| {
            // As many connections more: those of the clients at hand are borrowed.
            let mut kept = Vec::new();
            for _ in clients {
                let stream = UnixStream::connect(stage.dir.path().join("redis.sock")).await.unwrap();
                let mut wire = Wire::over(stream);
                ask_all(&mut wire, &requests).await;
                kept.push(wire);
            }
            until_still(&stage.proxy).await;
            let seen = view(&stage.proxy).await.traffic.sessions;
            assert!(seen > 2 * CLIENTS as u64, "{what}: {seen} are there");
            stage.keep(kept);
        })
        .await;
    }
}

/// Many small subscriptions of few clients, and messages that nobody takes.
#[tokio::test]
async fn subscribers_are_bounded() {
    const NAMES: usize = 11_000;
    stays_bounded("names of channels", async |stage, clients| {
        let mut kept = Vec::new();
        for _ in clients.iter().take(10) {
            let stream = UnixStream::connect(stage.dir.path().join("redis.sock")).await.unwrap();
            let mut wire = Wire::over(stream);
            for number in (0..NAMES).step_by(100) {
                let one = |name: usize| encode(&[b"SUBSCRIBE", format!("{name:0>500}").as_bytes()]);
                wire.send(&(number..number + 100).flat_map(one).collect::<Vec<u8>>()).await.unwrap();
                for _ in 0..100 {
                    timeout(LIMIT, wire.receive()).await.expect("a confirmation").unwrap();
                }
            }
            kept.push(wire);
        }
        // Each is counted although its name is not kept any more.
        let one = kept.last_mut().unwrap();
        one.send(&encode(&[b"UNSUBSCRIBE"])).await.unwrap();
        for _ in 0..NAMES {
            timeout(LIMIT, one.receive()).await.expect("a confirmation").unwrap();
        }
        assert_eq!(timeout(LIMIT, one.ask(&["PING"])).await.expect("a reply").unwrap().text(), Some("PONG"));
        stage.keep(kept);
    })
    .await;
    stays_bounded("messages that nobody takes", async |stage, clients| {
        for client in clients {
            client.try_write(&encode(&[b"SUBSCRIBE", b"news"])).unwrap();
        }
        let mut direct = Wire::connect(stage.cluster.node_addr(0)).await.unwrap();
        until("all to be subscribed", LIMIT, async || {
            let counted = direct.ask(&["PUBSUB", "NUMSUB", "news"]).await.unwrap().to_string();
            if counted.contains(&CLIENTS.to_string()) { Ok(()) } else { Err(counted) }
        })
        .await
        .unwrap();
        for _ in 0..100 {
            direct.ask(&[&b"PUBLISH"[..], b"news", &[b'm'; 20_000]]).await.unwrap();
        }
    })
    .await;
}

/// Those who ask at the admin port for much and take nothing.
#[tokio::test]
async fn scrapers_that_read_nothing_are_bounded() {
    let stage = bounded().await;
    let proxy = &stage.proxy;
    let before = resident(proxy);
    let mut scrapers = Vec::new();
    for _ in 0..1000 {
        let mut stream = TcpStream::connect(proxy.admin()).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        scrapers.push(stream);
    }
    assert_eq!(get(proxy, "/live").await, "ok\n");
    let grown = resident(proxy).saturating_sub(before);
    println!("{} scrapers: {} KiB more", scrapers.len(), grown / 1024);
    assert!(grown < 16 * MIB, "{} MiB more", grown / MIB);
}

/// Bytes of memory that it has allocated and that are resident.
fn resident(proxy: &Proxy) -> usize {
    memory(proxy, "RssAnon")
}
