//! Client to backend: each request is noted in the ledger before it is sent on, or held.
//!
//! No request is begun unless the phase is open (but for those of a MULTI whose queue exists on this master alone), and
//! none after the sight of a newer entry. What cannot be begun waits
//! in the inbox, which is bounded.

use super::front::pins;
use super::ledger::{Asked, DISCARD, Fate, Origin, no_replica};
use super::outbox::Forwarded;
use super::{
    ClientEnd, CloseReason, Core, Hear, LITTLE, OK, Phase, RESET, RESET_DONE, ReplyMode, Reuse, Standing, Turn,
    Uncounted, Upload, Writing,
};
use crate::drain::Stage;
use crate::resp::command::{Class, Duty, Effect, classify, classify_head};
use crate::resp::ordinary::{self, Run};
use crate::resp::request::{self, Args};
use crate::resp::scanner::{RequestScanner, Scan};

/// The server could not have acted on a part of a request: so much of one is kept until it is whole.
const SMALL_REQUEST: usize = 16 * 1024;
/// Bytes of a held client that are read ahead: enough to see its FIN behind an ordinary request.
const HELD_BYTES: usize = 64 * 1024;
/// Requests in flight on one connection before no more are begun.
const MOST_IN_FLIGHT: usize = 1024;

/// What becomes of a request.
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

impl Core {
    /// What is to be read of the client next. Begins what is in the inbox, where that may be.
    pub fn hear(&mut self, turn: &mut Turn<'_>) -> Result<Hear, CloseReason> {
        if self.phase.closing().is_some() {
            return Ok(Hear::Nothing);
        }
        if !self.takes_requests(turn) {
            return self.hear_ahead(turn);
        }
        if self.front.inbox.has_unscanned() {
            let before = self.front.inbox.len();
            let (held, scanned) = self.front.inbox.take();
            let end = self.begin(turn, &held, scanned);
            self.back.out.push_owned(held, end);
            // AUTH or HELLO waits for the replies before it, and those wake this session.
            let nothing_begun = self.front.inbox.len() == before && !self.phase.is_tunnel();
            return if nothing_begun { self.hear_ahead(turn) } else { Ok(Hear::Again) };
        }
        if self.front.end == ClientEnd::Read {
            return self.pass_end(turn);
        }
        Ok(Hear::Bytes(if turn.is_exhausted() { LITTLE } else { usize::MAX }))
    }

    /// Nothing can be begun: reads a little ahead, and notices when the client goes away.
    fn hear_ahead(&mut self, turn: &mut Turn<'_>) -> Result<Hear, CloseReason> {
        if self.front.end == ClientEnd::Read {
            return self.await_end(turn);
        }
        // One that does not take its replies is not waited on with a full inbox.
        let most = if turn.is_exhausted() || !self.front.out.is_empty() { LITTLE } else { HELD_BYTES };
        if self.front.inbox.len() < most && !self.front.is_uploading() {
            return Ok(Hear::Bytes(most));
        }
        match self.front.end {
            ClientEnd::Open => Ok(Hear::Leaving),
            ClientEnd::Left | ClientEnd::Read => self.await_end(turn),
        }
    }

    /// Nothing of the client waits, so there is nothing to do before it says more.
    #[inline]
    pub fn is_heard(&self) -> bool {
        self.front.inbox.is_empty() && self.back.out.is_empty() && self.front.end != ClientEnd::Read
    }

    /// The client has said this. Returns how much of it, from the beginning, is to be sent to the backend at once, before
    /// what waits there.
    pub fn client_bytes(&mut self, turn: &mut Turn<'_>, bytes: &[u8]) -> usize {
        if self.front.inbox.has_unscanned() || !self.takes_requests(turn) {
            self.front.inbox.extend(bytes);
            return 0;
        }
        if self.front.inbox.is_empty() {
            return self.begin(turn, bytes, 0);
        }
        let (mut held, scanned) = self.front.inbox.take();
        held.extend_from_slice(bytes);
        let end = self.begin(turn, &held, scanned);
        self.back.out.push_owned(held, end);
        0
    }

    /// Requests may be begun, or the one that was goes on.
    pub(super) fn takes_requests(&self, turn: &Turn<'_>) -> bool {
        self.sight == turn.sight
            && !matches!(self.phase, Phase::Finishing(_) | Phase::Failing | Phase::Closing(_))
            && self.back.is_up()
            && self.back.out.is_empty()
            && (self.front.is_uploading() || self.may_begin(turn))
    }

    /// A new request may be begun.
    #[inline]
    fn may_begin(&self, turn: &Turn<'_>) -> bool {
        let is_open = match self.phase {
            Phase::Flowing | Phase::Electing | Phase::Tunnel { open: true } => true,
            // It cannot be queued again elsewhere: its EXEC goes to where the queue is, while that is the master.
            Phase::Holding { withhold: true } => self.front.multi && self.front.is_queue_unkept(),
            _ => false,
        };
        is_open
            && self.back.up().is_some_and(|up| up.doubt.is_none() && up.writing != Writing::FinToUnblock)
            && !self.front.owed.is_barred()
            && self.front.owed.len() < MOST_IN_FLIGHT
            && self.front.out.is_empty()
            && (self.front.owed.is_empty() || !turn.is_exhausted())
            && turn.stage < Stage::Stopping
    }

    /// Bytes pass, in both directions, and nothing else is to be done: a turn need not look at anything more.
    #[inline]
    pub fn is_clear(&self, turn: &Turn<'_>) -> bool {
        self.phase == Phase::Flowing
            && turn.stage == Stage::Serving
            && self.takes_requests(turn)
            && self.front.inbox.is_empty()
            && self.front.end == ClientEnd::Open
            && !self.front.is_uploading()
            && !self.front.owed.has_answers()
            && turn.idle_ticks.wrapping_sub(self.front.active_at) < 2
            && self.held_since().is_none()
            && !turn.is_exhausted()
    }

    /// In a clear turn: `bytes` are ordinary requests and nothing else, which are noted and go on as they are. If not,
    /// nothing is done.
    #[inline]
    pub fn pass_requests(&mut self, turn: &mut Turn<'_>, bytes: &[u8]) -> bool {
        if self.sight != turn.sight || self.back.up().is_none_or(|up| up.standing == Standing::BeforeReset) {
            return false;
        }
        let run = self.run(turn, bytes);
        if run.bytes < bytes.len() {
            return false;
        }
        self.begin_run(turn, bytes, run);
        self.front.active_at = turn.idle_ticks;
        self.front.owed.sent_after(turn.sample);
        true
    }

    /// Takes the requests in `data`, of which `scanned` bytes were scanned before. Returns how much of it goes out as it
    /// is; what may not be begun becomes the inbox.
    fn begin(&mut self, turn: &mut Turn<'_>, data: &[u8], scanned: usize) -> usize {
        let small = if turn.is_exhausted() { LITTLE / 2 } else { SMALL_REQUEST };
        if self.back.up().is_some_and(|up| up.standing == Standing::BeforeReset) {
            self.reset_first(turn, data, small);
        }
        let (mut start, mut at) = (0, scanned);
        let mut out = Forwarded::of(data);
        while at < data.len() && !self.phase.is_tunnel() {
            if start == at && !self.front.is_uploading() {
                if !self.may_begin(turn) {
                    break;
                }
                let run = self.run(turn, &data[start..]);
                if run.count > 0 {
                    at = start + run.bytes;
                    self.begin_run(turn, &data[start..at], run);
                    out.pass(&mut self.back.out, start..at);
                    start = at;
                    continue;
                }
            }
            match self.front.scanner.scan(&data[at..]) {
                Scan::Frame(length) => {
                    let end = at + length;
                    if !self.begin_whole(turn, data, start, end, &mut out) {
                        at = start;
                        break;
                    }
                    at = end;
                    start = if self.phase.is_tunnel() { data.len() } else { end };
                }
                Scan::Partial => {
                    at = data.len();
                    let bytes = &data[start..];
                    if self.front.is_uploading() {
                        self.extend_request(turn, bytes, false);
                    } else if bytes.len() > small {
                        self.admit_head(turn, bytes);
                    } else {
                        break;
                    }
                    out.pass(&mut self.back.out, start..at);
                    start = at;
                }
                Scan::Invalid(_) => self.enter_tunnel(),
            }
        }
        if self.phase.is_tunnel() && start < data.len() {
            out.pass(&mut self.back.out, start..data.len());
            (start, at) = (data.len(), data.len());
        }
        self.front.active_at = turn.idle_ticks;
        self.front.owed.sent_after(turn.sample);
        if start < data.len() {
            self.front.inbox.keep(&data[start..], at.max(start) - start);
        }
        out.prefix()
    }

    /// A request ends at `end`. False if it has to wait.
    fn begin_whole(&mut self, turn: &mut Turn<'_>, data: &[u8], start: usize, end: usize, out: &mut Forwarded) -> bool {
        let bytes = &data[start..end];
        if self.front.is_uploading() {
            self.extend_request(turn, bytes, true);
            out.pass(&mut self.back.out, start..end);
            return true;
        }
        match self.admit(turn, bytes) {
            Admission::Send => out.pass(&mut self.back.out, start..end),
            Admission::SendInstead(instead) => out.replace(&mut self.back.out, instead),
            Admission::Answered => out.leave_out(&mut self.back.out),
            Admission::Tunnel => out.pass(&mut self.back.out, start..data.len()),
            Admission::Wait => {
                self.front.scanner = RequestScanner::default();
                return false;
            }
        }
        turn.counts.requests += 1;
        true
    }

    /// Puts a RESET in front of the first bytes, in the same write, if they are to be sent. A request that authenticates
    /// goes alone and makes the connection what it makes of a fresh one; if it fails, the RESET is due as before. (Since
    /// Redis 7.2 a failing one gets no reply behind another that is still to be sent, redis#15640.)
    ///
    /// Not behind blank lines: Valkey 8.1 reads what follows one as inline until a line with a word in it.
    #[cold]
    fn reset_first(&mut self, turn: &Turn<'_>, data: &[u8], small: usize) {
        match RequestScanner::default().scan(data) {
            Scan::Frame(_) if authenticates(data) => return,
            Scan::Partial if data.len() <= small => return,
            _ => {}
        }
        if let Some(up) = self.back.last_mut() {
            up.standing = Standing::Restored;
        }
        let own = Asked {
            origin: Origin::Proxy,
            fate: Fate::Swallow(RESET_DONE),
            keep: false,
            ..Asked::new(classify(RESET))
        };
        self.front.owed.push(own, RESET, turn.now);
        self.back.out.push(RESET);
    }

    /// The ordinary requests that `data` starts with, as far as they may be retained.
    #[inline]
    fn run(&mut self, turn: &Turn<'_>, data: &[u8]) -> Run {
        let front = &mut self.front;
        if front.reply_mode != ReplyMode::On || front.multi || front.listening || front.uncounted == Uncounted::Sent {
            return Run::default();
        }
        front.owed.trim();
        let room = turn.settings.retain_bytes.saturating_sub(front.owed.retained()).min(turn.room());
        ordinary::requests(data, MOST_IN_FLIGHT - front.owed.len(), room)
    }

    /// Notes a run.
    #[inline]
    fn begin_run(&mut self, turn: &mut Turn<'_>, bytes: &[u8], run: Run) {
        self.back.wrote_nothing &= !run.writes;
        self.front.owed.push_run(bytes, run.count);
        turn.counts.requests += run.count as u64;
    }

    /// A whole request is about to be sent on: notes it, or says why not.
    fn admit(&mut self, turn: &mut Turn<'_>, bytes: &[u8]) -> Admission {
        let effect = classify(bytes);
        if effect.command.name.is_empty() && !request::expects_reply(bytes) {
            // A RESET behind it is none to Valkey 8.1, which reads it as inline.
            self.back.limit_reuse(Reuse::Never);
            return Admission::Send;
        }
        if effect.duty == Duty::Client && is_reply_mode(effect) {
            return self.set_reply_mode(turn, effect, bytes);
        }
        if effect.duty == Duty::Reset && self.front.reply_mode == ReplyMode::Off {
            // RESET ends the silence before it answers (networking.c, resetCommand).
            self.front.reply_mode = ReplyMode::On;
        }
        if self.front.reply_mode != ReplyMode::On {
            return self.admit_unanswered(effect, bytes);
        }
        self.note_uses(effect);
        let is_barrier = match effect.duty {
            // A refused AUTH gets no reply unless nothing else is pending (redis#15640).
            Duty::Auth | Duty::Hello if !self.front.owed.is_empty() => return Admission::Wait,
            Duty::Auth | Duty::Hello => true,
            // Whether the next EXEC must answer nil is known when this has been answered.
            duty => self.front.state.is_watch_broken() && ends_watch(duty),
        };
        let admission = self.admit_answered(turn, effect, bytes);
        if is_barrier {
            self.front.owed.bar();
        }
        admission
    }

    /// Rules out what cannot be done with the backend any more.
    fn note_uses(&mut self, effect: Effect) {
        if pins(effect) {
            self.back.limit_reuse(Reuse::Never);
        } else if effect.duty == Duty::Client {
            self.back.limit_reuse(Reuse::ByItsClient);
        }
    }

    /// The same for a request that is answered, by the backend or here.
    fn admit_answered(&mut self, turn: &mut Turn<'_>, effect: Effect, bytes: &[u8]) -> Admission {
        let whole = Asked::new(effect);
        match effect.duty {
            Duty::Multi => self.front.multi = true,
            Duty::Exec if self.front.state.is_watch_broken() && self.front.multi => {
                self.front.multi = false;
                let effect = Effect { class: Class::Connection, ..effect };
                self.note(turn, Asked { effect, fate: Fate::Nothing, ..whole }, DISCARD);
                return Admission::SendInstead(DISCARD);
            }
            Duty::Exec | Duty::Discard | Duty::Reset => {
                self.note(turn, whole, bytes);
                self.front.multi = false;
                return Admission::Send;
            }
            Duty::Monitor if !self.front.multi => self.front.listening = true,
            Duty::Wait if self.back.wrote_nothing && !self.front.multi => {
                self.note(turn, whole, &[]);
                self.front.owed.answer_last(no_replica(effect));
                return Admission::Answered;
            }
            Duty::Client => self.front.listening |= effect.command.name == "CLIENT|TRACKING",
            Duty::Eval | Duty::Script => self.learn_script(turn, effect, bytes),
            Duty::Replication => return self.tunnel(),
            duty if (duty.is_pubsub() || duty == Duty::Monitor) && self.front.multi => return self.tunnel(),
            duty if duty.is_pubsub() => {
                self.front.listening = true;
                self.note(turn, whole, bytes);
                self.front.owed.owe(Args::new(bytes).count() as u32 - 1);
                return Admission::Send;
            }
            _ => {}
        }
        self.back.wrote_nothing &= effect.writes_nothing();
        let queued = self.front.multi && !matches!(effect.duty, Duty::Multi | Duty::Watch | Duty::Quit);
        let keep = effect.duty.changes_session() || self.may_retain(turn, bytes.len());
        self.note(turn, Asked { queued, keep, ..whole }, bytes);
        Admission::Send
    }

    /// Notes a request that will be answered.
    fn note(&mut self, turn: &Turn<'_>, asked: Asked, bytes: &[u8]) {
        if self.front.uncounted == Uncounted::Sent {
            self.front.uncounted = Uncounted::Followed;
        }
        self.front.owed.push(asked, bytes, turn.now);
    }

    /// CLIENT REPLY: OFF and SKIP get no reply themselves.
    fn set_reply_mode(&mut self, turn: &Turn<'_>, effect: Effect, bytes: &[u8]) -> Admission {
        self.back.limit_reuse(Reuse::Never);
        // With more arguments it is refused, and changes nothing.
        let mode = Args::new(bytes).nth(2).filter(|_| Args::new(bytes).count() == 3);
        let mode = mode.map(|mode| mode.to_ascii_uppercase()).unwrap_or_default();
        if self.front.multi || self.front.listening {
            return self.tunnel();
        }
        let whole = Asked::new(effect);
        match (mode.as_slice(), self.front.reply_mode) {
            (b"OFF", _) => self.front.reply_mode = ReplyMode::Off,
            (b"SKIP", ReplyMode::On) => self.front.reply_mode = ReplyMode::SkipNext,
            (b"SKIP", _) => {}
            (b"ON", _) => {
                self.front.reply_mode = ReplyMode::On;
                self.note(turn, whole, bytes);
            }
            (_, ReplyMode::On) => self.note(turn, whole, bytes),
            (_, ReplyMode::SkipNext) => self.front.reply_mode = ReplyMode::On,
            (_, ReplyMode::Off) => {}
        }
        if self.front.reply_mode != ReplyMode::On {
            self.front.uncounted = Uncounted::Sent;
        }
        Admission::Send
    }

    /// A request that the client wants no reply to: what it does to the session is taken to succeed.
    fn admit_unanswered(&mut self, effect: Effect, bytes: &[u8]) -> Admission {
        if effect.duty.is_pubsub() || matches!(effect.duty, Duty::Multi | Duty::Monitor | Duty::Replication) {
            return self.tunnel();
        }
        if self.front.reply_mode == ReplyMode::SkipNext {
            self.front.reply_mode = ReplyMode::On;
        }
        self.front.uncounted = Uncounted::Sent;
        self.back.wrote_nothing &= effect.writes_nothing();
        self.front.state.answered(effect, false);
        if effect.duty.changes_session() {
            self.front.state.delivered(effect, false, bytes, OK);
        }
        Admission::Send
    }

    /// Keeps what a client loads into the script cache, for the next master.
    fn learn_script(&self, turn: &Turn<'_>, effect: Effect, bytes: &[u8]) {
        let scripts = turn.scripts;
        match (effect.duty, effect.command.name) {
            (Duty::Eval, _) => _ = Args::new(bytes).nth(1).map(|body| scripts.learn(&body, self.term)),
            (_, "SCRIPT|LOAD") => _ = Args::new(bytes).nth(2).map(|body| scripts.learn(&body, self.term)),
            (_, "SCRIPT|FLUSH") => scripts.forget(),
            _ => {}
        }
    }

    /// A large request begins; the rest of it is still to come.
    fn admit_head(&mut self, turn: &Turn<'_>, head: &[u8]) {
        let effect = classify_head(head);
        let is_answered = self.front.reply_mode == ReplyMode::On;
        let changes = effect.duty.is_pubsub() || matches!(effect.duty, Duty::Monitor | Duty::Replication);
        if changes || (!is_answered && effect.duty.changes_session()) {
            return self.enter_tunnel();
        }
        self.back.wrote_nothing &= effect.writes_nothing();
        if effect.duty != Duty::None || pins(effect) {
            self.back.limit_reuse(Reuse::Never);
        }
        if !is_answered {
            self.front.upload = Upload::PartOfUnanswered;
            self.admit_unanswered(effect, head);
            return;
        }
        self.front.upload = Upload::PartOfRequest;
        let keep = self.may_retain(turn, head.len());
        self.note(turn, Asked { queued: self.front.multi, whole: false, keep, ..Asked::new(effect) }, head);
    }

    /// More of the large request that is on its way.
    fn extend_request(&mut self, turn: &Turn<'_>, bytes: &[u8], whole: bool) {
        let upload = self.front.upload;
        if whole {
            self.front.upload = Upload::Between;
        }
        if upload == Upload::PartOfUnanswered {
            return;
        }
        let keep = self.may_retain(turn, bytes.len());
        self.front.owed.extend_last(bytes, whole, keep, turn.now);
        if whole && let Some((effect, request)) = self.front.owed.last_whole() {
            self.learn_script(turn, effect, &request);
        }
    }

    fn tunnel(&mut self) -> Admission {
        if self.front.owed.has_answers() {
            return Admission::Wait; // made up here, and still owed
        }
        self.enter_tunnel();
        Admission::Tunnel
    }

    pub(super) fn enter_tunnel(&mut self) {
        self.phase = Phase::Tunnel { open: self.phase.is_open() };
        self.front.owed.forget_client();
    }

    fn may_retain(&self, turn: &Turn<'_>, bytes: usize) -> bool {
        self.front.owed.retained() + bytes <= turn.settings.retain_bytes && bytes <= turn.room()
    }

    /// Requests are refused: there is no master.
    pub fn is_failing(&self) -> bool {
        self.phase == Phase::Failing
    }

    /// No master: every whole request in the inbox is answered with an error. True if there were any.
    pub fn refuse_inbox(&mut self, turn: &mut Turn<'_>, reason: &str) -> bool {
        let (data, _) = self.front.inbox.take();
        let mut scanner = RequestScanner::default();
        let mut start = 0;
        while start < data.len()
            && let Scan::Frame(length) = scanner.scan(&data[start..])
        {
            let bytes = &data[start..start + length];
            if request::expects_reply(bytes) {
                let effect = classify(bytes);
                let tunnels = self.front.multi || self.front.listening;
                if is_reply_mode(effect) && !tunnels {
                    self.set_reply_mode(turn, effect, bytes);
                } else if self.front.reply_mode == ReplyMode::On {
                    let queued = self.front.multi;
                    self.note(turn, Asked { queued, ..Asked::new(effect) }, bytes);
                } else if self.front.reply_mode == ReplyMode::SkipNext {
                    self.front.reply_mode = ReplyMode::On;
                }
            }
            start += length;
        }
        self.front.scanner = RequestScanner::default();
        self.front.inbox.keep(&data[start..], 0);
        if start > 0 {
            self.fail_outstanding(turn, reason, start as u64);
        }
        start > 0
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
