//! What the kernel knows of this process, under the names that every Prometheus client library gives it.
//!
//! Read from /proc at each scrape; where there is none the values are 0.

use std::fmt::{Display, Write};
use std::fs;

use crate::metrics as names;

/// Ticks a second in /proc/PID/stat: USER_HZ, which is 100 on every architecture that we are built for.
const TICKS: f64 = 100.0;

/// Appends the samples.
pub(super) fn write(text: &mut String) {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let number = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    let mut one = |name: &str, value: &dyn Display| {
        names::write_head(text, name);
        let _ = writeln!(text, "{name} {value}");
    };
    one(names::PROCESS_CPU, &cpu_seconds());
    one(names::PROCESS_VIRTUAL_MEMORY, &(number("VmSize") * 1024));
    one(names::PROCESS_RESIDENT_MEMORY, &(number("VmRSS") * 1024));
    one(names::PROCESS_OPEN_FDS, &open_fds());
    one(names::PROCESS_MAX_FDS, &max_fds());
    one(names::PROCESS_THREADS, &number("Threads"));
}

/// utime and stime, the 14th and the 15th field (proc_pid_stat(5)); the second, in parentheses, may hold anything.
fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ');
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    ticks as f64 / TICKS
}

fn open_fds() -> u64 {
    // Linux 6.2 and later tell the number without a walk over what may be tens of thousands.
    match fs::metadata("/proc/self/fd") {
        Ok(folder) if folder.len() > 0 => folder.len(),
        _ => fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64),
    }
}

fn max_fds() -> u64 {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
