//! Hosts that lose their link or their power: no FIN, no RST, only silence.
//!
//! What is demanded: jobs acknowledged on hosts that were not cut off are run, once. What a cut-off host acknowledged to
//! itself is counted.

use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::Duration;

use super::app::App;
use super::cluster::{Cluster, queued, start_proxy};
use super::host::Host;
use super::laravel::progress;
use super::{LIMIT, Options, Outcome, unix_ms, until};

const RATE: u32 = 40;
/// What a dying master acknowledged this long before its end may be missing on the new one.
const REPLICATION_LAG_MS: u64 = 1000;
/// How long a host stays cut off after another master was found.
const CUT: Duration = Duration::from_secs(3);

/// A net of hosts.
struct Plan {
    name: &'static str,
    /// Which hosts have a Redis, the first master first; a Sentinel; and an application.
    redis: &'static [usize],
    sentinels: &'static [usize],
    apps: &'static [usize],
    quorum: usize,
    node_config: &'static str,
    minority: &'static str,
    /// Which host is cut off each time.
    victim: Victim,
    /// Whether all that runs there is killed meanwhile.
    power: bool,
    /// Whether another master is to be expected.
    failover: bool,
    /// How often, of ten rounds; and whether it is in the short list.
    rounds: usize,
    short: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Victim {
    Master,
    Host(usize),
}

const APART: Plan = Plan {
    name: "link of the master's host",
    redis: &[1, 2, 3],
    sentinels: &[1, 2, 3],
    apps: &[11, 12],
    quorum: 2,
    node_config: "",
    minority: "warn",
    victim: Victim::Master,
    power: false,
    failover: true,
    rounds: 5,
    short: false,
};
const TOGETHER: Plan = Plan {
    name: "link of a host that is all three",
    sentinels: &[1, 2, 3],
    apps: &[1, 2, 3],
    rounds: 5,
    short: true,
    ..APART
};
const TWO: Plan = Plan {
    name: "two hosts with everything: link of the master's",
    redis: &[1, 2],
    sentinels: &[1, 2],
    apps: &[1, 2],
    rounds: 2,
    failover: false,
    ..APART
};

const PLANS: [Plan; 9] = [
    APART,
    Plan { name: "power of the master's host", power: true, ..APART },
    Plan { name: "link of an app host", victim: Victim::Host(11), failover: false, rounds: 3, ..APART },
    TOGETHER,
    Plan { name: "the same, minority = \"stop\"", minority: "stop", short: false, ..TOGETHER },
    Plan {
        name: "the same, min-replicas-to-write 1",
        node_config: "min-replicas-to-write 1\nmin-replicas-max-lag 3",
        short: false,
        ..TOGETHER
    },
    Plan {
        name: "1 + 1, Sentinels on three app hosts: link of the master's",
        redis: &[1, 2],
        sentinels: &[11, 12, 13],
        apps: &[11, 12, 13],
        rounds: 3,
        ..APART
    },
    Plan {
        name: "1 + 1, Sentinels on two app hosts: link of the master's",
        redis: &[1, 2],
        sentinels: &[11, 12],
        apps: &[11, 12],
        rounds: 3,
        ..APART
    },
    TWO,
];

/// Plays every plan.
pub fn run(options: &Options) -> Outcome {
    let mut outcome = Outcome::default();
    outcome.seen.push("| what is cut | times | pause elsewhere | lost elsewhere | twice | exceptions elsewhere | acknowledged on the cut host meanwhile | of these lost | exceptions there |".into());
    for plan in PLANS.iter().filter(|plan| options.rounds.is_some() || plan.short) {
        let rounds = options.rounds.map_or(1, |rounds| (plan.rounds * rounds).div_ceil(10).max(1));
        play(plan, rounds, options, &mut outcome);
    }
    outcome
}

fn play(plan: &Plan, rounds: usize, options: &Options, outcome: &mut Outcome) {
    let dir = tempfile::tempdir().unwrap();
    let numbers: BTreeSet<usize> = [plan.redis, plan.sentinels, plan.apps].concat().into_iter().collect();
    let hosts: Vec<Host> =
        numbers.iter().map(|number| Host::new(&format!("host-{number}"), *number, dir.path())).collect();
    let find = |number: &usize| hosts.iter().find(|host| host.name == format!("host-{number}")).unwrap();
    let all = |numbers: &[usize]| -> Vec<&Host> { numbers.iter().map(find).collect() };
    let cluster =
        Cluster::start(all(plan.redis), all(plan.sentinels), plan.quorum, options.down_after, plan.node_config);
    let minority = [("SWITCHMASTER_MINORITY", plan.minority)];
    plan.apps.iter().for_each(|number| start_proxy(find(number), &cluster.sentinels, &minority));
    let name = |number: &usize| format!("phpredis {number}");
    let apps: Vec<App> =
        plan.apps.iter().map(|number| App::new(find(number), &options.forky, &name(number), "127.0.0.1", "")).collect();
    apps.iter().for_each(|app| app.start_jobs(RATE, false));
    progress(&apps);
    let mut cuts = Vec::new();
    for _ in 0..rounds {
        let master = cluster.wait_whole();
        let victim = if let Victim::Host(number) = plan.victim { find(&number) } else { master };
        cuts.push(cut(plan, &cluster, &apps, victim, master));
    }
    apps.iter().for_each(App::stop_pushing);
    let master = cluster.wait_whole();
    for app in &apps {
        until(&format!("an empty queue of {} ({})", app.name, plan.name), LIMIT * 2, || {
            queued(master, &app.queue()) == 0
        });
    }
    count(plan, &cuts, &apps, outcome);
}

/// The name of the host that was cut off, from and until when.
type Cut = (String, u64, u64);

fn cut(plan: &Plan, cluster: &Cluster, apps: &[App], victim: &Host, master: &Host) -> Cut {
    let from = unix_ms();
    victim.link(false);
    if plan.power {
        victim.end_all();
    }
    if plan.failover {
        cluster.wait_for_another(master);
        for app in apps.iter().filter(|app| app.host.name != victim.name) {
            let before = app.diary().ends();
            until(&format!("jobs of {} during the cut", app.name), LIMIT, || app.diary().ends() >= before + 15);
        }
        sleep(CUT);
    } else {
        // Longer than a hold: what is seen where it does not end.
        sleep(Duration::from_secs(20));
    }
    let until = unix_ms();
    victim.link(true);
    if plan.power {
        cluster.boot(victim);
    }
    cluster.wait_whole();
    progress(apps);
    (victim.name.clone(), from, until)
}

fn count(plan: &Plan, cuts: &[Cut], apps: &[App], outcome: &mut Outcome) {
    let (mut pause, mut lost, mut twice, mut exceptions) = (0, 0, 0, 0);
    let (mut own, mut own_lost, mut own_exceptions) = (0, 0, 0);
    let mut kinds = std::collections::BTreeMap::new();
    for app in apps {
        let diary = app.diary();
        let at_cut_host = |at: u64| {
            cuts.iter().any(|(host, from, to)| *host == app.host.name && at + 50 >= *from && at <= *to + 3000)
        };
        let excused = |at: u64| cuts.iter().any(|(_, from, _)| at + REPLICATION_LAG_MS >= *from && at <= *from + 50);
        own += diary.pushed.values().filter(|(_, at)| at_cut_host(*at)).count();
        for (id, at) in diary.lost() {
            *if at_cut_host(at) { &mut own_lost } else { &mut lost } += 1;
            if !at_cut_host(at) && !excused(at) {
                outcome
                    .broken
                    .push(format!("{}: {}: {id}, acknowledged at {at}, never ran: {cuts:?}", plan.name, app.name));
            }
        }
        for (id, at) in diary.twice() {
            twice += 1;
            if !at_cut_host(at) && !excused(at) {
                outcome.broken.push(format!("{}: {}: {id}, done at {at}, ran twice: {cuts:?}", plan.name, app.name));
            }
        }
        for (host, from, to) in cuts.iter().filter(|(host, ..)| *host != app.host.name) {
            let _ = host;
            pause = pause.max(diary.pause(*from, *to));
        }
        for (at, place, text) in &diary.exceptions {
            *if at_cut_host(*at) { &mut own_exceptions } else { &mut exceptions } += 1;
            *kinds.entry(format!("{place}: {}", text.chars().take(90).collect::<String>())).or_insert(0) += 1;
        }
    }
    outcome.seen.push(format!(
        "| {} | {} | {:.1} s | {lost} | {twice} | {exceptions} | {own} | {own_lost} | {own_exceptions} |",
        plan.name,
        cuts.len(),
        pause as f64 / 1000.0
    ));
    outcome.seen.push(format!("  exceptions: {kinds:?}"));
}
