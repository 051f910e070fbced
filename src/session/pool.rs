//! Connections to the master that are ready before a session asks: fresh ones, dialled ahead as fast as sessions come,
//! and, where the user wants it, those of sessions that have ended, after a RESET.
//!
//! Thread-local, as sessions are. Only idle, fresh connections of just the [`Key`] that is asked for are lent: none of
//! another upstream, term, address or identity. What is lent is still as the server took it when it came: a RESET goes in
//! front of its first request (see [`RESET`]), so only a server that knows RESET gets connections ahead. Each takes a spare
//! descriptor while it is nobody's.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::core::{RESET, RESET_DONE};
use super::{Settings, Worker};
use crate::net::{Conn, Connector, Liveness, Taken};
use crate::upstream::{Upstream, UpstreamId};

/// How long a connection waits to be lent: far below what servers and firewalls call idle.
const LIFETIME: Duration = Duration::from_secs(5);
/// What is asked for within this time is what is kept ready: a few round trips to the master.
const WINDOW: Duration = Duration::from_millis(50);
/// One attempt to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A RESET that is not answered within this time is no success.
const RESET_TIMEOUT: Duration = Duration::from_secs(1);
thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool(Vec::new())) };
}

/// Where a connection leads and as whom it is logged in there: one is lent only to who wants just that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    upstream: UpstreamId,
    term: u64,
    addr: SocketAddr,
    identity: Identity,
}

/// As whom the server knows a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Identity {
    /// As one that has just connected, or was reset: the default user, or nobody until an AUTH.
    Fresh,
}

impl Key {
    /// Of connections as they are after connect or RESET.
    pub fn fresh(upstream: &Upstream, term: u64, addr: SocketAddr) -> Key {
        Key { upstream: upstream.id, term, addr, identity: Identity::Fresh }
    }
}

/// One shelf for each key in use: no more than an upstream has nodes that sessions ask for, in its newest term.
#[derive(Debug)]
struct Pool(Vec<Shelf>);

impl Pool {
    /// The shelf of this key; what leads to older masters of the same upstream is closed. `None` if the key itself is older.
    fn shelf(&mut self, key: Key) -> Option<&mut Shelf> {
        let newer = |shelf: &Shelf| shelf.key.upstream == key.upstream && shelf.key.term > key.term;
        if self.0.iter().any(newer) {
            return None;
        }
        self.0.retain(|shelf| shelf.key.upstream != key.upstream || shelf.key.term == key.term);
        let at = self.0.iter().position(|shelf| shelf.key == key).unwrap_or_else(|| {
            self.0.push(Shelf::new(key));
            self.0.len() - 1
        });
        self.0.get_mut(at)
    }

    /// The shelf of this key, if it is there.
    fn find(&mut self, key: Key) -> Option<&mut Shelf> {
        self.0.iter_mut().find(|shelf| shelf.key == key)
    }
}

/// The connections that may be lent for each other.
#[derive(Debug)]
struct Shelf {
    key: Key,
    /// Whether the server knows RESET, once it was asked.
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

impl Shelf {
    const fn new(key: Key) -> Shelf {
        Shelf {
            key,
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

    /// The newest connection that is as good as a new one.
    fn lend(&mut self, now: Instant) -> Option<Conn> {
        loop {
            let (conn, since, _) = self.ready.pop()?;
            if now.saturating_duration_since(since) < LIFETIME && conn.liveness() == Liveness::Clean {
                return Some(conn);
            }
        }
    }
}

/// Dials the master, with its socket's options set.
pub async fn dial(worker: &Worker, addr: SocketAddr) -> io::Result<Conn> {
    worker.counters.dials.add(1);
    let connected = Connector::lasting(CONNECT_TIMEOUT).connect(addr).await;
    if connected.is_err() {
        worker.counters.dial_failures.add(1);
    }
    connected
}

/// A connection of this key, if one is ready; dials ahead for the sessions to come. A RESET has to go in front of what is
/// sent there first.
pub fn take(worker: &Arc<Worker>, settings: &Settings, key: Key) -> Option<Conn> {
    if settings.warm_backends == 0 && !settings.reuse_backends {
        return None;
    }
    let now = Instant::now();
    let (taken, missing) = POOL.with_borrow_mut(|pool| {
        let shelf = pool.shelf(key).filter(|shelf| shelf.resets != Some(false))?;
        let wanted = shelf.note(now, settings.warm_backends);
        let taken = shelf.lend(now);
        let missing = wanted.saturating_sub(shelf.ready.len() + shelf.dialling);
        shelf.dialling += missing;
        Some((taken, missing))
    })?;
    for _ in 0..missing {
        tokio::spawn(dial_ahead(worker.clone(), key));
    }
    if taken.is_some() {
        worker.counters.warm.add(1);
    }
    taken
}

/// Makes one connection ready.
async fn dial_ahead(worker: Arc<Worker>, key: Key) {
    let dialled = async {
        let descriptor = worker.spare.take(1)?;
        let _turn = worker.dials.try_acquire().ok()?;
        let conn = dial(&worker, key.addr).await.ok()?;
        // One of them finds out for all.
        let is_known = POOL.with_borrow_mut(|pool| pool.find(key).is_some_and(|shelf| shelf.resets == Some(true)));
        let conn = if is_known { conn } else { reset(conn, key).await? };
        Some((conn, descriptor))
    };
    let dialled = dialled.await;
    // A shelf that has gone meanwhile counts from nothing if it comes back.
    POOL.with_borrow_mut(|pool| {
        pool.find(key).into_iter().for_each(|shelf| shelf.dialling = shelf.dialling.saturating_sub(1))
    });
    if let Some((conn, descriptor)) = dialled {
        put(conn, key, descriptor);
    }
}

/// Makes the connection of a session that has ended as good as new, and keeps it. Its client was the only one to use
/// it, and did nothing that RESET does not undo; anything but `+RESET` closes it, and so does a lack of descriptors.
pub async fn give_back(worker: &Worker, conn: Conn, term: u64) {
    let entry = worker.upstream.topology.current();
    let (Some(master), Some(descriptor)) = (entry.master.as_ref().filter(|_| entry.term == term), worker.spare.take(1))
    else {
        conn.set_zero_linger(); // nothing is owed on it
        return;
    };
    let key = Key::fresh(&worker.upstream, term, master.addr);
    if let Some(conn) = reset(conn, key).await {
        put(conn, key, descriptor);
    }
}

/// The connection, if it answers a RESET and says nothing else; notes for its shelf whether it does.
async fn reset(mut conn: Conn, key: Key) -> Option<Conn> {
    let mut reply = [0; RESET_DONE.len() + 1];
    let answer = async {
        conn.write_all(RESET).await?;
        let mut got = 0;
        while got < RESET_DONE.len() {
            match conn.read(&mut reply[got..]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => got += read,
            }
        }
        Ok::<_, io::Error>(got)
    };
    let got = timeout(RESET_TIMEOUT, answer).await.ok()?.ok()?;
    let is_reset = reply[..got] == *RESET_DONE;
    note_reset(&|shelf: &Shelf| shelf.key == key, is_reset);
    is_reset.then_some(conn)
}

/// The master of `term` has refused a RESET (before Redis 6.2, or renamed): it is dialled for each session.
pub fn refuses_reset(upstream: &Upstream, term: u64) {
    note_reset(&|shelf: &Shelf| shelf.key.upstream == upstream.id && shelf.key.term == term, false);
}

fn note_reset(of: &dyn Fn(&Shelf) -> bool, is_known: bool) {
    POOL.with_borrow_mut(|pool| {
        for shelf in pool.0.iter_mut().filter(|shelf| of(shelf)) {
            shelf.resets = Some(is_known && shelf.resets != Some(false));
        }
    });
}

fn put(conn: Conn, key: Key, descriptor: Taken) {
    let must_sweep = POOL.with_borrow_mut(|pool| {
        let Some(shelf) = pool.find(key) else { return false };
        shelf.ready.push((conn, Instant::now(), descriptor));
        !std::mem::replace(&mut shelf.is_swept, true)
    });
    if must_sweep {
        tokio::spawn(sweep(key));
    }
}

/// Closes what has waited too long on a shelf, until nothing waits there.
async fn sweep(key: Key) {
    let mut goes_on = true;
    while goes_on {
        tokio::time::sleep(LIFETIME / 5).await;
        goes_on = POOL.with_borrow_mut(|pool| {
            let Some(shelf) = pool.find(key) else { return false };
            let is_good =
                |conn: &Conn, since: &Instant| since.elapsed() < LIFETIME && conn.liveness() == Liveness::Clean;
            shelf.ready.retain(|(conn, since, _)| is_good(conn, since));
            shelf.is_swept = !shelf.ready.is_empty();
            shelf.is_swept
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{ListenAddr, Spare, bind};

    fn upstream() -> Arc<Upstream> {
        Upstream::new(None, None, false).0
    }

    #[test]
    fn what_is_kept_ready_follows_the_rate() {
        let key = Key::fresh(&upstream(), 1, ([127, 0, 0, 1], 1).into());
        let (mut shelf, start) = (Shelf::new(key), Instant::now());
        assert_eq!(shelf.note(start, 8), 1);
        for _ in 0..4 {
            shelf.note(start, 8);
        }
        assert_eq!(shelf.note(start + WINDOW * 3 / 2, 8), 5, "as many as in the window before");
        assert_eq!(shelf.note(start + WINDOW * 10, 8), 1, "nobody came for a while");
        for _ in 0..20 {
            shelf.note(start + WINDOW * 10, 8);
        }
        assert_eq!(shelf.note(start + WINDOW * 10, 8), 8, "bounded");
        assert_eq!(shelf.note(start + WINDOW * 10, 0), 0, "switched off");
    }

    #[tokio::test]
    async fn two_upstreams_at_the_same_term_and_address_never_lend_each_other_a_connection() {
        let bound = bind("127.0.0.1:0".parse().unwrap(), 1).unwrap().remove(0);
        let ListenAddr::Tcp(addr) = bound.addr().unwrap() else { unreachable!("bound to TCP") };
        let _listener = bound.listen().unwrap();
        let spare = Spare::new(2);
        let (one, other) = (upstream(), upstream());
        let (ones, others) = (Key::fresh(&one, 1, addr), Key::fresh(&other, 1, addr));
        let lend =
            |key| POOL.with_borrow_mut(|pool| pool.shelf(key)?.lend(Instant::now()).and_then(|conn| conn.local_addr()));
        let mut ports = Vec::new();
        for key in [ones, others] {
            assert_eq!(lend(key), None, "nothing was put there");
            let conn = Connector::DEFAULT.connect(addr).await.unwrap();
            ports.push(conn.local_addr());
            put(conn, key, spare.take(1).unwrap());
        }
        let beside = Key::fresh(&one, 1, ([127, 0, 0, 2], addr.port()).into());
        assert_eq!(lend(beside), None, "another address");
        assert_eq!(lend(others), ports[1]);
        assert_eq!(lend(others), None, "the one that is left is the other upstream's");
        let next = Key::fresh(&other, 2, addr);
        assert_eq!(lend(next), None, "another master");
        assert!(POOL.with_borrow_mut(|pool| pool.shelf(others).is_none()), "one that is not the master any more");
        assert_eq!(lend(ones), ports[0], "the other's failover closed nothing of this one's");
        assert!(spare.take(2).is_some(), "descriptors are given back");
    }
}
