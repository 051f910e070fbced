//! What is worth a call: found by comparing one view with those before it.
//!
//! Sans-IO. Each thing is said once: a state when it begins, an event when it is counted. What was before the first look is
//! no news.

use std::time::{Duration, Instant};

use crate::duration::rounded as millis;
use crate::status::{Counters, FailoverView, View};

/// A failover's report is complete by then: the first reply, and Sentinel's epoch.
const REPORT_AFTER: Duration = Duration::from_secs(4);
/// A longer hold is worth a call: workers wait, and queues may run a job again.
const LONG_HOLD: Duration = Duration::from_secs(15);
/// Replicas have this long after a failover to follow the new master.
const REPLICAS_WITHIN: Duration = Duration::from_secs(60);

/// Something to be called about.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    /// failover, no_master, long_hold, early_commit_wrong, no_replica.
    pub event: &'static str,
    /// For people.
    pub text: String,
    /// The report of the failover that it is about.
    pub failover: Option<FailoverView>,
}

/// What was seen so far.
#[derive(Debug, Default)]
pub struct Watcher {
    counted: Option<Counters>,
    /// A failover, and when its report is complete.
    reporting: Option<(Instant, FailoverView)>,
    /// When replicas must be there again.
    replicas_by: Option<Instant>,
    has_said_no_master: bool,
    has_said_long_hold: bool,
}

impl Watcher {
    /// What is new at `now`.
    pub fn look(&mut self, now: Instant, view: &View) -> Vec<Notice> {
        let before = self.counted.replace(view.counters.clone()).unwrap_or_else(|| view.counters.clone());
        let has_changed = view.counters.failovers() > before.failovers();
        if has_changed {
            self.replicas_by = Some(now + REPLICAS_WITHIN);
        }
        let wrong = view.counters.early_commits_wrong > before.early_commits_wrong;
        let found = [
            wrong.then(|| early_commit_wrong(view)),
            self.failover(now, view, has_changed),
            self.no_master(view),
            self.long_hold(view),
            self.no_replica(now, view),
        ];
        found.into_iter().flatten().collect()
    }

    /// A report grows for a while; that of a failover which the next one overtakes is as complete as it will be.
    fn failover(&mut self, now: Instant, view: &View, has_changed: bool) -> Option<Notice> {
        let last = view.last_failover.clone();
        if has_changed {
            let overtaken = self.reporting.take();
            self.reporting = last.map(|report| (now + REPORT_AFTER, report));
            return overtaken.map(|(_, report)| failover(report));
        }
        let (at, _) = self.reporting.take()?;
        let report = last?;
        if now >= at {
            return Some(failover(report));
        }
        self.reporting = Some((at, report));
        None
    }

    fn no_master(&mut self, view: &View) -> Option<Notice> {
        let is_new = view.phase == "failing" && !self.has_said_no_master;
        self.has_said_no_master = view.phase == "failing";
        is_new.then(|| notice("no_master", format!("no master, requests fail: {}", view.reason)))
    }

    fn long_hold(&mut self, view: &View) -> Option<Notice> {
        let paused = view.since_ms.filter(|_| view.phase == "paused");
        let Some(held) = view.outage_ms.or(paused) else {
            self.has_said_long_hold = false;
            return None;
        };
        let is_new = held >= LONG_HOLD.as_millis() as u64 && !self.has_said_long_hold && view.phase != "failing";
        self.has_said_long_hold |= is_new;
        is_new.then(|| notice("long_hold", format!("requests have been held for {}: {}", millis(held), view.reason)))
    }

    fn no_replica(&mut self, now: Instant, view: &View) -> Option<Notice> {
        self.replicas_by.filter(|by| now >= *by)?;
        self.replicas_by = None;
        let has_one = view.replicas.iter().any(|replica| replica.link == "up");
        (!has_one).then(|| notice("no_replica", "the last failover left no replica: nobody to fail over to".to_owned()))
    }
}

fn failover(report: FailoverView) -> Notice {
    let FailoverView { kind, from, to, phases, .. } = &report;
    let phases: Vec<String> = phases.iter().map(|(phase, duration)| format!("{phase} {duration:.0} ms")).collect();
    let text = format!("{kind} failover from {from} to {to} ({})", phases.join(", "));
    Notice { failover: Some(report), ..notice("failover", text) }
}

fn early_commit_wrong(view: &View) -> Notice {
    let at_risk = view.last_failover.as_ref().map_or(0, |last| last.writes_at_risk);
    let text = format!("an early commit was undone: at most {at_risk} acknowledged writes may be lost");
    Notice { failover: view.last_failover.clone(), ..notice("early_commit_wrong", text) }
}

fn notice(event: &'static str, text: String) -> Notice {
    Notice { event, text, failover: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::ReplicaView;

    fn events(notices: &[Notice]) -> Vec<&'static str> {
        notices.iter().map(|notice| notice.event).collect()
    }

    #[test]
    fn a_failover_is_reported_once_when_its_report_is_complete_and_replicas_are_missed_after_a_while() {
        let (start, mut watcher) = (Instant::now(), Watcher::default());
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut view = View { phase: "stable".into(), ..View::default() };
        view.counters.failovers_crash = 3;
        assert!(watcher.look(start, &view).is_empty(), "what was before is no news");
        view.counters.failovers_crash = 4;
        view.last_failover = Some(FailoverView { kind: "crash".into(), to: "b:1".into(), ..FailoverView::default() });
        assert!(watcher.look(at(1), &view).is_empty(), "its report is to come");
        let reported = watcher.look(at(6), &view);
        assert_eq!(events(&reported), ["failover"]);
        assert_eq!(reported[0].failover, view.last_failover);
        assert!(watcher.look(at(7), &view).is_empty());
        assert_eq!(events(&watcher.look(at(62), &view)), ["no_replica"]);
        assert!(watcher.look(at(200), &view).is_empty());
        view.counters.failovers_crash = 5;
        view.replicas = vec![ReplicaView { link: "up".into(), ..ReplicaView::default() }];
        watcher.look(at(300), &view);
        assert_eq!(events(&watcher.look(at(400), &view)), ["failover"], "there is a replica");
    }

    #[test]
    fn a_failover_that_the_next_one_overtakes_is_reported_too() {
        let (start, mut watcher) = (Instant::now(), Watcher::default());
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut view = View::default();
        watcher.look(start, &view);
        let to = |addr: &str| Some(FailoverView { to: addr.into(), ..FailoverView::default() });
        (view.counters.failovers_planned, view.last_failover) = (1, to("b:1"));
        assert!(watcher.look(at(1), &view).is_empty());
        (view.counters.failovers_planned, view.last_failover) = (2, to("c:1"));
        assert_eq!(watcher.look(at(2), &view)[0].failover, to("b:1"));
        assert!(watcher.look(at(5), &view).is_empty());
        assert_eq!(watcher.look(at(6), &view)[0].failover, to("c:1"));
    }

    #[test]
    fn a_state_is_said_when_it_begins_and_again_when_it_begins_again() {
        let (now, mut watcher) = (Instant::now(), Watcher::default());
        let view = |phase: &str, outage_ms| View { phase: phase.into(), outage_ms, ..View::default() };
        assert!(watcher.look(now, &view("suspect", Some(14_000))).is_empty());
        assert_eq!(events(&watcher.look(now, &view("suspect", Some(15_000)))), ["long_hold"]);
        assert!(watcher.look(now, &view("suspect", Some(16_000))).is_empty());
        assert_eq!(events(&watcher.look(now, &view("failing", Some(20_000)))), ["no_master"]);
        assert!(watcher.look(now, &view("failing", Some(21_000))).is_empty());
        assert!(watcher.look(now, &view("stable", None)).is_empty());
        assert_eq!(events(&watcher.look(now, &view("failing", Some(15_000)))), ["no_master"]);
        let held = View { since_ms: Some(15_000), ..view("paused", None) };
        assert_eq!(events(&watcher.look(now, &held)), ["long_hold"]);
    }

    #[test]
    fn a_wrong_early_commit_is_said_at_once() {
        let (now, mut watcher) = (Instant::now(), Watcher::default());
        let mut view = View::default();
        watcher.look(now, &view);
        view.counters.early_commits_wrong = 1;
        assert_eq!(events(&watcher.look(now, &view)), ["early_commit_wrong"]);
    }
}
