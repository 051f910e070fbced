//! The walker: chunks of any size in, keys out, and at the end the summary.
//!
//! Deterministic: however the bytes are cut, keys, summary and error are the same. It takes the RDB and no byte more,
//! so that its owner learns where the RDB ends in a stream.

use std::io;
use std::mem;

use super::checksum::Crc64;
use super::found::Found;
use super::grammar::{self, Content, Step, TYPE_NAMES, opcode};
use super::number::Field;
use super::string::RdbString;
use super::{Cause, Entry, KEY_KEPT, Malformed, Summary, blob};

/// So many bytes of each thing that the writer says about itself are kept.
const AUX_KEPT: usize = 1024;
/// Of a key, so much is shown in an error.
const KEY_SHOWN: usize = 64;
/// No text of a score is so long: this and the two above are not a number, infinite, and negative so.
const SCORE_NAN: u8 = 253;

/// Walks over one RDB.
#[derive(Debug)]
pub struct Walker {
    phase: Phase,
    /// Bytes taken.
    offset: u64,
    crc: Crc64,
    /// The record that is being read, and where it began.
    record: Record,
    record_at: u64,
    /// What is still to come of it: the innermost last.
    frames: Vec<Frame>,
    /// The step that is being read: where it began, and what of it was taken.
    step_at: u64,
    begun: bool,
    field: Field,
    string: RdbString,
    /// The length of the score that is being read.
    score: Option<u8>,
    /// What the last steps read.
    number: u64,
    bytes: [u8; 16],
    aux_name: String,
    key: Key,
    found: Found,
    failed: Option<Malformed>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Header and records.
    Body,
    /// The checksum.
    Trailer,
    /// Nothing more.
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Record {
    Header,
    /// Of an opcode.
    Special(u8),
    /// The name of a key, and then its value.
    Key(u8),
    Value(u8),
}

/// Steps that are repeated.
#[derive(Clone, Copy, Debug)]
struct Frame {
    steps: &'static [Step],
    at: usize,
    /// This time included.
    times: u64,
}

/// The key that is being read.
#[derive(Debug, Default)]
struct Key {
    name: Vec<u8>,
    len: u64,
    expire_at_ms: Option<u64>,
    idle_s: Option<u64>,
    frequency: Option<u8>,
    /// What was said of it before its name came.
    announced: bool,
    value_at: u64,
}

/// How far a step came.
enum Progress {
    /// It needs more bytes.
    Begun,
    /// It is over.
    Over,
    /// Other steps come first.
    Within,
}

impl Walker {
    /// At the first byte of an RDB.
    pub fn new() -> Walker {
        let mut walker = Walker {
            phase: Phase::Body,
            offset: 0,
            crc: Crc64::new(),
            record: Record::Header,
            record_at: 0,
            frames: Vec::new(),
            step_at: 0,
            begun: false,
            field: Field::default(),
            string: RdbString::new(),
            score: None,
            number: 0,
            bytes: [0; 16],
            aux_name: String::new(),
            key: Key::default(),
            found: Found::new(),
            failed: None,
        };
        walker.push(grammar::HEADER, 1);
        walker
    }

    /// Takes the next bytes: how many of them. Fewer than there are only when the RDB is over. `each` is told the keys
    /// whose values end in them.
    ///
    /// # Errors
    /// The first thing that is wrong; and the same again ever after.
    pub fn feed(&mut self, chunk: &[u8], each: &mut impl FnMut(Entry<'_>)) -> Result<usize, Malformed> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        let taken = match self.body(chunk, each) {
            Ok(taken) => taken,
            Err(what) => {
                let (what, cause) = self.found.judge(what);
                return Err(self.fail(self.step_at, what, cause));
            }
        };
        self.crc.update(&chunk[..taken]);
        let trailer = match self.trailer(&chunk[taken..]) {
            Ok(trailer) => trailer,
            Err(what) => return Err(self.fail(self.offset - 8, what, Cause::Unsound)),
        };
        Ok(taken + trailer)
    }

    /// Whether the RDB is over: no byte more belongs to it.
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// Bytes taken so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// No more bytes come: what the RDB holds.
    ///
    /// # Errors
    /// It is not over, or was not sound.
    pub fn finish(mut self) -> Result<Summary, Malformed> {
        if let Some(failed) = self.failed {
            return Err(failed);
        }
        if self.phase != Phase::Over {
            let of = match (self.phase, self.record, self.frames.is_empty()) {
                (Phase::Trailer, ..) => "its checksum".to_owned(),
                (_, Record::Header, _) => "its header".to_owned(),
                (_, _, true) => "its records: there is no end mark".to_owned(),
                (_, Record::Special(byte), _) => {
                    format!("the record of opcode {byte} that begins at {}", self.record_at)
                }
                (_, Record::Key(_) | Record::Value(_), _) => format!("the key that begins at {}", self.record_at),
            };
            return Err(self.fail(self.offset, format!("it ends within {of}"), Cause::Truncated));
        }
        Ok(self.found.summary(self.offset))
    }

    /// The error of bytes that follow the end.
    pub(super) fn followed(&mut self) -> Malformed {
        self.fail(self.offset, "other bytes follow its end".to_owned(), Cause::Unsound)
    }

    /// The error of a file that cannot be read further.
    pub(super) fn unreadable(&mut self, error: &io::Error) -> Malformed {
        self.fail(self.offset, format!("it cannot be read: {error}"), Cause::Unreadable)
    }

    fn fail(&mut self, offset: u64, what: String, cause: Cause) -> Malformed {
        let in_value = matches!(self.record, Record::Value(_)) && !self.frames.is_empty();
        let key = in_value.then(|| self.key.name[..self.key.name.len().min(KEY_SHOWN)].to_vec());
        let malformed = Malformed { offset, key, what, cause };
        self.failed = Some(malformed.clone());
        malformed
    }

    /// Header and records, until the chunk or the body is over: how many bytes.
    fn body(&mut self, chunk: &[u8], each: &mut impl FnMut(Entry<'_>)) -> Result<usize, String> {
        let mut at = 0;
        while self.phase == Phase::Body {
            let rest = &chunk[at..];
            if self.frames.is_empty() {
                let Some(&byte) = rest.first() else { break };
                self.step_at = self.offset;
                self.begin(byte)?;
                self.offset += 1;
                at += 1;
                continue;
            }
            if !self.begun {
                self.step_at = self.offset;
            }
            let (taken, progress) = self.step(rest)?;
            at += taken;
            self.offset += taken as u64;
            match progress {
                Progress::Begun => break,
                Progress::Within => self.begun = false,
                Progress::Over => {
                    self.begun = false;
                    if self.advance() {
                        self.complete(each)?;
                    }
                }
            }
        }
        Ok(at)
    }

    /// The checksum, as far as the body is over: how many bytes.
    fn trailer(&mut self, rest: &[u8]) -> Result<usize, String> {
        if self.phase != Phase::Trailer {
            return Ok(0);
        }
        let (taken, bytes) = self.field.exact(rest, 8);
        self.offset += taken as u64;
        let Some(bytes) = bytes else { return Ok(taken) };
        self.phase = Phase::Over;
        let (says, is) = (low(&bytes), self.crc.value());
        match says {
            // The writer had `rdbchecksum no`.
            0 => {}
            says if says == is => self.found.crc64 = Some(says),
            _ => return Err(format!("its checksum says {says:016x}, its bytes have {is:016x}")),
        }
        Ok(taken)
    }

    /// This byte begins a record.
    fn begin(&mut self, byte: u8) -> Result<(), String> {
        self.record_at = self.offset;
        let magic = self.found.magic;
        let of_key =
            matches!(byte, opcode::EXPIRETIME | opcode::EXPIRETIME_MS | opcode::IDLE | opcode::FREQ | opcode::KEY_META);
        if grammar::value(byte, magic).is_some() {
            self.record = Record::Key(byte);
            self.push(grammar::KEY, 1);
            return Ok(());
        }
        if self.key.announced && !of_key {
            return Err("an expiry or the like is followed by no key".to_owned());
        }
        self.record = Record::Special(byte);
        if byte == opcode::EOF {
            self.phase = if self.found.version < 5 { Phase::Over } else { Phase::Trailer };
            return Ok(());
        }
        let Some(steps) = grammar::record(byte, magic) else {
            let Found { magic, version, .. } = self.found;
            return Err(format!("no type or opcode {byte} is known ({magic}, RDB version {version})"));
        };
        self.push(steps, 1);
        Ok(())
    }

    /// Reads on in the step that is next.
    fn step(&mut self, rest: &[u8]) -> Result<(usize, Progress), String> {
        let Some(&Frame { steps, at, .. }) = self.frames.last() else { return Ok((0, Progress::Over)) };
        match steps[at] {
            Step::Bytes(size) => {
                let (taken, bytes) = self.field.exact(rest, usize::from(size));
                self.bytes = bytes.unwrap_or(self.bytes);
                Ok((taken, self.whole(bytes.is_some())))
            }
            Step::String(content) => {
                if !self.begun {
                    self.string.begin(content.kept());
                }
                let (taken, over) = self.string.take(rest)?;
                if over {
                    self.arrived(content)?;
                }
                Ok((taken, self.whole(over)))
            }
            Step::Score => self.score(rest),
            Step::Module => {
                self.push(grammar::ITEMS, u64::MAX);
                Ok((0, Progress::Within))
            }
            step => {
                let (taken, number) = self.field.number(rest)?;
                let Some(number) = number else { return Ok((taken, self.whole(false))) };
                self.number = number;
                Ok((taken, self.numbered(step, number)?))
            }
        }
    }

    fn whole(&mut self, over: bool) -> Progress {
        self.begun = !over;
        if over { Progress::Over } else { Progress::Begun }
    }

    /// The number of a step was read.
    fn numbered(&mut self, step: Step, number: u64) -> Result<Progress, String> {
        match step {
            Step::Exactly(wanted) if number != wanted => {
                return Err(format!("{number} stands where only {wanted} may"));
            }
            Step::Many(_) if number == 0 => {}
            Step::Many(steps) => {
                self.push(steps, number);
                return Ok(Progress::Within);
            }
            Step::Headed(once, each) => {
                // As if a round had just ended: once the first steps are over, the rounds that were announced follow.
                self.frames.push(Frame { steps: each, at: each.len() - 1, times: number.saturating_add(1) });
                self.push(once, 1);
                return Ok(Progress::Within);
            }
            Step::Element => {
                let steps =
                    grammar::element(number).ok_or_else(|| format!("no element of an array has the tag {number}"))?;
                self.push(steps, 1);
                return Ok(Progress::Within);
            }
            Step::Node => {
                let steps =
                    grammar::node(number).ok_or_else(|| format!("no node of a list has the container {number}"))?;
                self.push(steps, 1);
                return Ok(Progress::Within);
            }
            // The end mark: of the items there are no more.
            Step::Item if number == 0 => {
                self.frames.pop();
            }
            Step::Item => {
                let steps =
                    grammar::item(number).ok_or_else(|| format!("no module writes an item of type {number}"))?;
                self.push(steps, 1);
                return Ok(Progress::Within);
            }
            _ => {}
        }
        Ok(Progress::Over)
    }

    /// The score of an old sorted set (`rdbLoadDoubleValue`).
    fn score(&mut self, rest: &[u8]) -> Result<(usize, Progress), String> {
        let (first, len) = match (self.score, rest.first()) {
            (Some(left), _) => (0, left),
            (None, None) => return Ok((0, self.whole(false))),
            (None, Some(0)) => return Err("a score is empty".to_owned()),
            (None, Some(&SCORE_NAN)) => return Err("a score is not a number".to_owned()),
            (None, Some(&len)) if len > SCORE_NAN => return Ok((1, self.whole(true))),
            (None, Some(&len)) => (1, len),
        };
        let now = usize::from(len).min(rest.len() - first);
        let left = len - now as u8;
        self.score = (left > 0).then_some(left);
        Ok((first + now, self.whole(left == 0)))
    }

    /// A string has passed.
    fn arrived(&mut self, content: Content) -> Result<(), String> {
        let string = &mut self.string;
        match content {
            Content::Any => {}
            Content::NotEmpty if string.len == 0 => return Err("an element of a list's own node is empty".to_owned()),
            Content::NotEmpty => {}
            Content::Key => {
                mem::swap(&mut self.key.name, &mut string.head);
                self.key.len = string.len;
            }
            Content::AuxName => self.aux_name = String::from_utf8_lossy(&string.head).into_owned(),
            Content::AuxValue => {
                let value = String::from_utf8_lossy(&string.head).into_owned();
                self.found.aux(mem::take(&mut self.aux_name), value);
            }
            Content::StreamId if string.len != 16 => return Err(format!("no ID of a stream has {} bytes", string.len)),
            Content::StreamId => {}
            Content::Blob(blob) => blob.check(&string.head, string.len, string.last)?,
        }
        Ok(())
    }

    /// The step is over. Whether the record is.
    fn advance(&mut self) -> bool {
        while let Some(frame) = self.frames.last_mut() {
            frame.at += 1;
            if frame.at < frame.steps.len() {
                return false;
            }
            frame.at = 0;
            frame.times -= 1;
            if frame.times > 0 {
                return false;
            }
            self.frames.pop();
        }
        true
    }

    /// The record is over.
    fn complete(&mut self, each: &mut impl FnMut(Entry<'_>)) -> Result<(), String> {
        match self.record {
            Record::Header => self.found.header(&self.bytes[..9])?,
            Record::Special(byte) => self.special(byte)?,
            Record::Key(kind) => {
                self.key.value_at = self.offset;
                if let Some((_, steps)) = grammar::value(kind, self.found.magic) {
                    self.record = Record::Value(kind);
                    self.push(steps, 1);
                }
            }
            Record::Value(kind) => self.value(kind, each),
        }
        Ok(())
    }

    fn special(&mut self, byte: u8) -> Result<(), String> {
        self.key.announced |= matches!(byte, opcode::EXPIRETIME | opcode::EXPIRETIME_MS | opcode::IDLE | opcode::FREQ);
        match byte {
            opcode::EXPIRETIME_MS => self.key.expire_at_ms = Some(expiry(low(&self.bytes) as i64)),
            opcode::EXPIRETIME => self.key.expire_at_ms = Some(expiry(i64::from(low(&self.bytes) as i32) * 1000)),
            opcode::IDLE => self.key.idle_s = Some(self.number),
            opcode::FREQ => self.key.frequency = Some(self.bytes[0]),
            opcode::SELECTDB => self.found.select(self.number)?,
            opcode::FUNCTION2 | opcode::FUNCTION_PRE_GA => self.found.library(self.record_at..self.offset)?,
            _ => {}
        }
        Ok(())
    }

    fn value(&mut self, kind: u8, each: &mut impl FnMut(Entry<'_>)) {
        let Some((r#type, _)) = grammar::value(kind, self.found.magic) else { return };
        self.found.key(r#type, self.key.expire_at_ms.is_some());
        let key = &mut self.key;
        each(Entry {
            db: self.found.db,
            key: &key.name,
            key_len: key.len,
            kind,
            type_name: TYPE_NAMES[r#type as usize],
            expire_at_ms: key.expire_at_ms.take(),
            idle_s: key.idle_s.take(),
            frequency: key.frequency.take(),
            value: key.value_at..self.offset,
        });
        key.announced = false;
    }

    /// Bytes of memory it holds.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        let frames = self.frames.capacity() * mem::size_of::<Frame>();
        frames + self.string.head.capacity() + self.key.name.capacity() + self.aux_name.capacity()
    }

    fn push(&mut self, steps: &'static [Step], times: u64) {
        self.frames.push(Frame { steps, at: 0, times });
    }
}

impl Default for Walker {
    fn default() -> Walker {
        Walker::new()
    }
}

impl Content {
    /// How much of the string is looked at.
    fn kept(self) -> usize {
        match self {
            Content::Any | Content::NotEmpty | Content::StreamId => 0,
            Content::Key => KEY_KEPT,
            Content::AuxName | Content::AuxValue => AUX_KEPT,
            Content::Blob(_) => blob::HEAD,
        }
    }
}

/// The first eight bytes as a little-endian number.
fn low(bytes: &[u8; 16]) -> u64 {
    u64::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7]])
}

/// A time before 1970 is in the past as much as 1970 is.
fn expiry(ms: i64) -> u64 {
    u64::try_from(ms).unwrap_or(0)
}
