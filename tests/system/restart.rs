//! Restarts and crashes under load: nobody is refused, as the control without the socket unit is.

use std::time::{Duration, Instant};

use super::World;
use super::lasting::Lasting;
use super::machine::{Machine, SOCKET};
use super::visits::{Ending, Visit, Visits};

/// Or `SYSTEM_VISITS`, on a machine that is busy with something else.
const VISITS_A_SECOND: u32 = 200;
const LASTING: usize = 30;
const ROUNDS: usize = 20;
const CONTROL_ROUNDS: usize = 5;
/// Between two faults.
const PAUSE: Duration = Duration::from_secs(3);
/// Newcomers are served by the next process within this.
const SERVED_WITHIN: Duration = Duration::from_secs(1);

pub async fn restarts(world: &mut World) {
    let rounds = world.rounds.unwrap_or(ROUNDS);
    let seen =
        under_load(world, rounds, |machine| drop(machine.begin(&["systemctl", "restart", "switchmaster"]))).await;
    demand(world, &seen, true).await;
}

pub async fn kills(world: &mut World) {
    let rounds = world.rounds.unwrap_or(ROUNDS);
    let seen = under_load(world, rounds, kill).await;
    demand(world, &seen, false).await;
}

/// Without the socket unit, to see that these clients notice.
pub async fn control(world: &mut World) {
    world.machine.stop();
    world.machine.succeed(&["systemctl", "mask", "--runtime", "--now", "switchmaster.socket"]);
    world.machine.succeed(&["systemctl", "start", "switchmaster.service"]);
    world.machine.following().await;
    let warned = world.machine.journal(20).contains("while this service restarts, clients are refused");
    world.table.demand("a warning in the log", warned, "true", warned);
    let rounds = world.rounds.unwrap_or(CONTROL_ROUNDS).min(CONTROL_ROUNDS);
    let seen =
        under_load(world, rounds, |machine| drop(machine.begin(&["systemctl", "restart", "switchmaster"]))).await;
    world.table.at_least("refused or reset, restarts", seen.cut(), 20 * rounds);
    let seen = under_load(world, rounds, kill).await;
    world.table.at_least("refused or reset, kill -9", seen.cut(), 10 * rounds);
    world.machine.succeed(&["systemctl", "unmask", "--runtime", "switchmaster.socket"]);
    world.machine.succeed(&["systemctl", "stop", "switchmaster.service"]);
}

fn kill(machine: &Machine) {
    machine.succeed(&["systemctl", "kill", "--signal=KILL", "--kill-whom=main", "switchmaster.service"]);
}

struct Seen {
    visits: Vec<Visit>,
    /// In each round the longest wait of those that came after the fault.
    waits: Vec<Duration>,
    /// The most closes of one client in one round.
    most_closes: usize,
    closes: usize,
    closes_within: usize,
    rounds: usize,
    lasting: Lasting,
}

impl Seen {
    fn count(&self, ending: Ending) -> usize {
        self.visits.iter().filter(|visit| visit.ending == ending).count()
    }

    fn cut(&self) -> usize {
        self.count(Ending::Refused) + self.count(Ending::Reset)
    }
}

async fn under_load(world: &mut World, rounds: usize, fault: impl Fn(&Machine)) -> Seen {
    let machine = &world.machine;
    let socket = machine.seen_path(SOCKET);
    let asked = std::env::var("SYSTEM_VISITS").ok().map(|visits| visits.parse().expect("a number"));
    let visits = Visits::start(asked.unwrap_or(VISITS_A_SECOND), Some(socket).filter(|socket| socket.exists()));
    let mut lasting = Lasting::start(LASTING, Duration::from_millis(50));
    tokio::time::sleep(PAUSE).await;
    let mut faults = Vec::new();
    for _ in 0..rounds {
        faults.push(Instant::now());
        fault(machine);
        tokio::time::sleep(PAUSE).await;
    }
    let ended = Instant::now();
    let all = visits.stop();
    lasting.stop();
    let bounds: Vec<(Instant, Instant)> =
        faults.iter().zip(faults[1..].iter().chain([&ended])).map(|(from, to)| (*from, *to)).collect();
    let longest = |(from, to): &(Instant, Instant)| {
        let of_round = all.iter().filter(|visit| visit.began >= *from && visit.began < *to);
        of_round.map(|visit| visit.took).max().unwrap_or_default()
    };
    let logs = lasting.logs();
    let closes_of = |(from, to): &(Instant, Instant)| {
        logs.iter().map(|log| log.closes.iter().filter(|(at, _)| at >= from && at < to).count()).max().unwrap_or(0)
    };
    Seen {
        waits: bounds.iter().map(longest).collect(),
        most_closes: bounds.iter().map(closes_of).max().unwrap_or(0),
        closes: logs.iter().map(|log| log.closes.len()).sum(),
        closes_within: logs.iter().flat_map(|log| &log.closes).filter(|(_, within)| *within).count(),
        visits: all,
        rounds,
        lasting,
    }
}

async fn demand(world: &mut World, seen: &Seen, is_orderly: bool) {
    let master = world.cluster.who_is_master().await.expect("a master");
    let verdict = seen.lasting.verify(world.cluster.node_addr(master)).await.expect("the lists are read");
    let (table, logs) = (&mut world.table, seen.lasting.logs());
    table.note("faults", seen.rounds);
    table.at_least("visits", seen.visits.len(), seen.rounds * 50);
    table.none("refused", seen.count(Ending::Refused));
    let reset = seen.count(Ending::Reset);
    if is_orderly {
        table.none("reset, or closed before a reply", reset);
    } else {
        // Those whom the process had accepted went with it.
        table.demand(
            "reset: in the process that was killed",
            reset,
            "at most 5 a fault",
            reset <= 5 * seen.rounds || super::is_anywhere(),
        );
    }
    table.none("wrong or timed out", seen.count(Ending::Wrong) + seen.count(Ending::TimedOut));
    table.note("pages closed between two requests", seen.count(Ending::Closed));
    table.median("the longest wait of a newcomer", seen.waits.clone(), SERVED_WITHIN);
    table.demand("closes of one lasting client in a round", seen.most_closes, "at most 1", seen.most_closes <= 1);
    table.at_least("closes of lasting clients", seen.closes, seen.rounds);
    table.note("of these, with a request under way", seen.closes_within);
    table.none("lasting clients refused", logs.iter().map(|log| log.refused).sum());
    table.none("errors of lasting clients", logs.iter().map(|log| log.errors.len()).sum());
    table.note("writes acknowledged to lasting clients", verdict.acknowledged);
    table.none("acknowledged and missing", verdict.missing);
    table.none("run twice", verdict.twice);
}
