//! No memory is left: the process ends, nobody is refused, and the next process serves.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use switchmaster::demo::cluster::until;
use switchmaster::demo::wire::Wire;

use super::World;
use super::machine::{Machine, listen};
use super::visits::{Ending, Visits, credentials};

/// More than the process has need of at first, and less than these clients make it hold, 24 KiB each.
const LIMIT: usize = 16 << 20;
const CLIENTS: usize = 1500;
const REQUEST: usize = 100_000;
const ROUNDS: usize = 5;
const SERVED_WITHIN: Duration = Duration::from_secs(1);

/// What limits the process, until it is dropped; the kernel ends it.
enum Limited<'a> {
    Unit(&'a Machine),
    /// Where the container has no memory controller, and this machine one of the old kind: what is new of this process.
    Group(PathBuf),
}

impl Limited<'_> {
    /// `None`: there is no memory controller.
    fn set(machine: &Machine) -> Option<Limited<'_>> {
        if machine.run(&["cat", "/sys/fs/cgroup/cgroup.controllers"]).split(' ').any(|name| name == "memory") {
            let limit = format!("MemoryMax={LIMIT}");
            let set = ["systemctl", "set-property", "--runtime", "switchmaster.service", &limit, "MemorySwapMax=0"];
            machine.succeed(&set);
            return Some(Limited::Unit(machine));
        }
        let group = PathBuf::from(format!("/sys/fs/cgroup/memory/switchmaster-{}", std::process::id()));
        fs::create_dir(&group).ok()?;
        let pid = machine.main_pid().expect("it runs");
        fs::write(group.join("memory.limit_in_bytes"), LIMIT.to_string()).expect("a limit");
        fs::write(group.join("cgroup.procs"), pid.to_string()).expect("the process is limited");
        Some(Limited::Group(group))
    }

    fn name(&self) -> &'static str {
        match self {
            Limited::Unit(_) => "MemoryMax= of the unit",
            Limited::Group(_) => "a group of this machine",
        }
    }
}

impl Drop for Limited<'_> {
    fn drop(&mut self) {
        match self {
            Limited::Unit(machine) => {
                let lift = ["systemctl", "set-property", "--runtime", "switchmaster.service", "MemoryMax=infinity"];
                machine.run(&lift);
            }
            Limited::Group(path) => drop(fs::remove_dir(path)),
        }
    }
}

pub async fn out_of_memory(world: &mut World) {
    let rounds = world.rounds.unwrap_or(ROUNDS).min(ROUNDS);
    let visits = Visits::start(50, None);
    let (mut ended, mut waits, mut how) = (0, Vec::new(), "");
    for _ in 0..rounds {
        let machine = &world.machine;
        let mut wires = Vec::new();
        for _ in 0..CLIENTS {
            wires.push(Wire::open(listen(), Some(&credentials()), 0).await.expect("a connection"));
        }
        let before = machine.property("NRestarts");
        machine.succeed(&["switchmaster", "hold", "--for", "25s"]);
        let Some(limited) = Limited::set(machine) else {
            return world.table.note("NOT TESTED", "there is no memory controller");
        };
        how = limited.name();
        let clients: Vec<_> = wires.into_iter().map(|wire| tokio::spawn(send_much(wire))).collect();
        let killed = until("it to end", Duration::from_secs(20), async || {
            if machine.property("NRestarts") != before { Ok(()) } else { Err("it runs on".into()) }
        });
        ended += usize::from(killed.await.is_ok());
        clients.into_iter().for_each(|client| client.abort());
        let began = Instant::now();
        let mut wire = Wire::open(listen(), Some(&credentials()), 0).await.expect("nobody is refused");
        wire.ask(&["PING"]).await.expect("it serves");
        waits.push(began.elapsed());
        drop(limited);
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
async fn send_much(mut wire: Wire) {
    let _ = wire.ask(&[&b"SET"[..], b"large", &vec![b'x'; REQUEST]]).await;
}
