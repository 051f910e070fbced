//! The pumps: requests from the client to the backend, replies back, each byte tapped once on its way.
//!
//! The hot path reads into the thread's scratch, scans, notes or settles, and sends from the scratch; everything
//! else (held bytes, withheld replies, what a socket would not take) is the exception and costs a copy.

use std::sync::PoisonError;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::ledger::{Front, Ledger, no_replica, nothing};
use super::pipe::{self, Scratch};
use super::{CloseReason, Gate, Lane, ReplyMode, Session, backend};
use crate::resp::command::{Class, Duty, Effect, classify};
use crate::resp::request::{self, Args};
use crate::resp::scanner::{RequestScanner, Scan};
use crate::topology::Report;

/// The beginning of a request is kept until it is whole, up to this size: the server could not have acted on it.
const SMALL_REQUEST: usize = 16 * 1024;
/// Bytes of a held client that are read ahead: enough to see its FIN behind an ordinary request.
const HELD_BYTES: usize = 64 * 1024;
/// Requests in flight on one connection before no more are begun.
const MOST_IN_FLIGHT: usize = 16 * 1024;
/// Withheld replies beyond this are left in the backend's socket.
const WITHHELD_BYTES: usize = 1024 * 1024;
/// A reply that changes the session's state is looked at whole up to this size.
const STATE_REPLY: usize = 64 * 1024;
/// How long after a switch -NOREPLICAS means "not yet".
const REPLICAS_RETURN: Duration = Duration::from_secs(5);
/// A longer error line is passed on unseen.
const ERROR_LINE: usize = 4 * 1024;

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

/// What a frame of the backend is.
enum Frame {
    /// The reply to the next request, which is this and was queued by MULTI or not.
    Reply(Effect, bool),
    /// One of the confirmations that a SUBSCRIBE or UNSUBSCRIBE is owed.
    Confirmation(Duty),
    /// Said unasked: a push, a message, a line of MONITOR, the words with which a server refuses a connection.
    Unasked,
}

impl Session {
    /// Backend to client.
    pub(super) fn pump_replies(&mut self, cx: &mut Context<'_>) -> Result<bool, CloseReason> {
        if !self.to_client.is_empty() {
            match self.to_client.poll_flush(&mut self.client, cx) {
                Poll::Pending => return Ok(false),
                Poll::Ready(sent) => sent.map_err(|_| CloseReason::ClientClosed)?,
            }
        }
        let mut moved = self.deliver_answers(cx)?;
        if let (Some(reason), true) = (self.closing, self.to_client.is_empty()) {
            return Err(reason);
        }
        let Lane::Up(backend) = &mut self.lane else { return Ok(moved) };
        let held_back = self.ledger.has_answers() || self.gate == Gate::Held { withhold: true };
        if held_back && self.ledger.withheld_bytes() + self.reply_tail.len() > WITHHELD_BYTES {
            return Ok(moved);
        }
        let mut scratch = Scratch::take();
        match pipe::poll_read(backend, cx, &mut scratch) {
            Poll::Pending => return Ok(moved),
            Poll::Ready(Ok(read)) if read > 0 => {
                self.worker.relay.bytes_down.add(read as u64);
                self.pass_replies(cx, &scratch[..read])?;
            }
            Poll::Ready(_) => self.lose_lane()?,
        }
        moved = true;
        Ok(moved)
    }

    /// Delivers the answers at the front of the ledger: released, or made up for lost replies.
    fn deliver_answers(&mut self, cx: &mut Context<'_>) -> Result<bool, CloseReason> {
        if !self.ledger.has_answers() {
            return Ok(false);
        }
        let mut moved = false;
        while let Some(front) = self.ledger.take_front() {
            moved = true;
            match front {
                Front::Reply { reply, effect, request, queued } => {
                    let reply = self.delivered(effect, queued, &request, &reply).unwrap_or(reply);
                    self.to_client.push(&reply);
                }
                Front::Close(reason) => {
                    self.closing.get_or_insert(reason);
                    break;
                }
            }
        }
        if self.ledger.is_empty() {
            self.flags.barrier = false;
        }
        if let Poll::Ready(Err(_)) = self.to_client.poll_flush(&mut self.client, cx) {
            return Err(CloseReason::ClientClosed);
        }
        Ok(moved)
    }

    pub(super) fn pass_replies(&mut self, cx: &mut Context<'_>, fresh: &[u8]) -> Result<(), CloseReason> {
        if self.reply_tail.is_empty() {
            return self.tap_replies(cx, fresh, 0);
        }
        let mut data = std::mem::take(&mut self.reply_tail);
        let scanned = data.len();
        data.extend_from_slice(fresh);
        self.tap_replies(cx, &data, scanned)
    }

    /// `data` begins inside the reply that was partly delivered, or with a reply of which `scanned` bytes were
    /// scanned before.
    fn tap_replies(&mut self, cx: &mut Context<'_>, data: &[u8], scanned: usize) -> Result<(), CloseReason> {
        let (mut start, mut at) = (0, scanned);
        let mut out = Passed { end: 0, copied: false };
        let mut replies = 0;
        while at < data.len() && self.tunnel.is_none() {
            match self.replies.scan(&data[at..]) {
                Scan::Frame(length) => {
                    at += length;
                    match self.sort(&data[start..at]) {
                        Frame::Reply(effect, queued) => {
                            replies += 1;
                            if self.is_plain(effect, queued) {
                                self.ledger.settle();
                                self.flags.partly_delivered = false;
                                out.pass(self, data, start, at);
                            } else {
                                self.judge_reply(effect, queued, data, start, at, &mut out);
                            }
                        }
                        Frame::Confirmation(duty) => {
                            replies += 1;
                            self.confirm(duty, data, start, at, &mut out);
                        }
                        Frame::Unasked => {
                            self.flags.passing_unasked = false;
                            out.pass(self, data, start, at);
                        }
                    }
                    start = at;
                }
                Scan::Partial => {
                    at = data.len();
                    if self.must_be_whole(&data[start..]) {
                        self.reply_tail = data[start..].to_vec();
                    } else {
                        let unasked = matches!(self.sort(&data[start..]), Frame::Unasked);
                        self.flags.passing_unasked |= unasked;
                        self.flags.partly_delivered |= !unasked;
                        out.pass(self, data, start, at);
                    }
                    start = at;
                }
                Scan::Invalid(_) => self.tunnel = Some("a reply that is not RESP"),
            }
        }
        if start < data.len() {
            out.pass(self, data, start, data.len()); // the tunnel
        }
        self.worker.relay.replies.add(replies);
        if self.ledger.is_empty() {
            self.flags.barrier = false;
        }
        let sent = if out.copied {
            match self.to_client.poll_flush(&mut self.client, cx) {
                Poll::Ready(sent) => sent,
                Poll::Pending => Ok(()),
            }
        } else {
            self.to_client.send(&mut self.client, cx, &data[..out.end])
        };
        sent.map_err(|_| CloseReason::ClientClosed)
    }

    /// What the frame at hand is; of a longer one at least the first element is there.
    fn sort(&self, frame: &[u8]) -> Frame {
        let kind = self.replies.kind();
        let Some((effect, queued)) = self.ledger.expected() else { return Frame::Unasked };
        if !self.flags.listening || self.flags.partly_delivered {
            return if kind == b'>' { Frame::Unasked } else { Frame::Reply(effect, queued) };
        }
        if self.flags.passing_unasked {
            return Frame::Unasked;
        }
        match backend::announcement(frame) {
            Some(word) if effect.duty.is_pubsub() && word.ends_with(b"subscribe") => Frame::Confirmation(effect.duty),
            Some(_) => Frame::Unasked,
            None if self.state.is_monitoring() && is_monitor_line(frame) => Frame::Unasked,
            None if kind == b'>' => Frame::Unasked,
            None => Frame::Reply(effect, queued),
        }
    }

    /// One of the confirmations of a SUBSCRIBE or UNSUBSCRIBE.
    fn confirm(&mut self, duty: Duty, data: &[u8], start: usize, end: usize, out: &mut Passed) {
        let frame = &data[start..end];
        let count = self.state.confirmations(duty);
        if self.ledger.has_answers() {
            // The state follows at once: nothing is judged before the replies ahead of it.
            self.ledger.withhold_one(frame, Instant::now(), || count);
        } else {
            if let Some(held) = self.ledger.take_part() {
                out.replace(self, data, &held);
            }
            self.ledger.settle_one(|| count);
            out.pass(self, data, start, end);
        }
        if let (Some(word), Some(name)) = (backend::element(frame, 0), backend::element(frame, 1)) {
            self.state.confirmed(word, name);
        }
    }

    /// The reply at hand may simply be passed on.
    fn is_plain(&self, effect: Effect, queued: bool) -> bool {
        !changes_session(effect.duty)
            && !queued
            && (self.flags.partly_delivered
                || (self.replies.kind() != b'-' && !self.ledger.has_answers() && !self.withholds(effect, queued)))
    }

    /// A failover is under way and this may be the reply to a write that the next master never got.
    fn withholds(&self, effect: Effect, queued: bool) -> bool {
        let harmless = matches!(effect.class, Class::Read | Class::Connection) || queued;
        self.gate == Gate::Held { withhold: true } && !harmless
    }

    /// The beginning of a reply at the end of a read: keep it until the rest is there?
    fn must_be_whole(&self, tail: &[u8]) -> bool {
        if self.flags.partly_delivered || self.flags.passing_unasked {
            return false;
        }
        if self.flags.listening && matches!(self.replies.kind(), b'*' | b'>') {
            return match backend::announcement(tail) {
                Some(word) if word.ends_with(b"subscribe") => tail.len() <= STATE_REPLY,
                Some(_) => false,
                None => backend::element(tail, 0).is_none() && tail.len() <= ERROR_LINE,
            };
        }
        if self.ledger.has_answers() && self.replies.kind() != b'>' {
            return true;
        }
        match self.ledger.expected() {
            _ if self.replies.kind() == b'>' => false,
            _ if self.replies.kind() == b'-' => tail.len() <= ERROR_LINE,
            Some((effect, queued)) => {
                self.withholds(effect, queued)
                    || ((changes_session(effect.duty) || queued) && tail.len() <= STATE_REPLY)
            }
            None => false,
        }
    }

    /// A reply that is an error, changes the session's state, or comes while a failover is under way.
    fn judge_reply(&mut self, effect: Effect, queued: bool, data: &[u8], start: usize, end: usize, out: &mut Passed) {
        let reply = &data[start..end];
        if !self.flags.partly_delivered {
            self.flags.too_few_replicas = reply.starts_with(b"-NOREPLICAS ") && self.may_wait_for_replicas();
            let refused = self.flags.too_few_replicas || is_refusal(reply, effect, self.refused_at.is_some());
            if refused || self.ledger.has_answers() || self.withholds(effect, queued) {
                let now = Instant::now();
                self.ledger.withhold(reply, now, refused);
                self.worker.relay.withheld.add(1);
                if refused && self.refused_at.is_none() {
                    self.refused_at = Some(now);
                    if self.flags.too_few_replicas {
                        return;
                    }
                    let prefix = reply[1..].split(|byte| *byte == b' ').next().unwrap_or_default();
                    let prefix = String::from_utf8_lossy(prefix).into_owned();
                    self.worker.topology.report(Report::Refused { term: self.term, prefix });
                }
                return;
            }
        }
        let request = self.ledger.front_request();
        self.ledger.settle();
        // Of a reply that was partly delivered only its kind is still known, and that is all that EXEC needs.
        let kind = [self.replies.kind()];
        let seen = if std::mem::take(&mut self.flags.partly_delivered) { &kind[..] } else { reply };
        match self.delivered(effect, queued, &request, seen) {
            Some(instead) => out.replace(self, data, &instead),
            None => out.pass(self, data, start, end),
        }
    }

    /// Just after a switch the replicas of the new master are still on their way (`min-replicas-to-write`): a refused
    /// write is sent again, unless something behind it may have run.
    fn may_wait_for_replicas(&self) -> bool {
        self.moved_at.is_some_and(|at| at.elapsed() < REPLICAS_RETURN) && self.ledger.len() == 1
    }

    /// Takes note of what a reply does to the session's state; may say what to deliver in its place.
    fn delivered(&mut self, effect: Effect, queued: bool, request: &[u8], reply: &[u8]) -> Option<Vec<u8>> {
        if !changes_session(effect.duty) && !queued {
            return None;
        }
        if effect.duty == Duty::Auth && backend::has_no_password(reply) && self.is_known_password(request) {
            // After a failover to a node without `requirepass` (the guide's replicas) everybody is let in.
            ::metrics::counter!(crate::metrics::AUTH_NOT_NEEDED).increment(1);
            self.state.delivered(effect, queued, request, OK);
            return Some(OK.to_vec());
        }
        let instead = (effect.duty == Duty::Exec && reply == OK).then(|| nothing(self.state.is_resp3()));
        if let Some(credentials) = self.state.delivered(effect, queued, request, reply)
            && self.worker.learn_credentials
        {
            let mut known = self.worker.credentials.lock().unwrap_or_else(PoisonError::into_inner);
            known.get_or_insert_with(|| credentials.clone());
            drop(known);
            self.worker.topology.report(Report::Credentials(credentials));
        }
        match effect.duty {
            Duty::Multi if reply.first() == Some(&b'-') && !self.state.in_transaction() => {
                self.flags.multi = false;
                self.state.give_up("a refused MULTI");
            }
            Duty::Reset => {
                self.reply_mode = ReplyMode::On;
                self.flags.multi = false;
            }
            Duty::Quit => _ = self.closing.get_or_insert(CloseReason::ClientClosed),
            _ => {}
        }
        instead
    }

    fn is_known_password(&self, request: &[u8]) -> bool {
        let known = self.worker.credentials.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = known.as_ref() else { return false };
        Args::new(request).last().is_some_and(|password| *password == *known.password.reveal().as_bytes())
    }

    /// Client to backend.
    pub(super) fn pump_requests(&mut self, cx: &mut Context<'_>) -> Result<bool, CloseReason> {
        if self.closing.is_some() {
            return Ok(false);
        }
        if !self.flush_to_backend(cx)? {
            return self.read_ahead(cx);
        }
        if self.gate == Gate::Failing {
            return Ok(self.refuse_inbox() | self.read_ahead(cx)?);
        }
        if !matches!(self.lane, Lane::Up(_)) || !(self.may_begin() || self.flags.streaming) {
            return self.read_ahead(cx);
        }
        if self.inbox_scanned < self.inbox.len() {
            let data = std::mem::take(&mut self.inbox);
            let scanned = std::mem::take(&mut self.inbox_scanned);
            self.begin_requests(cx, &data, scanned)?;
            return Ok(true);
        }
        if self.flags.client_eof {
            return self.pass_eof(cx);
        }
        let mut scratch = Scratch::take();
        match pipe::poll_read(&mut self.client, cx, &mut scratch) {
            Poll::Pending => return Ok(false),
            Poll::Ready(Err(_)) => return Err(CloseReason::ClientClosed),
            Poll::Ready(Ok(0)) => {
                self.flags.client_eof = true;
                return Ok(true);
            }
            Poll::Ready(Ok(read)) => {
                self.worker.relay.bytes_up.add(read as u64);
                if self.inbox.is_empty() {
                    self.begin_requests(cx, &scratch[..read], 0)?;
                } else {
                    let mut data = std::mem::take(&mut self.inbox);
                    let scanned = std::mem::take(&mut self.inbox_scanned);
                    data.extend_from_slice(&scratch[..read]);
                    self.begin_requests(cx, &data, scanned)?;
                }
            }
        }
        Ok(true)
    }

    /// Sends what the backend did not take yet; false while something is left.
    fn flush_to_backend(&mut self, cx: &mut Context<'_>) -> Result<bool, CloseReason> {
        if self.to_backend.is_empty() {
            return Ok(true);
        }
        if self.flags.resending && self.gate != Gate::Open {
            return Ok(false);
        }
        let Lane::Up(backend) = &mut self.lane else { return Ok(false) };
        self.flags.resending = false;
        match self.to_backend.poll_flush(backend, cx) {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(())) => Ok(true),
            Poll::Ready(Err(_)) => {
                self.lose_lane()?;
                Ok(false)
            }
        }
    }

    /// Nothing can be sent now: reads a little ahead, to notice when the client goes away.
    fn read_ahead(&mut self, cx: &mut Context<'_>) -> Result<bool, CloseReason> {
        if self.flags.client_eof {
            // A held client that left: what it had not sent on must not run late.
            let held = self.gate != Gate::Open || matches!(self.lane, Lane::Lost { .. });
            let nothing_owed = self.ledger.is_empty() && self.inbox.is_empty() && self.to_client.is_empty();
            return if held || nothing_owed { Err(CloseReason::ClientClosed) } else { Ok(false) };
        }
        if self.inbox.len() >= HELD_BYTES || self.flags.streaming {
            return Ok(false);
        }
        let mut scratch = Scratch::take();
        match pipe::poll_read(&mut self.client, cx, &mut scratch[..HELD_BYTES]) {
            Poll::Pending => Ok(false),
            Poll::Ready(Err(_)) => Err(CloseReason::ClientClosed),
            Poll::Ready(Ok(0)) => {
                self.flags.client_eof = true;
                Ok(true)
            }
            Poll::Ready(Ok(read)) => {
                self.worker.relay.bytes_up.add(read as u64);
                self.inbox.extend_from_slice(&scratch[..read]);
                Ok(true)
            }
        }
    }

    /// The client has sent everything and all of it was passed on: pass on its FIN too.
    fn pass_eof(&mut self, cx: &mut Context<'_>) -> Result<bool, CloseReason> {
        if self.ledger.is_empty() && self.tunnel.is_none() && self.to_client.is_empty() {
            return Err(CloseReason::ClientClosed);
        }
        if let (Lane::Up(backend), false) = (&mut self.lane, self.flags.half_closed) {
            self.flags.half_closed = true;
            pipe::shutdown(backend, cx);
        }
        Ok(false)
    }

    /// A new request may be begun.
    fn may_begin(&self) -> bool {
        self.gate == Gate::Open
            && self.refused_at.is_none()
            && !self.flags.barrier
            && self.ledger.len() < MOST_IN_FLIGHT
    }

    /// Takes the requests in `data`, of which `scanned` bytes were scanned before, and sends on what may be sent;
    /// the rest becomes the inbox.
    fn begin_requests(&mut self, cx: &mut Context<'_>, data: &[u8], scanned: usize) -> Result<(), CloseReason> {
        if self.worker.topology.generation() != self.generation {
            self.inbox = data.to_vec();
            self.inbox_scanned = scanned;
            return Ok(());
        }
        let (mut start, mut at) = (0, scanned);
        let mut out = Passed { end: 0, copied: false };
        let mut requests = 0;
        while at < data.len() && self.tunnel.is_none() {
            if start == at && !self.flags.streaming && !self.may_begin() {
                break;
            }
            match self.requests.scan(&data[at..]) {
                Scan::Frame(length) => {
                    let end = at + length;
                    let bytes = &data[start..end];
                    if self.flags.streaming {
                        self.flags.streaming = false;
                        let keep = self.may_retain(self.ledger.last_kept() + bytes.len());
                        self.ledger.extend_last(bytes, true, keep);
                        out.send(self, data, start, end);
                    } else {
                        match self.admit(bytes) {
                            Admission::Send => out.send(self, data, start, end),
                            Admission::SendInstead(instead) => out.send_instead(self, data, instead),
                            Admission::Wait => {
                                self.requests = RequestScanner::default();
                                at = start;
                                break;
                            }
                            Admission::Answered => out.leave_out(self, data),
                            Admission::Tunnel => out.send(self, data, start, data.len()),
                        }
                        requests += 1;
                    }
                    at = end;
                    start = if self.tunnel.is_some() { data.len() } else { end };
                }
                Scan::Partial => {
                    at = data.len();
                    let bytes = &data[start..];
                    if self.flags.streaming {
                        let keep = self.may_retain(self.ledger.last_kept() + bytes.len());
                        self.ledger.extend_last(bytes, false, keep);
                    } else if bytes.len() > SMALL_REQUEST {
                        self.admit_head(bytes);
                    } else {
                        break;
                    }
                    out.send(self, data, start, at);
                    start = at;
                }
                Scan::Invalid(_) => self.enter_tunnel("a request that is not RESP"),
            }
        }
        if self.tunnel.is_some() && start < data.len() {
            out.send(self, data, start, data.len());
            (start, at) = (data.len(), data.len());
        }
        self.flags.active = true;
        self.worker.relay.requests.add(requests);
        if start < data.len() {
            self.inbox = data[start..].to_vec();
            self.inbox_scanned = at.max(start) - start;
        }
        self.send_to_backend(cx, &data[..if out.copied { 0 } else { out.end }])
    }

    fn send_to_backend(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Result<(), CloseReason> {
        let Lane::Up(backend) = &mut self.lane else {
            self.to_backend.push(bytes);
            return Ok(());
        };
        let sent = if self.to_backend.is_empty() {
            self.to_backend.send(backend, cx, bytes)
        } else {
            self.to_backend.push(bytes);
            match self.to_backend.poll_flush(backend, cx) {
                Poll::Ready(sent) => sent,
                Poll::Pending => Ok(()),
            }
        };
        match sent {
            Ok(()) => Ok(()),
            Err(_) => self.lose_lane(),
        }
    }

    /// A whole request is about to be sent on: notes it, or says why not.
    fn admit(&mut self, bytes: &[u8]) -> Admission {
        if !request::expects_reply(bytes) {
            return Admission::Send;
        }
        let effect = classify(bytes);
        if effect.duty == Duty::Client && is_reply_mode(effect) {
            return self.set_reply_mode(effect, bytes);
        }
        if self.reply_mode != ReplyMode::On {
            return self.admit_unanswered(effect, bytes);
        }
        if self.state.is_watch_broken() && ends_watch(effect.duty) {
            // Whether the next EXEC must answer nil is known when this has been answered.
            self.flags.barrier = true;
        }
        match effect.duty {
            Duty::None => {}
            Duty::Auth | Duty::Hello => {
                // A refused AUTH gets no reply unless nothing else is pending (redis#15640).
                if !self.ledger.is_empty() {
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
            Duty::Client if effect.command.name == "CLIENT|TRACKING" => self.flags.listening = true,
            Duty::Eval | Duty::Script => self.learn_script(effect, bytes),
            Duty::Replication => return self.tunnel("replication"),
            duty if (duty.is_pubsub() || duty == Duty::Monitor) && self.flags.multi => {
                return self.tunnel("a subscription inside MULTI");
            }
            duty if duty.is_pubsub() => {
                self.flags.listening = true;
                self.ledger.push(effect, bytes, true, false, true);
                self.ledger.owe(Args::new(bytes).count() as u32 - 1);
                return Admission::Send;
            }
            _ => {}
        }
        if self.flags.nothing_written && !matches!(effect.class, Class::Read | Class::Connection) {
            self.flags.nothing_written = false;
        }
        let queued = self.flags.multi && !matches!(effect.duty, Duty::Multi | Duty::Watch | Duty::Quit);
        let keep = changes_session(effect.duty) || self.may_retain(bytes.len());
        self.ledger.push(effect, bytes, true, queued, keep);
        Admission::Send
    }

    /// CLIENT REPLY: OFF and SKIP get no reply themselves.
    fn set_reply_mode(&mut self, effect: Effect, bytes: &[u8]) -> Admission {
        let mode = Args::new(bytes).nth(2).map(|mode| mode.to_ascii_uppercase()).unwrap_or_default();
        if self.flags.multi || self.flags.listening {
            return self.tunnel("CLIENT REPLY in another mode");
        }
        match mode.as_slice() {
            b"OFF" => self.reply_mode = ReplyMode::Off,
            b"SKIP" if self.reply_mode == ReplyMode::On => self.reply_mode = ReplyMode::SkipNext,
            b"SKIP" => {}
            _ => {
                self.reply_mode = ReplyMode::On;
                self.ledger.push(effect, bytes, true, false, true);
            }
        }
        self.flags.unanswered |= self.reply_mode != ReplyMode::On;
        self.state.set_silent(self.reply_mode == ReplyMode::Off);
        Admission::Send
    }

    /// A request that the client wants no reply to: what it does to the session is taken to succeed.
    fn admit_unanswered(&mut self, effect: Effect, bytes: &[u8]) -> Admission {
        if effect.duty.is_pubsub() || matches!(effect.duty, Duty::Multi | Duty::Monitor | Duty::Replication) {
            return self.tunnel("CLIENT REPLY in another mode");
        }
        if self.reply_mode == ReplyMode::SkipNext {
            self.reply_mode = ReplyMode::On;
        }
        if changes_session(effect.duty) {
            self.state.delivered(effect, false, bytes, OK);
        }
        Admission::Send
    }

    fn learn_script(&self, effect: Effect, bytes: &[u8]) {
        let scripts = &self.worker.scripts;
        match (effect.duty, effect.command.name) {
            (Duty::Eval, _) => _ = Args::new(bytes).nth(1).map(|body| scripts.learn(&body, self.term)),
            (_, "SCRIPT|LOAD") => _ = Args::new(bytes).nth(2).map(|body| scripts.learn(&body, self.term)),
            (_, "SCRIPT|FLUSH") => scripts.forget(),
            _ => {}
        }
    }

    /// A large request begins; the rest of it is still to come.
    fn admit_head(&mut self, head: &[u8]) {
        let effect = classify(head);
        if effect.duty.is_pubsub() || matches!(effect.duty, Duty::Monitor | Duty::Replication) {
            return self.enter_tunnel("a large request that changes the connection");
        }
        self.flags.streaming = true;
        let queued = self.flags.multi;
        let keep = self.may_retain(head.len());
        self.ledger.push(effect, head, false, queued, keep);
    }

    fn tunnel(&mut self, why: &'static str) -> Admission {
        self.enter_tunnel(why);
        Admission::Tunnel
    }

    fn enter_tunnel(&mut self, why: &'static str) {
        self.tunnel = Some(why);
        self.ledger.clear();
    }

    fn may_retain(&self, bytes: usize) -> bool {
        self.ledger.retained() + bytes <= self.worker.retain_bytes
            && Ledger::retained_by_thread() + bytes <= self.worker.retain_total
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
                self.ledger.push(classify(bytes), bytes, true, self.flags.multi, true);
            }
            start += length;
            if start == data.len() {
                break;
            }
        }
        self.requests = RequestScanner::default();
        self.inbox = data[start..].to_vec();
        if start > 0 {
            let entry = self.worker.topology.current();
            self.fail_outstanding(&entry.reason, start as u64);
        }
        start > 0
    }
}

const OK: &[u8] = b"+OK\r\n";
const DISCARD: &[u8] = b"*1\r\n$7\r\nDISCARD\r\n";

/// What of a read goes out: a run from its beginning, sent from where it is, until something must be left out or
/// put in; from there on copies.
struct Passed {
    end: usize,
    copied: bool,
}

impl Passed {
    fn pass(&mut self, session: &mut Session, data: &[u8], start: usize, end: usize) {
        if !self.copied && start == self.end {
            self.end = end;
        } else {
            self.copy(&mut session.to_client, data);
            session.to_client.push(&data[start..end]);
        }
    }

    fn replace(&mut self, session: &mut Session, data: &[u8], instead: &[u8]) {
        self.copy(&mut session.to_client, data);
        session.to_client.push(instead);
    }

    fn send(&mut self, session: &mut Session, data: &[u8], start: usize, end: usize) {
        if !self.copied && start == self.end {
            self.end = end;
        } else {
            self.copy(&mut session.to_backend, data);
            session.to_backend.push(&data[start..end]);
        }
    }

    fn send_instead(&mut self, session: &mut Session, data: &[u8], instead: &[u8]) {
        self.copy(&mut session.to_backend, data);
        session.to_backend.push(instead);
    }

    fn leave_out(&mut self, session: &mut Session, data: &[u8]) {
        self.copy(&mut session.to_backend, data);
    }

    fn copy(&mut self, unsent: &mut pipe::Unsent, data: &[u8]) {
        if !self.copied {
            unsent.push(&data[..self.end]);
            self.copied = true;
        }
    }
}

/// The reply to this may change what has to be restored on another backend.
fn changes_session(duty: Duty) -> bool {
    !matches!(duty, Duty::None | Duty::Ping | Duty::Eval | Duty::Evalsha | Duty::Script | Duty::Wait | Duty::Asking)
}

/// After this nothing is watched any more.
fn ends_watch(duty: Duty) -> bool {
    matches!(duty, Duty::Unwatch | Duty::Exec | Duty::Discard | Duty::Reset)
}

fn is_reply_mode(effect: Effect) -> bool {
    effect.command.name == "CLIENT|REPLY"
}

/// `+1700000000.123456 [0 127.0.0.1:1234] "get" "a"`
fn is_monitor_line(frame: &[u8]) -> bool {
    frame.first() == Some(&b'+') && frame.get(1).is_some_and(u8::is_ascii_digit)
}

/// The server's own words for "I am not, or not yet, the master"; anything else is the application's.
/// (Redis 7.0 server.c and blocked.c; Valkey keeps the texts.)
fn is_refusal(reply: &[u8], effect: Effect, after_a_refusal: bool) -> bool {
    const REFUSALS: [&[u8]; 5] = [
        b"-READONLY You can't write against a read only replica.",
        b"-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        b"-LOADING ",
        b"-UNBLOCKED force unblock from blocking operation, instance state changed",
        b"-REDIRECT ",
    ];
    const ABORT: &[u8] = b"-EXECABORT Transaction discarded because of: ";
    if reply.first() != Some(&b'-') {
        return false;
    }
    if let Some(cause) = reply.strip_prefix(ABORT) {
        return [&b"READONLY"[..], b"MASTERDOWN", b"LOADING"].iter().any(|word| cause.starts_with(word));
    }
    if effect.duty == Duty::Exec && after_a_refusal {
        return reply.starts_with(b"-EXECABORT Transaction discarded because of previous errors");
    }
    REFUSALS.iter().any(|refusal| reply.starts_with(refusal))
}
