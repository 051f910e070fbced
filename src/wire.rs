//! A plain Redis connection: requests and replies as raw RESP over one socket.
//!
//! Deliberately not the `redis` crate: nothing reconnects, retries or matches replies behind the caller's back.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::secret::Credentials;

/// One connection. Not cancel-safe: after a cancelled call, drop it.
#[derive(Debug)]
pub struct Wire<S = TcpStream> {
    stream: S,
    buffer: Vec<u8>,
    consumed: usize,
}

/// One reply, RESP2 or RESP3 (maps and sets are flattened into arrays).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// `+…`, and RESP3 numbers and booleans as their text.
    Simple(String),
    /// `-…` without the dash.
    Error(String),
    /// `:…`
    Integer(i64),
    /// `$…`
    Bulk(Vec<u8>),
    /// Any null.
    Nil,
    /// `*…`, `%…`, `~…`
    Array(Vec<Reply>),
    /// `>…`
    Push(Vec<Reply>),
}

impl Wire {
    /// Connects, with Nagle's algorithm off.
    pub async fn connect(addr: SocketAddr) -> io::Result<Wire> {
        let stream = TcpStream::connect(addr).await?;
        // A client that dials a dead port of its own host can meet itself.
        if stream.local_addr()? == stream.peer_addr()? {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        stream.set_nodelay(true)?;
        Ok(Wire::over(stream))
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
        self.stream.local_addr()
    }
}

impl Wire<UnixStream> {
    /// Connects to the socket at `path`.
    pub async fn connect_unix(path: &Path) -> io::Result<Wire<UnixStream>> {
        Ok(Wire::over(UnixStream::connect(path).await?))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// A fresh connection over a socket of whatever kind.
    pub fn over(stream: S) -> Wire<S> {
        Wire { stream, buffer: Vec::with_capacity(4096), consumed: 0 }
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
        let mut bytes = Vec::with_capacity(64);
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
            if let Some((reply, used)) = parse(&self.buffer[self.consumed..])? {
                self.consumed += used;
                if self.consumed == self.buffer.len() {
                    self.buffer.clear();
                    self.consumed = 0;
                }
                return Ok(reply);
            }
            if self.consumed > 0 {
                self.buffer.drain(..self.consumed);
                self.consumed = 0;
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// The socket and what was read from it beyond the last reply, for what is not made of replies.
    pub fn into_parts(mut self) -> (S, Vec<u8>) {
        self.buffer.drain(..self.consumed);
        (self.stream, self.buffer)
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

impl Reply {
    /// The text of a bulk or simple string.
    pub fn text(&self) -> Option<&str> {
        match self {
            Reply::Simple(text) => Some(text),
            Reply::Bulk(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// The elements of an array.
    pub fn items(&self) -> &[Reply] {
        match self {
            Reply::Array(items) | Reply::Push(items) => items,
            _ => &[],
        }
    }

    /// The value of `key` in an array of alternating keys and values.
    pub fn field(&self, key: &str) -> Option<&str> {
        self.items().chunks_exact(2).find(|pair| pair[0].text() == Some(key)).and_then(|pair| pair[1].text())
    }
}

impl std::fmt::Display for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Reply::Simple(text) => write!(f, "+{text}"),
            Reply::Error(text) => write!(f, "-{text}"),
            Reply::Integer(number) => write!(f, ":{number}"),
            Reply::Bulk(bytes) => write!(f, "{:?}", String::from_utf8_lossy(bytes)),
            Reply::Nil => f.write_str("nil"),
            Reply::Array(items) | Reply::Push(items) => {
                f.write_str("[")?;
                for (index, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if index == 0 { "" } else { ", " })?;
                }
                f.write_str("]")
            }
        }
    }
}

/// Appends one request.
pub fn encode<A: AsRef<[u8]>>(out: &mut Vec<u8>, request: &[A]) {
    out.extend_from_slice(format!("*{}\r\n", request.len()).as_bytes());
    for argument in request {
        let argument = argument.as_ref();
        out.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        out.extend_from_slice(argument);
        out.extend_from_slice(b"\r\n");
    }
}

/// The first reply in `bytes` (which are some) and its length, or `None` while it is incomplete.
pub fn parse(bytes: &[u8]) -> io::Result<Option<(Reply, usize)>> {
    let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") else {
        return Ok(None);
    };
    let line = String::from_utf8_lossy(&bytes[1..end]).into_owned();
    let rest = end + 2;
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, format!("not a reply: {:?}", &bytes[..end.min(40)]));
    Ok(match bytes[0] {
        b'+' | b'#' | b',' | b'(' => Some((Reply::Simple(line), rest)),
        b'-' => Some((Reply::Error(line), rest)),
        b':' => Some((Reply::Integer(line.parse().map_err(|_| invalid())?), rest)),
        b'_' => Some((Reply::Nil, rest)),
        b'$' | b'=' | b'!' => {
            let length: i64 = line.parse().map_err(|_| invalid())?;
            let Ok(length) = usize::try_from(length) else {
                return Ok(Some((Reply::Nil, rest)));
            };
            let Some(body) = bytes.get(rest..rest + length + 2) else {
                return Ok(None);
            };
            if !body.ends_with(b"\r\n") {
                return Err(invalid());
            }
            Some((Reply::Bulk(body[..length].to_vec()), rest + length + 2))
        }
        kind @ (b'*' | b'%' | b'~' | b'>') => {
            let count: i64 = line.parse().map_err(|_| invalid())?;
            let Ok(count) = usize::try_from(count) else {
                return Ok(Some((Reply::Nil, rest)));
            };
            let mut items = Vec::new();
            let mut at = rest;
            for _ in 0..if kind == b'%' { 2 * count } else { count } {
                let Some((item, used)) = (if at < bytes.len() { parse(&bytes[at..])? } else { None }) else {
                    return Ok(None);
                };
                items.push(item);
                at += used;
            }
            Some((if kind == b'>' { Reply::Push(items) } else { Reply::Array(items) }, at))
        }
        _ => return Err(invalid()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_whole_only_at_its_last_byte() {
        let whole = b"*3\r\n$3\r\nfoo\r\n:7\r\n*2\r\n+OK\r\n$-1\r\n";
        for cut in 0..whole.len() {
            assert_eq!(parse(&whole[..cut]).unwrap(), None, "{cut} bytes");
        }
        let (reply, used) = parse(whole).unwrap().unwrap();
        assert_eq!(used, whole.len());
        assert_eq!(reply.to_string(), "[\"foo\", :7, [+OK, nil]]");
    }

    #[test]
    fn a_stray_byte_is_not_a_reply() {
        assert!(parse(b"oops\r\n").is_err());
        assert!(parse(b"$3\r\nfoobar").is_err());
    }
}
