//! The checks: each a function from facts to what it has seen, with what that means and how bad it is.
//!
//! Sans-IO: no socket, no clock, no file. One row of a table for each; docs/doctor.md has the same rows, held by a test.

mod agreement;
mod laravel;
mod nodes;
mod replication;
mod sentinels;
mod settings;

use std::fmt;

use crate::facts::{NodeFacts, SetUp};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// A failover fails or never comes, or data is lost at one.
    Critical,
    /// A failover costs more than it needs to, or goes wrong together with something else.
    Warning,
    /// Could be better.
    Hint,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Critical => "critical",
            Severity::Warning => "warning",
            Severity::Hint => "hint",
        })
    }
}

/// A thing that can be wrong.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    /// Its name, which never changes.
    pub id: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What it means, in a sentence.
    pub means: &'static str,
    look: fn(&SetUp) -> Vec<Seen>,
}

/// A thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The check's name.
    pub id: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// The server, the host or the file.
    pub place: String,
    /// What was seen there.
    pub seen: String,
    /// What it means.
    pub means: &'static str,
    /// The command or the line that mends it.
    pub mend: String,
}

/// What a check has seen: where, what, and what mends it.
#[derive(Debug)]
struct Seen {
    place: String,
    seen: String,
    mend: String,
}

fn seen(place: impl fmt::Display, seen: impl Into<String>, mend: impl Into<String>) -> Seen {
    Seen { place: place.to_string(), seen: seen.into(), mend: mend.into() }
}

/// What is seen at each node that answered.
fn each_node(facts: &SetUp, look: impl Fn(&NodeFacts) -> Option<(String, String)>) -> Vec<Seen> {
    facts.alive().filter_map(|(at, node)| look(node).map(|(what, mend)| seen(at, what, mend))).collect()
}

/// Every check, in the order in which findings are shown within a severity.
pub fn all() -> impl Iterator<Item = &'static Check> {
    [sentinels::CHECKS, agreement::CHECKS, nodes::CHECKS, replication::CHECKS, settings::CHECKS, laravel::CHECKS]
        .into_iter()
        .flatten()
}

/// What is wrong, the worst first.
pub fn run(facts: &SetUp) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    for check in all() {
        let Check { id, severity, means, look } = *check;
        let found = look(facts).into_iter();
        findings.extend(found.map(|Seen { place, seen, mend }| Finding { id, severity, place, seen, means, mend }));
    }
    findings.sort_by_key(|finding| finding.severity);
    findings
}

/// The addresses, for people.
fn list<'a>(places: impl IntoIterator<Item = &'a crate::address::HostPort>) -> String {
    places.into_iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
