//! A planned failover finds a message half delivered: the old master lives, so the rest of it comes from there, and the
//! session moves behind it. Nothing is sent to that node any more, and nothing else of it is passed on.

use std::time::{Duration, Instant};

use super::Session;
use super::lane::Lane;
use super::replies::is_harmless;
use crate::topology::Entry;

/// How long the rest may keep still. A client that does not take what is there keeps it from being read: its time is not
/// the master's, which ends the wait at the latest when it becomes a replica.
const STILL: Duration = Duration::from_secs(1);

/// The wait for the rest of a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Finish {
    /// When it is looked at again.
    due: Instant,
    /// Some of the rest has come since the last look.
    moved: bool,
}

impl Session {
    /// The rest of a message is on its way from the old master.
    pub(super) fn finishes_message(&mut self, entry: &Entry) -> bool {
        let lives = entry.replicated_until.is_some() && matches!(self.lane, Lane::Up(_));
        let is_planned = entry.term != self.term && lives;
        if is_planned {
            self.deliver_replicated(entry);
        }
        let now = Instant::now();
        let is_under_way = is_planned && (self.flags.passing_unasked || self.flags.partly_delivered);
        let waits = is_under_way
            && match self.outage().finish {
                Some(finish) if now < finish.due => return true,
                Some(finish) => finish.moved || !self.to_client.is_empty(),
                None => true,
            };
        if waits {
            self.outage_mut().finish = Some(Finish { due: now + STILL, moved: false });
            self.ticket.iter().for_each(|ticket| ticket.wake_in(STILL));
        } else {
            self.outage.iter_mut().for_each(|outage| outage.finish = None);
        }
        waits
    }

    /// The new master has what ran before `replicated_until`: those replies stand, and so does one that had only begun,
    /// as a reply begins when its request has run.
    fn deliver_replicated(&mut self, entry: &Entry) {
        let Some(until) = entry.replicated_until.filter(|_| entry.term == self.term + 1) else { return };
        let has_begun = self.outage().reply_begun_at.is_some_and(|begun| begun < until);
        let Some((effect, queued)) = self.ledger.expected().filter(|_| has_begun && !self.reply_tail.is_empty()) else {
            return;
        };
        if is_harmless(effect, queued) || self.replies.kind() == b'-' || self.may_be_unasked(effect) {
            return;
        }
        self.ledger.release(Some(until));
        self.take_answers();
        if !self.ledger.has_answers() {
            self.to_client.push(&std::mem::take(&mut self.reply_tail));
            self.flags.partly_delivered = true;
        }
    }

    /// The rest of a message is waited for: the old master is listened to and told nothing.
    pub(super) fn is_finishing(&self) -> bool {
        self.outage.as_ref().is_some_and(|outage| outage.finish.is_some())
    }

    /// More of a message has come.
    pub(super) fn note_progress(&mut self) {
        if let Some(finish) = self.outage.as_mut().and_then(|outage| outage.finish.as_mut()) {
            finish.moved = true;
        }
    }
}
