//! The requests whose replies are still owed to the client, with the bytes to send them again.
//!
//! Sans-IO: it keeps order, and `fate` judges; it neither reads a clock nor touches a socket. Requests are in the order
//! in which they were sent, and no reply is delivered before those of all requests ahead of it. What exceeds the
//! retention limits is marked not-replayable, never truncated.
//!
//! Each entry has an [`Origin`]: the client, or the proxy itself, whose requests are on the same connection. What the
//! backend replies is delivered, or swallowed, or another reply is made up in its place: the entry's [`Fate`].

use std::borrow::Cow;
use std::cell::RefCell;
use std::time::Instant;

use crate::config::{OnLostPop, OnLostReply};
use crate::resp::command::{Class, Duty, Effect, classify};
use crate::session::CloseReason;

mod book;
mod fate;
mod retained;

use book::{Answer, Book, Entry, Run};
pub use book::{Asked, Fate, Origin};
use fate::{Fates, ending, with_time_left, without_confirmed};
pub use fate::{Judgement, UNKNOWN_RESULT, Verdict, no_master, no_replica, nothing};
use retained::Retained;

thread_local! {
    /// Emptied books, so that a request costs no allocation and an idle session keeps none.
    #[allow(clippy::vec_box, reason = "the box is what a ledger holds: it moves in and out without an allocation")]
    static POOL: RefCell<Vec<Box<Book>>> = const { RefCell::new(Vec::new()) };
}
/// What is sent for an EXEC that must answer nil.
pub const DISCARD: &[u8] = b"*1\r\n$7\r\nDISCARD\r\n";
const POOL_SIZE: usize = 256;
const POOLED_BYTES: usize = 16 * 1024;
const POOLED_ENTRIES: usize = 64;

/// The ledger of one session. Empty, it is one null pointer.
#[derive(Debug, Default)]
pub struct Ledger(Option<Box<Book>>);

/// The request at the front, ready for its client.
#[derive(Debug)]
pub enum Delivery {
    /// An answer to deliver.
    Reply {
        /// The bytes for the client.
        reply: Vec<u8>,
        /// The request.
        to: Answered,
    },
    /// Close the connection now.
    Close(CloseReason),
}

/// A request that the client is about to be answered: what the reply does to the session's state depends on it.
#[derive(Debug)]
pub struct Answered {
    /// What it does.
    pub effect: Effect,
    /// It was queued by MULTI.
    pub queued: bool,
    /// What becomes of the backend's reply.
    pub fate: Fate,
    /// Its bytes, empty if they were not retained.
    pub request: Vec<u8>,
}

impl Ledger {
    /// No reply is owed.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Requests whose replies are owed, by the backend or to the client.
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |book| book.entries.len() + book.run.owed)
    }

    /// Memory held besides the bytes of [`Ledger::retained`]: for the entries, and for replies that are held back.
    pub fn held_bytes(&self) -> usize {
        let Some(book) = &self.0 else { return 0 };
        let slack = book.retained.capacity() - book.retained.len();
        book.entries.capacity() * size_of::<Entry>() + slack + self.withheld_bytes()
    }

    /// Bytes retained for replay.
    pub fn retained(&self) -> usize {
        self.0.as_ref().map_or(0, |book| book.retained.len())
    }

    /// The same, of all ledgers of this thread.
    pub fn retained_by_thread() -> usize {
        Retained::by_thread()
    }

    /// The request noted last, if the whole of it is retained.
    pub fn last_whole(&self) -> Option<(Effect, Vec<u8>)> {
        let book = self.0.as_ref()?;
        let last = book.entries.back().filter(|last| last.whole && u64::from(last.kept) == last.size)?;
        let start = book.retained.len() - last.kept as usize;
        Some((last.effect, book.retained.all()[start..].to_vec()))
    }

    /// Something is pipelined behind a request that blocks.
    pub fn has_more_behind_a_block(&self) -> bool {
        let blocks = |entry: &Entry| !entry.is_answered() && entry.blocks();
        self.0.as_ref().is_some_and(|book| book.entries.iter().rev().skip(1).any(blocks))
    }

    /// The server has come to a request that blocks, and to nothing behind it.
    pub fn is_blocked(&self) -> bool {
        let front = self.0.as_ref().and_then(|book| book.entries.front());
        front.is_some_and(|entry| entry.blocks() && entry.whole && entry.answer.is_none())
    }

    /// The request that blocks is answered as the server does when its time is over; WAIT gets 0.
    pub fn time_out(&mut self, resp3: bool) {
        let Some(book) = &mut self.0 else { return };
        let Some(entry) = book.entries.front_mut().filter(|entry| entry.blocks() && entry.answer.is_none()) else {
            return;
        };
        let is_wait = entry.effect.duty == Duty::Wait;
        let answer = if is_wait { no_replica(entry.effect).to_vec() } else { nothing(resp3) };
        entry.answer = Some(Box::new(Answer::Ready(answer)));
        book.count_answered();
    }

    /// A request blocks until it takes something out.
    pub fn has_pop(&self) -> bool {
        let pops = |entry: &Entry| !entry.is_answered() && entry.pops();
        self.0.as_ref().is_some_and(|book| book.entries.iter().any(pops))
    }

    /// Since when the request at the front, which has no answer yet, blocks, or may: when it was sent.
    pub fn blocked_since(&self) -> Option<Instant> {
        let front = self.0.as_ref()?.entries.front()?;
        front.since.filter(|_| front.whole && !front.is_answered())
    }

    /// A request that MULTI queues was too large to keep.
    pub fn has_unkept_queued(&self) -> bool {
        self.0.as_ref().is_some_and(|book| book.entries.iter().any(|entry| entry.queued && entry.kept == 0))
    }

    /// What ends a transaction has been answered, and the answer is held back.
    pub fn has_ended_transaction(&self) -> bool {
        let ends = |entry: &Entry| matches!(entry.effect.duty, Duty::Exec | Duty::Discard) && entry.is_answered();
        self.0.as_ref().is_some_and(|book| book.entries.iter().any(ends))
    }

    /// Forgets every request of the client: nobody will look at the replies.
    pub fn forget_client(&mut self) {
        self.forget_unless(|entry| entry.origin == Origin::Proxy);
    }

    /// Replies to the proxy's own requests come next.
    pub fn awaits_own(&self) -> bool {
        self.0.as_ref().and_then(|book| book.entries.front()).is_some_and(|entry| entry.origin == Origin::Proxy)
    }

    /// Forgets every request.
    pub fn clear(&mut self) {
        self.forget_unless(|_| false);
    }

    fn forget_unless(&mut self, is_kept: impl FnMut(&Entry) -> bool) {
        if let Some(book) = &mut self.0 {
            book.entries.retain(is_kept);
            book.run = Run::default();
            (book.answered, book.barred) = (0, false);
            book.retained.clear();
            self.recycle();
        }
    }

    /// Notes a request on its way, sent at `now`.
    pub fn push(&mut self, asked: Asked, request: &[u8], now: Instant) {
        let book = self.0.get_or_insert_with(|| POOL.with_borrow_mut(Vec::pop).unwrap_or_default());
        book.spell_out();
        if asked.keep {
            book.retained.push(request);
        }
        let mut entry = Entry::new(asked, request);
        entry.note_block(now);
        book.entries.push_back(entry);
    }

    /// Nothing is begun until every request that is noted was answered: AUTH or HELLO is under way.
    pub fn bar(&mut self) {
        if let Some(book) = &mut self.0 {
            book.barred = true;
        }
    }

    /// See [`Ledger::bar`].
    #[inline]
    pub fn is_barred(&self) -> bool {
        self.0.as_ref().is_some_and(|book| book.barred)
    }

    /// Notes ordinary requests on their way, as [`ordinary::requests`](crate::resp::ordinary::requests) finds them. The hot path.
    pub fn push_run(&mut self, bytes: &[u8], requests: usize) {
        let book = self.0.get_or_insert_with(|| POOL.with_borrow_mut(Vec::pop).unwrap_or_default());
        book.retained.push(bytes);
        book.run.owed += requests;
        book.run.bytes += bytes.len();
    }

    /// What was noted since the last call is about to be sent, and the sample of the master's offset with this number
    /// (1 or more) has arrived.
    #[inline]
    pub fn sent_after(&mut self, sample: u64) {
        let Some(book) = &mut self.0 else { return };
        for entry in book.entries.iter_mut().rev().take_while(|entry| entry.sent_after == 0) {
            entry.sent_after = sample;
        }
        if book.run.owed == 0 || book.run.sent_after == sample {
            return;
        }
        if book.run.sent_after == 0 {
            book.run.sent_after = sample;
        } else {
            // The older number counts for all of these, and a newer one for those to come.
            book.spell_out();
        }
    }

    /// How many of the backend's next replies belong to ordinary requests.
    #[inline]
    pub fn ordinary(&self) -> usize {
        self.0.as_ref().map_or(0, |book| if book.entries.is_empty() { book.run.owed } else { 0 })
    }

    /// The replies to the next so many ordinary requests were delivered. The hot path.
    #[inline]
    pub fn settle_ordinary(&mut self, replies: usize) {
        let Some(book) = &mut self.0 else { return };
        book.run.owed -= replies;
        book.run.settled += replies;
        self.recycle();
    }

    /// Lets go of what is retained of requests that were settled.
    pub fn trim(&mut self) {
        if let Some(book) = &mut self.0 {
            book.trim();
        }
    }

    /// The request noted last gets this many replies; 0: as many as there are subscriptions at its turn.
    pub fn owe(&mut self, replies: u32) {
        if let Some(last) = self.0.as_mut().and_then(|book| book.entries.back_mut()) {
            last.owed = replies;
        }
    }

    /// The request noted last is not sent: this is its answer.
    pub fn answer_last(&mut self, reply: &[u8]) {
        let Some(book) = &mut self.0 else { return };
        if let Some(last) = book.entries.back_mut() {
            last.answer = Some(Box::new(Answer::Ready(reply.to_vec())));
        }
        book.count_answered();
    }

    /// More bytes of the request noted last, which is larger than one read.
    pub fn extend_last(&mut self, bytes: &[u8], whole: bool, keep: bool, now: Instant) {
        let Some(book) = &mut self.0 else { return };
        let Some(last) = book.entries.back_mut() else { return };
        last.size += bytes.len() as u64;
        last.whole = whole;
        if last.kept > 0 {
            if keep {
                book.retained.push(bytes);
                last.kept += bytes.len() as u32;
                if whole {
                    // Its last arguments may make it what its beginning did not show.
                    last.effect = classify(&book.retained.all()[book.retained.len() - last.kept as usize..]);
                    last.note_block(now);
                }
            } else {
                book.retained.drop_back(last.kept as usize);
                last.kept = 0;
            }
        }
    }

    /// What the next reply of the backend answers: the effect, and whether MULTI queued it.
    pub fn expected(&mut self) -> Option<(Effect, bool)> {
        self.0.as_mut()?.unanswered().map(|entry| (entry.effect, entry.queued))
    }

    /// What becomes of the backend's next reply.
    pub fn next_fate(&mut self) -> Fate {
        self.0.as_mut().and_then(|book| book.unanswered()).map_or(Fate::Deliver, |entry| entry.fate)
    }

    /// True while an answer is held back or made up: then nothing may overtake it.
    pub fn has_answers(&self) -> bool {
        self.0.as_ref().is_some_and(|book| book.answered > 0)
    }

    /// A request still waits for the backend's reply.
    pub fn awaits_backend(&self) -> bool {
        self.0.as_ref().is_some_and(|book| book.answered < book.entries.len() || book.run.owed > 0)
    }

    /// The reply to the front request was delivered whole: forget it.
    pub fn settle(&mut self) {
        let Some(book) = &mut self.0 else { return };
        book.unanswered();
        if let Some(entry) = book.entries.pop_front() {
            book.retained.drop_front(entry.kept as usize);
        }
        book.count_answered();
        self.recycle();
    }

    /// The same, of a request that must be looked at once more.
    pub fn take_unanswered(&mut self) -> Option<Answered> {
        let (effect, queued) = self.expected()?;
        let (fate, request) = (self.next_fate(), self.front_request());
        self.settle();
        Some(Answered { effect, queued, fate, request })
    }

    /// One of the replies that the next unanswered request is owed has come; `count` tells how many there will be if
    /// that was not known before. Returns true if it was the last, and the request has been forgotten.
    pub fn settle_one(&mut self, count: impl FnOnce() -> u32) -> bool {
        let Some(book) = &mut self.0 else { return false };
        book.unanswered();
        let Some(entry) = book.entries.front_mut() else { return false };
        if entry.owed == 0 {
            entry.owed = count();
        }
        entry.owed = entry.owed.saturating_sub(1);
        let last = entry.owed == 0;
        if last {
            self.settle();
        }
        last
    }

    /// The front request's retained bytes.
    pub fn front_request(&mut self) -> Vec<u8> {
        let Some(book) = &mut self.0 else { return Vec::new() };
        book.unanswered();
        let kept = book.entries.front().map_or(0, |entry| entry.kept as usize);
        book.retained.all()[..kept].to_vec()
    }

    /// Holds back the backend's reply to the next unanswered request.
    pub fn withhold(&mut self, reply: &[u8], at: Instant, refused: bool) {
        self.answer(Answer::Withheld { reply: reply.to_vec(), at, refused });
    }

    /// The same for one of the several replies that are owed; see [`Ledger::settle_one`].
    pub fn withhold_one(&mut self, reply: &[u8], at: Instant, count: impl FnOnce() -> u32) {
        let Some(book) = &mut self.0 else { return };
        let Some(entry) = book.unanswered() else { return };
        if entry.owed == 0 {
            entry.owed = count();
        }
        entry.owed = entry.owed.saturating_sub(1);
        let mut replies = match entry.answer.take().map(|answer| *answer) {
            Some(Answer::Part(replies)) => replies,
            _ => Vec::new(),
        };
        replies.extend_from_slice(reply);
        let answer = match entry.owed {
            0 => Answer::Withheld { reply: replies, at, refused: false },
            _ => Answer::Part(replies),
        };
        entry.answer = Some(Box::new(answer));
        book.count_answered();
    }

    /// The front request's replies that were held back behind others, now that nothing is ahead of them.
    pub fn take_part(&mut self) -> Option<Vec<u8>> {
        let entry = self.0.as_mut()?.entries.front_mut()?;
        match entry.answer.take().map(|answer| *answer) {
            Some(Answer::Part(replies)) => Some(replies),
            answer => {
                entry.answer = answer.map(Box::new);
                None
            }
        }
    }

    /// Takes back the refusals, if there is nothing else in the ledger, and returns the requests to send again.
    pub fn retry_refused(&mut self) -> Option<Vec<u8>> {
        let book = self.0.as_mut()?;
        book.spell_out();
        let refused = |entry: &Entry| {
            matches!(entry.answer.as_deref(), Some(Answer::Withheld { refused: true, .. }))
                && u64::from(entry.kept) == entry.size
        };
        if !book.entries.iter().all(refused) {
            return None;
        }
        for entry in &mut book.entries {
            entry.answer = None;
        }
        book.answered = 0;
        Some(book.retained.all().to_vec())
    }

    fn answer(&mut self, answer: Answer) {
        let Some(book) = &mut self.0 else { return };
        if let Some(entry) = book.unanswered() {
            entry.answer = Some(Box::new(answer));
            book.count_answered();
        }
    }

    /// Bytes of withheld replies.
    pub fn withheld_bytes(&self) -> usize {
        let Some(book) = &self.0 else { return 0 };
        book.entries
            .iter()
            .take(book.answered)
            .map(|entry| match entry.answer.as_deref() {
                Some(Answer::Withheld { reply, .. } | Answer::Ready(reply)) => reply.len(),
                _ => 0,
            })
            .sum()
    }

    /// What is withheld may be delivered: all of it, as the node turned out to be the master after all, or what is ahead
    /// of the first refusal or reply that was not there before `until`.
    pub fn release(&mut self, until: Option<Instant>) {
        let Some(book) = &mut self.0 else { return };
        for entry in book.entries.iter_mut().take(book.answered) {
            match entry.answer.as_deref_mut() {
                Some(Answer::Withheld { at, refused, .. }) if until.is_some_and(|until| *refused || *at >= until) => {
                    return;
                }
                Some(Answer::Withheld { reply, .. }) => {
                    entry.answer = Some(Box::new(Answer::Ready(std::mem::take(reply))));
                }
                _ => {}
            }
        }
    }

    /// Takes the front request if its answer may be delivered.
    pub fn take_front(&mut self) -> Option<Delivery> {
        let book = self.0.as_mut()?;
        let answer = book.entries.front()?.answer.as_deref()?;
        if let Answer::Withheld { .. } | Answer::Part(_) = answer {
            return None;
        }
        let mut entry = book.entries.pop_front()?;
        book.answered -= 1;
        let request = book.retained.all()[..entry.kept as usize].to_vec();
        book.retained.drop_front(request.len());
        let front = match entry.answer.take().map(|answer| *answer) {
            Some(Answer::Ready(reply)) => {
                let Entry { effect, queued, fate, .. } = entry;
                Delivery::Reply { reply, to: Answered { effect, queued, fate, request } }
            }
            Some(Answer::Close(reason)) => Delivery::Close(reason),
            Some(Answer::Withheld { .. } | Answer::Part(_)) | None => unreachable!("looked at above"),
        };
        self.recycle();
        Some(front)
    }

    /// The old backend is given up: decides for each request whether its reply is delivered, it is sent again, or
    /// its reply is lost. What is sent again keeps its place.
    pub fn judge(&mut self, judgement: Judgement) -> Verdict {
        let mut verdict = Verdict::default();
        let Some(book) = &mut self.0 else { return verdict };
        book.spell_out();
        let retained = book.retained.take();
        let total = book.unanswered_bytes();
        let entries = std::mem::take(&mut book.entries);
        let mut fates = Fates::new(judgement, total);
        let mut kept_from = 0;
        for mut entry in entries {
            if entry.origin == Origin::Proxy {
                fates.pass_over(&entry);
                continue;
            }
            let mut request = Cow::Borrowed(&retained[kept_from..kept_from + entry.kept as usize]);
            kept_from += entry.kept as usize;
            let part = entry.answer.take_if(|answer| matches!(**answer, Answer::Part(_)));
            let mut answer = fates.of(&mut entry, &request, &mut verdict);
            if answer.is_none()
                && entry.whole
                && let Some(since) = &mut entry.since
            {
                // What is told to the new master is what is left from now on.
                let waited = judgement.now.saturating_duration_since(std::mem::replace(since, judgement.now));
                match with_time_left(&request, waited) {
                    Some(shorter) => request = shorter.into(),
                    None => answer = Some(Answer::Ready(nothing(judgement.resp3))),
                }
            }
            if answer.is_none()
                && let Some(rest) = without_confirmed(&request, entry.effect, entry.owed)
            {
                request = rest.into();
            }
            if answer.is_none() && entry.fate == Fate::Nothing {
                request = DISCARD.into();
            }
            if answer.is_none() && entry.whole && (entry.kept > 0 || entry.fate == Fate::Nothing) {
                (entry.size, entry.kept) = (request.len() as u64, request.len() as u32);
            }
            if answer.is_none() {
                verdict.again.extend_from_slice(&request);
                verdict.replayed += u64::from(entry.whole);
            }
            // What was confirmed stays confirmed: its names are not sent again.
            entry.answer = answer.map(Box::new).or(part);
            book.retained.push(&request);
            book.entries.push_back(entry);
        }
        book.answered = 0;
        book.count_answered();
        self.recycle();
        verdict
    }

    /// There is no master and the deadline passed: every request ends. What may have run is a lost reply, a blocked
    /// pop times out, QUIT is obeyed, anything else gets `error`, or a close where its client would not read an error.
    /// Returns how many replies are lost. `unsent` is as in [`Judgement`], and so are the policies.
    pub fn fail(&mut self, error: &[u8], policy: OnLostReply, on_lost_pop: OnLostPop, unsent: u64, resp3: bool) -> u64 {
        let Some(book) = &mut self.0 else { return 0 };
        book.spell_out();
        let own: u64 = book.entries.iter().filter(|entry| entry.origin == Origin::Proxy).map(|entry| entry.size).sum();
        let mut sent = book.unanswered_bytes().saturating_sub(unsent).saturating_sub(own);
        book.entries.retain(|entry| entry.origin == Origin::Client);
        let mut lost = 0;
        for entry in &mut book.entries {
            let may_have_run = match entry.answer.as_deref() {
                Some(Answer::Ready(_) | Answer::Close(_)) => continue,
                Some(Answer::Withheld { refused, .. }) => !refused,
                None | Some(Answer::Part(_)) => sent >= entry.size || entry.left_behind,
            };
            sent = sent.saturating_sub(if entry.is_answered() { 0 } else { entry.size });
            let harmless = entry.effect.writes_nothing() || entry.queued || entry.effect.duty == Duty::Wait;
            let pop_is_lost = may_have_run && entry.pops() && on_lost_pop != OnLostPop::Resend;
            let policy = entry.policy(policy, on_lost_pop);
            entry.answer = Some(Box::new(match entry.effect.class {
                _ if entry.effect.duty == Duty::Quit => Answer::Ready(b"+OK\r\n".to_vec()),
                // One that comes only now would be asked again at once: it is refused as any other.
                Class::Blocking if !entry.queued && !pop_is_lost && (may_have_run || entry.replays > 0) => {
                    Answer::Ready(nothing(resp3))
                }
                _ if may_have_run && !harmless => {
                    lost += 1;
                    ending(entry.effect, entry.queued, UNKNOWN_RESULT, policy, CloseReason::LostReply)
                }
                _ => ending(entry.effect, entry.queued, error, policy, CloseReason::Outage),
            }));
        }
        book.count_answered();
        self.recycle();
        lost
    }

    fn recycle(&mut self) {
        if self.0.as_ref().is_some_and(|book| book.is_empty()) {
            let mut book = self.0.take().expect("just seen");
            book.retained.clear();
            book.run = Run::default();
            book.answered = 0;
            book.barred = false;
            POOL.with_borrow_mut(|pool| {
                let is_small = book.retained.capacity() <= POOLED_BYTES && book.entries.capacity() <= POOLED_ENTRIES;
                if pool.len() < POOL_SIZE && is_small {
                    pool.push(book);
                }
            });
        }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests;
