//! One client's session: a [`core`] that decides, and a [`driver`] that owns both sockets and carries it out.
//!
//! A session is polled, woken and dropped on the one thread on which its client was accepted; what the sessions of a
//! thread share (`pool`, `registry`, the sum of their memory) is that thread's.

mod attach;
mod close;
pub mod core;
mod driver;
mod pool;
mod refused;
pub mod registry;
pub mod scripts;
mod unblock;

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};

use tokio::sync::Semaphore;

use crate::metrics;
use crate::net::Spare;
use crate::secret::Credentials;
use crate::topology::Topology;

pub use self::core::Settings;
pub use close::CloseReason;
pub use driver::{linger, serve};

use scripts::Scripts;

/// What the sessions of one listener on one worker thread share.
#[derive(Debug)]
pub struct Worker {
    /// Where the master is.
    pub topology: Arc<Topology>,
    /// This thread's counters.
    pub relay: Arc<metrics::Relay>,
    /// How they are to behave.
    pub settings: Settings,
    /// At most this many connections are dialled ahead of the sessions that will need them.
    pub warm_backends: usize,
    /// Dials under way: kept below the master's backlog.
    pub dials: Arc<Semaphore>,
    /// The scripts that clients have loaded; shared by all threads.
    pub scripts: Arc<Scripts>,
    /// Sessions open in the whole process.
    pub open: Arc<AtomicUsize>,
    /// Descriptors of the whole process beyond those of its clients and of the control plane.
    pub spare: Arc<Spare>,
    /// The credentials of the nodes, as far as they are known: [`Topology::credentials`].
    pub credentials: Arc<Mutex<Option<Credentials>>>,
}
