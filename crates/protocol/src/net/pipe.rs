//! Bodies of large values, moved from socket to socket by splice(2) through a pipe, without a copy in between.
//!
//! There is a pipe only while bytes are in it; empty ones wait in a pool of the thread. Pipes are made of spare
//! descriptors: where none is left, bodies are copied.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

use super::descriptors::{Spare, Taken};

/// What is less than this goes through the scratch: for that, the calls for a pipe cost more than the copy.
pub const LEAST_SPLICED: usize = 64 * 1024;
/// What one call moves at most: the most that a pipe may hold without privileges.
const SIZE: usize = 1024 * 1024;
/// Empty pipes that a thread keeps.
const POOLED: usize = 8;

thread_local! {
    static POOL: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

/// A pipe, and how many bytes are in it.
#[derive(Debug)]
pub struct Pipe {
    ends: (OwnedFd, OwnedFd),
    held: usize,
    _descriptors: Taken,
}

impl Pipe {
    /// An empty one, if descriptors are left.
    pub fn take(spare: &Arc<Spare>) -> Option<Pipe> {
        if let Some(pipe) = POOL.with_borrow_mut(Vec::pop) {
            return Some(pipe);
        }
        let descriptors = spare.take(2)?;
        let ends = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        // Refused to a user who has many: then less is moved at once.
        let _ = fcntl_setpipe_size(&ends.1, SIZE);
        Some(Pipe { ends, held: 0, _descriptors: descriptors })
    }

    /// Gives an empty one back to the thread.
    pub fn give_back(self) {
        POOL.with_borrow_mut(|pool| {
            if self.is_empty() && pool.len() < POOLED {
                pool.push(self);
            }
        });
    }

    /// Nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Bytes in it.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Moves at most so many bytes from a socket into the pipe, which is empty, once: what would block is the socket. 0 is
    /// the end of the stream.
    pub(super) fn fill(&mut self, from: impl AsFd, most: usize) -> io::Result<usize> {
        let moved = splice(from, None, &self.ends.1, None, most.min(SIZE), SpliceFlags::NONBLOCK)?;
        self.held += moved;
        Ok(moved)
    }

    /// Moves what is in it to a socket, once, as far as that takes it.
    pub(super) fn empty(&mut self, to: impl AsFd) -> io::Result<usize> {
        let moved = splice(&self.ends.0, None, to, None, self.held, SpliceFlags::NONBLOCK)?;
        self.held -= moved;
        Ok(moved)
    }
}
