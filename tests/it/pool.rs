//! Connections that are ready before a session asks: what one client did never reaches another, and a failover leaves
//! none behind.

use std::time::Duration;

use switchmaster::demo::cluster::{Cluster, ClusterSpec, until};
use switchmaster::demo::proxy::{Proxy, ProxySpec};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::proxy::{LIMIT, spec, start_as, view, wait_stable};

async fn start(cluster: &Cluster, warm: &str, reuse: &str) -> Proxy {
    start_detaching(cluster, warm, reuse, "0s").await
}

async fn start_detaching(cluster: &Cluster, warm: &str, reuse: &str, idle_after: &str) -> Proxy {
    let proxy = start_as(&spec_of(cluster, warm, reuse, idle_after)).await;
    wait_stable(&proxy).await;
    proxy
}

fn spec_of(cluster: &Cluster, warm: &str, reuse: &str, idle_after: &str) -> ProxySpec {
    let mut spec = spec(cluster);
    spec.set("SWITCHMASTER_WARM_BACKENDS", warm).set("SWITCHMASTER_REUSE_BACKENDS", reuse);
    spec.set("SWITCHMASTER_DETACH_IDLE_AFTER", idle_after);
    spec.set("SWITCHMASTER_WORKERS", "1"); // what is ready waits in one of them
    spec
}

async fn say(stream: &mut TcpStream, request: &[u8], last_words: &str) -> String {
    stream.write_all(request).await.unwrap();
    let mut heard = Vec::new();
    let all = async {
        while !String::from_utf8_lossy(&heard).contains(last_words) {
            assert!(
                stream.read_buf(&mut heard).await.unwrap() > 0,
                "closed after {:?}",
                String::from_utf8_lossy(&heard)
            );
        }
    };
    timeout(LIMIT, all).await.expect("a reply");
    String::from_utf8(heard).unwrap()
}

async fn all_have_left(proxy: &Proxy) {
    until("the sessions to end", LIMIT, async || match view(proxy).await.traffic.sessions {
        0 => Ok(()),
        open => Err(format!("{open} are open")),
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn what_one_client_did_never_reaches_another() {
    let user = Some(("app".into(), "app-secret".into(), "~* &* +@all".into()));
    let spec = ClusterSpec { replicas: 0, sentinels: 1, acl_user: user, ..ClusterSpec::default() };
    let cluster = Cluster::start(spec).await.unwrap();
    let proxy = start(&cluster, "0", "true").await;
    let half = format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$200000\r\n{}", "x".repeat(100_000)).into_bytes();
    // What a client does before it leaves, what it hears last, and whether its connection serves the next one.
    let doings: &[(&[u8], &str, bool)] = &[
        (b"PING\r\n", "PONG", true),
        (b"SELECT 3\r\nSET k v\r\n", "+OK\r\n+OK", true),
        (b"AUTH app app-secret\r\nACL WHOAMI\r\n", "app", true),
        (b"HELLO 3\r\n", "modules", true),
        (b"WATCH k\r\nMULTI\r\nSET k w\r\n", "+QUEUED", true),
        (b"EVAL return(1) 0\r\n", ":1", true),
        (b"*2\r\n$3\r\nGET\r\n$3\r\nab", "", true),
        (b"PING\r\n*2\r\n$3\r\nGET\r\n$3\r\nab", "PONG", true),
        (b"CLIENT SETNAME me\r\n", "+OK", false),
        (b"CLIENT ID\r\n", ":", false),
        (b"SUBSCRIBE news\r\n", ":1", false),
        (b"MONITOR\r\n", "+OK", false),
        (b"CLIENT REPLY OFF\r\nPING\r\n", "", false),
        (b"READONLY\r\n", "-ERR", true),
        (b"NO-SUCH-COMMAND\r\n", "-ERR unknown", false),
        (b"BLPOP nothing 0\r\n", "", false),
        (&half, "", false),
        (b"QUIT\r\n", "+OK", false),
    ];
    for (doing, last_words, is_kept) in doings {
        let shown = doing[..doing.len().min(40)].escape_ascii().to_string();
        let mut first = TcpStream::connect(proxy.addr()).await.unwrap();
        say(&mut first, doing, last_words).await;
        if last_words.is_empty() {
            // It was sent on, as far as it is.
            until("the request to arrive", LIMIT, async || match view(&proxy).await.traffic.sessions {
                1.. => Ok(()),
                _ => Err("nobody".to_owned()),
            })
            .await
            .unwrap();
        }
        drop(first);
        all_have_left(&proxy).await;
        let before = view(&proxy).await.traffic;
        let mut second = TcpStream::connect(proxy.addr()).await.unwrap();
        let info = say(&mut second, b"CLIENT INFO\r\n", "redir=").await;
        for fresh in
            [" db=0 ", " name= ", " user=default ", " multi=-1 ", " sub=0 ", " psub=0 ", " resp=2", " flags=N "]
        {
            assert!(info.contains(fresh), "{shown}: {fresh:?} in {info}");
        }
        let after = view(&proxy).await.traffic;
        // A request that was never begun needed no connection.
        if !last_words.is_empty() || !is_kept {
            assert_eq!(after.warm - before.warm, u64::from(*is_kept), "{shown}");
        }
        drop(second);
        all_have_left(&proxy).await;
    }
    assert_eq!(cluster.ask_node(0, &["GET", "k"]).await.unwrap().text(), None, "neither half a SET nor a queue ran");
}

#[tokio::test]
async fn clients_that_come_and_go_find_a_connection_ready() {
    let cluster = Cluster::start(ClusterSpec { replicas: 0, sentinels: 1, ..ClusterSpec::default() }).await.unwrap();
    let proxy = start(&cluster, "4", "false").await;
    until("a connection to be ready", LIMIT, async || {
        let mut client = TcpStream::connect(proxy.addr()).await.map_err(|error| error.to_string())?;
        say(&mut client, b"PING\r\n", "+PONG").await;
        match view(&proxy).await.traffic.warm {
            0 => Err("none was".into()),
            _ => Ok(()),
        }
    })
    .await
    .unwrap();
    // They are closed when nobody comes.
    until("the connections to be closed", LIMIT, async || {
        let list = cluster.ask_node(0, &["CLIENT", "LIST"]).await.map_err(|error| error.to_string())?.to_string();
        let silent = list.split("\\n").filter(|line| is_ready(line)).count();
        if silent == 0 { Ok(()) } else { Err(format!("{silent} wait: {list}")) }
    })
    .await
    .unwrap();
}

/// A line of CLIENT LIST is of a connection that nobody has used yet.
fn is_ready(line: &str) -> bool {
    line.contains(" cmd=NULL ") || line.contains(" cmd=reset ")
}

/// What the server thinks of passwords and users changes while connections are ready: what comes then hears what it
/// would hear on a fresh connection at that moment.
async fn what_is_ready_is_as_fresh(warm: &str, reuse: &str) {
    let spec = ClusterSpec {
        replicas: 0,
        sentinels: 1,
        acl_user: Some(("watcher".into(), "secret".into(), "~* &* +@all".into())),
        ..ClusterSpec::default()
    };
    let cluster = Cluster::start(spec).await.unwrap();
    let mut spec = spec_of(&cluster, warm, reuse, "0s");
    spec.set("SWITCHMASTER_REDIS_USERNAME", "watcher").set("SWITCHMASTER_REDIS_PASSWORD", "secret");
    let proxy = start_as(&spec).await;
    wait_stable(&proxy).await;
    let mut operator = TcpStream::connect(cluster.node_addr(0)).await.unwrap();
    say(&mut operator, b"AUTH watcher secret\r\nSET secret s\r\n", "+OK\r\n+OK").await;
    let firsts: &[&str] = &[
        "GET secret\r\n",
        "\r\n\r\nGET secret\r\nGET secret\r\n",
        "SELECT 1\r\nAUTH wrong\r\nGET secret\r\n",
        "AUTH wrong\r\nGET secret\r\n",
        "AUTH wrong\r\nAUTH pw\r\nGET secret\r\n",
        "AUTH pw\r\nGET secret\r\n",
        "HELLO 3\r\nGET secret\r\n",
        "HELLO 3 AUTH default pw SETNAME me\r\nGET secret\r\nCLIENT GETNAME\r\n",
        "HELLO 3 AUTH default wrong\r\nGET secret\r\n",
        "AUTH watcher secret\r\nACL WHOAMI\r\n",
        "MULTI\r\nGET secret\r\nEXEC\r\n",
        "WAIT 0 0\r\nAUTH wrong\r\nGET secret\r\n",
    ];
    const OPEN: &str = "ACL SETUSER default on nopass +@all";
    // What is the case while they get ready, and what is when they are lent.
    for (before, change) in [
        (OPEN, "CONFIG SET requirepass pw"),
        ("CONFIG SET requirepass pw", "CONFIG SET requirepass \"\""),
        (OPEN, "ACL SETUSER default off"),
        ("ACL SETUSER default off", OPEN),
        ("ACL SETUSER default resetpass >other", "ACL SETUSER default resetpass >pw"),
        (OPEN, "ACL SETUSER default -@all +get +echo"),
    ] {
        for first in firsts {
            say(&mut operator, format!("{OPEN}\r\n{before}\r\n").as_bytes(), "+OK\r\n+OK").await;
            // Connections are ready from before the change.
            until("a connection to be ready", LIMIT, async || {
                let mut client = TcpStream::connect(proxy.addr()).await.map_err(|error| error.to_string())?;
                let _ = say(&mut client, b"PING\r\n", "\r\n").await;
                drop(client);
                let mut witness = TcpStream::connect(cluster.node_addr(0)).await.map_err(|error| error.to_string())?;
                let list = say(&mut witness, b"AUTH watcher secret\r\nCLIENT LIST\r\n", "cmd=client|list").await;
                if list.lines().any(is_ready) { Ok(()) } else { Err(list) }
            })
            .await
            .unwrap();
            say(&mut operator, format!("{change}\r\n").as_bytes(), "+OK").await;
            let lent = view(&proxy).await.traffic.warm;
            let mut heard = Vec::new();
            for addr in [cluster.node_addr(0), proxy.addr()] {
                let mut client = TcpStream::connect(addr).await.unwrap();
                client.write_all(format!("{first}ECHO end\r\nQUIT\r\n").as_bytes()).await.unwrap();
                let mut all = Vec::new();
                timeout(LIMIT, client.read_to_end(&mut all)).await.expect("an end").unwrap();
                heard.push(without_id(&String::from_utf8(all).unwrap()));
            }
            assert_eq!(heard[1], heard[0], "{first:?} after {change}");
            assert_eq!(view(&proxy).await.traffic.warm, lent + 1, "{first:?} after {change}: on one that was ready");
        }
    }
}

/// HELLO's answer without the number of the connection.
fn without_id(heard: &str) -> String {
    match heard.split_once("\r\nid\r\n:") {
        Some((before, after)) => format!("{before}{}", after.split_once('\r').unwrap_or_default().1),
        None => heard.to_owned(),
    }
}

#[tokio::test]
async fn what_was_dialled_ahead_is_as_fresh() {
    what_is_ready_is_as_fresh("4", "false").await;
}

#[tokio::test]
async fn what_is_reused_is_as_fresh() {
    what_is_ready_is_as_fresh("0", "true").await;
}

#[tokio::test]
async fn a_server_without_reset_is_dialled_for_each_client() {
    let spec = ClusterSpec {
        replicas: 0,
        sentinels: 1,
        node_config: vec!["rename-command RESET \"\"".into()],
        ..ClusterSpec::default()
    };
    let cluster = Cluster::start(spec).await.unwrap();
    let proxy = start(&cluster, "4", "true").await;
    for count in 1..=20 {
        let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
        assert_eq!(say(&mut client, b"INCR n\r\n", "\r\n").await, format!(":{count}\r\n"));
        drop(client);
        all_have_left(&proxy).await;
    }
    assert_eq!(view(&proxy).await.traffic.warm, 0);
}

/// To a server far away that is one round trip in place of two: the handshake was made before the client came. Told by
/// the server, which numbers its connections as they come.
#[tokio::test]
async fn a_first_request_travels_on_a_connection_that_was_there_before_its_client() {
    let cluster = Cluster::start(ClusterSpec { replicas: 0, sentinels: 1, ..ClusterSpec::default() }).await.unwrap();
    let proxy = start(&cluster, "4", "false").await;
    until("a connection older than its client", LIMIT, async || {
        // Someone came a moment ago: another is expected.
        let mut earlier = TcpStream::connect(proxy.addr()).await.map_err(|error| error.to_string())?;
        say(&mut earlier, b"PING\r\n", "+PONG").await;
        let mut witness = TcpStream::connect(cluster.node_addr(0)).await.map_err(|error| error.to_string())?;
        let newest = say(&mut witness, b"CLIENT ID\r\n", "\r\n").await;
        let mut client = TcpStream::connect(proxy.addr()).await.map_err(|error| error.to_string())?;
        let own = say(&mut client, b"CLIENT ID\r\n", "\r\n").await;
        let number = |reply: &str| reply[1..].trim_end().parse::<u64>().unwrap();
        match number(&own) < number(&newest) {
            true => Ok(()),
            false => Err(format!("connection {own:?} came after {newest:?}")),
        }
    })
    .await
    .unwrap();
}

/// Connections to `server` that are closed and keep a port for a minute (TIME_WAIT is 06; proc(5)).
fn lingering(server: std::net::SocketAddr) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let port = format!(":{:04X}", server.port());
    let lingers = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.get(2).is_some_and(|remote| remote.ends_with(&port)) && fields.get(3) == Some(&"06")
    };
    table.lines().filter(lingers).count()
}

#[tokio::test]
async fn clients_that_come_and_go_use_up_no_ports() {
    let cluster = Cluster::start(ClusterSpec { replicas: 0, sentinels: 1, ..ClusterSpec::default() }).await.unwrap();
    let proxy = start(&cluster, "0", "false").await;
    let before = lingering(cluster.node_addr(0));
    for _ in 0..50 {
        let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
        say(&mut client, b"PING\r\n", "+PONG").await;
    }
    all_have_left(&proxy).await;
    let after = lingering(cluster.node_addr(0));
    assert!(after < before + 25, "{before} before, {after} after");
}

/// A server that closes what waits: those connections are not lent.
#[tokio::test]
async fn what_the_server_has_closed_is_not_lent() {
    let cluster = Cluster::start(ClusterSpec { replicas: 0, sentinels: 1, ..ClusterSpec::default() }).await.unwrap();
    let proxy = start(&cluster, "8", "true").await;
    for _ in 0..20 {
        let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
        say(&mut client, b"PING\r\n", "+PONG").await;
        drop(client);
        all_have_left(&proxy).await;
        let _ = cluster.ask_node(0, &["CLIENT", "KILL", "TYPE", "normal"]).await;
    }
}

#[tokio::test]
async fn a_failover_leaves_none_behind() {
    let cluster = Cluster::start(ClusterSpec::default()).await.unwrap();
    let proxy = start(&cluster, "8", "true").await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let addr = proxy.addr();
    let clients: Vec<_> = (0..8)
        .map(|number| {
            let stopped = stopped.clone();
            tokio::spawn(async move {
                let mut count = 0_u64;
                while !*stopped.borrow() {
                    let mut client = TcpStream::connect(addr).await.unwrap();
                    count += 1;
                    let heard = say(&mut client, format!("INCR come-and-go-{number}\r\n").as_bytes(), "\r\n").await;
                    assert_eq!(heard, format!(":{count}\r\n"), "of client {number}");
                }
                count
            })
        })
        .collect();
    let mut master = 0;
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(300)).await; // some calm between
        cluster.failover(LIMIT).await.unwrap();
        master = cluster.wait_for_master_change(master, LIMIT).await.unwrap();
        cluster.wait_replicating(LIMIT).await.unwrap();
        wait_stable(&proxy).await;
    }
    stop.send(true).unwrap();
    for (number, client) in clients.into_iter().enumerate() {
        let count = client.await.unwrap();
        let stored = cluster.ask_node(master, &["GET", &format!("come-and-go-{number}")]).await.unwrap();
        assert_eq!(stored.text(), Some(count.to_string().as_str()), "of client {number}");
    }
    assert!(view(&proxy).await.traffic.warm > 100);
}

/// A client's name, what it does, what it hears last; what it says after a while, and what it hears then.
type Doing = (&'static str, &'static [u8], &'static str, &'static [u8], &'static str);

/// No other connection would do.
const KEEPS: [Doing; 7] = [
    ("queueing", b"MULTI\r\nINCR n\r\n", "+QUEUED", b"EXEC\r\n", ":1"),
    ("watching", b"WATCH w\r\n", "+OK\r\n+OK", b"MULTI\r\nPING\r\nEXEC\r\n", "+PONG"),
    ("subscribed", b"SUBSCRIBE news\r\n", "news\r\n:1", b"PING\r\n", "pong"),
    ("tracking", b"HELLO 3\r\nCLIENT TRACKING ON\r\n", "*0\r\n+OK", b"PING\r\n", "+PONG"),
    ("numbered", b"CLIENT ID\r\n", ":", b"PING\r\n", "+PONG"),
    ("unknown", b"NO-SUCH-COMMAND\r\n", "-ERR unknown", b"PING\r\n", "+PONG"),
    ("blocked", b"BLPOP nothing 0\r\n", "+OK", b"", ""),
];
const GIVES_BACK: [Doing; 5] = [
    (
        "named",
        b"SELECT 3\r\nSET k v\r\n",
        "+OK\r\n+OK\r\n+OK",
        b"CLIENT GETNAME\r\nGET k\r\n",
        "$5\r\nnamed\r\n$1\r\nv",
    ),
    ("user", b"AUTH app app-secret\r\nSELECT 3\r\n", "+OK\r\n+OK\r\n+OK", b"ACL WHOAMI\r\nGET k\r\n", "app\r\n$1\r\nv"),
    ("modern", b"HELLO 3\r\n", "modules", b"HGETALL none\r\n", "%0"),
    ("done", b"MULTI\r\nPING\r\nEXEC\r\n", "+PONG", b"PING\r\n", "+PONG"),
    ("scripted", b"EVAL return(1) 0\r\n", ":1", b"PING\r\n", "+PONG"),
];

async fn idle_clients_give_their_connections_back(reuse: &str) {
    let user = Some(("app".into(), "app-secret".into(), "~* &* +@all".into()));
    let spec = ClusterSpec { replicas: 0, sentinels: 1, acl_user: user, ..ClusterSpec::default() };
    let cluster = Cluster::start(spec).await.unwrap();
    let proxy = start_detaching(&cluster, "0", reuse, "200ms").await;
    let mut clients = Vec::new();
    // Those that keep theirs come first: once the others have given theirs back, these could have too.
    for (name, doing, last_words, ..) in KEEPS.iter().chain(&GIVES_BACK) {
        let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
        let request = [format!("CLIENT SETNAME {name}\r\n").as_bytes(), doing].concat();
        say(&mut client, &request, last_words).await;
        clients.push(client);
    }
    until("the idle ones to give their connections back", LIMIT, async || {
        let list = cluster.ask_node(0, &["CLIENT", "LIST"]).await.map_err(|error| error.to_string())?.to_string();
        let is_there = |doing: &&Doing| list.contains(&format!(" name={} ", doing.0));
        assert_eq!(KEEPS.iter().filter(is_there).count(), KEEPS.len(), "{list}");
        match GIVES_BACK.iter().find(is_there) {
            None => Ok(()),
            Some((name, ..)) => Err(format!("{name} has one")),
        }
    })
    .await
    .unwrap();
    assert_eq!(view(&proxy).await.traffic.detached, GIVES_BACK.len() as u64);
    for (client, (.., then, answer)) in clients.iter_mut().zip(KEEPS.iter().chain(&GIVES_BACK)) {
        say(client, then, answer).await;
    }
}

#[tokio::test]
async fn idle_clients_give_their_connections_back_to_be_closed() {
    idle_clients_give_their_connections_back("false").await;
}

#[tokio::test]
async fn idle_clients_give_their_connections_back_to_be_reused() {
    idle_clients_give_their_connections_back("true").await;
}
