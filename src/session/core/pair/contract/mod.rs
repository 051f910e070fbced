//! The contract of a session at failover, row by row, as `tests/it/contract` plays it on real servers.
//!
//! Each case has a stage of its own, so that it fails alone, and is played in each situation that its row speaks of, in
//! RESP2 and RESP3, with bytes in one piece and in pieces.

mod blocking;
mod endings;
mod policies;
mod requests;
mod state;
mod transactions;

use std::collections::BTreeSet;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::dice::{Dice, Flow};
use super::server::Role;
use super::stage::Stage;
use super::world::Act;

/// The rows of the README's table, backquotes aside.
const ROWS: &[&str] = &[
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

const UNKNOWN: &str = "-UNKNOWNRESULT the master failed over before it replied; the command may or may not have run";

/// What happens to the master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    /// `SENTINEL FAILOVER`, and the old master lives.
    Planned,
    /// What is outstanding runs and is replicated, its replies are lost, then kill -9.
    Crash,
    /// SIGSTOP: nothing outstanding runs, no connection is closed. Something else ran last of which nobody knows.
    Hang,
    /// The node becomes a replica, and only its refusals tell of it.
    Demotion,
    /// As `Crash`, and nobody takes over.
    Outage,
    /// As `Planned`, and the new master refuses writes while it has no replica.
    ShortOfReplicas,
}

const ANY: &[Deed] = &[Deed::Planned, Deed::Crash, Deed::Hang, Deed::Demotion];
const DEATH: &[Deed] = &[Deed::Crash, Deed::Hang];

struct Case {
    row: &'static str,
    name: &'static str,
    deeds: &'static [Deed],
    play: fn(&mut Scene),
}

/// The table of a family: `row, deeds, function;` each.
macro_rules! cases {
    ($($row:expr, $deeds:expr, $play:ident;)*) => {
        pub(super) const CASES: &[super::Case] =
            &[$(super::Case { row: $row, name: stringify!($play), deeds: $deeds, play: $play }),*];
    };
}
use cases;

const FAMILIES: &[&[Case]] =
    &[requests::CASES, transactions::CASES, blocking::CASES, state::CASES, policies::CASES, endings::CASES];

/// A stage with one failover to come.
struct Scene {
    stage: Stage,
    deed: Deed,
    resp3: bool,
    is_armed: bool,
    is_done: bool,
}

impl Deref for Scene {
    type Target = Stage;

    fn deref(&self) -> &Stage {
        &self.stage
    }
}

impl DerefMut for Scene {
    fn deref_mut(&mut self) -> &mut Stage {
        &mut self.stage
    }
}

impl Scene {
    fn new(deed: Deed, resp3: bool, flow: Flow) -> Scene {
        let mut stage = Stage::new(2, Duration::from_millis(1));
        stage.flow = flow;
        for server in &mut stage.world.servers {
            server.users.insert("app".into(), b"app-secret".to_vec());
        }
        stage.run(1);
        Scene { stage, deed, resp3, is_armed: false, is_done: false }
    }

    /// A client that has agreed on the protocol.
    fn open(&mut self) -> usize {
        let client = self.stage.open();
        if self.resp3 {
            self.ask(client, "HELLO 3", "%2 $5 proto :3 $4 role $6 master");
        }
        client
    }

    /// The master died with what was outstanding.
    fn loses_replies(&self) -> bool {
        matches!(self.deed, Deed::Crash | Deed::Hang | Deed::Outage)
    }

    /// What is outstanding has run.
    fn has_run(&self) -> bool {
        matches!(self.deed, Deed::Crash | Deed::Outage)
    }

    fn nil(&self) -> &'static str {
        if self.resp3 { "_" } else { "$-1" }
    }

    fn nil_array(&self) -> &'static str {
        if self.resp3 { "_" } else { "*-1" }
    }

    /// A message, confirmation or invalidation.
    fn push(&self, words: &[&str], last: &str) -> String {
        let kind = if self.resp3 { '>' } else { '*' };
        let count = words.len() + usize::from(!last.is_empty());
        let words: Vec<String> = words.iter().map(|word| format!("${} {word}", word.len())).collect();
        format!("{kind}{count} {} {last}", words.join(" ")).trim_end().to_owned()
    }

    /// From here on requests stay outstanding, where the master is to die or to refuse.
    fn arm(&mut self) {
        if std::mem::replace(&mut self.is_armed, true) {
            return;
        }
        self.run(5);
        self.world.look_later();
        match self.deed {
            Deed::Planned | Deed::ShortOfReplicas => {}
            Deed::Crash | Deed::Outage => self.sessions.iter_mut().for_each(|session| session.is_mute = true),
            Deed::Hang => {
                self.direct(0, "SET stage hangs");
                self.run(3);
                self.world.play([(0, Act::Hang(0))]);
            }
            Deed::Demotion => self.world.play([(0, Act::Demote(0, Role::Orphan))]),
        }
        let now = self.world.now;
        self.step_to(now);
    }

    /// Lives through the deed with these requests outstanding (where nobody dies they are just sent).
    fn failover(&mut self, client: usize, outstanding: &[&str]) {
        self.arm();
        outstanding.iter().for_each(|request| self.say(client, request));
        self.done();
    }

    /// What shall be outstanding was sent: the deed begins.
    fn done(&mut self) {
        self.arm();
        if std::mem::replace(&mut self.is_done, true) {
            return;
        }
        let early = |at| (at, Act::Commit { node: 1, provisional: true });
        let after = |at| {
            [
                (at, Act::Confirm),
                (at + 2000, Act::Follow { node: 0, master: 1 }),
                (at, Act::Follow { node: 2, master: 1 }),
            ]
        };
        match self.deed {
            Deed::Planned | Deed::ShortOfReplicas => {
                let lacks = self.deed == Deed::ShortOfReplicas;
                self.world.play([
                    (10, Act::Elect),
                    (110, Act::Hold),
                    (170, Act::Promote(1)),
                    (170, Act::Lack(1, lacks)),
                    early(180),
                ]);
                self.world.play([(700, Act::Lack(1, false))].into_iter().chain(after(1100)));
            }
            Deed::Crash | Deed::Outage => {
                self.run(20); // it runs and is replicated
                self.world.play([(0, Act::Crash(0))]);
                let now = self.world.now;
                self.step_to(now);
                self.sessions.iter_mut().for_each(|session| session.is_mute = false);
                if self.deed == Deed::Outage {
                    self.world.play([(40_000, Act::Restart { node: 0, keeps_data: true })]);
                } else {
                    self.world
                        .play([(1100, Act::Hold), (1400, Act::Promote(1)), early(1410)].into_iter().chain(after(2300)));
                }
            }
            Deed::Hang => {
                self.world
                    .play([(1100, Act::Hold), (1400, Act::Promote(1)), early(1410)].into_iter().chain(after(2300)));
                self.world.play([(3000, Act::Thaw(0))]);
            }
            Deed::Demotion => {
                self.world.play([(300, Act::Hold), (600, Act::Promote(1)), early(610)].into_iter().chain(after(1500)));
            }
        }
        self.run(1);
    }

    /// Waits until requests are held, where they are when the master is to be replaced.
    fn hold(&mut self) {
        match self.deed {
            Deed::Planned | Deed::ShortOfReplicas => self.run(120),
            Deed::Hang => self.run(1150),
            Deed::Crash | Deed::Demotion | Deed::Outage => self.run(1),
        }
    }

    /// The new master serves, and the Sentinels have come to rest. Who it is.
    fn switched(&mut self) -> usize {
        self.done();
        self.run_script();
        self.run(100);
        self.world.master
    }

    /// What the client's connection has become on the server.
    fn state(&self, client: usize) -> String {
        let link = self.sessions[client].link.as_ref();
        link.and_then(|link| self.world.servers[link.node].state_of(link.id)).unwrap_or_default()
    }
}

fn play(deed: Deed) {
    let mut failed = Vec::new();
    let mut played = 0;
    for case in FAMILIES.iter().copied().flatten().filter(|case| case.deeds.contains(&deed)) {
        for resp3 in [false, true] {
            for flow in [Flow::Whole, Flow::Pieces(Dice::new(1)), Flow::Pieces(Dice::new(2))] {
                played += 1;
                let shown = if matches!(flow, Flow::Whole) { "whole" } else { "in pieces" };
                let outcome = catch_unwind(AssertUnwindSafe(|| (case.play)(&mut Scene::new(deed, resp3, flow))));
                if outcome.is_err() {
                    failed.push(format!("{deed:?} | {} | {} (RESP3: {resp3}, {shown})", case.row, case.name));
                }
            }
        }
    }
    assert!(played >= 6, "{played} plays of {deed:?}");
    assert!(failed.is_empty(), "{} of {played} failed:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn a_planned_failover() {
    play(Deed::Planned);
}

#[test]
fn a_planned_failover_that_leaves_no_replica_for_a_moment() {
    play(Deed::ShortOfReplicas);
}

#[test]
fn kill_9_with_replies_lost() {
    play(Deed::Crash);
}

#[test]
fn a_master_that_hangs() {
    play(Deed::Hang);
}

#[test]
fn a_demotion_that_only_refusals_tell_of() {
    play(Deed::Demotion);
}

#[test]
fn nobody_takes_over() {
    play(Deed::Outage);
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
    let rows: Vec<String> =
        lines.skip(2).filter_map(|line| Some(line.split('|').next()?.replace('`', "").trim().to_owned())).collect();
    assert_eq!(rows, ROWS);
}
