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

use crate::support::figures;
use stage::{Case, Deed, Door, play};

/// The rows of the README's table, backquotes aside.
pub const ROWS: &[&str] = &[
    row::IDLE,
    row::READ,
    row::WRITE,
    row::PART,
    row::REFUSED,
    row::BLOCKED,
    row::MULTI,
    row::EXEC,
    row::WATCH,
    row::SUBSCRIBED,
    row::HALF,
    row::LARGE,
    row::CONNECTING,
    row::DEADLINE,
    row::AUTH,
    row::OPAQUE,
];

/// What the client is doing.
mod row {
    pub const IDLE: &str = "idle, or has not sent its request";
    pub const READ: &str = "waiting for a read (GET, HGETALL, …)";
    pub const WRITE: &str = "waiting for a write (SET, INCR, a script, …)";
    pub const PART: &str = "sending a request of which a part has gone";
    pub const REFUSED: &str = "refused with -READONLY, -MASTERDOWN or -LOADING because of the failover";
    pub const BLOCKED: &str = "blocked in BLPOP, BRPOP, XREAD BLOCK, …";
    pub const MULTI: &str = "inside MULTI, before EXEC";
    pub const EXEC: &str = "waiting for EXEC";
    pub const WATCH: &str = "watching keys (WATCH)";
    pub const SUBSCRIBED: &str = "subscribed, or in MONITOR";
    pub const HALF: &str = "reading a reply that came in part";
    pub const LARGE: &str = "sending a request larger than retain_bytes (64 KiB), or waiting for its reply";
    pub const CONNECTING: &str = "connecting";
    pub const DEADLINE: &str = "still waiting after hold_timeout";
    pub const AUTH: &str = "authenticated with what the new master refuses";
    pub const OPAQUE: &str = "a replica (PSYNC), or speaking something that is not RESP";
    /// No failover, so not in the table.
    pub const CUT: &str = "cut by the server under a stable master";
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
    let _turn = figures::turn().await;
    play(Deed::Planned, Door::Tcp, FAMILIES).await;
}

#[tokio::test]
async fn a_planned_failover_that_leaves_no_replica_for_a_moment() {
    play(Deed::ShortOfReplicas, Door::Tcp, FAMILIES).await;
}

#[tokio::test]
async fn kill_9_with_replies_lost() {
    play(Deed::Crash, Door::Tcp, FAMILIES).await;
}

#[tokio::test]
async fn a_master_that_hangs() {
    play(Deed::Hang, Door::Tcp, FAMILIES).await;
}

#[tokio::test]
async fn a_demotion_that_only_refusals_tell_of() {
    play(Deed::Demotion, Door::Tcp, FAMILIES).await;
}

#[tokio::test]
async fn nobody_takes_over() {
    play(Deed::Outage, Door::Tcp, FAMILIES).await;
}

#[tokio::test]
async fn a_planned_failover_over_unix_sockets() {
    let _turn = figures::turn().await;
    play(Deed::Planned, Door::Unix, FAMILIES).await;
}

#[tokio::test]
async fn kill_9_with_replies_lost_over_unix_sockets() {
    play(Deed::Crash, Door::Unix, FAMILIES).await;
}

#[tokio::test]
async fn nobody_takes_over_over_unix_sockets() {
    play(Deed::Outage, Door::Unix, FAMILIES).await;
}

#[test]
fn every_row_has_a_case() {
    let mut rows: BTreeSet<&str> = ROWS.iter().copied().collect();
    rows.insert(row::CUT);
    let played: BTreeSet<&str> = FAMILIES.iter().copied().flatten().map(|case| case.row).collect();
    assert_eq!(rows, played);
}

#[test]
fn the_readme_has_these_rows() {
    let readme = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md"));
    let table = readme.split("<!-- contract -->").nth(1).and_then(|rest| rest.split("<!-- /contract -->").next());
    let lines = table.expect("the contract's markers").lines().filter_map(|line| line.strip_prefix('|'));
    let told: Vec<String> =
        lines.skip(2).filter_map(|line| Some(line.split('|').next()?.replace('`', "").trim().to_owned())).collect();
    assert_eq!(told, ROWS);
}
