//! The live restore: the target becomes a replica of this process for a moment, behind held clients.
//!
//! Whatever goes wrong, it ends as a master again and the clients are released; the error says what is in it then.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::node::{Node, Role};
use super::primary::{Primary, Rdb, Stage};
use super::proxies::Proxies;
use super::survey::Survey;
use super::watch::{self as sentinels, Watch};
use crate::backup::interrupt::interruption;
use crate::backup::{Counts, Error};
use crate::config::Config;

/// How long the target may take to connect to us: it tries at once.
const CONNECT: Duration = Duration::from_secs(10);
/// How long it may take to be a master again after a failure: it refuses REPLICAOF while it loads.
const UNDONE_WITHIN: Duration = Duration::from_secs(60);
/// How long clients are held for that: where it takes longer, their proxies hold by themselves as in any outage.
const KEPT: Duration = Duration::from_secs(20);
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
    /// What somebody should look at.
    pub warnings: Vec<String>,
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

/// Puts `content` into the node of `survey`. `safety` is the backup to go back to, for messages.
pub async fn replace(
    mut survey: Survey,
    content: Content<'_, impl AsyncFnMut() -> Result<Option<Vec<u8>>, Error>>,
    serve_at: Option<IpAddr>,
    safety: Option<&str>,
    config: &Config,
    stage: &watch::Sender<Stage>,
) -> Result<Outcome, Error> {
    let before = survey.facts.keys();
    let node = &mut survey.node;
    let ip = match serve_at {
        Some(ip) => ip,
        None => node.facing().await?,
    };
    let primary = Primary::bind(ip, node.addr().ip()).await?;
    let mut watch = match &survey.monitored {
        Some(monitored) => Some(Watch::start(config, &monitored.name, &monitored.sentinels).await?),
        None => None,
    };
    let budget = survey.monitored.as_ref().map(|monitored| sentinels::budget(monitored.down_after));
    let proxies = &survey.proxies;
    let interrupted = interruption()?;
    tokio::pin!(interrupted);
    proxies.hold().await?;
    let held = Instant::now();
    let Content { rdb, tail, counts } = content;
    let loaded = tokio::select! {
        loaded = load(node, &primary, stage.subscribe(), counts) => loaded,
        Err(error) = primary.serve(rdb, tail, stage) => Err(error),
        what = trouble(&mut watch) => Err(Error::Restore(what)),
        error = proxies.keep() => Err(error),
        limit = over(budget) => Err(Error::Restore(format!(
            "not done within the {} s that Sentinel's down-after-milliseconds allows; raise it while you restore so much",
            limit.as_secs()
        ))),
        () = &mut interrupted => Err(Error::Interrupted("interrupted".into())),
    };
    // The call in progress, if there was one, was cut off.
    node.hang_up();
    let promoted = match loaded {
        Ok(()) => promote(node, primary.addr()).await,
        Err(error) => Err(error),
    };
    if let Err(error) = promoted {
        let state = kept(proxies, undo(node, primary.addr())).await;
        let untold = proxies.release().await;
        return Err(failure(&error, node.addr(), &state, before, safety, &untold));
    }
    let mut outcome = Outcome::default();
    let followed = kept(proxies, async {
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
    for admin in proxies.release().await {
        outcome
            .warnings
            .push(format!("the proxy at {admin} could not be told to release its clients: it does so by itself"));
    }
    outcome.held = held.elapsed();
    outcome.replicas = match followed {
        Some(Ok(replicas)) => replicas,
        Some(Err(_)) => follow(node, survey.facts.replicas, REPLICAS).await.unwrap_or_else(|why| {
            outcome.warnings.push(why);
            0
        }),
        None => 0,
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
    connected
        .map_err(|_| {
            Error::Restore(format!(
                "{} did not ask us for the data at {} within {} s: can it reach this address? --serve-at names another",
                node.addr(),
                primary.addr(),
                CONNECT.as_secs()
            ))
        })?
        .map_err(gone)?;
    stage.wait_for(|stage| *stage == Stage::Acknowledged).await.map_err(gone)?;
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

async fn promote(node: &mut Node, ours: SocketAddr) -> Result<(), Error> {
    match node.role().await? {
        Role::Replica { host, port } if is_ours(&host, port, ours) => node.replicaof(None).await?,
        other => return Err(Error::Restore(format!("it is not our replica any more: {other:?}"))),
    }
    match node.role().await? {
        Role::Master { .. } => Ok(()),
        other => Err(Error::Restore(format!("it did not become a master again: {other:?}"))),
    }
}

/// How the target was left.
#[derive(Debug)]
enum State {
    /// A master, with so many keys.
    Master(u64),
    /// A replica of somebody else: Sentinel has replaced it.
    Replaced(String),
    /// Nobody listens there any more.
    Gone,
    /// It does not answer, or has not obeyed.
    Unknown(String),
}

/// Makes it a master again, unless somebody else has given it another master since.
async fn undo(node: &mut Node, ours: SocketAddr) -> State {
    let started = Instant::now();
    let mut last = String::new();
    while started.elapsed() < UNDONE_WITHIN {
        match node.role().await {
            Ok(Role::Master { .. }) => match node.keyspace().await {
                Ok(keyspace) => return State::Master(keyspace.values().map(|(keys, _)| keys).sum()),
                Err(error) => last = error.to_string(),
            },
            Ok(Role::Replica { host, port }) if is_ours(&host, port, ours) => {
                if let Err(error) = node.replicaof(None).await {
                    last = error.to_string();
                } else {
                    continue;
                }
            }
            Ok(Role::Replica { host, port }) => return State::Replaced(format!("{host}:{port}")),
            Ok(Role::Other(what)) => last = what,
            Err(_) if node.is_gone().await => return State::Gone,
            Err(error) => last = error.to_string(),
        }
        sleep(LOOK).await;
    }
    State::Unknown(last)
}

fn failure(
    error: &Error,
    target: SocketAddr,
    state: &State,
    before: u64,
    safety: Option<&str>,
    untold: &[SocketAddr],
) -> Error {
    let mut text = format!("given up: {error}\n");
    text += &match state {
        State::Master(keys) => format!("{target} is a master again, with {keys} keys ({before} before)"),
        State::Replaced(by) => format!(
            "{target} is a replica of {by} now: Sentinel has replaced it meanwhile, and what {by} has is the data now"
        ),
        State::Gone => format!(
            "nobody listens at {target} any more: its process has ended, see its log; started again, it is a master with \
             what it has on its disk, unless Sentinel has replaced it"
        ),
        State::Unknown(last) => format!(
            "{target} could not be made a master again ({last}): look at it, and send REPLICAOF NO ONE unless Sentinel has \
             replaced it"
        ),
    };
    text += &match safety {
        Some(id) => format!("\nto go back to what was there: switchmaster backup restore {id}"),
        None => "\nno safety backup was taken".into(),
    };
    for admin in untold {
        text += &format!("\nthe proxy at {admin} could not be told to release its clients: it does so by itself soon");
    }
    Error::Restore(text)
}

/// Waits until `expected` replicas have acknowledged what the master has now; how many do.
async fn follow(node: &mut Node, expected: u64, limit: Duration) -> Result<u64, String> {
    let started = Instant::now();
    let mut goal = None;
    loop {
        let said = match node.role().await {
            Ok(Role::Master { offset, replicas }) => {
                let goal = *goal.get_or_insert(offset);
                let there = replicas.iter().filter(|(_, acknowledged)| *acknowledged >= goal).count() as u64;
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
        let is = |key: &str, value: &str| info.lines().any(|line| line.trim_end() == format!("{key}:{value}"));
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

fn is_ours(host: &str, port: u16, ours: SocketAddr) -> bool {
    host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical() == ours.ip().to_canonical()) && port == ours.port()
}

/// Does `work` while the holds are renewed, for a time; they run out by themselves. A proxy that cannot be held is no
/// reason to stop what ends the hold.
async fn kept<T>(proxies: &Proxies, work: impl Future<Output = T>) -> T {
    let keep = async {
        let _ = tokio::time::timeout(KEPT, proxies.keep()).await;
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

async fn over(budget: Option<Duration>) -> Duration {
    match budget {
        Some(budget) => {
            sleep(budget).await;
            budget
        }
        None => std::future::pending().await,
    }
}
