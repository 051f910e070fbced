//! A part of a replication stream whose history, first and last byte are known, and the effects in it.
//!
//! Incremental, and bounded: of a stream that is longer than was agreed nothing is said. A stream that is entered in the
//! middle does not say which database is meant until its first SELECT; until then an effect may be of any.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;

use switchmaster_protocol::resp::command::lookup;
use switchmaster_protocol::resp::request::Args;
use switchmaster_protocol::resp::scanner::{RequestScanner, Scan};

/// The histories of which a living one is the continuation, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ancestry(Vec<(String, u64)>);

impl Ancestry {
    /// The present master's history continues `replid` after byte number `end`: its `master_replid2` and
    /// `second_repl_offset` − 1. To be called in the order of the promotions.
    pub fn continuing(mut self, replid: impl Into<String>, end: u64) -> Ancestry {
        self.0.push((replid.into(), end));
        self
    }

    /// So many bytes of the history `replid` are part of the living one. `None`: it is not known to be an ancestor, or
    /// was met twice, which no promotion can make.
    pub fn shared(&self, replid: &str) -> Option<u64> {
        let mut known = self.0.iter().enumerate().filter(|(_, (name, _))| name == replid);
        let (at, _) = known.next()?;
        if known.next().is_some() {
            return None;
        }
        // A later promotion may have gone back behind an earlier one.
        self.0[at..].iter().map(|(_, end)| *end).min()
    }

    /// The last byte that an ancestor wrote: behind it the living master's own writes begin.
    pub fn end(&self) -> Option<u64> {
        self.0.last().map(|(_, end)| *end)
    }
}

/// Why a stream says nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// No ancestor is known, so nobody knows where the stream must end.
    NoAncestry,
    /// It is longer than agreed.
    TooLong,
    /// At this offset it is not made of commands.
    NoCommand(u64),
    /// So many bytes are missing at its end.
    Short(u64),
    /// It ends within a command or a transaction, of which the new master has run nothing.
    Ragged,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unreadable::NoAncestry => write!(f, "the history that the new master continues is not known"),
            Unreadable::TooLong => write!(f, "the stream is longer than may be read"),
            Unreadable::NoCommand(at) => write!(f, "the stream has no command at offset {at}"),
            Unreadable::Short(bytes) => write!(f, "the last {bytes} bytes of the stream are missing"),
            Unreadable::Ragged => write!(f, "the stream ends within a command or a transaction"),
        }
    }
}

impl std::error::Error for Unreadable {}

/// What one command of the stream is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The keys among its arguments.
    Keys,
    /// Whole databases: FLUSHALL, FLUSHDB, SWAPDB.
    Databases,
    /// Nobody knows: a script, a function, a command that is not in the table.
    Unknown,
}

/// One command of the stream that changes data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamEffect {
    /// Bytes of the history before it, and with it.
    pub bytes: Range<u64>,
    /// `None`: no SELECT stands before it in the window.
    pub database: Option<u32>,
    /// The number of its transaction in the window, if it is part of one.
    pub group: Option<u32>,
    /// What it is about.
    pub reach: Reach,
}

/// Reads a window as its bytes come.
pub struct WindowReader {
    ancestry: Ancestry,
    first: u64,
    /// Where the living master's own writes begin.
    cut: u64,
    last: u64,
    bytes: Vec<u8>,
    scanner: RequestScanner,
    /// Where the command in progress begins, in `bytes`.
    start: usize,
    database: Option<u32>,
    group: Option<u32>,
    groups: u32,
    effects: Vec<StreamEffect>,
    index: HashMap<u64, Vec<u32>>,
    hasher: RandomState,
}

impl WindowReader {
    /// From behind byte number `first`, between two commands, to byte number `last`: the living master's offset when it was
    /// asked, after all requests that are to be judged were given up. At most `limit` bytes are kept (of 4 GiB), and of
    /// memory some ten times as much where commands are many and small.
    ///
    /// # Errors
    /// [`Unreadable::NoAncestry`]; [`Unreadable::TooLong`] or [`Unreadable::Ragged`] at once, where the offsets say so.
    pub fn new(ancestry: Ancestry, first: u64, last: u64, limit: usize) -> Result<WindowReader, Unreadable> {
        let cut = ancestry.end().ok_or(Unreadable::NoAncestry)?;
        if last < cut || last < first {
            return Err(Unreadable::Ragged);
        }
        if last - first > limit.min(u32::MAX as usize) as u64 {
            return Err(Unreadable::TooLong);
        }
        Ok(WindowReader {
            ancestry,
            first,
            cut,
            last,
            bytes: Vec::new(),
            scanner: RequestScanner::default(),
            start: 0,
            database: None,
            group: None,
            groups: 0,
            effects: Vec::new(),
            index: HashMap::new(),
            hasher: RandomState::new(),
        })
    }

    /// Bytes that are still missing.
    pub fn missing(&self) -> u64 {
        self.last - self.first - self.bytes.len() as u64
    }

    /// Takes the next bytes. Those behind the window's last are passed over.
    ///
    /// # Errors
    /// [`Unreadable::NoCommand`], [`Unreadable::Ragged`]: the stream is given up.
    pub fn take(&mut self, input: &[u8]) -> Result<(), Unreadable> {
        let input = &input[..usize::try_from(self.missing()).unwrap_or(usize::MAX).min(input.len())];
        let mut seen = self.bytes.len();
        self.bytes.extend_from_slice(input);
        loop {
            match self.scanner.scan(&self.bytes[seen..]) {
                Scan::Partial => return Ok(()),
                Scan::Invalid(_) => return Err(self.no_command()),
                Scan::Frame(used) => {
                    seen += used;
                    self.command(seen)?;
                    self.start = seen;
                }
            }
        }
    }

    /// The whole window.
    ///
    /// # Errors
    /// [`Unreadable::Short`], [`Unreadable::Ragged`].
    pub fn finish(self) -> Result<Window, Unreadable> {
        match self.missing() {
            0 if self.start == self.bytes.len() && self.group.is_none() => Ok(Window {
                ancestry: self.ancestry,
                first: self.first,
                bytes: self.bytes,
                effects: self.effects,
                index: self.index,
                hasher: self.hasher,
            }),
            0 => Err(Unreadable::Ragged),
            missing => Err(Unreadable::Short(missing)),
        }
    }

    fn no_command(&self) -> Unreadable {
        Unreadable::NoCommand(self.first + self.start as u64)
    }

    /// The command that ends at `end` of the bytes so far.
    fn command(&mut self, end: usize) -> Result<(), Unreadable> {
        let bytes = self.first + self.start as u64..self.first + end as u64;
        if bytes.start < self.cut && self.cut < bytes.end || bytes.start == self.cut && self.group.is_some() {
            return Err(Unreadable::Ragged);
        }
        if bytes.start == self.cut {
            // Another master writes here, and says which database it means.
            self.database = None;
        }
        // A master sends multibulk requests alone, and a newline to a replica that waits: that is before any window.
        if self.bytes[self.start] != b'*' {
            return Err(self.no_command());
        }
        let mut args = Args::new(&self.bytes[self.start..end]);
        let Some(name) = args.next() else { return Err(self.no_command()) };
        let name = String::from_utf8_lossy(&name).to_ascii_uppercase();
        let (mut single, mut reach) = (false, Reach::Keys);
        match name.as_str() {
            "PING" | "REPLCONF" | "PUBLISH" | "SPUBLISH" => return Ok(()),
            "SELECT" => {
                let number = args.next().and_then(|number| std::str::from_utf8(&number).ok()?.parse().ok());
                self.database = Some(number.ok_or_else(|| self.no_command())?);
                return Ok(());
            }
            "MULTI" if self.group.is_some() => return Err(self.no_command()),
            "MULTI" => {
                self.groups += 1;
                self.group = Some(self.groups);
                return Ok(());
            }
            "EXEC" => return self.group.take().map(|_| ()).ok_or_else(|| self.no_command()),
            "FLUSHALL" | "FLUSHDB" | "SWAPDB" => reach = Reach::Databases,
            "EVAL" | "EVALSHA" | "FCALL" | "FUNCTION" | "SCRIPT" => reach = Reach::Unknown,
            name if lookup(name.as_bytes()).name.is_empty() => reach = Reach::Unknown,
            name => single = has_one_key(name),
        }
        let number = self.effects.len() as u32;
        for arg in args.take(if single { 1 } else { usize::MAX }) {
            let named = self.index.entry(self.hasher.hash_one(&*arg)).or_default();
            if named.last() != Some(&number) {
                named.push(number);
            }
        }
        self.effects.push(StreamEffect { bytes, database: self.database, group: self.group, reach });
        Ok(())
    }
}

/// The command's first argument is its only key. Of others every argument is taken for one.
fn has_one_key(name: &str) -> bool {
    const ONE: &[&str] = &[
        "SET",
        "SETNX",
        "SETEX",
        "PSETEX",
        "GETSET",
        "APPEND",
        "SETRANGE",
        "SETBIT",
        "BITFIELD",
        "INCR",
        "INCRBY",
        "DECR",
        "DECRBY",
        "INCRBYFLOAT",
        "EXPIRE",
        "PEXPIRE",
        "EXPIREAT",
        "PEXPIREAT",
        "PERSIST",
        "RESTORE",
        "LPUSH",
        "RPUSH",
        "LPUSHX",
        "RPUSHX",
        "LPOP",
        "RPOP",
        "LSET",
        "LINSERT",
        "LREM",
        "LTRIM",
        "SADD",
        "SREM",
        "SPOP",
        "HSET",
        "HMSET",
        "HSETNX",
        "HDEL",
        "HINCRBY",
        "HINCRBYFLOAT",
        "HPEXPIREAT",
        "HPERSIST",
        "HSETEX",
        "ZADD",
        "ZREM",
        "ZINCRBY",
        "ZPOPMIN",
        "ZPOPMAX",
        "ZREMRANGEBYRANK",
        "ZREMRANGEBYSCORE",
        "ZREMRANGEBYLEX",
        "PFADD",
        "XADD",
        "XDEL",
        "XTRIM",
        "XACK",
        "XCLAIM",
        "XSETID",
        "GEOADD",
    ];
    ONE.contains(&name)
}

/// A window of the living history, up to the present.
pub struct Window {
    ancestry: Ancestry,
    first: u64,
    bytes: Vec<u8>,
    effects: Vec<StreamEffect>,
    /// By the hash of an argument, so that a look-up may find too many.
    index: HashMap<u64, Vec<u32>>,
    hasher: RandomState,
}

impl Window {
    /// Whose continuation the living history is.
    pub fn ancestry(&self) -> &Ancestry {
        &self.ancestry
    }

    /// Bytes of the history before the window, and with it.
    pub fn range(&self) -> Range<u64> {
        self.first..self.first + self.bytes.len() as u64
    }

    /// All effects, in order.
    pub fn effects(&self) -> &[StreamEffect] {
        &self.effects
    }

    /// Name and arguments of an effect.
    pub fn arguments(&self, effect: &StreamEffect) -> Args<'_> {
        let at = |offset: u64| (offset - self.first) as usize;
        Args::new(&self.bytes[at(effect.bytes.start)..at(effect.bytes.end)])
    }

    /// The effects that may have `argument` among their arguments: none is missing, some may be too many.
    pub fn naming(&self, argument: &[u8]) -> impl DoubleEndedIterator<Item = &StreamEffect> {
        let numbers = self.index.get(&self.hasher.hash_one(argument)).map(Vec::as_slice).unwrap_or_default();
        numbers.iter().map(move |number| &self.effects[*number as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use switchmaster_protocol::resp::request::encode_into;

    const REPLID: &str = "a";

    fn stream(commands: &[&[&str]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        commands.iter().for_each(|command| encode_into(&mut bytes, command));
        bytes
    }

    fn read(bytes: &[u8], piece: usize) -> Result<Window, Unreadable> {
        let ancestry = Ancestry::default().continuing(REPLID, 100 + bytes.len() as u64);
        let mut reader = WindowReader::new(ancestry, 100, 100 + bytes.len() as u64, 1 << 20)?;
        bytes.chunks(piece).try_for_each(|piece| reader.take(piece))?;
        reader.finish()
    }

    #[test]
    fn effects_are_the_same_however_the_stream_arrives() {
        let commands: &[&[&str]] = &[
            &["SET", "k", "v"],
            &["PING"],
            &["SELECT", "3"],
            &["MULTI"],
            &["INCR", "k"],
            &["DEL", "a", "k"],
            &["EXEC"],
            &["REPLCONF", "GETACK", "*"],
            &["FLUSHDB"],
            &["MODULE.SET", "k"],
        ];
        let bytes = stream(commands);
        let whole = read(&bytes, bytes.len()).unwrap();
        let seen: Vec<_> = whole.effects().iter().map(|effect| (effect.database, effect.group, effect.reach)).collect();
        let keys = Reach::Keys;
        assert_eq!(
            seen,
            [
                (None, None, keys),
                (Some(3), Some(1), keys),
                (Some(3), Some(1), keys),
                (Some(3), None, Reach::Databases),
                (Some(3), None, Reach::Unknown)
            ]
        );
        assert_eq!(whole.naming(b"k").count(), 4);
        assert_eq!(whole.naming(b"a").count(), 1);
        assert_eq!(whole.naming(b"v").count(), 0, "SET has one key");
        for piece in 1..bytes.len() {
            assert_eq!(read(&bytes, piece).unwrap().effects(), whole.effects(), "pieces of {piece}");
        }
    }

    #[test]
    fn a_window_must_be_whole_and_made_of_whole_commands() {
        let bytes = stream(&[&["MULTI"], &["INCR", "k"], &["EXEC"]]);
        for cut in 1..bytes.len() {
            assert_eq!(read(&bytes[..cut], 7).err(), Some(Unreadable::Ragged), "cut at {cut}");
        }
        let ancestry = Ancestry::default().continuing(REPLID, 200);
        let mut reader = WindowReader::new(ancestry.clone(), 100, 200, 100).unwrap();
        reader.take(&bytes).unwrap();
        assert_eq!(reader.finish().err(), Some(Unreadable::Short(100 - bytes.len() as u64)));
        assert_eq!(WindowReader::new(ancestry, 99, 200, 100).err(), Some(Unreadable::TooLong));
        assert_eq!(WindowReader::new(Ancestry::default(), 0, 0, 100).err(), Some(Unreadable::NoAncestry));
        for wrong in ["PING\r\n", "*0\r\n", "*1\r\n$4\r\nEXEC\r\n", "*1\r\n$6\r\nSELECT\r\n", "*x\r\n"] {
            assert!(matches!(read(wrong.as_bytes(), 3).err(), Some(Unreadable::NoCommand(100))), "{wrong}");
        }
    }

    #[test]
    fn the_new_masters_own_writes_begin_between_two_commands() {
        let whole = [stream(&[&["SELECT", "1"], &["INCR", "k"]]), stream(&[&["MULTI"], &["INCR", "own"], &["EXEC"]])];
        let (cut, bytes) = (whole[0].len(), whole.concat());
        let read = |cut: usize| {
            let ancestry = Ancestry::default().continuing(REPLID, 100 + cut as u64);
            let mut reader = WindowReader::new(ancestry, 100, 100 + bytes.len() as u64, 1 << 20).unwrap();
            reader.take(&bytes)?;
            reader.finish()
        };
        let databases: Vec<_> = read(cut).unwrap().effects().iter().map(|effect| effect.database).collect();
        assert_eq!(databases, [Some(1), None]);
        for ragged in [cut - 1, cut + 1, cut + 15, cut + 20] {
            assert_eq!(read(ragged).err(), Some(Unreadable::Ragged), "cut at {ragged}");
        }
    }

    #[test]
    fn a_later_promotion_that_went_back_counts_for_the_earlier_histories_too() {
        let ancestry = Ancestry::default().continuing("a", 100).continuing("b", 90);
        assert_eq!(ancestry.shared("a"), Some(90));
        assert_eq!(ancestry.shared("b"), Some(90));
        assert_eq!(ancestry.shared("c"), None);
        assert_eq!(ancestry.continuing("a", 120).shared("a"), None);
    }
}
