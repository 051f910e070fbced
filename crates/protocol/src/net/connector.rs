//! How connections are made: options, time-outs, and later TLS.
//!
//! A value, made once by whoever dials often; it keeps no connection.

use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::address::ListenAddr;
use super::bind::tune;
use super::conn::Conn;
use super::unix::UnixSocket;

/// Makes connections.
#[derive(Clone, Copy, Debug)]
pub struct Connector {
    limit: Option<Duration>,
    keepalive: bool,
}

impl Connector {
    /// TCP_NODELAY and nothing else; callers have time-outs of their own.
    pub const DEFAULT: Connector = Connector { limit: None, keepalive: false };

    /// For connections that last: a peer that dies silently is noticed (keepalive, TCP_USER_TIMEOUT). One attempt may
    /// take `limit`.
    pub const fn lasting(limit: Duration) -> Connector {
        Connector { limit: Some(limit), keepalive: true }
    }

    /// Connects over TCP.
    ///
    /// # Errors
    /// What connect(2) says; `TimedOut` after the limit; `ConnectionRefused` if the dial met itself, as one to a dead port
    /// of this host can.
    pub async fn connect(&self, addr: SocketAddr) -> io::Result<Conn> {
        let stream = match self.limit {
            Some(limit) => timeout(limit, TcpStream::connect(addr)).await??,
            None => TcpStream::connect(addr).await?,
        };
        if stream.local_addr().is_ok_and(|local| local == addr) {
            let text = "nobody listens there (the dial met itself)";
            return Err(io::Error::new(io::ErrorKind::ConnectionRefused, text));
        }
        // A process of this host does not die without a FIN.
        match self.keepalive && !addr.ip().is_loopback() {
            true => tune(&SockRef::from(&stream))?,
            false => stream.set_nodelay(true)?,
        }
        Ok(Conn::tcp(stream))
    }

    /// Connects to the Unix socket at `path`.
    pub async fn connect_unix(&self, path: &Path) -> io::Result<Conn> {
        let stream: StdUnixStream = UnixStream::connect(path).await?.into_std()?;
        Ok(Conn::unix(UnixSocket::new(stream)?))
    }

    /// Connects to where a listener is.
    pub async fn connect_to(&self, addr: &ListenAddr) -> io::Result<Conn> {
        match addr {
            ListenAddr::Tcp(addr) => self.connect(*addr).await,
            ListenAddr::Unix(path) => self.connect_unix(path).await,
        }
    }
}
