//! One poll of a session: turns of everything, until nothing moves.
//!
//! A turn looks at the topology, moves replies, attaches, moves requests. One in which bytes only pass asks the sockets
//! alone.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use super::{Backend, Sockets, note_held};
use crate::net::{Conn, LEAST_SPLICED, Pipe, Scratch};
use crate::session::attach::{self, Attached};
use crate::session::core::outbox::Outbox;
use crate::session::core::{Action, Core, Counts, Hear, Parting, Settings, Sight, Turn};
use crate::session::pool::Key;
use crate::session::registry::Ticket;
use crate::session::{CloseReason, Worker, pool, refused, unblock};
use crate::topology::Topology;

/// Turns before other sessions get theirs.
const TURNS: usize = 16;

/// One poll of a session.
pub(super) struct Polled<'a> {
    pub(super) sockets: &'a mut Sockets,
    pub(super) core: &'a mut Core,
    pub(super) worker: &'a Arc<Worker>,
    pub(super) turn: Turn<'a>,
    pub(super) settings: &'a mut Arc<Settings>,
    pub(super) is_unwatched: bool,
    pub(super) scratch: Scratch,
    /// Of the core, as far as it can be seen from outside: nothing has come in this turn but what only passes.
    pub(super) is_clear: bool,
    /// There was nothing to read: the socket wakes this session, and need not be asked again in this poll.
    pub(super) client_dry: bool,
    pub(super) backend_dry: bool,
}

impl<'a> Polled<'a> {
    pub(super) fn take_turns(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        for _ in 0..TURNS {
            match self.take_turn(cx) {
                Ok(true) => {}
                Ok(false) => {
                    let drained = self.core.drain(&mut self.turn, self.client_dry);
                    self.core.note_hold(&mut self.turn);
                    self.carry_out();
                    if let Err(reason) = drained {
                        return Poll::Ready(reason);
                    }
                    if let Some(ticket) = &self.sockets.ticket {
                        ticket.set_urgency(self.core.urgency());
                    }
                    return Poll::Pending;
                }
                Err(reason) => {
                    self.carry_out();
                    return Poll::Ready(reason);
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// One turn of everything; true when something moved.
    fn take_turn(&mut self, cx: &mut Context<'_>) -> Result<bool, CloseReason> {
        self.look();
        self.is_clear = self.core.is_clear(&self.turn);
        if self.is_clear {
            return self.pass(cx);
        }
        self.observe(cx)?;
        let replied = self.pump_replies(cx)?;
        let attached = self.attach(cx)?;
        Ok(replied | attached | self.pump_requests(cx)?)
    }

    /// A turn in which bytes pass and nothing else is to be done: what there is in each direction, and a look whether
    /// there is more, so that nothing is asked but the sockets.
    fn pass(&mut self, cx: &mut Context<'_>) -> Result<bool, CloseReason> {
        for _ in 0..2 {
            if self.is_clear && !self.backend_dry {
                self.read_backend(cx)?;
            }
        }
        for _ in 0..2 {
            if self.is_clear && self.backend_dry && !self.client_dry {
                self.read_client(cx, usize::MAX)?;
            }
        }
        Ok(!(self.is_clear && self.backend_dry && self.client_dry))
    }

    fn topology(&self) -> &'a Topology {
        &self.worker.upstream.topology
    }

    /// Looks once more at what may have risen since: the generation, and the number of the last sample.
    #[inline]
    fn look(&mut self) {
        self.turn.sight = Sight::new(self.topology().generation(), self.is_unwatched);
        self.turn.sample = self.topology().samples();
    }

    fn observe(&mut self, cx: &mut Context<'_>) -> Result<(), CloseReason> {
        self.core.note_idle(&mut self.turn);
        self.carry_out();
        if !self.core.must_observe(&self.turn) {
            return Ok(());
        }
        // Read before the entry: what is proven of the next master proves nothing of this one.
        let proof = self.topology().proof();
        let entry = self.topology().current();
        self.turn.sight = Sight::new(entry.generation, self.is_unwatched);
        if !self.core.has_seen(self.turn.sight) {
            // Whoever replaces them has the entry published again.
            self.settings.clone_from(&self.worker.settings.borrow());
            self.turn.settings = **self.settings;
        }
        let mut is_heard = true;
        if self.core.hears_out(&entry) {
            self.backend_dry = false;
            for _ in 0..TURNS {
                if !self.pump_replies(cx)? {
                    break;
                }
            }
            is_heard = self.backend_dry;
        }
        let observed = self.core.observe(&mut self.turn, &entry, proof, is_heard);
        self.carry_out();
        observed
    }

    /// Makes a backend when there is something to send and somewhere to send it.
    fn attach(&mut self, cx: &mut Context<'_>) -> Result<bool, CloseReason> {
        if self.core.wants_backend() {
            let entry = self.topology().current();
            let sight = Sight::new(entry.generation, self.is_unwatched);
            let Some(master) = entry.master.as_ref().filter(|_| self.core.has_seen(sight)) else {
                cx.waker().wake_by_ref(); // just changed: look again
                return Ok(false);
            };
            self.core.attach(&mut self.turn, master.addr);
            self.carry_out();
            if self.core.has_backend() {
                return Ok(true);
            }
        }
        let Backend::Attaching(attaching) = &mut self.sockets.backend else { return Ok(false) };
        let Poll::Ready(attached) = attaching.as_mut().poll(cx) else { return Ok(false) };
        let Attached { conn, unasked } = match attached {
            Ok(attached) => attached,
            Err(reason) => {
                self.sockets.backend = Backend::None;
                return self.core.not_attached(reason).map(|()| false);
            }
        };
        self.sockets.backend = Backend::Up(conn);
        self.backend_dry = false;
        self.core.attached(false);
        if !unasked.is_empty() {
            let end = self.core.backend_bytes(&mut self.turn, &unasked);
            self.core.to_client().push(&unasked[..end]);
            self.carry_out();
        }
        Ok(true)
    }

    /// Backend to client.
    fn pump_replies(&mut self, cx: &mut Context<'_>) -> Result<bool, CloseReason> {
        if !self.flush_to_client(cx)? {
            return Ok(false);
        }
        if self.backend_dry && !self.core.has_answers() {
            return Ok(false);
        }
        let mut moved = self.core.deliver(&mut self.turn);
        if moved {
            self.flush_to_client(cx)?;
            self.carry_out();
        }
        if let Some(reason) = self.core.ended() {
            return Err(reason);
        }
        if !self.backend_dry && self.read_backend(cx)? {
            moved = true;
        }
        Ok(moved)
    }

    fn read_backend(&mut self, cx: &mut Context<'_>) -> Result<bool, CloseReason> {
        let Backend::Up(backend) = &mut self.sockets.backend else { return Ok(false) };
        let Some(take) = self.core.reads_backend(&self.turn) else { return Ok(false) };
        let mut pipe = if take.body > LEAST_SPLICED && backend.can_splice() && self.sockets.client.can_splice() {
            Pipe::take(&self.worker.spare)
        } else {
            None
        };
        let most = take.most.min(self.scratch.len());
        let read = match &mut pipe {
            Some(pipe) => backend.poll_fill(cx, pipe, take.body),
            None => backend.poll_read(cx, &mut self.scratch[..most]),
        };
        let Poll::Ready(read) = read else {
            pipe.into_iter().for_each(Pipe::give_back);
            self.backend_dry = true;
            return Ok(false);
        };
        let read = read.unwrap_or(0);
        let is_clear = std::mem::take(&mut self.is_clear);
        if is_clear && read > 0 && pipe.is_none() && self.core.pass_replies(&mut self.turn, &self.scratch[..read]) {
            self.worker.counters.bytes_down.add(read as u64);
            send(self.core.to_client(), &mut self.sockets.client, cx, &self.scratch[..read])
                .map_err(|_| CloseReason::ClientClosed)?;
            self.is_clear = self.core.to_client().is_empty();
            return Ok(true);
        }
        // What was received before a moment must not be stamped with an earlier one, and no later one either.
        self.turn.now = Instant::now();
        if read == 0 {
            self.sockets.backend = Backend::None;
            let ended = self.core.backend_ended(&mut self.turn);
            self.carry_out();
            return ended.map(|()| true);
        }
        self.worker.counters.bytes_down.add(read as u64);
        if let Some(pipe) = pipe {
            self.core.body_taken(read);
            self.sockets.pipe = Some(Box::new(pipe));
            self.flush_to_client(cx)?;
        } else {
            let end = self.core.backend_bytes(&mut self.turn, &self.scratch[..read]);
            let bytes = &self.scratch[..end];
            if self.core.to_client().is_empty() {
                send(self.core.to_client(), &mut self.sockets.client, cx, bytes)
                    .map_err(|_| CloseReason::ClientClosed)?;
            } else {
                self.core.to_client().push(bytes);
                self.flush_to_client(cx)?;
            }
        }
        self.carry_out();
        Ok(true)
    }

    /// Sends what the client did not take yet; false while something is left.
    fn flush_to_client(&mut self, cx: &mut Context<'_>) -> Result<bool, CloseReason> {
        if self.core.to_client().is_empty() {
            return Ok(true);
        }
        let Sockets { client, pipe, .. } = &mut *self.sockets;
        match flush(self.core.to_client(), pipe, client, cx) {
            Poll::Pending => Ok(false),
            Poll::Ready(sent) => sent.map(|()| true).map_err(|_| CloseReason::ClientClosed),
        }
    }

    /// Client to backend.
    fn pump_requests(&mut self, cx: &mut Context<'_>) -> Result<bool, CloseReason> {
        if self.client_dry && self.core.is_heard() {
            return Ok(false);
        }
        self.look();
        self.flush_to_backend(cx);
        self.look();
        if self.core.is_failing() {
            let entry = self.topology().current();
            if self.core.refuse_inbox(&mut self.turn, &entry.reason) {
                return Ok(true);
            }
        }
        let hear = self.core.hear(&mut self.turn);
        self.flush_to_backend(cx);
        self.carry_out();
        match hear? {
            Hear::Again => Ok(true),
            Hear::Nothing => Ok(false),
            Hear::Bytes(_) if self.client_dry => Ok(false),
            Hear::Bytes(most) => self.read_client(cx, most),
            Hear::Leaving => {
                if self.sockets.client.poll_left(cx).is_ready() {
                    let left = self.core.client_left(&mut self.turn);
                    self.carry_out();
                    left?;
                }
                Ok(false)
            }
        }
    }

    fn read_client(&mut self, cx: &mut Context<'_>, most: usize) -> Result<bool, CloseReason> {
        let most = most.min(self.scratch.len());
        match self.sockets.client.poll_read(cx, &mut self.scratch[..most]) {
            Poll::Pending => {
                self.client_dry = true;
                return Ok(false);
            }
            Poll::Ready(Err(_)) => return Err(CloseReason::ClientClosed),
            Poll::Ready(Ok(0)) => {
                self.is_clear = false;
                let ended = self.core.client_ended(&mut self.turn);
                self.carry_out();
                ended?;
            }
            Poll::Ready(Ok(read)) => {
                self.worker.counters.bytes_up.add(read as u64);
                self.look();
                if self.is_clear && self.core.pass_requests(&mut self.turn, &self.scratch[..read]) {
                    self.send_to_backend(cx, read);
                    self.is_clear = self.core.is_heard();
                    return Ok(true);
                }
                self.is_clear = false;
                let end = self.core.client_bytes(&mut self.turn, &self.scratch[..read]);
                self.send_to_backend(cx, end);
                self.carry_out();
            }
        }
        Ok(true)
    }

    /// Sends the beginning of the scratch. A server that has closed may have answered before: its end is seen behind what
    /// it has said, also when writing to it fails.
    fn send_to_backend(&mut self, cx: &mut Context<'_>, end: usize) {
        let bytes = &self.scratch[..end];
        if let Backend::Up(backend) = &mut self.sockets.backend
            && let Some(out) = self.core.to_backend(self.turn.sight)
            && out.is_empty()
        {
            let _ = send(out, backend, cx, bytes);
            return;
        }
        self.core.keep_for_backend(bytes);
        self.flush_to_backend(cx);
    }

    fn flush_to_backend(&mut self, cx: &mut Context<'_>) {
        if let Backend::Up(backend) = &mut self.sockets.backend
            && let Some(out) = self.core.to_backend(self.turn.sight)
            && !out.is_empty()
        {
            let _ = flush(out, &mut None, backend, cx);
        }
    }

    fn carry_out(&mut self) {
        if self.turn.actions.is_empty() {
            return;
        }
        for action in std::mem::take(&mut self.turn.actions) {
            self.carry_out_one(action);
        }
    }

    #[cold]
    fn carry_out_one(&mut self, action: Action) {
        match action {
            Action::Attach { addr, restore, may_be_ready } => {
                let term = self.core.term();
                if let Some(conn) = may_be_ready
                    .then(|| pool::take(self.worker, self.settings, Key::fresh(&self.worker.upstream, term, addr)))
                    .flatten()
                {
                    self.sockets.backend = Backend::Up(conn);
                    self.backend_dry = false;
                    return self.core.attached(true);
                }
                let attaching = attach::attach(self.worker.clone(), addr, term, restore);
                self.sockets.backend = Backend::Attaching(Box::pin(attaching));
            }
            Action::Leave(parting) => {
                let backend = std::mem::replace(&mut self.sockets.backend, Backend::None);
                match (backend, parting) {
                    (Backend::Up(conn), Parting::Reset) => conn.set_zero_linger(),
                    (Backend::Up(conn), Parting::GiveBack) => {
                        let (worker, term) = (self.worker.clone(), self.core.term());
                        tokio::spawn(async move { pool::give_back(&worker, conn, term).await });
                    }
                    _ => {}
                }
            }
            Action::ShutDown => {
                if let Backend::Up(backend) = &mut self.sockets.backend {
                    backend.shutdown();
                }
            }
            Action::Unblock => {
                if let Backend::Up(backend) = &self.sockets.backend {
                    unblock::ask(self.worker, backend);
                }
            }
            Action::WakeIn(delay) => self.sockets.ticket.iter().for_each(|ticket| ticket.wake_in(delay)),
            Action::Settled => self.sockets.ticket.iter().for_each(Ticket::settle),
            Action::Report(report) => self.topology().report(report),
            Action::NoReset => pool::refuses_reset(&self.worker.upstream, self.core.term()),
            Action::LoginRefused => refused::note(&self.worker.upstream, self.sockets.client.peer_addr()),
            Action::Held(time) => note_held(self.worker, time),
        }
    }

    /// Adds what happened to the thread's counters.
    pub(super) fn count(&self) {
        let (counters, counts) = (&self.worker.counters, &self.turn.counts);
        counters.requests.add(counts.requests);
        counters.replies.add(counts.replies);
        if *counts != (Counts { requests: counts.requests, replies: counts.replies, ..Counts::default() }) {
            counters.moved.add(counts.moved);
            counters.replayed.add(counts.replayed);
            counters.lost.add(counts.lost);
            counters.withheld.add(counts.withheld);
            counters.held.add(counts.held);
            counters.detached.add(counts.detached);
            attach::note_not_needed(self.worker, counts.auth_not_needed);
        }
    }
}

/// Sends `bytes` at once as far as the socket takes them; the rest waits in the outbox, which is empty.
fn send(out: &mut Outbox, socket: &mut Conn, cx: &mut Context<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match socket.poll_write(cx, bytes) {
            Poll::Ready(written) => bytes = &bytes[written?..],
            Poll::Pending => break,
        }
    }
    out.push(bytes);
    Ok(())
}

/// Sends what waits: first what is in the pipe.
fn flush(
    out: &mut Outbox,
    pipe: &mut Option<Box<Pipe>>,
    socket: &mut Conn,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    if let Some(full) = pipe {
        while !full.is_empty() {
            ready!(socket.poll_empty(cx, full))?;
        }
        pipe.take().into_iter().for_each(|pipe| pipe.give_back());
        out.pipe_sent();
    }
    while !out.is_empty() {
        let written = ready!(socket.poll_write(cx, out.bytes()))?;
        out.sent(written);
    }
    Poll::Ready(Ok(()))
}
