//! A gap of our own: for a while this process did not run (SIGSTOP, a starved host), and whatever it knew may be old.
//!
//! From then on the master is in doubt: requests are held and replies to writes withheld until it, and a majority of the
//! Sentinels, have answered questions that were asked behind the gap. Nothing that waited in a socket clears the doubt.

use std::time::{Duration, Instant};

use tracing::Level;

use super::show::ms;
use super::switching::PROMOTED_WITHIN;
use super::{State, Tracker};
use crate::sentinel::report::{Role, SentinelAnswer};

/// The longest time between two looks, but on a host that has no time for us.
pub(super) const LOOK: Duration = Duration::from_millis(50);
/// A longer time between two looks is a gap: some 100 ms beyond the 50 that are usual. Sentinel's choice of a replica and
/// its promotion are 60 to 100 ms apart: what is shorter hides no more than one of the two, and the other is still to be
/// seen in time.
const GAP: Duration = Duration::from_millis(150);
/// A gap that follows another before that is settled asks for new answers only if it is this long. On a host that has
/// little time for us the next gap comes before the answers do, and requests would never flow.
const ANEW: Duration = Duration::from_millis(500);
/// A gap this long is worth a line in the log.
const TOLD: Duration = Duration::from_secs(1);
/// How long all connected Sentinels are waited for; then a majority does.
const ALL_WITHIN: Duration = Duration::from_millis(250);
/// How long a majority is waited for; then the master with its replicas does.
const MOST_WITHIN: Duration = Duration::from_millis(500);

/// The master may be none any more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Doubt {
    /// The end of the gap: what was asked before proves nothing.
    pub(super) since: Instant,
    /// How long it was.
    pub(super) gap: Duration,
}

impl Tracker {
    /// Notes the time between this look and the last.
    pub(super) fn notice_gap(&mut self, now: Instant) {
        let gap = now.saturating_duration_since(std::mem::replace(&mut self.looked, now));
        if gap <= GAP || self.master.is_none() {
            return;
        }
        self.doubt = Some(match self.doubt {
            Some(doubt) if gap < ANEW => Doubt { gap: doubt.gap.max(gap), ..doubt },
            _ => Doubt { since: now, gap },
        });
        if gap >= TOLD {
            let text = format!(
                "this process did not run for {} ms: holding requests until the Sentinels and the master have answered anew",
                ms(gap)
            );
            self.log(Level::WARN, text);
        }
        self.ask_sentinels();
        self.ask_master();
    }

    /// What was asked after `since`, and after the last gap, is evidence.
    pub(super) fn behind_gap(&self, since: Instant) -> Instant {
        self.doubt.map_or(since, |doubt| since.max(doubt.since))
    }

    /// Ends the doubt once the master that is followed is seen to be the master still.
    pub(super) fn settle_doubt(&mut self, now: Instant) {
        let Some(doubt) = self.doubt.filter(|_| matches!(self.state, State::Following)) else { return };
        if !self.is_still_master(now, doubt.since) {
            return;
        }
        self.doubt = None;
        if doubt.gap >= TOLD {
            self.log(
                Level::INFO,
                format!("the master is the same: requests flow again after {} ms", ms(now - doubt.since)),
            );
        }
    }

    fn is_still_master(&self, now: Instant, since: Instant) -> bool {
        let Some(master) = &self.master else { return false };
        let answer = self.nodes.get(&master.addr).and_then(|node| node.answer.as_ref());
        let Some(answer) = answer.filter(|answer| answer.asked >= since) else { return false };
        // A replica that was promoted is missing in its list; see `check_vanished`, which ends `Following`.
        let says_so = matches!(answer.role, Role::Master { .. } | Role::Unreadable(_));
        if matches!(answer.role, Role::Replica { .. }) || self.process.connection != Some(answer.connection) {
            return false;
        }
        let named = |answer: &SentinelAnswer, addr| answer.claim.as_ref().is_some_and(|claim| claim.addr == addr);
        let asked = || self.answers(now).filter(|answer| answer.asked >= since);
        let failover = |answer: &&SentinelAnswer| answer.claim.as_ref().is_some_and(|claim| claim.failover);
        if let Some(provisional) = &self.provisional {
            // Only the Sentinel that promotes it knows yet, and it is still about it.
            let leader = provisional.leader.as_ref().and_then(|leader| self.sentinels.get(leader)?.answer.as_ref());
            return says_so
                && leader.filter(|leader| leader.asked >= since).is_some_and(|leader| {
                    named(leader, master.addr) || (named(leader, provisional.previous.addr) && failover(&leader))
                });
        }
        let is_changing = asked().any(|answer| named(answer, master.addr) && failover(&answer));
        let support = asked().filter(|answer| named(answer, master.addr)).count();
        let has_say = |at| self.electorate.has_say(at);
        let connected = self.sentinels.iter().filter(|(at, sentinel)| sentinel.connected && has_say(at)).count();
        let most = support * 2 > self.known_sentinels();
        let all = asked().count() >= connected || now >= since + ALL_WITHIN;
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
}
