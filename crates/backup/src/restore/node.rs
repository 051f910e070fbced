//! The target: a connection to it, and what it says of itself.
//!
//! Only asks, but for REPLICAOF and settings. Whatever an ACL does not let us read is unknown, not an error, where we can do without.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::Error;
use crate::node::info::{InfoRole, InfoText};
use crate::node::refusal;
use crate::node::role::Role;
use crate::secret::Credentials;
use crate::source::dial;
use crate::wire::{Reply, Wire};

/// How long one answer may take. A server that loads or empties a large data set answers late.
const ANSWER: Duration = Duration::from_secs(5);

/// A node that is asked now and then, and dialled again when its connection is gone.
#[derive(Debug)]
pub struct Node {
    addr: SocketAddr,
    auth: Option<Credentials>,
    wire: Option<Wire>,
}

/// What a node says of the master that it follows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// `master_host`, as it was given to REPLICAOF, and `master_port`; `None`: it is a master.
    pub master: Option<(String, u16)>,
    /// `master_sync_in_progress`: it waits for a whole data set that its master has announced, or takes it.
    pub synchronising: bool,
    /// `master_link_status` is up.
    pub up: bool,
}

/// The node at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// `run_id`.
    pub run_id: String,
    /// `valkey_version`, else `redis_version`.
    pub version: String,
    /// It is a Valkey.
    pub valkey: bool,
    /// `role` is master.
    pub master: bool,
    /// `cluster_enabled`.
    pub cluster: bool,
    /// It loads a data set. A child that saves or rewrites is no obstacle: it is ended when the new data set comes.
    pub loading: bool,
    /// The newest RDB version that it writes and reads; `None`: it does not tell.
    pub rdb_version: Option<u32>,
    /// `master_replid`: the history of its data.
    pub replid: String,
    /// `master_replid2`: the one before, as a promoted replica knows it.
    pub replid2: String,
    /// `used_memory` in bytes.
    pub used_memory: u64,
    /// `lazyfree_pending_objects`: what is still to be freed in the background.
    pub lazily_freed: u64,
    /// `maxmemory` in bytes; 0: no limit.
    pub maxmemory: u64,
    /// `total_system_memory` in bytes; 0: unknown.
    pub system_memory: u64,
    /// Keys by database.
    pub keyspace: BTreeMap<u32, u64>,
    /// How many databases it has; `None`: it does not tell.
    pub databases: Option<u32>,
    /// `number_of_libraries`: function libraries.
    pub libraries: u64,
    /// `aof_enabled`.
    pub aof: bool,
    /// Replicas connected.
    pub replicas: u64,
    /// A Sentinel is connected; `None` where CLIENT LIST may not be asked.
    pub watched: Option<bool>,
    /// The addresses of clients that are neither Sentinels nor replicas nor we ourselves.
    pub clients: BTreeSet<IpAddr>,
}

impl Node {
    /// Knows where it is; dials when it is first asked.
    pub fn new(addr: SocketAddr, auth: Option<Credentials>) -> Node {
        Node { addr, auth, wire: None }
    }

    /// The same node on a connection of its own.
    pub fn again(&self) -> Node {
        Node::new(self.addr, self.auth.clone())
    }

    /// Where it is.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The address of this host that faces it.
    pub async fn facing(&mut self) -> Result<IpAddr, Error> {
        let addr = self.connected().await?.local_addr();
        addr.map(|addr| addr.ip()).map_err(|error| self.unavailable(&error))
    }

    /// Dials anew at the next question.
    pub fn hang_up(&mut self) {
        self.wire = None;
    }

    /// Nobody listens there.
    pub async fn is_gone(&self) -> bool {
        matches!(Wire::connect(self.addr).await, Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused)
    }

    /// Asks; an error reply is a reply.
    pub async fn ask(&mut self, request: &[&str]) -> Result<Reply, Error> {
        let asked = async { self.connected().await?.ask(request).await.map_err(|error| self.unavailable(&error)) };
        let answer = tokio::time::timeout(ANSWER, asked).await;
        match answer.unwrap_or_else(|_| Err(late(self.addr, request[0]))) {
            Ok(reply) => Ok(reply),
            Err(error) => {
                self.wire = None;
                Err(error)
            }
        }
    }

    /// Asks for text.
    pub async fn text(&mut self, request: &[&str]) -> Result<String, Error> {
        match self.ask(request).await? {
            Reply::Bulk(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            other => Err(self.refused(request[0], &other)),
        }
    }

    /// `REPLICAOF host port`, or `REPLICAOF NO ONE`.
    pub async fn replicaof(&mut self, master: Option<SocketAddr>) -> Result<(), Error> {
        let (host, port) = match master {
            Some(master) => (master.ip().to_string(), master.port().to_string()),
            None => ("NO".into(), "ONE".into()),
        };
        match self.ask(&["REPLICAOF", &host, &port]).await? {
            Reply::Simple(_) => Ok(()),
            other => Err(self.refused("REPLICAOF", &other)),
        }
    }

    /// ROLE.
    pub async fn role(&mut self) -> Result<Role, Error> {
        let reply = self.ask(&["ROLE"]).await?;
        Role::parse(&reply).ok_or_else(|| self.refused("ROLE", &reply))
    }

    /// A setting, where it has this one and lets us read and change it.
    pub async fn setting(&mut self, name: &str) -> Result<String, Error> {
        let reply = self.ask(&["CONFIG", "GET", name]).await?;
        match reply.items() {
            [_, value] => {
                let value = value.text().unwrap_or_default().to_owned();
                // The same value again: nothing changes, and whether it may be changed is known.
                self.set(name, &value).await?;
                Ok(value)
            }
            _ => Err(self.refused("CONFIG GET", &reply)),
        }
    }

    /// `CONFIG SET name value`.
    pub async fn set(&mut self, name: &str, value: &str) -> Result<(), Error> {
        match self.ask(&["CONFIG", "SET", name, value]).await? {
            Reply::Simple(_) => Ok(()),
            other => Err(self.refused("CONFIG SET", &other)),
        }
    }

    /// What INFO says: all that matters of a node that is not overwritten by us.
    pub async fn info(&mut self) -> Result<Facts, Error> {
        Ok(Facts::parse(&self.text(&["INFO"]).await?))
    }

    /// Whom it follows.
    pub async fn link(&mut self) -> Result<Link, Error> {
        Ok(link(&self.text(&["INFO", "replication"]).await?))
    }

    /// Keys of each database, with how many of them expire.
    pub async fn keyspace(&mut self) -> Result<BTreeMap<u32, (u64, u64)>, Error> {
        Ok(InfoText::new(&self.text(&["INFO", "keyspace"]).await?).keyspace())
    }

    /// Everything that matters before it is overwritten.
    pub async fn facts(&mut self) -> Result<Facts, Error> {
        let mut facts = self.info().await?;
        facts.cluster |= InfoText::new(&self.text(&["INFO", "cluster"]).await?).is_set("cluster_enabled");
        facts.rdb_version = match self.ask(&["FUNCTION", "DUMP"]).await? {
            Reply::Bulk(payload) => trailer_version(&payload),
            // Before Redis 7 there are no functions.
            _ => known_version(&facts.version),
        };
        if let [_, count] = self.ask(&["CONFIG", "GET", "databases"]).await?.items() {
            facts.databases = count.text().and_then(|count| count.parse().ok());
        }
        let own = self.connected().await?.local_addr().ok();
        if let Reply::Bulk(list) = self.ask(&["CLIENT", "LIST"]).await? {
            let clients = String::from_utf8_lossy(&list).into_owned();
            (facts.watched, facts.clients) = connected(&clients, own);
        }
        Ok(facts)
    }

    async fn connected(&mut self) -> Result<&mut Wire, Error> {
        if self.wire.is_none() {
            let dialled = dial(self.addr, self.auth.as_ref()).await;
            self.wire = Some(dialled.map_err(|why| Error::Unavailable(format!("{} {why}", self.addr)))?);
        }
        Ok(self.wire.as_mut().expect("just made"))
    }

    fn unavailable(&self, error: &std::io::Error) -> Error {
        Error::Unavailable(format!("cannot talk to {}: {error}", self.addr))
    }

    fn refused(&self, command: &str, reply: &Reply) -> Error {
        let words = reply.to_string();
        let hint = match refusal::code(&words) {
            b"NOAUTH" => "; it wants a password: set redis_password",
            b"NOPERM" => "; the ACL user needs this command (docs/permissions.md)",
            _ if command == "REPLICAOF" => "; where REPLICAOF is not to be had, --keys restores key by key",
            _ => "",
        };
        Error::Unavailable(format!("{} answers {command} with {words}{hint}", self.addr))
    }
}

fn late(addr: SocketAddr, command: &str) -> Error {
    Error::Unavailable(format!("{addr} did not answer {command} within {} s", ANSWER.as_secs()))
}

impl Facts {
    /// Keys of all databases.
    pub fn keys(&self) -> u64 {
        self.keyspace.values().sum()
    }

    /// Whether its data is of the history that this node had: that of a promoted replica is.
    pub fn descends_from(&self, other: &Facts) -> bool {
        !other.replid.is_empty() && [&self.replid, &self.replid2].contains(&&other.replid)
    }

    fn parse(info: &str) -> Facts {
        let info = InfoText::new(info);
        let number = |field: &str| info.number(field).unwrap_or_default();
        let text = |field: &str| info.text(field).unwrap_or_default().to_owned();
        Facts {
            run_id: text("run_id"),
            version: info.version().unwrap_or_default().to_owned(),
            valkey: info.is_valkey(),
            master: info.role() == Some(InfoRole::Master),
            cluster: info.is_set("cluster_enabled"),
            loading: info.is_set("loading") || info.is_set("async_loading"),
            rdb_version: None,
            replid: text("master_replid"),
            replid2: text("master_replid2"),
            used_memory: number("used_memory"),
            lazily_freed: number("lazyfree_pending_objects"),
            maxmemory: number("maxmemory"),
            system_memory: number("total_system_memory"),
            keyspace: info.keyspace().into_iter().map(|(db, (keys, _))| (db, keys)).collect(),
            databases: None,
            libraries: number("number_of_libraries"),
            aof: info.is_set("aof_enabled"),
            replicas: number("connected_slaves"),
            watched: None,
            clients: BTreeSet::new(),
        }
    }
}

fn link(info: &str) -> Link {
    let info = InfoText::new(info);
    let host = info.text("master_host").filter(|_| matches!(info.role(), Some(InfoRole::Replica { .. })));
    Link {
        master: host.map(str::to_owned).zip(info.number("master_port")),
        synchronising: info.is_set("master_sync_in_progress"),
        up: info.text("master_link_status") == Some("up"),
    }
}

/// The version in the last ten bytes of what DUMP and FUNCTION DUMP say (cluster.c, `createDumpPayload`).
fn trailer_version(payload: &[u8]) -> Option<u32> {
    let trailer = payload.last_chunk::<10>()?;
    Some(u16::from_le_bytes([trailer[0], trailer[1]]).into())
}

/// RDB_VERSION of the servers that have no FUNCTION (rdb.h).
fn known_version(version: &str) -> Option<u32> {
    match version.split('.').next()?.parse().ok()? {
        5_u32 | 6 => Some(9),
        4 => Some(8),
        3 => Some(6),
        _ => None,
    }
}

/// Whether CLIENT LIST shows a Sentinel, and who the other clients are. Sentinels name their connections
/// `sentinel-<id>-cmd` and `-pubsub` (sentinel.c, `sentinelSetClientName`); flags with S and M are of replication.
fn connected(list: &str, own: Option<SocketAddr>) -> (Option<bool>, BTreeSet<IpAddr>) {
    let mut watched = false;
    let mut clients = BTreeSet::new();
    for line in list.lines() {
        let word = |key: &str| line.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        let addr = word("addr").and_then(|addr| addr.parse::<SocketAddr>().ok());
        if word("name").is_some_and(|name| name.starts_with("sentinel-")) {
            watched = true;
        } else if let Some(addr) = addr.filter(|addr| Some(*addr) != own)
            && !word("flags").is_some_and(|flags| flags.contains(['S', 'M']))
        {
            clients.insert(addr.ip());
        }
    }
    (Some(watched), clients)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_is_read_by_its_fields() {
        let facts = Facts::parse(
            "# Server\r\nredis_version:7.0.15\r\nrun_id:abc\r\n# Memory\r\nmaxmemory:100\r\nmaxmemory_human:100B\r\n\
             # Replication\r\nrole:master\r\nconnected_slaves:2\r\n# Keyspace\r\ndb0:keys=3,expires=1,avg_ttl=0\r\n\
             db12:keys=4,expires=0,avg_ttl=0,subexpiry=0\r\n",
        );
        assert_eq!((facts.version.as_str(), facts.run_id.as_str(), facts.maxmemory), ("7.0.15", "abc", 100));
        assert_eq!((facts.master, facts.replicas, facts.keys(), facts.loading), (true, 2, 7, false));
        assert_eq!(facts.keyspace, BTreeMap::from([(0, 3), (12, 4)]));
    }

    #[test]
    fn a_replica_says_whom_it_follows() {
        let replica = "role:slave\r\nmaster_host:10.0.0.1\r\nmaster_port:4711\r\nmaster_link_status:down\r\n\
                       master_sync_in_progress:1\r\n";
        assert_eq!(link(replica), Link { master: Some(("10.0.0.1".into(), 4711)), synchronising: true, up: false });
        assert_eq!(link("role:master\r\nconnected_slaves:0\r\n"), Link::default());
    }

    #[test]
    fn the_version_is_in_the_trailer() {
        assert_eq!(trailer_version(&[1, 2, 3, 10, 0, 1, 2, 3, 4, 5, 6, 7, 8]), Some(10));
        assert_eq!(trailer_version(&[80, 0, 1, 2, 3, 4, 5, 6, 7, 8]), Some(80));
        assert_eq!(trailer_version(&[10, 0]), None);
        assert_eq!((known_version("6.2.14"), known_version("7.0.15")), (Some(9), None));
    }

    #[test]
    fn a_sentinel_is_known_by_the_name_of_its_connection() {
        let list = "id=1 addr=10.0.0.9:5000 laddr=10.0.0.1:6379 name= flags=N cmd=get\n\
                    id=2 addr=10.0.0.2:6000 name=sentinel-4d6ed9e4-cmd flags=N cmd=ping\n\
                    id=3 addr=10.0.0.3:6000 name= flags=S cmd=replconf\n\
                    id=4 addr=10.0.0.7:7000 name= flags=N cmd=client|list\n";
        let own = "10.0.0.7:7000".parse().ok();
        let (watched, clients) = connected(list, own);
        assert_eq!(watched, Some(true));
        assert_eq!(clients, BTreeSet::from(["10.0.0.9".parse().unwrap()]));
        assert_eq!(connected("", None).0, Some(false));
    }
}
