//! Clients that leave: a server lets go of what blocks when its client is gone, and runs nothing behind it. So does the
//! proxy, whatever the client's end stands behind.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use switchmaster::demo::cluster::{Cluster, ClusterSpec, until};
use switchmaster::demo::proxy::Proxy;
use switchmaster::resp::request::encode;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::support::proxy::{LIMIT, spec, start_as, verb, view, wait_stable, wait_view};

/// A server, and the ways to it: straight, and through the proxy by TCP and by a Unix socket.
struct Site {
    proxy: Proxy,
    cluster: Cluster,
    dir: TempDir,
}

#[derive(Clone, Copy, Debug)]
enum Way {
    Direct,
    Tcp,
    Unix,
}

#[derive(Clone, Copy, Debug)]
enum End {
    Fin,
    Rst,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl Site {
    async fn start() -> Site {
        let cluster =
            Cluster::start(ClusterSpec { replicas: 0, sentinels: 1, ..ClusterSpec::default() }).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut spec = spec(&cluster);
        spec.also_listen.push(format!("unix:{}", dir.path().join("socket").display()));
        let proxy = start_as(&spec).await;
        wait_stable(&proxy).await;
        Site { proxy, cluster, dir }
    }

    fn tcp(&self, way: Way) -> SocketAddr {
        if matches!(way, Way::Direct) { self.cluster.node_addr(0) } else { self.proxy.addr() }
    }

    fn unix(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    async fn open(&self, way: Way) -> Box<dyn Stream> {
        match way {
            Way::Unix => Box::new(UnixStream::connect(self.unix()).await.unwrap()),
            way => Box::new(TcpStream::connect(self.tcp(way)).await.unwrap()),
        }
    }

    async fn ask(&self, request: &[&str]) -> String {
        self.cluster.ask_node(0, request).await.unwrap().to_string()
    }

    /// How many connections of this name the server has, and whether one of them is blocked.
    async fn named(&self, name: &str) -> (usize, bool) {
        let list = self.cluster.ask_node(0, &["CLIENT", "LIST"]).await.unwrap();
        let lines = list.text().unwrap_or_default().lines().filter(|line| line.contains(&format!(" name={name} ")));
        let lines: Vec<&str> = lines.collect();
        (lines.len(), lines.iter().any(|line| line.contains(" flags=b ")))
    }

    /// A client blocks, says something more, and leaves; then nothing of it is left at the server, and nothing ran.
    async fn leaves(&self, way: Way, end: End, case: &str, blocks: &str, behind: &[u8]) {
        let name = format!("{case}-{way:?}-{end:?}");
        let mut client = self.open(way).await;
        client.write_all(format!("CLIENT SETNAME {name}\r\n{blocks}\r\n").as_bytes()).await.unwrap();
        until("the client to block", LIMIT, async || match self.named(&name).await {
            (1, true) => Ok(()),
            seen => Err(format!("{name}: {seen:?}")),
        })
        .await
        .unwrap();
        // As much of it as is taken: what stands behind a full socket is a case too.
        let _ = timeout(Duration::from_millis(300), client.write_all(behind)).await;
        match end {
            End::Fin => client.shutdown().await.unwrap(),
            End::Rst => drop(client), // what it was answered is unread
        }
        until("the client to be gone", LIMIT, async || match self.named(&name).await {
            (0, _) => Ok(()),
            seen => Err(format!("{name}: {seen:?}")),
        })
        .await
        .unwrap();
        assert_eq!(self.ask(&["RPUSH", "q", "job"]).await, ":1", "{name}");
        assert_eq!(self.ask(&["LLEN", "q"]).await, ":1", "{name}: nobody pops what comes later");
        assert_eq!(self.ask(&["GET", "behind"]).await, "nil", "{name}: nothing behind it runs");
        self.ask(&["DEL", "q"]).await;
    }
}

#[tokio::test]
async fn nothing_is_popped_for_a_client_that_has_left() {
    let site = Site::start().await;
    let set = encode(&[b"SET", b"behind", b"1"]);
    let auth = b"AUTH x\r\n".to_vec();
    let more = |count: usize| [&auth[..], &set.repeat(count)].concat();
    let cases: [(&str, &str, Vec<u8>); 9] = [
        ("alone", "BLPOP q 0", Vec::new()),
        ("auth", "BLPOP q 0", auth.clone()),
        ("hello", "BRPOP q 0", [b"HELLO 3\r\n", &set[..]].concat()),
        ("set", "BLPOP q 0", set.clone()),
        ("inbox", "BLPOP q 0", more(3_000)),      // more than is read ahead
        ("socket", "BLPOP q 0", more(1_000_000)), // more than the sockets take: a FIN stays with the client
        ("flight", "BLPOP q 0", b"PING\r\n".repeat(12_000)), // more than may be in flight
        (
            "part",
            "XREAD BLOCK 0 STREAMS s $",
            [b"*3\r\n$3\r\nSET\r\n$6\r\nbehind\r\n$9000000\r\n", &[b'x'; 400_000][..]].concat(),
        ),
        ("wait", "WAIT 3 0", more(3_000)),
    ];
    for (case, blocks, behind) in &cases {
        for way in [Way::Direct, Way::Tcp, Way::Unix] {
            for end in [End::Fin, End::Rst] {
                if matches!((*case, way, end), ("socket", Way::Tcp | Way::Unix, End::Fin)) {
                    continue;
                }
                site.leaves(way, end, case, blocks, behind).await;
            }
        }
    }
    until("the sessions to end", LIMIT, async || match view(&site.proxy).await.traffic.sessions {
        0 => Ok(()),
        open => Err(format!("{open} are open")),
    })
    .await
    .unwrap();
}

/// Everything up to the end of the stream.
async fn hear(mut client: Box<dyn Stream>) -> io::Result<String> {
    let mut heard = Vec::new();
    timeout(LIMIT, client.read_to_end(&mut heard)).await.expect("an end")?;
    Ok(String::from_utf8_lossy(&heard).into_owned())
}

#[tokio::test]
async fn who_asks_everything_and_says_fin_is_answered() {
    let site = Site::start().await;
    let large = format!("*3\r\n$3\r\nSET\r\n$5\r\nlarge\r\n$300000\r\n{}\r\n", "x".repeat(300_000));
    let cases = [
        "GET k\r\n".to_owned(),
        "GET k\r\nAUTH wrong\r\nGET k\r\nAUTH wrong\r\nECHO last\r\n".to_owned(),
        "BLPOP there 0\r\nAUTH wrong\r\nGET k\r\n".to_owned(),
        "MULTI\r\nINCR n\r\nEXEC\r\n".to_owned(),
        format!("{large}AUTH wrong\r\n{}STRLEN large\r\n", "PING\r\n".repeat(500)),
    ];
    for case in &cases {
        let mut heard = Vec::new();
        for way in [Way::Direct, Way::Tcp, Way::Unix] {
            for key in ["there", "n", "large"] {
                site.ask(&["DEL", key]).await;
            }
            site.ask(&["SET", "k", "v"]).await;
            site.ask(&["RPUSH", "there", "job", "job"]).await;
            let mut client = site.open(way).await;
            client.write_all(case.as_bytes()).await.unwrap();
            client.shutdown().await.unwrap();
            heard.push(hear(client).await.unwrap_or_else(|error| panic!("{case:.60}, {way:?}: {error}")));
        }
        assert!(heard[1] == heard[0] && heard[2] == heard[0], "{:.60}: {:.300?}", case, heard);
    }
}

/// What was answered before the end arrives, though bytes that nobody reads come behind it.
#[tokio::test]
async fn what_is_sent_behind_quit_costs_no_reply() {
    let site = Site::start().await;
    let requests = format!("PING\r\nQUIT\r\n{}", "x".repeat(100_000));
    for way in [Way::Direct, Way::Tcp, Way::Unix] {
        for _ in 0..30 {
            let mut client = site.open(way).await;
            let _ = client.write_all(requests.as_bytes()).await; // it may be closed meanwhile
            let mut heard = [0; 12];
            timeout(LIMIT, client.read_exact(&mut heard))
                .await
                .unwrap()
                .unwrap_or_else(|error| panic!("{way:?}: {error}"));
            assert_eq!(&heard, b"+PONG\r\n+OK\r\n", "{way:?}");
        }
    }
}

#[tokio::test]
async fn what_a_client_leaves_behind_a_hold_does_not_run_late() {
    let site = Site::start().await;
    let mut streaming = Vec::new();
    for way in [Way::Tcp, Way::Unix] {
        // Part of a request is on its way when the hold begins.
        let mut client = site.open(way).await;
        client.write_all(b"SET begun 1\r\n*3\r\n$3\r\nSET\r\n$6\r\nbehind\r\n$300000\r\n").await.unwrap();
        client.write_all(&[b'x'; 100_000]).await.unwrap();
        streaming.push(client);
    }
    until("the beginning to run", LIMIT, async || match site.ask(&["GET", "begun"]).await.as_str() {
        "nil" => Err("it has not".to_owned()),
        _ => Ok(()),
    })
    .await
    .unwrap();
    assert!(verb(&site.proxy, &["hold", "--for", "40s"]).await.status.success());
    let mut clients = Vec::new();
    for way in [Way::Tcp, Way::Unix] {
        let mut client = site.open(way).await;
        // Its end stands behind more than is read ahead.
        client.write_all(&encode(&[b"SET", b"behind", b"1"]).repeat(5_000)).await.unwrap();
        clients.push(client);
    }
    for client in &mut streaming {
        client.write_all(&[b'x'; 150_000]).await.unwrap();
    }
    wait_view(&site.proxy, "what is held", |view| view.traffic.held_sessions == 4).await;
    tokio::time::sleep(Duration::from_millis(300)).await; // longer than who has just asked everything
    drop((clients, streaming));
    wait_view(&site.proxy, "their end", |view| view.traffic.sessions == 0).await;
    assert!(verb(&site.proxy, &["release"]).await.status.success());
    let mut client = site.open(Way::Tcp).await;
    client.write_all(b"GET behind\r\nQUIT\r\n").await.unwrap();
    assert_eq!(hear(client).await.unwrap(), "$-1\r\n+OK\r\n");
}
