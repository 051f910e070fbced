//! One Redis node as it describes itself: what INFO says, read once.
//!
//! Needs nothing but `+info` of the ACL, and of nodes without any password not even AUTH.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use crate::node::info::{InfoRole, InfoText};
use crate::node::{auth, refusal};
use crate::secret::Credentials;
use crate::wire::{Reply, Wire};

/// A node at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Where it was asked.
    pub addr: SocketAddr,
    /// `role`.
    pub role: InfoRole,
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
        AskError { reason: refused(command, text), denied: auth::is_refused(text) }
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
        let info = InfoText::new(text);
        let number = |field: &str| info.number(field).unwrap_or_default();
        let role = info.role()?;
        let offset = match role {
            InfoRole::Master => number("master_repl_offset"),
            InfoRole::Replica { .. } => number("slave_repl_offset"),
        };
        Some(Node {
            addr,
            role,
            version: info.version()?.to_owned(),
            valkey: info.is_valkey(),
            run_id: info.text("run_id")?.to_owned(),
            replid: info.text("master_replid")?.to_owned(),
            offset,
            priority: info.number("slave_priority").unwrap_or(100),
            loading: info.is_set("loading") || info.is_set("async_loading"),
            child: match () {
                () if info.is_set("rdb_bgsave_in_progress") => Some("save (or a replica's first sync)"),
                () if info.is_set("aof_rewrite_in_progress") => Some("rewrite of its AOF"),
                () => None,
            },
            used_memory: number("used_memory"),
            dataset: number("used_memory_dataset"),
            maxmemory: number("maxmemory"),
            keys: info.keys(),
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
            Reply::Error(text) if auth::is_not_needed(&text) => {}
            Reply::Error(text) => return Err(AskError::refused("AUTH", &text)),
            _ => {}
        }
    }
    Ok(wire)
}

/// What an error reply means and what to do about it.
pub(crate) fn refused(command: &str, text: &str) -> String {
    let what_to_do = match refusal::code(text) {
        b"NOAUTH" => ": it wants a password, set redis_password",
        b"WRONGPASS" => ": it does not take redis_password (with redis_username)",
        b"NOPERM" => ": its ACL must allow our user +psync +replconf +info",
        _ => "",
    };
    format!("refuses {command} (-{text}){what_to_do}")
}
