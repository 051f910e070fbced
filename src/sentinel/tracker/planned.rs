//! A planned failover that an operator asks for: whether it may begin now, and which Sentinels are asked in which order.
//!
//! One at a time: two Sentinels that each begin one promote two replicas. So none is asked while a failover is under way
//! as far as is known, and every host asks in the same order, so that two of them meet at the same Sentinel.

use std::time::{Duration, Instant};

use super::situation::State;
use super::{Output, Tracker};
use crate::config::HostPort;
use crate::sentinel::report::SentinelAnswer;

/// How long the Sentinels' answers to the questions before it are waited for.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);
/// Sentinel's first event of a failover that it has begun comes within this time.
const SHOWS_WITHIN: Duration = Duration::from_secs(3);

/// How long replicas that lag are waited for.
const LEVEL_WITHIN: Duration = Duration::from_secs(10);

/// The failover that is asked for, if there is one.
#[derive(Debug, Default)]
pub(super) struct Planned {
    wish: Option<Wish>,
}

/// A failover that was asked for.
#[derive(Debug)]
struct Wish {
    since: Instant,
    /// Ask also when the master is silent or a replica lags.
    force: bool,
    stage: Stage,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    /// It is looked into whether it may be asked for.
    Looking,
    /// A Sentinel is being asked.
    Asking,
    /// A Sentinel has begun it then.
    Begun(Instant),
}

impl Planned {
    fn begin(&mut self, now: Instant, force: bool) {
        self.wish = Some(Wish { since: now, force, stage: Stage::Looking });
    }

    fn go_on(&mut self, stage: Stage) {
        self.wish.iter_mut().for_each(|wish| wish.stage = stage);
    }

    fn end(&mut self) {
        self.wish = None;
    }

    /// It is not decided yet.
    pub(super) fn is_looked_into(&self) -> bool {
        self.wish.as_ref().is_some_and(|wish| matches!(wish.stage, Stage::Looking))
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
        self.planned.begin(now, force);
        self.ask_sentinels();
        Ok(())
    }

    /// A Sentinel has begun it, or none has.
    pub fn failover_asked(&mut self, now: Instant, begun: bool) {
        if begun {
            self.planned.go_on(Stage::Begun(now));
        } else {
            self.planned.end();
        }
    }

    /// Goes on with what was asked for.
    pub(super) fn plan(&mut self, now: Instant) {
        let Some(wish) = &self.planned.wish else { return };
        match wish.stage {
            Stage::Looking => match self.may_fail_over(now, wish).transpose() {
                None => {}
                Some(order) => {
                    match order.is_ok() {
                        true => self.planned.go_on(Stage::Asking),
                        false => self.planned.end(),
                    }
                    self.out.push(Output::AskFailover(order));
                }
            },
            Stage::Asking => {}
            Stage::Begun(at) => {
                let given_up = self.history.was_aborted_since(at);
                if given_up || now > at + SHOWS_WITHIN || self.situation.failover().is_some() {
                    self.planned.end();
                }
            }
        }
    }

    /// What is known of a failover under way, without asking anybody.
    fn failing_over(&self) -> Option<String> {
        match (&self.planned.wish, self.situation.failover()) {
            (Some(Wish { stage: Stage::Begun(_), .. }), _) => Some("Sentinel has just begun the last one".into()),
            (Some(_), _) => Some("another command asks for one at this moment".into()),
            (_, Some(_)) => Some(self.situation.reason().to_owned()),
            _ => {
                let master = self.followed.master().filter(|master| master.provisional)?;
                Some(format!("the one to {} is not confirmed by the Sentinels yet", master.addr))
            }
        }
    }

    /// The Sentinels to ask, in order; `None` while something is waited for.
    fn may_fail_over(&self, now: Instant, wish: &Wish) -> Result<Option<Vec<HostPort>>, String> {
        self.may_leave_master(wish.force)?;
        let mut sentinels = self.sentinels.connected_voices().map(|(_, sentinel)| sentinel.answer.as_ref());
        let answered = sentinels.all(|answer| answer.is_some_and(|answer| answer.asked >= wish.since));
        if !answered && now < wish.since + ANSWERS_WITHIN {
            return Ok(None);
        }
        let order = self.order_to_ask()?;
        match self.lagging(now, wish.since).filter(|_| !wish.force) {
            None => Ok(Some(order)),
            Some(_) if now < wish.since + LEVEL_WITHIN => Ok(None),
            Some(lag) => Err(format!(
                "{lag}, and so for {} s: nothing was asked for, since Sentinel may choose it, and what it lacks would be lost; run this again when it has caught up, or with --force",
                LEVEL_WITHIN.as_secs()
            )),
        }
    }

    /// There is a master that lives, and no failover under way.
    fn may_leave_master(&self, force: bool) -> Result<(), String> {
        let reason = self.situation.reason();
        match self.situation.state() {
            State::Searching => Err(format!("there is no master to move away from: {reason}")),
            State::Switching(_) => Err(one_at_a_time(reason)),
            State::Silent { .. } if !force => {
                Err(format!("{reason}: Sentinel replaces a dead master by itself; to ask it all the same, use --force"))
            }
            State::Silent { .. } | State::Following => Ok(()),
        }
    }

    /// Every host asks in the same order.
    fn order_to_ask(&self) -> Result<Vec<HostPort>, String> {
        let answer = |at| self.sentinels.get(at).and_then(|sentinel| sentinel.answer.as_ref());
        let mut order: Vec<&HostPort> = self.sentinels.connected_voices().map(|(at, _)| at).collect();
        if let Some(at) = order.iter().find(|at| answer(at).is_some_and(SentinelAnswer::is_failing_over)) {
            return Err(one_at_a_time(&format!("Sentinel {at} is carrying it out")));
        }
        if order.is_empty() {
            return Err("no Sentinel is connected: see `switchmaster status`".into());
        }
        let run_id = |at| answer(at).and_then(|answer| answer.myid.as_ref());
        order.sort_by_key(|at| (run_id(at).is_none(), run_id(at), *at));
        Ok(order.into_iter().cloned().collect())
    }
}

fn one_at_a_time(why: &str) -> String {
    format!("a failover is under way ({why}): nothing was asked for; wait until `switchmaster status` shows its end")
}
