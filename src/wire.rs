//! A plain Redis connection: requests and replies as raw RESP over one socket.
//!
//! Deliberately not the `redis` crate: nothing reconnects, retries or matches replies behind the caller's back. What the
//! peer sends is not trusted: any bytes are a reply, the beginning of one, or an error, and a length that is announced
//! takes no memory before its bytes are there.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::net::{Conn, Connector};
use crate::resp::scanner::{ReplyScanner, Scan};
use crate::secret::Credentials;

/// Aggregates within aggregates: no command nests them a tenth as deep.
const DEEPEST: usize = 128;
/// Bytes of one reply, twice the server's default `proto-max-bulk-len`.
const LONGEST: usize = 1 << 30;

/// One connection. Not cancel-safe: after a cancelled call, drop it.
#[derive(Debug)]
pub struct Wire<S = Conn> {
    stream: S,
    buffer: Vec<u8>,
    consumed: usize,
    /// Has seen the bytes of the buffer up to `scanned`: no byte is looked at twice until its reply is whole.
    scanner: ReplyScanner,
    scanned: usize,
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
        Wire { stream, buffer: Vec::with_capacity(4096), consumed: 0, scanner: ReplyScanner::default(), scanned: 0 }
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
            match self.scanner.scan(&self.buffer[self.scanned..]) {
                Scan::Frame(used) => {
                    self.scanned += used;
                    let reply = whole(&self.buffer[self.consumed..self.scanned]);
                    self.consumed = self.scanned;
                    if self.consumed == self.buffer.len() {
                        self.buffer.clear();
                        (self.consumed, self.scanned) = (0, 0);
                    }
                    return reply;
                }
                Scan::Partial => self.scanned = self.buffer.len(),
                Scan::Invalid(why) => return Err(invalid(why, &self.buffer[self.consumed..])),
            }
            if self.consumed > 0 {
                self.buffer.drain(..self.consumed);
                (self.consumed, self.scanned) = (0, self.buffer.len());
            }
            if self.buffer.len() > LONGEST {
                return Err(invalid("a reply of more than 1 GiB", &self.buffer));
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

/// The first reply in `bytes` and its length, or `None` while it is incomplete.
pub fn parse(bytes: &[u8]) -> io::Result<Option<(Reply, usize)>> {
    match ReplyScanner::default().scan(bytes) {
        Scan::Frame(used) => Ok(Some((whole(&bytes[..used])?, used))),
        Scan::Partial => Ok(None),
        Scan::Invalid(why) => Err(invalid(why, bytes)),
    }
}

/// What the scanner found to be one reply.
fn whole(mut frame: &[u8]) -> io::Result<Reply> {
    let start = frame;
    value(&mut frame, 0).map_err(|why| invalid(why, start))
}

/// Takes the first value from `rest`, which lies within so many aggregates.
fn value(rest: &mut &[u8], depth: usize) -> Result<Reply, &'static str> {
    if depth > DEEPEST {
        return Err("aggregates nested too deep");
    }
    loop {
        let (kind, line) = line(rest)?;
        let text = || String::from_utf8_lossy(line).into_owned();
        return Ok(match kind {
            b'+' | b'#' | b',' | b'(' => Reply::Simple(text()),
            b'-' => Reply::Error(text()),
            b':' => Reply::Integer(number(line)?),
            b'_' => Reply::Nil,
            b'$' | b'=' | b'!' => match length(line)? {
                None => Reply::Nil,
                Some(length) => {
                    let (body, after) = rest.split_at_checked(length).ok_or("a string that ends early")?;
                    *rest = after.strip_prefix(b"\r\n").ok_or("a string longer than its length")?;
                    Reply::Bulk(body.to_vec())
                }
            },
            b'*' | b'%' | b'~' | b'>' | b'|' => {
                let Some(count) = length(line)? else { return Ok(Reply::Nil) };
                let count = if matches!(kind, b'%' | b'|') { count.saturating_mul(2) } else { count };
                let items: Result<Vec<Reply>, _> = (0..count).map(|_| value(rest, depth + 1)).collect();
                match kind {
                    b'>' => Reply::Push(items?),
                    // An attribute says something about the value that follows it, which nobody here asks for.
                    b'|' => {
                        items?;
                        continue;
                    }
                    _ => Reply::Array(items?),
                }
            }
            _ => return Err("unknown type of reply"),
        });
    }
}

/// Takes the first line: its type byte and what follows it.
fn line<'a>(rest: &mut &'a [u8]) -> Result<(u8, &'a [u8]), &'static str> {
    let end = rest.windows(2).position(|pair| pair == b"\r\n").ok_or("a line without end")?;
    let (kind, text) = rest[..end].split_first().ok_or("an empty line")?;
    *rest = &rest[end + 2..];
    Ok((*kind, text))
}

fn number(line: &[u8]) -> Result<i64, &'static str> {
    std::str::from_utf8(line).ok().and_then(|text| text.parse().ok()).ok_or("not a number")
}

/// `None`: a null.
fn length(line: &[u8]) -> Result<Option<usize>, &'static str> {
    number(line).map(|length| usize::try_from(length).ok())
}

fn invalid(why: &str, bytes: &[u8]) -> io::Error {
    let shown = bytes[..bytes.len().min(40)].escape_ascii();
    io::Error::new(io::ErrorKind::InvalidData, format!("not a reply: {why}: \"{shown}\""))
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

    /// A peer that is no server, or one that was taken over.
    #[test]
    fn bytes_that_are_no_reply_are_an_error_and_end_nothing() {
        for bytes in [
            &b"\r\n"[..],
            b"\r\n+OK\r\n",
            b"*1\r\n\r\n",
            b":\r\n",
            b":9223372036854775808\r\n",
            b"$-2\r\n",
            b"%-1\r\n",
            b"%9223372036854775807\r\n%9223372036854775807\r\n%9223372036854775807\r\n",
        ] {
            assert!(parse(bytes).is_err(), "{}", bytes.escape_ascii());
        }
        for bytes in [&b""[..], b"$9223372036854775807\r\nx", b"*9223372036854775807\r\n:1\r\n"] {
            assert_eq!(parse(bytes).unwrap(), None, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn nesting_has_an_end() {
        let nested = |depth: usize| [b"*1\r\n".repeat(depth), b":1\r\n".to_vec()].concat();
        assert!(parse(&nested(DEEPEST)).unwrap().is_some());
        for depth in [DEEPEST + 1, 500_000] {
            let refused = parse(&nested(depth)).unwrap_err().to_string();
            assert!(refused.contains("nested too deep"), "{refused}");
        }
    }

    #[test]
    fn an_attribute_passes_and_its_value_stays() {
        let (reply, used) =
            parse(b"|1\r\n+ttl\r\n:3\r\n*1\r\n|1\r\n+a\r\n+b\r\n$1\r\nx\r\n+next\r\n").unwrap().unwrap();
        assert_eq!((reply.to_string().as_str(), used), ("[\"x\"]", 37));
    }

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
