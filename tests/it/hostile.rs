//! Sentinels and nodes that mean no good, or are none: whatever they send, control goes on in bounded memory, follows
//! those that are honest, and says what is wrong.

use std::net::SocketAddr;
use std::time::Duration;

use switchmaster::config::HostPort;
use switchmaster::demo::cluster::{Cluster, ClusterSpec, until};
use switchmaster::demo::wire::Wire;
use switchmaster::sentinel::client::{AddressMap, Node, Sentinel};
use switchmaster::sentinel::tracker::Login;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::proxy::{LIMIT, get, spec, start_as, view, wait_log, wait_settled};

/// What a peer sends in answer to a question that matters, for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Evil {
    /// A line without an end.
    Line,
    /// The same, a little at a time.
    Drip,
    /// A bulk string of a terabyte.
    Bulk,
    /// An array of a thousand million.
    Array,
    /// An array in an array in an array.
    Depth,
    /// Lengths below zero and beyond all numbers.
    Lengths,
    /// Messages that nobody asked for.
    Pushes,
    /// Good messages about the master, without an end.
    Events,
    /// Names of peers and replicas, ten thousand of each.
    Lists,
    /// It says nothing.
    Silence,
}

const ALL: [Evil; 10] = [
    Evil::Line,
    Evil::Drip,
    Evil::Bulk,
    Evil::Array,
    Evil::Depth,
    Evil::Lengths,
    Evil::Pushes,
    Evil::Events,
    Evil::Lists,
    Evil::Silence,
];

impl Evil {
    /// A peer that greets as a Sentinel or a node does; with `at_once` it does not even do that.
    async fn listen(self, at_once: bool) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(self.serve(stream, at_once));
            }
        });
        addr
    }

    async fn serve(self, mut stream: TcpStream, at_once: bool) {
        let mut asked = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(read) => asked.extend_from_slice(&buffer[..read]),
            }
            while let Some((words, length)) = request(&asked) {
                asked.drain(..length);
                let greeting = match words[0].to_ascii_uppercase().as_str() {
                    _ if at_once => None,
                    "HELLO" => Some("%1\r\n+server\r\n+redis\r\n"),
                    "CLIENT" => Some("+OK\r\n"),
                    "PING" => Some("+PONG\r\n"),
                    "PSUBSCRIBE" => Some(">3\r\n$10\r\npsubscribe\r\n$1\r\n*\r\n:1\r\n"),
                    "SENTINEL" if words[1] == "MYID" => Some("$1\r\nx\r\n"),
                    _ => None,
                };
                let sent = match greeting {
                    Some(greeting) => stream.write_all(greeting.as_bytes()).await,
                    None => self.answer(&mut stream, words.get(1).map_or("", String::as_str)).await,
                };
                if sent.is_err() {
                    return;
                }
            }
        }
    }

    async fn answer(self, stream: &mut TcpStream, what: &str) -> std::io::Result<()> {
        let (head, more): (&[u8], &[u8]) = match self {
            Evil::Line => (b"+", &[b'x'; 16384]),
            Evil::Drip => (b"+", &[b'x'; 1400]),
            Evil::Bulk => (b"$999999999999\r\n", &[b'x'; 16384]),
            Evil::Array => (b"*1000000000\r\n", b":1\r\n"),
            Evil::Depth => (b"", b"*1\r\n"),
            Evil::Lengths => {
                (b"", b"!-1\r\n%-1\r\n|9223372036854775807\r\n*-7\r\n$-2\r\n=-1\r\n>-1\r\n*99999999999999999999\r\n")
            }
            Evil::Pushes => (b"", b">2\r\n+message\r\n+x\r\n"),
            Evil::Events => {
                (b"", b">4\r\n$8\r\npmessage\r\n$1\r\n*\r\n$6\r\n+sdown\r\n$30\r\nmaster mymaster 127.0.0.1 6379\r\n")
            }
            Evil::Lists => {
                let entry = |n: u32| {
                    let name = format!("no-such-host-{n}.invalid");
                    format!("%3\r\n+ip\r\n+{name}\r\n+port\r\n+{}\r\n+runid\r\n+{n}\r\n", 1024 + n % 60000)
                };
                let answer = match what {
                    "SENTINELS" | "REPLICAS" => "*10000\r\n".to_owned() + &(0..10_000).map(entry).collect::<String>(),
                    _ => "-ERR No such master with that name\r\n".into(),
                };
                return stream.write_all(answer.as_bytes()).await;
            }
            Evil::Silence => return Ok(()),
        };
        stream.write_all(head).await?;
        let chunk = if more.len() < 1000 { more.repeat(16384 / more.len()) } else { more.to_vec() };
        loop {
            stream.write_all(&chunk).await?;
            if self == Evil::Drip {
                tokio::time::sleep(Duration::from_micros(300)).await;
            }
        }
    }
}

/// The words of the first whole request, and its length.
fn request(bytes: &[u8]) -> Option<(Vec<String>, usize)> {
    let mut at = 0;
    let mut line = || {
        let end = bytes[at..].windows(2).position(|pair| pair == b"\r\n")? + at;
        let line = String::from_utf8_lossy(&bytes[at..end]).into_owned();
        at = end + 2;
        Some(line)
    };
    let count: usize = line()?.trim_start_matches('*').parse().ok()?;
    let mut words = Vec::new();
    for _ in 0..count {
        line()?;
        words.push(line()?);
    }
    Some((words, at))
}

async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, work).await.unwrap_or_else(|_| panic!("{what}: not within {LIMIT:?}"))
}

#[tokio::test]
async fn no_answer_of_a_node_takes_more_than_its_share() {
    const SHORT: Duration = Duration::from_millis(1500);
    for evil in ALL.into_iter().filter(|evil| !matches!(evil, Evil::Events | Evil::Lists)) {
        let addr = evil.listen(true).await;
        let asking = async {
            let mut node = Node::connect(addr, &Login::default(), &AddressMap::default(), 1, SHORT).await?;
            node.ask(true, None, SHORT).await
        };
        let answer = within(&format!("{evil:?}"), asking).await;
        let error = answer.err().unwrap_or_else(|| panic!("{evil:?} was believed")).to_string();
        assert!(error.contains(&addr.to_string()) && error.len() < 600, "{evil:?}: {error}");
        println!("{evil:?}: {error}");
    }
}

#[tokio::test]
async fn no_answer_and_no_message_of_a_sentinel_takes_more_than_its_share() {
    const SHORT: Duration = Duration::from_millis(1500);
    for at_once in [true, false] {
        for evil in ALL {
            let addr = evil.listen(at_once).await;
            let at = HostPort { host: addr.ip().to_string(), port: addr.port() };
            let following = async {
                let mut sentinel = Sentinel::connect(&at, &mut Vec::new(), None, SHORT).await?;
                // That one is an answer, which takes its time on a busy machine.
                let limit = if evil == Evil::Lists { LIMIT / 2 } else { SHORT };
                let answer = sentinel.poll("mymaster", &AddressMap::default(), limit).await;
                if evil == Evil::Lists {
                    let answer = answer?;
                    let (peers, replicas) = (answer.peers.unwrap_or_default(), answer.replicas.unwrap_or_default());
                    assert!(peers.len() <= 128 && replicas.len() <= 128, "{} {}", peers.len(), replicas.len());
                    return Ok(());
                }
                if evil != Evil::Events {
                    return answer.map(|_| ());
                }
                loop {
                    sentinel.event(Some("mymaster")).await?;
                }
            };
            let found = within(&format!("{evil:?}, {at_once}"), following).await;
            println!("{evil:?}, {at_once}: {found:?}");
            if evil == Evil::Lists && !at_once {
                found.unwrap();
                continue;
            }
            let error = found.err().unwrap_or_else(|| panic!("{evil:?} was believed")).to_string();
            assert!(error.contains(&addr.to_string()) && error.len() < 600, "{evil:?}: {error}");
        }
    }
}

/// Two beside three honest ones, which are more than half of the list: else nobody would be believed.
#[tokio::test]
async fn honest_sentinels_are_followed_beside_hostile_ones_in_bounded_memory() {
    let cluster = Cluster::start(ClusterSpec::default()).await.unwrap();
    let at_once = [Evil::Lengths, Evil::Depth].map(|evil| (evil, true));
    let all: Vec<(Evil, bool)> = ALL.map(|evil| (evil, false)).into_iter().chain(at_once).collect();
    let mut proxies = Vec::new();
    for pair in all.chunks(2) {
        let mut sentinels: Vec<String> = cluster.sentinel_addrs().iter().map(SocketAddr::to_string).collect();
        let mut hostile = Vec::new();
        for (evil, at_once) in pair {
            hostile.push(evil.listen(*at_once).await.to_string());
        }
        sentinels.extend(hostile.iter().cloned());
        let mut spec = spec(&cluster);
        spec.set("SWITCHMASTER_SENTINELS", sentinels.join(","));
        proxies.push((pair, hostile, start_as(&spec).await));
    }
    for (pair, hostile, proxy) in &proxies {
        wait_settled(proxy, &cluster).await;
        // Good messages without an end, and lists that are cut, are no fault of a connection.
        let faulty = pair.iter().zip(hostile).filter(|((evil, _), _)| !matches!(evil, Evil::Events | Evil::Lists));
        for (_, addr) in faulty {
            wait_log(proxy, &["a Sentinel is lost", addr]).await;
        }
        let mut wire = Wire::open(proxy.addr(), None, 0).await.unwrap();
        for round in 0..10 {
            assert_eq!(wire.ask(&["SET", "a", &round.to_string()]).await.unwrap().text(), Some("OK"));
            assert_eq!(within("/live", get(proxy, "/live")).await, "ok\n");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let honest = cluster.sentinels().len();
        until("the honest ones to agree", LIMIT, async || {
            let seen = view(proxy).await;
            if seen.phase == "stable" && seen.agreement.agreeing == honest { Ok(()) } else { Err(format!("{seen:?}")) }
        })
        .await
        .unwrap();
        let status = std::fs::read_to_string(format!("/proc/{}/status", proxy.pid().as_raw_nonzero())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let peak: u64 = peak.trim().trim_end_matches("kB").trim().parse().unwrap();
        println!("{pair:?}: at most {} MiB", peak / 1024);
        assert!(peak < 400 * 1024, "{pair:?}: {peak} kB");
    }
}
