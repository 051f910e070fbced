//! The source's side of the replication protocol as a replica sees it: the whole data set, then the stream of changes.
//!
//! Never sends `listening-port`: a Sentinel would take this host for a replica. Never looks for the mark that ends a
//! diskless RDB: the one who reads the RDB says where it ends, and the mark must stand there. Nothing waits without a
//! limit, and dropping a [`Replica`] closes the connection.
//!
//! ```text
//!   AUTH · REPLCONF capa eof capa psync2 · REPLCONF rdb-only 1        (replication.c: replconfCommand)
//!   PSYNC ? -1            ─▶  \n … +FULLRESYNC <replid> <offset>  \n …  $EOF:<40> or $<len>  the RDB  [<40>]
//!   PSYNC <replid> <next> ─▶  +CONTINUE [<replid>]  the stream from byte <next>
//! ```

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use crate::Error;
use crate::net::Conn;
use crate::node::refusal;
use crate::secret::Credentials;
use crate::source::{Node, dial, refused};
use crate::wire::{Reply, Wire, encode};

/// Not a byte for so long, not even a newline: the source is gone, or stuck. Redis's own repl-timeout.
pub const SILENCE: Duration = Duration::from_secs(60);
/// For the connection and each reply of the handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Newlines alone for so long: the source never begins. It may have to write the whole RDB to its disk first.
const BEGIN: Duration = Duration::from_secs(30 * 60);
/// Between two acknowledgements, as a replica's own cron.
const ACK_EVERY: Duration = Duration::from_secs(1);
/// Bytes read at once.
const CHUNK: usize = 256 * 1024;
/// The longest line of the protocol that is read.
const LONGEST_LINE: usize = 4096;

/// What is wanted of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// The RDB alone: the source keeps no backlog for us (Redis 7 or later; earlier ones are left at its end).
    Rdb,
    /// Also the stream after it.
    Stream,
}

/// How the source answered PSYNC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begin {
    /// +FULLRESYNC: an RDB follows, of the data at this point of the stream.
    Full {
        /// The history.
        replid: String,
        /// Bytes of it that the RDB has.
        offset: u64,
    },
    /// +CONTINUE: the stream follows from where it was asked for.
    Continue {
        /// The history, which may have a new name after a failover.
        replid: String,
    },
}

/// Takes the bytes of an RDB as they come, and knows where it ends.
pub trait Sink {
    /// Takes what belongs to the RDB from the front of `bytes` (never empty) and returns how much that was: less than
    /// all only when the RDB has ended.
    ///
    /// # Errors
    /// The bytes are no RDB, or there is no room for them: the stream is given up.
    fn take(&mut self, bytes: &[u8]) -> Result<usize, Error>;

    /// The last byte of the RDB was taken.
    fn ended(&self) -> bool;
}

/// Bytes of the stream, as they came.
#[derive(Debug)]
pub struct Chunk<'a> {
    /// How many bytes of the history come before these: the offset of `bytes[0]` is the next, `offset + 1`.
    pub offset: u64,
    /// At least one.
    pub bytes: &'a [u8],
}

/// A connection to the source. Not cancel-safe but for [`Replica::next`].
#[derive(Debug)]
pub struct Replica<S = Conn> {
    addr: SocketAddr,
    stream: S,
    /// Read and not consumed are the bytes from `consumed`.
    buffer: Vec<u8>,
    consumed: usize,
    /// Bytes of the history that were received.
    offset: u64,
    acked: Instant,
    /// Not a byte for so long ends it: [`SILENCE`], unless changed.
    pub silence: Duration,
}

impl Replica {
    /// Connects to the node and introduces itself as a replica.
    ///
    /// # Errors
    /// [`Error::Unavailable`]: it cannot be reached, or refuses; the text says what to do.
    pub async fn connect(node: &Node, credentials: Option<&Credentials>, want: Want) -> Result<Replica, Error> {
        let addr = node.addr;
        let handshake = async {
            let mut wire = dial(addr, credentials).await?;
            // Since 2.8 an unknown capability is ignored, and an option that is not known is an error, which is fine.
            replconf(&mut wire, &["capa", "eof", "capa", "psync2"]).await?;
            if want == Want::Rdb {
                replconf(&mut wire, &["rdb-only", "1"]).await?;
            }
            // Valkey sends newer formats only to those that say they are new enough.
            if node.valkey {
                replconf(&mut wire, &["version", &node.version]).await?;
            }
            Ok(wire)
        };
        let wire: Result<Wire, String> = within("the handshake", HANDSHAKE, handshake).await;
        let wire = wire.map_err(|reason| Error::Unavailable(format!("{addr} {reason}")))?;
        let (stream, buffer) = wire.into_parts();
        Ok(Replica::over(addr, stream, buffer))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Replica<S> {
    /// After the handshake, over a stream of whatever kind; `buffer` was read from it and belongs to nobody yet.
    pub fn over(addr: SocketAddr, stream: S, buffer: Vec<u8>) -> Replica<S> {
        Replica { addr, stream, buffer, consumed: 0, offset: 0, acked: Instant::now(), silence: SILENCE }
    }

    /// PSYNC: everything, or what follows on the first `offset` bytes of the history `replid`.
    ///
    /// Waits until the source begins to answer, which may take as long as its child process runs.
    ///
    /// # Errors
    /// [`Error::Unavailable`]: it refuses. [`Error::Truncated`]: it hung up or fell silent.
    pub async fn psync(&mut self, from: Option<(&str, u64)>) -> Result<Begin, Error> {
        let mut request = Vec::new();
        match from {
            Some((replid, offset)) => encode(&mut request, &["PSYNC", replid, &(offset + 1).to_string()]),
            None => encode(&mut request, &["PSYNC", "?", "-1"]),
        }
        self.stream.write_all(&request).await.map_err(|error| self.broken(&error))?;
        let line = self.line().await?;
        if let Some(text) = line.strip_prefix('-') {
            return Err(Error::Unavailable(format!("{} {}", self.addr, refused("PSYNC", text))));
        }
        let begin = parse_begin(&line, from.map(|(replid, _)| replid));
        let begin = begin.ok_or_else(|| self.strange("PSYNC", &line))?;
        self.offset = match (&begin, from) {
            (&Begin::Full { offset, .. }, _) | (Begin::Continue { .. }, Some((_, offset))) => offset,
            (Begin::Continue { .. }, None) => return Err(self.strange("PSYNC", &line)),
        };
        self.acked = Instant::now();
        Ok(begin)
    }

    /// The RDB after [`Begin::Full`], into `sink`. When this returns, exactly the RDB was received.
    ///
    /// # Errors
    /// [`Error::Truncated`]: the source hung up or fell silent. [`Error::Unsound`]: what ends the RDB is not the mark
    /// that was announced, or not where it was. The sink's own errors.
    pub async fn rdb(&mut self, sink: &mut impl Sink) -> Result<u64, Error> {
        let line = self.line().await?;
        let framing = parse_framing(&line).ok_or_else(|| self.strange("the announced RDB", &line))?;
        let mut taken = 0;
        while !sink.ended() {
            self.fill(1).await?;
            let mut bytes = &self.buffer[self.consumed..];
            if let Framing::Length(length) = framing {
                let rest = usize::try_from(length - taken).unwrap_or(usize::MAX);
                bytes = &bytes[..bytes.len().min(rest)];
                if bytes.is_empty() {
                    let what = format!("{} announced {length} bytes, and the RDB in them does not end", self.addr);
                    return Err(Error::Unsound(what));
                }
            }
            let used = sink.take(bytes)?;
            self.consumed += used;
            taken += used as u64;
        }
        match framing {
            Framing::Length(length) if length == taken => {}
            Framing::Length(length) => {
                let what = format!("{} announced {length} bytes, and the RDB ends after {taken}", self.addr);
                return Err(Error::Unsound(what));
            }
            Framing::Mark(mark) => {
                self.fill(mark.len()).await?;
                let found = &self.buffer[self.consumed..self.consumed + mark.len()];
                if found != mark {
                    return Err(Error::Unsound(format!("{}: the RDB does not end with the announced mark", self.addr)));
                }
                self.consumed += mark.len();
            }
        }
        Ok(taken)
    }

    /// The next bytes of the stream; what was received is acknowledged each second, also while nothing comes. The
    /// first acknowledgement after an RDB makes the source begin.
    ///
    /// Cancel-safe: bytes that were not handed out are handed out later.
    ///
    /// # Errors
    /// [`Error::Truncated`]: the source hung up or fell silent.
    pub async fn next(&mut self) -> Result<Chunk<'_>, Error> {
        let silent_at = Instant::now() + self.silence;
        while self.consumed == self.buffer.len() {
            let ack_at = self.acked + ACK_EVERY;
            tokio::select! {
                read = self.read_more() => read?,
                () = tokio::time::sleep_until(ack_at) => self.acknowledge().await?,
                () = tokio::time::sleep_until(silent_at) => return Err(self.silent()),
            }
        }
        if self.acked.elapsed() >= ACK_EVERY {
            self.acknowledge().await?;
        }
        let offset = self.offset;
        let from = std::mem::replace(&mut self.consumed, self.buffer.len());
        self.offset += (self.buffer.len() - from) as u64;
        Ok(Chunk { offset, bytes: &self.buffer[from..] })
    }

    /// `REPLCONF ACK`: everything handed out so far was received.
    ///
    /// # Errors
    /// [`Error::Truncated`]: the source hung up.
    pub async fn acknowledge(&mut self) -> Result<(), Error> {
        let mut request = Vec::new();
        encode(&mut request, &["REPLCONF", "ACK", &self.offset.to_string()]);
        self.acked = Instant::now();
        self.stream.write_all(&request).await.map_err(|error| self.broken(&error))
    }

    /// The next line that is not empty: newlines alone are a sign of life.
    async fn line(&mut self) -> Result<String, Error> {
        let limit = Instant::now() + BEGIN;
        let mut searched = 0;
        loop {
            let unread = &self.buffer[self.consumed..];
            match unread[searched..].iter().position(|&byte| byte == b'\n') {
                Some(at) if searched + at <= LONGEST_LINE => {
                    let line = String::from_utf8_lossy(&unread[..searched + at]).trim_end().to_owned();
                    self.consumed += searched + at + 1;
                    if !line.is_empty() {
                        return Ok(line);
                    }
                    searched = 0;
                }
                _ if unread.len() > LONGEST_LINE => return Err(self.strange("PSYNC", "a line without end")),
                _ if Instant::now() > limit => {
                    let minutes = BEGIN.as_secs() / 60;
                    return Err(Error::Truncated(format!("{} did not begin within {minutes} minutes", self.addr)));
                }
                _ => {
                    searched = unread.len();
                    self.fill(searched + 1).await?;
                }
            }
        }
    }

    /// Reads until at least `count` bytes are unconsumed.
    async fn fill(&mut self, count: usize) -> Result<(), Error> {
        while self.buffer.len() - self.consumed < count {
            match timeout(self.silence, self.read_more()).await {
                Ok(read) => read?,
                Err(_) => return Err(self.silent()),
            }
        }
        Ok(())
    }

    /// One read. Cancel-safe.
    async fn read_more(&mut self) -> Result<(), Error> {
        self.buffer.drain(..std::mem::take(&mut self.consumed));
        self.buffer.reserve(CHUNK);
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(0) => Err(Error::Truncated(format!("{} closed the connection before the end of the data", self.addr))),
            Ok(_) => Ok(()),
            Err(error) => Err(self.broken(&error)),
        }
    }

    fn broken(&self, error: &std::io::Error) -> Error {
        Error::Truncated(format!("the connection to {} broke before the end of the data: {error}", self.addr))
    }

    fn silent(&self) -> Error {
        Error::Truncated(format!(
            "{} sent nothing for {} s before the end of the data",
            self.addr,
            self.silence.as_secs()
        ))
    }

    fn strange(&self, what: &str, line: &str) -> Error {
        Error::Unavailable(format!("{} answers {what} with {line:?}, which is not the replication protocol", self.addr))
    }
}

/// How the source says where an RDB ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// It has so many bytes.
    Length(u64),
    /// These follow on it.
    Mark([u8; 40]),
}

/// `+FULLRESYNC <replid> <offset>`, or `+CONTINUE [<replid>]` where `asked` is the history that was asked for.
fn parse_begin(line: &str, asked: Option<&str>) -> Option<Begin> {
    let mut words = line.split_ascii_whitespace();
    match (words.next()?, words.next(), words.next()) {
        ("+FULLRESYNC", Some(replid), Some(offset)) if is_replid(replid) => {
            Some(Begin::Full { replid: replid.to_owned(), offset: number(offset)? })
        }
        ("+CONTINUE", Some(replid), None) if is_replid(replid) => Some(Begin::Continue { replid: replid.to_owned() }),
        ("+CONTINUE", None, None) => Some(Begin::Continue { replid: asked?.to_owned() }),
        _ => None,
    }
}

/// A count of bytes as Redis prints one: a `long long` that is not negative.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|&number| digits && i64::try_from(number).is_ok())
}

fn is_replid(word: &str) -> bool {
    word.len() == 40 && word.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// `$EOF:<40 bytes>` or `$<length>`.
fn parse_framing(line: &str) -> Option<Framing> {
    let rest = line.strip_prefix('$')?;
    match rest.strip_prefix("EOF:") {
        Some(mark) => Some(Framing::Mark(mark.as_bytes().try_into().ok()?)),
        None => Some(Framing::Length(number(rest)?)),
    }
}

/// An option that the source does not know is no failure; that we may not set any is.
async fn replconf(wire: &mut Wire, options: &[&str]) -> Result<(), String> {
    let request: Vec<&str> = std::iter::once("REPLCONF").chain(options.iter().copied()).collect();
    match wire.ask(&request).await.map_err(|error| format!("does not answer REPLCONF: {error}"))? {
        Reply::Error(text) if matches!(refusal::code(&text), b"NOPERM" | b"NOAUTH") => Err(refused("REPLCONF", &text)),
        _ => Ok(()),
    }
}

async fn within<T>(what: &str, limit: Duration, work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let too_long = |_| Err(format!("did not answer {what} within {} s", limit.as_secs()));
    timeout(limit, work).await.unwrap_or_else(too_long)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn both_answers_to_psync_are_read_and_nothing_else() {
        let full = Begin::Full { replid: ID.into(), offset: 14 };
        assert_eq!(parse_begin(&format!("+FULLRESYNC {ID} 14"), None), Some(full));
        let renamed = Begin::Continue { replid: ID.into() };
        assert_eq!(parse_begin(&format!("+CONTINUE {ID}"), Some("old")), Some(renamed));
        assert_eq!(parse_begin("+CONTINUE", Some("old")), Some(Begin::Continue { replid: "old".into() }));
        for line in ["+CONTINUE", "+FULLRESYNC", "+FULLRESYNC x 1", "+OK"] {
            assert_eq!(parse_begin(line, None), None, "{line}");
        }
        // No server counts so far, and whoever adds to it would count over.
        for offset in ["-1", "+1", "9223372036854775808", "18446744073709551615"] {
            assert_eq!(parse_begin(&format!("+FULLRESYNC {ID} {offset}"), None), None, "{offset}");
        }
    }

    #[test]
    fn an_rdb_is_announced_by_its_length_or_its_mark() {
        assert_eq!(parse_framing("$123"), Some(Framing::Length(123)));
        assert_eq!(parse_framing(&format!("$EOF:{ID}")), Some(Framing::Mark(ID.as_bytes().try_into().unwrap())));
        for line in ["$", "$-1", "$+1", "$18446744073709551615", "$EOF:short", "123", "+OK"] {
            assert_eq!(parse_framing(line), None, "{line}");
        }
    }

    /// What is refused is refused however it arrives.
    #[tokio::test]
    async fn a_line_without_end_is_no_answer() {
        let mut line = vec![b'+'; LONGEST_LINE + 1];
        line.push(b'\n');
        for size in [1, 1000, line.len()] {
            let (ours, mut theirs) = tokio::io::duplex(size);
            let sending = tokio::spawn({
                let line = line.clone();
                async move { theirs.write_all(&line).await }
            });
            let mut replica = Replica::over(([127, 0, 0, 1], 1).into(), ours, Vec::new());
            let refused = replica.line().await.unwrap_err().to_string();
            assert!(refused.contains("a line without end"), "pieces of {size}: {refused}");
            sending.abort();
        }
    }
}
