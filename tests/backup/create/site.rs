//! A cluster, a folder as its store, and the configuration that leads from one to the other.

use std::path::{Path, PathBuf};
use std::time::Duration;

use switchmaster::backup::Config;
use switchmaster::backup::args::CreateArgs;
use switchmaster::backup::create::{Created, Outcome, create};
use switchmaster::backup::store::Store;
use switchmaster::backup::{Error, Manifest, catalog};
use switchmaster::config::{HostPort, Location};
use switchmaster::demo::cluster::{Cluster, ClusterSpec, until};
use switchmaster::secret::{Credentials, Secret};
use switchmaster::wire::{Reply, encode};
use tempfile::TempDir;

/// For everything that should come soon, on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(60);

pub struct Site {
    pub cluster: Cluster,
    pub config: Config,
    pub store: Store,
    folder: TempDir,
}

impl Site {
    pub async fn start(spec: ClusterSpec) -> Site {
        let cluster = Cluster::start(spec).await.unwrap_or_else(|error| panic!("{error}"));
        let folder = tempfile::tempdir().unwrap();
        for name in ["store", "spool"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let mut config = Config::default();
        let host_port = |addr: std::net::SocketAddr| HostPort { host: addr.ip().to_string(), port: addr.port() };
        config.sentinel.addrs = cluster.sentinel_addrs().into_iter().map(host_port).collect();
        config.sentinel.redis_auth = cluster.auth();
        config.backup.store = Some(Location::Folder(folder.path().join("store")));
        config.backup.spool_dir = Some(folder.path().join("spool"));
        let store = Store::open(&config.backup, None).unwrap();
        Site { cluster, config, store, folder }
    }

    /// Where the folders `store` and `spool` are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn spool(&self) -> PathBuf {
        self.folder.path().join("spool")
    }

    /// Where the data of a backup lies.
    pub fn stored(&self, manifest: &Manifest) -> PathBuf {
        self.folder.path().join("store").join(catalog::object_name(&manifest.master_name, &manifest.object))
    }

    /// The settings as variables for the binary; its spool is the folder `spool` unless one is given.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let sentinels: Vec<String> = self.cluster.sentinel_addrs().iter().map(ToString::to_string).collect();
        let mut variables = vec![
            ("PATH", std::env::var("PATH").unwrap_or_default()),
            ("SWITCHMASTER_SENTINELS", sentinels.join(",")),
            ("SWITCHMASTER_BACKUP_STORE", format!("file://{}", self.folder.path().join("store").display())),
            ("SWITCHMASTER_BACKUP_SPOOL_DIR", self.spool().display().to_string()),
        ];
        if let Some(password) = &self.cluster.spec().password {
            variables.push(("SWITCHMASTER_REDIS_PASSWORD", password.clone()));
        }
        variables
    }

    pub fn authenticate(&mut self, user: &str, password: &str) {
        let password = Secret::new(password);
        self.config.sentinel.redis_auth = Some(Credentials { username: Some(user.into()), password });
    }

    pub async fn create(&self) -> Result<Outcome, Error> {
        self.create_with(&CreateArgs::default()).await
    }

    pub async fn create_with(&self, args: &CreateArgs) -> Result<Outcome, Error> {
        create(args, &self.store, &self.config, std::future::pending()).await
    }

    /// So many keys on a node that is master, and on its replicas.
    pub async fn fill(&self, master: usize, keys: usize) {
        let mut wire = self.cluster.connect(master).await.unwrap();
        for from in (0..keys).step_by(1000) {
            let batch: Vec<usize> = (from..keys.min(from + 1000)).collect();
            let mut requests = Vec::new();
            for key in &batch {
                // Nothing that packs well: the stream is to be long.
                let value =
                    format!("{:032x}", (*key as u128 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835));
                encode(&mut requests, &["SET", &format!("key:{key}"), &value.repeat(8)]);
            }
            wire.send(&requests).await.unwrap();
            for _ in &batch {
                assert_eq!(wire.receive().await.unwrap(), Reply::Simple("OK".into()));
            }
        }
        self.wait_for_replicas().await;
    }

    /// Until every replica that runs has what its master has.
    pub async fn wait_for_replicas(&self) {
        let master = self.cluster.wait_replicating(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
        let size = async |node: usize| {
            let reply = self.cluster.ask_node(node, &["INFO", "keyspace"]).await.map_err(|error| error.to_string())?;
            let lines = reply.text().unwrap_or_default().lines();
            // avg_ttl differs between nodes.
            Ok::<_, String>(
                lines.map(|line| line.split(",avg_ttl").next().unwrap_or_default().to_owned()).collect::<Vec<_>>(),
            )
        };
        until("the replicas to have everything", LIMIT, async || {
            let wanted = size(master).await?;
            for node in (0..self.cluster.nodes().len()).filter(|&node| self.cluster.node(node).is_running()) {
                let found = size(node).await?;
                if found != wanted {
                    return Err(format!("node {node} has {found:?} of {wanted:?}"));
                }
            }
            Ok(())
        })
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    }

    /// Every node lingers so long at each key that it sends as part of an RDB.
    pub async fn linger(&self, at_each_key: Duration) {
        let delay = at_each_key.as_micros().to_string();
        for node in 0..self.cluster.nodes().len() {
            let reply = self.cluster.ask_node(node, &["CONFIG", "SET", "rdb-key-save-delay", &delay]).await.unwrap();
            assert_eq!(reply, Reply::Simple("OK".into()));
        }
    }

    /// The node that sends an RDB now.
    pub async fn streaming(&self) -> usize {
        until("a node to send an RDB", LIMIT, async || self.sender().await.ok_or_else(|| "none does".into()))
            .await
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// Until no node sends an RDB any more.
    pub async fn nobody_streams(&self) {
        until("no node to send an RDB", LIMIT, async || match self.sender().await {
            Some(node) => Err(format!("node {node} does")),
            None => Ok(()),
        })
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    }

    async fn sender(&self) -> Option<usize> {
        for node in (0..self.cluster.nodes().len()).filter(|&node| self.cluster.node(node).is_running()) {
            let Ok(reply) = self.cluster.ask_node(node, &["INFO"]).await else { continue };
            let info = reply.text().unwrap_or_default();
            // Without a disk in between, a replica waits for the child that writes to it.
            if info.contains("state=wait_bgsave") && info.contains("rdb_bgsave_in_progress:1") {
                return Some(node);
            }
        }
        None
    }

    /// The last who held the lock gave it back.
    pub async fn is_unlocked(&self) -> bool {
        let locks = self.store.list("mymaster/lock").await.unwrap();
        let claim = self.store.get(&locks.last().expect("a lock").name).await.unwrap().unwrap();
        serde_json::from_slice::<serde_json::Value>(&claim).unwrap()["released"] == true
    }

    /// Objects that belong to backups: data and manifests. Every one must belong to a whole backup.
    pub async fn objects(&self) -> usize {
        let objects = self.store.list("mymaster").await.unwrap();
        let orphans: Vec<_> = catalog::orphans(&objects).collect();
        assert!(orphans.is_empty(), "{orphans:?}");
        let backups = catalog::list(&self.store, None).await.unwrap();
        for backup in &backups {
            let manifest = backup.usable().unwrap();
            assert_eq!(std::fs::metadata(self.stored(manifest)).unwrap().len(), manifest.stored_bytes);
        }
        let left = objects.iter().filter(|object| !object.name.contains("/lock/")).count();
        assert_eq!(left, 2 * backups.len(), "{objects:?}");
        assert!(files(&self.folder.path().join("store")) <= objects.len(), "the folder has files that are no objects");
        left
    }
}

fn files(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { files(&path) } else { 1 }).sum()
}

/// The backup that was made.
pub fn created(outcome: Result<Outcome, Error>) -> Created {
    match outcome {
        Ok(Outcome::Created(created)) => *created,
        other => panic!("{other:?}"),
    }
}
