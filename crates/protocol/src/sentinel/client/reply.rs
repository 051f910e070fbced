//! Reads the replies of Sentinels and nodes.
//!
//! Lenient: an absent or strange field is `None`, an empty list or 0, never a panic; RESP2 and RESP3 both. What goes on
//! from here is short: so many entries of a list, so much of a text.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use redis::Value;

use super::{AddressMap, Error};
use crate::address::HostPort;
use crate::node::info::InfoText;
use crate::node::role::{self, ConnectedReplica};
use crate::node::{auth, refusal};
use crate::resp::reply::Reply;
use crate::sentinel::report::{Claim, Info, NamedReplica, Peer, ReplicaFact, Role};

/// Entries of a list, and fields of an entry. A Sentinel's have about 45 fields; nobody has a hundred replicas.
const MOST_ENTRIES: usize = 128;
/// Of a text; a host name has 255 bytes.
const LONGEST_TEXT: usize = 300;

pub(super) async fn claim(
    peer: &str,
    name: &str,
    before: &Value,
    addr: &Value,
    after: &Value,
    map: &AddressMap,
    limit: Duration,
) -> Result<Claim, String> {
    if let Value::ServerError(error) = before {
        let words = words(error.details().unwrap_or_default());
        return Err(if words.starts_with("No such master") {
            format!("{peer} does not monitor a master named {name}")
        } else {
            format!("{peer}: -{} {words}", error.code())
        });
    }
    let addr: Vec<String> = entries(addr).filter_map(text).map(|text| words(&text)).collect();
    let [host, port] = &addr[..] else { return Err(format!("{peer} does not say where {name} is")) };
    let port = port.parse().map_err(|_| format!("{peer} names the port {port}"))?;
    let reported = HostPort { host: host.clone(), port };
    let (before, mut after) = (fields(before), fields(after));
    if before.get("config-epoch") != after.get("config-epoch") {
        return Err(format!("{peer} changed its mind while it answered"));
    }
    let epoch = after.get("config-epoch").and_then(|epoch| epoch.parse().ok());
    let epoch = epoch.ok_or_else(|| format!("{peer} gives no config-epoch"))?;
    // From a promotion to the end of its failover GET names the new master, and MASTER still describes the old one
    // (sentinel.c, `sentinelGetCurrentMasterAddress`).
    let is_of_it = after.get("ip").is_none_or(|ip| *ip == reported.host)
        && after.get("port").is_none_or(|port| *port == reported.port.to_string());
    let flags = after.remove("flags").unwrap_or_default();
    let flag = |wanted: &str| flags.split(',').any(|flag| flag == wanted);
    let number = |key: &str| after.get(key).and_then(|value| value.parse::<u64>().ok()).unwrap_or_default();
    Ok(Claim {
        addr: map.resolve(&reported, limit).await.map_err(|error| error.to_string())?,
        epoch,
        run_id: after.get("runid").filter(|id| is_of_it && !id.is_empty()).cloned(),
        s_down: is_of_it && flag("s_down"),
        o_down: is_of_it && flag("o_down"),
        disconnected: is_of_it && flag("disconnected"),
        failover: flag("failover_in_progress"),
        quorum: number("quorum"),
        other_sentinels: number("num-other-sentinels"),
        down_after: Duration::from_millis(number("down-after-milliseconds")),
        failover_timeout: Duration::from_millis(number("failover-timeout")),
    })
}

pub(super) fn peer(entry: &Value) -> Option<Peer> {
    let mut fields = fields(entry);
    let flags = fields.remove("flags").unwrap_or_default();
    Some(Peer {
        addr: HostPort { host: fields.remove("ip")?, port: fields.get("port")?.parse().ok()? },
        run_id: fields.remove("runid").unwrap_or_default(),
        s_down: flags.split(',').any(|flag| flag == "s_down"),
    })
}

pub(super) async fn replica(entry: &Value, map: &AddressMap, limit: Duration) -> Option<ReplicaFact> {
    let fields = fields(entry);
    let reported = HostPort { host: fields.get("ip")?.clone(), port: fields.get("port")?.parse().ok()? };
    if reported.port == 0 {
        return None;
    }
    let flags = fields.get("flags").map(String::as_str).unwrap_or_default();
    let is = |key: &str, value: &str| fields.get(key).is_some_and(|found| found == value);
    let number = |key: &str| fields.get(key).and_then(|number| number.parse().ok()).unwrap_or_default();
    Some(ReplicaFact {
        addr: map.resolve(&reported, limit).await.ok()?,
        reported_master: is("role-reported", "master"),
        down: flags.split(',').any(|flag| matches!(flag, "s_down" | "o_down" | "disconnected")),
        link_up: is("master-link-status", "ok"),
        link_down_for: Duration::from_millis(number("master-link-down-time")),
        offset: number("slave-repl-offset"),
        never_promoted: is("slave-priority", "0"),
    })
}

pub(super) fn role(peer: &str, reply: Option<&Value>, map: &AddressMap) -> Result<Role, Error> {
    let reply = reply.ok_or_else(|| Error::Reply(format!("{peer}: no reply to ROLE")))?;
    if let Value::ServerError(error) = reply {
        let words = format!("-{} {}", words(error.code()), words(error.details().unwrap_or_default()));
        return match () {
            () if refusal::is_occupied(&words) => Ok(Role::Occupied(words)),
            () if auth::is_refused(&words) => Ok(Role::Unreadable(words)),
            () => Err(Error::Reply(format!("{peer}: {words}"))),
        };
    }
    match role::Role::parse(&plain(reply)) {
        Some(role::Role::Master { offset, replicas }) => {
            Ok(Role::Master { offset, replicas: replicas_of(replicas, map) })
        }
        Some(role::Role::Replica { host, port, link_up, offset }) => {
            let master = (port > 0).then(|| map.literal(&HostPort { host, port })).flatten();
            Ok(Role::Replica { master, link_up, offset })
        }
        None => Err(Error::Reply(format!("{peer}: not an answer to ROLE"))),
    }
}

/// A client that says PSYNC and not where it listens is listed at port 0: nobody to be promoted. One that poses as a
/// replica is listed at that one's address beside it, with offset 0.
fn replicas_of(list: Vec<ConnectedReplica>, map: &AddressMap) -> Vec<(SocketAddr, u64)> {
    let mut found: Vec<(SocketAddr, u64)> = Vec::new();
    for ConnectedReplica { host, port, offset } in list.into_iter().filter(|replica| replica.port > 0) {
        let Some(addr) = map.literal(&HostPort { host, port }) else { continue };
        match found.iter_mut().find(|(known, _)| *known == addr) {
            Some((_, known)) => *known = offset.max(*known),
            None => found.push((addr, offset)),
        }
    }
    found
}

/// The same reply to those who know no redis crate, its lists cut short.
fn plain(value: &Value) -> Reply {
    match value {
        Value::Int(number) => Reply::Integer(*number),
        Value::Array(_) | Value::Set(_) => Reply::Array(entries(value).map(plain).collect()),
        value => text(value).map_or(Reply::Nil, Reply::Simple),
    }
}

pub(super) fn parse_info(replies: &[Value], map: &AddressMap) -> Option<Info> {
    let sections: Vec<String> = replies.iter().map(text).collect::<Option<_>>()?;
    let said = InfoText::of(sections.iter().map(String::as_str));
    let mut info = Info {
        run_id: said.text("run_id").map(words).filter(|id| !id.is_empty())?,
        replid: said.text("master_replid").map(words).filter(|id| !id.is_empty())?,
        replid2: said.earlier_replid().map(words),
        second_offset: said.number("second_repl_offset"),
        loading: said.text("loading").is_some_and(|loading| loading != "0"),
        keys: said.keys(),
        ..Info::default()
    };
    for replica in said.replicas().filter(|replica| replica.online && replica.port > 0) {
        let Some(lag) = replica.lag else { continue };
        let at = HostPort { host: replica.host.to_owned(), port: replica.port };
        match map.literal(&at) {
            Some(addr) if info.lags.len() < MOST_ENTRIES => info.lags.push((addr, lag)),
            None if info.named.len() < MOST_ENTRIES => {
                info.named.push(NamedReplica { addr: map.remembered(&at), offset: replica.offset, lag });
            }
            _ => {}
        }
    }
    Some(info)
}

/// The words of a NOPERM.
pub(super) fn no_permission(reply: &Value) -> Option<String> {
    match reply {
        Value::ServerError(error) if error.code() == "NOPERM" => {
            Some(format!("-NOPERM {}", words(error.details().unwrap_or_default())))
        }
        _ => None,
    }
}

pub(super) fn error_of(peer: &str, reply: &Value) -> Option<Error> {
    match reply {
        Value::ServerError(error) => Some(reply_error(peer, error.code(), error.details().unwrap_or_default())),
        _ => None,
    }
}

pub(super) fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Some(text.clone()),
        Value::Int(number) => Some(number.to_string()),
        Value::Okay => Some("OK".into()),
        _ => None,
    }
}

pub(super) fn items(value: &Value) -> &[Value] {
    match value {
        Value::Array(items) | Value::Set(items) => items,
        _ => &[],
    }
}

pub(super) fn is_list(value: &Value) -> bool {
    matches!(value, Value::Array(_) | Value::Set(_))
}

/// The first entries of a list.
pub(super) fn entries(value: &Value) -> impl Iterator<Item = &Value> {
    items(value).iter().take(MOST_ENTRIES)
}

/// The beginning of what a server said, fit for a line of the log.
pub(super) fn words(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(LONGEST_TEXT).collect()
}

fn field(key: &Value, value: &Value) -> Option<(String, String)> {
    Some((words(&text(key)?), words(&text(value)?)))
}

/// The fields of a Sentinel entry: a map in RESP3, a flat array in RESP2.
pub(super) fn fields(value: &Value) -> HashMap<String, String> {
    match value {
        Value::Map(pairs) => pairs.iter().take(MOST_ENTRIES).filter_map(|(key, value)| field(key, value)).collect(),
        Value::Array(items) => {
            items.chunks_exact(2).take(MOST_ENTRIES).filter_map(|pair| field(&pair[0], &pair[1])).collect()
        }
        _ => HashMap::new(),
    }
}

pub(super) fn reply_error(peer: &str, code: &str, detail: &str) -> Error {
    let (code, detail) = (&*words(code), &*words(detail));
    let text = match code {
        "NOAUTH" if peer.starts_with("Sentinel ") => {
            format!("{peer} wants a password and none is set: set sentinel_password (NOAUTH)")
        }
        "WRONGPASS" if peer.starts_with("Sentinel ") => {
            format!(
                "{peer} refuses our password: set sentinel_password (and sentinel_username) to what it expects (WRONGPASS)"
            )
        }
        _ => format!("{peer}: -{code} {detail}"),
    };
    if auth::is_refused(&format!("{code} {detail}")) { Error::Auth(text) } else { Error::Reply(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn a_replica_without_a_port_is_none_and_one_listed_twice_is_where_it_was_further() {
        let replica = |host, port, offset| Value::Array(vec![bulk(host), bulk(port), bulk(offset)]);
        let list = vec![
            replica("127.0.0.1", "0", "5"),
            replica("10.0.0.2", "6379", "90"),
            replica("10.0.0.2", "6379", "0"),
            replica("redis-3", "6379", "80"),
        ];
        let reply = Value::Array(vec![bulk("master"), Value::Int(100), Value::Array(list)]);
        let found = role("Redis", Some(&reply), &AddressMap::default()).expect("a role");
        let replicas = vec![("10.0.0.2:6379".parse().expect("an address"), 90)];
        assert_eq!(found, Role::Master { offset: 100, replicas });
    }

    #[tokio::test]
    async fn what_master_says_of_the_old_master_is_not_taken_for_the_new_one() {
        let map = AddressMap::default();
        let limit = Duration::from_secs(5);
        let flags = "master,o_down,disconnected,failover_in_progress";
        let fields = ["ip", "10.0.0.1", "port", "6379", "runid", "old", "flags", flags, "config-epoch", "6"];
        let master = Value::Array(fields.map(bulk).to_vec());
        let names = |host, port| Value::Array(vec![bulk(host), bulk(port)]);
        let same = claim("Sentinel", "m", &master, &names("10.0.0.1", "6379"), &master, &map, limit).await;
        let same = same.expect("a claim");
        assert_eq!((same.run_id.as_deref(), same.o_down, same.disconnected), (Some("old"), true, true));
        for new in [names("10.0.0.2", "6379"), names("10.0.0.1", "6380")] {
            let claim = claim("Sentinel", "m", &master, &new, &master, &map, limit).await.expect("a claim");
            assert_eq!((claim.run_id, claim.o_down, claim.disconnected), (None, false, false));
            assert_eq!((claim.epoch, claim.failover), (6, true), "these are of the failover");
        }
    }

    #[tokio::test]
    async fn what_info_lists_by_a_name_is_found_where_the_name_led_last() {
        let section = "run_id:a\r\nmaster_replid:b\r\n\
                       slave0:ip=localhost,port=6380,state=online,offset=90,lag=1\r\n\
                       slave1:ip=10.0.0.2,port=6380,state=online,offset=100,lag=0\r\n\
                       slave2:ip=127.0.0.1,port=0,state=online,offset=100,lag=0\r\n";
        let map = AddressMap::default();
        let info = parse_info(&[bulk(section)], &map).expect("INFO");
        assert_eq!(info.lags, [("10.0.0.2:6380".parse().expect("an address"), 0)]);
        assert_eq!(info.named, [NamedReplica { addr: None, offset: 90, lag: 1 }]);
        let at = HostPort { host: "localhost".into(), port: 6380 };
        let led = map.resolve(&at, Duration::from_secs(5)).await.expect("localhost is known everywhere");
        assert_eq!(parse_info(&[bulk(section)], &map).expect("INFO").named[0].addr, Some(led));
    }

    #[test]
    fn texts_and_lists_are_cut_short_and_fit_for_a_log() {
        assert_eq!(words("a\u{1b}[31m\r\nb"), "a[31mb");
        assert_eq!(words(&"x".repeat(5_000_000)).len(), LONGEST_TEXT);
        let error = reply_error("Sentinel a:1", "ERR", &"y".repeat(100_000)).to_string();
        assert!(error.len() < 400, "{}", error.len());
        let many = Value::Array(vec![Value::Nil; 20_000]);
        assert_eq!(entries(&many).count(), MOST_ENTRIES);
    }
}
