//! Whatever a source answers to PSYNC, and in whatever pieces: the same RDB, the same stream and the same end.
//!
//! The first byte of the input chooses the pieces, the second what was asked for. What a node says as INFO decides
//! whether PSYNC is sent at all: the same bytes are read as that, too.

#![no_main]

mod memory;
mod pieces;

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use pieces::Stream;
use switchmaster::backup::Error;
use switchmaster::backup::follow::cutter::{Cut, Cutter};
use switchmaster::backup::follow::position::{Backlog, Fate, Position, Verdict};
use switchmaster::backup::rdb::Walker;
use switchmaster::backup::replica::{Begin, Replica, Sink};
use switchmaster::backup::source::Node;

const REPLID: &str = "0123456789abcdef0123456789abcdef01234567";
/// A read takes as much; and a line, an RDB and commands hold a part of what came.
const HELD: usize = 4 << 20;
/// Inputs up to this long are read byte by byte, too.
const BYTE_BY_BYTE: usize = 160;

fuzz_target!(|input: &[u8]| {
    let [choice, asked, bytes @ ..] = input else { return };
    let from = match asked & 3 {
        0 => None,
        1 => Some((REPLID, 0)),
        2 => Some((REPLID, 4711)),
        _ => Some((REPLID, i64::MAX as u64)),
    };
    if let Ok(text) = std::str::from_utf8(bytes) {
        read_info(text);
    }
    let whole = synchronise(&[bytes], from);
    // A read costs more than a byte.
    let size = if bytes.len() <= BYTE_BY_BYTE { 1 } else { 7 };
    for pieces in [bytes.chunks(size).collect(), pieces::pieces(bytes, *choice)] {
        assert_eq!(synchronise(&pieces, from), whole, "{}", bytes.escape_ascii());
    }
});

/// All that comes of one connection.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    begin: Option<Begin>,
    rdb: Vec<u8>,
    stream: Vec<u8>,
    cuts: Vec<Cut>,
    end: String,
}

fn synchronise(pieces: &[&[u8]], from: Option<(&str, u64)>) -> Outcome {
    let stream = Stream::of(pieces);
    let mut outcome = Outcome::default();
    memory::within(HELD, || {
        let mut replica = Replica::over(([127, 0, 0, 1], 6379).into(), stream, Vec::new());
        outcome.end = pieces::block_on(receive(&mut replica, from, &mut outcome)).unwrap_err().to_string();
    });
    outcome
}

async fn receive(
    replica: &mut Replica<Stream>,
    from: Option<(&str, u64)>,
    outcome: &mut Outcome,
) -> Result<std::convert::Infallible, Error> {
    let begin = outcome.begin.insert(replica.psync(from).await?).clone();
    let mut offset = match (begin, from) {
        (Begin::Full { offset, .. }, _) => {
            let mut sink = Walked { walker: Walker::new(), bytes: Vec::new() };
            let taken = replica.rdb(&mut sink).await;
            // Of one that is not sound, as much was taken as came in whole pieces before.
            let sound = !matches!(&taken, Err(Error::Unsound(_) | Error::Newer(_)));
            outcome.rdb = if sound { sink.bytes } else { Vec::new() };
            assert_eq!(taken?, outcome.rdb.len() as u64);
            offset
        }
        (Begin::Continue { .. }, from) => from.expect("only when it was asked for").1,
    };
    let begins = offset;
    let mut cutter = Cutter::new(offset, Duration::from_secs(10), 1_000);
    loop {
        let chunk = replica.next().await?;
        assert_eq!(chunk.offset, offset);
        offset += chunk.bytes.len() as u64;
        outcome.stream.extend(chunk.bytes);
        let mut bytes = chunk.bytes;
        while !bytes.is_empty() {
            let taken = cutter.take(bytes, 1_000).map_err(|error| {
                outcome.stream.truncate((error.offset - begins) as usize);
                Error::Unsound(format!("{error:?}"))
            })?;
            outcome.cuts.extend(taken.cut);
            bytes = &bytes[taken.bytes..];
        }
        assert!(cutter.boundary() <= offset && cutter.from() <= cutter.boundary());
    }
}

/// As `backup create` takes it.
struct Walked {
    walker: Walker,
    bytes: Vec<u8>,
}

impl Sink for Walked {
    fn take(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        let taken = self.walker.feed(bytes, &mut |_| {})?;
        self.bytes.extend(&bytes[..taken]);
        Ok(taken)
    }

    fn ended(&self) -> bool {
        self.walker.is_over()
    }
}

fn read_info(text: &str) {
    let _ = Node::parse(([127, 0, 0, 1], 6379).into(), text);
    let Some(backlog) = Backlog::parse(text) else { return };
    let earlier = backlog.earlier.clone().into_iter();
    for at in earlier.chain([backlog.position(), Position { replid: REPLID.to_owned(), offset: i64::MAX as u64 }]) {
        if let Fate::Renamed(to) = backlog.fate(&at) {
            assert_eq!(to.offset, at.offset);
        }
        if backlog.continues(&at) == Verdict::Continues {
            assert!(backlog.replica && at.offset <= backlog.offset);
        }
    }
}
