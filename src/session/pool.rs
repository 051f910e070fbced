//! Connections to the master that are ready before a session asks: fresh ones, dialled ahead as fast as sessions come,
//! and, where the user wants it, those of sessions that have ended, after a RESET.
//!
//! Thread-local, as sessions are. Nothing is lent that has anything to read, is old, or is of another term. What is lent
//! is still as the server took it when it came: a RESET goes in front of its first request (see [`RESET`]), so only a
//! server that knows RESET gets connections ahead. Each takes a spare descriptor while it is nobody's.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::Worker;
use super::core::{RESET, RESET_DONE};
use crate::net::{Conn, Connector, Liveness, Spare, Taken};

/// How long a connection waits to be lent: far below what servers and firewalls call idle.
const LIFETIME: Duration = Duration::from_secs(5);
/// What is asked for within this time is what is kept ready: a few round trips to the master.
const WINDOW: Duration = Duration::from_millis(50);
/// One attempt to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A RESET that is not answered within this time is no success.
const RESET_TIMEOUT: Duration = Duration::from_secs(1);

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool::new()) };
}

#[derive(Debug)]
struct Pool {
    /// Of the master that `ready` leads to.
    term: u64,
    /// Whether that master knows RESET, once it was asked.
    resets: Option<bool>,
    /// The newest is last, and lent first.
    ready: Vec<(Conn, Instant, Taken)>,
    /// Under way.
    dialling: usize,
    /// Sessions that asked in this window and in the one before.
    asked: usize,
    asked_before: usize,
    window: Option<Instant>,
    /// A task closes what gets old.
    is_swept: bool,
}

impl Pool {
    const fn new() -> Pool {
        Pool {
            term: 0,
            resets: None,
            ready: Vec::new(),
            dialling: 0,
            asked: 0,
            asked_before: 0,
            window: None,
            is_swept: false,
        }
    }

    /// Notes that a session asked; returns how many connections should be ready.
    fn note(&mut self, now: Instant, most: usize) -> usize {
        let passed = self.window.map_or(Duration::MAX, |since| now.saturating_duration_since(since));
        if passed > WINDOW {
            self.asked_before = if passed > 2 * WINDOW { 0 } else { self.asked };
            (self.asked, self.window) = (0, Some(now));
        }
        self.asked += 1;
        self.asked.max(self.asked_before).min(most)
    }

    fn enter(&mut self, term: u64) {
        if self.term != term {
            self.ready.clear();
            (self.term, self.resets) = (term, None);
        }
    }
}

/// Dials the master, with its socket's options set.
pub async fn dial(worker: &Worker, addr: SocketAddr) -> io::Result<Conn> {
    worker.relay.dials.add(1);
    let connected = Connector::lasting(CONNECT_TIMEOUT).connect(addr).await;
    if connected.is_err() {
        worker.relay.dial_failures.add(1);
    }
    connected
}

/// A connection to the master of `term` at `addr`, if one is ready; dials ahead for the sessions to come. A RESET has to
/// go in front of what is sent there first.
pub fn take(worker: &Arc<Worker>, term: u64, addr: SocketAddr) -> Option<Conn> {
    if worker.warm_backends == 0 && !worker.settings.reuse_backends {
        return None;
    }
    let now = Instant::now();
    let (taken, missing) = POOL.with_borrow_mut(|pool| {
        pool.enter(term);
        if pool.resets == Some(false) {
            return (None, 0);
        }
        let wanted = pool.note(now, worker.warm_backends);
        let taken = loop {
            let Some((stream, since, _)) = pool.ready.pop() else { break None };
            if now.saturating_duration_since(since) < LIFETIME && stream.liveness() == Liveness::Clean {
                break Some(stream);
            }
        };
        let missing = wanted.saturating_sub(pool.ready.len() + pool.dialling);
        pool.dialling += missing;
        (taken, missing)
    });
    for _ in 0..missing {
        let worker = worker.clone();
        tokio::spawn(async move {
            let dialled = async {
                let descriptor = worker.spare.take(1)?;
                let _turn = worker.dials.try_acquire().ok()?;
                let stream = dial(&worker, addr).await.ok()?;
                // One of them finds out for all.
                let is_known = POOL.with_borrow(|pool| pool.term == term && pool.resets == Some(true));
                let stream = if is_known { stream } else { reset(stream, term).await? };
                Some((stream, descriptor))
            };
            let dialled = dialled.await;
            POOL.with_borrow_mut(|pool| pool.dialling -= 1);
            if let Some((stream, descriptor)) = dialled {
                put(stream, term, descriptor);
            }
        });
    }
    if taken.is_some() {
        worker.relay.warm.add(1);
    }
    taken
}

/// Makes the connection of a session that has ended as good as new, and keeps it. Its client was the only one to use
/// it, and did nothing that RESET does not undo; anything but `+RESET` closes it, and so does the want of a descriptor.
pub async fn give_back(spare: &Arc<Spare>, stream: Conn, term: u64) {
    let Some(descriptor) = spare.take(1) else {
        stream.set_zero_linger(); // nothing is owed on it
        return;
    };
    if let Some(stream) = reset(stream, term).await {
        put(stream, term, descriptor);
    }
}

/// The connection, if it answers a RESET and says nothing else; notes for the term whether it does.
async fn reset(mut stream: Conn, term: u64) -> Option<Conn> {
    let mut reply = [0; RESET_DONE.len() + 1];
    let answer = async {
        stream.write_all(RESET).await?;
        let mut got = 0;
        while got < RESET_DONE.len() {
            match stream.read(&mut reply[got..]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => got += read,
            }
        }
        Ok::<_, io::Error>(got)
    };
    let got = timeout(RESET_TIMEOUT, answer).await.ok()?.ok()?;
    let is_reset = reply[..got] == *RESET_DONE;
    note_reset(term, is_reset);
    is_reset.then_some(stream)
}

/// The master of `term` has answered a RESET, or refused it. One that refuses it (before Redis 6.2, or renamed) is dialled
/// for each session.
pub fn note_reset(term: u64, is_known: bool) {
    POOL.with_borrow_mut(|pool| {
        if pool.term == term {
            pool.resets = Some(is_known && pool.resets != Some(false));
        }
    });
}

fn put(stream: Conn, term: u64, descriptor: Taken) {
    let must_sweep = POOL.with_borrow_mut(|pool| {
        if pool.term == term {
            pool.ready.push((stream, Instant::now(), descriptor));
        }
        !std::mem::replace(&mut pool.is_swept, true)
    });
    if must_sweep {
        tokio::spawn(sweep());
    }
}

/// Closes what has waited too long, until nothing waits.
async fn sweep() {
    loop {
        tokio::time::sleep(LIFETIME / 5).await;
        let is_empty = POOL.with_borrow_mut(|pool| {
            pool.ready.retain(|(stream, since, _)| since.elapsed() < LIFETIME && stream.liveness() == Liveness::Clean);
            pool.is_swept = !pool.ready.is_empty();
            pool.ready.is_empty()
        });
        if is_empty {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_ready_follows_the_rate() {
        let (mut pool, start) = (Pool::new(), Instant::now());
        assert_eq!(pool.note(start, 8), 1);
        for _ in 0..4 {
            pool.note(start, 8);
        }
        assert_eq!(pool.note(start + WINDOW * 3 / 2, 8), 5, "as many as in the window before");
        assert_eq!(pool.note(start + WINDOW * 10, 8), 1, "nobody came for a while");
        for _ in 0..20 {
            pool.note(start + WINDOW * 10, 8);
        }
        assert_eq!(pool.note(start + WINDOW * 10, 8), 8, "bounded");
        assert_eq!(pool.note(start + WINDOW * 10, 0), 0, "switched off");
    }
}
