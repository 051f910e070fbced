//! Checks of each Sentinel: whether it answers, how it is set, what it knows of itself.

use std::collections::BTreeMap;

use super::Severity::{Critical, Hint, Warning};
use super::{Check, Seen, list, seen};
use crate::address::HostPort;
use crate::facts::{Fields, SentinelFacts, SetUp, has_flag, place};
use crate::node::info::InfoText;

/// Above, a crash is a long one; Sentinel's own default is 30 s.
const LONGEST_DOWN_AFTER: u64 = 10_000;
/// Above, web requests wait noticeably in every crash.
const BRISK_DOWN_AFTER: u64 = 3_000;
/// Below, a busy host is taken for a dead one.
const SHORTEST_DOWN_AFTER: u64 = 500;
/// Above, an attempt that failed is repeated later than anybody waits: twice this time.
const LONGEST_FAILOVER_TIMEOUT: u64 = 15_000;

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "sentinel-unreachable",
        severity: Critical,
        means: "a Sentinel that this host cannot ask cannot tell it of a failover, and if it is gone, one vote is",
        look: unreachable,
    },
    Check {
        id: "sentinels-few",
        severity: Critical,
        means: "with fewer than three Sentinels the loss of one leaves no majority: nobody fails over",
        look: few,
    },
    Check {
        id: "no-quorum",
        severity: Critical,
        means: "too few Sentinels see each other: a master that dies now stays dead",
        look: no_quorum,
    },
    Check {
        id: "quorum-too-high",
        severity: Critical,
        means: "more Sentinels would have to agree than can be left when one is lost with the master's host",
        look: quorum_too_high,
    },
    Check {
        id: "quorum-low",
        severity: Warning,
        means: "fewer Sentinels than a majority call the master down: one that is cut off starts elections",
        look: quorum_low,
    },
    Check {
        id: "sentinels-even",
        severity: Hint,
        means: "an even number of Sentinels survives no more losses than one fewer, and can split in halves",
        look: even,
    },
    Check {
        id: "sentinel-stale",
        severity: Warning,
        means: "a Sentinel that is gone still counts for the majority that a failover needs",
        look: stale,
    },
    Check {
        id: "myid-twice",
        severity: Critical,
        means: "Sentinels with one id overwrite each other, and vote as one (a copied sentinel.conf)",
        look: myid_twice,
    },
    Check {
        id: "tilt",
        severity: Critical,
        means: "a Sentinel in TILT mode takes no part in failovers: its clock jumped, or it did not run for seconds",
        look: tilt,
    },
    Check {
        id: "sentinel-cannot-log-in",
        severity: Critical,
        means: "a Sentinel marks a node down that answers us: without the right auth-pass it cannot fail over",
        look: cannot_log_in,
    },
    Check {
        id: "down-after-long",
        severity: Warning,
        means: "for so long nobody notices that the master is dead; requests wait or fail",
        look: down_after_long,
    },
    Check {
        id: "down-after-slow",
        severity: Hint,
        means: "every crash stops queues and pages for down-after and 0.3 to 1.5 s more",
        look: down_after_slow,
    },
    Check {
        id: "down-after-short",
        severity: Warning,
        means: "a pause of the host or of the network looks like a death: failovers without need",
        look: down_after_short,
    },
    Check {
        id: "failover-timeout-long",
        severity: Warning,
        means: "a failover that did not succeed is tried again only after twice this time, past every hold",
        look: failover_timeout_long,
    },
    Check {
        id: "parallel-syncs-low",
        severity: Hint,
        means: "after a failover replicas follow the new master one after the other; until then they cannot replace it",
        look: parallel_syncs,
    },
    Check {
        id: "sentinel-scripts",
        severity: Hint,
        means: "a script that hangs or fails is repeated, and one that moves addresses works against the proxy",
        look: scripts,
    },
    Check {
        id: "hostnames-mixed",
        severity: Warning,
        means: "names and addresses are mixed, or names are not resolved: a node is known twice, or not at all",
        look: hostnames,
    },
    Check {
        id: "sentinel-open",
        severity: Hint,
        means: "whoever reaches this Sentinel can make it fail over, or follow another master",
        look: open,
    },
];

fn unreachable(facts: &SetUp) -> Vec<Seen> {
    let silent = facts.sentinels.iter().filter_map(|asked| Some((&asked.at, asked.answer.as_ref().err()?)));
    let is_stale = |at: &HostPort| stale_peers(facts).iter().any(|(peer, _)| peer == at);
    let silent = silent.filter(|(at, _)| !is_stale(at));
    let mend = |at: &HostPort| {
        format!("redis-cli -h {} -p {} PING   # from this host: start it, or open the way", at.host, at.port)
    };
    silent.map(|(at, why)| seen(format!("Sentinel {at}"), why, mend(at))).collect()
}

/// How many Sentinels there are by what one of them knows.
fn known(sentinel: &SentinelFacts) -> usize {
    1 + sentinel.peers.len()
}

fn few(facts: &SetUp) -> Vec<Seen> {
    let most = facts.heard().map(|(_, sentinel)| known(sentinel)).max();
    let mend = |most: usize| format!("start {} more, on hosts of their own (deploy/redis/sentinel.conf)", 3 - most);
    most.filter(|most| *most < 3)
        .map(|most| seen("the Sentinels", format!("there are {most}"), mend(most)))
        .into_iter()
        .collect()
}

fn even(facts: &SetUp) -> Vec<Seen> {
    let most = facts.heard().map(|(_, sentinel)| known(sentinel)).max();
    let is_even = most.filter(|most| *most >= 4 && most % 2 == 0);
    let one =
        |most| seen("the Sentinels", format!("there are {most}"), "add one, or stop one and SENTINEL RESET the others");
    is_even.map(one).into_iter().collect()
}

fn each(facts: &SetUp, look: impl Fn(&HostPort, &SentinelFacts) -> Option<(String, String)>) -> Vec<Seen> {
    let found = facts.heard().filter_map(|(at, sentinel)| {
        let (what, mend) = look(at, sentinel)?;
        Some(seen(format!("Sentinel {at}"), what, mend))
    });
    found.collect()
}

fn no_quorum(facts: &SetUp) -> Vec<Seen> {
    each(facts, |_, sentinel| {
        let mend = "start the Sentinels that are gone; SENTINEL RESET where some are gone for good";
        Some((sentinel.no_quorum.clone()?, mend.to_owned()))
    })
}

fn number(sentinel: &SentinelFacts, field: &str) -> Option<u64> {
    sentinel.master.get(field)?.parse().ok()
}

/// SENTINEL SET, for each Sentinel.
fn set(facts: &SetUp, option: &str, value: impl std::fmt::Display) -> String {
    format!("SENTINEL SET {} {option} {value}   # on every Sentinel; it is written to its file", facts.name)
}

fn quorum_too_high(facts: &SetUp) -> Vec<Seen> {
    each(facts, |_, sentinel| {
        let (quorum, known) = (number(sentinel, "quorum")?, known(sentinel) as u64);
        let what = format!("quorum {quorum} of {known} Sentinels");
        // Of two, both have to agree; that there are only two is another finding.
        (quorum > known || known > 2 && quorum == known).then(|| (what, set(facts, "quorum", known / 2 + 1)))
    })
}

fn quorum_low(facts: &SetUp) -> Vec<Seen> {
    each(facts, |_, sentinel| {
        let (quorum, known) = (number(sentinel, "quorum")?, known(sentinel) as u64);
        let what = format!("quorum {quorum} of {known} Sentinels");
        (known > 2 && quorum < known / 2 + 1 && quorum < 2).then(|| (what, set(facts, "quorum", known / 2 + 1)))
    })
}

/// Peers that a Sentinel marks down and that do not answer us either.
fn stale_peers(facts: &SetUp) -> Vec<(HostPort, &HostPort)> {
    let mut found: Vec<(HostPort, &HostPort)> = Vec::new();
    for (at, sentinel) in facts.heard() {
        for peer in sentinel.peers.iter().filter(|peer| has_flag(peer, "s_down")) {
            let Some(gone) = place(peer) else { continue };
            let answers = facts.heard().any(|(other, _)| *other == gone);
            if !answers && found.iter().all(|(known, _)| *known != gone) {
                found.push((gone, at));
            }
        }
    }
    found
}

fn stale(facts: &SetUp) -> Vec<Seen> {
    let mend = format!(
        "start it; if it is gone for good: SENTINEL RESET {}   # on each of the others, one after the other, 30 s apart",
        facts.name
    );
    let gone = stale_peers(facts).into_iter();
    gone.map(|(gone, by)| seen(format!("Sentinel {gone}"), format!("marked down by {by}, and silent"), &mend)).collect()
}

fn myid_twice(facts: &SetUp) -> Vec<Seen> {
    let mut ids: BTreeMap<&str, Vec<&HostPort>> = BTreeMap::new();
    for (at, sentinel) in facts.heard() {
        ids.entry(sentinel.myid.as_deref().unwrap_or_default()).or_default().push(at);
    }
    let twice = ids.into_iter().filter(|(id, at)| !id.is_empty() && at.len() > 1);
    let mend =
        "stop one, delete the line `sentinel myid` from its sentinel.conf, start it, then SENTINEL RESET on the others";
    twice.map(|(id, at)| seen(format!("Sentinels {}", list(at)), format!("all have myid {id}"), mend)).collect()
}

fn tilt(facts: &SetUp) -> Vec<Seen> {
    each(facts, |_, sentinel| {
        let mend = "wait 30 s; if it comes again: steady the clock (chrony), give the host CPU and memory";
        InfoText::new(&sentinel.info).is_set("sentinel_tilt").then(|| ("sentinel_tilt:1".to_owned(), mend.to_owned()))
    })
}

fn cannot_log_in(facts: &SetUp) -> Vec<Seen> {
    each(facts, |_, sentinel| {
        let answers = |entry: &Fields| place(entry).is_some_and(|at| facts.alive().any(|(alive, _)| *alive == at));
        let down = |entry: &&Fields| has_flag(entry, "s_down") || entry.get("runid").is_some_and(String::is_empty);
        let entries = std::iter::once(&sentinel.master).chain(&sentinel.replicas);
        let down: Vec<HostPort> = entries.filter(down).filter(|entry| answers(entry)).filter_map(place).collect();
        let mend =
            format!("SENTINEL SET {} auth-pass PASSWORD   # and auth-user, where it is not `default`", facts.name);
        (!down.is_empty()).then(|| (format!("{} marked down or without a runid", list(&down)), mend))
    })
}

fn down_after_long(facts: &SetUp) -> Vec<Seen> {
    each(facts, |_, sentinel| {
        let down_after = number(sentinel, "down-after-milliseconds").filter(|ms| *ms > LONGEST_DOWN_AFTER)?;
        Some((format!("down-after-milliseconds {down_after}"), set(facts, "down-after-milliseconds", 2000)))
    })
}

fn down_after_slow(facts: &SetUp) -> Vec<Seen> {
    let down_after = facts.largest("down-after-milliseconds");
    let slow = down_after.filter(|ms| (BRISK_DOWN_AFTER + 1..=LONGEST_DOWN_AFTER).contains(ms));
    let what = |ms: u64| {
        let hold = facts.longest_hold().as_secs();
        format!(
            "down-after-milliseconds {ms}; requests are held up to {hold} s, so keep retry_after - timeout of every queue and \
             each read_timeout above {hold} s"
        )
    };
    let mend = set(facts, "down-after-milliseconds", 2000);
    slow.map(|ms| seen("the Sentinels", what(ms), mend)).into_iter().collect()
}

fn down_after_short(facts: &SetUp) -> Vec<Seen> {
    each(facts, |_, sentinel| {
        let down_after = number(sentinel, "down-after-milliseconds").filter(|ms| *ms < SHORTEST_DOWN_AFTER)?;
        Some((format!("down-after-milliseconds {down_after}"), set(facts, "down-after-milliseconds", 2000)))
    })
}

fn failover_timeout_long(facts: &SetUp) -> Vec<Seen> {
    let long = facts.largest("failover-timeout").filter(|ms| *ms > LONGEST_FAILOVER_TIMEOUT);
    let what = |ms: u64| {
        let (again, hold) = (2 * ms / 1000, facts.longest_hold().as_secs());
        format!(
            "failover-timeout {ms}: tried again after {again} s, while requests are held for {hold} s (retry_after of a queue: 90 s)"
        )
    };
    let mend = set(facts, "failover-timeout", 10_000);
    long.map(|ms| seen("the Sentinels", what(ms), mend)).into_iter().collect()
}

fn parallel_syncs(facts: &SetUp) -> Vec<Seen> {
    each(facts, |_, sentinel| {
        let (syncs, replicas) = (number(sentinel, "parallel-syncs")?, sentinel.replicas.len() as u64);
        let what = format!("parallel-syncs {syncs}, and {replicas} replicas");
        (syncs + 1 < replicas).then(|| (what, set(facts, "parallel-syncs", replicas - 1)))
    })
}

fn scripts(facts: &SetUp) -> Vec<Seen> {
    each(facts, |_, sentinel| {
        let names = ["notification-script", "client-reconfig-script"];
        let set: Vec<&str> = names.into_iter().filter(|name| sentinel.master.contains_key(*name)).collect();
        let mend =
            |name: &&str| format!("SENTINEL SET {} {name} \"\"   # if the proxy has made it needless", facts.name);
        (!set.is_empty()).then(|| (set.join(", "), set.iter().map(mend).collect::<Vec<_>>().join("; ")))
    })
}

fn hostnames(facts: &SetUp) -> Vec<Seen> {
    each(facts, |_, sentinel| {
        let is_on = |name: &str| sentinel.settings.get(name).is_some_and(|value| value == "yes");
        let entries = std::iter::once(&sentinel.master).chain(&sentinel.replicas).chain(&sentinel.peers);
        let hosts: Vec<&String> = entries.filter_map(|entry| entry.get("ip")).collect();
        let names = hosts.iter().filter(|host| host.parse::<std::net::IpAddr>().is_err()).count();
        let mend = "either addresses everywhere, or `sentinel resolve-hostnames yes`, `sentinel announce-hostnames yes`, and names \
                    in replica-announce-ip and sentinel announce-ip of every server";
        let what = if names > 0 && names < hosts.len() {
            format!("{names} of {} known servers go by a name", hosts.len())
        } else if is_on("announce-hostnames") && !is_on("resolve-hostnames") {
            "announce-hostnames yes, resolve-hostnames no".to_owned()
        } else {
            return None;
        };
        Some((what, mend.to_owned()))
    })
}

fn open(facts: &SetUp) -> Vec<Seen> {
    let open: Vec<&HostPort> = facts.heard().filter(|(_, sentinel)| sentinel.open).map(|(at, _)| at).collect();
    let mend = "requirepass and `sentinel sentinel-pass` with one password in every sentinel.conf, and \
                SWITCHMASTER_SENTINEL_PASSWORD here";
    let place = || format!("Sentinels {}", list(open.iter().copied()));
    (!open.is_empty()).then(|| seen(place(), "no password", mend)).into_iter().collect()
}
