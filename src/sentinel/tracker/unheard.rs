//! A start while no Sentinel can say who the master is: that of an earlier run is followed, where that is proven.
//!
//! Proven is what every replica that it had confirms by streaming from it; where they do not say, `minority` decides. Never
//! followed where one of them is a master itself or follows another.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tracing::Level;

use super::Tracker;
use super::evidence::Verdict;
use super::sentinels::OTHERS_WITHIN;
use crate::config::Minority;
use crate::sentinel::lineage::Kinship;
use crate::sentinel::memory::Memory;
use crate::sentinel::report::{Info, Role, SentinelAnswer};

/// For the remembered nodes to answer when no Sentinel does.
const REMEMBERED_WITHIN: Duration = Duration::from_secs(2);

impl Tracker {
    /// Follows the master of an earlier run, where it may.
    pub(super) fn start_without_sentinels(&mut self, now: Instant) {
        let Some(memory) = self.earlier.history().cloned() else { return };
        let names_other =
            |answer: &SentinelAnswer| answer.claim.as_ref().is_some_and(|claim| claim.addr != memory.addr);
        let other = self.sentinels.all_answers(now).any(|(_, answer)| names_other(answer));
        if !self.sentinels.settled(now) || other {
            return;
        }
        let info = match self.remembered_master(&memory) {
            Ok(info) => info,
            Err(why) => return self.situation.explain_further(&why),
        };
        if let Some(node) = memory.replicas.iter().find(|node| self.is_elsewhere(**node, memory.addr)) {
            let (addr, file) = (memory.addr, self.earlier.file());
            let why = format!(
                "no Sentinel answers, and of the nodes in {file} both {addr} and {node} may be the master: start the Sentinels"
            );
            self.out.log_once(Level::ERROR, why.clone());
            return self.situation.explain(why);
        }
        self.follow_remembered(now, &memory, &info);
    }

    /// The remembered master answers as the one that it was; if not, what is to be added to the reason.
    fn remembered_master(&self, memory: &Memory) -> Result<Info, String> {
        let (addr, file) = (memory.addr, self.earlier.file());
        match self.verdict(addr, self.start.at(), None) {
            Verdict::Master(Some(info), Kinship::Heir | Kinship::Kin) => Ok(info),
            Verdict::Master(..) => Err(format!("; {addr}, the master of {file}, has another history than then")),
            Verdict::Unreadable => Err(format!("; {addr}, the master of {file}, does not let us ask")),
            Verdict::No(why) => Err(format!("; of the master of {file}: {why}")),
        }
    }

    fn follow_remembered(&mut self, now: Instant, memory: &Memory, info: &Info) {
        let (addr, file, total) = (memory.addr, self.earlier.file(), memory.replicas.len());
        let streaming = memory.replicas.iter().filter(|node| self.streams_from(**node, addr, info)).count();
        let proven = total > 0 && streaming == total;
        let silent = self.sentinels.all_answers(now).next().is_none();
        let waited =
            || self.sentinels.all_tried().is_some_and(|tried| now >= tried + OTHERS_WITHIN + REMEMBERED_WITHIN);
        let decided = proven || (silent && waited());
        if !decided {
            return;
        }
        if !proven && self.settings.minority == Minority::Stop {
            return self.situation.explain(format!(
                "no Sentinel answers, and only {streaming} of the {total} replicas of {addr}, the master of {file}, stream from it (minority = \"stop\")"
            ));
        }
        let (level, risk) = match proven {
            true => (Level::WARN, ""),
            false => (Level::ERROR, ". Another may have been promoted, and writes here may be lost"),
        };
        let text = format!(
            "following {addr} of {file} (epoch {}) although no Sentinel says that it is still the master: {streaming} of its {total} replicas stream from it{risk}",
            memory.epoch
        );
        self.out.log(level, text);
        self.commit(now, addr, memory.epoch, Some(info), false);
        self.note_family(now);
    }

    /// It says that it is a replica of `master`, whose history is `info`'s, and is linked to it.
    fn streams_from(&self, node: SocketAddr, master: SocketAddr, info: &Info) -> bool {
        match self.nodes.role(node) {
            Some(Role::Replica { master: Some(of), link_up, .. }) => *of == master && *link_up,
            Some(Role::Replica { master: None, link_up, .. }) => {
                *link_up && self.nodes.info(node).is_some_and(|own| own.replid == info.replid)
            }
            _ => false,
        }
    }

    /// It is a master, or a replica of another one than `master`.
    fn is_elsewhere(&self, node: SocketAddr, master: SocketAddr) -> bool {
        match self.nodes.role(node) {
            Some(Role::Master { .. }) => true,
            Some(Role::Replica { master: Some(of), .. }) => *of != master,
            _ => false,
        }
    }
}
