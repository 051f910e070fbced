//! No memory is left: the process ends, nobody is refused, and the next process serves.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use switchmaster::demo::cluster::until;
use switchmaster::demo::wire::Wire;

use super::World;
use super::machine::{Machine, listen};
use super::visits::{Ending, Visits, credentials};

/// More than the process has need of at first, and less than the clients below make it hold.
const LIMIT: usize = 16 << 20;
const CLIENTS: usize = 600;
const REQUEST: usize = 200_000;
const ROUNDS: usize = 5;
const SERVED_WITHIN: Duration = Duration::from_secs(1);

/// What limits the process.
enum Limited {
    /// The kernel ends it.
    Unit,
    /// Where the system has no memory controller: an allocation fails, and the process aborts.
    Process,
}

impl Limited {
    fn set(machine: &Machine) -> Limited {
        if machine.run(&["cat", "/sys/fs/cgroup/cgroup.controllers"]).split(' ').any(|name| name == "memory") {
            let limit = format!("MemoryMax={LIMIT}");
            let set = ["systemctl", "set-property", "--runtime", "switchmaster.service", &limit, "MemorySwapMax=0"];
            machine.succeed(&set);
            return Limited::Unit;
        }
        let pid = machine.main_pid().expect("it runs").to_string();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let data = status.lines().find_map(|line| line.strip_prefix("VmData:")?.trim().strip_suffix(" kB"));
        let limit = data.and_then(|kib| kib.trim().parse::<usize>().ok()).expect("a size") * 1024 + LIMIT;
        let set = Command::new("prlimit").args(["--pid", &pid, &format!("--data={limit}")]).status();
        assert!(set.is_ok_and(|status| status.success()), "prlimit");
        Limited::Process
    }

    fn lift(&self, machine: &Machine) {
        if let Limited::Unit = self {
            let lift = ["systemctl", "set-property", "--runtime", "switchmaster.service", "MemoryMax=infinity"];
            machine.succeed(&lift);
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Limited::Unit => "MemoryMax= of the unit",
            Limited::Process => "RLIMIT_DATA (no memory controller here)",
        }
    }
}

pub async fn out_of_memory(world: &mut World) {
    let rounds = world.rounds.unwrap_or(ROUNDS).min(ROUNDS);
    let visits = Visits::start(50, None);
    let (mut ended, mut waits, mut how) = (0, Vec::new(), "");
    for _ in 0..rounds {
        let machine = &world.machine;
        let limited = Limited::set(machine);
        let before = machine.property("NRestarts");
        machine.succeed(&["switchmaster", "hold", "--for", "25s"]);
        let clients: Vec<_> = (0..CLIENTS).map(|_| tokio::spawn(send_much())).collect();
        let killed = until("it to end", Duration::from_secs(20), async || {
            if machine.property("NRestarts") != before { Ok(()) } else { Err("it runs on".into()) }
        });
        ended += usize::from(killed.await.is_ok());
        clients.into_iter().for_each(|client| client.abort());
        let began = Instant::now();
        let mut wire = Wire::open(listen(), Some(&credentials()), 0).await.expect("nobody is refused");
        wire.ask(&["PING"]).await.expect("it serves");
        waits.push(began.elapsed());
        limited.lift(machine);
        how = limited.name();
        machine.following().await;
    }
    let visits = visits.stop();
    let count = |ending: Ending| visits.iter().filter(|visit| visit.ending == ending).count();
    let table = &mut world.table;
    table.note("limited by", how);
    table.at_least("ended for want of memory, and started again", ended, rounds);
    table.note("visits", visits.len());
    table.none("refused", count(Ending::Refused));
    table.none("wrong or timed out", count(Ending::Wrong) + count(Ending::TimedOut));
    table.median("served again after", waits, SERVED_WITHIN);
}

/// A request that is held, and nobody waits for its reply.
async fn send_much() {
    let Ok(mut wire) = Wire::open(listen(), Some(&credentials()), 0).await else { return };
    let _ = wire.ask(&[&b"SET"[..], b"large", &vec![b'x'; REQUEST]]).await;
}
