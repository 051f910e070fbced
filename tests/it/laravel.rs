//! Real Laravel (Illuminate 8, or the one that $PHP finds; predis and phpredis, unmodified) through failovers: what an application notices.
//!
//! The loops are the scripts in tests/laravel; this runs them, makes the failover and compares what they say was
//! acknowledged with what the new master holds. A missing php fails the test, it never passes silently.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use switchmaster::demo::cluster::{Cluster, ClusterSpec, until};
use switchmaster::demo::wire::{Reply, Wire};

use crate::support::proxy;
use php::{Acknowledged, Jobs, Outcome, PhpRun, Sample};

mod php;
mod queue;

const LIMIT: Duration = Duration::from_secs(30);
const PASSWORD: &str = "secret";
/// Iterations per second of a loop, of about 20 requests each: enough to be always in the middle of something.
const RATE: &str = "50";
/// Seconds; above any pause of these tests, and short enough to wait for a job whose pop lost its reply.
const RETRY_AFTER: &str = "10";
/// What a dying master acknowledged this long before its end may be missing on the new one.
const REPLICATION_LAG_MS: u64 = 1000;

#[tokio::test]
#[ignore = "needs the machine to itself: make test runs it by itself"]
async fn planned_failovers_are_not_noticed() {
    let loops = [WEB, WORKER];
    tokio::join!(planned("predis", &loops), planned("phpredis", &loops));
}

#[tokio::test]
#[ignore = "needs the machine to itself: make test runs it by itself"]
async fn transactions_and_block_for_do_not_notice_planned_failovers() {
    let loops = [TRANSACTIONS, PUSHER, BLOCKING_WORKER];
    tokio::join!(planned("predis", &loops), planned("phpredis", &loops));
}

#[tokio::test]
async fn a_killed_master_costs_at_most_a_reply() {
    let loops = [WEB, WORKER];
    tokio::join!(killed("predis", &loops), killed("phpredis", &loops));
}

/// The measure itself: on a server that nothing happens to, the loops see nothing.
#[tokio::test]
async fn without_a_failover_nothing_is_noticed() {
    tokio::join!(undisturbed("predis"), undisturbed("phpredis"));
}

/// And they do see trouble: a server that dies and comes back empty, and databases that changed places.
#[tokio::test]
async fn without_a_proxy_trouble_is_noticed() {
    tokio::join!(unprotected("predis"), unprotected("phpredis"));
}

async fn undisturbed(client: &str) {
    let cluster = lone_server().await;
    let loops = [WEB, WORKER, TRANSACTIONS, PUSHER, BLOCKING_WORKER];
    let runs: Vec<_> = loops.iter().map(|l| l.start(client, cluster.node_addr(0))).collect();
    for run in &runs {
        run.progress(50).await;
    }
    let outcomes = stop_all(runs).await;
    judge(&cluster, 0, &outcomes, Fault::Planned).await;
}

async fn unprotected(client: &str) {
    let cluster = lone_server().await;
    let runs = [WEB, WORKER].map(|l| l.start(client, cluster.node_addr(0)));
    for run in &runs {
        run.progress(30).await;
    }
    cluster.node(0).kill9();
    for run in &runs {
        run.exceptions(1).await;
    }
    cluster.node(0).restart().await.unwrap();
    for run in &runs {
        run.progress(30).await;
    }
    for outcome in stop_all(runs.into()).await {
        assert!(outcome.exceptions.count > 0, "{outcome}");
        assert!(outcome.missing.count > 0, "{outcome}");
        let (missing, _) = compare(&cluster, 0, &outcome).await;
        assert!(missing.len() > 10, "{outcome}");
    }

    let worker = WORKER.start(client, cluster.node_addr(0));
    worker.progress(30).await;
    let swapped = cluster.ask_node(0, &["SWAPDB", "0", "1"]).await.unwrap();
    assert_eq!(swapped.text(), Some("OK"));
    worker.progress(30).await;
    let outcome = worker.stop(LIMIT).await;
    assert!(outcome.wrong_db > 0, "{outcome}");
}

/// A failover there and one back; nothing at all may be noticed.
async fn planned(client: &str, loops: &[Loop]) {
    let cluster = Cluster::start(ClusterSpec::with_password(PASSWORD)).await.unwrap();
    let proxy = proxy::start(&cluster).await;
    let runs: Vec<_> = loops.iter().map(|l| l.start(client, proxy.addr())).collect();
    let mut master = 0;
    for _ in 0..2 {
        for run in &runs {
            run.progress(50).await;
        }
        cluster.wait_ready(LIMIT).await.unwrap();
        cluster.failover(LIMIT).await.unwrap();
        master = cluster.wait_for_master_change(master, LIMIT).await.unwrap();
    }
    for run in &runs {
        run.progress(50).await;
    }
    let outcomes = stop_all(runs).await;
    judge(&cluster, settled_master(&cluster).await, &outcomes, Fault::Planned).await;
}

/// `kill -9` of the master: each loop, which has one request outstanding at most, may see one lost reply.
async fn killed(client: &str, loops: &[Loop]) {
    let cluster = Cluster::start(ClusterSpec::with_password(PASSWORD)).await.unwrap();
    let proxy = proxy::start(&cluster).await;
    let runs: Vec<_> = loops.iter().map(|l| l.start(client, proxy.addr())).collect();
    for run in &runs {
        run.progress(50).await;
    }
    let at = unix_ms();
    cluster.node(0).kill9();
    cluster.wait_for_master_change(0, LIMIT).await.unwrap();
    for run in &runs {
        run.progress(50).await;
    }
    let outcomes = stop_all(runs).await;
    judge(&cluster, settled_master(&cluster).await, &outcomes, Fault::Killed { at }).await;
}

/// What was done to the master.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// Nothing, or a planned failover.
    Planned,
    /// `kill -9` at this time (Unix, ms).
    Killed { at: u64 },
}

impl Fault {
    /// Whether an acknowledgement at `at` may have gone with the old master, since replication is asynchronous.
    fn excuses(self, at: u64) -> bool {
        match self {
            Fault::Planned => false,
            Fault::Killed { at: end } => at + REPLICATION_LAG_MS >= end && at <= end + 100,
        }
    }
}

/// Fails the test unless the loops saw no more than `fault` allows and node `master` holds what was acknowledged.
async fn judge(cluster: &Cluster, master: usize, outcomes: &[Outcome], fault: Fault) {
    let mut broken = String::new();
    for outcome in outcomes {
        let mut complain = |what: &str, detail: &dyn std::fmt::Debug| {
            writeln!(broken, "{}: {what}: {detail:?}\n{outcome}", outcome.name).unwrap();
        };
        println!("{outcome}");

        let allowed = match fault {
            Fault::Planned => 0,
            Fault::Killed { .. } => 1,
        };
        if outcome.exceptions.count > allowed {
            complain("more exceptions than allowed", &allowed);
        }
        for kind in outcome.exceptions.kinds.keys() {
            if !is_lost_reply(kind) {
                complain("not a lost reply", kind);
            }
        }
        if outcome.wrong.count + outcome.wrong_db > 0 {
            complain("values that nobody wrote there", &outcome.wrong_db);
        }
        if outcome.reconnects > outcome.exceptions.count {
            complain("silent reconnects", &outcome.reconnects);
        }

        let (missing, counters) = compare(cluster, master, outcome).await;
        let lost_some = !missing.is_empty() || counters.iter().any(|counter| counter.missing > 0);
        if lost_some {
            println!("acknowledged but not on the new master: {missing:?} {counters:?}");
        }
        if let Some(entry) = missing.iter().find(|entry| !fault.excuses(entry.3)) {
            complain("acknowledged write is missing", entry);
        }
        for counter in counters {
            if counter.twice > 0 {
                complain("increments ran twice", &counter);
            }
            if counter.missing > 0 && matches!(fault, Fault::Planned) {
                complain("acknowledged increments are missing", &counter);
            }
        }
        // A read may come up empty where the new master lacks the key; a session or lock that was lost has been
        // written again since.
        let overwritten = |sample: &Sample| {
            let kinds = ["session ", "lock "];
            kinds.iter().any(|kind| sample.what.starts_with(kind))
        };
        let excused =
            matches!(fault, Fault::Killed { .. }) && (lost_some || outcome.missing.first.iter().all(overwritten));
        if outcome.missing.count > 0 && !excused {
            complain("reads without the acknowledged value", &outcome.missing.count);
        }

        let Some(jobs) = &outcome.jobs else { continue };
        for job in jobs.lost.iter().chain(&jobs.twice) {
            println!("job lost or run twice: {job:?} {fault:?}");
            if !fault.excuses(job.at) {
                complain("job lost or run twice", job);
            }
        }
        if !jobs.never_pushed.is_empty() {
            complain("jobs that nobody pushed", &jobs.never_pushed);
        }
        if jobs.pushed + jobs.ran == 0 {
            complain("no job at all", jobs);
        }
    }
    let ids = |of: fn(&Jobs) -> &Vec<String>| -> Vec<&String> {
        let jobs = outcomes.iter().filter_map(|outcome| outcome.jobs.as_ref());
        jobs.flat_map(of).collect()
    };
    let ran = ids(|jobs| &jobs.ran_ids);
    let never_ran: Vec<_> = ids(|jobs| &jobs.pushed_ids).into_iter().filter(|id| !ran.contains(id)).collect();
    if !never_ran.is_empty() {
        println!("pushed by one process, never run by the other: {never_ran:?}");
        if matches!(fault, Fault::Planned) {
            writeln!(broken, "jobs never ran: {never_ran:?}").unwrap();
        }
    }
    assert!(broken.is_empty(), "{broken}");
}

/// The contract's endings of a write whose reply died with the master: an error that says so, or a close where a
/// client would take an error for an empty result.
fn is_lost_reply(kind: &str) -> bool {
    kind.contains("UNKNOWNRESULT")
}

/// What node `index` lacks of what was acknowledged, and the counters that are off.
async fn compare(cluster: &Cluster, index: usize, outcome: &Outcome) -> (Vec<Acknowledged>, Vec<CounterCheck>) {
    let mut missing = Vec::new();
    let mut counters = Vec::new();
    for db in [0, 1] {
        let addr = cluster.node_addr(index);
        let mut node = Wire::open(addr, cluster.auth().as_ref(), db).await.unwrap();
        for entry in outcome.acknowledged.iter().filter(|entry| entry.0 == db) {
            match node.ask(&["GET", &entry.1]).await.unwrap() {
                Reply::Bulk(value) if value == entry.2.as_bytes() => {}
                _ => missing.push(entry.clone()),
            }
        }
        for counter in outcome.counters.iter().filter(|counter| counter.db == db) {
            let reply = node.ask(&["GET", &counter.key]).await.unwrap();
            let value: u64 = reply.text().and_then(|t| t.parse().ok()).unwrap_or(0);
            let most = counter.acknowledged + counter.unknown;
            let check =
                CounterCheck { missing: counter.acknowledged.saturating_sub(value), twice: value.saturating_sub(most) };
            if check.missing + check.twice > 0 {
                counters.push(check);
            }
        }
    }
    (missing, counters)
}

#[derive(Debug)]
#[allow(dead_code)] // Read by Debug.
struct CounterCheck {
    missing: u64,
    twice: u64,
}

/// A loop: its script and arguments.
#[derive(Clone, Copy, Debug)]
struct Loop {
    script: &'static str,
    arguments: &'static [&'static str],
}

const WEB: Loop = Loop { script: "web.php", arguments: &["--rate", RATE] };
const TRANSACTIONS: Loop = Loop { script: "web.php", arguments: &["--rate", RATE, "--transactions"] };
const WORKER: Loop = Loop { script: "worker.php", arguments: &["--rate", RATE, "--retry-after", RETRY_AFTER] };
const PUSHER: Loop =
    Loop { script: "worker.php", arguments: &["--role", "push", "--queue", "blocking", "--rate", RATE] };
const BLOCKING_WORKER: Loop = Loop {
    script: "worker.php",
    arguments: &["--role", "work", "--queue", "blocking", "--block-for", "5", "--retry-after", RETRY_AFTER],
};

impl Loop {
    fn start(&self, client: &str, addr: SocketAddr) -> PhpRun {
        PhpRun::start(self.script, client, addr, Some(PASSWORD), self.arguments)
    }
}

/// Stops every run, those that only push first, so that the others find the queue complete.
async fn stop_all(runs: Vec<PhpRun>) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for run in runs {
        outcomes.push(run.stop(LIMIT).await);
    }
    outcomes
}

/// The master at the end: a second Sentinel may have made a failover of its own since the first one.
async fn settled_master(cluster: &Cluster) -> usize {
    until("a master that Sentinels agree on", LIMIT, async || cluster.who_is_master().await).await.unwrap()
}

async fn lone_server() -> Cluster {
    let spec = ClusterSpec { replicas: 0, sentinels: 1, ..ClusterSpec::with_password(PASSWORD) };
    Cluster::start(spec).await.unwrap()
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}
