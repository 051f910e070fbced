//! The scripts that clients have loaded, so that EVALSHA finds them on the next master too.
//!
//! The script cache of a server is not replicated. Bounded in number and bytes: the oldest are forgotten, and their
//! EVALSHA then gets -NOSCRIPT, as on a direct connection.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const MOST_SCRIPTS: usize = 256;
const MOST_BYTES: usize = 256 * 1024;

/// Shared by all workers.
#[derive(Debug, Default)]
pub struct Scripts(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    bodies: HashSet<Arc<[u8]>>,
    order: VecDeque<Arc<[u8]>>,
    bytes: usize,
    /// The term on whose master all of them are loaded.
    loaded: u64,
}

impl Scripts {
    /// A client sends EVAL or SCRIPT LOAD with this body to the master of `term`.
    pub fn learn(&self, body: &[u8], term: u64) {
        let mut known = self.lock();
        if known.bodies.contains(body) || body.len() > MOST_BYTES {
            return;
        }
        if known.bodies.is_empty() {
            known.loaded = term;
        }
        let body: Arc<[u8]> = body.into();
        known.bytes += body.len();
        known.order.push_back(body.clone());
        known.bodies.insert(body);
        while known.order.len() > MOST_SCRIPTS || known.bytes > MOST_BYTES {
            let Some(oldest) = known.order.pop_front() else { break };
            known.bytes -= oldest.len();
            known.bodies.remove(&oldest);
        }
    }

    /// SCRIPT FLUSH.
    pub fn forget(&self) {
        *self.lock() = Known::default();
    }

    /// What has to be loaded on the master of `term` before EVALSHA may be sent there.
    pub fn missing(&self, term: u64) -> Vec<Vec<u8>> {
        let known = self.lock();
        if known.loaded >= term {
            return Vec::new();
        }
        known.order.iter().map(|body| body.to_vec()).collect()
    }

    /// They have been loaded on the master of `term`.
    pub fn loaded(&self, term: u64) {
        let mut known = self.lock();
        known.loaded = known.loaded.max(term);
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
