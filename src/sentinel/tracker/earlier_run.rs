//! What one run leaves to the next: the master, its history, its nodes and its Sentinels.
//!
//! Written again whenever one of these changes, at most every two seconds; never read after the start.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{Output, Settings, Tracker};
use crate::sentinel::memory::{KnownSentinel, Memory};

/// Between two writes that no change of master asks for.
const WRITTEN_EVERY: Duration = Duration::from_secs(2);

/// What the last run has left, and what this one has written since.
#[derive(Debug)]
pub(super) struct EarlierRun {
    /// With the file in which it is.
    memory: Option<(Memory, String)>,
    /// Its last master and epoch: nothing below is believed.
    floor: Option<(SocketAddr, u64)>,
    /// The node to which it had committed early, while that is not settled.
    candidate: Option<SocketAddr>,
    written: Option<(Memory, Instant)>,
}

impl EarlierRun {
    pub(super) fn new(settings: &Settings) -> EarlierRun {
        EarlierRun { memory: None, floor: settings.floor, candidate: settings.candidate, written: None }
    }

    fn recall(&mut self, memory: Option<Memory>, file: String) {
        self.floor = memory.as_ref().map(|memory| (memory.addr, memory.epoch));
        self.candidate = memory.as_ref().and_then(|memory| memory.candidate);
        self.memory = memory.map(|memory| (memory, file));
    }

    pub(super) fn floor(&self) -> Option<(SocketAddr, u64)> {
        self.floor
    }

    pub(super) fn candidate(&self) -> Option<SocketAddr> {
        self.candidate
    }

    /// It had committed to this one, or to none that is still to be waited for.
    pub(super) fn wait_for(&mut self, candidate: Option<SocketAddr>) {
        self.candidate = candidate;
    }

    pub(super) fn memory(&self) -> Option<&Memory> {
        self.memory.as_ref().map(|(memory, _)| memory)
    }

    /// The same, where it says which data is ours.
    pub(super) fn history(&self) -> Option<&Memory> {
        self.memory().filter(|memory| !memory.history.is_empty())
    }

    /// Every node that it followed, or that was a replica of its master.
    pub(super) fn nodes(&self) -> impl Iterator<Item = SocketAddr> {
        let memory = self.memory().into_iter();
        memory.flat_map(|memory| [memory.addr].into_iter().chain(memory.replicas.clone()).chain(memory.family.clone()))
    }

    /// The name of its file, for people.
    pub(super) fn file(&self) -> String {
        self.memory.as_ref().map_or_else(|| "an earlier run".into(), |(_, file)| file.clone())
    }

    /// The run ids of the Sentinels that it believed.
    pub(super) fn sentinels(&self) -> BTreeSet<String> {
        let memory = self.memory().into_iter().flat_map(|memory| &memory.sentinels);
        memory.map(|known| known.run_id.clone()).collect()
    }

    fn is_due(&self, now: Instant) -> bool {
        self.written.as_ref().is_none_or(|(_, at)| now >= *at + WRITTEN_EVERY)
    }

    /// Takes it for written; true when it is not what was written last.
    fn write(&mut self, now: Instant, memory: Memory) -> bool {
        let is_news = self.written.as_ref().is_none_or(|(written, _)| *written != memory);
        self.written = Some((memory, now));
        is_news
    }
}

impl Tracker {
    /// What an earlier run has left in `file`, once the name is known.
    pub fn recall(&mut self, memory: Option<Memory>, file: String) {
        self.earlier.recall(memory, file);
        if self.followed.master().is_some() {
            return;
        }
        self.family.recall(self.earlier.memory(), self.start.at());
        if let Some(memory) = self.earlier.memory() {
            self.sentinels.recall(memory);
        }
    }

    /// What the next run should know; `None` before a master was verified.
    pub fn to_remember(&self, master_name: &str) -> Option<Memory> {
        let master = self.followed.master()?;
        let sentinels = self.sentinels.iter().filter(|(at, _)| self.sentinels.electorate().has_voice(at));
        Some(Memory {
            name: master_name.to_owned(),
            addr: master.addr,
            epoch: master.epoch,
            candidate: None,
            run_id: master.run_id.clone(),
            history: self.family.histories().map(str::to_owned).collect(),
            replicas: self.family.electable().filter(|addr| *addr != master.addr).collect(),
            family: self.family.members().collect(),
            sentinels: sentinels
                .filter_map(|(at, sentinel)| {
                    Some(KnownSentinel { addr: at.to_string(), run_id: sentinel.run_id.clone()? })
                })
                .collect(),
        })
    }

    /// Writes anew what has changed since the last time.
    pub(super) fn record_memory(&mut self, now: Instant) {
        let Some(master) = self.followed.master().filter(|master| !master.provisional).cloned() else { return };
        if !self.situation.is_following() || !self.earlier.is_due(now) {
            return;
        }
        if let Some(memory) = self.to_remember("")
            && self.earlier.write(now, memory)
        {
            self.out.push(Output::Remember(master));
        }
    }

    /// So that a restart before the epoch confirms it goes on with it.
    pub(super) fn remember_candidate(&mut self, candidate: Option<SocketAddr>) {
        self.out.extend(candidate.map(Output::RememberCandidate));
    }
}
