//! One Redis node as it describes itself: what INFO says, read once.
//!
//! Needs nothing but `+info` of the ACL, and of nodes without any password not even AUTH.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use crate::secret::Credentials;
use crate::wire::{Reply, Wire};

/// A node at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Where it was asked.
    pub addr: SocketAddr,
    /// `role`.
    pub role: Role,
    /// `valkey_version`, else `redis_version`.
    pub version: String,
    /// It is a Valkey, which is told our version.
    pub valkey: bool,
    /// `run_id`: one process.
    pub run_id: String,
    /// `master_replid`: one history of data.
    pub replid: String,
    /// How far it has come in that history, in bytes.
    pub offset: u64,
    /// `slave_priority`: 0 is never promoted; a master has none, which is 100.
    pub priority: u32,
    /// `loading`, also the kind that goes on beside the old data.
    pub loading: bool,
    /// The child process that runs: a save, or a rewrite of the AOF.
    pub child: Option<&'static str>,
    /// `used_memory` in bytes.
    pub used_memory: u64,
    /// `used_memory_dataset` in bytes: without buffers and what an empty server takes.
    pub dataset: u64,
    /// `maxmemory` in bytes; 0: no limit.
    pub maxmemory: u64,
    /// Keys in all databases.
    pub keys: u64,
}

/// `role` of INFO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `master`.
    Master,
    /// `slave`.
    Replica {
        /// `master_link_status`: up.
        link_up: bool,
    },
}

impl Role {
    /// As in a manifest: `master` or `replica`.
    pub fn name(self) -> &'static str {
        match self {
            Role::Master => "master",
            Role::Replica { .. } => "replica",
        }
    }
}

/// Why a node could not be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AskError {
    /// The end of a sentence that begins with the node's address.
    pub reason: String,
    /// It does not take our credentials, or its ACL forbids us: asking again changes nothing.
    pub denied: bool,
}

impl AskError {
    fn refused(command: &str, text: &str) -> AskError {
        let code = text.split(' ').next().unwrap_or_default();
        // Before Redis 6 a wrong password had no code of its own.
        let denied = matches!(code, "NOAUTH" | "WRONGPASS" | "NOPERM") || text.starts_with("ERR invalid password");
        AskError { reason: refused(command, text), denied }
    }
}

impl From<String> for AskError {
    fn from(reason: String) -> AskError {
        AskError { reason, denied: false }
    }
}

impl From<&str> for AskError {
    fn from(reason: &str) -> AskError {
        AskError::from(reason.to_owned())
    }
}

impl fmt::Display for AskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl Node {
    /// Connects, authenticates and asks INFO; `limit` for the whole.
    ///
    /// # Errors
    /// Why not.
    pub async fn ask(addr: SocketAddr, credentials: Option<&Credentials>, limit: Duration) -> Result<Node, AskError> {
        let asking = async {
            let mut wire = connect(addr, credentials).await?;
            match wire.ask(&["INFO"]).await.map_err(|error| format!("does not answer INFO: {error}"))? {
                Reply::Error(text) => Err(AskError::refused("INFO", &text)),
                reply => {
                    let text = reply.text().ok_or("gives no text as INFO")?;
                    Node::parse(addr, text).ok_or_else(|| "gives an INFO without role, run_id or replication ID".into())
                }
            }
        };
        let too_long = |_| Err(format!("did not answer within {} s", limit.as_secs_f64()).into());
        tokio::time::timeout(limit, asking).await.unwrap_or_else(too_long)
    }

    /// Reads the text of INFO; `None`: it is not one.
    pub fn parse(addr: SocketAddr, text: &str) -> Option<Node> {
        let fields: HashMap<&str, &str> = text.lines().filter_map(|line| line.split_once(':')).collect();
        let number = |key: &str| fields.get(key).and_then(|value| value.parse::<u64>().ok()).unwrap_or_default();
        let set = |key: &str| number(key) != 0;
        let role = match *fields.get("role")? {
            "master" => Role::Master,
            "slave" | "replica" => Role::Replica { link_up: fields.get("master_link_status") == Some(&"up") },
            _ => return None,
        };
        let offset = match role {
            Role::Master => number("master_repl_offset"),
            Role::Replica { .. } => number("slave_repl_offset"),
        };
        let keys = fields
            .iter()
            .filter(|(key, _)| key.starts_with("db"))
            .filter_map(|(_, value)| value.split(',').find_map(|part| part.strip_prefix("keys=")?.parse::<u64>().ok()));
        Some(Node {
            addr,
            role,
            version: (*fields.get("valkey_version").or(fields.get("redis_version"))?).to_owned(),
            valkey: fields.contains_key("valkey_version"),
            run_id: (*fields.get("run_id")?).to_owned(),
            replid: (*fields.get("master_replid")?).to_owned(),
            offset,
            priority: fields.get("slave_priority").and_then(|value| value.parse().ok()).unwrap_or(100),
            loading: set("loading") || set("async_loading"),
            child: match () {
                () if set("rdb_bgsave_in_progress") => Some("save (or a replica's first sync)"),
                () if set("aof_rewrite_in_progress") => Some("rewrite of its AOF"),
                () => None,
            },
            used_memory: number("used_memory"),
            dataset: number("used_memory_dataset"),
            maxmemory: number("maxmemory"),
            keys: keys.fold(0, u64::saturating_add),
        })
    }
}

/// Connects and authenticates. A node without any password takes everybody: the replicas of many a set-up have none.
///
/// # Errors
/// Why not, as the end of a sentence that begins with the node's address.
pub async fn dial(addr: SocketAddr, credentials: Option<&Credentials>) -> Result<Wire, String> {
    connect(addr, credentials).await.map_err(|error| error.reason)
}

async fn connect(addr: SocketAddr, credentials: Option<&Credentials>) -> Result<Wire, AskError> {
    let mut wire = Wire::connect(addr).await.map_err(|error| format!("cannot be reached: {error}"))?;
    if let Some(credentials) = credentials {
        match wire.ask(&credentials.auth()).await.map_err(|error| format!("does not answer AUTH: {error}"))? {
            Reply::Error(text) if text.contains("without any password") => {}
            Reply::Error(text) => return Err(AskError::refused("AUTH", &text)),
            _ => {}
        }
    }
    Ok(wire)
}

/// What an error reply means and what to do about it.
pub(crate) fn refused(command: &str, text: &str) -> String {
    let what_to_do = match text.split(' ').next().unwrap_or_default() {
        "NOAUTH" => ": it wants a password, set redis_password",
        "WRONGPASS" => ": it does not take redis_password (with redis_username)",
        "NOPERM" => ": its ACL must allow our user +psync +replconf +info",
        _ => "",
    };
    format!("refuses {command} (-{text}){what_to_do}")
}
