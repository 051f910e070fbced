//! The client's half: what it said, what it has become by the replies it has seen, and what it is owed, in order.
//!
//! It outlives every backend.

use super::ledger::Ledger;
use super::outbox::Outbox;
use super::state::State;
use crate::resp::command::{Class, Duty, Effect, Shape};
use crate::resp::scanner::RequestScanner;

/// The client of one session.
#[derive(Debug, Default)]
pub(super) struct Front {
    pub(super) scanner: RequestScanner,
    pub(super) inbox: Inbox,
    /// The requests whose replies are owed.
    pub(super) owed: Ledger,
    pub(super) state: State,
    /// For the client.
    pub(super) out: Outbox,
    pub(super) reply_mode: ReplyMode,
    pub(super) end: ClientEnd,
    pub(super) upload: Upload,
    /// MULTI was sent and neither EXEC nor DISCARD.
    pub(super) multi: bool,
    /// The server speaks unasked, or may: each frame is looked at.
    pub(super) listening: bool,
    pub(super) uncounted: Uncounted,
    /// The idle tick at which a request was begun last.
    pub(super) active_at: u16,
}

/// Bytes of the client that were not begun: held, or the beginning of a small request.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    scanned: u32,
}

/// How far the client is from its end. Open → Left → Read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ClientEnd {
    #[default]
    Open,
    /// It has closed its side, perhaps behind bytes that are not read yet.
    Left,
    /// All that it has sent before was read, or never will be.
    Read,
}

/// What of the client's bytes was sent on last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Upload {
    /// Whole requests.
    #[default]
    Between,
    /// Part of a request that is larger than one buffer.
    PartOfRequest,
    /// The same, and the client wants no reply to it: it is in no ledger, and what was sent of it cannot be sent again.
    PartOfUnanswered,
}

/// What the client wants to be answered (CLIENT REPLY), as of the last request sent on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ReplyMode {
    #[default]
    On,
    Off,
    SkipNext,
}

/// Whether requests are on their way of which no reply will tell that they have arrived: then the bytes in flight cannot
/// be counted by the replies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Uncounted {
    #[default]
    None,
    /// The client wanted no reply to what was sent last, or before.
    Sent,
    /// Something that is answered was sent behind: its reply will tell.
    Followed,
}

impl Inbox {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// There are bytes that the scanner has not seen.
    pub(super) fn has_unscanned(&self) -> bool {
        (self.scanned as usize) < self.bytes.len()
    }

    pub(super) fn extend(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// All of it, and how many bytes were scanned.
    pub(super) fn take(&mut self) -> (Vec<u8>, usize) {
        (std::mem::take(&mut self.bytes), std::mem::take(&mut self.scanned) as usize)
    }

    pub(super) fn keep(&mut self, bytes: &[u8], scanned: usize) {
        (self.bytes, self.scanned) = (bytes.to_vec(), scanned as u32);
    }

    pub(super) fn clear(&mut self) {
        *self = Inbox::default();
    }
}

impl Front {
    /// Part of a request was sent on.
    #[inline]
    pub(super) fn is_uploading(&self) -> bool {
        self.upload != Upload::Between
    }

    /// MULTI is open, as far as requests were sent or replies delivered.
    pub(super) fn in_transaction(&self) -> bool {
        self.multi || self.state.in_transaction()
    }

    /// What MULTI has queued cannot be queued again elsewhere.
    pub(super) fn is_queue_unkept(&self) -> bool {
        self.state.unkept_transaction().is_some() || self.owed.has_unkept_queued()
    }

    /// What was not begun, and what is not read, will not be.
    pub(super) fn abandon_unread(&mut self) {
        self.inbox.clear();
        self.end = ClientEnd::Read;
    }

    /// All replies were delivered: what was only feared while some were owed did not come, or is over.
    pub(super) fn settle(&mut self) {
        if self.owed.is_empty() {
            self.listening = self.listening && self.state.is_listening();
            if self.uncounted == Uncounted::Followed {
                self.uncounted = Uncounted::None;
            }
        }
    }
}

/// What no other backend would know, so that the session keeps this one: its number, what WAIT waits for, whatever the
/// table does not know.
pub(super) fn pins(effect: Effect) -> bool {
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
