//! What goes wrong and when: a list of faults drawn from a seed, so that the same seed replays the same list.
//!
//! Everything random about a fault is drawn here, before anything runs; what happens at run time cannot change it.

use std::time::Duration;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `SENTINEL FAILOVER`.
    Planned,
    /// The same again as soon as the first is through; perhaps while the epoch has to be waited for.
    PlannedTwice,
    /// `SENTINEL FAILOVER`, and in the middle of it one of the two masters is killed.
    PlannedThenKill,
    /// `kill -9` of the master, perhaps with many replies on their way.
    Kill,
    /// `kill -9` of the master, and of its successor right after the promotion.
    KillTwice,
    /// SIGSTOP of the master for less than down-after.
    StopShort,
    /// SIGSTOP of the master until another has been promoted.
    StopLong,
    /// Killed and started again before any Sentinel calls it down; its data is on disk.
    RestartFast,
    /// The same, and its data is gone.
    RestartEmpty,
    /// The master is cut from the Sentinels, not from the proxy.
    MasterFromSentinels,
    /// The master is cut from Sentinels and replicas, not from the proxy.
    MasterFromAll,
    /// The proxy is cut from the master; the Sentinels see nothing.
    ProxyFromMaster,
    /// The proxy is cut from the Sentinels, perhaps with a planned failover meanwhile.
    ProxyFromSentinels,
    /// The kernel drops every packet that the master sends: no RST, no FIN.
    HalfOpen,
    /// Replies of the master arrive late.
    SlowReplies,
    /// A replica is killed and comes back.
    ReplicaLoss,
    /// A Sentinel is killed and comes back.
    SentinelKilled,
    /// A Sentinel is stopped during a planned failover.
    SentinelStopped,
    /// A Sentinel comes back with its configuration of before the failover, cut off from the others.
    SentinelLying,
    /// A Sentinel is cut off from everything but the proxy during a planned failover.
    SentinelIsolated,
    /// Every Sentinel is killed and started again, perhaps with a planned failover before the proxy hears them.
    SentinelsRestarted,
    /// The Sentinels' names cannot be resolved while one of them restarts and a planned failover happens.
    DnsFailure,
}

/// What a client may see of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tolerance {
    /// No error, no lost connection, no missing write.
    Nothing,
    /// A reply may be lost with its master; an acknowledged write may be missing if no replica had it.
    LostReplies,
    /// The data set itself is gone.
    Everything,
}

/// One fault with all that is random about it.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// What.
    pub kind: Kind,
    /// Which one of several: a Sentinel, a replica.
    pub which: usize,
    /// With the variant that the kind describes as "perhaps".
    pub twist: bool,
    /// Calm before it.
    pub calm: Duration,
    /// How far into something, 0 to 1.
    pub depth: f64,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 22] = [
        Kind::Planned,
        Kind::Kill,
        Kind::StopLong,
        Kind::HalfOpen,
        Kind::SentinelLying,
        Kind::ProxyFromSentinels,
        Kind::PlannedTwice,
        Kind::PlannedThenKill,
        Kind::KillTwice,
        Kind::StopShort,
        Kind::RestartFast,
        Kind::RestartEmpty,
        Kind::MasterFromSentinels,
        Kind::MasterFromAll,
        Kind::ProxyFromMaster,
        Kind::SlowReplies,
        Kind::ReplicaLoss,
        Kind::SentinelKilled,
        Kind::SentinelStopped,
        Kind::SentinelIsolated,
        Kind::SentinelsRestarted,
        Kind::DnsFailure,
    ];

    /// The short run's: different in nature, and quick.
    pub const SHORT: [Kind; 6] =
        [Kind::Planned, Kind::Kill, Kind::SentinelLying, Kind::HalfOpen, Kind::StopLong, Kind::ProxyFromMaster];

    /// The name in the table and for `CHAOS_KINDS`.
    pub fn name(self) -> String {
        let mut name = String::new();
        for letter in format!("{self:?}").chars() {
            if letter.is_uppercase() && !name.is_empty() {
                name.push('-');
            }
            name.push(letter.to_ascii_lowercase());
        }
        name
    }

    /// Whether it needs a network namespace of its own.
    pub fn needs_namespace(self) -> bool {
        matches!(self, Kind::HalfOpen | Kind::DnsFailure)
    }
}

impl Fault {
    /// What a client may see of it.
    pub fn tolerance(&self) -> Tolerance {
        match self.kind {
            // Nobody tells this proxy of the failover: it sees it in what the master says, at its next heartbeat.
            Kind::ProxyFromSentinels | Kind::SentinelsRestarted if self.twist => Tolerance::LostReplies,
            Kind::RestartEmpty => Tolerance::Everything,
            Kind::PlannedThenKill
            | Kind::Kill
            | Kind::KillTwice
            | Kind::StopLong
            | Kind::RestartFast
            | Kind::MasterFromSentinels
            | Kind::MasterFromAll
            | Kind::HalfOpen => Tolerance::LostReplies,
            _ => Tolerance::Nothing,
        }
    }
}

/// Draws `count` faults of `kinds`. Every kind comes once, in random order, before any comes again.
pub fn draw(seed: u64, count: usize, kinds: &[Kind]) -> Vec<Fault> {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut bag: Vec<Kind> = Vec::new();
    let mut faults = Vec::new();
    while faults.len() < count && !kinds.is_empty() {
        if bag.is_empty() {
            bag = kinds.to_vec();
        }
        let kind = bag.swap_remove(random.below(bag.len()));
        faults.push(Fault {
            kind,
            which: random.below(60),
            twist: random.below(2) == 0,
            calm: Duration::from_millis(200 + random.below(800) as u64),
            depth: random.below(1000) as f64 / 1000.0,
        });
    }
    faults
}

/// A small generator (xorshift*): the same numbers everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end
    }
}
