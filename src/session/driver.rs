//! One client's task: its two sockets, its wakers and its counters, around a [`Core`] that decides everything.
//!
//! The future is the session itself and little more: it is what an idle client costs. No request is handed to the core
//! but with the topology's generation as of just then.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::attach::Attached;
use super::core::{Core, Counts, Held, Parting, Settings, Sight, Turn};
use super::registry::{self, Ticket};
use super::{CloseReason, Worker, pool};
use crate::drain::Stage;
use crate::metrics;
use crate::net::{Conn, Pipe, Scratch};

mod polled;

use polled::Polled;

/// How long a client that we close may take to notice.
const LINGER: Duration = Duration::from_secs(2);
/// The same in a drain, which is to end soon: long enough to read what crosses our FIN.
const DRAIN_LINGER: Duration = Duration::from_millis(250);

/// Serves one client until its session ends, and counts why it did; then drops `held`.
pub fn serve<H: Send + 'static>(client: Conn, worker: Arc<Worker>, held: H) -> impl Future<Output = ()> + Send {
    let mut session = Session::new(client, worker);
    async move {
        let _held = &held;
        let reason = poll_fn(|cx| session.poll(cx)).await;
        let worker = session.worker.clone();
        let term = session.core.term();
        let given_back = session.leave_backend(reason);
        // A client that said QUIT may have sent more behind it: unread, that would make of our FIN a reset.
        if !(reason == CloseReason::ClientClosed && session.core.client_has_left()) {
            session.sockets.client.discard_unread();
            let limit = if reason == CloseReason::Drained { DRAIN_LINGER } else { LINGER };
            Box::pin(linger(&mut session.sockets.client, limit)).await;
        }
        drop(session);
        if let Some(conn) = given_back {
            Box::pin(pool::give_back(&worker, conn, term)).await;
        }
        worker.counters.close(reason);
    }
}

/// Closes with FIN, never RST: clients read a reset as a hung or half-written request. What the client still sends is
/// read until it closes too, for at most `limit`.
pub async fn linger(client: &mut Conn, limit: Duration) {
    let mut rest = [0; 512];
    client.shutdown();
    let gone = async { while matches!(poll_fn(|cx| client.poll_read(cx, &mut rest)).await, Ok(1..)) {} };
    let _ = tokio::time::timeout(limit, gone).await;
}

struct Session {
    sockets: Sockets,
    core: Core,
    worker: Arc<Worker>,
    /// Those of the worker when the topology was looked at last.
    settings: Arc<Settings>,
}

struct Sockets {
    client: Conn,
    backend: Backend,
    /// Bytes of a large value on their way to the client.
    pipe: Option<Box<Pipe>>,
    ticket: Option<Ticket>,
    /// What the session holds in memory.
    held: Held,
}

enum Backend {
    None,
    Attaching(Attaching),
    Up(Conn),
}

type Attaching = Pin<Box<dyn Future<Output = Result<Attached, CloseReason>> + Send>>;

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Backend::None => "None",
            Backend::Attaching(_) => "Attaching",
            Backend::Up(_) => "Up",
        })
    }
}

impl Session {
    fn new(client: Conn, worker: Arc<Worker>) -> Session {
        let entry = worker.upstream.topology.current();
        let settings = worker.settings.borrow().clone();
        let core = Core::new(&entry, &turn(&worker, &settings, Instant::now(), false));
        let sockets = Sockets { client, backend: Backend::None, pipe: None, ticket: None, held: Held::default() };
        Session { sockets, core, worker, settings }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        if self.worker.stage() == Stage::Cutting {
            return Poll::Ready(CloseReason::Drained);
        }
        let Session { sockets, core, worker, settings } = self;
        sockets.ticket.get_or_insert_with(|| Ticket::new(cx.waker().clone()));
        let now = Instant::now();
        let is_unwatched = worker.upstream.topology.is_unwatched(now);
        let mut poll = Polled {
            sockets,
            core,
            worker,
            turn: turn(worker, settings, now, is_unwatched),
            settings,
            is_unwatched,
            scratch: Scratch::take(),
            is_clear: false,
            client_dry: false,
            backend_dry: false,
        };
        let polled = poll.take_turns(cx);
        poll.count();
        sockets.held.set(core.held_bytes());
        polled
    }

    /// Closes the backend with the session, unless a RESET makes it as good as new.
    fn leave_backend(&mut self, reason: CloseReason) -> Option<Conn> {
        let Backend::Up(conn) = std::mem::replace(&mut self.sockets.backend, Backend::None) else { return None };
        if reason != CloseReason::ClientClosed {
            return None;
        }
        match self.core.parting(&turn(&self.worker, &self.settings, Instant::now(), false)) {
            Parting::GiveBack => return Some(conn),
            Parting::Reset => conn.set_zero_linger(),
            Parting::Close => {}
        }
        None
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(since) = self.core.held_since() {
            note_held(&self.worker, since.elapsed());
        }
    }
}

fn turn<'a>(worker: &'a Worker, settings: &Settings, now: Instant, is_unwatched: bool) -> Turn<'a> {
    Turn {
        now,
        sight: Sight::new(worker.upstream.topology.generation(), is_unwatched),
        stage: worker.stage(),
        sample: worker.upstream.topology.samples(),
        idle_ticks: registry::idle_ticks(),
        settings: *settings,
        scripts: &worker.upstream.scripts,
        credentials: &worker.upstream.credentials,
        counts: Counts::default(),
        actions: Vec::new(),
    }
}

fn note_held(worker: &Worker, time: Duration) {
    worker.counters.released.add(1);
    let master = worker.upstream.label().to_owned();
    ::metrics::histogram!(metrics::HOLD_SECONDS, "master" => master).record(time);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_result<A, B, C, R>(_: fn(A, B, C) -> R) -> usize {
        size_of::<R>()
    }

    #[test]
    fn an_idle_session_is_small() {
        // With what tokio adds it is 512, four of the pairs of cache lines to which tokio aligns a task.
        let size = size_of_result(serve::<[usize; 2]>);
        assert!(size <= 432, "{size} bytes");
    }
}
