//! Few descriptors: what clients may take never starves the control plane, and nobody keeps what is short.

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use switchmaster::demo::cluster::{Cluster, ClusterSpec, until};
use switchmaster::demo::proxy::Proxy;
use switchmaster::demo::wire::{Reply, Wire};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::support::proxy::{LIMIT, get, spec, start_as, view, wait_log, wait_settled, wait_view};

const CLIENTS: usize = 60;
/// Two for each client, what switchmaster keeps for itself (160, and 9 for its worker), and a few.
const DESCRIPTORS: u32 = 2 * CLIENTS as u32 + 169 + 8;
const VALUE: usize = 4 << 20;

/// Clients that take a large value slowly hold a pipe each, which is two descriptors more.
#[tokio::test]
async fn slow_readers_leave_control_its_descriptors() {
    // So large values keep the servers busy for a while, which is no reason to call them down.
    let spec_of = ClusterSpec { down_after: Duration::from_secs(20), ..ClusterSpec::default() };
    let cluster = Cluster::start(spec_of).await.unwrap();
    let mut spec = spec(&cluster);
    spec.set("SWITCHMASTER_MAX_CLIENTS", CLIENTS.to_string()).set("SWITCHMASTER_WORKERS", "1");
    spec.descriptors = Some(DESCRIPTORS);
    let proxy = start_as(&spec).await;
    wait_settled(&proxy, &cluster).await;
    wait_view(&proxy, "nobody to be there", |view| view.traffic.sessions == 0).await;
    let mut writer = Wire::connect(proxy.addr()).await.unwrap();
    assert_eq!(writer.ask(&[&b"SET"[..], b"large", &vec![b'x'; VALUE]]).await.unwrap().text(), Some("OK"));
    let mut slow = Vec::new();
    for _ in 1..CLIENTS {
        slow.push(slow_reader(proxy.addr()).await);
    }
    wait_view(&proxy, "all to be there", |view| view.traffic.sessions == CLIENTS as u64).await;
    until_still(&proxy).await;
    let open = descriptors(&proxy);
    assert!(open > 2 * CLIENTS && open <= DESCRIPTORS as usize - 64, "{open} of {DESCRIPTORS} are open");

    // One more is refused, and holds nothing although it does not close.
    let mut refused = Vec::new();
    for _ in 0..100 {
        let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
        let mut told = Vec::new();
        timeout(LIMIT, stream.read_to_end(&mut told)).await.expect("the end").unwrap();
        assert_eq!(String::from_utf8_lossy(&told), "-ERR max number of clients reached\r\n");
        refused.push(stream);
    }
    until("what they held", LIMIT, async || {
        let open = descriptors(&proxy);
        if open <= DESCRIPTORS as usize - 64 { Ok(()) } else { Err(format!("{open} are open")) }
    })
    .await
    .unwrap();
    assert_eq!(get(&proxy, "/live").await, "ok\n");
    assert!(get(&proxy, "/ready").await.starts_with("ok: "), "{}", get(&proxy, "/ready").await);

    cluster.failover(LIMIT).await.unwrap();
    for _ in 0..50 {
        let reply = timeout(LIMIT, writer.ask(&["GET", "none"])).await.expect("a reply").unwrap();
        assert_eq!(reply, Reply::Nil, "{}", proxy.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.wait_for_master_change(0, LIMIT).await.unwrap();
    wait_view(&proxy, "the new master", |view| view.counters.failovers_planned == 1).await;
    assert!(
        get(&proxy, "/metrics").await.contains("switchmaster_early_commits_total{master=\"mymaster\"} 1"),
        "{}",
        proxy.log()
    );
    assert!(!proxy.log().contains("cannot accept"), "{}", proxy.log());

    // They were copied to where no pipe was to be had, and get all of it.
    let (mut reader, length) = (slow.pop().unwrap(), format!("${VALUE}\r\n").len() + VALUE + 2);
    let mut got = vec![0; length];
    timeout(LIMIT, reader.read_exact(&mut got)).await.expect("all of it").unwrap();
    assert!(got.ends_with(b"xx\r\n"));
}

/// With fewer than `max_clients` needs, it serves as many as it can and says so.
#[tokio::test]
async fn what_the_limit_does_not_allow_is_said_and_refused() {
    let cluster = Cluster::start(ClusterSpec { replicas: 0, sentinels: 1, ..ClusterSpec::default() }).await.unwrap();
    let mut spec = spec(&cluster);
    spec.set("SWITCHMASTER_WORKERS", "1");
    spec.descriptors = Some(340);
    let proxy = start_as(&spec).await;
    wait_log(&proxy, &["max_clients = 10000 needs 20169 descriptors", "75 clients are served at once"]).await;
    wait_view(&proxy, "nobody to be there", |view| view.traffic.sessions == 0).await;
    let mut clients = Vec::new();
    for _ in 0..75 {
        clients.push(Wire::connect(proxy.addr()).await.unwrap());
        assert_eq!(clients.last_mut().unwrap().ask(&["PING"]).await.unwrap().text(), Some("PONG"));
    }
    let mut one_more = TcpStream::connect(proxy.addr()).await.unwrap();
    let mut told = String::new();
    timeout(LIMIT, one_more.read_to_string(&mut told)).await.expect("the end").unwrap();
    assert_eq!(told, "-ERR max number of clients reached\r\n");
    assert_eq!(view(&proxy).await.traffic.refused, 1);
}

/// Each of ten thousand that connect, two hundred at a time, is served or told that there are too many; none is left over.
#[tokio::test]
async fn a_storm_of_connects_is_served_or_refused_and_forgotten() {
    const STORM: usize = 10_000;
    const AT_ONCE: usize = 200;
    let cluster = Cluster::start(ClusterSpec { replicas: 0, sentinels: 1, ..ClusterSpec::default() }).await.unwrap();
    let mut spec = spec(&cluster);
    spec.set("SWITCHMASTER_MAX_CLIENTS", CLIENTS.to_string()).set("SWITCHMASTER_WORKERS", "1");
    spec.descriptors = Some(DESCRIPTORS);
    let proxy = start_as(&spec).await;
    wait_view(&proxy, "nobody to be there", |view| view.phase == "stable" && view.traffic.sessions == 0).await;
    let (before, accepted) = (descriptors(&proxy), view(&proxy).await.traffic.accepted);
    let addr = proxy.addr();
    let mut storm = tokio::task::JoinSet::new();
    for _ in 0..AT_ONCE {
        storm.spawn(async move {
            let mut served = 0;
            for _ in 0..STORM / AT_ONCE {
                let mut stream = timeout(LIMIT, TcpStream::connect(addr)).await.expect("it connects").unwrap();
                let _ = stream.write_all(b"PING\r\n").await;
                let mut told = [0; 64];
                match timeout(LIMIT, stream.read(&mut told)).await.expect("an answer") {
                    Ok(read) if told[..read] == *b"+PONG\r\n" => served += 1,
                    Ok(read) => assert_eq!(told[..read], *b"-ERR max number of clients reached\r\n"),
                    // It is closed at once where no descriptor is left: a PING that comes later resets it.
                    Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
                }
            }
            served
        });
    }
    let mut served = 0;
    while let Some(one) = storm.join_next().await {
        served += one.unwrap();
        assert_eq!(get(&proxy, "/live").await, "ok\n");
    }
    let seen = wait_view(&proxy, "all to have gone", |view| view.traffic.sessions == 0).await;
    println!("{served} of {STORM} served, {} refused", seen.traffic.refused);
    assert_eq!((seen.traffic.accepted - accepted + seen.traffic.refused) as usize, STORM);
    assert!(seen.phase == "stable" && seen.sentinels.iter().all(|sentinel| sentinel.connected), "{seen:?}");
    until("their descriptors", LIMIT, async || match descriptors(&proxy) {
        // Those that wait for the next clients are not theirs.
        open if open <= before + 16 => Ok(()),
        open => Err(format!("{open} are open, {before} before")),
    })
    .await
    .unwrap();
    let mut wire = Wire::connect(addr).await.unwrap();
    assert_eq!(wire.ask(&["PING"]).await.unwrap().text(), Some("PONG"));
    assert!(proxy.log().lines().count() < 50, "{}", proxy.log());
}

async fn slow_reader(addr: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(addr).await.unwrap();
    stream.write_all(b"GET large\r\n").await.unwrap();
    stream
}

/// Until nothing moves any more.
async fn until_still(proxy: &Proxy) {
    let mut last = (0, Instant::now());
    until("the flow to stop", LIMIT, async || {
        let down = view(proxy).await.traffic.bytes_down;
        if down != last.0 {
            last = (down, Instant::now());
        }
        if last.1.elapsed() > Duration::from_millis(300) { Ok(()) } else { Err(format!("{down} bytes")) }
    })
    .await
    .unwrap();
}

fn descriptors(proxy: &Proxy) -> usize {
    fs::read_dir(format!("/proc/{}/fd", proxy.pid().as_raw_nonzero())).unwrap().count()
}
