//! A restart in the middle of a failover: the contract holds for all who connect.

use std::time::{Duration, Instant};

use super::World;
use super::lasting::Lasting;
use super::visits::{Ending, Visits};

const ROUNDS: usize = 10;
const LASTING: usize = 20;
/// Between the restart's and the failover's request, or the master's end; other rounds do not count.
const WITHIN: Duration = Duration::from_millis(100);
const SETTLED_WITHIN: Duration = Duration::from_secs(60);

pub async fn planned(world: &mut World) {
    run(world, false).await;
}

pub async fn crash(world: &mut World) {
    run(world, true).await;
}

async fn run(world: &mut World, is_crash: bool) {
    let rounds = world.rounds.unwrap_or(ROUNDS).min(ROUNDS);
    let (mut done, mut too_far) = (0, 0);
    let visits = Visits::start(50, None);
    let mut lasting = Lasting::start(LASTING, Duration::from_millis(10));
    let (mut offsets, mut waits) = (Vec::new(), Vec::new());
    while done < rounds && too_far < ROUNDS {
        let cluster = &world.cluster;
        cluster.wait_ready(SETTLED_WITHIN).await.expect("the cluster is well");
        let old = cluster.who_is_master().await.expect("a master");
        world.machine.following().await;
        let before = answered(&lasting);
        let fault = async {
            match is_crash {
                true => cluster.node(old).kill9(),
                false => cluster.failover(Duration::from_secs(30)).await.expect("a failover"),
            }
        };
        // At another moment in each round, by the same clock.
        let restart = async {
            tokio::time::sleep(WITHIN * done as u32 / rounds as u32).await;
            (Instant::now(), world.machine.begin(&["systemctl", "restart", "switchmaster"]))
        };
        let (began, (asked, mut restart)) = tokio::join!(fault, restart);
        // Sentinel may have refused at first, or been slow.
        match began.max(asked) - began.min(asked) {
            offset if offset <= WITHIN => {
                offsets.push(offset);
                done += 1;
            }
            _ => too_far += 1,
        }
        cluster.wait_for_master_change(old, SETTLED_WITHIN).await.expect("a new master");
        while answered(&lasting) < before + LASTING && began.elapsed() < SETTLED_WITHIN {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        waits.push(began.elapsed());
        let _ = restart.wait();
        if is_crash {
            cluster.node(old).restart().await.expect("the old master starts");
        }
    }
    world.cluster.wait_ready(SETTLED_WITHIN).await.expect("the cluster is well");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let visits = visits.stop();
    lasting.stop();
    let master = world.cluster.who_is_master().await.expect("a master");
    let verdict = lasting.verify(world.cluster.node_addr(master)).await.expect("the lists are read");
    let logs = lasting.logs();
    let count = |ending: Ending| visits.iter().filter(|visit| visit.ending == ending).count();
    let table = &mut world.table;
    table.at_least("failovers with a restart within 100 ms", done, rounds);
    table.note("others", too_far);
    table.median("the restart was asked for before or after", offsets, WITHIN);
    table.note("writes acknowledged", verdict.acknowledged);
    table.none("acknowledged and missing", verdict.missing);
    table.none("run twice", verdict.twice);
    table.note(
        "closes with a request under way",
        logs.iter().flat_map(|log| &log.closes).filter(|(_, within)| *within).count(),
    );
    table.note("lost replies", logs.iter().map(|log| log.unknown.len()).sum::<usize>());
    let errors: Vec<&String> = logs.iter().flat_map(|log| &log.errors).collect();
    errors.iter().take(3).for_each(|error| println!("    {error}"));
    table.none("other errors", errors.len());
    table.none("refused", count(Ending::Refused) + logs.iter().map(|log| log.refused).sum::<usize>());
    table.note("visits", visits.len());
    match is_crash {
        true => table.note("visits whose write had a lost reply", count(Ending::Unknown)),
        false => table.none("visits whose write had a lost reply", count(Ending::Unknown)),
    }
    table.note("visits closed", count(Ending::Closed) + count(Ending::Reset));
    table.none("visits that ended wrong or not at all", count(Ending::Wrong) + count(Ending::TimedOut));
    table.median("all served again after", waits, Duration::from_secs(if is_crash { 10 } else { 5 }));
}

fn answered(lasting: &Lasting) -> usize {
    lasting.logs().iter().map(|log| log.acknowledged.len()).sum()
}
