//! Checks of what a node keeps: persistence, memory, and settings that are lost at a failover or a restart.

use std::collections::{BTreeMap, BTreeSet};

use super::Severity::{Critical, Hint, Warning};
use super::{Check, Seen, each_node, list, seen};
use crate::address::HostPort;
use crate::facts::SetUp;
use crate::node::info::InfoText;

/// Settings that clients feel, and that should be the same whoever is the master.
const FELT: &[&str] = &[
    "appendfsync",
    "appendonly",
    "client-output-buffer-limit",
    "databases",
    "maxclients",
    "maxmemory",
    "maxmemory-policy",
    "min-replicas-max-lag",
    "min-replicas-to-write",
    "notify-keyspace-events",
    "repl-backlog-size",
    "save",
    "timeout",
];
/// Of these, those whose line in a file is written as CONFIG GET shows it.
const PLAIN: &[&str] = &[
    "appendfsync",
    "appendonly",
    "databases",
    "maxclients",
    "maxmemory-policy",
    "min-replicas-max-lag",
    "min-replicas-to-write",
    "replica-read-only",
    "timeout",
];

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "persistence-off",
        severity: Critical,
        means: "a master that restarts within down-after, as systemd restarts it, comes back empty and empties every replica",
        look: persistence,
    },
    Check {
        id: "bgsave-failed",
        severity: Critical,
        means: "the last snapshot failed: writes are refused (MISCONF) unless that was switched off, and nothing is kept",
        look: bgsave,
    },
    Check {
        id: "evicts",
        severity: Warning,
        means: "when memory is full, keys are deleted: queued jobs, sessions and locks vanish without an error",
        look: evicts,
    },
    Check {
        id: "maxmemory-unset",
        severity: Hint,
        means: "Redis grows until the kernel kills it, on the replicas at the same time",
        look: maxmemory,
    },
    Check {
        id: "settings-differ",
        severity: Warning,
        means: "CONFIG SET changes one node: after a failover that of the new master counts",
        look: differ,
    },
    Check {
        id: "not-written",
        severity: Warning,
        means: "CONFIG SET lasts until the next restart; what is not in the file is gone then",
        look: not_written,
    },
    Check {
        id: "no-config-file",
        severity: Warning,
        means: "started without a file, a node forgets at a restart what Sentinel made of it: an old master comes back as a master",
        look: no_file,
    },
    Check {
        id: "idle-timeout",
        severity: Hint,
        means: "idle connections are closed: workers and subscribers that wait see errors",
        look: timeout,
    },
    Check {
        id: "queue-hold",
        severity: Warning,
        means: "a request may be held longer than a job's reservation leaves room (Laravel: retry_after 90 s - timeout 60 s): it \
                would run twice",
        look: queue_hold,
    },
];

fn persistence(facts: &SetUp) -> Vec<Seen> {
    each_node(facts, |node| {
        let is = |name: &str, value: &str| node.settings.get(name).is_some_and(|set| set == value);
        let mend = "CONFIG SET appendonly yes, then CONFIG REWRITE   # or never restart it by itself (Restart=no)";
        (is("save", "") && is("appendonly", "no")).then(|| ("neither save nor appendonly".to_owned(), mend.to_owned()))
    })
}

fn bgsave(facts: &SetUp) -> Vec<Seen> {
    each_node(facts, |node| {
        let failed = InfoText::new(&node.info).text("rdb_last_bgsave_status") == Some("err");
        let mend =
            "room on the disk, the right of the user on `dir`, memory for fork (vm.overcommit_memory 1); then BGSAVE";
        failed.then(|| ("rdb_last_bgsave_status:err".to_owned(), mend.to_owned()))
    })
}

fn evicts(facts: &SetUp) -> Vec<Seen> {
    each_node(facts, |node| {
        let policy = node.settings.get("maxmemory-policy").filter(|policy| *policy != "noeviction")?;
        node.number("maxmemory").filter(|bytes| *bytes > 0)?;
        let mend = "CONFIG SET maxmemory-policy noeviction, then CONFIG REWRITE   # on every node; a cache belongs on a Redis of its own";
        Some((format!("maxmemory-policy {policy}"), mend.to_owned()))
    })
}

fn maxmemory(facts: &SetUp) -> Vec<Seen> {
    let unset: Vec<&HostPort> =
        facts.alive().filter(|(_, node)| node.number("maxmemory") == Some(0)).map(|(at, _)| at).collect();
    let mend = "CONFIG SET maxmemory 2gb, then CONFIG REWRITE   # on every node: half of the host's memory at most";
    let one = || seen(list(unset.iter().copied()), "maxmemory 0", mend);
    if unset.is_empty() { Vec::new() } else { vec![one()] }
}

fn differ(facts: &SetUp) -> Vec<Seen> {
    let differing = FELT.iter().filter_map(|name| {
        let mut values: BTreeMap<&str, Vec<&HostPort>> = BTreeMap::new();
        for (at, node) in facts.alive() {
            if let Some(value) = node.settings.get(*name) {
                values.entry(value).or_default().push(at);
            }
        }
        let shown = || values.iter().map(|(value, at)| format!("{value:?} at {}", list(at.iter().copied())));
        let mend = format!("CONFIG SET {name} VALUE, then CONFIG REWRITE   # the same on every node");
        (values.len() > 1)
            .then(|| seen("the nodes", format!("{name}: {}", shown().collect::<Vec<_>>().join("; ")), mend))
    });
    differing.collect()
}

fn not_written(facts: &SetUp) -> Vec<Seen> {
    each_node(facts, |node| {
        let file = node.file.as_ref()?;
        let differs = |name: &&&str| file.get(**name).is_some_and(|written| node.settings.get(**name) != Some(written));
        let names: BTreeSet<&&str> = PLAIN.iter().filter(differs).collect();
        let shown: Vec<&str> = names.into_iter().copied().collect();
        let mend = "CONFIG REWRITE, or CONFIG SET what the file has";
        (!shown.is_empty()).then(|| (format!("not as in its file: {}", shown.join(", ")), mend.to_owned()))
    })
}

fn no_file(facts: &SetUp) -> Vec<Seen> {
    each_node(facts, |node| {
        let none = InfoText::new(&node.info).text("config_file") == Some("");
        let mend = "start it with a redis.conf that it may write (deploy/redis/redis.conf)";
        none.then(|| ("started without a configuration file".to_owned(), mend.to_owned()))
    })
}

fn timeout(facts: &SetUp) -> Vec<Seen> {
    each_node(facts, |node| {
        let seconds = node.number("timeout").filter(|seconds| *seconds > 0)?;
        Some((format!("timeout {seconds}"), "CONFIG SET timeout 0, then CONFIG REWRITE   # on every node".to_owned()))
    })
}

fn queue_hold(facts: &SetUp) -> Vec<Seen> {
    // With an application its own numbers count.
    let hold = facts.longest_hold().as_secs();
    if facts.application.is_some() || facts.sentinels.is_empty() || hold <= 30 {
        return Vec::new();
    }
    let what = format!("requests are held for up to {hold} s");
    let mend = format!(
        "SENTINEL SET {} down-after-milliseconds 2000 on every Sentinel, or hold_timeout = \"25s\" here, or a larger retry_after",
        facts.name
    );
    vec![seen("switchmaster", what, mend)]
}
