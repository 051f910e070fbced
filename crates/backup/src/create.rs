//! `backup create`: from a healthy replica into the store, and nothing counts before it was read back.
//!
//! Whatever happens on the way (a failover, a dead replica, Ctrl-C), the store ends with a whole backup or without one:
//! what a failed run wrote is deleted, and the manifest, without which there is no backup, comes last.

mod intake;
mod outcome;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};

use crate::args::CreateArgs;
use crate::config::Config;
use crate::interrupt::interruption;
use crate::lock::{self, Guard};
use crate::manifest::hex;
use crate::output::line;
use crate::pack::{self, Packed, Recipients};
use crate::replica::{Begin, Replica, Want};
use crate::source::{self, Node, Topology, choose, no_source};
use crate::store::{Put, Store};
use crate::{Error, Manifest, Progress, Source, Spool, catalog, rdb, report};

use intake::Intake;
pub use outcome::{Created, Outcome};

/// A failover or a dead replica in the middle: so many sources are tried in all.
const ATTEMPTS: u32 = 3;
/// For a source whose refusal passes by itself: a failover that ends, a save.
const WAIT_FOR_SOURCE: Duration = Duration::from_secs(60);
/// For a lone node's answer.
const ANSWER: Duration = Duration::from_secs(5);
/// Between two looks at the nodes meanwhile.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The verb: makes a backup and prints what came of it.
///
/// # Errors
/// As [`create`].
pub async fn run(
    args: &CreateArgs,
    store: &Store,
    config: &Config,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let outcome = create(args, store, config, interruption().map_err(Error::Internal)?).await?;
    let text = match json {
        true => serde_json::to_string(&outcome).map_err(|error| Error::Internal(error.to_string()))?,
        false => outcome.to_string(),
    };
    line(out, &text)
}

/// A node that no Sentinel monitors, and the name under which its backup is kept.
#[derive(Clone, Debug)]
pub struct Lone {
    /// Where it is.
    pub addr: SocketAddr,
    /// As a monitored name.
    pub name: String,
}

/// A backup of what a restore is about to overwrite: of the monitored master's data, or of a lone node's. Where the
/// configuration names no recipients, it is encrypted for `recipients`.
///
/// # Errors
/// As [`create`].
pub async fn safety(
    lone: Option<Lone>,
    recipients: &[String],
    store: &Store,
    config: &Config,
) -> Result<Created, Error> {
    let recipient = if config.backup.recipients.is_empty() { recipients.to_vec() } else { Vec::new() };
    let args = CreateArgs { allow_master: true, safety: true, recipient, ..CreateArgs::default() };
    let interrupted = interruption().map_err(Error::Internal)?;
    let outcome = match lone {
        Some(lone) => locked(&args, store, config, &lone.name, Some(lone.addr), interrupted).await,
        None => create(&args, store, config, interrupted).await,
    };
    let outcome = outcome.map_err(|error| match error {
        Error::Interrupted(_) => {
            Error::Interrupted("interrupted while the safety backup was made: nothing was restored".into())
        }
        error => error,
    });
    match outcome? {
        Outcome::Created(created) => Ok(*created),
        Outcome::YoungEnough { id, .. } => Err(Error::Internal(format!("{id} was taken for a safety backup"))),
    }
}

/// Makes a backup, and tells those who watch what came of it. Ends early and cleanly when `interrupted` does.
///
/// # Errors
/// Every kind of [`Error`] but `Restore`.
pub async fn create(
    args: &CreateArgs,
    store: &Store,
    config: &Config,
    interrupted: impl Future<Output = ()>,
) -> Result<Outcome, Error> {
    let mut name = config.sentinel.master_name.clone();
    let outcome = async {
        // What is wrong with the arguments is said before anybody is asked.
        recipients(args, config)?;
        let found = source::find(config).await?.name;
        locked(args, store, config, name.insert(found), None, interrupted).await
    };
    let outcome = outcome.await;
    report::record(config, name.as_deref(), |record| match &outcome {
        Ok(Outcome::Created(_)) if args.safety => {}
        Ok(Outcome::Created(created)) => created.tell(record),
        // Another host's run is no failure of this one, and a good backup to both.
        Ok(Outcome::YoungEnough { created, .. }) => {
            let created = u64::try_from(created.as_second()).unwrap_or_default();
            record.last_success = record.last_success.max(created);
        }
        Err(Error::Locked(_)) => {}
        Err(error) => (record.last_run, record.exit_code) = (report::now(), error.exit_code()),
    });
    outcome
}

async fn locked(
    args: &CreateArgs,
    store: &Store,
    config: &Config,
    name: &str,
    lone: Option<SocketAddr>,
    interrupted: impl Future<Output = ()>,
) -> Result<Outcome, Error> {
    let recipients = recipients(args, config)?;
    if let Some(young) = young_enough(args, newest(store, name).await?.as_ref()) {
        return Ok(young);
    }
    let what = if args.safety { "a backup for a restore" } else { "a backup" };
    let guard = lock::acquire_for(what.into(), store, name, lock::TTL, Some(lock::keeper(config, lone))).await?;
    let mut run = Run { args, store, config, recipients, name, lone, guard: &guard, written: Vec::new() };
    let outcome = tokio::select! {
        outcome = run.make() => outcome,
        () = interrupted => Err(Error::Interrupted("interrupted: there is no new backup".into())),
    };
    if outcome.is_err() {
        run.clean_up().await;
    }
    guard.release().await;
    outcome
}

fn recipients(args: &CreateArgs, config: &Config) -> Result<Recipients, Error> {
    match &args.recipient[..] {
        [] => Recipients::parse(&config.backup.recipients),
        given => Recipients::parse(given),
    }
}

/// The newest backup that is not known to be damaged.
async fn newest(store: &Store, name: &str) -> Result<Option<Manifest>, Error> {
    Ok(catalog::newest(store, name).await?.and_then(|backup| backup.manifest.ok()))
}

/// The newest backup, if `--if-older-than` says that it will do. How old one of the future is nobody knows, and a wrong
/// clock must not end the backups.
fn young_enough(args: &CreateArgs, newest: Option<&Manifest>) -> Option<Outcome> {
    let age = SignedDuration::try_from(args.if_older_than?).unwrap_or(SignedDuration::MAX);
    let (newest, now) = (newest?, Timestamp::now());
    let is_young = !catalog::is_of_the_future(newest.created, now) && now.duration_since(newest.created) < age;
    is_young.then(|| Outcome::YoungEnough { id: newest.id.clone(), created: newest.created })
}

struct Run<'a> {
    args: &'a CreateArgs,
    store: &'a Store,
    config: &'a Config,
    recipients: Recipients,
    name: &'a str,
    /// The only source there is, where no Sentinel tells of others.
    lone: Option<SocketAddr>,
    guard: &'a Guard,
    /// Objects that may exist now because of this run, in the order in which they were written.
    written: Vec<String>,
}

/// What came from the source.
struct Taken {
    created: Timestamp,
    source: Source,
    summary: rdb::Summary,
    plain: File,
}

impl Run<'_> {
    async fn make(&mut self) -> Result<Outcome, Error> {
        let began = Instant::now();
        let before = newest(self.store, self.name).await?;
        // Another host may have been faster while the lock was waited for.
        if let Some(young) = young_enough(self.args, before.as_ref()) {
            return Ok(young);
        }
        if let Some(newest) =
            before.as_ref().filter(|newest| catalog::is_of_the_future(newest.created, Timestamp::now()))
        {
            tracing::warn!("{} is dated in the future: is a clock wrong?", newest.id);
        }
        let taken = match self.lone {
            Some(addr) => self.stream(&self.ask(addr).await?).await?,
            None => self.take().await?,
        };
        let manifest = self.keep(taken).await?;
        // A safety backup is of what is there, however much that is; a lone node's may be of quite other data.
        let before = before.as_ref().filter(|_| !self.args.safety);
        let created = Created::new(manifest, before, began.elapsed());
        Ok(Outcome::Created(Box::new(created)))
    }

    /// The data set of the best source there is; another one if that fails.
    async fn take(&self) -> Result<Taken, Error> {
        let mut failed = BTreeSet::new();
        for attempt in 1.. {
            let (topology, node) = self.wait_for_source(&failed).await?;
            let lag = topology.master_node().map_or(0, |master| master.offset.saturating_sub(node.offset));
            let role = node.role.name();
            tracing::info!(attempt, source = %node.addr, role, lag, keys = node.keys, "backup begins");
            match self.stream(&node).await {
                Ok(taken) => {
                    self.look_for_phantom(&topology, &node);
                    return Ok(taken);
                }
                // A failover in the middle, a node that died, bytes that are no RDB: another node may do better.
                Err(error @ (Error::Truncated(_) | Error::Unavailable(_) | Error::Unsound(_)))
                    if attempt < ATTEMPTS =>
                {
                    tracing::warn!(attempt, source = %node.addr, %error, "backup begins again with a fresh choice");
                    failed.insert(node.addr);
                }
                Err(error) => return Err(error),
            }
        }
        unreachable!("the last attempt returns")
    }

    async fn ask(&self, addr: SocketAddr) -> Result<Node, Error> {
        let asked = Node::ask(addr, self.config.sentinel.redis_auth.as_ref(), ANSWER).await;
        asked.map_err(|why| Error::Unavailable(format!("{addr} {why}")))
    }

    /// Asks and chooses; again for a while when what is in the way passes by itself, as a failover does.
    async fn wait_for_source(&self, failed: &BTreeSet<SocketAddr>) -> Result<(Topology, Node), Error> {
        let until = Instant::now() + WAIT_FOR_SOURCE;
        let mut told = false;
        loop {
            let last = Instant::now() >= until;
            let error = match source::find(self.config).await {
                Ok(topology) => match choose(&topology, false, failed).cloned() {
                    Ok(node) => return Ok((topology, node)),
                    Err(refusals) => {
                        let hope = !last && refusals.iter().any(|refusal| refusal.passing);
                        if !hope
                            && self.args.allow_master
                            && let Ok(node) = choose(&topology, true, failed).cloned()
                        {
                            return Ok((topology, node));
                        }
                        let error = no_source(&topology, &refusals);
                        if !hope {
                            return Err(error);
                        }
                        error
                    }
                },
                Err(error @ Error::Unavailable(_)) if !last => error,
                Err(error) => return Err(error),
            };
            if !told {
                tracing::info!("waiting up to {} s for a source: {error}", WAIT_FOR_SOURCE.as_secs());
                told = true;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn stream(&self, node: &Node) -> Result<Taken, Error> {
        let credentials = self.config.sentinel.redis_auth.as_ref();
        let mut replica = Replica::connect(node, credentials, Want::Rdb).await?;
        // An RDB is rarely more than half of what its data takes in memory; the spool looks again as it fills.
        let spool = Spool::create(&self.config.backup, node.dataset / 2)?;
        let begin = replica.psync(None).await?;
        let created = Timestamp::now();
        let Begin::Full { replid, offset } = begin else {
            return Err(Error::Unavailable(format!("{} offers no full synchronisation", node.addr)));
        };
        // Promoted since it was chosen? A later promotion hangs up.
        if self.ask(node.addr).await?.role.name() != node.role.name() {
            return Err(Error::Unavailable(format!("the {} {} changed its role", node.role.name(), node.addr)));
        }
        let mut intake = Intake::new(spool, Progress::begin("streaming", node.dataset / 2));
        replica.rdb(&mut intake).await?;
        drop(replica);
        let (summary, plain) = intake.finish()?;
        let source = Source {
            addr: node.addr.to_string(),
            role: node.role.name().into(),
            version: node.version.clone(),
            run_id: node.run_id.clone(),
            replid,
            offset,
        };
        Ok(Taken { created, source, summary, plain })
    }

    /// Streaming from a master for ten seconds makes each Sentinel remember a replica that does not exist.
    fn look_for_phantom(&self, topology: &Topology, node: &Node) {
        if node.addr == topology.master {
            tracing::warn!(
                "the data came from the master: a Sentinel may now list a replica at port 0 \
                 (SENTINEL REPLICAS {0}); SENTINEL RESET {0} on one Sentinel after the other makes it forget",
                self.name
            );
        }
    }

    /// Packs, stores, reads back and compares; the manifest comes last.
    async fn keep(&mut self, taken: Taken) -> Result<Manifest, Error> {
        let Taken { created, source, summary, plain } = taken;
        let mut id = catalog::id(created, &source.replid, source.offset);
        if self.args.safety {
            id += catalog::SAFETY;
        }
        let object = format!("{id}{}", self.recipients.suffix());
        let (packed, file) = self.pack(plain, summary.bytes).await?;
        let at = catalog::object_name(self.name, &object);
        // Two runs within a second of an idle master have one id: what is there is the other's, and whole.
        let manifest_name = catalog::manifest_name(self.name, &id);
        if self.store.head(&manifest_name).await?.or(self.store.head(&at).await?).is_some() {
            return Err(Error::Store(format!(
                "{id} exists already: nothing has changed since it was made; it was left as it is"
            )));
        }
        self.written.push(at.clone());
        let uploading = Progress::begin("storing", packed.stored_bytes);
        self.store.put_file(&at, file, &mut |bytes| uploading.reached(bytes)).await?;
        drop(uploading);
        self.read_back(&at, &packed).await?;
        let manifest = Manifest {
            format: 1,
            id: id.clone(),
            master_name: self.name.to_owned(),
            created,
            object,
            source,
            magic: summary.magic.to_string(),
            rdb_version: summary.version,
            crc64: summary.crc64.map(|crc| format!("{crc:016x}")),
            plain_bytes: packed.plain_bytes,
            plain_sha256: packed.plain_sha256,
            packing: self.recipients.packing(),
            stored_bytes: packed.stored_bytes,
            stored_sha256: packed.stored_sha256,
            counts: summary.counts,
            tool: env!("CARGO_PKG_VERSION").into(),
        };
        self.publish(&manifest).await?;
        Ok(manifest)
    }

    /// zstd and age, in a thread of their own: the lock is renewed meanwhile.
    async fn pack(&self, plain: File, bytes: u64) -> Result<(Packed, File), Error> {
        let out = Spool::create(&self.config.backup, 0)?.into_file()?;
        let kept = out.try_clone().map_err(|error| Error::Spool(format!("the spool: {error}")))?;
        let recipients = self.recipients.clone();
        let packing = tokio::task::spawn_blocking(move || {
            let progress = Progress::begin("packing", bytes);
            pack::pack(plain, out, &recipients, &mut |bytes| progress.reached(bytes))
        });
        let packed = packing.await.map_err(|error| Error::Internal(error.to_string()))??;
        Ok((packed, kept))
    }

    async fn publish(&mut self, manifest: &Manifest) -> Result<(), Error> {
        let bytes = manifest.to_bytes()?;
        // A host that was frozen for longer than the lock lives must not publish beside another one.
        self.guard.check().await?;
        let name = catalog::manifest_name(self.name, &manifest.id);
        self.written.push(name.clone());
        match self.store.put_new(&name, bytes).await? {
            Put::Created => Ok(()),
            Put::Exists => {
                self.written.clear();
                Err(Error::Store(format!("{} exists already; it was left as it is", self.store.url(&name))))
            }
        }
    }

    async fn read_back(&self, at: &str, packed: &Packed) -> Result<(), Error> {
        let (bytes, sha256) = (packed.stored_bytes, &packed.stored_sha256);
        let reading = Progress::begin("checking", bytes);
        let mut incoming = self.store.get_stream(at).await?;
        let (mut digest, mut read) = (Sha256::new(), 0);
        while let Some(chunk) = incoming.next().await {
            let chunk = chunk?;
            digest.update(&chunk);
            read += chunk.len() as u64;
            reading.reached(read);
        }
        let found = hex(&digest.finalize());
        if read != bytes || found != *sha256 {
            return Err(Error::Unsound(format!(
                "{} was read back and is not what was sent: {read} bytes with SHA-256 {found}, not {bytes} with {sha256}",
                self.store.url(at)
            )));
        }
        Ok(())
    }

    /// Deletes what this run wrote: the manifest first, and without that the data stays.
    async fn clean_up(&self) {
        for name in self.written.iter().rev() {
            if let Err(error) = self.store.delete(name).await {
                tracing::warn!(%error, "{} could not be deleted; `backup prune` will", self.store.url(name));
                return;
            }
        }
    }
}
