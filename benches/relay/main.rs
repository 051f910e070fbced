//! What relaying costs: switchmaster beside its peers and beside a relay that looks at nothing.
//!
//! Two or more targets take turns in short slices, forwards and backwards (ABBA), on the machine as it is; what is
//! reported are medians of ratios within a round, with their quartiles, never single timings. `make bench` runs all of
//! it and writes `docs/performance.md` with its plots; `cargo bench --bench relay -- --only get-50 --rounds 3` one load.

mod client;
mod cpu;
mod idle;
mod load;
mod naked;
mod open_loop;
mod plot;
mod report;
mod syscalls;
mod targets;

use std::collections::BTreeMap;
use std::time::Duration;

use load::{LOADS, Load, Transport};
use report::{Cell, Row};
use targets::{Target, Targets};

/// What any step may fail with; a benchmark has nobody to handle it but its reader.
type Failure = Box<dyn std::error::Error>;

struct Options {
    only: Option<Vec<String>>,
    rounds: usize,
    slice: Duration,
    /// Another build of switchmaster, to compare with.
    against: Option<String>,
    /// Write the page and its plots here.
    write: Option<String>,
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [word, listen, upstream] = &arguments[..]
        && word == "naked"
    {
        return naked::run(listen.parse()?, upstream.parse()?);
    }
    if !arguments.iter().any(|argument| argument == "--bench") {
        return Ok(()); // `cargo test --all-targets` only wants to see that it builds
    }
    let value = |name: &str| {
        arguments.iter().position(|argument| argument == name).and_then(|at| arguments.get(at + 1)).cloned()
    };
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let options = Options {
        only: value("--only").map(|names| names.split(',').map(str::to_owned).collect()),
        rounds: value("--rounds").map_or(Ok(if quick { 3 } else { 9 }), |text| text.parse())?,
        slice: Duration::from_millis(value("--slice").map_or(Ok(if quick { 300 } else { 600 }), |text| text.parse())?),
        against: value("--against"),
        write: value("--write"),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(&options))
}

async fn run(options: &Options) -> Result<(), Failure> {
    let targets = Targets::start(options.against.as_deref()).await?;
    for absent in &targets.absent {
        println!("without {absent}");
    }
    let wanted = |name: &str| options.only.as_ref().is_none_or(|only| only.iter().any(|own| name.starts_with(own)));
    let mut rows = Vec::new();
    for load in LOADS.iter().filter(|load| wanted(load.name)) {
        let row = measure(load, &targets, options).await?;
        println!("{row}");
        rows.push(row);
    }
    let mut latencies = Vec::new();
    for transport in [Transport::Tcp, Transport::Unix] {
        let name = format!("latency-{}", transport.name());
        if wanted(&name) {
            let latency = open_loop::measure(transport, &targets, options.rounds, options.slice).await?;
            println!("{latency}");
            latencies.push(latency);
        }
    }
    let mut calls = Vec::new();
    if wanted("syscalls") {
        for load in LOADS.iter().filter(|load| load.traced) {
            let row = syscalls::count(load, &targets).await?;
            println!("{row}");
            calls.push(row);
        }
    }
    let mut sessions = Vec::new();
    if wanted("idle") {
        for target in targets.relays(Transport::Tcp) {
            let cost = idle::measure(target).await?;
            println!("{cost}");
            sessions.push(cost);
        }
    }
    if let Some(path) = &options.write {
        report::write(
            path,
            &report::Page {
                rows,
                latencies,
                calls,
                sessions,
                targets: &targets,
                options: (options.rounds, options.slice),
            },
        )?;
    }
    Ok(())
}

/// Rounds of short slices, each target once in each, the order turned around each time.
async fn measure(load: &Load, targets: &Targets, options: &Options) -> Result<Row, Failure> {
    let mut order: Vec<&Target> = targets.of(load);
    let mut rounds: Vec<BTreeMap<&str, Cell>> = Vec::new();
    // The first slice of each is thrown away: connections, pools and caches are warm after it.
    for round in 0..=options.rounds {
        let mut cells = BTreeMap::new();
        for target in &order {
            let before = (cpu::of(&target.processes()), cpu::busy()?);
            let done = load::run(load, target, options.slice).await?;
            let after = (cpu::of(&target.processes()), cpu::busy()?);
            let own = (after.0 - before.0).as_secs_f64() * 1e6 / done.requests as f64;
            let all = (after.1 - before.1).as_secs_f64() * 1e6 / done.requests as f64;
            cells.insert(target.name, Cell { rate: done.requests as f64 / done.elapsed.as_secs_f64(), own, all });
        }
        if round > 0 {
            rounds.push(cells);
        }
        order.reverse();
    }
    Ok(Row::new(load, &order, &rounds))
}
