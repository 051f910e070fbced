//! Running it: what passes through unchanged, what an operator may ask, and how it ends.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use switchmaster::backup;
use switchmaster::demo::cluster::{Cluster, ClusterSpec, until};
use switchmaster::demo::proxy::Proxy;
use switchmaster::demo::wire::{Reply, Wire, encode};
use switchmaster::metrics;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::proxy::{
    LIMIT, closed_for, get, memory, run, spec, start, start_as, verb, view, wait_settled, wait_stable, wait_view,
};

/// One master and one Sentinel, with a proxy that follows them.
async fn small() -> (Cluster, Proxy) {
    let cluster = Cluster::start(ClusterSpec { replicas: 0, sentinels: 1, ..ClusterSpec::default() }).await.unwrap();
    let proxy = start(&cluster).await;
    wait_stable(&proxy).await;
    (cluster, proxy)
}

async fn send(wire: &mut Wire, request: &[&str]) {
    let mut bytes = Vec::new();
    encode(&mut bytes, request);
    wire.send(&bytes).await.unwrap();
}

async fn receive(wire: &mut Wire) -> Reply {
    timeout(LIMIT, wire.receive()).await.expect("a reply").unwrap()
}

/// All that comes until the other side closes.
async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    timeout(LIMIT, stream.read_to_end(&mut bytes)).await.expect("the end").unwrap();
    bytes
}

#[tokio::test]
async fn sigterm_lets_sessions_finish_what_they_began() {
    let (_cluster, mut proxy) = small().await;
    let mut idle = TcpStream::connect(proxy.addr()).await.unwrap();
    idle.write_all(b"PING\r\n").await.unwrap();
    let mut pong = [0; 7];
    idle.read_exact(&mut pong).await.unwrap();
    let mut busy = Wire::connect(proxy.addr()).await.unwrap();
    assert_eq!(busy.ask(&["PING"]).await.unwrap().text(), Some("PONG"));
    send(&mut busy, &["BLPOP", "nothing", "3"]).await;
    wait_view(&proxy, "the request to be on its way", |view| view.traffic.requests == 3).await;

    proxy.signal(Signal::TERM);
    until("the port to be closed", LIMIT, async || match TcpStream::connect(proxy.addr()).await {
        Ok(_) => Err("still open".into()),
        Err(_) => Ok(()),
    })
    .await
    .unwrap();
    assert_eq!(rest(&mut idle).await, b"", "the idle client is let go");
    assert_eq!(receive(&mut busy).await, Reply::Nil, "the request in the middle gets its reply");
    let ended = timeout(LIMIT, busy.receive()).await.expect("the end");
    assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
    let status = proxy.wait(LIMIT).await.expect("it ends");
    assert_eq!(status.code(), Some(0), "{}", proxy.log());
    assert!(proxy.log().contains("stopped cut=0"), "{}", proxy.log());
}

#[tokio::test]
async fn one_client_too_many_is_told_so_in_redis_own_words() {
    let cluster = Cluster::start(ClusterSpec { replicas: 0, sentinels: 1, ..ClusterSpec::default() }).await.unwrap();
    let mut spec = spec(&cluster);
    spec.set("SWITCHMASTER_MAX_CLIENTS", "2").set("SWITCHMASTER_WARM_BACKENDS", "0");
    let proxy = start_as(&spec).await;
    wait_stable(&proxy).await;
    wait_view(&proxy, "nobody to be there", |view| view.traffic.sessions == 0).await;
    let mut clients = [Wire::connect(proxy.addr()).await.unwrap(), Wire::connect(proxy.addr()).await.unwrap()];
    for client in &mut clients {
        assert_eq!(client.ask(&["PING"]).await.unwrap().text(), Some("PONG"));
    }
    for _ in 0..3 {
        let mut third = TcpStream::connect(proxy.addr()).await.unwrap();
        assert_eq!(String::from_utf8(rest(&mut third).await).unwrap(), "-ERR max number of clients reached\r\n");
    }
    let seen = view(&proxy).await.traffic;
    assert_eq!((seen.sessions, seen.refused, seen.dials), (2, 3, 2), "{seen:?}");
    let [first, mut second] = clients;
    drop(first);
    wait_view(&proxy, "a place", |view| view.traffic.sessions == 1).await;
    let mut next = Wire::connect(proxy.addr()).await.unwrap();
    assert_eq!(next.ask(&["PING"]).await.unwrap().text(), Some("PONG"));
    assert_eq!(second.ask(&["PING"]).await.unwrap().text(), Some("PONG"));
}

#[tokio::test]
async fn what_a_server_says_to_nonsense_and_half_closes_comes_through() {
    let (cluster, proxy) = small().await;
    let cases: [&[u8]; 7] = [
        b"*1\r\n$abc\r\nPING\r\n",
        b"*1\r\nPING\r\n",
        b"*abc\r\n",
        b"GET / HTTP/1.1\r\nHost: redis\r\n\r\n",
        b"PING\r\n*2\r\n$4\r\nECHO\r\n$-7\r\n",
        b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$999999999999\r\n",
        &[0xff; 64],
    ];
    for case in cases {
        let mut heard = Vec::new();
        for addr in [cluster.node(0).addr(), proxy.addr()] {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            stream.write_all(case).await.unwrap();
            stream.shutdown().await.unwrap();
            heard.push(String::from_utf8_lossy(&rest(&mut stream).await).into_owned());
        }
        assert_eq!(heard[0], heard[1], "{:?}", String::from_utf8_lossy(case));
    }
    // A client that says all it has to say, and then listens.
    let mut half = TcpStream::connect(proxy.addr()).await.unwrap();
    half.write_all(b"PING\r\n*2\r\n$5\r\nBLPOP\r\n$1\r\nx\r\n*1\r\n$4\r\nPING\r\n").await.unwrap();
    half.shutdown().await.unwrap();
    let heard = rest(&mut half).await;
    assert!(heard.starts_with(b"+PONG\r\n-ERR wrong number") && heard.ends_with(b"+PONG\r\n"), "{heard:?}");
}

#[tokio::test]
async fn subscribers_and_monitors_are_served() {
    let (_cluster, proxy) = small().await;
    let [mut subscriber, mut monitor, mut other] = [
        Wire::connect(proxy.addr()).await.unwrap(),
        Wire::connect(proxy.addr()).await.unwrap(),
        Wire::connect(proxy.addr()).await.unwrap(),
    ];
    assert_eq!(monitor.ask(&["MONITOR"]).await.unwrap().text(), Some("OK"));
    assert_eq!(subscriber.ask(&["SUBSCRIBE", "news"]).await.unwrap().items()[2], Reply::Integer(1));
    assert_eq!(other.ask(&["PUBLISH", "news", "hello"]).await.unwrap(), Reply::Integer(1));
    assert_eq!(receive(&mut subscriber).await.items()[2].text(), Some("hello"));
    send(&mut subscriber, &["UNSUBSCRIBE", "news"]).await;
    assert_eq!(receive(&mut subscriber).await.items()[2], Reply::Integer(0));
    assert_eq!(subscriber.ask(&["PING"]).await.unwrap().text(), Some("PONG"));
    let mut told = String::new();
    while !told.contains("\"PUBLISH\" \"news\" \"hello\"") {
        told = receive(&mut monitor).await.to_string();
    }
}

#[tokio::test]
async fn large_values_pass_unchanged_and_a_slow_reader_costs_no_memory() {
    let (_cluster, proxy) = small().await;
    let mut wire = Wire::connect(proxy.addr()).await.unwrap();
    let mut seed = 1u32;
    let large: Vec<u8> = (0..5 << 20)
        .map(|_| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 24) as u8
        })
        .collect();
    assert_eq!(wire.ask(&[&b"SET"[..], b"large", &large]).await.unwrap().text(), Some("OK"));
    let mut slow = TcpStream::connect(proxy.addr()).await.unwrap();
    let ask = b"*2\r\n$3\r\nGET\r\n$5\r\nlarge\r\n";
    slow.write_all(ask).await.unwrap();
    let reply = [format!("${}\r\n", large.len()).as_bytes(), &large, b"\r\n"].concat();
    let mut heard = vec![0; reply.len()];
    timeout(LIMIT, slow.read_exact(&mut heard)).await.expect("5 MiB").unwrap();
    assert!(heard == reply, "the value came back changed");

    let bulk = &reply[..];
    let several = [b"*3\r\n", bulk, b"$-1\r\n", bulk, b"+PONG\r\n", bulk, b"+PONG\r\n"].concat();
    slow.write_all(b"MGET large none large\r\nPING\r\nGET large\r\nPING\r\n").await.unwrap();
    let mut all = vec![0; several.len()];
    timeout(LIMIT, slow.read_exact(&mut all)).await.expect("15 MiB").unwrap();
    assert!(all == several, "something among others came back changed");

    let before = memory(&proxy, "VmRSS");
    let asked = 40;
    slow.write_all(&ask.repeat(asked)).await.unwrap();
    // Until nothing moves any more: the sockets between the server and the client are full.
    let mut last = (0, Instant::now());
    until("the flow to stop", LIMIT, async || {
        let down = view(&proxy).await.traffic.bytes_down;
        if down != last.0 {
            last = (down, Instant::now());
        }
        if last.1.elapsed() > Duration::from_millis(500) { Ok(()) } else { Err(format!("{down} bytes")) }
    })
    .await
    .unwrap();
    let grown = memory(&proxy, "VmRSS").saturating_sub(before);
    println!("{} MiB asked for and not read: {} KiB more", asked * 5, grown / 1024);
    assert!(grown < 16 << 20, "{grown} bytes more for a client that does not read");
    let mut left = asked * reply.len();
    while left > 0 {
        left -= timeout(LIMIT, slow.read(&mut heard)).await.expect("the rest").unwrap();
    }
    slow.write_all(b"PING\r\n").await.unwrap();
    assert_eq!(timeout(LIMIT, slow.read(&mut heard)).await.unwrap().unwrap(), 7);
}

#[tokio::test]
async fn a_taken_port_names_its_holder() {
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = held.local_addr().unwrap().to_string();
    let ended = run(&["serve", "--listen", &taken, "--admin", "off"], &[("SWITCHMASTER_CONFIG", "/dev/null")]).await;
    let told = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(69), "{told}");
    let holder = format!("(pid {})", std::process::id());
    assert!(told.contains(&format!("{taken} is in use, held by ")) && told.contains(&holder), "{told}");
}

#[tokio::test]
async fn an_operator_holds_releases_looks_and_fails_over() {
    let cluster = Cluster::start(ClusterSpec::with_password("secret")).await.unwrap();
    let mut spec = spec(&cluster);
    spec.set("SWITCHMASTER_LOG_FORMAT", "json");
    let proxy = start_as(&spec).await;
    wait_settled(&proxy, &cluster).await;
    let mut wire = Wire::open(proxy.addr(), cluster.auth().as_ref(), 0).await.unwrap();
    let done = async |arguments: &[&str]| {
        let ended = verb(&proxy, arguments).await;
        let (out, told) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
        assert_eq!(ended.status.code(), Some(0), "{arguments:?}: {out}{told}");
        out.into_owned()
    };

    done(&["hold", "--for", "25s"]).await;
    assert_eq!(view(&proxy).await.phase, "paused");
    send(&mut wire, &["SET", "key", "1"]).await;
    assert!(timeout(Duration::from_millis(300), wire.receive()).await.is_err(), "not held");
    let mut leaver = Wire::open(proxy.addr(), None, 0).await.unwrap();
    send(&mut leaver, &["INCR", "given-up"]).await;
    wait_view(&proxy, "the held sessions", |view| view.traffic.held_sessions == 2).await;
    tokio::time::sleep(Duration::from_millis(200)).await; // longer than a client that only half-closes takes
    drop(leaver);
    let gone = wait_view(&proxy, "the end of the client that gave up", |view| view.traffic.held_sessions == 1).await;
    let requests = gone.traffic.requests;
    done(&["release"]).await;
    assert_eq!(receive(&mut wire).await.text(), Some("OK"));
    assert_eq!(view(&proxy).await.traffic.requests, requests + 1, "what was given up does not run late");
    done(&["hold", "--for", "100ms"]).await;
    send(&mut wire, &["SET", "key", "2"]).await;
    assert_eq!(receive(&mut wire).await.text(), Some("OK"), "it runs out by itself");

    let shown = done(&["status"]).await;
    let master = cluster.node_addr(0).to_string();
    for part in ["state     ok (ready)", &format!("mymaster {master}"), "3 of 3 agree, quorum 2", "1 open, 0 held"] {
        assert!(shown.contains(part), "{part:?} is not in\n{shown}");
    }
    let moved = done(&["failover"]).await;
    assert!(moved.contains(&format!("moved from {master} to ")), "{moved}");
    assert_eq!(wire.ask(&["GET", "key"]).await.unwrap().text(), Some("2"));

    let text = get(&proxy, "/metrics").await;
    let present: BTreeSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let missing: Vec<&str> = metrics::ALL
        .iter()
        .chain(backup::metrics::ALL)
        .map(|(name, ..)| *name)
        .filter(|name| !present.contains(name))
        .collect();
    assert_eq!(missing, Vec::<&str>::new(), "{text}");
    assert!(text.contains("switchmaster_failovers_total{kind=\"planned\",master=\"mymaster\"} 1"), "{text}");
    assert!(text.contains("switchmaster_early_commits_total{master=\"mymaster\"} 1"), "{text}");

    let log = proxy.log();
    assert!(log.lines().count() >= 5, "{log}");
    for line in log.lines() {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        for field in ["timestamp", "level", "message"] {
            assert!(entry.get(field).is_some_and(|value| value.is_string()), "{field}: {line}");
        }
    }
    drop(wire);
    wait_view(&proxy, "the client's end", |view| closed_for(view, "client_closed") >= 1).await;
}
