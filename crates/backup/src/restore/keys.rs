//! Key by key: RESTORE of the serialized values as they stand in the RDB, beside what is there already.
//!
//! Works through every address that takes commands, a proxy's or a managed service's too. Values are sent from the file;
//! none is ever held in memory, however large.

use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::time::{SystemTime, UNIX_EPOCH};

use super::pattern;
use crate::node::refusal;
use crate::rdb::{Crc64, Entry, Summary, Walker, dump_trailer};
use crate::resp::request;
use crate::size;
use crate::wire::{Reply, Wire};
use crate::{Error, output};

/// Bytes of the file that are read at once, and of a value that are sent at once.
const CHUNK: usize = 256 * 1024;
/// Requests that are sent before their replies are read, by number and by bytes.
const BATCH: usize = 512;
const BATCH_BYTES: usize = 512 * 1024;
/// A server takes no longer argument (`proto-max-bulk-len`, 512 MiB unless it was changed).
const LONGEST_VALUE: u64 = 512 * 1024 * 1024;
/// A longer name is not restored: it would have to be held in memory.
const LONGEST_NAME: u64 = 16 * 1024 * 1024;
/// A server answers nobody while it loads one value: of a longer one it is said before it is sent.
const LONG_VALUE: u64 = 8 * 1024 * 1024;
/// Failures that are told one by one.
const TOLD: usize = 10;

/// Which keys, and what becomes of those that exist.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// Glob-style, as in SCAN; `None`: all.
    pub pattern: Option<Vec<u8>>,
    /// One database; `None`: all.
    pub db: Option<u32>,
    /// Replace keys that exist.
    pub replace: bool,
}

/// What became of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Written.
    pub restored: u64,
    /// They exist in the target, and were left as they are.
    pub existing: u64,
    /// Their time was over.
    pub expired: u64,
    /// They were not asked for.
    pub others: u64,
    /// Function libraries written.
    pub libraries: u64,
    /// The target refused them.
    pub failed: u64,
    /// The first of the failures, in plain words.
    pub failures: Vec<String>,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("key")?;
        if let Some(db) = self.db {
            write!(f, " in database {db}")?;
        }
        match &self.pattern {
            Some(pattern) => write!(f, " that matches {:?}", String::from_utf8_lossy(pattern)),
            None => Ok(()),
        }
    }
}

impl Outcome {
    /// How many keys of the backup were asked for.
    pub fn matched(&self) -> u64 {
        self.restored + self.existing + self.expired + self.failed
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outcome { restored, existing, expired, others, libraries, failed, failures } = self;
        write!(f, "{} restored", output::count(*restored, "key"))?;
        for (count, what) in [
            (libraries, "function libraries"),
            (existing, "exist already and were left (--replace replaces them)"),
            (expired, "have expired since"),
            (others, "not asked for"),
            (failed, "FAILED"),
        ] {
            if *count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        failures.iter().try_for_each(|failure| write!(f, "\n  {failure}"))
    }
}

/// Restores what `choice` says from `file`, a plain RDB that was verified, through `wire`, which is authenticated.
///
/// # Errors
/// The connection broke, the file cannot be read, or the target takes no writes at all; the message says how far it came.
pub async fn restore(file: &File, wire: Wire, choice: &Choice) -> Result<Outcome, Error> {
    let mut sender = Sender::new(file, wire, version(file)?);
    let walked = walk(file, choice, &mut sender).await;
    let Outcome { restored, .. } = sender.outcome;
    match walked {
        Ok(()) => Ok(sender.outcome),
        Err(error) => Err(Error::Restore(format!("{error}; {} restored until then", output::count(restored, "key")))),
    }
}

async fn walk(mut file: &File, choice: &Choice, sender: &mut Sender<'_>) -> Result<(), Error> {
    file.seek(SeekFrom::Start(0)).map_err(unreadable)?;
    let mut walker = Walker::new();
    let mut chunk = vec![0; CHUNK];
    let mut keys = Vec::new();
    loop {
        let read = file.read(&mut chunk).map_err(unreadable)?;
        if read == 0 {
            break;
        }
        walker.feed(&chunk[..read], &mut |entry| keys.push(Key::of(&entry)))?;
        for key in keys.drain(..) {
            sender.take(key, choice).await?;
        }
    }
    sender.settle().await?;
    let summary = walker.finish()?;
    if choice.pattern.is_none() && choice.db.is_none() {
        sender.libraries(&summary, choice.replace).await?;
    }
    Ok(())
}

/// A key of the file.
struct Key {
    db: u32,
    name: Vec<u8>,
    /// Bytes of its name, of which `name` may have only the first.
    len: u64,
    kind: u8,
    expire_at_ms: Option<u64>,
    idle_s: Option<u64>,
    frequency: Option<u8>,
    value: Range<u64>,
}

impl Key {
    fn of(entry: &Entry<'_>) -> Key {
        Key {
            db: entry.db,
            name: entry.key.to_vec(),
            len: entry.key_len,
            kind: entry.kind,
            expire_at_ms: entry.expire_at_ms,
            idle_s: entry.idle_s,
            frequency: entry.frequency,
            value: entry.value.clone(),
        }
    }

    fn shown(&self) -> String {
        format!("\"{}\" in database {}", self.name[..self.name.len().min(64)].escape_ascii(), self.db)
    }
}

/// Sends requests and counts what comes of them.
struct Sender<'a> {
    file: &'a File,
    wire: Wire,
    version: u32,
    /// The database that the connection is in.
    db: Option<u32>,
    requests: Vec<u8>,
    /// Whose replies are owed for `requests`; `None`: a SELECT's.
    owed: Vec<Option<String>>,
    outcome: Outcome,
}

impl<'a> Sender<'a> {
    fn new(file: &'a File, wire: Wire, version: u32) -> Sender<'a> {
        let (requests, owed) = (Vec::with_capacity(BATCH_BYTES), Vec::new());
        Sender { file, wire, version, db: None, requests, owed, outcome: Outcome::default() }
    }

    async fn take(&mut self, mut key: Key, choice: &Choice) -> Result<(), Error> {
        if key.name.len() as u64 != key.len && !self.complete(&mut key)? {
            return self.fail(format!("{}: its name of {} bytes is too long", key.shown(), key.len));
        }
        let wanted = choice.db.is_none_or(|db| db == key.db)
            && choice.pattern.as_ref().is_none_or(|pattern| pattern::matches(pattern, &key.name));
        if !wanted {
            self.outcome.others += 1;
            return Ok(());
        }
        if key.expire_at_ms.is_some_and(|at| at <= now_ms()) {
            self.outcome.expired += 1;
            return Ok(());
        }
        let payload = 1 + (key.value.end - key.value.start) + 10;
        if payload > LONGEST_VALUE {
            return self
                .fail(format!("{}: its value of {payload} bytes is more than a server takes at once", key.shown()));
        }
        if payload > LONG_VALUE {
            let size = size::rounded(payload);
            tracing::warn!("{}: a value of {size}; the server answers nobody while it loads it", key.shown());
        }
        if self.db != Some(key.db) {
            self.begin(2, &[b"SELECT", key.db.to_string().as_bytes()]);
            self.owed.push(None);
            self.db = Some(key.db);
        }
        let ttl = key.expire_at_ms.unwrap_or(0).to_string();
        let mut options: Vec<Vec<u8>> = vec![b"ABSTTL".to_vec()];
        options.extend(choice.replace.then(|| b"REPLACE".to_vec()));
        if let Some(idle) = key.idle_s {
            options.extend([b"IDLETIME".to_vec(), idle.to_string().into_bytes()]);
        }
        if let Some(frequency) = key.frequency {
            options.extend([b"FREQ".to_vec(), frequency.to_string().into_bytes()]);
        }
        self.begin(4 + options.len(), &[b"RESTORE", &key.name, ttl.as_bytes()]);
        self.requests.extend_from_slice(format!("${payload}\r\n").as_bytes());
        self.owed.push(Some(key.shown()));
        self.payload(key.kind, key.value).await?;
        self.requests.extend_from_slice(b"\r\n");
        for option in &options {
            request::argument(&mut self.requests, option);
        }
        if self.owed.len() >= BATCH || self.requests.len() >= BATCH_BYTES {
            self.settle().await?;
        }
        Ok(())
    }

    /// Reads the whole of a long name, which stands before the value unless it is compressed.
    fn complete(&self, key: &mut Key) -> Result<bool, Error> {
        if key.len > LONGEST_NAME.min(key.value.start) {
            return Ok(false);
        }
        let mut name = vec![0; usize::try_from(key.len).unwrap_or_default()];
        self.file.read_exact_at(&mut name, key.value.start - key.len).map_err(unreadable)?;
        let found = name.starts_with(&key.name);
        if found {
            key.name = name;
        }
        Ok(found)
    }

    /// What DUMP would say: type, value, version, checksum. More than a batch goes out as it is read.
    async fn payload(&mut self, kind: u8, value: Range<u64>) -> Result<(), Error> {
        let mut crc = Crc64::new();
        crc.update(&[kind]);
        self.requests.push(kind);
        let mut at = value.start;
        while at < value.end {
            let length = usize::try_from(value.end - at).unwrap_or(CHUNK).min(CHUNK);
            let from = self.requests.len();
            self.requests.resize(from + length, 0);
            self.file.read_exact_at(&mut self.requests[from..], at).map_err(unreadable)?;
            crc.update(&self.requests[from..]);
            at += length as u64;
            if self.requests.len() >= BATCH_BYTES {
                self.send().await?;
            }
        }
        self.requests.extend_from_slice(&dump_trailer(self.version, crc));
        Ok(())
    }

    /// FUNCTION RESTORE of all libraries, as FUNCTION DUMP would say them.
    async fn libraries(&mut self, summary: &Summary, replace: bool) -> Result<(), Error> {
        let length: u64 = summary.libraries.iter().map(|library| library.end - library.start).sum();
        if length == 0 {
            return Ok(());
        }
        let policy: &[u8] = if replace { b"REPLACE" } else { b"APPEND" };
        self.begin(4, &[b"FUNCTION", b"RESTORE"]);
        self.requests.extend_from_slice(format!("${}\r\n", length + 10).as_bytes());
        let mut crc = Crc64::new();
        for library in &summary.libraries {
            let mut source = vec![0; usize::try_from(library.end - library.start).unwrap_or_default()];
            self.file.read_exact_at(&mut source, library.start).map_err(unreadable)?;
            crc.update(&source);
            self.requests.extend_from_slice(&source);
        }
        self.requests.extend_from_slice(&dump_trailer(self.version, crc));
        self.requests.extend_from_slice(b"\r\n");
        request::argument(&mut self.requests, policy);
        self.send().await?;
        match self.wire.receive().await.map_err(broken)? {
            Reply::Error(text) => {
                let hint = if text.contains("already exists") { " (--replace replaces them)" } else { "" };
                self.fail(format!("the function libraries: {text}{hint}"))
            }
            _ => {
                self.outcome.libraries = summary.libraries.len() as u64;
                Ok(())
            }
        }
    }

    /// Sends what is left and reads every reply that is owed.
    async fn settle(&mut self) -> Result<(), Error> {
        self.send().await?;
        for whose in std::mem::take(&mut self.owed) {
            match (self.wire.receive().await.map_err(broken)?, whose) {
                (Reply::Error(text), None) => {
                    return Err(Error::Restore(format!("the target answers SELECT with -{text}")));
                }
                (Reply::Error(text), Some(_)) if text.starts_with("BUSYKEY") => self.outcome.existing += 1,
                (Reply::Error(text), Some(_)) if refusal::is_of_every_write(&text) => {
                    return Err(Error::Restore(format!("the target takes no writes: -{text}")));
                }
                (Reply::Error(text), Some(key)) => self.fail(format!("{key}: {text}"))?,
                (_, Some(_)) => self.outcome.restored += 1,
                (_, None) => {}
            }
        }
        Ok(())
    }

    async fn send(&mut self) -> Result<(), Error> {
        self.wire.send(&self.requests).await.map_err(broken)?;
        self.requests.clear();
        Ok(())
    }

    /// A request of `count` arguments, of which these are the first.
    fn begin(&mut self, count: usize, arguments: &[&[u8]]) {
        request::begin(&mut self.requests, count);
        arguments.iter().for_each(|argument| request::argument(&mut self.requests, argument));
    }

    fn fail(&mut self, what: String) -> Result<(), Error> {
        self.outcome.failed += 1;
        if self.outcome.failures.len() < TOLD {
            self.outcome.failures.push(what);
        }
        Ok(())
    }
}

/// The RDB version in the header, `REDIS0010`: what the trailer of each value must say.
fn version(file: &File) -> Result<u32, Error> {
    let mut header = [0; 9];
    file.read_exact_at(&mut header, 0).map_err(unreadable)?;
    let digits: String = header[5..].iter().map(|byte| char::from(*byte)).filter(char::is_ascii_digit).collect();
    digits.parse().map_err(|_| Error::Unsound("the RDB has no version in its header".into()))
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn unreadable(error: std::io::Error) -> Error {
    Error::Spool(format!("the fetched backup cannot be read: {error}"))
}

fn broken(error: std::io::Error) -> Error {
    Error::Restore(format!("the connection to the target broke: {error}"))
}
