//! Where connections are accepted: bound at first, and later watched by the thread that accepts.

use std::io;
use std::net::TcpListener as StdTcpListener;
use std::os::unix::net::UnixListener;

use rustix::net::{SocketFlags, accept_with};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpListener;

use super::address::ListenAddr;
use super::conn::Conn;
use super::unix::{UnixSocket, watch};

/// A listening socket that no runtime watches yet: it may be handed to another thread.
#[derive(Debug)]
pub struct Bound {
    socket: Socket,
    outlives_us: bool,
}

#[derive(Debug)]
enum Socket {
    Tcp(StdTcpListener),
    Unix(UnixListener),
}

impl Bound {
    /// Where it listens, port 0 resolved.
    pub fn addr(&self) -> io::Result<ListenAddr> {
        Ok(match &self.socket {
            Socket::Tcp(listener) => ListenAddr::Tcp(listener.local_addr()?),
            Socket::Unix(listener) => {
                let addr = listener.local_addr()?;
                ListenAddr::Unix(addr.as_pathname().map(Into::into).unwrap_or_default())
            }
        })
    }

    /// The same socket for `count` threads: whoever accepts first has the next connection.
    pub fn share(self, count: usize) -> io::Result<Vec<Bound>> {
        let mut shared = vec![self];
        while shared.len() < count {
            let socket = match &shared[0].socket {
                Socket::Tcp(listener) => Socket::Tcp(listener.try_clone()?),
                Socket::Unix(listener) => Socket::Unix(listener.try_clone()?),
            };
            shared.push(Bound { socket, ..shared[0] });
        }
        Ok(shared)
    }

    /// Another process has it too and keeps it: what waits in its queue when we close it is not reset.
    pub(super) fn outliving_us(self) -> Bound {
        Bound { outlives_us: true, ..self }
    }

    /// Whether what waits in its queue is for the next process.
    pub fn outlives_us(&self) -> bool {
        self.outlives_us
    }

    /// Has the runtime of this thread watch it. Fails when that cannot.
    pub fn listen(self) -> io::Result<Listener> {
        let watched = match self.socket {
            Socket::Tcp(listener) => Watched::Tcp(TcpListener::from_std(listener)?),
            Socket::Unix(listener) => Watched::Unix(watch(listener, Interest::READABLE)?),
        };
        Ok(Listener { watched, outlives_us: self.outlives_us })
    }
}

impl From<StdTcpListener> for Bound {
    /// The listener must be non-blocking.
    fn from(listener: StdTcpListener) -> Bound {
        Bound { socket: Socket::Tcp(listener), outlives_us: false }
    }
}

impl From<UnixListener> for Bound {
    /// The listener must be non-blocking.
    fn from(listener: UnixListener) -> Bound {
        Bound { socket: Socket::Unix(listener), outlives_us: false }
    }
}

/// A listening socket; needs the runtime that watches it.
#[derive(Debug)]
pub struct Listener {
    watched: Watched,
    outlives_us: bool,
}

#[derive(Debug)]
enum Watched {
    Tcp(TcpListener),
    Unix(AsyncFd<UnixListener>),
}

impl Listener {
    /// Whether it is a Unix socket.
    pub fn is_unix(&self) -> bool {
        matches!(self.watched, Watched::Unix(_))
    }

    /// The next connection. What can be inherited from the listener is (see `bind`).
    ///
    /// # Errors
    /// What accept(2) says; the listener stays good.
    pub async fn accept(&self) -> io::Result<Conn> {
        match &self.watched {
            Watched::Tcp(listener) => Ok(Conn::tcp(listener.accept().await?.0)),
            Watched::Unix(listener) => {
                let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
                let accept = |listener: &UnixListener| Ok(accept_with(listener, flags)?);
                let accepted = listener.async_io(Interest::READABLE, accept).await?;
                Ok(Conn::unix(UnixSocket::new(accepted.into())?))
            }
        }
    }

    /// See [`Bound::outlives_us`].
    pub fn outlives_us(&self) -> bool {
        self.outlives_us
    }
}
