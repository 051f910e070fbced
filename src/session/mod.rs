//! One client's session: a [`core`] that decides, and a driver that owns both sockets and carries it out.
//!
//! A session is polled, woken and dropped on the one thread on which its client was accepted; what the sessions of a
//! thread share (`pool`, `registry`, the sum of their memory) is that thread's.

mod attach;
pub mod core;
mod driver;
mod pool;
mod refused;
pub mod registry;
mod unblock;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use tokio::sync::{Semaphore, watch};

use crate::drain::{Stage, StageCell};
use crate::metrics;
use crate::net::Spare;
use crate::upstream::Upstream;

pub use self::core::Settings;
pub use crate::close_reason::CloseReason;
pub use driver::{linger, serve};

/// What the sessions of one listener on one worker thread share.
#[derive(Debug)]
pub struct Worker {
    /// Whose master its clients are to reach.
    pub upstream: Arc<Upstream>,
    /// This thread's counters.
    pub counters: Arc<metrics::WorkerCounters>,
    /// How they are to behave: what a reload may change, replaced as a whole. Who replaces it lets
    /// [`crate::topology::Topology::renew`] follow, at which sessions take it over.
    pub settings: watch::Sender<Arc<Settings>>,
    /// Dials under way: kept below the master's backlog.
    pub dials: Arc<Semaphore>,
    /// Sessions open in the whole process.
    pub open: Arc<AtomicUsize>,
    /// How far the listener is on its way out; [`crate::drain::Stage::Serving`] while it stays.
    pub closing: StageCell,
    /// Descriptors of the whole process beyond those of its clients and of the control plane.
    pub spare: Arc<Spare>,
}

impl Worker {
    /// How far the drain is for these sessions: that of the process, or that of their listener.
    #[inline]
    fn stage(&self) -> Stage {
        registry::stage().max(self.closing.get())
    }
}
