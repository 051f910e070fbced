//! The master that sessions are sent to: which process it is, its replicas, and its last sign of life.
//!
//! A master is the process that was verified: the same control connection, or the same run id. Which node it is to be is
//! decided elsewhere; it becomes another one in [`Followed::commit`] alone.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::config::HostPort;
use crate::sentinel::lineage::Samples;
use crate::sentinel::report::{Info, NodeAnswer, Role};
use crate::topology::Master;

/// Our own wake-up is late by more than this: the master's silence is not counted for so long.
const LATE: Duration = Duration::from_millis(50);

/// The master, if there is one yet.
#[derive(Debug)]
pub(super) struct Followed {
    master: Option<Master>,
    term: u64,
    process: Process,
    replicas: BTreeSet<SocketAddr>,
    /// `replicas` is what this master itself has said, not what is left of the one before.
    listed: bool,
    /// The master's offsets.
    samples: Samples,
    /// The last sign of life.
    life: Instant,
    /// How long its last answer took; for people.
    answer_time: Option<Duration>,
    /// A Sentinel called it down and did not take it back.
    called_down: bool,
    early: Option<EarlyCommit>,
    inherited: Inherited,
}

/// The process, by which it differs from one that was restarted.
#[derive(Clone, Debug, Default)]
struct Process {
    run_id: Option<String>,
    connection: Option<u64>,
    /// The name of its history (`master_replid`).
    replid: Option<String>,
    keys: u64,
}

/// An early commit that is neither confirmed nor undone.
#[derive(Clone, Debug)]
pub(super) struct EarlyCommit {
    pub(super) since: Instant,
    pub(super) previous: Master,
    /// The Sentinel that runs the failover: nobody else knows of the promotion yet.
    pub(super) leader: Option<HostPort>,
    /// Replies that sessions had received before: those since then may be undone.
    pub(super) replies: u64,
}

/// What the master of this term has of the stream of the one before.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Inherited {
    /// See [`crate::topology::Entry::replicated_until`].
    pub(super) replicated_until: Option<Instant>,
    /// See [`crate::topology::Entry::diverged_from`].
    pub(super) diverged_from: Option<u64>,
}

impl Followed {
    pub(super) fn new(now: Instant) -> Followed {
        Followed {
            master: None,
            term: 0,
            process: Process::default(),
            replicas: BTreeSet::new(),
            listed: false,
            samples: Samples::default(),
            life: now,
            answer_time: None,
            called_down: false,
            early: None,
            inherited: Inherited::default(),
        }
    }

    pub(super) fn master(&self) -> Option<&Master> {
        self.master.as_ref()
    }

    pub(super) fn addr(&self) -> Option<SocketAddr> {
        self.master.as_ref().map(|master| master.addr)
    }

    pub(super) fn is_at(&self, addr: SocketAddr) -> bool {
        self.addr() == Some(addr)
    }

    pub(super) fn term(&self) -> u64 {
        self.term
    }

    pub(super) fn replicas(&self) -> impl Iterator<Item = SocketAddr> {
        self.replicas.iter().copied()
    }

    pub(super) fn has_replica(&self, addr: SocketAddr) -> bool {
        self.replicas.contains(&addr)
    }

    /// Its replicas are those that it has listed itself.
    pub(super) fn is_listed(&self) -> bool {
        self.listed
    }

    pub(super) fn samples(&self) -> &Samples {
        &self.samples
    }

    pub(super) fn life(&self) -> Instant {
        self.life
    }

    pub(super) fn answer_time(&self) -> Option<Duration> {
        self.answer_time
    }

    pub(super) fn is_called_down(&self) -> bool {
        self.called_down
    }

    /// An early commit that is not settled.
    pub(super) fn early(&self) -> Option<&EarlyCommit> {
        self.early.as_ref()
    }

    pub(super) fn is_early(&self) -> bool {
        self.early.is_some()
    }

    pub(super) fn inherited(&self) -> Inherited {
        self.inherited
    }

    pub(super) fn keys(&self) -> u64 {
        self.process.keys
    }

    pub(super) fn has_connection(&self) -> bool {
        self.process.connection.is_some()
    }

    /// Surely the process that was verified.
    pub(super) fn is_connection_of(&self, answer: &NodeAnswer) -> bool {
        self.process.connection == Some(answer.connection)
    }

    /// The process that was verified, by its connection or its run id.
    pub(super) fn is_process_of(&self, answer: &NodeAnswer) -> bool {
        let run_id = answer.info.as_ref().map(|info| &info.run_id);
        self.is_connection_of(answer) || (run_id.is_some() && run_id == self.process.run_id.as_ref())
    }

    /// A master that is made a replica and a master again begins a new history and keeps the one it had as a replica
    /// as its second (replication.c, `shiftReplicationId`). One that has had no replica for an hour begins a new one
    /// too, but without a second (`clearReplicationId2`): nothing happened to its data.
    pub(super) fn was_replica_since(&self, info: &Info) -> bool {
        self.process.replid.as_ref().is_some_and(|known| *known != info.replid) && info.replid2.is_some()
    }

    /// Takes the run id of the first readable answer after a start without credentials; true when this is it.
    pub(super) fn identify(&mut self, info: Option<&Info>) -> bool {
        let Some(info) = info.filter(|_| self.process.run_id.is_none()) else { return false };
        self.process.run_id = Some(info.run_id.clone());
        if let Some(master) = &mut self.master {
            master.run_id = Some(info.run_id.clone());
        }
        true
    }

    /// The same process answers on this connection now.
    pub(super) fn connect(&mut self, connection: u64) {
        self.process.connection = Some(connection);
    }

    pub(super) fn count_keys(&mut self, keys: u64) {
        self.process.keys = keys;
    }

    pub(super) fn live(&mut self, now: Instant) {
        self.life = now;
    }

    /// It answers what it was asked at `asked`.
    pub(super) fn answer(&mut self, now: Instant, asked: Instant) {
        self.live(now);
        self.answer_time = Some(now.saturating_duration_since(asked));
    }

    /// Our own late wake-ups are not its silence: what was late is added to its last sign of life.
    pub(super) fn forgive_lateness(&mut self, now: Instant, due: Instant) {
        if now > due + LATE {
            self.life = (self.life + (now - due)).min(now);
        }
    }

    pub(super) fn call_down(&mut self, is_down: bool) {
        self.called_down = is_down;
    }

    /// Adds an offset of it; returns the number of that sample.
    pub(super) fn sample(&mut self, asked: Instant, offset: u64) -> u64 {
        self.samples.add(asked, offset)
    }

    /// It lists its replicas.
    pub(super) fn list(&mut self, replicas: &[(SocketAddr, u64)]) {
        self.replace_replicas(replicas);
        self.listed = true;
    }

    pub(super) fn replace_replicas(&mut self, replicas: &[(SocketAddr, u64)]) {
        self.replicas = replicas.iter().map(|(addr, _)| *addr).collect();
    }

    /// The Sentinels name it at this epoch; returns the early commit that is confirmed by that.
    pub(super) fn confirm(&mut self, epoch: u64) -> Option<EarlyCommit> {
        if let Some(master) = &mut self.master {
            master.epoch = epoch;
            master.provisional = false;
        }
        self.early.take()
    }

    /// The next commit is an early one.
    pub(super) fn begin_early(&mut self, early: EarlyCommit) {
        self.early = Some(early);
    }

    /// The early commit that is undone by another commit.
    pub(super) fn undo_early(&mut self) -> Option<EarlyCommit> {
        self.early.take()
    }

    /// A new term: this process, which gave `answer` last.
    pub(super) fn commit(&mut self, now: Instant, master: Master, info: Option<&Info>, answer: Option<&NodeAnswer>) {
        self.replicas.extend(self.addr().filter(|old| *old != master.addr));
        self.replicas.remove(&master.addr);
        self.listed = false;
        self.term += 1;
        self.samples.clear();
        self.inherited = Inherited::default();
        self.process = Process {
            run_id: master.run_id.clone(),
            connection: answer.map(|answer| answer.connection),
            replid: info.map(|info| info.replid.clone()),
            keys: info.map_or(0, |info| info.keys),
        };
        if let Some(Role::Master { replicas, .. }) = answer.map(|answer| &answer.role)
            && !master.provisional
        {
            self.list(replicas);
        }
        self.master = Some(master);
        self.called_down = false;
        self.life = now;
        self.answer_time = None;
    }

    /// What the new master has of the old one's stream.
    pub(super) fn inherit(&mut self, inherited: Inherited) {
        self.inherited = inherited;
    }
}
