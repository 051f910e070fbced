//! Segments, their names and what can be reached with them, of a store in which anybody may have written.
//!
//! The first byte of the input chooses what the rest is: an object as it is; an index and a frame, put together with
//! the right hashes, which no mutation would find; commands to be written and read back; a list of names.

#![no_main]

mod memory;
mod pieces;

use std::io::{self, Read};

use libfuzzer_sys::fuzz_target;
use sha2::{Digest, Sha256};
use switchmaster::backup::follow::finder::{Finder, Pattern};
use switchmaster::backup::follow::segment::{self, Index, Name, Reader};
use switchmaster::backup::follow::shipper;
use switchmaster::backup::follow::timeline::{Base, Timeline};

fuzz_target!(|input: &[u8]| {
    let [what, choice, rest @ ..] = input else { return };
    match what % 4 {
        0 => drop(read(rest)),
        1 => {
            let (json, frame) = rest.split_at(rest.len().min(usize::from(*choice) * 4));
            drop(read(&forged(json, frame)));
        }
        2 => written(rest, *choice),
        _ => {
            if let Ok(text) = std::str::from_utf8(rest) {
                names(text);
            }
        }
    }
});

fn read(stored: &[u8]) -> io::Result<(Index, Vec<u8>)> {
    // zstd counts its own, and was told how much; a mark is 16 bytes and written as at least 6.
    memory::within(1 << 20 | 16 * stored.len(), || {
        let mut reader = Reader::open(stored)?;
        let mut bytes = 0;
        let mut chunk = [0; 1000];
        loop {
            match reader.read(&mut chunk)? {
                0 => break,
                count => bytes += count,
            }
            assert!(bytes as u64 <= reader.index().to - reader.index().from);
        }
        io::Result::Ok(())
    })?;
    let mut reader = Reader::open(stored)?;
    let mut commands = Vec::new();
    reader.read_to_end(&mut commands)?;
    let index = reader.index().clone();
    assert_eq!(commands.len() as u64, index.to - index.from);
    assert_eq!(hex(&Sha256::digest(&commands)), index.sha256);
    index.marks().rev().for_each(drop);
    Ok((index, commands))
}

/// With the hash of the index as it must be, and in the index that of the commands if they can be had.
fn forged(json: &[u8], frame: &[u8]) -> Vec<u8> {
    let json = match serde_json::from_slice::<Index>(json) {
        Ok(mut index) => {
            let commands = index.sha256.clone().into_bytes();
            index.sha256 = hex(&Sha256::digest(&commands));
            if index.from < index.to && index.to - index.from < 1 << 16 {
                let mut whole = Vec::new();
                if segment::write(&index, &mut &commands[..], &mut whole).is_ok() && frame.is_empty() {
                    return whole;
                }
            }
            serde_json::to_vec(&index).unwrap()
        }
        Err(_) => json.to_vec(),
    };
    let length = (32 + json.len() as u32).to_le_bytes();
    [&[0x50, 0x2a, 0x4d, 0x18], &length[..], &Sha256::digest(&json), &json, frame].concat()
}

/// What was written is read again, or cannot be written: there is no empty segment.
fn written(commands: &[u8], choice: u8) {
    let from = u64::from(choice) << 40;
    let to = from + commands.len() as u64;
    let index = Index {
        format: 1,
        replid: "ab".repeat(20),
        from,
        to,
        sha256: hex(&Sha256::digest(commands)),
        marks: vec![(from, 0), (to, u64::from(choice))],
    };
    let mut stored = Vec::new();
    segment::write(&index, &mut &commands[..], &mut stored).unwrap();
    match read(&stored) {
        Ok(found) => assert!(found == (index, commands.to_vec())),
        Err(error) => assert!(commands.is_empty(), "{error}"),
    }
    // As for `--before-command`: the same however it is cut.
    let pattern = Pattern::parse("PING x").unwrap();
    let find = |pieces: &[&[u8]]| {
        let mut finder = Finder::new(&pattern, from);
        let broken = pieces.iter().find_map(|piece| finder.feed(piece).err());
        (finder.last(), broken)
    };
    let whole = find(&[commands]);
    assert_eq!(find(&commands.chunks(1).collect::<Vec<_>>()), whole, "{}", commands.escape_ascii());
    assert_eq!(find(&pieces::pieces(commands, choice)), whole, "{}", commands.escape_ascii());
}

/// A line is the name of an object, or `base TIME REPLID OFFSET`.
fn names(text: &str) {
    let (mut bases, mut stored, mut times) = (Vec::new(), Vec::new(), vec![0, u64::MAX]);
    for line in text.lines() {
        if let Some(segment) = shipper::parse("m", line) {
            assert_eq!(shipper::object("m", &segment), line);
            times.extend([segment.name.end_ms, segment.name.end_ms + 1]);
            stored.push(segment);
        }
        if let Some(name) = Name::parse(line) {
            assert_eq!(name.to_string(), line);
        }
        segment::begin_ms(line);
        let words: Vec<&str> = line.split(' ').collect();
        if let ["base", ms, replid, offset] = words[..]
            && let (Ok(ms), Ok(offset)) = (ms.parse(), offset.parse())
        {
            times.push(ms);
            bases.push(Base { id: bases.len().to_string(), ms, replid: replid.to_owned(), offset });
        }
    }
    let timeline = Timeline::new(bases, stored.clone());
    for ms in times {
        match timeline.to(ms) {
            Ok(plan) => {
                let stop = plan.stop(ms, std::iter::empty());
                assert!(stop.offset >= plan.base.offset && plan.base.ms <= ms);
                let far = switchmaster::backup::follow::cutter::Mark { offset: u64::MAX, ms };
                plan.stop(ms, [far].into_iter());
            }
            Err(refusal) => drop(refusal.to_string()),
        }
    }
    for segment in &stored {
        timeline.survives(segment);
        timeline.newest_base(segment);
        timeline.until(segment, segment.name.to);
    }
    let _ = (timeline.ranges().to_string(), timeline.last(), timeline.latest(), timeline.newest_first().count());
    assert!(timeline.useless().len() <= stored.len() && timeline.needed().len() <= stored.len());
    for hole in timeline.holes() {
        assert!(hole.from < hole.to, "{hole}");
    }
    assert!(timeline.ranges().without(&timeline.ranges()).is_empty());
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
