//! What a walk has found so far, and the summary it becomes.
//!
//! Bounded: what could fill memory by its number alone is cut or an error.

use std::collections::BTreeMap;
use std::mem;
use std::ops::Range;

use super::grammar::{TYPE_NAMES, Type};
use super::{Cause, Magic, Summary};
use crate::{Counts, DbCounts};

/// So many things that the writer says about itself are kept.
const AUX_MOST: usize = 64;
/// More than anyone has.
const DATABASES_MOST: usize = 65_536;
const LIBRARIES_MOST: usize = 65_536;

/// Header, counts and marks.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) magic: Magic,
    pub(super) version: u32,
    pub(super) crc64: Option<u64>,
    /// The database of the keys that come, and what was counted in it since it was selected.
    pub(super) db: u32,
    here: Tally,
    databases: BTreeMap<u32, Tally>,
    functions: u64,
    libraries: Vec<Range<u64>>,
    aux: BTreeMap<String, String>,
}

/// Keys of one database.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    types: [u64; TYPE_NAMES.len()],
    expires: u64,
}

impl Found {
    pub(super) fn new() -> Found {
        Found {
            magic: Magic::Redis,
            version: 0,
            crc64: None,
            db: 0,
            here: Tally::default(),
            databases: BTreeMap::new(),
            functions: 0,
            libraries: Vec::new(),
            aux: BTreeMap::new(),
        }
    }

    /// Magic and version: `REDIS0011`, `VALKEY080`.
    pub(super) fn header(&mut self, header: &[u8]) -> Result<(), String> {
        let (magic, digits) = match (header.strip_prefix(b"REDIS"), header.strip_prefix(b"VALKEY")) {
            (Some(digits), _) => (Magic::Redis, digits),
            (_, Some(digits)) => (Magic::Valkey, digits),
            _ => return Err(format!("an RDB begins with REDIS or VALKEY, not with \"{}\"", header.escape_ascii())),
        };
        let version = str::from_utf8(digits).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        self.magic = magic;
        self.version = match version.and_then(|text| text.parse().ok()) {
            Some(version @ 1..) => version,
            _ => return Err(format!("\"{}\" is no version", digits.escape_ascii())),
        };
        Ok(())
    }

    /// Whether what cannot be walked is unsound, or only newer than this walk.
    pub(super) fn judge(&self, what: String) -> (String, Cause) {
        let (version, (known, whose)) = (self.version, self.magic.known());
        if version <= known {
            return (what, Cause::Unsound);
        }
        let newer = format!("RDB version {version} is newer than this switchmaster, which knows {known} ({whose})");
        (format!("{what}; {newer}: update switchmaster"), Cause::Newer)
    }

    /// Something the writer says about itself.
    pub(super) fn aux(&mut self, name: String, value: String) {
        if self.aux.len() < AUX_MOST || self.aux.contains_key(&name) {
            self.aux.insert(name, value);
        }
    }

    /// A function library stands there.
    pub(super) fn library(&mut self, place: Range<u64>) -> Result<(), String> {
        if self.libraries.len() == LIBRARIES_MOST {
            return Err(format!("there are more than {LIBRARIES_MOST} function libraries"));
        }
        self.functions += 1;
        self.libraries.push(place);
        Ok(())
    }

    /// The keys that follow are in this database.
    pub(super) fn select(&mut self, db: u64) -> Result<(), String> {
        let number = u32::try_from(db).map_err(|_| format!("no database has the number {db}"))?;
        self.settle();
        if self.databases.len() > DATABASES_MOST {
            return Err(format!("there are more than {DATABASES_MOST} databases"));
        }
        self.db = number;
        Ok(())
    }

    /// A key.
    pub(super) fn key(&mut self, r#type: Type, expires: bool) {
        self.here.types[r#type as usize] += 1;
        self.here.expires += u64::from(expires);
    }

    pub(super) fn summary(mut self, bytes: u64) -> Summary {
        self.settle();
        Summary {
            magic: self.magic,
            version: self.version,
            crc64: self.crc64,
            bytes,
            counts: Counts {
                databases: self.databases.into_iter().map(|(db, tally)| (db, tally.counts())).collect(),
                functions: self.functions,
            },
            aux: self.aux,
            libraries: self.libraries,
        }
    }

    /// What was counted goes to its database; a key costs no look-up that way.
    fn settle(&mut self) {
        let here = mem::take(&mut self.here);
        if here.types.iter().any(|&keys| keys > 0) {
            self.databases.entry(self.db).or_default().add(&here);
        }
    }
}

impl Tally {
    fn add(&mut self, other: &Tally) {
        for (sum, keys) in self.types.iter_mut().zip(other.types) {
            *sum += keys;
        }
        self.expires += other.expires;
    }

    fn counts(&self) -> DbCounts {
        let types = TYPE_NAMES.iter().zip(self.types).filter(|(_, keys)| *keys > 0);
        DbCounts {
            keys: self.types.iter().sum(),
            expires: self.expires,
            types: types.map(|(name, keys)| ((*name).to_owned(), keys)).collect(),
        }
    }
}
