//! The conversation that gives a fresh connection a client's state, before any request of the client flows there.
//!
//! Sans-IO. When it is over, the next reply on the connection belongs to the client's own requests; what the server said
//! unasked meanwhile is for the client.

use super::state::{Expect, Restore};
use crate::node::{auth, refusal};
use crate::resp::buffer::ReplyBuffer;
use crate::resp::reply::{NotAReply, announcement};

/// Of one reply, and of what the server says unasked meanwhile.
const MOST_BYTES: usize = 4 * 1024 * 1024;

/// A restoration whose requests were sent.
#[derive(Debug)]
pub struct Restoration<'a> {
    expected: std::slice::Iter<'a, Expect>,
    replies: ReplyBuffer,
    unasked: Vec<u8>,
    /// AUTHs that the node did not need: it has no password.
    pub auth_not_needed: u64,
}

/// How far it is.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// More replies must come.
    More,
    /// The connection is in the client's state. The bytes are for the client.
    Done(Vec<u8>),
}

/// Why a connection cannot be the client's.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is not the protocol, or there is no end of it.
    Broken,
    /// The node is not, or not yet, the master.
    NotNow,
    /// It refused the client's credentials, or what they must be allowed: its line.
    Auth(String),
    /// It refused something else that the client's state needs.
    Other,
}

impl<'a> Restoration<'a> {
    /// Of a connection on which the requests of `restore` are sent.
    pub fn new(restore: &'a Restore) -> Restoration<'a> {
        Restoration {
            expected: restore.expect.iter(),
            replies: ReplyBuffer::new(MOST_BYTES),
            unasked: Vec::new(),
            auth_not_needed: 0,
        }
    }

    /// Takes what the server said; nothing at the beginning.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Progress, Refusal> {
        self.replies.room()?.extend_from_slice(bytes);
        while let Some(expect) = self.expected.as_slice().first() {
            let Some(reply) = self.replies.take()? else { return Ok(Progress::More) };
            match announcement(reply) {
                Some(word) if !(*expect == Expect::Subscribed && word.ends_with(b"subscribe")) => {
                    self.unasked.extend_from_slice(reply);
                    if self.unasked.len() > MOST_BYTES {
                        return Err(Refusal::Broken);
                    }
                }
                _ => {
                    self.auth_not_needed += u64::from(check(*expect, reply)?);
                    self.expected.next();
                }
            }
        }
        self.unasked.append(self.replies.room()?);
        Ok(Progress::Done(std::mem::take(&mut self.unasked)))
    }
}

impl From<NotAReply> for Refusal {
    fn from(_: NotAReply) -> Refusal {
        Refusal::Broken
    }
}

/// Whether the reply is what it must be; true for an AUTH that the node did not need.
fn check(expect: Expect, reply: &[u8]) -> Result<bool, Refusal> {
    let is_error = reply.first() == Some(&b'-');
    let line = || String::from_utf8_lossy(reply.trim_ascii_end()).into_owned();
    if is_error && refusal::is_passing(reply) {
        return Err(Refusal::NotNow);
    }
    match expect {
        Expect::Anything | Expect::Loaded => Ok(false),
        Expect::Queued if reply == b"+QUEUED\r\n" => Ok(false),
        Expect::Queued => Err(Refusal::Other),
        Expect::Authenticated if auth::is_not_needed(reply) => Ok(true),
        Expect::Authenticated if is_error => Err(Refusal::Auth(line())),
        Expect::Accepted if is_error && auth::is_refused(reply) => Err(Refusal::Auth(line())),
        Expect::Accepted | Expect::Subscribed if is_error => Err(Refusal::Other),
        Expect::Authenticated | Expect::Accepted | Expect::Subscribed => Ok(false),
    }
}
