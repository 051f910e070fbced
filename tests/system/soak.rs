//! Hours in short: churn, failovers, crashes of the master, restarts and reloads, and what the process takes meanwhile.
//!
//! Only by its name: `make test-system SYSTEM_ARGS=soak`, `SYSTEM_MINUTES=30`. `SYSTEM_PLOT` is where a plot of it goes.

use std::fs;
use std::time::{Duration, Instant};

use super::World;
use super::lasting::Lasting;
use super::machine::Machine;
use super::plot::{self, Plot, Point};
use super::visits::{Ending, Visits};

const MINUTES: u32 = 30;
const LASTING: usize = 20;
/// Or `SYSTEM_VISITS`.
const VISITS_A_SECOND: u32 = 50;
/// Between two looks at what the process takes.
const LOOK_EVERY: Duration = Duration::from_secs(5);
const RELOAD_EVERY: Duration = Duration::from_secs(20);
/// Planned, but for every fourth, which is a kill -9 of the master.
const FAILOVER_EVERY: Duration = Duration::from_secs(60);
/// So long that a leak of one process would be seen.
const RESTART_EVERY: Duration = Duration::from_secs(600);
/// A process takes what it needs in its first moments.
const WARM_AFTER: Duration = Duration::from_secs(60);
const SETTLED_WITHIN: Duration = Duration::from_secs(60);
/// How much more a process may take at its end than when it was warm.
const MORE_KIB: f64 = 8.0 * 1024.0;
const MORE_DESCRIPTORS: f64 = 32.0;

#[derive(Default)]
struct Counts {
    failovers: usize,
    crashes: usize,
    restarts: usize,
    reloads: usize,
}

pub async fn soak(world: &mut World) {
    let minutes = std::env::var("SYSTEM_MINUTES").ok().map_or(MINUTES, |minutes| minutes.parse().expect("a number"));
    let asked = std::env::var("SYSTEM_VISITS").ok().map(|visits| visits.parse().expect("a number"));
    let visits = Visits::start(asked.unwrap_or(VISITS_A_SECOND), None);
    let mut lasting = Lasting::start(LASTING, Duration::from_millis(50));
    let began = Instant::now();
    let (mut lives, mut counts) = (vec![Vec::new()], Counts::default());
    let mut due = [RELOAD_EVERY, FAILOVER_EVERY, RESTART_EVERY];
    while began.elapsed() < Duration::from_secs(60) * minutes {
        tokio::time::sleep(LOOK_EVERY).await;
        lives.last_mut().expect("the first").extend(look(&world.machine, began));
        if is_due(&mut due[0], RELOAD_EVERY, began) {
            reload(&world.machine, counts.reloads);
            counts.reloads += 1;
        }
        if is_due(&mut due[1], FAILOVER_EVERY, began) {
            fail_over(world, &mut counts).await;
        }
        if is_due(&mut due[2], RESTART_EVERY, began) {
            world.machine.succeed(&["systemctl", "restart", "switchmaster"]);
            world.machine.following().await;
            lives.push(Vec::new());
            counts.restarts += 1;
        }
    }
    world.machine.configure("");
    let visits = visits.stop();
    lasting.stop();
    world.cluster.wait_ready(SETTLED_WITHIN).await.expect("the cluster is well");
    let count = |ending: Ending| visits.iter().filter(|visit| visit.ending == ending).count();
    let master = world.cluster.who_is_master().await.expect("a master");
    let verdict = lasting.verify(world.cluster.node_addr(master)).await.expect("the lists are read");
    let logs = lasting.logs();
    let table = &mut world.table;
    table.note("minutes", minutes);
    table.note("planned failovers", counts.failovers);
    table.note("kill -9 of the master", counts.crashes);
    table.note("restarts", counts.restarts);
    table.note("reloads", counts.reloads);
    table.note("visits", visits.len());
    table.none("refused", count(Ending::Refused) + logs.iter().map(|log| log.refused).sum::<usize>());
    table.none("reset, or closed before a reply", count(Ending::Reset));
    table.none("wrong or timed out", count(Ending::Wrong) + count(Ending::TimedOut));
    table.note("visits whose write had a lost reply", count(Ending::Unknown));
    table.note("pages closed between two requests", count(Ending::Closed));
    table.note("writes acknowledged to lasting clients", verdict.acknowledged);
    // Sentinel's failover after a kill -9 loses what no replica had.
    match counts.crashes {
        0 => table.none("acknowledged and missing", verdict.missing),
        _ => table.note("acknowledged and missing, kill -9 included", verdict.missing),
    }
    table.none("run twice", verdict.twice);
    flat(table, "resident memory, KiB", &lives, |point| point.kib, MORE_KIB);
    flat(table, "descriptors", &lives, |point| point.descriptors, MORE_DESCRIPTORS);
    if let Some(path) = std::env::var_os("SYSTEM_PLOT") {
        let title = format!(
            "{minutes} minutes: {} visits, {} failovers, {} reloads",
            visits.len(),
            counts.failovers + counts.crashes,
            counts.reloads
        );
        fs::write(path, Plot { title, lives }.svg()).expect("the plot is written");
    }
}

fn is_due(due: &mut Duration, every: Duration, began: Instant) -> bool {
    let now = began.elapsed();
    let is_due = now >= *due;
    while *due <= now {
        *due += every;
    }
    is_due
}

/// With another level of the log, another limit, a listener more or less.
fn reload(machine: &Machine, number: usize) {
    let changes = ["log_level = \"warn\"\n", "", "max_clients = 5000\n", "retain_total = \"48MiB\"\n"];
    machine.configure(changes[number % changes.len()]);
    machine.succeed(&["systemctl", "reload", "switchmaster"]);
}

async fn fail_over(world: &World, counts: &mut Counts) {
    let cluster = &world.cluster;
    cluster.wait_ready(SETTLED_WITHIN).await.expect("the cluster is well");
    let old = cluster.who_is_master().await.expect("a master");
    let is_crash = (counts.failovers + counts.crashes) % 4 == 3;
    match is_crash {
        true => drop(cluster.node(old).kill9()),
        false => drop(cluster.failover(Duration::from_secs(30)).await.expect("a failover")),
    }
    cluster.wait_for_master_change(old, SETTLED_WITHIN).await.expect("a new master");
    if is_crash {
        cluster.node(old).restart().await.expect("the old master starts");
        counts.crashes += 1;
    } else {
        counts.failovers += 1;
    }
}

/// What the process takes now; nothing while there is none.
fn look(machine: &Machine, began: Instant) -> Option<Point> {
    let process = format!("/proc/{}", machine.main_pid()?);
    let status = fs::read_to_string(format!("{process}/status")).ok()?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib = resident.trim().trim_end_matches(" kB").parse().ok()?;
    let descriptors = fs::read_dir(format!("{process}/fd")).ok()?.count() as f64;
    Some(Point { at: began.elapsed(), kib, descriptors })
}

/// In the life of no process the last third took more than the first minutes once it was warm.
fn flat(table: &mut super::table::Table, what: &str, lives: &[Vec<Point>], of: impl Fn(&Point) -> f64, more: f64) {
    let mut worst: Option<(f64, f64)> = None;
    for life in lives {
        let Some(first) = life.first() else { continue };
        let warm: Vec<f64> = life.iter().filter(|point| point.at >= first.at + WARM_AFTER).map(&of).collect();
        if warm.len() < 12 {
            continue;
        }
        let third = warm.len() / 3;
        let (early, late) = (plot::median(&warm[..third]), plot::median(&warm[warm.len() - third..]));
        if worst.is_none_or(|(before, after)| late - early > after - before) {
            worst = Some((early, late));
        }
    }
    let all = lives.iter().flatten().map(&of);
    let most = all.fold(0.0, f64::max);
    let (early, late) = worst.unwrap_or((0.0, f64::INFINITY));
    let seen = format!("{early:.0}, then {late:.0}; at most {most:.0}");
    table.demand(what, seen, &format!("at most {more:.0} more"), late - early <= more);
}
