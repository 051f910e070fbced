//! The one thing both planes know: who is master, and whether requests may flow to it.
//!
//! The control plane publishes an [`Entry`]; every session reads it. An entry of an older term is refused, so
//! nothing ever moves back by accident. Nothing here does I/O or decides anything: `sentinel::tracker` decides.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

/// The shared topology: written by the control plane, read by every session.
///
/// A session compares [`Topology::generation`] (one relaxed load) before each send and reads the whole
/// [`Topology::current`] only when it changed.
#[derive(Debug)]
pub struct Topology {
    started: Instant,
    generation: AtomicU64,
    /// Microseconds since `started` plus one; 0 is "never". See [`Topology::prove`].
    proof: AtomicU64,
    /// See [`Topology::samples`].
    samples: AtomicU64,
    /// Milliseconds since `started` of the last look that control took, plus one; 0 is "never". See [`Topology::look`].
    looked: AtomicU64,
    entry: Mutex<Arc<Entry>>,
    changed: watch::Sender<()>,
    reports: mpsc::Sender<Report>,
}

/// A longer time between two looks of control's is a gap, in which nobody knew whether the master is still one: sessions
/// hold their requests and the replies to writes from then on, and control doubts the master at its next look. It looks
/// every 50 ms. Sentinel's choice of a replica and its promotion are 60 to 100 ms apart: a shorter gap hides no more than
/// one of the two, and the other is still seen in time.
pub const LOOK_LIMIT: Duration = Duration::from_millis(150);

/// What is true now. Replaced as a whole, never edited.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Rises by one at each publication.
    pub generation: u64,
    /// Rises by one each time sessions must leave the node they are on: another address, or another process
    /// (run id) at the same address.
    pub term: u64,
    /// Where sessions belong. `None` until the first master was verified.
    pub master: Option<Master>,
    /// Whether requests may flow there.
    pub phase: Phase,
    /// When the present outage began (first hold that has not ended yet); `None` while stable.
    pub outage_since: Option<Instant>,
    /// About the step from term−1 to this term: replies to writes which the old master gave before this instant
    /// are known to be on this master (its `second_repl_offset − 1` covers the old master's offset sampled then).
    /// `None`: nothing is known, withheld replies are lost replies.
    pub replicated_until: Option<Instant>,
    /// In [`Phase::Electing`]: replies that the master of this term gave before this instant are on every replica that may
    /// be chosen. `None`: nothing is known yet.
    pub covered_until: Option<Instant>,
    /// About the same step: the old master's offset had passed the last byte that this master has of its stream when
    /// [`Topology::samples`] was this. What was sent to the old master from then on is not in this master's history,
    /// whenever it ran. `None`: nothing is known.
    pub diverged_from: Option<u64>,
    /// For people: why the phase is what it is. Goes into the error text of requests that fail.
    pub reason: String,
}

impl Entry {
    /// There was a master, and another may be about to take its place.
    fn may_fail_over(&self) -> bool {
        self.master.is_some() && matches!(self.phase, Phase::Electing | Phase::Suspect | Phase::Switching)
    }
}

/// A verified master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Master {
    /// Its address, resolved and mapped.
    pub addr: SocketAddr,
    /// The `run_id` of INFO, when it could be read: tells a restarted process from the same one.
    pub run_id: Option<String>,
    /// Sentinel's config-epoch for it.
    pub epoch: u64,
    /// True between an early commit and the epoch that confirms it.
    pub provisional: bool,
}

/// Whether requests may flow. The transitions are `sentinel::tracker`'s; sessions only obey.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Requests flow to the master.
    Stable,
    /// A Sentinel is about to choose a replica, and the master lives: requests flow, and replies to writes are withheld
    /// until `covered_until`.
    Electing,
    /// The master is silent or gone and no failover is known yet: new requests are held, outstanding ones wait,
    /// whatever reply still comes is delivered.
    Suspect,
    /// A failover is under way, or may be, since this process did not run for a while: new requests are held, and
    /// replies to writes are withheld until the next term says (`replicated_until`) whether the new master has them, or
    /// the phase returns to `Stable` in the same term.
    Switching,
    /// Held by an operator's command: new requests are held, outstanding ones finish normally.
    Paused,
    /// No master to route to, and the outage's deadline has passed: requests fail at once.
    Failing,
}

impl Phase {
    /// The lower-case name used in logs, metrics and `status`.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Stable => "stable",
            Phase::Electing => "electing",
            Phase::Suspect => "suspect",
            Phase::Switching => "switching",
            Phase::Paused => "paused",
            Phase::Failing => "failing",
        }
    }
}

/// What the control plane must learn from sessions. A full channel drops a report: one of a kind is enough.
#[derive(Clone, Debug)]
pub enum Report {
    /// The backend of this term closed the connection.
    Eof {
        /// The term of the session's backend.
        term: u64,
    },
    /// Dialling the master of this term failed.
    DialFailed {
        /// The term that was dialled.
        term: u64,
    },
    /// The node answered -READONLY, -MASTERDOWN or -LOADING to a request.
    Refused {
        /// The term of the session's backend.
        term: u64,
    },
    /// The node refused the credentials replayed for a session (WRONGPASS, NOPERM).
    AuthRefused {
        /// The term that was dialled.
        term: u64,
        /// The server's error line, without secrets.
        error: String,
    },
}

/// Publishing an entry of an older term.
#[derive(Debug, PartialEq, Eq)]
pub struct Stale {
    /// The term that was offered.
    pub offered: u64,
    /// The term that stands.
    pub current: u64,
}

impl fmt::Display for Stale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "term {} is older than the current term {}", self.offered, self.current)
    }
}

impl std::error::Error for Stale {}

impl Topology {
    /// A topology without a master (phase `Suspect`, term 0), and the receiver of the sessions' reports.
    pub fn new() -> (Arc<Topology>, mpsc::Receiver<Report>) {
        let (reports, receiver) = mpsc::channel(256);
        let started = Instant::now();
        let topology = Topology {
            started,
            generation: AtomicU64::new(0),
            proof: AtomicU64::new(0),
            samples: AtomicU64::new(1),
            looked: AtomicU64::new(0),
            entry: Mutex::new(Arc::new(Entry {
                generation: 0,
                term: 0,
                master: None,
                phase: Phase::Suspect,
                outage_since: Some(started),
                replicated_until: None,
                covered_until: None,
                diverged_from: None,
                reason: "no master is known yet".into(),
            })),
            changed: watch::Sender::new(()),
            reports,
        };
        (Arc::new(topology), receiver)
    }

    /// The generation of the current entry: one relaxed load, for the data path.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// The current entry.
    pub fn current(&self) -> Arc<Entry> {
        self.entry.lock().expect("no panic while held").clone()
    }

    /// Replaces the entry; its `generation` is assigned here. An older term is refused.
    pub fn publish(&self, mut next: Entry) -> Result<u64, Stale> {
        let mut entry = self.entry.lock().expect("no panic while held");
        if next.term < entry.term {
            return Err(Stale { offered: next.term, current: entry.term });
        }
        next.generation = entry.generation + 1;
        let generation = next.generation;
        *entry = Arc::new(next);
        self.generation.store(generation, Ordering::Release);
        drop(entry);
        self.changed.send_replace(());
        Ok(generation)
    }

    /// Publishes the entry again as it is, so that each session looks anew at all that it goes by.
    pub fn renew(&self) {
        let mut entry = self.entry.lock().expect("no panic while held");
        let next = Entry { generation: entry.generation + 1, ..(**entry).clone() };
        self.generation.store(next.generation, Ordering::Release);
        *entry = Arc::new(next);
        drop(entry);
        self.changed.send_replace(());
    }

    /// The control plane asked the master of the current term at `asked` and it answered as that same master.
    /// A session that lost its connection before `asked` then knows that this was no failover.
    pub fn prove(&self, asked: Instant) {
        let micros = asked.saturating_duration_since(self.started).as_micros() as u64 + 1;
        self.proof.fetch_max(micros, Ordering::Relaxed);
        self.changed.send_replace(());
    }

    /// The latest moment at which the current master was asked a question that it answered as what it is.
    pub fn proof(&self) -> Option<Instant> {
        let proof = self.proof.load(Ordering::Relaxed);
        (proof > 0).then(|| self.started + Duration::from_micros(proof - 1))
    }

    /// The number of the last look at the master's offset whose answer has arrived; it only rises, and is never 0. A
    /// session notes it with each request: one load, in place of a clock.
    pub fn samples(&self) -> u64 {
        self.samples.load(Ordering::Acquire)
    }

    /// The answer with this number has arrived.
    pub fn sampled(&self, number: u64) {
        self.samples.fetch_max(number, Ordering::Release);
    }

    /// Control has looked at everything that had arrived by `at`, and has published what followed from it.
    pub fn look(&self, at: Instant) {
        let before = self.looked.swap(self.millis(at) + 1, Ordering::AcqRel);
        // The clock is read after the swap: who has seen the older look, and found it old, is woken.
        if is_old(before, self.millis(Instant::now())) {
            self.changed.send_replace(());
        }
    }

    /// Control has not looked for longer than `LOOK_LIMIT`: this process did not run, or control does not get to, and
    /// nobody knows whether the master is still one. Before the first look there is nothing to be known.
    pub fn is_unwatched(&self, now: Instant) -> bool {
        is_old(self.looked.load(Ordering::Acquire), self.millis(now))
    }

    fn millis(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.started).as_millis() as u64
    }

    /// Wakes at each publication and each proof of life.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Returns when no failover is under way, nor the silence that may lead to one: requests flow, or fail, or never did.
    /// True: it had to wait for that.
    pub async fn failed_over(&self) -> bool {
        let (mut changed, mut waited) = (self.subscribe(), false);
        while self.current().may_fail_over() && changed.changed().await.is_ok() {
            waited = true;
        }
        waited
    }

    /// Tells the control plane; never blocks, and drops the report when 256 are waiting.
    pub fn report(&self, report: Report) {
        let _ = self.reports.try_send(report);
    }
}

/// Whether a look is older than the limit, now that so many milliseconds have passed.
fn is_old(looked: u64, now: u64) -> bool {
    looked > 0 && now > looked - 1 + LOOK_LIMIT.as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_look_for_a_while_the_master_is_unwatched_and_the_next_look_wakes() {
        let (topology, _reports) = Topology::new();
        assert!(!topology.is_unwatched(Instant::now()), "nobody watches at all");
        topology.look(topology.started);
        std::thread::sleep(LOOK_LIMIT + Duration::from_millis(10));
        assert!(topology.is_unwatched(Instant::now()));
        let woken = topology.subscribe();
        topology.look(Instant::now() + Duration::from_secs(3600));
        assert!(!topology.is_unwatched(Instant::now()));
        assert!(woken.has_changed().unwrap());
    }

    #[test]
    fn a_failover_is_waited_for_and_a_start_without_a_master_is_not() {
        use std::task::{Context, Poll, Waker};
        let mut cx = Context::from_waker(Waker::noop());
        let (topology, _reports) = Topology::new();
        assert_eq!(std::pin::pin!(topology.failed_over()).poll(&mut cx), Poll::Ready(false));
        let mut entry = (*topology.current()).clone();
        entry.master = Some(Master { addr: ([127, 0, 0, 1], 1).into(), run_id: None, epoch: 1, provisional: false });
        for phase in [Phase::Electing, Phase::Suspect, Phase::Switching] {
            topology.publish(Entry { phase, ..entry.clone() }).unwrap();
            let mut waits = std::pin::pin!(topology.failed_over());
            assert_eq!(waits.as_mut().poll(&mut cx), Poll::Pending, "{phase:?}");
            topology.publish(Entry { phase: Phase::Stable, ..entry.clone() }).unwrap();
            assert_eq!(waits.poll(&mut cx), Poll::Ready(true), "{phase:?}");
        }
    }

    #[test]
    fn an_older_term_is_refused() {
        let (topology, _reports) = Topology::new();
        let mut entry = (*topology.current()).clone();
        entry.term = 2;
        assert_eq!(topology.publish(entry.clone()), Ok(1));
        entry.term = 1;
        assert_eq!(topology.publish(entry), Err(Stale { offered: 1, current: 2 }));
        assert_eq!(topology.generation(), 1);
    }

    #[test]
    fn an_entry_that_is_published_again_is_the_same_in_a_new_generation() {
        let (topology, _reports) = Topology::new();
        let (before, woken) = (topology.current(), topology.subscribe());
        topology.renew();
        let now = topology.current();
        assert_eq!((now.generation, topology.generation()), (before.generation + 1, before.generation + 1));
        assert_eq!((now.term, now.phase, &now.reason), (before.term, before.phase, &before.reason));
        assert!(woken.has_changed().unwrap());
    }

    #[test]
    fn a_proof_counts_only_for_what_happened_before_its_question() {
        let (topology, _reports) = Topology::new();
        let lost = Instant::now();
        let proven_since = |instant| topology.proof().is_some_and(|proof| proof > instant);
        assert!(!proven_since(lost));
        topology.prove(lost + Duration::from_millis(1));
        assert!(proven_since(lost));
        assert!(!proven_since(lost + Duration::from_millis(2)));
    }
}
