//! What a ledger holds while it holds anything: requests in their order, and their bytes.
//!
//! Requests whose reply needs inspection get an [`Entry`]. Plain requests are only counted, and always come after all
//! entries.

use std::collections::VecDeque;
use std::time::Instant;

use super::retained::Retained;
use crate::config::{OnLostPop, OnLostReply};
use crate::resp::command::{Class, Duty, Effect, classify};
use crate::resp::scanner::{RequestScanner, Scan};
use crate::session::CloseReason;

#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) entries: VecDeque<Entry>,
    /// The retained bytes of all entries, in their order.
    pub(super) retained: Retained,
    /// Length of the run of entries at the front that have an answer (withheld or made up); the entry behind it,
    /// if any, is the one that the backend's next reply belongs to.
    pub(super) answered: usize,
    /// Behind all entries.
    pub(super) run: Run,
    /// See [`Ledger::bar`](super::Ledger::bar).
    pub(super) barred: bool,
}

/// Ordinary requests in flight are only counted. They are parsed again from the retained bytes only when something goes
/// wrong.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Run {
    /// Replies still to come.
    pub(super) owed: usize,
    /// Requests before those whose bytes are still there; then there are no entries.
    pub(super) settled: usize,
    /// Bytes of all these, at the end of the retained.
    pub(super) bytes: usize,
    /// As of an entry, for all of them.
    pub(super) sent_after: u64,
}

impl Book {
    pub(super) fn unanswered_bytes(&self) -> u64 {
        self.entries.iter().filter(|entry| !entry.is_answered()).map(|entry| entry.size).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.run.owed == 0
    }

    /// Lets go of the bytes of settled requests.
    pub(super) fn trim(&mut self) {
        for _ in 0..std::mem::take(&mut self.run.settled) {
            let length = first_request(self.retained.all());
            self.retained.drop_front(length);
            self.run.bytes -= length;
        }
    }

    /// Makes entries of the run.
    #[cold]
    pub(super) fn spell_out(&mut self) {
        self.trim();
        let run = std::mem::take(&mut self.run);
        let mut rest = &self.retained.all()[self.retained.len() - run.bytes..];
        for _ in 0..run.owed {
            let (request, after) = rest.split_at(first_request(rest));
            // None of these blocks: when they were sent is not needed.
            let mut entry = Entry::new(Asked::new(classify(request)), request);
            entry.sent_after = run.sent_after;
            self.entries.push_back(entry);
            rest = after;
        }
    }

    /// The request that the backend's next reply belongs to.
    pub(super) fn unanswered(&mut self) -> Option<&mut Entry> {
        if self.answered == self.entries.len() {
            self.spell_out();
        }
        self.entries.get_mut(self.answered)
    }

    pub(super) fn count_answered(&mut self) {
        while self.entries.get(self.answered).is_some_and(Entry::is_answered) {
            self.answered += 1;
        }
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The client: it is owed a reply.
    Client,
    /// The proxy itself, on the client's connection. It is never sent again.
    Proxy,
}

/// What becomes of the backend's reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The client gets it.
    Deliver,
    /// Nobody gets it; if it is not this one, the connection is not what it was taken for.
    Swallow(&'static [u8]),
    /// Where it is `+OK`, the client gets "nothing" in its place: what was sent is a DISCARD for its EXEC.
    Nothing,
}

/// A request as it is noted.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// What it does, as far as that is known.
    pub effect: Effect,
    /// Who asks.
    pub origin: Origin,
    /// What becomes of its reply.
    pub fate: Fate,
    /// All of it is there.
    pub whole: bool,
    /// It was sent inside MULTI: the server queues it.
    pub queued: bool,
    /// It is retained; false when the limits forbid that.
    pub keep: bool,
}

impl Asked {
    /// A whole request of the client, retained, outside MULTI.
    pub fn new(effect: Effect) -> Asked {
        Asked { effect, origin: Origin::Client, fate: Fate::Deliver, whole: true, queued: false, keep: true }
    }
}

/// One request.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) effect: Effect,
    pub(super) origin: Origin,
    pub(super) fate: Fate,
    /// Bytes of the request, retained or not.
    pub(super) size: u64,
    /// Bytes of it in `retained`; 0 when it exceeded the limits.
    pub(super) kept: u32,
    pub(super) replays: u8,
    /// It may have run on a master that was left, in a part of its history that the next one does not have.
    pub(super) left_behind: bool,
    /// The client has sent all of it.
    pub(super) whole: bool,
    /// It was sent inside MULTI: the server queues it.
    pub(super) queued: bool,
    /// Replies still owed: several for SUBSCRIBE; 0 when that is known only at its turn (UNSUBSCRIBE without names).
    pub(super) owed: u32,
    /// When what blocks was sent: it goes on with the time that is left.
    pub(super) since: Option<Instant>,
    /// The number of the sample of the master's offset after which it was sent, or of an earlier one; 0: not sent yet.
    pub(super) sent_after: u64,
    pub(super) answer: Option<Box<Answer>>,
}

impl Entry {
    pub(super) fn new(asked: Asked, request: &[u8]) -> Entry {
        Entry {
            effect: asked.effect,
            origin: asked.origin,
            fate: asked.fate,
            size: request.len() as u64,
            kept: if asked.keep { request.len() as u32 } else { 0 },
            replays: 0,
            left_behind: false,
            whole: asked.whole,
            queued: asked.queued,
            owed: 1,
            since: None,
            sent_after: 0,
            answer: None,
        }
    }

    /// If it blocks, it does so since `now`, or since before.
    pub(super) fn note_block(&mut self, now: Instant) {
        if self.blocks() {
            self.since.get_or_insert(now);
        }
    }

    /// A server runs nothing of the client that is behind it. Inside MULTI nothing blocks.
    pub(super) fn blocks(&self) -> bool {
        (self.effect.class == Class::Blocking || self.effect.duty == Duty::Wait) && !self.queued
    }

    /// It blocks until it takes something out, which is gone with a lost reply.
    pub(super) fn pops(&self) -> bool {
        self.effect.class == Class::Blocking && !self.queued && self.effect.command.name != "XREAD"
    }

    /// How it ends if its reply is lost.
    pub(super) fn policy(&self, policy: OnLostReply, on_lost_pop: OnLostPop) -> OnLostReply {
        match on_lost_pop {
            OnLostPop::Error if self.pops() => OnLostReply::Error,
            OnLostPop::Close if self.pops() => OnLostReply::Close,
            _ => policy,
        }
    }

    pub(super) fn is_answered(&self) -> bool {
        !matches!(self.answer.as_deref(), None | Some(Answer::Part(_)))
    }
}

#[derive(Debug)]
pub(super) enum Answer {
    /// Some of the several replies that are owed, held back behind others.
    Part(Vec<u8>),
    /// Deliver it as soon as it is at the front.
    Ready(Vec<u8>),
    /// The server's reply, held back until it is known whether the next master has the write.
    Withheld { reply: Vec<u8>, at: Instant, refused: bool },
    /// Deliver what is ahead, then close the connection.
    Close(CloseReason),
}

/// The length of the first of whole requests.
fn first_request(bytes: &[u8]) -> usize {
    match RequestScanner::default().scan(bytes) {
        Scan::Frame(length) => length,
        Scan::Partial | Scan::Invalid(_) => unreachable!("it was whole when it was noted"),
    }
}
