//! The walk over RDBs that a real server wrote: counted as the server counts, and each value is what DUMP says.
//!
//! Every type and encoding the server knows is in them; `REDIS_SERVER` says which server.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use switchmaster::backup::rdb::{Cause, Crc64, Summary, Walker, dump_trailer, walk};
use switchmaster::wire::Reply;

use crate::lone::Lone;
use crate::zoo::{self, Exhibit};

#[tokio::test]
async fn it_counts_what_the_server_counts() {
    let server = Lone::start(&[]).await;
    let zoo = zoo::fill(server.addr, None).await.unwrap();
    let (summary, seen) = walked(&server.save().await);
    assert!(summary.crc64.is_some());
    assert_eq!(summary.counts.functions, zoo.functions);
    assert_counts(&server, &summary).await;
    // Each key has the name, type and expiry that the server says.
    let contents = zoo::contents(server.addr, None).await.unwrap();
    assert_eq!(seen.len(), contents.len());
    for ((db, name), Exhibit { kind, expire_at_ms, .. }) in &contents {
        let entry = &seen[&(*db, kept(name))];
        assert_eq!((&entry.type_name, entry.expire_at_ms), (kind, *expire_at_ms), "{}", name.escape_ascii());
    }
    println!("{}: {} keys, encodings {:?}", summary.aux["redis-bits"], seen.len(), kinds(&seen));
}

#[tokio::test]
async fn each_value_is_what_dump_says() {
    // As it is by default, without compression, and with the old encodings left as soon as can be.
    let tables = ["hash-max-listpack-entries 0", "zset-max-listpack-entries 0", "set-max-intset-entries 0"];
    for lines in [&[][..], &["rdbcompression no"], &tables] {
        let server = Lone::start(lines).await;
        zoo::fill(server.addr, None).await.unwrap();
        let path = server.save().await;
        let (summary, seen) = walked(&path);
        let rdb = fs::read(&path).unwrap();
        let mut compared = 0;
        for ((db, name), entry) in &seen {
            if name.len() == switchmaster::backup::rdb::KEY_KEPT {
                continue;
            }
            let mut wire = server.open(*db).await;
            let Reply::Bulk(dump) = wire.ask(&[b"DUMP", &name[..]]).await.unwrap() else { panic!("no DUMP") };
            let value = &rdb[entry.value.0 as usize..entry.value.1 as usize];
            let mut crc = Crc64::new();
            crc.update(&[entry.kind]);
            crc.update(value);
            let built = [&[entry.kind], value, &dump_trailer(summary.version, crc)].concat();
            assert!(built == dump, "{lines:?}: {} in {db} of type {}", name.escape_ascii(), entry.kind);
            compared += 1;
        }
        assert!(compared > 2000, "only {compared} keys");
        println!("{lines:?}: {compared} keys, encodings {:?}", kinds(&seen));
        if summary.counts.functions > 0 {
            let Reply::Bulk(dump) = server.open(0).await.ask(&["FUNCTION", "DUMP"]).await.unwrap() else { panic!() };
            let places = summary.libraries.iter();
            let mut built: Vec<u8> =
                places.flat_map(|place| &rdb[place.start as usize..place.end as usize]).copied().collect();
            let mut crc = Crc64::new();
            crc.update(&built);
            built.extend_from_slice(&dump_trailer(summary.version, crc));
            assert!(built == dump, "{lines:?}: functions");
        }
    }
}

#[tokio::test]
async fn a_server_with_checksums_off_is_walked_all_the_same() {
    let server = Lone::start(&["rdbchecksum no"]).await;
    zoo::fill(server.addr, None).await.unwrap();
    let (summary, _) = walked(&server.save().await);
    assert_eq!(summary.crc64, None);
    assert_counts(&server, &summary).await;
}

#[tokio::test]
async fn an_empty_data_set_is_whole() {
    let server = Lone::start(&[]).await;
    let path = server.save().await;
    let (summary, seen) = walked(&path);
    assert_eq!((summary.counts.keys(), seen.len()), (0, 0));
    assert_eq!(summary.bytes, fs::metadata(&path).unwrap().len());
    let version = summary.aux.get("redis-ver").or_else(|| summary.aux.get("valkey-ver"));
    assert!(version.is_some(), "{:?}", summary.aux);
}

#[tokio::test]
async fn what_eviction_keeps_of_a_key_is_told() {
    for (policy, lru) in [("allkeys-lru", true), ("allkeys-lfu", false)] {
        let server = Lone::start(&["maxmemory 1gb", &format!("maxmemory-policy {policy}")]).await;
        server.open(0).await.ask(&["SET", "key", "value"]).await.unwrap();
        let rdb = fs::read(server.save().await).unwrap();
        let mut told = Vec::new();
        walk(&rdb[..], &mut |entry| told.push((entry.idle_s.is_some(), entry.frequency.is_some()))).unwrap();
        assert_eq!(told, [(lru, !lru)], "{policy}");
    }
}

#[tokio::test]
async fn each_of_10_000_flipped_bits_is_found() {
    let server = Lone::start(&[]).await;
    zoo::fill(server.addr, None).await.unwrap();
    // More of the same would only take longer.
    for db in &zoo::DATABASES[1..] {
        let mut wire = server.open(*db).await;
        wire.ask(&["FLUSHDB"]).await.unwrap();
        wire.ask(&["SET", "alone", "here"]).await.unwrap();
    }
    let large = ["string:large", "string:lzf-large", "set:integers", "set:table", "hash:table", "zset:skiplist"];
    server.open(0).await.ask(&[&["DEL"], &large[..]].concat()).await.unwrap();
    let mut rdb = fs::read(server.save().await).unwrap();
    walk(&rdb[..], &mut |_| ()).unwrap();
    let mut noise = 0x9e37_79b9_7f4a_7c15u64;
    let (mut by_checksum, mut truncated) = (0, 0);
    for _ in 0..10_000 {
        noise ^= noise << 13;
        noise ^= noise >> 7;
        noise ^= noise << 17;
        let (at, bit) = ((noise >> 8) as usize % rdb.len(), 1 << (noise & 7));
        rdb[at] ^= bit;
        let mut walker = Walker::new();
        let failed = match walker.feed(&rdb, &mut |_| ()) {
            Err(failed) => failed,
            Ok(taken) if taken < rdb.len() => walk(&rdb[..], &mut |_| ()).unwrap_err(),
            Ok(_) => walker.finish().expect_err("a flipped bit is found"),
        };
        by_checksum += u32::from(failed.what.starts_with("its checksum says"));
        truncated += u32::from(failed.cause == Cause::Truncated);
        rdb[at] ^= bit;
    }
    println!("of 10,000 in {} bytes: {by_checksum} by the checksum, {truncated} as truncated", rdb.len());
    assert!(by_checksum > 5000 && by_checksum < 10_000, "{by_checksum}");
    walk(&rdb[..], &mut |_| ()).unwrap();
}

/// Of a key, what the walk told.
#[derive(Debug)]
struct Seen {
    kind: u8,
    type_name: String,
    expire_at_ms: i64,
    value: (u64, u64),
}

/// Walks over a file: its summary, and what it told by database and name.
fn walked(path: &Path) -> (Summary, BTreeMap<(u32, Vec<u8>), Seen>) {
    let mut seen = BTreeMap::new();
    let summary = walk(fs::File::open(path).unwrap(), &mut |entry| {
        assert_eq!(entry.key_len.min(65_536), entry.key.len() as u64);
        let new = Seen {
            kind: entry.kind,
            type_name: entry.type_name.to_owned(),
            expire_at_ms: entry.expire_at_ms.map_or(-1, |at| at as i64),
            value: (entry.value.start, entry.value.end),
        };
        let old = seen.insert((entry.db, entry.key.to_vec()), new);
        assert!(old.is_none(), "{} twice", entry.key.escape_ascii());
    });
    (summary.unwrap(), seen)
}

fn kept(name: &[u8]) -> Vec<u8> {
    name[..name.len().min(switchmaster::backup::rdb::KEY_KEPT)].to_vec()
}

fn kinds(seen: &BTreeMap<(u32, Vec<u8>), Seen>) -> BTreeSet<u8> {
    seen.values().map(|entry| entry.kind).collect()
}

/// DBSIZE, INFO keyspace and TYPE of every key against the summary.
async fn assert_counts(server: &Lone, summary: &Summary) {
    let info = server.open(0).await.ask(&["INFO", "keyspace"]).await.unwrap();
    let databases = info.text().unwrap().lines().filter(|line| line.starts_with("db")).count();
    assert_eq!(summary.counts.databases.len(), databases);
    for (db, counts) in &summary.counts.databases {
        let mut wire = server.open(*db).await;
        assert_eq!(wire.ask(&["DBSIZE"]).await.unwrap(), Reply::Integer(counts.keys as i64), "db {db}");
        let line = format!("db{db}:keys={},expires={}", counts.keys, counts.expires);
        assert!(info.text().unwrap().contains(&line), "{line} in {info}");
        let mut types = BTreeMap::new();
        for name in wire.ask(&["KEYS", "*"]).await.unwrap().items() {
            let Reply::Bulk(name) = name else { panic!("{name}") };
            let kind = wire.ask(&[b"TYPE", &name[..]]).await.unwrap();
            *types.entry(kind.text().unwrap().to_owned()).or_insert(0u64) += 1;
        }
        assert_eq!(counts.types, types, "db {db}");
    }
}
