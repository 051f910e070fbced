//! The stream from a base to a moment, or to just before a command, fetched and checked wholly before it is used.
//!
//! It waits as it was stored, compressed, in one file of the spool; reading it gives exactly the bytes between the two
//! offsets.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

use jiff::Timestamp;

use super::commands::{Commands, Next};
use super::cutter::Mark;
use super::finder::{Finder, Found, Pattern};
use super::restore_point::RestorePoint;
use super::section::Section;
use super::segment::{Index, Reader};
use super::shipper;
use super::timeline::{Plan, Stored, Timeline};
use crate::config::Config;
use crate::pack::Identities;
use crate::store::Store;
use crate::{Error, Spool};

/// Bytes handed out at once.
const CHUNK: usize = 256 * 1024;

/// Where the data is to be taken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Goal {
    /// This moment, in milliseconds since 1970.
    Time(u64),
    /// Just before the last time a command ran.
    Before(Pattern, String),
}

/// The stream after a base.
pub struct Replay {
    plan: Plan,
    stop: Mark,
    /// When the command that was searched for arrived.
    command: Option<(String, u64)>,
    file: File,
    /// Where each segment of the plan lies in the file.
    places: Vec<(u64, u64)>,
    /// The segment that is read next, by its number in the plan.
    next: usize,
    open: Option<Reader<Section>>,
    /// The offset after the last byte that was handed out.
    position: u64,
}

impl Goal {
    /// Of `--to` and `--before-command`; at most one is given.
    ///
    /// # Errors
    /// [`Error::Usage`]: it cannot be read.
    pub fn parse(to: Option<&str>, before: Option<&str>) -> Result<Option<Goal>, Error> {
        match (to, before) {
            (Some(text), _) => {
                let at: Timestamp = text.parse().map_err(|_| {
                    let usage = "is no moment: write it with its zone, such as 2026-11-20T03:14:00Z or 2026-11-20T03:14:00+01:00";
                    Error::Usage(format!("--to {text} {usage}"))
                })?;
                Ok(Some(Goal::Time(u64::try_from(at.as_millisecond()).unwrap_or_default())))
            }
            (None, Some(text)) => match Pattern::parse(text) {
                Some(pattern) => Ok(Some(Goal::Before(pattern, text.trim().to_owned()))),
                None => Err(Error::Usage("--before-command needs a command, such as FLUSHALL or \"DEL users\"".into())),
            },
            (None, None) => Ok(None),
        }
    }
}

impl Replay {
    /// Finds the way to `goal`, from the base `only` if one is named, and fetches all of it but the base.
    ///
    /// # Errors
    /// [`Error::NotFound`]: nothing leads there; the text says which moments there are. [`Error::Unsound`]: a segment
    /// is damaged. [`Error::Store`], [`Error::Spool`], [`Error::Usage`] (no identity reads it).
    pub async fn prepare(
        config: &Config,
        store: &Store,
        master_name: &str,
        only: Option<&str>,
        goal: &Goal,
        identities: &Arc<Identities>,
    ) -> Result<Replay, Error> {
        let mut timeline = super::read(store, master_name, []).await?;
        if let Some(id) = only {
            timeline = timeline.only(id);
        }
        let fetcher = Fetcher { config, store, master_name, identities };
        let (plan, stop, command) = match goal {
            Goal::Time(ms) => {
                let plan = timeline
                    .to(*ms)
                    .map_err(|refusal| unreachable(&timeline, &RestorePoint(*ms).to_string(), &refusal))?;
                let marks = match plan.segments.last() {
                    Some(last) => fetcher.fetch(std::slice::from_ref(last)).await?.1.remove(0).0.marks,
                    None => Vec::new(),
                };
                let stop = plan.stop(*ms, marks.into_iter().map(|(offset, ms)| Mark { offset, ms }));
                (plan, stop, None)
            }
            Goal::Before(pattern, text) => {
                let (segment, index, found) = fetcher.find(&timeline, pattern).await?.ok_or_else(|| {
                    unreachable(&timeline, &format!("just before {text}"), &"the command is in no segment")
                })?;
                let plan = timeline.until(&segment, found.before).ok_or_else(|| {
                    unreachable(&timeline, &format!("just before {text}"), &"no backup comes before it")
                })?;
                let arrived =
                    index.marks().find(|mark| mark.offset >= found.end).map_or(segment.name.end_ms, |mark| mark.ms);
                let until = index.marks().rev().find(|mark| mark.offset <= found.before).map(|mark| mark.ms);
                let before =
                    plan.segments.iter().rev().map(|segment| segment.name.end_ms).find(|&ms| ms < segment.name.end_ms);
                let ms = until.or(before).unwrap_or(plan.base.ms).max(plan.base.ms);
                (plan, Mark { offset: found.before, ms }, Some((text.clone(), arrived)))
            }
        };
        let (file, fetched) = fetcher.fetch(&plan.segments).await?;
        let places = fetched.into_iter().map(|(_, place)| place).collect();
        let position = plan.base.offset;
        Ok(Replay { plan, stop, command, file, places, next: 0, open: None, position })
    }

    /// The id of the backup with which the way begins.
    pub fn base(&self) -> &str {
        &self.plan.base.id
    }

    /// The offset after the last byte.
    pub fn end(&self) -> u64 {
        self.stop.offset
    }

    /// Bytes of the stream from the base to the end.
    pub fn bytes(&self) -> u64 {
        self.stop.offset - self.plan.base.offset
    }

    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// [`Error::Spool`]: the file that was checked cannot be read again.
    pub fn chunk(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let unreadable = |error: io::Error| Error::Spool(format!("the fetched stream cannot be read: {error}"));
        while self.position < self.stop.offset {
            let mut reader = match self.open.take() {
                Some(reader) => reader,
                None => {
                    let missing = || Error::Internal("the plan ends before the offset it leads to".into());
                    let place = *self.places.get(self.next).ok_or_else(missing)?;
                    let from = self.plan.segments[self.next].name.from;
                    self.next += 1;
                    let mut reader =
                        Reader::open(Section::new(&self.file, place).map_err(unreadable)?).map_err(unreadable)?;
                    // The base, or a segment that overlaps, may have the first of it.
                    let known = self.position.saturating_sub(from);
                    io::copy(&mut reader.by_ref().take(known), &mut io::sink()).map_err(unreadable)?;
                    reader
                }
            };
            let room = CHUNK.min(usize::try_from(self.stop.offset - self.position).unwrap_or(CHUNK));
            let mut bytes = vec![0; room];
            let count = reader.read(&mut bytes).map_err(unreadable)?;
            if count > 0 {
                bytes.truncate(count);
                self.position += count as u64;
                self.open = Some(reader);
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }

    /// Makes sure that the first command runs in the right database. `stream_db` is the RDB's `repl-stream-db`: without
    /// it, the stream must choose one before it changes anything. To be called before [`Replay::chunk`].
    ///
    /// # Errors
    /// [`Error::Unsound`].
    pub fn check_database(&mut self, stream_db: Option<&str>) -> Result<(), Error> {
        if stream_db.is_some() || self.bytes() == 0 {
            return Ok(());
        }
        let mut commands = Commands::new(self.position, 64);
        let mut chooses = None;
        while chooses.is_none()
            && let Some(bytes) = self.chunk()?
        {
            let mut rest = &bytes[..];
            while let Ok(Next::Command(used, command)) = commands.next(rest) {
                rest = &rest[used..];
                let name = command.arguments().next().unwrap_or_default().to_ascii_uppercase();
                if !matches!(&name[..], b"PING" | b"REPLCONF" | b"MULTI" | b"") {
                    chooses = Some(name == b"SELECT");
                    break;
                }
            }
        }
        (self.next, self.open, self.position) = (0, None, self.plan.base.offset);
        match chooses {
            Some(false) => Err(Error::Unsound(format!(
                "backup {} does not say in which database its stream goes on (repl-stream-db): take another base",
                self.plan.base.id
            ))),
            _ => Ok(()),
        }
    }
}

impl std::fmt::Display for Replay {
    /// Where it leads, as the end of a sentence.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (moment, offset) = (RestorePoint(self.stop.ms), self.stop.offset);
        match &self.command {
            Some((text, arrived)) => {
                write!(f, "just before {text} of {}, the data of {moment} (offset {offset})", RestorePoint(*arrived))
            }
            None => write!(f, "the data of {moment} (offset {offset})"),
        }
    }
}

/// Looks whether each segment of a master is what was shipped, to the byte: how many there are, and what is wrong with those
/// that are not.
///
/// # Errors
/// The store cannot be read, a segment cannot be decrypted, or the spool is full.
pub async fn check(
    config: &Config,
    store: &Store,
    master_name: &str,
    identities: &Arc<Identities>,
) -> Result<(usize, Vec<String>), Error> {
    let fetcher = Fetcher { config, store, master_name, identities };
    let (mut count, mut damaged) = (0, Vec::new());
    for segment in super::segments(store, master_name).await?.iter().filter(|segment| !segment.name.discarded) {
        count += 1;
        match fetcher.fetch(std::slice::from_ref(segment)).await {
            Ok(_) => {}
            Err(Error::Unsound(why) | Error::Unreadable(why)) => damaged.push(why),
            Err(error) => return Err(error),
        }
    }
    Ok((count, damaged))
}

fn unreachable(timeline: &Timeline, goal: &str, why: &dyn std::fmt::Display) -> Error {
    let ranges = timeline.ranges();
    let reached = if ranges.is_empty() { String::new() } else { format!("; moments that can be reached: {ranges}") };
    Error::NotFound(format!("{goal} cannot be reached: {why}{reached}"))
}

/// What is needed to read segments of the store.
struct Fetcher<'a> {
    config: &'a Config,
    store: &'a Store,
    master_name: &'a str,
    identities: &'a Arc<Identities>,
}

/// An index, and where its segment lies in the spool file: its beginning and its length.
type Fetched = (Index, (u64, u64));

impl Fetcher<'_> {
    /// Fetches segments into one file of the spool and checks each wholly.
    async fn fetch(&self, segments: &[Stored]) -> Result<(File, Vec<Fetched>), Error> {
        let mut spool = Spool::create(&self.config.backup, 0)?;
        let mut lengths = Vec::new();
        for segment in segments {
            let name = shipper::object(self.master_name, segment);
            let stored = self.store.get_stream(&name).await?;
            let url = self.store.url(&name);
            let before = spool.bytes();
            // Small, and one after the other: this tool does nothing else meanwhile.
            let (identities, encrypted) = (self.identities.clone(), segment.name.encrypted);
            let fetched = tokio::task::spawn_blocking(move || {
                let mut plain = identities.unseal(stored, encrypted, &url)?;
                let mut chunk = vec![0; CHUNK];
                loop {
                    match plain.read(&mut chunk).map_err(Error::from_io)? {
                        0 => return Ok::<_, Error>(spool),
                        count => spool.write(&chunk[..count])?,
                    }
                }
            });
            spool = fetched.await.map_err(|error| Error::Internal(error.to_string()))??;
            lengths.push((before, spool.bytes() - before));
        }
        let file = spool.into_file()?;
        let mut fetched = Vec::new();
        for (segment, place) in segments.iter().zip(lengths) {
            let url = self.store.url(&shipper::object(self.master_name, segment));
            let unsound = |error: io::Error| Error::Unsound(format!("{url}: {error}"));
            let mut reader = Reader::open(Section::new(&file, place).map_err(unsound)?).map_err(unsound)?;
            io::copy(&mut reader, &mut io::sink()).map_err(unsound)?;
            let index = reader.index().clone();
            let name = &segment.name;
            if (index.from, index.to, &index.replid) != (name.from, name.to, &name.replid) {
                return Err(Error::Unsound(format!("{url}: it is another segment than its name says")));
            }
            fetched.push((index, place));
        }
        Ok((file, fetched))
    }

    /// The last time that a command stands in a segment after a base.
    async fn find(&self, timeline: &Timeline, pattern: &Pattern) -> Result<Option<(Stored, Index, Found)>, Error> {
        for segment in timeline.newest_first() {
            let (file, mut fetched) = self.fetch(std::slice::from_ref(&segment)).await?;
            let (index, place) = fetched.remove(0);
            let unreadable = |error: io::Error| Error::Spool(format!("the fetched stream cannot be read: {error}"));
            let reader = Reader::open(Section::new(&file, place).map_err(unreadable)?).map_err(unreadable)?;
            // A command that was thrown away never ran.
            let mut reader = reader.take(timeline.survives(&segment).saturating_sub(index.from));
            let mut finder = Finder::new(pattern, index.from);
            let mut chunk = vec![0; CHUNK];
            loop {
                match reader.read(&mut chunk).map_err(unreadable)? {
                    0 => break,
                    count => finder.feed(&chunk[..count]).map_err(|error| {
                        let url = self.store.url(&shipper::object(self.master_name, &segment));
                        Error::Unsound(format!(
                            "{url}: what stands at offset {} is no command: {}",
                            error.offset, error.what
                        ))
                    })?,
                }
            }
            if let Some(found) = finder.last() {
                return Ok(Some((segment, index, found)));
            }
        }
        Ok(None)
    }
}
