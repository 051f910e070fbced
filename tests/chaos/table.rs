//! What a run saw, by kind of fault.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::history::Findings;
use super::schedule::Kind;

/// All faults of a run.
#[derive(Debug, Default)]
pub struct Table(Vec<Row>);

/// One fault.
#[derive(Debug)]
pub struct Row {
    /// What.
    pub kind: Kind,
    /// What was seen.
    pub findings: Findings,
    /// Promises broken.
    pub violations: usize,
    /// Bytes of the old master's stream that the new one did not inherit.
    pub gap: Option<i64>,
}

impl Table {
    /// Adds a fault.
    pub fn add(&mut self, row: Row) {
        self.0.push(row);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<22} {:>5} {:>8} {:>6} {:>13} {:>7} {:>7} {:>7} {:>5} {:>10} {:>6}  errors",
            "fault",
            "count",
            "requests",
            "cut",
            "stall med/max",
            "missing",
            "doubled",
            "crossed",
            "stale",
            "gap max",
            "broken"
        )?;
        let mut kinds: BTreeMap<Kind, Vec<&Row>> = BTreeMap::new();
        for row in &self.0 {
            kinds.entry(row.kind).or_default().push(row);
        }
        for (kind, rows) in kinds {
            let sum = |of: fn(&Findings) -> u64| rows.iter().map(|row| of(&row.findings)).sum::<u64>();
            let mut stalls: Vec<Duration> = rows.iter().map(|row| row.findings.longest).collect();
            stalls.sort();
            let mut errors: BTreeMap<&str, u64> = BTreeMap::new();
            for (word, count) in rows.iter().flat_map(|row| &row.findings.errors) {
                *errors.entry(word).or_default() += count;
            }
            let errors: Vec<String> = errors.iter().map(|(word, count)| format!("{count} {word}")).collect();
            writeln!(
                f,
                "{:<22} {:>5} {:>8} {:>6} {:>6}/{:<6} {:>7} {:>7} {:>7} {:>5} {:>10} {:>6}  {}",
                kind.name(),
                rows.len(),
                sum(|seen| seen.operations),
                sum(|seen| seen.cut),
                stalls[stalls.len() / 2].as_millis(),
                stalls[stalls.len() - 1].as_millis(),
                sum(|seen| seen.missing.len() as u64),
                sum(|seen| seen.doubled),
                sum(|seen| seen.crossed),
                sum(|seen| seen.stale),
                rows.iter().filter_map(|row| row.gap).max().map_or("-".into(), |gap| format!("{gap} B")),
                rows.iter().map(|row| row.violations).sum::<usize>(),
                errors.join(", "),
            )?;
        }
        Ok(())
    }
}
