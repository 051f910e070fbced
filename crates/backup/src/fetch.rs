//! A stored backup as a plain file of this host, whole or not at all.
//!
//! Everything is unpacked into a file without a name or with a name of its own, compared with the manifest, and only
//! then put where it was wanted. Nothing that is there is overwritten.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::json;
use tempfile::NamedTempFile;

use super::catalog::{self, Backup};
use super::pack::{Identities, Unpacker};
use super::store::Store;
use super::{Error, Manifest, Progress, Spool, output};
use crate::config::BackupConfig;
use crate::size;

const CHUNK: usize = 128 * 1024;

/// The backup as a plain RDB in a file without a name, at its beginning; it is what the manifest says, to the byte.
///
/// Fails with [`Error::Unsound`], [`Error::Spool`] when this host has no room, and as [`Unpacker::new`] and the store do.
pub async fn fetch_to_spool(
    store: &Store,
    manifest: &Manifest,
    identities: &Identities,
    config: &BackupConfig,
) -> Result<File, Error> {
    let spool = Spool::create(config, manifest.plain_bytes)?;
    unpack(store, manifest, identities, spool).await?.into_file()
}

/// Writes a plain RDB to `output`, which must not be there yet.
pub async fn to_file(
    store: &Store,
    backup: &Backup,
    identities: &Identities,
    output: &Path,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let manifest = backup.usable()?;
    if fs::symlink_metadata(output).is_ok() {
        return Err(Error::Usage(format!("{} is there already: move it away, or give another name", output.display())));
    }
    let folder = match output.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    place(store, manifest, identities, folder, output).await?;
    told(manifest, &[output], json, out)
}

/// Writes an AOF that holds the backup below the data directory `dir`: what Redis 7 and later loads under
/// `appendonly yes`, with the default `appenddirname` and `appendfilename`.
///
/// A lone dump.rdb would be ignored there, and overwritten by the next save.
pub async fn to_aof(
    store: &Store,
    backup: &Backup,
    identities: &Identities,
    dir: &Path,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let manifest = backup.usable()?;
    let meta = fs::metadata(dir).map_err(|error| Error::Usage(format!("{}: {error}", dir.display())))?;
    let folder = dir.join("appendonlydir");
    let fail = |error: io::Error| Error::Usage(format!("{}: {error}", folder.display()));
    match fs::create_dir(&folder) {
        Ok(()) => give(&folder, &meta),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if fs::read_dir(&folder).map_err(fail)?.next().is_some() {
                return Err(Error::Usage(format!(
                    "{} holds an AOF already: stop Redis and move that folder away first",
                    folder.display()
                )));
            }
        }
        Err(error) => return Err(fail(error)),
    }
    let base = folder.join("appendonly.aof.1.base.rdb");
    place(store, manifest, identities, &folder, &base).await?;
    // Redis reads the list of its AOF files from here; the base alone is a whole AOF.
    let list = folder.join("appendonly.aof.manifest");
    let mut file = NamedTempFile::new_in(&folder).map_err(fail)?;
    file.write_all(b"file appendonly.aof.1.base.rdb seq 1 type b\n").map_err(fail)?;
    publish(file, &folder, &list)?;
    told(manifest, &[&base, &list], json, out)
}

/// Unpacks into `folder` and names it `target` once all of it is right.
async fn place(
    store: &Store,
    manifest: &Manifest,
    identities: &Identities,
    folder: &Path,
    target: &Path,
) -> Result<(), Error> {
    let file = tempfile::Builder::new().prefix(".switchmaster-").tempfile_in(folder);
    let file = file.map_err(|error| no_room(folder, &error))?;
    let free = rustix::fs::fstatvfs(file.as_file()).map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize));
    if let Some(free) = free.ok().filter(|free| *free < manifest.plain_bytes) {
        let (free, needed) = (size::rounded(free), size::rounded(manifest.plain_bytes));
        return Err(Error::Spool(format!("{} has {free} left, and the backup needs {needed}", folder.display())));
    }
    let handle = file.as_file().try_clone().map_err(|error| no_room(folder, &error))?;
    unpack(store, manifest, identities, Named { file: handle, folder: folder.to_owned() }).await?;
    publish(file, folder, target)
}

fn publish(file: NamedTempFile, folder: &Path, target: &Path) -> Result<(), Error> {
    let fail = |error: io::Error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            Error::Usage(format!("{} appeared meanwhile and was left as it is", target.display()))
        }
        _ => no_room(folder, &error),
    };
    file.as_file().sync_all().map_err(fail)?;
    if let Ok(meta) = fs::metadata(folder) {
        give(file.path(), &meta);
    }
    file.persist_noclobber(target).map_err(|error| fail(error.error))?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(fail)
}

/// What root writes into a folder of Redis belongs to Redis; for others it stays what it is.
fn give(path: &Path, folder: &fs::Metadata) {
    let _ = std::os::unix::fs::chown(path, Some(folder.uid()), Some(folder.gid()));
}

/// Unpacks all of it into `sink` and compares; what the sink fails with is an [`Error`] already.
async fn unpack<W: Sink>(store: &Store, manifest: &Manifest, identities: &Identities, mut sink: W) -> Result<W, Error> {
    let stored = store.get_stream(&catalog::object_name(&manifest.master_name, &manifest.object)).await;
    let stored = stored.map_err(|error| missing(error, manifest))?;
    let (manifest, identities) = (manifest.clone(), identities.clone());
    let unpacking = tokio::task::spawn_blocking(move || {
        let progress = Progress::begin("fetch", manifest.plain_bytes);
        let mut unpacker = Unpacker::new(stored, &manifest, &identities)?;
        let mut chunk = vec![0; CHUNK];
        loop {
            match unpacker.read(&mut chunk) {
                Ok(0) => break,
                Ok(read) => sink.take(&chunk[..read])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::from_io(error)),
            }
            progress.reached(unpacker.given());
        }
        unpacker.finish()?;
        Ok(sink)
    });
    unpacking.await.map_err(|error| Error::Internal(error.to_string()))?
}

/// Data that is gone is a damaged backup: its manifest is still there.
pub(super) fn missing(error: Error, manifest: &Manifest) -> Error {
    match error {
        Error::NotFound(text) => Error::Unsound(format!("backup {}: its data is gone: {text}", manifest.id)),
        error => error,
    }
}

/// Where plain bytes go; a full disk is told as one, and not as a broken backup.
trait Sink: Send + 'static {
    fn take(&mut self, bytes: &[u8]) -> Result<(), Error>;
}

impl Sink for Spool {
    fn take(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.write(bytes)
    }
}

/// A file that will have a name in this folder.
struct Named {
    file: File,
    folder: PathBuf,
}

impl Sink for Named {
    fn take(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all(bytes).map_err(|error| no_room(&self.folder, &error))
    }
}

fn no_room(folder: &Path, error: &io::Error) -> Error {
    Error::Spool(format!("{}: {error}", folder.display()))
}

fn told(manifest: &Manifest, files: &[&Path], json: bool, out: &mut dyn Write) -> Result<(), Error> {
    let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    let line = if json {
        json!({ "id": manifest.id, "files": files, "plain_bytes": manifest.plain_bytes, "keys": manifest.counts.keys() })
            .to_string()
    } else {
        let keys = output::count(manifest.counts.keys(), "key");
        format!("{}  {}, {keys}: {}", manifest.id, size::rounded(manifest.plain_bytes), files.join(", "))
    };
    output::line(out, &line)
}
