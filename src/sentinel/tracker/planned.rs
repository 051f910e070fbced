//! A planned failover that an operator asks for: whether it may begin now, and which Sentinels are asked in which order.
//!
//! One at a time: two Sentinels that each begin one promote two replicas. So none is asked while a failover is under way
//! as far as is known, and every host asks in the same order, so that two of them meet at the same Sentinel.

use std::time::{Duration, Instant};

use super::{Output, State, Tracker};
use crate::config::HostPort;

/// How long the Sentinels' answers to the questions before it are waited for.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);
/// Sentinel's first event of a failover that it has begun comes within this time.
const SHOWS_WITHIN: Duration = Duration::from_secs(3);

/// How long replicas that lag are waited for.
const LEVEL_WITHIN: Duration = Duration::from_secs(10);

/// A failover that was asked for.
#[derive(Debug)]
pub(super) struct Planned {
    since: Instant,
    /// Ask also when the master is silent or a replica lags.
    force: bool,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// It is looked into whether it may be asked for.
    Looking,
    /// A Sentinel is being asked.
    Asking,
    /// A Sentinel has begun it then.
    Begun(Instant),
}

impl Planned {
    /// It is not decided yet.
    pub(super) fn looks(&self) -> bool {
        matches!(self.stage, Stage::Looking)
    }
}

impl Tracker {
    /// An operator asks for a failover. What becomes of it comes out as [`Output::AskFailover`].
    ///
    /// # Errors
    /// One is under way; the text says how that is known.
    pub fn want_failover(&mut self, now: Instant, force: bool) -> Result<(), String> {
        if let Some(why) = self.failing_over() {
            return Err(one_at_a_time(&why));
        }
        self.planned = Some(Planned { since: now, force, stage: Stage::Looking });
        self.ask_sentinels();
        Ok(())
    }

    /// A Sentinel has begun it, or none has.
    pub fn failover_asked(&mut self, now: Instant, begun: bool) {
        match &mut self.planned {
            Some(planned) if begun => planned.stage = Stage::Begun(now),
            _ => self.planned = None,
        }
    }

    /// Goes on with what was asked for.
    pub(super) fn plan(&mut self, now: Instant) {
        let Some(planned) = &self.planned else { return };
        match planned.stage {
            Stage::Looking => match self.may_fail_over(now, planned) {
                Ok(None) => {}
                Ok(Some(order)) => {
                    self.planned.iter_mut().for_each(|planned| planned.stage = Stage::Asking);
                    self.outputs.push(Output::AskFailover(Ok(order)));
                }
                Err(why) => {
                    self.planned = None;
                    self.outputs.push(Output::AskFailover(Err(why)));
                }
            },
            Stage::Asking => {}
            Stage::Begun(at) => {
                let given_up = self.last_abort.as_ref().is_some_and(|(aborted, _)| *aborted >= at);
                if given_up || now > at + SHOWS_WITHIN || matches!(self.state, State::Switching(_)) {
                    self.planned = None;
                }
            }
        }
    }

    /// What is known of a failover under way, without asking anybody.
    fn failing_over(&self) -> Option<String> {
        match (&self.planned, &self.state) {
            (Some(Planned { stage: Stage::Begun(_), .. }), _) => Some("Sentinel has just begun the last one".into()),
            (Some(_), _) => Some("another command asks for one at this moment".into()),
            (_, State::Switching(_)) => Some(self.reason.clone()),
            _ => {
                let master = self.master.as_ref().filter(|master| master.provisional)?;
                Some(format!("the one to {} is not confirmed by the Sentinels yet", master.addr))
            }
        }
    }

    /// The Sentinels to ask, in order; `None` while something is waited for.
    fn may_fail_over(&self, now: Instant, planned: &Planned) -> Result<Option<Vec<HostPort>>, String> {
        match self.state {
            State::Searching => return Err(format!("there is no master to move away from: {}", self.reason)),
            State::Switching(_) => return Err(one_at_a_time(&self.reason)),
            State::Silent { .. } if !planned.force => {
                return Err(format!(
                    "{}: Sentinel replaces a dead master by itself; to ask it all the same, use --force",
                    self.reason
                ));
            }
            State::Silent { .. } | State::Following => {}
        }
        let connected =
            || self.sentinels.iter().filter(|(at, sentinel)| sentinel.connected && self.electorate.has_voice(at));
        let answered = connected()
            .all(|(_, sentinel)| sentinel.answer.as_ref().is_some_and(|answer| answer.asked >= planned.since));
        if !answered && now < planned.since + ANSWERS_WITHIN {
            return Ok(None);
        }
        let claim = |at| self.sentinels.get(at).and_then(|sentinel| sentinel.answer.as_ref()?.claim.as_ref());
        let mut order: Vec<&HostPort> = connected().map(|(at, _)| at).collect();
        if let Some(at) = order.iter().find(|at| claim(at).is_some_and(|claim| claim.failover)) {
            return Err(one_at_a_time(&format!("Sentinel {at} is carrying it out")));
        }
        if order.is_empty() {
            return Err("no Sentinel is connected: see `switchmaster status`".into());
        }
        if let Some(lag) = self.lagging(now, planned.since).filter(|_| !planned.force) {
            if now < planned.since + LEVEL_WITHIN {
                return Ok(None);
            }
            return Err(format!(
                "{lag}, and so for {} s: nothing was asked for, since Sentinel may choose it, and what it lacks would be lost; run this again when it has caught up, or with --force",
                LEVEL_WITHIN.as_secs()
            ));
        }
        let run_id = |at| self.sentinels.get(at).and_then(|sentinel| sentinel.answer.as_ref()?.myid.as_ref());
        order.sort_by_key(|at| (run_id(at).is_none(), run_id(at), *at));
        Ok(Some(order.into_iter().cloned().collect()))
    }
}

fn one_at_a_time(why: &str) -> String {
    format!("a failover is under way ({why}): nothing was asked for; wait until `switchmaster status` shows its end")
}
