//! The way to the master: dial it, restore the session's state there, hand over the socket.
//!
//! Everything here happens before the first request flows; what it returns is a connection on which the next reply
//! belongs to the session's own requests.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::resp::scanner::{ReplyScanner, Scan};
use crate::session::Worker;
use crate::session::state::{Expect, Restore};
use crate::socket;
use crate::topology::Report;

/// One attempt to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The master is there, but this session cannot get to it.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(15);
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// A reply to a restored request is never longer than this (HELLO's is the longest).
const LONGEST_REPLY: usize = 64 * 1024;

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

/// Dials `addr` and restores the state there, again and again until the deadline.
pub async fn attach(
    worker: Arc<Worker>,
    addr: SocketAddr,
    term: u64,
    restore: Restore,
) -> Result<TcpStream, AttachError> {
    let deadline = Instant::now() + ATTACH_TIMEOUT;
    let mut pause = FIRST_PAUSE;
    loop {
        let attempt = async {
            let _turn = worker.dials.acquire().await;
            let stream = timeout_at(Instant::now() + CONNECT_TIMEOUT, TcpStream::connect(addr)).await??;
            socket::tune(&SockRef::from(&stream))?;
            Ok::<_, io::Error>(stream)
        };
        let error = match attempt.await {
            Ok(stream) => match timeout_at(deadline, replay(stream, &restore)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(Refusal::Broken(error))) => error,
                Ok(Err(Refusal::NotNow(line))) => {
                    worker.topology.report(Report::Refused { term, prefix: line.clone() });
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
        worker.topology.report(Report::DialFailed { term, error: error.to_string() });
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

async fn replay(mut stream: TcpStream, restore: &Restore) -> Result<TcpStream, Refusal> {
    if restore.expect.is_empty() {
        return Ok(stream);
    }
    stream.write_all(&restore.requests).await?;
    let mut scanner = ReplyScanner::default();
    let (mut buffer, mut start, mut scanned) = (Vec::with_capacity(1024), 0, 0);
    for expect in &restore.expect {
        let reply = loop {
            match scanner.scan(&buffer[scanned..]) {
                Scan::Frame(length) => {
                    let end = scanned + length;
                    let reply = start..end;
                    (start, scanned) = (end, end);
                    break reply;
                }
                Scan::Partial => scanned = buffer.len(),
                Scan::Invalid(why) => return Err(io::Error::new(io::ErrorKind::InvalidData, why).into()),
            }
            if buffer.len() - start > LONGEST_REPLY || stream.read_buf(&mut buffer).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        };
        check(*expect, &buffer[reply])?;
    }
    Ok(stream)
}

fn check(expect: Expect, reply: &[u8]) -> Result<(), Refusal> {
    let is_error = reply.first() == Some(&b'-');
    let line = || String::from_utf8_lossy(reply.trim_ascii_end()).into_owned();
    if is_error && [&b"-LOADING"[..], b"-MASTERDOWN", b"-READONLY"].iter().any(|word| reply.starts_with(word)) {
        return Err(Refusal::NotNow(line()));
    }
    match expect {
        Expect::Anything => Ok(()),
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
        Expect::Accepted if is_error => Err(Refusal::Other(line())),
        Expect::Authenticated | Expect::Accepted => Ok(()),
    }
}

/// The node has no password at all: it takes everybody (acl.c, `addAuthErrReply`'s neighbour in authCommand).
pub fn has_no_password(reply: &[u8]) -> bool {
    reply.starts_with(b"-ERR AUTH <password> called without any password configured")
}
