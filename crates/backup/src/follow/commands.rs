//! The commands in a replication stream: where each begins and ends, and which transaction it is part of.
//!
//! Deterministic, no file, no clock; bytes come in pieces of any size. Holds the first bytes of one command, never more.

use std::borrow::Cow;

use crate::resp::request::Args;
use crate::resp::scanner::{RequestScanner, Scan};

/// Follows a stream from a point between two commands.
#[derive(Debug)]
pub struct Commands {
    scanner: RequestScanner,
    /// Bytes of the stream before this point.
    position: u64,
    /// Where the command in progress, or else the next one, begins.
    start: u64,
    /// The first bytes of the command in progress, of which a part came in an earlier piece.
    head: Vec<u8>,
    head_limit: usize,
    /// Where the transaction in progress begins.
    transaction: Option<u64>,
}

/// One whole command.
#[derive(Debug, PartialEq, Eq)]
pub struct Command<'a> {
    /// The offset of its first byte, or that of the MULTI of its transaction.
    pub unit: u64,
    /// The offset after its last byte.
    pub end: u64,
    /// The stream may be cut after it: no transaction is open.
    pub closes: bool,
    head: Cow<'a, [u8]>,
}

/// What a piece of the stream began with.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<'a> {
    /// So many bytes ended a command.
    Command(usize, Command<'a>),
    /// All of it was taken; a command goes on.
    Partial,
}

/// The stream is not made of commands, from this offset on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// Where the command that is none begins.
    pub offset: u64,
    /// What is wrong with it.
    pub what: &'static str,
}

impl Commands {
    /// From `offset`, where a command begins and no transaction is open. Of each command its first `head_limit` bytes
    /// are kept for [`Command::arguments`].
    pub fn new(offset: u64, head_limit: usize) -> Commands {
        Commands {
            scanner: RequestScanner::default(),
            position: offset,
            start: offset,
            head: Vec::new(),
            head_limit,
            transaction: None,
        }
    }

    /// The offset after the last byte taken.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Takes `input` up to the end of the next command.
    pub fn next<'a>(&mut self, input: &'a [u8]) -> Result<Next<'a>, Malformed> {
        let used = match self.scanner.scan(input) {
            Scan::Frame(used) => used,
            Scan::Partial => {
                self.keep(input);
                self.position += input.len() as u64;
                return Ok(Next::Partial);
            }
            Scan::Invalid(what) => return Err(Malformed { offset: self.start, what }),
        };
        self.position += used as u64;
        let head = if self.head.is_empty() {
            Cow::Borrowed(&input[..used.min(self.head_limit)])
        } else {
            self.keep(&input[..used]);
            Cow::Owned(std::mem::take(&mut self.head))
        };
        let start = std::mem::replace(&mut self.start, self.position);
        let name = Args::new(&head).next();
        let is = |what: &str| name.as_ref().is_some_and(|name| name.eq_ignore_ascii_case(what.as_bytes()));
        if is("MULTI") {
            self.transaction = Some(start);
        }
        let unit = self.transaction.unwrap_or(start);
        if is("EXEC") || is("DISCARD") {
            self.transaction = None;
        }
        drop(name);
        Ok(Next::Command(used, Command { unit, end: self.position, closes: self.transaction.is_none(), head }))
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = self.head_limit.saturating_sub(self.head.len());
        self.head.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

impl Command<'_> {
    /// Its name and arguments, as far as they lie within the first bytes that are kept.
    pub fn arguments(&self) -> Args<'_> {
        Args::new(&self.head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every command of `stream` as (unit, end, closes, name), given in pieces of `size` bytes.
    fn walk(stream: &[u8], size: usize) -> Vec<(u64, u64, bool, String)> {
        let mut commands = Commands::new(100, 64);
        let mut found = Vec::new();
        for mut piece in stream.chunks(size) {
            while let Next::Command(used, command) = commands.next(piece).unwrap() {
                let name = command.arguments().next().unwrap_or_default().into_owned();
                found.push((command.unit, command.end, command.closes, String::from_utf8(name).unwrap()));
                piece = &piece[used..];
            }
        }
        assert_eq!(commands.position(), 100 + stream.len() as u64);
        found
    }

    #[test]
    fn a_transaction_is_one_unit_however_the_stream_is_cut_into_pieces() {
        let mut stream = Vec::new();
        for command in [&["set", "k", "v"][..], &["MULTI"], &["INCR", "n"], &["exec"], &["PING"]] {
            crate::wire::encode(&mut stream, command);
        }
        let whole = walk(&stream, stream.len());
        let units: Vec<_> = whole.iter().map(|(unit, _, closes, name)| (*unit, *closes, name.as_str())).collect();
        let multi = 100 + 27;
        assert_eq!(
            units,
            [
                (100, true, "set"),
                (multi, false, "MULTI"),
                (multi, false, "INCR"),
                (multi, true, "exec"),
                (177, true, "PING")
            ]
        );
        assert_eq!(whole.last().unwrap().1, 100 + stream.len() as u64);
        for size in 1..stream.len() {
            assert_eq!(walk(&stream, size), whole, "pieces of {size}");
        }
    }

    #[test]
    fn what_is_no_command_is_told_with_its_offset() {
        let mut commands = Commands::new(7, 64);
        assert!(matches!(commands.next(b"*1\r\n$4\r\nPING\r\n*x\r\n").unwrap(), Next::Command(14, _)));
        assert_eq!(commands.next(b"*x\r\n").unwrap_err().offset, 21);
    }
}
