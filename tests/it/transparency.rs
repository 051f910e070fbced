//! The proof of transparency: what a client gets through the proxy is, byte for byte, what a direct connection gives.
//!
//! Two fresh servers of the same kind, one behind the proxy, are told the same things in the same order. The requests
//! are made from what the server itself says of its commands' arguments (`COMMAND DOCS`), and from
//! tests/transparency/corpus.txt. Nothing is left out silently: a command that is in neither fails the test unless
//! [`EXCLUDED`] gives a reason.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use switchmaster::demo::cluster::{Cluster, ClusterSpec};
use switchmaster::demo::wire::{Reply, Wire};
use switchmaster::resp::request::{Args, encode};
use switchmaster::resp::scanner::{ReplyScanner, Scan};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::proxy;
use crate::transparency_docs::{Command, commands, requests};

/// What is not compared, each with its reason. A name stands for its subcommands too.
const EXCLUDED: &[(&str, &str)] = &[
    ("bgrewriteaof", "starts a process whose state the next replies depend on"),
    ("bgsave", "starts a process whose state the next replies depend on"),
    ("cluster|syncslots", "turns the connection into one between nodes"),
    ("debug", "can end, stop or corrupt the server"),
    ("failover", "changes who is master: the proxy reacts to that by design"),
    ("migrate", "talks to another server"),
    ("module|load", "needs a library"),
    ("module|loadex", "needs a library"),
    ("module|unload", "needs a library"),
    ("pfdebug", "internal"),
    ("pfselftest", "keeps the server busy for seconds"),
    ("psync", "replication: no requests and replies follow"),
    ("replconf", "replication: no requests and replies follow"),
    ("replicaof", "changes who is master: the proxy reacts to that by design"),
    ("save", "writes files"),
    ("script|debug", "turns the connection into a debugger's"),
    ("shutdown", "ends the server"),
    ("slaveof", "changes who is master: the proxy reacts to that by design"),
    ("sync", "replication: no requests and replies follow"),
];

/// These change the connection, or others: they are not made up, but stand in the corpus.
const BY_HAND: &[&str] = &["client|kill", "client|pause", "client|reply", "monitor"];

/// Their replies hold times, ids, addresses, amounts of memory or chance: compared are how many there are, of which
/// type each is, and the text of errors.
const VOLATILE: &[&str] = &[
    "acl|genpass",
    "acl|log",
    "client|id",
    "client|info",
    "client|list",
    "cluster|links",
    "commandlog|get",
    "commandlog|len",
    "config|get",
    "hpttl",
    "hrandfield",
    "httl",
    "info",
    "lastsave",
    "latency|doctor",
    "latency|graph",
    "latency|histogram",
    "latency|history",
    "latency|latest",
    "latency|reset",
    "lolwut",
    "memory|doctor",
    "memory|malloc-stats",
    "memory|stats",
    "memory|usage",
    "object|freq",
    "object|idletime",
    "pttl",
    "randomkey",
    "role",
    "scan",
    "slowlog|get",
    "slowlog|len",
    "spop",
    "srandmember",
    "time",
    "ttl",
    "vrandmember",
    "xautoclaim",
    "xinfo|consumers",
    "xinfo|stream",
    "xpending",
    "zrandmember",
];

/// Their elements stand in the order of a hash table, whose seed is the server's own: compared as a bag of lines.
const UNORDERED: &[&str] = &[
    "acl|cat",
    "acl|list",
    "acl|users",
    "command",
    "command|docs",
    "command|info",
    "command|list",
    "function|list",
    "function|stats",
    "keys",
    "pubsub|channels",
    "pubsub|shardchannels",
    "sdiff",
    "sdiffstore",
    "sinter",
    "smembers",
    "sort",
    "sort_ro",
    "sscan",
    "sunion",
    "vinfo",
    "vlinks",
    "vsim",
];

/// Keys of every type, the same on both sides.
const SEEDS: &[&str] = &[
    "CLIENT UNPAUSE",
    "FLUSHALL",
    "FUNCTION FLUSH",
    "SCRIPT FLUSH",
    "SET str 10",
    "SET text \"some text\"",
    "RPUSH list a b c a",
    "SADD set 1 2 3",
    "SADD otherset 2 3 4",
    "ZADD zset 1 a 2 b 3 c",
    "HSET hash f1 1 f2 two field 3",
    "XADD stream 1-1 field value",
    "XADD stream 1-2 field value",
    "XGROUP CREATE stream g 0",
    "GEOADD geo 13.361389 38.115556 Palermo 15.087269 37.502669 Catania",
    "PFADD hll a b c",
    "SETBIT bits 7 1",
];

const MARKER: &[u8] = b"transparency-marker";
const LIMIT: Duration = Duration::from_secs(30);
/// When the marker cannot come (in MULTI, or with replies off), this much silence is the end.
const SILENCE: Duration = Duration::from_secs(2);

#[tokio::test]
async fn every_command_gets_the_bytes_of_a_direct_connection() {
    let pair = Pair::start().await;
    let commands = pair.commands().await;
    assert!(commands.len() > 200, "only {} commands", commands.len());
    let mut differences = Differences::default();
    let mut compared = 0;
    for command in commands.iter().filter(|command| !is_listed(EXCLUDED.iter().map(|(name, _)| *name), &command.name)) {
        if BY_HAND.contains(&command.name.as_str()) {
            continue;
        }
        let requests = requests(command);
        compared += requests.len();
        let tolerance = Tolerance::of(&command.name);
        for resp3 in [false, true] {
            let hello: &[u8] = if resp3 { b"HELLO 3\r\n" } else { b"" };
            let encoded: Vec<Vec<u8>> = requests.iter().map(|request| wire(request)).collect();
            let conversations: Vec<Vec<Step>> = if changes_the_connection(&command.name) {
                let one = |request: &Vec<u8>| vec![Step::Send([hello, request, PING].concat())];
                encoded.iter().map(one).collect()
            } else {
                let inline: Vec<u8> = requests.iter().filter_map(|request| inline(request)).flatten().collect();
                let bursts = [hello, &encoded.concat(), PING].concat();
                let pieces = bursts.chunks(1 + bursts.len() / 40).map(|piece| Step::Send(piece.to_vec())).collect();
                vec![vec![Step::Send(bursts)], pieces, vec![Step::Send([hello, &inline, PING].concat())]]
            };
            for conversation in conversations {
                pair.seed().await;
                differences.note(&command.name, &conversation, tolerance, &pair.have(&conversation).await);
            }
        }
    }
    assert!(compared > 3000, "only {compared} requests were made");
    eprintln!("{} commands, {compared} requests, each in 6 ways", commands.len());
    differences.none();
}

#[tokio::test]
async fn the_corpus_gets_the_bytes_of_a_direct_connection() {
    let pair = Pair::start().await;
    let cases = corpus();
    assert!(cases.len() > 40, "only {} cases", cases.len());
    let mut differences = Differences::default();
    for case in &cases {
        for resp3 in [false, true].into_iter().filter(|resp3| !(*resp3 && case.resp2_only)) {
            for trickle in [false, true] {
                pair.seed().await;
                let conversation = case.conversation(resp3, trickle);
                differences.note(&case.name, &conversation, case.tolerance, &pair.have(&conversation).await);
            }
        }
    }
    differences.none();
}

#[tokio::test]
async fn every_command_of_the_server_is_compared_or_excluded_with_a_reason() {
    let pair = Pair::start().await;
    let mut compared: BTreeSet<String> = pair.commands().await.into_iter().map(|command| command.name).collect();
    compared.retain(|name| !BY_HAND.contains(&name.as_str()));
    for case in corpus() {
        for request in
            case.steps.iter().filter_map(|step| if let Line::Send(bytes) = step { Some(bytes) } else { None })
        {
            let words: Vec<String> =
                Args::new(request).take(2).map(|word| String::from_utf8_lossy(&word).to_lowercase()).collect();
            compared.extend([words.first().cloned().unwrap_or_default(), words.join("|")]);
        }
    }
    let known = pair.names().await;
    assert!(known.len() > 300, "only {} names", known.len());
    let missing: Vec<_> = known
        .iter()
        .filter(|name| !compared.contains(*name) && !is_listed(EXCLUDED.iter().map(|(name, _)| *name), name))
        .collect();
    assert!(missing.is_empty(), "neither compared nor excluded: {missing:?}");
}

const PING: &[u8] = b"PING transparency-marker\r\n";

/// A server that is asked directly, and one of the same kind behind the proxy.
struct Pair {
    direct: Cluster,
    _behind: Cluster,
    proxy: switchmaster::demo::proxy::Proxy,
}

/// What is done on a connection.
#[derive(Clone, Debug)]
enum Step {
    Send(Vec<u8>),
    /// A request on another connection to the same side, after a moment.
    Other(Vec<u8>),
    Pause,
}

impl Pair {
    async fn start() -> Pair {
        let spec = ClusterSpec {
            replicas: 0,
            sentinels: 1,
            down_after: Duration::from_secs(60),
            node_config: vec!["enable-debug-command yes".into(), "io-threads 1".into()],
            ..ClusterSpec::default()
        };
        let (direct, behind) = tokio::join!(Cluster::start(spec.clone()), Cluster::start(spec));
        let behind = behind.unwrap();
        let proxy = proxy::start(&behind).await;
        Pair { direct: direct.unwrap(), _behind: behind, proxy }
    }

    fn addr(&self) -> SocketAddr {
        self.direct.node_addr(0)
    }

    async fn commands(&self) -> Vec<Command> {
        commands(&Wire::connect(self.addr()).await.unwrap().ask(&["COMMAND", "DOCS"]).await.unwrap())
    }

    /// Every name that `COMMAND` gives, of subcommands too.
    async fn names(&self) -> BTreeSet<String> {
        fn collect(reply: &Reply, names: &mut BTreeSet<String>) {
            for command in reply.items() {
                names.extend(command.items()[0].text().map(str::to_owned));
                command.items().get(9).into_iter().for_each(|subcommands| collect(subcommands, names));
            }
        }
        let mut names = BTreeSet::new();
        collect(&Wire::connect(self.addr()).await.unwrap().ask(&["COMMAND"]).await.unwrap(), &mut names);
        names
    }

    /// Both servers hold the same again.
    async fn seed(&self) {
        let lines: Vec<u8> = SEEDS.iter().flat_map(|line| [line.as_bytes(), b"\r\n"].concat()).collect();
        let conversation = [Step::Send([&lines, PING].concat())];
        let (direct, proxied) = self.have(&conversation).await;
        assert!(!direct.windows(4).any(|bytes| bytes == b"-ERR"), "{}", direct.escape_ascii());
        assert_eq!(direct.escape_ascii().to_string(), proxied.escape_ascii().to_string(), "the seeds");
    }

    /// The same conversation with both; what each of them said.
    async fn have(&self, conversation: &[Step]) -> (Vec<u8>, Vec<u8>) {
        tokio::join!(talk(self.addr(), conversation), talk(self.proxy.addr(), conversation))
    }
}

/// All that is said on a connection until the marker comes, or its end.
async fn talk(addr: SocketAddr, conversation: &[Step]) -> Vec<u8> {
    let (mut from, mut to) = TcpStream::connect(addr).await.unwrap().into_split();
    let ended = std::cell::Cell::new(false);
    let sends = async {
        for step in conversation {
            match step {
                // A server that closed does not take it; what it said before is compared.
                Step::Send(bytes) => drop(to.write_all(bytes).await),
                Step::Pause => tokio::time::sleep(Duration::from_millis(10)).await,
                Step::Other(bytes) => {
                    tokio::time::sleep(Duration::from_millis(40)).await;
                    let mut other = Wire::connect(addr).await.unwrap();
                    other.send(bytes).await.unwrap();
                    other.receive().await.unwrap();
                    tokio::time::sleep(Duration::from_millis(40)).await;
                }
            }
        }
        ended.set(true);
    };
    let hears = async {
        let (mut heard, mut scratch) = (Vec::new(), vec![0; 64 * 1024]);
        loop {
            let marked = heard.ends_with(b"\r\n") && contains(&heard[heard.len().saturating_sub(100)..], MARKER);
            if ended.get() && marked {
                return heard;
            }
            let all_sent = ended.get();
            let patience = if all_sent { SILENCE } else { Duration::from_millis(20) };
            match timeout(patience, from.read(&mut scratch)).await {
                Err(_) if !all_sent => {}
                Err(_) => {
                    heard.extend_from_slice(b"<silence>");
                    return heard;
                }
                Ok(Ok(0) | Err(_)) => {
                    heard.extend_from_slice(b"<closed>");
                    return heard;
                }
                Ok(Ok(read)) => heard.extend_from_slice(&scratch[..read]),
            }
        }
    };
    timeout(LIMIT, async { tokio::join!(sends, hears).1 }).await.unwrap_or_else(|_| b"<no end>".to_vec())
}

/// What may differ between two servers that were told the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tolerance {
    /// Nothing but ids and times.
    Exact,
    Unordered,
    Volatile,
    /// MONITOR: lines about this conversation only.
    Monitor,
}

impl Tolerance {
    fn of(command: &str) -> Tolerance {
        match command {
            _ if VOLATILE.contains(&command) => Tolerance::Volatile,
            _ if UNORDERED.contains(&command) || command.starts_with("command|") => Tolerance::Unordered,
            _ => Tolerance::Exact,
        }
    }

    /// What is compared of these bytes.
    fn view(self, said: &[u8]) -> Vec<Vec<u8>> {
        let said = &without_ids(said)[..];
        let lines = |said: &[u8]| said.split_inclusive(|byte| *byte == b'\n').map(masked).collect::<Vec<_>>();
        match self {
            Tolerance::Exact => lines(said),
            Tolerance::Unordered => {
                let mut lines = lines(said);
                lines.sort();
                lines
            }
            Tolerance::Volatile => frames(said)
                .into_iter()
                .map(|frame| if frame[0] == b'-' { frame.to_vec() } else { frame[..1].to_vec() })
                .collect(),
            Tolerance::Monitor => frames(said)
                .into_iter()
                .filter_map(|frame| match frame.windows(2).position(|pair| pair == b"] ") {
                    Some(at) if frame.starts_with(b"+1") => contains(frame, b"probe").then(|| frame[at..].to_vec()),
                    _ => Some(frame.to_vec()),
                })
                .collect(),
        }
    }
}

/// The replies, and what is left over.
fn frames(mut said: &[u8]) -> Vec<&[u8]> {
    let (mut scanner, mut frames) = (ReplyScanner::default(), Vec::new());
    while let Scan::Frame(length) = scanner.scan(said) {
        frames.push(&said[..length]);
        said = &said[length..];
        if said.is_empty() {
            return frames;
        }
    }
    frames.push(said);
    frames
}

/// HELLO tells the id of the connection.
fn without_ids(said: &[u8]) -> Vec<u8> {
    const ID: &[u8] = b"$2\r\nid\r\n:";
    let mut out = Vec::with_capacity(said.len());
    let mut rest = said;
    while let Some(at) = rest.windows(ID.len()).position(|bytes| bytes == ID) {
        out.extend_from_slice(&rest[..at + ID.len()]);
        rest = &rest[at + ID.len()..];
        rest = &rest[rest.iter().take_while(|byte| byte.is_ascii_digit()).count()..];
    }
    out.extend_from_slice(rest);
    out
}

/// Numbers as long as a time in milliseconds are times; with what follows a dash they are ids of streams, whose
/// lengths differ.
fn masked(line: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(line.len());
    if line == b"$15\r\n" || line == b"$16\r\n" {
        return b"$15\r\n".to_vec();
    }
    for run in line.chunk_by(|a, b| a.is_ascii_digit() == b.is_ascii_digit()) {
        let is_time = run.len() >= 13 && run[0].is_ascii_digit() && run[0] != b'9';
        if is_time && line.get(run.len()) == Some(&b'-') && line.starts_with(run) {
            return b"<id>\r\n".to_vec();
        }
        out.extend_from_slice(if is_time { b"<time>" } else { run });
    }
    out
}

#[derive(Default)]
struct Differences {
    found: BTreeMap<String, String>,
}

impl Differences {
    fn note(&mut self, name: &str, conversation: &[Step], tolerance: Tolerance, said: &(Vec<u8>, Vec<u8>)) {
        let (direct, proxied) = (tolerance.view(&said.0), tolerance.view(&said.1));
        if direct == proxied {
            return;
        }
        let at = direct.iter().zip(&proxied).take_while(|(one, other)| one == other).count();
        let show = |view: &[Vec<u8>]| {
            let shown = view.iter().skip(at.saturating_sub(3)).take(8).map(|line| line.escape_ascii().to_string());
            shown.collect::<String>().chars().take(500).collect::<String>()
        };
        let asked: String = conversation
            .iter()
            .map(|step| match step {
                Step::Send(bytes) | Step::Other(bytes) => bytes.escape_ascii().to_string(),
                Step::Pause => " … ".into(),
            })
            .collect();
        let asked: String = asked.chars().take(1500).collect();
        self.found.entry(name.to_owned()).or_insert_with(|| {
            format!(
                "{name}, line {at}\n  asked:   {asked}\n  direct:  {}\n  proxied: {}\n",
                show(&direct),
                show(&proxied)
            )
        });
    }

    fn none(&self) {
        let found: String = self.found.values().map(String::as_str).collect();
        assert!(self.found.is_empty(), "{} differ:\n{found}", self.found.len());
    }
}

/// A case of the corpus.
struct Case {
    name: String,
    tolerance: Tolerance,
    resp2_only: bool,
    steps: Vec<Line>,
}

enum Line {
    Send(Vec<u8>),
    Raw(Vec<u8>),
    Other(Vec<u8>),
}

impl Case {
    fn conversation(&self, resp3: bool, trickle: bool) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut run: Vec<u8> = if resp3 { b"HELLO 3\r\n".to_vec() } else { Vec::new() };
        for line in &self.steps {
            match line {
                Line::Send(bytes) => run.extend(wire(&Args::new(bytes).map(|arg| arg.to_vec()).collect::<Vec<_>>())),
                Line::Raw(bytes) => run.extend(bytes),
                Line::Other(bytes) => {
                    steps.push(Step::Send(std::mem::take(&mut run)));
                    steps.push(Step::Other(bytes.clone()));
                }
            }
            if trickle {
                // A request in two pieces, then a moment.
                let rest = run.split_off(run.len() / 2);
                steps.extend([Step::Send(std::mem::take(&mut run)), Step::Pause, Step::Send(rest), Step::Pause]);
            }
        }
        run.extend(PING);
        steps.push(Step::Send(run));
        steps
    }
}

/// tests/transparency/corpus.txt, whose head explains its form.
fn corpus() -> Vec<Case> {
    let text = include_str!("../transparency/corpus.txt");
    let mut cases: Vec<Case> = Vec::new();
    let mut fresh = true;
    for line in text.lines() {
        if line.is_empty() {
            fresh = true;
        } else if let Some(name) = line.strip_prefix("## ") {
            cases.push(Case { name: name.into(), tolerance: Tolerance::Exact, resp2_only: false, steps: Vec::new() });
            fresh = false;
        } else if !line.starts_with('#') {
            assert!(!fresh, "a case begins with its name: {line}");
            let case = cases.last_mut().unwrap();
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            match word {
                "@volatile" => case.tolerance = Tolerance::Volatile,
                "@unordered" => case.tolerance = Tolerance::Unordered,
                "@monitor" => case.tolerance = Tolerance::Monitor,
                "@resp2" => case.resp2_only = true,
                "@raw" => case.steps.push(Line::Raw(one_word(rest))),
                "@other" => case.steps.push(Line::Other([rest.as_bytes(), b"\r\n"].concat())),
                // A value of so many bytes, and the requests with it.
                "@large" => {
                    let (size, request) = rest.split_once(' ').unwrap();
                    let value = "v\r\n*".repeat(size.parse::<usize>().unwrap() / 4);
                    let mut args: Vec<Vec<u8>> =
                        Args::new(format!("{request}\r\n").as_bytes()).map(|arg| arg.to_vec()).collect();
                    args.push(value.into_bytes());
                    case.steps.push(Line::Raw(wire(&args)));
                }
                _ if word.starts_with('@') => panic!("unknown: {line}"),
                _ => case.steps.push(Line::Send([line.as_bytes(), b"\r\n"].concat())),
            }
        }
    }
    cases
}

fn one_word(quoted: &str) -> Vec<u8> {
    let line = format!("{quoted}\r\n");
    Args::new(line.as_bytes()).next().unwrap_or_else(|| panic!("not one quoted word: {quoted}")).into_owned()
}

fn wire(request: &[Vec<u8>]) -> Vec<u8> {
    encode(&request.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

/// The same request as a line, where it can be one.
fn inline(request: &[Vec<u8>]) -> Option<Vec<u8>> {
    let plain =
        |arg: &Vec<u8>| !arg.is_empty() && arg.iter().all(|byte| byte.is_ascii_graphic() && !b"\"'*".contains(byte));
    request.iter().all(plain).then(|| [&request.join(&b' ')[..], b"\r\n"].concat())
}

/// Each of its requests needs a connection of its own.
fn changes_the_connection(name: &str) -> bool {
    const NAMES: &[&str] = &[
        "auth",
        "client",
        "discard",
        "exec",
        "hello",
        "multi",
        "psubscribe",
        "punsubscribe",
        "quit",
        "readonly",
        "readwrite",
        "reset",
        "select",
        "ssubscribe",
        "subscribe",
        "sunsubscribe",
        "unsubscribe",
        "unwatch",
        "watch",
    ];
    is_listed(NAMES.iter().copied(), name)
}

fn is_listed<'a>(mut list: impl Iterator<Item = &'a str>, name: &str) -> bool {
    list.any(|listed| name.strip_prefix(listed).is_some_and(|rest| rest.is_empty() || rest.starts_with('|')))
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
