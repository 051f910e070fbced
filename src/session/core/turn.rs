//! What the driver hands to the core at each turn, and what the core wants done: everything but the bytes.
//!
//! The core reads no clock: what it may know of the time, of the drain, of the master and of other sessions is here.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::held::held_by_thread;
use super::state::Restore;
use crate::config::{OnLostPop, OnLostReply};
use crate::drain::Stage;
use crate::topology::Report;
use crate::upstream::{KnownCredentials, Scripts};

/// Buffers may be this large in each thread even if nothing is to be retained.
const LEAST_TOTAL: usize = 1024 * 1024;

/// What is configured for the sessions of one listener on one worker thread: what each may, and how its requests end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How a request whose reply was lost ends.
    pub on_lost_reply: OnLostReply,
    /// How a blocking pop ends whose reply was lost.
    pub on_lost_pop: OnLostPop,
    /// How long requests are held in one outage, where that is shorter than for the whole proxy.
    pub hold_timeout: Option<Duration>,
    /// Bytes of unreplied requests that one session may retain.
    pub retain_bytes: usize,
    /// What all sessions of a thread may hold in memory, those requests and every buffer.
    pub retain_total: usize,
    /// A connection may serve another session after a RESET.
    pub reuse_backends: bool,
    /// At most this many connections are dialled ahead of the sessions that will need them.
    pub warm_backends: usize,
    /// Idle sessions give their backends back after this long; zero: never.
    pub detach_idle_after: Duration,
    /// Sessions that may be open in the whole process.
    pub max_clients: usize,
}

/// What is true now, and what is to be done about it.
#[derive(Debug)]
pub struct Turn<'a> {
    /// The present.
    pub now: Instant,
    /// The topology as of just now; see [`Sight`].
    pub sight: Sight,
    /// How far the drain is.
    pub stage: Stage,
    /// The number of the last sample of the master's offset: [`crate::topology::Topology::samples`], or an older one.
    pub sample: u64,
    /// Counts up each `detach_idle_after`.
    pub idle_ticks: u16,
    /// How this listener's sessions are to behave.
    pub settings: Settings,
    /// The scripts that clients have loaded.
    pub scripts: &'a Scripts,
    /// The credentials that let us in at the nodes.
    pub credentials: &'a KnownCredentials,
    /// What happened, for the metrics.
    pub counts: Counts,
    /// To be done, in this order.
    pub actions: Vec<Action>,
}

impl Turn<'_> {
    /// The sessions of this thread hold all that they may: each makes do with little.
    #[inline]
    pub fn is_exhausted(&self) -> bool {
        held_by_thread() >= self.settings.retain_total.max(LEAST_TOTAL)
    }

    /// Bytes that the sessions of this thread may still take.
    #[inline]
    pub(super) fn room(&self) -> usize {
        self.settings.retain_total.saturating_sub(held_by_thread())
    }

    pub(super) fn report(&mut self, report: Report) {
        self.actions.push(Action::Report(report));
    }
}

/// Which entry of the topology is the present one, and whether control watches the master at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sight(u64);

impl Sight {
    /// Of this generation. `is_unwatched`: see [`crate::topology::Topology::is_unwatched`].
    #[inline]
    pub fn new(generation: u64, is_unwatched: bool) -> Sight {
        Sight(generation << 1 | u64::from(is_unwatched))
    }

    pub(super) fn is_unwatched(self) -> bool {
        self.0 & 1 == 1
    }
}

/// What the driver has to do.
#[derive(Debug)]
pub enum Action {
    /// A connection to the master at this address, in the state that `restore` makes; the outcome is handed in by
    /// `Core::attached`, or ends the session.
    Attach {
        /// The master.
        addr: SocketAddr,
        /// What makes a fresh connection the client's.
        restore: Restore,
        /// One that was made ready before it was asked for will do, where there is one.
        may_be_ready: bool,
    },
    /// The backend, or the attempt to make one, is given up.
    Leave(Parting),
    /// The backend is sent a FIN; it is still read.
    ShutDown,
    /// The server is asked to let go of what blocks on the backend.
    Unblock,
    /// The session is polled again after this time.
    WakeIn(Duration),
    /// Control is to know this.
    Report(Report),
    /// The server has refused a RESET.
    NoReset,
    /// A client's credentials were refused.
    LoginRefused,
    /// What was under way when the drain began is done.
    Settled,
    /// Requests had been held for this time.
    Held(Duration),
}

/// How a backend is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parting {
    /// Closed.
    Close,
    /// Reset: nothing is owed on it that could be lost, and a FIN would keep one of this host's ports for a minute.
    Reset,
    /// A RESET makes it as good as new, for another session.
    GiveBack,
}

/// What happened, in numbers; see the metrics of the same names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests sent on or answered here.
    pub requests: u64,
    /// Replies of the backend.
    pub replies: u64,
    /// Sessions that moved to another master.
    pub moved: u64,
    /// Requests sent again.
    pub replayed: u64,
    /// Writes whose fate nobody can know.
    pub lost: u64,
    /// Replies held back.
    pub withheld: u64,
    /// Holds that began.
    pub held: u64,
    /// Idle sessions that gave up their backends.
    pub detached: u64,
    /// AUTHs that the node did not need.
    pub auth_not_needed: u64,
}

/// Who is woken first after a switch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Nothing outstanding.
    #[default]
    Idle,
    /// A request waits for its reply, or to be sent.
    Waiting,
    /// Subscribed or blocked: every moment without a backend loses something.
    Attached,
}
