//! Backups of servers as `create` would have made them, and whether two servers hold the same.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::Path;

use switchmaster::backup::Config;
use switchmaster::backup::restore::primary::Rdb;
use switchmaster::backup::{Counts, Manifest, catalog, rdb};
use switchmaster::config::HostPort;
use switchmaster::demo::cluster::Cluster;
use switchmaster::secret::Secret;

use crate::it::proxy::ADMIN_TOKEN;
use crate::support::samples;
use crate::zoo::Exhibit;

/// By database and key.
pub type Contents = BTreeMap<(u32, Vec<u8>), Exhibit>;

/// A backup of a file that a server saved.
pub struct Saved {
    pub file: File,
    pub manifest: Manifest,
    /// As it lies in a store.
    pub stored: Vec<u8>,
}

impl Saved {
    pub fn of(path: &Path) -> Saved {
        Saved::encrypted(path, &[])
    }

    /// For these age recipients.
    pub fn encrypted(path: &Path, recipients: &[String]) -> Saved {
        let plain = fs::read(path).unwrap();
        let summary = rdb::walk(&plain[..], &mut |_| {}).unwrap();
        let (stored, mut manifest) = samples::packed(&plain, recipients, "2026-11-20T03:14:00Z");
        manifest.rdb_version = summary.version;
        manifest.counts = summary.counts;
        Saved { file: File::open(path).unwrap(), manifest, stored }
    }

    /// As it is served.
    pub fn rdb(&self) -> Rdb {
        let file = self.file.try_clone().unwrap();
        Rdb { file, bytes: self.manifest.plain_bytes, offset: self.manifest.source.offset }
    }

    pub fn counts(&self) -> &Counts {
        &self.manifest.counts
    }

    /// Puts it into a store in the folder `dir`, whose URL it returns.
    pub fn shelve(&self, dir: &Path) -> String {
        let (name, Manifest { id, object, .. }) = (&self.manifest.master_name, &self.manifest);
        fs::create_dir_all(dir.join(name)).unwrap();
        fs::write(dir.join(catalog::object_name(name, object)), &self.stored).unwrap();
        let manifest = self.manifest.to_bytes().unwrap();
        fs::write(dir.join(catalog::manifest_name(name, id)), manifest).unwrap();
        format!("file://{}", dir.display())
    }
}

/// Every key of `expected` is there and equal; the others begin with something of `allowed`.
pub fn assert_same(found: &Contents, expected: &Contents, allowed: &[&str]) {
    assert!(expected.len() > 100, "only {} keys were expected", expected.len());
    for ((db, key), one) in expected {
        let name = format!("{} in database {db}", key.escape_ascii());
        let other = found.get(&(*db, key.clone())).unwrap_or_else(|| panic!("{name} is missing"));
        assert_eq!((&other.kind, &other.contents), (&one.kind, &one.contents), "{name}");
        let (expires, expected) = (other.expire_at_ms, one.expire_at_ms);
        assert!((expires - expected).abs() <= 1000, "{name} expires at {expires}, not at {expected}");
    }
    for (db, key) in found.keys().filter(|key| !expected.contains_key(*key)) {
        let name = String::from_utf8_lossy(key);
        assert!(allowed.iter().any(|beginning| name.starts_with(beginning)), "{name} in database {db} was not there");
    }
}

/// The configuration of somebody who restores into `cluster`.
pub fn config(cluster: &Cluster) -> Config {
    let mut config = Config::default();
    let host_port = |addr: &SocketAddr| HostPort { host: addr.ip().to_string(), port: addr.port() };
    config.sentinel.addrs = cluster.sentinel_addrs().iter().map(host_port).collect();
    config.sentinel.master_name = Some(cluster.master_name().into());
    config.sentinel.redis_auth = cluster.auth();
    config.admin_token = Some(Secret::new(ADMIN_TOKEN));
    config
}

/// The configuration of somebody who has no Sentinel.
pub fn no_sentinel() -> Config {
    let mut config = Config::default();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    config.sentinel.addrs = vec![HostPort { host: nobody.ip().to_string(), port: nobody.port() }];
    config.sentinel.master_name = Some("mymaster".into());
    config
}
