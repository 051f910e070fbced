//! What one run leaves to the next: the master, its history, its nodes and its Sentinels.
//!
//! Written again whenever one of these changes, at most every two seconds; never read after the start.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{Output, State, Tracker};
use crate::sentinel::lineage::Lineage;
use crate::sentinel::memory::{KnownSentinel, Memory};

/// Between two writes that no change of master asks for.
const RECORD_EVERY: Duration = Duration::from_secs(2);

impl Tracker {
    /// What an earlier run has left in `file`, once the name is known.
    pub fn recall(&mut self, memory: Option<Memory>, file: String) {
        self.settings.floor = memory.as_ref().map(|memory| (memory.addr, memory.epoch));
        self.settings.candidate = memory.as_ref().and_then(|memory| memory.candidate);
        self.memory = memory.clone().map(|memory| (memory, file));
        if self.master.is_some() {
            return;
        }
        self.lineage = Lineage::default();
        self.family.clear();
        self.electable = memory.iter().flat_map(|memory| memory.replicas.clone()).collect();
        let Some(memory) = memory else { return };
        memory.history.iter().for_each(|replid| self.lineage.remember(replid));
        if !memory.history.is_empty() {
            let nodes = memory.family.iter().chain(&memory.replicas).chain([&memory.addr]);
            self.family = nodes.map(|addr| (*addr, self.started)).collect();
        }
        for (at, sentinel) in &mut self.sentinels {
            let known = memory.sentinels.iter().find(|known| known.addr == at.to_string());
            sentinel.run_id = sentinel.run_id.take().or(known.map(|known| known.run_id.clone()));
        }
    }

    /// What the next run should know; `None` before a master was verified.
    pub fn to_remember(&self, master_name: &str) -> Option<Memory> {
        let master = self.master.as_ref()?;
        let sentinels = self.sentinels.iter().filter(|(at, _)| self.electorate.has_voice(at));
        Some(Memory {
            name: master_name.to_owned(),
            addr: master.addr,
            epoch: master.epoch,
            candidate: None,
            run_id: master.run_id.clone(),
            history: self.lineage.known().map(str::to_owned).collect(),
            replicas: self.electable.iter().copied().filter(|addr| *addr != master.addr).collect(),
            family: self.family.keys().copied().collect(),
            sentinels: sentinels
                .filter_map(|(at, sentinel)| {
                    Some(KnownSentinel { addr: at.to_string(), run_id: sentinel.run_id.clone()? })
                })
                .collect(),
        })
    }

    /// Writes anew what has changed since the last time.
    pub(super) fn record_memory(&mut self, now: Instant) {
        let Some(master) = self.master.clone().filter(|master| !master.provisional) else { return };
        if !matches!(self.state, State::Following)
            || self.recorded.as_ref().is_some_and(|(_, at)| now < *at + RECORD_EVERY)
        {
            return;
        }
        let Some(memory) = self.to_remember("") else { return };
        let changed = self.recorded.as_ref().is_none_or(|(recorded, _)| *recorded != memory);
        self.recorded = Some((memory, now));
        if changed {
            self.outputs.push(Output::Remember(master));
        }
    }

    /// Every node that an earlier run followed, or that was a replica of its master.
    pub(super) fn remembered_nodes(&self) -> impl Iterator<Item = SocketAddr> {
        let memory = self.memory.iter().map(|(memory, _)| memory);
        memory.flat_map(|memory| [memory.addr].into_iter().chain(memory.replicas.clone()).chain(memory.family.clone()))
    }

    /// Its name, for people.
    pub(super) fn memory_file(&self) -> String {
        self.memory.as_ref().map_or_else(|| "an earlier run".into(), |(_, file)| file.clone())
    }

    /// The run ids of the Sentinels that an earlier run believed.
    pub(super) fn remembered_sentinels(&self) -> BTreeSet<String> {
        let memory = self.memory.iter().flat_map(|(memory, _)| &memory.sentinels);
        memory.map(|known| known.run_id.clone()).collect()
    }
}
