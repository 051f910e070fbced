//! Whether a load balancer should send traffic to this host: the rule behind `/ready`.
//!
//! Sans-IO and cached state only: no socket, no clock, never a question to Redis. A failover that is under way is
//! no reason to leave: every host would leave at once.

use std::time::Duration;

use crate::status::{CredentialsState, Readiness, State, View};
use crate::topology::Phase;

/// Good probes in a row that it takes to come back after a bad one.
const GOOD_PROBES: u32 = 2;

/// Silence of both the master and every Sentinel after which this host is taken to be cut off.
const CUT_OFF_AFTER: Duration = Duration::from_secs(2);

/// An early commit has 3 s to be confirmed, and the Sentinels some more to tell each other.
const SETTLED_AFTER: Duration = Duration::from_secs(8);

/// What `/ready` says when the Sentinels themselves say that there is no master.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnGlobalOutage {
    /// 200: no other host is better off.
    #[default]
    Ready,
    /// 503.
    Unready,
}

/// The probes' memory: a host that was taken out comes back only after two good probes.
#[derive(Debug, Default)]
pub struct Probes {
    /// Good probes still needed.
    needed: u32,
}

impl Probes {
    /// A load balancer asks.
    pub fn probe(&mut self, found: Readiness) -> Readiness {
        if !found.ready {
            self.needed = GOOD_PROBES;
            return found;
        }
        self.needed = self.needed.saturating_sub(1);
        self.peek(found)
    }

    /// What the next probe builds on; somebody else looks.
    pub fn peek(&self, found: Readiness) -> Readiness {
        if !found.ready || self.needed == 0 {
            return found;
        }
        let why = format!("recovering, {} more good probe needed: {}", self.needed, found.why);
        Readiness { ready: false, state: State::Degraded, why }
    }
}

/// Judges what is known now. `grace` is how long a master may stay unconfirmed.
pub fn assess(view: &View, phase: Phase, grace: Duration, on_global_outage: OnGlobalOutage) -> Readiness {
    let verdict = |ready, state, why: String| Readiness { ready, state, why };
    let silence = view.confirmed_ago_ms.map(Duration::from_millis);
    let connected = view.sentinels.iter().filter(|sentinel| sentinel.connected).count();
    let known = if view.agreement.known > 0 { view.agreement.known } else { view.sentinels.len() };

    // Faults of this host alone: leave at once, others are better off.
    if view.draining {
        return verdict(false, State::Down, "draining: this process is about to end".into());
    }
    if connected == 0 && silence.is_none_or(|silence| silence > CUT_OFF_AFTER) {
        let why = format!("neither a Sentinel nor the master can be reached{}", because(&view.reason));
        return verdict(false, State::Down, why);
    }

    let recent = silence.is_some_and(|silence| silence <= grace);
    match phase {
        Phase::Electing if recent => {
            verdict(true, State::Failover, format!("a failover begins{}", because(&view.reason)))
        }
        Phase::Switching => verdict(
            true,
            State::Failover,
            format!("a failover is in progress, requests are held{}", because(&view.reason)),
        ),
        Phase::Paused => {
            verdict(true, State::Degraded, format!("requests are held by command{}", because(&view.reason)))
        }
        Phase::Suspect if recent => {
            verdict(true, State::Failover, format!("the master is silent, requests are held{}", because(&view.reason)))
        }
        Phase::Stable if recent && settling(view, connected, known) => verdict(
            true,
            State::Failover,
            format!(
                "the failover is being confirmed: {} of {known} Sentinels name the new master",
                view.agreement.agreeing
            ),
        ),
        Phase::Stable if recent => match weakness(view, connected, known) {
            Some(why) => verdict(true, State::Degraded, why),
            None => {
                verdict(true, State::Ok, format!("the master answered {} ms ago", view.confirmed_ago_ms.unwrap_or(0)))
            }
        },
        Phase::Stable | Phase::Electing | Phase::Suspect | Phase::Failing => {
            let down = view.sentinels.iter().filter(|sentinel| sentinel.connected && sentinel.master_down).count();
            let global = down > 0 && down * 2 > known;
            let why = match silence {
                Some(silence) => {
                    format!("no master has answered for {:.1} s{}", silence.as_secs_f64(), because(&view.reason))
                }
                None => format!("no master has been found yet{}", because(&view.reason)),
            };
            if global {
                let why = format!("{why}; {down} of {known} Sentinels say so too");
                verdict(on_global_outage == OnGlobalOutage::Ready, State::Down, why)
            } else {
                verdict(false, State::Down, why)
            }
        }
    }
}

/// What is wrong although requests flow.
fn weakness(view: &View, connected: usize, known: usize) -> Option<String> {
    if connected == 0 {
        Some("no Sentinel can be reached: a failover would not be seen".into())
    } else if outvoted(view, known) {
        Some(format!("only {} of {known} Sentinels name this master", view.agreement.agreeing))
    } else {
        credentials(view)
    }
}

/// Credentials that do not let us ask the nodes are no reason to leave: clients bring their own.
fn credentials(view: &View) -> Option<String> {
    let why = match view.credentials {
        CredentialsState::NotNeeded | CredentialsState::Configured | CredentialsState::Learnt => return None,
        CredentialsState::Missing => "no Redis credentials: failovers are followed only once Sentinel announces them",
        CredentialsState::Refused => "the Redis nodes refuse our credentials: set redis_password to what they expect",
        CredentialsState::NotPermitted => "the Redis nodes do not let our user ask ROLE: it needs +role +info",
    };
    Some(why.into())
}

fn outvoted(view: &View, known: usize) -> bool {
    let agreeing = view.agreement.agreeing;
    agreeing * 2 <= known || agreeing < view.agreement.quorum
}

/// Few Sentinels name this master because it has only just become one.
fn settling(view: &View, connected: usize, known: usize) -> bool {
    let fresh = view.last_failover.as_ref().is_some_and(|last| last.ago_ms < SETTLED_AFTER.as_millis() as u64);
    fresh && connected > 0 && outvoted(view, known)
}

fn because(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(": {reason}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{Agreement, FailoverView, SentinelView};

    const GRACE: Duration = Duration::from_secs(30);

    fn healthy() -> View {
        let sentinel = SentinelView { connected: true, ..SentinelView::default() };
        View {
            confirmed_ago_ms: Some(150),
            sentinels: vec![sentinel; 3],
            agreement: Agreement { agreeing: 3, known: 3, quorum: 2 },
            ..View::default()
        }
    }

    fn judged(view: &View, phase: Phase) -> (bool, State) {
        let readiness = assess(view, phase, GRACE, OnGlobalOutage::Ready);
        assert!(!readiness.why.is_empty());
        (readiness.ready, readiness.state)
    }

    #[test]
    fn a_failover_keeps_the_host_in_service() {
        let mut view = healthy();
        assert_eq!(judged(&view, Phase::Stable), (true, State::Ok));
        view.confirmed_ago_ms = Some(9_000);
        assert_eq!(judged(&view, Phase::Suspect), (true, State::Failover));
        assert_eq!(judged(&view, Phase::Switching), (true, State::Failover));
        assert_eq!(judged(&view, Phase::Paused), (true, State::Degraded));
        view.confirmed_ago_ms = Some(31_000);
        assert_eq!(judged(&view, Phase::Suspect), (false, State::Down));
        assert_eq!(judged(&view, Phase::Failing), (false, State::Down));
    }

    #[test]
    fn a_fault_of_this_host_takes_it_out_at_once() {
        let draining = View { draining: true, ..healthy() };
        assert_eq!(judged(&draining, Phase::Stable), (false, State::Down));
        let cut_off = View { sentinels: vec![SentinelView::default(); 3], confirmed_ago_ms: Some(2_500), ..healthy() };
        assert_eq!(judged(&cut_off, Phase::Suspect), (false, State::Down));
        assert_eq!(judged(&View::default(), Phase::Suspect), (false, State::Down));
    }

    #[test]
    fn what_is_weak_but_works_is_degraded() {
        let alone = View { sentinels: vec![SentinelView::default(); 3], ..healthy() };
        assert_eq!(judged(&alone, Phase::Stable), (true, State::Degraded));
        let split = View { agreement: Agreement { agreeing: 1, known: 3, quorum: 2 }, ..healthy() };
        assert_eq!(judged(&split, Phase::Stable), (true, State::Degraded));
        for credentials in [CredentialsState::Missing, CredentialsState::Refused, CredentialsState::NotPermitted] {
            let blind = View { credentials, ..healthy() };
            assert_eq!(judged(&blind, Phase::Stable), (true, State::Degraded), "{credentials:?}");
        }
    }

    #[test]
    fn a_master_that_the_sentinels_have_yet_to_hear_of_is_a_failover() {
        let last = |ago_ms| Some(FailoverView { ago_ms, ..FailoverView::default() });
        let none = Agreement { agreeing: 0, known: 3, quorum: 2 };
        let mut view = View { last_failover: last(1_000), ..healthy() };
        assert_eq!(judged(&view, Phase::Stable), (true, State::Ok));
        view.agreement = none;
        assert_eq!(judged(&view, Phase::Stable), (true, State::Failover));
        view.last_failover = last(9_000);
        assert_eq!(judged(&view, Phase::Stable), (true, State::Degraded));
    }

    #[test]
    fn an_outage_that_the_sentinels_confirm_follows_the_setting() {
        let mut view = View { confirmed_ago_ms: Some(60_000), ..healthy() };
        view.sentinels[0].master_down = true;
        assert_eq!(judged(&view, Phase::Failing), (false, State::Down));
        view.sentinels[1].master_down = true;
        assert_eq!(judged(&view, Phase::Failing), (true, State::Down));
        assert!(!assess(&view, Phase::Failing, GRACE, OnGlobalOutage::Unready).ready);
    }

    #[test]
    fn coming_back_takes_two_good_probes_and_looking_is_not_probing() {
        let good = || assess(&healthy(), Phase::Stable, GRACE, OnGlobalOutage::Ready);
        let bad = || assess(&View::default(), Phase::Failing, GRACE, OnGlobalOutage::Ready);
        let mut probes = Probes::default();
        assert!(probes.probe(good()).ready, "nothing to recover from at the start");
        assert!(!probes.probe(bad()).ready);
        assert!(!probes.probe(good()).ready);
        assert!(!probes.peek(good()).ready);
        assert!(!probes.peek(good()).ready);
        assert!(probes.probe(good()).ready);
        assert!(probes.peek(good()).ready);
    }
}
