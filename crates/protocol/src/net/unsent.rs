//! What a connection would not take yet.
//!
//! Empty, it owns no memory. Bounded by whoever reads no more for a direction while its [`Unsent`] is not empty.

use std::io;
use std::task::{Context, Poll, ready};

use super::conn::Conn;
use super::pipe::Pipe;

/// What a connection did not take yet.
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
    pub fn send(&mut self, conn: &mut Conn, cx: &mut Context<'_>, mut bytes: &[u8]) -> io::Result<()> {
        if self.is_empty() {
            while !bytes.is_empty() {
                match conn.poll_write(cx, bytes) {
                    Poll::Ready(written) => bytes = &bytes[written?..],
                    Poll::Pending => break,
                }
            }
        }
        self.push(bytes);
        Ok(())
    }

    /// Sends what waits.
    pub fn poll_flush(&mut self, conn: &mut Conn, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(waiting) = &mut self.0 {
            if let Some(pipe) = &mut waiting.pipe {
                while !pipe.is_empty() {
                    ready!(conn.poll_empty(cx, pipe))?;
                }
                waiting.pipe.take().into_iter().for_each(Pipe::give_back);
            }
            while waiting.sent < waiting.bytes.len() {
                waiting.sent += ready!(conn.poll_write(cx, &waiting.bytes[waiting.sent..]))?;
            }
        }
        self.clear();
        Poll::Ready(Ok(()))
    }
}
