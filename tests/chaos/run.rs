//! One run: start everything, inflict one fault after the other, check after each, print the table.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use switchmaster::demo::cluster::until;
use tokio::sync::watch;
use tokio::time::sleep;

use super::Options;
use super::event::Clock;
use super::foreign::{Foreign, languages};
use super::history::{Findings, Missing, Witness};
use super::namespace::Namespace;
use super::offsets::{Offsets, Sample};
use super::raw::{Habit, Raw};
use super::rust::Rust;
use super::schedule::{Fault, Kind, Tolerance, draw};
use super::table::{Row, Table};
use super::world::{Failure, World};

/// A client that did nothing for this long after everything was whole has been forgotten.
const SILENCE: Duration = Duration::from_secs(4);
/// How long a session of the proxy may stay at a node that is no longer the master.
const STRAY_LIMIT: Duration = Duration::from_secs(2);

/// The clients that run, and what they did.
struct Clients {
    witnesses: Vec<Witness>,
    foreign: Vec<Foreign>,
    stop: watch::Sender<bool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// Runs it all; returns the number of broken promises.
pub async fn run(options: Options, namespace: Option<Namespace>) -> Result<usize, Failure> {
    let faults = draw(options.seed, options.faults, &options.kinds);
    println!("chaos: seed {}, {} faults of {} kinds", options.seed, faults.len(), options.kinds.len());
    let world = World::start(namespace, options.hasty).await?;
    let offsets = Offsets::start(&world.cluster);
    let baseline = world.descriptors();
    let mut clients = Clients::start(&world, options.all_clients)?;
    let mut table = Table::default();
    sleep(Duration::from_secs(1)).await;
    let mut violations = 0;
    for (index, fault) in faults.iter().enumerate().skip(options.from - 1) {
        sleep(fault.calm).await;
        let began = Instant::now();
        let outcome = one(&world, &offsets, &mut clients, fault, began).await;
        let (findings, mut broken, gap) = match outcome {
            Ok(seen) => seen,
            Err(error) => (Findings::default(), vec![format!("the fault did not end well: {error}")], None),
        };
        if world.proxy.log().contains("panicked") {
            broken.push("the proxy panicked".into());
        }
        println!("{:>3} {}", index + 1, summary(fault, &findings, began.elapsed(), gap));
        let failed_to_heal = broken.iter().any(|what| what.starts_with("the fault did not end well"));
        for what in &broken {
            violations += 1;
            println!("    VIOLATION (seed {}, fault {}, {}): {what}", options.seed, index + 1, fault.kind.name());
        }
        if !broken.is_empty() {
            for example in &findings.examples {
                println!("      {example}");
            }
            let closed = world.closed_sessions().await;
            println!("      sessions ended: {}", closed.replace('\n', ", "));
            println!("      kept: {}", keep(&world, &options, index + 1, &closed).display());
        }
        table.add(Row { kind: fault.kind, findings, violations: broken.len(), gap });
        if failed_to_heal {
            break;
        }
    }
    let sorts = clients.by_sort();
    let mut last = Findings::default();
    clients.end().await;
    check_all(&world, &mut clients, &mut last).await?;
    let leaks = leaks(&world, baseline).await;
    for leak in &leaks {
        println!("VIOLATION (seed {}): {leak}", options.seed);
    }
    violations += leaks.len();
    println!("\n{table}");
    println!("Operations: {sorts}");
    println!("Seed {}: {} faults, {violations} violations", options.seed, table.count());
    Ok(violations)
}

type Seen = (Findings, Vec<String>, Option<i64>);

async fn one(
    world: &World,
    offsets: &Offsets,
    clients: &mut Clients,
    fault: &Fault,
    began: Instant,
) -> Result<Seen, Failure> {
    let old = world.master().await?;
    world.inflict(fault, old).await?;
    let master = world.heal().await?;
    let mut broken = Vec::new();
    for stray in world.strays(master, STRAY_LIMIT).await {
        broken.push(format!("a session is still at a node that is not the master: {stray}"));
    }
    // Everybody has something to say again.
    sleep(Duration::from_millis(300)).await;
    let mut findings = Findings::default();
    check_all(world, clients, &mut findings).await?;
    if findings.operations > 0 && clients.any_silent() {
        sleep(SILENCE).await;
        check_all(world, clients, &mut findings).await?;
        findings.silent = clients.silent();
    }
    for foreign in &mut clients.foreign {
        if foreign.has_ended() {
            return Err("a client's program has ended".into());
        }
    }
    let samples = offsets.since(began.checked_sub(Duration::from_secs(1)).unwrap_or(began));
    let gap = gap(&samples, old, master);
    broken.extend(judge(world, fault, &findings, &samples));
    if fault.kind == Kind::RestartEmpty {
        clients.witnesses.iter_mut().for_each(Witness::forget);
        if !world.proxy.log().lines().any(|line| line.contains("ERROR") && line.to_lowercase().contains("empty")) {
            broken.push("the log has no loud word of the empty data set".into());
        }
    }
    Ok((findings, broken, gap))
}

async fn check_all(world: &World, clients: &mut Clients, into: &mut Findings) -> Result<(), Failure> {
    let master = world.master().await?;
    let mut wire = world.cluster.connect(master).await?;
    for witness in &mut clients.witnesses {
        witness.check(&mut wire, into).await?;
    }
    Ok(())
}

/// What of the findings breaks a promise.
fn judge(world: &World, fault: &Fault, findings: &Findings, samples: &[Sample]) -> Vec<String> {
    let mut broken = Vec::new();
    let mut unless_zero = |count: u64, what: &str| {
        if count > 0 {
            broken.push(format!("{count} {what}"));
        }
    };
    unless_zero(findings.crossed, "replies or values of another request");
    unless_zero(findings.hung, "requests without an answer");
    unless_zero(findings.silent.len() as u64, "clients that nobody serves");
    let mut tolerance = fault.tolerance();
    if fault.kind == Kind::PlannedTwice {
        if promoted_lame(world, samples) {
            println!(
                "    Sentinel promoted a replica at the very offset of its last copy: it had not followed its master yet"
            );
            tolerance = Tolerance::LostReplies;
        } else if promoted_behind(world, samples) {
            println!(
                "    Sentinel promoted a replica that had less than its master had had before the failover was asked for"
            );
            tolerance = Tolerance::LostReplies;
        }
    }
    if tolerance != Tolerance::Everything {
        unless_zero(findings.doubled, "requests that ran twice");
        unless_zero(findings.stale, "reads answered by a node that was not the master");
    }
    match tolerance {
        Tolerance::Nothing => {
            unless_zero(findings.disturbances(), "errors and lost connections");
            unless_zero(findings.missing.len() as u64, "acknowledged writes missing");
            broken.extend(findings.missing.iter().take(5).map(|missing| format!("{} and is missing", missing.what)));
        }
        Tolerance::LostReplies => {
            let foreign = findings.errors.iter().filter(|(word, _)| word.as_str() != "UNKNOWNRESULT");
            unless_zero(foreign.map(|(_, count)| count).sum(), "errors other than of lost replies");
            let mut published = moments(&world.proxy.log(), "new master ");
            published.retain(|at| samples.first().is_none_or(|first| *at >= first.asked));
            let excuse = |missing: &&Missing| inexcusable(missing, samples, &published).is_some();
            let inexcusable_ones: Vec<&Missing> = findings.missing.iter().filter(excuse).collect();
            unless_zero(inexcusable_ones.len() as u64, "acknowledged writes missing without excuse");
            for missing in inexcusable_ones.into_iter().take(5) {
                let why = inexcusable(missing, samples, &published).unwrap_or_default();
                broken.push(format!("{} and is missing: {why}", missing.what));
            }
        }
        Tolerance::Everything => {}
    }
    if !findings.silent.is_empty() {
        broken.push(format!("silent: {}", findings.silent.join(", ")));
    }
    broken
}

/// Why a write may not be missing: every promoted node had it, nobody was promoted, or it was sent after the proxy
/// knew better.
fn inexcusable(missing: &Missing, samples: &[Sample], published: &[Instant]) -> Option<String> {
    let promotions = promotions(samples);
    if promotions.is_empty() {
        return Some("no node was promoted".into());
    }
    if let Some(last) = published.last()
        && missing.began > *last
    {
        let late = missing.began.duration_since(*last);
        return Some(format!("it was sent {} ms after the proxy had published the last master", late.as_millis()));
    }
    let mut lost_by = promotions.iter().position(|promoted| promoted.asked > missing.acknowledged)?;
    // The proxy may have followed the next master before it was sampled as one: then it ran there.
    while published.get(lost_by).is_some_and(|at| missing.began > *at) {
        lost_by += 1;
    }
    if lost_by >= promotions.len() || published.get(lost_by).is_some_and(|at| missing.acknowledged > *at) {
        return None;
    }
    let source = match lost_by.checked_sub(1) {
        None => samples.iter().find(|sample| sample.is_master)?.node,
        // Sent before the proxy knew that master, it may have gone to the one before.
        Some(before) if published.get(before).is_some_and(|at| missing.began > *at) => promotions[before].node,
        Some(_) => return None,
    };
    let after = samples.iter().find(|sample| sample.node == source && sample.asked >= missing.acknowledged)?;
    let before = samples.iter().rev().find(|sample| sample.node == source && sample.asked < missing.acknowledged)?;
    if after.offset < before.offset {
        return None; // restarted: it counts from the beginning
    }
    // Offsets go on from master to master: every node that was promoted after it, and goes on with its history, must have
    // had it. One that goes on with an older history never followed that master, and nobody can say what it lacks.
    let mut lineage = vec![after.history];
    let mut had = Vec::new();
    for promoted in &promotions[lost_by..] {
        if !lineage.contains(&promoted.inherited_history) {
            return None;
        }
        lineage.push(promoted.history);
        had.push(promoted.inherited);
    }
    (after.is_master && had.iter().all(|inherited| after.offset <= *inherited))
        .then(|| format!("its master's offset was {} after it, the replicas promoted since had {had:?}", after.offset))
}

/// The first sample of each replica as a master.
fn promotions(samples: &[Sample]) -> Vec<Sample> {
    let mut promotions = Vec::new();
    for (at, sample) in samples.iter().enumerate().filter(|(_, sample)| sample.is_master && sample.inherited > 0) {
        let before = samples[..at].iter().rev().find(|earlier| earlier.node == sample.node);
        if before.is_some_and(|before| !before.is_master) {
            promotions.push(*sample);
        }
    }
    promotions
}

/// Whether the last promotion was that of a replica which Sentinel took out of its full resync, or just behind it: by
/// the node's own log it had nothing of the stream that follows the copy. It lacks what was acknowledged since, and
/// may lack what was under way, whatever a proxy does.
fn promoted_lame(world: &World, samples: &[Sample]) -> bool {
    let Some(promoted) = promotions(samples).last().copied() else { return false };
    let log = fs::read_to_string(world.cluster.node(promoted.node).log_path()).unwrap_or_default();
    let mut copies =
        log.lines().filter_map(|line| line.split_once("Full resync from master: ")?.1.trim().split_once(':'));
    copies.next_back().is_some_and(|(_, offset)| offset.parse() == Ok(promoted.inherited))
}

/// Whether the last promotion was that of a replica which lacked what its master had had before anybody asked for that
/// failover. What was acknowledged by then may be missing, and what was under way may have run nowhere else.
fn promoted_behind(world: &World, samples: &[Sample]) -> bool {
    let promotions = promotions(samples);
    let ([.., master, promoted], Some(asked)) = (&promotions[..], world.failover_asked.get()) else { return false };
    let mut before = samples.iter().rev().filter(|sample| sample.node == master.node && sample.asked < asked);
    // The last one may have been answered later; the one before that was answered before the last was asked.
    before.nth(1).is_some_and(|before| before.is_master && before.offset > promoted.inherited)
}

/// Bytes of the old master's stream, as last sampled, that the new one did not inherit.
fn gap(samples: &[Sample], old: usize, new: usize) -> Option<i64> {
    if old == new {
        return None;
    }
    let promoted = samples.iter().find(|sample| sample.node == new && sample.is_master)?;
    let last = samples.iter().rev().find(|sample| sample.node == old && sample.is_master)?;
    Some((last.offset - promoted.inherited).max(0))
}

/// When the proxy logged this.
fn moments(log: &str, what: &str) -> Vec<Instant> {
    let clock = Clock::new();
    let lines = log.lines().filter(|line| line.contains(what));
    lines.filter_map(|line| Some(clock.instant(micros(line.split_whitespace().next()?)?))).collect()
}

/// `2026-01-31T12:34:56.123456Z` as microseconds since 1970.
fn micros(stamp: &str) -> Option<u64> {
    let (date, time) = stamp.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.split('-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let seconds = clock.split(':').try_fold(0, |sum, part| Some(sum * 60 + part.parse::<i64>().ok()?))?;
    // Days from civil, by Howard Hinnant.
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    let fraction = format!("{fraction:0<6}").get(..6)?.parse::<i64>().ok()?;
    u64::try_from((days * 86_400 + seconds) * 1_000_000 + fraction).ok()
}

/// What is still there after every client has left.
async fn leaks(world: &World, baseline: usize) -> Vec<String> {
    let mut leaks = Vec::new();
    let sessions = until("the sessions to end", Duration::from_secs(15), async || {
        match world.metric("switchmaster_sessions").await? {
            0.0 => Ok(()),
            open => Err(format!("{open} sessions are open")),
        }
    });
    if let Err(error) = sessions.await {
        leaks.push(error.to_string());
    }
    // What follows the Sentinels and nodes may have a few more or less.
    let descriptors = until("the descriptors to close", Duration::from_secs(10), async || {
        let open = world.descriptors();
        if open <= baseline + 8 { Ok(()) } else { Err(format!("{open} descriptors are open, {baseline} at the start")) }
    });
    if let Err(error) = descriptors.await {
        leaks.push(error.to_string());
    }
    if world.proxy.log().contains("panicked") {
        leaks.push("the proxy panicked".into());
    }
    leaks
}

fn summary(fault: &Fault, findings: &Findings, took: Duration, gap: Option<i64>) -> String {
    let errors: Vec<String> = findings.errors.iter().map(|(word, count)| format!("{count} {word}")).collect();
    format!(
        "{:<22} {:>5.1} s  {:>6} ops  longest {:>5} ms ({})  errors [{}] cut {}  missing {}  gap {}",
        fault.kind.name(),
        took.as_secs_f64(),
        findings.operations,
        findings.longest.as_millis(),
        findings.longest_of,
        errors.join(", "),
        findings.cut,
        findings.missing.len(),
        gap.map_or("-".into(), |gap| format!("{gap} B")),
    )
}

/// The logs of a failed fault, for later.
fn keep(world: &World, options: &Options, number: usize, closed: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("chaos-{}-{number}", options.seed));
    let _ = fs::create_dir_all(&dir);
    let _ = fs::copy(world.proxy.log_path(), dir.join("proxy.log"));
    let _ = fs::write(dir.join("closed.txt"), closed);
    for server in world.cluster.nodes().iter().chain(world.cluster.sentinels()) {
        let _ = fs::copy(server.log_path(), dir.join(format!("{}.log", server.name().replace(' ', "-"))));
    }
    dir
}

impl Clients {
    fn start(world: &World, all: bool) -> Result<Clients, Failure> {
        let addr = &world.door;
        let (auth, password) = (world.cluster.auth(), world.cluster.spec().password.clone().unwrap_or_default());
        let (stop, stopped) = watch::channel(false);
        let mut witnesses = Vec::new();
        let mut raws = Vec::new();
        let milliseconds = Duration::from_millis;
        for (habit, sort, count, pause) in [
            (Habit::Mixed, "raw", 4, milliseconds(10)),
            (Habit::Resp3, "raw resp3", 1, milliseconds(10)),
            (Habit::Pipelined, "raw pipelined", 2, milliseconds(60)),
            (Habit::Large(60_000), "raw large", 1, milliseconds(40)),
            (Habit::Large(256 * 1024), "raw huge", 1, milliseconds(120)),
            (Habit::Short, "raw short-lived", 2, milliseconds(20)),
            (Habit::Queue, "raw blpop", 1, milliseconds(25)),
            (Habit::Messages, "raw pub/sub", 1, milliseconds(25)),
            (Habit::Idle, "raw idle", 2, milliseconds(2000)),
        ] {
            for _ in 0..count {
                let name = format!("c{}", witnesses.len());
                let largest = if let Habit::Large(most) = habit { most } else { 0 };
                let witness = Witness::new(name.clone(), sort, if habit == Habit::Resp3 { 3 } else { 0 }, largest);
                let (journal, stop) = (witness.journal.clone(), stopped.clone());
                raws.push(Raw { name, habit, addr: addr.clone(), auth: auth.clone(), pause, journal, stop });
                witnesses.push(witness);
            }
        }
        let mut rusts = Vec::new();
        for _ in 0..2 {
            let name = format!("c{}", witnesses.len());
            let witness = Witness::new(name.clone(), "redis-rs", 0, 0);
            let (journal, stop) = (witness.journal.clone(), stopped.clone());
            let (addr, password) = (addr.clone(), password.clone());
            rusts.push(Rust { name, addr, password, pause: milliseconds(15), journal, stop });
            witnesses.push(witness);
        }
        let mut foreign = Vec::new();
        if all {
            let (found, missing) = languages();
            if !missing.is_empty() {
                println!("Not installed here, so without: {}", missing.join(", "));
            }
            for language in found {
                let name = format!("c{}", witnesses.len());
                let witness = Witness::new(name.clone(), language.sort, 0, 0);
                let journal = witness.journal.clone();
                foreign.push(language.start(addr, &password, &name, milliseconds(20), journal, Clock::new())?);
                witnesses.push(witness);
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                let raws = raws.into_iter().map(|raw| tokio::spawn(raw.run()));
                let rusts = rusts.into_iter().map(|rust| tokio::spawn(rust.run()));
                for task in raws.chain(rusts).collect::<Vec<_>>() {
                    let _ = task.await;
                }
            });
        });
        Ok(Clients { witnesses, foreign, stop, thread: Some(thread) })
    }

    fn any_silent(&self) -> bool {
        self.witnesses.iter().any(|witness| witness.is_silent(SILENCE))
    }

    fn silent(&self) -> Vec<String> {
        let silent = self.witnesses.iter().filter(|witness| witness.is_silent(SILENCE));
        silent.map(|witness| format!("{} ({})", witness.name, witness.sort)).collect()
    }

    fn by_sort(&self) -> String {
        let mut sorts: std::collections::BTreeMap<&str, u64> = std::collections::BTreeMap::new();
        for witness in &self.witnesses {
            *sorts.entry(witness.sort).or_default() += witness.operations;
        }
        sorts.iter().map(|(sort, count)| format!("{sort} {count}")).collect::<Vec<_>>().join(", ")
    }

    /// Lets every client finish and leave.
    async fn end(&mut self) {
        self.stop.send_replace(true);
        for foreign in self.foreign.drain(..) {
            foreign.finish(Duration::from_secs(10)).await;
        }
        let began = Instant::now();
        while self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
            && began.elapsed() < Duration::from_secs(45)
        {
            sleep(Duration::from_millis(20)).await;
        }
        self.thread = None;
    }
}
