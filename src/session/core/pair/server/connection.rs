//! One client's connection to a model server: what it has become, what it sent, what it is to be sent.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::data::{End, Key};
use super::reply::Reply;

#[derive(Debug, Default)]
pub struct Connection {
    /// Received and not looked at yet.
    pub input: Vec<u8>,
    /// Written and not taken yet.
    pub output: Vec<u8>,
    /// The client has said FIN.
    pub eof: bool,
    /// The server says FIN behind `output`.
    pub ended: bool,
    pub db: u32,
    pub resp3: bool,
    pub user: Option<String>,
    pub name: Vec<u8>,
    /// CLIENT SETINFO, NO-EVICT and the like, by kind.
    pub told: BTreeMap<String, Vec<u8>>,
    pub multi: Option<Multi>,
    pub watched: BTreeSet<Key>,
    /// A watched key was changed.
    pub dirty: bool,
    /// Channels, patterns, shard channels.
    pub subscriptions: [BTreeSet<Vec<u8>>; 3],
    pub monitors: bool,
    pub mode: ReplyMode,
    pub tracking: Option<Tracking>,
    pub blocked: Option<Blocked>,
    /// PSYNC: from here on it is a replica.
    pub replicates: bool,
    /// The last line was blank: what follows is read as inline (Valkey 8.1).
    pub reads_inline: bool,
    /// The end of the history after its last write, for WAIT.
    pub written: usize,
}

/// An open MULTI.
#[derive(Debug, Default)]
pub struct Multi {
    pub queue: Vec<Vec<Vec<u8>>>,
    pub aborted: bool,
}

/// CLIENT REPLY.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReplyMode {
    #[default]
    On,
    Off,
    /// The next request gets no reply.
    SkipNext,
    /// The present one gets none.
    Skip,
}

/// CLIENT TRACKING.
#[derive(Clone, Debug, Default)]
pub struct Tracking {
    pub broadcasts: bool,
    pub prefixes: Vec<Vec<u8>>,
    pub opt_in: bool,
    pub caching: bool,
    /// Read since, and not changed since.
    pub keys: BTreeSet<Vec<u8>>,
}

/// What a connection waits for.
#[derive(Clone, Debug)]
pub struct Blocked {
    pub on: Wait,
    pub until: Option<Instant>,
    /// Who has waited longer is served first.
    pub turn: u64,
    pub request: Vec<Vec<u8>>,
}

#[derive(Clone, Debug)]
pub enum Wait {
    /// An element of one of these lists, perhaps to be moved.
    Pop { keys: Vec<Vec<u8>>, end: End, to: Option<(Vec<u8>, End)> },
    /// WAIT for so many replicas.
    Replicas(usize),
}

impl Connection {
    /// A reply to the request at hand.
    pub fn reply(&mut self, reply: &Reply) {
        if self.mode == ReplyMode::On {
            reply.write(self.resp3, &mut self.output);
        }
    }

    /// Something said unasked, which CLIENT REPLY does not silence.
    pub fn push(&mut self, push: &Reply) {
        if !self.ended {
            push.write(self.resp3, &mut self.output);
        }
    }

    /// It may do nothing but subscribe, PING and leave.
    pub fn is_subscriber(&self) -> bool {
        !self.resp3 && self.subscriptions.iter().any(|names| !names.is_empty())
    }

    /// What RESET leaves: the library's name (networking.c, resetCommand).
    pub fn reset(&mut self, user: Option<String>) {
        let told = std::mem::take(&mut self.told).into_iter().filter(|(kind, _)| kind.starts_with("SETINFO")).collect();
        *self = Connection {
            input: std::mem::take(&mut self.input),
            output: std::mem::take(&mut self.output),
            eof: self.eof,
            user,
            told,
            written: self.written,
            ..Connection::default()
        };
    }

    pub fn unwatch(&mut self) {
        self.watched.clear();
        self.dirty = false;
    }
}
