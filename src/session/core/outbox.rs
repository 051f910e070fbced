//! What is on its way to a socket that did not take it yet, and what of a read can go out without a copy.
//!
//! Bounded by construction: nothing but the bounded inbox is read while an [`Outbox`] is not empty. Empty, it owns no
//! memory.

use std::ops::Range;

/// What a socket did not take yet: bytes that the driver has in a pipe, and bytes behind them.
#[derive(Debug, Default)]
pub struct Outbox(Option<Box<Waiting>>);

/// Not empty.
#[derive(Debug, Default)]
struct Waiting {
    /// In the driver's pipe; they go first.
    piped: usize,
    bytes: Vec<u8>,
    sent: usize,
}

impl Outbox {
    /// The socket has taken everything.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Bytes that the socket has not taken.
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |waiting| waiting.piped + waiting.bytes.len() - waiting.sent)
    }

    /// Memory held for it, also in the pipe.
    pub fn held_bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |waiting| waiting.piped + waiting.bytes.capacity())
    }

    /// What is to be sent next, behind what is in the pipe.
    pub fn bytes(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], |waiting| &waiting.bytes[waiting.sent..])
    }

    /// The socket has taken so many of [`Outbox::bytes`].
    pub fn sent(&mut self, count: usize) {
        if let Some(waiting) = &mut self.0 {
            waiting.sent += count;
        }
        self.forget_if_done();
    }

    /// So many bytes wait in the driver's pipe. Nothing else waits.
    pub fn piped(&mut self, count: usize) {
        debug_assert!(self.is_empty());
        self.0.get_or_insert_default().piped = count;
    }

    /// The socket has taken all that was in the pipe.
    pub fn pipe_sent(&mut self) {
        if let Some(waiting) = &mut self.0 {
            waiting.piped = 0;
        }
        self.forget_if_done();
    }

    fn forget_if_done(&mut self) {
        self.0.take_if(|waiting| waiting.piped == 0 && waiting.sent == waiting.bytes.len());
    }

    /// Adds to what is to be sent.
    pub fn push(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.0.get_or_insert_default().bytes.extend_from_slice(bytes);
        }
    }

    /// The same with the first `count` of bytes that nobody else needs.
    pub fn push_owned(&mut self, mut bytes: Vec<u8>, count: usize) {
        if !self.is_empty() {
            return self.push(&bytes[..count]);
        }
        if count > 0 {
            bytes.truncate(count);
            self.0.get_or_insert_default().bytes = bytes;
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.0 = None;
    }
}

/// The prefix of a read that can be written without a copy; once anything is left out or put in, the rest is copied to
/// the outbox.
#[derive(Debug)]
pub(super) struct Forwarded<'a> {
    data: &'a [u8],
    end: usize,
    is_copied: bool,
}

impl<'a> Forwarded<'a> {
    /// Of this read; nothing goes out yet.
    pub(super) fn of(data: &'a [u8]) -> Forwarded<'a> {
        Forwarded { data, end: 0, is_copied: false }
    }

    /// These bytes go out, in the order of the read.
    #[inline]
    pub(super) fn pass(&mut self, out: &mut Outbox, bytes: Range<usize>) {
        if !self.is_copied && bytes.start == self.end {
            self.end = bytes.end;
        } else {
            self.copy(out, bytes);
        }
    }

    #[cold]
    fn copy(&mut self, out: &mut Outbox, bytes: Range<usize>) {
        self.leave_out(out);
        out.push(&self.data[bytes]);
    }

    /// `instead` goes out in the place of what comes next in the read.
    pub(super) fn replace(&mut self, out: &mut Outbox, instead: &[u8]) {
        self.leave_out(out);
        out.push(instead);
    }

    /// What comes next in the read does not go out.
    pub(super) fn leave_out(&mut self, out: &mut Outbox) {
        if !self.is_copied {
            out.push(&self.data[..self.end]);
            self.is_copied = true;
        }
    }

    /// The length of the prefix that is still to be written; 0 once the rest was copied.
    pub(super) fn prefix(&self) -> usize {
        if self.is_copied { 0 } else { self.end }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_is_gone_and_an_empty_one_owns_nothing() {
        let mut out = Outbox::default();
        out.push_owned(b"abcdef".to_vec(), 4);
        out.push(b"gh");
        out.sent(3);
        assert_eq!((out.bytes(), out.len()), (&b"dgh"[..], 3));
        out.sent(3);
        assert!(out.is_empty() && out.held_bytes() == 0);
        out.piped(10);
        out.push(b"x");
        assert_eq!((out.bytes(), out.len()), (&b"x"[..], 11));
        out.pipe_sent();
        assert_eq!(out.len(), 1);
    }

    #[test]
    fn a_read_is_passed_without_a_copy_until_something_is_left_out() {
        let (mut out, mut forwarded) = (Outbox::default(), Forwarded::of(b"abcdef"));
        forwarded.pass(&mut out, 0..2);
        assert!(out.is_empty() && forwarded.prefix() == 2);
        forwarded.replace(&mut out, b"X");
        forwarded.pass(&mut out, 4..6);
        assert_eq!((out.bytes(), forwarded.prefix()), (&b"abXef"[..], 0));
    }
}
