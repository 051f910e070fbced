//! What people see of the decision: the view for the admin server, with its warnings. Nothing here decides.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::Tracker;
use super::sentinels::SentinelState;
use crate::config::HostPort;
use crate::sentinel::report::{Info, Role, SentinelAnswer};
use crate::status::{self as shown, Agreement, MasterView, ReplicaView, SentinelView};

/// For this long after a switch a Sentinel may name the old master: gossip takes a second or two.
const GOSSIP_FOR: Duration = Duration::from_secs(5);
/// A longer hold is warned about: queues run a job again after `retry_after`, and PHP's workers all wait.
const LONG_HOLD: Duration = Duration::from_secs(25);

/// Whole milliseconds.
pub(super) fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Tracker {
    /// The state at `now`. The master's name, and what [`shown::View`] calls the admin server's, are others' to fill in.
    pub fn show(&self, now: Instant) -> shown::View {
        let age = |at: Instant| ms(now.saturating_duration_since(at));
        let claims = || self.sentinels.last_answers().filter_map(|answer| answer.claim.as_ref());
        let quorum = claims().map(|claim| claim.quorum).max().unwrap_or_default();
        let agreement =
            Agreement { agreeing: self.agreeing(now), known: self.sentinels.total(), quorum: quorum as usize };
        shown::View {
            phase: self.phase(now).name().into(),
            reason: self.situation.reason().to_owned(),
            outage_ms: self.situation.outage_since().map(age),
            term: self.followed.term(),
            master: self.master_view(),
            since_ms: Some(age(self.publisher.phase_since())),
            confirmed_ago_ms: self.followed.master().map(|_| age(self.followed.life())),
            answer_ms: self.followed.answer_time().map(|time| time.as_secs_f64() * 1000.0),
            replicas: self.replica_views(),
            sentinels: self.sentinels.iter().map(|(at, sentinel)| sentinel_view(now, at, sentinel)).collect(),
            agreement,
            down_after_ms: self.sentinels.down_after().map(ms),
            failover_timeout_ms: claims().map(|claim| ms(claim.failover_timeout)).max(),
            hold_timeout_ms: Some(ms(self.hold_timeout())),
            credentials: self.credentials_state(),
            last_failover: self.history.last_failover(age),
            last_abort: self.history.last_abort(age),
            counters: self.history.counters().clone(),
            warnings: self.warnings(now),
            ..shown::View::default()
        }
    }

    /// How many Sentinels name our master.
    fn agreeing(&self, now: Instant) -> usize {
        let Some(master) = self.followed.master() else { return 0 };
        let agrees = |answer: &&SentinelAnswer| {
            answer.claim.as_ref().is_some_and(|claim| claim.addr == master.addr && claim.epoch >= master.epoch)
        };
        self.sentinels.answers(now).filter(agrees).count()
    }

    fn master_view(&self) -> Option<MasterView> {
        let master = self.followed.master()?;
        let offset = match self.nodes.role(master.addr) {
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
        let Some(master) = self.followed.addr() else { return Vec::new() };
        let mut found = match self.nodes.role(master) {
            Some(Role::Master { offset, replicas }) => listed_replicas(*offset, replicas, self.nodes.info(master)),
            _ => Vec::new(),
        };
        let says_master = matches!(self.nodes.role(master), Some(Role::Master { .. }));
        // What a Sentinel knows of offsets is up to 10 s old.
        for fact in self.sentinels.last_answers().filter_map(|answer| answer.replicas.as_ref()).flatten() {
            if fact.addr != master && !found.iter().any(|(known, _)| *known == fact.addr) {
                let link = if fact.link_up && !fact.down && !says_master { "up" } else { "down" };
                let (addr, offset, link) = (fact.addr.to_string(), Some(fact.offset), link.into());
                found.push((fact.addr, ReplicaView { addr, offset, link, ..ReplicaView::default() }));
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
        let mut warnings: Vec<String> = self.out.notices().cloned().collect();
        warnings.extend(self.credential_warnings());
        warnings.extend(self.restarts.warning(now));
        warnings.extend(self.sentinels.states().filter_map(|sentinel| sentinel.error.clone()));
        warnings.extend(self.disagreements(now));
        warnings.extend(self.abandoned.warning(now));
        warnings.extend(self.long_hold());
        warnings.extend(self.rivals(now));
        warnings
    }

    /// The Sentinels that name another master than the one that is followed, and do so for too long.
    fn disagreements(&self, now: Instant) -> impl Iterator<Item = String> {
        let master = self.followed.master().filter(|_| self.situation.is_following());
        let lasts = move |sentinel: &SentinelState| {
            sentinel.connected && sentinel.disagrees_since.is_some_and(|since| now > since + GOSSIP_FOR)
        };
        self.sentinels.iter().filter(move |(_, sentinel)| lasts(sentinel)).filter_map(move |(at, sentinel)| {
            let (master, claim) = (master?, sentinel.answer.as_ref()?.claim.as_ref()?);
            Some(format!(
                "Sentinel {at} names {} at epoch {}, but the master is {} at epoch {}: it is cut off from the others, or its table is old",
                claim.addr, claim.epoch, master.addr, master.epoch
            ))
        })
    }
}

/// The replicas of a master at offset `end`: those of its ROLE, then those that it lists by names, as its last INFO had them.
fn listed_replicas(end: u64, replicas: &[(SocketAddr, u64)], info: Option<&Info>) -> Vec<(SocketAddr, ReplicaView)> {
    let view = |addr: SocketAddr, offset: u64, lag: Option<u64>| ReplicaView {
        addr: addr.to_string(),
        offset: Some(offset),
        lag_bytes: Some(end.saturating_sub(offset)),
        lag_seconds: lag.map(|seconds| seconds as f64),
        link: "up".into(),
    };
    let lags = info.map(|info| &info.lags[..]).unwrap_or_default();
    let lag = |addr: &SocketAddr| lags.iter().find(|(known, _)| known == addr).map(|(_, seconds)| *seconds);
    let mut found: Vec<_> = replicas.iter().map(|(addr, offset)| (*addr, view(*addr, *offset, lag(addr)))).collect();
    for named in info.map(|info| &info.named[..]).unwrap_or_default() {
        if let Some(addr) = named.addr.filter(|addr| !found.iter().any(|(known, _)| known == addr)) {
            found.push((addr, view(addr, named.offset, Some(named.lag))));
        }
    }
    found
}

fn sentinel_view(now: Instant, at: &HostPort, sentinel: &SentinelState) -> SentinelView {
    let claim = sentinel.answer.as_ref().and_then(|answer| answer.claim.as_ref());
    let addr = at.to_string();
    // Its address is shown beside it.
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
