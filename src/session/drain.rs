//! What a session does while the proxy drains: it ends between two requests, and lets go of what blocks.
//!
//! No request ends unanswered that was sent on, but for those that still run when the time is over.

use super::lane::Lane;
use super::{CloseReason, Gate, Round, Session, registry, unblock};
use crate::drain::Stage;

impl Session {
    /// Nothing moves at this moment.
    pub(super) fn drain(&mut self, round: &Round) -> Result<(), CloseReason> {
        let stage = registry::stage();
        if stage == Stage::Serving {
            return Ok(());
        }
        let is_in_transaction = self.flags.multi || self.state.in_transaction();
        let is_between = self.is_tunnel || (self.is_quiet() && round.client_drained && self.inbox.is_empty());
        let is_blocked = self.is_blocked();
        match stage {
            Stage::Serving => {}
            Stage::Settling if is_between || is_blocked => {
                if let Some(ticket) = &self.ticket {
                    ticket.settle();
                }
            }
            Stage::Settling => {}
            Stage::Ending if is_between && !is_in_transaction => return Err(CloseReason::Drained),
            // What is in the inbox was not begun.
            Stage::Stopping if self.is_tunnel || self.is_quiet() => return Err(CloseReason::Drained),
            Stage::Ending if is_blocked => self.ask_to_unblock(),
            Stage::Stopping if is_blocked => self.unblock(),
            Stage::Ending | Stage::Stopping => {}
            Stage::Cutting => return Err(CloseReason::Drained),
        }
        Ok(())
    }

    /// Nothing is owed in either direction, and nothing has begun to pass.
    fn is_quiet(&self) -> bool {
        self.ledger.is_empty()
            && self.to_client.is_empty()
            && self.to_backend.is_empty()
            && self.reply_tail.is_empty()
            && !(self.flags.streaming || self.flags.partly_delivered || self.flags.passing_unasked)
    }

    /// The master has all of a request that waits there for something to happen; whatever is pipelined behind it has not
    /// run.
    fn is_blocked(&self) -> bool {
        matches!(self.lane, Lane::Up(_))
            && self.gate == Gate::Open
            && self.worker.upstream.topology.generation() == self.generation
            && self.refused_at.is_none()
            && self.to_client.is_empty()
            && self.to_backend.is_empty()
            && !(self.flags.streaming || self.flags.partly_delivered || self.flags.half_closed)
            && self.ledger.is_blocked()
    }

    /// Its reply will come from there.
    fn ask_to_unblock(&mut self) {
        if let Lane::Up(backend) = &self.lane
            && !std::mem::replace(&mut self.flags.unblock_asked, true)
        {
            unblock::ask(&self.worker, backend);
        }
    }

    /// Takes a blocking request off the master by a FIN, where asking did not help. What it has answered before it sees
    /// that comes before its own FIN.
    fn unblock(&mut self) {
        if let (Lane::Up(backend), false) = (&mut self.lane, self.flags.unblocking) {
            backend.shutdown();
            self.flags.unblocking = true;
        }
    }

    /// The master has closed after [`Session::unblock`]: what it did not answer it will not run. The request that blocked
    /// has timed out.
    pub(super) fn end_blocked(&mut self) -> Result<(), CloseReason> {
        self.lane = Lane::None;
        self.closing.get_or_insert(CloseReason::Drained);
        if !self.flags.partly_delivered {
            self.ledger.time_out(self.state.is_resp3());
            self.take_answers();
        }
        if self.to_client.is_empty() { Err(CloseReason::Drained) } else { Ok(()) }
    }
}
