//! What a replica says to its master, and what the master answers: no socket, no clock.
//!
//! The commands are those of Redis's `syncWithMaster` and `replicationSendAck` (replication.c); what a newer version
//! adds to the handshake is a REPLCONF, and every REPLCONF is agreed to without a promise.

use crate::wire::{self, Reply};

/// A replica sends nothing longer than this.
const LONGEST: usize = 64 * 1024;

/// One replica's side of the connection.
#[derive(Debug, Default)]
pub struct Conversation {
    inbox: Vec<u8>,
}

/// What the replica wants next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// Send this back.
    Answer(&'static str),
    /// It asks for the data.
    Sync,
    /// It has processed the stream up to this offset.
    Acknowledged(u64),
}

impl Conversation {
    /// Takes what came from the socket, in pieces of any size.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.inbox.extend_from_slice(bytes);
    }

    /// The next thing said, once it is complete. `Err` is what was said instead, by something that is no replica.
    pub fn next(&mut self) -> Result<Option<Said>, String> {
        // A replica that is busy loading sends bare line ends, so that it is not taken for dead.
        let blank = self.inbox.iter().take_while(|byte| matches!(byte, b'\n' | b'\r')).count();
        self.inbox.drain(..blank);
        if self.inbox.first().is_some_and(|first| *first != b'*') {
            return Err(format!("{:?}", String::from_utf8_lossy(&self.inbox[..self.inbox.len().min(40)])));
        }
        let parsed = if self.inbox.is_empty() { None } else { wire::parse(&self.inbox).map_err(|e| e.to_string())? };
        let Some((request, used)) = parsed else {
            let endless = self.inbox.len() > LONGEST;
            return if endless { Err("a request without an end".into()) } else { Ok(None) };
        };
        self.inbox.drain(..used);
        let words: Vec<&str> = request.items().iter().filter_map(Reply::text).collect();
        Ok(Some(answer(&words)))
    }
}

fn answer(words: &[&str]) -> Said {
    let is = |index: usize, word: &str| words.get(index).is_some_and(|found| found.eq_ignore_ascii_case(word));
    match words.get(2).and_then(|offset| offset.parse().ok()) {
        Some(offset) if is(0, "REPLCONF") && is(1, "ACK") => Said::Acknowledged(offset),
        _ if is(0, "PSYNC") => Said::Sync,
        _ if is(0, "PING") => Said::Answer("+PONG\r\n"),
        // The target's masterauth is not ours to judge: who it is, it says itself on another connection.
        _ if is(0, "AUTH") || is(0, "REPLCONF") => Said::Answer("+OK\r\n"),
        _ => Said::Answer("-ERR this is a restore by switchmaster: it serves one replica and takes no commands\r\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(conversation: &mut Conversation) -> Vec<Said> {
        std::iter::from_fn(|| conversation.next().expect("a replica")).collect()
    }

    #[test]
    fn a_handshake_comes_in_pieces_of_any_size() {
        let mut whole = Vec::new();
        for request in [
            &["PING"][..],
            &["AUTH", "secret"],
            &["REPLCONF", "listening-port", "6379"],
            &["REPLCONF", "capa", "eof", "capa", "psync2"],
            &["PSYNC", "?", "-1"],
        ] {
            wire::encode(&mut whole, request);
        }
        let ok = || Said::Answer("+OK\r\n");
        let expected = [Said::Answer("+PONG\r\n"), ok(), ok(), ok(), Said::Sync];
        for size in [1, 7, whole.len()] {
            let mut conversation = Conversation::default();
            let mut heard = Vec::new();
            for piece in whole.chunks(size) {
                conversation.feed(piece);
                heard.extend(said(&mut conversation));
            }
            assert_eq!(heard, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn a_loading_replica_sends_line_ends_and_then_acknowledges() {
        let mut conversation = Conversation::default();
        conversation.feed(b"\n\n");
        assert_eq!(said(&mut conversation), []);
        conversation.feed(b"\n*3\r\n$8\r\nREPLCONF\r\n$3\r\nACK\r\n$2\r\n42\r\n");
        assert_eq!(said(&mut conversation), [Said::Acknowledged(42)]);
    }

    #[test]
    fn what_is_no_replica_is_told_so() {
        let mut conversation = Conversation::default();
        conversation.feed(b"GET / HTTP/1.1\r\n");
        assert!(conversation.next().is_err());
        let mut conversation = Conversation::default();
        conversation.feed(&[b"*1\r\n$70000\r\n".as_slice(), &[b'x'; LONGEST]].concat());
        assert!(conversation.next().is_err(), "nothing grows without bound");
        let mut conversation = Conversation::default();
        conversation.feed(b"*1\r\n$8\r\nFLUSHALL\r\n");
        assert!(matches!(said(&mut conversation)[..], [Said::Answer(error)] if error.starts_with("-ERR")));
    }
}
