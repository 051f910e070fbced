//! What is configured for sessions ([`Settings`]): replaced as a whole by a reload, never edited.

use std::sync::Arc;
use std::time::Duration;

use super::Worker;
use crate::config::{OnLostPop, OnLostReply};

/// What is configured for the sessions of one listener on one worker thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How a request whose reply was lost ends.
    pub on_lost_reply: OnLostReply,
    /// How a blocking pop ends whose reply was lost.
    pub on_lost_pop: OnLostPop,
    /// How long this listener's requests are held in one outage, where that is shorter than for the whole proxy.
    pub hold_timeout: Option<Duration>,
    /// Bytes of unreplied requests that one session may retain.
    pub retain_bytes: usize,
    /// What all sessions of this thread may hold in memory, those requests and every buffer.
    pub retain_total: usize,
    /// At most this many connections are dialled ahead of the sessions that will need them.
    pub warm_backends: usize,
    /// Whether a connection serves another session after a RESET.
    pub reuse_backends: bool,
    /// Idle sessions give their backends back after this long; zero: never.
    pub detach_idle_after: Duration,
    /// Sessions that may be open in the whole process.
    pub max_clients: usize,
}

impl Worker {
    /// Those of now. A session takes them at its start and again when it sees a new generation of the topology, so that
    /// a request costs no lock: who replaces them lets [`crate::topology::Topology::renew`] follow.
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.borrow().clone()
    }
}
