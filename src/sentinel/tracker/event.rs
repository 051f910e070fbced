//! What each event of a Sentinel is taken for.
//!
//! An event never decides who is master: it tells when to hold, and whom to ask.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{State, Tracker};
use crate::config::HostPort;
use crate::sentinel::event::Kind;

impl Tracker {
    pub(super) fn on_event(
        &mut self,
        now: Instant,
        from: HostPort,
        kind: Kind,
        of: Option<SocketAddr>,
        node: Option<SocketAddr>,
    ) {
        // At the start it is not known yet whose events count, and none leads anywhere.
        let counts = self.electorate.has_voice(&from) || matches!(self.state, State::Searching);
        if !counts && !matches!(kind, Kind::TiltOn | Kind::TiltOff) {
            return;
        }
        let current = self.master.as_ref().map(|master| master.addr);
        let ours = of.is_some() && of == current;
        let tilt = self.sentinels.get(&from).is_some_and(|sentinel| sentinel.tilt);
        self.unusual_until = self.unusual_until.max(now + Duration::from_secs(3));
        if matches!(self.state, State::Searching) && !tilt {
            self.hear(from.clone(), &kind, of, node);
        }
        let ends = matches!(kind, Kind::Aborted { .. } | Kind::Table | Kind::SwitchMaster | Kind::Ended);
        if ends && self.electing.as_ref().is_some_and(|electing| electing.leader == from) {
            self.electing = None;
        }
        match kind {
            Kind::TiltOn | Kind::TiltOff => {
                if let Some(sentinel) = self.sentinels.get_mut(&from) {
                    sentinel.tilt = kind == Kind::TiltOn;
                }
                let verb = if kind == Kind::TiltOn { "is in TILT: it watches but does not act" } else { "left TILT" };
                self.log(tracing::Level::WARN, format!("Sentinel {from} {verb}"));
            }
            Kind::Candidate | Kind::Promoted => {
                if let Some(candidate) = node
                    && ours
                    && !tilt
                    && node != current
                {
                    self.hold_for(now, candidate, Some(from));
                }
                self.ask_sentinels();
            }
            Kind::Aborted { .. } | Kind::Table => {
                if let (Kind::Aborted { reason }, true) = (kind, ours) {
                    let text = format!("Sentinel {from} gave a failover up: {reason}");
                    self.log(tracing::Level::WARN, text);
                    self.last_abort = Some((now, reason));
                }
                self.abort(now, &from, of);
                self.ask_sentinels();
            }
            Kind::MasterDown if ours => {
                self.called_down = true;
                self.ask_master();
            }
            Kind::MasterUp if ours => self.called_down = false,
            Kind::TryFailover if ours && !tilt => self.begin_election(now, from),
            Kind::SwitchMaster | Kind::ConfigUpdate | Kind::Peers | Kind::Ended => self.ask_sentinels(),
            Kind::MasterReboot if ours => self.ask_master(),
            Kind::MasterDown | Kind::MasterUp | Kind::MasterReboot | Kind::TryFailover | Kind::Unusual => {}
        }
    }
}
