//! A Unix socket without wake-ups that nobody asked for.
//!
//! One becomes writable each time its peer reads. Registered for both directions, each reply would wake its session a
//! second time for nothing; so it is registered for reading alone, and for writing only while a write waits.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::task::{Context, Poll, Waker, ready};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream as TokioUnixStream;

use super::conn::Liveness;
use super::pipe::Pipe;

/// A Unix socket, non-blocking.
#[derive(Debug)]
pub(super) struct UnixSocket {
    stream: AsyncFd<UnixStream>,
    /// There while a write waits: the same socket, registered for that.
    writable: Option<Box<AsyncFd<UnixStream>>>,
}

impl UnixSocket {
    /// Takes a non-blocking stream. Fails when the thread's runtime cannot watch it.
    pub(super) fn new(stream: UnixStream) -> io::Result<UnixSocket> {
        Ok(UnixSocket { stream: watch(stream, Interest::READABLE)?, writable: None })
    }

    /// Reads once.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.stream.poll_read_ready(cx))?;
            let Ok(read) = guard.try_io(|stream| stream.get_ref().read(into)) else { continue };
            if matches!(read, Ok(read) if read > 0 && read < into.len()) {
                guard.clear_ready(); // nothing was left
            }
            return Poll::Ready(read);
        }
    }

    /// Writes once.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send(cx, |mut stream| stream.write(bytes))
    }

    /// See [`super::Conn::poll_fill`].
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>, pipe: &mut Pipe, most: usize) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.stream.poll_read_ready(cx))?;
            if let Ok(moved) = guard.try_io(|stream| pipe.fill(stream.get_ref(), most)) {
                return Poll::Ready(moved);
            }
        }
    }

    /// See [`super::Conn::poll_empty`].
    pub(super) fn poll_empty(&mut self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<usize>> {
        self.poll_send(cx, |stream| pipe.empty(stream))
    }

    /// Sends once: at once if that is possible, else when the socket is writable.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        mut send: impl FnMut(&UnixStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        if self.writable.is_none() {
            match send(self.stream.get_ref()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => return Poll::Ready(sent),
            }
        }
        let writable = match &self.writable {
            Some(writable) => writable,
            None => {
                let same = self.stream.get_ref().try_clone()?;
                self.writable.insert(Box::new(watch(same, Interest::WRITABLE)?))
            }
        };
        loop {
            let mut guard = ready!(writable.poll_write_ready(cx))?;
            if let Ok(written) = guard.try_io(|stream| send(stream.get_ref())) {
                self.writable = None;
                return Poll::Ready(written);
            }
        }
    }

    /// Waits for news and clears them; whether the peer has closed its side.
    pub(super) fn poll_next_edge(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let Ok(mut guard) = ready!(self.stream.poll_read_ready(cx)) else { return Poll::Ready(true) };
        let is_closed = guard.ready().is_read_closed();
        guard.clear_ready();
        Poll::Ready(is_closed)
    }

    pub(super) async fn readable(&self) -> io::Result<()> {
        self.stream.readable().await.map(drop)
    }

    pub(super) fn liveness(&self) -> Liveness {
        match self.stream.poll_read_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => Liveness::Clean,
            Poll::Ready(Ok(guard)) if !guard.ready().is_read_closed() => Liveness::DataPending,
            Poll::Ready(_) => Liveness::Closed,
        }
    }

    /// The user of the process that connected, as the kernel noted it then (SO_PEERCRED, unix(7)).
    pub(super) fn peer_uid(&self) -> io::Result<u32> {
        // tokio reads credentials for its own type alone.
        let same = TokioUnixStream::from_std(self.stream.get_ref().try_clone()?)?;
        Ok(same.peer_cred()?.uid())
    }

    pub(super) fn shutdown(&self) -> io::Result<()> {
        self.stream.get_ref().shutdown(Shutdown::Write)
    }
}

impl AsFd for UnixSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.get_ref().as_fd()
    }
}

/// Watches a socket of ours for one direction only. Fails when the thread's runtime cannot.
#[expect(
    deprecated,
    reason = "its successor is unsafe for types whose descriptor changes hands; std's sockets keep theirs"
)]
pub(super) fn watch<S: AsFd + AsRawFd>(socket: S, interest: Interest) -> io::Result<AsyncFd<S>> {
    AsyncFd::with_interest(socket, interest)
}
