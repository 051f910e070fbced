//! What the service manager is to know of us ([`Notices`]): when we serve, and one line that people read.
//!
//! Sans-IO: it is asked with `now` and what is seen, and returns what is new. `manager` sends it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::topology::Phase;

/// A start without a master counts as one that serves: its clients are held until there is one, and to be started again
/// would help nobody.
const READY_WITHIN: Duration = Duration::from_secs(5);

/// What is seen at one moment.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) master: Option<SocketAddr>,
    pub(super) phase: Phase,
    pub(super) reason: String,
    pub(super) sessions: usize,
    pub(super) is_ending: bool,
}

/// What is new.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Notice {
    /// We serve: said once.
    pub(super) ready: bool,
    pub(super) status: Option<String>,
}

/// What was said, so that nothing is said twice.
#[derive(Debug)]
pub(super) struct Notices {
    began: Instant,
    ready: bool,
    status: String,
    /// Why the last reload changed nothing.
    not_reloaded: Option<String>,
}

impl Notices {
    /// Of a process that begins to accept clients now.
    pub(super) fn new(now: Instant) -> Notices {
        Notices { began: now, ready: false, status: String::new(), not_reloaded: None }
    }

    /// What is new at this moment.
    pub(super) fn look(&mut self, now: Instant, seen: &Seen) -> Notice {
        let ready = !self.ready && (seen.master.is_some() || now >= self.began + READY_WITHIN);
        self.ready |= ready;
        let status = self.line(seen);
        let status = (status != self.status).then(|| {
            self.status.clone_from(&status);
            status
        });
        Notice { ready, status }
    }

    /// What came of a reload.
    pub(super) fn reloaded(&mut self, outcome: Result<(), String>) {
        self.not_reloaded = outcome.err().map(|why| why.split_whitespace().collect::<Vec<_>>().join(" "));
    }

    fn line(&self, seen: &Seen) -> String {
        let sessions = match seen.sessions {
            1 => "1 session".to_owned(),
            many => format!("{many} sessions"),
        };
        if seen.is_ending {
            return format!("ending, {sessions} left");
        }
        let because = if seen.reason.is_empty() { String::new() } else { format!(" ({})", seen.reason) };
        let line = match (seen.phase, seen.master) {
            (Phase::Failing, _) => format!("refusing requests{because}, {sessions}"),
            (_, None) => format!("looking for the master, requests are held{because}, {sessions}"),
            (Phase::Stable | Phase::Electing, Some(master)) => format!("following {master}, {sessions}"),
            (Phase::Suspect | Phase::Switching | Phase::Paused, Some(_)) => {
                format!("holding requests{because}, {sessions}")
            }
        };
        match &self.not_reloaded {
            Some(why) => format!("{line}; the last reload changed nothing: {why}"),
            None => line,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(master: Option<&str>, phase: Phase) -> Seen {
        let master = master.map(|addr| addr.parse().unwrap());
        Seen { master, phase, reason: String::new(), sessions: 212, is_ending: false }
    }

    fn status(notices: &mut Notices, seen: &Seen) -> String {
        notices.look(Instant::now(), seen).status.unwrap()
    }

    #[test]
    fn it_is_ready_with_a_master_or_when_none_is_found_for_long() {
        let began = Instant::now();
        let nobody = seen(None, Phase::Suspect);
        let mut notices = Notices::new(began);
        assert!(!notices.look(began, &nobody).ready);
        assert!(notices.look(began, &seen(Some("10.0.0.11:6379"), Phase::Stable)).ready);
        assert!(!notices.look(began + READY_WITHIN, &nobody).ready, "once");
        let mut notices = Notices::new(began);
        assert!(!notices.look(began + READY_WITHIN - Duration::from_millis(1), &nobody).ready);
        assert!(notices.look(began + READY_WITHIN, &nobody).ready);
    }

    #[test]
    fn the_line_is_said_when_it_changes() {
        let mut notices = Notices::new(Instant::now());
        let following = seen(Some("10.0.0.11:6379"), Phase::Stable);
        assert_eq!(status(&mut notices, &following), "following 10.0.0.11:6379, 212 sessions");
        assert_eq!(notices.look(Instant::now(), &following).status, None);
        let one = Seen { sessions: 1, ..following.clone() };
        assert_eq!(status(&mut notices, &one), "following 10.0.0.11:6379, 1 session");
        let holding = Seen { phase: Phase::Switching, reason: "a failover".into(), ..following.clone() };
        assert_eq!(status(&mut notices, &holding), "holding requests (a failover), 212 sessions");
        let nobody = Seen { reason: "no Sentinel answers".into(), ..seen(None, Phase::Suspect) };
        let text = "looking for the master, requests are held (no Sentinel answers), 212 sessions";
        assert_eq!(status(&mut notices, &nobody), text);
        assert_eq!(status(&mut notices, &Seen { is_ending: true, ..following }), "ending, 212 sessions left");
    }

    #[test]
    fn a_reload_that_failed_is_shown_until_one_succeeds() {
        let mut notices = Notices::new(Instant::now());
        let following = seen(Some("10.0.0.11:6379"), Phase::Stable);
        notices.reloaded(Err("line 3:\n  unknown key".into()));
        let text = "following 10.0.0.11:6379, 212 sessions; the last reload changed nothing: line 3: unknown key";
        assert_eq!(status(&mut notices, &following), text);
        notices.reloaded(Ok(()));
        assert_eq!(status(&mut notices, &following), "following 10.0.0.11:6379, 212 sessions");
    }
}
