//! What the relay was to reach, in plain words, and whether it does: judged by the medians that were measured.

use std::fmt;

use crate::figures::{Cell, Spread};
use crate::open_loop::QUANTILES;
use crate::report::{Page, floor_of};
use crate::targets::{DIRECT, HAPROXY, NGINX, OURS, OURS_REUSE, over_tcp};

/// One of them.
pub struct Goal {
    pub text: String,
    pub measured: String,
    /// What the relay that looks at nothing comes to.
    pub floor: String,
    pub verdict: Verdict,
    /// Why it is missed, where that is known.
    pub reason: String,
}

/// How a goal is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Reached,
    /// The median misses it, the better quartile does not.
    WithinTheSpread,
    Missed,
    NotMeasured,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Reached => "reached",
            Verdict::WithinTheSpread => "within the spread",
            Verdict::Missed => "**missed**",
            Verdict::NotMeasured => "not measured",
        })
    }
}

/// What a figure is held against.
#[derive(Clone, Copy)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
    /// Its better quartile is not above this.
    NotBeyond(f64),
}

impl Bound {
    fn holds(self, figure: f64) -> bool {
        match self {
            Bound::AtMost(most) | Bound::NotBeyond(most) => figure <= most,
            Bound::AtLeast(least) => figure >= least,
        }
    }
}

/// Why a goal is missed, by the beginning of its text: what measuring showed and no figure here says.
const REASONS: &[(&str, &str)] = &[
    ("CPU, pipeline 16", EACH_IS_LOOKED_AT),
    ("Throughput, pipeline 16", EACH_IS_LOOKED_AT),
    (
        "CPU, connect + PING + close: ",
        "A backend's socket gets keepalive and time-outs, four system calls that HAProxy does not make as configured here",
    ),
    (
        "CPU, connect + PING + close, reuse",
        "Before a connection is lent again RESET is sent and its reply awaited: a receive and a send more",
    ),
];

const EACH_IS_LOOKED_AT: &str = "Requests and replies are looked at one by one: some hundreds of instructions for each, \
                                 of which a relay that looks at nothing has none";

/// All of them, in the order of the page.
pub fn all(page: &Page) -> Vec<Goal> {
    let mut goals = Vec::new();
    let mut ratio = |text: &str, load: &str, of: &str, to: &str, what: fn(&Cell) -> f64, bound: Bound| {
        let ratio = |of: &str| page.rounds(load)?.ratio(of, to, what);
        let mut goal = judge(text, ratio(of), 2, bound);
        // It dials for each client, so it is no floor of what reuses connections.
        if let Some(floor) = ratio(floor_of(of)).filter(|_| to != floor_of(of) && of != OURS_REUSE) {
            goal.floor = floor.to_string();
            if goal.verdict != Verdict::Reached && !bound.holds(floor.middle) {
                goal.reason = format!("A relay that looks at nothing does not reach it either: {floor}");
            }
        }
        goals.push(goal);
    };
    use Bound::{AtLeast, AtMost, NotBeyond};
    let (one, fifty, sixteen) = ("get-1", "get-50", "pipeline-16");

    ratio("CPU, 1 client: at most 1.03 × the naked relay", one, OURS, floor_of(OURS), own, AtMost(1.03));
    ratio("CPU, 50 clients: at most 1.03 × the naked relay", fifty, OURS, floor_of(OURS), own, AtMost(1.03));
    ratio("CPU, pipeline 16: at most 1.03 × the naked relay", sixteen, OURS, floor_of(OURS), own, AtMost(1.03));
    ratio("CPU, 1 client: about 0.60 × HAProxy", one, OURS, HAPROXY, own, AtMost(0.60));
    ratio("CPU, 50 clients: about 0.95 × HAProxy", fifty, OURS, HAPROXY, own, AtMost(0.95));
    ratio("CPU, pipeline 16: about 0.93 × HAProxy", sixteen, OURS, HAPROXY, own, AtMost(0.93));
    ratio("CPU, 1 client: not above nginx beyond the spread", one, OURS, NGINX, own, NotBeyond(1.0));
    ratio("CPU, 50 clients: not above nginx beyond the spread", fifty, OURS, NGINX, own, NotBeyond(1.0));
    ratio("CPU, pipeline 16: not above nginx beyond the spread", sixteen, OURS, NGINX, own, NotBeyond(1.0));

    let (direct_tcp, haproxy_tcp) = (over_tcp(DIRECT), over_tcp(HAPROXY));
    for (load, clients) in [("unix-1", "1 client"), ("unix-50", "50 clients")] {
        let text = format!("CPU, Unix socket, {clients}: at most 0.68 × HAProxy over TCP");
        ratio(&text, load, OURS, &haproxy_tcp, own, AtMost(0.68));
        let text = format!("CPU, Unix socket, {clients}: at most 0.92 × HAProxy over a Unix socket");
        ratio(&text, load, OURS, HAPROXY, own, AtMost(0.92));
    }

    ratio("Throughput, 50 clients: at least HAProxy's", fifty, OURS, HAPROXY, rate, AtLeast(1.0));
    ratio(
        "Throughput, 50 clients, Unix socket: at least 0.74 of direct",
        "unix-50",
        OURS,
        &direct_tcp,
        rate,
        AtLeast(0.74),
    );
    ratio("Throughput, pipeline 16: at least nginx's", sixteen, OURS, NGINX, rate, AtLeast(1.0));

    ratio("CPU, values of 64 KiB: at most 0.70 × HAProxy", "64k", OURS, HAPROXY, own, AtMost(0.70));
    ratio("CPU, values of 1 MiB: at most 0.80 × HAProxy", "1m", OURS, HAPROXY, own, AtMost(0.80));
    ratio("CPU, connect + PING + close: at most 0.90 × HAProxy", "connect", OURS, HAPROXY, own, AtMost(0.90));
    let text = "CPU, connect + PING + close, reuse_backends: at most 0.50 × HAProxy";
    ratio(text, "connect", OURS_REUSE, HAPROXY, own, AtMost(0.50));

    goals.push(first_reply(page));
    for (transport, latencies) in &page.latencies {
        goals.push(latency(
            &format!("p99.9 added at 60 % load, {}: no worse than any peer's", transport.name()),
            latencies,
        ));
    }
    for (load, most, text) in [
        ("get-1", 6.04, "System calls per request, 1 client: 6"),
        ("get-50", 4.2, "System calls per request, 50 clients: at most 4.2"),
    ] {
        let calls = page.calls.iter().find(|(own, _)| own.name == load).map(|(_, calls)| calls);
        let each = calls.and_then(|calls| Some(calls.iter().find(|calls| calls.target == OURS)?.each));
        goals.push(judge(text, each.map(exactly), 2, AtMost(most)));
    }
    let idle = page.sessions.iter().find(|idle| idle.target == OURS);
    let (silent, served) = (idle.map(|idle| exactly(idle.silent)), idle.map(|idle| exactly(idle.served)));
    goals.push(judge("Memory of an idle session with a backend: at most 1.5 KiB (1536 B)", served, 0, AtMost(1536.0)));
    goals.push(judge("Memory of an idle session without: at most 1.0 KiB (1024 B)", silent, 0, AtMost(1024.0)));
    goals
}

fn own(cell: &Cell) -> f64 {
    cell.own
}

fn rate(cell: &Cell) -> f64 {
    cell.rate
}

/// A figure that is no median.
fn exactly(figure: f64) -> Spread {
    Spread { low: figure, middle: figure, high: figure }
}

fn judge(text: &str, spread: Option<Spread>, decimals: usize, bound: Bound) -> Goal {
    let verdict = spread.map_or(Verdict::NotMeasured, |spread| {
        let better = match bound {
            Bound::AtMost(_) | Bound::NotBeyond(_) => spread.low,
            Bound::AtLeast(_) => spread.high,
        };
        match (bound.holds(spread.middle), bound.holds(better)) {
            (true, _) => Verdict::Reached,
            (false, true) if matches!(bound, Bound::NotBeyond(_)) => Verdict::Reached,
            (false, true) => Verdict::WithinTheSpread,
            (false, false) => Verdict::Missed,
        }
    });
    let measured = match spread {
        None => "–".to_owned(),
        Some(spread) if spread.low == spread.high => format!("{:.decimals$}", spread.middle),
        Some(spread) => format!("{spread:.decimals$}"),
    };
    let reason = match verdict {
        Verdict::Reached => "",
        _ => REASONS.iter().find(|(of, _)| text.starts_with(of)).map_or("", |(_, reason)| reason),
    };
    Goal { text: text.to_owned(), measured, floor: String::new(), verdict, reason: reason.to_owned() }
}

fn first_reply(page: &Page) -> Goal {
    let text = "First connection to a server 2 ms away to its first reply: one round trip where direct takes two";
    let trips = |name: &str| page.arrivals.iter().find(|own| own.name == name)?.round_trips();
    let (ours, direct) = (trips(OURS), trips(DIRECT));
    let mut goal = judge(text, ours.map(|trips| exactly(trips as f64)), 0, Bound::AtMost(1.0));
    if let (Some(ours), Some(direct)) = (ours, direct) {
        goal.measured = format!("{ours}, direct {direct}");
    }
    goal
}

/// Ours as it comes, against the best of the proxies that are not ours.
fn latency(text: &str, latencies: &crate::open_loop::Latencies) -> Goal {
    let last = QUANTILES.len() - 1;
    let added = |name: &str| latencies.added(name, last);
    let is_peer = |name: &&String| !name.starts_with(OURS) && !name.starts_with("naked") && *name != DIRECT;
    let peers = latencies.targets.iter().filter(is_peer).filter_map(|name| Some((name, added(name)?)));
    let best = peers.min_by(|(_, one), (_, other)| one.middle.total_cmp(&other.middle));
    let Some((best, least)) = best else { return judge(text, None, 0, Bound::AtMost(0.0)) };
    let mut goal = judge(text, added(OURS), 0, Bound::AtMost(least.middle));
    goal.measured = format!("{} µs, {best} {least:.0} µs", goal.measured);
    goal
}
