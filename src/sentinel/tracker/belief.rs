//! Whom a start follows, and what of the Sentinels' claims is refused aloud.
//!
//! At the start there is no master to compare with: a majority of the set that holds the configured list is followed,
//! anything less only with a proof, and only when the others have had their chance. Only looks, logs and gives reasons;
//! a start without any Sentinel is `unheard`'s.

use std::net::SocketAddr;
use std::time::Instant;

use tracing::Level;

use super::Tracker;
use super::evidence::Verdict;
use super::sentinels::OTHERS_WITHIN;
use crate::config::HostPort;
use crate::sentinel::consensus::{self, Consensus, Named};
use crate::sentinel::lineage::Kinship;
use crate::sentinel::report::Info;

impl Tracker {
    /// It has answered a poll, or failed, at least once.
    pub fn was_tried(&self, at: &HostPort) -> bool {
        self.sentinels.get(at).is_some_and(|sentinel| sentinel.tried.is_some())
    }

    /// Whom the Sentinels name, also when it is one that most of them do not know.
    pub(super) fn consensus_at_start(&self, now: Instant) -> Consensus {
        match self.consensus(now) {
            Consensus::None => consensus::weigh(self.sentinels.answers(now), self.sentinels.total()),
            consensus => consensus,
        }
    }

    /// Whether `named` may be followed as the first master, if its own ROLE says so; why not, if not.
    ///
    /// A majority of an anchored set. Otherwise, once settled, and where nobody who answers disputes it: (a) the answering
    /// ones hold a majority of the configured list with those that they list, have a quorum (CKQUORUM), and none of the
    /// configured ones takes connections without an answer, or (b) an
    /// earlier run followed this node or its master, and its history is the remembered one.
    pub(super) fn believed(&self, now: Instant, named: &Named) -> Result<(), String> {
        let electorate = self.sentinels.electorate();
        if named.majority && electorate.is_anchored() {
            return Ok(());
        }
        // Those that were just learnt get their chance too.
        let learning = self.sentinels.states().any(|sentinel| sentinel.tried.is_none());
        let lately = || self.first_answered().is_some_and(|first| now < first + OTHERS_WITHIN);
        if !self.sentinels.settled(now) || (learning && lately()) {
            return Err("waiting for the other Sentinels".into());
        }
        let few = format!("only {} of {} Sentinels name {}", named.support, self.sentinels.total(), named.addr);
        if let Some(against) = self.disputed(now, named) {
            return Err(format!("{few}, and {against}"));
        }
        let kinship = match self.verdict(named.addr, self.start.at(), named.run_id.as_deref()) {
            Verdict::Master(Some(_), kinship) => Some(kinship),
            _ => None,
        };
        let remembered = self.earlier.nodes().any(|node| node == named.addr);
        let has_history = self.earlier.history().is_some();
        if electorate.holds_configured() && named.quorum_ok {
            if let Some(mute) = self.mute(now) {
                return Err(format!("{few}, and {mute} takes connections but does not answer: it is waited for"));
            }
            if has_history && kinship == Some(Kinship::Unknown) && !remembered {
                let file = self.earlier.file();
                return Err(format!("{few}, and it has another history than the master of {file}"));
            }
            return Ok(());
        }
        if has_history && remembered && matches!(kinship, Some(Kinship::Heir | Kinship::Kin)) {
            return Ok(());
        }
        Err(format!("{few}; {}", self.missing(now)))
    }

    fn first_answered(&self) -> Option<Instant> {
        self.sentinels.states().filter_map(|sentinel| sentinel.answered).min()
    }

    /// What the Sentinels themselves say against a master that no majority names.
    fn disputed(&self, now: Instant, named: &Named) -> Option<&'static str> {
        let answers = || self.sentinels.answers(now);
        let no_quorum = || !named.quorum_ok && answers().any(|answer| matches!(answer.quorum, Some(Err(_))));
        let is_disputed = || answers().filter(|answer| answer.claim.is_some()).count() > named.support;
        let is_unknown = || self.sentinels.acquainted(named.addr) * 2 <= self.sentinels.total();
        if named.down {
            Some("it is down to one of them")
        } else if no_quorum() {
            Some("they have no quorum")
        } else {
            (is_disputed() && is_unknown()).then_some("the others that answer do not know it")
        }
    }

    /// A configured Sentinel that lives and says nothing yet. One that lies may speak for the others only while these
    /// cannot be reached.
    fn mute(&self, now: Instant) -> Option<String> {
        self.sentinels.silent(now).find(|(_, sentinel)| sentinel.mute).map(|(at, _)| at.to_string())
    }

    /// What it takes to believe the Sentinels that answer.
    fn missing(&self, now: Instant) -> String {
        let silent: Vec<String> = self.sentinels.silent(now).map(|(at, _)| at.to_string()).collect();
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
        let names_nobody = || self.sentinels.all_answers(now).all(|(_, answer)| answer.claim.is_none());
        if self.sentinels.electorate().is_established() || names_nobody() {
            return None;
        }
        Some(match self.sentinels.settled(now) {
            false => "waiting for the other Sentinels".into(),
            true if self.sentinels.electorate().rivals().len() > 1 => self.rival_sets(),
            true => format!("too few of the configured Sentinels answer: {}", self.missing(now)),
        })
    }

    /// Nodes that may be asked, with our credentials, while there is no master.
    pub(super) fn worth_asking_at_the_start(&self, now: Instant) -> Vec<SocketAddr> {
        if !self.situation.is_searching() {
            return Vec::new();
        }
        if let Consensus::Agreed(named) = self.consensus_at_start(now) {
            return Some(named.addr).filter(|_| self.believed(now, &named).is_ok()).into_iter().collect();
        }
        match self.earlier.history().filter(|_| self.sentinels.settled(now)) {
            Some(memory) => std::iter::once(memory.addr).chain(memory.replicas.iter().copied()).collect(),
            None => Vec::new(),
        }
    }

    /// The Sentinels name a lower epoch than the remembered one: said at once. True while that is not overruled: at once by
    /// a majority that knows none of the remembered nodes (the file is of another cluster), else by one that insists.
    pub(super) fn below_floor(&mut self, now: Instant, named: &Named) -> bool {
        let floor = self.earlier.floor();
        let remembered = floor.map_or_else(String::new, |(addr, epoch)| format!("{addr} at epoch {epoch}"));
        let what = format!(
            "{} remembers the master {remembered}, but the Sentinels name {} at epoch {}",
            self.earlier.file(),
            named.addr,
            named.epoch
        );
        let remembered = self.earlier.nodes().chain(floor.map(|(addr, _)| addr));
        let part = remembered.into_iter().any(|node| self.sentinels.acquainted(node) > 0);
        let agreed = named.majority && self.sentinels.electorate().is_anchored();
        let insisted = self.lower(now).is_some();
        if agreed && !part {
            self.out.log_once(
                Level::WARN,
                format!("{what}: the file is of another cluster, and a majority of Sentinels overrules it"),
            );
            return false;
        }
        if insisted {
            self.out.log_once(
                Level::WARN,
                format!("{what}: a majority of Sentinels has said so for 10 s, which overrules the file"),
            );
            return false;
        }
        let why =
            format!("{what}: waiting until a majority has said so for 10 s (a table that is old would say it too)");
        self.out.log_once(Level::WARN, why.clone());
        self.situation.explain(why);
        true
    }

    /// The first master is of another history than that of the earlier run: said, and what was remembered is forgotten.
    pub(super) fn leave_memory(&mut self, addr: SocketAddr, info: Option<&Info>) {
        let Some(memory) = self.earlier.history() else { return };
        if !info.is_some_and(|info| self.family.kinship(info) == Kinship::Unknown) {
            return;
        }
        let (remembered, file) = (memory.addr, self.earlier.file());
        self.out.log_once(
            Level::WARN,
            format!(
                "{addr} has another history than {remembered}, the master of {file}: failovers were missed, or the data is other data. It is followed because this is a new start"
            ),
        );
        self.family.forget();
    }

    /// Another set of Sentinels under the same name is an error, for as long as it answers.
    pub(super) fn note_rivals(&mut self, now: Instant) {
        if self.sentinels.note_rivals(now) {
            self.out.log_once(Level::ERROR, self.rival_sets());
        }
    }

    /// The same for `status`.
    pub(super) fn rivals(&self, now: Instant) -> Option<String> {
        self.sentinels.has_rivals(now).then(|| self.rival_sets())
    }

    fn rival_sets(&self) -> String {
        let show = |set: Vec<&HostPort>| set.into_iter().map(HostPort::to_string).collect::<Vec<_>>().join(", ");
        let electorate = self.sentinels.electorate();
        let others: Vec<String> = electorate.rivals().iter().map(|set| show(set.iter().collect())).collect();
        let others = others.join(" and of ");
        let what = match electorate.is_established() {
            true => {
                format!("[{}] are believed, and the other set has no say", show(electorate.voices().collect()))
            }
            false => "neither holds a majority of the configured list, so nobody is followed".into(),
        };
        format!(
            "Sentinels that do not know each other answer under one name, of another set than the rest: {others}; {what}. Take those that are of another cluster out of `sentinels`, or set their tables right (SENTINEL MONITOR)"
        )
    }

    /// A majority names a node that no session may move to.
    pub(super) fn note_stranger(&mut self, now: Instant) {
        let Some(master) = self.followed.addr() else { return };
        let Consensus::Agreed(named) = self.consensus(now) else { return };
        let unknown = || {
            matches!(
                self.verdict(named.addr, self.start.at(), named.run_id.as_deref()),
                Verdict::Master(_, Kinship::Unknown)
            )
        };
        if named.addr != master && named.majority && !self.is_bonded(named.addr) && unknown() {
            self.out.log_once(Level::ERROR, self.stranger(&named));
        }
    }
}
