//! The session as a decision: bytes, the topology's entry and the time in; bytes, actions and wake-ups out.
//!
//! Sans-IO: no socket, no clock, no task. Two halves, the client's `Front` and the backend's `Back`, and between them
//! the `Phase`. The driver (`session::driver`) moves the bytes, asks what to read next, and carries out the
//! [`Action`]s; the tests do the same on virtual time.
//!
//! ```text
//!            client_bytes ──▶ Front: inbox ─▶ scanner ─▶ admitted, noted in the ledger ──▶ Back: out ──▶ backend
//!   client                                                                    │
//!            ◀── Front: out ◀── delivered, or held back in the ledger ◀── settled ◀── Back: scanner ◀── backend_bytes
//! ```
//! Invariants: no request is begun after the [`Sight`] of a newer entry; replies are delivered in the order of the
//! requests; a request that may have run on the new master is never sent to it again unless it is harmless or the user
//! chose so (a blocking pop: unless the user forbade it); of what cannot be passed on only a little is read ahead.

mod back;
mod ending;
mod front;
mod held;
pub mod ledger;
mod moving;
pub mod outbox;
#[cfg(any(test, fuzzing))]
pub mod pair;
mod phase;
mod replies;
mod requests;
pub mod restoration;
pub mod state;
pub mod turn;

use std::net::SocketAddr;
use std::time::Instant;

use crate::session::CloseReason;
use crate::topology::Entry;

use back::{Back, Doubt, Download, Link, Refusal, Reuse, Standing, Up, Writing};
use front::{ClientEnd, Front, ReplyMode, Uncounted, Upload};
pub use held::Held;
use outbox::Outbox;
use phase::Phase;
pub use turn::{Action, Counts, Parting, Settings, Sight, Turn, Urgency};

/// A session reads and holds no more than this at once where `retain_total` is exhausted: enough to go on.
const LITTLE: usize = 4 * 1024;
const OK: &[u8] = b"+OK\r\n";
/// Makes of a connection what a fresh one would be: the server looks anew whether it asks for a password (Redis 6.2
/// networking.c, resetCommand). No ACL forbids it.
pub const RESET: &[u8] = b"*1\r\n$5\r\nRESET\r\n";
/// What it is answered.
pub const RESET_DONE: &[u8] = b"+RESET\r\n";
/// What a client that caches is sent after a move: some invalidations were missed, so nothing cached is sure.
const INVALIDATE_ALL: &[u8] = b">2\r\n$10\r\ninvalidate\r\n_\r\n";

/// One session.
#[derive(Debug)]
pub struct Core {
    front: Front,
    back: Back,
    phase: Phase,
    /// The entry that `phase` and `term` are from.
    sight: Sight,
    /// The term of the backend, or the one in which the next backend will be made.
    term: u64,
    outage: Option<Box<Outage>>,
}

/// What outages made of a session; most never see one.
#[derive(Clone, Copy, Debug, Default)]
struct Outage {
    /// When this session last left a master for another.
    moved_at: Option<Instant>,
    /// When the withheld reply of which a part is there began to come.
    reply_begun_at: Option<Instant>,
    /// Since when requests of this client wait.
    held_since: Option<Instant>,
}

/// What to read next from the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Take {
    /// At most so many bytes.
    pub most: usize,
    /// So many of the next bytes go to the client whatever they are: they need not be read to be passed on.
    pub body: usize,
}

/// What to read next from the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hear {
    /// Something was done without reading: ask again.
    Again,
    /// Nothing.
    Nothing,
    /// At most so many bytes.
    Bytes(usize),
    /// Only whether it has closed its side.
    Leaving,
}

impl Core {
    /// A client that has said nothing yet, on a topology of this entry.
    pub fn new(entry: &Entry, turn: &Turn<'_>) -> Core {
        Core {
            front: Front { active_at: turn.idle_ticks, ..Front::default() },
            back: Back::default(),
            phase: Phase::of(entry, turn),
            sight: Sight::new(entry.generation, turn.sight.is_unwatched()),
            term: entry.term,
            outage: None,
        }
    }

    /// The term of the backend, or of the next one.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// What waits for the client.
    pub fn to_client(&mut self) -> &mut Outbox {
        &mut self.front.out
    }

    /// What waits for the backend and may be sent now, at the sight of the topology as it is now.
    pub fn to_backend(&mut self, sight: Sight) -> Option<&mut Outbox> {
        let is_begun = !self.back.is_resending || (self.phase.is_open() && self.sight == sight);
        let is_ending = self.phase.is_finishing() || self.phase.closing().is_some();
        (self.back.is_up() && is_begun && !is_ending).then(|| {
            self.back.is_resending = false;
            &mut self.back.out
        })
    }

    /// Why the session ends, once everything for the client was sent.
    pub fn ended(&self) -> Option<CloseReason> {
        self.phase.closing().filter(|_| self.front.out.is_empty())
    }

    /// There is something to deliver, or to end, without another byte of the backend.
    pub fn has_answers(&self) -> bool {
        self.front.owed.has_answers() || self.phase.closing().is_some()
    }

    /// The client has closed its side.
    pub fn client_has_left(&self) -> bool {
        self.front.end != ClientEnd::Open
    }

    /// The entry of this sight is the one that was observed last.
    pub fn has_seen(&self, sight: Sight) -> bool {
        self.sight == sight
    }

    /// Bytes that could not be sent to the backend at once.
    pub fn keep_for_backend(&mut self, bytes: &[u8]) {
        self.back.out.push(bytes);
    }

    /// There is an open connection to the backend.
    pub fn has_backend(&self) -> bool {
        self.back.is_up()
    }

    /// A backend is to be made now.
    pub fn wants_backend(&self) -> bool {
        let wanted = !self.front.inbox.is_empty()
            || !self.back.out.is_empty()
            || self.front.owed.awaits_backend()
            || (self.front.listening && self.front.state.is_listening());
        // The state is what the client has seen: answers that wait for its socket come first.
        matches!(self.back.link, Link::None) && self.phase.is_open() && wanted && !self.front.owed.has_answers()
    }

    /// Asks for a connection to the master at `addr`, that of the present entry.
    pub fn attach(&mut self, turn: &mut Turn<'_>, addr: SocketAddr) {
        let restore = self.front.state.restore(&turn.scripts.missing(self.term), self.front.reply_mode);
        // What is ready is for clients that come; those that move would only empty it.
        let may_be_ready = restore.requests.is_empty() && self.back.out.is_empty() && self.outage().moved_at.is_none();
        self.back.link = Link::Attaching;
        turn.actions.push(Action::Attach { addr, restore, may_be_ready });
    }

    /// The connection is there: one that was ready before it was asked for, or one with the client's state.
    pub fn attached(&mut self, was_ready: bool) {
        let standing = if was_ready { Standing::BeforeReset } else { Standing::Restored };
        self.back.link = Link::Up(Up::new(standing));
        if !was_ready && self.front.state.is_tracking() && self.front.state.is_resp3() {
            self.front.out.push(INVALIDATE_ALL);
        }
    }

    /// No connection could be had. Errors end the session.
    pub fn not_attached(&mut self, reason: CloseReason) -> Result<(), CloseReason> {
        self.back.link = Link::None;
        // While requests are held it is the outage that ends, or its deadline.
        if reason == CloseReason::Unreachable && !self.phase.is_open() { Ok(()) } else { Err(reason) }
    }

    /// The server has closed the connection, or it is broken.
    pub fn backend_ended(&mut self, turn: &mut Turn<'_>) -> Result<(), CloseReason> {
        let writing = self.back.writing();
        if writing == Writing::FinToUnblock {
            return self.end_blocked(turn);
        }
        let term = self.term;
        self.back.lose(turn.now);
        if writing == Writing::FinPassedOn && self.front.owed.is_empty() {
            self.phase.close(CloseReason::ClientClosed);
        } else if self.phase.is_tunnel() {
            self.phase.close(CloseReason::UpstreamClosed);
        }
        turn.report(crate::topology::Report::Eof { term });
        self.ended().map_or(Ok(()), Err)
    }

    /// Memory that this session holds, but for what is retained of its requests.
    pub fn held_bytes(&self) -> usize {
        let buffers = self.front.inbox.capacity() + self.back.last().map_or(0, |up| up.tail.len());
        let unsent = self.back.out.held_bytes() + self.front.out.held_bytes();
        buffers + unsent + self.front.owed.held_bytes() + self.front.state.held_bytes()
    }

    /// How urgent it is to wake this session after a switch.
    pub fn urgency(&self) -> Urgency {
        if self.phase.is_tunnel() || self.front.listening {
            Urgency::Attached
        } else if self.front.owed.is_empty() && self.front.inbox.is_empty() && self.back.lost_at().is_none() {
            Urgency::Idle
        } else {
            Urgency::Waiting
        }
    }

    /// Takes note of a hold that begins or ends; at the end of each poll.
    pub fn note_hold(&mut self, turn: &mut Turn<'_>) {
        let waits = !self.front.inbox.is_empty() || self.front.is_uploading();
        let held = waits && !self.phase.is_open() && self.phase.closing().is_none();
        match (self.held_since(), held) {
            (None, true) => {
                self.outage_mut().held_since = Some(turn.now);
                turn.counts.held += 1;
            }
            (Some(since), false) => {
                self.outage_mut().held_since = None;
                turn.actions.push(Action::Held(turn.now.saturating_duration_since(since)));
            }
            _ => {}
        }
    }

    /// Since when requests of this client are held.
    pub fn held_since(&self) -> Option<Instant> {
        self.outage.as_ref().and_then(|outage| outage.held_since)
    }

    fn outage(&self) -> Outage {
        self.outage.as_deref().copied().unwrap_or_default()
    }

    fn outage_mut(&mut self) -> &mut Outage {
        self.outage.get_or_insert_default()
    }
}
