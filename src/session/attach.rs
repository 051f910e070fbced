//! The way to the master: dial it, restore the session's state there, hand over the connection.
//!
//! What has to be said and heard there is `core::restoration`'s; this is the socket, the clock and the next attempt.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use super::core::restoration::{Progress, Refusal, Restoration};
use super::core::state::Restore;
use super::{CloseReason, Worker, pool};
use crate::net::Conn;
use crate::topology::Report;

/// The master is there, but this session cannot get to it.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(15);
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// A backend in the session's state.
#[derive(Debug)]
pub struct Attached {
    /// The connection.
    pub conn: Conn,
    /// What the server said unasked meanwhile: messages of restored subscriptions. For the client.
    pub unasked: Vec<u8>,
}

/// Dials `addr` and restores the state there, again and again until the deadline. Errors say how the session ends: the
/// master is there and not to be reached, or has refused the credentials, or something else that the state needs.
pub async fn attach(
    worker: Arc<Worker>,
    addr: SocketAddr,
    term: u64,
    restore: Restore,
) -> Result<Attached, CloseReason> {
    let deadline = Instant::now() + ATTACH_TIMEOUT;
    let topology = &worker.upstream.topology;
    let mut pause = FIRST_PAUSE;
    loop {
        // Held until the node has answered: a connection that it has not accepted yet fills its backlog.
        let turn = worker.dials.acquire().await;
        if let Ok(conn) = pool::dial(&worker, addr).await {
            match timeout_at(deadline, converse(&worker, conn, &restore)).await {
                Ok(Ok(attached)) => {
                    if restore.loads_scripts() {
                        worker.upstream.scripts.loaded(term);
                    }
                    return Ok(attached);
                }
                Ok(Err(Failure::Refused(Refusal::NotNow))) => topology.report(Report::Refused { term }),
                Ok(Err(Failure::Refused(Refusal::Auth(error)))) => {
                    topology.report(Report::AuthRefused { term, error });
                    return Err(CloseReason::AuthRefused);
                }
                Ok(Err(Failure::Refused(Refusal::Other))) => return Err(CloseReason::NotRestored),
                Ok(Err(Failure::Io | Failure::Refused(Refusal::Broken))) | Err(_) => {}
            }
        }
        drop(turn);
        topology.report(Report::DialFailed { term });
        if Instant::now() + pause > deadline {
            return Err(CloseReason::Unreachable);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Why a connection is not the client's.
enum Failure {
    Io,
    Refused(Refusal),
}

impl From<io::Error> for Failure {
    fn from(_: io::Error) -> Failure {
        Failure::Io
    }
}

async fn converse(worker: &Worker, mut conn: Conn, restore: &Restore) -> Result<Attached, Failure> {
    let mut restoration = Restoration::new(restore);
    if !restore.requests.is_empty() {
        conn.write_all(&restore.requests).await?;
    }
    let mut buffer = Vec::new();
    loop {
        let progress = restoration.take(&buffer).map_err(Failure::Refused)?;
        if let Progress::Done(unasked) = progress {
            note_not_needed(worker, restoration.auth_not_needed);
            return Ok(Attached { conn, unasked });
        }
        buffer.clear();
        if conn.read_buf(&mut buffer).await? == 0 {
            return Err(Failure::Io);
        }
    }
}

/// AUTHs that the node did not need.
pub(super) fn note_not_needed(worker: &Worker, count: u64) {
    if count > 0 {
        let master = worker.upstream.label().to_owned();
        ::metrics::counter!(crate::metrics::AUTH_NOT_NEEDED, "master" => master).increment(count);
    }
}
