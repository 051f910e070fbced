//! The live restore: the target becomes a replica of this process for a moment, behind held clients.
//!
//! Whatever goes wrong, it ends as a master again unless Sentinel has replaced it, and the clients are released; the error
//! says what is in it then.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::node::{Facts, Node};
use super::primary::{Primary, Rdb, Stage};
use super::proxies::Proxies;
use super::safety::Safety;
use super::survey::Survey;
use super::undo;
use super::watch::{self as sentinels, Watch};
use crate::config::Config;
use crate::interrupt::interruption;
use crate::net::ListenAddr;
use crate::node::info::InfoText;
use crate::node::role::Role;
use crate::{Counts, Error, output};

/// How long the target may take to connect to us: it tries at once.
const CONNECT: Duration = Duration::from_secs(10);
/// How long clients are held while something is undone, or backed up once more: where it takes longer, their proxies hold
/// by themselves as in any outage.
const HOLD_RENEWAL_LIMIT: Duration = Duration::from_secs(20);
/// How long clients wait for the replicas to follow, and how long we do.
const REPLICAS_HELD: Duration = Duration::from_secs(10);
const REPLICAS: Duration = Duration::from_secs(60);
/// How long the AOF may take to be written anew.
const AOF: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// What was done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Keys in the target.
    pub keys: u64,
    /// How long its clients were held.
    pub held: Duration,
    /// Replicas that follow it.
    pub replicas: u64,
    /// The backup of what was there.
    pub safety: Option<String>,
    /// What somebody should look at.
    pub warnings: Vec<String>,
    /// Somebody did not wait for the replicas.
    pub interrupted: bool,
}

/// What is put there.
#[derive(Debug)]
pub struct Content<'a, T> {
    /// The data.
    pub rdb: Rdb,
    /// The stream that follows it; `async || Ok(None)` for none.
    pub tail: T,
    /// The counts of the result; `None`: not known, because of the stream.
    pub counts: Option<&'a Counts>,
}

/// Puts `content` into the node of `survey`, of which `safety` is the backup; `primary` serves it.
pub async fn replace(
    mut survey: Survey,
    content: Content<'_, impl AsyncFnMut() -> Result<Option<Vec<u8>>, Error>>,
    primary: Primary,
    mut safety: Option<Safety<'_>>,
    config: &Config,
    stage: &watch::Sender<Stage>,
) -> Result<Outcome, Error> {
    let node = &mut survey.node;
    let mut watch = match &survey.monitored {
        Some(monitored) => Some(Watch::start(config, &monitored.name, &monitored.sentinels).await?),
        None => None,
    };
    let budget = survey.monitored.as_ref().map(|monitored| sentinels::budget(monitored.down_after));
    let proxies = &survey.proxies;
    let interrupted = interruption().map_err(Error::Internal)?;
    tokio::pin!(interrupted);
    proxies.hold().await?;
    let held = Instant::now();
    let lacking = match &mut safety {
        Some(safety) => while_clients_held(proxies, safety.close(node, proxies.count() > 0)).await,
        None => Ok(None),
    };
    let lacking = match lacking {
        Ok(lacking) => lacking,
        Err(error) => {
            proxies.release().await;
            return Err(error);
        }
    };
    let Content { rdb, tail, counts } = content;
    let target = node.again();
    let loaded = tokio::select! {
        loaded = load(node, &primary, stage.subscribe(), counts) => loaded,
        Err(error) = primary.serve(target, rdb, tail, stage) => Err(error),
        what = trouble(&mut watch) => Err(Error::Restore(what)),
        error = proxies.keep() => Err(error),
        limit = over(budget, stage.subscribe()) => Err(Error::Restore(format!(
            "not done within the {} s that Sentinel's down-after-milliseconds allows; raise it while you restore so much",
            limit.as_secs()
        ))),
        () = &mut interrupted => Err(Error::Interrupted("interrupted".into())),
    };
    // The call in progress, if there was one, was cut off.
    node.hang_up();
    let promoted = match loaded {
        Ok(()) => promote(node, primary.addr(), &mut watch).await,
        Err(error) => Err(error),
    };
    let safety = safety.map(|safety| (safety.id().to_owned(), lacking));
    if let Err(error) = promoted {
        let asked = survey.monitored.is_some().then_some(config);
        let state = while_clients_held(proxies, undo::undo(node, primary.addr(), &survey.facts, asked)).await;
        let mut text = undo::failure(&error, node.addr(), &state, &survey.facts, safety);
        for what in proxies.release().await.into_iter().map(release_failed_warning) {
            text += &format!("\nwarning: {what}");
        }
        return Err(Error::Restore(text));
    }
    let mut outcome = Outcome::default();
    if let Some((id, lacking)) = safety {
        outcome.safety = Some(id);
        outcome.warnings.extend(lacking);
    }
    let followed = while_clients_held(proxies, async {
        for admin in proxies.seen().await {
            outcome.warnings.push(format!("the proxy at {admin} has not noticed the new data yet"));
        }
        follow(node, survey.facts.replicas, REPLICAS_HELD).await
    });
    let followed = tokio::select! {
        followed = followed => Some(followed),
        () = interrupted => None,
    };
    node.hang_up();
    outcome.warnings.extend(proxies.release().await.into_iter().map(release_failed_warning));
    outcome.held = held.elapsed();
    outcome.replicas = match followed {
        Some(Ok(replicas)) => replicas,
        Some(Err(_)) => follow(node, survey.facts.replicas, REPLICAS).await.unwrap_or_else(|why| {
            outcome.warnings.push(why);
            0
        }),
        None => {
            outcome.interrupted = true;
            outcome.warnings.push(format!(
                "interrupted before {} followed: one that does not yet has the old data, and a failover would bring it back",
                output::count(survey.facts.replicas, "replica")
            ));
            0
        }
    };
    if survey.facts.aof {
        outcome.warnings.extend(aof(node).await.err());
    }
    outcome.keys = node.keyspace().await?.values().map(|(keys, _)| keys).sum();
    Ok(outcome)
}

/// Makes the node our replica and waits until it has everything and its counts are right.
async fn load(
    node: &mut Node,
    primary: &Primary,
    mut stage: watch::Receiver<Stage>,
    counts: Option<&Counts>,
) -> Result<(), Error> {
    let gone = |_| Error::Internal("the serving task is gone".into());
    node.replicaof(Some(primary.addr())).await?;
    let connected = tokio::time::timeout(CONNECT, stage.wait_for(|stage| *stage != Stage::Waiting)).await;
    connected.map_err(|_| unasked(node.addr(), primary))?.map_err(gone)?;
    stage.wait_for(|stage| *stage == Stage::Acknowledged).await.map_err(gone)?;
    freed(node).await?;
    // Still a replica: none of its keys has expired on its own yet.
    let Some(counts) = counts else { return Ok(()) };
    let found: BTreeMap<u32, u64> = node.keyspace().await?.into_iter().map(|(db, (keys, _))| (db, keys)).collect();
    let expected: BTreeMap<u32, u64> =
        counts.databases.iter().map(|(db, counts)| (*db, counts.keys)).filter(|(_, keys)| *keys > 0).collect();
    if found == expected {
        return Ok(());
    }
    Err(Error::Restore(format!("it has loaded {found:?} (keys by database), and the backup holds {expected:?}")))
}

/// Nobody asked for the data who was the target.
fn unasked(target: SocketAddr, primary: &Primary) -> Error {
    let (ours, seconds) = (primary.addr(), CONNECT.as_secs());
    let refused: Vec<String> = primary.refused().iter().map(|peer| peer.ip().to_string()).collect();
    Error::Restore(match refused.as_slice() {
        [] => format!(
            "{target} did not ask us for the data at {ours} within {seconds} s: can it reach this address and any port of \
             it? --serve-at names another address of this host; where there is none, --keys restores key by key"
        ),
        refused => format!(
            "{target} did not ask us for the data at {ours} within {seconds} s; {} did and got nothing, since {target} did not \
             say that it was it: does --target name the node itself, and not a proxy or one of several nodes?",
            refused.join(", ")
        ),
    })
}

/// Waits until old data that is freed in the background leaves the new one its room: a master, unlike a replica, would
/// evict keys for it.
async fn freed(node: &mut Node) -> Result<(), Error> {
    loop {
        let Facts { maxmemory, used_memory, lazily_freed, .. } = node.info().await?;
        if maxmemory == 0 || used_memory <= maxmemory || lazily_freed == 0 {
            return Ok(());
        }
        sleep(LOOK).await;
    }
}

async fn promote(node: &mut Node, ours: SocketAddr, watch: &mut Option<Watch>) -> Result<(), Error> {
    // It may have come at the same moment as the end.
    if let Some(what) = watch.as_mut().and_then(Watch::heard) {
        return Err(Error::Restore(what));
    }
    match node.role().await? {
        role if role.is_replica_of(ours) => node.replicaof(None).await?,
        other => return Err(Error::Restore(format!("it is not our replica any more: {other:?}"))),
    }
    match node.role().await? {
        Role::Master { .. } => Ok(()),
        other => Err(Error::Restore(format!("it did not become a master again: {other:?}"))),
    }
}

/// Waits until `expected` replicas have acknowledged what the master has now; how many do.
async fn follow(node: &mut Node, expected: u64, limit: Duration) -> Result<u64, String> {
    let started = Instant::now();
    let mut goal = None;
    loop {
        let said = match node.role().await {
            Ok(Role::Master { offset, replicas }) => {
                let goal = *goal.get_or_insert(offset);
                let there = replicas.iter().filter(|replica| replica.offset >= goal).count() as u64;
                if there >= expected {
                    return Ok(there);
                }
                format!("{there} of {expected} replicas follow the master")
            }
            Ok(other) => format!("{} is {other:?}", node.addr()),
            Err(error) => error.to_string(),
        };
        if started.elapsed() > limit {
            return Err(format!("{said} after {} s", limit.as_secs()));
        }
        sleep(LOOK).await;
    }
}

/// Redis writes its AOF anew after a full synchronisation (replication.c, `restartAOFAfterSYNC`).
async fn aof(node: &mut Node) -> Result<(), String> {
    let started = Instant::now();
    loop {
        let info = node.text(&["INFO", "persistence"]).await.map_err(|error| error.to_string())?;
        let info = InfoText::new(&info);
        let is = |field: &str, value: &str| info.text(field) == Some(value);
        if is("aof_enabled", "1") && is("aof_rewrite_in_progress", "0") && is("aof_rewrite_scheduled", "0") {
            let good = is("aof_last_bgrewrite_status", "ok") && is("aof_last_write_status", "ok");
            return if good { Ok(()) } else { Err("the AOF was not written anew: see the log of the server".into()) };
        }
        if started.elapsed() > AOF {
            return Err(format!("the AOF is still being written after {} s", AOF.as_secs()));
        }
        sleep(LOOK).await;
    }
}

fn release_failed_warning(admin: ListenAddr) -> String {
    format!("the proxy at {admin} could not be told to release its clients: it does so by itself")
}

/// Does `work` while the holds are renewed, for a time; they run out by themselves. A proxy that cannot be held is no
/// reason to stop what ends the hold; one that follows another master is released at once.
async fn while_clients_held<T>(proxies: &Proxies, work: impl Future<Output = T>) -> T {
    let keep = async {
        let _ = tokio::time::timeout(HOLD_RENEWAL_LIMIT, proxies.keep_each()).await;
        std::future::pending().await
    };
    tokio::select! {
        done = work => done,
        never = keep => never,
    }
}

async fn trouble(watch: &mut Option<Watch>) -> String {
    match watch {
        Some(watch) => watch.trouble().await,
        None => std::future::pending().await,
    }
}

/// Returns when the time is over and there is still data to be sent. Afterwards giving up would come no sooner than
/// the end: the target takes no command while it loads.
async fn over(budget: Option<Duration>, stage: watch::Receiver<Stage>) -> Duration {
    let Some(budget) = budget else { return std::future::pending().await };
    sleep(budget).await;
    match *stage.borrow() {
        Stage::Loading | Stage::Acknowledged => std::future::pending().await,
        Stage::Waiting | Stage::Sending(_) | Stage::Streaming(_) => budget,
    }
}
