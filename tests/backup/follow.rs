//! Point in time on real clusters: what was shipped is restored exactly, whatever happened while it was.
//!
//! Each test drives load it can account for: a client counts what was acknowledged, and pauses where a moment is taken.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use switchmaster::backup::Error;
use switchmaster::backup::follow::replay::{Goal, Replay};
use switchmaster::backup::follow::segment::Name;
use switchmaster::backup::pack::{Identities, Unpacker};
use switchmaster::backup::restore::primary::{Primary, Rdb, Stage};
use switchmaster::backup::store::Store;
use switchmaster::backup::{Manifest, catalog};
use switchmaster::config::{Config, Location};
use switchmaster::demo::cluster::{Cluster, ClusterSpec, until};
use switchmaster::wire::{Reply, Wire};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::sync::watch;

use super::lone::Lone;
use super::zoo;

const LIMIT: Duration = Duration::from_secs(60);
const MASTER: &str = "mymaster";

/// A cluster, a store in a folder, and the followers that run between them.
struct Scene {
    cluster: Cluster,
    dir: TempDir,
    config: Config,
}

impl Scene {
    async fn start(spec: ClusterSpec) -> Scene {
        let cluster = Cluster::start(spec).await.unwrap_or_else(|error| panic!("{error}"));
        let dir = tempfile::tempdir().unwrap();
        for folder in ["store", "spool"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
        }
        let mut config = Config::default();
        config.backup.store = Some(Location::parse(&format!("file://{}/store", dir.path().display())).unwrap());
        config.backup.spool_dir = Some(dir.path().join("spool"));
        Scene { cluster, dir, config }
    }

    fn store(&self) -> Store {
        Store::open(&self.config.backup, None).unwrap()
    }

    fn textfile(&self) -> PathBuf {
        self.dir.path().join("redis.prom")
    }

    /// `switchmaster backup follow` with further arguments.
    fn follow(&self, arguments: &[&str]) -> Follower {
        self.follow_with(arguments, &[])
    }

    fn follow_with(&self, arguments: &[&str], environment: &[(&str, String)]) -> Follower {
        let log = self.dir.path().join("follow.log");
        let output = fs::File::options().create(true).append(true).open(&log).unwrap();
        let child = self
            .command(&["follow", "--every", "300ms"])
            .args(arguments)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        Follower { child, log }
    }

    /// `switchmaster backup …`
    fn command(&self, arguments: &[&str]) -> Command {
        let sentinels: Vec<String> = self.cluster.sentinel_addrs().iter().map(SocketAddr::to_string).collect();
        let mut command = Command::new(env!("CARGO_BIN_EXE_switchmaster"));
        command
            .arg("backup")
            .args(arguments)
            .env_clear()
            .env("SWITCHMASTER_SENTINELS", sentinels.join(","))
            .env("SWITCHMASTER_BACKUP_STORE", format!("file://{}/store", self.dir.path().display()))
            .env("SWITCHMASTER_BACKUP_SPOOL_DIR", self.dir.path().join("spool"))
            .env("SWITCHMASTER_BACKUP_TEXTFILE", self.textfile())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Waits until a base is there, and the stream behind it.
    async fn based(&self, follower: &Follower) {
        self.wait(follower, "a base and a segment", async || {
            match (self.manifests().await.len(), self.segments(&self.store()).await.len()) {
                (1.., 1..) => Ok(()),
                found => Err(format!("{found:?} bases and segments")),
            }
        })
        .await;
    }

    async fn manifests(&self) -> Vec<Manifest> {
        let backups = catalog::list(&self.store(), Some(MASTER)).await.unwrap();
        backups.into_iter().map(|backup| backup.manifest.unwrap()).collect()
    }

    /// The segments of the store with the names of their streams.
    async fn segments(&self, store: &Store) -> Vec<(String, Name)> {
        let objects = store.list(&format!("{MASTER}/stream")).await.unwrap();
        let parts = objects.iter().map(|object| object.name.rsplit('/').collect::<Vec<_>>());
        parts.filter_map(|parts| Some((parts[1].to_owned(), Name::parse(parts[0])?))).collect()
    }

    /// Waits until everything that the master has now is in the store, and returns a moment at which it was.
    async fn moment(&self, follower: &Follower) -> u64 {
        let master = self.cluster.wait_replicating(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
        let info = self.cluster.ask_node(master, &["INFO", "replication"]).await.unwrap();
        let info = info.text().unwrap().to_owned();
        let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_owned();
        let (replid, offset): (String, u64) = (field("master_replid:"), field("master_repl_offset:").parse().unwrap());
        let store = self.store();
        let moment = self
            .wait(follower, "the master's data to be shipped", async || {
                let segments = self.segments(&store).await;
                let last = segments
                    .iter()
                    .map(|(_, name)| name)
                    .filter(|name| name.replid == replid)
                    .map(|name| name.to)
                    .max();
                let there = last >= Some(offset);
                if there { Ok(now_ms()) } else { Err(format!("{offset} of {replid}, the last is at {last:?}")) }
            })
            .await;
        // Something after it, so that the next segment tells that nothing came before.
        tokio::time::sleep(Duration::from_millis(20)).await;
        self.cluster.ask_node(master, &["SET", "after", &moment.to_string()]).await.unwrap();
        moment
    }

    async fn offset(&self, node: usize, field: &str) -> u64 {
        let info = self.cluster.ask_node(node, &["INFO", "replication"]).await.unwrap();
        let text = info.text().unwrap().to_owned();
        text.lines().find_map(|line| line.strip_prefix(field)).unwrap().parse().unwrap()
    }

    /// Waits until a base and the stream behind it lead to the present, but for a moment.
    async fn in_reach(&self, follower: &Follower) {
        self.wait(follower, "the present to be in reach", async || {
            let master = self.cluster.who_is_master().await?;
            let _ = self.cluster.ask_node(master, &["SET", "tick", "1"]).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
            let goal = Goal::Moment(now_ms() - 1_500);
            self.prepare(&goal).await.map(drop).map_err(|error| error.to_string())
        })
        .await;
    }

    async fn wait<T>(&self, follower: &Follower, what: &str, probe: impl AsyncFnMut() -> Result<T, String>) -> T {
        until(what, LIMIT, probe).await.unwrap_or_else(|error| panic!("{error}\n{}", follower.log()))
    }

    async fn prepare(&self, goal: &Goal) -> Result<Replay, Error> {
        Replay::prepare(&self.config, &self.store(), MASTER, None, goal, &Arc::new(Identities::default())).await
    }

    /// Waits until `goal` can be reached, and restores it to an empty server.
    async fn restore(&self, follower: &Follower, goal: &Goal) -> Lone {
        let mut replay = self
            .wait(follower, "the goal to be in reach", async || {
                self.prepare(goal).await.map_err(|error| error.to_string())
            })
            .await;
        let store = self.store();
        let manifest = catalog::resolve(&store, Some(MASTER), replay.base()).await.unwrap().manifest.unwrap();
        let plain = self.dir.path().join("restored.rdb");
        let stored = store.get_stream(&format!("{MASTER}/{}", manifest.object)).await.unwrap();
        let (manifest, file) = tokio::task::spawn_blocking(move || {
            let mut file = fs::File::options().create(true).truncate(true).read(true).write(true).open(&plain).unwrap();
            let mut unpacker = Unpacker::new(stored, &manifest, &Identities::default()).unwrap();
            std::io::copy(&mut unpacker, &mut file).unwrap();
            unpacker.finish().unwrap();
            (manifest, file)
        })
        .await
        .unwrap();
        replay.check_database(Some("0")).unwrap();
        let target = Lone::start(&["databases 16"]).await;
        let primary = Primary::bind("127.0.0.1".parse().unwrap(), target.addr.ip()).await.unwrap();
        let mut wire = target.open(0).await;
        wire.ask(&["REPLICAOF", "127.0.0.1", &primary.addr().port().to_string()]).await.unwrap();
        let rdb = Rdb { file, bytes: manifest.plain_bytes, offset: manifest.source.offset };
        let (stage, mut stages) = watch::channel(Stage::default());
        tokio::select! {
            served = primary.serve(rdb, async || replay.chunk(), &stage) => panic!("{served:?}"),
            there = tokio::time::timeout(LIMIT, stages.wait_for(|stage| *stage == Stage::Acknowledged)) => {
                there.unwrap().unwrap();
            }
        }
        assert_eq!(wire.ask(&["REPLICAOF", "NO", "ONE"]).await.unwrap(), Reply::Simple("OK".into()));
        target
    }

    /// No Sentinel took the follower for a replica.
    async fn no_phantom(&self) {
        for sentinel in 0..self.cluster.sentinels().len() {
            let known = self.cluster.ask_sentinel(sentinel, &["SENTINEL", "REPLICAS", MASTER]).await.unwrap();
            let known: BTreeSet<&str> = known.items().iter().filter_map(|replica| replica.field("name")).collect();
            let nodes: BTreeSet<String> = self.cluster.nodes().iter().map(|node| node.addr().to_string()).collect();
            assert!(known.iter().all(|name| nodes.contains(*name)), "{known:?}");
        }
    }
}

/// A running `backup follow`.
struct Follower {
    child: Child,
    log: PathBuf,
}

impl Follower {
    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    async fn kill9(mut self) {
        self.child.kill().await.unwrap();
    }

    /// SIGTERM, and how it ended.
    async fn terminate(mut self) -> ExitStatus {
        let pid = rustix::process::Pid::from_raw(self.child.id().unwrap() as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let ended = tokio::time::timeout(LIMIT, self.child.wait()).await;
        ended.unwrap_or_else(|_| panic!("it did not end\n{}", self.log())).unwrap()
    }
}

/// A client that counts in several databases, at about a thousand a second, and knows what was acknowledged.
struct Counter {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<(Wire, u64)>,
}

impl Counter {
    /// Goes on from `count`, which is in the data set.
    async fn start(cluster: &Cluster, mut count: u64) -> Counter {
        let master = until("a master", LIMIT, async || cluster.who_is_master().await).await.unwrap();
        let mut wire = cluster.connect(master).await.unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                count += 1;
                step(&mut wire, count).await;
                tokio::time::sleep(Duration::from_micros(500)).await;
            }
            (wire, count)
        });
        Counter { stop, task }
    }

    /// Ends, and returns the last count that was acknowledged.
    async fn stop(self) -> (Wire, u64) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

/// Counts to `count` in databases 0 (a transaction), 1 (a script, expiring keys) and 9 (single commands).
async fn step(wire: &mut Wire, count: u64) {
    let text = count.to_string();
    let tail = format!("k:{}", count % 100);
    let lua = "redis.call('SELECT', 1) redis.call('INCR', KEYS[1]) redis.call('HSET', 'h', ARGV[1], ARGV[1]) return 1";
    let requests: &[&[&str]] = &[
        &["MULTI"],
        &["INCR", "counter"],
        &["RPUSH", "list", &text],
        &["LTRIM", "list", "-50", "-1"],
        &["EXEC"],
        &["EVAL", lua, "1", "counter", &tail],
        &["SELECT", "1"],
        &["SET", &tail, &text, "EX", "100000"],
        &["SET", "short", &text, "PX", "5"],
        &["SELECT", "9"],
        &["INCR", "counter"],
        &["SADD", "set", &tail],
        &["SELECT", "0"],
    ];
    let mut bytes = Vec::new();
    requests.iter().for_each(|request| switchmaster::wire::encode(&mut bytes, request));
    wire.send(&bytes).await.unwrap();
    for request in requests {
        let reply = wire.receive().await.unwrap();
        assert!(!matches!(reply, Reply::Error(_)), "{request:?}: {reply}");
    }
}

/// The counters of the three databases.
async fn counters(addr: SocketAddr) -> Vec<String> {
    let mut found = Vec::new();
    for db in [0, 1, 9] {
        let reply = Wire::open(addr, None, db).await.unwrap().ask(&["GET", "counter"]).await.unwrap();
        found.push(reply.text().unwrap_or("none").to_owned());
    }
    found
}

fn all(count: u64) -> Vec<String> {
    vec![count.to_string(); 3]
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64
}

fn before(command: &str) -> Goal {
    Goal::parse(None, Some(command)).unwrap().unwrap()
}

/// Everything but the key that comes and goes.
async fn contents(addr: SocketAddr) -> BTreeMap<(u32, Vec<u8>), zoo::Exhibit> {
    let mut all = zoo::contents(addr, None).await.unwrap();
    all.retain(|(_, name), _| name != b"short");
    all
}

#[tokio::test]
async fn a_flushall_is_undone_to_the_last_command_before_it() {
    let scene = Scene::start(ClusterSpec::default()).await;
    let master = scene.cluster.node(0).addr();
    zoo::fill(master, None).await.unwrap();
    let counter = Counter::start(&scene.cluster, 0).await;
    let follower = scene.follow(&[]);
    scene.based(&follower).await;
    let at_base = scene.segments(&scene.store()).await.len();
    scene
        .wait(&follower, "some segments after the base", async || {
            let count = scene.segments(&scene.store()).await.len();
            if count >= at_base + 5 { Ok(()) } else { Err(format!("{count} segments")) }
        })
        .await;
    let (mut wire, count) = counter.stop().await;
    // The replica that the base came from: when a consumer of a stream was last seen is each node's own.
    let source: SocketAddr = scene.manifests().await[0].source.addr.parse().unwrap();
    let source = scene.cluster.node_at(source).unwrap();
    scene
        .wait(&follower, "the replica to have everything", async || {
            let (master, replica) =
                (scene.offset(0, "master_repl_offset:").await, scene.offset(source, "slave_repl_offset:").await);
            if master == replica { Ok(()) } else { Err(format!("{master} and {replica}")) }
        })
        .await;
    let expected = contents(scene.cluster.node(source).addr()).await;
    assert!(count > 300, "only {count}");
    assert_eq!(wire.ask(&["FLUSHALL"]).await.unwrap(), Reply::Simple("OK".into()));
    for count in 1..20 {
        step(&mut wire, count).await;
    }
    let target = scene.restore(&follower, &before("flushall")).await;
    assert_eq!(counters(target.addr).await, all(count));
    let found = contents(target.addr).await;
    assert_eq!(found.len(), expected.len());
    for (key, value) in &expected {
        assert_eq!(found.get(key), Some(value), "{key:?}");
    }
    let replay = scene.prepare(&before("FLUSHALL")).await.unwrap();
    assert!(replay.to_string().starts_with("just before FLUSHALL of 20"), "{replay}");
    let error = scene.prepare(&before("FLUSHDB")).await.err().unwrap().to_string();
    assert!(error.contains("in no segment") && error.contains("can be reached"), "{error}");
    scene.no_phantom().await;
    assert!(follower.terminate().await.success());
}

#[tokio::test]
async fn moments_before_between_and_after_failovers_are_restored() {
    // A PING of the old master after the new one was promoted makes Redis synchronise its replicas anew.
    let quiet = vec!["repl-ping-replica-period 3600".to_owned()];
    let scene = Scene::start(ClusterSpec { node_config: quiet, ..ClusterSpec::default() }).await;
    let follower = scene.follow(&[]);
    scene.based(&follower).await;
    let mut count = 0;
    let mut moments = Vec::new();
    for round in 0..3 {
        scene.in_reach(&follower).await;
        let counter = Counter::start(&scene.cluster, count).await;
        tokio::time::sleep(Duration::from_millis(700)).await;
        let wire;
        (wire, count) = counter.stop().await;
        drop(wire);
        moments.push((scene.moment(&follower).await, count));
        let old = scene.cluster.who_is_master().await.unwrap();
        match round {
            0 => drop(scene.cluster.failover(LIMIT).await.unwrap()),
            1 => drop(scene.cluster.node(old).kill9()),
            _ => break,
        }
        scene.cluster.wait_for_master_change(old, LIMIT).await.unwrap();
        scene.cluster.wait_replicating(LIMIT).await.unwrap();
    }
    for (ms, count) in moments {
        let target = scene.restore(&follower, &Goal::Moment(ms)).await;
        assert_eq!(counters(target.addr).await, all(count), "the moment {ms}\n{}", follower.log());
    }
    // At a planned failover the old master takes the Sentinels' greetings for a second more: bytes that are thrown away.
    // At a crash the stream goes on.
    let segments = scene.segments(&scene.store()).await;
    let streams: BTreeSet<&String> = segments.iter().map(|(stream, _)| stream).collect();
    assert!(streams.len() <= 2, "{streams:?}\n{}", follower.log());
    let crossed = |pair: &[(String, Name)]| pair[0].0 == pair[1].0 && pair[0].1.replid != pair[1].1.replid;
    assert!(segments.windows(2).any(crossed), "no stream went on through a failover\n{}", follower.log());
    scene.no_phantom().await;
}

#[tokio::test]
async fn a_follower_that_was_killed_goes_on_where_it_was() {
    let scene = Scene::start(ClusterSpec::default()).await;
    let follower = scene.follow(&[]);
    scene.based(&follower).await;
    let counter = Counter::start(&scene.cluster, 0).await;
    tokio::time::sleep(Duration::from_millis(800)).await;
    // Another one may not begin beside it.
    let spool = scene.dir.path().join("other");
    fs::create_dir(&spool).unwrap();
    let other = scene.follow_with(&[], &[("SWITCHMASTER_BACKUP_SPOOL_DIR", spool.display().to_string())]);
    assert_eq!(other.exit_code().await, Some(75), "a second follower began");
    follower.kill9().await;
    tokio::time::sleep(Duration::from_millis(800)).await;
    // The lock of the one that was killed lasts on: what comes meanwhile is received.
    let follower = scene.follow(&[]);
    scene
        .wait(&follower, "it to follow again", async || match follower.log().matches("following 127").count() {
            2.. => Ok(()),
            _ => Err(follower.log()),
        })
        .await;
    // As if its time was over.
    fs::remove_dir_all(scene.dir.path().join("store").join(MASTER).join("stream/lock")).unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (_, count) = counter.stop().await;
    let moment = scene.moment(&follower).await;
    let target = scene.restore(&follower, &Goal::Moment(moment)).await;
    assert_eq!(counters(target.addr).await, all(count));
    let segments = scene.segments(&scene.store()).await;
    let streams: BTreeSet<&String> = segments.iter().map(|(stream, _)| stream).collect();
    assert_eq!((streams.len(), scene.manifests().await.len()), (1, 1), "one stream, one base\n{}", follower.log());
    assert!(segments.windows(2).all(|pair| pair[0].1.to == pair[1].1.from), "no gap: {segments:?}");
    // What is there when it is told to end is shipped.
    let (mut wire, _) = Counter::start(&scene.cluster, count).await.stop().await;
    step(&mut wire, count + 2).await;
    assert!(follower.terminate().await.success());
    let spool = scene.dir.path().join("spool").join(format!("switchmaster-follow-{MASTER}"));
    let left: Vec<_> = fs::read_dir(&spool).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["lock"]);
}

#[tokio::test]
async fn an_encrypted_stream_goes_on_without_the_identity_and_is_restored_with_it() {
    use age::secrecy::ExposeSecret;
    let scene = Scene::start(ClusterSpec::default()).await;
    let identity = age::x25519::Identity::generate();
    let (recipient, file) = (identity.to_public().to_string(), scene.dir.path().join("identity.txt"));
    fs::write(&file, identity.to_string().expose_secret()).unwrap();
    let follower = scene.follow(&["--recipient", &recipient]);
    scene.based(&follower).await;
    assert!(follower.terminate().await.success());
    let follower = scene.follow(&["--recipient", &recipient]);
    let (mut wire, count) = {
        let counter = Counter::start(&scene.cluster, 0).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        counter.stop().await
    };
    wire.ask(&["FLUSHALL"]).await.unwrap();
    step(&mut wire, 1).await;
    scene.moment(&follower).await;
    assert!(follower.terminate().await.success());
    let segments = scene.segments(&scene.store()).await;
    let streams: BTreeSet<&String> = segments.iter().map(|(stream, _)| stream).collect();
    assert_eq!((streams.len(), scene.manifests().await.len()), (1, 1));
    assert!(segments.iter().all(|(_, name)| name.encrypted));
    let error = scene.prepare(&before("FLUSHALL")).await.err().unwrap();
    assert!(matches!(&error, Error::Usage(text) if text.contains("--identity")), "{error}");
    let target = Lone::start(&["databases 16"]).await;
    let mut wire = target.open(0).await;
    wire.ask(&["SET", "old", "data"]).await.unwrap();
    let restored = scene
        .command(&["restore", "--before-command", "FLUSHALL", "--target", &target.addr.to_string()])
        .args(["--identity", &file.display().to_string(), "--no-safety-backup", "--yes"])
        .output()
        .await
        .unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&restored.stdout), String::from_utf8_lossy(&restored.stderr));
    assert!(restored.status.success(), "{said}");
    assert!(said.contains("just before FLUSHALL of 20"), "{said}");
    assert_eq!(counters(target.addr).await, all(count));
    assert_eq!(wire.ask(&["GET", "old"]).await.unwrap(), Reply::Nil);
    // Beyond the last shipped moment: refused before anything is touched.
    let refused = scene
        .command(&["restore", "--to", "2999-01-01T00:00:00Z", "--target", &target.addr.to_string()])
        .args(["--identity", &file.display().to_string(), "--no-safety-backup", "--yes"])
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(85), "{said}");
    assert!(said.contains("the last moment that was shipped is"), "{said}");
    assert_eq!(counters(target.addr).await, all(count));
}

#[tokio::test]
async fn moments_that_were_not_shipped_are_refused_with_the_limits() {
    let scene = Scene::start(ClusterSpec::default()).await;
    let error = scene.prepare(&Goal::Moment(now_ms())).await.err().unwrap();
    assert!(matches!(&error, Error::NotFound(text) if text.contains("no backup")), "{error}");
    let start = now_ms();
    let follower = scene.follow(&[]);
    scene.based(&follower).await;
    for (goal, expected) in
        [(start - 60_000, "the oldest backup is of"), (now_ms() + 60_000, "the last moment that was shipped is")]
    {
        let error = scene.prepare(&Goal::Moment(goal)).await.err().unwrap();
        let text = error.to_string();
        assert!(
            matches!(error, Error::NotFound(_)) && text.contains(expected) && text.contains("moments from"),
            "{text}"
        );
    }
    let text = fs::read_to_string(scene.textfile()).unwrap_or_default();
    scene
        .wait(&follower, "its metrics", async || {
            let text = fs::read_to_string(scene.textfile()).unwrap_or_default();
            let there = text.contains("stream_shipped_timestamp_seconds{master_name=\"mymaster\"}");
            if there { Ok(()) } else { Err(text) }
        })
        .await;
    drop(text);
}

#[tokio::test]
async fn a_store_that_is_away_for_too_long_costs_a_new_base_and_says_so() {
    let scene = Scene::start(ClusterSpec::default()).await;
    let follower = scene.follow(&["--spool-limit", "256KiB"]);
    scene.based(&follower).await;
    let counter = Counter::start(&scene.cluster, 0).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    // Nothing can be written to the folder of a master that is a file.
    let (folder, away) = (scene.dir.path().join("store").join(MASTER), scene.dir.path().join("away"));
    fs::rename(&folder, &away).unwrap();
    fs::write(&folder, "").unwrap();
    scene
        .wait(&follower, "it to give up", async || match follower.log().contains("the spool is full") {
            true => Ok(()),
            false => Err(follower.log()),
        })
        .await;
    fs::remove_file(&folder).unwrap();
    fs::rename(&away, &folder).unwrap();
    let gap = now_ms();
    scene
        .wait(&follower, "a second base", async || match scene.manifests().await.len() {
            2.. => Ok(()),
            count => Err(format!("{count} bases")),
        })
        .await;
    let (_, count) = counter.stop().await;
    let moment = scene.moment(&follower).await;
    let target = scene.restore(&follower, &Goal::Moment(moment)).await;
    assert_eq!(counters(target.addr).await, all(count));
    let error = scene.prepare(&Goal::Moment(gap)).await.err().unwrap().to_string();
    assert!(error.contains("nothing was shipped of the time between"), "{error}");
}

impl Follower {
    /// Its exit code, if it ends by itself.
    async fn exit_code(mut self) -> Option<i32> {
        tokio::time::timeout(LIMIT, self.child.wait()).await.ok()?.ok()?.code()
    }
}
