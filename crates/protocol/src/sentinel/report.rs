//! What the outside reports to the tracker: answers of Sentinels and nodes, already parsed and resolved.
//!
//! Plain data. An answer always carries the instant its question was *sent*: what it says was true no earlier.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::address::HostPort;
use crate::secret::Credentials;
use crate::sentinel::event::Kind;

/// One thing that happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// A Sentinel said something, or is gone.
    Sentinel(HostPort, FromSentinel),
    /// A Redis node said something, or is gone.
    Node(SocketAddr, FromNode),
    /// Sessions have received this many replies in all, more than at the last look: the master lives.
    Replies(u64),
    /// A session's backend of this term closed its connection.
    SessionEof {
        /// The term of that backend.
        term: u64,
    },
    /// A session could not dial the master of this term.
    SessionDialFailed {
        /// The term that was dialled.
        term: u64,
    },
    /// The node of this term refused a request as only a replica or a loading node does.
    SessionRefused {
        /// The term of that backend.
        term: u64,
    },
    /// The node refused the credentials that a session replayed.
    SessionAuthRefused {
        /// The term that was dialled.
        term: u64,
        /// The server's error line.
        error: String,
    },
    /// A client's AUTH succeeded with these.
    Credentials(Credentials),
    /// The configured credentials for the nodes are these now.
    Configured(Option<Credentials>),
    /// The operator holds requests until then.
    Hold {
        /// When the hold ends by itself.
        until: Instant,
    },
    /// The operator's hold ends.
    Release,
    /// Time went by.
    Tick,
}

/// From one Sentinel.
#[derive(Clone, Debug)]
pub enum FromSentinel {
    /// Connected and subscribed; an answer follows.
    Connected,
    /// The answer to a whole poll.
    Answer(Box<SentinelAnswer>),
    /// A message of its subscription, its addresses mapped and resolved.
    Event {
        /// What happened.
        kind: Kind,
        /// Whom the message calls the master.
        master: Option<SocketAddr>,
        /// The node it is about.
        node: Option<SocketAddr>,
    },
    /// The connection is gone, could not be made, or did not answer in time.
    Lost {
        /// Why, in plain words with the address.
        error: String,
        /// It takes connections and does not answer: it lives, and may only be slow.
        mute: bool,
    },
    /// Worth a line in the log, once.
    Notice(String),
}

/// One poll of a Sentinel: MASTER, GET-MASTER-ADDR-BY-NAME, MASTER again, SENTINELS, REPLICAS, CKQUORUM.
#[derive(Clone, Debug, PartialEq)]
pub struct SentinelAnswer {
    /// When the question was sent.
    pub asked: Instant,
    /// Its own run id, by which two addresses of one Sentinel are known; `None` where MYID is not allowed.
    pub myid: Option<String>,
    /// Whom it names, when its two MASTER answers had one epoch.
    pub claim: Option<Claim>,
    /// Why there is no claim, in plain words.
    pub problem: Option<String>,
    /// The other Sentinels it knows; `None` when it did not say.
    pub peers: Option<Vec<Peer>>,
    /// The replicas it knows; `None` when it did not say.
    pub replicas: Option<Vec<ReplicaFact>>,
    /// CKQUORUM: `Ok` or the server's words; `None` when it may not be asked.
    pub quorum: Option<Result<(), String>>,
}

impl SentinelAnswer {
    /// It names this node as the master.
    pub fn names(&self, addr: SocketAddr) -> bool {
        self.claim.as_ref().is_some_and(|claim| claim.addr == addr)
    }

    /// It lists this node as a replica.
    pub fn lists(&self, addr: SocketAddr) -> bool {
        self.replicas.iter().flatten().any(|replica| replica.addr == addr)
    }

    /// Its Sentinel is replacing the master that it names.
    pub fn is_failing_over(&self) -> bool {
        self.claim.as_ref().is_some_and(|claim| claim.failover)
    }
}

/// The master that a Sentinel names: GET-MASTER-ADDR's address with MASTER's epoch, and what MASTER says of that node.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// Mapped and resolved.
    pub addr: SocketAddr,
    /// `config-epoch`: the version of this claim.
    pub epoch: u64,
    /// The node's run id as Sentinel last read it; `None` when it has not yet, or describes the master before.
    pub run_id: Option<String>,
    /// `s_down`.
    pub s_down: bool,
    /// `o_down`.
    pub o_down: bool,
    /// `disconnected`.
    pub disconnected: bool,
    /// `failover_in_progress`.
    pub failover: bool,
    /// Votes needed for `o_down`.
    pub quorum: u64,
    /// `num-other-sentinels`.
    pub other_sentinels: u64,
    /// `down-after-milliseconds`.
    pub down_after: Duration,
    /// `failover-timeout`.
    pub failover_timeout: Duration,
}

/// A Sentinel that another one knows.
#[derive(Clone, Debug, PartialEq)]
pub struct Peer {
    /// Where it says it listens.
    pub addr: HostPort,
    /// Its run id.
    pub run_id: String,
    /// Its peer has marked it down (s_down).
    pub s_down: bool,
}

/// A replica as a Sentinel sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplicaFact {
    /// Mapped and resolved.
    pub addr: SocketAddr,
    /// `role-reported=master`: it was a master at this Sentinel's last INFO, up to 10 s ago.
    pub reported_master: bool,
    /// `s_down`, `o_down` or `disconnected`.
    pub down: bool,
    /// `master-link-status`: ok.
    pub link_up: bool,
    /// `master-link-down-time`: zero while the link is up, and where it never had a master.
    pub link_down_for: Duration,
    /// `slave-repl-offset`.
    pub offset: u64,
    /// `slave-priority` is 0: never promoted.
    pub never_promoted: bool,
}

/// From one Redis node.
#[derive(Clone, Debug)]
pub enum FromNode {
    /// It answered ROLE.
    Answer(Box<NodeAnswer>),
    /// The connection was closed by the other side.
    Eof,
    /// Nobody listens there: the process is gone.
    Refused(String),
    /// It could not be reached, or did not answer in time.
    Silent(String),
    /// Worth a line in the log, once.
    Notice(String),
}

/// One answer of a Redis node.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeAnswer {
    /// When the question was sent.
    pub asked: Instant,
    /// Distinguishes the control connections to one node: the same number is surely the same process.
    pub connection: u64,
    /// What ROLE said.
    pub role: Role,
    /// What INFO said on this connection, when it was asked too.
    pub info: Option<Info>,
    /// NOPERM, when INFO was asked: the node's words.
    pub info_refused: Option<String>,
    /// [`crate::sentinel::login::Login::id`] of what it was asked with.
    pub login: u64,
}

/// The reply to ROLE.
#[derive(Clone, Debug, PartialEq)]
pub enum Role {
    /// `master`.
    Master {
        /// `master_repl_offset`.
        offset: u64,
        /// Its connected replicas.
        replicas: Vec<(SocketAddr, u64)>,
    },
    /// `slave`.
    Replica {
        /// Its master as it knows it, mapped; `None` when that is not an address.
        master: Option<SocketAddr>,
        /// The state is `connected`.
        link_up: bool,
        /// How far it has processed the stream.
        offset: u64,
    },
    /// -LOADING or -BUSY: alive, but it says nothing more.
    Occupied(String),
    /// NOAUTH, WRONGPASS or NOPERM: alive, but we may not ask.
    Unreadable(String),
}

/// A replica that its master lists by a host name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NamedReplica {
    /// Where the name led last; `None`: nobody has resolved it.
    pub addr: Option<SocketAddr>,
    /// How far it has acknowledged the stream.
    pub offset: u64,
    /// Seconds since then.
    pub lag: u64,
}

/// The parts of INFO that distinguish processes and data sets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Info {
    /// `run_id`: one process.
    pub run_id: String,
    /// `master_replid`: one history of data.
    pub replid: String,
    /// `master_replid2`: the history before a promotion; `None` when it is all zeros.
    pub replid2: Option<String>,
    /// `second_repl_offset`: the first offset that is not of `replid2`.
    pub second_offset: Option<u64>,
    /// `loading` is not 0.
    pub loading: bool,
    /// Keys in all databases.
    pub keys: u64,
    /// Replicas that are online, with the seconds since their last acknowledgement.
    pub lags: Vec<(SocketAddr, u64)>,
    /// The same for those that the node knows by a name, in the order in which it lists them.
    pub named: Vec<NamedReplica>,
}
