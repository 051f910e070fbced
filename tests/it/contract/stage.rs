//! One cluster, one failover, and many cases that live through it together, each on connections of its own.
//!
//! The order is the same for every case: it brings its connections into their state, all wait for each other, replies
//! stop (where the master is to die), each sends what shall be outstanding, all wait again, the deed is done.

use std::cell::Cell;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use switchmaster::demo::cluster::{Cluster, ClusterSpec, Member, until};
use switchmaster::demo::proxy::Proxy;
use switchmaster::demo::relay::Passage;
use switchmaster::demo::roles::RoleWatch;
use switchmaster::net::ListenAddr;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::LocalSet;
use tokio::time::timeout;

use super::client::{Client, Failure, Told};
use crate::support::proxy::{spec, view};

const LIMIT: Duration = Duration::from_secs(40);
const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// What happens to the master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// `SENTINEL FAILOVER`; the Sentinels' order to promote arrives when the replicas have all that is under way.
    Planned,
    /// What is outstanding runs and is replicated, its replies are lost, then kill -9.
    Crash,
    /// SIGSTOP: nothing outstanding runs, no connection is closed.
    Hang,
    /// The node becomes a replica without a master while the proxy cannot hear of it: it refuses what is outstanding.
    Demotion,
    /// As `Crash`, and nobody is there to take over.
    Outage,
    /// `SENTINEL FAILOVER` where a master without a replica refuses writes.
    ShortOfReplicas,
}

/// A row of the contract in one situation.
pub struct Case {
    pub row: &'static str,
    pub name: &'static str,
    pub deeds: &'static [Deed],
    pub play: fn(Seat) -> Pin<Box<dyn Future<Output = Told>>>,
}

/// The table of a family: `row, deeds, function;` each.
macro_rules! cases {
    ($($row:expr, $deeds:expr, $play:ident;)*) => {
        pub const CASES: &[$crate::contract::stage::Case] = &[$($crate::contract::stage::Case {
            row: $row,
            name: stringify!($play),
            deeds: $deeds,
            play: |seat| Box::pin($play(seat)),
        }),*];
    };
}
pub(super) use cases;

/// How clients reach the proxy.
#[derive(Clone, Copy, Debug)]
pub enum Door {
    Tcp,
    Unix,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Act {
    Setting,
    /// Send now what shall be outstanding.
    Armed,
    Done,
    /// The new master serves.
    Switched,
}

struct Shared {
    deed: Deed,
    cluster: Cluster,
    proxies: Vec<Proxy>,
    /// Where clients connect to each of them.
    doors: Vec<ListenAddr>,
    _dir: TempDir,
    roles: RoleWatch,
    act: watch::Sender<Act>,
    set: Cell<usize>,
    sent: Cell<usize>,
    /// Cases with something that the old master is still to run.
    under_way: Cell<usize>,
    done_at: Cell<Option<Instant>>,
    new_master: Cell<usize>,
}

/// A case's place on the stage. Leaving early lets the others go on.
pub struct Seat {
    shared: Rc<Shared>,
    tag: String,
    pub resp: u8,
    set: Cell<bool>,
    sent: Cell<bool>,
}

/// The proxies of a `Crash`, by what they do about lost replies.
pub const DEFAULT: usize = 0;
pub const CLOSE: usize = 1;
pub const RETRY_IDEMPOTENT: usize = 2;
pub const RETRY_ALL: usize = 3;

impl Seat {
    pub fn deed(&self) -> Deed {
        self.shared.deed
    }

    /// The case's own key.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// The master died with what was outstanding.
    pub fn loses_replies(&self) -> bool {
        matches!(self.deed(), Deed::Crash | Deed::Hang | Deed::Outage)
    }

    /// A client of the proxy.
    pub async fn open(&self) -> Told<Client> {
        self.open_at(DEFAULT).await
    }

    pub async fn open_at(&self, proxy: usize) -> Told<Client> {
        Client::open(&self.shared.doors[proxy], self.resp, &self.tag).await
    }

    /// A client of the proxy that says nothing before the deed, in RESP2.
    pub async fn open_fresh(&self) -> Told<Client> {
        Client::open(&self.shared.doors[DEFAULT], 2, &self.tag).await
    }

    /// Waits until every replica answers so.
    pub async fn replicated(&self, expected: &str, request: &str) -> Told {
        for replica in 1..self.nodes() {
            self.node_says(replica, request, expected).await?;
        }
        Ok(())
    }

    /// The old master, directly.
    pub async fn old(&self) -> Told<Client> {
        self.node(0).await
    }

    /// A node, directly.
    pub async fn node(&self, index: usize) -> Told<Client> {
        Client::open(&ListenAddr::Tcp(self.shared.cluster.node(index).addr()), 2, &self.tag).await
    }

    pub fn nodes(&self) -> usize {
        self.shared.cluster.nodes().len()
    }

    /// Waits until a node answers the request so.
    pub async fn node_says(&self, index: usize, request: &str, expected: &str) -> Told {
        let started = Instant::now();
        let mut node = self.node(index).await?;
        loop {
            let reply = node.get(request).await?;
            if reply == expected.replace('@', &self.tag) {
                return Ok(());
            }
            if started.elapsed() > LIMIT {
                return Err(Failure(format!("node {index} answers {request} with {reply}")));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Lives through the deed with these requests outstanding (where nobody dies they are just sent).
    pub async fn failover(&self, client: &mut Client, outstanding: &[&str]) -> Told {
        self.armed().await?;
        for request in outstanding {
            client.say(request).await?;
        }
        self.done().await
    }

    /// The connections are in their state. Returns when requests can be sent that will be outstanding.
    pub async fn armed(&self) -> Told {
        if !self.set.replace(true) {
            self.shared.set.set(self.shared.set.get() + 1);
        }
        self.reached(Act::Armed).await
    }

    /// What shall be outstanding has been sent. Returns when the deed is done.
    pub async fn done(&self) -> Told {
        if !self.sent.replace(true) {
            self.shared.sent.set(self.shared.sent.get() + 1);
        }
        self.reached(Act::Done).await
    }

    /// A planned promotion waits from now on until the old master answers so.
    pub async fn runs_before_the_promotion(&self, request: &str, expected: &str) -> Told {
        self.shared.under_way.set(self.shared.under_way.get() + 1);
        let ran = self.node_says(0, request, expected).await;
        self.shared.under_way.set(self.shared.under_way.get() - 1);
        ran
    }

    /// Waits for the new master: a connection to it, directly.
    pub async fn switched(&self) -> Told<Client> {
        self.reached(Act::Switched).await?;
        self.node(self.shared.new_master.get()).await
    }

    /// Waits until the connection with the case's name is blocked there; its id.
    pub async fn blocked_on(&self, direct: &mut Client) -> Told<String> {
        let name = format!(" name={} ", self.tag);
        let started = Instant::now();
        while started.elapsed() < LIMIT {
            let list = direct.get("CLIENT LIST").await?;
            let line = list.split('\n').find(|line| line.contains(&name) && line.contains(" flags=b "));
            if let Some(id) = line.and_then(|line| line.split("id=").nth(1)?.split(' ').next()) {
                return Ok(id.to_owned());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Err(Failure("it is not blocked there".into()))
    }

    /// When the new master became one.
    pub fn promoted_at(&self) -> Option<Instant> {
        Some(self.shared.roles.promotion_after(self.shared.done_at.get()?)?.at)
    }

    /// Prints something that was measured.
    pub fn note(&self, text: &str) {
        println!("  note  {:?} RESP{} {}: {text}", self.deed(), self.resp, self.tag);
    }

    async fn reached(&self, act: Act) -> Told {
        let mut acts = self.shared.act.subscribe();
        let reached = timeout(2 * LIMIT, acts.wait_for(|now| *now >= act)).await;
        reached.map(drop).map_err(|_| Failure(format!("the stage never came to {act:?}")))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        for (own, all) in [(&self.set, &self.shared.set), (&self.sent, &self.shared.sent)] {
            if !own.replace(true) {
                all.set(all.get() + 1);
            }
        }
    }
}

/// Plays all cases that know this deed, in RESP2 and RESP3, prints each by its row, and fails if any failed.
pub async fn play(deed: Deed, door: Door, families: &[&'static [Case]]) {
    // Each is the load of a whole small machine: two at once starve each other's failovers.
    static ONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let _one = ONE.lock().await;
    LocalSet::new().run_until(play_all(deed, door, families)).await;
}

async fn play_all(deed: Deed, door: Door, families: &[&'static [Case]]) {
    let shared = Rc::new(set_up(deed, door).await);
    let mut tasks = Vec::new();
    for case in families.iter().copied().flatten().filter(|case| case.deeds.contains(&deed)) {
        for resp in [2, 3] {
            let seat = Seat {
                shared: shared.clone(),
                tag: format!("{}-{resp}", case.name),
                resp,
                set: Cell::new(false),
                sent: Cell::new(false),
            };
            tasks.push((case, resp, tokio::task::spawn_local((case.play)(seat))));
        }
    }
    assert!(!tasks.is_empty(), "no case for {deed:?}");
    direct(&shared, tasks.len()).await;

    let mut failed = Vec::new();
    for (case, resp, task) in tasks {
        let outcome = match timeout(LIMIT, task).await {
            Ok(Ok(Ok(()))) => "ok".into(),
            Ok(Ok(Err(Failure(why)))) => format!("FAILED: {why}"),
            Ok(Err(panic)) => format!("FAILED: {panic}"),
            Err(_) => "FAILED: it did not end".into(),
        };
        let line = format!("{deed:?} | {} | {} RESP{resp}: {outcome}", case.row, case.name);
        println!("{line}");
        if outcome != "ok" {
            failed.push(line);
        }
    }
    for proxy in &shared.proxies {
        let log = proxy.log();
        assert!(!log.contains("panicked"), "the proxy panicked:\n{log}");
    }
    if !failed.is_empty() {
        println!("--- the proxy logged:\n{}", shared.proxies[0].log());
        let ended = view(&shared.proxies[0]).await.traffic.closed_by;
        println!("--- its sessions ended: {:?}", ended.iter().filter(|(_, count)| *count > 0).collect::<Vec<_>>());
        panic!("{} cases failed:\n{}", failed.len(), failed.join("\n"));
    }
}

async fn set_up(deed: Deed, door: Door) -> Shared {
    let node_config: &[&str] = match deed {
        Deed::Demotion => &["replica-serve-stale-data no"],
        Deed::ShortOfReplicas => &["min-replicas-to-write 1", "min-replicas-max-lag 10"],
        _ => &[],
    };
    let (replicas, sentinels) = if deed == Deed::Outage { (0, 1) } else { (2, 3) };
    let cluster = Cluster::start(ClusterSpec {
        replicas,
        sentinels,
        // A mute master shall be killed, not replaced, however long the cases take to send, and a replica that does not
        // hear its Sentinels for a while shall be promoted all the same.
        down_after: Duration::from_secs(match deed {
            Deed::Planned => 5,
            Deed::Crash => 3,
            _ => 1,
        }),
        partitionable: matches!(deed, Deed::Planned | Deed::Crash | Deed::Hang | Deed::Outage | Deed::Demotion),
        acl_user: Some(("app".into(), "app-secret".into(), "~* &* +@all".into())),
        node_config: node_config.iter().map(|line| line.to_string()).collect(),
        ..ClusterSpec::default()
    })
    .await
    .unwrap();
    let policies: &[&str] = match deed {
        Deed::Crash => &["error", "close", "retry-idempotent", "retry-all"],
        _ => &["error"],
    };
    let dir = tempfile::tempdir().unwrap();
    let (mut proxies, mut doors) = (Vec::new(), Vec::new());
    for policy in policies {
        let mut spec = spec(&cluster);
        let socket = dir.path().join(policy);
        spec.also_listen.push(format!("unix:{}", socket.display()));
        spec.set("SWITCHMASTER_ON_LOST_REPLY", *policy);
        match *policy {
            "close" => _ = spec.set("SWITCHMASTER_ON_LOST_POP", "close"),
            "retry-all" => _ = spec.set("SWITCHMASTER_ON_LOST_POP", "error"),
            _ => {}
        }
        match deed {
            // Silence alone shall not hold anything while requests are being sent to a mute master.
            Deed::Crash => _ = spec.set("SWITCHMASTER_SUSPECT_AFTER", "10s"),
            Deed::Outage => {
                spec.set("SWITCHMASTER_SUSPECT_AFTER", "2s").set("SWITCHMASTER_HOLD_TIMEOUT", "3s");
            }
            // The proxy shall learn of it from nobody but the node's refusals.
            Deed::Demotion => {
                spec.set("SWITCHMASTER_HEARTBEAT", "10s").set("SWITCHMASTER_SUSPECT_AFTER", "30s");
            }
            _ => {}
        }
        let proxy = Proxy::start(&spec).await.unwrap_or_else(|error| panic!("{error}"));
        doors.push(match door {
            Door::Tcp => ListenAddr::Tcp(proxy.addr()),
            Door::Unix => ListenAddr::Unix(socket),
        });
        proxies.push(proxy);
    }
    let roles = RoleWatch::start(&cluster).unwrap();
    Shared {
        deed,
        cluster,
        proxies,
        doors,
        _dir: dir,
        roles,
        act: watch::Sender::new(Act::Setting),
        set: Cell::new(0),
        sent: Cell::new(0),
        under_way: Cell::new(0),
        done_at: Cell::new(None),
        new_master: Cell::new(0),
    }
}

/// Does the deed once all are ready for it.
async fn direct(shared: &Shared, cases: usize) {
    let cluster = &shared.cluster;
    all(cases, &shared.set, "to be set").await;
    match shared.deed {
        Deed::Crash | Deed::Outage => cluster.relay(Member::Node(0)).unwrap().set_for(LOCALHOST, Passage::Mute),
        Deed::Hang => {
            // A write of which the proxy hears nothing: it cannot know that the old master had said its last.
            let relay = cluster.relay(Member::Node(0)).unwrap();
            relay.set_for(LOCALHOST, Passage::Mute);
            cluster.ask_node(0, &["SET", "stage", "hangs"]).await.unwrap();
            for replica in 1..cluster.nodes().len() {
                until("the last write to be replicated", LIMIT, async || {
                    let seen = cluster.ask_node(replica, &["GET", "stage"]).await.map_err(|error| error.to_string())?;
                    if seen.text() == Some("hangs") { Ok(()) } else { Err(seen.to_string()) }
                })
                .await
                .unwrap();
            }
            cluster.node(0).stop();
            relay.restore();
        }
        Deed::Demotion => {
            for sentinel in 0..cluster.sentinels().len() {
                cluster.relay(Member::Sentinel(sentinel)).unwrap().set_for(LOCALHOST, Passage::BlackHole);
            }
            shared.done_at.set(Some(cluster.failover(LIMIT).await.unwrap()));
            cluster.wait_for_master_change(0, LIMIT).await.unwrap();
            // A master that is nowhere: reads are refused too.
            cluster.ask_node(0, &["REPLICAOF", "127.0.0.1", "1"]).await.unwrap();
        }
        Deed::Planned | Deed::ShortOfReplicas => {}
    }
    shared.act.send_replace(Act::Armed);
    all(cases, &shared.sent, "to send").await;
    match shared.deed {
        Deed::Crash | Deed::Outage => {
            // What was sent has run, and the replicas have it.
            tokio::time::sleep(Duration::from_millis(200)).await;
            shared.done_at.set(Some(cluster.node(0).kill9()));
            cluster.relay(Member::Node(0)).unwrap().restore();
            // The end of its connections is seen; what is sent sooner may have been sent to the dead.
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Deed::Hang => {
            shared.done_at.set(Some(Instant::now()));
            // By then its silence has been noticed (`suspect_after` is 600 ms), and what is sent now is held.
            tokio::time::sleep(Duration::from_millis(1000)).await;
        }
        Deed::Demotion => {
            tokio::time::sleep(Duration::from_millis(200)).await;
            cluster.heal();
        }
        Deed::Planned => {
            cluster.partition(
                &[Member::Sentinel(0), Member::Sentinel(1), Member::Sentinel(2)],
                &[Member::Node(1), Member::Node(2)],
            );
            shared.done_at.set(Some(cluster.failover(LIMIT).await.unwrap()));
        }
        Deed::ShortOfReplicas => shared.done_at.set(Some(cluster.failover(LIMIT).await.unwrap())),
    }
    shared.act.send_replace(Act::Done);
    if shared.deed == Deed::Planned {
        drained(shared).await;
        cluster.heal();
    }
    if shared.deed == Deed::Outage {
        // The deadline passes, and the cases have a moment with no master at all; then the node comes back, empty.
        let mut probe = Client::open(&shared.doors[DEFAULT], 2, "probe").await.ok().expect("an open port");
        probe.ask("PING", "-MASTERDOWN…").await.unwrap_or_else(|Failure(why)| panic!("{why}"));
        tokio::time::sleep(Duration::from_secs(1)).await;
        cluster.node(0).restart().await.unwrap();
    } else {
        shared.new_master.set(cluster.wait_for_master_change(0, LIMIT).await.unwrap());
    }
    shared.act.send_replace(Act::Switched);
}

/// Waits until the proxy holds, what is under way has run, and the replicas have it. Left to itself Sentinel gives 60 ms
/// for that, which a busy machine does not keep; whether they suffice is measured elsewhere, this is what follows.
async fn drained(shared: &Shared) {
    let (mut before, mut still, mut held) = (Vec::new(), 0, false);
    until("what is under way to be replicated", LIMIT, async || {
        // The proxy holds for 1.5 s without a promotion: no time is to be lost.
        held = held || view(&shared.proxies[0]).await.phase != "stable";
        let mut offsets = Vec::new();
        for node in 0..shared.cluster.nodes().len() {
            let info =
                shared.cluster.ask_node(node, &["INFO", "replication"]).await.map_err(|error| error.to_string())?;
            let offset = info.text().and_then(|text| text.split("master_repl_offset:").nth(1)?.lines().next());
            offsets.push(offset.unwrap_or_default().to_owned());
        }
        let calm = held && shared.under_way.get() == 0 && offsets.iter().all(|one| *one == offsets[0]);
        still = if calm && offsets == before { still + 1 } else { 0 };
        before.clone_from(&offsets);
        // Long enough for the proxy to see it too.
        if still == 3 {
            Ok(())
        } else {
            Err(format!("held: {held}, {} under way, {offsets:?}", shared.under_way.get()))
        }
    })
    .await
    .unwrap();
}

async fn all(cases: usize, done: &Cell<usize>, what: &str) {
    until(what, LIMIT, async || match done.get() {
        count if count >= cases => Ok(()),
        count => Err(format!("{count} of {cases}")),
    })
    .await
    .unwrap();
}
