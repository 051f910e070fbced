//! The client's end: passed on behind what it has sent, or in its place when that is too late to run.
//!
//! A client that has left is not waited for: what blocks for it ends as it does on a direct connection, and what it had
//! given up does not run.

use std::time::Duration;

use super::lane::Lane;
use super::{CloseReason, Session};

/// A client that says FIN sooner after its request has not given up: it has asked everything.
const PATIENCE: Duration = Duration::from_millis(100);
/// What may block and is not answered within this time blocks.
const AT_ONCE: Duration = Duration::from_millis(100);

impl Session {
    /// The client has said FIN behind what cannot be sent now.
    pub(super) fn client_left(&mut self) -> Result<bool, CloseReason> {
        let just_left = !std::mem::replace(&mut self.flags.client_left, true);
        if just_left && self.outage().held_since.is_some_and(|since| since.elapsed() > PATIENCE) {
            // It has given up: what it had not sent on must not run late.
            if self.flags.streaming {
                return Err(CloseReason::ClientClosed);
            }
            self.abandon_unread();
        }
        self.await_end()
    }

    /// The client has left, and something is still to be sent or answered. A server lets go of what blocks when its
    /// client leaves, and runs nothing behind it (measured on 7.0.15: BLPOP and WAIT; networking.c, freeClient).
    pub(super) fn await_end(&mut self) -> Result<bool, CloseReason> {
        let all_read = self.flags.client_eof && self.inbox.is_empty();
        if all_read && self.ledger.is_empty() && self.to_client.is_empty() {
            return Err(CloseReason::ClientClosed);
        }
        if self.flags.half_closed {
            return Ok(false);
        }
        let all_sent = all_read && self.to_backend.is_empty() && !self.flags.streaming;
        let blocked_for = self.ledger.blocked_since().map(|since| since.elapsed());
        match &mut self.lane {
            Lane::Up(backend) if !self.is_tunnel => match blocked_for {
                _ if all_sent => backend.shutdown(),
                Some(blocked) if blocked >= AT_ONCE => {
                    backend.shutdown();
                    self.to_backend.clear();
                    self.abandon_unread();
                }
                Some(blocked) => {
                    // It may be served at once, and what is behind it then runs too.
                    self.ticket.iter().for_each(|ticket| ticket.wake_in(AT_ONCE - blocked));
                    return Ok(false);
                }
                None => return Ok(false),
            },
            // It is to be sent again, and nobody would get what it pops.
            _ if blocked_for.is_some() => return Err(CloseReason::ClientClosed),
            _ => return Ok(false),
        }
        self.flags.half_closed = true;
        Ok(false)
    }

    /// What was not begun, and what is not read, will not be.
    fn abandon_unread(&mut self) {
        self.inbox = Vec::new();
        self.inbox_scanned = 0;
        self.flags.client_eof = true;
    }

    /// The client has sent everything and all of it was passed on: pass on its FIN too.
    pub(super) fn pass_eof(&mut self) -> Result<bool, CloseReason> {
        if self.ledger.is_empty() && !self.is_tunnel && self.to_client.is_empty() {
            return Err(CloseReason::ClientClosed);
        }
        if let (Lane::Up(backend), false) = (&mut self.lane, self.flags.half_closed) {
            self.flags.half_closed = true;
            backend.shutdown();
        }
        Ok(false)
    }
}
