//! What load clients are to do, and under which keys they write.
//!
//! Plain data: nothing here connects.

use std::time::Duration;

use crate::secret::Credentials;

/// How many clients do what.
#[derive(Clone, Debug)]
pub struct LoadSpec {
    /// Clients that SET a new key each time.
    pub writers: usize,
    /// Clients that GET what a writer wrote shortly before.
    pub readers: usize,
    /// Clients that INCR a counter of their own.
    pub counters: usize,
    /// Clients that write by a script which takes `script_time`.
    pub scripts: usize,
    /// Clients that connect and then only wait.
    pub idle: usize,
    /// How long a script keeps the server busy before it writes.
    pub script_time: Duration,
    /// Requests per second and client, at most.
    pub rate: f64,
    /// Requests sent before their replies are read.
    pub pipeline: usize,
    /// Bytes of a value.
    pub value_size: usize,
    /// Clients are spread over this many databases.
    pub dbs: u32,
    /// How the clients authenticate.
    pub auth: Option<Credentials>,
    /// A new connection for each request, as php-fpm does.
    pub connect_each_time: bool,
    /// A request without a reply for this long has hung; its connection is given up.
    pub reply_limit: Duration,
    /// The clients end after this time by themselves.
    pub time_limit: Duration,
}

impl Default for LoadSpec {
    /// The load of the acceptance tests: 20 writers over 4 databases, 10 readers, 500 requests/s each.
    fn default() -> Self {
        LoadSpec {
            writers: 20,
            readers: 10,
            counters: 0,
            scripts: 0,
            idle: 0,
            script_time: Duration::from_millis(40),
            rate: 500.0,
            pipeline: 1,
            value_size: 64,
            dbs: 4,
            auth: None,
            connect_each_time: false,
            reply_limit: Duration::from_secs(60),
            time_limit: Duration::from_secs(300),
        }
    }
}

impl LoadSpec {
    /// No client at all, to be filled in.
    pub fn none() -> LoadSpec {
        LoadSpec { writers: 0, readers: 0, ..LoadSpec::default() }
    }

    /// What each client does, in the order of their numbers.
    pub(super) fn kinds(&self) -> Vec<Kind> {
        let groups = [
            (Kind::Writer, self.writers),
            (Kind::Script, self.scripts),
            (Kind::Counter, self.counters),
            (Kind::Reader, self.readers),
            (Kind::Idle, self.idle),
        ];
        groups.into_iter().flat_map(|(kind, count)| std::iter::repeat_n(kind, count)).collect()
    }
}

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// SETs a new key each time.
    Writer,
    /// Writes a new key each time by a script that first keeps the server busy.
    Script,
    /// INCRs its counter.
    Counter,
    /// GETs what a writer wrote shortly before.
    Reader,
    /// Connects and waits.
    Idle,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Writer => "writer",
            Kind::Script => "script",
            Kind::Counter => "counter",
            Kind::Reader => "reader",
            Kind::Idle => "idle",
        }
    }
}

/// The keys of one load, marked so that several can share a cluster.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    pub(super) prefix: String,
    /// Bytes of a value.
    pub(super) value_size: usize,
}

impl Keys {
    /// The key of a client's write.
    pub(super) fn key(&self, kind: Kind, client: usize, write: u64) -> String {
        format!("{}:{}-{client}:{write}", self.prefix, kind.name())
    }

    /// The key of a client's counter.
    pub(super) fn counter(&self, client: usize) -> String {
        format!("{}:counter-{client}", self.prefix)
    }

    /// The value that belongs to a key and to no other.
    pub(super) fn value(&self, key: &str) -> String {
        format!("{key}={:x<1$}", "", self.value_size.saturating_sub(key.len() + 1))
    }
}
