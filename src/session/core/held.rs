//! What the sessions of this thread hold in memory, in one sum, so that one bound fits it all.
//!
//! A session says what it holds when it has been polled: the sum is behind by what one poll adds. What is retained of
//! requests is counted at once, where it is kept (`ledger`), and not here.

use std::cell::Cell;

use super::ledger::Ledger;

thread_local! {
    static BY_THREAD: Cell<usize> = const { Cell::new(0) };
}

/// The bytes of one session; no longer counted once dropped.
#[derive(Debug, Default)]
pub struct Held(u32);

impl Held {
    /// Bytes that all sessions of this thread hold, but for what is retained of their requests.
    fn by_thread() -> usize {
        BY_THREAD.get()
    }

    /// This session holds so many now.
    #[inline]
    pub fn set(&mut self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        if bytes != self.0 {
            BY_THREAD.set(BY_THREAD.get() + bytes as usize - self.0 as usize);
            self.0 = bytes;
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// Bytes that all sessions of this thread hold.
#[inline]
pub(super) fn held_by_thread() -> usize {
    Held::by_thread() + Ledger::retained_by_thread()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_follows_each_session_and_forgets_it() {
        let (mut one, mut other) = (Held::default(), Held::default());
        one.set(100);
        other.set(20);
        one.set(5);
        assert_eq!(Held::by_thread(), 25);
        drop(one);
        assert_eq!(Held::by_thread(), 20);
        drop(other);
        assert_eq!(Held::by_thread(), 0);
    }
}
