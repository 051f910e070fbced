//! Checks of who may enter: passwords, users, permissions, and the commands that Sentinel needs.

use std::net::IpAddr;

use super::Severity::{Critical, Hint, Warning};
use super::{Check, Seen, each_node, list, seen};
use crate::address::HostPort;
use crate::facts::{NodeFacts, SetUp, has_flag, place};

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "node-unreachable",
        severity: Critical,
        means: "this host cannot reach a node that the Sentinels know: after a failover to it there is no way to the master",
        look: unreachable,
    },
    Check {
        id: "stale-replica",
        severity: Hint,
        means: "the Sentinels remember a replica that is gone; it is counted, and tried at failovers",
        look: stale,
    },
    Check {
        id: "requirepass-missing",
        severity: Critical,
        means: "a node without the password that others have refuses it (AUTH fails) once it is the master, and is open to all",
        look: requirepass_missing,
    },
    Check {
        id: "masterauth-missing",
        severity: Critical,
        means: "as soon as this node is a replica again it cannot log in to the new master, and falls behind for ever",
        look: masterauth_missing,
    },
    Check {
        id: "masterauth-differs",
        severity: Critical,
        means: "the password with which this node would log in to its master is not that of every node",
        look: masterauth_differs,
    },
    Check {
        id: "credentials-refused",
        severity: Critical,
        means: "the password or user that is configured here is refused by a node: once it is the master, clients are",
        look: credentials_refused,
    },
    Check {
        id: "users-differ",
        severity: Critical,
        means: "ACL users are not replicated: after a failover clients of a user that is missing there are refused. ACL SETUSER \
                changes one node, and is gone when it restarts, unless ACL SAVE or CONFIG REWRITE wrote it down",
        look: users_differ,
    },
    Check {
        id: "open-to-all",
        severity: Warning,
        means: "whoever reaches the port can read, write, and load code",
        look: open_to_all,
    },
    Check {
        id: "bind-loopback",
        severity: Critical,
        means: "the node listens on addresses of its own host alone, or refuses others by protected-mode: replicas and Sentinels \
                elsewhere cannot reach it",
        look: bind_loopback,
    },
    Check {
        id: "commands-renamed",
        severity: Critical,
        means: "without these commands Sentinel cannot promote or demote this node, or replicas cannot follow it",
        look: renamed,
    },
    Check {
        id: "not-readable",
        severity: Hint,
        means: "the user that is configured here may not ask this: what depends on it was not checked",
        look: not_readable,
    },
];

/// Replicas that are marked down by every Sentinel that knows them, or that never had a port.
fn is_stale(facts: &SetUp, at: &HostPort) -> bool {
    let entries = || facts.heard().flat_map(|(_, s)| &s.replicas).filter(|entry| place(entry).as_ref() == Some(at));
    at.port == 0 || entries().count() > 0 && entries().all(|entry| has_flag(entry, "s_down"))
}

fn unreachable(facts: &SetUp) -> Vec<Seen> {
    let silent = facts.nodes.iter().filter_map(|asked| Some((&asked.at, asked.answer.as_ref().err()?)));
    let mend = |at: &HostPort| {
        format!("redis-cli -h {} -p {} PING   # from this host; start it, or open the way", at.host, at.port)
    };
    silent.filter(|(at, _)| !is_stale(facts, at)).map(|(at, why)| seen(at, why, mend(at))).collect()
}

fn stale(facts: &SetUp) -> Vec<Seen> {
    let phantoms = facts.heard().flat_map(|(_, s)| &s.replicas).filter_map(place).filter(|at| at.port == 0);
    let silent = facts.nodes.iter().filter(|asked| asked.answer.is_err() && is_stale(facts, &asked.at));
    let mut gone: Vec<HostPort> = phantoms.chain(silent.map(|asked| asked.at.clone())).collect();
    gone.sort();
    gone.dedup();
    let mend = format!(
        "start it; if it is gone for good: SENTINEL RESET {}   # on each Sentinel, one after the other",
        facts.name
    );
    gone.iter().map(|at| seen(format!("replica {at}"), "no Sentinel reaches it, and neither do we", &mend)).collect()
}

/// Some node has a password.
fn is_protected(facts: &SetUp) -> bool {
    facts.alive().any(|(_, node)| !node.open)
}

fn requirepass_missing(facts: &SetUp) -> Vec<Seen> {
    each_node(facts, |node| {
        let mend = "CONFIG SET requirepass PASSWORD, then CONFIG REWRITE   # and the same line in its redis.conf";
        (node.open && is_protected(facts))
            .then(|| ("it answers without a password, others do not".to_owned(), mend.to_owned()))
    })
}

fn masterauth_missing(facts: &SetUp) -> Vec<Seen> {
    each_node(facts, |node| {
        let is_known = !node.settings.is_empty();
        let mend = "CONFIG SET masterauth PASSWORD, then CONFIG REWRITE   # and the same line in its redis.conf";
        let lacks = is_known && node.masterauth.is_none() && is_protected(facts);
        lacks.then(|| ("no masterauth".to_owned(), mend.to_owned()))
    })
}

fn masterauth_differs(facts: &SetUp) -> Vec<Seen> {
    each_node(facts, |node| {
        let own = node.masterauth.as_ref()?;
        // With a masteruser it is that user's.
        let as_default = node.settings.get("masteruser").is_none_or(|user| user.is_empty() || user == "default");
        let other =
            |(_, other): &(&HostPort, &NodeFacts)| other.requirepass.as_ref().is_some_and(|theirs| theirs != own);
        let differing: Vec<&HostPort> = facts.alive().filter(other).map(|(at, _)| at).collect();
        let mend = "CONFIG SET masterauth PASSWORD, then CONFIG REWRITE   # one password: requirepass and masterauth of every node";
        let what = || format!("its masterauth is not the requirepass of {}", list(differing.iter().copied()));
        (as_default && !differing.is_empty()).then(|| (what(), mend.to_owned()))
    })
}

fn credentials_refused(facts: &SetUp) -> Vec<Seen> {
    each_node(facts, |node| {
        let mend = "one password and the same users on every node: CONFIG SET requirepass, ACL SETUSER, then CONFIG REWRITE; here \
                    redis_username, redis_password (SWITCHMASTER_REDIS_PASSWORD)";
        let no_password = || {
            let locked = node.info.is_empty() && node.refused.iter().any(|why| why.contains("NOAUTH"));
            locked.then(|| "NOAUTH: no password is configured here".to_owned())
        };
        // A node that has none is another finding.
        let refusal = node.login.clone().filter(|_| !node.open).or_else(no_password)?;
        Some((refusal, mend.to_owned()))
    })
}

fn users_differ(facts: &SetUp) -> Vec<Seen> {
    let mut known = facts.alive().filter_map(|(at, node)| Some((at, node.users.as_ref()?)));
    let Some((first, of_first)) = known.next() else { return Vec::new() };
    let name = |line: &crate::secret::Secret| line.reveal().split(' ').nth(1).unwrap_or_default().to_owned();
    let mut found = Vec::new();
    for (at, users) in known {
        let only = |one: &[crate::secret::Secret], other: &[crate::secret::Secret]| {
            // The default user's password is requirepass, which other checks compare.
            one.iter()
                .filter(|user| !other.contains(user))
                .map(name)
                .filter(|name| name != "default")
                .collect::<Vec<_>>()
        };
        let mut names = [only(users, of_first), only(of_first, users)].concat();
        names.sort();
        names.dedup();
        if !names.is_empty() {
            let mend = "ACL SETUSER on every node alike, then CONFIG REWRITE (ACL SAVE where there is an aclfile)";
            found.push(seen(at, format!("not as on {first}: {}", names.join(", ")), mend));
        }
    }
    found
}

fn binds_loopback(node: &NodeFacts) -> bool {
    let bind = node.settings.get("bind").map_or("", String::as_str);
    let is_loopback = |ip: &str| ip.trim_start_matches('-').parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    !bind.is_empty() && bind.split_whitespace().all(is_loopback)
}

fn open_to_all(facts: &SetUp) -> Vec<Seen> {
    each_node(facts, |node| {
        let mend = "requirepass and masterauth with one password on every node, auth-pass on every Sentinel, the password here";
        let is_everywhere = node.open && !is_protected(facts) && !node.settings.is_empty() && !binds_loopback(node);
        is_everywhere.then(|| ("no password, and not only on loopback".to_owned(), mend.to_owned()))
    })
}

fn bind_loopback(facts: &SetUp) -> Vec<Seen> {
    let is_spread = facts.nodes.iter().any(|asked| asked.ip.is_some_and(|ip| !ip.is_loopback()));
    each_node(facts, |node| {
        let is_set = |name: &str, value: &str| node.settings.get(name).is_some_and(|set| set == value);
        let is_shut = is_set("protected-mode", "yes") && node.open && !binds_loopback(node);
        let (what, mend) = if is_shut {
            (
                "protected-mode yes and no password",
                "requirepass and masterauth on every node (or protected-mode no behind a firewall)",
            )
        } else if is_spread && binds_loopback(node) {
            ("bind has loopback alone", "bind with the host's own address beside 127.0.0.1, in redis.conf")
        } else {
            return None;
        };
        Some((what.to_owned(), mend.to_owned()))
    })
}

fn renamed(facts: &SetUp) -> Vec<Seen> {
    each_node(facts, |node| {
        let mend = "take the lines `rename-command` out of redis.conf and restart; ACL rules do it without breaking Sentinel, or \
                    `sentinel rename-command` on every Sentinel";
        (!node.renamed.is_empty()).then(|| (node.renamed.join(", "), mend.to_owned()))
    })
}

fn not_readable(facts: &SetUp) -> Vec<Seen> {
    each_node(facts, |node| {
        let denied: Vec<&String> = node.refused.iter().filter(|why| why.contains("NOPERM")).collect();
        let mend =
            "ACL SETUSER USER +info +role +config|get +acl|list +command|info, then CONFIG REWRITE, on every node";
        let shown = denied.iter().map(|why| why.split(": ").next().unwrap_or_default()).collect::<Vec<_>>().join(", ");
        (!denied.is_empty())
            .then(|| (format!("NOPERM for {}", shown.chars().take(80).collect::<String>()), mend.to_owned()))
    })
}
