//! What people see of the decision: the snapshot and its warnings. Nothing here decides.

use std::time::{Duration, Instant};

use super::{State, View};
use crate::config::HostPort;
use crate::sentinel::report::Role;
use crate::sentinel::snapshot::{
    CredentialsState, MasterStatus, Ready, ReadyState, ReplicaStatus, SentinelStatus, Snapshot,
};
use crate::sentinel::word::Word;
use crate::topology::Phase;

/// `host:port` for people.
pub(super) fn name(at: &HostPort) -> String {
    crate::sentinel::client::show(at)
}

/// Whole milliseconds.
pub(super) fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl View {
    /// The state at `now`. The master's name is the caller's to fill in.
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        let phase = self.phase(now);
        let known = self.known_sentinels();
        let agreeing = match (&self.master, self.word(now)) {
            (Some(master), Word::Named(named)) if named.addr == master.addr => named.support,
            _ => 0,
        };
        let claims = || self.sentinels.values().filter_map(|sentinel| sentinel.answer.as_ref()?.claim.as_ref());
        let warnings = self.warnings(now);
        let confirmed = self.master.is_some().then(|| ms(now.saturating_duration_since(self.life)));
        let state = match phase {
            Phase::Stable if warnings.is_empty() => ReadyState::Ok,
            Phase::Stable => ReadyState::Degraded,
            Phase::Failing => ReadyState::Down,
            _ if self.master.is_none() => ReadyState::Down,
            _ => ReadyState::Failover,
        };
        Snapshot {
            master_name: None,
            phase: phase.name(),
            phase_for_ms: ms(now.saturating_duration_since(self.phase_since)),
            reason: self.reason.clone(),
            term: self.term,
            master: self.master_status(now),
            replicas: self.replica_status(),
            sentinels: self.sentinel_status(now),
            agreeing,
            known,
            quorum: claims().map(|claim| claim.quorum).max().unwrap_or_default(),
            down_after_ms: self.down_after().map(ms).unwrap_or_default(),
            failover_timeout_ms: claims().map(|claim| ms(claim.failover_timeout)).max().unwrap_or_default(),
            hold_timeout_ms: ms(self.hold_timeout()),
            credentials: self.credentials,
            warnings,
            counters: self.counters.clone(),
            ready: Ready { state, confirmed_ms_ago: confirmed },
        }
    }

    fn offset(&self) -> Option<u64> {
        let master = self.master.as_ref()?;
        match &self.nodes.get(&master.addr)?.answer.as_ref()?.role {
            Role::Master { offset, .. } => Some(*offset),
            _ => None,
        }
    }

    fn master_status(&self, now: Instant) -> Option<MasterStatus> {
        let master = self.master.as_ref()?;
        Some(MasterStatus {
            addr: master.addr,
            run_id: master.run_id.clone(),
            epoch: master.epoch,
            provisional: master.provisional,
            offset: self.offset(),
            silent_ms: ms(now.saturating_duration_since(self.life)),
        })
    }

    fn replica_status(&self) -> Vec<ReplicaStatus> {
        let master = self.offset();
        let info = self.master.as_ref().and_then(|master| self.nodes.get(&master.addr)?.info.as_ref());
        let mut found: Vec<ReplicaStatus> = self
            .replicas
            .iter()
            .map(|(addr, offset)| ReplicaStatus {
                addr: *addr,
                offset: Some(*offset),
                behind: master.map(|master| master.saturating_sub(*offset)),
                link_up: true,
                lag_s: info.and_then(|info| info.lags.iter().find(|(known, _)| known == addr)).map(|(_, lag)| *lag),
            })
            .collect();
        let facts =
            self.sentinels.values().filter_map(|sentinel| sentinel.answer.as_ref()?.replicas.as_ref()).flatten();
        for fact in facts {
            if !found.iter().any(|known| known.addr == fact.addr) {
                found.push(ReplicaStatus {
                    addr: fact.addr,
                    offset: Some(fact.offset),
                    behind: master.map(|master| master.saturating_sub(fact.offset)),
                    link_up: fact.link_up && !fact.down,
                    lag_s: None,
                });
            }
        }
        found
    }

    fn sentinel_status(&self, now: Instant) -> Vec<SentinelStatus> {
        let one = |(at, sentinel): (&HostPort, &super::SentinelState)| SentinelStatus {
            addr: name(at),
            connected: sentinel.connected,
            answer_age_ms: sentinel.answered.map(|answered| ms(now.saturating_duration_since(answered))),
            epoch: sentinel.answer.as_ref().and_then(|answer| Some(answer.claim.as_ref()?.epoch)),
            names: sentinel.answer.as_ref().and_then(|answer| Some(answer.claim.as_ref()?.addr)),
            tilt: sentinel.tilt,
            error: sentinel.error.clone(),
        };
        self.sentinels.iter().map(one).collect()
    }

    fn warnings(&self, now: Instant) -> Vec<String> {
        let mut warnings: Vec<String> = self.notices.iter().cloned().collect();
        if let Some(words) = &self.unreadable {
            warnings.push(match self.credentials {
                CredentialsState::Configured | CredentialsState::Refused => format!(
                    "Redis refuses our credentials ({words}): set redis_password (and redis_username) to what the nodes expect. Until then a failover takes about a second longer"
                ),
                _ => format!(
                    "Redis wants a password and none is set ({words}): set SWITCHMASTER_REDIS_PASSWORD. Until then a failover takes about a second longer and the master is not verified"
                ),
            });
        }
        if let Some((_, text)) = self.empty_restart.as_ref().filter(|(at, _)| now < *at + Duration::from_secs(3600)) {
            warnings.push(text.clone());
        }
        for (at, sentinel) in &self.sentinels {
            if !sentinel.connected && sentinel.lost_since.is_some() {
                let why = sentinel.error.as_deref().unwrap_or("not connected");
                warnings.push(format!("Sentinel {} is not reachable: {why}", name(at)));
            } else if let Some(error) = &sentinel.error {
                warnings.push(error.clone());
            }
        }
        if let Some(master) = &self.master {
            for (at, sentinel) in self.sentinels.iter().filter(|(_, sentinel)| sentinel.connected) {
                let Some(claim) = sentinel.answer.as_ref().and_then(|answer| answer.claim.as_ref()) else { continue };
                if claim.addr != master.addr && !master.provisional && matches!(self.state, State::Following) {
                    warnings.push(format!(
                        "Sentinel {} names {} at epoch {}, but the master is {} at epoch {}: it is cut off from the others, or its table is old",
                        name(at), claim.addr, claim.epoch, master.addr, master.epoch
                    ));
                }
            }
        }
        if self.hold_timeout() > Duration::from_secs(25) {
            warnings.push(format!(
                "requests are held up to {} s in an outage: more than 25 s can run queue jobs twice (retry_after minus timeout) and exhaust PHP workers; lower Sentinel's down-after-milliseconds or set hold_timeout",
                self.hold_timeout().as_secs()
            ));
        }
        warnings
    }
}
