//! The way to the master: dial it, restore the session's state there, hand over the socket.
//!
//! Everything here happens before the first request flows; what it returns is a connection on which the next reply
//! belongs to the session's own requests.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::resp::scanner::{ReplyScanner, Scan};
use crate::session::state::{Expect, Restore};
use crate::session::{Worker, pool};
use crate::topology::Report;

/// The master is there, but this session cannot get to it.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(15);
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// All replies to the requests of a restoration together, and what the server says unasked meanwhile.
const MOST_BYTES: usize = 4 * 1024 * 1024;

/// Why no backend could be had.
#[derive(Debug)]
pub enum AttachError {
    /// It did not answer in time, try after try.
    Unreachable(io::Error),
    /// It refused the client's credentials: its line.
    AuthRefused(String),
    /// It refused something else that the client's state needs: its line.
    NotRestored(String),
}

/// A backend in the session's state.
#[derive(Debug)]
pub struct Attached {
    /// The connection.
    pub stream: TcpStream,
    /// What the server said unasked meanwhile: messages of restored subscriptions. For the client.
    pub unasked: Vec<u8>,
}

/// Dials `addr` and restores the state there, again and again until the deadline.
pub async fn attach(
    worker: Arc<Worker>,
    addr: SocketAddr,
    term: u64,
    restore: Restore,
) -> Result<Attached, AttachError> {
    let deadline = Instant::now() + ATTACH_TIMEOUT;
    let mut pause = FIRST_PAUSE;
    loop {
        // Held until the node has answered: a connection that it has not accepted yet fills its backlog.
        let turn = worker.dials.acquire().await;
        let error = match pool::dial(&worker, addr).await {
            Ok(stream) => match timeout_at(deadline, replay(stream, &restore)).await {
                Ok(Ok(attached)) => {
                    if restore.loads_scripts() {
                        worker.scripts.loaded(term);
                    }
                    return Ok(attached);
                }
                Ok(Err(Refusal::Broken(error))) => error,
                Ok(Err(Refusal::NotNow(line))) => {
                    worker.topology.report(Report::Refused { term });
                    io::Error::other(line)
                }
                Ok(Err(Refusal::Auth(error))) => {
                    worker.topology.report(Report::AuthRefused { term, error: error.clone() });
                    return Err(AttachError::AuthRefused(error));
                }
                Ok(Err(Refusal::Other(line))) => return Err(AttachError::NotRestored(line)),
                Err(elapsed) => io::Error::from(elapsed),
            },
            Err(error) => error,
        };
        drop(turn);
        worker.topology.report(Report::DialFailed { term });
        if Instant::now() + pause > deadline {
            return Err(AttachError::Unreachable(error));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

enum Refusal {
    Broken(io::Error),
    NotNow(String),
    Auth(String),
    Other(String),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Refusal {
        Refusal::Broken(error)
    }
}

async fn replay(mut stream: TcpStream, restore: &Restore) -> Result<Attached, Refusal> {
    let mut unasked = Vec::new();
    if restore.requests.is_empty() {
        return Ok(Attached { stream, unasked });
    }
    stream.write_all(&restore.requests).await?;
    let mut scanner = ReplyScanner::default();
    let (mut buffer, mut start, mut scanned) = (Vec::with_capacity(1024), 0, 0);
    let mut expected = restore.expect.iter();
    while let Some(expect) = expected.as_slice().first() {
        match scanner.scan(&buffer[scanned..]) {
            Scan::Frame(length) => {
                scanned += length;
                let reply = &buffer[start..scanned];
                start = scanned;
                match announcement(reply) {
                    Some(word) if !(*expect == Expect::Subscribed && word.ends_with(b"subscribe")) => {
                        unasked.extend_from_slice(reply);
                    }
                    _ => {
                        check(*expect, reply)?;
                        expected.next();
                    }
                }
                continue;
            }
            Scan::Partial => scanned = buffer.len(),
            Scan::Invalid(why) => return Err(io::Error::new(io::ErrorKind::InvalidData, why).into()),
        }
        if buffer.len() > MOST_BYTES || stream.read_buf(&mut buffer).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    }
    unasked.extend_from_slice(&buffer[start..]);
    Ok(Attached { stream, unasked })
}

/// The first word of a push, or of what RESP2 sends to subscribers in the shape of a reply; `None` for a reply.
pub fn announcement(frame: &[u8]) -> Option<&[u8]> {
    let word = element(frame, 0)?;
    let is_push = frame.first() == Some(&b'>');
    let is_pubsub = matches!(word, b"message" | b"pmessage" | b"smessage") || word.ends_with(b"subscribe");
    (is_push || is_pubsub).then_some(word)
}

/// The bulk string at `index` of a flat array or push; also of its whole beginning, if that is all there is.
pub fn element(frame: &[u8], index: usize) -> Option<&[u8]> {
    let mut rest = frame.strip_prefix(b"*").or_else(|| frame.strip_prefix(b">"))?;
    rest = &rest[rest.iter().position(|byte| *byte == b'\n')? + 1..];
    for at in 0.. {
        let end = rest.iter().position(|byte| *byte == b'\r')?;
        let length: usize = std::str::from_utf8(rest.get(1..end)?).ok()?.parse().ok()?;
        if rest.first() != Some(&b'$') {
            return None;
        }
        let body = rest.get(end + 2..)?;
        if at == index {
            return body.get(..length);
        }
        rest = body.get(length + 2..)?;
    }
    None
}

fn check(expect: Expect, reply: &[u8]) -> Result<(), Refusal> {
    let is_error = reply.first() == Some(&b'-');
    let line = || String::from_utf8_lossy(reply.trim_ascii_end()).into_owned();
    if is_error && [&b"-LOADING"[..], b"-MASTERDOWN", b"-READONLY"].iter().any(|word| reply.starts_with(word)) {
        return Err(Refusal::NotNow(line()));
    }
    match expect {
        Expect::Anything | Expect::Loaded => Ok(()),
        Expect::Queued if reply == b"+QUEUED\r\n" => Ok(()),
        Expect::Queued => Err(Refusal::Other(line())),
        Expect::Authenticated if has_no_password(reply) => {
            ::metrics::counter!(crate::metrics::AUTH_NOT_NEEDED).increment(1);
            Ok(())
        }
        Expect::Authenticated if is_error => Err(Refusal::Auth(line())),
        Expect::Accepted if reply.starts_with(b"-NOPERM") || reply.starts_with(b"-NOAUTH") => {
            Err(Refusal::Auth(line()))
        }
        Expect::Accepted | Expect::Subscribed if is_error => Err(Refusal::Other(line())),
        Expect::Authenticated | Expect::Accepted | Expect::Subscribed => Ok(()),
    }
}

/// The node has no password at all: it takes everybody (Redis 7.0 acl.c, authCommand).
pub fn has_no_password(reply: &[u8]) -> bool {
    reply.starts_with(b"-ERR AUTH <password> called without any password configured")
}
