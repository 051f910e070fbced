//! CPU time of processes and of the machine, from /proc.

use std::fs;
use std::io;
use std::time::Duration;

/// CPU time of all threads of `processes` (the first field of schedstat, in nanoseconds).
pub fn of(processes: &[u32]) -> Duration {
    let of_thread = |path: std::path::PathBuf| -> Option<u64> {
        fs::read_to_string(path.join("schedstat")).ok()?.split(' ').next()?.parse().ok()
    };
    let of_process = |pid: &u32| -> u64 {
        let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
        tasks.flatten().filter_map(|task| of_thread(task.path())).sum()
    };
    Duration::from_nanos(processes.iter().map(of_process).sum())
}

/// CPU time that the whole machine has spent not idle, in steps of 10 ms (the first line of /proc/stat).
pub fn busy() -> io::Result<Duration> {
    let stat = fs::read_to_string("/proc/stat")?;
    let fields: Vec<u64> =
        stat.lines().next().unwrap_or("").split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal
    let ticks: u64 = [0, 1, 2, 5, 6].into_iter().filter_map(|index| fields.get(index)).sum();
    Ok(Duration::from_millis(ticks * 10))
}

/// `pid` and its descendants.
pub fn family(pid: u32) -> Vec<u32> {
    let mut family = vec![pid];
    let mut at = 0;
    while let Some(parent) = family.get(at).copied() {
        at += 1;
        let Ok(tasks) = fs::read_dir(format!("/proc/{parent}/task")) else { continue };
        for task in tasks.flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            family.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
    }
    family
}

/// `Pss` of the processes in bytes: shared pages count in part.
pub fn memory(processes: &[u32]) -> u64 {
    let of_process = |pid: &u32| -> Option<u64> {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        let line = rollup.lines().find(|line| line.starts_with("Pss:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    processes.iter().filter_map(of_process).sum::<u64>() * 1024
}
