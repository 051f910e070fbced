//! Backups of servers as `create` would have made them, and whether two servers hold the same.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;

use switchmaster::backup::restore::primary::Rdb;
use switchmaster::backup::{Counts, Manifest, Packing, Source, rdb};
use switchmaster::config::{Config, HostPort};
use switchmaster::demo::cluster::Cluster;

use crate::zoo::Exhibit;

/// By database and key.
pub type Contents = BTreeMap<(u32, Vec<u8>), Exhibit>;

/// A plain RDB and its manifest.
pub struct Saved {
    pub file: File,
    pub manifest: Manifest,
}

impl Saved {
    /// Of a file that a server saved.
    pub fn of(path: &Path) -> Saved {
        let file = File::open(path).unwrap();
        let summary = rdb::walk(&file, &mut |_| {}).unwrap();
        let manifest = Manifest {
            format: 1,
            id: "20261120T031400Z-0123abcd-5000".into(),
            master_name: "mymaster".into(),
            created: "2026-11-20T03:14:00Z".parse().unwrap(),
            object: "20261120T031400Z-0123abcd-5000.rdb.zst".into(),
            source: Source {
                addr: "10.0.0.1:6379".into(),
                role: "replica".into(),
                version: "7.0.15".into(),
                run_id: "0".repeat(40),
                replid: "0123abcd".repeat(5),
                offset: 5000,
            },
            magic: summary.magic.to_string(),
            rdb_version: summary.version,
            crc64: summary.crc64.map(|crc| format!("{crc:016x}")),
            plain_bytes: summary.bytes,
            plain_sha256: String::new(),
            packing: Packing { compression: "zstd".into(), level: 3, encryption: None, recipients: vec![] },
            stored_bytes: 0,
            stored_sha256: String::new(),
            counts: summary.counts,
            tool: "test".into(),
        };
        Saved { file, manifest }
    }

    /// The same once more, to be changed.
    pub fn of_same(other: &Saved) -> Saved {
        Saved { file: other.file.try_clone().unwrap(), manifest: other.manifest.clone() }
    }

    /// As it is served.
    pub fn rdb(&self) -> Rdb {
        let file = self.file.try_clone().unwrap();
        Rdb { file, bytes: self.manifest.plain_bytes, offset: self.manifest.source.offset }
    }

    pub fn counts(&self) -> &Counts {
        &self.manifest.counts
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
