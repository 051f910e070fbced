//! `backup verify`: whether a stored backup is still, to the byte, what was published.
//!
//! All of it is read again: the stored bytes against their hash, through decryption and decompression, the plain bytes
//! against theirs, and a walk over the whole RDB against the counts. What was found is marked beside the manifest, and an
//! older mark that says otherwise goes. A mark that cannot be written is no failure: a store may be read-only.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;

use super::catalog::{self, Backup, Damaged, Verified};
use super::pack::{Identities, Unpacker};
use super::rdb::Summary;
use super::store::Store;
use super::{Error, Manifest, Progress, drill, fetch, follow, output, rdb};
use crate::config::Config;

/// Checks `backups` one after the other, marks each and says so on `out`.
///
/// Fails with [`Error::Unsound`] when any is damaged, cannot be read or is not loaded by the drill's server, after having
/// looked at all; with the first other error at once.
pub async fn verify(
    store: &Store,
    backups: &[Backup],
    identities: &Identities,
    drill: bool,
    config: &Config,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let mut bad = Vec::new();
    for backup in backups {
        let found = match backup.usable() {
            Ok(manifest) => match look(store, manifest, identities, drill, config).await {
                Err(Error::Unreadable(why)) if backups.len() > 1 => Found::Unreadable(why),
                found => found?,
            },
            Err(error @ Error::Newer(_)) if backups.len() == 1 => return Err(error),
            // Nothing is known of its data, and perhaps a newer switchmaster can read it: it is not marked.
            Err(error) => Found::Damaged(error.to_string()),
        };
        let at = Timestamp::now();
        let tool = env!("CARGO_PKG_VERSION").to_owned();
        match &found {
            Found::Sound => mark(store, backup, true, &Verified { at, drill, tool }).await,
            Found::Damaged(why) if backup.manifest.is_ok() => {
                mark(store, backup, false, &Damaged { at, why: why.clone(), tool }).await;
            }
            Found::Damaged(_) | Found::NotLoaded(_) | Found::Unreadable(_) => {}
        }
        let line = match (&found, json) {
            (Found::Sound, true) => json!({ "id": backup.id, "sound": true, "drill": drill }).to_string(),
            (Found::Sound, false) if drill => format!("sound  {}, and a server has loaded it", backup.id),
            (Found::Sound, false) => format!("sound  {}", backup.id),
            (Found::Damaged(why) | Found::NotLoaded(why) | Found::Unreadable(why), true) => {
                json!({ "id": backup.id, "sound": false, "error": why }).to_string()
            }
            (Found::Damaged(why), false) => format!("DAMAGED  {why}"),
            (Found::NotLoaded(why), false) => format!("NOT LOADED  {why}"),
            (Found::Unreadable(why), false) => format!("NOT READ  {why}"),
        };
        output::line(out, &line)?;
        match found {
            Found::Sound => {}
            Found::Damaged(why) | Found::NotLoaded(why) | Found::Unreadable(why) => bad.push(why),
        }
    }
    match bad.as_slice() {
        [] => Ok(()),
        [why] if backups.len() == 1 => Err(Error::Unsound(why.clone())),
        [_] => Err(Error::Unsound(format!("1 of {} backups is not sound", backups.len()))),
        several => Err(Error::Unsound(format!("{} of {} backups are not sound", several.len(), backups.len()))),
    }
}

/// Checks the segments that `backup follow` has shipped beside `backups`, and says so on `out`.
///
/// # Errors
/// [`Error::Unsound`] when any is damaged or missing, after having looked at all; any other error at once.
pub async fn verify_streams(
    store: &Store,
    backups: &[Backup],
    identities: &Arc<Identities>,
    config: &Config,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let mut bad = 0;
    for name in backups.iter().map(|backup| &backup.master_name).collect::<BTreeSet<_>>() {
        let segments = match follow::segments(store, name).await {
            Err(Error::Unreadable(why)) => {
                store.pass_over(&why);
                continue;
            }
            segments => segments?,
        };
        let of_name: Vec<&Backup> = backups.iter().filter(|backup| backup.master_name == *name).collect();
        let missing = follow::missing(name, segments, &of_name);
        if !json {
            missing.iter().try_for_each(|why| output::line(out, &format!("MISSING  {why}")))?;
        }
        bad += missing.len();
        let (count, damaged) = follow::replay::check(config, store, name, identities).await?;
        let segments = output::count(count as u64, "segment");
        if json && count > 0 {
            let sound = damaged.is_empty() && missing.is_empty();
            let errors = [&missing[..], &damaged].concat();
            let told = json!({ "stream": name, "segments": count, "sound": sound, "errors": errors });
            output::line(out, &told.to_string())?;
        } else if count > 0 && damaged.is_empty() {
            output::line(out, &format!("sound  {segments} of the stream of {name}"))?;
        } else {
            damaged.iter().try_for_each(|why| output::line(out, &format!("DAMAGED  {why}")))?;
        }
        bad += damaged.len();
    }
    match bad {
        0 => Ok(()),
        1 => {
            let what = "a segment of a stream is not sound or missing: what follows it cannot be reached";
            Err(Error::Unsound(what.into()))
        }
        _ => Err(Error::Unsound(format!(
            "{bad} segments of streams are not sound or missing: what follows one cannot be reached"
        ))),
    }
}

/// What came of looking at one backup.
enum Found {
    Sound,
    /// It is not what was published.
    Damaged(String),
    /// It is what was published, and the drill's server does not load it: it may be too old, or lack a module.
    NotLoaded(String),
    /// Nothing is known of it: this user may not read it, or what is there is no file.
    Unreadable(String),
}

async fn look(
    store: &Store,
    manifest: &Manifest,
    identities: &Identities,
    drill: bool,
    config: &Config,
) -> Result<Found, Error> {
    let checked = match drill {
        true => fetched(store, manifest, identities, config).await.map(Some),
        false => check(store, manifest, identities).await.map(|()| None),
    };
    let rdb = match checked {
        Ok(Some(rdb)) => rdb,
        Ok(None) => return Ok(Found::Sound),
        Err(Error::Unsound(why)) => return Ok(Found::Damaged(why)),
        Err(error) => return Err(error),
    };
    match drill::drill(&rdb, &manifest.counts).await {
        Ok(drilled) => {
            let (keys, seconds) = (drilled.keys, drilled.took.as_secs_f64());
            tracing::info!(keys, seconds, server = drilled.version, "a server has loaded backup {}", manifest.id);
            Ok(Found::Sound)
        }
        Err(Error::Unsound(why)) => Ok(Found::NotLoaded(format!("backup {}: {why}", manifest.id))),
        Err(error) => Err(error),
    }
}

/// Writes what was found beside the manifest, and takes the mark away that says otherwise.
async fn mark(store: &Store, backup: &Backup, sound: bool, mark: &impl Serialize) {
    let (master_name, id) = (&backup.master_name, &backup.id);
    let (verified, damaged) = (catalog::verified_name(master_name, id), catalog::damaged_name(master_name, id));
    let (new, old) = if sound { (verified, damaged) } else { (damaged, verified) };
    let marking = async {
        let bytes = serde_json::to_vec(mark).map_err(|error| Error::Internal(error.to_string()))?;
        store.put_over(&new, bytes).await?;
        match store.head(&old).await? {
            Some(_) => store.delete(&old).await,
            None => Ok(()),
        }
    };
    if let Err(error) = marking.await {
        let found = if sound { "sound" } else { "damaged" };
        tracing::warn!("{id} is {found}, and could not be marked so; `list` and `prune` do not know it: {error}");
    }
}

/// The same as [`check`]: the plain RDB.
async fn fetched(store: &Store, manifest: &Manifest, identities: &Identities, config: &Config) -> Result<File, Error> {
    let rdb = fetch::fetch_to_spool(store, manifest, identities, &config.backup).await?;
    walked(rdb, manifest.clone()).await
}

/// Walks over the plain file and gives it back at its beginning.
async fn walked(mut file: File, manifest: Manifest) -> Result<File, Error> {
    let walking = tokio::task::spawn_blocking(move || {
        let walked = rdb::walk(&file, &mut |_| {}).map_err(|malformed| malformed.of(&manifest.id))?;
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
        agree(&manifest, &walked.map_err(|malformed| malformed.of(&manifest.id))?)
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
