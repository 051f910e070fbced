//! Ratios, medians and their spread; the page that `make bench` writes.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::idle::Idle;
use crate::load::Load;
use crate::open_loop::Latency;
use crate::syscalls::Calls;
use crate::targets::{DIRECT, HAPROXY, NAKED, Target, Targets};
use crate::{Failure, plot};

/// One slice: requests per second, and microseconds of CPU per request of the target and of the whole machine.
#[derive(Clone, Copy)]
pub struct Cell {
    pub rate: f64,
    pub own: f64,
    pub all: f64,
}

/// A median with its quartiles.
#[derive(Clone, Copy)]
pub struct Spread {
    pub low: f64,
    pub middle: f64,
    pub high: f64,
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} ({:.2}–{:.2})", self.middle, self.low, self.high)
    }
}

/// One target under one load.
pub struct Figures {
    pub name: &'static str,
    /// Requests per second / direct.
    pub rate: Option<Spread>,
    /// Own CPU per request, µs.
    pub own: f64,
    /// The same / HAProxy's.
    pub haproxy: Option<Spread>,
    /// The same / the naked relay's.
    pub naked: Option<Spread>,
    /// CPU of the whole machine per request / direct.
    pub all: Option<Spread>,
}

/// One load.
pub struct Row {
    pub name: &'static str,
    pub title: &'static str,
    pub figures: Vec<Figures>,
}

impl Row {
    /// Pairs what was measured in the same round.
    pub fn new(load: &Load, order: &[&Target], rounds: &[BTreeMap<&str, Cell>]) -> Row {
        let ratio = |of: &str, to: &str, what: fn(&Cell) -> f64| -> Option<Spread> {
            let pairs: Vec<f64> = rounds
                .iter()
                .filter_map(|cells| Some(what(cells.get(of)?) / what(cells.get(to)?)))
                .filter(|ratio| ratio.is_finite())
                .collect();
            (!pairs.is_empty()).then(|| spread(&pairs))
        };
        let mut figures: Vec<Figures> = order
            .iter()
            .map(|target| Figures {
                name: target.name,
                rate: ratio(target.name, DIRECT, |cell| cell.rate),
                own: median(&rounds.iter().filter_map(|cells| Some(cells.get(target.name)?.own)).collect::<Vec<_>>()),
                haproxy: ratio(target.name, HAPROXY, |cell| cell.own),
                naked: ratio(target.name, NAKED, |cell| cell.own),
                all: ratio(target.name, DIRECT, |cell| cell.all),
            })
            .collect();
        figures.sort_by_key(|figures| figures.name != DIRECT);
        Row { name: load.name, title: load.title, figures }
    }
}

const HEAD: &str = "| | rate / direct | own CPU / request | / HAProxy | / naked relay | machine's CPU / direct |\n|---|---|---|---|---|---|";

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "**{}**\n\n{HEAD}", self.title)?;
        for figures in &self.figures {
            let show = |spread: Option<Spread>| spread.map_or("–".to_owned(), |spread| spread.to_string());
            let relay = figures.name != DIRECT;
            let own = if relay { format!("{:.2} µs", figures.own) } else { "–".into() };
            let compared = |spread: Option<Spread>| show(spread.filter(|_| relay));
            writeln!(
                f,
                "| {} | {} | {own} | {} | {} | {} |",
                figures.name,
                compared(figures.rate),
                compared(figures.haproxy),
                compared(figures.naked),
                compared(figures.all)
            )?;
        }
        Ok(())
    }
}

/// The middle of some figures.
pub fn median(figures: &[f64]) -> f64 {
    spread(figures).middle
}

fn spread(figures: &[f64]) -> Spread {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |share: f64| match sorted.len() {
        0 => f64::NAN,
        count => {
            let place = share * (count - 1) as f64;
            let (below, part) = (place.floor() as usize, place.fract());
            sorted[below] + part * (sorted[(below + 1).min(count - 1)] - sorted[below])
        }
    };
    Spread { low: at(0.25), middle: at(0.5), high: at(0.75) }
}

/// Everything that was measured.
pub struct Page<'a> {
    pub rows: Vec<Row>,
    pub latencies: Vec<Latency>,
    pub calls: Vec<Calls>,
    pub sessions: Vec<Idle>,
    pub targets: &'a Targets,
    pub options: (usize, Duration),
}

/// Writes `folder`/performance.md with its plots in `folder`/img.
pub fn write(folder: &str, page: &Page<'_>) -> Result<(), Failure> {
    let folder = Path::new(folder);
    let images = folder.join("img");
    fs::create_dir_all(&images)?;
    let (rounds, slice) = page.options;
    let mut text = format!(
        "# Performance\n\n<!-- `make bench` writes this page. -->\n\n\
         Measured by `make bench` on {}. One Redis server, the proxies and the clients share the machine. Targets take\n\
         turns in slices of {} ms, forwards and backwards, {rounds} rounds; figures are medians of the ratios within a round,\n\
         quartiles in brackets. \"Own CPU\" is the time of all of a proxy's threads (schedstat). The naked relay is ours\n\
         without its tap: the same runtime, sockets and buffers, and no look at the bytes.\n\n{}\n\n",
        machine(),
        slice.as_millis(),
        page.targets.versions.iter().map(|version| format!("- {version}")).collect::<Vec<_>>().join("\n")
    );
    for row in &page.rows {
        fs::write(images.join(format!("{}.svg", row.name)), plot::cpu(row))?;
        writeln!(text, "## {}\n\n![CPU per request](img/{}.svg)\n\n{row}", row.title, row.name)?;
    }
    if !page.latencies.is_empty() {
        writeln!(
            text,
            "## Latency at a fixed rate\n\nAn open loop over 50 connections at 60 % of what the slowest target can do; \
             counted from the moment a request was due. Microseconds, medians over the rounds.\n"
        )?;
        for latency in &page.latencies {
            writeln!(
                text,
                "{:.0} requests/s, {}:\n\n| | p50 | p99 | p99.9 |\n|---|---|---|---|",
                latency.rate,
                latency.transport.name()
            )?;
            for (name, [half, most, nearly_all]) in &latency.percentiles {
                writeln!(text, "| {name} | {half:.0} | {most:.0} | {nearly_all:.0} |")?;
            }
            writeln!(text)?;
        }
    }
    for calls in &page.calls {
        writeln!(
            text,
            "## System calls: {}\n\nPer request (strace).\n\n| | calls | of which |\n|---|---|---|",
            calls.title
        )?;
        for (name, count, most) in &calls.counts {
            writeln!(text, "| {name} | {count:.2} | {most} |")?;
        }
        writeln!(text)?;
    }
    if !page.sessions.is_empty() {
        writeln!(
            text,
            "## Idle sessions\n\nBytes of memory (Pss) for each of 9,000 sessions, without the kernel's for sockets: \
             connected and silent, and after one request.\n\n| | silent | with its backend |\n|---|---|---|"
        )?;
        for idle in &page.sessions {
            writeln!(text, "| {} | {:.0} | {:.0} |", idle.name, idle.silent, idle.served)?;
        }
    }
    fs::write(folder.join("performance.md"), text.trim_end().to_owned() + "\n")?;
    Ok(())
}

/// Processor, cores, kernel.
fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1)).unwrap_or("?");
    let cores = info.lines().filter(|line| line.starts_with("processor")).count();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kernel = kernel.split('-').next().unwrap_or("").trim().to_owned();
    format!("{cores} cores of {model}, Linux {kernel}")
}
