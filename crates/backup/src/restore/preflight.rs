//! Whether this backup can be put into this node, decided on what both say of themselves. Asks nothing.
//!
//! A replica that meets a version that it does not know has emptied itself already, so that is found out before.

use std::time::Duration;

use super::node::Facts;
use crate::rdb::Summary;
use crate::size;
use crate::{Error, Manifest};

/// What a server takes to free one key, and what is in it: measured between 2 and 4 µs.
const FREED: Duration = Duration::from_micros(3);

/// What the data takes once it is loaded, in bytes: what it took where the RDB was written (`used-mem`), where the RDB
/// says so; the file itself is a lower bound.
pub fn size(manifest: &Manifest, summary: Option<&Summary>) -> u64 {
    let told = summary.and_then(|summary| summary.aux.get("used-mem")?.parse().ok());
    told.unwrap_or(0).max(manifest.plain_bytes)
}

/// Whether a walk over the fetched RDB found what its manifest says.
pub fn sound(summary: &Summary, manifest: &Manifest) -> Result<(), Error> {
    if summary.counts == manifest.counts {
        return Ok(());
    }
    Err(Error::Unsound(format!("backup {} holds other counts than its manifest says", manifest.id)))
}

/// Why the node cannot load this backup at all, in plain words with what to do.
pub fn loads(facts: &Facts, manifest: &Manifest) -> Result<(), String> {
    let (magic, version) = (manifest.magic.as_str(), manifest.rdb_version);
    let server = if facts.valkey { "Valkey" } else { "Redis" };
    let node = format!("{server} {}", facts.version);
    if magic == "VALKEY" && !facts.valkey {
        return Err(format!("the backup is of a Valkey (RDB version {version}), which {node} cannot load"));
    }
    // Valkey reads what Redis wrote up to 7.2; versions from 12 on have been Redis's alone (Valkey rdb.h).
    if magic == "REDIS" && facts.valkey && version >= 12 {
        return Err(format!("the backup is of Redis 7.4 or later (RDB version {version}), which {node} cannot load"));
    }
    match facts.rdb_version {
        Some(newest) if version > newest => Err(format!(
            "the backup has RDB version {version}, and {node} loads up to {newest}: restore to a node that is as new as \
             the one it was made from ({})",
            manifest.source.version
        )),
        Some(_) => Ok(()),
        None => Err(format!(
            "{node} does not tell which RDB version it loads (the backup has {version}): may its user call FUNCTION DUMP? \
             (+function|dump)"
        )),
    }
}

/// Why the node has no place for the backup's databases, or for the one that is wanted of them. One that loads an RDB with
/// more than it has ends itself (rdb.c, `rdbLoadRioWithLoadingCtx`).
pub fn has_databases(facts: &Facts, manifest: &Manifest, wanted: Option<u32>) -> Result<(), String> {
    let held = manifest.counts.databases.iter().filter(|(_, counts)| counts.keys > 0).map(|(db, _)| *db);
    match (held.filter(|db| wanted.is_none_or(|wanted| wanted == *db)).max(), facts.databases) {
        (Some(last), Some(count)) if last >= count => Err(format!(
            "the backup has keys in database {last}, and it has only {count}: start it with `databases {}` in its \
             configuration, or restore the others one by one with --keys --db",
            last.saturating_add(1)
        )),
        _ => Ok(()),
    }
}

/// How a node lets go of what it has before it loads what it is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Emptying {
    /// In the background, as `replica-lazy-flush yes` says.
    Background,
    /// So too once that is set.
    ToBeSet,
    /// It answers nobody for about so long, because of this.
    Silent(Duration, String),
}

/// How the node will do it. `lazy` is its `replica-lazy-flush`, or why that may not be changed; `size` is what the new
/// data takes, in bytes.
pub fn emptying(facts: &Facts, lazy: &Result<String, String>, size: u64) -> Emptying {
    let why = match lazy {
        Ok(value) if value == "yes" => return Emptying::Background,
        Ok(_) => room_for_both(facts, size),
        Err(why) => Err(format!("replica-lazy-flush cannot be set: {why}")),
    };
    match why {
        Ok(()) => Emptying::ToBeSet,
        Err(why) => Emptying::Silent(FREED * u32::try_from(facts.keys()).unwrap_or(u32::MAX), why),
    }
}

/// Whether a node may hold what it has and, beside it, new data that takes `size` bytes. `Err` says why not.
pub fn room_for_both(facts: &Facts, size: u64) -> Result<(), String> {
    let both = facts.used_memory + size;
    // Its host has other things to do as well.
    let of_host = facts.system_memory / 4 * 3;
    for (limit, whose) in [(facts.maxmemory, "its maxmemory"), (of_host, "three quarters of its host's memory")] {
        if limit > 0 && both > limit {
            let (both, limit) = (size::rounded(both), size::rounded(limit));
            return Err(format!("the old and the new data, {both}, exceed {whose} ({limit})"));
        }
    }
    Ok(())
}

/// Why it should not be done to this node, live.
pub fn serves(facts: &Facts, manifest: &Manifest, size: u64) -> Result<(), String> {
    if facts.cluster {
        return Err("it is a node of a Redis Cluster, where REPLICAOF does not exist: restore with --keys".into());
    }
    if !facts.master {
        return Err("it is a replica: restore to its master, the replicas follow".into());
    }
    if facts.loading {
        return Err("it is loading its data: try again in a moment".into());
    }
    let takes = format!("the backup's data takes {}, more than", size::rounded(size));
    if facts.maxmemory > 0 && size > facts.maxmemory {
        let limit = size::rounded(facts.maxmemory);
        return Err(format!("{takes} its maxmemory ({limit}): as a master again it would evict keys at once"));
    }
    if facts.system_memory > 0 && size > facts.system_memory {
        return Err(format!("{takes} the memory of its host ({})", size::rounded(facts.system_memory)));
    }
    has_databases(facts, manifest, None)?;
    loads(facts, manifest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Counts, DbCounts, Packing, Source};

    fn manifest(magic: &str, version: u32) -> Manifest {
        Manifest {
            format: 1,
            id: "20261120T031400Z-01234567-1".into(),
            master_name: "mymaster".into(),
            created: "2026-11-20T03:14:00Z".parse().unwrap(),
            object: "x.rdb.zst".into(),
            source: Source {
                addr: "10.0.0.1:6379".into(),
                role: "replica".into(),
                version: "7.0.15".into(),
                run_id: String::new(),
                replid: String::new(),
                offset: 1,
            },
            magic: magic.into(),
            rdb_version: version,
            crc64: None,
            plain_bytes: 1000,
            plain_sha256: String::new(),
            packing: Packing { compression: "zstd".into(), level: 3, encryption: None, recipients: vec![] },
            stored_bytes: 1,
            stored_sha256: String::new(),
            counts: Counts::default(),
            tool: "0".into(),
        }
    }

    fn facts(valkey: bool, rdb_version: Option<u32>) -> Facts {
        Facts { master: true, valkey, rdb_version, version: "7.0.15".into(), ..Facts::default() }
    }

    #[test]
    fn versions_go_forward_and_never_across() {
        let cases = [
            ("REDIS", 10, false, Some(10), true),
            ("REDIS", 9, false, Some(10), true),
            ("REDIS", 11, false, Some(10), false),
            ("REDIS", 11, true, Some(11), true),
            ("REDIS", 11, true, Some(80), true),
            ("REDIS", 12, true, Some(80), false),
            ("VALKEY", 80, true, Some(80), true),
            ("VALKEY", 80, true, Some(11), false),
            ("VALKEY", 80, false, Some(12), false),
            ("REDIS", 10, false, None, false),
        ];
        for (magic, version, valkey, newest, good) in cases {
            let answer = loads(&facts(valkey, newest), &manifest(magic, version));
            assert_eq!(answer.is_ok(), good, "{magic} {version} into valkey={valkey} {newest:?}: {answer:?}");
        }
    }

    #[test]
    fn old_data_is_freed_in_the_background_where_both_have_room() {
        let facts = Facts {
            used_memory: 600,
            maxmemory: 1000,
            keyspace: [(0, 4_000_000), (7, 1_000_000)].into(),
            ..facts(false, Some(10))
        };
        let (no, yes) = (Ok("no".to_owned()), Ok("yes".to_owned()));
        assert_eq!(emptying(&facts, &no, 400), Emptying::ToBeSet);
        assert_eq!(emptying(&Facts { maxmemory: 0, ..facts.clone() }, &no, 4000), Emptying::ToBeSet);
        assert_eq!(emptying(&facts, &yes, 4000), Emptying::Background, "somebody else has decided so");
        let silent = |facts: &Facts, lazy: &Result<String, String>, size, word: &str| match emptying(facts, lazy, size)
        {
            Emptying::Silent(time, why) => {
                assert!(time == Duration::from_secs(15) && why.contains(word), "{time:?} {why}")
            }
            other => panic!("{other:?}"),
        };
        silent(&facts, &no, 401, "maxmemory");
        silent(&Facts { maxmemory: 0, system_memory: 1000, ..facts.clone() }, &no, 401, "host's memory");
        silent(&facts, &Err("NOPERM".into()), 1, "NOPERM");
    }

    #[test]
    fn a_node_that_cannot_take_it_is_told_why() {
        let mut manifest = manifest("REDIS", 10);
        manifest.counts.databases = [0, 3, 15].map(|db| (db, DbCounts { keys: 1, ..DbCounts::default() })).into();
        let fine = facts(false, Some(10));
        assert_eq!(serves(&fine, &manifest, 1000), Ok(()));
        let said = |facts: Facts, word: &str| {
            let why = serves(&facts, &manifest, 1000).unwrap_err();
            assert!(why.contains(word), "{why}");
        };
        said(Facts { cluster: true, ..fine.clone() }, "--keys");
        said(Facts { master: false, ..fine.clone() }, "replica");
        said(Facts { loading: true, ..fine.clone() }, "loading");
        said(Facts { maxmemory: 999, ..fine.clone() }, "maxmemory");
        said(Facts { databases: Some(15), ..fine.clone() }, "`databases 16`");
        assert_eq!(has_databases(&Facts { databases: Some(16), ..fine.clone() }, &manifest, None), Ok(()));
        assert_eq!(has_databases(&Facts { databases: Some(4), ..fine.clone() }, &manifest, Some(3)), Ok(()));
        said(Facts { system_memory: 999, ..fine }, "memory of its host");
    }
}
