//! Bytes from one socket to the other: the thread's scratch to read into, and what a socket would not take yet.
//!
//! Bounded by construction: nothing more is read for a direction while its [`Unsent`] is not empty. Empty, it owns
//! no memory.

use std::cell::RefCell;
use std::io;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::splice::Pipe;

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

/// A stream socket.
pub trait Socket {
    /// Reads once; 0 is the end of the stream. A short read clears the readiness, so that the next call costs nothing.
    fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>>;

    /// Writes once.
    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>;

    /// Writes once from a pipe that holds something.
    fn poll_empty(&mut self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<usize>>;

    /// Says that no more bytes will come, and leaves the other direction open.
    fn shutdown(&mut self, cx: &mut Context<'_>);
}

impl Socket for TcpStream {
    fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(into);
        ready!(AsyncRead::poll_read(Pin::new(self), cx, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(self), cx, bytes)
    }

    fn poll_empty(&mut self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<usize>> {
        pipe.poll_empty(cx, self)
    }

    fn shutdown(&mut self, cx: &mut Context<'_>) {
        let _ = AsyncWrite::poll_shutdown(Pin::new(self), cx);
    }
}

/// What a socket did not take yet.
#[derive(Debug, Default)]
pub struct Unsent(Option<Box<Waiting>>);

/// Not empty.
#[derive(Debug, Default)]
struct Waiting {
    /// Goes first.
    pipe: Option<Pipe>,
    bytes: Vec<u8>,
    sent: usize,
}

impl Unsent {
    /// Everything was taken.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Bytes not taken yet.
    pub fn len(&self) -> usize {
        self.0
            .as_ref()
            .map_or(0, |waiting| waiting.pipe.as_ref().map_or(0, Pipe::held) + waiting.bytes.len() - waiting.sent)
    }

    /// Memory held for it, also in the kernel's pipe.
    pub fn held_bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |waiting| waiting.pipe.as_ref().map_or(0, Pipe::held) + waiting.bytes.capacity())
    }

    /// Sends what is in the pipe, when nothing waits.
    pub fn push_pipe(&mut self, pipe: Pipe) {
        debug_assert!(self.is_empty());
        self.0.get_or_insert_default().pipe = Some(pipe);
    }

    /// Adds to what is to be sent.
    pub fn push(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.0.get_or_insert_default().bytes.extend_from_slice(bytes);
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.0 = None;
    }

    /// Sends `bytes` behind what waits already, at once as far as the socket takes them; the rest waits.
    pub fn send(&mut self, stream: &mut impl Socket, cx: &mut Context<'_>, mut bytes: &[u8]) -> io::Result<()> {
        if self.is_empty() {
            while !bytes.is_empty() {
                match stream.poll_write(cx, bytes) {
                    Poll::Ready(written) => bytes = &bytes[written?..],
                    Poll::Pending => break,
                }
            }
        }
        self.push(bytes);
        Ok(())
    }

    /// Sends what waits.
    pub fn poll_flush(&mut self, stream: &mut impl Socket, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(waiting) = &mut self.0 {
            if let Some(pipe) = &mut waiting.pipe {
                while !pipe.is_empty() {
                    ready!(stream.poll_empty(cx, pipe))?;
                }
                waiting.pipe.take().into_iter().for_each(Pipe::give_back);
            }
            while waiting.sent < waiting.bytes.len() {
                waiting.sent += ready!(stream.poll_write(cx, &waiting.bytes[waiting.sent..]))?;
            }
        }
        self.clear();
        Poll::Ready(Ok(()))
    }
}

/// What of a read goes out: a run from its beginning, sent from where it is, until something must be left out or put
/// in; from there on copies.
#[derive(Debug, Default)]
pub struct Passed {
    end: usize,
    copied: bool,
}

impl Passed {
    /// `data[start..end]` goes out.
    #[inline]
    pub fn pass(&mut self, unsent: &mut Unsent, data: &[u8], start: usize, end: usize) {
        if !self.copied && start == self.end {
            self.end = end;
        } else {
            self.copy(unsent, data, start, end);
        }
    }

    #[cold]
    fn copy(&mut self, unsent: &mut Unsent, data: &[u8], start: usize, end: usize) {
        self.leave_out(unsent, data);
        unsent.push(&data[start..end]);
    }

    /// `instead` goes out in the place of what comes next in `data`.
    pub fn instead(&mut self, unsent: &mut Unsent, data: &[u8], instead: &[u8]) {
        self.leave_out(unsent, data);
        unsent.push(instead);
    }

    /// What comes next in `data` does not go out.
    pub fn leave_out(&mut self, unsent: &mut Unsent, data: &[u8]) {
        if !self.copied {
            unsent.push(&data[..self.end]);
            self.copied = true;
        }
    }

    /// The run that is still to be sent from `data`; empty once copies were made.
    pub fn run<'a>(&self, data: &'a [u8]) -> &'a [u8] {
        if self.copied { &[] } else { &data[..self.end] }
    }

    /// Copies were made: they wait in the `Unsent`.
    pub fn is_copied(&self) -> bool {
        self.copied
    }
}
