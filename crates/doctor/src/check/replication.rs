//! Checks of replication: who follows whom, who may be promoted, and how many a write needs.

use super::Severity::{Critical, Hint, Warning};
use super::{Check, Seen, each_node, seen};
use crate::address::HostPort;
use crate::facts::{NodeFacts, SetUp};
use crate::node::info::{InfoRole, InfoText};

/// Seconds without an acknowledgement.
const MOST_LAG: u64 = 10;
/// Bytes of the stream that the master keeps for those who come back.
const LEAST_BACKLOG: u64 = 64 << 20;
/// Bytes that may wait for a replica: Redis' own default.
const LEAST_BUFFER: u64 = 256 << 20;

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "no-replica",
        severity: Critical,
        means: "there is nobody to promote: when the master dies, Redis is down and its last writes are gone",
        look: no_replica,
    },
    Check {
        id: "replica-link-down",
        severity: Critical,
        means: "this replica does not follow the master: promoted, it would bring back old data, and it cannot be promoted for long",
        look: link_down,
    },
    Check {
        id: "replica-lags",
        severity: Warning,
        means: "what the replica has not received is lost when the master dies",
        look: lags,
    },
    Check {
        id: "priority-zero",
        severity: Critical,
        means: "no replica may be promoted: -NOGOODSLAVE at every failover",
        look: priority_zero,
    },
    Check {
        id: "min-replicas-unset",
        severity: Warning,
        means: "a master that is cut off goes on taking writes that are thrown away when it is demoted",
        look: min_replicas_unset,
    },
    Check {
        id: "min-replicas-too-high",
        severity: Critical,
        means: "after a failover there is one replica fewer: every write is refused (NOREPLICAS) until the dead node is back",
        look: min_replicas_too_high,
    },
    Check {
        id: "replica-writable",
        severity: Warning,
        means: "what is written to a replica by mistake is on no other node, and differs for ever",
        look: writable,
    },
    Check {
        id: "backlog-small",
        severity: Hint,
        means: "a replica that was away for a moment copies everything anew, and fewer lost replies can be told after a crash",
        look: backlog,
    },
    Check {
        id: "replica-buffer-small",
        severity: Hint,
        means: "a replica that is slow for a moment is cut off and begins anew, which makes it slower",
        look: buffer,
    },
    Check {
        id: "diskless-sync-off",
        severity: Hint,
        means: "each full copy for a replica is written to the master's disk first",
        look: diskless,
    },
];

fn each_replica(facts: &SetUp, look: impl Fn(&HostPort, &NodeFacts) -> Option<(String, String)>) -> Vec<Seen> {
    facts.replicas().filter_map(|(at, node)| look(at, node).map(|(what, mend)| seen(at, what, mend))).collect()
}

/// CONFIG SET and where it has to stand to last.
fn set(name: &str, value: &str) -> String {
    format!("CONFIG SET {name} {value}, then CONFIG REWRITE   # on every node")
}

fn no_replica(facts: &SetUp) -> Vec<Seen> {
    let Some((at, master)) = facts.master() else { return Vec::new() };
    let online = InfoText::new(&master.info).replicas().filter(|replica| replica.online).count();
    let mend = format!("REPLICAOF {} {} on another host's node (deploy/redis/redis.conf)", at.host, at.port);
    let known = !master.info.is_empty() && online == 0;
    if known { vec![seen(format!("master {at}"), "no replica is online", mend)] } else { Vec::new() }
}

fn link_down(facts: &SetUp) -> Vec<Seen> {
    each_replica(facts, |_, node| {
        let info = InfoText::new(&node.info);
        let host = info.text("master_host").unwrap_or_default();
        let port = info.text("master_port").unwrap_or_default();
        let mend = "its log says why; most often masterauth is missing or wrong: CONFIG SET masterauth PASSWORD";
        let is_down = info.role() == Some(InfoRole::Replica { link_up: false });
        is_down.then(|| (format!("master_link_status of {host}:{port} is down"), mend.to_owned()))
    })
}

fn lags(facts: &SetUp) -> Vec<Seen> {
    let Some((_, master)) = facts.master() else { return Vec::new() };
    let info = InfoText::new(&master.info);
    let late = info.replicas().filter_map(|replica| {
        let lag = replica.lag.filter(|lag| replica.online && *lag > MOST_LAG)?;
        let place = format!("replica {}:{}", replica.host, replica.port);
        Some(seen(place, format!("last acknowledged {lag} s ago"), "network, disk and CPU of that host; its log"))
    });
    late.collect()
}

fn priority_zero(facts: &SetUp) -> Vec<Seen> {
    let replicas: Vec<_> = facts.replicas().collect();
    let is_zero = |node: &NodeFacts| InfoText::new(&node.info).text("slave_priority") == Some("0");
    let all = !replicas.is_empty() && replicas.iter().all(|(_, node)| is_zero(node));
    let one = || {
        seen(
            "the replicas",
            "replica-priority 0 on each",
            "CONFIG SET replica-priority 100, then CONFIG REWRITE   # on those that may be promoted",
        )
    };
    if all { vec![one()] } else { Vec::new() }
}

/// Replicas that there are when all is well.
fn replicas(facts: &SetUp) -> u64 {
    facts.alive().count().saturating_sub(1) as u64
}

fn min_replicas_unset(facts: &SetUp) -> Vec<Seen> {
    // With a single replica 1 would stop writes whenever that is away.
    if replicas(facts) < 2 {
        return Vec::new();
    }
    each_node(facts, |node| {
        let unset = node.number("min-replicas-to-write") == Some(0);
        unset.then(|| ("min-replicas-to-write 0".to_owned(), set("min-replicas-to-write 1 min-replicas-max-lag", "10")))
    })
}

fn min_replicas_too_high(facts: &SetUp) -> Vec<Seen> {
    each_node(facts, |node| {
        let needed = node.number("min-replicas-to-write").filter(|needed| *needed > 0)?;
        let replicas = replicas(facts);
        let what = format!("min-replicas-to-write {needed}, and {replicas} replicas");
        (needed >= replicas)
            .then(|| (what, set("min-replicas-to-write", &replicas.saturating_sub(1).min(1).to_string())))
    })
}

fn writable(facts: &SetUp) -> Vec<Seen> {
    each_node(facts, |node| {
        let is_writable = node.settings.get("replica-read-only").is_some_and(|value| value == "no");
        is_writable.then(|| ("replica-read-only no".to_owned(), set("replica-read-only", "yes")))
    })
}

fn backlog(facts: &SetUp) -> Vec<Seen> {
    each_node(facts, |node| {
        let bytes = node.number("repl-backlog-size").filter(|bytes| *bytes < LEAST_BACKLOG)?;
        Some((format!("repl-backlog-size {bytes}"), set("repl-backlog-size", "64mb")))
    })
}

fn buffer(facts: &SetUp) -> Vec<Seen> {
    each_node(facts, |node| {
        let classes = node.settings.get("client-output-buffer-limit")?;
        let words: Vec<&str> = classes.split_whitespace().collect();
        let limits = words.chunks(4).find(|class| matches!(class[0], "slave" | "replica"))?;
        let [hard, soft] = [limits.get(1)?, limits.get(2)?].map(|bytes| bytes.parse::<u64>().unwrap_or_default());
        let is_small = (1..LEAST_BUFFER).contains(&hard) || (1..LEAST_BUFFER / 4).contains(&soft);
        is_small.then(|| (limits.join(" "), set("client-output-buffer-limit", "\"replica 512mb 256mb 60\"")))
    })
}

fn diskless(facts: &SetUp) -> Vec<Seen> {
    each_node(facts, |node| {
        let is_off = node.settings.get("repl-diskless-sync").is_some_and(|value| value == "no");
        is_off.then(|| ("repl-diskless-sync no".to_owned(), set("repl-diskless-sync", "yes")))
    })
}
