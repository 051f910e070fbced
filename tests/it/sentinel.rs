//! Following real Sentinels: planned failover, crash, silence. Needs redis-server and redis-sentinel in PATH.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command as Process, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use switchmaster::config::{HoldTimeout, HostPort, Minority, SentinelConfig};
use switchmaster::control::{Control, ControlRequest};
use switchmaster::drain;
use switchmaster::secret::{Credentials, Secret};
use switchmaster::sentinel::{self, Parts};
use switchmaster::status::{CredentialsState, View};
use switchmaster::topology::{Entry, Phase, Topology};
use switchmaster::upstream::Upstream;
use tokio::sync::{mpsc, oneshot, watch};

const SOON: Duration = Duration::from_secs(20);

/// Processes of ours in a temporary directory; dropping it ends them.
struct Cluster {
    dir: tempfile::TempDir,
    nodes: Vec<(u16, Child)>,
    sentinels: Vec<(u16, Child)>,
    password: Option<&'static str>,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

impl Cluster {
    fn start(password: Option<&'static str>) -> Cluster {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut cluster = Cluster { dir, nodes: Vec::new(), sentinels: Vec::new(), password };
        let master = cluster.start_node(None);
        cluster.start_node(Some(master));
        cluster.start_node(Some(master));
        for _ in 0..3 {
            cluster.start_sentinel(&[("mymaster", master)], "");
        }
        let port = cluster.sentinels[0].0;
        wait_for("the Sentinels know each other and the replicas", || {
            let told = ask(port, None, "SENTINEL MASTER mymaster");
            let value = |key: &str| told.iter().skip_while(|line| *line != key).nth(2).cloned();
            let settled =
                value("num-slaves").as_deref() == Some("2") && value("num-other-sentinels").as_deref() == Some("2");
            settled
                && cluster.sentinels.iter().all(|(port, _)| {
                    ask(*port, None, "SENTINEL CKQUORUM mymaster").first().is_some_and(|line| line.starts_with("+OK 3"))
                })
        });
        cluster
    }

    fn start_node(&mut self, replica_of: Option<u16>) -> u16 {
        let port = free_port();
        let mut text = format!("port {port}\nbind 127.0.0.1\nsave \"\"\nappendonly no\nrepl-diskless-sync-delay 0\n");
        if let Some(master) = replica_of {
            text += &format!("replicaof 127.0.0.1 {master}\n");
        }
        if let Some(password) = self.password {
            text += &format!("requirepass {password}\nmasterauth {password}\n");
        }
        let child = self.spawn("redis-server", port, &text);
        let password = self.password;
        wait_for("a node answers", || !ask(port, password, "PING").is_empty());
        if replica_of.is_some() {
            wait_for("a replica is in sync", || {
                ask(port, password, "INFO replication").iter().any(|line| line == "master_link_status:up")
            });
        }
        self.nodes.push((port, child));
        port
    }

    fn start_sentinel(&mut self, masters: &[(&str, u16)], more: &str) -> u16 {
        let port = free_port();
        let mut text = format!("port {port}\nbind 127.0.0.1\n{more}");
        for (name, master) in masters {
            text += &format!(
                "sentinel monitor {name} 127.0.0.1 {master} 2\nsentinel down-after-milliseconds {name} 1000\nsentinel failover-timeout {name} 10000\n"
            );
            if let Some(password) = self.password {
                text += &format!("sentinel auth-pass {name} {password}\n");
            }
        }
        let child = self.spawn("redis-sentinel", port, &text);
        wait_for("a Sentinel answers", || !ask(port, None, "PING").is_empty());
        self.sentinels.push((port, child));
        port
    }

    /// One master and one Sentinel, which has these lines in its configuration too.
    fn small(sentinel: &str) -> Cluster {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut cluster = Cluster { dir, nodes: Vec::new(), sentinels: Vec::new(), password: None };
        let master = cluster.start_node(None);
        cluster.start_sentinel(&[("mymaster", master)], sentinel);
        cluster
    }

    fn spawn(&self, program: &str, port: u16, text: &str) -> Child {
        let dir = self.dir.path().join(port.to_string());
        fs::create_dir(&dir).expect("a directory");
        fs::write(dir.join("conf"), text).expect("a configuration");
        Process::new(program)
            .arg("conf")
            .current_dir(&dir)
            .stdout(fs::File::create(dir.join("log")).expect("a log"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{program} is needed for this test and cannot be started: {error}"))
    }

    fn addr(&self, node: usize) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.nodes[node].0))
    }

    fn signal(child: &Child, signal: &str) {
        let status = Process::new("kill").arg(format!("-{signal}")).arg(child.id().to_string()).status();
        assert!(status.is_ok_and(|status| status.success()));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for (_, child) in self.nodes.iter_mut().chain(&mut self.sentinels) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The lines of a reply, cut short by silence; empty when nobody answers.
fn ask(port: u16, password: Option<&str>, command: &str) -> Vec<String> {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return Vec::new() };
    let _ = stream.set_read_timeout(Some(Duration::from_millis(50)));
    let auth = password.map(|password| format!("AUTH {password}\r\n")).unwrap_or_default();
    let _ = stream.write_all(format!("{auth}{command}\r\n").as_bytes());
    let lines = BufReader::new(stream).lines().map_while(Result::ok);
    lines.skip(usize::from(password.is_some())).collect()
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !done() {
        assert!(Instant::now() < deadline, "not within {SOON:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The watch task on a thread of its own, with every entry it published.
struct Following {
    upstream: Arc<Upstream>,
    topology: Arc<Topology>,
    entries: Arc<Mutex<Vec<(Instant, Entry)>>>,
    status: watch::Receiver<View>,
    commands: mpsc::Sender<ControlRequest>,
    ended: Arc<Mutex<Option<Result<(), sentinel::Error>>>>,
    _signal: drain::Signal,
}

impl Following {
    fn start(cluster: &Cluster, password: Option<&str>) -> Following {
        Following::start_with(cluster, password, |_| {})
    }

    fn start_with(cluster: &Cluster, password: Option<&str>, change: impl FnOnce(&mut Parts)) -> Following {
        let mut parts = Parts {
            sentinel: SentinelConfig {
                addrs: vec![HostPort { host: "127.0.0.1".into(), port: cluster.sentinels[0].0 }],
                master_name: None,
                auth: None,
                redis_auth: password.map(|password| Credentials { username: None, password: Secret::new(password) }),
                learn_credentials: true,
                poll_interval: Duration::from_secs(1),
                heartbeat: Duration::from_millis(200),
                suspect_after: Duration::from_millis(600),
                minority: Minority::Warn,
                address_map: Vec::new(),
            },
            hold_timeout: HoldTimeout::Auto,
            planned_hold_limit: Duration::from_millis(1500),
            state_dir: None,
            own: Vec::new(),
        };
        change(&mut parts);
        let _ = tracing_subscriber::fmt().with_test_writer().try_init();
        let name = parts.sentinel.master_name.as_deref();
        let (upstream, reports) = Upstream::new(name, parts.sentinel.redis_auth.as_ref(), true);
        let topology = upstream.topology.clone();
        let (commands, command_receiver) = mpsc::channel(4);
        let (status_sender, status) = watch::channel(View::default());
        let (signal, drain) = drain::channel();
        let entries = Arc::new(Mutex::new(Vec::new()));
        let ended = Arc::new(Mutex::new(None));
        let end = ended.clone();
        let (seen, watched, watching) = (entries.clone(), topology.clone(), upstream.clone());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let mut changed = watched.subscribe();
                tokio::spawn(async move {
                    let mut last = None;
                    while changed.changed().await.is_ok() {
                        let entry = watched.current();
                        if last != Some(entry.generation) {
                            last = Some(entry.generation);
                            seen.lock().expect("no panic").push((Instant::now(), (*entry).clone()));
                        }
                    }
                });
                let parts = watch::channel(parts).1;
                let result =
                    sentinel::run(parts, watching, reports, || 0, command_receiver, status_sender, drain).await;
                *end.lock().expect("no panic") = Some(result);
            });
        });
        Following { upstream, topology, entries, status, commands, ended, _signal: signal }
    }

    fn until(&self, what: &str, mut holds: impl FnMut(&Entry) -> bool) -> Arc<Entry> {
        let deadline = Instant::now() + SOON;
        loop {
            let entry = self.topology.current();
            if holds(&entry) {
                return entry;
            }
            assert!(Instant::now() < deadline, "not within {SOON:?}: {what}; {entry:?}; {:?}", self.status.borrow());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn stable(&self) -> Arc<Entry> {
        self.until("a stable, confirmed master", |entry| {
            entry.phase == Phase::Stable && entry.master.as_ref().is_some_and(|master| !master.provisional)
        })
    }

    fn failover(&self) {
        let (reply, answer) = oneshot::channel();
        self.commands.blocking_send((Control::Failover { force: false }, reply)).expect("the task runs");
        assert_eq!(answer.blocking_recv().expect("answered").map(drop), Ok(()));
    }

    /// Entries since `from`, with their age in milliseconds.
    fn since(&self, from: Instant) -> Vec<(u128, Entry)> {
        let entries = self.entries.lock().expect("no panic");
        entries
            .iter()
            .filter(|(at, _)| *at >= from)
            .map(|(at, entry)| ((*at - from).as_millis(), entry.clone()))
            .collect()
    }

    fn show(&self, what: &str, from: Instant) {
        for (ms, entry) in self.since(from) {
            println!("{what} {ms:>5} ms term {} {:?} {:?} {}", entry.term, entry.phase, entry.master, entry.reason);
        }
        println!("{what} {:?}", self.status.borrow().counters);
    }
}

/// When each Sentinel said `+switch-master`.
fn hear_switches(cluster: &Cluster) -> Arc<Mutex<Vec<Instant>>> {
    let heard = Arc::new(Mutex::new(Vec::new()));
    for (port, _) in &cluster.sentinels {
        let mut stream = TcpStream::connect(("127.0.0.1", *port)).expect("a Sentinel");
        stream.write_all(b"SUBSCRIBE +switch-master\r\n").expect("subscribes");
        let heard = heard.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                if line.starts_with("mymaster ") {
                    heard.lock().expect("no panic").push(Instant::now());
                }
            }
        });
    }
    heard
}

#[test]
fn a_planned_failover_is_committed_before_switch_master() {
    let cluster = Cluster::start(Some("secret"));
    let following = Following::start(&cluster, Some("secret"));
    let before = following.stable();
    assert_eq!(before.master.as_ref().expect("a master").addr, cluster.addr(0));
    wait_for("all three Sentinels are followed", || following.status.borrow().agreement.agreeing == 3);
    // Let a few heartbeats see both replicas.
    wait_for("both replicas are seen", || following.status.borrow().replicas.len() == 2);
    let switches = hear_switches(&cluster);
    let from = Instant::now();
    following.failover();
    let new = following.until("a new term", |entry| entry.term > before.term && entry.phase == Phase::Stable);
    let took = from.elapsed();
    let heard = switches.lock().expect("no panic").len();
    let after = following.stable();
    following.show("planned", from);
    assert_eq!(heard, 0, "committed after {took:?}, before any +switch-master");
    assert!(new.replicated_until.is_some_and(|at| at >= from), "what the old master acknowledged is known to be there");
    assert_ne!(after.master.as_ref().expect("a master").addr, cluster.addr(0));
    assert_eq!(after.term, before.term + 1);
    let counters = following.status.borrow().counters.clone();
    assert_eq!((counters.failovers_planned, counters.early_commits, counters.early_commits_wrong), (1, 1, 0));
}

#[test]
fn a_failover_that_waits_for_the_epoch_is_over_before_its_sentinel_ends_it() {
    let cluster = Cluster::start(None);
    let following = Following::start(&cluster, None);
    let before = following.stable();
    wait_for("all three Sentinels are followed", || following.status.borrow().agreement.agreeing == 3);
    wait_for("both replicas are seen", || following.status.borrow().replicas.len() == 2);
    // One does not say whether the candidate was a master lately: nobody goes on before the epoch has risen.
    ask(cluster.sentinels[2].0, None, "ACL SETUSER default -sentinel|replicas");
    let switches = hear_switches(&cluster);
    let from = Instant::now();
    following.failover();
    following.until("a new term", |entry| entry.term > before.term && entry.phase == Phase::Stable);
    let heard = switches.lock().expect("no panic").len();
    following.show("by the epoch", from);
    assert_eq!(following.status.borrow().counters.early_commits, 0);
    assert!(heard < 3, "the Sentinel that runs the failover has said +switch-master before");
    wait_for("it ends the failover", || switches.lock().expect("no panic").len() == 3);
}

#[test]
fn a_killed_master_is_replaced_before_switch_master() {
    let mut cluster = Cluster::start(None);
    let following = Following::start(&cluster, None);
    let before = following.stable();
    wait_for("all three Sentinels are followed", || following.status.borrow().agreement.agreeing == 3);
    wait_for("both replicas are seen", || following.status.borrow().replicas.len() == 2);
    let switches = hear_switches(&cluster);
    let from = Instant::now();
    cluster.nodes[0].1.kill().expect("killed");
    let suspect = following.until("suspect at once", |entry| entry.phase != Phase::Stable);
    let suspected = from.elapsed();
    let new = following.until("a new term", |entry| entry.term > before.term && entry.phase == Phase::Stable);
    let heard = switches.lock().expect("no panic").len();
    following.stable();
    following.show("crash", from);
    println!("suspect after {suspected:?}");
    assert!(!suspect.reason.contains("silent"), "its end was seen, not its silence: {}", suspect.reason);
    assert_eq!(heard, 0, "before any +switch-master");
    assert_eq!(new.replicated_until, None);
    assert_eq!(following.status.borrow().counters.failovers_crash, 1);
}

#[test]
fn a_stopped_master_is_left_and_does_not_come_back() {
    let cluster = Cluster::start(None);
    let following = Following::start(&cluster, None);
    let before = following.stable();
    wait_for("both replicas are seen", || following.status.borrow().replicas.len() == 2);
    wait_for("all three Sentinels are followed", || following.status.borrow().agreement.agreeing == 3);
    let from = Instant::now();
    Cluster::signal(&cluster.nodes[0].1, "STOP");
    let suspect = following.until("suspect", |entry| entry.phase != Phase::Stable);
    let suspected = from.elapsed();
    following.until("a new term", |entry| entry.term > before.term && entry.phase == Phase::Stable);
    Cluster::signal(&cluster.nodes[0].1, "CONT");
    following.stable();
    std::thread::sleep(Duration::from_secs(2));
    following.show("stop", from);
    let after = following.stable();
    assert_eq!(after.term, before.term + 1);
    assert_ne!(after.master.as_ref().expect("a master").addr, cluster.addr(0));
    println!("suspect after {suspected:?}");
    assert!(suspected > Duration::from_millis(400), "{suspected:?}");
    assert_eq!(suspect.phase, Phase::Suspect, "before any Sentinel promotes another: {}", suspect.reason);
}

#[test]
fn a_master_restarted_in_place_is_a_new_term_in_the_same_place() {
    let mut cluster = Cluster::start(None);
    for (port, _) in &cluster.sentinels {
        ask(*port, None, "SENTINEL SET mymaster down-after-milliseconds 10000");
    }
    ask(cluster.nodes[0].0, None, "SET key value");
    let following = Following::start(&cluster, None);
    let before = following.stable();
    wait_for("all three Sentinels are followed", || following.status.borrow().agreement.agreeing == 3);
    let port = cluster.nodes[0].0;
    let from = Instant::now();
    cluster.nodes[0].1.kill().expect("killed");
    cluster.nodes[0].1.wait().expect("ended");
    following.until("suspect", |entry| entry.phase == Phase::Suspect);
    cluster.nodes[0].1 = Process::new("redis-server")
        .arg("conf")
        .current_dir(cluster.dir.path().join(port.to_string()))
        .stdout(Stdio::null())
        .spawn()
        .expect("starts");
    let after = following.until("the new process", |entry| entry.term > before.term && entry.phase == Phase::Stable);
    following.show("restart", from);
    assert_eq!(after.master.as_ref().expect("a master").addr, cluster.addr(0));
    assert_ne!(after.master.as_ref().expect("a master").run_id, before.master.as_ref().expect("a master").run_id);
    wait_for("the loss is told", || following.status.borrow().warnings.iter().any(|warning| warning.contains("EMPTY")));
}

#[test]
fn without_the_password_sentinel_is_followed_and_a_clients_password_is_learnt() {
    let cluster = Cluster::start(Some("secret"));
    let following = Following::start(&cluster, None);
    let before = following.stable();
    wait_for("it is told", || following.status.borrow().warnings.iter().any(|warning| warning.contains("password")));
    let from = Instant::now();
    following.failover();
    following.until("a new term by the epoch", |entry| entry.term > before.term && entry.phase == Phase::Stable);
    following.show("no password", from);
    let credentials = Credentials { username: None, password: Secret::new("secret") };
    following.upstream.credentials.offer(credentials);
    wait_for("the password is learnt", || {
        following.status.borrow().credentials == CredentialsState::Learnt
            && following.status.borrow().master.as_ref().is_some_and(|master| master.run_id.is_some())
    });
    assert_eq!(following.topology.current().term, before.term + 1);
}

#[test]
fn frozen_and_dead_sentinels_change_nothing() {
    let mut cluster = Cluster::start(None);
    let following = Following::start(&cluster, None);
    let before = following.stable();
    wait_for("all three Sentinels are followed", || following.status.borrow().agreement.agreeing == 3);
    Cluster::signal(&cluster.sentinels[0].1, "STOP");
    wait_for("the frozen one is lost", || {
        following.status.borrow().sentinels.iter().filter(|sentinel| sentinel.connected).count() == 2
    });
    for (_, child) in &mut cluster.sentinels[1..] {
        child.kill().expect("killed");
    }
    wait_for("all are lost", || following.status.borrow().sentinels.iter().all(|sentinel| !sentinel.connected));
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(following.topology.current().phase, Phase::Stable);
    assert_eq!(following.topology.current().term, before.term);
    Cluster::signal(&cluster.sentinels[0].1, "CONT");
    wait_for("it is back", || following.status.borrow().sentinels.iter().any(|sentinel| sentinel.connected));
}

#[test]
fn fail_backs_are_followed_and_never_wrong() {
    let cluster = Cluster::start(None);
    let following = Following::start(&cluster, None);
    following.stable();
    wait_for("all three Sentinels are followed", || following.status.borrow().agreement.agreeing == 3);
    for round in 0..3 {
        let before = following.stable();
        let from = Instant::now();
        wait_for("Sentinel takes another failover", || {
            let (reply, answer) = oneshot::channel();
            following.commands.blocking_send((Control::Failover { force: false }, reply)).expect("the task runs");
            let taken = answer.blocking_recv().expect("answered").is_ok();
            taken && {
                let deadline = Instant::now() + Duration::from_secs(5);
                while following.topology.current().term == before.term && Instant::now() < deadline {
                    std::thread::sleep(Duration::from_millis(5));
                }
                following.topology.current().term > before.term
            }
        });
        following.stable();
        following.show(&format!("fail-back {round}"), from);
    }
    assert_eq!(following.status.borrow().counters.early_commits_wrong, 0);
}

fn sentinel_password(username: Option<&str>, password: &str) -> impl FnOnce(&mut Parts) {
    let credentials = Credentials { username: username.map(Into::into), password: Secret::new(password) };
    move |parts| {
        // One Sentinel with a quorum of two: its claim alone must do, as in a set-up of one.
        parts.sentinel.auth = Some(credentials);
        parts.sentinel.master_name = Some("mymaster".into());
    }
}

#[test]
fn sentinels_take_a_password_an_acl_user_or_none_at_all() {
    let acl = "user proxy on >pw -@all +auth +hello +ping +info +role +client|setname +subscribe +psubscribe +unsubscribe +punsubscribe +sentinel|master +sentinel|masters +sentinel|replicas +sentinel|slaves +sentinel|sentinels +sentinel|get-master-addr-by-name +sentinel|ckquorum +sentinel|myid &*\n";
    for (lines, username, password) in
        [("requirepass pw\n", None, "pw"), (acl, Some("proxy"), "pw"), ("", None, "superfluous")]
    {
        let cluster = Cluster::small(lines);
        let following = Following::start_with(&cluster, None, sentinel_password(username, password));
        assert_eq!(following.stable().master.as_ref().expect("a master").addr, cluster.addr(0));
        let warned = || following.status.borrow().warnings.iter().any(|warning| warning.contains("needs no password"));
        wait_for("a snapshot shows the master", || following.status.borrow().master.is_some());
        assert_eq!(warned(), password == "superfluous", "{:?}", following.status.borrow().warnings);
    }
    let cluster = Cluster::small("requirepass pw\n");
    let following = Following::start_with(&cluster, None, sentinel_password(None, "wrong"));
    let address = format!("127.0.0.1:{}", cluster.sentinels[0].0);
    wait_for("the refusal is told with its address", || {
        let warnings = following.status.borrow().warnings.clone();
        warnings.iter().any(|warning| warning.contains("WRONGPASS") && warning.contains(&address))
    });
}

#[test]
fn names_are_resolved_and_our_own_address_is_refused() {
    let cluster = Cluster::small("");
    let following = Following::start_with(&cluster, None, |parts| parts.sentinel.addrs[0].host = "localhost".into());
    following.stable();
    let own = SocketAddr::from(([0, 0, 0, 0], cluster.addr(0).port()));
    let following = Following::start_with(&cluster, None, |parts| parts.own = vec![own]);
    wait_for("the loop is told", || {
        following.status.borrow().warnings.iter().any(|warning| warning.contains("this proxy"))
    });
    assert_eq!(following.topology.current().master, None);
}

#[test]
fn several_masters_without_a_name_are_an_error_that_lists_them() {
    let mut cluster = Cluster::small("");
    let master = cluster.nodes[0].0;
    let port = cluster.start_sentinel(&[("one", master), ("two", master)], "");
    let following = Following::start_with(&cluster, None, |parts| parts.sentinel.addrs[0].port = port);
    wait_for("it has ended", || following.ended.lock().expect("no panic").is_some());
    let ended = following.ended.lock().expect("no panic").clone();
    assert_eq!(ended, Some(Err(sentinel::Error::SeveralMasters(vec!["one".into(), "two".into()]))));
}
