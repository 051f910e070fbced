//! What a session does at the moment, and with it what it waits for.
//!
//! Flowing ⇄ Electing ⇄ Holding ⇄ Failing follow the topology. A new term leads through the move: at once, or behind
//! Finishing. Tunnel and Closing are left by the end of the session alone. A backend that is being made is the link's
//! matter, not the phase's: it is made in Flowing and Electing.

use std::time::Instant;

use crate::session::CloseReason;
use crate::topology::{Entry, Phase as Topological};

use super::turn::Turn;

/// What a session does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Requests are noted in the ledger and sent on; replies settle them.
    Flowing,
    /// The same, and replies to writes wait until every replica that may become the master has the write.
    Electing,
    /// No request is begun; outstanding ones finish, and replies to writes are withheld if the next master may lack them.
    Holding { withhold: bool },
    /// A living master is left: first the rest of a message that it has begun. It is listened to and sent nothing.
    Finishing(Box<Finish>),
    /// No master, and the deadline has passed: requests are answered with an error.
    Failing,
    /// Bytes pass untouched while `open`, and the session ends at a failover: replication, what is not RESP, a mode that
    /// cannot be followed.
    Tunnel { open: bool },
    /// What is ready for the client is delivered; then the session ends.
    Closing(CloseReason),
}

/// The wait for the rest of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Finish {
    /// When it is looked at again.
    pub(super) due: Instant,
    /// Some of the rest has come since the last look.
    pub(super) moved: bool,
}

impl Phase {
    /// What the topology's phase means for this session.
    pub(super) fn of(entry: &Entry, turn: &Turn<'_>) -> Phase {
        let outage = entry.outage_since.map(|since| turn.now.saturating_duration_since(since));
        let phase = match entry.phase {
            Topological::Suspect | Topological::Switching
                if turn.settings.hold_timeout.is_some_and(|limit| outage > Some(limit)) =>
            {
                Phase::Failing
            }
            Topological::Failing => Phase::Failing,
            Topological::Stable if entry.master.is_some() => Phase::Flowing,
            Topological::Electing => Phase::Electing,
            Topological::Switching => Phase::Holding { withhold: true },
            Topological::Stable | Topological::Suspect | Topological::Paused => Phase::Holding { withhold: false },
        };
        match phase {
            // Nobody knows whether the master is still one.
            Phase::Failing => phase,
            _ if turn.sight.is_unwatched() => Phase::Holding { withhold: true },
            _ => phase,
        }
    }

    /// Requests may be begun.
    #[inline]
    pub(super) fn is_open(&self) -> bool {
        matches!(self, Phase::Flowing | Phase::Electing | Phase::Tunnel { open: true })
    }

    /// Replies to writes may be of what the next master lacks.
    #[inline]
    pub(super) fn withholds(&self) -> bool {
        matches!(self, Phase::Electing | Phase::Holding { withhold: true } | Phase::Finishing(_))
    }

    #[inline]
    pub(super) fn is_tunnel(&self) -> bool {
        matches!(self, Phase::Tunnel { .. })
    }

    pub(super) fn is_finishing(&self) -> bool {
        matches!(self, Phase::Finishing(_))
    }

    pub(super) fn closing(&self) -> Option<CloseReason> {
        if let Phase::Closing(reason) = self { Some(*reason) } else { None }
    }

    /// The session ends behind what is ready for the client. The first reason counts.
    pub(super) fn close(&mut self, reason: CloseReason) {
        if self.closing().is_none() {
            *self = Phase::Closing(reason);
        }
    }
}
