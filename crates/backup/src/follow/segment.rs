//! One stored piece of the stream: what its name says, what its index says, and how it is written and read.
//!
//! ```text
//!   50 2A 4D 18 ‖ length, u32le ‖ SHA-256 of the index ‖ index (JSON)     a zstd frame that decompressors skip
//!   a zstd frame: the commands, byte for byte as Redis sent them
//! ```
//! So `zstd -dc` gives the bare commands. The name alone tells where it belongs and up to when it reaches: nobody needs
//! to read, or to be able to decrypt, a segment to go on behind it. The index has the times and the SHA-256 of the
//! commands: no flipped bit changes what is restored.

use std::fmt;
use std::io::{self, Read, Write};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::cutter::Mark;
use crate::manifest::hex;

/// The first of the sixteen magic numbers of zstd's skippable frames (RFC 8878, 3.1.2), little-endian.
const SKIPPABLE: [u8; 4] = 0x184D_2A50_u32.to_le_bytes();
/// An index has two numbers for every 100 ms: this is days.
const INDEX_LIMIT: u32 = 64 << 20;
/// zstd's level: fast, since the stream does not wait.
const LEVEL: i32 = 3;
/// The largest window accepted when reading, as a power of two: eight times that of the level.
const WINDOW_LOG_MAX: u32 = 24;
/// The end of the name that tells of bytes that were thrown away.
const DISCARDED: &str = ".discarded";
/// In the names of objects; sorts as the time does.
const TIME: &str = "%Y%m%dT%H%M%S";

/// What an object's name says, after the folder of its stream:
/// `<from>-<to>-<UTC with milliseconds>-<replid>.seg.zst[.age]`, or the same with `.discarded` as its end: no segment,
/// but the word that a failover threw these bytes away.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// The offset before its first byte.
    pub from: u64,
    /// The offset after its last byte.
    pub to: u64,
    /// Everything that had arrived by then, in milliseconds since 1970, is in this segment or before it. Of bytes that
    /// were thrown away: is before them; 0: it is not known when they began.
    pub end_ms: u64,
    /// The replication ID under which its bytes were received.
    pub replid: String,
    /// Encrypted with age.
    pub encrypted: bool,
    /// It holds nothing: a failover threw these bytes away.
    pub discarded: bool,
}

/// What stands before the commands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// The format of this object: 1.
    pub format: u32,
    /// The replication ID.
    pub replid: String,
    /// The offset before its first byte.
    pub from: u64,
    /// The offset after its last byte.
    pub to: u64,
    /// SHA-256 of the commands, in hexadecimal.
    pub sha256: String,
    /// `[offset, milliseconds since 1970]`: everything before that offset had arrived by that time, and the stream may
    /// be stopped there.
    pub marks: Vec<(u64, u64)>,
}

impl Name {
    /// Reads the last part of an object's name; `None`: it is no segment.
    pub fn parse(text: &str) -> Option<Name> {
        let (stem, encrypted) = match text.strip_suffix(".age") {
            Some(stem) => (stem, true),
            None => (text, false),
        };
        let discarded = stem.strip_suffix(DISCARDED).filter(|_| !encrypted);
        let mut parts = discarded.or_else(|| stem.strip_suffix(".seg.zst"))?.split('-');
        let mut next = || parts.next();
        let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        let (from, to) = (number(next()?)?, number(next()?)?);
        let (seconds, ms) = next()?.strip_suffix('Z')?.split_once('.')?;
        let end_ms = milliseconds(seconds)? + number(ms).filter(|&ms| ms < 1000)?;
        let replid = next()?;
        let well = from < to && replid.len() == 40 && replid.bytes().all(|b| b.is_ascii_hexdigit());
        let (replid, discarded) = (replid.to_owned(), discarded.is_some());
        let name = Name { from, to, end_ms, replid, encrypted, discarded };
        // Nothing else than what is written: the object is asked for by the name that is made of this. Redis counts in
        // an i64.
        (well && i64::try_from(to).is_ok() && name.to_string() == text).then_some(name)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = Timestamp::from_millisecond(self.end_ms as i64).unwrap_or(Timestamp::MAX).strftime(TIME);
        let end = match (self.discarded, self.encrypted) {
            (true, _) => DISCARDED,
            (_, true) => ".seg.zst.age",
            _ => ".seg.zst",
        };
        write!(f, "{:016}-{:016}-{at}.{:03}Z-{}{end}", self.from, self.to, self.end_ms % 1000, self.replid)
    }
}

/// When a stream began, in milliseconds since 1970, as the name of its folder tells.
pub fn begin_ms(stream: &str) -> Option<u64> {
    milliseconds(stream.split_once('Z')?.0)
}

/// The offset at which a stream began, and the beginning of the replication ID that it had then, as the name of its folder
/// tells.
pub fn begins(stream: &str) -> Option<(u64, &str)> {
    let (replid, offset) = stream.split_once("Z-")?.1.split_once('-')?;
    Some((offset.parse().ok()?, replid))
}

fn milliseconds(seconds: &str) -> Option<u64> {
    let at = Timestamp::strptime(format!("{TIME}%z"), format!("{seconds}+0000")).ok()?;
    u64::try_from(at.as_millisecond()).ok()
}

impl Index {
    /// The marks as such.
    pub fn marks(&self) -> impl DoubleEndedIterator<Item = Mark> {
        self.marks.iter().map(|&(offset, ms)| Mark { offset, ms })
    }
}

/// Writes a segment with these commands.
pub fn write<W: Write>(index: &Index, commands: &mut impl Read, mut out: W) -> io::Result<W> {
    let json = serde_json::to_vec(index)?;
    out.write_all(&SKIPPABLE)?;
    out.write_all(&(32 + json.len() as u32).to_le_bytes())?;
    out.write_all(&Sha256::digest(&json))?;
    out.write_all(&json)?;
    let mut frame = zstd::stream::write::Encoder::new(out, LEVEL)?;
    frame.include_checksum(true)?;
    io::copy(commands, &mut frame)?;
    frame.finish()
}

/// Reads a segment: the index first, then its commands, which are what they were only if the end is reached.
pub struct Reader<R: Read> {
    index: Index,
    frame: zstd::stream::read::Decoder<'static, io::BufReader<R>>,
    left: u64,
    hash: Sha256,
}

impl<R: Read> Reader<R> {
    /// Reads and checks the index.
    pub fn open(mut input: R) -> io::Result<Reader<R>> {
        let mut start = [0; 40];
        input.read_exact(&mut start)?;
        let length = u32::from_le_bytes([start[4], start[5], start[6], start[7]]);
        if start[..4] != SKIPPABLE || !(32..INDEX_LIMIT).contains(&length) {
            return Err(unsound("it does not begin with an index"));
        }
        let mut json = Vec::new();
        input.by_ref().take(u64::from(length) - 32).read_to_end(&mut json)?;
        if Sha256::digest(&json)[..] != start[8..] {
            return Err(unsound("its index is damaged"));
        }
        let index: Index = serde_json::from_slice(&json)?;
        if index.format != 1 || index.from >= index.to {
            return Err(unsound("its index is of a format that this version does not know"));
        }
        let left = index.to - index.from;
        let mut frame = zstd::stream::read::Decoder::new(input)?;
        frame.window_log_max(WINDOW_LOG_MAX)?;
        Ok(Reader { index, frame, left, hash: Sha256::new() })
    }

    /// What stands before the commands.
    pub fn index(&self) -> &Index {
        &self.index
    }
}

impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.frame.read(buffer)?;
        self.hash.update(&buffer[..count]);
        self.left = match self.left.checked_sub(count as u64) {
            Some(left) => left,
            None => return Err(unsound("it holds more than its index says")),
        };
        if count == 0 && !buffer.is_empty() {
            if self.left > 0 {
                return Err(unsound("it holds less than its index says"));
            }
            if hex(&self.hash.clone().finalize()) != self.index.sha256 {
                return Err(unsound("its commands are not those that were received (SHA-256)"));
            }
        }
        Ok(count)
    }
}

fn unsound(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (Index, Vec<u8>, Vec<u8>) {
        let mut commands = Vec::new();
        for number in 0..50 {
            crate::wire::encode(&mut commands, &["SET", &format!("key:{number}"), "value"]);
        }
        let to = 500 + commands.len() as u64;
        let sha256 = hex(&Sha256::digest(&commands));
        let index =
            Index { format: 1, replid: "ab".repeat(20), from: 500, to, sha256, marks: vec![(501, 7), (to, 1_000)] };
        let mut stored = Vec::new();
        write(&index, &mut &commands[..], &mut stored).unwrap();
        (index, commands, stored)
    }

    fn read(stored: &[u8]) -> io::Result<(Index, Vec<u8>)> {
        let mut reader = Reader::open(stored)?;
        let mut commands = Vec::new();
        reader.read_to_end(&mut commands)?;
        Ok((reader.index, commands))
    }

    #[test]
    fn what_was_written_is_read_and_zstd_alone_gives_the_bare_commands() {
        let (index, commands, stored) = sample();
        assert_eq!(read(&stored).unwrap(), (index, commands.clone()));
        assert_eq!(zstd::stream::decode_all(&stored[..]).unwrap(), commands);
    }

    #[test]
    fn no_flipped_bit_and_no_missing_byte_changes_what_is_read() {
        let (index, commands, stored) = sample();
        let mut ignored = 0;
        for at in 0..stored.len() {
            assert!(read(&stored[..at]).is_err(), "cut after {at} bytes");
            for bit in 0..8 {
                let mut damaged = stored.clone();
                damaged[at] ^= 1 << bit;
                // A few bits of zstd's coding have no meaning.
                if let Ok(found) = read(&damaged) {
                    assert_eq!(found, (index.clone(), commands.clone()), "bit {bit} of byte {at}");
                    ignored += 1;
                }
            }
        }
        assert!(ignored < stored.len() / 8, "{ignored} bits");
        assert!(read(&[&stored[..], b"more"].concat()).is_err());
    }

    #[test]
    fn a_segment_does_not_choose_how_much_memory_it_takes() {
        let (index, commands, _) = sample();
        let stored = |window_log: u32| {
            let mut stored = write(&index, &mut io::empty(), Vec::new()).unwrap();
            stored.truncate(stored.windows(4).position(|four| four == 0xFD2F_B528_u32.to_le_bytes()).unwrap());
            let mut frame = zstd::stream::write::Encoder::new(stored, LEVEL).unwrap();
            frame.window_log(window_log).unwrap();
            frame.write_all(&commands).unwrap();
            frame.finish().unwrap()
        };
        assert!(read(&stored(WINDOW_LOG_MAX)).is_ok());
        assert!(read(&stored(WINDOW_LOG_MAX + 1)).is_err());
    }

    #[test]
    fn a_name_tells_all_and_sorts_by_offset() {
        let name = Name {
            from: 120,
            to: 9_007_199_254_740_993,
            end_ms: 1_795_144_440_007,
            replid: "0123456789abcdef0123456789abcdef01234567".into(),
            encrypted: true,
            discarded: false,
        };
        let text = "0000000000000120-9007199254740993-20261120T031400.007Z-0123456789abcdef0123456789abcdef01234567.seg.zst.age";
        assert_eq!(name.to_string(), text);
        assert_eq!(Name::parse(text), Some(name.clone()));
        let thrown = Name { encrypted: false, discarded: true, ..name };
        let named = text.replace(".seg.zst.age", ".discarded");
        assert_eq!((thrown.to_string(), Name::parse(&named)), (named.clone(), Some(thrown)));
        assert_eq!(begin_ms("20261120T031400Z-01234567-120"), Some(1_795_144_440_000));
        assert_eq!(begins("20261120T031400Z-01234567-120"), Some((120, "01234567")));
        for other in [
            "",
            "x.rdb.zst",
            &text.replace("031400", "991400"),
            &text[1..40],
            &text.replace("Z-", "Z-0"),
            &text[2..],
            &text.replace("9007199254740993", "9223372036854775808"),
        ] {
            assert_eq!(Name::parse(other), None, "{other}");
        }
    }
}
