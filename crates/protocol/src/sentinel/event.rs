//! Reads the messages of a Sentinel's subscription.
//!
//! Addresses are taken by token position, because an IPv6 address contains colons (sentinel.c, `sentinelEvent`).
//! Unknown channels give nothing; what does not parse is no event.

use crate::address::HostPort;

/// A message about our master, or about the Sentinel itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: Kind,
    /// The address that the Sentinel calls the master in this message, as it wrote it.
    pub master: Option<HostPort>,
    /// The node that the message is about: the candidate, the replica, the new master.
    pub node: Option<HostPort>,
}

/// The messages that matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `+try-failover`: a Sentinel runs for leader.
    TryFailover,
    /// `+selected-slave` and the states after it: `node` is about to be promoted.
    Candidate,
    /// `+promoted-slave`: the leader has seen `node` as a master.
    Promoted,
    /// `+switch-master`: the leader's or a follower's table now names `node`.
    SwitchMaster,
    /// `+config-update-from`: a newer table came in.
    ConfigUpdate,
    /// `-failover-abort-*`.
    Aborted {
        /// What follows `-failover-abort-`.
        reason: String,
    },
    /// `+failover-end` and `+failover-end-for-timeout`.
    Ended,
    /// `+sdown` or `+odown` of the master.
    MasterDown,
    /// `-sdown` or `-odown` of the master.
    MasterUp,
    /// `+sdown` of a replica, `+reboot`, `+new-epoch`, `+vote-for-leader`: something is going on.
    Unusual,
    /// `+reset-master`, `+monitor`, `-monitor`: its table was rewritten by hand.
    Table,
    /// `+reboot` of the master: its process was restarted.
    MasterReboot,
    /// `+sentinel`, `-dup-sentinel` …: the peers changed.
    Peers,
    /// `+tilt`.
    TiltOn,
    /// `-tilt`.
    TiltOff,
}

/// Parses one message; `None` when it is about another master or is not needed.
pub fn parse(name: &str, channel: &str, payload: &str) -> Option<Event> {
    let plain = |kind| Some(Event { kind, master: None, node: None });
    match channel {
        "+tilt" => return plain(Kind::TiltOn),
        "-tilt" => return plain(Kind::TiltOff),
        "+new-epoch" | "+vote-for-leader" => return plain(Kind::Unusual),
        "+switch-master" => {
            let tokens: Vec<&str> = payload.split_ascii_whitespace().collect();
            let [master, old_host, old_port, host, port] = tokens[..] else { return None };
            return (master == name).then_some(Event {
                kind: Kind::SwitchMaster,
                master: host_port(old_host, old_port),
                node: host_port(host, port),
            });
        }
        _ => {}
    }
    let about = Instance::parse(payload)?;
    if about.master_name != name {
        return None;
    }
    let of_master = about.kind == "master";
    let of_replica = about.kind == "slave" || about.kind == "replica";
    let kind = match channel {
        "+try-failover" => Kind::TryFailover,
        "+promoted-slave" if of_replica => Kind::Promoted,
        "+selected-slave" if of_replica => Kind::Candidate,
        _ if of_replica && channel.starts_with("+failover-state-") => Kind::Candidate,
        _ if channel.starts_with("-failover-abort") => {
            Kind::Aborted { reason: channel.trim_start_matches("-failover-abort").trim_start_matches('-').into() }
        }
        "+failover-end" | "+failover-end-for-timeout" => Kind::Ended,
        "+config-update-from" => Kind::ConfigUpdate,
        "+sdown" | "+odown" if of_master => Kind::MasterDown,
        "-sdown" | "-odown" if of_master => Kind::MasterUp,
        "+reboot" if of_master => Kind::MasterReboot,
        "+sdown" | "+reboot" | "+elected-leader" => Kind::Unusual,
        "+reset-master" | "+monitor" | "-monitor" => Kind::Table,
        "+sentinel" | "-dup-sentinel" | "+sentinel-address-switch" | "+sentinel-invalid-addr" => Kind::Peers,
        _ => return None,
    };
    let (master, node) = if of_master { (about.addr, None) } else { (about.master, about.addr) };
    Some(Event { kind, master, node })
}

/// `<type> <name> <ip> <port>` with, for all but a master, ` @ <master name> <ip> <port>`.
struct Instance<'a> {
    kind: &'a str,
    addr: Option<HostPort>,
    master_name: &'a str,
    master: Option<HostPort>,
}

impl<'a> Instance<'a> {
    fn parse(payload: &'a str) -> Option<Self> {
        let tokens: Vec<&str> = payload.split_ascii_whitespace().collect();
        let [kind, name, host, port, rest @ ..] = &tokens[..] else { return None };
        let addr = host_port(host, port);
        match rest {
            ["@", master_name, master_host, master_port, ..] => {
                Some(Instance { kind, addr, master_name, master: host_port(master_host, master_port) })
            }
            _ => Some(Instance { kind, master: addr.clone(), addr, master_name: name }),
        }
    }
}

fn host_port(host: &str, port: &str) -> Option<HostPort> {
    Some(HostPort { host: host.to_owned(), port: port.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(host: &str, port: u16) -> Option<HostPort> {
        Some(HostPort { host: host.into(), port })
    }

    #[test]
    fn a_candidate_is_named_by_token_position() {
        let event = parse("m", "+selected-slave", "slave [::1]:6380 ::1 6380 @ m ::1 6379").expect("parses");
        assert_eq!(event.kind, Kind::Candidate);
        assert_eq!(event.node, at("::1", 6380));
        assert_eq!(event.master, at("::1", 6379));
        let event =
            parse("m", "+failover-state-wait-promotion", "slave a:1 10.0.0.2 1 @ m 10.0.0.1 2").expect("parses");
        assert!(matches!(event.kind, Kind::Candidate));
    }

    #[test]
    fn a_switch_names_the_old_and_the_new_master() {
        let event = parse("m", "+switch-master", "m 10.0.0.1 6379 10.0.0.2 6380").expect("parses");
        assert_eq!((event.master, event.node), (at("10.0.0.1", 6379), at("10.0.0.2", 6380)));
        assert_eq!(parse("m", "+switch-master", "other 10.0.0.1 6379 10.0.0.2 6380"), None);
        assert_eq!(parse("m", "+switch-master", "m 10.0.0.1 6379"), None);
    }

    #[test]
    fn other_masters_and_noise_give_nothing() {
        assert_eq!(parse("m", "+sdown", "master other 10.0.0.1 6379"), None);
        assert_eq!(parse("m", "+selected-slave", "slave a:1 10.0.0.2 1 @ other 10.0.0.1 2"), None);
        assert_eq!(parse("m", "+slave-reconf-done", "slave a:1 10.0.0.2 1 @ m 10.0.0.1 2"), None);
        assert_eq!(parse("m", "+sdown", ""), None);
        assert_eq!(parse("m", "+sdown", "master m 10.0.0.1 notaport").map(|event| event.master), Some(None));
    }

    #[test]
    fn aborts_keep_their_reason() {
        let event = parse("m", "-failover-abort-no-good-slave", "master m 10.0.0.1 6379").expect("parses");
        assert_eq!(event.kind, Kind::Aborted { reason: "no-good-slave".into() });
        let event = parse("m", "+odown", "master m 10.0.0.1 6379 #quorum 2/2").expect("parses");
        assert_eq!(event.kind, Kind::MasterDown);
        assert_eq!(event.master, at("10.0.0.1", 6379));
    }
}
