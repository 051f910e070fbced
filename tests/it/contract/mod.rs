//! The contract of a session at failover, row by row, on real servers.
//!
//! Every case belongs to a row and plays in each situation that the row speaks of, in RESP2 and RESP3; all cases of a
//! situation share one cluster and one failover. Each prints its row, its name and its outcome.

mod blocking;
mod client;
mod endings;
mod policies;
mod pubsub;
mod requests;
mod stage;
mod state;
mod transactions;

use std::collections::BTreeSet;

use stage::{Case, Deed, play};

/// The rows, as the README tells users of them.
pub const ROWS: &[&str] = &[
    row::IDLE,
    row::UNSENT,
    row::PLANNED,
    row::REFUSED,
    row::READ,
    row::WRITE,
    row::EXEC,
    row::MULTI,
    row::WATCH,
    row::SUBSCRIBED,
    row::HALF,
    row::OPAQUE,
    row::DEADLINE,
    row::BLOCKED_PLANNED,
    row::DEADLINE_BLOCKED,
    row::CUT,
];

/// What the session is doing.
mod row {
    pub const IDLE: &str = "idle";
    pub const UNSENT: &str = "sending a request that was not yet wholly sent on";
    pub const PLANNED: &str = "waiting for a reply: planned";
    pub const REFUSED: &str = "waiting, and the reply was -READONLY, -MASTERDOWN, -LOADING, -UNBLOCKED, -REDIRECT, \
         -EXECABORT because of those";
    pub const READ: &str = "waiting for a read or a blocking pop, master died";
    pub const WRITE: &str = "waiting for a write, master died";
    pub const EXEC: &str = "EXEC sent, reply lost";
    pub const MULTI: &str = "in MULTI, before EXEC";
    pub const WATCH: &str = "under WATCH";
    pub const SUBSCRIBED: &str = "subscribed";
    pub const HALF: &str = "half a reply delivered";
    pub const OPAQUE: &str = "opaque (PSYNC, unparsable, tracking given up)";
    pub const DEADLINE: &str = "held past the deadline";
    pub const BLOCKED_PLANNED: &str = "blocked in a pop, planned";
    pub const DEADLINE_BLOCKED: &str = "in EXEC or a blocking pop at the deadline";
    pub const CUT: &str = "cut by the server under a stable master (CLIENT KILL, timeout)";
}

/// What ends, or does not end, whatever the deed.
const ANY: &[Deed] = &[Deed::Planned, Deed::Crash, Deed::Hang, Deed::Demotion];
const DEATH: &[Deed] = &[Deed::Crash, Deed::Hang];

const FAMILIES: &[&[Case]] = &[
    requests::CASES,
    transactions::CASES,
    blocking::CASES,
    pubsub::CASES,
    state::CASES,
    policies::CASES,
    endings::CASES,
];

#[tokio::test]
async fn a_planned_failover() {
    play(Deed::Planned, FAMILIES).await;
}

#[tokio::test]
async fn a_planned_failover_that_leaves_no_replica_for_a_moment() {
    play(Deed::ShortOfReplicas, FAMILIES).await;
}

#[tokio::test]
async fn kill_9_with_replies_lost() {
    play(Deed::Crash, FAMILIES).await;
}

#[tokio::test]
async fn a_master_that_hangs() {
    play(Deed::Hang, FAMILIES).await;
}

#[tokio::test]
async fn a_demotion_that_only_refusals_tell_of() {
    play(Deed::Demotion, FAMILIES).await;
}

#[tokio::test]
async fn nobody_takes_over() {
    play(Deed::Outage, FAMILIES).await;
}

#[test]
fn every_row_has_a_case_and_every_case_a_row() {
    let rows: BTreeSet<&str> = ROWS.iter().copied().collect();
    let played: BTreeSet<&str> = FAMILIES.iter().copied().flatten().map(|case| case.row).collect();
    assert_eq!(rows, played);
}

/// The table between the markers, if the README has one, lists exactly these rows.
#[test]
fn the_readme_tells_of_these_rows() {
    const MARKER: &str = "<!-- contract -->";
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap_or_default();
    let Some(table) = readme.split(MARKER).nth(1) else { return };
    let told: BTreeSet<String> = table
        .lines()
        .filter_map(|line| line.trim().strip_prefix('|')?.split('|').next())
        .map(|cell| cell.replace('`', "").trim().to_owned())
        .filter(|cell| !cell.is_empty() && !cell.starts_with("---"))
        .skip(1)
        .collect();
    let rows: BTreeSet<String> = ROWS.iter().map(|row| (*row).to_owned()).collect();
    assert_eq!(told, rows, "the first column between the {MARKER} markers");
}
