//! What people see of the decision: the view for the admin server, with its warnings. Nothing here decides.

use std::time::{Duration, Instant};

use super::{SentinelState, State, View};
use crate::config::HostPort;
use crate::sentinel::report::{Role, SentinelAnswer};
use crate::status::{self as shown, AbortView, Agreement, FailoverView, MasterView, ReplicaView, SentinelView};

/// For this long after a switch a Sentinel may name the old master: gossip takes a second or two.
const GOSSIP_FOR: Duration = Duration::from_secs(5);
/// A longer hold is warned about: queues run a job again after `retry_after`, and PHP's workers all wait.
const LONG_HOLD: Duration = Duration::from_secs(25);

/// `host:port` for people.
pub(super) fn name(at: &HostPort) -> String {
    crate::sentinel::client::show(at)
}

/// Whole milliseconds.
pub(super) fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl View {
    /// The state at `now`. The master's name, and what [`shown::View`] calls the admin server's, are others' to fill in.
    pub fn show(&self, now: Instant) -> shown::View {
        let age = |at: Instant| ms(now.saturating_duration_since(at));
        let claims = || self.last_answers().filter_map(|answer| answer.claim.as_ref());
        let agreeing = self.master.as_ref().map_or(0, |master| {
            let agree = |answer: &&SentinelAnswer| {
                answer.claim.as_ref().is_some_and(|claim| claim.addr == master.addr && claim.epoch >= master.epoch)
            };
            self.answers(now).filter(agree).count()
        });
        let quorum = claims().map(|claim| claim.quorum).max().unwrap_or_default();
        shown::View {
            phase: self.phase(now).name().into(),
            reason: self.reason.clone(),
            outage_ms: self.outage_since.map(age),
            term: self.term,
            master: self.master_view(),
            since_ms: Some(age(self.phase_since)),
            confirmed_ago_ms: self.master.is_some().then(|| age(self.life)),
            replicas: self.replica_views(),
            sentinels: self.sentinels.iter().map(|(at, sentinel)| sentinel_view(now, at, sentinel)).collect(),
            agreement: Agreement { agreeing, known: self.known_sentinels(), quorum: quorum as usize },
            down_after_ms: self.down_after().map(ms),
            failover_timeout_ms: claims().map(|claim| ms(claim.failover_timeout)).max(),
            hold_timeout_ms: Some(ms(self.hold_timeout())),
            credentials: self.credentials_state(),
            last_failover: (self.last_change.as_ref())
                .map(|last| FailoverView { ago_ms: age(last.at), ..last.shown.clone() }),
            last_abort: (self.last_abort.as_ref())
                .map(|(at, reason)| AbortView { reason: reason.clone(), ago_ms: age(*at) }),
            counters: self.counters.clone(),
            warnings: self.warnings(now),
            ..shown::View::default()
        }
    }

    fn master_view(&self) -> Option<MasterView> {
        let master = self.master.as_ref()?;
        let offset = match self.role(master.addr) {
            Some(Role::Master { offset, .. }) => Some(*offset),
            _ => None,
        };
        Some(MasterView {
            addr: master.addr.to_string(),
            run_id: master.run_id.clone(),
            epoch: master.epoch,
            provisional: master.provisional,
            offset,
        })
    }

    /// The replicas that the master itself names, then those that only Sentinels know.
    fn replica_views(&self) -> Vec<ReplicaView> {
        let Some(master) = self.master.as_ref().map(|master| master.addr) else { return Vec::new() };
        let lags = self.nodes.get(&master).and_then(|node| node.info.as_ref()).map(|info| &info.lags[..]);
        let mut found = Vec::new();
        if let Some(Role::Master { offset: end, replicas }) = self.role(master) {
            for (addr, offset) in replicas {
                let lag = lags.unwrap_or_default().iter().find(|(known, _)| known == addr);
                let view = ReplicaView {
                    addr: addr.to_string(),
                    offset: Some(*offset),
                    lag_bytes: Some(end.saturating_sub(*offset)),
                    lag_seconds: lag.map(|(_, seconds)| *seconds as f64),
                    link: "up".into(),
                };
                found.push((*addr, view));
            }
        }
        // Those that it lists by names, as its last INFO had them.
        if let Some(Role::Master { offset: end, .. }) = self.role(master) {
            let named = self.nodes.get(&master).and_then(|node| node.info.as_ref()).map(|info| &info.named[..]);
            for replica in named.unwrap_or_default() {
                let Some(addr) = replica.addr.filter(|addr| !found.iter().any(|(known, _)| known == addr)) else {
                    continue;
                };
                let view = ReplicaView {
                    addr: addr.to_string(),
                    offset: Some(replica.offset),
                    lag_bytes: Some(end.saturating_sub(replica.offset)),
                    lag_seconds: Some(replica.lag as f64),
                    link: "up".into(),
                };
                found.push((addr, view));
            }
        }
        // What a Sentinel knows of offsets is up to 10 s old.
        for fact in self.last_answers().filter_map(|answer| answer.replicas.as_ref()).flatten() {
            if fact.addr != master && !found.iter().any(|(known, _)| *known == fact.addr) {
                let up = fact.link_up && !fact.down && !matches!(self.role(master), Some(Role::Master { .. }));
                let link = if up { "up" } else { "down" };
                let view = ReplicaView {
                    addr: fact.addr.to_string(),
                    offset: Some(fact.offset),
                    link: link.into(),
                    ..ReplicaView::default()
                };
                found.push((fact.addr, view));
            }
        }
        found.into_iter().map(|(_, view)| view).collect()
    }

    /// The warning of a hold that is too long for some applications.
    pub(super) fn long_hold(&self) -> Option<String> {
        let limit = self.hold_timeout();
        (limit > LONG_HOLD).then(|| format!(
            "requests are held up to {} s in an outage: more than {} s can run queue jobs twice (retry_after minus timeout) and exhaust PHP workers; lower Sentinel's down-after-milliseconds or set hold_timeout",
            limit.as_secs(), LONG_HOLD.as_secs()
        ))
    }

    fn warnings(&self, now: Instant) -> Vec<String> {
        let mut warnings: Vec<String> = self.notices.iter().cloned().collect();
        warnings.extend(self.credential_warnings());
        if let Some((_, text)) = self.empty_restart.as_ref().filter(|(at, _)| now < *at + Duration::from_secs(3600)) {
            warnings.push(text.clone());
        }
        warnings.extend(self.sentinels.values().filter_map(|sentinel| sentinel.error.clone()));
        if let (Some(master), State::Following) = (&self.master, &self.state) {
            for (at, sentinel) in self.sentinels.iter().filter(|(_, sentinel)| sentinel.connected) {
                let Some(claim) = sentinel.answer.as_ref().and_then(|answer| answer.claim.as_ref()) else { continue };
                if sentinel.disagrees_since.is_some_and(|since| now > since + GOSSIP_FOR) {
                    warnings.push(format!(
                        "Sentinel {} names {} at epoch {}, but the master is {} at epoch {}: it is cut off from the others, or its table is old",
                        name(at), claim.addr, claim.epoch, master.addr, master.epoch
                    ));
                }
            }
        }
        warnings.extend(self.abandoned_warning(now));
        warnings.extend(self.long_hold());
        warnings.extend(self.rivals(now));
        warnings
    }
}

fn sentinel_view(now: Instant, at: &HostPort, sentinel: &SentinelState) -> SentinelView {
    let claim = sentinel.answer.as_ref().and_then(|answer| answer.claim.as_ref());
    let addr = name(at);
    // Its address stands beside it.
    let bare =
        |error: &String| error.replacen(&format!("Sentinel {addr}"), "", 1).trim_start_matches([':', ' ']).into();
    SentinelView {
        connected: sentinel.connected,
        answer_ago_ms: sentinel.answered.map(|answered| ms(now.saturating_duration_since(answered))),
        epoch: claim.map(|claim| claim.epoch),
        names: claim.map(|claim| claim.addr.to_string()),
        master_down: claim.is_some_and(|claim| claim.s_down || claim.o_down),
        tilt: sentinel.tilt,
        error: sentinel.error.as_ref().map(bare),
        addr,
    }
}
