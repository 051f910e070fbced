//! Another process, or another data set, at the master's address.
//!
//! Sessions move to it as to a new master, but only when the Sentinels, asked after it was seen, still name that address;
//! with no Sentinel at all, because it answers.

use std::time::{Duration, Instant};

use tracing::Level;

use super::Tracker;
use super::evidence::Verdict;
use super::history::ChangeKind;
use crate::sentinel::consensus::Consensus;
use crate::sentinel::report::{Info, NodeAnswer};
use crate::topology::Master;

/// Sessions that were cut off this long ago say that the process was restarted.
const CUT_WITHIN: Duration = Duration::from_secs(2);
/// An answer to a question of shortly before the restart was seen may be of the new process.
const SEEN_WITHIN: Duration = Duration::from_secs(1);
/// A restart with an empty data set is warned about for this long.
const EMPTIED_FOR: Duration = Duration::from_secs(3600);

/// What was seen of restarts.
#[derive(Debug, Default)]
pub(super) struct Restarts {
    /// One that sessions are not moved to yet.
    seen: Option<Restart>,
    /// Sessions reported that the master closed their connections.
    sessions_cut: Option<Instant>,
    /// The last one that came up without data.
    emptied: Option<(Instant, String)>,
}

/// Something at the master's address that is not what sessions talked to.
#[derive(Clone, Debug)]
struct Restart {
    seen: Instant,
    /// What distinguishes it from the next one: a process, or a history.
    which: String,
    /// The same process, which was a replica in between: its data set was replaced, its blocked clients cut off.
    replaced: bool,
}

impl Restarts {
    /// Something else is there; false when that is known already.
    fn see(&mut self, now: Instant, which: String, replaced: bool) -> bool {
        let is_news = self.seen.as_ref().is_none_or(|known| known.which != which);
        if is_news {
            self.seen = Some(Restart { seen: now, which, replaced });
        }
        is_news
    }

    /// What is there is followed.
    pub(super) fn settle(&mut self) {
        self.seen = None;
    }

    pub(super) fn note_sessions_cut(&mut self, now: Instant) {
        self.sessions_cut = Some(now);
    }

    pub(super) fn is_open(&self) -> bool {
        self.seen.is_some()
    }

    /// The data set of the master was replaced.
    pub(super) fn is_replaced(&self) -> bool {
        self.seen.as_ref().is_some_and(|restart| restart.replaced)
    }

    pub(super) fn warning(&self, now: Instant) -> Option<String> {
        self.emptied.as_ref().filter(|(at, _)| now < *at + EMPTIED_FOR).map(|(_, text)| text.clone())
    }

    fn warn_of_emptied(&mut self, now: Instant, text: String) {
        self.emptied = Some((now, text));
    }

    fn were_sessions_cut_lately(&self, now: Instant) -> bool {
        self.sessions_cut.is_some_and(|at| now < at + CUT_WITHIN)
    }
}

impl Tracker {
    /// A new connection to a node that does not say which process it is. It is taken for the same one unless nobody
    /// listened there in between, or sessions, which a restart cuts off as well, say otherwise.
    pub(super) fn is_taken_for_the_same(&self, now: Instant) -> bool {
        let gone = self.situation.is_gone();
        (!self.restarts.were_sessions_cut_lately(now) && !gone) || !self.followed.has_connection()
    }

    /// Another process answers as the master.
    pub(super) fn on_other_process(&mut self, now: Instant, answer: &NodeAnswer) {
        let which = match &answer.info {
            Some(info) if info.loading => return,
            Some(info) => info.run_id.clone(),
            None if answer.info_refused.is_some() => format!("connection {}", answer.connection),
            None => return,
        };
        self.on_restart(now, which);
    }

    pub(super) fn on_restart(&mut self, now: Instant, which: String) {
        self.restarted(now, which, false, "the master's process was restarted");
    }

    pub(super) fn on_replaced(&mut self, now: Instant, replid: String) {
        self.restarted(now, replid, true, "the master was a replica for a moment: its data set may be another one");
    }

    fn restarted(&mut self, now: Instant, which: String, replaced: bool, why: &str) {
        if !self.restarts.see(now, which, replaced) {
            return;
        }
        if self.situation.is_following() {
            self.fall_silent(now, true, why.into());
        }
        self.situation.find_gone();
        self.ask_sentinels();
    }

    /// Moves sessions to the new process, where that may be followed; true then.
    pub(super) fn check_restart(&mut self, now: Instant, master: &Master) -> bool {
        let Some(restart) = self.restarts.seen.clone().filter(|restart| self.is_still_named(now, master, restart.seen))
        else {
            return false;
        };
        let info = match self.verdict(master.addr, restart.seen - SEEN_WITHIN, None) {
            Verdict::Master(info, _) => info,
            Verdict::Unreadable => None,
            Verdict::No(_) => return false,
        };
        let addr = master.addr;
        let (kind, text) = if restart.replaced {
            let text = format!("the data set of the master {addr} was replaced in place: sessions begin anew there");
            (ChangeKind::Restore, text)
        } else {
            self.warn_if_emptied(now, master, info.as_ref());
            let text = format!("the master {addr} was restarted in place: sessions are moved to the new process");
            (ChangeKind::Restart, text)
        };
        self.record(now, kind, addr, None, None);
        self.out.log(Level::WARN, text);
        self.commit(now, addr, master.epoch, info.as_ref(), false);
        true
    }

    /// The Sentinels, asked after `seen`, name the master's address as before.
    fn is_still_named(&self, now: Instant, master: &Master, seen: Instant) -> bool {
        let is_o_down = || {
            let mut claims = self.sentinels.answers(now).filter_map(|answer| answer.claim.as_ref());
            claims.any(|claim| claim.o_down)
        };
        match self.consensus(now) {
            Consensus::None => self.sentinels.connected_voices().next().is_none(),
            Consensus::Agreed(named) => {
                named.confirms(master.addr, master.epoch) && !named.failover && named.asked >= seen && !is_o_down()
            }
            Consensus::Conflicting { .. } => false,
        }
    }

    fn warn_if_emptied(&mut self, now: Instant, master: &Master, info: Option<&Info>) {
        let keys = self.followed.keys();
        let Some(info) = info.filter(|info| info.keys == 0 && keys > 0) else { return };
        let text = format!(
            "the master {} was restarted with an EMPTY data set ({keys} keys before): its replicas copy that within seconds. Stop it now if a replica still has the data, promote that replica, and switch persistence on (run_id {})",
            master.addr, info.run_id
        );
        self.out.log(Level::ERROR, text.clone());
        self.history.count_emptied();
        self.restarts.warn_of_emptied(now, text);
    }
}
