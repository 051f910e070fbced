//! A walk over a whole RDB: every record, every length, the checksum; what it holds is counted and each key is told.
//!
//! Sans-IO but for [`walk`]. Memory does not grow with the input: strings are passed over as they come, the longest
//! thing ever kept is the first 64 KiB of one key, and no length that is read sizes an allocation. A byte that cannot
//! be what it should be ends the walk with its offset.
//!
//! ```text
//!   chunk ─▶ walker (records, counts, CRC) ─▶ grammar: the steps of each record and type
//!                 └─▶ number (lengths), string (plain, integer, LZF) ─▶ blob (listpack, ziplist, intset, zipmap)
//! ```
//! Known: `REDIS0001` to `REDIS0014` (Redis 8.8) and `VALKEY080` (Valkey 9), all of it that their own loaders accept.
//! A newer version is walked too; a type or opcode that is not known is an error, never skipped, and told from damage.
//! Facts of the format are those of `rdb.h` and `rdb.c` of both projects.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read};
use std::ops::Range;

pub use checksum::{Crc64, dump_trailer};
pub use walker::Walker;

use super::{Counts, Error};

mod blob;
mod checksum;
mod found;
mod grammar;
mod lzf;
mod number;
mod string;
#[cfg(test)]
mod tests;
mod walker;

/// So much of a key is kept; of a longer one, the rest passes.
pub const KEY_KEPT: usize = 64 * 1024;

/// So much is read at once by [`walk`].
const CHUNK: usize = 256 * 1024;

/// One key of the data set, told when its value has passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The database it is in.
    pub db: u32,
    /// Its name, or the first [`KEY_KEPT`] bytes of it if `key_len` says more.
    pub key: &'a [u8],
    /// Bytes of its name.
    pub key_len: u64,
    /// The type byte of its value: type and encoding.
    pub kind: u8,
    /// The type as TYPE names it: `string`, `list`, `set`, `zset`, `hash`, `stream` or `array`; `module` for any of a
    /// module.
    pub type_name: &'static str,
    /// When it expires, in milliseconds since 1970.
    pub expire_at_ms: Option<u64>,
    /// Seconds it was not used, of a server with an LRU policy.
    pub idle_s: Option<u64>,
    /// How often it was used, of a server with an LFU policy: the logarithmic counter.
    pub frequency: Option<u8>,
    /// Where the serialized value stands in the RDB. What DUMP would say is `kind`, these bytes and [`dump_trailer`];
    /// what modules of Redis 8.6 attached to the key is not in it.
    pub value: Range<u64>,
}

/// What a whole, sound RDB holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Who wrote it.
    pub magic: Magic,
    /// The version in its header.
    pub version: u32,
    /// Its checksum, compared with its bytes; `None`: it has none (`rdbchecksum no`, or a version before 5).
    pub crc64: Option<u64>,
    /// Bytes of it, checksum included.
    pub bytes: u64,
    /// Keys by database and type, and libraries.
    pub counts: Counts,
    /// What its writer said about itself: `redis-ver`, `ctime`, `repl-id`, `repl-offset`…; at most 64 of them, values
    /// cut at 1,024 bytes.
    pub aux: BTreeMap<String, String>,
    /// Where each function library stands, its opcode included; at most 65,536 of them. What FUNCTION DUMP would say is
    /// these bytes, one after the other, and [`dump_trailer`].
    pub libraries: Vec<Range<u64>>,
}

/// The first word of an RDB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Magic {
    /// Redis, and Valkey before 9.
    Redis,
    /// Valkey from 9 on.
    Valkey,
}

/// Why an RDB is not whole or not sound, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// Bytes before the place.
    pub offset: u64,
    /// The key whose value is at that place: its first 64 bytes.
    pub key: Option<Vec<u8>>,
    /// What is wrong there.
    pub what: String,
    /// What to make of it.
    pub cause: Cause,
}

/// The kinds of [`Malformed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Its bytes are not those of an RDB.
    Unsound,
    /// Its version is newer than those that are known, and it has what none of them has.
    Newer,
    /// It is well so far and ends too early.
    Truncated,
    /// The file could not be read.
    Unreadable,
}

/// Walks over all of `reader`, an RDB and nothing else. `each` is told every key, in the order of the file.
///
/// # Errors
/// The first thing that is wrong, see [`Cause`]. Keys told before it are then of no use.
pub fn walk(mut reader: impl Read, each: &mut impl FnMut(Entry<'_>)) -> Result<Summary, Malformed> {
    let mut walker = Walker::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = match reader.read(&mut chunk) {
            Ok(0) => return walker.finish(),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(walker.unreadable(&error)),
        };
        if walker.feed(&chunk[..read], each)? < read {
            return Err(walker.followed());
        }
    }
}

impl Magic {
    /// As it stands in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Magic::Redis => "REDIS",
            Magic::Valkey => "VALKEY",
        }
    }

    /// The newest version that is known, and whose it is.
    pub fn known(self) -> (u32, &'static str) {
        match self {
            Magic::Redis => (14, "Redis 8.8"),
            Magic::Valkey => (80, "Valkey 9.0"),
        }
    }
}

impl fmt::Display for Magic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at byte {} of the RDB", self.offset)?;
        if let Some(key) = &self.key {
            write!(f, ", in the key \"{}\"", key.escape_ascii())?;
        }
        write!(f, ": {}", self.what)
    }
}

impl std::error::Error for Malformed {}

impl Malformed {
    /// As an error about the backup `id`.
    pub fn of(&self, id: &str) -> Error {
        self.error(format!("backup {id}: {self}"))
    }

    fn error(&self, text: String) -> Error {
        match self.cause {
            Cause::Unsound | Cause::Truncated => Error::Unsound(text),
            Cause::Newer => Error::Newer(text),
            Cause::Unreadable => Error::Internal(text),
        }
    }
}

impl From<Malformed> for Error {
    fn from(malformed: Malformed) -> Error {
        malformed.error(malformed.to_string())
    }
}
