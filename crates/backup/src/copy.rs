//! `backup copy`: what one store has, in a second one: of another account, another service, or a folder.
//!
//! Byte for byte, so that nobody needs a key. Nothing is written that is not what was published, nothing is written over,
//! and nothing counts before it was read back; of each backup the manifest comes last. So a copy that was killed leaves
//! whole backups and data without a manifest, and the next one goes on: what is there and equal is passed over, what
//! differs is left as it is and named.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::catalog::{self, Backup};
use super::follow::segment::Reader;
use super::follow::timeline::{Stored, Timeline};
use super::follow::{self, shipper};
use super::manifest::hex;
use super::store::{Put, Store};
use super::{Error, Progress, Spool, fetch, output};
use crate::args::CopyArgs;
use crate::config::BackupConfig;
use crate::size;

/// Reads what the configuration file at a path says of backups, or what is wrong with it.
pub type ReadConfig = dyn Fn(&Path) -> Result<BackupConfig, String>;

/// The store to copy to. `config` is that of the first one: it also reaches the second, unless there is another file,
/// which `read` reads.
///
/// # Errors
/// [`Error::Usage`]: the file cannot be used, or the two stores are one. As [`Store::open`].
pub fn second(args: &CopyArgs, config: &BackupConfig, read: &ReadConfig, from: &Store) -> Result<Store, Error> {
    let Some(file) = &args.to_config else {
        let to = Store::open(config, args.to.as_ref())?;
        return match from.location() == to.location() {
            true => Err(Error::Usage(format!("{} is the store that is copied: name another one", to.location()))),
            false => Ok(to),
        };
    };
    let second = read(file).map_err(Error::Usage)?;
    if args.to.is_none() && second.store.is_none() {
        return Err(Error::Usage(format!("{} has no backup_store: set it there, or give --to", file.display())));
    }
    Store::open(&second, args.to.as_ref())
}

/// Those of `backups` that are younger than `age`.
pub fn since(backups: Vec<Backup>, age: Duration) -> Vec<Backup> {
    let age = SignedDuration::try_from(age).unwrap_or(SignedDuration::MAX);
    let oldest = Timestamp::now().checked_sub(age).unwrap_or(Timestamp::MIN);
    // One whose manifest cannot be read is of a time that nobody knows.
    backups.into_iter().filter(|backup| backup.manifest.as_ref().map_or(true, |it| it.created > oldest)).collect()
}

/// Copies `backups` one after the other, the newest first, then the segments that lead on from what `to` has; says each
/// on `out`.
///
/// # Errors
/// [`Error::Unsound`]: an object is damaged in `from`, or differs in `to`; after having copied all others.
/// [`Error::NotFound`]: there is nothing to copy. Any other error of a store or the spool at once.
pub async fn copy(
    from: &Store,
    to: &Store,
    backups: &[Backup],
    config: &BackupConfig,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), Error> {
    if backups.is_empty() {
        return Err(Error::NotFound(format!("{}: there is no such backup to copy", from.location())));
    }
    let copier = Copier { from, to, config };
    let (mut copied, mut there, mut bytes, mut segments, mut bad) = (0, 0, 0, 0, Vec::new());
    for backup in backups.iter().rev() {
        let size = backup.manifest.as_ref().map_or(0, |manifest| manifest.stored_bytes);
        let done = bear(copier.backup(backup).await)?;
        match &done {
            Ok(Done::Copied) => (copied, bytes) = (copied + 1, bytes + size),
            Ok(Done::There) => there += 1,
            Err(_) => {}
        }
        let (id, shown) = (&backup.id, size::rounded(size));
        let line = match (&done, json) {
            (done, true) => json!({ "id": id, "master_name": backup.master_name, "copied": *done == Ok(Done::Copied),
                "stored_bytes": size, "error": done.as_ref().err() })
            .to_string(),
            (Ok(Done::Copied), false) => format!("copied  {id}  {shown}"),
            (Ok(Done::There), false) => format!("there already  {id}"),
            (Err(why), false) => format!("NOT COPIED  {why}"),
        };
        output::line(out, &line)?;
        bad.extend(done.err());
    }
    for name in backups.iter().map(|backup| &backup.master_name).collect::<BTreeSet<_>>() {
        let stream = copier.stream(name).await?;
        if json && stream.segments > 0 {
            let told =
                json!({ "stream": name, "segments": stream.segments, "copied": stream.copied, "errors": stream.bad });
            output::line(out, &told.to_string())?;
        } else if !json {
            stream.bad.iter().try_for_each(|why| output::line(out, &format!("NOT COPIED  {why}")))?;
        }
        segments += stream.copied;
        bad.extend(stream.bad);
    }
    let summary = match json {
        true => json!({ "copied": copied, "there": there, "bytes": bytes, "segments": segments, "errors": bad.len() })
            .to_string(),
        false => {
            let stream = match segments {
                0 => String::new(),
                _ => format!(", {} of the stream", output::count(segments, "segment")),
            };
            format!("{copied} copied ({}){stream}, {there} there already: {}", size::rounded(bytes), to.location())
        }
    };
    output::line(out, &summary)?;
    match bad.as_slice() {
        [] => from.was_whole(),
        [why] => Err(Error::Unsound(why.clone())),
        several => Err(Error::Unsound(format!("{} objects were not copied: each is named above", several.len()))),
    }
}

/// What became of an object or a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    Copied,
    There,
}

/// What became of the segments of a master.
struct Streams {
    /// That lead on from backups of the second store.
    segments: usize,
    copied: u64,
    bad: Vec<String>,
}

/// What an object must be: its bytes, and their SHA-256 where a manifest tells it.
struct Published<'a> {
    bytes: u64,
    sha256: Option<&'a str>,
}

struct Copier<'a> {
    from: &'a Store,
    to: &'a Store,
    config: &'a BackupConfig,
}

impl Copier<'_> {
    async fn backup(&self, backup: &Backup) -> Result<Done, Error> {
        let manifest = backup.usable()?;
        let name = catalog::manifest_name(&backup.master_name, &backup.id);
        // As it is: a newer version may have written more into it than this one reads.
        let bytes = self.from.get(&name).await?;
        let bytes = bytes.filter(|bytes| {
            catalog::parse(bytes, &backup.master_name, &backup.id).is_ok_and(|found| found == *manifest)
        });
        let bytes = bytes.ok_or_else(|| {
            Error::Unsound(format!("backup {}: {} has changed or gone since", backup.id, self.from.url(&name)))
        })?;
        let there = self.to.get(&name).await?;
        if there.as_ref().is_some_and(|there| *there != bytes) {
            return Err(self.differs(&name));
        }
        let published = Published { bytes: manifest.stored_bytes, sha256: Some(&manifest.stored_sha256) };
        let data = catalog::object_name(&backup.master_name, &manifest.object);
        let done = match self.to.size(&data).await? {
            Some(bytes) if bytes != published.bytes => return Err(self.differs(&data)),
            // It was compared before its manifest was written; `verify` of the second store does it again.
            Some(_) if there.is_some() => return Ok(Done::There),
            Some(_)
                if digest(self.to, &data, "checking", &published, |_| Ok(())).await?.1 != manifest.stored_sha256 =>
            {
                return Err(self.differs(&data));
            }
            Some(_) => Done::There,
            None => {
                self.object(&data, &published, |_| Ok(())).await.map_err(|error| fetch::missing(error, manifest))?
            }
        };
        if there.is_some() {
            return Ok(done);
        }
        match self.to.put_new(&name, bytes).await? {
            Put::Created => Ok(Done::Copied),
            Put::Exists => Err(self.differs(&name)),
        }
    }

    /// The segments that lead on from any backup of the second store: also from those that were copied before.
    async fn stream(&self, master_name: &str) -> Result<Streams, Error> {
        let folder = shipper::folder(master_name);
        let sizes = async |store: &Store| {
            let objects = store.list(&folder).await?;
            let sizes = objects.iter().filter_map(|it| Some((shipper::parse(master_name, &it.name)?, it.bytes)));
            Ok::<BTreeMap<Stored, u64>, Error>(sizes.collect())
        };
        let (ours, theirs) = (sizes(self.from).await?, sizes(self.to).await?);
        let bases = follow::bases(&catalog::list(self.to, Some(master_name)).await?);
        let all = ours.keys().chain(theirs.keys()).cloned().collect();
        let needed = Timeline::new(bases, all).needed();
        let mut streams = Streams { segments: 0, copied: 0, bad: Vec::new() };
        for (segment, bytes) in needed.iter().filter_map(|segment| Some((segment, *ours.get(segment)?))) {
            let name = shipper::object(master_name, segment);
            let done = match theirs.get(segment) {
                // Written at once or not at all, and read back then.
                Some(there) if *there == bytes => Ok(Done::There),
                Some(_) => Err(self.differs(&name)),
                None => {
                    let published = Published { bytes, sha256: None };
                    self.object(&name, &published, |file| self.look(&name, segment, file)).await
                }
            };
            streams.segments += 1;
            match bear(done)? {
                Ok(Done::Copied) => streams.copied += 1,
                Ok(Done::There) => {}
                Err(why) => streams.bad.push(why),
            }
        }
        Ok(streams)
    }

    /// Reads, compares, writes and reads back. `look` may find more to be wrong before anything is written.
    async fn object(
        &self,
        name: &str,
        published: &Published<'_>,
        look: impl Fn(&mut File) -> Result<(), Error>,
    ) -> Result<Done, Error> {
        let mut spool = Spool::create(self.config, published.bytes)?;
        let (read, sha256) = digest(self.from, name, "reading", published, |chunk| spool.write(chunk)).await?;
        if read != published.bytes || published.sha256.is_some_and(|wanted| wanted != sha256) {
            let wanted = published.sha256.map(|wanted| format!(" with {wanted}")).unwrap_or_default();
            return Err(Error::Unsound(format!(
                "{} is not what was stored: {read} bytes with SHA-256 {sha256}, not {}{wanted}",
                self.from.url(name),
                published.bytes
            )));
        }
        let mut file = spool.into_file()?;
        look(&mut file)?;
        let writing = Progress::begin("writing", read);
        self.to.put_file(name, file, &mut |bytes| writing.reached(bytes)).await?;
        drop(writing);
        match digest(self.to, name, "checking", published, |_| Ok(())).await? {
            (_, found) if found == sha256 => Ok(Done::Copied),
            _ => Err(Error::Unsound(format!("{} was read back and is not what was sent", self.to.url(name)))),
        }
    }

    /// A segment has no manifest; what is in one that is not encrypted says whether it is whole.
    fn look(&self, name: &str, segment: &Stored, file: &mut File) -> Result<(), Error> {
        if segment.name.encrypted || segment.name.discarded {
            return Ok(());
        }
        let read = Reader::open(file).and_then(|mut reader| {
            io::copy(&mut reader, &mut io::sink())?;
            let index = reader.index();
            Ok((index.from, index.to) == (segment.name.from, segment.name.to) && index.replid == segment.name.replid)
        });
        let why = match read {
            Ok(true) => return Ok(()),
            Ok(false) => "it is another segment than its name says".to_owned(),
            Err(error) => error.to_string(),
        };
        Err(Error::Unsound(format!("{}: {why}", self.from.url(name))))
    }

    fn differs(&self, name: &str) -> Error {
        Error::Unsound(format!(
            "{} is not what {} has, and was left as it is: `backup verify` says which of the two is whole",
            self.to.url(name),
            self.from.location()
        ))
    }
}

/// What is wrong with one object is no reason to leave the others.
fn bear(done: Result<Done, Error>) -> Result<Result<Done, String>, Error> {
    match done {
        Ok(done) => Ok(Ok(done)),
        // Those that the next object would meet as well.
        Err(error @ (Error::Usage(_) | Error::Internal(_) | Error::Store(_) | Error::Spool(_))) => Err(error),
        Err(error) => Ok(Err(error.to_string())),
    }
}

/// Bytes and SHA-256 of an object; ends when there are more than there should be.
async fn digest(
    store: &Store,
    name: &str,
    step: &'static str,
    published: &Published<'_>,
    mut each: impl FnMut(&[u8]) -> Result<(), Error>,
) -> Result<(u64, String), Error> {
    let progress = Progress::begin(step, published.bytes);
    let mut incoming = store.get_stream(name).await?;
    let (mut hash, mut read) = (Sha256::new(), 0);
    while let Some(chunk) = incoming.next().await {
        let chunk = chunk?;
        hash.update(&chunk);
        read += chunk.len() as u64;
        if read > published.bytes {
            break;
        }
        each(&chunk)?;
        progress.reached(read);
    }
    Ok((read, hex(&hash.finalize())))
}
