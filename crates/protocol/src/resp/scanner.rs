//! Finds where requests and replies end in a stream of bytes, and nothing else.
//!
//! A scanner resumes at any byte, never looks at a byte twice, skips bulk bodies by their length,
//! holds no bytes and allocates nothing: at most 64 bytes of state for a connection.

use super::length::{Length, Step, whole};

/// The server's `PROTO_INLINE_MAX_SIZE`: an inline request may not be longer.
const INLINE_LIMIT: u32 = 64 * 1024;
/// The server's default `proto-max-bulk-len`.
pub(super) const ARGUMENT_LIMIT: usize = 512 * 1024 * 1024;
/// What a scan may meet whole in one input; a longer value takes the general way.
pub(super) const VALUE_LIMIT: usize = u32::MAX as usize >> 1;
/// The server's limit to the number of arguments.
const COUNT_LIMIT: usize = i32::MAX as usize;

/// What feeding bytes to a scanner came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scan {
    /// A whole frame ends after this many bytes of the input. What follows was not looked at.
    Frame(usize),
    /// All of the input was taken; the frame goes on (or none has begun).
    Partial,
    /// Not the protocol. The scanner stays invalid for good.
    Invalid(&'static str),
}

/// Finds the ends of requests as the server does: multibulk or inline.
///
/// `*0`, `*-1` and an empty inline line are frames too, though they get no reply.
/// Like the server it does not look at the byte after a `\r`, nor at the two after a body:
/// to be stricter would be to see other requests than the server sees.
#[derive(Clone, Debug, Default)]
pub struct RequestScanner {
    phase: RequestPhase,
    length: Length,
    /// Arguments whose end was not seen yet; of an inline request its bytes so far.
    pending: u32,
    /// Bytes of the body, with its CRLF, still to come.
    skip: u64,
}

/// Start → Count → Argument → Size → Body → Argument … → Start; Start → Inline → Start;
/// any → Broken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum RequestPhase {
    /// Between requests.
    #[default]
    Start,
    /// In the line that follows `*`.
    Count,
    /// Before a `$`.
    Argument,
    /// In the line that follows `$`.
    Size,
    /// In the `skip` bytes of an argument.
    Body,
    /// In an inline request.
    Inline,
    /// After something that is no request.
    Broken,
}

impl RequestScanner {
    /// Takes input up to the end of the next request.
    #[inline]
    pub fn scan(&mut self, input: &[u8]) -> Scan {
        let mut rest = input;
        let mut pending = match self.phase {
            RequestPhase::Start => match whole(b'*', COUNT_LIMIT, input) {
                Some((count @ 1.., used)) => {
                    rest = &input[used..];
                    count
                }
                _ => return self.scan_slowly(input, 0),
            },
            RequestPhase::Argument => self.pending as usize,
            _ => return self.scan_slowly(input, 0),
        };
        // Arguments that are wholly here. What is not, the slow way takes up where this ends.
        while let Some((size, used)) = whole(b'$', ARGUMENT_LIMIT, rest)
            && let Some(after) = rest.get(used + size + 2..)
        {
            rest = after;
            pending -= 1;
            if pending == 0 {
                self.phase = RequestPhase::Start;
                return Scan::Frame(input.len() - rest.len());
            }
        }
        self.phase = RequestPhase::Argument;
        self.pending = pending as u32;
        self.scan_slowly(input, input.len() - rest.len())
    }

    /// Whether the bytes so far end with a whole request.
    pub fn at_boundary(&self) -> bool {
        self.phase == RequestPhase::Start
    }

    /// Bytes of the present body, its CRLF included, still to come; 0 outside a body.
    pub fn body_remaining(&self) -> u64 {
        match self.phase {
            RequestPhase::Body => self.skip,
            _ => 0,
        }
    }

    fn scan_slowly(&mut self, input: &[u8], mut at: usize) -> Scan {
        while let Some(&byte) = input.get(at) {
            match self.phase {
                RequestPhase::Start if byte == b'*' => {
                    self.phase = RequestPhase::Count;
                    at += 1;
                }
                RequestPhase::Start => {
                    self.phase = RequestPhase::Inline;
                    self.pending = 0;
                }
                RequestPhase::Count => {
                    at += 1;
                    match self.length.push(byte) {
                        Step::More => {}
                        Step::Done(..=0, _) => {
                            self.phase = RequestPhase::Start;
                            return Scan::Frame(at);
                        }
                        Step::Done(count, _) if count <= COUNT_LIMIT as i64 => {
                            self.pending = count as u32;
                            self.phase = RequestPhase::Argument;
                        }
                        _ => return self.broken("invalid multibulk length"),
                    }
                }
                RequestPhase::Argument if byte == b'$' => {
                    self.phase = RequestPhase::Size;
                    at += 1;
                }
                RequestPhase::Argument => return self.broken("expected '$'"),
                RequestPhase::Size => {
                    at += 1;
                    match self.length.push(byte) {
                        Step::More => {}
                        Step::Done(size @ 0.., _) if size <= ARGUMENT_LIMIT as i64 => {
                            self.skip = size as u64 + 2;
                            self.phase = RequestPhase::Body;
                        }
                        _ => return self.broken("invalid bulk length"),
                    }
                }
                RequestPhase::Body => {
                    let here = self.skip.min((input.len() - at) as u64);
                    self.skip -= here;
                    at += here as usize;
                    if self.skip == 0 {
                        self.pending -= 1;
                        if self.pending == 0 {
                            self.phase = RequestPhase::Start;
                            return Scan::Frame(at);
                        }
                        self.phase = RequestPhase::Argument;
                    }
                }
                RequestPhase::Inline => {
                    let rest = &input[at..];
                    // The server looks for the end with strchr: a NUL hides it.
                    let stop = rest.iter().position(|&byte| byte == b'\n' || byte == 0);
                    let taken = stop.unwrap_or(rest.len());
                    if taken > (INLINE_LIMIT - self.pending) as usize {
                        return self.broken("too big inline request");
                    }
                    self.pending += taken as u32;
                    at += taken;
                    match stop {
                        None => {}
                        Some(stop) if rest[stop] == 0 => {
                            return self.broken("NUL in an inline request");
                        }
                        Some(_) => {
                            self.phase = RequestPhase::Start;
                            return Scan::Frame(at + 1);
                        }
                    }
                }
                RequestPhase::Broken => return Scan::Invalid("after an invalid request"),
            }
        }
        match self.phase {
            RequestPhase::Broken => Scan::Invalid("after an invalid request"),
            _ => Scan::Partial,
        }
    }

    #[cold]
    fn broken(&mut self, why: &'static str) -> Scan {
        self.phase = RequestPhase::Broken;
        Scan::Invalid(why)
    }
}

/// Finds the ends of replies, RESP2 and RESP3.
///
/// A push is a frame of its own. An attribute belongs to the reply it precedes, in one frame.
/// Streamed strings and aggregates (`$?`, `*?`) are invalid: no server sends them.
///
/// One counter is enough for any nesting: a scalar takes one from what is owed, an array of n
/// takes one and adds n, a map adds 2n, an attribute takes none and adds 2n.
#[derive(Clone, Debug, Default)]
pub struct ReplyScanner {
    phase: ReplyPhase,
    kind: u8,
    /// The type byte of the length line being read.
    opening: u8,
    length: Length,
    /// Elements owed until the frame ends; 0 between frames.
    pending: u64,
    /// Bytes of the body, with its CRLF, still to come.
    skip: u64,
}

/// Start or Type → Text ⇄ TextReturn, or Length, or Length → Body; each → Type, or → Start where
/// nothing is owed any more; any → Broken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ReplyPhase {
    /// Between frames.
    #[default]
    Start,
    /// Before a type byte within a frame.
    Type,
    /// In a line of text.
    Text,
    /// In a line of text, after a `\r`.
    TextReturn,
    /// In the line of a length or count.
    Length,
    /// In the `skip` bytes of a string.
    Body,
    /// After something that is no reply.
    Broken,
}

impl ReplyScanner {
    /// Takes input up to the end of the next reply or push.
    #[inline]
    pub fn scan(&mut self, input: &[u8]) -> Scan {
        if self.phase == ReplyPhase::Start {
            if input.starts_with(b"+OK\r\n") {
                self.kind = b'+';
                return Scan::Frame(5);
            }
            // A value that is wholly here, the other frequent reply.
            if input.first() == Some(&b'$')
                && let Some((size, used)) = whole(b'$', VALUE_LIMIT, input)
                && input.len() >= used + size + 2
            {
                self.kind = b'$';
                return Scan::Frame(used + size + 2);
            }
        }
        self.scan_any(input)
    }

    /// Whether the bytes so far end with a whole reply.
    pub fn at_boundary(&self) -> bool {
        self.phase == ReplyPhase::Start
    }

    /// Bytes of the present body, its CRLF included, still to come; 0 outside a body.
    pub fn body_remaining(&self) -> u64 {
        match self.phase {
            ReplyPhase::Body => self.skip,
            _ => 0,
        }
    }

    /// So many bytes of the present body passed by unseen, fewer than [`ReplyScanner::body_remaining`].
    pub fn skip_body(&mut self, bytes: u64) {
        debug_assert!(bytes < self.body_remaining());
        self.skip -= bytes;
    }

    /// The first byte of the frame in progress or just ended; of a reply that has an attribute
    /// its own first byte once that is known, else `|`. 0 before the first frame.
    pub fn kind(&self) -> u8 {
        self.kind
    }

    fn scan_any(&mut self, input: &[u8]) -> Scan {
        let mut at = 0;
        while let Some(&byte) = input.get(at) {
            match self.phase {
                ReplyPhase::Start | ReplyPhase::Type => {
                    if self.phase == ReplyPhase::Start {
                        self.pending = 1;
                        self.kind = byte;
                    } else if self.pending == 1 && self.kind == b'|' {
                        self.kind = byte;
                    }
                    match byte {
                        b'+' | b'-' | b':' | b',' | b'(' | b'#' | b'_' => {
                            at += 1;
                            self.phase = ReplyPhase::Text;
                        }
                        b'$' | b'*' | b'%' | b'~' | b'>' | b'|' | b'=' | b'!' => {
                            self.opening = byte;
                            if let Some((length, used)) = whole(byte, usize::MAX, &input[at..]) {
                                at += used;
                                if !self.open(length as u64) {
                                    return self.broken("too many elements");
                                }
                            } else {
                                at += 1;
                                self.phase = ReplyPhase::Length;
                            }
                        }
                        _ => return self.broken("unknown type of reply"),
                    }
                }
                ReplyPhase::Text | ReplyPhase::TextReturn => {
                    let rest = &input[at..];
                    match rest.iter().position(|&byte| byte == b'\n') {
                        None => {
                            at = input.len();
                            self.phase = match input[at - 1] {
                                b'\r' => ReplyPhase::TextReturn,
                                _ => ReplyPhase::Text,
                            };
                        }
                        Some(end) => {
                            let returned = match end {
                                0 => self.phase == ReplyPhase::TextReturn,
                                _ => rest[end - 1] == b'\r',
                            };
                            at += end + 1;
                            // A bare `\n`, as a module may send one, is part of the text.
                            self.phase = ReplyPhase::Text;
                            if returned {
                                self.close_one();
                            }
                        }
                    }
                }
                ReplyPhase::Length => {
                    at += 1;
                    match self.length.push(byte) {
                        Step::More => {}
                        Step::Done(-1, b'\n') if matches!(self.opening, b'$' | b'*') => {
                            self.close_one();
                        }
                        Step::Done(length @ 0.., b'\n') => {
                            if !self.open(length as u64) {
                                return self.broken("too many elements");
                            }
                        }
                        _ => return self.broken("invalid length in a reply"),
                    }
                }
                ReplyPhase::Body => {
                    let here = self.skip.min((input.len() - at) as u64);
                    self.skip -= here;
                    at += here as usize;
                    if self.skip == 0 {
                        self.close_one();
                    }
                }
                ReplyPhase::Broken => return Scan::Invalid("after an invalid reply"),
            }
            if self.pending == 0 {
                self.phase = ReplyPhase::Start;
                return Scan::Frame(at);
            }
        }
        match self.phase {
            ReplyPhase::Broken => Scan::Invalid("after an invalid reply"),
            _ => Scan::Partial,
        }
    }

    /// An element ended.
    fn close_one(&mut self) {
        self.pending -= 1;
        self.phase = ReplyPhase::Type;
    }

    /// A length line was read. False if it owes more than can be counted.
    fn open(&mut self, length: u64) -> bool {
        self.phase = ReplyPhase::Type;
        // A length is at most i64::MAX, so twice of it fits.
        let owed = match self.opening {
            b'$' | b'=' | b'!' => {
                self.skip = length + 2;
                self.phase = ReplyPhase::Body;
                return true;
            }
            b'%' => self.pending.checked_add(2 * length).map(|sum| sum - 1),
            b'|' => self.pending.checked_add(2 * length),
            _ => self.pending.checked_add(length).map(|sum| sum - 1),
        };
        match owed {
            Some(owed) => self.pending = owed,
            None => return false,
        }
        true
    }

    #[cold]
    fn broken(&mut self, why: &'static str) -> Scan {
        self.phase = ReplyPhase::Broken;
        Scan::Invalid(why)
    }
}

#[cfg(test)]
#[path = "scanner_tests.rs"]
mod tests;
