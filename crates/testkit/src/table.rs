//! The demo's last word: a row for each phase, and whether the promise held.
//!
//! Only what was measured is shown; the judgement is one function of it.

use std::fmt;
use std::time::Duration;

use super::report::{Report, Verdict};

/// What happened in one phase.
#[derive(Clone, Debug)]
pub(super) struct Phase {
    pub(super) name: &'static str,
    pub(super) report: Report,
    /// What the then master lacked when the phase had ended.
    pub(super) verdict: Verdict,
    /// Whether replies to writes may be lost in it: a master died.
    pub(super) crash: bool,
}

/// All phases.
#[derive(Clone, Debug, Default)]
pub(super) struct Table(pub(super) Vec<Phase>);

/// The error by which the proxy says that a write's fate is unknown.
const LOST_REPLY: &str = "UNKNOWNRESULT";

impl Phase {
    pub(super) fn lost_replies(&self) -> u64 {
        self.report.errors.get(LOST_REPLY).copied().unwrap_or(0)
    }

    /// No error, no lost connection, no wrong reply, no acknowledged write missing; in a crash, lost replies are told.
    fn kept_its_promise(&self) -> bool {
        let allowed: &[&str] = if self.crash { &[LOST_REPLY] } else { &[] };
        let verdict = &self.verdict;
        // A crash can lose what the dead master had not replicated: shown, and not the proxy's doing.
        let (missing, stale) = if self.crash { (0, self.report.stale) } else { (verdict.missing, 0) };
        self.report.requests > 0
            && self.report.broken_promises(allowed) == stale
            && missing + verdict.foreign + verdict.doubled == 0
    }
}

impl Table {
    pub(super) fn kept_its_promise(&self) -> bool {
        self.0.iter().all(Phase::kept_its_promise)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heads = ["", "requests", "errors", "lost replies", "lost connections", "longest pause", "writes missing"];
        let rows: Vec<[String; 7]> = self.0.iter().map(row).collect();
        let width = |column: usize| {
            let cells = rows.iter().map(|row| row[column].len());
            cells.chain([heads[column].len()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..heads.len()).map(width).collect();
        let mut line = |cells: &[&str]| {
            write!(f, "  {:<1$}", cells[0], widths[0])?;
            cells.iter().zip(&widths).skip(1).try_for_each(|(cell, width)| write!(f, "  {cell:>width$}"))?;
            writeln!(f)
        };
        line(&heads)?;
        for row in &rows {
            line(&row.each_ref().map(String::as_str))?;
        }
        for phase in self.0.iter().filter(|phase| !phase.kept_its_promise()) {
            writeln!(f, "\n{}:\n{}{}", phase.name, phase.report, phase.verdict)?;
        }
        Ok(())
    }
}

fn row(phase: &Phase) -> [String; 7] {
    let report = &phase.report;
    let wrong = report.crossed + report.stale + report.doubled + report.hung + report.refused;
    [
        phase.name.to_owned(),
        report.requests.to_string(),
        (report.error_count() - phase.lost_replies() + wrong).to_string(),
        if phase.crash { phase.lost_replies().to_string() } else { "-".to_owned() },
        report.connections_lost.to_string(),
        pause(report.longest_pause()),
        phase.verdict.missing.to_string(),
    ]
}

/// A pause as people read it.
pub(super) fn pause(pause: Duration) -> String {
    match pause.as_micros() {
        micros @ 0..10_000 => format!("{:.1} ms", micros as f64 / 1e3),
        micros @ 10_000..1_000_000 => format!("{} ms", micros / 1_000),
        micros => format!("{:.2} s", micros as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phase(crash: bool, word: &str) -> Phase {
        let mut report = Report { requests: 10, ..Report::default() };
        report.errors.insert(word.into(), 1);
        Phase { name: "x", report, verdict: Verdict::default(), crash }
    }

    #[test]
    fn a_lost_reply_is_allowed_in_a_crash_alone() {
        assert!(phase(true, LOST_REPLY).kept_its_promise());
        assert!(!phase(false, LOST_REPLY).kept_its_promise());
        assert!(!phase(true, "READONLY").kept_its_promise());
    }

    #[test]
    fn an_acknowledged_write_that_is_missing_breaks_the_promise_of_a_planned_failover() {
        let mut planned = phase(false, "x");
        planned.report.errors.clear();
        assert!(planned.kept_its_promise());
        planned.verdict.missing = 1;
        assert!(!planned.kept_its_promise());
        assert!(Table(vec![planned]).to_string().contains("1 of 0 acknowledged"));
    }
}
