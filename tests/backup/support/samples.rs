//! Bytes to back up, and manifests about them.

use std::fs::File;
use std::io::{Seek, Write};

use switchmaster::backup::pack::{Packed, Recipients, pack};
use switchmaster::backup::rdb::walk;
use switchmaster::backup::{Manifest, Source, catalog};

pub const MASTER: &str = "mymaster";
pub const REPLID: &str = "0123456789abcdef0123456789abcdef01234567";

/// Bytes that compress a little, the same for the same seed.
pub fn bytes(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..length).map(|at| if at % 3 == 0 { b'x' } else { next() as u8 }).collect()
}

/// A sound RDB of about `length` bytes: strings in database 0, and no checksum.
pub fn rdb(length: usize, seed: u64) -> Vec<u8> {
    let mut rdb = b"REDIS0010\xfe\x00".to_vec();
    for (number, value) in bytes(length, seed).chunks(1_000).enumerate() {
        rdb.push(0);
        for text in [format!("key:{number}").as_bytes(), value] {
            // A length in 14 bits.
            rdb.extend([0x40 | (text.len() >> 8) as u8, text.len() as u8]);
            rdb.extend(text);
        }
    }
    rdb.extend(b"\xff\0\0\0\0\0\0\0\0");
    rdb
}

/// A file that holds `bytes`.
pub fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file
}

/// `plain` packed, with a manifest about it.
pub fn packed(plain: &[u8], recipients: &[String], created: &str) -> (Vec<u8>, Manifest) {
    let recipients = Recipients::parse(recipients).unwrap();
    let out = tempfile::tempfile().unwrap();
    let packed = pack(file(plain), out.try_clone().unwrap(), &recipients, &mut |_| {}).unwrap();
    let stored = read(out);
    (stored, manifest(plain, packed, &recipients, created))
}

/// The whole of a file.
pub fn read(mut file: File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    std::io::Read::read_to_end(&mut file, &mut bytes).unwrap();
    bytes
}

fn manifest(plain: &[u8], packed: Packed, recipients: &Recipients, created: &str) -> Manifest {
    let created = created.parse().unwrap();
    let id = catalog::id(created, REPLID, 4711);
    let walked = walk(plain, &mut |_| {}).ok();
    Manifest {
        format: catalog::FORMAT,
        object: format!("{id}{}", recipients.suffix()),
        id,
        master_name: MASTER.to_owned(),
        created,
        source: Source {
            addr: "127.0.0.1:6380".to_owned(),
            role: "replica".to_owned(),
            version: "7.0.15".to_owned(),
            run_id: "r".repeat(40),
            replid: REPLID.to_owned(),
            offset: 4711,
        },
        magic: "REDIS".to_owned(),
        rdb_version: walked.as_ref().map_or(10, |summary| summary.version),
        crc64: walked.as_ref().and_then(|summary| summary.crc64).map(|crc64| format!("{crc64:016x}")),
        plain_bytes: packed.plain_bytes,
        plain_sha256: packed.plain_sha256,
        packing: recipients.packing(),
        stored_bytes: packed.stored_bytes,
        stored_sha256: packed.stored_sha256,
        counts: walked.map(|summary| summary.counts).unwrap_or_default(),
        tool: env!("CARGO_PKG_VERSION").to_owned(),
    }
}
