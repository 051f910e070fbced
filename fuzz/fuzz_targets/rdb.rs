//! Whatever the bytes are and however they are cut, the walker ends, holds little and finds the same.
//!
//! The first byte of the input chooses the pieces, the second what is put around the rest: a header, and an end with
//! the right checksum, which no mutation would find.

#![no_main]

mod memory;
mod pieces;

use libfuzzer_sys::fuzz_target;
use switchmaster::backup::rdb::{Crc64, KEY_KEPT, Malformed, Summary, Walker, walk};

/// Inputs up to this long are split at every place.
const EVERY_SPLIT: usize = 64;

fuzz_target!(|input: &[u8]| {
    let [choice, around, rest @ ..] = input else { return };
    let header: &[u8] = match around & 7 {
        1 => b"REDIS0014",
        2 => b"VALKEY080",
        3 => b"REDIS0011",
        4 => b"REDIS0004",
        5 => b"REDIS0099",
        _ => b"",
    };
    let mut rdb = [header, rest].concat();
    if around & 8 != 0 {
        rdb.push(0xff);
        let mut crc = Crc64::new();
        crc.update(&rdb);
        rdb.extend(crc.value().to_le_bytes());
    }
    // A key and a string as long as what is kept of one, and what is counted of each few bytes.
    let _ = memory::within(4 * KEY_KEPT + 128 * rdb.len(), || walked(&[&rdb], &mut |_| {}));
    let whole = told(&[&rdb]);
    let same = |pieces: &[&[u8]]| assert_eq!(told(pieces), whole, "{} in {} pieces", rdb.escape_ascii(), pieces.len());
    same(&rdb.chunks(1).collect::<Vec<_>>());
    same(&pieces::pieces(&rdb, *choice));
    if rdb.len() <= EVERY_SPLIT {
        (0..=rdb.len()).for_each(|split| same(&[&rdb[..split], &rdb[split..]]));
    }
    let file = walk(&rdb[..], &mut |_| {});
    match (&whole.1, &file) {
        (Ok((summary, taken)), Ok(found)) => assert!(summary == found && *taken == rdb.len()),
        (Ok((_, taken)), Err(followed)) => assert!(*taken < rdb.len() && followed.offset == *taken as u64),
        (Err(why), Err(found)) => assert_eq!(why, found),
        (Err(why), Ok(_)) => panic!("{why}, but not in a file"),
    }
});

/// Every key, and what came of the whole: the summary and how many bytes belonged to it.
type Told = (Vec<String>, Result<(Summary, usize), Malformed>);

fn told(pieces: &[&[u8]]) -> Told {
    let mut keys = Vec::new();
    let outcome = walked(pieces, &mut |key| keys.push(key));
    (keys, outcome)
}

fn walked(pieces: &[&[u8]], each: &mut impl FnMut(String)) -> Result<(Summary, usize), Malformed> {
    let mut walker = Walker::new();
    let mut end = 0;
    for piece in pieces {
        let taken = walker.feed(piece, &mut |entry| {
            assert!(entry.key.len() <= KEY_KEPT && entry.key.len() as u64 <= entry.key_len);
            assert!(entry.value.start <= entry.value.end);
            each(format!("{entry:?}"));
        })?;
        end += taken;
        if taken < piece.len() {
            assert!(walker.is_over());
            break;
        }
    }
    assert_eq!(walker.offset(), end as u64);
    Ok((walker.finish()?, end))
}
