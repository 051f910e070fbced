//! The place where backups are kept ([`Store`]): a bucket of an S3-compatible service or a folder, with the same rules.
//!
//! Every call has a limit: retries are counted, and what makes no progress for [`Limits::stall`] fails. Memory is
//! bounded by a few parts of an upload, whatever the object. Names are relative to the location's prefix.

mod folder;
mod incoming;
mod multipart;
mod refusal;
mod s3;
mod walk;

use std::collections::BTreeSet;
use std::fs::File;
use std::future::ready;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use jiff::Timestamp;
use object_store::aws::AmazonS3;
use object_store::path::Path;
use object_store::{ClientOptions, MultipartUpload, ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use tokio::time::{Instant, timeout, timeout_at};

use super::Error;
use crate::config::{BackupConfig, Location};
use folder::Folder;
use walk::Walk;

pub use incoming::Incoming;

/// How long things may take. The defaults are those of the program; tests choose smaller ones.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Without any progress for this long, an upload, a download or any other request fails. Of an upload that is a
    /// whole part: below about 2 Mbit/s the defaults call a line stalled.
    pub stall: Duration,
    /// How often a request is tried again after a 5xx or a broken connection.
    pub retries: usize,
    /// Bytes of one part of an upload, at least 5 MiB for S3; two are in memory at once.
    pub part_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { stall: Duration::from_secs(60), retries: 4, part_bytes: 8 << 20 }
    }
}

/// An open place for backups.
#[derive(Clone, Debug)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    /// What [`multipart`] needs besides.
    s3: Option<(Arc<AmazonS3>, ClientOptions)>,
    /// Where the objects are files.
    folder: Option<Folder>,
    location: Location,
    /// Whom an error is about: the location, and the service's address where there is one.
    place: String,
    limits: Limits,
    /// Conditional writes are refused or ignored: found out on the way.
    unconditional: Arc<AtomicBool>,
    /// What was passed over since it cannot be read.
    passed_over: Arc<Mutex<BTreeSet<String>>>,
}

/// An object as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Relative to the store's prefix.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// By the store's clock.
    pub modified: Timestamp,
}

/// What became of a create-only write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The object is ours.
    Created,
    /// There was one by this name, which was left as it is.
    Exists,
}

/// What was found out about a store by writing to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Whether it keeps the first of two objects by one name when asked to. Some services refuse the question, others
    /// ignore it.
    pub create_only: bool,
    /// Its clock.
    pub now: Timestamp,
}

/// S3 takes at most this many parts.
const MAX_PARTS: u64 = 10_000;
/// Objects that are listed at once; S3's own pages are as long.
const PAGE: usize = 1_000;
/// Small objects (manifests, locks, marks) are never larger.
const MAX_SMALL: u64 = 16 << 20;

impl Store {
    /// Opens `given`, or else the configured store. No request is sent to a service yet; a folder must exist,
    /// and go on existing: it is never made.
    ///
    /// Fails with [`Error::Usage`] when the configuration is incomplete, [`Error::Store`] when the folder is not there.
    pub fn open(config: &BackupConfig, given: Option<&Location>) -> Result<Store, Error> {
        Store::with_limits(config, given, Limits::default())
    }

    /// The same with limits of one's own.
    pub fn with_limits(config: &BackupConfig, given: Option<&Location>, limits: Limits) -> Result<Store, Error> {
        let missing = "where are the backups? Set backup_store, or give --store s3://BUCKET/PREFIX or file:///DIR";
        let location = given.or(config.store.as_ref()).ok_or_else(|| Error::Usage(missing.to_owned()))?.clone();
        let (objects, s3, folder, place): (Arc<dyn ObjectStore>, _, _, _) = match &location {
            Location::S3 { bucket, .. } => {
                let (s3, options, place) = s3::build(config, bucket, &location, &limits)?;
                let s3 = Arc::new(s3);
                (s3.clone(), Some((s3, options)), None, place)
            }
            Location::Folder(path) => {
                let (folder, objects) = Folder::open(path)?;
                (Arc::new(objects), None, Some(folder), location.to_string())
            }
        };
        let (unconditional, passed_over) = (Arc::default(), Arc::default());
        Ok(Store { objects, s3, folder, location, place, limits, unconditional, passed_over })
    }

    /// Where it is.
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// The URL of an object, for messages.
    pub fn url(&self, name: &str) -> String {
        format!("{}/{name}", self.location)
    }

    /// Reports, once, that something in the store is passed over because it cannot be read.
    pub fn pass_over(&self, what: &str) {
        let mut all = self.passed_over.lock().unwrap_or_else(PoisonError::into_inner);
        if all.insert(what.to_owned()) {
            tracing::warn!("passed over: {what}");
        }
    }

    /// # Errors
    /// [`Error::Unreadable`] when anything was passed over.
    pub fn was_whole(&self) -> Result<(), Error> {
        let all = self.passed_over.lock().unwrap_or_else(PoisonError::into_inner);
        match all.iter().next() {
            None => Ok(()),
            Some(first) if all.len() == 1 => Err(Error::Unreadable(format!("one thing was passed over: {first}"))),
            Some(first) => Err(Error::Unreadable(format!(
                "{} things in {} were passed over since they cannot be read; the first is {first}",
                all.len(),
                self.location
            ))),
        }
    }

    /// Uploads a whole file from its beginning, and returns the number of bytes. `progress` hears how many are there.
    ///
    /// A name that is taken is refused where that can be seen: always for what fits into one part, else by a look
    /// before. A failed upload leaves nothing behind where the service can be reached.
    pub async fn put_file(&self, name: &str, mut file: File, progress: &mut dyn FnMut(u64)) -> Result<u64, Error> {
        use std::io::Seek;
        let length = file.metadata().and_then(|meta| file.rewind().map(|()| meta.len()));
        let length = length.map_err(|error| Error::Spool(format!("the spooled file cannot be read: {error}")))?;
        let part = (self.limits.part_bytes as u64).max(length.div_ceil(MAX_PARTS));
        if length <= part {
            let bytes = read_part(&mut file, part).await?;
            let total = bytes.len() as u64;
            match self.put_new(name, bytes).await? {
                Put::Created => progress(total),
                Put::Exists => return Err(self.taken(name)),
            }
            return Ok(total);
        }
        if self.size(name).await?.is_some() {
            return Err(self.taken(name));
        }
        let path = self.path(name);
        let begin = self.within("beginning the upload", name, self.objects.put_multipart(&path)).await?;
        let mut upload = begin.map_err(|error| self.refused("writing", name, &error))?;
        let sent = self.put_parts(name, &mut *upload, file, part, progress).await;
        if sent.is_err() {
            // Best effort: a service that stalled may not answer this either; `prune` finds what is left.
            let _ = timeout(self.limits.stall.min(Duration::from_secs(5)), upload.abort()).await;
        }
        sent
    }

    async fn put_parts(
        &self,
        name: &str,
        upload: &mut dyn MultipartUpload,
        mut file: File,
        part: u64,
        progress: &mut dyn FnMut(u64),
    ) -> Result<u64, Error> {
        const AT_ONCE: usize = 2;
        let (mut total, mut done) = (0, 0);
        let mut running = futures_util::stream::FuturesUnordered::new();
        let mut more = true;
        let mut deadline = Instant::now() + self.limits.stall;
        while more || !running.is_empty() {
            if more && running.len() < AT_ONCE {
                let bytes = read_part(&mut file, part).await?;
                let length = bytes.len() as u64;
                more = length == part;
                if length > 0 {
                    total += length;
                    let sending = upload.put_part(PutPayload::from(bytes));
                    running.push(async move { sending.await.map(|()| length) });
                }
                continue;
            }
            match timeout_at(deadline, running.next()).await {
                Err(_) => return Err(self.stalled("uploading", name)),
                Ok(None) => break,
                Ok(Some(Err(error))) => return Err(self.refused("writing", name, &error)),
                Ok(Some(Ok(length))) => {
                    done += length;
                    progress(done);
                    deadline = Instant::now() + self.limits.stall;
                }
            }
        }
        let complete = self.within("completing the upload", name, upload.complete()).await?;
        complete.map_err(|error| self.refused("writing", name, &error))?;
        Ok(total)
    }

    /// Writes a small object unless there is another one by this name.
    ///
    /// Where the service knows no conditional write, by a look before: there the lock keeps others away.
    pub async fn put_new(&self, name: &str, bytes: Vec<u8>) -> Result<Put, Error> {
        if self.unconditional.load(Ordering::Relaxed) {
            if self.size(name).await?.is_some() {
                return Ok(Put::Exists);
            }
            return self.put_over(name, bytes).await.map(|()| Put::Created);
        }
        let bytes = PutPayload::from(bytes);
        match self.put(name, bytes.clone(), PutMode::Create).await? {
            Ok(()) => Ok(Put::Created),
            // A request whose answer was lost is sent again, and meets what it wrote itself.
            Err(object_store::Error::AlreadyExists { .. }) => match self.get(name).await? {
                Some(found) if found.iter().eq(bytes.iter().flatten()) => Ok(Put::Created),
                _ => Ok(Put::Exists),
            },
            Err(error) if refusal::is_unsupported(&error) => {
                self.unconditional.store(true, Ordering::Relaxed);
                Box::pin(self.put_new(name, bytes.iter().flatten().copied().collect())).await
            }
            Err(error) => Err(self.refused("writing", name, &error)),
        }
    }

    /// Writes a small object over whatever is there.
    pub async fn put_over(&self, name: &str, bytes: Vec<u8>) -> Result<(), Error> {
        let done = self.put(name, PutPayload::from(bytes), PutMode::Overwrite).await?;
        done.map_err(|error| self.refused("writing", name, &error))
    }

    async fn put(&self, name: &str, bytes: PutPayload, mode: PutMode) -> Result<object_store::Result<()>, Error> {
        let path = self.path(name);
        let done = self.within("writing", name, self.objects.put_opts(&path, bytes, mode.into()));
        Ok(done.await?.map(drop))
    }

    /// A small object, at most 16 MiB; `None` when there is none. Fails with [`Error::Unreadable`] when this one alone cannot
    /// be read.
    pub async fn get(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let path = self.path(name);
        self.check_file(name).await?;
        let read = async {
            let found = self.objects.get(&path).await?;
            match found.meta.size {
                size if size > MAX_SMALL => Ok(Err(size)),
                _ => Ok(Ok(found.bytes().await?.to_vec())),
            }
        };
        match self.within("reading", name, read).await? {
            Ok(Ok(bytes)) => Ok(Some(bytes)),
            Ok(Err(size)) => {
                Err(Error::Unreadable(format!("{} has {size} bytes; that is not what it should be", self.url(name))))
            }
            Err(error) if refusal::is_missing(&error) => Ok(None),
            Err(error) => Err(self.unread(name, &error)),
        }
    }

    /// An object of any size, in chunks, from its beginning. Fails with [`Error::NotFound`] when there is none, and with
    /// [`Error::Unreadable`] when this one alone cannot be read.
    pub async fn get_stream(&self, name: &str) -> Result<Incoming, Error> {
        let path = self.path(name);
        self.check_file(name).await?;
        match self.within("reading", name, self.objects.get(&path)).await? {
            Ok(found) => Ok(Incoming::start(self.clone(), name, found)),
            Err(object_store::Error::NotFound { .. }) => {
                Err(Error::NotFound(format!("there is no {}", self.url(name))))
            }
            Err(error) => Err(self.unread(name, &error)),
        }
    }

    /// The size of an object; `None` when there is none.
    pub async fn size(&self, name: &str) -> Result<Option<u64>, Error> {
        Ok(self.head(name).await?.map(|object| object.bytes))
    }

    /// What a list would say of one object; `None` when there is none.
    pub async fn head(&self, name: &str) -> Result<Option<Object>, Error> {
        let path = self.path(name);
        self.check_file(name).await?;
        match self.within("reading", name, self.objects.head(&path)).await? {
            Ok(meta) => Ok(Some(Object { name: name.to_owned(), bytes: meta.size, modified: modified(&meta) })),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.unread(name, &error)),
        }
    }

    /// Every object below the folder `under` (all of the store when it is empty), in the order of their names. Fails with
    /// [`Error::Unreadable`] when that folder alone cannot be looked into; one further below is passed over.
    pub async fn list(&self, under: &str) -> Result<Vec<Object>, Error> {
        if let Some(folder) = &self.folder {
            return Ok(self.walk(folder, under, true).await?.0);
        }
        let path = self.path(under);
        let root = self.path("");
        let mut pages = self.objects.list(Some(&path)).chunks(PAGE);
        let mut objects = Vec::new();
        while let Some(page) = self.within("listing", under, pages.next()).await? {
            for meta in page {
                objects.extend(object(&meta.map_err(|error| self.refused("listing", under, &error))?, &root));
            }
        }
        objects.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(objects)
    }

    /// What lies right in the folder `under`: objects in the order of their names, and the names of folders. Fails as
    /// [`Store::list`] does.
    pub async fn list_folder(&self, under: &str) -> Result<(Vec<Object>, Vec<String>), Error> {
        if let Some(folder) = &self.folder {
            return self.walk(folder, under, false).await;
        }
        let (path, root) = (self.path(under), self.path(""));
        let found = self.within("listing", under, self.objects.list_with_delimiter(Some(&path))).await?;
        let found = found.map_err(|error| self.refused("listing", under, &error))?;
        let mut objects: Vec<Object> = found.objects.iter().filter_map(|meta| object(meta, &root)).collect();
        objects.sort_by(|a, b| a.name.cmp(&b.name));
        let folders = found.common_prefixes.iter().filter_map(|folder| folder.filename().map(str::to_owned));
        Ok((objects, folders.collect()))
    }

    async fn walk(&self, folder: &Folder, under: &str, deep: bool) -> Result<(Vec<Object>, Vec<String>), Error> {
        let path = self.path(under);
        let (at, name) = (folder.join(&path), path.to_string());
        let mut next = tokio::task::spawn_blocking(move || {
            let mut walk = Walk::begin(&at, &name, deep)?;
            Ok::<_, Error>((walk.step(), walk))
        });
        let (mut objects, mut folders) = (Vec::new(), Vec::new());
        loop {
            let step =
                self.within("listing", under, next).await?.map_err(|error| Error::Internal(error.to_string()))?;
            let (Some(found), mut walk) = step? else { break };
            objects.extend(found.objects);
            folders.extend(found.folders);
            found.unseen.iter().for_each(|what| self.pass_over(what));
            next = tokio::task::spawn_blocking(move || Ok((walk.step(), walk)));
        }
        // Of a folder that went away meanwhile, this is a part.
        self.within("listing", under, ready(())).await?;
        objects.sort_by(|a, b| a.name.cmp(&b.name));
        folders.sort();
        Ok((objects, folders))
    }

    /// What a folder has by this name is a file, or nothing: only that may be opened.
    async fn check_file(&self, name: &str) -> Result<(), Error> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let at = folder.join(&self.path(name));
        let look = tokio::task::spawn_blocking(move || walk::strange(&at));
        match self.within("reading", name, look).await?.map_err(|error| Error::Internal(error.to_string()))? {
            None => Ok(()),
            Some(what) => Err(Error::Unreadable(format!("{} is {what}, and no file", self.url(name)))),
        }
    }

    /// Deletes an object; that there is none is no error.
    pub async fn delete(&self, name: &str) -> Result<(), Error> {
        let path = self.path(name);
        match self.within("deleting", name, self.objects.delete(&path)).await? {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.refused("deleting", name, &error)),
        }
    }

    /// Finds out by writing a small object twice what the store promises, and what time it is there.
    pub async fn probe(&self) -> Result<Probe, Error> {
        let name = format!("probe-{}", crate::random::hex(32));
        let first = self.put(&name, b"first".to_vec().into(), PutMode::Create).await?;
        let create_only = match first {
            Ok(()) => {
                let second = self.put(&name, b"second".to_vec().into(), PutMode::Create).await?;
                matches!(second, Err(object_store::Error::AlreadyExists { .. }))
            }
            Err(error) if refusal::is_unsupported(&error) => {
                self.put_over(&name, b"first".to_vec()).await?;
                false
            }
            Err(error) => return Err(self.refused("writing", &name, &error)),
        };
        self.unconditional.store(!create_only, Ordering::Relaxed);
        let now = self.head(&name).await?;
        self.delete(&name).await?;
        let now = now.ok_or_else(|| {
            Error::Store(format!("{}: an object that was written is not there a moment later", self.place))
        })?;
        Ok(Probe { create_only, now: now.modified })
    }

    /// Aborts uploads below `under` that were begun before `before` and never completed; returns how many. A folder
    /// has none that others could see: what an upload left there is deleted the same way.
    pub async fn abort_stale_multiparts(&self, under: &str, before: Timestamp) -> Result<usize, Error> {
        multipart::abort_stale(self, under, before).await
    }

    fn path(&self, name: &str) -> Path {
        let root = match &self.location {
            Location::S3 { prefix, .. } => prefix.as_str(),
            Location::Folder(_) => "",
        };
        Path::from_iter(root.split('/').chain(name.split('/')).filter(|part| !part.is_empty()))
    }

    async fn within<T>(&self, doing: &str, name: &str, future: impl Future<Output = T>) -> Result<T, Error> {
        let done = async {
            if let Some(folder) = &self.folder {
                folder.check().await?;
            }
            Ok(future.await)
        };
        timeout(self.limits.stall, done).await.unwrap_or_else(|_| Err(self.stalled(doing, name)))
    }

    fn stalled(&self, doing: &str, name: &str) -> Error {
        let limit = self.limits.stall.as_secs_f32();
        Error::Store(format!("{}: {doing} {name}: no progress for {limit} s; given up", self.place))
    }

    fn refused(&self, doing: &str, name: &str, error: &object_store::Error) -> Error {
        Error::Store(refusal::text(&self.place, doing, name, error))
    }

    /// The error of a request to read.
    fn unread(&self, name: &str, error: &object_store::Error) -> Error {
        let text = refusal::text(&self.place, "reading", name, error);
        match self.folder.is_some() && refusal::is_of_one_file(error) {
            true => Error::Unreadable(text),
            false => Error::Store(text),
        }
    }

    fn taken(&self, name: &str) -> Error {
        Error::Store(format!("{} exists already; it was left as it is", self.url(name)))
    }
}

/// The next part; shorter than `part` only at the end of the file.
async fn read_part(file: &mut File, part: u64) -> Result<Vec<u8>, Error> {
    let source = file.try_clone();
    // Made here: each thread of the pool would keep the memory of its own parts, however few there are at a time.
    let mut bytes = Vec::with_capacity(part as usize);
    let read = tokio::task::spawn_blocking(move || {
        source?.take(part).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    });
    let read = read.await.map_err(|error| Error::Internal(error.to_string()))?;
    read.map_err(|error| Error::Spool(format!("the spooled file cannot be read: {error}")))
}

/// With its name relative to `root`.
fn object(meta: &object_store::ObjectMeta, root: &Path) -> Option<Object> {
    let parts = meta.location.prefix_match(root)?;
    let name = parts.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/");
    Some(Object { name, bytes: meta.size, modified: modified(meta) })
}

fn modified(meta: &object_store::ObjectMeta) -> Timestamp {
    Timestamp::from_millisecond(meta.last_modified.timestamp_millis()).unwrap_or(Timestamp::UNIX_EPOCH)
}
