//! System calls for each request, counted by strace in runs of their own.
//!
//! A short run and a long one are traced; what the long one has more, calls and requests, is the steady state: what
//! connecting and closing takes is in both. Clients that connect again and again have only the long one. Of ours the
//! threads that relay are traced: the control plane asks the Sentinels by the second, not by the request.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::load::{Crew, Load};
use crate::targets::{Target, Targets};

/// The long run is so much longer than the short one.
const TIMES: u32 = 6;
/// By then every session of a run has ended, so that no run has calls of the one before it.
const CLOSING: Duration = Duration::from_millis(250);
/// How many kinds of calls are named.
const NAMED: usize = 6;
/// The thread of ours that relays nothing.
const CONTROL: &str = "control";

/// Calls per request of a proxy, and the most frequent kinds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Calls {
    pub target: String,
    pub each: f64,
    pub most: Vec<(String, f64)>,
}

/// Counts them for every proxy that `load` can be put on; `short` is the length of the short run.
pub async fn count(load: &Load, targets: &Targets, short: Duration) -> Result<Vec<Calls>, Failure> {
    let mut counts = Vec::new();
    let relays = targets.of(load).into_iter().filter(|target| target.is_relay() && target.transport == load.transport);
    for target in relays {
        // Where connecting is what clients do, it counts.
        let (few, requests_of_few) = match load.habit.connects() {
            true => Default::default(),
            false => trace(load, target, short).await?,
        };
        let (many, requests_of_many) = trace(load, target, short * TIMES).await?;
        let requests = requests_of_many as f64 - requests_of_few as f64;
        let more = |(name, count): (String, u64)| {
            let before = few.get(&name).copied().unwrap_or(0);
            (name, (count as f64 - before as f64) / requests)
        };
        let mut most: Vec<(String, f64)> = many.into_iter().map(more).collect();
        most.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        let each = most.iter().map(|(_, count)| count).sum();
        most.retain(|(_, count)| *count >= 0.005);
        most.truncate(NAMED);
        counts.push(Calls { target: target.name.clone(), each, most });
    }
    Ok(counts)
}

/// Calls by kind, and requests.
async fn trace(load: &Load, target: &Target, length: Duration) -> Result<(BTreeMap<String, u64>, u64), Failure> {
    let file = tempfile::NamedTempFile::new()?;
    let mut strace = Command::new("strace");
    strace.arg("-c").arg("-o").arg(file.path());
    for thread in threads(target) {
        strace.arg("-p").arg(thread.to_string());
    }
    let mut strace = strace.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    while !threads(target).iter().all(|thread| is_traced(*thread)) {
        if strace.try_wait()?.is_some() {
            return Err(format!("strace could not attach to {}", target.name).into());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let done = Crew::new(load, target).await?.work(length).await?;
    tokio::time::sleep(CLOSING).await;
    Command::new("kill").args(["-INT", &strace.id().to_string()]).status()?;
    strace.wait()?;
    let table = fs::read_to_string(file.path())?;
    Ok((table.lines().filter_map(line).collect(), done.requests))
}

/// All threads of a proxy but our control plane's.
fn threads(target: &Target) -> Vec<u32> {
    let of_process = |pid: u32| {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        tasks.filter_map(|task| {
            let name = fs::read_to_string(task.path().join("comm")).ok()?;
            (name.trim() != CONTROL).then(|| task.file_name().to_str()?.parse().ok())?
        })
    };
    target.processes().into_iter().flat_map(of_process).collect()
}

fn is_traced(thread: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    !status.lines().any(|line| line.split_whitespace().eq(["TracerPid:", "0"]))
}

/// `% time  seconds  usecs/call  calls  [errors]  syscall`
fn line(line: &str) -> Option<(String, u64)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let name = fields.last().filter(|name| **name != "total")?;
    let count = fields.get(3)?.parse().ok()?;
    name.starts_with(|first: char| first.is_ascii_alphabetic()).then(|| ((*name).to_owned(), count))
}
