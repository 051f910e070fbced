//! Backend to client: each reply settles a request of the ledger, and some are looked at on the way.
//!
//! The hot path sends from the scratch what it has read. What is not plain (errors, replies that change the session's
//! state, anything while a failover is under way) is judged whole; nothing overtakes what is held back.

use std::sync::PoisonError;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::lane::Lane;
use super::ledger::{Front, nothing};
use super::pipe::{Passed, Socket};
use super::splice::{LEAST, Pipe};
use super::{CloseReason, Gate, LITTLE, OK, Round, Session, backend, pool, refused};
use crate::resp::command::{Duty, Effect};
use crate::resp::request::Args;
use crate::resp::scanner::Scan;
use crate::topology::Report;

/// Withheld replies beyond this are left in the backend's socket.
const WITHHELD_BYTES: usize = 1024 * 1024;
/// A reply that changes the session's state is looked at whole up to this size.
const STATE_REPLY: usize = 64 * 1024;
/// How long after a switch -NOREPLICAS means "not yet".
const REPLICAS_RETURN: Duration = Duration::from_secs(5);
/// A longer error line is passed on unseen.
const ERROR_LINE: usize = 4 * 1024;

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
    pub(super) fn pump_replies(&mut self, cx: &mut Context<'_>, round: &mut Round) -> Result<bool, CloseReason> {
        if !self.to_client.is_empty() {
            match self.to_client.poll_flush(&mut self.client, cx) {
                Poll::Pending => return Ok(false),
                Poll::Ready(sent) => sent.map_err(|_| CloseReason::ClientClosed)?,
            }
        }
        if round.backend_drained && self.closing.is_none() && !self.ledger.has_answers() {
            return Ok(false);
        }
        let mut moved = self.deliver_answers(cx)?;
        if let (Some(reason), true) = (self.closing, self.to_client.is_empty()) {
            return Err(reason);
        }
        if round.backend_drained || !matches!(self.lane, Lane::Up(_)) {
            return Ok(moved);
        }
        let held_back = self.ledger.has_answers() || self.gate.withholds();
        let is_exhausted = self.is_exhausted();
        let most = if is_exhausted { LITTLE } else { WITHHELD_BYTES };
        if held_back && self.ledger.withheld_bytes() + self.reply_tail.len() > most {
            return Ok(moved);
        }
        if let Some(most) = self.splices().filter(|_| !is_exhausted)
            && let Some(pipe) = Pipe::take(&self.worker.spare)
        {
            return Ok(self.splice_body(cx, round, pipe, most)? | moved);
        }
        let Lane::Up(backend) = &mut self.lane else { return Ok(moved) };
        let most = if is_exhausted { LITTLE } else { round.scratch.len() };
        match backend.poll_read(cx, &mut round.scratch[..most]) {
            Poll::Pending => {
                round.backend_drained = true;
                return Ok(moved);
            }
            Poll::Ready(Ok(read)) if read > 0 => {
                self.worker.relay.bytes_down.add(read as u64);
                self.pass_replies(cx, &round.scratch[..read])?;
            }
            Poll::Ready(_) => self.lose_lane()?,
        }
        moved = true;
        Ok(moved)
    }

    /// How many of the backend's next bytes go to the client whatever they are, if they are many: all but the last of a
    /// body whose beginning was delivered.
    #[inline]
    fn splices(&self) -> Option<usize> {
        let most = self.replies.body_remaining() as usize;
        let is_passed = self.flags.partly_delivered && !self.is_tunnel && self.reply_tail.is_empty();
        (most > LEAST && is_passed).then(|| most - 1)
    }

    /// Moves the body of a large value without a look at it.
    fn splice_body(
        &mut self,
        cx: &mut Context<'_>,
        round: &mut Round,
        mut pipe: Pipe,
        most: usize,
    ) -> Result<bool, CloseReason> {
        let Lane::Up(backend) = &mut self.lane else { return Ok(false) };
        match pipe.poll_fill(cx, backend, most) {
            Poll::Pending => {
                pipe.give_back();
                round.backend_drained = true;
                return Ok(false);
            }
            Poll::Ready(Ok(filled)) if filled > 0 => {
                self.worker.relay.bytes_down.add(filled as u64);
                self.replies.skip_body(filled as u64);
                self.note_progress();
                self.to_client.push_pipe(pipe);
                if let Poll::Ready(Err(_)) = self.to_client.poll_flush(&mut self.client, cx) {
                    return Err(CloseReason::ClientClosed);
                }
            }
            Poll::Ready(_) => self.lose_lane()?,
        }
        Ok(true)
    }

    /// Delivers the answers at the front of the ledger: released, or made up for lost replies.
    fn deliver_answers(&mut self, cx: &mut Context<'_>) -> Result<bool, CloseReason> {
        if !self.ledger.has_answers() {
            return Ok(false);
        }
        if self.gate == Gate::Open && self.refused_at.is_none() {
            // Nothing is in doubt: what was kept only because lost replies are ahead of it goes with them.
            self.ledger.release(None);
        }
        let moved = self.take_answers();
        if self.ledger.is_empty() {
            self.flags.barrier = false;
        }
        if let Poll::Ready(Err(_)) = self.to_client.poll_flush(&mut self.client, cx) {
            return Err(CloseReason::ClientClosed);
        }
        Ok(moved)
    }

    /// Takes the answers at the front of the ledger that may be delivered; true if there were any.
    pub(super) fn take_answers(&mut self) -> bool {
        let mut taken = false;
        while let Some(front) = self.ledger.take_front() {
            taken = true;
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
        taken
    }

    pub(super) fn pass_replies(&mut self, cx: &mut Context<'_>, mut fresh: &[u8]) -> Result<(), CloseReason> {
        if self.flags.resetting {
            fresh = self.take_reset(fresh);
        }
        if fresh.is_empty() {
            return Ok(());
        }
        if self.reply_tail.is_empty() {
            return self.tap_replies(cx, fresh, 0);
        }
        let mut data = std::mem::take(&mut self.reply_tail);
        let scanned = data.len();
        data.extend_from_slice(fresh);
        self.tap_replies(cx, &data, scanned)
    }

    /// Takes the reply to our RESET from the front of `fresh`. Anything else in its place, and nobody knows as whom the
    /// requests behind it ran: nothing of their replies is delivered.
    #[cold]
    fn take_reset<'a>(&mut self, fresh: &'a [u8]) -> &'a [u8] {
        let seen = self.reply_tail.len();
        let more = fresh.len().min(pool::RESET_DONE.len() - seen);
        self.reply_tail.extend_from_slice(&fresh[..more]);
        if !pool::RESET_DONE.starts_with(&self.reply_tail) {
            pool::note_reset(self.term, false);
            self.closing.get_or_insert(CloseReason::UpstreamClosed);
            return &[];
        }
        if self.reply_tail.len() == pool::RESET_DONE.len() {
            self.reply_tail = Vec::new();
            self.flags.resetting = false;
        }
        &fresh[more..]
    }

    /// `data` begins inside the reply that was partly delivered, or with a reply of which `scanned` bytes were
    /// scanned before.
    fn tap_replies(&mut self, cx: &mut Context<'_>, data: &[u8], scanned: usize) -> Result<(), CloseReason> {
        let (mut start, mut at) = (0, scanned);
        let mut out = Passed::default();
        let mut replies = 0;
        // Ordinary replies at hand that the ledger was not told of yet.
        let mut ordinary = 0;
        while at < data.len() && !self.is_tunnel {
            match self.replies.scan(&data[at..]) {
                Scan::Frame(length) => {
                    at += length;
                    if self.is_ordinary(ordinary) {
                        out.pass(&mut self.to_client, data, start, at);
                        start = at;
                        ordinary += 1;
                        continue;
                    }
                    replies += self.settle_ordinary(&mut ordinary);
                    match self.sort(&data[start..at]) {
                        Frame::Reply(effect, queued) => {
                            replies += 1;
                            if self.is_plain(effect, queued) {
                                self.state.answered(effect, queued);
                                self.ledger.settle();
                                self.flags.partly_delivered = false;
                                out.pass(&mut self.to_client, data, start, at);
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
                            out.pass(&mut self.to_client, data, start, at);
                        }
                    }
                    start = at;
                    if self.is_finishing() && !(self.flags.partly_delivered || self.flags.passing_unasked) {
                        start = data.len(); // what follows is of the gap
                        break;
                    }
                }
                Scan::Partial => {
                    at = data.len();
                    replies += self.settle_ordinary(&mut ordinary);
                    self.note_progress();
                    if self.must_be_whole(&data[start..]) {
                        if start > 0 || scanned == 0 {
                            self.outage_mut().reply_begun_at = Some(Instant::now());
                        }
                        self.reply_tail = data[start..].to_vec();
                    } else {
                        let unasked = matches!(self.sort(&data[start..]), Frame::Unasked);
                        self.flags.passing_unasked |= unasked;
                        self.flags.partly_delivered |= !unasked;
                        out.pass(&mut self.to_client, data, start, at);
                    }
                    start = at;
                }
                Scan::Invalid(_) => self.is_tunnel = true,
            }
        }
        if start < data.len() {
            out.pass(&mut self.to_client, data, start, data.len()); // the tunnel
        }
        replies += self.settle_ordinary(&mut ordinary);
        self.worker.relay.replies.add(replies);
        if self.ledger.is_empty() {
            self.flags.barrier = false;
        }
        let sent = if out.is_copied() {
            match self.to_client.poll_flush(&mut self.client, cx) {
                Poll::Ready(sent) => sent,
                Poll::Pending => Ok(()),
            }
        } else {
            self.to_client.send(&mut self.client, cx, out.run(data))
        };
        sent.map_err(|_| CloseReason::ClientClosed)
    }

    /// Tells the ledger of ordinary replies, and returns how many they are.
    fn settle_ordinary(&mut self, ordinary: &mut usize) -> u64 {
        let replies = std::mem::take(ordinary);
        self.ledger.settle_ordinary(replies);
        replies as u64
    }

    /// The frame at hand is a reply that needs no look, as nearly all are; so many before it are not settled yet.
    #[inline]
    fn is_ordinary(&self, unsettled: usize) -> bool {
        !matches!(self.replies.kind(), b'-' | b'>')
            && self.ledger.ordinary() > unsettled
            && !(self.flags.listening || self.flags.partly_delivered || self.gate.withholds())
    }

    /// What the frame at hand is; of a longer one at least the first element is there.
    fn sort(&mut self, frame: &[u8]) -> Frame {
        let kind = self.replies.kind();
        let Some((effect, queued)) = self.ledger.expected() else { return Frame::Unasked };
        if !self.flags.listening || self.flags.partly_delivered {
            return if kind == b'>' { Frame::Unasked } else { Frame::Reply(effect, queued) };
        }
        if self.flags.passing_unasked {
            return Frame::Unasked;
        }
        match backend::announcement(frame).filter(|_| self.may_be_unasked(effect)) {
            Some(word) if effect.duty.is_pubsub() && word.ends_with(b"subscribe") => Frame::Confirmation(effect.duty),
            Some(_) => Frame::Unasked,
            None if self.state.is_monitoring() && is_monitor_line(frame) => Frame::Unasked,
            None if kind == b'>' => Frame::Unasked,
            None => Frame::Reply(effect, queued),
        }
    }

    /// A frame of this kind may be a message or a confirmation: a push, or in RESP2 an array while something is
    /// subscribed, when no other command is answered with one.
    pub(super) fn may_be_unasked(&self, effect: Effect) -> bool {
        match self.replies.kind() {
            b'>' => true,
            b'*' => !self.state.is_resp3() && (self.state.subscriptions() > 0 || effect.duty.is_pubsub()),
            _ => false,
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
                out.instead(&mut self.to_client, data, &held);
            }
            self.ledger.settle_one(|| count);
            out.pass(&mut self.to_client, data, start, end);
        }
        if let (Some(word), Some(name)) = (backend::element(frame, 0), backend::element(frame, 1)) {
            self.state.confirmed(word, name);
        }
    }

    /// The reply at hand may simply be passed on.
    fn is_plain(&self, effect: Effect, queued: bool) -> bool {
        !effect.duty.changes_session()
            && !queued
            && (self.flags.partly_delivered
                || (self.replies.kind() != b'-' && !self.ledger.has_answers() && !self.withholds(effect, queued)))
    }

    /// A failover is under way and this may be the reply to a write that the next master never got.
    fn withholds(&self, effect: Effect, queued: bool) -> bool {
        self.gate.withholds() && !is_harmless(effect, queued)
    }

    /// The beginning of a reply at the end of a read: keep it until the rest is there?
    fn must_be_whole(&mut self, tail: &[u8]) -> bool {
        if self.flags.partly_delivered || self.flags.passing_unasked {
            return false;
        }
        let expected = self.ledger.expected();
        if self.flags.listening
            && matches!(self.replies.kind(), b'*' | b'>')
            && expected.is_none_or(|(effect, _)| self.may_be_unasked(effect))
        {
            return match backend::announcement(tail) {
                Some(word) if word.ends_with(b"subscribe") => tail.len() <= STATE_REPLY,
                Some(_) => false,
                None => backend::element(tail, 0).is_none() && tail.len() <= ERROR_LINE,
            };
        }
        if self.ledger.has_answers() && self.replies.kind() != b'>' {
            return true;
        }
        match expected {
            _ if self.replies.kind() == b'>' => false,
            _ if self.replies.kind() == b'-' => tail.len() <= ERROR_LINE,
            Some((effect, queued)) => {
                self.withholds(effect, queued)
                    || ((effect.duty.changes_session() || queued) && tail.len() <= STATE_REPLY)
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
            Some(instead) => out.instead(&mut self.to_client, data, &instead),
            None => out.pass(&mut self.to_client, data, start, end),
        }
    }

    /// Just after a switch the replicas of the new master are still on their way (`min-replicas-to-write`): a refused
    /// write is sent again, unless something behind it may have run.
    fn may_wait_for_replicas(&self) -> bool {
        self.outage().moved_at.is_some_and(|at| at.elapsed() < REPLICAS_RETURN) && self.ledger.len() == 1
    }

    /// Takes note of what a reply does to the session's state; may say what to deliver in its place.
    fn delivered(&mut self, effect: Effect, queued: bool, request: &[u8], reply: &[u8]) -> Option<Vec<u8>> {
        self.state.answered(effect, queued);
        if !effect.duty.changes_session() && !queued {
            return None;
        }
        if effect.duty == Duty::Auth && backend::has_no_password(reply) && self.is_known_password(request) {
            // After a failover to a node without `requirepass` (the guide's replicas) everybody is let in.
            ::metrics::counter!(crate::metrics::AUTH_NOT_NEEDED).increment(1);
            self.state.delivered(effect, queued, request, OK);
            return Some(OK.to_vec());
        }
        if queued && self.is_exhausted() {
            self.state.forget_transaction();
        }
        let logs_in = matches!(effect.duty, Duty::Auth | Duty::Hello);
        if logs_in && (reply.starts_with(b"-WRONGPASS") || (effect.duty == Duty::Auth && reply.starts_with(b"-"))) {
            refused::note(self.client.addr());
        }
        let instead = (effect.duty == Duty::Exec && reply == OK).then(|| nothing(self.state.is_resp3()));
        let proved = self.state.delivered(effect, queued, request, reply);
        // The server has just looked, as it would have on a fresh connection.
        self.flags.stale &= proved.is_none();
        if let Some(credentials) = proved
            && self.settings.learn_credentials
        {
            let known = self.worker.credentials.lock().unwrap_or_else(PoisonError::into_inner);
            if known.as_ref() != Some(&credentials) {
                drop(known);
                self.worker.topology.report(Report::Credentials(credentials));
            }
        }
        match effect.duty {
            Duty::Multi if reply.first() == Some(&b'-') && !self.state.in_transaction() => {
                self.flags.multi = false;
                self.state.give_up("a refused MULTI");
            }
            Duty::Quit => _ = self.closing.get_or_insert(CloseReason::ClientClosed),
            _ => {}
        }
        instead
    }

    fn is_known_password(&self, request: &[u8]) -> bool {
        let known = self.worker.credentials.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = known.as_ref() else { return false };
        Args::new(request).last().is_some_and(|password| *password == *known.password.bytes())
    }
}

/// What a reply tells of changed no data: a read, or a request that MULTI has only queued.
pub(super) fn is_harmless(effect: Effect, queued: bool) -> bool {
    effect.writes_nothing() || queued
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
