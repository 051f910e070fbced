//! The buffer that all connections of a thread read into.
//!
//! One a thread, so that an idle connection owns none.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// One read takes at most this much.
const SCRATCH: usize = 128 * 1024;

thread_local! {
    static FREE: RefCell<Option<Box<[u8]>>> = const { RefCell::new(None) };
}

/// The thread's read buffer, borrowed for one turn and given back on drop.
#[derive(Debug)]
pub struct Scratch(Option<Box<[u8]>>);

impl Scratch {
    /// Takes the buffer of this thread.
    pub fn take() -> Scratch {
        let kept = FREE.with_borrow_mut(Option::take);
        Scratch(Some(kept.unwrap_or_else(|| vec![0; SCRATCH].into_boxed_slice())))
    }
}

impl Deref for Scratch {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_deref().expect("there until the drop")
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.0.as_deref_mut().expect("there until the drop")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        FREE.set(self.0.take());
    }
}
