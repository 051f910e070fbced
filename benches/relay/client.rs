//! A connection of a load, over TCP or a Unix socket.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

/// Not inline: twemproxy knows no inline requests.
pub const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";
/// The length of its reply.
pub const PONG: usize = 7;

/// Where a target is.
#[derive(Clone, Debug)]
pub enum Address {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// Either stream.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A connection that counts what it expects by length.
pub struct Client {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
}

impl Client {
    /// Connects.
    pub async fn connect(address: &Address) -> io::Result<Client> {
        let stream: Box<dyn Stream> = match address {
            Address::Tcp(addr) => {
                let stream = TcpStream::connect(addr).await?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
            Address::Unix(path) => Box::new(UnixStream::connect(path).await?),
        };
        Ok(Client { stream, buffer: vec![0; 64 * 1024] })
    }

    /// One PING.
    pub async fn ping(&mut self) -> io::Result<()> {
        self.exchange(PING, PONG).await
    }

    /// Sends `request` and waits for replies of this many bytes together.
    pub async fn exchange(&mut self, request: &[u8], mut expected: usize) -> io::Result<()> {
        self.stream.write_all(request).await?;
        let mut first = true;
        while expected > 0 {
            let most = expected.min(self.buffer.len());
            let read = self.stream.read(&mut self.buffer[..most]).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if std::mem::take(&mut first) && self.buffer[0] == b'-' {
                return Err(io::Error::other(String::from_utf8_lossy(&self.buffer[..read]).into_owned()));
            }
            expected -= read;
        }
        Ok(())
    }
}
