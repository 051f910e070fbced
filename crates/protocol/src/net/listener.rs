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
pub struct Bound(Socket);

#[derive(Debug)]
enum Socket {
    Tcp(StdTcpListener),
    Unix(UnixListener),
}

impl Bound {
    /// Where it listens, port 0 resolved.
    pub fn addr(&self) -> io::Result<ListenAddr> {
        Ok(match &self.0 {
            Socket::Tcp(listener) => ListenAddr::Tcp(listener.local_addr()?),
            Socket::Unix(listener) => {
                let addr = listener.local_addr()?;
                ListenAddr::Unix(addr.as_pathname().map(Into::into).unwrap_or_default())
            }
        })
    }

    /// Has the runtime of this thread watch it. Fails when that cannot.
    pub fn listen(self) -> io::Result<Listener> {
        Ok(Listener(match self.0 {
            Socket::Tcp(listener) => Watched::Tcp(TcpListener::from_std(listener)?),
            Socket::Unix(listener) => Watched::Unix(watch(listener, Interest::READABLE)?),
        }))
    }
}

impl From<StdTcpListener> for Bound {
    /// The listener must be non-blocking.
    fn from(listener: StdTcpListener) -> Bound {
        Bound(Socket::Tcp(listener))
    }
}

impl From<UnixListener> for Bound {
    /// The listener must be non-blocking.
    fn from(listener: UnixListener) -> Bound {
        Bound(Socket::Unix(listener))
    }
}

/// A listening socket; needs the runtime that watches it.
#[derive(Debug)]
pub struct Listener(Watched);

#[derive(Debug)]
enum Watched {
    Tcp(TcpListener),
    Unix(AsyncFd<UnixListener>),
}

impl Listener {
    /// Whether it is a Unix socket.
    pub fn is_unix(&self) -> bool {
        matches!(self.0, Watched::Unix(_))
    }

    /// The next connection. What can be inherited from the listener is (see `bind`).
    ///
    /// # Errors
    /// What accept(2) says; the listener stays good.
    pub async fn accept(&self) -> io::Result<Conn> {
        match &self.0 {
            Watched::Tcp(listener) => Ok(Conn::tcp(listener.accept().await?.0)),
            Watched::Unix(listener) => {
                let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
                let accept = |listener: &UnixListener| Ok(accept_with(listener, flags)?);
                let accepted = listener.async_io(Interest::READABLE, accept).await?;
                Ok(Conn::unix(UnixSocket::new(accepted.into())?))
            }
        }
    }
}
