//! The page that `make bench` writes, its plots, and the table of docs/comparison.md.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::Failure;
use crate::Part;
use crate::figures::{Cell, Rounds, Spread};
use crate::first_reply::Arrivals;
use crate::goals::{self, Goal, Verdict};
use crate::idle::Idle;
use crate::load::{Load, Transport};
use crate::open_loop::{Latencies, QUANTILES};
use crate::plot::Plot;
use crate::store::Store;
use crate::syscalls::Calls;
use crate::targets::{DIRECT, HAPROXY, NAKED, NAKED_ONE, NGINX, OURS, OURS_ONE, OURS_REUSE, over_tcp};

/// What was measured.
#[derive(Default)]
pub struct Page {
    pub versions: Vec<String>,
    pub loads: Vec<(&'static Load, Rounds)>,
    pub latencies: Vec<(Transport, Latencies)>,
    pub calls: Vec<(&'static Load, Vec<Calls>)>,
    pub sessions: Vec<Idle>,
    pub arrivals: Vec<Arrivals>,
    /// Parts that were not measured.
    pub missing: Vec<String>,
}

impl Page {
    /// All that was kept.
    pub fn of(store: &Store) -> Page {
        let mut page = Page { versions: store.versions.clone(), ..Page::default() };
        for part in Part::all() {
            let name = part.name();
            let found = match part {
                Part::Load(load) => store.get(&name).map(|rounds| page.loads.push((load, rounds))),
                Part::Latency(transport) => store.get(&name).map(|found| page.latencies.push((transport, found))),
                Part::Calls(load) => store.get(&name).map(|calls| page.calls.push((load, calls))),
                Part::Idle => store.get(&name).map(|sessions| page.sessions = sessions),
                Part::FirstReply => store.get(&name).map(|arrivals| page.arrivals = arrivals),
            };
            if found.is_none() {
                page.missing.push(name);
            }
        }
        page
    }

    /// The rounds of a load.
    pub fn rounds(&self, load: &str) -> Option<&Rounds> {
        self.loads.iter().find(|(own, _)| own.name == load).map(|(_, rounds)| rounds)
    }

    /// Writes `docs/performance.md` and its plots, and the table of docs/comparison.md, into `folder`.
    pub fn write(&self, folder: &Path) -> Result<(), Failure> {
        if !self.missing.is_empty() {
            println!("Not measured, and so not on the page: {}", self.missing.join(", "));
        }
        let images = folder.join("docs/img");
        fs::create_dir_all(&images)?;
        for (load, rounds) in &self.loads {
            fs::write(images.join(format!("{}.svg", load.name)), own_cpu(load, rounds).svg())?;
        }
        fs::write(images.join("summary.svg"), self.summary_plot().svg())?;
        fs::write(images.join("latency.svg"), self.latency_plot().svg())?;
        let text = format!("{}\n{}\n{}", self.opening(), self.goals(), self.results());
        fs::write(folder.join("docs/performance.md"), text.trim_end().to_owned() + "\n")?;

        let comparison = folder.join("docs/comparison.md");
        let text = fs::read_to_string(&comparison)?;
        let (begin, end) = ("<!-- bench -->\n", "<!-- /bench -->");
        let parts = text.split_once(begin).and_then(|(before, rest)| Some((before, rest.split_once(end)?.1)));
        let (before, after) = parts.ok_or("docs/comparison.md has no <!-- bench --> … <!-- /bench -->")?;
        fs::write(&comparison, format!("{before}{begin}{}{end}{after}", self.summary()))?;
        Ok(())
    }

    /// Every table.
    pub fn results(&self) -> String {
        let mut text = String::new();
        for (load, rounds) in &self.loads {
            let _ = writeln!(text, "## {}\n\n![Own CPU per request](img/{}.svg)\n", load.title, load.name);
            let _ = writeln!(text, "{}", table(load, rounds));
        }
        for (transport, latencies) in &self.latencies {
            let _ = writeln!(text, "## Latency at a fixed rate, {}\n\n{}", transport.name(), latency_table(latencies));
        }
        for (load, calls) in &self.calls {
            let _ = writeln!(text, "## System calls: {}\n\n| | per request | of which |\n|---|---|---|", load.title);
            for calls in calls {
                let most: Vec<_> = calls.most.iter().map(|(name, each)| format!("{name} {each:.2}")).collect();
                let _ = writeln!(text, "| {} | {:.2} | {} |", calls.target, calls.each, most.join(", "));
            }
            text.push('\n');
        }
        if let Some(Idle { sessions, .. }) = self.sessions.first() {
            let _ = writeln!(
                text,
                "## Idle sessions\n\nA proxy's own memory (Pss) for each of {sessions} sessions, in bytes, without the kernel's \
                 for sockets: connected and silent, and after one request.\n\n| | silent | after a request |\n|---|---|---|"
            );
            for idle in &self.sessions {
                let _ = writeln!(text, "| {} | {:.0} | {:.0} |", idle.target, idle.silent, idle.served);
            }
            text.push('\n');
        }
        if !self.arrivals.is_empty() {
            let _ = writeln!(
                text,
                "## The first reply from a server that is far away\n\nTwo network namespaces, 2 ms from each other in each \
                 direction, handshakes included. From before a client connects to its first reply.\n\n\
                 | | ms | round trips | clients |\n|---|---|---|---|"
            );
            for arrivals in &self.arrivals {
                let trips = arrivals.round_trips().map_or("–".into(), |trips| trips.to_string());
                let count = arrivals.milliseconds.len();
                let _ = writeln!(text, "| {} | {} | {trips} | {count} |", arrivals.name, show(arrivals.spread(), 2));
            }
            text.push('\n');
        }
        text
    }

    fn opening(&self) -> String {
        let rounds = self.loads.iter().map(|(_, rounds)| rounds.rounds.len()).min().unwrap_or(0);
        let slice = self.loads.iter().map(|(_, rounds)| rounds.slice_ms).min().unwrap_or(0);
        let mut text = format!(
            "# Performance\n\n<!-- `make bench` writes this page. -->\n\n\
             Measured by `make bench` on {}. One Redis server, the proxies and the clients share the machine.\n\
             Targets take turns in slices of {slice} ms, forwards and backwards, {rounds} rounds; figures are medians of the ratios\n\
             within a round, quartiles in brackets.\n\n\
             - *rate / direct*: requests per second, of a connection without a proxy. For clients on a Unix socket, too, that\n  \
             is one over TCP: a proxy's socket is here, and the server is not.\n\
             - *own CPU*: the time of all of a proxy's threads (schedstat), per request.\n\
             - *machine's CPU*: whatever ran, the clients and the server too, per request.\n\
             - *naked relay*: ours without its tap, with as many workers: the same runtime, sockets and buffers, no look at the\n  \
             bytes, no splice(2).\n\
             - All but twemproxy use a thread for each core unless a row says otherwise.\n\n\
             Programs:\n\n",
            machine()
        );
        for version in &self.versions {
            let _ = writeln!(text, "- {version}");
        }
        if !self.missing.is_empty() {
            let _ = writeln!(text, "\nNot measured: {}.", self.missing.join(", "));
        }
        text
    }

    fn goals(&self) -> String {
        let mut text = "## What it was to reach\n\n\
             Reached: by the median. Within the spread: not by the median, but by the better quartile. Missed: by neither.\n\n\
             | | measured | naked relay | |\n|---|---|---|---|\n".to_owned();
        for goal in goals::all(self) {
            let _ = writeln!(text, "| {} | {} | {} | {} |", goal.text, goal.measured, goal.floor, goal.verdict);
        }
        text
    }

    /// For docs/comparison.md.
    fn summary(&self) -> String {
        let columns = [OURS, "HAProxy 3.0", NGINX, "twemproxy", NAKED];
        let mut text = format!(
            "A proxy's own CPU time per request, {}'s = 1, on {} (medians of paired rounds).\n\
             twemproxy sends the requests of all clients over one connection to Redis; it has no transactions, subscriptions or\n\
             blocking commands.\n\n\
             | load | switchmaster | HAProxy 3.0 | nginx stream | twemproxy | a relay that looks at nothing |\n\
             |---|---|---|---|---|---|\n",
            self.versions.iter().find(|version| version.starts_with("HAProxy")).map_or(HAPROXY.into(), |version| {
                let word = version.split_whitespace().nth(2).unwrap_or_default();
                format!("HAProxy {}", word.split('-').next().unwrap_or_default())
            }),
            machine(),
        );
        for (load, rounds) in &self.loads {
            let own = |name: &str| rounds.ratio(name, HAPROXY, own);
            let mut cells: Vec<String> = columns.iter().map(|name| show_middle(own(name))).collect();
            if let Some(reuse) = own(OURS_REUSE) {
                cells[0] += &format!(", with `reuse_backends` {:.2}", reuse.middle);
            }
            let _ = writeln!(text, "| {} | {} |", load.title, cells.join(" | "));
        }
        text += "\n![Own CPU per request](img/summary.svg)\n\n![Added latency](img/latency.svg)\n";
        let missed = |goal: &Goal| matches!(goal.verdict, Verdict::Missed | Verdict::WithinTheSpread);
        let missed: Vec<Goal> = goals::all(self).into_iter().filter(missed).collect();
        if !missed.is_empty() {
            text += "\nWhat it was to reach and does not by its median:\n\n";
        }
        for goal in missed {
            let Goal { text: wanted, measured, verdict, reason, .. } = goal;
            let spread = if verdict == Verdict::WithinTheSpread { ", within the spread" } else { "" };
            let reason = if reason.is_empty() { reason } else { format!(" {reason}.") };
            let _ = writeln!(text, "- {wanted}. Measured: {measured}{spread}.{reason}");
        }
        text
    }

    fn summary_plot(&self) -> Plot {
        let groups = self.loads.iter().map(|(load, rounds)| {
            let bars = [OURS, OURS_REUSE, NGINX, NAKED].into_iter();
            let bars = bars.filter_map(|name| Some((name.to_owned(), rounds.ratio(name, HAPROXY, own)?.middle)));
            (load.title.to_owned(), bars.collect())
        });
        Plot {
            title: "Own CPU per request, HAProxy = 1".into(),
            decimals: 2,
            groups: groups.collect(),
            mark: Some(1.0),
        }
    }

    fn latency_plot(&self) -> Plot {
        let group = |(transport, latencies): &(Transport, Latencies)| {
            let proxies = latencies.targets.iter().filter(|name| *name != DIRECT);
            let bars =
                proxies.filter_map(|name| Some((name.clone(), latencies.added(name, QUANTILES.len() - 1)?.middle)));
            (format!("{} at {:.0} requests/s", transport.name(), latencies.rate), bars.collect())
        };
        let groups = self.latencies.iter().map(group).collect();
        Plot { title: "p99.9 of added latency, µs".into(), decimals: 0, groups, mark: None }
    }
}

fn own(cell: &Cell) -> f64 {
    cell.own
}

/// The relay without a tap that has as many workers.
pub fn floor_of(target: &str) -> &'static str {
    if target == OURS_ONE { NAKED_ONE } else { NAKED }
}

fn table(load: &Load, rounds: &Rounds) -> String {
    let is_unix = load.transport == Transport::Unix;
    let (direct, haproxy) =
        if is_unix { (over_tcp(DIRECT), Some(over_tcp(HAPROXY))) } else { (DIRECT.to_owned(), None) };
    let mut head = vec!["", "rate / direct", "own CPU, µs", "/ HAProxy", "/ naked relay", "machine's CPU / direct"];
    if is_unix {
        head.insert(4, "/ HAProxy over TCP");
    }
    let mut text = format!("| {} |\n|{}\n", head.join(" | "), "---|".repeat(head.len()));
    for target in &rounds.targets {
        let is_relay = !target.starts_with(DIRECT);
        let compared = |to: &str| show(rounds.ratio(target, to, own).filter(|_| is_relay), 2);
        let mut cells = vec![
            target.clone(),
            show(rounds.ratio(target, &direct, |cell| cell.rate), 2),
            show(rounds.own(target).filter(|_| is_relay), 2),
            compared(HAPROXY),
            compared(floor_of(target)),
            show(rounds.ratio(target, &direct, |cell| cell.all), 2),
        ];
        if let Some(haproxy) = &haproxy {
            cells.insert(4, compared(haproxy));
        }
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    text
}

fn latency_table(latencies: &Latencies) -> String {
    let mut text = format!(
        "An open loop over 50 connections: {:.0} requests/s, 60 % of what the slowest can do, counted from the moment at which \
         a request was due. Microseconds more than direct in the same round, of which each is {} requests to each; direct \
         itself in its own row.\n\n| | p50 | p99 | p99.9 |\n|---|---|---|---|\n",
        latencies.rate, latencies.requests
    );
    for target in &latencies.targets {
        let at = |quantile| {
            if target == DIRECT { latencies.at(target, quantile) } else { latencies.added(target, quantile) }
        };
        let cells: Vec<String> = (0..QUANTILES.len()).map(|quantile| show(at(quantile), 0)).collect();
        let _ = writeln!(text, "| {target} | {} |", cells.join(" | "));
    }
    text
}

fn show(spread: Option<Spread>, decimals: usize) -> String {
    spread.map_or("–".into(), |spread| format!("{spread:.decimals$}"))
}

fn show_middle(spread: Option<Spread>) -> String {
    spread.map_or("–".into(), |spread| format!("{:.2}", spread.middle))
}

fn own_cpu(load: &Load, rounds: &Rounds) -> Plot {
    let proxies = rounds.targets.iter().filter(|name| !name.starts_with(DIRECT));
    let bars = proxies.filter_map(|name| Some((name.clone(), rounds.own(name)?.middle))).collect();
    Plot {
        title: format!("{}: own CPU per request, µs", load.title),
        decimals: 2,
        groups: vec![(String::new(), bars)],
        mark: None,
    }
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
