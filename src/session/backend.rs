//! The way to the master: dial it, restore the session's state there, hand over the socket.
//!
//! Everything here happens before the first request flows; what it returns is a connection on which the next reply
//! belongs to the session's own requests.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use crate::net::Conn;
use crate::node::{auth, refusal};
use crate::resp::buffer::ReplyBuffer;
use crate::resp::reply::{NotAReply, announcement};
use crate::session::state::{Expect, Restore};
use crate::session::{Worker, pool};
use crate::topology::Report;

/// The master is there, but this session cannot get to it.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(15);
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// A reply to a request of a restoration, and what the server says unasked meanwhile.
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
    pub stream: Conn,
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
            Ok(stream) => match timeout_at(deadline, replay(stream, &restore, worker.upstream.label())).await {
                Ok(Ok(attached)) => {
                    if restore.loads_scripts() {
                        worker.upstream.scripts.loaded(term);
                    }
                    return Ok(attached);
                }
                Ok(Err(Refusal::Broken(error))) => error,
                Ok(Err(Refusal::NotNow(line))) => {
                    worker.upstream.topology.report(Report::Refused { term });
                    io::Error::other(line)
                }
                Ok(Err(Refusal::Auth(error))) => {
                    worker.upstream.topology.report(Report::AuthRefused { term, error: error.clone() });
                    return Err(AttachError::AuthRefused(error));
                }
                Ok(Err(Refusal::Other(line))) => return Err(AttachError::NotRestored(line)),
                Err(elapsed) => io::Error::from(elapsed),
            },
            Err(error) => error,
        };
        drop(turn);
        worker.upstream.topology.report(Report::DialFailed { term });
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

impl From<NotAReply> for Refusal {
    fn from(error: NotAReply) -> Refusal {
        Refusal::Broken(error.into())
    }
}

async fn replay(mut stream: Conn, restore: &Restore, master: &str) -> Result<Attached, Refusal> {
    let mut unasked = Vec::new();
    if restore.requests.is_empty() {
        return Ok(Attached { stream, unasked });
    }
    stream.write_all(&restore.requests).await?;
    let mut replies = ReplyBuffer::new(MOST_BYTES);
    let mut expected = restore.expect.iter();
    while let Some(expect) = expected.as_slice().first() {
        match replies.take()? {
            Some(reply) => match announcement(reply) {
                Some(kind) if !(*expect == Expect::Subscribed && kind.ends_with(b"subscribe")) => {
                    unasked.extend_from_slice(reply);
                }
                _ => {
                    check(*expect, reply, master)?;
                    expected.next();
                }
            },
            None => {
                if unasked.len() > MOST_BYTES || stream.read_buf(replies.room()?).await? == 0 {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                }
            }
        }
    }
    unasked.extend_from_slice(&replies.into_rest());
    Ok(Attached { stream, unasked })
}

fn check(expect: Expect, reply: &[u8], master: &str) -> Result<(), Refusal> {
    let is_error = reply.first() == Some(&b'-');
    let line = || String::from_utf8_lossy(reply.trim_ascii_end()).into_owned();
    if is_error && refusal::is_passing(reply) {
        return Err(Refusal::NotNow(line()));
    }
    match expect {
        Expect::Anything | Expect::Loaded => Ok(()),
        Expect::Queued if reply == b"+QUEUED\r\n" => Ok(()),
        Expect::Queued => Err(Refusal::Other(line())),
        Expect::Authenticated if auth::is_not_needed(reply) => {
            ::metrics::counter!(crate::metrics::AUTH_NOT_NEEDED, "master" => master.to_owned()).increment(1);
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
