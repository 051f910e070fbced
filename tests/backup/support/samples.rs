//! Bytes to back up, and manifests about them.

use std::fs::File;
use std::io::{Seek, Write};

use switchmaster::backup::pack::{Packed, Recipients, pack};
use switchmaster::backup::{Counts, Manifest, Source, catalog};

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

/// A file that holds `bytes`.
pub fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file
}

/// `plain` packed, with a manifest about it that is `minutes` old.
pub fn packed(plain: &[u8], recipients: &[String], created: &str) -> (Vec<u8>, Manifest) {
    let recipients = Recipients::parse(recipients).unwrap();
    let out = tempfile::tempfile().unwrap();
    let packed = pack(file(plain), out.try_clone().unwrap(), &recipients, &mut |_| {}).unwrap();
    let stored = read(out);
    (stored, manifest(packed, &recipients, created))
}

/// The whole of a file.
pub fn read(mut file: File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    std::io::Read::read_to_end(&mut file, &mut bytes).unwrap();
    bytes
}

fn manifest(packed: Packed, recipients: &Recipients, created: &str) -> Manifest {
    let created = created.parse().unwrap();
    let id = catalog::id(created, REPLID, 4711);
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
        rdb_version: 10,
        crc64: None,
        plain_bytes: packed.plain_bytes,
        plain_sha256: packed.plain_sha256,
        packing: recipients.packing(),
        stored_bytes: packed.stored_bytes,
        stored_sha256: packed.stored_sha256,
        counts: Counts::default(),
        tool: env!("CARGO_PKG_VERSION").to_owned(),
    }
}
