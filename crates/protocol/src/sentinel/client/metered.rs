//! A socket whose peer may send so much, and no more until it is asked again.
//!
//! The `redis` crate keeps a whole reply and every push in memory: this is what bounds both, whoever is at the other end.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::net::Conn;

/// Bytes between two questions. A Sentinel needs about 1 KiB for each replica, and less for a message; more costs time
/// too, since the crate looks at a line from its beginning each time that some of it arrives.
pub(super) const MOST_BYTES: usize = 2 * 1024 * 1024;

/// Bytes that are read, and parsed, before others have a turn.
const MOST_IN_TURN: usize = 16 * 1024;

/// What the peer may still send; shared with whoever asks it.
#[derive(Clone, Debug)]
pub(super) struct Allowance(Arc<AtomicUsize>);

impl Allowance {
    /// A question is asked: the whole allowance again, unless it was exceeded.
    pub(super) fn renew(&self) {
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| (left > 0).then_some(MOST_BYTES));
    }

    pub(super) fn is_exceeded(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

/// The socket. Reading fails for good once the allowance is used up.
pub(super) struct Metered {
    stream: Conn,
    left: Allowance,
    in_turn: usize,
}

impl Metered {
    pub(super) fn new(stream: Conn) -> (Metered, Allowance) {
        let left = Allowance(Arc::new(AtomicUsize::new(MOST_BYTES)));
        (Metered { stream, left: left.clone(), in_turn: 0 }, left)
    }
}

impl AsyncRead for Metered {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // Others have a turn: what is read is parsed before the next read.
        if self.in_turn >= MOST_IN_TURN {
            self.in_turn = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let room = buf.remaining().min(MOST_IN_TURN);
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(room));
        if Pin::new(&mut self.stream).poll_read(cx, &mut part)?.is_pending() {
            self.in_turn = 0;
            return Poll::Pending;
        }
        let read = part.filled().len();
        buf.advance(read);
        self.in_turn += read;
        let left = self.left.0.load(Ordering::Relaxed).saturating_sub(read);
        self.left.0.store(left, Ordering::Relaxed);
        match left {
            0 => Poll::Ready(Err(io::Error::other(too_much()))),
            _ => Poll::Ready(Ok(())),
        }
    }
}

/// What is wrong with it.
pub(super) fn too_much() -> String {
    format!("it sent {} MiB between two questions", MOST_BYTES / 1024 / 1024)
}

impl AsyncWrite for Metered {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
