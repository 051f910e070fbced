//! The replica that the stream is taken from: found through Sentinel, asked first whether it can continue.
//!
//! Never a master: a Sentinel would take this host for a replica. Retries while a replica may still be able to continue
//! the stream, and says when none can.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use super::position::{Backlog, Fate, Position, Verdict};
use super::rate_limited_log::RateLimitedLog;
use crate::Error;
use crate::config::Config;
use crate::node::info::InfoRole;
use crate::replica::{Begin, Replica, Want};
use crate::source::{self, Node, Topology, dial};
use crate::wire::{Reply, Wire};

/// Between two rounds of questions.
const ROUND: Duration = Duration::from_millis(500);
/// Replicas that cannot go on, and none that can, for this long: the one that could may be on its way.
const RESUME_TIMEOUT: Duration = Duration::from_secs(10);
/// The same with a replica that has not come as far: it should catch up in moments.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(60);
/// For each question to a node.
const LIMIT: Duration = Duration::from_secs(2);

/// A connection on which the stream continues.
#[derive(Debug)]
pub struct StreamSource {
    /// The next bytes come from it.
    pub replica: Replica,
    /// Another connection to the same node, for questions.
    pub questions: Wire,
    /// Which node.
    pub addr: SocketAddr,
    /// `redis_version` or `valkey_version`.
    pub version: String,
    /// From where on the stream follows. The ID is the one that the node gives its history now.
    pub at: Position,
}

/// A place that no node goes on from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gone {
    /// Why.
    pub why: String,
    /// What came after this offset was thrown away; `None`: not known to have been.
    pub survives: Option<u64>,
}

/// Joins the stream at `from`, or where it is now. Returns only when it did, or when `from` cannot be continued.
pub async fn join(config: &Config, from: Option<&Position>) -> Result<StreamSource, Gone> {
    let lost = |why| Gone { why, survives: None };
    let mut log = RateLimitedLog::default();
    let mut from = from.cloned();
    let mut hopeless_since: Option<Instant> = None;
    let mut refused = 0;
    loop {
        match round(config, &mut from).await {
            Round::Joined(source) => return Ok(*source),
            Round::Gone(gone) => return Err(gone),
            Round::Refused(why) => {
                // It said that it could, and began a full synchronisation: once is bad luck.
                refused += 1;
                if refused == 3 {
                    return Err(lost(why));
                }
            }
            Round::Lost(limit, why) => {
                if hopeless_since.get_or_insert_with(Instant::now).elapsed() >= limit {
                    return Err(lost(why));
                }
                log.log(|| tracing::warn!("{why}"));
            }
            Round::Wait(why) => {
                hopeless_since = None;
                log.log(|| tracing::warn!("waiting for a replica to follow: {why}"));
            }
        }
        sleep(ROUND).await;
    }
}

/// What a node says of its replication.
pub async fn backlog(questions: &mut Wire) -> Result<Backlog, String> {
    let reply = timeout(LIMIT, questions.ask(&["INFO", "replication"])).await;
    let reply = reply.map_err(|_| format!("did not answer INFO within {} s", LIMIT.as_secs()))?;
    match reply.map_err(|error| format!("does not answer INFO: {error}"))? {
        Reply::Error(text) => Err(format!("refuses INFO (-{text})")),
        reply => reply.text().and_then(Backlog::parse).ok_or_else(|| "gives an INFO without replication".into()),
    }
}

enum Round {
    Joined(Box<StreamSource>),
    /// The place is in no history any more.
    Gone(Gone),
    /// A node did not do what its INFO promised.
    Refused(String),
    /// No node can continue; how long to retry.
    Lost(Duration, String),
    Wait(String),
}

/// Asks every replica once, the least disturbed one first.
async fn round(config: &Config, from: &mut Option<Position>) -> Round {
    let topology = match source::find(config).await {
        Ok(topology) => topology,
        Err(error) => return Round::Wait(error.to_string()),
    };
    if let Some(from) = from {
        match fate(config, &topology, from).await {
            Fate::Stays => {}
            Fate::Renamed(renamed) => *from = renamed,
            Fate::Discarded(bytes) => {
                let why = format!("the failover to {} threw away its last {bytes} bytes", topology.master);
                return Round::Gone(Gone { why, survives: Some(from.offset - bytes) });
            }
        }
    }
    let mut reasons = Vec::new();
    // How long to retry; `None`: as long as it takes, for all that is known a node can continue.
    let mut limit = None;
    for node in in_order(&topology) {
        match ask(config, node, from.as_ref()).await {
            Ok((mut questions, at)) => match psync(config, node, at, &mut questions).await {
                Ok((replica, at)) => {
                    let (addr, version) = (node.addr, node.version.clone());
                    return Round::Joined(Box::new(StreamSource { replica, questions, addr, version, at }));
                }
                Err(Refused::Full(why)) => return Round::Refused(why),
                Err(Refused::Other(why)) => reasons.push(why),
            },
            Err((verdict, why)) => {
                limit = limit.max(match verdict {
                    Some(Verdict::Lost(_)) => Some(RESUME_TIMEOUT),
                    Some(Verdict::NotYet(_)) if node.role == (InfoRole::Replica { link_up: true }) => {
                        Some(CATCH_UP_TIMEOUT)
                    }
                    _ => None,
                });
                reasons.push(format!("{} {why}", node.addr));
            }
        }
    }
    let place = from.as_ref().map(|from| format!(" at {from}")).unwrap_or_default();
    let why = match &reasons[..] {
        [] => "the Sentinels know no replica that answers".to_owned(),
        reasons => format!("no replica can go on{place}: {}", reasons.join("; ")),
    };
    match limit {
        Some(limit) => Round::Lost(limit, why),
        None => Round::Wait(why),
    }
}

/// What the master says became of a place.
async fn fate(config: &Config, topology: &Topology, from: &Position) -> Fate {
    let asking = async {
        let mut wire = dial(topology.master, config.sentinel.redis_auth.as_ref()).await?;
        backlog(&mut wire).await
    };
    match timeout(LIMIT, asking).await {
        Ok(Ok(master)) => master.fate(from),
        _ => Fate::Stays,
    }
}

/// The replicas that answer: one that is never promoted before others, then by their lag.
fn in_order(topology: &Topology) -> Vec<&Node> {
    let nodes = topology.candidates.iter().filter(|candidate| candidate.addr != topology.master);
    let mut nodes: Vec<&Node> = nodes.filter_map(|candidate| candidate.node.as_ref().ok()).collect();
    nodes.retain(|node| matches!(node.role, InfoRole::Replica { .. }));
    let head = topology.master_node().map_or(0, |master| master.offset);
    nodes.sort_by_key(|node| (node.priority != 0, head.saturating_sub(node.offset), node.addr));
    nodes
}

/// Where the stream can be joined at this node.
async fn ask(
    config: &Config,
    node: &Node,
    from: Option<&Position>,
) -> Result<(Wire, Position), (Option<Verdict>, String)> {
    let unknown = |why: String| (None, why);
    let dialling = timeout(LIMIT, dial(node.addr, config.sentinel.redis_auth.as_ref())).await;
    let mut questions = dialling.map_err(|_| unknown("does not answer".into()))?.map_err(unknown)?;
    let backlog = backlog(&mut questions).await.map_err(unknown)?;
    let at = from.cloned().unwrap_or_else(|| backlog.position());
    match backlog.continues(&at) {
        Verdict::Continues => Ok((questions, at)),
        Verdict::NotYet(why) | Verdict::Lost(why) => Err((Some(backlog.continues(&at)), why.to_owned())),
    }
}

enum Refused {
    /// It began a full synchronisation, which hanging up ends.
    Full(String),
    Other(String),
}

async fn psync(
    config: &Config,
    node: &Node,
    at: Position,
    questions: &mut Wire,
) -> Result<(Replica, Position), Refused> {
    let other = |error: Error| Refused::Other(error.to_string());
    let replica = Replica::connect(node, config.sentinel.redis_auth.as_ref(), Want::Stream).await;
    let mut replica = replica.map_err(other)?;
    match replica.psync(Some((&at.replid, at.offset))).await.map_err(other)? {
        // Promoted since it was asked? A later promotion hangs up.
        Begin::Continue { replid } => match backlog(questions).await {
            Ok(backlog) if backlog.replica => Ok((replica, Position { replid, offset: at.offset })),
            Ok(_) => Err(Refused::Other(format!("{} is a master now", node.addr))),
            Err(why) => Err(Refused::Other(format!("{} {why}", node.addr))),
        },
        Begin::Full { .. } => Err(Refused::Full(format!("{} does not go on at {at}", node.addr))),
    }
}
