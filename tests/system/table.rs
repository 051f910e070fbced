//! What was seen, against what is demanded.

use std::fmt;
use std::time::Duration;

#[derive(Debug, Default)]
pub struct Table {
    scenario: &'static str,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    scenario: &'static str,
    what: String,
    seen: String,
    demanded: String,
    is_kept: bool,
}

impl Table {
    pub fn begin(&mut self, scenario: &'static str) {
        self.scenario = scenario;
    }

    pub fn has_failed(&self) -> bool {
        self.rows.iter().any(|row| !row.is_kept)
    }

    /// Demanded as `demanded` says.
    pub fn demand(&mut self, what: &str, seen: impl fmt::Display, demanded: &str, is_kept: bool) {
        let row = Row {
            scenario: self.scenario,
            what: what.into(),
            seen: seen.to_string(),
            demanded: demanded.into(),
            is_kept,
        };
        println!("    {row}");
        self.rows.push(row);
    }

    pub fn none(&mut self, what: &str, seen: usize) {
        self.demand(what, seen, "0", seen == 0);
    }

    pub fn at_least(&mut self, what: &str, seen: usize, least: usize) {
        self.demand(what, seen, &format!("at least {least}"), seen >= least);
    }

    /// Nothing is demanded.
    pub fn note(&mut self, what: &str, seen: impl fmt::Display) {
        self.demand(what, seen, "", true);
    }

    /// The median of these is at most `most`; prints lowest and highest too.
    pub fn median(&mut self, what: &str, mut times: Vec<Duration>, most: Duration) {
        times.sort();
        let Some(&median) = times.get(times.len() / 2) else { return self.demand(what, "none", "some", false) };
        let ms = |time: &Duration| time.as_millis();
        let seen = format!("{} ms ({} to {})", ms(&median), ms(&times[0]), ms(&times[times.len() - 1]));
        let is_kept = median <= most || super::is_anywhere();
        self.demand(what, seen, &format!("median at most {} ms", ms(&most)), is_kept);
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.is_kept { "" } else { "NOT KEPT" };
        write!(f, "| {:<24} | {:<46} | {:>26} | {:<24} | {verdict}", self.scenario, self.what, self.seen, self.demanded)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rows.iter().try_for_each(|row| writeln!(f, "{row}"))
    }
}
