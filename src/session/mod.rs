//! One client's session: one task that owns both sockets, taps the bytes that pass, and moves to the new master.
//!
//! Phases of a session, decided by the gate (the topology's phase) and the lane (its backend):
//! - *Flowing*: gate open, lane up. Requests are noted in the ledger and sent on; replies settle them.
//! - *Electing*: as flowing, but the replies to writes wait until every replica that may become the master has the write.
//! - *Holding*: gate held. No request is begun; outstanding ones finish, and in a failover the replies to writes
//!   are withheld. Leaves for Flowing when the gate opens in the same term, for Moving in a new term.
//! - *Moving*: the rest of a message that a living master has begun comes first (see `finish`). Then the lane is given
//!   up and the ledger judged; the new lane is dialled, the state restored, and what may run again is sent again.
//!   Leaves for Flowing.
//! - *Failing*: no master and the deadline passed. Requests are answered with an error.
//!
//! Invariants: no request is sent to a node after a newer term was seen; replies are delivered in the order of the
//! requests; a request that may have run on the new master is never sent to it again unless it is harmless or the user
//! chose so (a blocking pop: unless the user forbade it); what all sessions hold in memory is bounded (see `held`), and
//! of what cannot be passed on only a little is read ahead.

pub mod backend;
mod drain;
mod finish;
mod forwarded;
mod held;
mod lane;
mod leaving;
pub mod ledger;
mod pool;
mod refused;
pub mod registry;
mod replies;
mod requests;
mod settings;
pub mod state;
mod unblock;

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, watch};

use crate::config::OnLostPop;
use crate::drain::Stage;
use crate::metrics;
use crate::net::{Conn, Scratch, Spare, Unsent};
use crate::resp::scanner::{ReplyScanner, RequestScanner};
use crate::topology::{Entry, Phase};
use crate::upstream::Upstream;

pub use crate::close_reason::CloseReason;
pub use settings::Settings;

use finish::Finish;
use held::{Held, held_by_thread};
use lane::Lane;
use ledger::{Judgement, Ledger, no_master};
use registry::{Ticket, Urgency};
use state::State;

/// Turns of the pumps before other sessions get one.
const TURNS: usize = 16;
const OK: &[u8] = b"+OK\r\n";
/// A session holds and reads no more than this at once where `retain_total` is exhausted: enough to go on.
const LITTLE: usize = 4 * 1024;
/// Buffers may be this large in each thread even if nothing is to be retained.
const LEAST_TOTAL: usize = 1024 * 1024;
/// No entry has this generation: the topology is looked at anew.
const UNSEEN: u64 = u64::MAX;
/// How long a client that we close may take to notice.
const LINGER: Duration = Duration::from_secs(2);
/// The same in a drain, which is to end soon: long enough to read what crosses our FIN.
const DRAIN_LINGER: Duration = Duration::from_millis(250);

/// What the sessions of one listener on one worker thread share.
#[derive(Debug)]
pub struct Worker {
    /// Whose master its clients are to reach.
    pub upstream: Arc<Upstream>,
    /// This thread's counters.
    pub counters: Arc<metrics::WorkerCounters>,
    /// What a reload may change, replaced as a whole: see [`Worker::settings`].
    pub settings: watch::Sender<Arc<Settings>>,
    /// Dials under way: kept below the master's backlog.
    pub dials: Arc<Semaphore>,
    /// Sessions open in the whole process.
    pub open: Arc<AtomicUsize>,
    /// Descriptors of the whole process beyond those of its clients and of the control plane.
    pub spare: Arc<Spare>,
}

/// Serves one client until its session ends, and counts why it did; then drops `held`.
///
/// The future is the session itself and little more: it is what an idle client costs.
pub fn serve<H: Send + 'static>(client: Conn, worker: Arc<Worker>, held: H) -> impl Future<Output = ()> + Send {
    let mut session = Session::new(client, worker);
    async move {
        let _held = &held;
        let reason = poll_fn(|cx| session.poll(cx)).await;
        let worker = session.worker.clone();
        let lane = if reason == CloseReason::ClientClosed { session.end_lane() } else { None };
        session.lane = Lane::None;
        // A client that said QUIT may have sent more behind it: unread, that would make of our FIN a reset.
        if !(reason == CloseReason::ClientClosed && session.flags.client_left) {
            session.client.discard_unread();
            let limit = if reason == CloseReason::Drained { DRAIN_LINGER } else { LINGER };
            Box::pin(linger(&mut session.client, limit)).await;
        }
        drop(session);
        if let Some((stream, term)) = lane {
            Box::pin(pool::give_back(&worker, stream, term)).await;
        }
        worker.counters.close(reason);
    }
}

/// Closes with FIN, never RST: clients read a reset as a hung or half-written request. What the client still sends is
/// read until it closes too, for at most `limit`.
pub async fn linger(client: &mut Conn, limit: Duration) {
    let mut rest = [0; 512];
    client.shutdown();
    let gone = async { while matches!(poll_fn(|cx| client.poll_read(cx, &mut rest)).await, Ok(1..)) {} };
    let _ = tokio::time::timeout(limit, gone).await;
}

/// The task's state. What pumps the bytes is in `requests` and `replies`.
#[derive(Debug)]
struct Session {
    client: Conn,
    worker: Arc<Worker>,
    /// As of `generation`.
    settings: Arc<Settings>,
    ticket: Option<Ticket>,
    /// The generation of the entry that `gate` and `term` are from.
    generation: u64,
    /// The term of the lane, or the one in which the next lane will be made.
    term: u64,
    gate: Gate,
    lane: Lane,
    requests: RequestScanner,
    replies: ReplyScanner,
    ledger: Ledger,
    state: State,
    /// Bytes of the client that were not begun: held, or the beginning of a small request.
    inbox: Vec<u8>,
    /// How many of them the scanner has seen.
    inbox_scanned: u32,
    /// Bytes of the backend that belong to a reply that must be whole before it is judged; all scanned.
    reply_tail: Vec<u8>,
    to_backend: Unsent,
    to_client: Unsent,
    /// The node refused as a demoted one would: nothing more is sent until that is settled.
    refused_at: Option<Instant>,
    /// Bytes pass untouched from here on, and the session ends at a failover: replication, what is not RESP, a mode that
    /// cannot be followed.
    is_tunnel: bool,
    closing: Option<CloseReason>,
    reply_mode: ReplyMode,
    round: u16,
    outage: Option<Box<Outage>>,
    flags: Flags,
    held: Held,
}

/// What outages made of a session; most never see one.
#[derive(Clone, Copy, Debug, Default)]
struct Outage {
    /// When this session last left a master for another.
    moved_at: Option<Instant>,
    /// When the withheld reply of which a part is there began to come.
    reply_begun_at: Option<Instant>,
    /// The rest of a half delivered message is waited for before the session moves.
    finish: Option<Finish>,
    /// Since when requests of this client wait for the gate.
    held_since: Option<Instant>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.end_hold();
    }
}

/// What the turns of one poll share.
struct Round {
    scratch: Scratch,
    /// There was nothing to read: the socket wakes this session, and need not be asked again in this poll.
    client_drained: bool,
    backend_drained: bool,
}

/// Small facts about the bytes in flight; each holds independently of the phase.
#[derive(Debug, Default)]
struct Flags {
    /// The client has closed its side, perhaps behind bytes that are not read yet.
    client_left: bool,
    /// All that the client has sent before its FIN was read, or never will be.
    client_eof: bool,
    /// Its FIN was passed on.
    half_closed: bool,
    /// The backend was sent a FIN of ours, to let go of what blocks there.
    unblocking: bool,
    /// The server was asked to let go of what blocks there.
    unblock_asked: bool,
    /// The request being sent is larger than one buffer: part of it is on its way.
    streaming: bool,
    /// And the client wants no reply to it: it stands in no ledger, and what was sent of it cannot be sent again.
    streaming_unanswered: bool,
    /// MULTI was sent and neither EXEC nor DISCARD.
    multi: bool,
    /// The backend was ready before it was asked for, and what the server thought of it then may be true no longer: a
    /// RESET goes in front of the first request.
    stale: bool,
    /// That RESET was sent, and the backend's next reply belongs to it.
    resetting: bool,
    /// AUTH or HELLO is under way: nothing else may be.
    barrier: bool,
    /// Part of the front reply was delivered.
    partly_delivered: bool,
    /// Part of something that the server said unasked was delivered.
    passing_unasked: bool,
    /// Something was done on the backend that outlasts a RESET, or might: CLIENT, what the table does not know.
    lasting: bool,
    /// Something was done that ties the session to its backend: an idle one does not give it back.
    pinned: bool,
    /// The server speaks unasked, or may: each frame is looked at.
    listening: bool,
    /// Some requests got no reply because the client wanted none: the bytes in flight cannot be counted by them.
    unanswered: bool,
    /// Nothing was written on the present backend since the session moved: WAIT has nothing to wait for.
    nothing_written: bool,
    /// The refusal at hand is -NOREPLICAS just after a switch.
    too_few_replicas: bool,
    /// `to_backend` holds requests that are sent again: they wait for an open gate as new ones do.
    resending: bool,
    /// A request was begun since the last round.
    active: bool,
    /// Control does not watch: the gate is held whatever the topology says.
    unwatched: bool,
}

/// What the client wants to be answered (CLIENT REPLY), as of the last request sent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReplyMode {
    On,
    Off,
    SkipNext,
}

/// What the topology's phase means for this session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    Open,
    /// Open, and replies to writes wait for the replicas.
    Electing,
    Held {
        withhold: bool,
    },
    Failing,
}

impl Gate {
    /// Requests may be begun.
    fn is_open(self) -> bool {
        matches!(self, Gate::Open | Gate::Electing)
    }

    /// Replies to writes may be of what the next master lacks.
    fn withholds(self) -> bool {
        matches!(self, Gate::Electing | Gate::Held { withhold: true })
    }
}

impl Session {
    fn new(client: Conn, worker: Arc<Worker>) -> Session {
        let entry = worker.upstream.topology.current();
        let settings = worker.settings();
        Session {
            client,
            ticket: None,
            generation: entry.generation,
            term: entry.term,
            gate: gate_of(&entry, settings.hold_timeout),
            lane: Lane::None,
            requests: RequestScanner::default(),
            replies: ReplyScanner::default(),
            ledger: Ledger::default(),
            state: State::default(),
            inbox: Vec::new(),
            inbox_scanned: 0,
            reply_tail: Vec::new(),
            to_backend: Unsent::default(),
            to_client: Unsent::default(),
            refused_at: None,
            is_tunnel: false,
            closing: None,
            reply_mode: ReplyMode::On,
            round: 0,
            outage: None,
            flags: Flags::default(),
            held: Held::default(),
            worker,
            settings,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        if self.ticket.is_none() {
            self.ticket = Some(Ticket::new(cx.waker().clone()));
        }
        if registry::stage() == Stage::Cutting {
            return Poll::Ready(CloseReason::Drained);
        }
        let unwatched = self.worker.upstream.topology.is_unwatched();
        if unwatched != std::mem::replace(&mut self.flags.unwatched, unwatched) {
            self.generation = UNSEEN;
        }
        let polled = self.take_turns(cx);
        self.held.set(self.held_bytes());
        polled
    }

    fn take_turns(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        let mut round = Round { scratch: Scratch::take(), client_drained: false, backend_drained: false };
        for _ in 0..TURNS {
            match self.turn(cx, &mut round) {
                Ok(true) => {}
                Ok(false) => {
                    if let Err(reason) = self.drain(&round) {
                        return Poll::Ready(reason);
                    }
                    self.set_urgency();
                    self.note_hold();
                    return Poll::Pending;
                }
                Err(reason) => return Poll::Ready(reason),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// One turn of everything; true when something moved.
    fn turn(&mut self, cx: &mut Context<'_>, round: &mut Round) -> Result<bool, CloseReason> {
        self.observe(cx, round)?;
        let replied = self.pump_replies(cx, round)?;
        let attached = self.attach(cx)?;
        round.backend_drained &= !attached;
        Ok(replied | attached | self.pump_requests(cx, round)?)
    }

    /// Memory that this session holds, but for what is retained of its requests.
    fn held_bytes(&self) -> usize {
        let buffers = self.inbox.capacity() + self.reply_tail.capacity();
        let unsent = self.to_backend.held_bytes() + self.to_client.held_bytes();
        buffers + unsent + self.ledger.held_bytes() + self.state.held_bytes()
    }

    /// The sessions of this thread hold all that they may: this one makes do with little.
    #[inline]
    fn is_exhausted(&self) -> bool {
        held_by_thread() >= self.settings.retain_total.max(LEAST_TOTAL)
    }

    fn set_urgency(&self) {
        let urgency = if self.is_tunnel || self.flags.listening {
            Urgency::Attached
        } else if self.ledger.is_empty() && self.inbox.is_empty() && !matches!(self.lane, Lane::Lost { .. }) {
            Urgency::Idle
        } else {
            Urgency::Waiting
        };
        if let Some(ticket) = &self.ticket {
            ticket.set_urgency(urgency);
        }
    }

    /// Counts a hold when it begins and when it ends.
    fn note_hold(&mut self) {
        let held = !self.gate.is_open() && (!self.inbox.is_empty() || self.flags.streaming);
        match (self.outage().held_since, held) {
            (None, true) => {
                self.outage_mut().held_since = Some(Instant::now());
                self.worker.counters.held.add(1);
            }
            (Some(_), false) => self.end_hold(),
            _ => {}
        }
    }

    fn outage(&self) -> Outage {
        self.outage.as_deref().copied().unwrap_or_default()
    }

    fn outage_mut(&mut self) -> &mut Outage {
        self.outage.get_or_insert_default()
    }

    fn end_hold(&mut self) {
        if let Some(since) = self.outage.as_mut().and_then(|outage| outage.held_since.take()) {
            self.worker.counters.released.add(1);
            let master = self.worker.upstream.label().to_owned();
            ::metrics::histogram!(metrics::HOLD_SECONDS, "master" => master).record(since.elapsed());
        }
    }

    /// Takes note of the topology, and of what it makes of a lost connection or a refusal.
    fn observe(&mut self, cx: &mut Context<'_>, round: &mut Round) -> Result<(), CloseReason> {
        self.observe_round();
        let unsettled = self.refused_at.is_some()
            || matches!(self.lane, Lane::Lost { .. })
            || (self.settings.hold_timeout.is_some() && matches!(self.gate, Gate::Held { .. }));
        if self.worker.upstream.topology.generation() == self.generation && !unsettled {
            return Ok(());
        }
        let entry = self.worker.upstream.topology.current();
        if entry.generation != self.generation {
            self.settings = self.worker.settings();
        }
        let looks = self.ledger.has_more_behind_a_block()
            || (self.settings.on_lost_pop != OnLostPop::Resend && self.ledger.has_pop());
        if entry.term != self.term && entry.replicated_until.is_some() && looks {
            // Whether it still blocks: what the old master has said before it was left is read.
            self.gate = Gate::Held { withhold: true };
            round.backend_drained = false;
            while self.pump_replies(cx, round)? {}
        }
        if self.finishes_message(&entry) {
            self.gate = Gate::Held { withhold: true };
            return Ok(()); // looked at again each turn
        }
        self.generation = entry.generation;
        if entry.term != self.term {
            self.leave(&entry)?;
        }
        self.gate = match gate_of(&entry, self.settings.hold_timeout) {
            Gate::Open | Gate::Electing | Gate::Held { .. } if self.flags.unwatched => Gate::Held { withhold: true },
            gate => gate,
        };
        match self.gate {
            Gate::Open => self.settle_doubts(),
            Gate::Electing if entry.covered_until.is_some() => self.ledger.release(entry.covered_until),
            Gate::Electing | Gate::Held { .. } => {}
            Gate::Failing => self.fail(&entry.reason)?,
        }
        Ok(())
    }

    /// The gate is open in the term of the lane: the node is the master that it was.
    fn settle_doubts(&mut self) {
        let topology = &self.worker.upstream.topology;
        if self.flags.too_few_replicas && self.refused_at.is_some_and(|at| topology.proven_since(at)) {
            self.flags.too_few_replicas = false;
            if let Some(again) = self.ledger.retry_refused() {
                self.refused_at = None;
                self.to_backend.push(&again);
            }
        }
        if self.refused_at.is_none_or(|at| topology.proven_since(at)) {
            // It said what it said as the master: the client gets to see it.
            self.refused_at = None;
            self.ledger.release(None);
        }
        if let Lane::Lost { at } = self.lane
            && topology.proven_since(at)
        {
            let client_did = self.flags.half_closed;
            let reason = if client_did { CloseReason::ClientClosed } else { CloseReason::UpstreamClosed };
            self.closing.get_or_insert(reason);
        }
    }

    /// A session that did nothing for a whole round gives its backend back.
    fn observe_round(&mut self) {
        let round = registry::round();
        if std::mem::replace(&mut self.round, round) != round && !std::mem::take(&mut self.flags.active) {
            self.detach();
        }
    }

    /// A new term: gives up the lane and judges what was outstanding there.
    fn leave(&mut self, entry: &Entry) -> Result<(), CloseReason> {
        let next = self.term + 1;
        self.term = entry.term;
        if matches!(self.lane, Lane::None) && self.ledger.is_empty() {
            return Ok(());
        }
        let unkept = self.state.unkept_transaction().filter(|_| !self.ledger.has_ended_transaction());
        if self.is_tunnel || self.state.untracked().or(unkept).is_some() {
            return Err(CloseReason::Opaque);
        }
        if self.flags.passing_unasked {
            return Err(CloseReason::PartialReply); // half a message was delivered
        }
        if self.flags.streaming_unanswered {
            return Err(CloseReason::NotReplayable);
        }
        let verdict = self.ledger.judge(Judgement {
            replicated_until: entry.replicated_until.filter(|_| entry.term == next),
            is_connected: matches!(self.lane, Lane::Up(_)),
            diverged_from: entry.diverged_from.filter(|_| entry.term == next),
            queue_stays_in_data_set: self.state.queue_stays_in_data_set(),
            now: Instant::now(),
            resp3: self.state.is_resp3(),
            policy: self.settings.on_lost_reply,
            on_lost_pop: self.settings.on_lost_pop,
            unsent: if self.flags.unanswered { 0 } else { self.to_backend.len() as u64 },
            partly_delivered: self.flags.partly_delivered,
            watching: self.state.is_watching(),
            half_closed: self.flags.client_eof,
        });
        self.drop_lane();
        self.to_backend.push(&verdict.again);
        self.flags.resending = true;
        self.flags.nothing_written = verdict.replayed == 0;
        self.outage_mut().moved_at = Some(Instant::now());
        let counters = &self.worker.counters;
        counters.moved.add(1);
        counters.replayed.add(verdict.replayed);
        counters.lost.add(verdict.lost);
        Ok(())
    }

    /// There is no master and there was none until the deadline.
    fn fail(&mut self, reason: &str) -> Result<(), CloseReason> {
        if self.is_tunnel
            || self.state.untracked().or(self.state.unkept_transaction()).is_some()
            || self.flags.streaming
            || self.flags.partly_delivered
            || self.flags.passing_unasked
        {
            return Err(CloseReason::Outage);
        }
        self.fail_outstanding(reason, self.to_backend.len() as u64);
        self.drop_lane();
        Ok(())
    }

    /// Ends every request that is noted and has no answer; the last `unsent` bytes of them went nowhere.
    fn fail_outstanding(&mut self, reason: &str, unsent: u64) {
        let Settings { on_lost_reply, on_lost_pop, .. } = *self.settings;
        let lost = self.ledger.fail(&no_master(reason), on_lost_reply, on_lost_pop, unsent, self.state.is_resp3());
        self.worker.counters.lost.add(lost);
    }
}

fn gate_of(entry: &Entry, hold_timeout: Option<Duration>) -> Gate {
    let outage = entry.outage_since.map(|since| since.elapsed());
    match entry.phase {
        Phase::Suspect | Phase::Switching if hold_timeout.is_some_and(|limit| outage > Some(limit)) => Gate::Failing,
        Phase::Failing => Gate::Failing,
        Phase::Stable if entry.master.is_some() => Gate::Open,
        Phase::Electing => Gate::Electing,
        Phase::Switching => Gate::Held { withhold: true },
        Phase::Stable | Phase::Suspect | Phase::Paused => Gate::Held { withhold: false },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_result<A, B, C, R>(_: fn(A, B, C) -> R) -> usize {
        size_of::<R>()
    }

    #[test]
    fn an_idle_session_is_small() {
        // With what tokio adds it is 512, four of the pairs of cache lines to which tokio aligns a task.
        let size = size_of_result(serve::<[usize; 2]>);
        assert!(size <= 432, "{size} bytes");
    }
}
