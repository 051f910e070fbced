//! `backup verify`: whether a stored backup is still, to the byte, what was published.
//!
//! All of it is read again: the stored bytes against their hash, through decryption and decompression, the plain bytes
//! against theirs, and a walk over the whole RDB against the counts. What was found whole is marked beside the manifest;
//! an older mark goes when the backup is found damaged.

use std::fs::File;
use std::io::{self, Read, Seek, Write};

use jiff::Timestamp;
use serde_json::json;

use super::catalog::{self, Backup, Verified};
use super::pack::{Identities, Unpacker};
use super::rdb::Summary;
use super::store::Store;
use super::{Error, Manifest, Progress, drill, fetch, rdb, show};
use crate::config::Config;

/// Checks `backups` one after the other, marks each and says so on `out`.
///
/// Fails with [`Error::Unsound`] when any is damaged, after having looked at all; with the first other error at once.
pub async fn verify(
    store: &Store,
    backups: &[Backup],
    identities: &Identities,
    drill: bool,
    config: &Config,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let mut damaged = Vec::new();
    for backup in backups {
        let result = match backup.usable() {
            Ok(manifest) if drill => drilled(store, manifest, identities, config).await,
            Ok(manifest) => check(store, manifest, identities).await,
            Err(error) => Err(error),
        };
        let name = catalog::verified_name(&backup.master_name, &backup.id);
        let line = match result {
            Ok(()) => {
                let mark = Verified { at: Timestamp::now(), drill, tool: env!("CARGO_PKG_VERSION").to_owned() };
                let bytes = serde_json::to_vec(&mark).map_err(|error| Error::Internal(error.to_string()))?;
                store.put_over(&name, bytes).await?;
                match json {
                    true => json!({ "id": backup.id, "sound": true, "drill": mark.drill }).to_string(),
                    false if drill => format!("sound  {}, and a server has loaded it", backup.id),
                    false => format!("sound  {}", backup.id),
                }
            }
            Err(Error::Unsound(why)) => {
                store.delete(&name).await?;
                let line = match json {
                    true => json!({ "id": backup.id, "sound": false, "error": why }).to_string(),
                    false => format!("DAMAGED  {why}"),
                };
                damaged.push(why);
                line
            }
            Err(error) => return Err(error),
        };
        show::line(out, &line)?;
    }
    match damaged.as_slice() {
        [] => Ok(()),
        [why] if backups.len() == 1 => Err(Error::Unsound(why.clone())),
        several => Err(Error::Unsound(format!("{} of {} backups are damaged", several.len(), backups.len()))),
    }
}

/// The same as [`check`], and a throwaway server loads it and holds what the manifest says.
async fn drilled(store: &Store, manifest: &Manifest, identities: &Identities, config: &Config) -> Result<(), Error> {
    let rdb = fetch::fetch_to_spool(store, manifest, identities, &config.backup).await?;
    let rdb = walked(rdb, manifest.clone()).await?;
    let drilled = drill::drill(&rdb, &manifest.counts).await.map_err(|error| match error {
        Error::Unsound(why) => Error::Unsound(format!("backup {}: {why}", manifest.id)),
        error => error,
    })?;
    let (keys, seconds) = (drilled.keys, drilled.took.as_secs_f64());
    tracing::info!(keys, seconds, server = drilled.version, "a server has loaded backup {}", manifest.id);
    Ok(())
}

/// Walks over the plain file and gives it back at its beginning.
async fn walked(mut file: File, manifest: Manifest) -> Result<File, Error> {
    let walking = tokio::task::spawn_blocking(move || {
        let walked = rdb::walk(&file, &mut |_| {}).map_err(|malformed| unsound(&manifest, &malformed.to_string()))?;
        agree(&manifest, &walked)?;
        file.rewind().map_err(|error| Error::Spool(error.to_string()))?;
        Ok(file)
    });
    walking.await.map_err(|error| Error::Internal(error.to_string()))?
}

/// Reads the stored object and compares it and what it unpacks to with the manifest; writes nothing anywhere.
pub async fn check(store: &Store, manifest: &Manifest, identities: &Identities) -> Result<(), Error> {
    let stored = store.get_stream(&catalog::object_name(&manifest.master_name, &manifest.object)).await;
    let stored = stored.map_err(|error| fetch::missing(error, manifest))?;
    let (manifest, identities) = (manifest.clone(), identities.clone());
    let checking = tokio::task::spawn_blocking(move || {
        let progress = Progress::begin("verify", manifest.plain_bytes);
        let mut watched = Watched { unpacker: Unpacker::new(stored, &manifest, &identities)?, progress };
        let walked = rdb::walk(&mut watched, &mut |_| {});
        // Of a damaged object the walk may have seen anything: what the hashes say comes first.
        watched.unpacker.finish()?;
        agree(&manifest, &walked.map_err(|malformed| unsound(&manifest, &malformed.to_string()))?)
    });
    checking.await.map_err(|error| Error::Internal(error.to_string()))?
}

/// Whether a walk found what the manifest tells.
pub fn agree(manifest: &Manifest, found: &Summary) -> Result<(), Error> {
    let differs = |what: &str, found: &str, told: &str| {
        Err(unsound(manifest, &format!("{what} is {found}, and the manifest says {told}")))
    };
    let crc64 = found.crc64.map(|crc64| format!("{crc64:016x}"));
    let shown = |crc64: &Option<String>| crc64.clone().unwrap_or_else(|| "none".to_owned());
    if (found.magic.as_str(), found.version) != (manifest.magic.as_str(), manifest.rdb_version) {
        let (found, told) = (format!("{} {}", found.magic, found.version), &manifest.magic);
        return differs("the RDB's version", &found, &format!("{told} {}", manifest.rdb_version));
    }
    if crc64 != manifest.crc64 {
        return differs("the RDB's CRC64", &shown(&crc64), &shown(&manifest.crc64));
    }
    if found.counts != manifest.counts {
        let (keys, told) = (found.counts.keys().to_string(), manifest.counts.keys().to_string());
        return differs(
            "the number of keys by database and type",
            &format!("{keys} in all"),
            &format!("{told} in all"),
        );
    }
    Ok(())
}

fn unsound(manifest: &Manifest, what: &str) -> Error {
    Error::Unsound(format!("backup {}: {what}", manifest.id))
}

/// Tells how far the walk has come.
struct Watched<R: Read> {
    unpacker: Unpacker<R>,
    progress: Progress,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.unpacker.read(into)?;
        self.progress.reached(self.unpacker.given());
        Ok(read)
    }
}
