//! A restart in the middle of a failover: the contract holds for all who connect.

use std::time::Duration;

use super::World;
use super::lasting::Lasting;
use super::visits::{Ending, Visits};

const ROUNDS: usize = 10;
const LASTING: usize = 20;
/// The restart comes at most so long after the failover was asked for, or the master was killed.
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
    let visits = Visits::start(50, None);
    let mut lasting = Lasting::start(LASTING, Duration::from_millis(10));
    let (mut offsets, mut waits) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let cluster = &world.cluster;
        cluster.wait_ready(SETTLED_WITHIN).await.expect("the cluster is well");
        let old = cluster.who_is_master().await.expect("a master");
        world.machine.following().await;
        let before = answered(&lasting);
        let began = match is_crash {
            true => cluster.node(old).kill9(),
            false => cluster.failover(Duration::from_secs(30)).await.expect("a failover"),
        };
        // At another moment in each round.
        tokio::time::sleep(WITHIN * round as u32 / rounds as u32).await;
        let mut restart = world.machine.begin(&["systemctl", "restart", "switchmaster"]);
        offsets.push(began.elapsed());
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
    table.note("failovers with a restart", rounds);
    table.median("the restart was begun after", offsets, WITHIN);
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
    table.note("visits whose write had a lost reply", count(Ending::Unknown));
    table.none("visits that ended wrong or not at all", count(Ending::Wrong) + count(Ending::TimedOut));
    table.median("all served again after", waits, Duration::from_secs(if is_crash { 10 } else { 5 }));
}

fn answered(lasting: &Lasting) -> usize {
    lasting.logs().iter().map(|log| log.acknowledged.len()).sum()
}
