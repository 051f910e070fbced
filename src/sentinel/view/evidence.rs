//! What is believed: the Sentinels' word, and what a node says of itself.
//!
//! Only looks; nothing here changes the state, except to remember how long a majority has insisted.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::View;
use crate::sentinel::lineage::Kinship;
use crate::sentinel::report::{Info, Role, SentinelAnswer};
use crate::sentinel::word::{self, Named, Word};

/// A lower epoch is believed when a majority has named it this long (REMOVE and MONITOR begin at 0).
const LOWER_AFTER: Duration = Duration::from_secs(10);

/// What a node is, seen by the rules for a new master.
pub(super) enum Verdict {
    /// It says master, and nothing speaks against it.
    Master(Option<Info>, Kinship),
    /// We may not ask it.
    Unreadable,
    /// Not now, and why.
    No(String),
}

impl View {
    pub(super) fn fresh(&self) -> Duration {
        (self.settings.poll_interval * 3).max(Duration::from_secs(5))
    }

    /// The last answers of connected Sentinels.
    pub(super) fn answers(&self, now: Instant) -> impl Iterator<Item = &SentinelAnswer> + Clone {
        let fresh = self.fresh();
        self.sentinels
            .values()
            .filter(move |sentinel| sentinel.connected && sentinel.answered.is_some_and(|at| now < at + fresh))
            .filter_map(|sentinel| sentinel.answer.as_ref())
    }

    pub(super) fn known_sentinels(&self) -> usize {
        word::known(self.sentinels.values().filter_map(|sentinel| sentinel.answer.as_ref()))
    }

    pub(super) fn word(&self, now: Instant) -> Word {
        word::weigh(self.answers(now), self.known_sentinels())
    }

    /// Every address that a Sentinel names, its epoch, and whether a majority or a quorum backs it.
    pub(super) fn named(&self, now: Instant) -> Vec<(SocketAddr, u64, bool)> {
        let known = self.known_sentinels();
        let mut named: Vec<(SocketAddr, u64, bool)> = Vec::new();
        for answer in self.answers(now) {
            let Some(claim) = &answer.claim else { continue };
            let backed = answer.quorum == Some(Ok(())) || known == 1;
            match named.iter_mut().find(|(addr, epoch, _)| (*addr, *epoch) == (claim.addr, claim.epoch)) {
                Some(entry) => entry.2 |= backed,
                None => named.push((claim.addr, claim.epoch, backed)),
            }
        }
        let most = word::majority(self.answers(now), known);
        for entry in &mut named {
            entry.2 |= most.as_ref().is_some_and(|most| (most.addr, most.epoch) == (entry.0, entry.1));
        }
        named
    }

    /// A replica of our master: by its own list, or to most of the Sentinels. Only they know one that is announced by a host
    /// name: a node's list is not worth a question to DNS with each heartbeat.
    pub(super) fn is_replica(&self, addr: SocketAddr) -> bool {
        let lists = |answer: &&SentinelAnswer| answer.replicas.iter().flatten().any(|replica| replica.addr == addr);
        let listed = || self.sentinels.values().filter_map(|sentinel| sentinel.answer.as_ref()).filter(lists).count();
        self.replicas.contains_key(&addr)
            || self.provisional.as_ref().is_some_and(|provisional| provisional.previous.addr == addr)
            || listed() * 2 > self.known_sentinels()
    }

    /// The epoch below which nothing is believed: our master's, or the one remembered from an earlier run.
    pub(super) fn floor(&self) -> u64 {
        self.master.as_ref().map(|master| master.epoch).or(self.settings.floor.map(|(_, epoch)| epoch)).unwrap_or(0)
    }

    /// A majority that has named a lower epoch for long enough.
    pub(super) fn lower(&mut self, now: Instant) -> Option<Named> {
        let most = word::majority(self.answers(now), self.known_sentinels()).filter(|named| named.epoch < self.floor());
        let Some(named) = most else {
            self.lower = None;
            return None;
        };
        match self.lower {
            Some((addr, epoch, since)) if (addr, epoch) == (named.addr, named.epoch) => {
                (now > since + LOWER_AFTER).then_some(named)
            }
            _ => {
                self.lower = Some((named.addr, named.epoch, now));
                None
            }
        }
    }

    pub(super) fn verdict(&self, addr: SocketAddr, asked_after: Instant, run_id: Option<&str>) -> Verdict {
        let Some(node) = self.nodes.get(&addr) else { return Verdict::No(format!("{addr} was not asked yet")) };
        if node.refused.is_some() {
            return Verdict::No(format!("{addr} refuses connections"));
        }
        let Some(answer) = node.answer.as_ref().filter(|answer| answer.asked >= asked_after) else {
            return Verdict::No(match &node.silent {
                Some((_, error)) => error.clone(),
                None => format!("{addr} has not answered yet"),
            });
        };
        match &answer.role {
            Role::Replica { .. } => Verdict::No(format!("{addr} says it is a replica")),
            Role::Occupied(words) => Verdict::No(format!("{addr} answers {words}")),
            Role::Unreadable(_) => Verdict::Unreadable,
            Role::Master { .. } => match &node.info {
                None => Verdict::Master(None, Kinship::Unknown),
                Some(info) if info.loading => Verdict::No(format!("{addr} is still loading its data set")),
                Some(info) if run_id.is_some_and(|run_id| run_id != info.run_id) => Verdict::No(format!(
                    "{addr} is another process than the one Sentinel names (run_id differs: was it restarted, or is the address mapped wrongly?)"
                )),
                Some(info) => Verdict::Master(Some(info.clone()), self.lineage.kinship(info)),
            },
        }
    }

    /// The whole rule for following the word: verified on the node, and backed as its lineage demands.
    pub(super) fn verify(&self, named: &Named, asked_after: Instant) -> Result<Option<Info>, String> {
        let backed = named.majority || (self.master.is_none() && named.quorum_ok);
        let support = || format!("only {} of {} Sentinels name {}", named.support, self.known_sentinels(), named.addr);
        match self.verdict(named.addr, asked_after, named.run_id.as_deref()) {
            Verdict::Master(info, Kinship::Heir | Kinship::Kin) => Ok(info),
            Verdict::Master(info, Kinship::Unknown) if backed => Ok(info),
            Verdict::Master(..) => Err(format!("{} and it does not share our master's history", support())),
            Verdict::Unreadable if backed && !named.down => Ok(None),
            Verdict::Unreadable => Err(format!("{} and its ROLE may not be read", support())),
            Verdict::No(why) => Err(why),
        }
    }
}
