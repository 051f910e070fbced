//! Whom the Sentinels name, taken together.
//!
//! A pure count: `config-epoch` is the version, an equal epoch is settled by the majority of all Sentinels that are
//! believed (`electorate`), not of those that answered. Whether to follow it is decided by `tracker`.

use std::net::SocketAddr;
use std::time::Instant;

use crate::sentinel::report::SentinelAnswer;

/// What the Sentinels say.
#[derive(Clone, Debug, PartialEq)]
pub enum Consensus {
    /// No Sentinel names a master.
    None,
    /// The one address at the highest epoch, or the one with a majority there.
    Agreed(Named),
    /// Several addresses at the highest epoch and no majority for one.
    Conflicting {
        /// The epoch they share.
        epoch: u64,
        /// The addresses, sorted.
        addrs: Vec<SocketAddr>,
    },
}

/// A master as the Sentinels name it.
#[derive(Clone, Debug, PartialEq)]
pub struct Named {
    /// Where.
    pub addr: SocketAddr,
    /// Its config-epoch.
    pub epoch: u64,
    /// Sentinels that name it at this epoch.
    pub support: usize,
    /// More than half of all Sentinels do.
    pub majority: bool,
    /// One of them has reached the quorum and the majority itself (CKQUORUM).
    pub quorum_ok: bool,
    /// A run id one of them gives.
    pub run_id: Option<String>,
    /// One of them has marked it down (s_down), or cannot reach it.
    pub down: bool,
    /// One of them is replacing it.
    pub failover: bool,
    /// When the oldest question among these answers was sent.
    pub asked: Instant,
}

impl Named {
    /// A majority names the master at `addr`, at this epoch or a higher one.
    pub fn confirms(&self, addr: SocketAddr, epoch: u64) -> bool {
        self.addr == addr && self.epoch >= epoch && self.majority
    }
}

/// Weighs the answers of `known` Sentinels.
pub fn weigh<'a>(answers: impl Iterator<Item = &'a SentinelAnswer> + Clone, known: usize) -> Consensus {
    let Some(epoch) = answers.clone().filter_map(|answer| answer.claim.as_ref()).map(|claim| claim.epoch).max() else {
        return Consensus::None;
    };
    let mut named =
        candidates(answers.filter(|answer| answer.claim.as_ref().is_some_and(|claim| claim.epoch == epoch)), known);
    if named.len() == 1 {
        return named.pop().map_or(Consensus::None, Consensus::Agreed);
    }
    match named.iter().position(|named| named.majority) {
        Some(index) => Consensus::Agreed(named.swap_remove(index)),
        None => {
            let mut addrs: Vec<_> = named.into_iter().map(|named| named.addr).collect();
            addrs.sort();
            Consensus::Conflicting { epoch, addrs }
        }
    }
}

/// The (address, epoch) that a majority of `known` Sentinels names, whatever the highest epoch is.
pub fn majority<'a>(answers: impl Iterator<Item = &'a SentinelAnswer>, known: usize) -> Option<Named> {
    candidates(answers, known).into_iter().find(|named| named.majority)
}

fn candidates<'a>(answers: impl Iterator<Item = &'a SentinelAnswer>, known: usize) -> Vec<Named> {
    let mut found: Vec<Named> = Vec::new();
    for answer in answers {
        let Some(claim) = &answer.claim else { continue };
        let down = claim.s_down || claim.o_down || claim.disconnected;
        match found.iter_mut().find(|named| named.addr == claim.addr && named.epoch == claim.epoch) {
            Some(named) => {
                named.support += 1;
                named.quorum_ok |= answer.quorum == Some(Ok(()));
                named.down |= down;
                named.failover |= claim.failover;
                named.asked = named.asked.min(answer.asked);
                if named.run_id.is_none() {
                    named.run_id.clone_from(&claim.run_id);
                }
            }
            None => found.push(Named {
                addr: claim.addr,
                epoch: claim.epoch,
                support: 1,
                majority: false,
                quorum_ok: answer.quorum == Some(Ok(())),
                run_id: claim.run_id.clone(),
                down,
                failover: claim.failover,
                asked: answer.asked,
            }),
        }
    }
    for named in &mut found {
        named.majority = named.support * 2 > known;
    }
    found
}
