//! What is believed: the Sentinels' word, and what a node says of itself.
//!
//! Only looks; nothing here changes the state, except to remember how long a majority has insisted.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::Tracker;
use crate::config::HostPort;
use crate::sentinel::consensus::{self, Consensus, Named};
use crate::sentinel::lineage::Kinship;
use crate::sentinel::report::{Info, Role, SentinelAnswer};

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

fn names(answer: &SentinelAnswer, addr: SocketAddr) -> bool {
    answer.claim.as_ref().is_some_and(|claim| claim.addr == addr)
}

impl Tracker {
    pub(super) fn fresh(&self) -> Duration {
        (self.settings.poll_interval * 3).max(Duration::from_secs(5))
    }

    /// The last answers of all connected Sentinels, whoever they are.
    pub(super) fn all_answers(&self, now: Instant) -> impl Iterator<Item = (&HostPort, &SentinelAnswer)> + Clone {
        let fresh = self.fresh();
        self.sentinels
            .iter()
            .filter(move |(_, sentinel)| sentinel.connected && sentinel.answered.is_some_and(|at| now < at + fresh))
            .filter_map(|(at, sentinel)| Some((at, sentinel.answer.as_ref()?)))
    }

    /// Those of the Sentinels that are believed.
    pub(super) fn answers(&self, now: Instant) -> impl Iterator<Item = &SentinelAnswer> + Clone {
        self.all_answers(now).filter(|(at, _)| self.electorate.has_say(at)).map(|(_, answer)| answer)
    }

    /// The last answers of those that are believed, also of those that are silent now.
    pub(super) fn last_answers(&self) -> impl Iterator<Item = &SentinelAnswer> + Clone {
        let voices = self.sentinels.iter().filter(|(at, _)| self.electorate.has_voice(at));
        voices.filter_map(|(_, sentinel)| sentinel.answer.as_ref())
    }

    /// How many Sentinels there are, and a majority is of.
    pub(super) fn known_sentinels(&self) -> usize {
        if self.electorate.is_established() { self.electorate.known() } else { self.sentinels.len() }
    }

    /// Whom the Sentinels name. A claim of a node that most of them do not know counts for nothing: else one that lies
    /// would drown what the others say of the next failover.
    pub(super) fn consensus(&self, now: Instant) -> Consensus {
        let known_node = |addr| self.master.as_ref().is_some_and(|master| master.addr == addr) || self.trusts(addr);
        let credible = |answer: &&SentinelAnswer| {
            answer.claim.as_ref().is_some_and(|claim| {
                known_node(claim.addr) || self.acquainted(claim.addr) * 2 > self.answers(now).count()
            })
        };
        consensus::weigh(self.answers(now).filter(credible), self.known_sentinels())
    }

    /// Every address that a Sentinel names, with its epoch.
    pub(super) fn named(&self, now: Instant) -> impl Iterator<Item = (SocketAddr, u64)> {
        self.answers(now).filter_map(|answer| answer.claim.as_ref()).map(|claim| (claim.addr, claim.epoch))
    }

    /// How many of the believed Sentinels that answer know this node, as the master or as a replica.
    pub(super) fn acquainted(&self, addr: SocketAddr) -> usize {
        let say = self.sentinels.iter().filter(|(at, _)| self.electorate.has_say(at));
        let knows = |answer: &&SentinelAnswer| {
            names(answer, addr) || answer.replicas.iter().flatten().any(|replica| replica.addr == addr)
        };
        say.filter_map(|(_, sentinel)| sentinel.answer.as_ref()).filter(knows).count()
    }

    /// It may be given our credentials, and one Sentinel is enough to go there: it was our master or a replica of one, or
    /// most of all Sentinels know it.
    pub(super) fn trusts(&self, addr: SocketAddr) -> bool {
        self.is_replica(addr) || (self.electorate.is_anchored() && self.acquainted(addr) * 2 > self.known_sentinels())
    }

    /// A replica of our master: by its own list, or to most of the Sentinels. Only they know one that is announced by a host
    /// name: a node's list is not worth a question to DNS with each heartbeat.
    pub(super) fn is_replica(&self, addr: SocketAddr) -> bool {
        let lists = |answer: &&SentinelAnswer| answer.replicas.iter().flatten().any(|replica| replica.addr == addr);
        self.family.contains_key(&addr)
            || self.replicas.contains_key(&addr)
            || self.provisional.as_ref().is_some_and(|provisional| provisional.previous.addr == addr)
            || self.last_answers().filter(lists).count() * 2 > self.known_sentinels()
    }

    /// What no stranger can have: our master's own list or that of most Sentinels named it while we followed that master.
    /// Where neither ever named a replica, it cannot be asked for.
    pub(super) fn is_bonded(&self, addr: SocketAddr) -> bool {
        let never_listed = || !self.listed && self.last_answers().all(|answer| answer.replicas.is_none());
        self.family.contains_key(&addr) || never_listed()
    }

    /// Notes our master and its replicas, as itself and as most Sentinels list them.
    pub(super) fn note_family(&mut self, now: Instant) {
        let Some(master) = self.master.clone().filter(|master| !master.provisional) else { return };
        let own = self.replicas.keys().copied().filter(|_| self.listed);
        let mut present: BTreeSet<SocketAddr> = own.collect();
        let known = self.known_sentinels();
        let agreeing = self.answers(now).filter(|answer| names(answer, master.addr));
        let (mut listed, mut agree) = (HashMap::<SocketAddr, (usize, bool)>::new(), 0);
        for answer in agreeing {
            agree += 1;
            for fact in answer.replicas.iter().flatten() {
                let (times, up) = listed.entry(fact.addr).or_default();
                *times += 1;
                *up |= !fact.down;
            }
        }
        listed.retain(|_, (times, _)| *times * 2 > known);
        present.extend(listed.iter().filter(|(_, (_, up))| *up).map(|(addr, _)| *addr));
        let seen = present.iter().copied().chain(listed.into_keys()).chain([master.addr]);
        self.family.extend(seen.map(|addr| (addr, now)));
        while self.family.len() > 64
            && let Some(oldest) = self.family.iter().min_by_key(|(_, seen)| **seen).map(|(addr, _)| *addr)
        {
            self.family.remove(&oldest);
        }
        // One that leaves while few Sentinels are heard may be leaving as the next master.
        if agree * 2 > known {
            self.electable.clear();
        }
        self.electable.extend(present);
        self.electable.remove(&master.addr);
    }

    /// The epoch below which nothing is believed: our master's, or the one remembered from an earlier run.
    pub(super) fn floor(&self) -> u64 {
        self.master.as_ref().map(|master| master.epoch).or(self.settings.floor.map(|(_, epoch)| epoch)).unwrap_or(0)
    }

    /// A majority that has named a lower epoch for long enough.
    pub(super) fn lower(&mut self, now: Instant) -> Option<Named> {
        let most =
            consensus::majority(self.answers(now), self.known_sentinels()).filter(|named| named.epoch < self.floor());
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
        // What a start may follow was weighed before (`believed`).
        let starting = self.master.is_none();
        let backed = starting || (named.majority && self.is_bonded(named.addr));
        let near = starting || named.majority || self.trusts(named.addr);
        let support = || format!("only {} of {} Sentinels name {}", named.support, self.known_sentinels(), named.addr);
        match self.verdict(named.addr, asked_after, named.run_id.as_deref()) {
            Verdict::Master(info, Kinship::Heir | Kinship::Kin) if near => Ok(info),
            Verdict::Master(info, Kinship::Unknown) if backed => Ok(info),
            Verdict::Master(_, Kinship::Unknown) if named.majority => Err(self.stranger(named)),
            Verdict::Master(..) => Err(format!("{} and it does not share our master's history", support())),
            Verdict::Unreadable if backed && !named.down => Ok(None),
            Verdict::Unreadable => Err(format!("{} and its ROLE may not be read", support())),
            Verdict::No(why) => Err(why),
        }
    }

    /// Why sessions do not move to a node that a majority names, and what to do.
    pub(super) fn stranger(&self, named: &Named) -> String {
        format!(
            "{} of {} Sentinels name {} at epoch {}, whose data is of another history and which was never a replica of our master: no session moves there. If the name was given to other data on purpose, restart switchmaster; if not, ask each Sentinel `SENTINEL MASTER` and set right those that are wrong",
            named.support,
            self.known_sentinels(),
            named.addr,
            named.epoch
        )
    }
}
