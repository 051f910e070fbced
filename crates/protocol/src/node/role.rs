//! The reply to ROLE.
//!
//! Addresses are as the node says them, unmapped and unresolved. Source: `roleCommand` in replication.c of Redis 7.0.

use std::net::{IpAddr, SocketAddr};

use crate::resp::reply::Reply;

/// What a node is; a Sentinel is neither.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// `master`.
    Master {
        /// `master_repl_offset`, in bytes.
        offset: u64,
        /// The replicas that are connected.
        replicas: Vec<ConnectedReplica>,
    },
    /// `slave`.
    Replica {
        /// Host as it was given to REPLICAOF.
        host: String,
        /// Its port.
        port: u16,
        /// The state is `connected`.
        link_up: bool,
        /// How far it has processed the stream, in bytes; 0 while it has none.
        offset: u64,
    },
}

/// A replica as its master knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectedReplica {
    /// As it announces itself.
    pub host: String,
    /// 0 for a client that says PSYNC and not where it listens.
    pub port: u16,
    /// What it has acknowledged, in bytes.
    pub offset: u64,
}

impl Role {
    /// Reads the reply; `None`: it is not one of a master or a replica.
    pub fn parse(reply: &Reply) -> Option<Role> {
        let port = |reply: &Reply| reply.number().and_then(|port| u16::try_from(port).ok()).unwrap_or_default();
        let number = |reply: Option<&Reply>| reply.and_then(Reply::number).unwrap_or_default();
        match reply.items() {
            [kind, offset, replicas, ..] if kind.text() == Some("master") => Some(Role::Master {
                offset: number(Some(offset)),
                replicas: (replicas.items().iter())
                    .filter_map(|replica| match replica.items() {
                        [host, at, offset, ..] => {
                            let (host, offset) = (host.text()?.to_owned(), number(Some(offset)));
                            Some(ConnectedReplica { host, port: port(at), offset })
                        }
                        _ => None,
                    })
                    .collect(),
            }),
            [kind, host, at, rest @ ..] if matches!(kind.text(), Some("slave" | "replica")) => Some(Role::Replica {
                host: host.text().unwrap_or_default().to_owned(),
                port: port(at),
                link_up: rest.first().and_then(Reply::text) == Some("connected"),
                offset: number(rest.get(1)),
            }),
            _ => None,
        }
    }

    /// It is a master.
    pub fn is_master(&self) -> bool {
        matches!(self, Role::Master { .. })
    }

    /// It is a replica of the node at `addr`, however that address is written.
    pub fn is_replica_of(&self, addr: SocketAddr) -> bool {
        let Role::Replica { host, port, .. } = self else { return false };
        host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical() == addr.ip().to_canonical()) && *port == addr.port()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::reply::parse;

    fn role(bytes: &[u8]) -> Option<Role> {
        Role::parse(&parse(bytes).unwrap().unwrap().0)
    }

    #[test]
    fn a_master_lists_its_replicas() {
        let said =
            b"*3\r\n$6\r\nmaster\r\n:100\r\n*2\r\n*3\r\n$8\r\n10.0.0.2\r\n$4\r\n6379\r\n$2\r\n90\r\n*1\r\n:1\r\n";
        let replica = ConnectedReplica { host: "10.0.0.2".into(), port: 6379, offset: 90 };
        assert_eq!(role(said), Some(Role::Master { offset: 100, replicas: vec![replica] }));
    }

    #[test]
    fn a_replica_says_whom_it_follows() {
        let said = b"*5\r\n$5\r\nslave\r\n$16\r\n::ffff:127.0.0.1\r\n:6379\r\n$7\r\nconnect\r\n:-1\r\n";
        let role = role(said).unwrap();
        assert_eq!(role, Role::Replica { host: "::ffff:127.0.0.1".into(), port: 6379, link_up: false, offset: 0 });
        assert!(role.is_replica_of("127.0.0.1:6379".parse().unwrap()) && !role.is_master());
        assert!(!role.is_replica_of("127.0.0.1:6380".parse().unwrap()));
    }

    #[test]
    fn others_are_neither() {
        for said in [&b"*2\r\n$8\r\nsentinel\r\n*0\r\n"[..], b"*1\r\n$6\r\nmaster\r\n", b"*0\r\n", b"-ERR no\r\n"] {
            assert_eq!(role(said), None, "{}", said.escape_ascii());
        }
    }
}
