//! Replies as they come: the bytes that were read, cut where replies end.
//!
//! Reads no socket. No byte is looked at twice before its reply is whole, and what is kept has an end.

use super::reply::NotAReply;
use super::scanner::{ReplyScanner, Scan};

/// The bytes of one connection that were read and not yet taken.
#[derive(Debug)]
pub struct ReplyBuffer {
    bytes: Vec<u8>,
    /// Where the first reply begins that was not taken.
    start: usize,
    /// The scanner has seen the bytes up to here.
    scanned: usize,
    scanner: ReplyScanner,
    limit: usize,
}

impl ReplyBuffer {
    /// For replies of at most so many bytes; takes memory as they come.
    pub fn new(limit: usize) -> ReplyBuffer {
        let bytes = Vec::with_capacity(4096);
        ReplyBuffer { bytes, start: 0, scanned: 0, scanner: ReplyScanner::default(), limit }
    }

    /// The next reply or push, if it is whole; `None`: read more into [`ReplyBuffer::room`].
    ///
    /// # Errors
    /// What came is no reply; nor is it ever again.
    pub fn take(&mut self) -> Result<Option<&[u8]>, NotAReply> {
        match self.scanner.scan(&self.bytes[self.scanned..]) {
            Scan::Frame(used) => {
                let start = self.start;
                self.scanned += used;
                self.start = self.scanned;
                Ok(Some(&self.bytes[start..self.start]))
            }
            Scan::Partial => {
                self.scanned = self.bytes.len();
                Ok(None)
            }
            Scan::Invalid(why) => Err(NotAReply::new(why, &self.bytes[self.start..])),
        }
    }

    /// Where to append what is read next; what was taken is forgotten.
    ///
    /// # Errors
    /// The reply under way is longer than the limit.
    pub fn room(&mut self) -> Result<&mut Vec<u8>, NotAReply> {
        self.bytes.drain(..self.start);
        (self.start, self.scanned) = (0, self.scanned - self.start);
        if self.bytes.len() > self.limit {
            return Err(NotAReply::new("it is longer than any that is expected", &self.bytes));
        }
        Ok(&mut self.bytes)
    }

    /// What was read beyond the last reply that was taken.
    pub fn into_rest(mut self) -> Vec<u8> {
        self.bytes.drain(..self.start);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_taken_one_by_one_and_the_rest_stays() {
        let mut replies = ReplyBuffer::new(8);
        replies.room().unwrap().extend_from_slice(b"+OK\r\n:1\r\n$3\r\nf");
        assert_eq!(replies.take(), Ok(Some(&b"+OK\r\n"[..])));
        assert_eq!(replies.take(), Ok(Some(&b":1\r\n"[..])));
        assert_eq!(replies.take(), Ok(None));
        replies.room().unwrap().extend_from_slice(b"oo\r\n+");
        assert_eq!(replies.take(), Ok(Some(&b"$3\r\nfoo\r\n"[..])));
        assert_eq!(replies.into_rest(), b"+");
    }

    #[test]
    fn one_that_is_too_long_is_given_up() {
        let mut replies = ReplyBuffer::new(8);
        replies.room().unwrap().extend_from_slice(b"$9000\r\n12345");
        assert_eq!(replies.take(), Ok(None));
        assert!(replies.room().is_err());
    }
}
