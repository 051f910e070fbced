//! Receives the stream from one replica after the other, cuts it into segments and packs them for the shipper.
//!
//! A node is left when it stops being a replica with a link to its master; the stream goes on at another one, from the
//! last whole command. Bytes are never skipped: where none can go on, this stream ends.

use std::cell::RefCell;
use std::convert::Infallible;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval};

use super::cutter::{Cut, Cutter};
use super::position::Position;
use super::queue::Queue;
use super::rate_limited_log::RateLimitedLog;
use super::restore_point::RestorePoint;
use super::section::Section;
use super::segment::{self, Index, Name};
use super::stream_source::{self, StreamSource};
use super::timeline::Stored;
use crate::config::Config;
use crate::manifest::hex;
use crate::pack::Recipients;
use crate::{Error, catalog};

/// Between two looks whether a segment is to be ended.
const TICK: Duration = Duration::from_millis(100);
/// Between two questions to the node that is followed.
const LOOK: Duration = Duration::from_secs(1);
/// A node whose own link is down for so long is left.
const LINK_DOWN: Duration = Duration::from_secs(3);
/// A clock that is behind by less is not worth a word: the precision of moments.
const BEHIND_MS: u64 = 100;

/// Why a stream ends for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// No node can go on from where it is.
    Lost(String),
    /// The store was away for longer than the spool has room.
    Full(String),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Lost(why) | End::Full(why) => f.write_str(why),
        }
    }
}

/// What is known of the stream, for those who watch.
#[derive(Clone, Debug, Default)]
pub struct Followed {
    /// The node that is followed now.
    pub node: Option<SocketAddr>,
    /// How far that node is.
    pub head: u64,
    /// How far the stream was received.
    pub received: u64,
    /// Bytes of the segment in the making.
    pub open_bytes: u64,
    /// The offset before the first byte of this stream, once it has begun.
    pub start: Option<u64>,
    /// Every name that its history had.
    pub replids: Vec<String>,
}

/// What the receiver works with.
pub struct Surroundings<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// For whom segments are encrypted.
    pub recipients: &'a Recipients,
    /// Where finished segments go.
    pub queue: &'a RefCell<Queue>,
    /// Told of each.
    pub pushed: &'a Notify,
    /// The most that may wait, in bytes.
    pub spool_limit: u64,
    /// How long a segment may last.
    pub every: Duration,
    /// Kept up to date.
    pub followed: &'a RefCell<Followed>,
}

/// One stream.
pub struct Receiver<'a> {
    around: &'a Surroundings<'a>,
    /// The name of its folder, once it has one.
    stream: Option<String>,
    at: Option<Position>,
    cutter: Cutter,
    open: File,
    /// Segments that have ended, with the name of their history: packed one after the other.
    ended: Vec<(File, Cut, String)>,
    /// That the clock is behind.
    behind: RateLimitedLog,
}

impl<'a> Receiver<'a> {
    /// Goes on with a stream where it was left, or begins a new one. Whatever the clock says, nothing arrives before
    /// `floor_ms`.
    pub fn new(
        around: &'a Surroundings<'a>,
        resume: Option<(String, Position)>,
        floor_ms: u64,
    ) -> Result<Receiver<'a>, Error> {
        let (stream, at) = resume.unzip();
        let cutter = Cutter::new(at.as_ref().map_or(0, |at| at.offset), around.every, floor_ms);
        let open = around.queue.borrow().open_segment()?;
        if let Some(at) = &at {
            let mut followed = around.followed.borrow_mut();
            followed.received = at.offset;
            followed.replids.push(at.replid.clone());
        }
        Ok(Receiver { around, stream, at, cutter, open, ended: Vec::new(), behind: RateLimitedLog::default() })
    }

    /// Receives until there is no going on. May be dropped at any time; then [`Receiver::finish`].
    pub async fn run(&mut self) -> Result<Infallible, End> {
        loop {
            let mut source = match stream_source::join(self.around.config, self.at.as_ref()).await {
                Ok(source) => source,
                Err(gone) => {
                    if let Some(offset) = gone.survives {
                        self.discarded(offset, &gone.why).map_err(|error| End::Full(error.to_string()))?;
                    }
                    return Err(End::Lost(gone.why));
                }
            };
            self.begin(&source).await?;
            let why = self.receive(&mut source).await?;
            self.around.followed.borrow_mut().node = None;
            self.rewind()?;
            tracing::info!("left {} at offset {}: {why}", source.addr, self.cutter.boundary());
        }
    }

    /// Ends the segment in the making and packs it; nothing is received any more.
    pub async fn finish(&mut self) -> Result<(), End> {
        self.rewind()?;
        if let Some(cut) = self.cutter.finish() {
            self.end_segment(cut)?;
        }
        self.pack().await
    }

    /// The latest moment that was given to anything.
    pub fn latest(&self) -> u64 {
        self.cutter.latest()
    }

    /// Leaves word in the store that everything after `offset` was thrown away: no moment leads there any more.
    fn discarded(&self, offset: u64, why: &str) -> Result<(), Error> {
        let (Some(stream), Some(at)) = (&self.stream, &self.at) else { return Ok(()) };
        let (end_ms, replid) = (self.cutter.complete(offset).unwrap_or_default(), at.replid.clone());
        let name = Name { from: offset, to: at.offset, end_ms, replid, encrypted: false, discarded: true };
        let mut queue = self.around.queue.borrow_mut();
        let mut word = queue.open_packed()?;
        writeln!(word, "{why}").map_err(spool)?;
        queue.push(Stored { stream: stream.clone(), name }, word)?;
        self.around.pushed.notify_one();
        Ok(())
    }

    async fn begin(&mut self, source: &StreamSource) -> Result<(), End> {
        match &self.at {
            None => {
                let (now, floor) = (self.now(), self.latest());
                // Its name has whole seconds, which are not before what was shipped.
                let begins = if now < floor { floor + 999 } else { now };
                let begins = jiff::Timestamp::from_millisecond(begins as i64).unwrap_or_default();
                self.stream = Some(catalog::id(begins, &source.at.replid, source.at.offset));
                self.cutter = Cutter::new(source.at.offset, self.around.every, floor);
                tracing::info!("following {} from {}, a new stream", source.addr, source.at);
            }
            Some(at) => {
                tracing::info!("following {} from {}", source.addr, source.at);
                // A segment belongs to one name of the history.
                if at.replid != source.at.replid
                    && let Some(cut) = self.cutter.finish()
                {
                    self.end_segment(cut)?;
                    self.pack().await?;
                }
            }
        }
        let old =
            source.version.split('.').next().and_then(|major| major.parse().ok()).is_some_and(|major: u32| major < 7);
        if old {
            tracing::warn!(
                "{} runs Redis {}: before 7.0 the stream says how long a key lives, not until when; a restored key \
                 lives as long again",
                source.addr,
                source.version
            );
        }
        let mut followed = self.around.followed.borrow_mut();
        followed.node = Some(source.addr);
        followed.start.get_or_insert(source.at.offset);
        if followed.replids.last() != Some(&source.at.replid) {
            followed.replids.push(source.at.replid.clone());
        }
        self.at = Some(source.at.clone());
        Ok(())
    }

    /// Receives from one node until it is to be left: why.
    async fn receive(&mut self, source: &mut StreamSource) -> Result<String, End> {
        let StreamSource { replica, questions, .. } = source;
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looked = Instant::now();
        let mut link_down: Option<Instant> = None;
        loop {
            tokio::select! {
                chunk = replica.next() => match chunk {
                    Ok(chunk) => {
                        self.take(chunk.bytes)?;
                        self.pack().await?;
                    }
                    Err(error) => return Ok(error.to_string()),
                },
                _ = tick.tick() => {
                    let now = self.now();
                    if let Some(cut) = self.cutter.tick(now) {
                        self.end_segment(cut)?;
                        self.pack().await?;
                    }
                    if looked.elapsed() < LOOK {
                        continue;
                    }
                    looked = Instant::now();
                    let node = match stream_source::backlog(questions).await {
                        Ok(node) => node,
                        Err(why) => return Ok(format!("it {why}")),
                    };
                    self.around.followed.borrow_mut().head = node.offset;
                    if !node.replica {
                        return Ok("it is a master now".to_owned());
                    }
                    if node.link_up {
                        link_down = None;
                    } else if link_down.get_or_insert_with(Instant::now).elapsed() >= LINK_DOWN {
                        return Ok("it has lost the link to its master".to_owned());
                    }
                }
            }
        }
    }

    /// By this host's clock; says when that is behind what it was.
    fn now(&mut self) -> u64 {
        let (now, latest) = (now_ms(), self.cutter.latest());
        match latest.saturating_sub(now) {
            behind if behind > BEHIND_MS => self.behind.log(|| {
                tracing::warn!(
                    "the clock of this host went back, {}.{:03} s behind the stream: until it has caught up, everything \
                     that arrives counts as of {}",
                    behind / 1000,
                    behind % 1000,
                    RestorePoint(latest)
                );
            }),
            _ => self.behind.reset(),
        }
        now
    }

    fn take(&mut self, mut bytes: &[u8]) -> Result<(), End> {
        let now = self.now();
        while !bytes.is_empty() {
            let taken = self.cutter.take(bytes, now).map_err(|error| {
                End::Lost(format!("what comes at offset {} is no command: {}", error.offset, error.what))
            })?;
            let (ours, rest) = bytes.split_at(taken.bytes);
            self.open.write_all(ours).map_err(|error| End::Full(spool(error).to_string()))?;
            if let Some(cut) = taken.cut {
                self.end_segment(cut)?;
            }
            bytes = rest;
        }
        self.note();
        Ok(())
    }

    /// Drops the bytes of a half command: they come again.
    fn rewind(&mut self) -> Result<(), End> {
        let boundary = self.cutter.rewind();
        let keep = boundary - self.cutter.from();
        let cut_off = self.open.set_len(keep).and_then(|()| self.open.seek(SeekFrom::Start(keep)));
        cut_off.map_err(|error| End::Full(format!("the spool: {error}")))?;
        if let Some(at) = &mut self.at {
            at.offset = boundary;
        }
        self.note();
        Ok(())
    }

    fn end_segment(&mut self, cut: Cut) -> Result<(), End> {
        let fresh = self.around.queue.borrow().open_segment().map_err(|error| End::Full(error.to_string()))?;
        let replid = self.at.as_ref().map(|at| at.replid.clone()).unwrap_or_default();
        self.ended.push((std::mem::replace(&mut self.open, fresh), cut, replid));
        Ok(())
    }

    /// Packs what has ended. When it is dropped halfway, the same is packed again later.
    async fn pack(&mut self) -> Result<(), End> {
        let Some(stream) = self.stream.clone() else { return Ok(()) };
        while let Some((commands, cut, replid)) = self.ended.first() {
            let packed = self.around.queue.borrow().open_packed();
            let made = async {
                // Sections: a task that was left alone by a drop may still read the same file.
                let section = || Section::new(commands, (0, cut.to - cut.from)).map_err(spool);
                let (mut packed, mut first, mut second) = (packed?, section()?, section()?);
                let (cut, replid, recipients) = (cut.clone(), replid.clone(), self.around.recipients.clone());
                let packing = tokio::task::spawn_blocking(move || {
                    let index = index(&mut first, &cut, replid)?;
                    let out = recipients.seal(packed.as_file_mut())?;
                    let out = segment::write(&index, &mut second, out).map_err(spool)?;
                    out.finish().map_err(spool)?.flush().map_err(spool)?;
                    let end_ms = cut.marks.last().map_or(0, |mark| mark.ms);
                    let encrypted = !recipients.is_empty();
                    Ok::<_, Error>((
                        Name { from: cut.from, to: cut.to, end_ms, replid: index.replid, encrypted, discarded: false },
                        packed,
                    ))
                });
                let (name, packed) = packing.await.map_err(|error| Error::Internal(error.to_string()))??;
                self.around.queue.borrow_mut().push(Stored { stream: stream.clone(), name }, packed)
            };
            made.await.map_err(|error: Error| End::Full(error.to_string()))?;
            self.ended.remove(0);
            self.around.pushed.notify_one();
        }
        let waiting = self.around.queue.borrow().bytes() + self.cutter.boundary() - self.cutter.from();
        match waiting > self.around.spool_limit {
            true => Err(End::Full(format!("{} MiB wait for the store", waiting >> 20))),
            false => Ok(()),
        }
    }

    fn note(&self) {
        let mut followed = self.around.followed.borrow_mut();
        followed.received = self.cutter.boundary();
        followed.head = followed.head.max(followed.received);
        followed.open_bytes = self.cutter.boundary() - self.cutter.from();
    }
}

/// The index of a segment whose commands these are.
fn index(commands: &mut impl Read, cut: &Cut, replid: String) -> Result<Index, Error> {
    let mut hash = Sha256::new();
    let mut chunk = vec![0; 128 * 1024];
    loop {
        match commands.read(&mut chunk).map_err(spool)? {
            0 => break,
            count => hash.update(&chunk[..count]),
        }
    }
    let marks = cut.marks.iter().map(|mark| (mark.offset, mark.ms)).collect();
    Ok(Index { format: 1, replid, from: cut.from, to: cut.to, sha256: hex(&hash.finalize()), marks })
}

fn spool(error: io::Error) -> Error {
    Error::Spool(format!("the spool: {error}"))
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
