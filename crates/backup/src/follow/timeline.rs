//! What can be restored: which base and which segments lead to a restore point, and which points are unreachable.
//!
//! Sans-IO: a list of bases and one of segments in, a plan or a refusal out. Every backup is a base of the segments
//! that go on from its place in the same history, whoever made it; that is all that ties the two together.

use std::collections::BTreeMap;
use std::fmt;

use super::cutter::Mark;
use super::ranges::Ranges;
use super::restore_point::RestorePoint;
use super::segment::{self, Name};
use crate::Manifest;

/// A backup, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// Its id.
    pub id: String,
    /// When it was begun, in milliseconds since 1970.
    pub ms: u64,
    /// The replication ID of its data.
    pub replid: String,
    /// Its place in that history.
    pub offset: u64,
}

/// A segment in the store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stored {
    /// The stream, by the name of its folder.
    pub stream: String,
    /// The segment.
    pub name: Name,
}

/// All that is stored for one master.
#[derive(Debug)]
pub struct Timeline {
    /// By age, the oldest first.
    bases: Vec<Base>,
    /// By age of their ends, the oldest first.
    runs: Vec<Run>,
}

/// Segments without a gap.
#[derive(Debug)]
struct Run {
    stream: String,
    /// By offset; what the clock said does not matter.
    segments: Vec<Name>,
    /// What a failover threw away of them: one, or the same told again.
    discarded: Vec<Name>,
}

/// How to get somewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Begin with this one.
    pub base: Base,
    /// Then these, from the base's offset on; none: the base is all.
    pub segments: Vec<Stored>,
    /// But nothing after this offset: a failover threw it away.
    pub survives: u64,
}

/// Why there is no way. Times in milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no backup.
    NoBase,
    /// Before the oldest base.
    TooEarly {
        /// When that was begun.
        oldest: u64,
    },
    /// After what was shipped.
    TooLate {
        /// The last moment that can be reached.
        last: u64,
    },
    /// In a time of which nothing was shipped.
    Gap {
        /// The last moment before it.
        before: u64,
        /// The first one after it.
        after: u64,
    },
    /// A failover threw away what was written then.
    Discarded {
        /// The last moment before that.
        before: u64,
        /// The first one after it, if there is one.
        after: Option<u64>,
    },
}

/// A place in a stream where segments were, and are not any more: a stream has no gaps of its own, and `prune` deletes only
/// from its beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hole {
    /// The stream, by the name of its folder.
    pub stream: String,
    /// The offset before the first byte that is missing.
    pub from: u64,
    /// The offset after the last one.
    pub to: u64,
    /// The moments that cannot be restored because of that.
    pub lost: Ranges,
}

impl Timeline {
    /// Of everything that is stored, in any order.
    pub fn new(mut bases: Vec<Base>, stored: Vec<Stored>) -> Timeline {
        let runs = runs(stored);
        bases.retain(|base| !runs.iter().any(|run| run.threw_away(base)));
        for base in &mut bases {
            // Whatever the clock said when it was made: it has bytes that came later than these.
            let earlier = runs.iter().filter(|run| run.has(base)).filter_map(|run| run.before(base.offset)).max();
            base.ms = base.ms.max(earlier.unwrap_or_default());
        }
        bases.sort_by_key(|base| (base.ms, base.offset));
        Timeline { bases, runs }
    }

    /// Only this base is to be used.
    pub fn only(mut self, id: &str) -> Timeline {
        self.bases.retain(|base| base.id == id);
        self
    }

    /// The way to the state at `ms`: up to the segment in which it lies.
    pub fn to(&self, ms: u64) -> Result<Plan, Refusal> {
        let reaches: Vec<(&Base, Option<&Run>, u64)> = self.reaches().collect();
        let chosen = reaches.iter().rev().find(|(base, _, end)| base.ms <= ms && ms <= *end);
        let Some((base, run, _)) = chosen else {
            let before = reaches.iter().filter(|(base, ..)| base.ms <= ms).max_by_key(|(.., end)| *end);
            let cut = before.and_then(|(_, run, _)| *run).is_some_and(|run| !run.discarded.is_empty());
            let before = before.map(|(.., end)| *end);
            let after = reaches.iter().map(|(base, ..)| base.ms).find(|&begin| begin > ms);
            return Err(match (before, after) {
                (None, None) => Refusal::NoBase,
                (None, Some(oldest)) => Refusal::TooEarly { oldest },
                (Some(before), after) if cut => Refusal::Discarded { before, after },
                (Some(last), None) => Refusal::TooLate { last },
                (Some(before), Some(after)) => Refusal::Gap { before, after },
            });
        };
        let mut segments = Vec::new();
        for segment in run.iter().flat_map(|run| run.after(base.offset)) {
            // One that ends right then does not end it: after a clock was set back, more than one has the same moment.
            let last = segment.name.end_ms > ms;
            segments.push(segment);
            if last {
                break;
            }
        }
        Ok(Plan { base: (*base).clone(), segments, survives: run.map_or(u64::MAX, Run::survives) })
    }

    /// The way to `offset`, a place in the stream where `segment` lies. `None`: no base comes before it.
    pub fn until(&self, segment: &Stored, offset: u64) -> Option<Plan> {
        let run = self.run_of(segment)?;
        let base = self.bases.iter().rev().find(|base| run.has(base) && base.offset <= offset)?;
        let segments = run.after(base.offset).take_while(|segment| segment.name.from < offset && base.offset < offset);
        let segments = segments.collect();
        Some(Plan { base: base.clone(), segments, survives: run.survives() })
    }

    /// The moments that can be reached.
    pub fn ranges(&self) -> Ranges {
        Ranges::new(self.reaches().map(|(base, _, end)| (base.ms, end)).collect())
    }

    /// Where segments are missing, and moments with them. What is missing at a stream's end is not seen: it may never have
    /// been there.
    pub fn holes(&self) -> Vec<Hole> {
        let reachable = self.ranges();
        let hole = |run: &Run, from, since| {
            let lost = Ranges::new(vec![(since, run.latest().max(since))]).without(&reachable);
            (!lost.is_empty()).then(|| Hole { stream: run.stream.clone(), from, to: run.from(), lost })
        };
        let mut streams: BTreeMap<&str, Vec<&Run>> = BTreeMap::new();
        for run in &self.runs {
            streams.entry(&run.stream).or_default().push(run);
        }
        let mut holes = Vec::new();
        for (stream, mut runs) in streams {
            runs.sort_by_key(|run| run.from());
            // Before the first one: the bases whose segments they were are there still.
            if let (Some(first), Some((begin, replid))) = (runs.first(), segment::begins(stream)) {
                let bases = self.bases.iter().filter(|base| base.replid.starts_with(replid));
                let of_hole = |base: &&Base| (begin..first.from()).contains(&base.offset);
                let base = bases.filter(of_hole).min_by_key(|base| base.offset);
                holes.extend(base.and_then(|base| hole(first, base.offset, base.ms)));
            }
            holes.extend(runs.windows(2).filter_map(|pair| hole(pair[1], pair[0].to(), pair[0].latest())));
        }
        holes
    }

    /// The last segment of all.
    pub fn last(&self) -> Option<Stored> {
        let run = self.runs.last()?;
        Some(run.stored(run.segments.last()?))
    }

    /// The latest moment that any segment has.
    pub fn latest(&self) -> u64 {
        self.runs.iter().map(Run::latest).max().unwrap_or_default()
    }

    /// The offset up to which a segment was not thrown away.
    pub fn survives(&self, segment: &Stored) -> u64 {
        self.run_of(segment).map_or(u64::MAX, Run::survives)
    }

    /// The newest base of the run in which `segment` lies.
    pub fn newest_base(&self, segment: &Stored) -> Option<&Base> {
        let run = self.run_of(segment)?;
        self.bases.iter().rev().find(|base| run.has(base))
    }

    /// The segments that come after a base, the newest first.
    pub fn newest_first(&self) -> impl Iterator<Item = Stored> {
        self.runs.iter().rev().flat_map(|run| {
            let first = self.bases.iter().filter(|base| run.has(base)).map(|base| base.offset).min();
            let mut segments: Vec<Stored> = first.into_iter().flat_map(|first| run.after(first)).collect();
            segments.reverse();
            segments
        })
    }

    /// The segments that come after a base, and what says that a failover threw some of them away.
    pub fn needed(&self) -> Vec<Stored> {
        let of_run = |run: &Run| {
            let first = self.bases.iter().filter(|base| run.has(base)).map(|base| base.offset).min()?;
            let discarded = run.discarded.iter().map(|name| run.stored(name));
            Some(discarded.chain(run.after(first)).collect::<Vec<_>>())
        };
        self.runs.iter().filter_map(of_run).flatten().collect()
    }

    /// The segments that are of no use: before the oldest base of their run, or of a run that has none and is not the
    /// one that is being written. Without any base nothing is called useless.
    pub fn useless(&self) -> Vec<Stored> {
        let mut found = Vec::new();
        if self.bases.is_empty() {
            return found;
        }
        for (index, run) in self.runs.iter().enumerate() {
            let first = self.bases.iter().filter(|base| run.has(base)).map(|base| base.offset).min();
            let newest = index + 1 == self.runs.len();
            let needless = run.segments.iter().filter(|name| first.map_or(!newest, |first| name.to <= first));
            let count = found.len();
            found.extend(needless.map(|name| run.stored(name)));
            if found.len() - count == run.segments.len() {
                found.extend(run.discarded.iter().map(|name| run.stored(name)));
            }
        }
        found
    }

    fn run_of(&self, segment: &Stored) -> Option<&Run> {
        self.runs.iter().find(|run| run.stream == segment.stream && run.segments.contains(&segment.name))
    }

    /// Each base with the segments that go on from it, and the last moment that they reach.
    fn reaches(&self) -> impl DoubleEndedIterator<Item = (&Base, Option<&Run>, u64)> {
        self.bases.iter().map(|base| {
            let run = self.runs.iter().filter(|run| run.has(base)).max_by_key(|run| run.reached());
            let end = run.map_or(base.ms, |run| run.reached().max(base.ms));
            (base, run, end)
        })
    }
}

impl Plan {
    /// Where to stop for the state at `ms`, given the marks of its last segment; and the moment that this is.
    pub fn stop(&self, ms: u64, marks: impl DoubleEndedIterator<Item = Mark>) -> Mark {
        let base = Mark { offset: self.base.offset, ms: self.base.ms };
        let before = match &self.segments[..] {
            [.., before, _] => Mark { offset: before.name.to, ms: before.name.end_ms },
            _ => base,
        };
        let stop = marks.rev().find(|mark| mark.ms <= ms && mark.offset <= self.survives).unwrap_or(before);
        // What its replica had already received when a base began is part of it.
        if stop.offset <= base.offset { base } else { stop }
    }
}

impl Run {
    fn from(&self) -> u64 {
        self.segments.first().map_or(0, |first| first.from)
    }

    fn to(&self) -> u64 {
        self.segments.last().map_or(0, |last| last.to)
    }

    /// The latest moment of its segments. The last one may have an earlier one: a clock can be set back.
    fn latest(&self) -> u64 {
        self.segments.iter().map(|name| name.end_ms).max().unwrap_or_default()
    }

    /// The last moment at which it has everything that was not thrown away later.
    fn reached(&self) -> u64 {
        let Some(first) = self.discarded.first() else { return self.latest() };
        let whole = self.segments.iter().filter(|name| name.to < first.from);
        whole.chain(&self.discarded).map(|name| name.end_ms).max().unwrap_or_default().min(self.latest())
    }

    /// The offset after which everything was thrown away.
    fn survives(&self) -> u64 {
        self.discarded.first().map_or(u64::MAX, |name| name.from)
    }

    fn threw_away(&self, base: &Base) -> bool {
        base.offset > self.survives() && self.discarded.iter().any(|name| name.replid == base.replid)
    }

    /// A moment by which something before `offset` had not arrived: the latest one known.
    fn before(&self, offset: u64) -> Option<u64> {
        let begin = segment::begin_ms(&self.stream).filter(|_| self.from() < offset);
        let ends = self.segments.iter().filter(|name| name.to < offset).map(|name| name.end_ms);
        ends.chain(begin).max()
    }

    /// Whether the base's place is in this run: an ID and an offset name one place in one history.
    fn has(&self, base: &Base) -> bool {
        let around = |name: &&Name| name.from <= base.offset && base.offset <= name.to;
        self.segments.iter().filter(around).any(|name| name.replid == base.replid)
    }

    fn after(&self, offset: u64) -> impl Iterator<Item = Stored> {
        let needed = move |name: &&Name| name.to > offset && name.from < self.survives();
        self.segments.iter().filter(needed).map(|name| self.stored(name))
    }

    fn stored(&self, name: &Name) -> Stored {
        Stored { stream: self.stream.clone(), name: name.clone() }
    }
}

/// The oldest end first. What is there twice, as after a second follower, is used once.
fn runs(stored: Vec<Stored>) -> Vec<Run> {
    let mut streams: BTreeMap<String, Vec<Name>> = BTreeMap::new();
    for Stored { stream, name } in stored {
        streams.entry(stream).or_default().push(name);
    }
    let mut runs: Vec<Run> = Vec::new();
    for (stream, mut names) in streams {
        names.sort();
        let (discarded, names) = names.into_iter().partition::<Vec<_>, _>(|name| name.discarded);
        let begin = || Run { stream: stream.clone(), segments: Vec::new(), discarded: Vec::new() };
        let mut run = begin();
        for name in names {
            match run.to() {
                _ if run.segments.is_empty() => {}
                to if name.to <= to && name.from >= run.from() => continue,
                to if name.from <= to => {}
                _ => runs.push(std::mem::replace(&mut run, begin())),
            }
            run.segments.push(name);
        }
        // No stream goes on after it.
        run.discarded = discarded;
        runs.push(run);
    }
    runs.sort_by_cached_key(Run::latest);
    runs
}

impl From<&Manifest> for Base {
    fn from(manifest: &Manifest) -> Base {
        Base {
            id: manifest.id.clone(),
            ms: manifest.created.as_millisecond().max(0) as u64,
            replid: manifest.source.replid.clone(),
            offset: manifest.source.offset,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::NoBase => f.write_str("the store has no backup"),
            Refusal::TooEarly { oldest } => write!(f, "the oldest backup is of {}", RestorePoint(*oldest)),
            Refusal::TooLate { last } => write!(
                f,
                "the last moment that was shipped is {} (`backup follow` ships what changes after a backup)",
                RestorePoint(*last)
            ),
            Refusal::Gap { before, after } => write!(
                f,
                "nothing was shipped of the time between {} and {}: choose one of the two",
                RestorePoint(*before),
                RestorePoint(*after)
            ),
            Refusal::Discarded { before, after } => {
                write!(
                    f,
                    "the failover right after {0} threw away what was written then: choose {0}",
                    RestorePoint(*before)
                )?;
                match after {
                    Some(after) => write!(f, " or {}, the first moment of the new stream", RestorePoint(*after)),
                    None => f.write_str(", or wait for the first backup of the new stream"),
                }
            }
        }
    }
}

impl fmt::Display for Hole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Hole { stream, from, to, lost } = self;
        write!(f, "{stream}: the segments from offset {from} to {to}; moments that cannot be restored: {lost}")
    }
}

#[cfg(test)]
mod tests;
