//! Client to backend: each request is noted in the ledger before it is sent on, or held.
//!
//! No request is begun unless the gate is open, and none is sent after a newer generation was seen. What cannot be
//! begun waits in the inbox, which is bounded.

use std::io;
use std::task::{Context, Poll};

use super::forwarded::Forwarded;
use super::held::held_by_thread;
use super::lane::Lane;
use super::ledger::no_replica;
use super::pool::RESET;
use super::{CloseReason, Gate, LITTLE, OK, ReplyMode, Round, Session, registry};
use crate::drain::Stage;
use crate::resp::command::{Class, Duty, Effect, Shape, classify, classify_head};
use crate::resp::ordinary::{self, Run};
use crate::resp::request::{self, Args};
use crate::resp::scanner::{RequestScanner, Scan};

/// The server could not have acted on a part of a request: so much of one is kept until it is whole.
const SMALL_REQUEST: usize = 16 * 1024;
/// Bytes of a held client that are read ahead: enough to see its FIN behind an ordinary request.
const HELD_BYTES: usize = 64 * 1024;
/// Requests in flight on one connection before no more are begun.
const MOST_IN_FLIGHT: usize = 1024;
const DISCARD: &[u8] = b"*1\r\n$7\r\nDISCARD\r\n";

/// What becomes of a request at the door.
enum Admission {
    /// Send it on as it is.
    Send,
    /// Send this in its place.
    SendInstead(&'static [u8]),
    /// Not before what is outstanding has been answered.
    Wait,
    /// Answered here.
    Answered,
    /// Send it on, and from here on look at nothing.
    Tunnel,
}

impl Session {
    /// Client to backend.
    pub(super) fn pump_requests(&mut self, cx: &mut Context<'_>, round: &mut Round) -> Result<bool, CloseReason> {
        let nothing_new = round.client_drained && self.inbox.is_empty() && self.to_backend.is_empty();
        if self.closing.is_some() || (nothing_new && !self.flags.client_eof) {
            return Ok(false);
        }
        if self.is_finishing() || !self.flush_to_backend(cx) {
            return self.read_ahead(cx, round);
        }
        if self.gate == Gate::Failing {
            return Ok(self.refuse_inbox() | self.read_ahead(cx, round)?);
        }
        if !matches!(self.lane, Lane::Up(_)) || !(self.may_begin() || self.flags.streaming) {
            return self.read_ahead(cx, round);
        }
        if (self.inbox_scanned as usize) < self.inbox.len() {
            let data = std::mem::take(&mut self.inbox);
            let scanned = std::mem::take(&mut self.inbox_scanned) as usize;
            self.begin_requests(cx, &data, scanned);
            let nothing_begun = self.inbox.len() == data.len();
            if nothing_begun && self.worker.upstream.topology.generation() == self.generation {
                // AUTH or HELLO waits for the replies before it, and those wake this session.
                return self.read_ahead(cx, round);
            }
            return Ok(true);
        }
        if self.flags.client_eof {
            return self.pass_eof();
        }
        match self.poll_client(cx, round, usize::MAX) {
            Poll::Pending => return Ok(false),
            Poll::Ready(Err(_)) => return Err(CloseReason::ClientClosed),
            Poll::Ready(Ok(0)) => {
                (self.flags.client_left, self.flags.client_eof) = (true, true);
                return Ok(true);
            }
            Poll::Ready(Ok(read)) => {
                self.worker.counters.bytes_up.add(read as u64);
                if self.inbox.is_empty() {
                    self.begin_requests(cx, &round.scratch[..read], 0);
                } else {
                    let mut data = std::mem::take(&mut self.inbox);
                    let scanned = std::mem::take(&mut self.inbox_scanned) as usize;
                    data.extend_from_slice(&round.scratch[..read]);
                    self.begin_requests(cx, &data, scanned);
                }
            }
        }
        Ok(true)
    }

    /// Reads once from the client, at most this much, into the scratch.
    fn poll_client(&mut self, cx: &mut Context<'_>, round: &mut Round, most: usize) -> Poll<io::Result<usize>> {
        if round.client_drained {
            return Poll::Pending;
        }
        let most = most.min(if self.is_exhausted() { LITTLE } else { round.scratch.len() });
        let read = self.client.poll_read(cx, &mut round.scratch[..most]);
        round.client_drained = read.is_pending();
        read
    }

    /// Sends what the backend did not take yet; false while something is left.
    fn flush_to_backend(&mut self, cx: &mut Context<'_>) -> bool {
        if self.to_backend.is_empty() {
            return true;
        }
        if self.flags.resending && !self.gate.is_open() {
            return false;
        }
        let Lane::Up(backend) = &mut self.lane else { return false };
        self.flags.resending = false;
        // Where that fails, its end is seen behind what it has said.
        matches!(self.to_backend.poll_flush(backend, cx), Poll::Ready(Ok(())))
    }

    /// Nothing can be sent now: reads a little ahead, and notices when the client goes away.
    fn read_ahead(&mut self, cx: &mut Context<'_>, round: &mut Round) -> Result<bool, CloseReason> {
        if self.flags.client_eof {
            return self.await_end();
        }
        // One that does not take its replies is not waited on with a full inbox.
        let most = if self.is_exhausted() || !self.to_client.is_empty() { LITTLE } else { HELD_BYTES };
        if self.inbox.len() >= most || self.flags.streaming {
            return match self.client.poll_left(cx) {
                Poll::Pending => Ok(false),
                Poll::Ready(()) => self.client_left(),
            };
        }
        match self.poll_client(cx, round, most) {
            Poll::Pending => Ok(false),
            Poll::Ready(Err(_)) => Err(CloseReason::ClientClosed),
            Poll::Ready(Ok(0)) => {
                self.flags.client_eof = true;
                self.client_left()
            }
            Poll::Ready(Ok(read)) => {
                self.worker.counters.bytes_up.add(read as u64);
                self.inbox.extend_from_slice(&round.scratch[..read]);
                Ok(true)
            }
        }
    }

    /// A new request may be begun.
    #[inline]
    fn may_begin(&self) -> bool {
        let open = match self.gate {
            Gate::Open | Gate::Electing => true,
            // It cannot be queued again elsewhere: its EXEC goes to where the queue is, while that is the master.
            Gate::Held { withhold: true } => self.flags.multi && self.is_queue_unkept(),
            Gate::Held { withhold: false } | Gate::Failing => false,
        };
        open && self.refused_at.is_none()
            && !(self.flags.barrier || self.flags.unblocking)
            && self.ledger.len() < MOST_IN_FLIGHT
            && self.to_client.is_empty()
            && (self.ledger.is_empty() || !self.is_exhausted())
            && registry::stage() < Stage::Stopping
    }

    /// Takes the requests in `data`, of which `scanned` bytes were scanned before, and sends on what may be sent;
    /// the rest becomes the inbox.
    fn begin_requests(&mut self, cx: &mut Context<'_>, data: &[u8], scanned: usize) {
        if self.worker.upstream.topology.generation() != self.generation {
            self.inbox = data.to_vec();
            self.inbox_scanned = scanned as u32;
            return;
        }
        let small = if self.is_exhausted() { LITTLE / 2 } else { SMALL_REQUEST };
        if self.flags.stale {
            self.renew(data, small);
        }
        let (mut start, mut at) = (0, scanned);
        let mut out = Forwarded::default();
        let mut requests = 0;
        while at < data.len() && !self.is_tunnel {
            if start == at && !self.flags.streaming {
                if !self.may_begin() {
                    break;
                }
                let run = self.begin_run(&data[start..]);
                if run.requests > 0 {
                    at = start + run.bytes;
                    out.pass(&mut self.to_backend, data, start, at);
                    start = at;
                    requests += run.requests as u64;
                    continue;
                }
            }
            match self.requests.scan(&data[at..]) {
                Scan::Frame(length) => {
                    let end = at + length;
                    let bytes = &data[start..end];
                    if self.flags.streaming {
                        self.flags.streaming = false;
                        self.extend_request(bytes, true);
                        out.pass(&mut self.to_backend, data, start, end);
                    } else {
                        match self.admit(bytes) {
                            Admission::Send => out.pass(&mut self.to_backend, data, start, end),
                            Admission::SendInstead(instead) => out.instead(&mut self.to_backend, data, instead),
                            Admission::Wait => {
                                self.requests = RequestScanner::default();
                                at = start;
                                break;
                            }
                            Admission::Answered => out.leave_out(&mut self.to_backend, data),
                            Admission::Tunnel => out.pass(&mut self.to_backend, data, start, data.len()),
                        }
                        requests += 1;
                    }
                    at = end;
                    start = if self.is_tunnel { data.len() } else { end };
                }
                Scan::Partial => {
                    at = data.len();
                    let bytes = &data[start..];
                    if self.flags.streaming {
                        self.extend_request(bytes, false);
                    } else if bytes.len() > small {
                        self.admit_head(bytes);
                    } else {
                        break;
                    }
                    out.pass(&mut self.to_backend, data, start, at);
                    start = at;
                }
                Scan::Invalid(_) => self.enter_tunnel(),
            }
        }
        if self.is_tunnel && start < data.len() {
            out.pass(&mut self.to_backend, data, start, data.len());
            (start, at) = (data.len(), data.len());
        }
        self.flags.active = true;
        self.worker.counters.requests.add(requests);
        self.ledger.sent_after(self.worker.upstream.topology.samples());
        if start < data.len() {
            self.inbox = data[start..].to_vec();
            self.inbox_scanned = (at.max(start) - start) as u32;
        }
        self.send_to_backend(cx, out.run(data));
    }

    /// Puts a RESET in front of the first request, in the same write, if that is here. A request that authenticates goes
    /// alone and makes the connection what it makes of a fresh one; if it fails, the RESET is due as before. (Since Redis
    /// 7.2 a failing one gets no reply behind another that is still to be sent, redis#15640.)
    #[cold]
    fn renew(&mut self, mut data: &[u8], small: usize) {
        loop {
            match RequestScanner::default().scan(data) {
                Scan::Frame(length) if !request::expects_reply(&data[..length]) => data = &data[length..],
                Scan::Frame(_) if authenticates(data) => return,
                Scan::Partial if data.len() <= small => return,
                _ => break,
            }
        }
        self.flags.stale = false;
        self.flags.resetting = true;
        self.to_backend.push(RESET);
    }

    /// Notes the ordinary requests that `data` starts with, as far as they may be retained.
    fn begin_run(&mut self, data: &[u8]) -> Run {
        if self.reply_mode != ReplyMode::On || self.flags.multi || self.flags.listening {
            return Run::default();
        }
        self.ledger.trim();
        let room = self.settings.retain_bytes.saturating_sub(self.ledger.retained());
        let room = room.min(self.settings.retain_total.saturating_sub(held_by_thread()));
        let run = ordinary::run(data, MOST_IN_FLIGHT - self.ledger.len(), room);
        if run.requests > 0 {
            self.flags.nothing_written &= !run.writes;
            self.ledger.push_run(&data[..run.bytes], run.requests);
        }
        run
    }

    /// A server that has closed may have answered before: its end is seen behind what it has said.
    fn send_to_backend(&mut self, cx: &mut Context<'_>, bytes: &[u8]) {
        match &mut self.lane {
            Lane::Up(backend) if self.to_backend.is_empty() => _ = self.to_backend.send(backend, cx, bytes),
            Lane::Up(backend) => {
                self.to_backend.push(bytes);
                _ = self.to_backend.poll_flush(backend, cx);
            }
            _ => self.to_backend.push(bytes),
        }
    }

    /// A whole request is about to be sent on: notes it, or says why not.
    fn admit(&mut self, bytes: &[u8]) -> Admission {
        let effect = classify(bytes);
        if effect.command.name.is_empty() && !request::expects_reply(bytes) {
            return Admission::Send;
        }
        if effect.duty == Duty::Client && is_reply_mode(effect) {
            return self.set_reply_mode(effect, bytes);
        }
        if effect.duty == Duty::Reset && self.reply_mode == ReplyMode::Off {
            // RESET ends the silence before it answers (networking.c, resetCommand).
            self.reply_mode = ReplyMode::On;
            self.state.set_silent(false);
        }
        if self.reply_mode != ReplyMode::On {
            return self.admit_unanswered(effect, bytes);
        }
        let pins = pins(effect);
        self.flags.pinned |= pins;
        self.flags.lasting |= pins || effect.duty == Duty::Client;
        if self.state.is_watch_broken() && ends_watch(effect.duty) {
            // Whether the next EXEC must answer nil is known when this has been answered.
            self.flags.barrier = true;
        }
        match effect.duty {
            Duty::Auth | Duty::Hello => {
                // A refused AUTH gets no reply unless nothing else is pending (redis#15640).
                if !self.ledger.is_empty() || self.flags.resetting {
                    return Admission::Wait;
                }
                self.flags.barrier = true;
            }
            Duty::Multi => self.flags.multi = true,
            Duty::Exec if self.state.is_watch_broken() && self.flags.multi => {
                self.flags.multi = false;
                let effect = Effect { class: Class::Connection, ..effect };
                self.ledger.push(effect, DISCARD, true, false, true);
                return Admission::SendInstead(DISCARD);
            }
            Duty::Exec | Duty::Discard | Duty::Reset => {
                self.ledger.push(effect, bytes, true, false, true);
                self.flags.multi = false;
                return Admission::Send;
            }
            Duty::Monitor if !self.flags.multi => self.flags.listening = true,
            Duty::Wait if self.flags.nothing_written && !self.flags.multi => {
                self.ledger.push(effect, &[], true, false, true);
                self.ledger.answer_last(no_replica(effect));
                return Admission::Answered;
            }
            Duty::Client => self.flags.listening |= effect.command.name == "CLIENT|TRACKING",
            Duty::Eval | Duty::Script => self.learn_script(effect, bytes),
            Duty::Replication => return self.tunnel(),
            duty if (duty.is_pubsub() || duty == Duty::Monitor) && self.flags.multi => {
                return self.tunnel();
            }
            duty if duty.is_pubsub() => {
                self.flags.listening = true;
                self.ledger.push(effect, bytes, true, false, true);
                self.ledger.owe(Args::new(bytes).count() as u32 - 1);
                return Admission::Send;
            }
            _ => {}
        }
        self.flags.nothing_written &= effect.writes_nothing();
        let queued = self.flags.multi && !matches!(effect.duty, Duty::Multi | Duty::Watch | Duty::Quit);
        let keep = effect.duty.changes_session() || self.may_retain(bytes.len());
        self.ledger.push(effect, bytes, true, queued, keep);
        Admission::Send
    }

    /// CLIENT REPLY: OFF and SKIP get no reply themselves.
    fn set_reply_mode(&mut self, effect: Effect, bytes: &[u8]) -> Admission {
        (self.flags.lasting, self.flags.pinned) = (true, true);
        // With more arguments it is refused, and changes nothing.
        let mode = Args::new(bytes).nth(2).filter(|_| Args::new(bytes).count() == 3);
        let mode = mode.map(|mode| mode.to_ascii_uppercase()).unwrap_or_default();
        if self.flags.multi || self.flags.listening {
            return self.tunnel();
        }
        match mode.as_slice() {
            b"OFF" => self.reply_mode = ReplyMode::Off,
            b"SKIP" if self.reply_mode == ReplyMode::On => self.reply_mode = ReplyMode::SkipNext,
            b"SKIP" => {}
            b"ON" => {
                self.reply_mode = ReplyMode::On;
                self.ledger.push(effect, bytes, true, false, true);
            }
            _ => match self.reply_mode {
                ReplyMode::On => self.ledger.push(effect, bytes, true, false, true),
                ReplyMode::SkipNext => self.reply_mode = ReplyMode::On,
                ReplyMode::Off => {}
            },
        }
        self.flags.unanswered |= self.reply_mode != ReplyMode::On;
        self.state.set_silent(self.reply_mode == ReplyMode::Off);
        Admission::Send
    }

    /// A request that the client wants no reply to: what it does to the session is taken to succeed.
    fn admit_unanswered(&mut self, effect: Effect, bytes: &[u8]) -> Admission {
        if effect.duty.is_pubsub() || matches!(effect.duty, Duty::Multi | Duty::Monitor | Duty::Replication) {
            return self.tunnel();
        }
        if self.reply_mode == ReplyMode::SkipNext {
            self.reply_mode = ReplyMode::On;
        }
        self.flags.nothing_written &= effect.writes_nothing();
        self.state.answered(effect, false);
        if effect.duty.changes_session() {
            self.state.delivered(effect, false, bytes, OK);
        }
        Admission::Send
    }

    /// Keeps what a client loads into the script cache, for the next master.
    fn learn_script(&self, effect: Effect, bytes: &[u8]) {
        let scripts = &self.worker.upstream.scripts;
        match (effect.duty, effect.command.name) {
            (Duty::Eval, _) => _ = Args::new(bytes).nth(1).map(|body| scripts.learn(&body, self.term)),
            (_, "SCRIPT|LOAD") => _ = Args::new(bytes).nth(2).map(|body| scripts.learn(&body, self.term)),
            (_, "SCRIPT|FLUSH") => scripts.forget(),
            _ => {}
        }
    }

    /// A large request begins; the rest of it is still to come.
    fn admit_head(&mut self, head: &[u8]) {
        let effect = classify_head(head);
        let changes = effect.duty.is_pubsub() || matches!(effect.duty, Duty::Monitor | Duty::Replication);
        if changes || (self.reply_mode != ReplyMode::On && effect.duty.changes_session()) {
            return self.enter_tunnel();
        }
        self.flags.nothing_written &= effect.writes_nothing();
        self.flags.streaming = true;
        let pins = effect.duty != Duty::None || pins(effect);
        self.flags.lasting |= pins;
        self.flags.pinned |= pins;
        if self.reply_mode != ReplyMode::On {
            self.flags.streaming_unanswered = true;
            self.admit_unanswered(effect, head);
            return;
        }
        let queued = self.flags.multi;
        let keep = self.may_retain(head.len());
        self.ledger.push(effect, head, false, queued, keep);
    }

    /// More of the large request that is on its way.
    fn extend_request(&mut self, bytes: &[u8], whole: bool) {
        if self.flags.streaming_unanswered {
            self.flags.streaming_unanswered = !whole;
            return;
        }
        let keep = self.may_retain(self.ledger.last_kept() + bytes.len());
        self.ledger.extend_last(bytes, whole, keep);
        if whole && let Some((effect, request)) = self.ledger.last_whole() {
            self.learn_script(effect, &request);
        }
    }

    fn tunnel(&mut self) -> Admission {
        if self.ledger.has_answers() {
            return Admission::Wait; // made up here, and still owed
        }
        self.enter_tunnel();
        Admission::Tunnel
    }

    fn enter_tunnel(&mut self) {
        self.is_tunnel = true;
        self.ledger.clear();
    }

    fn is_queue_unkept(&self) -> bool {
        self.state.unkept_transaction().is_some() || self.ledger.has_unkept_queued()
    }

    fn may_retain(&self, bytes: usize) -> bool {
        self.ledger.retained() + bytes <= self.settings.retain_bytes
            && held_by_thread() + bytes <= self.settings.retain_total
    }

    /// No master: every whole request in the inbox is answered with an error.
    fn refuse_inbox(&mut self) -> bool {
        let data = std::mem::take(&mut self.inbox);
        self.inbox_scanned = 0;
        self.requests = RequestScanner::default();
        let mut start = 0;
        while let Scan::Frame(length) = self.requests.scan(&data[start..]) {
            let bytes = &data[start..start + length];
            if request::expects_reply(bytes) {
                let effect = classify(bytes);
                if is_reply_mode(effect) {
                    self.set_reply_mode(effect, bytes);
                } else if self.reply_mode == ReplyMode::On {
                    self.ledger.push(effect, bytes, true, self.flags.multi, true);
                } else if self.reply_mode == ReplyMode::SkipNext {
                    self.reply_mode = ReplyMode::On;
                }
            }
            start += length;
            if start == data.len() {
                break;
            }
        }
        self.requests = RequestScanner::default();
        self.inbox = data[start..].to_vec();
        if start > 0 {
            let entry = self.worker.upstream.topology.current();
            self.fail_outstanding(&entry.reason, start as u64);
        }
        start > 0
    }
}

/// What no other backend would know, so that the session keeps this one: its number, what WAIT waits for, whatever the
/// table does not know.
fn pins(effect: Effect) -> bool {
    const RESTORED: [&str; 6] =
        ["CLIENT|SETNAME", "CLIENT|GETNAME", "CLIENT|SETINFO", "CLIENT|NO-EVICT", "CLIENT|NO-TOUCH", "CLIENT|CAPA"];
    match effect.duty {
        Duty::None => effect.class == Class::Never || effect.shape == Shape::Unknown,
        Duty::Eval | Duty::Script => effect.class == Class::Never,
        Duty::Client => !RESTORED.contains(&effect.command.name),
        Duty::Wait => true,
        _ => false,
    }
}

/// The request that `data` starts with is an AUTH, or a HELLO with one.
fn authenticates(data: &[u8]) -> bool {
    match classify(data).duty {
        Duty::Auth => true,
        Duty::Hello => Args::new(data).skip(2).any(|option| option.eq_ignore_ascii_case(b"AUTH")),
        _ => false,
    }
}

/// After this nothing is watched any more.
fn ends_watch(duty: Duty) -> bool {
    matches!(duty, Duty::Unwatch | Duty::Exec | Duty::Discard | Duty::Reset)
}

fn is_reply_mode(effect: Effect) -> bool {
    effect.command.name == "CLIENT|REPLY"
}
