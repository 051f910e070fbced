//! Which Sentinels there are: those configured, those that they tell of, and for how long each disagrees.
//!
//! Nothing here weighs what they say of the master: that is `word`'s business.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{SentinelState, Tracker};
use crate::config::HostPort;
use crate::sentinel::electorate::Listed;
use crate::sentinel::report::SentinelAnswer;

/// A learnt Sentinel that is lost this long, and named by no other, is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);
/// Sentinels that are dialled, at most.
const MOST: usize = 64;

impl Tracker {
    /// Counts anew who is believed, and follows what those tell of each other.
    pub(super) fn count_sentinels(&mut self, now: Instant) {
        let settled = self.settled(now);
        let remembered = self.remembered_sentinels();
        let mut electorate = std::mem::take(&mut self.electorate);
        let fresh: BTreeMap<&HostPort, &SentinelAnswer> = self.all_answers(now).collect();
        let listed: Vec<Listed> = (self.sentinels.iter())
            .map(|(at, sentinel)| Listed {
                at,
                configured: !sentinel.learnt,
                run_id: sentinel.run_id.as_deref(),
                answer: fresh.get(at).copied(),
            })
            .collect();
        electorate.update(&listed, &self.settings.address_map, settled, &remembered);
        self.electorate = electorate;
        // One that the operator listed under another address is known as soon as it has answered.
        if self.all_tried().is_some() {
            for peer in self.electorate.strangers() {
                if self.sentinels.len() < MOST && !self.sentinels.contains_key(&peer.addr) {
                    let run_id = Some(peer.run_id.clone()).filter(|id| !id.is_empty());
                    let learnt = SentinelState { learnt: true, run_id, ..SentinelState::default() };
                    self.sentinels.insert(peer.addr.clone(), learnt);
                }
            }
        }
        self.drop_doubles();
    }

    /// One Sentinel under two addresses is known by its run id: the one that was learnt goes, and is not dialled again.
    fn drop_doubles(&mut self) {
        let told = |sentinel: &SentinelState| sentinel.answer.as_ref().and_then(|answer| answer.myid.clone());
        let mut kept: BTreeMap<String, (bool, bool, HostPort)> = BTreeMap::new();
        for (at, sentinel) in &self.sentinels {
            let Some(id) = told(sentinel) else { continue };
            // Configured ones first, then those that are connected.
            let rank = (sentinel.learnt, !sentinel.connected, at.clone());
            let best = kept.entry(id).or_insert_with(|| rank.clone());
            *best = rank.min(best.clone());
        }
        self.sentinels.retain(|at, sentinel| {
            let best = sentinel.run_id.as_ref().and_then(|id| kept.get(id));
            !sentinel.learnt || best.is_none_or(|(_, _, best)| best == at)
        });
    }

    /// It answers under another address too, or is none of the set that is believed.
    pub(super) fn has_no_say(&self, now: Instant, at: &HostPort) -> bool {
        let answers = self.all_answers(now).any(|(other, _)| other == at);
        let run_id = self.sentinels.get(at).and_then(|sentinel| sentinel.run_id.as_ref());
        let same = |(other, sentinel): (&HostPort, &SentinelState)| {
            other != at && self.electorate.has_say(other) && run_id.is_some() && sentinel.run_id.as_ref() == run_id
        };
        let double = !self.electorate.has_say(at) && self.sentinels.iter().any(same);
        double || (answers && !self.electorate.has_voice(at))
    }

    pub(super) fn forget_peers(&mut self, now: Instant) {
        let named: Vec<HostPort> =
            self.answers(now).flat_map(|answer| answer.peers.iter().flatten()).map(|peer| peer.addr.clone()).collect();
        let heard = !named.is_empty();
        self.sentinels.retain(|at, sentinel| {
            let gone = sentinel.lost_since.is_some_and(|since| now > since + FORGOTTEN_AFTER);
            !(sentinel.learnt && gone && heard && !named.contains(at))
        });
    }

    /// Notes since when each Sentinel names another master than ours.
    pub(super) fn note_disagreement(&mut self, now: Instant) {
        let Some(master) = self.master.as_ref().map(|master| master.addr) else { return };
        for sentinel in self.sentinels.values_mut() {
            match sentinel.answer.as_ref().and_then(|answer| answer.claim.as_ref()) {
                Some(claim) if claim.addr != master => _ = sentinel.disagrees_since.get_or_insert(now),
                _ => sentinel.disagrees_since = None,
            }
        }
    }
}
