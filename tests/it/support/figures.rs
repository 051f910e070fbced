//! Rounds of a scenario and what was measured in them: one round in `make test`, several in `make prove`.
//!
//! A time is printed against its target and never asserted: a busy machine is not a fault of the proxy's.

use std::fmt::Write as _;
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

/// Scenarios that keep a whole machine busy take turns.
pub async fn turn() -> SemaphorePermit<'static> {
    static TURNS: Semaphore = Semaphore::const_new(1);
    TURNS.acquire().await.expect("never closed")
}

/// `SWITCHMASTER_ROUNDS`, else 1. (The harness takes the variable out of the proxy's own environment.)
pub fn rounds() -> usize {
    let rounds = std::env::var("SWITCHMASTER_ROUNDS").ok();
    rounds.map_or(1, |text| text.parse().expect("SWITCHMASTER_ROUNDS is a number of rounds"))
}

/// What was measured in the rounds of one scenario; printed as a table when dropped.
#[derive(Debug)]
pub struct Figures {
    scenario: &'static str,
    rows: Vec<Row>,
}

/// What a figure should be, at the median of the rounds.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// Nothing was promised.
    None,
    /// At most this.
    AtMost(f64),
    /// At least this.
    AtLeast(f64),
}

#[derive(Debug)]
struct Row {
    name: &'static str,
    target: Target,
    values: Vec<f64>,
}

impl Figures {
    /// The figures of a scenario.
    pub fn of(scenario: &'static str) -> Figures {
        Figures { scenario, rows: Vec::new() }
    }

    /// Adds the value of one round.
    pub fn note(&mut self, name: &'static str, target: Target, value: f64) {
        println!("{}: {name}: {}", self.scenario, shown(value));
        match self.rows.iter_mut().find(|row| row.name == name) {
            Some(row) => row.values.push(value),
            None => self.rows.push(Row { name, target, values: vec![value] }),
        }
    }

    /// The same for a time, in milliseconds.
    pub fn note_time(&mut self, name: &'static str, target: Target, value: Duration) {
        self.note(name, target, value.as_secs_f64() * 1000.0);
    }
}

impl Drop for Figures {
    fn drop(&mut self) {
        let mut table = String::new();
        for row in &self.rows {
            let mut values = row.values.clone();
            values.sort_by(f64::total_cmp);
            let (lowest, highest) = (values[0], values[values.len() - 1]);
            let median = (values[(values.len() - 1) / 2] + values[values.len() / 2]) / 2.0;
            let (target, met) = match row.target {
                Target::None => (String::new(), true),
                Target::AtMost(most) => (format!("≤ {}", shown(most)), median <= most),
                Target::AtLeast(least) => (format!("≥ {}", shown(least)), median >= least),
            };
            let verdict = if target.is_empty() { "" } else { ["MISSED", "met"][usize::from(met)] };
            let _ = writeln!(
                table,
                "| {:<24} | {:<42} | {:>6} | {:>8} | {:>8} | {:>8} | {target:>8} {verdict:<6} |",
                self.scenario,
                row.name,
                values.len(),
                shown(median),
                shown(lowest),
                shown(highest),
            );
        }
        print!("{table}");
    }
}

fn shown(value: f64) -> String {
    if value == value.trunc() { format!("{value:.0}") } else { format!("{value:.1}") }
}
