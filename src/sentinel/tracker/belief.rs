//! Whom a start follows, and what of the Sentinels' word is refused aloud.
//!
//! At the start there is no master to compare with: a majority of the set that holds the configured list is followed,
//! anything less only with a proof, and only when the others have had their chance. Only looks, logs and gives reasons.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tracing::Level;

use super::evidence::Verdict;
use super::{SentinelState, State, Tracker};
use crate::config::{HostPort, Minority};
use crate::sentinel::consensus::{self, Consensus, Named};
use crate::sentinel::lineage::{Kinship, Lineage};
use crate::sentinel::report::{Info, Role};

/// After every configured Sentinel has answered or failed once: one that only stumbled is dialled again within this time.
pub const OTHERS_WITHIN: Duration = Duration::from_secs(2);
/// For the remembered nodes to answer when no Sentinel does.
const REMEMBERED_WITHIN: Duration = Duration::from_secs(2);
/// Two sets are reported when they last this long: a Sentinel that was reset knows nobody for two seconds.
const RIVALS_AFTER: Duration = Duration::from_secs(5);

impl Tracker {
    /// When every configured Sentinel had answered or failed to; `None` while one has its first chance yet.
    pub(super) fn all_tried(&self) -> Option<Instant> {
        let configured = || self.sentinels.values().filter(|sentinel| !sentinel.learnt);
        let last = configured().filter_map(|sentinel| sentinel.tried).max();
        last.filter(|_| configured().all(|sentinel| sentinel.tried.is_some()))
    }

    /// It has answered a poll, or failed, at least once.
    pub fn was_tried(&self, at: &HostPort) -> bool {
        self.sentinels.get(at).is_some_and(|sentinel| sentinel.tried.is_some())
    }

    /// The configured Sentinels that do not answer.
    fn silent(&self, now: Instant) -> Vec<(&HostPort, &SentinelState)> {
        let answering: BTreeSet<&HostPort> = self.all_answers(now).map(|(at, _)| at).collect();
        let silent = self.sentinels.iter().filter(|(at, sentinel)| !sentinel.learnt && !answering.contains(at));
        silent.collect()
    }

    /// Every configured Sentinel has had its chance: all answer, or the others were waited for.
    pub(super) fn settled(&self, now: Instant) -> bool {
        self.silent(now).iter().all(|(_, sentinel)| sentinel.tried.is_some_and(|tried| now >= tried + OTHERS_WITHIN))
    }

    /// Whom the Sentinels name, also when it is one that most of them do not know.
    pub(super) fn consensus_at_start(&self, now: Instant) -> Consensus {
        match self.consensus(now) {
            Consensus::None => consensus::weigh(self.answers(now), self.known_sentinels()),
            word => word,
        }
    }

    /// Whether `named` may be followed as the first master, if its own ROLE says so; why not, if not.
    ///
    /// A majority of an anchored set. Otherwise, once settled, and where nobody who answers disputes it: (a) the answering
    /// ones hold a majority of the configured list with those that they list, have a quorum (CKQUORUM), and none of the
    /// configured ones takes connections without an answer, or (b) an
    /// earlier run followed this node or its master, and its history is the remembered one.
    pub(super) fn believed(&self, now: Instant, named: &Named) -> Result<(), String> {
        let known = self.known_sentinels();
        if named.majority && self.electorate.is_anchored() {
            return Ok(());
        }
        // Those that were just learnt get a moment too.
        let first = self.sentinels.values().filter_map(|sentinel| sentinel.answered).min();
        let learning = self.sentinels.values().any(|sentinel| sentinel.tried.is_none());
        if !self.settled(now) || (learning && first.is_some_and(|first| now < first + OTHERS_WITHIN)) {
            return Err("waiting for the other Sentinels".into());
        }
        let few = format!("only {} of {known} Sentinels name {}", named.support, named.addr);
        if named.down {
            return Err(format!("{few}, and it is down to one of them"));
        }
        if !named.quorum_ok && self.answers(now).any(|answer| matches!(answer.quorum, Some(Err(_)))) {
            return Err(format!("{few}, and they have no quorum"));
        }
        let claims = self.answers(now).filter(|answer| answer.claim.is_some()).count();
        if claims > named.support && self.acquainted(named.addr) * 2 <= known {
            return Err(format!("{few}, and the others that answer do not know it"));
        }
        let kinship = match self.verdict(named.addr, self.started, named.run_id.as_deref()) {
            Verdict::Master(Some(_), kinship) => Some(kinship),
            _ => None,
        };
        let remembered = self.remembered_nodes().any(|node| node == named.addr);
        let has_history = self.memory.as_ref().is_some_and(|(memory, _)| !memory.history.is_empty());
        if self.electorate.holds_configured() && named.quorum_ok {
            if let Some(mute) = self.mute(now) {
                return Err(format!("{few}, and {mute} takes connections but does not answer: it is waited for"));
            }
            if has_history && kinship == Some(Kinship::Unknown) && !remembered {
                return Err(format!("{few}, and it has another history than the master of {}", self.memory_file()));
            }
            return Ok(());
        }
        if has_history && remembered && matches!(kinship, Some(Kinship::Heir | Kinship::Kin)) {
            return Ok(());
        }
        Err(format!("{few}; {}", self.missing(now)))
    }

    /// A configured Sentinel that lives and says nothing yet. One that lies may speak for the others only while these
    /// cannot be reached.
    fn mute(&self, now: Instant) -> Option<String> {
        self.silent(now).into_iter().find(|(_, sentinel)| sentinel.mute).map(|(at, _)| at.to_string())
    }

    /// What it takes to believe the Sentinels that answer.
    fn missing(&self, now: Instant) -> String {
        let silent: Vec<String> = self.silent(now).into_iter().map(|(at, _)| at.to_string()).collect();
        if silent.is_empty() {
            return "CKQUORUM may not be asked: allow +sentinel|ckquorum, or wait for the others".into();
        }
        format!(
            "{} do not answer, and a majority of the configured Sentinels is needed, or one with a quorum that lists them: start them, or take those that are gone out of `sentinels`",
            silent.join(", ")
        )
    }

    /// Why nobody is believed yet, while no set is established.
    pub(super) fn why_nobody(&self, now: Instant) -> Option<String> {
        if self.electorate.is_established() || self.all_answers(now).all(|(_, answer)| answer.claim.is_none()) {
            return None;
        }
        Some(match self.settled(now) {
            false => "waiting for the other Sentinels".into(),
            true if self.electorate.rivals().len() > 1 => self.rival_sets(),
            true => format!("too few of the configured Sentinels answer: {}", self.missing(now)),
        })
    }

    /// Nodes that may be asked, with our credentials, while there is no master.
    pub(super) fn worth_asking_at_the_start(&self, now: Instant) -> Vec<SocketAddr> {
        if !matches!(self.state, State::Searching) {
            return Vec::new();
        }
        if let Consensus::Agreed(named) = self.consensus_at_start(now) {
            return Some(named.addr).filter(|_| self.believed(now, &named).is_ok()).into_iter().collect();
        }
        match &self.memory {
            Some((memory, _)) if self.settled(now) && !memory.history.is_empty() => {
                std::iter::once(memory.addr).chain(memory.replicas.iter().copied()).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The Sentinels name a lower epoch than the remembered one: said at once. True while that is not overruled: at once by
    /// a majority that knows none of the remembered nodes (the file is of another cluster), else by one that insists.
    pub(super) fn below_floor(&mut self, now: Instant, named: &Named) -> bool {
        let remembered =
            self.settings.floor.map_or_else(String::new, |(addr, epoch)| format!("{addr} at epoch {epoch}"));
        let what = format!(
            "{} remembers the master {remembered}, but the Sentinels name {} at epoch {}",
            self.memory_file(),
            named.addr,
            named.epoch
        );
        let floor = self.settings.floor.map(|(addr, _)| addr);
        let part = self.remembered_nodes().chain(floor).any(|node| self.acquainted(node) > 0);
        let agreed = named.majority && self.electorate.is_anchored();
        let insisted = self.lower(now).is_some();
        if agreed && !part {
            self.warn_once(format!("{what}: the file is of another cluster, and a majority of Sentinels overrules it"));
            return false;
        }
        if insisted {
            self.warn_once(format!("{what}: a majority of Sentinels has said so for 10 s, which overrules the file"));
            return false;
        }
        let why =
            format!("{what}: waiting until a majority has said so for 10 s (a table that is old would say it too)");
        self.warn_once(why.clone());
        self.reason = why;
        true
    }

    /// Follows the master of an earlier run while no Sentinel can say who it is: if every replica that it had says that it
    /// streams from it; and where they do not say, as `minority` has it. Not at all where one of them is a master itself
    /// or follows another.
    pub(super) fn start_without_sentinels(&mut self, now: Instant) {
        let Some((memory, _)) = self.memory.clone().filter(|(memory, _)| !memory.history.is_empty()) else { return };
        let silent = self.all_answers(now).next().is_none();
        let other = self
            .all_answers(now)
            .filter_map(|(_, answer)| answer.claim.as_ref())
            .any(|claim| claim.addr != memory.addr);
        if !self.settled(now) || other {
            return;
        }
        let file = self.memory_file();
        let found = self.verdict(memory.addr, self.started, None);
        let info = match found {
            Verdict::Master(Some(info), Kinship::Heir | Kinship::Kin) => info,
            Verdict::Master(..) => {
                self.reason += &format!("; {}, the master of {file}, has another history than then", memory.addr);
                return;
            }
            Verdict::Unreadable => {
                self.reason += &format!("; {}, the master of {file}, does not let us ask", memory.addr);
                return;
            }
            Verdict::No(why) => {
                self.reason += &format!("; of the master of {file}: {why}");
                return;
            }
        };
        let role = |node: &SocketAddr| self.role(*node);
        let follows = |node: &SocketAddr| match role(node) {
            Some(Role::Replica { master: Some(master), link_up, .. }) => Some(*master == memory.addr && *link_up),
            Some(Role::Replica { master: None, link_up, .. }) => {
                let same = self.nodes.get(node).and_then(|node| node.info.as_ref());
                Some(*link_up && same.is_some_and(|same| same.replid == info.replid))
            }
            Some(Role::Master { .. }) => Some(false),
            _ => None,
        };
        let elsewhere = |node: &&SocketAddr| match role(node) {
            Some(Role::Master { .. }) => true,
            Some(Role::Replica { master: Some(master), .. }) => *master != memory.addr,
            _ => false,
        };
        if let Some(node) = memory.replicas.iter().find(elsewhere) {
            let why = format!(
                "no Sentinel answers, and of the nodes in {file} both {} and {node} may be the master: start the Sentinels",
                memory.addr
            );
            self.alarm(why.clone());
            self.reason = why;
            return;
        }
        let streaming = memory.replicas.iter().filter(|node| follows(node) == Some(true)).count();
        let proven = !memory.replicas.is_empty() && streaming == memory.replicas.len();
        let waited = self.all_tried().is_some_and(|tried| now >= tried + OTHERS_WITHIN + REMEMBERED_WITHIN);
        let decided = proven || (silent && waited);
        if !decided {
            return;
        }
        let total = memory.replicas.len();
        let what = format!(
            "following {} of {file} (epoch {}) although no Sentinel says that it is still the master: {streaming} of its {total} replicas stream from it",
            memory.addr, memory.epoch
        );
        if !proven && self.settings.minority == Minority::Stop {
            self.reason = format!(
                "no Sentinel answers, and only {streaming} of the {total} replicas of {}, the master of {file}, stream from it (minority = \"stop\")",
                memory.addr
            );
            return;
        }
        let level = if proven { Level::WARN } else { Level::ERROR };
        let risk = if proven { "" } else { ". Another may have been promoted, and writes here may be lost" };
        self.log(level, format!("{what}{risk}"));
        self.commit(now, memory.addr, memory.epoch, Some(&info), false);
        self.note_family(now);
    }

    /// The first master is of another history than that of the earlier run: said, and what was remembered is forgotten.
    pub(super) fn leave_memory(&mut self, addr: SocketAddr, info: Option<&Info>) {
        let Some((memory, file)) = &self.memory else { return };
        let strange = info.is_some_and(|info| self.lineage.kinship(info) == Kinship::Unknown);
        if memory.history.is_empty() || !strange {
            return;
        }
        self.warn_once(format!(
            "{addr} has another history than {}, the master of {file}: failovers were missed, or the data is other data. It is followed because this is a new start",
            memory.addr
        ));
        self.lineage = Lineage::default();
        self.family.clear();
        self.electable.clear();
    }

    /// Another set of Sentinels under the same name is an error, for as long as it answers.
    pub(super) fn note_rivals(&mut self, now: Instant) {
        if self.electorate.rivals().len() + usize::from(self.electorate.is_established()) < 2 {
            self.rivals_since = None;
            return;
        }
        let since = *self.rivals_since.get_or_insert(now);
        if now > since + RIVALS_AFTER {
            self.alarm(self.rival_sets());
        }
    }

    /// The same for `status`.
    pub(super) fn rivals(&self, now: Instant) -> Option<String> {
        self.rivals_since.filter(|since| now > *since + RIVALS_AFTER).map(|_| self.rival_sets())
    }

    fn rival_sets(&self) -> String {
        let show = |set: Vec<&HostPort>| set.into_iter().map(HostPort::to_string).collect::<Vec<_>>().join(", ");
        let others: Vec<String> = self.electorate.rivals().iter().map(|set| show(set.iter().collect())).collect();
        let others = others.join(" and of ");
        let what = match self.electorate.is_established() {
            true => {
                format!("[{}] are believed, and the other set has no say", show(self.electorate.voices().collect()))
            }
            false => "neither holds a majority of the configured list, so nobody is followed".into(),
        };
        format!(
            "Sentinels that do not know each other answer under one name, of another set than the rest: {others}; {what}. Take those that are of another cluster out of `sentinels`, or set their tables right (SENTINEL MONITOR)"
        )
    }

    /// A majority names a node that no session may move to.
    pub(super) fn note_stranger(&mut self, now: Instant) {
        let Some(master) = self.master.as_ref().map(|master| master.addr) else { return };
        let Consensus::Agreed(named) = self.consensus(now) else { return };
        let unknown = || {
            matches!(
                self.verdict(named.addr, self.started, named.run_id.as_deref()),
                Verdict::Master(_, Kinship::Unknown)
            )
        };
        if named.addr != master && named.majority && !self.is_bonded(named.addr) && unknown() {
            self.alarm(self.stranger(&named));
        }
    }
}
