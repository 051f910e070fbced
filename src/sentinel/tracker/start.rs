//! The start: the first master, and what may be under way while it is looked for.
//!
//! A first master is followed only when every node that the Sentinels list has said what it is, or had the time to. A
//! failover that runs is joined: requests are held on the old master's side of it, and `switching` decides as ever.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tracing::Level;

use super::Tracker;
use crate::config::HostPort;
use crate::sentinel::consensus::{Consensus, Named};
use crate::sentinel::event::Kind;
use crate::sentinel::report::{Info, Role};

/// How long the first answers of Sentinels are waited for once one has answered.
const SENTINELS_WITHIN: Duration = Duration::from_millis(500);
/// The same for those of the replicas: one that is silent for longer is taken for away.
const REPLICAS_WITHIN: Duration = Duration::from_secs(1);

/// What is known of the start.
#[derive(Debug)]
pub(super) struct Start {
    at: Instant,
    /// The last failover that was announced before there was a master to fail over from.
    announced: Option<Announced>,
}

/// A failover that a Sentinel's event announced.
#[derive(Debug)]
struct Announced {
    of: Option<SocketAddr>,
    candidate: SocketAddr,
    leader: HostPort,
}

/// A failover that was found at the start.
#[derive(Debug)]
pub(super) struct UnderWay {
    candidate: Option<SocketAddr>,
    /// The Sentinel that runs it, when we hear it.
    leader: Option<HostPort>,
    /// An earlier run had committed to the candidate.
    followed: bool,
    why: String,
}

impl Start {
    pub(super) fn new(now: Instant) -> Start {
        Start { at: now, announced: None }
    }

    pub(super) fn at(&self) -> Instant {
        self.at
    }

    /// Takes note of what happens while no master is followed yet.
    pub(super) fn hear(&mut self, from: &HostPort, kind: &Kind, of: Option<SocketAddr>, node: Option<SocketAddr>) {
        match (kind, node) {
            (Kind::Candidate | Kind::Promoted, Some(candidate)) => {
                self.announced = Some(Announced { of, candidate, leader: from.clone() });
            }
            (Kind::Aborted { .. } | Kind::Table | Kind::SwitchMaster | Kind::Ended, _) => {
                self.announced.take_if(|announced| announced.leader == *from);
            }
            _ => {}
        }
    }
}

impl Tracker {
    /// Why there is no master yet, while no Sentinel can be asked about one.
    pub fn set_reason(&mut self, reason: &str) {
        if self.situation.is_searching() {
            self.situation.explain(reason.to_owned());
        }
    }

    /// Looks for the first master.
    pub(super) fn search(&mut self, now: Instant) {
        let named = match self.consensus_at_start(now) {
            Consensus::Agreed(named) => named,
            Consensus::Conflicting { epoch, addrs } => {
                let why = format!("the Sentinels name different masters at epoch {epoch}: {addrs:?}");
                return self.situation.explain(why);
            }
            Consensus::None => {
                let why = self.why_none_is_named(now);
                self.situation.explain(why);
                return self.start_without_sentinels(now);
            }
        };
        if named.epoch < self.floor() && self.below_floor(now, &named) {
            return;
        }
        if let Err(why) = self.believed(now, &named) {
            self.situation.explain(why);
            return self.start_without_sentinels(now);
        }
        let verified = self.verify(&named, self.start.at());
        let found = verified.and_then(|info| Ok((self.under_way(now, &named, info.as_ref())?, info)));
        match found {
            Ok((under_way, info)) => self.begin(now, &named, info.as_ref(), under_way),
            Err(why) => self.situation.explain(why),
        }
    }

    /// Answers without a master: it has another name, most likely. A Sentinel may also be away for a short time.
    fn why_none_is_named(&mut self, now: Instant) -> String {
        let answered = self.sentinels.all_answers(now).find_map(|(_, answer)| answer.problem.clone());
        if let Some(problem) = &answered {
            self.out.notice(Level::WARN, problem.clone());
        }
        let error = || self.sentinels.states().find_map(|sentinel| sentinel.error.clone());
        let problem = self.why_nobody(now).or(answered).or_else(error);
        problem.unwrap_or_else(|| "no Sentinel has answered yet".into())
    }

    /// Follows the first master, and joins what is under way.
    fn begin(&mut self, now: Instant, named: &Named, info: Option<&Info>, under_way: Option<UnderWay>) {
        let began = self.situation.outage_since();
        let Named { addr, epoch, support, .. } = named;
        let total = self.sentinels.total();
        self.out.log(Level::INFO, format!("following {addr} (epoch {epoch}, named by {support} of {total} Sentinels)"));
        self.leave_memory(*addr, info);
        self.commit(now, *addr, *epoch, info, false);
        if let Some(under_way) = under_way {
            self.join(now, under_way, began);
        }
        self.note_family(now);
    }

    /// Whether `named`, which says that it is the master, is being replaced now. `Err`: not known yet, and
    /// what is waited for.
    fn under_way(&self, now: Instant, named: &Named, info: Option<&Info>) -> Result<Option<UnderWay>, String> {
        let first = self.sentinels.first_answer().unwrap_or(now);
        let unheard = self.sentinels.states().any(|one| one.answered.is_none() && one.lost_since.is_none());
        if unheard && now < first + SENTINELS_WITHIN {
            return Err("waiting for the other Sentinels".into());
        }
        if let Some(under_way) = self.known_failover(now, named, info) {
            return Ok(Some(under_way));
        }
        let unknown = |addr: &SocketAddr| {
            let asked = self.nodes.get(*addr);
            asked.is_none_or(|node| node.answer.is_none() && node.refused.is_none() && node.silent.is_none())
        };
        match self.sentinels.listed_replicas(now).find(|addr| *addr != named.addr && unknown(addr)) {
            Some(addr) if now < first + REPLICAS_WITHIN => Err(format!("waiting for {addr} to say what it is")),
            _ => Ok(None),
        }
    }

    /// The failover from `named`, by the best that is known of it: a Sentinel's event, a replica that is a master with
    /// `named`'s history as its second, what an earlier run has left, or only that a Sentinel is about it.
    fn known_failover(&self, now: Instant, named: &Named, info: Option<&Info>) -> Option<UnderWay> {
        let before = self.unsettled_before(named);
        let found = |candidate: Option<SocketAddr>, leader, why| {
            Some(UnderWay { candidate, leader, followed: candidate.is_some() && candidate == before, why })
        };
        let has_voice = |leader: &HostPort| self.sentinels.electorate().has_voice(leader);
        let announced = self.start.announced.as_ref();
        if let Some(Announced { candidate, leader, .. }) =
            announced.filter(|announced| announced.of == Some(named.addr) && has_voice(&announced.leader))
        {
            let why = format!("Sentinel {leader} promotes {candidate}");
            return found(Some(*candidate), Some(leader.clone()), why);
        }
        let leader = self.sentinels.leading(now, named.addr).cloned();
        if let Some(promoted) = info.and_then(|info| self.promoted_from(named.addr, info)) {
            let why = format!("{promoted} was promoted from {}, and no Sentinel has announced it", named.addr);
            return found(Some(promoted), leader, why);
        }
        if let Some(candidate) = before {
            let undone = matches!(self.nodes.role(candidate), Some(Role::Replica { link_up: true, .. }));
            if !undone {
                let why = format!("the failover to {candidate} was not settled when this process last ended");
                return found(Some(candidate), leader, why);
            }
        }
        let leader = leader?;
        let why = format!("Sentinel {leader} is replacing {}", named.addr);
        found(None, Some(leader), why)
    }

    /// Follows what `begin` has just committed to as the old master of a failover.
    fn join(&mut self, now: Instant, under_way: UnderWay, began: Option<Instant>) {
        // One outage, from the start on.
        self.situation.time_outage_from(began);
        let until = now + self.hold_timeout();
        self.sentinels.listed_replicas(now).for_each(|addr| self.promotions.expect(addr, until));
        let candidate = under_way.candidate.filter(|_| under_way.followed);
        self.earlier.wait_for(candidate);
        self.remember_candidate(candidate);
        self.hold(now, under_way.candidate, under_way.leader, under_way.why);
    }

    /// The nodes to be asked before there is a master.
    pub(super) fn asked_at_the_start(&self, now: Instant) -> impl Iterator<Item = SocketAddr> {
        let searching = self.situation.is_searching();
        let candidate = self.earlier.candidate().filter(|_| searching);
        // Others are not given the credentials, and cannot answer where some are needed.
        let asked = self.sentinels.listed_replicas(now).chain(candidate);
        asked.filter(move |addr| searching && self.trusts(*addr))
    }

    /// An early commit of an earlier run that was neither confirmed nor undone when that ended.
    fn unsettled_before(&self, named: &Named) -> Option<SocketAddr> {
        let floor = (named.addr, named.epoch);
        self.earlier.candidate().filter(|addr| self.earlier.floor() == Some(floor) && *addr != named.addr)
    }

    /// A listed replica that says it is a master, with the history of `master`, which is `info`'s, as its second.
    fn promoted_from(&self, master: SocketAddr, info: &Info) -> Option<SocketAddr> {
        let promoted = self.nodes.iter().find(|(addr, node)| {
            **addr != master
                && matches!(node.answer.as_ref().map(|answer| &answer.role), Some(Role::Master { .. }))
                && node.info.as_ref().is_some_and(|other| other.replid2.as_ref() == Some(&info.replid))
        });
        promoted.map(|(addr, _)| *addr)
    }
}
