//! A plain Redis connection: requests and replies as raw RESP over one socket.
//!
//! Deliberately not the `redis` crate: nothing reconnects, retries or matches replies behind the caller's back. What the
//! peer sends is not trusted, and a length that is announced takes no memory before its bytes are there.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zeroize::Zeroizing;

use crate::net::{Conn, Connector};
use crate::resp::buffer::ReplyBuffer;
pub use crate::resp::reply::{Reply, parse};
pub use crate::resp::request::encode_into as encode;
use crate::secret::Credentials;

/// Bytes of one reply, twice the server's default `proto-max-bulk-len`.
const LONGEST: usize = 1 << 30;

/// One connection. Not cancel-safe: after a cancelled call, drop it.
#[derive(Debug)]
pub struct Wire<S = Conn> {
    stream: S,
    replies: ReplyBuffer,
}

impl Wire {
    /// Connects, with Nagle's algorithm off.
    pub async fn connect(addr: SocketAddr) -> io::Result<Wire> {
        Ok(Wire::over(Connector::DEFAULT.connect(addr).await?))
    }

    /// Connects to the socket at `path`.
    pub async fn connect_unix(path: &Path) -> io::Result<Wire> {
        Ok(Wire::over(Connector::DEFAULT.connect_unix(path).await?))
    }

    /// Connects, authenticates if `auth` is given and selects `db` unless it is 0.
    pub async fn open(addr: SocketAddr, auth: Option<&Credentials>, db: u32) -> io::Result<Wire> {
        let mut wire = Wire::connect(addr).await?;
        wire.log_in(auth, db).await?;
        Ok(wire)
    }

    /// Returns when bytes or the end of the stream arrive unasked for; used on an idle connection.
    pub async fn readable(&self) -> io::Result<()> {
        self.stream.readable().await
    }

    /// The local port, which tells one connection from the next.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// A fresh connection over a socket of whatever kind.
    pub fn over(stream: S) -> Wire<S> {
        Wire { stream, replies: ReplyBuffer::new(LONGEST) }
    }

    /// The same, with replies of so many bytes at most.
    pub fn at_most(self, bytes: usize) -> Wire<S> {
        Wire { replies: ReplyBuffer::new(bytes), ..self }
    }

    /// Authenticates if `auth` is given and selects `db` unless it is 0.
    pub async fn log_in(&mut self, auth: Option<&Credentials>, db: u32) -> io::Result<()> {
        if let Some(auth) = auth {
            self.expect_ok(&auth.auth()).await?;
        }
        if db != 0 {
            self.expect_ok(&["SELECT", &db.to_string()]).await?;
        }
        Ok(())
    }

    /// Sends one request and waits for its reply.
    pub async fn ask<A: AsRef<[u8]>>(&mut self, request: &[A]) -> io::Result<Reply> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(64));
        encode(&mut bytes, request);
        self.send(&bytes).await?;
        self.receive().await
    }

    /// Sends bytes as they are.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Waits for one reply.
    pub async fn receive(&mut self) -> io::Result<Reply> {
        loop {
            if let Some(frame) = self.replies.take()? {
                return Ok(Reply::of(frame)?);
            }
            if self.stream.read_buf(self.replies.room()?).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// The socket and what was read from it beyond the last reply, for what is not made of replies.
    pub fn into_parts(self) -> (S, Vec<u8>) {
        (self.stream, self.replies.into_rest())
    }

    async fn expect_ok<A: AsRef<[u8]>>(&mut self, request: &[A]) -> io::Result<()> {
        match self.ask(request).await? {
            Reply::Simple(_) => Ok(()),
            other => {
                let name = String::from_utf8_lossy(request[0].as_ref());
                Err(io::Error::other(format!("{name}: {other}")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn replies_are_the_same_however_they_arrive() {
        let bytes = b"*2\r\n$3\r\na\r\n\r\n:7\r\n+OK\r\n\r\n";
        for size in 1..=bytes.len() {
            let (ours, mut theirs) = tokio::io::duplex(size);
            let mut wire = Wire::over(ours);
            let sending = async {
                theirs.write_all(bytes).await.unwrap();
                drop(theirs);
            };
            let receiving = async {
                let replies = [wire.receive().await.unwrap().to_string(), wire.receive().await.unwrap().to_string()];
                (replies, wire.receive().await.unwrap_err().kind())
            };
            let ((), (replies, end)) = tokio::join!(sending, receiving);
            assert_eq!(replies, ["[\"a\\r\\n\", :7]", "+OK"], "pieces of {size}");
            assert_eq!(end, io::ErrorKind::InvalidData);
        }
    }
}
