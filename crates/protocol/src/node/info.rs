//! The text of INFO: its fields by name, and what they say of the node.
//!
//! Holds nothing of its own; the first field of a name counts. Source: `genRedisInfoString` in server.c of Redis 7.0.

use std::collections::BTreeMap;
use std::str::FromStr;

/// The text, or those of several sections.
#[derive(Clone, Debug)]
pub struct InfoText<'a> {
    sections: Vec<&'a str>,
}

/// `role`, as INFO has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InfoRole {
    /// `master`.
    Master,
    /// `slave`.
    Replica {
        /// `master_link_status` is up.
        link_up: bool,
    },
}

impl InfoRole {
    /// For people: `master` or `replica`.
    pub fn name(self) -> &'static str {
        match self {
            InfoRole::Master => "master",
            InfoRole::Replica { .. } => "replica",
        }
    }
}

/// A replica in its master's list: `slave0:ip=…,port=…,state=online,offset=…,lag=0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedReplica<'a> {
    /// An address or a name, as the replica announces it.
    pub host: &'a str,
    /// 0 for a client that says PSYNC and not where it listens.
    pub port: u16,
    /// `state` is online: it follows the stream.
    pub online: bool,
    /// How far it has acknowledged the stream, in bytes.
    pub offset: u64,
    /// Seconds since then.
    pub lag: Option<u64>,
}

impl<'a> InfoText<'a> {
    /// One reply to INFO.
    pub fn new(text: &'a str) -> InfoText<'a> {
        InfoText { sections: vec![text] }
    }

    /// Replies to INFO, one for each section that was asked for.
    pub fn of(sections: impl IntoIterator<Item = &'a str>) -> InfoText<'a> {
        InfoText { sections: sections.into_iter().collect() }
    }

    /// The value of a field.
    pub fn text(&self, field: &str) -> Option<&'a str> {
        self.fields().find(|(name, _)| *name == field).map(|(_, value)| value)
    }

    /// The value of a field that is a number.
    pub fn number<T: FromStr>(&self, field: &str) -> Option<T> {
        self.text(field)?.parse().ok()
    }

    /// The field is there, a number and not 0.
    pub fn is_set(&self, field: &str) -> bool {
        self.number::<u64>(field).is_some_and(|number| number != 0)
    }

    /// Whether it is a master, or the replica of one.
    pub fn role(&self) -> Option<InfoRole> {
        match self.text("role")? {
            "master" => Some(InfoRole::Master),
            "slave" | "replica" => Some(InfoRole::Replica { link_up: self.text("master_link_status") == Some("up") }),
            _ => None,
        }
    }

    /// `valkey_version`, else `redis_version`.
    pub fn version(&self) -> Option<&'a str> {
        self.text("valkey_version").or_else(|| self.text("redis_version"))
    }

    /// It is a Valkey.
    pub fn is_valkey(&self) -> bool {
        self.text("valkey_version").is_some()
    }

    /// `master_replid2`: the history before a promotion; `None` when it is all zeros.
    pub fn earlier_replid(&self) -> Option<&'a str> {
        self.text("master_replid2").filter(|replid| replid.bytes().any(|byte| byte != b'0'))
    }

    /// Keys of each database, with how many of them expire: `db0:keys=3,expires=1,avg_ttl=0`.
    pub fn keyspace(&self) -> BTreeMap<u32, (u64, u64)> {
        let parse = |(name, value): (&str, &str)| {
            let number = |part| part_of(value, part).and_then(|number| number.parse().ok());
            Some((name.strip_prefix("db")?.parse().ok()?, (number("keys")?, number("expires").unwrap_or_default())))
        };
        self.fields().filter_map(parse).collect()
    }

    /// Keys of all databases.
    pub fn keys(&self) -> u64 {
        self.keyspace().values().fold(0, |sum, (keys, _)| sum.saturating_add(*keys))
    }

    /// The replicas of a master, in the order in which it lists them.
    pub fn replicas(&self) -> impl Iterator<Item = ListedReplica<'a>> {
        self.fields().filter(|(name, _)| name.starts_with("slave")).filter_map(|(_, value)| {
            Some(ListedReplica {
                host: part_of(value, "ip")?,
                port: part_of(value, "port")?.parse().ok()?,
                online: part_of(value, "state") == Some("online"),
                offset: part_of(value, "offset").and_then(|offset| offset.parse().ok()).unwrap_or_default(),
                lag: part_of(value, "lag").and_then(|lag| lag.parse().ok()),
            })
        })
    }

    fn fields(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.sections.iter().flat_map(|section| section.lines()).filter_map(|line| line.trim_end().split_once(':'))
    }
}

/// The value of `name` in `name=value,name=value`.
fn part_of<'a>(value: &'a str, name: &str) -> Option<&'a str> {
    value.split(',').find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let info =
            InfoText::new("# Memory\r\nmaxmemory_human:100B\r\nmaxmemory:100\r\n# Replication\r\nrole:slave\r\n");
        assert_eq!(
            (info.number("maxmemory"), info.text("memory"), info.is_set("maxmemory")),
            (Some(100_u64), None, true)
        );
        assert_eq!(info.role(), Some(InfoRole::Replica { link_up: false }));
        assert_eq!(InfoText::new("nonsense").role(), None);
    }

    #[test]
    fn databases_replicas_and_histories_are_lists() {
        let replication = "role:master\r\nconnected_slaves:3\r\n\
            slave0:ip=::1,port=6380,state=online,offset=90,lag=1\r\nslave1:ip=db2,port=0,state=wait_bgsave\r\n\
            slave2:ip=10.0.0.2\r\nmaster_replid2:0000\r\nsecond_repl_offset:-1\r\n";
        let keyspace =
            "db0:keys=3,expires=1,avg_ttl=0\r\ndb12:keys=4,expires=0,avg_ttl=0,subexpiry=0\r\ndbx:keys=1\r\n";
        let info = InfoText::of([replication, keyspace]);
        assert_eq!(info.keyspace(), BTreeMap::from([(0, (3, 1)), (12, (4, 0))]));
        assert_eq!((info.keys(), info.earlier_replid(), info.number::<u64>("second_repl_offset")), (7, None, None));
        let listed: Vec<_> = info.replicas().collect();
        let first = ListedReplica { host: "::1", port: 6380, online: true, offset: 90, lag: Some(1) };
        assert_eq!(listed, [first, ListedReplica { host: "db2", port: 0, online: false, offset: 0, lag: None }]);
    }

    #[test]
    fn numbers_that_cannot_be_end_nothing() {
        let info =
            InfoText::new("db0:keys=18446744073709551615,expires=0\r\ndb1:keys=18446744073709551615,expires=0\r\n");
        assert_eq!(info.keys(), u64::MAX);
    }
}
