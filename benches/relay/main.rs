//! What relaying costs: switchmaster beside its peers and beside a relay that looks at nothing.
//!
//! Targets take turns in short slices, forwards and backwards (ABBA), on the machine as it is; what is reported are
//! medians of ratios within a round, with their quartiles, never single timings. `make bench` runs all of it and writes
//! `docs/performance.md` with its plots, and the table of `docs/comparison.md`; `cargo bench --bench relay -- --only get-50,idle`
//! runs parts, whose results are kept, and `--write` writes the page from what is kept.

mod client;
mod cpu;
mod figures;
mod first_reply;
mod goals;
mod idle;
mod load;
mod naked;
mod open_loop;
mod peers;
mod plot;
mod report;
mod store;
mod syscalls;
mod targets;
mod unsent;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use figures::{Cell, Rounds};
use load::{Crew, LOADS, Load, Transport};
use report::Page;
use store::Store;
use targets::{Target, Targets};

/// What any step may fail with; a benchmark has nobody to handle it but its reader.
type Failure = Box<dyn std::error::Error>;

/// One thing to measure.
#[derive(Clone, Copy)]
enum Part {
    Load(&'static Load),
    Latency(Transport),
    Calls(&'static Load),
    Idle,
    FirstReply,
}

impl Part {
    fn all() -> Vec<Part> {
        let traced = LOADS.iter().filter(|load| load.traced);
        let latencies = [Transport::Tcp, Transport::Unix].map(Part::Latency);
        LOADS
            .iter()
            .map(Part::Load)
            .chain(latencies)
            .chain(traced.map(Part::Calls))
            .chain([Part::Idle, Part::FirstReply])
            .collect()
    }

    /// The part of this name, or those whose names begin so.
    fn named(name: &str) -> Vec<Part> {
        let all = Part::all();
        match all.iter().find(|part| part.name() == name) {
            Some(part) => vec![*part],
            None => all.into_iter().filter(|part| part.name().starts_with(name)).collect(),
        }
    }

    /// As `--only` knows it, and as its result is kept.
    fn name(self) -> String {
        match self {
            Part::Load(load) => load.name.into(),
            Part::Latency(transport) => format!("latency-{}", transport.name()),
            Part::Calls(load) => format!("syscalls-{}", load.name),
            Part::Idle => "idle".into(),
            Part::FirstReply => "first-reply".into(),
        }
    }
}

struct Options {
    /// Names of parts.
    only: Option<Vec<String>>,
    rounds: usize,
    slice: Duration,
    /// Another build of switchmaster, to compare with.
    against: Option<String>,
    /// Nothing is kept.
    quick: bool,
    /// Write the page into this folder's `docs`, and the table of comparison.md there.
    write: Option<String>,
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["naked", listen, path, upstream, workers] => {
            return naked::run(listen.parse()?, Path::new(path), upstream.parse()?, workers.parse()?);
        }
        ["first-reply", addr, count, pause] => {
            return first_reply::client(addr.parse()?, count.parse()?, Duration::from_millis(pause.parse()?));
        }
        _ => {}
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
        rounds: value("--rounds").map_or(Ok(if quick { 2 } else { 9 }), |text| text.parse())?,
        slice: Duration::from_millis(value("--slice").map_or(Ok(if quick { 80 } else { 400 }), |text| text.parse())?),
        against: value("--against"),
        quick,
        write: value("--write"),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(&options))
}

async fn run(options: &Options) -> Result<(), Failure> {
    let started = Instant::now();
    let parts: Vec<Part> = match &options.only {
        None => Part::all(),
        Some(only) => only.iter().flat_map(|name| Part::named(name)).collect(),
    };
    let mut store = Store::open(options.only.is_none())?;
    let mut failed = Vec::new();
    if !parts.is_empty() {
        let targets = Targets::start(options.against.as_deref()).await?;
        for absent in &targets.absent {
            println!("without {absent}");
        }
        store.versions.clone_from(&targets.versions);
        for (index, part) in parts.iter().enumerate() {
            let passed = started.elapsed().as_secs();
            println!("[{}/{}, {passed} s] {}", index + 1, parts.len(), part.name());
            // What was measured of the others is worth keeping.
            if let Err(error) = measure(*part, &targets, options, &mut store).await {
                println!("{} FAILED: {error}", part.name());
                failed.push(part.name());
            }
        }
    }
    if let Some(folder) = &options.write {
        Page::of(&store).write(Path::new(folder))?;
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("failed: {}", failed.join(", ")).into()) }
}

/// Measures one part, shows it and keeps it.
async fn measure(part: Part, targets: &Targets, options: &Options, store: &mut Store) -> Result<(), Failure> {
    let mut page = Page::default();
    let name = part.name();
    let keep = !options.quick && options.against.is_none();
    match part {
        Part::Load(load) => {
            let rounds = rounds(load, targets, options).await?;
            if keep {
                store.keep(&name, &rounds)?;
            }
            page.loads.push((load, rounds));
        }
        Part::Latency(transport) => {
            let length = options.slice * 4;
            let latencies = open_loop::measure(transport, targets, options.rounds, length).await?;
            if keep {
                store.keep(&name, &latencies)?;
            }
            page.latencies.push((transport, latencies));
        }
        Part::Calls(load) => {
            let calls = syscalls::count(load, targets, options.slice * 3 / 4).await?;
            if keep {
                store.keep(&name, &calls)?;
            }
            page.calls.push((load, calls));
        }
        Part::Idle => {
            for target in targets.relays(Transport::Tcp) {
                page.sessions.push(idle::measure(target, if options.quick { 2000 } else { 9000 }).await?);
            }
            if keep {
                store.keep(&name, &page.sessions)?;
            }
        }
        Part::FirstReply => match first_reply::measure(if options.quick { 8 } else { 24 }) {
            Ok(arrivals) => {
                if keep {
                    store.keep(&name, &arrivals)?;
                }
                page.arrivals = arrivals;
            }
            Err(error) => println!("without first replies from afar: {error}"),
        },
    }
    println!("{}", page.results());
    Ok(())
}

/// Rounds of short slices, each target once in each, the order turned around each time.
async fn rounds(load: &Load, targets: &Targets, options: &Options) -> Result<Rounds, Failure> {
    let order: Vec<&Target> = targets.of(load);
    let mut crews = Vec::new();
    for target in &order {
        crews.push((*target, Crew::new(load, target).await?));
    }
    let mut rounds = Vec::new();
    // The first slice of each is thrown away: connections, pools and caches are warm after it.
    for round in 0..=options.rounds {
        let mut cells = BTreeMap::new();
        for (target, crew) in &mut crews {
            let before = (cpu::of(&target.processes()), cpu::busy()?);
            let done = crew.work(options.slice).await?;
            let after = (cpu::of(&target.processes()), cpu::busy()?);
            let own = (after.0 - before.0).as_secs_f64() * 1e6 / done.requests as f64;
            let all = (after.1 - before.1).as_secs_f64() * 1e6 / done.requests as f64;
            let rate = done.requests as f64 / done.elapsed.as_secs_f64();
            cells.insert(target.label(load), Cell { rate, own, all });
        }
        if round > 0 {
            rounds.push(cells);
        }
        crews.reverse();
    }
    let targets = order.iter().map(|target| target.label(load)).collect();
    Ok(Rounds { targets, slice_ms: options.slice.as_millis() as u64, rounds })
}
