//! Backend to client: each reply settles a request of the ledger, and some are looked at on the way.
//!
//! The hot path passes what it was given. What is not plain (errors, replies that change the session's state, anything
//! while a failover is under way) is judged whole; nothing overtakes what is held back.

use std::ops::Range;
use std::time::Duration;

use super::ledger::{Answered, Delivery, Fate, nothing};
use super::outbox::Forwarded;
use super::{Action, CloseReason, Core, Doubt, Download, Front, LITTLE, OK, Phase, Refusal, Standing, Take, Turn};
use crate::node::{auth, refusal};
use crate::resp::command::{Duty, Effect};
use crate::resp::ordinary;
use crate::resp::reply::{announcement, element};
use crate::resp::request::Args;
use crate::resp::scanner::{ReplyScanner, Scan};
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
    /// The reply to a request of the proxy's own, which must be this.
    Own(&'static [u8]),
    /// One of the confirmations that a SUBSCRIBE or UNSUBSCRIBE is owed.
    Confirmation(Duty),
    /// Said unasked: a push, a message, a line of MONITOR, the words with which a server refuses a connection.
    Unasked,
}

impl Core {
    /// How much is to be read of the backend next; `None`: nothing now.
    pub fn reads_backend(&self, turn: &Turn<'_>) -> Option<Take> {
        let up = self.back.up()?;
        let is_exhausted = turn.is_exhausted();
        let most = if is_exhausted { LITTLE } else { WITHHELD_BYTES };
        let held_back = self.front.owed.has_answers() || self.phase.withholds();
        if held_back && self.front.owed.withheld_bytes() + up.tail.len() > most {
            return None;
        }
        // All but the last of a body whose beginning was delivered.
        let is_passed = up.download == Download::PartOfReply && !self.phase.is_tunnel() && up.tail.is_empty();
        let body = if is_passed && !is_exhausted { up.scanner.body_remaining().saturating_sub(1) as usize } else { 0 };
        Some(Take { most: if is_exhausted { LITTLE } else { usize::MAX }, body })
    }

    /// So many bytes of [`Take::body`] are in the driver's pipe.
    pub fn body_taken(&mut self, count: usize) {
        if let Some(up) = self.back.last_mut() {
            up.scanner.skip_body(count as u64);
        }
        self.note_progress();
        self.front.out.piped(count);
    }

    /// Delivers the answers at the front of the ledger: released, or made up for lost replies. True if there were any.
    pub fn deliver(&mut self, turn: &mut Turn<'_>) -> bool {
        if !self.front.owed.has_answers() {
            return false;
        }
        if self.phase == Phase::Flowing && self.back.doubt().is_none() {
            // Nothing is in doubt: what was kept only because lost replies are ahead of it goes with them.
            self.front.owed.release(None);
        }
        let taken = self.take_answers(turn);
        self.front.settle();
        taken
    }

    /// Takes the answers at the front of the ledger that may be delivered; true if there were any.
    pub(super) fn take_answers(&mut self, turn: &mut Turn<'_>) -> bool {
        let mut taken = false;
        while let Some(delivery) = self.front.owed.take_front() {
            taken = true;
            match delivery {
                Delivery::Reply { reply, to } => {
                    let reply = self.delivered(turn, &to, &reply).unwrap_or(reply);
                    self.front.out.push(&reply);
                }
                Delivery::Close(reason) => {
                    self.phase.close(reason);
                    self.front.owed.clear(); // what is behind it must not be taken for its answer
                    break;
                }
            }
        }
        taken
    }

    /// In a clear turn: `bytes` are ordinary replies and nothing else, which settle their requests and go to the client as
    /// they are. If not, nothing is done. (None of these is ever held back, so that no time is needed.)
    #[inline]
    pub fn pass_replies(&mut self, turn: &mut Turn<'_>, bytes: &[u8]) -> bool {
        if !self.back.up().is_some_and(|up| up.tail.is_empty() && up.scanner.at_boundary()) {
            return false;
        }
        let run = ordinary::replies(bytes, self.ordinary());
        if run.bytes < bytes.len() {
            return false;
        }
        self.settle_ordinary(turn, run.count);
        self.front.active_at = turn.idle_ticks;
        self.front.settle();
        true
    }

    /// The backend has said this. Returns how much of it, from the beginning, is for the client as it is, behind what
    /// waits there.
    pub fn backend_bytes(&mut self, turn: &mut Turn<'_>, fresh: &[u8]) -> usize {
        let mut data = self.back.take_tail();
        if data.is_empty() {
            return self.tap(turn, fresh, 0);
        }
        let scanned = data.len();
        data.extend_from_slice(fresh);
        let end = self.tap(turn, &data, scanned);
        self.front.out.push_owned(data, end);
        0
    }

    /// `data` begins inside the reply that was partly delivered, or with a reply of which `scanned` bytes were
    /// scanned before. Returns how much of it is delivered as it is.
    fn tap(&mut self, turn: &mut Turn<'_>, data: &[u8], scanned: usize) -> usize {
        let Some(up) = self.back.last_mut() else { return 0 };
        let mut scanner = std::mem::take(&mut up.scanner);
        let (mut start, mut at) = (0, scanned);
        let mut out = Forwarded::of(data);
        // Replies that need no look, as nearly all: those to come, and those at hand of which the ledger does not know yet.
        let (mut expected, mut ordinary) = (self.ordinary(), 0);
        while at < data.len() && (!self.phase.is_tunnel() || self.front.owed.awaits_own()) {
            if ordinary < expected && start == at && scanner.at_boundary() {
                let run = ordinary::replies(&data[at..], expected - ordinary);
                if run.count > 0 {
                    at += run.bytes;
                    out.pass(&mut self.front.out, start..at);
                    start = at;
                    ordinary += run.count;
                    continue;
                }
            }
            match scanner.scan(&data[at..]) {
                Scan::Frame(length) => {
                    at += length;
                    if ordinary < expected && !matches!(scanner.kind(), b'-' | b'>') {
                        out.pass(&mut self.front.out, start..at);
                        start = at;
                        ordinary += 1;
                        continue;
                    }
                    self.settle_ordinary(turn, std::mem::take(&mut ordinary));
                    let goes_on = self.take_frame(turn, scanner.kind(), data, start..at, &mut out);
                    start = if goes_on { at } else { data.len() };
                    if !goes_on {
                        break;
                    }
                    expected = self.ordinary();
                }
                Scan::Partial => {
                    at = data.len();
                    self.settle_ordinary(turn, std::mem::take(&mut ordinary));
                    self.take_part(turn, &scanner, data, start, scanned, &mut out);
                    start = at;
                }
                Scan::Invalid(_) if self.front.owed.awaits_own() => {
                    self.distrust(turn, &mut out);
                    break;
                }
                Scan::Invalid(_) => {
                    self.phase = Phase::Tunnel { open: self.phase.is_open() };
                    break;
                }
            }
        }
        if start < data.len() && self.phase.is_tunnel() {
            out.pass(&mut self.front.out, start..data.len());
        }
        self.settle_ordinary(turn, ordinary);
        if let Some(up) = self.back.last_mut() {
            up.scanner = scanner;
        }
        self.front.active_at = turn.idle_ticks;
        self.front.settle();
        out.prefix()
    }

    /// A whole message; false if what follows is not looked at.
    fn take_frame(
        &mut self,
        turn: &mut Turn<'_>,
        kind: u8,
        data: &[u8],
        frame: Range<usize>,
        out: &mut Forwarded<'_>,
    ) -> bool {
        let bytes = &data[frame.clone()];
        match self.sort(kind, bytes) {
            Frame::Reply(effect, queued) => {
                turn.counts.replies += 1;
                if self.is_plain(kind, effect, queued) {
                    self.front.state.answered(effect, queued);
                    self.front.owed.settle();
                    self.back.set_download(Download::Between);
                    out.pass(&mut self.front.out, frame);
                } else if self.back.download() == Download::PartOfReply || !self.hold_back(turn, effect, queued, bytes)
                {
                    self.deliver_frame(turn, kind, bytes, frame, out);
                }
            }
            Frame::Own(expected) => {
                if bytes != expected {
                    return self.distrust(turn, out);
                }
                self.front.owed.settle();
                out.leave_out(&mut self.front.out);
            }
            Frame::Confirmation(duty) => {
                turn.counts.replies += 1;
                self.confirm(turn, duty, bytes, frame, out);
            }
            Frame::Unasked => {
                self.back.set_download(Download::Between);
                out.pass(&mut self.front.out, frame);
            }
        }
        // What follows the message that was waited for is of a master that was left.
        !(self.phase.is_finishing() && self.back.download() == Download::Between)
    }

    /// The beginning of a message, at the end of what is there.
    fn take_part(
        &mut self,
        turn: &mut Turn<'_>,
        scanner: &ReplyScanner,
        data: &[u8],
        start: usize,
        scanned: usize,
        out: &mut Forwarded<'_>,
    ) {
        let (kind, part) = (scanner.kind(), &data[start..]);
        self.note_progress();
        let frame = self.sort(kind, part);
        let is_own = matches!(frame, Frame::Own(_));
        if let Frame::Own(expected) = frame
            && !expected.starts_with(part)
        {
            self.distrust(turn, out);
        } else if is_own || self.must_be_whole(kind, part) {
            if start > 0 || scanned == 0 {
                self.outage_mut().reply_begun_at = Some(turn.now);
            }
            if let Some(up) = self.back.last_mut() {
                up.tail = part.into();
            }
        } else {
            match frame {
                Frame::Unasked => self.back.set_download(Download::PartOfUnasked),
                _ if self.back.download() == Download::Between => self.back.set_download(Download::PartOfReply),
                _ => {}
            }
            out.pass(&mut self.front.out, start..data.len());
        }
    }

    /// The proxy's own request was not answered as it must be: nobody knows as whom the requests behind it ran, and
    /// nothing of their replies is delivered.
    #[cold]
    fn distrust(&mut self, turn: &mut Turn<'_>, out: &mut Forwarded<'_>) -> bool {
        turn.actions.push(Action::NoReset);
        out.leave_out(&mut self.front.out);
        self.phase.close(CloseReason::UpstreamClosed);
        false
    }

    /// Lets the ledger know of ordinary replies.
    #[inline]
    fn settle_ordinary(&mut self, turn: &mut Turn<'_>, replies: usize) {
        self.front.owed.settle_ordinary(replies);
        turn.counts.replies += replies as u64;
    }

    /// How many of the next replies, if they are neither errors nor pushes, need no look.
    #[inline]
    fn ordinary(&self) -> usize {
        let looks = self.front.listening || self.back.download() == Download::PartOfReply || self.phase.withholds();
        if looks { 0 } else { self.front.owed.ordinary() }
    }

    /// What the frame at hand is; of a longer one at least the first element is there.
    fn sort(&mut self, kind: u8, frame: &[u8]) -> Frame {
        let Some((effect, queued)) = self.front.owed.expected() else { return Frame::Unasked };
        if let Fate::Swallow(expected) = self.front.owed.next_fate() {
            return Frame::Own(expected);
        }
        let download = self.back.download();
        if !self.front.listening || download == Download::PartOfReply {
            return if kind == b'>' { Frame::Unasked } else { Frame::Reply(effect, queued) };
        }
        if download == Download::PartOfUnasked {
            return Frame::Unasked;
        }
        match announcement(frame).filter(|_| self.may_be_unasked(kind, effect)) {
            Some(word) if effect.duty.is_pubsub() && word.ends_with(b"subscribe") => Frame::Confirmation(effect.duty),
            Some(_) => Frame::Unasked,
            None if self.front.state.is_monitoring() && is_monitor_line(frame) => Frame::Unasked,
            None if kind == b'>' => Frame::Unasked,
            None => Frame::Reply(effect, queued),
        }
    }

    /// A frame of this kind may be a message or a confirmation: a push, or in RESP2 an array while something is
    /// subscribed, when no other command is answered with one.
    pub(super) fn may_be_unasked(&self, kind: u8, effect: Effect) -> bool {
        match kind {
            b'>' => true,
            b'*' => {
                let state = &self.front.state;
                !state.is_resp3() && (state.subscriptions() > 0 || effect.duty.is_pubsub())
            }
            _ => false,
        }
    }

    /// One of the confirmations of a SUBSCRIBE or UNSUBSCRIBE.
    fn confirm(&mut self, turn: &Turn<'_>, duty: Duty, bytes: &[u8], frame: Range<usize>, out: &mut Forwarded<'_>) {
        let Front { owed, state, out: to_client, .. } = &mut self.front;
        let count = state.confirmations(duty);
        if owed.has_answers() {
            // The state follows at once: nothing is judged before the replies ahead of it.
            owed.withhold_one(bytes, turn.now, || count);
        } else {
            if let Some(held) = owed.take_part() {
                out.replace(to_client, &held);
            }
            owed.settle_one(|| count);
            out.pass(to_client, frame);
        }
        if let (Some(word), Some(name)) = (element(bytes, 0), element(bytes, 1)) {
            state.confirmed(word, name, count_of(bytes));
        }
        if turn.is_exhausted() {
            state.make_do();
        }
    }

    /// The reply at hand may simply be passed on.
    fn is_plain(&self, kind: u8, effect: Effect, queued: bool) -> bool {
        !effect.duty.changes_session()
            && !queued
            && (self.back.download() == Download::PartOfReply
                || (kind != b'-' && !self.front.owed.has_answers() && !self.withholds(effect, queued)))
    }

    /// A failover is under way and this may be the reply to a write that the next master never got.
    fn withholds(&self, effect: Effect, queued: bool) -> bool {
        self.phase.withholds() && !is_harmless(effect, queued)
    }

    /// The beginning of a reply at the end of a read: keep it until the rest is there?
    fn must_be_whole(&mut self, kind: u8, tail: &[u8]) -> bool {
        if self.back.download() != Download::Between {
            return false;
        }
        let expected = self.front.owed.expected();
        if self.front.listening
            && matches!(kind, b'*' | b'>')
            && expected.is_none_or(|(effect, _)| self.may_be_unasked(kind, effect))
        {
            return match announcement(tail) {
                Some(word) if word.ends_with(b"subscribe") => tail.len() <= STATE_REPLY,
                Some(_) => false,
                None => element(tail, 0).is_none() && tail.len() <= ERROR_LINE,
            };
        }
        if self.front.owed.has_answers() && kind != b'>' {
            return true;
        }
        match expected {
            _ if kind == b'>' => false,
            _ if kind == b'-' => tail.len() <= ERROR_LINE,
            Some((effect, queued)) => {
                self.withholds(effect, queued)
                    || ((effect.duty.changes_session() || queued) && tail.len() <= STATE_REPLY)
            }
            None => false,
        }
    }

    /// Delivers the reply to the front request, which may change the session's state.
    fn deliver_frame(
        &mut self,
        turn: &mut Turn<'_>,
        kind: u8,
        reply: &[u8],
        frame: Range<usize>,
        out: &mut Forwarded<'_>,
    ) {
        let was_passed = self.back.download() == Download::PartOfReply;
        let Some(asked) = self.front.owed.take_unanswered() else { return };
        self.back.set_download(Download::Between);
        // Of a reply that was partly delivered only its kind is still known, and that is all that EXEC needs.
        let kind = [kind];
        let seen = if was_passed { &kind[..] } else { reply };
        match self.delivered(turn, &asked, seen) {
            Some(instead) => out.replace(&mut self.front.out, &instead),
            None => out.pass(&mut self.front.out, frame),
        }
    }

    /// Keeps a reply in the ledger if it is a refusal, if others ahead of it are kept, or if the next master may lack what
    /// it is the reply to.
    fn hold_back(&mut self, turn: &mut Turn<'_>, effect: Effect, queued: bool, reply: &[u8]) -> bool {
        let doubt = self.back.doubt();
        let wants_replicas = refusal::is_too_few_replicas(reply) && self.may_wait_for_replicas(turn);
        let refused = wants_replicas || refusal::is_of_no_master(reply, effect.duty == Duty::Exec, doubt.is_some());
        if !(refused || self.front.owed.has_answers() || self.withholds(effect, queued)) {
            return false;
        }
        self.front.owed.withhold(reply, turn.now, refused);
        turn.counts.withheld += 1;
        if refused && doubt.is_none() {
            let why = if wants_replicas { Refusal::TooFewReplicas } else { Refusal::NotMaster };
            self.back.set_doubt(Some(Doubt { since: turn.now, why }));
            if !wants_replicas {
                turn.report(Report::Refused { term: self.term });
            }
        }
        true
    }

    /// Just after a switch the replicas of the new master are still on their way (`min-replicas-to-write`): a refused
    /// write is sent again, unless something behind it may have run.
    fn may_wait_for_replicas(&self, turn: &Turn<'_>) -> bool {
        let moved_at = self.outage().moved_at;
        moved_at.is_some_and(|at| turn.now.saturating_duration_since(at) < REPLICAS_RETURN)
            && self.front.owed.len() == 1
    }

    /// Takes note of what a reply does to the session's state; may say what to deliver in its place.
    fn delivered(&mut self, turn: &mut Turn<'_>, to: &Answered, reply: &[u8]) -> Option<Vec<u8>> {
        let Answered { effect, queued, fate, ref request } = *to;
        let state = &mut self.front.state;
        state.answered(effect, queued);
        if !effect.duty.changes_session() && !queued {
            return None;
        }
        if effect.duty == Duty::Auth && auth::is_not_needed(reply) && is_known_password(turn, request) {
            // After a failover to a node without `requirepass` (the guide's replicas) everybody is let in.
            turn.counts.auth_not_needed += 1;
            state.delivered(effect, queued, request, OK);
            return Some(OK.to_vec());
        }
        if queued && turn.is_exhausted() {
            state.forget_transaction();
        }
        let logs_in = matches!(effect.duty, Duty::Auth | Duty::Hello);
        if logs_in && (reply.starts_with(b"-WRONGPASS") || (effect.duty == Duty::Auth && reply.starts_with(b"-"))) {
            turn.actions.push(Action::LoginRefused);
        }
        let instead = (fate == Fate::Nothing && reply == OK).then(|| nothing(state.is_resp3()));
        if let Some(proved) = state.delivered(effect, queued, request, reply) {
            // The server has just looked, as it would have on a fresh connection.
            if let Some(up) = self.back.last_mut() {
                up.standing = Standing::Restored;
            }
            turn.credentials.offer(proved);
        }
        if turn.is_exhausted() {
            self.front.state.make_do();
        }
        match effect.duty {
            Duty::Multi if reply.first() == Some(&b'-') && !self.front.state.in_transaction() => {
                self.front.multi = false;
                self.front.state.give_up("a refused MULTI");
            }
            Duty::Quit => self.phase.close(CloseReason::ClientClosed),
            Duty::Reset if reply.first() != Some(&b'-') && self.front.owed.is_empty() => self.back.allow_reuse(),
            _ => {}
        }
        instead
    }
}

/// The number at the end of a confirmation.
fn count_of(confirmation: &[u8]) -> Option<usize> {
    let line = confirmation.strip_suffix(b"\r\n")?;
    let number = &line[line.iter().rposition(|byte| *byte == b':')? + 1..];
    std::str::from_utf8(number).ok()?.parse().ok()
}

fn is_known_password(turn: &Turn<'_>, request: &[u8]) -> bool {
    Args::new(request).last().is_some_and(|password| turn.credentials.is_password(&password))
}

/// What the reply is to changed no data: a read, or a request that MULTI has only queued.
pub(super) fn is_harmless(effect: Effect, queued: bool) -> bool {
    effect.writes_nothing() || queued
}

/// `+1700000000.123456 [0 127.0.0.1:1234] "get" "a"`
fn is_monitor_line(frame: &[u8]) -> bool {
    frame.first() == Some(&b'+') && frame.get(1).is_some_and(u8::is_ascii_digit)
}
