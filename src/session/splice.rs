//! Bodies of large values, moved from socket to socket by splice(2) through a pipe, without a copy in between.
//!
//! A session has a pipe only while bytes are in it; empty ones wait in a pool of the thread. Pipes are made of spare
//! descriptors: where none is left, bodies are copied.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::spare::{Spare, Taken};

/// What is less than this goes through the scratch: for that, the calls for a pipe cost more than the copy.
pub const LEAST: usize = 64 * 1024;
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

    /// Moves at most so many bytes from a socket into the pipe, which is empty: what would block is the socket. 0 is the
    /// end of the stream.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, from: &TcpStream, most: usize) -> Poll<io::Result<usize>> {
        let most = most.min(SIZE);
        loop {
            ready!(from.poll_read_ready(cx))?;
            let fill = || Ok(splice(from, None, &self.ends.1, None, most, SpliceFlags::NONBLOCK)?);
            match from.try_io(Interest::READABLE, fill) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                moved => {
                    self.held += *moved.as_ref().unwrap_or(&0);
                    return Poll::Ready(moved);
                }
            }
        }
    }

    /// Moves what is in it to a socket, as far as that takes it.
    pub fn poll_empty(&mut self, cx: &mut Context<'_>, to: &TcpStream) -> Poll<io::Result<usize>> {
        loop {
            ready!(to.poll_write_ready(cx))?;
            match to.try_io(Interest::WRITABLE, || self.empty(to)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                moved => return Poll::Ready(moved),
            }
        }
    }

    /// The same, once.
    pub fn empty(&mut self, to: impl AsFd) -> io::Result<usize> {
        let moved = splice(&self.ends.0, None, to, None, self.held, SpliceFlags::NONBLOCK)?;
        self.held -= moved;
        Ok(moved)
    }
}
