//! The bytes of requests that may be sent again: a queue in one piece, so that a request is one copy in and none out.
//!
//! What all queues of this thread hold is counted, to bound it.

use std::cell::Cell;

thread_local! {
    static BY_THREAD: Cell<usize> = const { Cell::new(0) };
}

/// The retained bytes of one session.
#[derive(Debug, Default)]
pub(super) struct Retained {
    bytes: Vec<u8>,
    /// Those before this were taken out.
    front: usize,
}

impl Retained {
    /// Bytes retained by all queues of this thread.
    pub(super) fn by_thread() -> usize {
        BY_THREAD.get()
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.front
    }

    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    pub(super) fn all(&self) -> &[u8] {
        &self.bytes[self.front..]
    }

    #[inline]
    pub(super) fn push(&mut self, bytes: &[u8]) {
        // Moves what is left to the beginning when that is less work than what has passed since it was last done.
        if self.front > self.bytes.len() / 2 && self.bytes.capacity() - self.bytes.len() < bytes.len() {
            self.bytes.drain(..self.front);
            self.front = 0;
        }
        self.bytes.extend_from_slice(bytes);
        BY_THREAD.set(BY_THREAD.get() + bytes.len());
    }

    /// Takes out the first `count` bytes.
    #[inline]
    pub(super) fn drop_front(&mut self, count: usize) {
        self.front += count;
        BY_THREAD.set(BY_THREAD.get() - count);
        if self.front == self.bytes.len() {
            self.bytes.clear();
            self.front = 0;
        }
    }

    /// Takes out the last `count` bytes.
    pub(super) fn drop_back(&mut self, count: usize) {
        self.bytes.truncate(self.bytes.len() - count);
        BY_THREAD.set(BY_THREAD.get() - count);
    }

    /// Takes out everything.
    pub(super) fn take(&mut self) -> Vec<u8> {
        let all = self.all().to_vec();
        self.clear();
        all
    }

    pub(super) fn clear(&mut self) {
        self.drop_front(self.len());
    }
}
