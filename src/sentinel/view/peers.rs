//! Which Sentinels there are: those configured, those that they tell of, and for how long each disagrees.
//!
//! Nothing here weighs what they say of the master: that is `word`'s business.

use std::time::{Duration, Instant};

use super::{SentinelState, View};
use crate::config::HostPort;

/// A learnt Sentinel that is lost this long, and named by no other, is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

impl View {
    /// Follows what the Sentinels tell of each other. One Sentinel under two addresses is known by its run id.
    pub(super) fn learn_peers(&mut self, from: &HostPort) {
        let Some(peers) = self.sentinels.get(from).and_then(|sentinel| sentinel.answer.as_ref()?.peers.clone()) else {
            return;
        };
        for peer in peers {
            if self.sentinels.contains_key(&peer.addr) {
                continue;
            }
            let same = |sentinel: &SentinelState| {
                sentinel.connected
                    && sentinel.answer.as_ref().is_some_and(|answer| answer.myid.as_ref() == Some(&peer.run_id))
            };
            if !self.sentinels.values().any(same) && self.sentinels.len() < 64 {
                self.sentinels.insert(peer.addr, SentinelState { learnt: true, ..SentinelState::default() });
            }
        }
        // The same Sentinel, learnt under another address before the configured one had answered.
        let id = |sentinel: &SentinelState| sentinel.answer.as_ref().and_then(|answer| answer.myid.clone());
        let Some(ours) = self.sentinels.get(from).and_then(id) else { return };
        let from_learnt = self.sentinels.get(from).is_some_and(|sentinel| sentinel.learnt);
        let double = |at: &HostPort, sentinel: &SentinelState| {
            at != from && sentinel.connected && id(sentinel).as_ref() == Some(&ours)
        };
        if from_learnt {
            if self.sentinels.iter().any(|(at, sentinel)| double(at, sentinel)) {
                self.sentinels.remove(from);
            }
        } else {
            self.sentinels.retain(|at, sentinel| !(sentinel.learnt && double(at, sentinel)));
        }
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
