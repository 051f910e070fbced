//! Laravel 13 with both clients through failovers and an outage; and beside it the same on a lone Redis, without us.
//!
//! Queue workers with `block_for`, cache, locks, rate limiter, sessions, broadcasting, unique jobs and batches, with the
//! framework's `command_retries` off and on. Each job has a name: what was acknowledged and never came to its end is lost.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::Duration;

use rustix::process::Signal;

use super::app::App;
use super::cluster::{Cluster, queued, start_proxy};
use super::host::Host;
use super::{LIMIT, Options, Outcome, REPLICATION_LAG_MS, unix_ms, until};

/// Jobs per second of each pusher.
const RATE: u32 = 20;
const OUTAGE: Duration = Duration::from_secs(20);

/// What is done to the master, or to a lone Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// A planned failover; a lone Redis is restarted.
    Planned,
    /// `kill -9`; a lone one is started again after a second.
    Kill,
    /// SIGSTOP until another is the master; a lone one for five seconds.
    Stop,
    /// Every Redis is killed, and started again after 20 s.
    Outage,
}

/// The applications: their names, and lines of their .env.
const APPS: [(&str, &str); 3] =
    [("phpredis", ""), ("predis", ""), ("phpredis retries", "REDIS_COMMAND_RETRIES=3\nREDIS_PERSISTENT=true")];

/// Behind switchmaster: one master, two replicas, three Sentinels.
pub fn through_failovers(options: &Options) -> Outcome {
    let dir = tempfile::tempdir().unwrap();
    let redis: Vec<Host> = (1..=3).map(|number| Host::new(&format!("redis-{number}"), number, dir.path())).collect();
    let web = Host::new("app-1", 11, dir.path());
    let nodes: Vec<&Host> = redis.iter().collect();
    let cluster = Cluster::start(nodes.clone(), nodes.clone(), 2, options.down_after, "");
    start_proxy(&web, &nodes, &[]);
    let apps: Vec<App> =
        APPS.iter().map(|(name, env)| App::new(&web, &options.forky, name, "127.0.0.1", env)).collect();
    play(
        &apps,
        &faults(options),
        |fault| match fault {
            Fault::Planned => _ = cluster.fail_over(),
            Fault::Kill => {
                let old = cluster.wait_whole();
                old.end("redis", Signal::KILL);
                cluster.wait_for_another(old);
                progress(&apps);
                cluster.boot(old);
            }
            Fault::Stop => {
                let old = cluster.wait_whole();
                old.signal("redis", Signal::STOP);
                cluster.wait_for_another(old);
                progress(&apps);
                old.signal("redis", Signal::CONT);
            }
            Fault::Outage => outage(&cluster),
        },
        || cluster.wait_whole(),
        true,
    )
}

/// The same applications on one Redis without a proxy, started again when it has ended. Nothing is demanded of it.
pub fn on_a_lone_redis(options: &Options) -> Outcome {
    let dir = tempfile::tempdir().unwrap();
    let (redis, web) = (Host::new("redis-1", 1, dir.path()), Host::new("app-1", 11, dir.path()));
    let cluster = Cluster::start(vec![&redis], vec![&redis], 1, 60_000, "");
    let apps: Vec<App> = APPS.iter().map(|(name, env)| App::new(&web, &options.forky, name, &redis.ip, env)).collect();
    play(
        &apps,
        &faults(options),
        |fault| match fault {
            Fault::Planned => {
                redis.end("redis", Signal::TERM);
                cluster.start_node(&redis);
            }
            Fault::Kill => {
                redis.end("redis", Signal::KILL);
                sleep(Duration::from_secs(1));
                cluster.start_node(&redis);
            }
            Fault::Stop => {
                redis.signal("redis", Signal::STOP);
                sleep(Duration::from_secs(5));
                redis.signal("redis", Signal::CONT);
            }
            Fault::Outage => outage(&cluster),
        },
        || cluster.wait_whole(),
        false,
    )
}

fn outage(cluster: &Cluster) {
    cluster.wait_whole();
    cluster.nodes.iter().for_each(|host| host.end("redis", Signal::KILL));
    sleep(OUTAGE);
    cluster.nodes.iter().for_each(|host| cluster.start_node(host));
}

fn faults(options: &Options) -> Vec<Fault> {
    let Some(rounds) = options.rounds else { return vec![Fault::Planned, Fault::Kill] };
    let mut faults = Vec::new();
    for round in 0..rounds {
        faults.extend([Fault::Planned, Fault::Kill]);
        faults.extend((round % 2 == 0).then_some(Fault::Stop));
    }
    faults.push(Fault::Outage);
    faults
}

/// Makes each fault under load, waits for the end of every job, and counts.
fn play<'a>(
    apps: &[App],
    faults: &[Fault],
    mut inflict: impl FnMut(Fault),
    whole: impl Fn() -> &'a Host,
    must_hold: bool,
) -> Outcome {
    apps.iter().for_each(|app| app.start_jobs(RATE, true));
    progress(apps);
    let mut times = Vec::new();
    for fault in faults {
        let from = unix_ms();
        inflict(*fault);
        times.push((*fault, from, unix_ms()));
        progress(apps);
        whole();
        progress(apps);
    }
    apps.iter().for_each(App::stop_pushing);
    let master = whole();
    for app in apps {
        until(&format!("an empty queue of {}", app.name), LIMIT * 2, || queued(master, &app.queue()) == 0);
    }
    let mut outcome = Outcome::default();
    for app in apps {
        count(app, &times, &mut outcome, must_hold);
    }
    outcome
}

/// Every worker has ended some jobs more.
pub fn progress(apps: &[App]) {
    for app in apps {
        let before = app.diary().ends();
        until(&format!("jobs of {}", app.name), LIMIT * 2, || app.diary().ends() >= before + 15);
    }
}

/// One line for each kind of fault.
#[derive(Debug, Default)]
struct Tally {
    faults: usize,
    pushed: usize,
    lost: usize,
    twice: usize,
    exceptions: usize,
    wrong: usize,
    pause: u64,
}

fn count(app: &App, faults: &[(Fault, u64, u64)], outcome: &mut Outcome, must_hold: bool) {
    let diary = app.diary();
    let of = |at: u64| faults.iter().rposition(|(_, from, _)| *from <= at).unwrap_or(0);
    let excused = |at: u64| {
        faults.iter().any(|(fault, from, to)| *fault != Fault::Planned && at + REPLICATION_LAG_MS >= *from && at <= *to)
    };
    let mut tallies: BTreeMap<Fault, Tally> = BTreeMap::new();
    for (index, (fault, from, to)) in faults.iter().enumerate() {
        let end = faults.get(index + 1).map_or(u64::MAX, |next| next.1);
        let tally = tallies.entry(*fault).or_default();
        tally.faults += 1;
        tally.pause = tally.pause.max(diary.pause(*from, *to));
        let kinds = diary.kinds(if index == 0 { 0 } else { *from }, end);
        tally.exceptions += kinds.values().sum::<usize>();
        if must_hold && *fault == Fault::Planned && !kinds.is_empty() {
            outcome.broken.push(format!("{}: exceptions in a planned failover: {kinds:?}", app.name));
        }
    }
    let mut tally = |at: u64, count: fn(&mut Tally)| count(tallies.get_mut(&faults[of(at)].0).unwrap());
    diary.pushed.values().for_each(|(begun, _)| tally(*begun, |tally| tally.pushed += 1));
    for (what, jobs) in [("lost", diary.lost()), ("completed twice", diary.twice())] {
        for (id, at) in jobs {
            tally(at, if what == "lost" { |tally| tally.lost += 1 } else { |tally| tally.twice += 1 });
            if must_hold && !excused(at) {
                outcome.broken.push(format!("{}: {id} was {what} at {at}", app.name));
            }
        }
    }
    for (at, step, what) in &diary.wrong {
        tally(*at, |tally| tally.wrong += 1);
        if must_hold && faults[of(*at)].0 == Fault::Planned {
            outcome.broken.push(format!("{}: {step}: {what}", app.name));
        }
    }
    for (fault, t) in tallies {
        outcome.seen.push(format!(
            "| {} | {fault:?} × {} | {} | {} | {} | {} | {} | {:.1} s |",
            app.name,
            t.faults,
            t.pushed,
            t.lost,
            t.twice,
            t.exceptions,
            t.wrong,
            t.pause as f64 / 1000.0
        ));
    }
    outcome.seen.push(format!(
        "{}: passes {}, batches {} of {} run, broadcasts {} of {} heard, restarts {:?}, exceptions {:#?}",
        app.name,
        diary.passes.len(),
        diary.batched,
        diary.batches,
        diary.heard,
        diary.said,
        app.exits(),
        diary.kinds(0, u64::MAX)
    ));
    if must_hold && (diary.passes.is_empty() || diary.heard == 0 || diary.batched == 0) {
        outcome.broken.push(format!("{}: something of Laravel was not used at all", app.name));
    }
}
