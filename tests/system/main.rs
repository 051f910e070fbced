//! switchmaster as a service of a really booted Debian: restarts and crashes under load, by the units in contrib.
//!
//! `make test-system` builds the system in a folder, enters a network of its own and runs this; without that
//! (`SYSTEM_DIR` is not set) nothing is tested, and it says so. Arguments choose scenarios by their names;
//! `SYSTEM_ROUNDS` is how often each fault happens, `SYSTEM_VISITS` how many clients come in a second, `SYSTEM_BINARY` a
//! binary of another build. With `SYSTEM_ANYWHERE` the machine may be slow, or refuse to boot a container: then nothing is
//! tested. Redis and the Sentinels run beside the container, in the same network.

mod failover;
mod faults;
mod hosts;
mod lasting;
mod machine;
mod memory;
mod plot;
mod restart;
mod soak;
mod table;
mod visits;

use std::process::ExitCode;

use switchmaster::demo::cluster::{Cluster, ClusterSpec};
use table::Table;

use machine::Machine;

/// What every scenario has.
struct World {
    cluster: Cluster,
    machine: Machine,
    table: Table,
    /// How often a fault happens; `None`: as often as the scenario says.
    rounds: Option<usize>,
}

const PASSWORD: &str = "of-the-nodes";

/// On a machine that nobody knows: times are shown, not judged.
fn is_anywhere() -> bool {
    std::env::var_os("SYSTEM_ANYWHERE").is_some()
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        println!("system: test");
        return ExitCode::SUCCESS;
    }
    let Some(dir) = std::env::var_os("SYSTEM_DIR") else {
        println!("system: not tested, it needs root and systemd-nspawn: make test-system");
        return ExitCode::SUCCESS;
    };
    let wanted: Vec<String> = arguments.into_iter().filter(|argument| !argument.starts_with('-')).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let spec = ClusterSpec::with_password(PASSWORD);
        let cluster = Cluster::start(spec).await.expect("a cluster");
        let machine = match Machine::boot(dir.as_ref(), &cluster).await {
            Err(error) if is_anywhere() => {
                println!("system: NOT TESTED, no container boots here: {error}");
                return ExitCode::SUCCESS;
            }
            machine => machine.expect("a booted system"),
        };
        let rounds = std::env::var("SYSTEM_ROUNDS").ok().map(|rounds| rounds.parse().expect("a number"));
        let mut world = World { cluster, machine, table: Table::default(), rounds };
        run(&mut world, &wanted).await;
        println!("\n{}", world.table);
        if world.table.has_failed() {
            println!("{}", world.machine.journal(60));
        }
        ExitCode::from(u8::from(world.table.has_failed()))
    })
}

async fn run(world: &mut World, wanted: &[String]) {
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|part| name == part);
    macro_rules! scenarios {
        ($($name:literal: $scenario:expr,)*) => {$(
            if is_wanted($name) {
                println!("--- {}", $name);
                world.table.begin($name);
                world.machine.start().await;
                $scenario(world).await;
            }
        )*};
    }
    if wanted.iter().any(|part| part == "soak") {
        world.table.begin("soak");
        world.machine.start().await;
        soak::soak(world).await;
    }
    scenarios! {
        "units": faults::units,
        "start-without-redis": faults::start_without_redis,
        "reload": faults::reload,
        "port-and-env": hosts::port_and_env,
        "port-taken": hosts::port_taken,
        "before-php": hosts::before_php,
        "restart": restart::restarts,
        "kill": restart::kills,
        "restart-without-socket": restart::control,
        "restart-at-failover": failover::planned,
        "restart-at-crash": failover::crash,
        "stuck-worker": faults::stuck_worker,
        "stuck-control": faults::stuck_control,
        "out-of-memory": memory::out_of_memory,
        "wrong-configuration": faults::wrong_configuration,
        "state-file": faults::state_file,
    }
}
