//! How many descriptors the process may have, and those that are left when each client has its own: for pipes, for
//! connections made ready, for refusals.
//!
//! Nobody waits for a spare one: where none is left, one does without. Those of the control plane are never among them.

use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How many are left in the whole process; less than none after there came to be fewer than were taken.
#[derive(Debug)]
pub struct Spare(AtomicIsize);

/// Some of them; given back on drop.
#[derive(Debug)]
pub struct Taken {
    from: Arc<Spare>,
    count: isize,
}

impl Spare {
    /// So many.
    pub fn new(count: usize) -> Arc<Spare> {
        Arc::new(Spare(AtomicIsize::new(count as isize)))
    }

    /// There are so many more, or fewer, than before.
    pub fn change(&self, by: isize) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    /// Takes `count` of them, if they are there.
    pub fn take(self: &Arc<Spare>, count: usize) -> Option<Taken> {
        let count = count as isize;
        let left = |left: isize| (left >= count).then(|| left - count);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left).ok()?;
        Some(Taken { from: self.clone(), count })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.from.0.fetch_add(self.count, Ordering::Relaxed);
    }
}

/// Raises the limit of open descriptors to the hard limit; returns what it is now.
pub fn raise_descriptor_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum.unwrap_or(u64::MAX),
        Err(_) => limit.current.unwrap_or(u64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_not_taken_and_what_is_dropped_comes_back() {
        let spare = Spare::new(3);
        let (pipe, one) = (spare.take(2).unwrap(), spare.take(1).unwrap());
        assert!(spare.take(1).is_none());
        drop(pipe);
        assert!(spare.take(3).is_none());
        drop(one);
        let three = spare.take(3);
        assert!(three.is_some());
        spare.change(-2);
        drop(three);
        assert!(spare.take(2).is_none() && spare.take(1).is_some());
    }
}
