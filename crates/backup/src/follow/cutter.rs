//! Where the stream is cut into segments, and when its bytes arrived.
//!
//! No file, no clock: bytes and times go in, cuts come out. A segment holds whole commands and whole transactions, so
//! that each can be read, and stopped at, by itself.

use std::collections::VecDeque;
use std::time::Duration;

use super::commands::{Commands, Malformed, Next};

/// Between two marks while data flows.
const MARK_MS: u64 = 100;
/// A segment is not much larger than this, however long it may last.
const SEGMENT_BYTES: u64 = 64 << 20;
/// Marks that are remembered when their segment has ended: minutes of data that flows.
const REMEMBERED: usize = 4096;
/// Enough of a command to know a MULTI.
const HEAD: usize = 64;

/// Everything before `offset` had arrived at `ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// An offset in the stream at which it may be stopped.
    pub offset: u64,
    /// Milliseconds since 1970, by the clock of the host that followed.
    pub ms: u64,
}

/// A segment is complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The offset before its first byte.
    pub from: u64,
    /// The offset after its last byte.
    pub to: u64,
    /// Rising in both; the last one is that of `to`. Never empty.
    pub marks: Vec<Mark>,
}

/// What came of a piece of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// So many bytes of it belong to the present segment.
    pub bytes: usize,
    /// Which ends after them.
    pub cut: Option<Cut>,
}

/// Follows one stream.
#[derive(Debug)]
pub struct Cutter {
    commands: Commands,
    every_ms: u64,
    /// Where the segment in the making begins.
    from: u64,
    /// When the first byte of it arrived, by the host's clock.
    began: Option<u64>,
    marks: Vec<Mark>,
    /// The end of the last whole command outside a transaction, and when it arrived.
    boundary: Mark,
    /// When the last bytes arrived before each of the last marks.
    arrived: VecDeque<Mark>,
    /// Time does not run backwards here, whatever the host's clock does.
    now: u64,
}

impl Cutter {
    /// From `offset`, between two commands. A segment is cut `every` so often. Nothing arrives before `floor_ms`.
    pub fn new(offset: u64, every: Duration, floor_ms: u64) -> Cutter {
        Cutter {
            commands: Commands::new(offset, HEAD),
            every_ms: every.as_millis() as u64,
            from: offset,
            began: None,
            marks: Vec::new(),
            boundary: Mark { offset, ms: 0 },
            arrived: VecDeque::new(),
            now: floor_ms,
        }
    }

    /// Takes bytes that arrived at `now_ms`, up to the end of the segment. To be called until all are taken.
    pub fn take(&mut self, input: &[u8], now_ms: u64) -> Result<Taken, Malformed> {
        self.now = self.now.max(now_ms);
        // Before more is added: what was there until now gets its mark, with the time at which it came.
        if self.marks.last().is_none_or(|last| self.now >= last.ms + MARK_MS) {
            self.mark();
        }
        self.began.get_or_insert(now_ms);
        let mut bytes = 0;
        while bytes < input.len() {
            match self.commands.next(&input[bytes..])? {
                Next::Partial => bytes = input.len(),
                Next::Command(used, command) => {
                    bytes += used;
                    if command.closes {
                        self.boundary = Mark { offset: command.end, ms: self.now };
                        if self.is_due(now_ms) {
                            return Ok(Taken { bytes, cut: self.close(self.now) });
                        }
                    }
                }
            }
        }
        Ok(Taken { bytes, cut: None })
    }

    /// Ends the segment if it is time at `now_ms` and the stream is between two commands; else [`Cutter::take`] will.
    pub fn tick(&mut self, now_ms: u64) -> Option<Cut> {
        self.now = self.now.max(now_ms);
        match self.is_due(now_ms) && self.commands.position() == self.boundary.offset {
            true => self.close(self.now),
            false => None,
        }
    }

    /// Forgets the bytes after the last whole command or transaction: the connection broke, and they will come again.
    /// Returns the offset from which they must.
    pub fn rewind(&mut self) -> u64 {
        self.commands = Commands::new(self.boundary.offset, HEAD);
        self.boundary.offset
    }

    /// Ends the segment now; `None`: it would be empty. After [`Cutter::rewind`], or the bytes of a half command would
    /// be lost between two segments.
    pub fn finish(&mut self) -> Option<Cut> {
        let at = self.boundary.ms;
        if self.commands.position() == self.boundary.offset { self.close(at) } else { None }
    }

    /// The latest moment that was given to anything.
    pub fn latest(&self) -> u64 {
        self.now
    }

    /// A moment at which everything before it is also before `offset`: the last one that is remembered.
    pub fn complete(&self, offset: u64) -> Option<u64> {
        self.arrived.iter().rev().find(|mark| mark.offset <= offset).map(|mark| mark.ms)
    }

    /// The offset after the last whole command or transaction.
    pub fn boundary(&self) -> u64 {
        self.boundary.offset
    }

    /// The offset before the first byte of the segment in the making.
    pub fn from(&self) -> u64 {
        self.from
    }

    /// By the host's clock, which may have been set back: then it is time, too.
    fn is_due(&self, now_ms: u64) -> bool {
        let Some(began) = self.began else { return false };
        now_ms.abs_diff(began) >= self.every_ms || self.boundary.offset >= self.from + SEGMENT_BYTES
    }

    fn close(&mut self, at: u64) -> Option<Cut> {
        if self.boundary.offset == self.from {
            return None;
        }
        self.mark();
        // Nothing came between the last command and this moment.
        let end = Mark { offset: self.boundary.offset, ms: at };
        if self.marks.last() != Some(&end) {
            self.marks.push(end);
        }
        self.began = None;
        let from = std::mem::replace(&mut self.from, end.offset);
        Some(Cut { from, to: end.offset, marks: std::mem::take(&mut self.marks) })
    }

    fn mark(&mut self) {
        let known = self.marks.last().map_or(self.from, |last| last.offset);
        if self.boundary.offset > known {
            self.marks.push(self.boundary);
            self.arrived.push_back(self.boundary);
            if self.arrived.len() > REMEMBERED {
                self.arrived.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(10);

    fn encode(commands: &[&[&str]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        commands.iter().for_each(|command| crate::wire::encode(&mut bytes, command));
        bytes
    }

    fn mark(offset: u64, ms: u64) -> Mark {
        Mark { offset, ms }
    }

    #[test]
    fn marks_say_when_bytes_arrived_every_100_ms() {
        let ping = encode(&[&["PING"]]);
        let mut cutter = Cutter::new(1000, EVERY, 0);
        for ms in (0..=450).step_by(10) {
            assert_eq!(cutter.take(&ping, 5_000 + ms).unwrap(), Taken { bytes: 14, cut: None });
        }
        // A long silence: what came before it keeps the time at which it came.
        assert_eq!(cutter.take(&ping, 9_000).unwrap().cut, None);
        let cut = cutter.tick(15_000).unwrap();
        assert_eq!((cut.from, cut.to), (1000, 1000 + 47 * 14));
        let at = |count: u64, ms: u64| mark(1000 + count * 14, ms);
        assert_eq!(
            cut.marks,
            [
                at(1, 5_000),
                at(10, 5_090),
                at(19, 5_180),
                at(28, 5_270),
                at(37, 5_360),
                at(46, 5_450),
                at(47, 9_000),
                at(47, 15_000)
            ]
        );
        assert_eq!(cutter.tick(30_000), None, "nothing came");
    }

    #[test]
    fn a_segment_ends_between_commands_and_never_within_a_transaction() {
        let before = encode(&[&["SET", "k", "v"]]);
        let transaction = encode(&[&["MULTI"], &["INCR", "n"], &["EXEC"]]);
        let after = encode(&[&["PING"]]);
        for split in 1..transaction.len() {
            let mut cutter = Cutter::new(0, EVERY, 0);
            assert_eq!(cutter.take(&before, 0).unwrap().cut, None);
            assert_eq!(cutter.take(&transaction[..split], 1).unwrap().cut, None);
            assert_eq!(cutter.tick(20_000), None, "within it");
            let rest = [&transaction[split..], &after].concat();
            let taken = cutter.take(&rest, 20_001).unwrap();
            assert_eq!(taken.bytes, transaction.len() - split);
            assert_eq!(taken.cut.unwrap().to, (before.len() + transaction.len()) as u64);
            assert_eq!(cutter.take(&after, 20_002).unwrap(), Taken { bytes: after.len(), cut: None });
        }
    }

    #[test]
    fn a_broken_connection_loses_nothing_and_doubles_nothing() {
        let whole = encode(&[&["SET", "k", "v"]]);
        let transaction = encode(&[&["MULTI"], &["INCR", "n"], &["EXEC"]]);
        for split in 1..transaction.len() {
            let mut cutter = Cutter::new(50, EVERY, 0);
            cutter.take(&whole, 1).unwrap();
            cutter.take(&transaction[..split], 2).unwrap();
            assert_eq!(cutter.rewind(), 50 + whole.len() as u64);
            cutter.take(&transaction, 3).unwrap();
            let cut = cutter.finish().unwrap();
            assert_eq!((cut.from, cut.to), (50, 50 + (whole.len() + transaction.len()) as u64));
            assert_eq!(cut.marks.last().unwrap().ms, 3);
        }
    }

    #[test]
    fn a_large_segment_ends_early_and_an_empty_one_never() {
        let mut cutter = Cutter::new(0, EVERY, 0);
        assert_eq!(cutter.tick(1 << 40), None);
        assert_eq!(cutter.finish(), None);
        let value = "v".repeat(1 << 20);
        let large = encode(&[&["SET", "k", &value]]);
        let mut cuts = 0;
        for _ in 0..130 {
            cuts += usize::from(cutter.take(&large, 1).unwrap().cut.is_some());
        }
        assert_eq!(cuts, 2);
    }

    #[test]
    fn a_clock_that_is_set_back_stops_no_segment_and_gives_no_earlier_moment() {
        let ping = encode(&[&["PING"]]);
        let mut cutter = Cutter::new(0, EVERY, 0);
        cutter.take(&ping, 9_000_000).unwrap();
        let cut = cutter.take(&ping, 5_400_000).unwrap().cut;
        let mut ends = vec![cut.unwrap().marks.pop().unwrap()];
        // As after a restart, and before the clock has caught up.
        let mut cutter = Cutter::new(ends[0].offset, EVERY, cutter.latest());
        for ms in [5_401_000, 5_420_000, 9_001_000] {
            cutter.take(&ping, ms).unwrap();
            ends.push(cutter.tick(ms + 10_000).unwrap().marks.pop().unwrap());
        }
        assert_eq!(ends, [mark(28, 9_000_000), mark(42, 9_000_000), mark(56, 9_000_000), mark(70, 9_011_000)]);
    }

    #[test]
    fn it_is_known_when_everything_before_an_offset_had_arrived() {
        let ping = encode(&[&["PING"]]);
        let mut cutter = Cutter::new(0, EVERY, 0);
        assert_eq!(cutter.complete(0), None);
        for ms in [1_000, 1_300, 22_000, 22_050] {
            cutter.take(&ping, ms).unwrap();
            // A quiet end of a segment does not make it later.
            cutter.tick(ms + 20_000 * u64::from(ms == 1_300));
        }
        let known: Vec<_> = [0, 14, 27, 28, 41, 42].map(|offset| cutter.complete(offset)).into();
        assert_eq!(known, [None, Some(1_000), Some(1_000), Some(1_300), Some(1_300), Some(22_000)]);
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_disturb_the_order() {
        let ping = encode(&[&["PING"]]);
        let mut cutter = Cutter::new(0, EVERY, 0);
        for ms in [1_000, 1_200, 400, 900, 1_500] {
            cutter.take(&ping, ms).unwrap();
        }
        let marks = cutter.finish().unwrap().marks;
        assert!(marks.is_sorted_by(|a, b| a.ms <= b.ms && a.offset < b.offset), "{marks:?}");
    }
}
