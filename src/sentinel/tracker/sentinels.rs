//! Which Sentinels there are, what each said last, and which of them are believed.
//!
//! Those configured, and those that they report. What they say of the master is weighed by `consensus`; whether that is
//! followed is decided elsewhere. The fields of a [`SentinelState`] are set in this file alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::Settings;
use crate::config::HostPort;
use crate::sentinel::client::AddressMap;
use crate::sentinel::consensus::{self, Named};
use crate::sentinel::electorate::{Electorate, Listed};
use crate::sentinel::memory::Memory;
use crate::sentinel::report::{Peer, SentinelAnswer};

/// After every configured Sentinel has answered or failed once: one that only stumbled is dialled again within this time.
pub const OTHERS_WITHIN: Duration = Duration::from_secs(2);
/// A learnt Sentinel that is lost this long, and named by no other, is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);
/// A Sentinel lost this long, and listed by no other, has no say in whether an early commit is safe.
const DEAD_AFTER: Duration = Duration::from_secs(30);
/// A lower epoch is believed when a majority has named it this long (REMOVE and MONITOR begin at 0).
const LOWER_AFTER: Duration = Duration::from_secs(10);
/// Two sets are reported when they last this long: a Sentinel that was reset knows nobody for two seconds.
const RIVALS_AFTER: Duration = Duration::from_secs(5);
/// Sentinels that are dialled, at most.
const MOST: usize = 64;

/// How long an answer counts for where it is asked for so often.
fn fresh(poll_interval: Duration) -> Duration {
    (poll_interval * 3).max(Duration::from_secs(5))
}

/// Every Sentinel that is dialled.
#[derive(Debug)]
pub(super) struct Sentinels {
    known: BTreeMap<HostPort, SentinelState>,
    /// Whose answers count.
    electorate: Electorate,
    map: AddressMap,
    /// An answer counts for this long.
    fresh: Duration,
    /// By a list of which none has answered yet.
    reconfigured: bool,
    first_answer: Option<Instant>,
    /// Another set of Sentinels answers under this name since then.
    rivals_since: Option<Instant>,
    /// A majority names this lower epoch since then.
    lower: Option<(SocketAddr, u64, Instant)>,
}

/// One Sentinel.
#[derive(Debug, Default)]
pub(super) struct SentinelState {
    pub(super) connected: bool,
    pub(super) answer: Option<SentinelAnswer>,
    pub(super) answered: Option<Instant>,
    pub(super) tilt: bool,
    pub(super) error: Option<String>,
    pub(super) lost_since: Option<Instant>,
    /// When it was lost it took connections, and did not answer.
    pub(super) mute: bool,
    /// It names another master than ours since then.
    pub(super) disagrees_since: Option<Instant>,
    /// Reported by peers: forgotten when none names it any more.
    pub(super) learnt: bool,
    /// By itself, by the peers it was learnt from, or by an earlier run.
    pub(super) run_id: Option<String>,
    /// When it had first answered or failed to.
    pub(super) tried: Option<Instant>,
}

/// What it answers.
impl Sentinels {
    pub(super) fn new(settings: &Settings) -> Sentinels {
        Sentinels {
            known: settings.sentinels.iter().map(|at| (at.clone(), SentinelState::default())).collect(),
            electorate: Electorate::default(),
            map: settings.address_map.clone(),
            fresh: fresh(settings.poll_interval),
            reconfigured: false,
            first_answer: None,
            rivals_since: None,
            lower: None,
        }
    }

    /// An answer is believed for as long as that allows.
    pub(super) fn polled_every(&mut self, poll_interval: Duration) {
        self.fresh = fresh(poll_interval);
    }

    /// Connected and subscribed; true when it was reported as lost.
    pub(super) fn connected(&mut self, at: &HostPort) -> bool {
        let Some(sentinel) = self.known.get_mut(at) else { return false };
        sentinel.connected = true;
        sentinel.tilt = false;
        sentinel.lost_since.take().is_some() && sentinel.error.take().is_some()
    }

    pub(super) fn answered(&mut self, now: Instant, at: &HostPort, answer: SentinelAnswer) {
        let Some(sentinel) = self.known.get_mut(at) else { return };
        self.first_answer.get_or_insert(now);
        sentinel.error.clone_from(&answer.problem);
        sentinel.answered = Some(now);
        sentinel.tried.get_or_insert(now);
        if answer.myid.is_some() {
            sentinel.run_id.clone_from(&answer.myid);
        }
        sentinel.answer = Some(answer);
    }

    /// The connection is gone, or could not be made; what is to be logged of that.
    pub(super) fn lost(&mut self, now: Instant, at: &HostPort, error: String, mute: bool) -> Option<String> {
        let sentinel = self.known.get_mut(at)?;
        // Errors of DNS name the host alone.
        let error = if error.starts_with("Sentinel ") { error } else { format!("Sentinel {at}: {error}") };
        let is_news = sentinel.error.as_ref() != Some(&error) && (sentinel.connected || sentinel.lost_since.is_none());
        sentinel.mute = mute;
        sentinel.connected = false;
        sentinel.lost_since.get_or_insert(now);
        sentinel.tried.get_or_insert(now);
        let text = is_news.then(|| error.replacen("Sentinel ", "a Sentinel is lost: ", 1));
        sentinel.error = Some(error);
        text
    }

    pub(super) fn set_tilt(&mut self, at: &HostPort, tilt: bool) {
        if let Some(sentinel) = self.known.get_mut(at) {
            sentinel.tilt = tilt;
        }
    }

    /// The run ids that an earlier run knew, of those that have not said theirs.
    pub(super) fn recall(&mut self, memory: &Memory) {
        for (at, sentinel) in &mut self.known {
            let known = memory.sentinels.iter().find(|known| known.addr == at.to_string());
            sentinel.run_id = sentinel.run_id.take().or(known.map(|known| known.run_id.clone()));
        }
    }

    /// Notes since when each names another master than ours.
    pub(super) fn note_disagreement(&mut self, now: Instant, master: SocketAddr) {
        for sentinel in self.known.values_mut() {
            match sentinel.answer.as_ref().and_then(|answer| answer.claim.as_ref()) {
                Some(claim) if claim.addr != master => _ = sentinel.disagrees_since.get_or_insert(now),
                _ => sentinel.disagrees_since = None,
            }
        }
    }
}

/// Who they are.
impl Sentinels {
    /// The configuration names these from now on. Those of before stay until one of these has answered: a mistake in the
    /// list leaves nobody without Sentinels.
    pub(super) fn configure(&mut self, next: &[HostPort]) {
        for (at, sentinel) in &mut self.known {
            sentinel.learnt = !next.contains(at);
        }
        for at in next {
            self.known.entry(at.clone()).or_default();
        }
        self.reconfigured = true;
    }

    /// After another list: who is neither named in it, nor reported by one of it, is not dialled any more. Returns these.
    pub(super) fn drop_unnamed(&mut self, now: Instant) -> Vec<HostPort> {
        let configured = self.all_answers(now).filter(|(at, _)| self.get(at).is_some_and(|sentinel| !sentinel.learnt));
        let answers: Vec<&SentinelAnswer> = configured.map(|(_, answer)| answer).collect();
        if !self.reconfigured || answers.is_empty() {
            return Vec::new();
        }
        let is_reported = |at: &HostPort, sentinel: &SentinelState| {
            let has_id = |peer: &Peer| sentinel.run_id.as_ref().is_some_and(|id| *id == peer.run_id);
            let mut peers = answers.iter().flat_map(|answer| answer.peers.iter().flatten());
            peers.any(|peer| has_id(peer) || self.map.map(&peer.addr) == self.map.map(at))
        };
        let gone = self.iter().filter(|(at, sentinel)| sentinel.learnt && !is_reported(at, sentinel));
        let gone: Vec<HostPort> = gone.map(|(at, _)| at.clone()).collect();
        self.known.retain(|at, _| !gone.contains(at));
        self.reconfigured = false;
        gone
    }

    /// Counts anew who is believed, and follows what those report of each other. `remembered`: the run ids of those that
    /// an earlier run believed.
    pub(super) fn count(&mut self, now: Instant, remembered: &BTreeSet<String>) {
        let settled = self.settled(now);
        let mut electorate = std::mem::take(&mut self.electorate);
        let fresh: BTreeMap<&HostPort, &SentinelAnswer> = self.all_answers(now).collect();
        let listed: Vec<Listed> = (self.known.iter())
            .map(|(at, sentinel)| Listed {
                at,
                configured: !sentinel.learnt,
                run_id: sentinel.run_id.as_deref(),
                answer: fresh.get(at).copied(),
            })
            .collect();
        electorate.update(&listed, &self.map, settled, remembered);
        self.electorate = electorate;
        // One that the operator listed under another address is known as soon as it has answered.
        if self.all_tried().is_some() {
            self.electorate.strangers().to_vec().iter().for_each(|peer| self.learn(peer));
        }
        self.drop_doubles();
    }

    /// Dials one that others report.
    pub(super) fn learn(&mut self, peer: &Peer) {
        if self.known.len() < MOST && !self.known.contains_key(&peer.addr) {
            let run_id = Some(peer.run_id.clone()).filter(|id| !id.is_empty());
            let learnt = SentinelState { learnt: true, run_id, ..SentinelState::default() };
            self.known.insert(peer.addr.clone(), learnt);
        }
    }

    /// One Sentinel under two addresses is known by its run id: the one that was learnt goes, and is not dialled again.
    fn drop_doubles(&mut self) {
        let own_id = |sentinel: &SentinelState| sentinel.answer.as_ref().and_then(|answer| answer.myid.clone());
        let mut kept: BTreeMap<String, (bool, bool, HostPort)> = BTreeMap::new();
        for (at, sentinel) in &self.known {
            let Some(id) = own_id(sentinel) else { continue };
            // Configured ones first, then those that are connected.
            let rank = (sentinel.learnt, !sentinel.connected, at.clone());
            let best = kept.entry(id).or_insert_with(|| rank.clone());
            *best = rank.min(best.clone());
        }
        self.known.retain(|at, sentinel| {
            let best = sentinel.run_id.as_ref().and_then(|id| kept.get(id));
            !sentinel.learnt || best.is_none_or(|(_, _, best)| best == at)
        });
    }

    /// Forgets those that are lost, and that nobody lists any more.
    pub(super) fn forget_peers(&mut self, now: Instant) {
        let peers = self.answers(now).flat_map(|answer| answer.peers.iter().flatten());
        let named: Vec<HostPort> = peers.map(|peer| peer.addr.clone()).collect();
        let heard = !named.is_empty();
        self.known.retain(|at, sentinel| {
            let gone = sentinel.lost_since.is_some_and(|since| now > since + FORGOTTEN_AFTER);
            !(sentinel.learnt && gone && heard && !named.contains(at))
        });
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&HostPort, &SentinelState)> {
        self.known.iter()
    }

    pub(super) fn states(&self) -> impl Iterator<Item = &SentinelState> {
        self.known.values()
    }

    pub(super) fn get(&self, at: &HostPort) -> Option<&SentinelState> {
        self.known.get(at)
    }

    pub(super) fn is_connected(&self, at: &HostPort) -> bool {
        self.get(at).is_some_and(|sentinel| sentinel.connected)
    }

    /// The connected ones whose events count.
    pub(super) fn connected_voices(&self) -> impl Iterator<Item = (&HostPort, &SentinelState)> {
        self.iter().filter(|(at, sentinel)| sentinel.connected && self.electorate.has_voice(at))
    }

    pub(super) fn electorate(&self) -> &Electorate {
        &self.electorate
    }

    /// How many there are, and a majority is of.
    pub(super) fn total(&self) -> usize {
        if self.electorate.is_established() { self.electorate.known() } else { self.known.len() }
    }

    /// It answers under another address too, or is none of the set that is believed.
    pub(super) fn has_no_say(&self, now: Instant, at: &HostPort) -> bool {
        let answers = self.all_answers(now).any(|(other, _)| other == at);
        let run_id = self.get(at).and_then(|sentinel| sentinel.run_id.as_ref());
        let same = |(other, sentinel): (&HostPort, &SentinelState)| {
            other != at && self.electorate.has_say(other) && run_id.is_some() && sentinel.run_id.as_ref() == run_id
        };
        let double = !self.electorate.has_say(at) && self.iter().any(same);
        double || (answers && !self.electorate.has_voice(at))
    }

    /// It does not answer us, and whoever lists it has marked it down (s_down): it watches nothing that it could demote.
    /// Where nobody lists it, only time can show it.
    pub(super) fn is_long_dead(&self, now: Instant, at: &HostPort) -> bool {
        let Some(sentinel) = self.get(at) else { return false };
        let Some(since) = sentinel.lost_since else { return false };
        let is_it = |peer: &&Peer| match &sentinel.run_id {
            Some(id) if !peer.run_id.is_empty() => *id == peer.run_id,
            _ => peer.addr == *at || self.map.map(&peer.addr) == self.map.map(at),
        };
        let mut listed = self.answers(now).flat_map(|answer| answer.peers.iter().flatten()).filter(is_it).peekable();
        if listed.peek().is_none() { now > since + DEAD_AFTER } else { listed.all(|peer| peer.s_down) }
    }

    /// Notes another set of Sentinels under the same name; true while that has lasted for long enough to be reported.
    pub(super) fn note_rivals(&mut self, now: Instant) -> bool {
        let sets = self.electorate.rivals().len() + usize::from(self.electorate.is_established());
        let since = (sets >= 2).then(|| *self.rivals_since.get_or_insert(now));
        self.rivals_since = since;
        self.has_rivals(now)
    }

    pub(super) fn has_rivals(&self, now: Instant) -> bool {
        self.rivals_since.is_some_and(|since| now > since + RIVALS_AFTER)
    }
}

/// What they say.
impl Sentinels {
    /// The last answers of all connected Sentinels, whoever they are.
    pub(super) fn all_answers(&self, now: Instant) -> impl Iterator<Item = (&HostPort, &SentinelAnswer)> + Clone {
        self.known
            .iter()
            .filter(move |(_, sentinel)| sentinel.connected && self.is_fresh(now, sentinel))
            .filter_map(|(at, sentinel)| Some((at, sentinel.answer.as_ref()?)))
    }

    fn is_fresh(&self, now: Instant, sentinel: &SentinelState) -> bool {
        sentinel.answered.is_some_and(|at| now < at + self.fresh)
    }

    /// Those of the Sentinels that are believed.
    pub(super) fn answers(&self, now: Instant) -> impl Iterator<Item = &SentinelAnswer> + Clone {
        self.all_answers(now).filter(|(at, _)| self.electorate.has_say(at)).map(|(_, answer)| answer)
    }

    /// The last answers of those that are believed, also of those that are silent now.
    pub(super) fn last_answers(&self) -> impl Iterator<Item = &SentinelAnswer> + Clone {
        let voices = self.known.iter().filter(|(at, _)| self.electorate.has_voice(at));
        voices.filter_map(|(_, sentinel)| sentinel.answer.as_ref())
    }

    /// When one first answered.
    pub(super) fn first_answer(&self) -> Option<Instant> {
        self.first_answer
    }

    /// How many of the believed ones that answer know this node, as the master or as a replica.
    pub(super) fn acquainted(&self, addr: SocketAddr) -> usize {
        let say = self.iter().filter(|(at, _)| self.electorate.has_say(at));
        let knows = |answer: &&SentinelAnswer| answer.names(addr) || answer.lists(addr);
        say.filter_map(|(_, sentinel)| sentinel.answer.as_ref()).filter(knows).count()
    }

    /// A majority that has named an epoch below `floor` for long enough.
    pub(super) fn insisting_below(&mut self, now: Instant, floor: u64) -> Option<Named> {
        let below = consensus::majority(self.answers(now), self.total()).filter(|named| named.epoch < floor);
        let since = match (&below, self.lower) {
            (Some(named), Some((addr, epoch, since))) if (addr, epoch) == (named.addr, named.epoch) => since,
            _ => now,
        };
        self.lower = below.as_ref().map(|named| (named.addr, named.epoch, since));
        below.filter(|_| now > since + LOWER_AFTER)
    }

    /// When every configured Sentinel had answered or failed to; `None` while one has its first chance yet.
    pub(super) fn all_tried(&self) -> Option<Instant> {
        let configured = || self.states().filter(|sentinel| !sentinel.learnt);
        let last = configured().filter_map(|sentinel| sentinel.tried).max();
        last.filter(|_| configured().all(|sentinel| sentinel.tried.is_some()))
    }

    /// The configured ones that do not answer.
    pub(super) fn silent(&self, now: Instant) -> impl Iterator<Item = (&HostPort, &SentinelState)> {
        let answering: BTreeSet<&HostPort> = self.all_answers(now).map(|(at, _)| at).collect();
        self.iter().filter(move |(at, sentinel)| !sentinel.learnt && !answering.contains(at))
    }

    /// Every configured one has had its chance: all answer, or the others were waited for.
    pub(super) fn settled(&self, now: Instant) -> bool {
        self.silent(now).all(|(_, sentinel)| sentinel.tried.is_some_and(|tried| now >= tried + OTHERS_WITHIN))
    }

    /// One that is replacing `master` and has not announced the new one.
    pub(super) fn leading(&self, now: Instant, master: SocketAddr) -> Option<&HostPort> {
        let leads = |answer: &SentinelAnswer| {
            answer.claim.as_ref().is_some_and(|claim| claim.failover && claim.addr == master)
                // Between the promotion and its end it names the new master, which is still a replica in its table.
                && !answer.lists(master)
        };
        let mut voices = self.connected_voices().filter(|(_, sentinel)| self.is_fresh(now, sentinel));
        voices.find(|(_, sentinel)| sentinel.answer.as_ref().is_some_and(leads)).map(|(at, _)| at)
    }

    /// Every replica that one of them lists, perhaps several times.
    pub(super) fn listed_replicas(&self, now: Instant) -> impl Iterator<Item = SocketAddr> {
        self.answers(now).flat_map(|answer| answer.replicas.iter().flatten()).map(|replica| replica.addr)
    }

    /// Sentinel's `down-after-milliseconds`.
    pub(super) fn down_after(&self) -> Option<Duration> {
        self.last_answers().filter_map(|answer| Some(answer.claim.as_ref()?.down_after)).max()
    }
}
