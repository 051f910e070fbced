//! The decision: reports in, decisions out.
//!
//! Deterministic: no network, no clock, no log; `now` is handed in, and what should be done comes out of
//! [`View::take`] or is read from [`View::nodes`] and [`View::sentinels`]. `view/belief.rs` and `view/starting.rs` say
//! whom a start follows; `view/following.rs`, `view/electing.rs`, `view/switching.rs` and `view/abandoned.rs` hold the
//! transitions, `view/event.rs` what Sentinels tell, `view/planned.rs` the operator's wish, `view/evidence.rs` what is
//! believed, `view/peers.rs` which Sentinels there are, `view/asking.rs` which nodes are asked, `view/credentials.rs`
//! as whom, `view/gap.rs` when we did not run ourselves, `view/recall.rs` what is kept for the next run, and
//! `view/record.rs` and `view/show.rs` what people see. All of it ends in one decision, `view/decide.rs`.

mod abandoned;
mod asking;
mod belief;
mod credentials;
mod decide;
mod electing;
mod event;
mod evidence;
mod following;
mod gap;
mod peers;
mod planned;
mod recall;
mod record;
mod show;
mod starting;
mod switching;
#[cfg(test)]
mod tests;

pub use credentials::Login;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::config::{HoldTimeout, HostPort, Minority};
use crate::secret::Credentials;
use crate::sentinel::client::AddressMap;
use crate::sentinel::electorate::Electorate;
use crate::sentinel::lineage::{Lineage, Samples};
use crate::sentinel::memory::Memory;
use crate::sentinel::report::{FromNode, FromSentinel, Info, Input, NodeAnswer, SentinelAnswer};
pub use crate::sentinel::view::asking::Watch;
pub use crate::sentinel::view::belief::OTHERS_WITHIN;
use crate::sentinel::view::credentials::Logins;
use crate::sentinel::view::gap::Doubt;
use crate::sentinel::view::record::Change;
use crate::status::Counters;
use crate::topology::{Entry, Master, Phase};

/// How the decision is made.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The Sentinels to begin with.
    pub sentinels: Vec<HostPort>,
    /// What is dialled instead of an address that is reported.
    pub address_map: AddressMap,
    /// Between two questions to the master while all is well.
    pub heartbeat: Duration,
    /// Between two questions to each Sentinel while all is well.
    pub poll_interval: Duration,
    /// Silence of the master after which requests are held.
    pub suspect_after: Duration,
    /// How long requests are held in one outage.
    pub hold_timeout: HoldTimeout,
    /// How long a planned failover may hold requests while its candidate says nothing and the old master lives.
    pub planned_hold_limit: Duration,
    /// What to do in a minority partition.
    pub minority: Minority,
    /// The credentials for the nodes.
    pub credentials: Option<Credentials>,
    /// Where these are none, or do not let us ask: take a client's.
    pub learn_credentials: bool,
    /// The last master and epoch of an earlier run: we do not go below.
    pub floor: Option<(SocketAddr, u64)>,
    /// The node to which that run had committed early, if that was not settled when it ended.
    pub candidate: Option<SocketAddr>,
}

/// What should be done.
#[derive(Clone, Debug)]
pub enum Output {
    /// Tell the sessions; the generation is the topology's to assign.
    Publish(Entry),
    /// The master of this term answered a question sent then.
    Prove(Instant),
    /// The sample of the master's offset with this number has arrived.
    Sampled(u64),
    /// Poll every Sentinel now.
    AskSentinels,
    /// Ask this node now.
    AskNode(SocketAddr),
    /// Ask the nodes with these credentials from now on.
    UseCredentials(Login),
    /// Remember this master across restarts.
    Remember(Master),
    /// Remember that this node is followed early, besides the master that it is to replace.
    RememberCandidate(SocketAddr),
    /// `SENTINEL FAILOVER` through the first of these Sentinels that takes it, or why not.
    AskFailover(Result<Vec<HostPort>, String>),
    /// A line for the log.
    Log(tracing::Level, String),
    /// A phase of a failover (one of [`crate::metrics::FAILOVER_PHASES`]) took this long.
    Phase(&'static str, Duration),
}

/// The decision procedure.
#[derive(Debug)]
pub struct View {
    settings: Settings,
    started: Instant,
    sentinels: BTreeMap<HostPort, SentinelState>,
    /// Whose answers count.
    electorate: Electorate,
    /// Another set of Sentinels answers under this name since then.
    rivals_since: Option<Instant>,
    /// What an earlier run has left, and in which file.
    memory: Option<(Memory, String)>,
    /// What was last written into that file, and when.
    recorded: Option<(Memory, Instant)>,
    nodes: HashMap<SocketAddr, NodeState>,
    lineage: Lineage,
    samples: Samples,
    /// The master that sessions were told, with its process and the replicas it has.
    master: Option<Master>,
    process: Process,
    replicas: BTreeMap<SocketAddr, u64>,
    /// Our masters and whatever was a replica of one, with when that was last seen: what no stranger can be.
    family: BTreeMap<SocketAddr, Instant>,
    /// The replicas that may be promoted: those of when most Sentinels last named our master, and any since.
    electable: BTreeSet<SocketAddr>,
    /// `replicas` is what this master itself has said, not what is left of the one before.
    listed: bool,
    term: u64,
    state: State,
    /// A failover that was heard of before there was a master.
    heard: Option<starting::Heard>,
    /// When a Sentinel first answered.
    first_answer: Option<Instant>,
    /// Set while `master` is provisional, and until that is settled.
    provisional: Option<Provisional>,
    outage_since: Option<Instant>,
    replicated_until: Option<Instant>,
    diverged_from: Option<u64>,
    failing: bool,
    reason: String,
    paused: Option<(Instant, Instant)>,
    published: Option<Published>,
    phase_since: Instant,
    /// The last sign of life of the master.
    life: Instant,
    /// When the next call was due: being late is ours, not the master's.
    due: Option<Instant>,
    /// When [`View::handle`] was called last.
    looked: Instant,
    /// Whether the master is still one is asked anew.
    doubt: Option<Doubt>,
    /// When sessions were last seen to have received replies.
    replied_at: Option<Instant>,
    /// Asked more often until then.
    unusual_until: Instant,
    /// Sentinel called the master down and did not take it back.
    called_down: bool,
    /// Nodes that may turn master at any moment, and until when to keep an eye on them.
    suspects: HashMap<SocketAddr, Instant>,
    /// A Sentinel is about to choose a replica.
    electing: Option<electing::Electing>,
    /// A failover that was not waited for any longer.
    abandoned: Option<abandoned::Abandoned>,
    /// Candidates of an aborted failover: no early commit on them until then.
    distrust: HashMap<SocketAddr, Instant>,
    /// A new process, or another data set, is at the master's address.
    restart: Option<Restart>,
    /// A majority names this lower epoch since then.
    lower: Option<(SocketAddr, u64, Instant)>,
    minority_since: Option<Instant>,
    /// Sessions reported that the master closed their connections.
    session_eof: Option<Instant>,
    logins: Logins,
    notices: BTreeSet<String>,
    /// What was logged once for all.
    alarms: BTreeSet<String>,
    empty_restart: Option<(Instant, String)>,
    long_hold_told: bool,
    /// Replies that all sessions have received so far.
    replies: u64,
    last_change: Option<Change>,
    /// A failover that an operator asks for.
    planned: Option<planned::Planned>,
    /// When a Sentinel last gave a failover up, and why.
    last_abort: Option<(Instant, String)>,
    counters: Counters,
    outputs: Vec<Output>,
}

/// Term, master, phase, the beginning of the outage, and the instant before which replies are covered.
type Published = (u64, Option<Master>, Phase, Option<Instant>, Option<Instant>);

/// Where the decision stands. The transitions, by name:
///
/// ```text
/// Searching ──verified──► Following ◄──same process answers── Silent
///                          │  ▲ │                               ▲ │
///     candidate, vanished  │  │ └──silence, refused, restarted──┘ │ candidate, higher epoch,
///     replica, ROLE=slave, │  │                                   │ ROLE=slave
///     higher epoch,        ▼  │ commit (early or by the epoch),   ▼
///     unconfirmed       Switching  or release: the candidate is a replica
/// ```
#[derive(Debug)]
enum State {
    /// No master has been verified yet.
    Searching,
    /// Requests flow to `master`.
    Following,
    /// The master is silent or gone; no failover is known.
    Silent {
        /// Nobody listens there any more, or the process is another one.
        gone: bool,
    },
    /// A failover is under way.
    Switching(Box<Failover>),
}

/// A failover under way.
#[derive(Debug)]
struct Failover {
    /// When this candidate was first held for.
    since: Instant,
    /// The old master answered us when it began.
    lives: bool,
    /// It was silent then, or a Sentinel had called it down.
    crash: bool,
    candidate: Option<SocketAddr>,
    /// The Sentinel that runs it, when we hear it.
    leader: Option<HostPort>,
    /// From then on it may end with the old master.
    ending: Option<Instant>,
    /// When the candidate was first seen as a master with the right lineage.
    promoted: Option<Instant>,
    /// Held because a replica left the master's list; nobody has told of a failover.
    only_vanished: bool,
    /// Each Sentinel's first word since `since` on whether the candidate was a master at its last INFO.
    demoted: HashMap<HostPort, bool>,
    /// A majority has named the old master since then.
    old_named_since: Option<Instant>,
    /// Why an early commit is not made, told once.
    no_early: Option<String>,
}

/// An early commit that is not settled.
#[derive(Debug)]
struct Provisional {
    since: Instant,
    previous: Master,
    /// The Sentinel that runs the failover: nobody else knows of the promotion yet.
    leader: Option<HostPort>,
    /// Replies that sessions had received before: those since then may be undone.
    replies: u64,
}

/// The master's process.
#[derive(Clone, Debug, Default)]
struct Process {
    run_id: Option<String>,
    connection: Option<u64>,
    /// The name of its history (`master_replid`).
    replid: Option<String>,
    keys: u64,
}

/// Something at the master's address that is not what sessions talked to.
#[derive(Clone, Debug)]
struct Restart {
    seen: Instant,
    /// What tells it from the next one: a process, or a history.
    which: String,
    /// The same process, which was a replica in between: its data set was replaced, its blocked clients cut off.
    replaced: bool,
}

#[derive(Debug, Default)]
struct SentinelState {
    connected: bool,
    answer: Option<SentinelAnswer>,
    answered: Option<Instant>,
    tilt: bool,
    error: Option<String>,
    lost_since: Option<Instant>,
    /// When it was lost it took connections, and did not answer.
    mute: bool,
    /// It names another master than ours since then.
    disagrees_since: Option<Instant>,
    /// Told by peers: forgotten when none names it any more.
    learnt: bool,
    /// By itself, by the peers it was learnt from, or by an earlier run.
    run_id: Option<String>,
    /// When it had first answered or failed to.
    tried: Option<Instant>,
}

#[derive(Debug, Default)]
struct NodeState {
    answer: Option<NodeAnswer>,
    info: Option<Info>,
    refused: Option<Instant>,
    silent: Option<(Instant, String)>,
}

impl View {
    /// Knows nothing yet.
    pub fn new(settings: Settings, now: Instant) -> View {
        let blank = |learnt| SentinelState { learnt, ..SentinelState::default() };
        let sentinels = settings.sentinels.iter().map(|at| (at.clone(), blank(false))).collect();
        let logins = Logins::new(settings.credentials.clone(), settings.learn_credentials, now);
        View {
            settings,
            started: now,
            sentinels,
            electorate: Electorate::default(),
            rivals_since: None,
            memory: None,
            recorded: None,
            nodes: HashMap::new(),
            lineage: Lineage::default(),
            samples: Samples::default(),
            master: None,
            process: Process::default(),
            replicas: BTreeMap::new(),
            family: BTreeMap::new(),
            electable: BTreeSet::new(),
            listed: false,
            term: 0,
            state: State::Searching,
            heard: None,
            first_answer: None,
            provisional: None,
            outage_since: Some(now),
            replicated_until: None,
            diverged_from: None,
            failing: false,
            reason: "no Sentinel has answered yet".into(),
            paused: None,
            published: None,
            phase_since: now,
            life: now,
            due: None,
            looked: now,
            doubt: None,
            unusual_until: now,
            called_down: false,
            suspects: HashMap::new(),
            electing: None,
            abandoned: None,
            distrust: HashMap::new(),
            restart: None,
            lower: None,
            minority_since: None,
            session_eof: None,
            logins,
            notices: BTreeSet::new(),
            alarms: BTreeSet::new(),
            empty_restart: None,
            long_hold_told: false,
            replies: 0,
            replied_at: None,
            last_change: None,
            planned: None,
            last_abort: None,
            counters: Counters::default(),
            outputs: Vec::new(),
        }
    }

    /// Why there is no master yet, while no Sentinel can be asked about one.
    pub fn set_reason(&mut self, reason: &str) {
        if matches!(self.state, State::Searching) {
            self.reason = reason.to_owned();
        }
    }

    /// Takes one report in and decides.
    pub fn handle(&mut self, now: Instant, input: Input) {
        self.forgive_own_lateness(now);
        self.notice_gap(now);
        match input {
            Input::Sentinel(from, what) => self.on_sentinel(now, from, what),
            Input::Node(addr, what) => self.on_node(now, addr, what),
            Input::Replies(count) => self.on_replies(now, count),
            Input::SessionEof { term } if term == self.term => {
                self.session_eof = Some(now);
                self.ask_master();
            }
            Input::SessionDialFailed { term, .. } if term == self.term => self.ask_master(),
            Input::SessionRefused { term, .. } if term == self.term => {
                self.unusual_until = now + Duration::from_secs(1);
                self.ask_master();
            }
            Input::SessionAuthRefused { term, error } if term == self.term => {
                let addr = self.master.as_ref().map_or_else(String::new, |master| master.addr.to_string());
                let text = format!("{addr} refuses the credentials of a client, whose session ends: {error}");
                if self.notices.len() < 32 && self.notices.insert(text.clone()) {
                    self.log(tracing::Level::ERROR, text);
                }
            }
            Input::SessionEof { .. }
            | Input::SessionDialFailed { .. }
            | Input::SessionRefused { .. }
            | Input::SessionAuthRefused { .. }
            | Input::Tick => {}
            Input::Credentials(credentials) => self.on_offer(credentials),
            Input::Configured(credentials) => self.on_configured(credentials),
            Input::Hold { until } => self.paused = Some((self.paused.map_or(now, |(since, _)| since), until)),
            Input::Release => self.end_pause(now),
        }
        self.choose_login(now);
        self.decide(now);
    }

    /// When [`View::handle`] wants to be called with [`Input::Tick`] at the latest.
    pub fn next_tick(&mut self, now: Instant) -> Instant {
        let pause = match self.state {
            _ if self.attaching(now) => Duration::from_millis(5),
            _ if self.electing.is_some() => Duration::from_millis(10),
            State::Following if self.doubt.is_none() => gap::LOOK,
            State::Following | State::Switching(_) => Duration::from_millis(10),
            _ => gap::LOOK,
        };
        let due = now + pause;
        self.due = Some(due);
        due
    }

    /// What should be done since the last call, in order.
    pub fn take(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }

    /// The Sentinels to be connected to.
    pub fn sentinels(&self) -> impl Iterator<Item = &HostPort> {
        self.sentinels.keys()
    }

    /// Between two polls of each Sentinel.
    pub fn poll_every(&self) -> Duration {
        match self.state {
            State::Following if self.provisional.is_none() && self.doubt.is_none() => self.settings.poll_interval,
            _ => Duration::from_millis(100).min(self.settings.poll_interval),
        }
    }

    /// Our own late wake-ups are not the master's silence: what was late is added to its last sign of life.
    fn forgive_own_lateness(&mut self, now: Instant) {
        if let Some(due) = self.due.take()
            && now > due + Duration::from_millis(50)
        {
            self.life = (self.life + (now - due)).min(now);
        }
    }

    fn on_sentinel(&mut self, now: Instant, from: HostPort, what: FromSentinel) {
        let Some(sentinel) = self.sentinels.get_mut(&from) else { return };
        match what {
            FromSentinel::Connected => {
                sentinel.connected = true;
                sentinel.tilt = false;
                if sentinel.lost_since.take().is_some() && sentinel.error.take().is_some() {
                    self.log(tracing::Level::INFO, format!("Sentinel {} is back", show::name(&from)));
                }
            }
            FromSentinel::Answer(answer) => {
                sentinel.error.clone_from(&answer.problem);
                sentinel.answered = Some(now);
                self.first_answer.get_or_insert(now);
                sentinel.tried.get_or_insert(now);
                if answer.myid.is_some() {
                    sentinel.run_id.clone_from(&answer.myid);
                }
                if let State::Switching(failover) = &mut self.state
                    && let (Some(candidate), Some(replicas)) = (failover.candidate, &answer.replicas)
                    && answer.asked >= failover.since
                {
                    let demoted = replicas.iter().any(|replica| replica.addr == candidate && replica.reported_master);
                    failover.demoted.entry(from.clone()).or_insert(demoted);
                }
                sentinel.answer = Some(*answer);
                self.count_sentinels(now);
                self.note_family(now);
            }
            FromSentinel::Lost { error, mute } => {
                sentinel.mute = mute;
                // Errors of DNS name the host alone.
                let named = error.starts_with("Sentinel ");
                let error = if named { error } else { format!("Sentinel {}: {error}", show::name(&from)) };
                let first =
                    sentinel.error.as_ref() != Some(&error) && (sentinel.connected || sentinel.lost_since.is_none());
                sentinel.connected = false;
                sentinel.lost_since.get_or_insert(now);
                sentinel.tried.get_or_insert(now);
                sentinel.error = Some(error.clone());
                if first {
                    self.log(tracing::Level::WARN, error.replacen("Sentinel ", "a Sentinel is lost: ", 1));
                }
                if let State::Switching(failover) = &mut self.state
                    && failover.leader.as_ref() == Some(&from)
                {
                    // Perhaps only we lost it, and it goes on: a promotion that is to come has its time.
                    failover.leader = None;
                    failover.ending.get_or_insert(failover.since + switching::PROMOTED_WITHIN);
                }
            }
            FromSentinel::Notice(text) => self.notice(text),
            FromSentinel::Event { kind, master, node } => self.on_event(now, from, kind, master, node),
        }
    }

    fn on_node(&mut self, now: Instant, addr: SocketAddr, what: FromNode) {
        let node = self.nodes.entry(addr).or_default();
        let is_master = self.master.as_ref().is_some_and(|master| master.addr == addr);
        match what {
            FromNode::Answer(answer) => {
                node.refused = None;
                node.silent = None;
                let same_connection = node.answer.as_ref().is_some_and(|last| last.connection == answer.connection);
                if let Some(info) = &answer.info {
                    node.info = Some(info.clone());
                } else if !same_connection {
                    node.info = None;
                }
                node.answer = Some((*answer).clone());
                if is_master || (self.master.is_none() && self.named(now).any(|(named, _)| named == addr)) {
                    self.on_login(now, &answer, addr);
                }
                if is_master {
                    self.on_master_answer(now, &answer);
                }
            }
            FromNode::Eof => {
                if is_master {
                    self.unusual_until = self.unusual_until.max(now + Duration::from_secs(1));
                }
            }
            FromNode::Refused(error) => {
                node.refused = Some(now);
                node.answer = None;
                if is_master {
                    self.on_master_gone(now, error);
                }
            }
            FromNode::Silent(error) => node.silent = Some((now, error)),
            FromNode::Notice(text) => self.notice(text),
        }
    }

    fn ask_master(&mut self) {
        if let Some(master) = &self.master {
            self.outputs.push(Output::AskNode(master.addr));
        }
    }

    fn ask_sentinels(&mut self) {
        self.outputs.push(Output::AskSentinels);
    }

    fn log(&mut self, level: tracing::Level, text: String) {
        self.outputs.push(Output::Log(level, text));
    }

    /// A warning, logged once.
    fn warn_once(&mut self, text: String) {
        if self.alarms.len() < 32 && self.alarms.insert(text.clone()) {
            self.log(tracing::Level::WARN, text);
        }
    }

    /// An error, logged once.
    fn alarm(&mut self, text: String) {
        if self.alarms.len() < 32 && self.alarms.insert(text.clone()) {
            self.log(tracing::Level::ERROR, text);
        }
    }

    fn notice(&mut self, text: String) {
        if self.notices.len() < 32 && self.notices.insert(text.clone()) {
            self.log(tracing::Level::WARN, text);
        }
    }
}
