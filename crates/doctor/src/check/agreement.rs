//! Checks across servers: whether Sentinels agree, and what the loss of one host leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::Severity::{Critical, Hint, Warning};
use super::{Check, Seen, list, seen};
use crate::address::HostPort;
use crate::facts::{SetUp, has_flag, place};
use crate::node::info::{InfoRole, InfoText};

/// Milliseconds between two clocks that make logs hard to read, and TILT likely at a correction.
const MOST_SKEW: i64 = 2_000;

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "sentinels-disagree",
        severity: Critical,
        means: "Sentinels name different masters: which one clients are sent to depends on whom they ask",
        look: disagree,
    },
    Check {
        id: "sentinel-settings-differ",
        severity: Warning,
        means: "what happens at a failover depends on which Sentinel leads it",
        look: settings_differ,
    },
    Check {
        id: "master-down",
        severity: Critical,
        means: "there is no master that answers: writes wait or fail now",
        look: master_down,
    },
    Check {
        id: "second-master",
        severity: Critical,
        means: "a second node takes writes: whatever is written there is lost when Sentinel or somebody demotes it",
        look: second_master,
    },
    Check {
        id: "host-loss",
        severity: Critical,
        means: "the loss of one host leaves no majority of Sentinels, or nobody to promote: Redis stays down",
        look: host_loss,
    },
    Check {
        id: "sentinels-same-host",
        severity: Warning,
        means: "Sentinels on one host are lost together, and see the network with the same eyes",
        look: same_host,
    },
    Check {
        id: "loopback",
        severity: Critical,
        means: "an address that leads every other host to itself was announced: from there the node cannot be reached",
        look: loopback,
    },
    Check {
        id: "versions-mixed",
        severity: Warning,
        means: "a replica may not understand what a newer master sends, and a failover changes what clients can use",
        look: versions_mixed,
    },
    Check {
        id: "version-old",
        severity: Hint,
        means: "before 6.2 a replica that was promoted starts others from nothing more often, and SENTINEL CONFIG is missing",
        look: version_old,
    },
    Check {
        id: "clock-skew",
        severity: Hint,
        means: "keys expire at other times after a failover, and a clock that is set while running puts Sentinels into TILT",
        look: skew,
    },
];

fn disagree(facts: &SetUp) -> Vec<Seen> {
    let mut named: BTreeMap<String, Vec<&HostPort>> = BTreeMap::new();
    for (at, sentinel) in facts.heard() {
        let epoch = sentinel.master.get("config-epoch").map_or("?", String::as_str);
        let master = place(&sentinel.master).map_or("nobody".into(), |master| master.to_string());
        named.entry(format!("{master} at epoch {epoch}")).or_default().push(at);
    }
    if named.len() < 2 {
        return Vec::new();
    }
    let what: Vec<String> = named.iter().map(|(what, by)| format!("{what} by {}", list(by.iter().copied()))).collect();
    let mend =
        format!("wait 10 s and ask again; if it stays: SENTINEL FAILOVER {}   # on one of the majority", facts.name);
    vec![seen("the Sentinels", what.join("; "), mend)]
}

fn settings_differ(facts: &SetUp) -> Vec<Seen> {
    let names = ["quorum", "down-after-milliseconds", "failover-timeout", "parallel-syncs"];
    let differing = names.into_iter().filter_map(|name| {
        let values: BTreeSet<&String> = facts.heard().filter_map(|(_, sentinel)| sentinel.master.get(name)).collect();
        let shown = facts
            .heard()
            .map(|(at, sentinel)| format!("{} on {at}", sentinel.master.get(name).map_or("?", String::as_str)));
        let mend = || format!("SENTINEL SET {} {name} VALUE   # the same on every Sentinel", facts.name);
        (values.len() > 1)
            .then(|| seen("the Sentinels", format!("{name}: {}", shown.collect::<Vec<_>>().join(", ")), mend()))
    });
    differing.collect()
}

fn master_down(facts: &SetUp) -> Vec<Seen> {
    let Some(named) = facts.master_at().filter(|_| facts.master().is_none()) else { return Vec::new() };
    let asked = facts.nodes.iter().find(|asked| asked.at == named);
    let why = match asked.map(|asked| &asked.answer) {
        Some(Ok(node)) if matches!(node.role(), Some(InfoRole::Replica { .. })) => {
            "it says that it is a replica".into()
        }
        Some(Ok(_)) => return Vec::new(),
        Some(Err(why)) => why.clone(),
        None => "it could not be asked".into(),
    };
    let mend = format!("a failover should be under way: switchmaster status; if not: SENTINEL FAILOVER {}", facts.name);
    vec![seen(format!("master {named}"), why, mend)]
}

fn second_master(facts: &SetUp) -> Vec<Seen> {
    let Some((master, _)) = facts.master() else { return Vec::new() };
    let others = facts.alive().filter(|(at, node)| *at != master && node.role() == Some(InfoRole::Master));
    let mend = |at: &HostPort| {
        format!(
            "redis-cli -h {} -p {} REPLICAOF {} {}   # after saving what only it has",
            at.host, at.port, master.host, master.port
        )
    };
    others
        .map(|(at, _)| seen(at, format!("it says that it is a master; the Sentinels name {master}"), mend(at)))
        .collect()
}

/// Every host with its Sentinels and whether the nodes elsewhere could go on without it.
fn host_loss(facts: &SetUp) -> Vec<Seen> {
    let hosts: BTreeSet<IpAddr> =
        facts.sentinels.iter().filter_map(|s| s.ip).chain(facts.nodes.iter().filter_map(|n| n.ip)).collect();
    let known = facts.heard().map(|(_, sentinel)| 1 + sentinel.peers.len()).max().unwrap_or_default();
    let mut found = Vec::new();
    for host in &hosts {
        let here = facts.sentinels.iter().filter(|asked| asked.ip == Some(*host)).count();
        let left = facts.sentinels.iter().filter(|asked| asked.answer.is_ok() && asked.ip != Some(*host)).count();
        let nodes = facts.nodes.iter().filter(|asked| asked.answer.is_ok() && asked.ip != Some(*host)).count();
        let mend = "at least three hosts, each with one Sentinel, and nodes on two of them or more (deploy/redis)";
        if here > 0 && left < known / 2 + 1 {
            let what = format!(
                "{here} of {known} Sentinels are here: {left} are left without it, {} are needed",
                known / 2 + 1
            );
            found.push(seen(format!("host {host}"), what, mend));
        } else if nodes == 0 && !facts.nodes.is_empty() {
            found.push(seen(format!("host {host}"), "every node is here".to_owned(), mend));
        }
    }
    found
}

fn same_host(facts: &SetUp) -> Vec<Seen> {
    let mut hosts: BTreeMap<IpAddr, Vec<&HostPort>> = BTreeMap::new();
    for asked in &facts.sentinels {
        hosts.entry(asked.ip.unwrap_or(IpAddr::from([0, 0, 0, 0]))).or_default().push(&asked.at);
    }
    let shared = hosts.into_iter().filter(|(host, at)| !host.is_unspecified() && at.len() > 1);
    shared
        .map(|(host, at)| {
            seen(format!("host {host}"), format!("Sentinels {}", list(at)), "move all but one to other hosts")
        })
        .collect()
}

fn loopback(facts: &SetUp) -> Vec<Seen> {
    let is_loopback =
        |at: &HostPort| at.host == "localhost" || at.host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    let (mut local, mut others) = (BTreeSet::new(), 0);
    for (_, sentinel) in facts.heard() {
        let entries = std::iter::once(&sentinel.master).chain(&sentinel.replicas).chain(&sentinel.peers);
        for entry in entries {
            match place(entry).filter(|at| at.port != 0) {
                Some(at) if !is_loopback(&at) => others += 1,
                Some(at) if !has_flag(entry, "s_down") => _ = local.insert(at),
                _ => {}
            }
        }
    }
    let mend = "replica-announce-ip (redis.conf) or `sentinel announce-ip` (sentinel.conf) with the host's own address, and \
                `sentinel monitor` with that of the master";
    // Where all are there, it is a set-up of one host: other checks say so.
    if others == 0 { Vec::new() } else { local.iter().map(|at| seen(at, "announced to other hosts", mend)).collect() }
}

fn version(info: &str) -> Option<String> {
    let info = InfoText::new(info);
    Some(format!("{} {}", if info.is_valkey() { "Valkey" } else { "Redis" }, info.version()?))
}

fn versions_mixed(facts: &SetUp) -> Vec<Seen> {
    let mut versions: BTreeMap<String, Vec<&HostPort>> = BTreeMap::new();
    let of_nodes = facts.alive().map(|(at, node)| (at, &node.info));
    for (at, info) in of_nodes.chain(facts.heard().map(|(at, sentinel)| (at, &sentinel.info))) {
        versions.entry(version(info).unwrap_or_default()).or_default().push(at);
    }
    versions.remove("");
    let shown = versions.iter().map(|(version, at)| format!("{version} at {}", list(at.iter().copied())));
    let one = || {
        seen(
            "the servers",
            shown.collect::<Vec<_>>().join("; "),
            "upgrade the replicas, then SENTINEL FAILOVER, then the old master",
        )
    };
    if versions.len() > 1 { vec![one()] } else { Vec::new() }
}

fn version_old(facts: &SetUp) -> Vec<Seen> {
    let old = facts.alive().filter_map(|(at, node)| {
        let info = InfoText::new(&node.info);
        let mut parts = info.text("redis_version")?.split('.').map(|part| part.parse::<u32>().unwrap_or_default());
        let version = (parts.next()?, parts.next()?);
        (version < (6, 2)).then(|| seen(at, info.version().unwrap_or_default(), "upgrade to Redis 7 or Valkey 8"))
    });
    old.collect()
}

fn skew(facts: &SetUp) -> Vec<Seen> {
    let of_nodes = facts.alive().filter_map(|(at, node)| Some((at, node.skew?)));
    let all = of_nodes.chain(facts.heard().filter_map(|(at, sentinel)| Some((at, sentinel.skew?))));
    let far = all.filter(|(_, skew)| skew.abs() > MOST_SKEW);
    far.map(|(at, skew)| {
        seen(
            at,
            format!("its clock is {:+.1} s from this host's", skew as f64 / 1000.0),
            "chrony or systemd-timesyncd on every host",
        )
    })
    .collect()
}
