//! How a session comes to its end, or lets go of its backend: the client leaves, the proxy drains, nothing happens for
//! long.
//!
//! The client's end is passed on behind what it has sent, or instead of it, when it is too late to run. A client that
//! has left is not waited for: what blocks for it ends as it does on a direct connection, and what it had given up does
//! not run. While the proxy drains no request ends unanswered that was sent on, but for those that still run when the
//! time is over.

use std::time::Duration;

use super::{
    Action, ClientEnd, CloseReason, Core, Download, Hear, Parting, Phase, ReplyMode, Reuse, Turn, Uncounted, Writing,
};
use crate::drain::Stage;

/// A client that says FIN sooner after its request has not given up: it has asked everything.
const PATIENCE: Duration = Duration::from_millis(100);
/// What may block and is not answered within this time blocks.
const AT_ONCE: Duration = Duration::from_millis(100);

impl Core {
    /// The client's end was read: everything before it was.
    pub fn client_ended(&mut self, turn: &mut Turn<'_>) -> Result<(), CloseReason> {
        if !self.front.inbox.has_unscanned() && self.takes_requests(turn) {
            self.front.end = ClientEnd::Read;
            return Ok(()); // passed on next
        }
        let just_left = self.front.end == ClientEnd::Open;
        self.front.end = ClientEnd::Read;
        self.left(turn, just_left)
    }

    /// The client has closed its side, behind bytes that are not read for now.
    pub fn client_left(&mut self, turn: &mut Turn<'_>) -> Result<(), CloseReason> {
        let just_left = self.front.end == ClientEnd::Open;
        self.front.end = self.front.end.max(ClientEnd::Left);
        self.left(turn, just_left)
    }

    fn left(&mut self, turn: &mut Turn<'_>, just_left: bool) -> Result<(), CloseReason> {
        let held_since = self.held_since();
        if just_left && held_since.is_some_and(|since| turn.now.saturating_duration_since(since) > PATIENCE) {
            // It has given up: what it had not sent on must not run late.
            if self.front.is_uploading() {
                return Err(CloseReason::ClientClosed);
            }
            self.front.abandon_unread();
        }
        self.await_end(turn).map(|_| ())
    }

    /// The client has left, and something is still to be sent or answered. A server lets go of what blocks when its
    /// client leaves, and runs nothing behind it (measured on 7.0.15: BLPOP and WAIT; networking.c, freeClient).
    pub(super) fn await_end(&mut self, turn: &mut Turn<'_>) -> Result<Hear, CloseReason> {
        let all_read = self.front.end == ClientEnd::Read && self.front.inbox.is_empty();
        if all_read && self.front.owed.is_empty() && self.front.out.is_empty() {
            return Err(CloseReason::ClientClosed);
        }
        if self.back.writing().is_over() {
            return Ok(Hear::Nothing);
        }
        let all_sent = all_read && self.back.out.is_empty() && !self.front.is_uploading();
        let blocked_for = self.front.owed.blocked_since().map(|since| turn.now.saturating_duration_since(since));
        if !self.back.is_up() || self.phase.is_tunnel() {
            // It is to be sent again, and nobody would get what it pops.
            return if blocked_for.is_some() { Err(CloseReason::ClientClosed) } else { Ok(Hear::Nothing) };
        }
        match blocked_for {
            _ if all_sent => self.pass_fin(turn),
            Some(blocked) if blocked >= AT_ONCE => {
                self.pass_fin(turn);
                self.back.out.clear();
                self.front.abandon_unread();
            }
            // It may be served at once, and what is behind it then runs too.
            Some(blocked) => turn.actions.push(Action::WakeIn(AT_ONCE - blocked)),
            None => {}
        }
        Ok(Hear::Nothing)
    }

    /// The client has sent everything and all of it was passed on: so is its FIN.
    pub(super) fn pass_end(&mut self, turn: &mut Turn<'_>) -> Result<Hear, CloseReason> {
        if self.front.owed.is_empty() && !self.phase.is_tunnel() && self.front.out.is_empty() {
            return Err(CloseReason::ClientClosed);
        }
        if !self.back.writing().is_over() {
            self.pass_fin(turn);
        }
        Ok(Hear::Nothing)
    }

    fn pass_fin(&mut self, turn: &mut Turn<'_>) {
        self.set_writing(Writing::FinPassedOn);
        turn.actions.push(Action::ShutDown);
    }

    fn set_writing(&mut self, writing: Writing) {
        if let Some(up) = self.back.last_mut() {
            up.writing = writing;
        }
    }

    /// Nothing moves at this moment: what the drain makes of that. `client_dry`: nothing of the client waits to be read.
    pub fn drain(&mut self, turn: &mut Turn<'_>, client_dry: bool) -> Result<(), CloseReason> {
        let is_tunnel = self.phase.is_tunnel();
        let is_between = || is_tunnel || (self.is_quiet() && client_dry && self.front.inbox.is_empty());
        match turn.stage {
            Stage::Serving => {}
            Stage::Settling if is_between() || self.is_blocked(turn) => turn.actions.push(Action::Settled),
            Stage::Settling => {}
            Stage::Quieting if is_between() && self.is_left_alone(turn) => return Err(CloseReason::Drained),
            Stage::Ending if is_between() && !self.front.in_transaction() => return Err(CloseReason::Drained),
            // What is in the inbox was not begun.
            Stage::Stopping if is_tunnel || self.is_quiet() => return Err(CloseReason::Drained),
            Stage::Quieting | Stage::Ending if self.is_blocked(turn) && self.back.writing() == Writing::Open => {
                // Its reply will come from there.
                self.set_writing(Writing::UnblockAsked);
                turn.actions.push(Action::Unblock);
            }
            // Where asking did not help. What the server has answered before it sees that comes before its own FIN.
            Stage::Stopping if self.is_blocked(turn) && self.back.writing() != Writing::FinToUnblock => {
                self.set_writing(Writing::FinToUnblock);
                turn.actions.push(Action::ShutDown);
            }
            Stage::Quieting | Stage::Ending | Stage::Stopping => {}
            Stage::Cutting => return Err(CloseReason::Drained),
        }
        Ok(())
    }

    /// Nothing is owed in either direction, and nothing has begun to pass.
    fn is_quiet(&self) -> bool {
        self.front.owed.is_empty()
            && self.front.out.is_empty()
            && self.back.out.is_empty()
            && self.back.tail().is_empty()
            && !self.front.is_uploading()
            && self.back.download() == Download::Between
    }

    /// The master has all of a request that waits there for something to happen; whatever is pipelined behind it has not
    /// run.
    fn is_blocked(&self, turn: &Turn<'_>) -> bool {
        self.is_at_ease(turn)
            && self.back.is_up()
            && self.front.out.is_empty()
            && self.back.out.is_empty()
            && !self.front.is_uploading()
            && self.back.download() != Download::PartOfReply
            && self.back.writing() != Writing::FinPassedOn
            && self.front.owed.is_blocked()
    }

    /// The server has closed after a FIN that was to unblock: what it did not answer it will not run. The request that
    /// blocked has timed out.
    pub(super) fn end_blocked(&mut self, turn: &mut Turn<'_>) -> Result<(), CloseReason> {
        if self.back.download() != Download::PartOfReply {
            self.front.owed.time_out(self.front.state.is_resp3());
            self.take_answers(turn);
        }
        self.leave_backend(turn, Parting::Close);
        self.phase.close(CloseReason::Drained);
        self.ended().map_or(Ok(()), Err)
    }

    /// An idle tick has passed, perhaps: a session that has begun nothing for a whole one gives its backend up, and makes
    /// another at its next request, if all that the client made of the connection can be restored.
    pub fn note_idle(&mut self, turn: &mut Turn<'_>) {
        if turn.stage == Stage::Quieting || self.idle_for(turn) < 2 || !self.may_detach(turn) {
            return;
        }
        let parting = self.parting(turn);
        self.leave_backend(turn, parting);
        self.back.wrote_nothing = true; // on the next one
        turn.counts.detached += 1;
    }

    /// It is not in the middle of a conversation, or in that of one who only waits.
    fn is_left_alone(&self, turn: &Turn<'_>) -> bool {
        let has_waited = self.back.is_up() && self.back.writing() == Writing::UnblockAsked;
        !self.front.in_transaction() && (has_waited || self.idle_for(turn) >= 2)
    }

    /// Idle ticks since something was asked or answered.
    fn idle_for(&self, turn: &Turn<'_>) -> u16 {
        turn.idle_ticks.wrapping_sub(self.front.active_at)
    }

    fn may_detach(&self, turn: &Turn<'_>) -> bool {
        self.is_settled(turn)
            && self.front.inbox.is_empty()
            && self.front.out.is_empty()
            && self.back.reuse != Reuse::Never
            && self.front.end != ClientEnd::Read
            && !self.front.in_transaction()
            && !self.front.state.is_watching()
    }

    /// How the backend is to be left now.
    pub fn parting(&self, turn: &Turn<'_>) -> Parting {
        self.back.parting(self.is_settled(turn), self.is_owed_nothing(), turn.settings.reuse_backends)
    }

    /// Under a master that nobody doubts.
    fn is_at_ease(&self, turn: &Turn<'_>) -> bool {
        self.phase == Phase::Flowing && self.sight == turn.sight && self.back.doubt().is_none()
    }

    /// Between two requests, with a backend, under a master that nobody doubts.
    fn is_settled(&self, turn: &Turn<'_>) -> bool {
        self.back.up().is_some_and(|up| up.download != Download::PartOfReply && up.scanner.at_boundary())
            && self.is_owed_nothing()
            && !self.front.listening
            && self.is_at_ease(turn)
            && self.front.reply_mode == ReplyMode::On
            && self.front.state.untracked().is_none()
    }

    /// Every request was sent on whole, and the backend has answered it.
    fn is_owed_nothing(&self) -> bool {
        self.front.owed.is_empty()
            && self.back.out.is_empty()
            && !self.phase.is_tunnel()
            && self.front.uncounted == Uncounted::None
            && !self.front.is_uploading()
            && self.back.writing() != Writing::FinPassedOn
    }
}
