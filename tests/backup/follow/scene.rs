//! A real cluster, a store, and `switchmaster backup follow` between them.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use switchmaster::backup::Config;
use switchmaster::backup::follow::replay::{Goal, Replay};
use switchmaster::backup::follow::segment::Name;
use switchmaster::backup::pack::{Identities, Unpacker};
use switchmaster::backup::restore::node::Node;
use switchmaster::backup::restore::primary::{Primary, Rdb, Stage};
use switchmaster::backup::store::Store;
use switchmaster::backup::{Error, Manifest, catalog};
use switchmaster::config::{BackupConfig, Location};
use switchmaster::demo::cluster::{Cluster, ClusterSpec, until};
use switchmaster::wire::Reply;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::sync::watch;

use super::load::now_ms;
use super::{LIMIT, MASTER};
use crate::lone::Lone;
use crate::support::bucket::{Bucket, KEY_ID, SECRET};
use crate::support::sentinels::known_replicas;

/// A cluster, a store, and the followers that run between them.
pub struct Scene {
    pub cluster: Cluster,
    pub dir: TempDir,
    config: Config,
    /// How the binary finds the store.
    environment: Vec<(&'static str, String)>,
}

impl Scene {
    /// With a store in a folder.
    pub async fn start(spec: ClusterSpec) -> Scene {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("store")).unwrap();
        let store = format!("file://{}/store", dir.path().display());
        let backup = BackupConfig { store: Some(Location::parse(&store).unwrap()), ..BackupConfig::default() };
        Scene::with(spec, dir, backup, vec![("SWITCHMASTER_BACKUP_STORE", store)]).await
    }

    /// With a store in a bucket.
    pub async fn in_bucket(spec: ClusterSpec, bucket: &Bucket) -> Scene {
        let backup = bucket.config();
        let environment = vec![
            ("SWITCHMASTER_BACKUP_STORE", backup.store.as_ref().unwrap().to_string()),
            ("AWS_ENDPOINT_URL", format!("http://{}", bucket.addr)),
            ("AWS_ACCESS_KEY_ID", KEY_ID.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
        ];
        Scene::with(spec, tempfile::tempdir().unwrap(), backup, environment).await
    }

    async fn with(
        spec: ClusterSpec,
        dir: TempDir,
        backup: BackupConfig,
        environment: Vec<(&'static str, String)>,
    ) -> Scene {
        let cluster = Cluster::start(spec).await.unwrap_or_else(|error| panic!("{error}"));
        fs::create_dir(dir.path().join("spool")).unwrap();
        let mut config = Config { backup, ..Config::default() };
        config.backup.spool_dir = Some(dir.path().join("spool"));
        Scene { cluster, dir, config, environment }
    }

    pub fn store(&self) -> Store {
        Store::open(&self.config.backup, None).unwrap()
    }

    pub fn textfile(&self) -> PathBuf {
        self.dir.path().join("redis.prom")
    }

    /// `switchmaster backup follow` with further arguments.
    pub fn follow(&self, arguments: &[&str]) -> Follower {
        self.follow_with(arguments, &[])
    }

    pub fn follow_with(&self, arguments: &[&str], environment: &[(&str, String)]) -> Follower {
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

    /// `switchmaster backup follow` under `nohup`; its standard output and error end with what is returned.
    pub fn follow_under_nohup(&self) -> Child {
        let follow = self.command(&["follow", "--every", "300ms"]);
        let follow = follow.as_std();
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]).arg(follow.get_program()).args(follow.get_args());
        command.env_clear().envs(follow.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap()
    }

    /// `switchmaster backup …`
    pub fn command(&self, arguments: &[&str]) -> Command {
        let sentinels: Vec<String> = self.cluster.sentinel_addrs().iter().map(SocketAddr::to_string).collect();
        let mut command = Command::new(env!("CARGO_BIN_EXE_switchmaster"));
        command
            .arg("backup")
            .args(arguments)
            .env_clear()
            .env("SWITCHMASTER_SENTINELS", sentinels.join(","))
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env("SWITCHMASTER_BACKUP_SPOOL_DIR", self.dir.path().join("spool"))
            .env("SWITCHMASTER_BACKUP_TEXTFILE", self.textfile())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Waits until a base is there, and the stream behind it.
    pub async fn based(&self, follower: &Follower) {
        self.wait(follower, "a base and a segment", async || {
            match (self.manifests().await.len(), self.segments(&self.store()).await.len()) {
                (1.., 1..) => Ok(()),
                found => Err(format!("{found:?} bases and segments")),
            }
        })
        .await;
    }

    pub async fn manifests(&self) -> Vec<Manifest> {
        let backups = catalog::list(&self.store(), Some(MASTER)).await.unwrap();
        backups.into_iter().map(|backup| backup.manifest.unwrap()).collect()
    }

    /// The segments of the store with the names of their streams.
    pub async fn segments(&self, store: &Store) -> Vec<(String, Name)> {
        let objects = store.list(&format!("{MASTER}/stream")).await.unwrap();
        let parts = objects.iter().map(|object| object.name.rsplit('/').collect::<Vec<_>>());
        parts.filter_map(|parts| Some((parts[1].to_owned(), Name::parse(parts[0])?))).collect()
    }

    /// Waits until everything that the master has now is in the store, and returns a moment at which it was.
    pub async fn moment(&self, follower: &Follower) -> u64 {
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

    pub async fn offset(&self, node: usize, field: &str) -> u64 {
        let info = self.cluster.ask_node(node, &["INFO", "replication"]).await.unwrap();
        let text = info.text().unwrap().to_owned();
        text.lines().find_map(|line| line.strip_prefix(field)).unwrap().parse().unwrap()
    }

    /// Waits until a base and the stream behind it lead to the present, but for a moment.
    pub async fn in_reach(&self, follower: &Follower) {
        self.wait(follower, "the present to be in reach", async || {
            let master = self.cluster.who_is_master().await?;
            let _ = self.cluster.ask_node(master, &["SET", "tick", "1"]).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
            let goal = Goal::Time(now_ms() - 1_500);
            self.prepare(&goal).await.map(drop).map_err(|error| error.to_string())
        })
        .await;
    }

    pub async fn wait<T>(&self, follower: &Follower, what: &str, probe: impl AsyncFnMut() -> Result<T, String>) -> T {
        until(what, LIMIT, probe).await.unwrap_or_else(|error| panic!("{error}\n{}", follower.log()))
    }

    pub async fn prepare(&self, goal: &Goal) -> Result<Replay, Error> {
        Replay::prepare(&self.config, &self.store(), MASTER, None, goal, &Arc::new(Identities::default())).await
    }

    /// Waits until `goal` can be reached, and restores it to an empty server.
    pub async fn restore(&self, follower: &Follower, goal: &Goal) -> Lone {
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
        let primary = Primary::bind("127.0.0.1".parse().unwrap()).await.unwrap();
        let mut wire = target.open(0).await;
        wire.ask(&["REPLICAOF", "127.0.0.1", &primary.addr().port().to_string()]).await.unwrap();
        let rdb = Rdb { file, bytes: manifest.plain_bytes, offset: manifest.source.offset };
        let (stage, mut stages) = watch::channel(Stage::default());
        tokio::select! {
            served = primary.serve(Node::new(target.addr, None), rdb, async || replay.chunk(), &stage) => panic!("{served:?}"),
            there = tokio::time::timeout(LIMIT, stages.wait_for(|stage| *stage == Stage::Acknowledged)) => {
                there.unwrap().unwrap();
            }
        }
        assert_eq!(wire.ask(&["REPLICAOF", "NO", "ONE"]).await.unwrap(), Reply::Simple("OK".into()));
        target
    }

    /// No Sentinel took the follower for a replica.
    pub async fn no_phantom(&self) {
        let nodes: BTreeSet<String> = self.cluster.nodes().iter().map(|node| node.addr().to_string()).collect();
        for known in known_replicas(&self.cluster).await {
            assert!(known.iter().all(|name| nodes.contains(name)), "{known:?}, not only {nodes:?}");
        }
    }
}

/// A running `backup follow`.
pub struct Follower {
    child: Child,
    pub log: PathBuf,
}

impl Follower {
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until it says this.
    pub async fn says(&self, text: &str) {
        let probe = async || if self.log().contains(text) { Ok(()) } else { Err(self.log()) };
        until(&format!("it to say {text:?}"), LIMIT, probe).await.unwrap_or_else(|error| panic!("{error}"));
    }

    pub async fn kill9(mut self) {
        self.child.kill().await.unwrap();
    }

    /// SIGTERM; fails unless it ends well. Returns all that it said.
    pub async fn terminate(self) -> String {
        self.end(rustix::process::Signal::TERM).await
    }

    /// The same with another signal.
    pub async fn end(mut self, signal: rustix::process::Signal) -> String {
        let pid = rustix::process::Pid::from_raw(self.child.id().unwrap() as i32).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
        let ended = tokio::time::timeout(LIMIT, self.child.wait()).await;
        let ended = ended.unwrap_or_else(|_| panic!("it did not end\n{}", self.log())).unwrap();
        assert!(ended.success(), "{ended}\n{}", self.log());
        self.log()
    }

    /// Its exit code, if it ends by itself.
    pub async fn exit_code(mut self) -> Option<i32> {
        tokio::time::timeout(LIMIT, self.child.wait()).await.ok()?.ok()?.code()
    }
}
