//! The client's socket: TCP, or a Unix socket without wake-ups that nobody asked for.
//!
//! A Unix socket becomes writable each time its peer reads. Registered for both directions, each reply would wake its
//! session a second time for nothing; so it is registered for reading alone, and for writing only while a write waits.
//! That a client has left is seen also behind bytes that nobody reads for now.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::task::{Context, Poll, Waker, ready};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;

use super::pipe::Socket;
use super::splice::Pipe;
use crate::socket;

/// A client's connection.
#[derive(Debug)]
pub enum Client {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(Unix),
}

/// A Unix socket, non-blocking.
#[derive(Debug)]
pub struct Unix {
    stream: AsyncFd<UnixStream>,
    /// There while a write waits: the same socket, registered for that.
    writable: Option<Box<AsyncFd<UnixStream>>>,
}

impl Unix {
    /// Takes a non-blocking stream. Fails when the thread's runtime cannot watch it.
    pub fn new(stream: UnixStream) -> io::Result<Unix> {
        Ok(Unix { stream: socket::watch(stream, Interest::READABLE)?, writable: None })
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
                self.writable.insert(Box::new(socket::watch(same, Interest::WRITABLE)?))
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
}

impl Client {
    /// Where it is; `None` for a Unix socket, or when it has gone.
    pub fn addr(&self) -> Option<SocketAddr> {
        match self {
            Client::Tcp(stream) => stream.peer_addr().ok(),
            Client::Unix(_) => None,
        }
    }

    /// Ready once the client has closed its side (FIN or RST), also behind bytes that are not read.
    ///
    /// What wakes for bytes is given up for what wakes for the end (epoll(7) tells of both by edges): the reactor knows
    /// nothing of bytes that wait already, and [`Client::read_unread`] has to read them.
    pub fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let is_closed = match self {
                Client::Tcp(stream) => {
                    if ready!(stream.poll_read_ready(cx)).is_err() {
                        return Poll::Ready(());
                    }
                    let now = pin!(stream.ready(Interest::READABLE)).poll(&mut Context::from_waker(Waker::noop()));
                    let _ = stream.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
                    matches!(now, Poll::Ready(Ok(now)) if now.is_read_closed())
                }
                Client::Unix(unix) => {
                    let Ok(mut guard) = ready!(unix.stream.poll_read_ready(cx)) else { return Poll::Ready(()) };
                    let is_closed = guard.ready().is_read_closed();
                    guard.clear_ready();
                    is_closed
                }
            };
            if is_closed {
                return Poll::Ready(());
            }
        }
    }

    /// Reads once past the reactor; `None` if there is nothing.
    pub fn read_unread(&mut self, into: &mut [u8]) -> Option<io::Result<usize>> {
        let read = match self {
            Client::Tcp(stream) => rustix::io::read(stream, into),
            Client::Unix(unix) => rustix::io::read(unix.stream.get_ref(), into),
        };
        match read {
            Err(rustix::io::Errno::AGAIN) => None,
            read => Some(read.map_err(io::Error::from)),
        }
    }
}

impl Socket for Client {
    fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Client::Tcp(stream) => stream.poll_read(cx, into),
            Client::Unix(unix) => loop {
                let mut guard = ready!(unix.stream.poll_read_ready(cx))?;
                let Ok(read) = guard.try_io(|stream| stream.get_ref().read(into)) else { continue };
                if matches!(read, Ok(read) if read > 0 && read < into.len()) {
                    guard.clear_ready(); // nothing was left
                }
                return Poll::Ready(read);
            },
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Client::Tcp(stream) => stream.poll_write(cx, bytes),
            Client::Unix(unix) => unix.poll_send(cx, |mut stream| stream.write(bytes)),
        }
    }

    fn poll_empty(&mut self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<usize>> {
        match self {
            Client::Tcp(stream) => stream.poll_empty(cx, pipe),
            Client::Unix(unix) => unix.poll_send(cx, |stream| pipe.empty(stream)),
        }
    }

    fn shutdown(&mut self, cx: &mut Context<'_>) {
        match self {
            Client::Tcp(stream) => stream.shutdown(cx),
            Client::Unix(unix) => _ = unix.stream.get_ref().shutdown(Shutdown::Write),
        }
    }
}
