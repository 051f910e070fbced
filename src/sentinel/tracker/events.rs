//! What each event of a Sentinel is taken for.
//!
//! An event never decides who is master: it says when to hold, and whom to ask.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tracing::Level;

use super::Tracker;
use crate::config::HostPort;
use crate::sentinel::event::Kind;

/// Something goes on for as long as this after an event.
const UNUSUAL_FOR: Duration = Duration::from_secs(3);

impl Tracker {
    /// An event of the Sentinel `from`: `of` is whom it calls the master, `node` the node that it is about.
    pub(super) fn on_event(
        &mut self,
        now: Instant,
        from: HostPort,
        kind: Kind,
        of: Option<SocketAddr>,
        node: Option<SocketAddr>,
    ) {
        // At the start it is not known yet whose events count, and none leads anywhere.
        let counts = self.sentinels.electorate().has_voice(&from) || self.situation.is_searching();
        if let Kind::TiltOn | Kind::TiltOff = kind {
            self.attention.pay(now + UNUSUAL_FOR);
            return self.on_tilt(&from, kind == Kind::TiltOn);
        }
        if !counts {
            return;
        }
        self.attention.pay(now + UNUSUAL_FOR);
        let tilt = self.sentinels.get(&from).is_some_and(|sentinel| sentinel.tilt);
        if self.situation.is_searching() && !tilt {
            self.start.hear(&from, &kind, of, node);
        }
        if matches!(kind, Kind::Aborted { .. } | Kind::Table | Kind::SwitchMaster | Kind::Ended) {
            self.election.end_of(&from);
        }
        let ours = of.is_some_and(|of| self.followed.is_at(of));
        match kind {
            Kind::Candidate | Kind::Promoted => self.on_candidate(now, from, of, node.filter(|_| !tilt)),
            Kind::Aborted { reason } => self.on_abort(now, &from, of, Some(reason).filter(|_| ours)),
            Kind::Table => self.on_abort(now, &from, of, None),
            Kind::MasterDown | Kind::MasterUp if ours => self.on_master_down(kind == Kind::MasterDown),
            Kind::TryFailover if ours && !tilt => self.begin_election(now, from),
            Kind::SwitchMaster | Kind::ConfigUpdate | Kind::Peers | Kind::Ended => self.ask_sentinels(),
            Kind::MasterReboot if ours => self.ask_master(),
            _ => {}
        }
    }

    /// The Sentinel promotes `candidate` in place of the node `of`.
    fn on_candidate(&mut self, now: Instant, from: HostPort, of: Option<SocketAddr>, candidate: Option<SocketAddr>) {
        if let (Some(of), Some(candidate)) = (of, candidate) {
            match (self.followed.is_at(of), self.followed.is_at(candidate)) {
                (true, false) => self.hold_for(now, candidate, Some(from)),
                (false, false) => self.promotions.look_ahead(now, of, candidate, from),
                // Its promotion was seen before.
                (_, true) => {}
            }
        }
        self.ask_sentinels();
    }

    /// A failover was given up, for this reason if it was one of our master, or the Sentinel's table was rewritten.
    fn on_abort(&mut self, now: Instant, from: &HostPort, of: Option<SocketAddr>, reason: Option<String>) {
        if let Some(reason) = reason {
            self.out.log(Level::WARN, format!("Sentinel {from} gave a failover up: {reason}"));
            self.history.note_abort(now, reason);
        }
        self.promotions.give_up(from);
        self.abort(now, from, of);
        self.ask_sentinels();
    }

    fn on_tilt(&mut self, from: &HostPort, is_on: bool) {
        self.sentinels.set_tilt(from, is_on);
        let what = if is_on { "is in TILT: it watches but does not act" } else { "left TILT" };
        self.out.log(Level::WARN, format!("Sentinel {from} {what}"));
    }

    /// The Sentinel has marked our master down, or up again.
    fn on_master_down(&mut self, is_down: bool) {
        self.followed.call_down(is_down);
        if is_down {
            self.ask_master();
        }
    }
}
