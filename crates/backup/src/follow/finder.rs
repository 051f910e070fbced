//! Finds the last time a command stands in a stream: `--before-command`.
//!
//! Sans-IO: bytes in pieces of any size. A name matches in any case, what follows it byte for byte.

use super::commands::{Commands, Malformed, Next};

/// A command's name and, if given, its first arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Vec<Vec<u8>>);

/// Where a command stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// To stop just before it: where it begins, or the transaction of which it is part.
    pub before: u64,
    /// The offset after it.
    pub end: u64,
}

/// Looks through one segment.
#[derive(Debug)]
pub struct Finder<'a> {
    pattern: &'a Pattern,
    commands: Commands,
    last: Option<Found>,
}

impl Pattern {
    /// Of words between blanks: `FLUSHALL`, `DEL users`. `None`: there is no word.
    pub fn parse(text: &str) -> Option<Pattern> {
        let words: Vec<Vec<u8>> = text.split_whitespace().map(|word| word.as_bytes().to_vec()).collect();
        if words.is_empty() { None } else { Some(Pattern(words)) }
    }

    fn matches<A: AsRef<[u8]>>(&self, mut arguments: impl Iterator<Item = A>) -> bool {
        self.0.iter().enumerate().all(|(index, wanted)| {
            arguments.next().is_some_and(|found| match index {
                0 => found.as_ref().eq_ignore_ascii_case(wanted),
                _ => found.as_ref() == wanted,
            })
        })
    }

    /// Bytes of a command that must be looked at.
    fn reach(&self) -> usize {
        // Each argument has a line of its length before it, and the command one of their number.
        64 + self.0.iter().map(|word| word.len() + 24).sum::<usize>()
    }
}

impl Finder<'_> {
    /// From `offset`, the beginning of a segment.
    pub fn new(pattern: &Pattern, offset: u64) -> Finder<'_> {
        Finder { pattern, commands: Commands::new(offset, pattern.reach()), last: None }
    }

    /// Looks at the next bytes.
    pub fn feed(&mut self, mut input: &[u8]) -> Result<(), Malformed> {
        while let Next::Command(used, command) = self.commands.next(input)? {
            if self.pattern.matches(command.arguments()) {
                self.last = Some(Found { before: command.unit, end: command.end });
            }
            input = &input[used..];
        }
        Ok(())
    }

    /// The last one so far.
    pub fn last(&self) -> Option<Found> {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(pattern: &str, commands: &[&[&str]], piece: usize) -> Option<Found> {
        let mut stream = Vec::new();
        commands.iter().for_each(|command| crate::wire::encode(&mut stream, command));
        let pattern = Pattern::parse(pattern).unwrap();
        let mut finder = Finder::new(&pattern, 10);
        stream.chunks(piece).for_each(|piece| finder.feed(piece).unwrap());
        finder.last()
    }

    #[test]
    fn the_last_one_counts_in_any_case_and_before_its_transaction() {
        let commands: &[&[&str]] =
            &[&["PING"], &["FLUSHALL"], &["MULTI"], &["flushall", "async"], &["EXEC"], &["PING"]];
        let multi = 10 + 14 + 18;
        for piece in 1..60 {
            let found = find("FlushAll", commands, piece).unwrap();
            assert_eq!((found.before, found.end), (multi, multi + 15 + 29), "pieces of {piece}");
        }
        assert_eq!(find("FLUSHDB", commands, 7), None);
    }

    #[test]
    fn arguments_are_compared_byte_for_byte() {
        let commands: &[&[&str]] = &[&["DEL", "users"], &["DEL", "Users"], &["DEL", "other", "users"], &["DELUSERS"]];
        assert_eq!(find("del users", commands, 5).unwrap().before, 10);
        assert_eq!(find("DEL", commands, 5).unwrap().before, 10 + 24 + 24);
        assert_eq!(find("DEL other users", commands, 5).unwrap().before, 10 + 48);
        assert_eq!(find("DEL other users more", commands, 5), None);
    }

    #[test]
    fn a_blank_pattern_is_none() {
        assert_eq!(Pattern::parse("  "), None);
    }
}
