//! SIGTERM: sessions end between requests, what blocks is let go, and nobody is refused for long.

use std::io::ErrorKind;
use std::time::Duration;

use rustix::process::Signal;
use switchmaster::demo::cluster::{Cluster, ClusterSpec, until};
use switchmaster::demo::proxy::Proxy;
use switchmaster::demo::wire::{Reply, Wire};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::proxy::{LIMIT, closed_for, start, wait_stable, wait_view};

/// One master and one Sentinel, with a proxy that follows them.
async fn small() -> (Cluster, Proxy) {
    let cluster = Cluster::start(ClusterSpec { replicas: 0, sentinels: 1, ..ClusterSpec::default() }).await.unwrap();
    let proxy = start(&cluster).await;
    wait_stable(&proxy).await;
    (cluster, proxy)
}

async fn ended(proxy: &mut Proxy, cut: usize) {
    let status = proxy.wait(LIMIT).await.expect("it ends");
    assert_eq!(status.code(), Some(0), "{}", proxy.log());
    assert!(proxy.log().contains(&format!("stopped cut={cut}")), "{}", proxy.log());
}

/// All that comes until a FIN; a reset fails.
async fn rest(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut bytes = Vec::new();
    timeout(LIMIT, stream.read_to_end(&mut bytes)).await.expect("the end").unwrap();
    bytes
}

#[tokio::test]
async fn busy_clients_end_between_two_requests() {
    const CLIENTS: usize = 20;
    let (cluster, mut proxy) = small().await;
    let mut tasks = Vec::new();
    for client in 0..CLIENTS {
        let mut wire = Wire::connect(proxy.addr()).await.unwrap();
        tasks.push(tokio::spawn(async move {
            let list = format!("list{client}");
            for acknowledged in 0.. {
                // One after the other, and some with a pause in between.
                if client % 2 == 0 {
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
                match wire.ask(&["RPUSH", &list, "x"]).await {
                    Ok(reply) => assert_eq!(reply, Reply::Integer(acknowledged + 1)),
                    Err(error) => return (acknowledged, error.kind()),
                }
            }
            unreachable!()
        }));
    }
    wait_view(&proxy, "some traffic", |view| view.traffic.requests > 2_000).await;
    proxy.signal(Signal::TERM);
    let mut ends = Vec::new();
    for task in tasks {
        ends.push(timeout(LIMIT, task).await.expect("the end").unwrap());
    }
    ended(&mut proxy, 0).await;
    let mut direct = Wire::connect(cluster.node_addr(0)).await.unwrap();
    for (client, (acknowledged, kind)) in ends.into_iter().enumerate() {
        let ran = direct.ask(&["LLEN", &format!("list{client}")]).await.unwrap();
        assert_eq!(ran, Reply::Integer(acknowledged), "client {client} ran more than it was told");
        // What it sends after the FIN may be met by a reset, or fail to go out.
        let kinds = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
        assert!(kinds.contains(&kind), "{kind}");
    }
}

/// By the master, or by us where its user may not ask for that.
#[tokio::test]
async fn what_blocks_is_answered_as_by_a_time_out_and_pops_nothing() {
    blocked_and_drained(&[]).await;
    blocked_and_drained(&["user default on nopass ~* &* +@all -client|list -client|unblock"]).await;
}

async fn blocked_and_drained(node_config: &[&str]) {
    let node_config = node_config.iter().map(|line| line.to_string()).collect();
    let spec = ClusterSpec { replicas: 0, sentinels: 1, node_config, ..ClusterSpec::default() };
    let cluster = Cluster::start(spec).await.unwrap();
    let mut proxy = start(&cluster).await;
    wait_stable(&proxy).await;
    let mut direct = Wire::connect(cluster.node_addr(0)).await.unwrap();
    assert_eq!(direct.ask(&["XGROUP", "CREATE", "stream", "group", "$", "MKSTREAM"]).await.unwrap().text(), Some("OK"));
    let requests = [
        "BLPOP none 0",
        "BRPOP none 0",
        "BLMOVE none other LEFT LEFT 0",
        "BRPOPLPUSH none other 0",
        "BLMPOP 0 1 none LEFT",
        "BZPOPMIN none-z 0",
        "BZMPOP 0 1 none-z MIN",
        "XREAD BLOCK 0 STREAMS stream $",
        "XREADGROUP GROUP group me BLOCK 0 STREAMS stream >",
        "WAIT 9 0",
    ];
    let mut blocked = Vec::new();
    for hello in ["", "HELLO 3\r\n"] {
        for request in requests {
            let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
            if !hello.is_empty() {
                stream.write_all(hello.as_bytes()).await.unwrap();
                let mut reply = vec![0; 4096];
                timeout(LIMIT, stream.read(&mut reply)).await.unwrap().unwrap();
            }
            stream.write_all(format!("{request}\r\n").as_bytes()).await.unwrap();
            let nothing = if hello.is_empty() { "*-1\r\n" } else { "_\r\n" };
            let expected = if request.starts_with("WAIT") { ":0\r\n" } else { nothing };
            blocked.push((request, stream, expected));
        }
    }
    until("all to be blocked", LIMIT, async || {
        let info = direct.ask(&["INFO", "clients"]).await.unwrap().to_string();
        let count = format!("blocked_clients:{}", blocked.len());
        if info.contains(&count) { Ok(()) } else { Err(info) }
    })
    .await
    .unwrap();
    // What direct says when the time is over.
    let mut timed_out = TcpStream::connect(cluster.node_addr(0)).await.unwrap();
    timed_out.write_all(b"BLMOVE none other LEFT LEFT 0.01\r\nQUIT\r\n").await.unwrap();
    assert_eq!(String::from_utf8_lossy(&rest(&mut timed_out).await), "*-1\r\n+OK\r\n");

    proxy.signal(Signal::TERM);
    for (request, mut stream, expected) in blocked {
        assert_eq!(String::from_utf8_lossy(&rest(&mut stream).await), expected, "{request}");
    }
    ended(&mut proxy, 0).await;
    assert_eq!(direct.ask(&["RPUSH", "none", "x"]).await.unwrap(), Reply::Integer(1));
    assert_eq!(direct.ask(&["LLEN", "none"]).await.unwrap(), Reply::Integer(1), "it was popped for nobody");
    assert_eq!(direct.ask(&["EXISTS", "other"]).await.unwrap(), Reply::Integer(0));
}

/// Elements come while their poppers are let go: each is delivered, or stays.
#[tokio::test]
async fn what_is_popped_while_it_drains_is_delivered() {
    const POPPERS: usize = 50;
    let (cluster, mut proxy) = small().await;
    let mut direct = Wire::connect(cluster.node_addr(0)).await.unwrap();
    let mut tasks = Vec::new();
    for _ in 0..POPPERS {
        let mut wire = Wire::connect(proxy.addr()).await.unwrap();
        tasks.push(tokio::spawn(async move {
            let mut popped = 0;
            while let Ok(reply) = wire.ask(&["BLPOP", "jobs", "0"]).await {
                popped += i64::from(reply != Reply::Nil);
            }
            popped
        }));
    }
    let pusher = tokio::spawn(async move {
        for _ in 0..10_000 {
            direct.ask(&["RPUSH", "jobs", "x", "x"]).await.unwrap();
        }
        direct
    });
    wait_view(&proxy, "some traffic", |view| view.traffic.requests > 1_000).await;
    proxy.signal(Signal::TERM);
    let mut popped = 0;
    for task in tasks {
        popped += timeout(LIMIT, task).await.expect("the end").unwrap();
    }
    ended(&mut proxy, 0).await;
    let mut direct = timeout(LIMIT, pusher).await.expect("the end").unwrap();
    let Reply::Integer(left) = direct.ask(&["LLEN", "jobs"]).await.unwrap() else { panic!("no number") };
    assert_eq!(popped + left, 20_000, "{popped} were delivered");
}

#[tokio::test]
async fn subscribers_monitors_and_open_transactions_are_closed() {
    let (cluster, mut proxy) = small().await;
    let mut streams = Vec::new();
    let requests: [(&[u8], &[u8]); 3] = [
        (b"SUBSCRIBE news\r\n", b"*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n"),
        (b"MONITOR\r\n", b"+OK\r\n"),
        (b"MULTI\r\nSET key 1\r\n", b"+OK\r\n+QUEUED\r\n"),
    ];
    for (request, expected) in requests {
        let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut reply = vec![0; expected.len()];
        timeout(LIMIT, stream.read_exact(&mut reply)).await.expect("a reply").unwrap();
        assert_eq!(reply, expected);
        streams.push(stream);
    }
    proxy.signal(Signal::TERM);
    for stream in &mut streams {
        let _unasked = rest(stream).await;
    }
    ended(&mut proxy, 0).await;
    let mut direct = Wire::connect(cluster.node_addr(0)).await.unwrap();
    assert_eq!(direct.ask(&["EXISTS", "key"]).await.unwrap(), Reply::Integer(0));
}

const VALUE: usize = 16 << 20;

/// A client with a large reply that it does not read.
async fn with_a_client_that_does_not_read() -> (Cluster, Proxy, TcpStream) {
    let (cluster, proxy) = small().await;
    let mut direct = Wire::connect(cluster.node_addr(0)).await.unwrap();
    assert_eq!(direct.ask(&[&b"SET"[..], b"large", &vec![b'x'; VALUE]]).await.unwrap().text(), Some("OK"));
    let mut slow = TcpStream::connect(proxy.addr()).await.unwrap();
    slow.write_all(b"GET large\r\n").await.unwrap();
    wait_view(&proxy, "its request", |view| view.traffic.bytes_down > 100_000).await;
    (cluster, proxy, slow)
}

/// What takes long keeps nobody else from being served, and is finished.
#[tokio::test]
async fn one_slow_client_is_no_outage_for_the_others() {
    let (_cluster, mut proxy, mut slow) = with_a_client_that_does_not_read().await;
    proxy.signal(Signal::TERM);
    wait_view(&proxy, "the drain", |view| view.draining).await;
    for _ in 0..20 {
        let mut other = Wire::connect(proxy.addr()).await.unwrap();
        assert_eq!(timeout(LIMIT, other.ask(&["PING"])).await.unwrap().unwrap().text(), Some("PONG"));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(rest(&mut slow).await.len(), format!("${VALUE}\r\n").len() + VALUE + 2, "all of it, then the end");
    ended(&mut proxy, 0).await;
}

#[tokio::test]
async fn a_second_signal_ends_it() {
    for second in [Signal::TERM, Signal::INT] {
        let (_cluster, mut proxy, mut slow) = with_a_client_that_does_not_read().await;
        proxy.signal(Signal::TERM);
        wait_view(&proxy, "the drain", |view| view.draining).await;
        assert_eq!(closed_for(&crate::support::proxy::view(&proxy).await, "drained"), 0);
        proxy.signal(second);
        ended(&mut proxy, 1).await;
        assert!(rest(&mut slow).await.len() < VALUE, "cut, and by a FIN");
    }
}

/// Redis crashes when a client is unblocked that waits for the end of a pause.
#[tokio::test]
async fn a_paused_master_survives_it() {
    let (cluster, mut proxy) = small().await;
    let mut direct = Wire::connect(cluster.node_addr(0)).await.unwrap();
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    stream.write_all(b"PING\r\n").await.unwrap();
    let mut pong = [0; 7];
    timeout(LIMIT, stream.read_exact(&mut pong)).await.expect("a reply").unwrap();
    assert_eq!(direct.ask(&["CLIENT", "PAUSE", "20000", "WRITE"]).await.unwrap().text(), Some("OK"));
    stream.write_all(b"BLPOP none 0\r\n").await.unwrap();
    until("it to wait", LIMIT, async || {
        let list = direct.ask(&["CLIENT", "LIST"]).await.unwrap().to_string();
        if list.contains("cmd=blpop") { Ok(()) } else { Err(list) }
    })
    .await
    .unwrap();
    proxy.signal(Signal::TERM);
    assert_eq!(String::from_utf8_lossy(&rest(&mut stream).await), "*-1\r\n");
    ended(&mut proxy, 0).await;
    assert_eq!(direct.ask(&["CLIENT", "UNPAUSE"]).await.unwrap().text(), Some("OK"));
    assert_eq!(direct.ask(&["RPUSH", "none", "x"]).await.unwrap(), Reply::Integer(1));
    assert_eq!(direct.ask(&["LLEN", "none"]).await.unwrap(), Reply::Integer(1));
}

/// Longer than sessions are given to end between two requests, and to be owed nothing.
const SILENCE: Duration = Duration::from_secs(4);

#[tokio::test]
async fn requests_held_while_the_master_is_silent_are_answered_before_it_ends() {
    let (cluster, mut proxy) = small().await;
    let mut client = Wire::connect(proxy.addr()).await.unwrap();
    assert_eq!(client.ask(&["PING"]).await.unwrap().text(), Some("PONG"));
    cluster.node(0).stop();
    wait_view(&proxy, "the master's silence", |view| view.phase == "suspect").await;
    // Nothing is under way: the drain has no session to wait for.
    proxy.signal(Signal::TERM);
    wait_view(&proxy, "the drain", |view| view.draining).await;
    let held = tokio::spawn(async move { (client.ask(&["INCR", "counter"]).await, client) });
    wait_view(&proxy, "the hold", |view| view.traffic.held_sessions > 0).await;
    tokio::time::sleep(SILENCE).await;
    cluster.node(0).cont();
    let (reply, client) = timeout(LIMIT, held).await.expect("a reply").unwrap();
    assert_eq!(reply.unwrap(), Reply::Integer(1));
    rest(&mut client.into_parts().0).await;
    ended(&mut proxy, 0).await;
}
