//! From master to master: what a new entry of the topology, a refusal or a lost connection makes of a session.
//!
//! A planned failover may find a message half delivered: the old master lives, so the rest of it comes from there, and
//! the session moves behind it. Nothing is sent to that node any more, and nothing else of it is passed on.

use std::time::{Duration, Instant};

use super::ledger::{Judgement, no_master};
use super::phase::Finish;
use super::replies::is_harmless;
use super::{
    Action, ClientEnd, CloseReason, Core, Download, Link, Parting, Phase, Refusal, ReplyMode, Turn, Uncounted, Upload,
    Writing,
};
use crate::topology::Entry;

/// How long to wait without progress for the rest of a partly delivered message. A client that does not take what is
/// there keeps it from being read: its time is not the master's, which ends the wait at the latest when it becomes a
/// replica.
const PARTIAL_MESSAGE_TIMEOUT: Duration = Duration::from_secs(1);

impl Core {
    /// The topology has to be looked at: it has changed, or something depends on it that is not settled.
    #[inline]
    pub fn must_observe(&self, turn: &Turn<'_>) -> bool {
        self.sight != turn.sight || self.is_unsettled(turn)
    }

    fn is_unsettled(&self, turn: &Turn<'_>) -> bool {
        let is_in_doubt = match &self.back.link {
            Link::Up(up) => up.doubt.is_some(),
            Link::Lost(_) => true,
            Link::None | Link::Attaching => false,
        };
        let is_held = matches!(self.phase, Phase::Holding { .. } | Phase::Tunnel { open: false });
        is_in_doubt || (turn.settings.hold_timeout.is_some() && is_held)
    }

    /// Before a new term is observed: whether what the old master has said is to be read first, until nothing is left
    /// there. It tells what blocks there still, and what was popped.
    pub fn hears_out(&mut self, entry: &Entry) -> bool {
        let looks = self.front.owed.has_more_behind_a_block() || self.front.owed.has_pop();
        let hears = entry.term != self.term
            && entry.replicated_until.is_some()
            && looks
            && self.phase.closing().is_none()
            && !(self.phase.is_tunnel() || self.phase.is_finishing());
        if hears {
            self.phase = Phase::Holding { withhold: true };
        }
        hears
    }

    /// Takes note of the topology's present entry, and of what it makes of a lost connection or a refusal. `proven` is
    /// the latest moment at which the master was asked and answered as what it is; `is_heard`: nothing that the old
    /// master has said is left unread, where [`Core::hears_out`] asked for that.
    pub fn observe(
        &mut self,
        turn: &mut Turn<'_>,
        entry: &Entry,
        proven: Option<Instant>,
        is_heard: bool,
    ) -> Result<(), CloseReason> {
        if self.phase.closing().is_some() {
            self.sight = turn.sight;
            return Ok(());
        }
        if let Some(finish) = self.finish(turn, entry) {
            self.phase = Phase::Finishing(Box::new(finish));
            return Ok(()); // looked at again each turn
        }
        self.sight = turn.sight;
        if entry.term != self.term {
            self.leave(turn, entry, is_heard)?;
        }
        let phase = Phase::of(entry, turn);
        match phase {
            Phase::Flowing => self.settle_doubts(proven),
            Phase::Electing if entry.covered_until.is_some() => self.front.owed.release(entry.covered_until),
            Phase::Failing => self.fail(turn, &entry.reason)?,
            _ => {}
        }
        if self.phase.is_tunnel() {
            self.phase = Phase::Tunnel { open: phase.is_open() };
        } else if self.phase.closing().is_none() {
            self.phase = phase;
        }
        Ok(())
    }

    /// The phase is open in the term of the backend: the node is the master that it was.
    fn settle_doubts(&mut self, proven: Option<Instant>) {
        let is_proven = |at: Instant| proven.is_some_and(|proven| proven > at);
        let doubt = self.back.doubt();
        let is_settled = doubt.is_none_or(|doubt| is_proven(doubt.since));
        if is_settled {
            self.back.set_doubt(None);
            let wants_replicas = doubt.is_some_and(|doubt| doubt.why == Refusal::TooFewReplicas);
            match wants_replicas.then(|| self.front.owed.retry_refused()).flatten() {
                Some(again) => self.back.out.push(&again),
                // It said what it said as the master: the client gets to see it.
                None => self.front.owed.release(None),
            }
        }
        if self.back.lost_at().is_some_and(is_proven) {
            let client_did = self.back.writing() == Writing::FinPassedOn;
            self.phase.close(if client_did { CloseReason::ClientClosed } else { CloseReason::UpstreamClosed });
        }
    }

    /// A new term: gives up the backend and judges what was outstanding there.
    fn leave(&mut self, turn: &mut Turn<'_>, entry: &Entry, is_heard: bool) -> Result<(), CloseReason> {
        let next = self.term + 1;
        self.term = entry.term;
        if matches!(self.back.link, Link::None) && self.front.owed.is_empty() {
            return Ok(());
        }
        let unkept = self.front.state.unkept_transaction().filter(|_| !self.front.owed.has_ended_transaction());
        if self.phase.is_tunnel() || self.front.state.untracked().or(unkept).is_some() {
            return Err(CloseReason::Opaque);
        }
        if self.back.download() == Download::PartOfUnasked {
            return Err(CloseReason::PartialReply); // half a message was delivered
        }
        if self.front.upload == Upload::PartOfUnanswered {
            return Err(CloseReason::NotReplayable);
        }
        let is_countable = self.front.uncounted == Uncounted::None;
        let verdict = self.front.owed.judge(Judgement {
            replicated_until: entry.replicated_until.filter(|_| entry.term == next),
            // What it said behind the message that was waited for was not looked at.
            is_connected: self.back.is_up() && is_heard && !self.phase.is_finishing(),
            diverged_from: entry.diverged_from.filter(|_| entry.term == next),
            queue_stays_in_data_set: self.front.state.queue_stays_in_data_set(),
            now: turn.now,
            resp3: self.front.state.is_resp3(),
            policy: turn.settings.on_lost_reply,
            on_lost_pop: turn.settings.on_lost_pop,
            unsent: if is_countable { self.back.out.len() as u64 } else { 0 },
            partly_delivered: self.back.download() == Download::PartOfReply,
            watching: self.front.state.is_watching(),
            half_closed: self.front.end == ClientEnd::Read,
        });
        if self.front.reply_mode != ReplyMode::On && !verdict.again.is_empty() {
            return Err(CloseReason::NotReplayable); // restored, the silence would swallow their replies
        }
        self.leave_backend(turn, Parting::Close);
        self.back.out.push(&verdict.again);
        self.back.is_resending = true;
        self.back.wrote_nothing = verdict.replayed == 0;
        self.outage_mut().moved_at = Some(turn.now);
        turn.counts.moved += 1;
        turn.counts.replayed += verdict.replayed;
        turn.counts.lost += verdict.lost;
        Ok(())
    }

    /// Nothing more is read from or sent to the present backend.
    pub(super) fn leave_backend(&mut self, turn: &mut Turn<'_>, parting: Parting) {
        if !matches!(self.back.link, Link::None) {
            turn.actions.push(Action::Leave(parting));
        }
        self.back.leave();
        self.front.state.backend_lost();
    }

    /// There is no master and there was none until the deadline.
    fn fail(&mut self, turn: &mut Turn<'_>, reason: &str) -> Result<(), CloseReason> {
        let state = &self.front.state;
        if self.phase.is_tunnel()
            || state.untracked().or(state.unkept_transaction()).is_some()
            || self.front.is_uploading()
            || self.back.download() != Download::Between
        {
            return Err(CloseReason::Outage);
        }
        self.fail_outstanding(turn, reason, self.back.out.len() as u64);
        self.leave_backend(turn, Parting::Close);
        Ok(())
    }

    /// Ends every request that is noted and has no answer; the last `unsent` bytes of them went nowhere.
    pub(super) fn fail_outstanding(&mut self, turn: &mut Turn<'_>, reason: &str, unsent: u64) {
        let settings = turn.settings;
        let resp3 = self.front.state.is_resp3();
        let error = no_master(reason);
        turn.counts.lost += self.front.owed.fail(&error, settings.on_lost_reply, settings.on_lost_pop, unsent, resp3);
    }

    /// The rest of a message is on its way from the old master: waits for it.
    fn finish(&mut self, turn: &mut Turn<'_>, entry: &Entry) -> Option<Finish> {
        let lives = entry.replicated_until.is_some() && self.back.is_up();
        // A tunnel ends at once: nobody knows where its messages do.
        if entry.term == self.term || !lives || self.phase.is_tunnel() {
            return None;
        }
        self.deliver_replicated(turn, entry);
        if self.back.download() == Download::Between || self.phase.closing().is_some() {
            return None;
        }
        match &self.phase {
            Phase::Finishing(finish) if turn.now < finish.due => return Some(**finish),
            Phase::Finishing(finish) if !finish.moved && self.front.out.is_empty() => return None,
            _ => {}
        }
        turn.actions.push(Action::WakeIn(PARTIAL_MESSAGE_TIMEOUT));
        Some(Finish { due: turn.now + PARTIAL_MESSAGE_TIMEOUT, moved: false })
    }

    /// The new master has what ran before `replicated_until`: those replies count, and so does one that had only begun,
    /// as a reply begins when its request has run.
    fn deliver_replicated(&mut self, turn: &mut Turn<'_>, entry: &Entry) {
        let Some(until) = entry.replicated_until.filter(|_| entry.term == self.term + 1) else { return };
        let has_begun = self.outage().reply_begun_at.is_some_and(|begun| begun < until) && !self.back.tail().is_empty();
        let Some((effect, queued)) = self.front.owed.expected().filter(|_| has_begun) else { return };
        if is_harmless(effect, queued) || self.back.kind() == b'-' || self.may_be_unasked(self.back.kind(), effect) {
            return;
        }
        self.front.owed.release(Some(until));
        self.take_answers(turn);
        if !self.front.owed.has_answers() && self.phase.closing().is_none() {
            let tail = self.back.take_tail();
            self.front.out.push(&tail);
            self.back.set_download(Download::PartOfReply);
        }
    }

    /// More of a message has come.
    pub(super) fn note_progress(&mut self) {
        if let Phase::Finishing(finish) = &mut self.phase {
            finish.moved = true;
        }
    }
}
