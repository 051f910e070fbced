//! Whether a node continues our master's history, and how much of it.
//!
//! Redis names a history by `master_replid`; a promoted replica keeps the old name as `master_replid2` up to
//! `second_repl_offset − 1` (replication.c, `shiftReplicationId`). Nothing here asks or waits.

use std::collections::VecDeque;
use std::time::Instant;

use crate::sentinel::report::Info;

/// The histories that our masters have had, newest last.
#[derive(Debug, Default)]
pub struct Lineage {
    known: VecDeque<String>,
}

/// How a node's history relates to ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kinship {
    /// It was promoted out of our current master's history.
    Heir,
    /// It shares a history with one of our masters.
    Kin,
    /// Nothing in common is known: perhaps failovers were missed, perhaps it is another cluster.
    Unknown,
}

impl Lineage {
    /// Remembers the history of a verified master.
    pub fn remember(&mut self, replid: &str) {
        if self.known.back().is_some_and(|last| last == replid) {
            return;
        }
        self.known.retain(|known| known != replid);
        self.known.push_back(replid.to_owned());
        if self.known.len() > 16 {
            self.known.pop_front();
        }
    }

    /// The names of the histories, newest last.
    pub fn known(&self) -> impl Iterator<Item = &str> {
        self.known.iter().map(String::as_str)
    }

    /// Judges a node that says it is a master.
    pub fn kinship(&self, info: &Info) -> Kinship {
        let current = self.known.back();
        if current.is_some() && info.replid2.as_ref() == current {
            return Kinship::Heir;
        }
        let ours = |replid: &String| self.known.contains(replid);
        if ours(&info.replid) || info.replid2.as_ref().is_some_and(ours) { Kinship::Kin } else { Kinship::Unknown }
    }
}

/// The old master's offsets with the instants they were asked for, oldest first. Each has a number, which no other gets
/// as long as we run; number 1 is none.
#[derive(Debug)]
pub struct Samples {
    taken: VecDeque<(Instant, u64)>,
    newest: u64,
}

impl Default for Samples {
    fn default() -> Samples {
        Samples { taken: VecDeque::new(), newest: 1 }
    }
}

impl Samples {
    /// Forgets all: another process, or another master.
    pub fn clear(&mut self) {
        self.taken.clear();
    }

    /// Adds what ROLE has just answered to a question sent at `asked`; returns the number of this sample.
    pub fn add(&mut self, asked: Instant, offset: u64) -> u64 {
        if self.taken.len() == 4096 {
            self.taken.pop_front();
        }
        self.taken.push_back((asked, offset));
        self.newest += 1;
        self.newest
    }

    /// The newest sample.
    pub fn last(&self) -> Option<(Instant, u64)> {
        self.taken.back().copied()
    }

    /// The latest instant before which every reply is surely on the node whose `second_repl_offset` this is: a
    /// reply received before a question was sent was executed before that question was answered.
    pub fn replicated_until(&self, second_offset: u64) -> Option<Instant> {
        let covered = second_offset.checked_sub(1)?;
        self.taken.iter().rev().find(|(_, offset)| *offset <= covered).map(|(asked, _)| *asked)
    }

    /// The number of the earliest sample at which the old master had written all that the node with this
    /// `second_repl_offset` has of its stream: what is executed after it arrived is not on that node.
    pub fn diverged_from(&self, second_offset: u64) -> Option<u64> {
        let last = second_offset.checked_sub(1)?;
        let behind = self.taken.iter().rev().take_while(|(_, offset)| *offset >= last).count() as u64;
        (behind > 0).then(|| self.newest - (behind - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn info(replid: &str, replid2: Option<&str>) -> Info {
        Info { replid: replid.into(), replid2: replid2.map(Into::into), ..Info::default() }
    }

    #[test]
    fn an_heir_names_the_current_history_as_its_second() {
        let mut lineage = Lineage::default();
        assert_eq!(lineage.kinship(&info("b", Some("a"))), Kinship::Unknown);
        lineage.remember("a");
        lineage.remember("b");
        assert_eq!(lineage.kinship(&info("c", Some("b"))), Kinship::Heir);
        assert_eq!(lineage.kinship(&info("c", Some("a"))), Kinship::Kin);
        assert_eq!(lineage.kinship(&info("b", None)), Kinship::Kin);
        assert_eq!(lineage.kinship(&info("x", Some("y"))), Kinship::Unknown);
    }

    #[test]
    fn replies_before_the_latest_covered_sample_are_replicated() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut samples = Samples::default();
        assert_eq!(samples.replicated_until(101), None);
        samples.add(at(0), 90);
        samples.add(at(5), 100);
        samples.add(at(10), 101);
        assert_eq!(samples.replicated_until(101), Some(at(5)), "second_repl_offset is the first offset not covered");
        assert_eq!(samples.replicated_until(102), Some(at(10)));
        assert_eq!(samples.replicated_until(50), None);
        assert_eq!(samples.replicated_until(0), None);
    }

    #[test]
    fn what_is_sent_after_the_last_common_byte_was_seen_is_not_on_the_new_master() {
        let start = Instant::now();
        let mut samples = Samples::default();
        assert_eq!(samples.diverged_from(101), None);
        let numbers: Vec<u64> = [90, 100, 100, 105].map(|offset| samples.add(start, offset)).into();
        assert!(numbers[0] > 1 && numbers.is_sorted_by(|a, b| a < b));
        assert_eq!(samples.diverged_from(101), Some(numbers[1]), "100 is the last byte that is covered");
        assert_eq!(samples.diverged_from(104), Some(numbers[3]));
        assert_eq!(samples.diverged_from(107), None, "it has more than we ever saw");
        assert_eq!(samples.diverged_from(0), None);
        samples.clear();
        assert_eq!(samples.diverged_from(101), None);
        assert!(samples.add(start, 1) > numbers[3], "no number is given twice");
    }
}
