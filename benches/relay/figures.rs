//! What was measured in rounds, and what is made of it: medians of ratios within a round, with their quartiles.
//!
//! Rounds are kept as they were measured; every ratio is computed from them when the page is written.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// One slice: requests per second, and microseconds of CPU per request of the target and of the whole machine.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Cell {
    pub rate: f64,
    pub own: f64,
    pub all: f64,
}

/// A load's rounds: what each target did in each.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rounds {
    /// Names of the targets, in their order on the page.
    pub targets: Vec<String>,
    /// Of one slice.
    pub slice_ms: u64,
    pub rounds: Vec<BTreeMap<String, Cell>>,
}

impl Rounds {
    /// `what` of one target / `what` of another, in each round.
    pub fn ratio(&self, of: &str, to: &str, what: fn(&Cell) -> f64) -> Option<Spread> {
        let pair = |cells: &BTreeMap<String, Cell>| Some(what(cells.get(of)?) / what(cells.get(to)?));
        Spread::of(self.rounds.iter().filter_map(pair))
    }

    /// The proxy's own CPU per request in µs.
    pub fn own(&self, of: &str) -> Option<Spread> {
        Spread::of(self.rounds.iter().filter_map(|cells| Some(cells.get(of)?.own)))
    }
}

/// A median with its quartiles.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub low: f64,
    pub middle: f64,
    pub high: f64,
}

impl Spread {
    /// Of these figures, without what is no number; `None` if there are none.
    pub fn of(figures: impl Iterator<Item = f64>) -> Option<Spread> {
        let mut sorted: Vec<f64> = figures.filter(|figure| figure.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        let at = |share: f64| {
            let place = share * last as f64;
            let (below, part) = (place.floor() as usize, place.fract());
            sorted[below] + part * (sorted[(below + 1).min(last)] - sorted[below])
        };
        Some(Spread { low: at(0.25), middle: at(0.5), high: at(0.75) })
    }
}

/// With as many decimals as the formatter asks for, else two.
impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = f.precision().unwrap_or(2);
        write!(f, "{:.decimals$} ({:.decimals$}–{:.decimals$})", self.middle, self.low, self.high)
    }
}
