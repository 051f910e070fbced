//! A gap of our own: for a while this process did not run (SIGSTOP, a starved host), and whatever it knew may be old.
//!
//! From then on the master is in doubt: requests are held and replies to writes withheld until it, and a majority of the
//! Sentinels, have answered questions that were asked behind the gap. Nothing that waited in a socket clears the doubt.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tracing::Level;

use super::Tracker;
use super::failover::PROMOTED_WITHIN;
use super::show::ms;
use crate::sentinel::report::{Role, SentinelAnswer};
use crate::topology::LOOK_LIMIT;

/// The longest time between two looks, but on a host that has no time for us.
pub(super) const LOOK: Duration = Duration::from_millis(50);
/// A gap that follows others before they are settled asks for new answers for this long; then only one of `LONG` does. On
/// a host that has little time for us the next gap comes before the answers do, and requests would never flow.
const ANEW_FOR: Duration = Duration::from_secs(1);
/// No host that is merely busy has a gap this long.
const LONG: Duration = Duration::from_millis(500);
/// A gap this long is worth a line in the log.
const LOGGED: Duration = Duration::from_secs(1);
/// How long all connected Sentinels are waited for; then a majority does.
const ALL_WITHIN: Duration = Duration::from_millis(250);
/// How long a majority is waited for; then the master with its replicas does.
const MOST_WITHIN: Duration = Duration::from_millis(500);

/// When this process looked last, and what it doubts since a gap.
#[derive(Debug)]
pub(super) struct Gap {
    looked: Instant,
    /// When the next look was due: being late is ours, not the master's.
    due: Option<Instant>,
    doubt: Option<Doubt>,
}

/// The master may be none any more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Doubt {
    /// The end of the last gap: what was asked before proves nothing.
    pub(super) since: Instant,
    /// The end of the first gap of those that are not settled.
    pub(super) began: Instant,
    /// How long the longest of them was.
    length: Duration,
}

impl Gap {
    pub(super) fn new(now: Instant) -> Gap {
        Gap { looked: now, due: None, doubt: None }
    }

    pub(super) fn doubt(&self) -> Option<Doubt> {
        self.doubt
    }

    /// The next look is due then.
    pub(super) fn expect_look(&mut self, due: Instant) {
        self.due = Some(due);
    }

    /// When this look was due, if that was not asked before.
    pub(super) fn take_due(&mut self) -> Option<Instant> {
        self.due.take()
    }

    /// Looks now; returns the time since the last look when that is a gap.
    fn look(&mut self, now: Instant) -> Option<Duration> {
        let length = now.saturating_duration_since(std::mem::replace(&mut self.looked, now));
        (length > LOOK_LIMIT).then_some(length)
    }

    fn begin_doubt(&mut self, now: Instant, length: Duration) {
        let before = self.doubt.unwrap_or(Doubt { since: now, began: now, length });
        let asks_anew = length >= LONG || now <= before.began + ANEW_FOR;
        let since = if asks_anew { now } else { before.since };
        self.doubt = Some(Doubt { since, length: before.length.max(length), ..before });
    }

    /// The master was asked behind the gap.
    pub(super) fn end_doubt(&mut self) {
        self.doubt = None;
    }

    /// What was asked after `since`, and after the last gap, is evidence.
    pub(super) fn behind(&self, since: Instant) -> Instant {
        self.doubt.map_or(since, |doubt| since.max(doubt.since))
    }
}

impl Tracker {
    /// Notes the time between this look and the last.
    pub(super) fn notice_gap(&mut self, now: Instant) {
        let Some(length) = self.gap.look(now).filter(|_| self.followed.master().is_some()) else { return };
        self.gap.begin_doubt(now, length);
        if length >= LOGGED {
            let text = format!(
                "this process did not run for {} ms: holding requests until the Sentinels and the master have answered anew",
                ms(length)
            );
            self.out.log(Level::WARN, text);
        }
        self.ask_sentinels();
        self.ask_master();
    }

    /// Ends the doubt once the master that is followed is seen to be the master still.
    pub(super) fn settle_doubt(&mut self, now: Instant) {
        let Some(doubt) = self.gap.doubt().filter(|_| self.situation.is_following()) else { return };
        if !self.is_still_master(now, doubt) {
            return;
        }
        self.gap.end_doubt();
        if doubt.length >= LOGGED {
            let after = ms(now - doubt.began);
            self.out.log(Level::INFO, format!("the master is the same: requests flow again after {after} ms"));
        }
    }

    fn is_still_master(&self, now: Instant, Doubt { since, began, .. }: Doubt) -> bool {
        let Some(master) = self.followed.addr() else { return false };
        let Some(answer) = self.nodes.answer(master).filter(|answer| answer.asked >= since) else { return false };
        if matches!(answer.role, Role::Replica { .. }) || !self.followed.is_connection_of(answer) {
            return false;
        }
        // A replica that was promoted is missing in its list; see `check_vanished`, which ends `Following`.
        let says_so = matches!(answer.role, Role::Master { .. } | Role::Unreadable(_));
        if self.followed.is_early() {
            return says_so && self.is_being_promoted(master, since);
        }
        let asked = || self.sentinels.answers(now).filter(|answer| answer.asked >= since);
        let is_changing = asked().any(|answer| answer.names(master) && answer.is_failing_over());
        let support = asked().filter(|answer| answer.names(master)).count();
        let has_say = |at| self.sentinels.electorate().has_say(at);
        let connected = self.sentinels.iter().filter(|(at, sentinel)| sentinel.connected && has_say(at)).count();
        let most = support * 2 > self.sentinels.total();
        let all = asked().count() >= connected || now >= began + ALL_WITHIN;
        if most && all && !is_changing {
            return true;
        }
        // Nobody else can be asked, or a failover has promoted nobody in its time: the master and its replicas do.
        let limit = match (is_changing, connected) {
            (true, _) => PROMOTED_WITHIN,
            (false, 0) => Duration::ZERO,
            (false, _) => MOST_WITHIN,
        };
        says_so && now >= since + limit
    }

    /// Of an early commit only the Sentinel that promotes the master knows yet: it is still about it, or done.
    fn is_being_promoted(&self, master: SocketAddr, since: Instant) -> bool {
        let Some(early) = self.followed.early() else { return false };
        let leader = early.leader.as_ref().and_then(|leader| self.sentinels.get(leader)?.answer.as_ref());
        let goes_on = |leader: &SentinelAnswer| {
            leader.names(master) || (leader.names(early.previous.addr) && leader.is_failing_over())
        };
        leader.is_some_and(|leader| leader.asked >= since && goes_on(leader))
    }
}
