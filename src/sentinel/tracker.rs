//! The decision: reports in, decisions out.
//!
//! Deterministic: no network, no clock, no log; `now` is handed in, and what should be done comes out of
//! [`Tracker::take`] or is read from [`Tracker::nodes`] and [`Tracker::sentinels`].
//!
//! The state is in parts, each a struct in a file of its own. **A part's fields are private to its file, and no part is
//! replaced as a whole**: what may change it is a method there. The rules read all parts and call these methods:
//!
//! | file | its part | its rules |
//! |---|---|---|
//! | `situation`, `failover` | the state, the outage; a failover under way | |
//! | `followed` | the master, its process and replicas, an early commit | |
//! | `sentinels`, `nodes` | what each Sentinel and node said last, and who is believed | |
//! | `family`, `promotions`, `replies` | what is ours; which promotions may come; what sessions received | |
//! | `evidence` | | what is believed of the Sentinels' claims and of a node |
//! | `start`, `belief`, `unheard` | what a start has heard | whom a start follows, and whom without a Sentinel |
//! | `following`, `restart`, `cut_off` | restarts, being cut off | what ends `Following` and `Silent` |
//! | `switching`, `release`, `abandoned` | a failover that was not waited for | how a failover ends |
//! | `events`, `election`, `planned` | an election, an operator's wish | what Sentinels announce and are asked for |
//! | `gap`, `pause` | when we did not run, an operator's hold | what is doubted since |
//! | `asking`, `credentials` | attention, logins | which nodes are asked, how often, as whom |
//! | `earlier_run`, `history` | what is kept for the next run and for people | |
//! | `outbox`, `publish`, `show` | what waits to be done, what was published | what sessions and people see |
//!
//! All of it ends in one decision, `decide`.

mod abandoned;
mod asking;
mod belief;
mod credentials;
mod cut_off;
mod decide;
mod earlier_run;
mod election;
mod events;
mod evidence;
mod failover;
mod family;
mod followed;
mod following;
mod gap;
mod history;
mod nodes;
mod outbox;
mod pause;
mod planned;
mod promotions;
mod publish;
mod release;
mod replies;
mod restart;
mod sentinels;
mod show;
mod situation;
mod start;
mod switching;
#[cfg(test)]
mod tests;
mod unheard;

pub use asking::Pace;
pub use credentials::Login;
pub use history::{ChangeKind, ChangePhase};
pub use sentinels::OTHERS_WITHIN;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tracing::Level;

use crate::config::{HoldTimeout, HostPort, Minority};
use crate::secret::Credentials;
use crate::sentinel::client::AddressMap;
use crate::sentinel::report::{FromNode, FromSentinel, Input, SentinelAnswer};
use crate::topology::{Entry, Master};

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
    /// For the sessions; the generation is the topology's to assign.
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
    /// A part of a change of master took this long.
    Phase(ChangePhase, Duration),
}

/// The decision procedure.
#[derive(Debug)]
pub struct Tracker {
    settings: Settings,
    start: start::Start,
    earlier: earlier_run::EarlierRun,
    situation: situation::Situation,
    followed: followed::Followed,
    sentinels: sentinels::Sentinels,
    nodes: nodes::Nodes,
    family: family::Family,
    replies: replies::Replies,
    promotions: promotions::Promotions,
    election: election::Election,
    planned: planned::Planned,
    abandoned: abandoned::Abandoned,
    restarts: restart::Restarts,
    cut_off: cut_off::CutOff,
    gap: gap::Gap,
    pause: pause::Pause,
    attention: asking::Attention,
    logins: credentials::Logins,
    history: history::History,
    publisher: publish::Publisher,
    out: outbox::Outbox,
}

impl Tracker {
    /// Knows nothing yet.
    pub fn new(settings: Settings, now: Instant) -> Tracker {
        Tracker {
            start: start::Start::new(now),
            earlier: earlier_run::EarlierRun::new(&settings),
            situation: situation::Situation::new(now),
            followed: followed::Followed::new(now),
            sentinels: sentinels::Sentinels::new(&settings),
            nodes: nodes::Nodes::default(),
            family: family::Family::default(),
            replies: replies::Replies::default(),
            promotions: promotions::Promotions::default(),
            election: election::Election::default(),
            planned: planned::Planned::default(),
            abandoned: abandoned::Abandoned::default(),
            restarts: restart::Restarts::default(),
            cut_off: cut_off::CutOff::default(),
            gap: gap::Gap::new(now),
            pause: pause::Pause::default(),
            attention: asking::Attention::new(now),
            logins: credentials::Logins::new(settings.credentials.clone(), settings.learn_credentials, now),
            history: history::History::default(),
            publisher: publish::Publisher::new(now),
            out: outbox::Outbox::default(),
            settings,
        }
    }

    /// The configuration was read again. What counts at a start only stays: the map, and what an earlier run has left.
    pub fn adjust(&mut self, now: Instant, next: Settings) {
        self.on_learning(next.learn_credentials);
        self.sentinels.polled_every(next.poll_interval);
        let credentials = next.credentials.clone();
        if next.sentinels != self.settings.sentinels {
            self.sentinels.configure(&next.sentinels);
            self.drop_unnamed_sentinels(now);
        }
        let Settings { address_map, floor, candidate, .. } = std::mem::replace(&mut self.settings, next);
        self.settings = Settings { address_map, floor, candidate, ..self.settings.clone() };
        self.handle(now, Input::Configured(credentials));
    }

    /// Takes one report in and decides.
    pub fn handle(&mut self, now: Instant, input: Input) {
        if let Some(due) = self.gap.take_due() {
            self.followed.forgive_lateness(now, due);
        }
        self.notice_gap(now);
        let term = self.followed.term();
        match input {
            Input::Sentinel(from, what) => self.on_sentinel(now, from, what),
            Input::Node(addr, what) => self.on_node(now, addr, what),
            Input::Replies(count) => self.on_replies(now, count),
            Input::SessionEof { term: of } if of == term => {
                self.restarts.note_sessions_cut(now);
                self.ask_master();
            }
            Input::SessionDialFailed { term: of } if of == term => self.ask_master(),
            Input::SessionRefused { term: of } if of == term => {
                self.attention.pay(now + Duration::from_secs(1));
                self.ask_master();
            }
            Input::SessionAuthRefused { term: of, error } if of == term => {
                let addr = self.followed.addr().map_or_else(String::new, |addr| addr.to_string());
                let text = format!("{addr} refuses the credentials of a client, whose session ends: {error}");
                self.out.notice(Level::ERROR, text);
            }
            Input::SessionEof { .. }
            | Input::SessionDialFailed { .. }
            | Input::SessionRefused { .. }
            | Input::SessionAuthRefused { .. }
            | Input::Tick => {}
            Input::Credentials(credentials) => self.on_offer(credentials),
            Input::Configured(credentials) => self.on_configured(credentials),
            Input::Hold { until } => self.pause.begin(now, until),
            Input::Release => self.end_pause(now),
        }
        self.choose_login(now);
        self.decide(now);
    }

    /// When [`Tracker::handle`] wants to be called with [`Input::Tick`] at the latest.
    pub fn next_tick(&mut self, now: Instant) -> Instant {
        let is_following = self.situation.is_following();
        let pause = if self.history.is_attaching(now) {
            Duration::from_millis(5)
        } else if self.election.is_under_way()
            || self.situation.failover().is_some()
            || (is_following && self.gap.doubt().is_some())
        {
            Duration::from_millis(10)
        } else {
            gap::LOOK
        };
        self.gap.expect_look(now + pause);
        now + pause
    }

    /// What should be done since the last call, in order.
    pub fn take(&mut self) -> Vec<Output> {
        self.out.take()
    }

    /// The Sentinels to be connected to.
    pub fn sentinels(&self) -> impl Iterator<Item = &HostPort> {
        self.sentinels.iter().map(|(at, _)| at)
    }

    /// Between two polls of each Sentinel.
    pub fn poll_every(&self) -> Duration {
        let settled = self.situation.is_following() && !self.followed.is_early() && self.gap.doubt().is_none();
        let every = self.settings.poll_interval;
        if settled { every } else { every.min(Duration::from_millis(100)) }
    }

    fn on_sentinel(&mut self, now: Instant, from: HostPort, what: FromSentinel) {
        if self.sentinels.get(&from).is_none() {
            return;
        }
        match what {
            FromSentinel::Connected => {
                if self.sentinels.connected(&from) {
                    self.out.log(Level::INFO, format!("Sentinel {from} is back"));
                }
            }
            FromSentinel::Answer(answer) => self.on_sentinel_answer(now, &from, *answer),
            FromSentinel::Lost { error, mute } => {
                if let Some(text) = self.sentinels.lost(now, &from, error, mute) {
                    self.out.log(Level::WARN, text);
                }
                self.situation.failover_mut().into_iter().for_each(|failover| failover.lose(&from));
            }
            FromSentinel::Notice(text) => self.out.notice(Level::WARN, text),
            FromSentinel::Event { kind, master, node } => self.on_event(now, from, kind, master, node),
        }
    }

    fn on_sentinel_answer(&mut self, now: Instant, from: &HostPort, answer: SentinelAnswer) {
        self.situation.failover_mut().into_iter().for_each(|failover| failover.hear(from, &answer));
        self.sentinels.answered(now, from, answer);
        self.drop_unnamed_sentinels(now);
        self.sentinels.count(now, &self.earlier.sentinels());
        self.note_family(now);
    }

    fn drop_unnamed_sentinels(&mut self, now: Instant) {
        for at in self.sentinels.drop_unnamed(now) {
            self.situation.failover_mut().into_iter().for_each(|failover| failover.lose(&at));
        }
    }

    fn on_node(&mut self, now: Instant, addr: SocketAddr, what: FromNode) {
        let is_master = self.followed.is_at(addr);
        self.nodes.asked(addr);
        match what {
            FromNode::Answer(answer) => {
                self.nodes.answered(&answer, addr);
                let is_first = || self.followed.master().is_none() && self.named(now).any(|(named, _)| named == addr);
                if is_master || is_first() {
                    self.on_login(now, &answer, addr);
                }
                if is_master {
                    self.on_master_answer(now, &answer);
                }
            }
            FromNode::Eof => {
                if is_master {
                    self.attention.pay(now + Duration::from_secs(1));
                }
            }
            FromNode::Refused(error) => {
                self.nodes.refused(now, addr);
                if is_master {
                    self.on_master_gone(now, error);
                }
            }
            FromNode::Silent(error) => self.nodes.silent(addr, error),
            FromNode::Notice(text) => self.out.notice(Level::WARN, text),
        }
    }

    fn ask_master(&mut self) {
        self.out.extend(self.followed.addr().map(Output::AskNode));
    }

    fn ask_sentinels(&mut self) {
        self.out.push(Output::AskSentinels);
    }
}
