//! Whom we believe, with real Sentinels beside those that lie, are stale, foreign or late.
//!
//! Every stranger's node counts what it is sent: it must be neither a password nor a client's request.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use switchmaster::demo::cluster::{Cluster, ClusterSpec, Member, until};
use switchmaster::demo::proxy::{Proxy, ProxySpec};
use switchmaster::demo::relay::Passage;
use switchmaster::demo::server::free_port;
use switchmaster::demo::wire::{Reply, Wire};

use crate::support::proxy::{LIMIT, spec, start_as, view, wait_log, wait_settled, wait_stable, wait_view};

const PASSWORD: &str = "pw-of-the-cluster";

/// A node of nobody's: it says that it is a master, and keeps whatever else it is sent.
#[derive(Clone)]
struct StrangeNode {
    addr: SocketAddr,
    /// The first words of all requests but those of a probe without credentials.
    sent: Arc<Mutex<Vec<String>>>,
}

/// What a made-up Sentinel says; changed while it runs.
#[derive(Clone)]
struct Tale {
    run_id: String,
    names: SocketAddr,
    epoch: u64,
    /// Address and run id of those it claims to know.
    peers: Vec<(SocketAddr, String)>,
    replicas: Vec<SocketAddr>,
}

struct MadeUpSentinel {
    addr: SocketAddr,
    tale: Arc<Mutex<Tale>>,
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

fn map(pairs: &[(&str, String)]) -> String {
    let body: String = pairs.iter().map(|(key, value)| bulk(key) + &bulk(value)).collect();
    format!("%{}\r\n{body}", pairs.len())
}

/// Answers each request with what `answer` makes of its words, on threads of its own until the test ends.
fn serve(listener: TcpListener, answer: impl Fn(&[String]) -> String + Send + Sync + 'static) {
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let answer = answer.clone();
            std::thread::spawn(move || {
                let mut out = stream.try_clone().expect("a second handle");
                let mut lines = BufReader::new(stream);
                while let Some(words) = request(&mut lines) {
                    if out.write_all(answer(&words).as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

fn request(lines: &mut BufReader<TcpStream>) -> Option<Vec<String>> {
    let number = |lines: &mut BufReader<TcpStream>| {
        let mut line = String::new();
        lines.read_line(&mut line).ok().filter(|length| *length > 1)?;
        line[1..].trim().parse::<usize>().ok()
    };
    let count = number(lines)?;
    (0..count)
        .map(|_| {
            let mut word = vec![0; number(lines)? + 2];
            lines.read_exact(&mut word).ok()?;
            word.truncate(word.len() - 2);
            Some(String::from_utf8_lossy(&word).into_owned())
        })
        .collect()
}

impl StrangeNode {
    fn start() -> StrangeNode {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let node = StrangeNode { addr: listener.local_addr().unwrap(), sent: Arc::default() };
        let sent = node.sent.clone();
        serve(listener, move |words| {
            let first = words[0].to_uppercase();
            match (first.as_str(), words.get(1).map(String::as_str)) {
                ("ROLE", _) => format!("*3\r\n{}:9\r\n*0\r\n", bulk("master")),
                ("INFO", Some("server")) => bulk(&format!("run_id:{}\r\n", "f".repeat(40))),
                ("INFO", Some("replication")) => bulk(&format!(
                    "role:master\r\nmaster_replid:{}\r\nmaster_replid2:{}\r\n",
                    "a".repeat(40),
                    "0".repeat(40)
                )),
                ("INFO", _) => bulk("loading:0\r\n"),
                _ => {
                    sent.lock().unwrap().push(first);
                    "+OK\r\n".into()
                }
            }
        });
        node
    }

    /// No credentials and no client of ours came here.
    fn assert_untouched(&self, proxy: &Proxy) {
        let sent = self.sent.lock().unwrap().clone();
        assert!(sent.is_empty(), "a stranger's node was sent {sent:?}\n{}", proxy.log());
    }
}

impl MadeUpSentinel {
    /// On a port of its own, or on `at`, where it takes the place of another.
    fn start(at: Option<SocketAddr>, tale: Tale) -> MadeUpSentinel {
        let listener = TcpListener::bind(at.unwrap_or_else(|| "127.0.0.1:0".parse().unwrap())).unwrap();
        let addr = listener.local_addr().unwrap();
        let tale = Arc::new(Mutex::new(tale));
        let told = tale.clone();
        serve(listener, move |words| told.lock().unwrap().answer(words));
        MadeUpSentinel { addr, tale }
    }
}

impl Tale {
    fn lonely(node: &StrangeNode) -> Tale {
        Tale { run_id: "e".repeat(40), names: node.addr, epoch: 1000, peers: Vec::new(), replicas: Vec::new() }
    }

    fn answer(&self, words: &[String]) -> String {
        let instance = |addr: SocketAddr, run_id: &str, flags: &str| {
            vec![
                ("name", "mymaster".to_owned()),
                ("ip", addr.ip().to_string()),
                ("port", addr.port().to_string()),
                ("runid", run_id.to_owned()),
                ("flags", flags.to_owned()),
            ]
        };
        let master = || {
            let mut fields = instance(self.names, "", "master");
            fields.extend([
                ("config-epoch", self.epoch.to_string()),
                ("num-other-sentinels", self.peers.len().to_string()),
                ("quorum", "1".into()),
                ("down-after-milliseconds", "1000".into()),
                ("failover-timeout", "6000".into()),
            ]);
            map(&fields)
        };
        let list = |entries: Vec<String>| format!("*{}\r\n{}", entries.len(), entries.concat());
        let of = words.get(1).map(|word| word.to_uppercase()).unwrap_or_default();
        match (words[0].to_uppercase().as_str(), of.as_str()) {
            ("HELLO", _) => map(&[("server", "redis".into())]),
            ("PSUBSCRIBE", _) => format!(">3\r\n{}{}:1\r\n", bulk("psubscribe"), bulk("*")),
            ("SENTINEL", "MYID") => bulk(&self.run_id),
            ("SENTINEL", "MASTERS") => list(vec![master()]),
            ("SENTINEL", "MASTER") => master(),
            ("SENTINEL", "GET-MASTER-ADDR-BY-NAME") => {
                list(vec![bulk(&self.names.ip().to_string()), bulk(&self.names.port().to_string())])
            }
            ("SENTINEL", "SENTINELS") => {
                list(self.peers.iter().map(|(addr, run_id)| map(&instance(*addr, run_id, "sentinel"))).collect())
            }
            ("SENTINEL", "REPLICAS") => {
                list(self.replicas.iter().map(|addr| map(&instance(*addr, &"d".repeat(40), "slave"))).collect())
            }
            _ => "+OK\r\n".into(),
        }
    }
}

async fn cluster() -> Cluster {
    Cluster::start(ClusterSpec::with_password(PASSWORD)).await.unwrap()
}

/// The proxy for `cluster` with these Sentinels, in this order.
fn listing(cluster: &Cluster, sentinels: &[SocketAddr]) -> ProxySpec {
    let mut spec = spec(cluster);
    let list: Vec<String> = sentinels.iter().map(SocketAddr::to_string).collect();
    spec.set("SWITCHMASTER_SENTINELS", list.join(","));
    spec
}

/// Address and run id of every Sentinel of `cluster`.
async fn identities(cluster: &Cluster) -> Vec<(SocketAddr, String)> {
    let mut found = Vec::new();
    for index in 0..cluster.sentinels().len() {
        let id = cluster.ask_sentinel(index, &["SENTINEL", "MYID"]).await.unwrap();
        found.push((cluster.sentinel_addr(index), id.text().unwrap().to_owned()));
    }
    found
}

/// Writes through the proxy, and finds it on the node that is really the master.
async fn serves(proxy: &Proxy, cluster: &Cluster) {
    let mut wire = Wire::open(proxy.addr(), cluster.auth().as_ref(), 0).await.unwrap();
    let key = format!("key-{}", proxy.addr().port());
    let reply = tokio::time::timeout(LIMIT, wire.ask(&["SET", &key, "customer-data"])).await;
    let reply = reply.unwrap_or_else(|_| panic!("held\n{}", proxy.log())).unwrap();
    assert_eq!(reply.text(), Some("OK"), "{}", proxy.log());
    let master = cluster.who_is_master().await.unwrap();
    assert_eq!(cluster.ask_node(master, &["GET", &key]).await.unwrap().text(), Some("customer-data"));
}

/// The honest master is followed, by all who are honest.
async fn follows_the_honest(proxy: &Proxy, cluster: &Cluster) {
    let master = cluster.node_addr(cluster.who_is_master().await.unwrap()).to_string();
    assert_eq!(wait_stable(proxy).await, master, "{}", proxy.log());
    serves(proxy, cluster).await;
    wait_view(proxy, "all three and no other", |view| (view.agreement.agreeing, view.agreement.known) == (3, 3)).await;
}

/// Long enough for a few polls and probes of whoever would be believed.
async fn a_while(proxy: &Proxy) {
    let from = Instant::now();
    until("polls", LIMIT, async || {
        let view = view(proxy).await;
        if from.elapsed() > Duration::from_secs(3) { Ok(()) } else { Err(view.reason) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_rogue_with_a_higher_epoch_is_not_believed_before_at_or_after_the_start() {
    let cluster = cluster().await;
    let honest = cluster.sentinel_addrs();
    let known = identities(&cluster).await;
    for peers in [Vec::new(), known] {
        let node = StrangeNode::start();
        let rogue = MadeUpSentinel::start(None, Tale { peers, ..Tale::lonely(&node) });
        // It is the first to answer: the honest ones are stopped for a moment, as over a slow network.
        cluster.sentinels().iter().for_each(|sentinel| _ = sentinel.stop());
        let first = start_as(&listing(&cluster, &[&[rogue.addr], &honest[..]].concat())).await;
        let heard =
            |view: &switchmaster::status::View| view.sentinels.iter().any(|sentinel| sentinel.epoch == Some(1000));
        wait_view(&first, "the rogue to be heard", heard).await;
        cluster.sentinels().iter().for_each(|sentinel| _ = sentinel.cont());
        follows_the_honest(&first, &cluster).await;
        // The honest ones were there before it.
        let last = start_as(&listing(&cluster, &[&honest[..], &[rogue.addr]].concat())).await;
        follows_the_honest(&last, &cluster).await;
        for proxy in [&first, &last] {
            wait_view(proxy, "the rogue to be heard", heard).await;
            wait_log(proxy, &["ERROR", "do not know each other", &rogue.addr.to_string()]).await;
            follows_the_honest(proxy, &cluster).await;
            node.assert_untouched(proxy);
        }
    }
}

#[tokio::test]
async fn without_a_name_a_rogue_neither_chooses_it_nor_ends_the_process() {
    let cluster = cluster().await;
    let node = StrangeNode::start();
    let rogue = MadeUpSentinel::start(None, Tale::lonely(&node));
    let mut spec = listing(&cluster, &[&[rogue.addr], &cluster.sentinel_addrs()[..]].concat());
    spec.unset("SWITCHMASTER_MASTER_NAME");
    cluster.sentinels().iter().for_each(|sentinel| _ = sentinel.stop());
    let proxy = start_as(&spec).await;
    wait_view(&proxy, "the rogue alone", |view| view.sentinels.iter().any(|sentinel| sentinel.connected)).await;
    cluster.sentinels().iter().for_each(|sentinel| _ = sentinel.cont());
    follows_the_honest(&proxy, &cluster).await;
    node.assert_untouched(&proxy);
}

#[tokio::test]
async fn five_that_were_made_up_and_know_each_other_are_not_believed() {
    let cluster = cluster().await;
    let node = StrangeNode::start();
    let made_up: Vec<MadeUpSentinel> = (0..5)
        .map(|index| MadeUpSentinel::start(None, Tale { run_id: format!("{index:040x}"), ..Tale::lonely(&node) }))
        .collect();
    let all: Vec<_> = made_up.iter().map(|one| (one.addr, one.tale.lock().unwrap().run_id.clone())).collect();
    for (index, one) in made_up.iter().enumerate() {
        let others = all.iter().enumerate().filter(|(other, _)| *other != index);
        one.tale.lock().unwrap().peers = others.map(|(_, peer)| peer.clone()).collect();
    }
    cluster.sentinels().iter().for_each(|sentinel| _ = sentinel.stop());
    let proxy = start_as(&listing(&cluster, &[&[all[0].0], &cluster.sentinel_addrs()[..]].concat())).await;
    wait_view(&proxy, "the first of them", |view| view.sentinels.iter().any(|sentinel| sentinel.epoch == Some(1000)))
        .await;
    // Longer than the others are waited for: they are lost now.
    wait_view(&proxy, "the honest ones to be lost", |view| {
        view.sentinels.iter().filter(|sentinel| sentinel.error.is_some()).count() == 3
    })
    .await;
    a_while(&proxy).await;
    assert_eq!(view(&proxy).await.master, None, "{}", proxy.log());
    cluster.sentinels().iter().for_each(|sentinel| _ = sentinel.cont());
    follows_the_honest(&proxy, &cluster).await;
    assert_eq!(view(&proxy).await.sentinels.len(), 4, "the other four were not even dialled");
    node.assert_untouched(&proxy);
}

#[tokio::test]
async fn one_of_the_three_that_begins_to_lie_moves_nobody() {
    let cluster = cluster().await;
    let proxy = start_as(&spec(&cluster)).await;
    wait_settled(&proxy, &cluster).await;
    let (honest, node) = (identities(&cluster).await, StrangeNode::start());
    let (addr, run_id) = honest[2].clone();
    cluster.sentinel(2).kill9();
    let place =
        || MadeUpSentinel::start(Some(addr), Tale { run_id, peers: honest[..2].to_vec(), ..Tale::lonely(&node) });
    let liar = place();
    wait_view(&proxy, "the liar", |view| view.sentinels.iter().any(|sentinel| sentinel.epoch == Some(1000))).await;
    a_while(&proxy).await;
    let master = cluster.node_addr(0).to_string();
    assert_eq!(wait_stable(&proxy).await, master);
    serves(&proxy, &cluster).await;
    // It does not drown what the two others do: a failover is followed.
    cluster.failover(LIMIT).await.unwrap();
    let new = cluster.node_addr(cluster.wait_for_master_change(0, LIMIT).await.unwrap()).to_string();
    wait_view(&proxy, "the new master", |view| {
        view.phase == "stable" && view.master.as_ref().is_some_and(|master| master.addr == new && !master.provisional)
    })
    .await;
    serves(&proxy, &cluster).await;
    node.assert_untouched(&proxy);
    drop(liar);
}

#[tokio::test]
async fn a_foreign_cluster_of_the_same_name_is_never_joined() {
    let ours = cluster().await;
    let other =
        Cluster::start(ClusterSpec { password: Some("of-the-others".into()), ..ClusterSpec::default() }).await.unwrap();
    other.failover(LIMIT).await.unwrap();
    other.wait_for_master_change(0, LIMIT).await.unwrap();
    let foreign = other.sentinel_addr(0);
    let before = failed_auths(&other).await;
    let (mut one, mut two) = (ours.sentinel_addrs(), ours.sentinel_addrs());
    one[2] = foreign;
    two.insert(0, foreign);
    for list in [&one, &two] {
        let proxy = start_as(&listing(&ours, list)).await;
        follows_the_honest(&proxy, &ours).await;
        wait_log(&proxy, &["ERROR", "do not know each other", &foreign.to_string()]).await;
        wait_view(&proxy, "a warning", |view| view.warnings.iter().any(|text| text.contains(&foreign.to_string())))
            .await;
        // In the end they are the only ones that answer.
        ours.sentinels().iter().for_each(|sentinel| _ = sentinel.stop());
        wait_view(&proxy, "ours to be lost", |view| {
            view.sentinels.iter().filter(|sentinel| !sentinel.connected).count() >= 3
        })
        .await;
        a_while(&proxy).await;
        assert_eq!(wait_stable(&proxy).await, ours.node_addr(0).to_string());
        let mut wire = Wire::open(proxy.addr(), ours.auth().as_ref(), 0).await.unwrap();
        assert!(matches!(wire.ask(&["INCR", "orders"]).await.unwrap(), Reply::Integer(_)));
        ours.sentinels().iter().for_each(|sentinel| _ = sentinel.cont());
        wait_view(&proxy, "ours to be back", |view| view.agreement.agreeing == 3).await;
    }
    // One of each: neither.
    let proxy = start_as(&listing(&ours, &[ours.sentinel_addr(0), foreign])).await;
    wait_log(&proxy, &["ERROR", "do not know each other", "nobody is followed"]).await;
    assert_eq!(view(&proxy).await.master, None);
    assert_eq!(failed_auths(&other).await, before, "our password was sent to the other cluster");
    for index in 0..3 {
        let keys = other.ask_node(index, &["DBSIZE"]).await.unwrap().to_string();
        assert!(keys.contains('0'), "node {index} of the other cluster has {keys} keys");
    }
}

/// AUTHs that the nodes of `cluster` have refused so far.
async fn failed_auths(cluster: &Cluster) -> Vec<String> {
    let mut all = Vec::new();
    for index in 0..cluster.nodes().len() {
        let info = cluster.ask_node(index, &["INFO", "stats"]).await.unwrap();
        let info = info.text().unwrap_or_default();
        let line = info.lines().find(|line| line.starts_with("acl_access_denied_auth"));
        all.push(line.unwrap_or_default().to_owned());
    }
    all
}

#[tokio::test]
async fn honest_sentinels_that_are_late_are_waited_for() {
    let cluster = cluster().await;
    cluster.sentinels()[1..].iter().for_each(|sentinel| _ = sentinel.stop());
    let proxy = start_as(&spec(&cluster)).await;
    wait_view(&proxy, "the first to be heard", |view| view.sentinels.iter().any(|sentinel| sentinel.epoch.is_some()))
        .await;
    cluster.sentinels().iter().for_each(|sentinel| _ = sentinel.cont());
    follows_the_honest(&proxy, &cluster).await;
    assert!(proxy.log().contains("of 3 Sentinels)"), "{}", proxy.log());

    // One of three that still says so when the others are dead, but knows them and has no reason to doubt: not believed,
    // since it has no quorum; nor is anybody else.
    cluster.sentinels()[1..].iter().for_each(|sentinel| _ = sentinel.kill9());
    let proxy = start_as(&spec(&cluster)).await;
    wait_view(&proxy, "no quorum", |view| view.reason.contains("no quorum")).await;
    assert_eq!(view(&proxy).await.master, None);
    for sentinel in &cluster.sentinels()[1..] {
        sentinel.restart().await.unwrap();
    }
    follows_the_honest(&proxy, &cluster).await;
}

#[tokio::test]
async fn one_sentinel_of_three_is_enough_if_it_has_a_quorum_and_lists_the_others() {
    let cluster = cluster().await;
    let real = cluster.sentinel_addrs();
    // Nobody listens there: this host cannot reach two of them, but the Sentinels reach each other.
    let nowhere = [free_port().unwrap(), free_port().unwrap()].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let mut reaches_one = spec(&cluster);
    let map = [(real[1], nowhere[0]), (real[2], nowhere[1])].map(|(from, to)| format!("{from}={to}"));
    reaches_one.set("SWITCHMASTER_ADDRESS_MAP", map.join(","));
    let proxy = start_as(&reaches_one).await;
    assert_eq!(wait_stable(&proxy).await, cluster.node_addr(0).to_string(), "{}", proxy.log());
    serves(&proxy, &cluster).await;
    assert_eq!(view(&proxy).await.agreement.known, 3);
    // It does not list these.
    let proxy = start_as(&listing(&cluster, &[real[0], nowhere[0], nowhere[1]])).await;
    let why = format!("{} do not answer", [nowhere[0], nowhere[1]].map(|at| at.to_string()).join(", "));
    let sorted = format!("{} do not answer", [nowhere[1], nowhere[0]].map(|at| at.to_string()).join(", "));
    wait_view(&proxy, "the reason", |view| view.reason.contains(&why) || view.reason.contains(&sorted)).await;
    assert_eq!(view(&proxy).await.master, None);
}

/// The proxy again, with what `before` has left in its state directory.
async fn again(cluster: &Cluster, before: &Proxy, minority: &str) -> Proxy {
    let mut spec = spec(cluster);
    spec.set("SWITCHMASTER_STATE_DIR", before.state_dir().display().to_string()).set("SWITCHMASTER_MINORITY", minority);
    start_as(&spec).await
}

#[tokio::test]
async fn a_start_without_any_sentinel_serves_the_master_that_its_replicas_stream_from() {
    let cluster = cluster().await;
    let before = start_as(&spec(&cluster)).await;
    wait_settled(&before, &cluster).await;
    let file = before.state_dir().join("master-mymaster.json");
    until("the replicas and Sentinels to be remembered", LIMIT, async || {
        let text = std::fs::read_to_string(&file).map_err(|error| error.to_string())?;
        let json: serde_json::Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let many = |key: &str| json[key].as_array().map_or(0, Vec::len);
        if many("replicas") == 2 && many("sentinels") == 3 && many("history") > 0 { Ok(()) } else { Err(text) }
    })
    .await
    .unwrap();
    cluster.sentinels().iter().for_each(|sentinel| _ = sentinel.kill9());
    let stop = again(&cluster, &before, "stop").await;
    assert_eq!(wait_stable(&stop).await, cluster.node_addr(0).to_string());
    let mut wire = Wire::open(stop.addr(), cluster.auth().as_ref(), 0).await.unwrap();
    assert_eq!(wire.ask(&["SET", "key", "value"]).await.unwrap().text(), Some("OK"));
    wait_log(&stop, &["WARN", "no Sentinel says", "2 of its 2 replicas stream from it"]).await;
    drop(stop);
    // Nor does it matter that nobody says the name, the first time and later.
    for _ in 0..2 {
        let mut spec = spec(&cluster);
        spec.set("SWITCHMASTER_STATE_DIR", before.state_dir().display().to_string()).unset("SWITCHMASTER_MASTER_NAME");
        let nameless = start_as(&spec).await;
        assert_eq!(wait_stable(&nameless).await, cluster.node_addr(0).to_string());
    }
    let files = std::fs::read_dir(before.state_dir()).unwrap().map(|entry| entry.unwrap().file_name());
    let named = files.map(|name| name.into_string().unwrap()).filter(|name| name.ends_with(".json"));
    assert_eq!(named.collect::<Vec<_>>(), ["master-mymaster.json"]);
    // One replica cannot say: the policy decides.
    cluster.node(1).kill9();
    let stop = again(&cluster, &before, "stop").await;
    wait_view(&stop, "the reason", |view| view.reason.contains("minority = \"stop\"")).await;
    assert_eq!(view(&stop).await.master, None);
    drop(stop);
    let warn = again(&cluster, &before, "warn").await;
    assert_eq!(wait_stable(&warn).await, cluster.node_addr(0).to_string());
    wait_log(&warn, &["ERROR", "Another may have been promoted"]).await;
}

#[tokio::test]
async fn a_state_file_of_another_cluster_costs_no_wait() {
    let (ours, other) = tokio::join!(cluster(), cluster());
    other.failover(LIMIT).await.unwrap();
    other.wait_for_master_change(0, LIMIT).await.unwrap();
    let before = start_as(&spec(&other)).await;
    wait_settled(&before, &other).await;
    let proxy = again(&ours, &before, "warn").await;
    follows_the_honest(&proxy, &ours).await;
    wait_log(&proxy, &["WARN", "master-mymaster.json remembers", "the file is of another cluster"]).await;
}

/// Each Sentinel announces an address at which this host cannot reach it; configured are others.
#[tokio::test]
async fn sentinels_that_announce_unreachable_addresses_count_once() {
    let cluster = Cluster::start(ClusterSpec { partitionable: true, ..ClusterSpec::default() }).await.unwrap();
    // They announce their relays, which let the Sentinels through and nobody else; configured is what is behind.
    for index in 0..3 {
        let relay = cluster.relay(Member::Sentinel(index)).unwrap();
        relay.set_for(Ipv4Addr::LOCALHOST.into(), Passage::Refuse);
    }
    let mut real: Vec<SocketAddr> = cluster.sentinels().iter().map(|sentinel| sentinel.addr()).collect();
    real.sort();
    let proxy = start_as(&listing(&cluster, &real)).await;
    follows_the_honest(&proxy, &cluster).await;
    wait_settled(&proxy, &cluster).await;
    a_while(&proxy).await;
    let seen = view(&proxy).await;
    let addrs: Vec<String> = seen.sentinels.iter().map(|sentinel| sentinel.addr.clone()).collect();
    assert_eq!(addrs.len(), 3, "{addrs:?} instead of {real:?}");
    cluster.failover(LIMIT).await.unwrap();
    cluster.wait_for_master_change(0, LIMIT).await.unwrap();
    wait_stable(&proxy).await;
    assert_eq!(view(&proxy).await.counters.early_commits, 1, "{}", proxy.log());
}

/// One of three is down, and its peers have marked it so.
#[tokio::test]
async fn a_sentinel_that_went_down_a_moment_ago_costs_a_planned_failover_nothing() {
    let cluster = cluster().await;
    let proxy = start_as(&spec(&cluster)).await;
    wait_settled(&proxy, &cluster).await;
    let (gone, id) = identities(&cluster).await[2].clone();
    cluster.sentinel(2).kill9();
    until("its peers to mark it down", LIMIT, async || {
        for index in 0..2 {
            let list = cluster.ask_sentinel(index, &["SENTINEL", "SENTINELS", "mymaster"]).await;
            let list = list.map_err(|error| error.to_string())?;
            let entry = list.items().iter().find(|entry| entry.field("runid") == Some(&id));
            let flags = entry.and_then(|entry| entry.field("flags")).unwrap_or_default();
            if !flags.contains("s_down") {
                return Err(format!("Sentinel {index} says {flags} of {gone}"));
            }
        }
        Ok(())
    })
    .await
    .unwrap();
    // The proxy asks once a second.
    a_while(&proxy).await;
    cluster.failover(LIMIT).await.unwrap();
    cluster.wait_for_master_change(0, LIMIT).await.unwrap();
    wait_stable(&proxy).await;
    assert_eq!(view(&proxy).await.counters.early_commits, 1, "{}", proxy.log());
}
