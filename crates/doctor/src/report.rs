//! What the findings look like: text for people, grouped by severity, and JSON.
//!
//! Nothing that a server said reaches a terminal with control characters in it.

use std::fmt::Write as _;

use serde_json::json;

use crate::check::{Finding, Severity};
use crate::facts::SetUp;

/// Text for people: what was asked, then each finding with what mends it.
pub fn text(facts: &SetUp, findings: &[Finding], notes: &[String]) -> String {
    let (sentinels, nodes) = (facts.heard().count(), facts.alive().count());
    let mut out = format!(
        "{}: {sentinels} of {} Sentinels and {nodes} of {} nodes answered\n",
        facts.name,
        facts.sentinels.len(),
        facts.nodes.len()
    );
    for severity in [Severity::Critical, Severity::Warning, Severity::Hint] {
        let of_this: Vec<&Finding> = findings.iter().filter(|finding| finding.severity == severity).collect();
        if of_this.is_empty() {
            continue;
        }
        let _ = write!(out, "\n{} ({})\n", severity.to_string().to_uppercase(), of_this.len());
        let mut last = "";
        for finding in of_this {
            if finding.id != last {
                let _ = writeln!(out, "  {}: {}", finding.id, finding.means);
                last = finding.id;
            }
            let _ = writeln!(out, "    {}: {}\n      mend: {}", finding.place, finding.seen, finding.mend);
        }
    }
    if !notes.is_empty() {
        let _ = write!(out, "\nNOT READ, so not checked\n");
        notes.iter().for_each(|note| _ = writeln!(out, "  {note}"));
    }
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let _ = match findings.len() {
        0 => writeln!(out, "\nnothing found"),
        all => writeln!(
            out,
            "\n{all} findings: {} critical, {} warnings, {} hints; docs/doctor.md has more on each",
            count(Severity::Critical),
            count(Severity::Warning),
            count(Severity::Hint)
        ),
    };
    printable(&out)
}

/// The commands and lines alone, each with where it belongs; nothing is done.
pub fn fixes(findings: &[Finding]) -> String {
    let mut out = String::new();
    for finding in findings {
        let _ = writeln!(out, "# {}: {} ({})\n{}", finding.place, finding.seen, finding.id, finding.mend);
    }
    printable(&out)
}

/// One object: `master_name`, `findings` (each `id`, `severity`, `where`, `seen`, `means`, `mend`), `not_read`.
pub fn json(facts: &SetUp, findings: &[Finding], notes: &[String]) -> String {
    let findings: Vec<_> = findings
        .iter()
        .map(|finding| {
            json!({
                "id": finding.id, "severity": finding.severity.to_string(), "where": finding.place,
                "seen": finding.seen, "means": finding.means, "mend": finding.mend,
            })
        })
        .collect();
    let asked = |all: usize, heard: usize| json!({ "known": all, "answered": heard });
    let whole = json!({
        "master_name": facts.name,
        "master": facts.master_at().map(|at| at.to_string()),
        "sentinels": asked(facts.sentinels.len(), facts.heard().count()),
        "nodes": asked(facts.nodes.len(), facts.alive().count()),
        "findings": findings,
        "not_read": notes,
    });
    format!("{whole:#}\n")
}

fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '?' } else { c }).collect()
}
