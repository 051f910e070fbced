//! System calls for each request, counted by strace in a run of its own.

use std::fmt;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::Failure;
use crate::load::{self, Load};
use crate::targets::Targets;

const LENGTH: Duration = Duration::from_secs(2);

/// Calls per request of each proxy, with the three most frequent.
pub struct Calls {
    pub title: &'static str,
    pub counts: Vec<(&'static str, f64, String)>,
}

impl fmt::Display for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "system calls per request: {}", self.title)?;
        for (name, calls, most) in &self.counts {
            writeln!(f, "  {name:<20} {calls:>6.2}  {most}")?;
        }
        Ok(())
    }
}

/// Counts them for every proxy that `load` can be put on.
pub async fn count(load: &Load, targets: &Targets) -> Result<Calls, Failure> {
    let mut counts = Vec::new();
    for target in targets.of(load).into_iter().filter(|target| target.is_relay()) {
        load::run(load, target, LENGTH / 10).await?;
        let file = tempfile::NamedTempFile::new()?;
        let mut strace = Command::new("strace");
        strace.args(["-f", "-c", "-o"]).arg(file.path());
        for process in target.processes() {
            strace.arg("-p").arg(process.to_string());
        }
        let mut strace = strace.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        tokio::time::sleep(Duration::from_millis(500)).await; // it attaches
        let done = load::run(load, target, LENGTH).await?;
        Command::new("kill").args(["-INT", &strace.id().to_string()]).status()?;
        strace.wait()?;
        let table = std::fs::read_to_string(file.path())?;
        let mut calls: Vec<(u64, String)> = table.lines().filter_map(line).collect();
        calls.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
        let total: u64 = calls.iter().map(|(count, _)| count).sum();
        let each = |count: u64| count as f64 / done.requests as f64;
        let most: Vec<String> =
            calls.iter().take(6).map(|(count, name)| format!("{name} {:.2}", each(*count))).collect();
        counts.push((target.name, each(total), most.join(", ")));
    }
    Ok(Calls { title: load.title, counts })
}

/// `% time  seconds  usecs/call  calls  [errors]  syscall`
fn line(line: &str) -> Option<(u64, String)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let name = fields.last().filter(|name| **name != "total")?;
    let count = fields.get(3)?.parse().ok()?;
    name.starts_with(|first: char| first.is_ascii_alphabetic()).then(|| (count, (*name).to_owned()))
}
