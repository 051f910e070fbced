//! Stretches of time: the moments that can be reached, and those that no longer can.
//!
//! Sans-IO, like the timeline of which they tell. Times in milliseconds since 1970; both ends belong to a stretch.

use std::fmt;

use serde::{Serialize, Serializer};

use super::restore_point::RestorePoint;

/// As many are shown; of more, the newest.
const SHOWN: usize = 12;

/// Apart from each other, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// Of any that may overlap.
    pub fn new(mut all: Vec<(u64, u64)>) -> Ranges {
        all.sort_unstable();
        let mut apart: Vec<(u64, u64)> = Vec::new();
        for (begin, end) in all {
            match apart.last_mut() {
                Some(last) if begin <= last.1 => last.1 = last.1.max(end),
                _ => apart.push((begin, end)),
            }
        }
        Ranges(apart)
    }

    /// There is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What of these is not in `others`. Single moments go untold: they are those of backups.
    pub fn without(&self, others: &Ranges) -> Ranges {
        let mut left = Vec::new();
        for &(mut begin, end) in &self.0 {
            for &(from, to) in &others.0 {
                if begin <= to && from <= end {
                    left.push((begin, from));
                    begin = to;
                }
            }
            left.push((begin, end));
        }
        left.retain(|(begin, end)| begin < end);
        Ranges(left)
    }
}

impl fmt::Display for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let earlier = self.0.len().saturating_sub(SHOWN);
        if earlier > 0 {
            write!(f, "{earlier} earlier stretches, ")?;
        }
        for (index, &(begin, end)) in self.0[earlier..].iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            match begin == end {
                true => write!(f, "{comma}{}", RestorePoint(begin))?,
                false => write!(f, "{comma}{} to {}", RestorePoint(begin), RestorePoint(end))?,
            }
        }
        Ok(())
    }
}

impl Serialize for Ranges {
    /// Pairs of moments.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = |ms| RestorePoint(ms).to_string();
        serializer.collect_seq(self.0.iter().map(|&(begin, end)| [text(begin), text(end)]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(all: &[(u64, u64)]) -> Ranges {
        Ranges::new(all.to_vec())
    }

    #[test]
    fn what_overlaps_or_touches_is_one() {
        let all = [(50, 60), (10, 20), (20, 30), (12, 15), (70, 70), (55, 58)];
        assert_eq!(ranges(&all).0, [(10, 30), (50, 60), (70, 70)]);
        assert!(ranges(&[]).is_empty());
    }

    #[test]
    fn what_others_do_not_have_is_left() {
        let all = ranges(&[(10, 30), (50, 60), (70, 70)]);
        assert_eq!(all.without(&all).0, []);
        assert_eq!(all.without(&ranges(&[])).0, [(10, 30), (50, 60)]);
        assert_eq!(all.without(&ranges(&[(20, 30)])).0, [(10, 20), (50, 60)]);
        assert_eq!(all.without(&ranges(&[(10, 12), (15, 15), (20, 55)])).0, [(12, 15), (15, 20), (55, 60)]);
        assert_eq!(all.without(&ranges(&[(0, 100)])).0, []);
    }

    #[test]
    fn the_newest_are_shown() {
        let day = 86_400_000;
        assert_eq!(
            ranges(&[(0, 1_500), (day, day)]).to_string(),
            "1970-01-01T00:00:00.000Z to 1970-01-01T00:00:01.500Z, 1970-01-02T00:00:00.000Z"
        );
        let many = ranges(&(0..20).map(|at| (at * day, at * day)).collect::<Vec<_>>()).to_string();
        assert!(many.starts_with("8 earlier stretches, 1970-01-09T"), "{many}");
        assert_eq!(
            serde_json::to_string(&ranges(&[(0, 7)])).unwrap(),
            "[[\"1970-01-01T00:00:00.000Z\",\"1970-01-01T00:00:00.007Z\"]]"
        );
    }
}
