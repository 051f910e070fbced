//! The judgement on each request when the old backend is given up: its reply stands, it is sent again, or it is lost.
//!
//! Sans-IO. What the new master may have run is sent again only if that is harmless or the user chose so (a blocking
//! pop: unless the user forbade it); what it has not run is sent again in its place, if it was
//! retained and its client still wants it.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use super::{Answer, Entry, Fate};
use crate::config::{OnLostPop, OnLostReply};
use crate::resp::command::{Class, Duty, Effect, Shape, Timeout, blocking_timeout};
use crate::resp::request::{Args, encode, with_arg};
use crate::session::CloseReason;

/// A request that does not block is sent again at most this often: a poison read must not kill master after master.
const MAX_REPLAYS: u8 = 2;
/// What a client is told of a write whose reply was lost. No word in it triggers a client's own retry.
pub const UNKNOWN_RESULT: &[u8] =
    b"-UNKNOWNRESULT the master failed over before it replied; the command may or may not have run\r\n";
/// Words at which clients reconnect and go on as if nothing were wrong (Laravel 8 to 13, redis-py, Sidekiq): none of
/// our errors has one.
const RETRIED: [&str; 13] = [
    "went away",
    "socket",
    "read error on connection",
    "connection lost",
    "lost connection",
    "error while reading",
    "readonly",
    "noreplicas",
    "unblocked",
    "reset by peer",
    "broken pipe",
    "failed to connect to",
    "server is shutting down",
];

/// The error of a lasting outage; the reason is left out where it has a word of `RETRIED`.
pub fn no_master(reason: &str) -> Vec<u8> {
    let lower = reason.to_ascii_lowercase();
    let is_fit = !RETRIED.iter().any(|word| lower.contains(word)) && !reason.contains(['\r', '\n']);
    format!("-MASTERDOWN switchmaster: {}\r\n", if is_fit { reason } else { "no master" }).into_bytes()
}

/// What is known when the old backend is given up.
#[derive(Clone, Copy, Debug)]
pub struct Judgement {
    /// Withheld replies received before this are on the new master.
    pub replicated_until: Option<Instant>,
    /// The old master has not closed the connection: with `replicated_until`, it lives, and has answered all that it ran.
    pub is_connected: bool,
    /// What was sent after the sample of the old master's offset with this number is not in the new master's history:
    /// it has not run there, whether the old one ran it or not.
    pub diverged_from: Option<u64>,
    /// What the client has been told is queued by MULTI does nothing outside the data set.
    pub queue_stays_in_data_set: bool,
    /// The present, for blocking commands.
    pub now: Instant,
    /// The client speaks RESP3: how "nothing" is spelt.
    pub resp3: bool,
    /// What the user wants for a lost reply.
    pub policy: OnLostReply,
    /// And for that of a blocking pop.
    pub on_lost_pop: OnLostPop,
    /// Bytes at the end of what was sent that never reached the old backend's socket.
    pub unsent: u64,
    /// Bytes of the front request's reply have been delivered.
    pub partly_delivered: bool,
    /// The session watches keys whose WATCH is lost with the backend.
    pub watching: bool,
    /// The client has said FIN, at which a server lets go of what blocks.
    pub half_closed: bool,
}

impl Judgement {
    /// The new master was promoted out of the old one's history.
    fn is_heir(&self) -> bool {
        self.replicated_until.is_some() || self.diverged_from.is_some()
    }

    /// The old master has answered all that it ran.
    fn old_lives(&self) -> bool {
        self.replicated_until.is_some() && self.is_connected
    }
}

/// How a judgement ended.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Requests to send to the new master, in order, as one run of bytes.
    pub again: Vec<u8>,
    /// How many that are.
    pub replayed: u64,
    /// Writes whose fate nobody can know.
    pub lost: u64,
}

/// Walks the requests in order, remembering what the earlier ones make of the later ones.
pub(super) struct Fates {
    judgement: Judgement,
    /// An earlier request is lost or sent again: replies of reads behind it may show what is no longer true.
    broken: bool,
    first: bool,
    /// An earlier request blocks: the old master, which has answered all that it ran, has not come to the later ones.
    blocked: bool,
    /// A MULTI, or what it queues, is sent again, and not yet what ends it.
    queues_again: bool,
    /// Bytes of unanswered requests that were sent.
    sent: u64,
    /// What stands in the queue that the next EXEC runs does nothing outside the data set.
    queue_stays_in_data_set: bool,
    /// An earlier request blocks for a client that has left: the server runs nothing behind it.
    has_left: bool,
}

impl Fates {
    /// `unanswered` is the number of bytes of all requests without an answer.
    pub(super) fn new(judgement: Judgement, unanswered: u64) -> Fates {
        Fates {
            judgement,
            broken: false,
            first: true,
            blocked: false,
            queues_again: false,
            sent: unanswered.saturating_sub(judgement.unsent),
            queue_stays_in_data_set: judgement.queue_stays_in_data_set,
            has_left: false,
        }
    }

    /// One of the proxy's own, which ends with the connection.
    pub(super) fn pass_over(&mut self, entry: &Entry) {
        if !entry.is_answered() {
            self.sent = self.sent.saturating_sub(entry.size);
        }
    }

    /// The entry's answer; `None` sends it again. `request` is what is retained of it.
    pub(super) fn of(&mut self, entry: &mut Entry, request: &[u8], verdict: &mut Verdict) -> Option<Answer> {
        if self.has_left {
            return Some(Answer::Close(CloseReason::ClientClosed));
        }
        let first = std::mem::take(&mut self.first);
        let is_absent = self.is_absent(entry, request);
        match entry.answer.take().map(|answer| *answer) {
            Some(Answer::Withheld { refused: true, .. }) => self.again_or_lost(entry, verdict),
            Some(Answer::Withheld { reply, at, .. }) => self.of_withheld(entry, reply, at, is_absent, verdict),
            Some(answer) => Some(answer),
            None => {
                let fully_sent = self.reach(entry);
                if first && self.judgement.partly_delivered {
                    return Some(Answer::Close(CloseReason::PartialReply));
                }
                self.of_unanswered(entry, fully_sent, is_absent, verdict)
            }
        }
    }

    /// The old master has replied.
    fn of_withheld(
        &mut self,
        entry: &mut Entry,
        reply: Vec<u8>,
        at: Instant,
        is_absent: bool,
        verdict: &mut Verdict,
    ) -> Option<Answer> {
        let harmless = entry.effect.writes_nothing() || entry.queued;
        // What was confirmed stays confirmed: the new connection is subscribed as it is restored.
        if harmless && self.broken && !entry.effect.duty.is_pubsub() {
            // A read may show what is no longer true. And a state of which the client does not know yet (MULTI, SELECT)
            // would not be restored for what is sent again behind it.
            return self.again_or_lost(entry, verdict);
        }
        // A blocking command that timed out has changed nothing.
        let timed_out = entry.effect.class == Class::Blocking && is_nothing(&reply);
        let is_replicated = self.judgement.replicated_until.is_some_and(|until| at < until);
        if harmless || timed_out || is_replicated {
            return Some(Answer::Ready(reply));
        }
        if is_absent {
            // The old master ran it, the new one did not, and the client knows of nothing.
            entry.replays = entry.replays.saturating_add(1);
            entry.left_behind = true;
            return self.again_or_lost(entry, verdict);
        }
        self.lost(entry, verdict)
    }

    /// Counts the entry's bytes among those sent; true if the old master has come to all of it, or may have.
    fn reach(&mut self, entry: &mut Entry) -> bool {
        let fully_sent = entry.whole && self.sent >= entry.size && !self.blocked;
        self.blocked |= fully_sent && entry.blocks() && self.judgement.old_lives();
        let may_run = self.sent > 0 && !self.blocked;
        entry.replays = entry.replays.saturating_add(u8::from(may_run));
        self.sent = self.sent.saturating_sub(entry.size);
        fully_sent
    }

    /// Nobody has replied.
    fn of_unanswered(
        &mut self,
        entry: &mut Entry,
        fully_sent: bool,
        is_absent: bool,
        verdict: &mut Verdict,
    ) -> Option<Answer> {
        // Where it was left behind, it may be back: only an heir of the last master surely lacks it.
        let has_run_aside = entry.left_behind && !self.judgement.is_heir();
        let may_run_twice = self.may_run_twice(entry, is_absent);
        match entry.effect.duty {
            // A WAIT on a fresh connection would lie: nothing written there yet, so 0 replicas have it.
            Duty::Wait if fully_sent && !entry.queued => Some(Answer::Ready(no_replica(entry.effect).to_vec())),
            _ if has_run_aside && !may_run_twice => self.lost(entry, verdict),
            _ if fully_sent && is_absent && !(may_run_twice || entry.queued) => {
                entry.left_behind = true;
                self.again_or_lost(entry, verdict)
            }
            Duty::Exec if fully_sent && entry.fate != Fate::Nothing => {
                self.broken = true;
                verdict.lost += 1;
                Some(Answer::Close(CloseReason::LostReply))
            }
            _ if !fully_sent || may_run_twice || entry.queued => self.again_or_lost(entry, verdict),
            _ => self.lost(entry, verdict),
        }
    }

    /// It does no harm if it runs once more, or the user chose so.
    fn may_run_twice(&self, entry: &Entry, is_absent: bool) -> bool {
        let Judgement { policy, on_lost_pop, .. } = self.judgement;
        match entry.effect.class {
            Class::Read | Class::Connection => true,
            // A master that lives has answered all that it ran: this one still blocks.
            Class::Blocking if self.judgement.old_lives() || is_absent => true,
            Class::Blocking => !entry.pops() || on_lost_pop == OnLostPop::Resend,
            Class::Idempotent => matches!(policy, OnLostReply::RetryIdempotent | OnLostReply::RetryAll),
            Class::Write => policy == OnLostReply::RetryAll,
            Class::Never => false,
        }
    }

    /// The new master's history surely lacks it, and it has no other effect that would be there twice.
    fn is_absent(&mut self, entry: &Entry, request: &[u8]) -> bool {
        let stays = match entry.effect.duty {
            Duty::Exec => std::mem::replace(&mut self.queue_stays_in_data_set, true),
            _ => u64::from(entry.kept) == entry.size && entry.effect.stays_in_data_set(request),
        };
        if entry.queued {
            self.queue_stays_in_data_set &= stays;
        }
        stays && self.judgement.diverged_from.is_some_and(|from| entry.sent_after >= from)
    }

    fn again_or_lost(&mut self, entry: &mut Entry, verdict: &mut Verdict) -> Option<Answer> {
        self.broken = true;
        if self.judgement.half_closed && entry.effect.class == Class::Blocking && !entry.queued {
            // The client may have left, and nobody would get what is popped.
            self.has_left = true;
            return Some(Answer::Close(CloseReason::ClientClosed));
        }
        if entry.effect.duty == Duty::Exec && self.judgement.watching {
            // What WATCH guarded may have changed: nil says "try again". A queue that is sent again has to end.
            if entry.whole && std::mem::take(&mut self.queues_again) {
                entry.fate = Fate::Nothing;
                entry.effect.class = Class::Connection;
                return None;
            }
            return Some(Answer::Ready(nothing(self.judgement.resp3)));
        }
        let is_whole = entry.kept as u64 == entry.size;
        // What blocks has done no harm so far, and may outlast any number of masters.
        if is_whole && (entry.replays <= MAX_REPLAYS || entry.effect.class == Class::Blocking) {
            match entry.effect.duty {
                Duty::Multi => self.queues_again = true,
                Duty::Exec | Duty::Discard | Duty::Reset => self.queues_again = false,
                _ => self.queues_again |= entry.queued,
            }
            return None;
        }
        // The rest of one that is not whole is still to come: no answer would fit there.
        // And what follows a MULTI that is not sent again would run by itself.
        if is_whole && entry.whole && entry.effect.duty != Duty::Multi {
            return self.lost(entry, verdict);
        }
        verdict.lost += 1;
        Some(Answer::Close(CloseReason::NotReplayable))
    }

    fn lost(&mut self, entry: &Entry, verdict: &mut Verdict) -> Option<Answer> {
        self.broken = true;
        verdict.lost += 1;
        let policy = entry.policy(self.judgement.policy, self.judgement.on_lost_pop);
        Some(ending(entry.effect, entry.queued, UNKNOWN_RESULT, policy, CloseReason::LostReply))
    }
}

/// How a request ends that gets no reply: an error where its client reads errors, else a close. Clients read an error
/// to an aggregate as "empty"; to a script (shape unknown) phpredis and predis throw, and keep connection and database.
/// HELLO is answered with a map, and whoever sends it reads an error: servers before 6 give one.
pub(super) fn ending(
    effect: Effect,
    queued: bool,
    error: &[u8],
    policy: OnLostReply,
    otherwise: CloseReason,
) -> Answer {
    let reads_errors = effect.shape != Shape::Aggregate || effect.duty == Duty::Hello;
    if reads_errors && !queued && policy != OnLostReply::Close {
        Answer::Ready(error.to_vec())
    } else {
        Answer::Close(otherwise)
    }
}

/// A blocking request with the time that is left of its time-out; `None` when none is left. 0 stays "for ever", and
/// what is no time-out is left for the server to refuse.
pub(super) fn with_time_left(request: &[u8], waited: Duration) -> Option<Vec<u8>> {
    let Some((index, unit)) = blocking_timeout(request) else { return Some(request.to_vec()) };
    let timeout = Args::new(request).nth(index).and_then(|arg| std::str::from_utf8(&arg).ok()?.parse().ok());
    let timeout: f64 = timeout.unwrap_or_default();
    if timeout <= 0.0 || !timeout.is_finite() {
        return Some(request.to_vec());
    }
    let left = match unit {
        Timeout::Seconds => timeout - waited.as_secs_f64(),
        Timeout::Millis => timeout - waited.as_secs_f64() * 1e3,
    };
    (left > 0.0).then(|| {
        // 0 would be for ever.
        let left =
            if unit == Timeout::Seconds { format!("{:.3}", left.max(0.001)) } else { format!("{:.0}", left.ceil()) };
        with_arg(request, index, left.as_bytes())
    })
}

/// SUBSCRIBE and the like, of whose names some were confirmed: the names whose confirmation is still owed.
pub(super) fn without_confirmed(request: &[u8], effect: Effect, owed: u32) -> Option<Vec<u8>> {
    if !effect.duty.is_pubsub() || owed == 0 {
        return None;
    }
    let args: Vec<Cow<'_, [u8]>> = Args::new(request).collect();
    let names = args.len().checked_sub(1)?;
    let confirmed = names.checked_sub(owed as usize)?;
    let left: Vec<&[u8]> = args.iter().take(1).chain(args.iter().skip(1 + confirmed)).map(|arg| arg.as_ref()).collect();
    Some(encode(&left))
}

/// What WAIT and WAITAOF answer when nothing was written on this master yet.
pub fn no_replica(effect: Effect) -> &'static [u8] {
    if effect.command.name == "WAITAOF" { b"*2\r\n:0\r\n:0\r\n" } else { b":0\r\n" }
}

/// The answer of a blocking command that timed out, and of an EXEC whose WATCH failed.
pub fn nothing(resp3: bool) -> Vec<u8> {
    if resp3 { b"_\r\n".to_vec() } else { b"*-1\r\n".to_vec() }
}

pub(super) fn is_nothing(reply: &[u8]) -> bool {
    matches!(reply, b"*-1\r\n" | b"$-1\r\n" | b"_\r\n")
}
