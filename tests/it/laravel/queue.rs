//! Laravel's own queue worker, with predis and phpredis side by side, through failovers of alternating kinds.
//!
//! Each job has an identity: which ones were acknowledged, which ran, and when, is compared at the end. A crash may
//! cost what only the dead master knew, and a second run is possible only then; a planned failover costs nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use serde::Deserialize;

use super::php::PhpRun;
use super::{PASSWORD, REPLICATION_LAG_MS, unix_ms};
use crate::support::figures::{Figures, Target, rounds};
use crate::support::stage::Stage;

/// For a cluster to be whole again: Sentinel looks at a replica every 10 s only.
const WHOLE: Duration = Duration::from_secs(90);
/// Seconds; above any pause of a failover, so that a job comes back only when a reply to its worker was lost.
const RETRY_AFTER: u64 = 30;
/// A Redis queue counts in whole seconds, and the worker had its time before the server had the request.
const ROUNDED_MS: u64 = 2000;
/// Jobs per second of each pusher: the worker waits in BLPOP most of the time.
const RATE: &str = "20";
/// A reply may have been on its way to the client when the master was hit.
const DELIVERY_MS: u64 = 500;

#[tokio::test]
async fn queue_workers_run_each_job_once_through_failovers_of_all_kinds() {
    let stage = Stage::start().await;
    let clients = ["predis", "phpredis"];
    let runs: Vec<_> =
        clients.map(|client| (client, start(&stage, client, "push"), start(&stage, client, "work"))).into();
    let mut faults = Vec::new();
    let last = 2 * rounds() - 1;
    for round in 0..=last {
        let kind = [Kind::Planned, Kind::Killed, Kind::Stopped][if rounds() == 1 { round } else { round % 3 }];
        progress(&runs).await;
        let from = unix_ms();
        let (until, recovered) = hit(&stage, kind).await;
        progress(&runs).await;
        if let Some(node) = recovered {
            recover(&stage, kind, node).await;
        }
        if round < last {
            stage.cluster.wait_ready(WHOLE).await.unwrap();
            stage.settled().await;
        }
        println!("round {round}: {kind:?}, whole again after {} ms", unix_ms() - from);
        faults.push(Fault { kind, from, until });
    }
    progress(&runs).await;

    let mut broken = String::new();
    let mut figures: Vec<_> = faults.iter().map(|fault| (fault.kind, Vec::new())).collect();
    let mut stopped = Vec::new();
    for (client, pusher, worker) in runs {
        stopped.push((client, pusher.finish::<Diary>(WHOLE).await, worker));
    }
    for (client, pusher, worker) in stopped {
        let worker: Diary = worker.finish(WHOLE).await;
        let tallies = judge(client, &faults, &pusher, &worker, &mut broken);
        for (tally, figures) in tallies.into_iter().zip(&mut figures) {
            figures.1.push((client, tally));
        }
    }
    print_figures(&figures);
    assert!(broken.is_empty(), "{broken}\n{}", stage.proxy.log());
}

/// What is done to the master.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Planned,
    /// `kill -9`; it is started again, empty, when another is the master.
    Killed,
    /// SIGSTOP; SIGCONT when another is the master.
    Stopped,
}

/// A fault and its first and last moment (Unix, ms). What follows up to the next fault is counted with it.
#[derive(Debug)]
struct Fault {
    kind: Kind,
    from: u64,
    until: u64,
}

impl Fault {
    /// Whether an acknowledgement at `at` may have gone with the old master, since replication is asynchronous.
    fn excuses(&self, at: u64) -> bool {
        self.kind != Kind::Planned && at + REPLICATION_LAG_MS >= self.from && at <= self.until + DELIVERY_MS
    }
}

fn start(stage: &Stage, client: &str, role: &str) -> PhpRun {
    let retry_after = RETRY_AFTER.to_string();
    let mut arguments = vec!["--role", role, "--queue", client, "--retry-after", &retry_after];
    arguments.extend(if role == "push" { ["--rate", RATE] } else { ["--block-for", "5"] });
    PhpRun::start("queue.php", client, stage.proxy.addr(), Some(PASSWORD), &arguments)
}

/// Waits until every pusher and every worker has got on.
async fn progress(runs: &[(&str, PhpRun, PhpRun)]) {
    for (_, pusher, worker) in runs {
        pusher.progress(20).await;
        worker.progress(20).await;
    }
}

/// Makes the fault and waits for another master. Returns when the old one was certainly hit, and which it was if it
/// needs help to come back.
async fn hit(stage: &Stage, kind: Kind) -> (u64, Option<usize>) {
    let old = stage.cluster.wait_replicating(WHOLE).await.unwrap();
    let node = stage.cluster.node(old);
    match kind {
        Kind::Planned => {
            stage.fail_over().await;
            return (unix_ms(), None);
        }
        Kind::Killed => node.kill9(),
        Kind::Stopped => node.stop(),
    };
    let until = unix_ms();
    stage.cluster.wait_for_master_change(old, WHOLE).await.unwrap();
    (until, Some(old))
}

async fn recover(stage: &Stage, kind: Kind, node: usize) {
    let node = stage.cluster.node(node);
    match kind {
        Kind::Planned => {}
        Kind::Killed => node.restart().await.unwrap(),
        Kind::Stopped => {
            node.cont();
        }
    }
}

/// What queue.php says at its end; times are Unix, ms.
#[derive(Debug, Deserialize)]
struct Diary {
    /// Id, begun, acknowledged, whether it was delayed.
    pushes: Vec<(String, u64, u64, bool)>,
    /// Id, begun, ended: pushes that ended in an exception.
    unknown: Vec<(String, u64, u64)>,
    /// Id, begun, its delete acknowledged.
    runs: Vec<(String, u64, Option<u64>)>,
    /// When, at which step, class and message.
    exceptions: Vec<(u64, String, String)>,
    quits: u64,
    left: u64,
    reconnects: u64,
}

/// One client's jobs from one fault to the next.
#[derive(Debug, Default)]
struct Tally {
    pushed: u64,
    ran: u64,
    /// Pushes that ended in an exception, and how many of them ran nevertheless.
    unknown: u64,
    unknown_ran: u64,
    /// First runs that came `retry_after` late: the reply to a pop was lost.
    late: u64,
    twice: u64,
    missing: u64,
    exceptions: u64,
    /// The longest push, or wait of a job for its run, in ms.
    stall: u64,
}

/// Counts for each fault what happened from it on; what it does not excuse goes to `broken`.
fn judge(client: &str, faults: &[Fault], pusher: &Diary, worker: &Diary, broken: &mut String) -> Vec<Tally> {
    let mut tallies: Vec<Tally> = faults.iter().map(|_| Tally::default()).collect();
    // Before the first fault there is nothing to excuse; it is counted with it.
    let index_at = |at: u64| faults.iter().rposition(|fault| fault.from <= at).unwrap_or(0);
    let excused = |at: u64| faults.iter().any(|fault| fault.excuses(at));
    let mut complain = |what: &str, detail: &dyn std::fmt::Debug| {
        writeln!(broken, "{client}: {what}: {detail:?}").unwrap();
    };

    let mut runs: BTreeMap<&str, Vec<(u64, Option<u64>)>> = BTreeMap::new();
    for (id, begun, deleted) in &worker.runs {
        runs.entry(id).or_default().push((*begun, *deleted));
    }
    for (id, begun, acknowledged, delayed) in &pusher.pushes {
        let tally = &mut tallies[index_at(*begun)];
        tally.pushed += 1;
        tally.stall = tally.stall.max(acknowledged - begun);
        let Some(&(first, _)) = runs.get(id.as_str()).and_then(|runs| runs.first()) else {
            tally.missing += 1;
            println!("{client}: {id}, acknowledged at {acknowledged}, is missing");
            if !excused(*acknowledged) {
                complain("an acknowledged job never ran", &(id, acknowledged));
            }
            continue;
        };
        tally.ran += 1;
        let waited = first.saturating_sub(*acknowledged);
        if waited + ROUNDED_MS >= RETRY_AFTER * 1000 {
            tally.late += 1;
            println!("{client}: {id}, acknowledged at {acknowledged}, first ran after {waited} ms");
            // Its pop is unknown: an exception says so.
            let lost_pops = worker.exceptions.iter().filter(|(_, step, _)| step == "pop");
            if !lost_pops.clone().any(|(at, ..)| acknowledged <= at && *at <= first) {
                complain("a job was late without a lost reply", &(id, acknowledged, first));
            }
        } else if !delayed {
            tally.stall = tally.stall.max(waited);
        }
    }
    for (id, begun, ended) in &pusher.unknown {
        let tally = &mut tallies[index_at(*begun)];
        tally.unknown += 1;
        tally.unknown_ran += u64::from(runs.contains_key(id.as_str()));
        tally.stall = tally.stall.max(ended - begun);
    }
    for (id, runs) in &runs {
        for pair in runs.windows(2) {
            let [(first, deleted), (second, _)] = [pair[0], pair[1]];
            tallies[index_at(first)].twice += 1;
            let gap = second - first;
            let came_back = gap + ROUNDED_MS >= RETRY_AFTER * 1000;
            // Its pop or its delete went with the old master; or the fate of the delete is unknown.
            let rolled_back = excused(first) || deleted.is_some_and(excused);
            println!("{client}: {id} ran twice, {gap} ms apart; rolled back: {rolled_back}, deleted at {deleted:?}");
            if !(rolled_back || deleted.is_none() && came_back) {
                complain("a job ran twice", &(id, runs));
            }
        }
    }
    let pushed = pusher.pushes.iter().map(|push| &push.0).chain(pusher.unknown.iter().map(|push| &push.0));
    let pushed: BTreeSet<&str> = pushed.map(String::as_str).collect();
    for id in runs.keys().filter(|id| !pushed.contains(*id)) {
        complain("a job that nobody pushed", id);
    }
    for (role, diary) in [("pusher", pusher), ("worker", worker)] {
        let mut of_fault = vec![0; faults.len()];
        for (at, step, text) in &diary.exceptions {
            println!("{client} {role}: {step}: {text} at {at}");
            let index = index_at(*at);
            tallies[index].exceptions += 1;
            of_fault[index] += 1;
            if faults[index].kind == Kind::Planned || *at < faults[index].from || !text.contains("UNKNOWNRESULT") {
                complain("an exception", &(role, faults[index].kind, step, text));
            }
        }
        // One request is outstanding at most.
        if of_fault.iter().any(|&count| count > 1) {
            complain("more than one lost reply at a fault", &(role, of_fault));
        }
        if diary.reconnects > 0 {
            complain("silent reconnects", &(role, diary.reconnects));
        }
    }
    if worker.left > 0 || worker.quits != 1 {
        complain("left in the queue, or the worker gave up", &(worker.left, worker.quits));
    }
    tallies
}

/// A line for each round, and the figures by kind.
fn print_figures(rounds: &[(Kind, Vec<(&'static str, Tally)>)]) {
    println!(
        "kind, client: pushed, ran, of these after retry_after, ran twice, missing, exceptions, of these pushes, of \
         these ran, longest stall ms"
    );
    for kind in [Kind::Planned, Kind::Killed, Kind::Stopped] {
        let of_kind: Vec<_> = rounds.iter().filter(|round| round.0 == kind).collect();
        let mut totals: BTreeMap<&str, Tally> = BTreeMap::new();
        let scenario = ["queue, planned", "queue, kill -9", "queue, SIGSTOP"][kind as usize];
        let mut figures = Figures::of(scenario);
        for (client, tally) in of_kind.iter().flat_map(|round| &round.1) {
            let total = totals.entry(client).or_default();
            total.pushed += tally.pushed;
            total.ran += tally.ran;
            total.late += tally.late;
            total.unknown += tally.unknown;
            total.unknown_ran += tally.unknown_ran;
            total.twice += tally.twice;
            total.missing += tally.missing;
            total.exceptions += tally.exceptions;
            total.stall = total.stall.max(tally.stall);
            // One reply of the pusher and one of the worker.
            let exceptions = if kind == Kind::Planned { 0.0 } else { 2.0 };
            let lost = if kind == Kind::Planned { Target::AtMost(0.0) } else { Target::None };
            figures.note("jobs acknowledged", Target::None, tally.pushed as f64);
            figures.note("acknowledged, never ran", lost, tally.missing as f64);
            figures.note("ran twice", lost, tally.twice as f64);
            figures.note("exceptions of pusher and worker", Target::AtMost(exceptions), tally.exceptions as f64);
            figures.note("longest stall, ms", Target::None, tally.stall as f64);
        }
        for (client, total) in totals {
            let Tally { pushed, ran, late, twice, missing, exceptions, unknown, unknown_ran, stall } = total;
            println!(
                "{} x {scenario}, {client}: {pushed}, {ran}, {late}, {twice}, {missing}, {exceptions}, {unknown}, \
                 {unknown_ran}, {stall}",
                of_kind.len()
            );
        }
    }
}
