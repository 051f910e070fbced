//! One reply as a value, RESP2 or RESP3, and the first words of one that is not all there.
//!
//! What the peer sends is not trusted: any bytes are a reply, the beginning of one, or an error. Where a reply ends the
//! scanner says; nothing here recurses without a limit.

use std::fmt;

use super::scanner::{ReplyScanner, Scan};

/// Aggregates within aggregates: no command nests them a tenth as deep.
const DEEPEST: usize = 128;

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

/// Bytes that no server sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAReply {
    why: &'static str,
    /// How they begin.
    shown: String,
}

impl NotAReply {
    pub(super) fn new(why: &'static str, bytes: &[u8]) -> NotAReply {
        NotAReply { why, shown: bytes[..bytes.len().min(40)].escape_ascii().to_string() }
    }
}

impl fmt::Display for NotAReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a reply: {}: \"{}\"", self.why, self.shown)
    }
}

impl std::error::Error for NotAReply {}

impl From<NotAReply> for std::io::Error {
    fn from(error: NotAReply) -> std::io::Error {
        std::io::Error::new(std::io::ErrorKind::InvalidData, error.to_string())
    }
}

/// The first reply in `bytes` and its length, or `None` while it is incomplete.
///
/// # Errors
/// When no reply begins so.
pub fn parse(bytes: &[u8]) -> Result<Option<(Reply, usize)>, NotAReply> {
    match ReplyScanner::default().scan(bytes) {
        Scan::Frame(used) => Ok(Some((Reply::of(&bytes[..used])?, used))),
        Scan::Partial => Ok(None),
        Scan::Invalid(why) => Err(NotAReply::new(why, bytes)),
    }
}

/// What a push is about, or what RESP2 sends to subscribers in the shape of a reply; `None` for a reply.
pub fn announcement(frame: &[u8]) -> Option<&[u8]> {
    let kind = element(frame, 0)?;
    let is_push = frame.first() == Some(&b'>');
    let is_pubsub = matches!(kind, b"message" | b"pmessage" | b"smessage") || kind.ends_with(b"subscribe");
    (is_push || is_pubsub).then_some(kind)
}

/// The bulk string at `index` of a flat array or push; also of its whole beginning, if that is all there is.
pub fn element(frame: &[u8], index: usize) -> Option<&[u8]> {
    let mut rest = frame.strip_prefix(b"*").or_else(|| frame.strip_prefix(b">"))?;
    rest = &rest[rest.iter().position(|byte| *byte == b'\n')? + 1..];
    for at in 0.. {
        let end = rest.iter().position(|byte| *byte == b'\r')?;
        let length: usize = std::str::from_utf8(rest.get(1..end)?).ok()?.parse().ok()?;
        if rest.first() != Some(&b'$') {
            return None;
        }
        let body = rest.get(end + 2..)?;
        if at == index {
            return body.get(..length);
        }
        rest = body.get(length.checked_add(2)?..)?;
    }
    None
}

impl Reply {
    /// What the scanner found to be one reply.
    ///
    /// # Errors
    /// When it is none after all.
    pub fn of(frame: &[u8]) -> Result<Reply, NotAReply> {
        let mut rest = frame;
        value(&mut rest, 0).map_err(|why| NotAReply::new(why, frame))
    }

    /// The text of a bulk or simple string.
    pub fn text(&self) -> Option<&str> {
        match self {
            Reply::Simple(text) => Some(text),
            Reply::Bulk(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// An integer, also one that is sent as text; `None` for what is negative or no number.
    pub fn number(&self) -> Option<u64> {
        match self {
            Reply::Integer(number) => u64::try_from(*number).ok(),
            other => other.text()?.parse().ok(),
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

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
}
