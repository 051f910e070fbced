//! One backup at a time, whichever host begins it.
//!
//! A lock is a numbered object, `MASTER/lock/NUMBER.json`, written create-only: of all who saw number 7 as free, one
//! writes number 8. The highest number is the lock. It is free when its holder said so, or when it was not renewed for
//! its time to live by the store's own clock: the clocks of the hosts are never compared. One that ran on this very host
//! and has died is not waited for. The last object stays, so that numbers only rise. Where the store knows no create-only
//! write, the master keeps the lock: SET NX PX.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use super::Error;
use super::process::{self, Process};
use super::source;
use super::store::{Put, Store};
use crate::config::Config;
use crate::random;
use crate::wire::{Reply, Wire};

/// How long a lock outlives the last sign of its holder.
pub const TTL: Duration = Duration::from_secs(120);

/// Dials the master and authenticates; called anew each time, since the master may move.
pub type Master = Arc<dyn Fn() -> BoxFuture<'static, Result<Wire, Error>> + Send + Sync>;

/// Dials `lone`, the only node there is, or whoever is master, for the lock of a store that cannot keep one.
pub fn keeper(config: &Config, lone: Option<SocketAddr>) -> Master {
    let config = Arc::new(config.clone());
    Arc::new(move || {
        let config = config.clone();
        Box::pin(async move {
            let master = match lone {
                Some(addr) => addr,
                None => source::find(&config).await?.master,
            };
            let dialled = source::dial(master, config.sentinel.redis_auth.as_ref()).await;
            dialled.map_err(|reason| Error::Unavailable(format!("{master} {reason}")))
        })
    })
}

/// The lock, held until [`Guard::release`]; a task of the runtime renews it. Dropped, it is held until it expires.
#[derive(Debug)]
pub struct Guard {
    held: Held,
    lost: Arc<AtomicBool>,
    renewing: JoinHandle<()>,
}

/// What the object holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Claim {
    /// Host and process, for people.
    owner: String,
    /// What it makes, for people. Versions before this field made backups.
    #[serde(default = "backup")]
    what: String,
    /// Who holds it, as its own host knows it. Versions before this field did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    process: Option<Process>,
    /// Tells one holder from the other.
    token: String,
    ttl_ms: u64,
    /// Given back.
    released: bool,
}

#[derive(Clone)]
enum Held {
    Object { store: Box<Store>, master_name: String, number: u64, claim: Claim },
    Key { master: Master, key: String, value: String, ttl_ms: u64 },
}

/// Rounds against others who take it at the same moment.
const ROUNDS: usize = 5;
/// Times of the store are whole seconds in places.
const GRACE: Duration = Duration::from_secs(2);

/// Takes the lock of `master_name` to make a backup; it lasts for `ttl` ([`TTL`] as a rule) without a sign of this
/// process.
///
/// `master` is dialled only when the store cannot keep a lock. Fails with [`Error::Locked`] when another holds it.
pub async fn acquire(store: &Store, master_name: &str, ttl: Duration, master: Option<Master>) -> Result<Guard, Error> {
    acquire_for(backup(), store, master_name, ttl, master).await
}

/// The same to make `what`, which those are told who find it taken.
pub async fn acquire_for(
    what: String,
    store: &Store,
    master_name: &str,
    ttl: Duration,
    master: Option<Master>,
) -> Result<Guard, Error> {
    let ttl_ms = ttl.as_millis() as u64;
    let claim =
        Claim { owner: owner(), what, process: Process::current(), token: random::hex(32), ttl_ms, released: false };
    let probe = store.probe().await?;
    let held = match (probe.create_only, master) {
        (true, _) => of_store(store, master_name, claim, probe.now).await?,
        (false, Some(master)) => {
            tracing::info!("{} keeps no lock: the master keeps it", store.location());
            of_master(master, master_name, claim).await?
        }
        (false, None) => {
            return Err(Error::Store(format!(
                "{} knows no create-only writes, so it keeps no lock, and there is no master to keep it",
                store.location()
            )));
        }
    };
    let lost = Arc::new(AtomicBool::new(false));
    let renewing = tokio::spawn(renew(held.clone(), ttl, lost.clone()));
    Ok(Guard { held, lost, renewing })
}

impl Guard {
    /// Fails with [`Error::Locked`] when the lock was lost: somebody else may be at work. Asked before publishing.
    pub async fn check(&self) -> Result<(), Error> {
        let lost = || Error::Locked("the lock was lost meanwhile: another host may make a backup now".to_owned());
        if self.lost.load(Ordering::Relaxed) {
            return Err(lost());
        }
        match self.held.is_ours().await? {
            true => Ok(()),
            false => Err(lost()),
        }
    }

    /// Gives it back. What fails here costs only time: the lock expires.
    pub async fn release(self) {
        self.renewing.abort();
        if let Err(error) = self.held.give_back().await {
            tracing::debug!(%error, "the lock could not be given back; it expires");
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

async fn renew(held: Held, ttl: Duration, lost: Arc<AtomicBool>) {
    let mut renewed = Instant::now();
    loop {
        tokio::time::sleep(ttl / 3).await;
        match held.renew().await {
            Ok(true) => renewed = Instant::now(),
            Err(_) if renewed.elapsed() < ttl => {}
            Ok(false) | Err(_) => break,
        }
    }
    tracing::warn!("the lock was lost");
    lost.store(true, Ordering::Relaxed);
}

async fn of_store(store: &Store, master_name: &str, claim: Claim, now: Timestamp) -> Result<Held, Error> {
    for _ in 0..ROUNDS {
        let locks = numbers(store, master_name).await?;
        let number = match locks.last() {
            None => 1,
            Some((number, renewed)) => {
                let name = name(master_name, *number);
                let bytes = match store.get(&name).await {
                    Ok(Some(bytes)) => bytes,
                    Ok(None) => continue,
                    // Whoever holds it keeps on writing it.
                    Err(Error::Unreadable(_)) => Vec::new(),
                    Err(error) => return Err(error),
                };
                let theirs: Option<Claim> = serde_json::from_slice(&bytes).ok();
                let ttl = theirs.as_ref().map_or(TTL, |theirs| Duration::from_millis(theirs.ttl_ms));
                let age = Duration::try_from(now.duration_since(*renewed)).unwrap_or_default();
                let free = theirs.as_ref().is_some_and(|theirs| theirs.released) || age > ttl + GRACE;
                let orphaned = !free && theirs.as_ref().is_some_and(|theirs| theirs.is_orphaned(master_name));
                if !(free || orphaned) {
                    let (owner, what) =
                        theirs.map_or_else(|| ("another host".into(), backup()), |theirs| (theirs.owner, theirs.what));
                    let left = (ttl + GRACE).saturating_sub(age).as_secs();
                    return Err(Error::Locked(format!(
                        "{owner} makes {what} of {master_name} now ({}); should it be dead, its lock expires in {left} s",
                        store.url(&name)
                    )));
                }
                number.saturating_add(1)
            }
        };
        let bytes = serde_json::to_vec(&claim).map_err(|error| Error::Internal(error.to_string()))?;
        if store.put_new(&name(master_name, number), bytes).await? == Put::Exists {
            continue;
        }
        // Somebody slow may have created a number that was used and cleared away meanwhile: only the highest counts.
        let locks = numbers(store, master_name).await?;
        if locks.last().is_some_and(|(highest, _)| *highest > number) {
            store.delete(&name(master_name, number)).await?;
            continue;
        }
        for (old, _) in locks.iter().filter(|(old, _)| *old < number) {
            store.delete(&name(master_name, *old)).await?;
        }
        return Ok(Held::Object { store: Box::new(store.clone()), master_name: master_name.to_owned(), number, claim });
    }
    Err(Error::Locked(format!("{}: several hosts begin a backup of {master_name} now", store.location())))
}

async fn of_master(master: Master, master_name: &str, claim: Claim) -> Result<Held, Error> {
    let value = serde_json::to_string(&claim).map_err(|error| Error::Internal(error.to_string()))?;
    let key = format!("switchmaster:backup-lock:{master_name}");
    let held = Held::Key { master: master.clone(), key: key.clone(), value: value.clone(), ttl_ms: claim.ttl_ms };
    if held.renew().await? {
        return Ok(held);
    }
    let mut wire = master().await?;
    let found = ask(&mut wire, &["GET", &key]).await?.text().unwrap_or_default().to_owned();
    let theirs = serde_json::from_str::<Claim>(&found).ok();
    let set = ["SET", &key, &value, "PX", &claim.ttl_ms.to_string()];
    if theirs.as_ref().is_some_and(|theirs| theirs.is_orphaned(master_name))
        && while_it_is(&mut wire, &key, &found, &set).await?
    {
        return Ok(held);
    }
    let (owner, what) = theirs.map_or_else(
        || ("another host".into(), "a backup, on its own or for a restore,".into()),
        |theirs| (theirs.owner, theirs.what),
    );
    Err(Error::Locked(format!("{owner} makes {what} of {master_name} now (lock on the master)")))
}

impl Claim {
    /// Its holder was a process of this host and has died, which is reported.
    fn is_orphaned(&self, master_name: &str) -> bool {
        let Claim { owner, what, process, .. } = self;
        let died = process.as_ref().is_some_and(Process::has_died);
        if died {
            tracing::warn!("{owner}, which made {what} of {master_name}, has died: its lock is taken over");
        }
        died
    }
}

impl Held {
    /// Says that the holder lives. False: the lock is another's.
    async fn renew(&self) -> Result<bool, Error> {
        match self {
            Held::Object { store, master_name, number, claim } => {
                let bytes = serde_json::to_vec(claim).map_err(|error| Error::Internal(error.to_string()))?;
                store.put_over(&name(master_name, *number), bytes).await?;
                self.is_ours().await
            }
            Held::Key { master, key, value, ttl_ms } => {
                let mut wire = master().await?;
                let ttl = ttl_ms.to_string();
                let set = ask(&mut wire, &["SET", key, value, "NX", "PX", &ttl]).await?;
                if matches!(set, Reply::Simple(_)) {
                    return Ok(true);
                }
                while_it_is(&mut wire, key, value, &["PEXPIRE", key, &ttl]).await
            }
        }
    }

    async fn is_ours(&self) -> Result<bool, Error> {
        match self {
            Held::Object { store, master_name, number, .. } => match numbers(store, master_name).await?.last() {
                Some((highest, _)) => Ok(highest == number),
                // Who takes it leaves a higher number: with none at all it is the store that is away.
                None => Err(Error::Store(format!("{} is not there", store.url(&name(master_name, *number))))),
            },
            Held::Key { master, key, value, .. } => {
                Ok(ask(&mut master().await?, &["GET", key]).await?.text() == Some(value))
            }
        }
    }

    async fn give_back(&self) -> Result<(), Error> {
        match self {
            Held::Object { store, master_name, number, claim } => {
                let released = Claim { released: true, ..claim.clone() };
                let bytes = serde_json::to_vec(&released).map_err(|error| Error::Internal(error.to_string()))?;
                store.put_over(&name(master_name, *number), bytes).await
            }
            Held::Key { master, key, value, .. } => {
                while_it_is(&mut master().await?, key, value, &["DEL", key]).await.map(drop)
            }
        }
    }
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Held::Object { master_name, number, .. } => f.write_str(&name(master_name, *number)),
            Held::Key { key, .. } => f.write_str(key),
        }
    }
}

/// Runs `command` on the master if `key` has this value, and no other until then.
async fn while_it_is(wire: &mut Wire, key: &str, value: &str, command: &[&str]) -> Result<bool, Error> {
    ask(wire, &["WATCH", key]).await?;
    if ask(wire, &["GET", key]).await?.text() != Some(value) {
        return Ok(false);
    }
    ask(wire, &["MULTI"]).await?;
    ask(wire, command).await?;
    Ok(matches!(ask(wire, &["EXEC"]).await?, Reply::Array(_)))
}

async fn ask(wire: &mut Wire, command: &[&str]) -> Result<Reply, Error> {
    const LIMIT: Duration = Duration::from_secs(5);
    let late = |_| Error::Unavailable(format!("{} for the lock took the master longer than 5 s", command[0]));
    let reply = tokio::time::timeout(LIMIT, wire.ask(command)).await.map_err(late)?;
    match reply.map_err(|error| Error::Unavailable(format!("the master, asked for the lock: {error}")))? {
        Reply::Error(text) => {
            Err(Error::Unavailable(format!("the master refuses {} for the lock: {text}", command[0])))
        }
        reply => Ok(reply),
    }
}

/// The numbers that are there with the time of their last renewal, the highest last.
async fn numbers(store: &Store, master_name: &str) -> Result<Vec<(u64, Timestamp)>, Error> {
    let folder = format!("{master_name}/lock/");
    let objects = store.list(&folder).await?;
    let number = |name: &str| name.strip_prefix(&folder)?.strip_suffix(".json")?.parse().ok();
    let mut numbers: Vec<(u64, Timestamp)> =
        objects.iter().filter_map(|object| Some((number(&object.name)?, object.modified))).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

fn name(master_name: &str, number: u64) -> String {
    format!("{master_name}/lock/{number}.json")
}

fn backup() -> String {
    "a backup".into()
}

fn owner() -> String {
    format!("{} (process {})", process::host(), std::process::id())
}
