//! A string as an RDB writes it: plain, an integer, or compressed; it passes, and its head stays.
//!
//! What stays is what the caller asked to keep, as it comes: never more than was there.

use super::lzf::Lzf;
use super::number::{Field, Length};

/// No longer string is believed. `proto-max-bulk-len` can be raised over its 512 MiB, the memory of a host less so.
const MOST: u64 = 1 << 40;

/// One string after the other.
#[derive(Debug)]
pub(super) struct RdbString {
    next: Next,
    field: Field,
    keep: usize,
    /// The first bytes of the string, as many as are kept.
    pub(super) head: Vec<u8>,
    /// Bytes of the whole string, when it has passed.
    pub(super) len: u64,
    /// Its last byte, where it is known.
    pub(super) last: Option<u8>,
}

/// What the next byte is.
#[derive(Debug)]
enum Next {
    Length,
    /// An integer of so many bytes.
    Integer(usize),
    /// The length of what is compressed.
    Packed,
    /// The length of what it becomes.
    Unpacked(u64),
    /// So many bytes are still to come.
    Plain(u64),
    Compressed(Lzf),
}

impl RdbString {
    pub(super) fn new() -> RdbString {
        RdbString { next: Next::Length, field: Field::default(), keep: 0, head: Vec::new(), len: 0, last: None }
    }

    /// A string begins, and its first `keep` bytes are wanted.
    pub(super) fn begin(&mut self, keep: usize) {
        self.next = Next::Length;
        self.keep = keep;
        self.head.clear();
        self.len = 0;
        self.last = None;
    }

    /// Takes what belongs to the string: how many bytes, and whether it is over (`rdbGenericLoadStringObject`).
    pub(super) fn take(&mut self, input: &[u8]) -> Result<(usize, bool), String> {
        let mut at = 0;
        loop {
            let rest = &input[at..];
            match &mut self.next {
                Next::Length => {
                    let (taken, length) = self.field.length(rest)?;
                    at += taken;
                    self.next = match length {
                        None => return Ok((at, false)),
                        Some(Length::Plain(0)) => return Ok((at, true)),
                        Some(Length::Plain(len)) => {
                            self.len = believed(len)?;
                            Next::Plain(len)
                        }
                        Some(Length::Encoded(size @ 0..=2)) => Next::Integer(1 << size),
                        Some(Length::Encoded(3)) => Next::Packed,
                        Some(Length::Encoded(how)) => return Err(format!("no string has the encoding {how}")),
                    };
                }
                Next::Integer(size) => {
                    let (taken, bytes) = self.field.exact(rest, *size);
                    let Some(bytes) = bytes else { return Ok((at + taken, false)) };
                    let number = match size {
                        1 => i32::from(bytes[0] as i8),
                        2 => i32::from(i16::from_le_bytes([bytes[0], bytes[1]])),
                        _ => i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
                    };
                    if self.keep > 0 {
                        self.head.extend_from_slice(number.to_string().as_bytes());
                        self.len = self.head.len() as u64;
                    }
                    return Ok((at + taken, true));
                }
                Next::Packed => {
                    let (taken, number) = self.field.number(rest)?;
                    at += taken;
                    let Some(packed) = number else { return Ok((at, false)) };
                    self.next = Next::Unpacked(believed(packed)?);
                }
                Next::Unpacked(packed) => {
                    let (taken, number) = self.field.number(rest)?;
                    at += taken;
                    let Some(len) = number else { return Ok((at, false)) };
                    self.len = believed(len)?;
                    self.next = Next::Compressed(Lzf::new(*packed, len)?);
                }
                Next::Plain(left) => {
                    let now = rest.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    let bytes = &rest[..now];
                    self.head.extend_from_slice(&bytes[..now.min(self.keep.saturating_sub(self.head.len()))]);
                    *left -= now as u64;
                    let over = *left == 0;
                    if over {
                        self.last = bytes.last().copied();
                    }
                    return Ok((at + now, over));
                }
                Next::Compressed(lzf) => {
                    let (taken, over) = lzf.take(rest, self.keep, &mut self.head, &mut self.last)?;
                    return Ok((at + taken, over));
                }
            }
        }
    }
}

fn believed(len: u64) -> Result<u64, String> {
    if len > MOST {
        return Err(format!("no string has {len} bytes"));
    }
    Ok(len)
}
