//! Point in time: the replication stream after a backup, cut into segments and shipped every few seconds.
//!
//! ```text
//!   a replica ─▶ receiver ─▶ cutter ─▶ queue (spool) ─▶ shipper ─▶ MASTER/stream/ID/<from>-<to>-<time>-<replid>.seg.zst
//!       │ stream_source: which, from where                              beside them: ordinary backups, made as they are
//!       ▼                                                                                by `backup create`
//!   restore --to ─▶ timeline (a base, segments, an offset) ─▶ replay ─▶ the restore's own stream
//! ```
//! A stream and a backup are independent: both say at which offset of which history they stand, and that is how a
//! restore puts them together. Nothing is asked of a master, and nothing that was shipped depends on this process.

pub mod commands;
pub mod cutter;
pub mod event;
pub mod finder;
pub mod position;
pub mod queue;
pub mod ranges;
mod rate_limited_log;
pub mod receiver;
pub mod replay;
pub mod restore_point;
mod section;
pub mod segment;
pub mod shipper;
mod stream_source;
pub mod timeline;

use std::borrow::Borrow;
use std::cell::RefCell;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio::time::{interval_at, sleep, timeout};

use event::Event;
use position::Position;
use queue::Queue;
use ranges::Ranges;
use receiver::{End, Followed, Receiver, Surroundings};
use restore_point::RestorePoint;
use timeline::{Base, Stored, Timeline};

use crate::args::{CreateArgs, FollowArgs};
use crate::catalog::{self, Backup};
use crate::config::Config;
use crate::create::{self, Outcome};
use crate::interrupt::interruption;
use crate::lock::{self, Guard};
use crate::pack::Recipients;
use crate::store::Store;
use crate::{Error, Manifest, report, source};

/// Between two lines that say how far it is.
const STATUS: Duration = Duration::from_secs(60);
/// Between two changes of the metrics.
const METRICS: Duration = Duration::from_secs(5);
/// After a base that failed; doubles up to the second.
const BASE_RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));
/// How long SIGTERM waits for the store to take what is there.
const FAREWELL: Duration = Duration::from_secs(20);
/// Between two attempts to get the lock of a run that was killed.
const LOCK_RETRY: Duration = Duration::from_secs(5);
/// Between two questions whether the store is back.
const STORE_RETRY: Duration = Duration::from_secs(5);

/// Follows until SIGTERM or SIGINT; with `json`, prints what happens.
///
/// # Errors
/// [`Error::Locked`]: another follower is at work. [`Error::Usage`], [`Error::Spool`], [`Error::Store`] and
/// [`Error::Unavailable`] at the start only: later, what is away is waited for.
pub async fn run(config: &Config, store: &Store, args: &FollowArgs, json: bool) -> Result<(), Error> {
    let master_name = source::find(config).await?.name;
    let spool = config.backup.spool_dir.clone().unwrap_or_else(std::env::temp_dir);
    let recipients = if args.recipient.is_empty() { &config.backup.recipients } else { &args.recipient };
    let follower = Follower {
        config,
        args,
        json,
        store,
        recipients: Recipients::parse(recipients)?,
        queue: RefCell::new(Queue::open(&spool, &master_name)?),
        pushed: Notify::new(),
        followed: RefCell::default(),
        told: RefCell::default(),
        locked: watch::Sender::new(false),
        stopping: watch::Sender::new(false),
        master_name,
    };
    let stop = interruption().map_err(Error::Internal)?;
    tokio::pin!(stop);
    let starting = async {
        let guard = match follower.lock().await {
            Ok(guard) => Some(guard),
            // Most likely it is the lock of this host's last run, which was killed.
            Err(Error::Locked(why)) if follower.queue.borrow().is_unfinished() => {
                tracing::warn!("{why}: following already, shipping when it is free");
                None
            }
            Err(error) => return Err(error),
        };
        Ok((guard, follower.resume().await?))
    };
    let (mut guard, resume) = tokio::select! {
        started = starting => started?,
        () = &mut stop => {
            follower.stopped();
            return Ok(());
        }
    };
    let ended = follower.follow(resume, &mut guard, stop).await;
    if ended.is_ok() {
        follower.stopped();
    }
    follower.metrics();
    if let Some(guard) = guard {
        guard.release().await;
        follower.queue.borrow_mut().finished();
    }
    ended
}

/// Everything but the stream itself.
struct Follower<'a> {
    config: &'a Config,
    args: &'a FollowArgs,
    json: bool,
    store: &'a Store,
    master_name: String,
    recipients: Recipients,
    queue: RefCell<Queue>,
    pushed: Notify,
    followed: RefCell<Followed>,
    told: RefCell<Told>,
    /// Nothing is shipped before the lock was had.
    locked: watch::Sender<bool>,
    stopping: watch::Sender<bool>,
}

/// What is safe in the store.
#[derive(Debug, Default)]
struct Told {
    /// The offset and the time up to which everything is.
    shipped: Option<(u64, u64)>,
    /// When the last base of this stream was begun, in milliseconds since 1970.
    base: Option<u64>,
}

impl Follower<'_> {
    async fn lock(&self) -> Result<Guard, Error> {
        let folder = shipper::folder(&self.master_name);
        let guard = lock::acquire(self.store, &folder, lock::TTL, Some(lock::keeper(self.config, None))).await;
        let guard = guard.map_err(|error| match error {
            Error::Locked(why) => Error::Locked(format!("another `backup follow` is at work: {why}")),
            other => other,
        })?;
        self.queue.borrow_mut().begun();
        self.locked.send_replace(true);
        Ok(guard)
    }

    /// Where the last run left: at the end of what is in the store or waits in the spool. And the latest moment of all.
    async fn resume(&self) -> Result<(Option<(String, Position)>, u64), Error> {
        let waiting: Vec<Stored> = self.queue.borrow().waiting().cloned().collect();
        let timeline = read(self.store, &self.master_name, waiting.clone()).await?;
        let Some(last) = timeline.last() else { return Ok((None, 0)) };
        let mut told = self.told.borrow_mut();
        told.base = timeline.newest_base(&last).map(|base| base.ms);
        told.shipped = (!waiting.contains(&last)).then_some((last.name.to, last.name.end_ms));
        let at = Position { replid: last.name.replid, offset: last.name.to };
        Ok((Some((last.stream, at)), timeline.latest()))
    }

    async fn follow(
        &self,
        (mut resume, mut floor): (Option<(String, Position)>, u64),
        guard: &mut Option<Guard>,
        stop: impl Future<Output = ()>,
    ) -> Result<(), Error> {
        let around = Surroundings {
            config: self.config,
            recipients: &self.recipients,
            queue: &self.queue,
            pushed: &self.pushed,
            spool_limit: self.args.spool_limit as u64,
            every: self.args.every,
            followed: &self.followed,
        };
        let (shipping, bases, telling, guarding) = (self.ship(), self.make_bases(), self.tell(), self.keep_lock(guard));
        tokio::pin!(stop, shipping, bases, telling, guarding);
        loop {
            let mut receiver = Receiver::new(&around, resume.take(), floor)?;
            let end = tokio::select! {
                Err(end) = receiver.run() => Some(end),
                never = &mut shipping => never,
                never = &mut telling => never,
                () = &mut bases => None,
                lost = &mut guarding => return Err(lost),
                () = &mut stop => None,
            };
            let packed = receiver.finish().await;
            floor = receiver.latest();
            let offset = self.followed.borrow().received;
            match end {
                None => {
                    packed.map_err(|end| Error::Spool(end.to_string()))?;
                    tracing::info!("told to stop: shipping what is there");
                    self.stopping.send_replace(true);
                    let farewell = timeout(FAREWELL, async {
                        (&mut bases).await;
                        self.shipped_all().await;
                    });
                    tokio::select! {
                        never = &mut shipping => never,
                        lost = &mut guarding => return Err(lost),
                        _ = farewell => {}
                    }
                    return Ok(());
                }
                Some(End::Lost(why)) => {
                    tracing::error!(
                        "this stream ends at offset {offset}: {why}; a new one begins with a new base, and between the \
                         two no moment can be restored"
                    );
                    self.event(|| Event::Gap { offset, why });
                }
                Some(End::Full(why)) => {
                    let count = self.queue.borrow_mut().clear();
                    let until = self.told.borrow().shipped;
                    let until = until.map_or_else(String::new, |(_, ms)| format!(" after {}", RestorePoint(ms)));
                    tracing::error!(
                        "the spool is full ({why}): {count} segments are given up, and no moment{until} can be restored \
                         until a new stream begins with a new base"
                    );
                    self.event(|| Event::Gap { offset, why });
                    tokio::select! {
                        () = self.store_is_back() => {}
                        never = &mut telling => never,
                        lost = &mut guarding => return Err(lost),
                        () = &mut stop => return Ok(()),
                    }
                }
            }
            *self.followed.borrow_mut() = Followed::default();
            self.told.borrow_mut().base = None;
        }
    }

    async fn ship(&self) -> ! {
        // The sender is ours: it does not go away.
        let _ = self.locked.subscribe().wait_for(|locked| *locked).await;
        shipper::ship(self.store, &self.master_name, &self.queue, &self.pushed, |segment| {
            if segment.name.discarded {
                return;
            }
            self.told.borrow_mut().shipped = Some((segment.name.to, segment.name.end_ms));
            self.event(|| Event::shipped(segment));
        })
        .await
    }

    /// A base soon after the stream begins, and a new one every so often: an ordinary backup whose place is in the
    /// stream. Returns when it is told to stop, with nothing half done.
    async fn make_bases(&self) {
        let mut stopping = self.stopping.subscribe();
        let mut wait = BASE_RETRY.0;
        while !*stopping.borrow() {
            let due = self.told.borrow().base.map_or(0, |base| base + self.args.base_every.as_millis() as u64);
            let now = receiver::now_ms();
            let begun = self.followed.borrow().start.is_some() && *self.locked.borrow();
            let pause = if !begun || now < due {
                Duration::from_millis(due.saturating_sub(now).clamp(50, 1_000))
            } else {
                let made = match self.make_base().await {
                    Ok(manifest) if self.fits(&manifest) => Ok(manifest),
                    Ok(manifest) => Err(Error::NoSource(format!("backup {} has no place in this stream", manifest.id))),
                    Err(error) => Err(error),
                };
                match made {
                    Ok(manifest) => {
                        wait = BASE_RETRY.0;
                        tracing::info!("backup {} is a base of the stream", manifest.id);
                        self.told.borrow_mut().base = Some(manifest.created.as_millisecond().max(0) as u64);
                        self.event(|| Event::Base { id: manifest.id });
                        continue;
                    }
                    Err(_) if *stopping.borrow() => return,
                    Err(error) => {
                        tracing::warn!("no base could be made: {error}; again in {} s", wait.as_secs());
                        let now = wait;
                        wait = BASE_RETRY.1.min(2 * wait);
                        now
                    }
                }
            };
            let _ = timeout(pause, stopping.wait_for(|stopping| *stopping)).await;
        }
    }

    async fn make_base(&self) -> Result<Manifest, Error> {
        let args = CreateArgs { recipient: self.args.recipient.clone(), ..CreateArgs::default() };
        let mut stopping = self.stopping.subscribe();
        let interrupted = async {
            let _ = stopping.wait_for(|stopping| *stopping).await;
        };
        match create::create(&args, self.store, self.config, interrupted).await? {
            Outcome::Created(created) => Ok(created.manifest),
            Outcome::YoungEnough { id, .. } => Err(Error::Internal(format!("backup {id} was taken for a base"))),
        }
    }

    fn fits(&self, manifest: &Manifest) -> bool {
        let followed = self.followed.borrow();
        followed.replids.contains(&manifest.source.replid)
            && followed.start.is_some_and(|start| start <= manifest.source.offset)
    }

    /// Returns when another follower is at work: it took over while the store was away, or it was there before.
    async fn keep_lock(&self, guard: &mut Option<Guard>) -> Error {
        let mut patience = Instant::now() + lock::TTL + LOCK_RETRY;
        loop {
            sleep(if guard.is_some() { lock::TTL / 4 } else { LOCK_RETRY }).await;
            match guard {
                Some(held) => match held.check().await {
                    Ok(()) | Err(Error::Store(_) | Error::Unavailable(_)) => {}
                    Err(_) => {
                        *guard = None;
                        patience = Instant::now();
                    }
                },
                None => match self.lock().await {
                    Ok(held) => *guard = Some(held),
                    Err(lost @ Error::Locked(_)) if Instant::now() >= patience => return lost,
                    Err(_) => {}
                },
            }
        }
    }

    async fn shipped_all(&self) {
        while self.queue.borrow().waiting().next().is_some() {
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn store_is_back(&self) {
        while self.store.probe().await.is_err() {
            sleep(STORE_RETRY).await;
        }
    }

    fn event(&self, event: impl FnOnce() -> Event) {
        if self.json {
            event().print();
        }
    }

    /// The last words.
    fn stopped(&self) {
        let (waiting, shipped) = (self.queue.borrow().waiting().count(), self.told.borrow().shipped);
        let until = match shipped {
            Some((offset, ms)) => format!("everything up to {} is in the store (offset {offset})", RestorePoint(ms)),
            None => "nothing was shipped by this run".to_owned(),
        };
        match waiting {
            0 => tracing::info!("stopped: {until}"),
            _ => tracing::warn!(
                "stopped: {until}; the store did not take the last {waiting} segments: they wait in the spool for the next run"
            ),
        }
        self.event(|| Event::Stopped { moment: shipped.map(|(_, ms)| RestorePoint(ms).to_string()), waiting });
    }

    async fn tell(&self) -> ! {
        let mut metrics = interval_at((Instant::now() + METRICS).into(), METRICS);
        let mut said = Instant::now();
        loop {
            metrics.tick().await;
            self.metrics();
            if said.elapsed() >= STATUS {
                said = Instant::now();
                tracing::info!("{}", self.status());
            }
        }
    }

    fn status(&self) -> String {
        let (followed, told) = (self.followed.borrow(), self.told.borrow());
        let node = followed.node.map_or_else(|| "no replica to follow".to_owned(), |node| format!("following {node}"));
        let shipped = match told.shipped {
            Some((offset, ms)) => {
                format!(
                    "shipped up to {}, {} KiB behind",
                    RestorePoint(ms),
                    followed.head.saturating_sub(offset).div_ceil(1024)
                )
            }
            None => "nothing shipped yet".to_owned(),
        };
        format!("{node}, {shipped}, {} KiB in the spool", self.spooled().div_ceil(1024))
    }

    fn spooled(&self) -> u64 {
        self.queue.borrow().bytes() + self.followed.borrow().open_bytes
    }

    fn metrics(&self) {
        let Some((offset, ms)) = self.told.borrow().shipped else { return };
        let lag_bytes = self.followed.borrow().head.saturating_sub(offset);
        let stream = report::Stream { shipped: ms / 1000, offset, lag_bytes, spool_bytes: self.spooled() };
        report::record(self.config, Some(&self.master_name), |record| record.stream = Some(stream.clone()));
    }
}

/// What is stored for a master, and `more`, as a timeline.
///
/// # Errors
/// [`Error::Store`]: the store cannot be read.
pub async fn read(store: &Store, master_name: &str, more: impl IntoIterator<Item = Stored>) -> Result<Timeline, Error> {
    let objects = store.list(master_name).await?;
    let backups = catalog::of_objects(store, &objects).await?;
    let stored = objects.iter().filter_map(|object| shipper::parse(master_name, &object.name)).chain(more);
    Ok(Timeline::new(bases(&backups), stored.collect()))
}

/// The bases among backups. A safety backup may be that of another server, filed here because it was overwritten from
/// here, and what is damaged leads nowhere.
pub fn bases<B: Borrow<Backup>>(backups: &[B]) -> Vec<Base> {
    let backups = backups.iter().map(Borrow::borrow);
    let bases = backups.filter(|backup| !catalog::is_safety(&backup.id) && backup.damage.is_none());
    bases.filter_map(|backup| backup.manifest.as_ref().ok()).map(Base::from).collect()
}

/// What pruning backups does to the streams of their master.
#[derive(Debug, Default)]
pub struct Pruned {
    /// Objects of segments that no backup needs any more.
    pub useless: Vec<String>,
    /// Moments that could be reached before.
    pub lost: Ranges,
}

/// For `prune`: of `all` bases only those that are `kept` stay. `segments` were listed before them.
pub fn pruned(master_name: &str, segments: &[Stored], all: Vec<Base>, kept: Vec<Base>) -> Pruned {
    let before = Timeline::new(all, segments.to_vec());
    let after = Timeline::new(kept, segments.to_vec());
    let useless = after.useless().iter().map(|segment| shipper::object(master_name, segment)).collect();
    Pruned { useless, lost: before.ranges().without(&after.ranges()) }
}

/// Where segments are missing from within a stream of a master, with the moments that cannot be restored because of that.
pub fn missing<B: Borrow<Backup>>(master_name: &str, segments: Vec<Stored>, backups: &[B]) -> Vec<String> {
    let holes = Timeline::new(bases(backups), segments).holes();
    let folder = shipper::folder(master_name);
    holes.iter().map(|hole| format!("{folder}/{hole}")).collect()
}

/// Every segment of a master.
///
/// # Errors
/// [`Error::Store`]: the store cannot be read.
pub async fn segments(store: &Store, master_name: &str) -> Result<Vec<Stored>, Error> {
    let objects = store.list(&shipper::folder(master_name)).await?;
    Ok(objects.iter().filter_map(|object| shipper::parse(master_name, &object.name)).collect())
}
