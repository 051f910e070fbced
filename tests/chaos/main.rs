//! The chaos suite: faults drawn from a seed, on real servers behind the real proxy, under clients of many kinds.
//!
//! Without settings it runs the short list of `cargo test`. `make chaos` sets:
//! `CHAOS_SEED` (default: of the clock, for the short list 2), `CHAOS_FAULTS`, `CHAOS_FROM` (begins with that one of
//! them), `CHAOS_KINDS` (names as in the table, with commas), `CHAOS_PLANNED` (that many planned failovers in a row and
//! nothing else), `CHAOS_PATIENT=1` (Sentinels as they are, looking at nodes each 10 s), `CHAOS_UNIX=1` (clients come
//! by a Unix socket), `CHAOS_PROXY_X` (becomes the proxy's `SWITCHMASTER_X`).
//!
//! It ends with exit code 1 when a promise was broken; the seed replays the same faults.

mod event;
mod foreign;
mod history;
mod namespace;
mod offsets;
mod raw;
mod run;
mod rust;
mod schedule;
mod table;
mod world;

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use schedule::Kind;

/// What was asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Draws the faults.
    pub seed: u64,
    /// How many.
    pub faults: usize,
    /// Which of them comes first, counted from 1.
    pub from: usize,
    /// Of which kinds.
    pub kinds: Vec<Kind>,
    /// Every client library of this machine, not only Rust.
    pub all_clients: bool,
    /// Sentinels look at nodes each second.
    pub hasty: bool,
    /// No run takes longer.
    pub limit: Duration,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        println!("chaos: test");
        return ExitCode::SUCCESS;
    }
    if !is_wanted(&arguments) {
        println!("test result: ok. 0 passed; 0 failed; 1 filtered out");
        return ExitCode::SUCCESS;
    }
    let namespace = namespace::enter();
    let options = options(namespace.is_some());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let limit = options.limit;
    let outcome = runtime.block_on(async {
        tokio::time::timeout(limit, run::run(options, namespace))
            .await
            .unwrap_or_else(|_| Err(format!("the run was not over after {} s", limit.as_secs()).into()))
    });
    match outcome {
        Ok(0) => {
            println!("test result: ok. 1 passed; 0 failed");
            ExitCode::SUCCESS
        }
        Ok(violations) => {
            println!("test result: FAILED. 0 passed; 1 failed ({violations} violations)");
            ExitCode::FAILURE
        }
        Err(error) => {
            println!("test result: FAILED. 0 passed; 1 failed: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether the arguments, which are those of the usual test runner, ask for a test called `chaos`.
fn is_wanted(arguments: &[String]) -> bool {
    const NAME: &str = "chaos";
    let (mut filtered, mut matched) = (false, false);
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--ignored" => return false,
            "--skip" if arguments.next().is_some_and(|skipped| NAME.contains(skipped.as_str())) => return false,
            "--test-threads" | "--format" | "--color" | "--logfile" | "-Z" => _ = arguments.next(),
            flag if flag.starts_with('-') => {}
            filter => {
                filtered = true;
                matched |= NAME.contains(filter);
            }
        }
    }
    matched || !filtered
}

fn options(has_namespace: bool) -> Options {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let (asked, planned) = (number("CHAOS_FAULTS"), number("CHAOS_PLANNED"));
    let mut kinds = match (planned, asked) {
        (Some(_), _) => vec![Kind::Planned],
        (None, Some(_)) => Kind::ALL.to_vec(),
        (None, None) => Kind::SHORT.to_vec(),
    };
    if let Ok(names) = std::env::var("CHAOS_KINDS")
        && !names.is_empty()
    {
        kinds = Kind::ALL.into_iter().filter(|kind| names.split(',').any(|name| name == kind.name())).collect();
    }
    kinds.retain(|kind| has_namespace || !kind.needs_namespace());
    let faults = planned.or(asked).map_or(kinds.len(), |count| count as usize);
    let of_the_clock = || SystemTime::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_secs() % 1_000_000);
    Options {
        // `cargo test` repeats what it did the last time; surprises are for `make chaos`.
        seed: number("CHAOS_SEED").unwrap_or_else(|| planned.or(asked).map_or(2, |_| of_the_clock())),
        faults,
        from: number("CHAOS_FROM").map_or(1, |from| from.max(1) as usize),
        kinds,
        all_clients: planned.or(asked).is_some(),
        hasty: std::env::var_os("CHAOS_PATIENT").is_none(),
        limit: Duration::from_secs(120 + 90 * faults as u64),
    }
}
