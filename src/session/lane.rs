//! The session's backend as the session has it: made when it is needed, lost, and given up at the end.
//!
//! One is made only in the term of the session, while the gate is open; see `backend` for how.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use super::backend::{self, AttachError, Attached};
use super::{CloseReason, Gate, ReplyMode, Session, pool};
use crate::net::Conn;
use crate::resp::scanner::ReplyScanner;
use crate::topology::Report;

/// What a client that caches is told after a move: some invalidations were missed, so nothing cached is sure.
const INVALIDATE_ALL: &[u8] = b">2\r\n$10\r\ninvalidate\r\n_\r\n";
const SKIP: &[u8] = b"*3\r\n$6\r\nCLIENT\r\n$5\r\nREPLY\r\n$4\r\nSKIP\r\n";

/// The session's backend.
pub(super) enum Lane {
    /// None yet, or given back: made at the next request.
    None,
    Attaching(Attaching),
    Up(Conn),
    /// The node closed it: what that means is not known yet.
    Lost {
        at: Instant,
    },
}

type Attaching = Pin<Box<dyn Future<Output = Result<Attached, AttachError>> + Send>>;

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Lane::None => "None",
            Lane::Attaching(_) => "Attaching",
            Lane::Up(_) => "Up",
            Lane::Lost { .. } => "Lost",
        })
    }
}

impl Session {
    /// Makes a backend when there is something to send and somewhere to send it.
    pub(super) fn attach(&mut self, cx: &mut Context<'_>) -> Result<bool, CloseReason> {
        if let Lane::None = self.lane {
            let wanted = !self.inbox.is_empty()
                || !self.to_backend.is_empty()
                || self.ledger.awaits_backend()
                || (self.flags.listening && self.state.is_listening());
            // The state is what the client was told: answers that wait for its socket come first.
            if !self.gate.is_open() || self.closing.is_some() || !wanted || self.ledger.has_answers() {
                return Ok(false);
            }
            let entry = self.worker.upstream.topology.current();
            let Some(master) = entry.master.as_ref().filter(|_| entry.generation == self.generation) else {
                cx.waker().wake_by_ref(); // just changed: look again
                return Ok(false);
            };
            let mut restore = self.state.restore(&self.worker.upstream.scripts.missing(self.term));
            if self.reply_mode == ReplyMode::SkipNext {
                restore.requests.extend_from_slice(SKIP);
            }
            // What is ready is for clients that come; those that move would only empty it.
            if restore.requests.is_empty()
                && self.to_backend.is_empty()
                && self.outage().moved_at.is_none()
                && let Some(stream) = {
                    let key = pool::Key::fresh(&self.worker.upstream, self.term, master.addr);
                    pool::take(&self.worker, &self.settings, key)
                }
            {
                self.lane = Lane::Up(stream);
                self.flags.stale = true;
                return Ok(true);
            }
            let attaching = backend::attach(self.worker.clone(), master.addr, self.term, restore);
            self.lane = Lane::Attaching(Box::pin(attaching));
        }
        let Lane::Attaching(attaching) = &mut self.lane else { return Ok(false) };
        match attaching.as_mut().poll(cx) {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(Attached { stream, unasked })) => {
                self.lane = Lane::Up(stream);
                if self.state.is_tracking() && self.state.is_resp3() {
                    self.to_client.push(INVALIDATE_ALL);
                }
                if !unasked.is_empty() {
                    self.pass_replies(cx, &unasked)?;
                }
                Ok(true)
            }
            Poll::Ready(Err(error)) => Err(match error {
                AttachError::Unreachable(_) => CloseReason::Unreachable,
                AttachError::AuthRefused(_) => CloseReason::AuthRefused,
                AttachError::NotRestored(_) => CloseReason::NotRestored,
            }),
        }
    }

    /// The backend's socket is at its end, or broken.
    pub(super) fn lose_lane(&mut self) -> Result<(), CloseReason> {
        if self.flags.unblocking {
            return self.end_blocked();
        }
        if self.flags.half_closed && self.ledger.is_empty() {
            self.closing.get_or_insert(CloseReason::ClientClosed);
        } else if self.is_tunnel {
            self.closing.get_or_insert(CloseReason::UpstreamClosed);
        }
        self.lane = Lane::Lost { at: Instant::now() };
        self.worker.upstream.topology.report(Report::Eof { term: self.term });
        if let (Some(reason), true) = (self.closing, self.to_client.is_empty()) {
            return Err(reason);
        }
        Ok(())
    }

    /// Nothing more is read from or sent to the present backend.
    pub(super) fn drop_lane(&mut self) {
        self.lane = Lane::None;
        self.replies = ReplyScanner::default();
        self.reply_tail = Vec::new();
        self.to_backend.clear();
        self.refused_at = None;
        self.flags.half_closed = false;
        self.flags.unblocking = false;
        self.flags.unblock_asked = false;
        self.flags.partly_delivered = false;
        self.flags.passing_unasked = false;
        self.flags.too_few_replicas = false;
        self.flags.stale = false;
        self.flags.resetting = false;
        self.state.backend_lost();
    }

    /// The session has been idle for long: gives its backend back, and attaches again at its next request, if all that
    /// the client made of the connection can be restored.
    pub(super) fn detach(&mut self) {
        let flags = &self.flags;
        let is_idle = matches!(self.lane, Lane::Up(_))
            && self.is_settled()
            && self.inbox.is_empty()
            && self.to_client.is_empty()
            && self.closing.is_none()
            && !(flags.pinned || flags.client_eof || flags.multi)
            && !(self.state.in_transaction() || self.state.is_watching());
        if !is_idle {
            return;
        }
        if let Some((stream, term)) = self.end_lane() {
            let worker = self.worker.clone();
            tokio::spawn(async move { pool::give_back(&worker, stream, term).await });
        }
        self.drop_lane();
        self.flags.nothing_written = true; // on the next one
        self.worker.counters.detached.add(1);
    }

    /// Gives up the lane, or returns it, with its term, if a RESET makes it as good as new: nothing is owed there, and
    /// nothing was done that would stay.
    pub(super) fn end_lane(&mut self) -> Option<(Conn, u64)> {
        let is_clean = self.settings.reuse_backends && !self.flags.lasting && self.is_settled();
        let Lane::Up(stream) = std::mem::replace(&mut self.lane, Lane::None) else { return None };
        if is_clean {
            return Some((stream, self.term));
        }
        if self.is_owed_nothing() {
            // The server has answered everything, so there is nothing that a reset could lose. A FIN would keep one of
            // this host's ports for a minute each time.
            stream.set_zero_linger();
        }
        None
    }

    /// Between two requests, under a master that nobody doubts.
    fn is_settled(&self) -> bool {
        self.is_owed_nothing()
            && !(self.flags.listening || self.flags.partly_delivered)
            && self.gate == Gate::Open
            && self.worker.upstream.topology.generation() == self.generation
            && self.refused_at.is_none()
            && self.reply_mode == ReplyMode::On
            && self.state.untracked().is_none()
            && self.replies.at_boundary()
    }

    /// Every request was sent on whole, and the backend has answered it.
    fn is_owed_nothing(&self) -> bool {
        self.ledger.is_empty()
            && self.to_backend.is_empty()
            && !self.is_tunnel
            && !(self.flags.unanswered || self.flags.streaming || self.flags.half_closed || self.flags.resetting)
    }
}
