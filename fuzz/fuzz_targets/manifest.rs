//! Manifests, and data beside them, of a store in which anybody may have written.
//!
//! The first byte of the input chooses what the rest is: an object as it is; its text, sealed here; or a manifest and,
//! after an empty line, the data that it tells of.

#![no_main]

mod memory;

use std::io::Read;

use libfuzzer_sys::fuzz_target;
use sha2::{Digest, Sha256};
use switchmaster::backup::follow;
use switchmaster::backup::follow::timeline::Timeline;
use switchmaster::backup::pack::{Identities, Unpacker};
use switchmaster::backup::{Manifest, catalog, prune};
use switchmaster::backup::args::PruneArgs;

const MASTER: &str = "mymaster";
const ID: &str = "20261120T031400Z-01234567-4711";

fuzz_target!(|input: &[u8]| {
    let Some((what, rest)) = input.split_first() else { return };
    match what % 3 {
        0 => drop(read(rest)),
        1 => {
            let text = [rest, b",\n  \"seal\": \""].concat();
            let seal: String = Sha256::digest(rest).iter().map(|byte| format!("{byte:02x}")).collect();
            let sealed = [&text[..], seal.as_bytes(), b"\"\n}\n"].concat();
            assert!(Manifest::is_sealed(&sealed));
            drop(read(&sealed));
        }
        _ => {
            let at = rest.windows(2).position(|pair| pair == b"\n\n").unwrap_or(rest.len());
            let (json, data) = (&rest[..at], rest.get(at + 2..).unwrap_or_default());
            if let Ok(manifest) = serde_json::from_slice::<Manifest>(json) {
                let sealed = manifest.to_bytes().unwrap();
                if let Ok(found) = read(&sealed) {
                    assert_eq!(found, manifest);
                }
                unpack(&manifest, data);
            }
        }
    }
});

fn read(object: &[u8]) -> Result<Manifest, switchmaster::backup::Error> {
    let manifest = memory::within(64 * 1024 + 64 * object.len(), || catalog::parse(object, MASTER, ID))?;
    assert_eq!((manifest.master_name.as_str(), manifest.id.as_str()), (MASTER, ID));
    // Nothing outside of the folder is read or deleted by its word.
    let object = catalog::object_name(MASTER, &manifest.object);
    assert!(object.starts_with(&format!("{MASTER}/{ID}.rdb")) && object.matches('/').count() == 1, "{object:?}");
    manifest.counts.keys();
    let sum = [&manifest; 1000].iter().map(|manifest| manifest.plain_bytes + manifest.stored_bytes).sum::<u64>();
    assert!(sum < u64::MAX);
    let candidate =
        prune::Candidate { created: manifest.created, verified: true, readable: true, damaged: false, safety: false };
    let rules = PruneArgs { keep_daily: 1, keep_weekly: 1, keep_monthly: 1, ..PruneArgs::default() };
    let now = "2026-11-20T12:00:00Z".parse().unwrap();
    prune::plan(&rules, &[candidate.clone(), candidate], now);
    let backup = catalog::Backup {
        master_name: MASTER.to_owned(),
        id: ID.to_owned(),
        manifest: Ok(manifest.clone()),
        verified: None,
        damage: None,
    };
    let timeline = Timeline::new(follow::bases(&[backup]), Vec::new());
    let _ = (timeline.to(u64::MAX), timeline.ranges().to_string());
    Ok(manifest)
}

/// Data that is not what the manifest tells of is an error, and takes little memory before that is known.
fn unpack(manifest: &Manifest, data: &[u8]) {
    memory::within(4 << 20, || {
        let identities = Identities::read(None).unwrap();
        let Ok(mut unpacker) = Unpacker::new(data, manifest, &identities) else { return };
        let mut chunk = [0; 1000];
        while unpacker.read(&mut chunk).is_ok_and(|count| count > 0) {}
        if unpacker.finish().is_ok() {
            let found: String = Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(found, manifest.stored_sha256);
        }
    });
}
