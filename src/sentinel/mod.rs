//! Following Sentinel: who is master, and when to hold.
//!
//! [`run`] is the watch task. It feeds what the followers (one per Sentinel) and the probers (one per node) hear to
//! the [`view::View`], and does what that decides: it publishes to the [`Topology`] and knows no session.
//!
//! ```text
//! follower ─┐                    ┌─► topology.publish / prove
//! prober  ──┼─► Input ─► View ───┼─► ask a node, poll the Sentinels
//! sessions ─┘                    └─► log, metrics, status::View
//! ```

mod follower;
pub mod lineage;
mod memory;
mod prober;
pub mod view;

pub use switchmaster_protocol::sentinel::{client, electorate, event, report, word};

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::histogram;
use tokio::sync::{mpsc, oneshot, watch};

use crate::config::{Config, HoldTimeout, HostPort, SentinelConfig};
use crate::control::{Control, ControlRequest};
use crate::drain;
use crate::metrics::FAILOVER_PHASE_SECONDS;
use crate::secret::Credentials;
use crate::sentinel::client::{AddressMap, Begun, show};
use crate::sentinel::electorate::Name;
use crate::sentinel::follower::{Follower, Message, Order, Shared};
use crate::sentinel::memory::{Keeper, Memory};
use crate::sentinel::prober::Prober;
use crate::sentinel::report::Input;
use crate::sentinel::view::{Login, OTHERS_WITHIN, Output, Settings, View};
use crate::status;
use crate::topology::{Report, Topology};
use crate::upstream::Upstream;

/// The parts of the configuration that following Sentinel needs.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Sentinels, credentials, paces.
    pub sentinel: SentinelConfig,
    /// How long requests are held in one outage.
    pub hold_timeout: HoldTimeout,
    /// How long a planned failover may hold requests while its candidate says nothing and the old master lives.
    pub planned_hold_limit: Duration,
    /// Where the last verified master is remembered.
    pub state_dir: Option<PathBuf>,
    /// The addresses that the proxy's listeners were really bound to: never a master.
    pub own: Vec<SocketAddr>,
}

impl Parts {
    /// Takes them out of the whole configuration.
    pub fn new(config: &Config, own: Vec<SocketAddr>) -> Parts {
        Parts {
            sentinel: config.sentinel.clone(),
            hold_timeout: config.failover.hold_timeout,
            planned_hold_limit: config.failover.planned_hold_limit,
            state_dir: config.state_dir.clone(),
            own,
        }
    }
}

/// Why [`run`] returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// No name is configured and a Sentinel monitors several masters; their names, sorted.
    SeveralMasters(Vec<String>),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::SeveralMasters(names) => {
                write!(f, "Sentinel monitors several masters: {}; choose one with --master-name", names.join(", "))
            }
        }
    }
}

impl std::error::Error for Error {}

/// Follows Sentinel until the runtime ends. Needs a tokio runtime with I/O and time; may be its only task.
///
/// `relay_replies` is the number of replies that all sessions have received so far: that it rises is a sign of life
/// of the master. `status` gets a new view every 100 ms and at each publication. `drain` is let go as soon as the
/// drain begins: sessions that still drain need a master, so following goes on.
///
/// # Errors
/// Only [`Error::SeveralMasters`]. Absent Sentinels, DNS and nodes never end it.
pub async fn run(
    parts: Parts,
    upstream: Arc<Upstream>,
    reports: mpsc::Receiver<Report>,
    relay_replies: impl Fn() -> u64,
    commands: mpsc::Receiver<ControlRequest>,
    status: watch::Sender<status::View>,
    drain: drain::Watch,
) -> Result<(), Error> {
    let name = parts.sentinel.master_name.clone();
    let memory = match &name {
        Some(name) => remembered(&parts, name),
        None => parts.state_dir.as_deref().and_then(Memory::only),
    };
    let settings = Settings {
        sentinels: parts.sentinel.addrs.clone(),
        address_map: AddressMap::new(parts.sentinel.address_map.clone()),
        heartbeat: parts.sentinel.heartbeat,
        poll_interval: parts.sentinel.poll_interval,
        suspect_after: parts.sentinel.suspect_after,
        hold_timeout: parts.hold_timeout,
        planned_hold_limit: parts.planned_hold_limit,
        minority: parts.sentinel.minority,
        credentials: parts.sentinel.redis_auth.clone(),
        learn_credentials: parts.sentinel.learn_credentials,
        floor: None,
        candidate: None,
    };
    let mut view = View::new(settings, Instant::now());
    if let Some(memory) = memory.clone() {
        let file = file(&parts, &memory.name);
        view.recall(Some(memory), file);
    }
    let (out, messages) = mpsc::channel(1024);
    let (name_sender, name_receiver) = watch::channel(name);
    let (pace, pace_receiver) = watch::channel(parts.sentinel.poll_interval);
    let (credentials, _) = watch::channel(view.login());
    let (auth, auth_receiver) = watch::channel(parts.sentinel.auth.clone());
    let shared = Arc::new(Shared {
        map: AddressMap::new(parts.sentinel.address_map.clone()),
        auth: auth_receiver,
        own: parts.own.clone(),
        name: name_receiver,
        pace: pace_receiver,
    });
    let task = Task {
        view,
        parts,
        topology: upstream.topology.clone(),
        upstream,
        status,
        shared,
        out,
        name: name_sender,
        pace,
        credentials,
        auth,
        followers: HashMap::new(),
        probers: HashMap::new(),
        next_number: 0,
        memory,
        keeper: Keeper::default(),
        asked: None,
        shown: None,
        names: BTreeMap::new(),
        named_since: None,
    };
    task.run(messages, reports, relay_replies, commands, drain).await
}

fn remembered(parts: &Parts, name: &str) -> Option<Memory> {
    let dir = parts.state_dir.as_ref()?;
    Memory::read(dir, name).unwrap_or_else(|error| {
        tracing::warn!("the remembered master in {} cannot be read ({error}): going on without it", dir.display());
        None
    })
}

/// Where the master `name` is remembered, for people.
fn file(parts: &Parts, name: &str) -> String {
    parts.state_dir.as_ref().map_or_else(String::new, |dir| Memory::path(dir, name).display().to_string())
}

struct Task {
    view: View,
    parts: Parts,
    upstream: Arc<Upstream>,
    topology: Arc<Topology>,
    status: watch::Sender<status::View>,
    shared: Arc<Shared>,
    out: mpsc::Sender<Message>,
    name: watch::Sender<Option<String>>,
    pace: watch::Sender<Duration>,
    credentials: watch::Sender<Login>,
    auth: watch::Sender<Option<Credentials>>,
    followers: HashMap<HostPort, Follower>,
    probers: HashMap<SocketAddr, Prober>,
    /// Connections are numbered over all probers of a node: each prober begins far above the last.
    next_number: u64,
    /// What was read or written last.
    memory: Option<Memory>,
    keeper: Keeper,
    /// Who is answered when a Sentinel has begun the failover, or none has.
    asked: Option<oneshot::Sender<Result<String, String>>>,
    shown: Option<Instant>,
    /// What each Sentinel monitors, while no name is known, and since when one has said so.
    names: BTreeMap<HostPort, Vec<String>>,
    named_since: Option<Instant>,
}

impl Task {
    async fn run(
        mut self,
        mut messages: mpsc::Receiver<Message>,
        mut reports: mpsc::Receiver<Report>,
        relay_replies: impl Fn() -> u64,
        mut commands: mpsc::Receiver<ControlRequest>,
        drain: drain::Watch,
    ) -> Result<(), Error> {
        let mut drain = Some(drain);
        let mut replies = relay_replies();
        let mut looked = Instant::now();
        loop {
            if let Some(proved) = self.upstream.credentials.take_offered() {
                self.view.handle(Instant::now(), Input::Credentials(proved));
            }
            let before = self.topology.generation();
            self.carry_out();
            self.topology.look(looked);
            self.upstream.credentials.set(self.view.health_credentials());
            self.reconcile();
            self.show(before != self.topology.generation());
            let now = Instant::now();
            let wake = self.view.next_tick(now);
            let input = tokio::select! {
                biased;
                Some(message) = messages.recv() => match message {
                    Message::Input(input) => Some(input),
                    Message::Masters(from, names) => {
                        self.choose(from, names)?;
                        None
                    }
                    Message::Asked(result) => {
                        self.view.failover_asked(Instant::now(), result.is_ok());
                        self.answer_asked(result);
                        None
                    }
                },
                Some(report) = reports.recv() => Some(from_session(report)),
                Some(command) = commands.recv() => {
                    self.command(command);
                    None
                }
                () = draining(&mut drain) => {
                    drain = None;
                    None
                }
                () = tokio::time::sleep_until(wake.into()) => Some(Input::Tick),
            };
            looked = Instant::now();
            // First, so that a commit knows which replies were before it.
            let seen = relay_replies();
            if seen != replies {
                replies = seen;
                self.view.handle(Instant::now(), Input::Replies(seen));
            }
            if let Some(input) = input {
                self.view.handle(Instant::now(), input);
            }
        }
    }

    fn carry_out(&mut self) {
        for output in self.view.take() {
            match output {
                Output::Publish(entry) => {
                    if let Err(stale) = self.topology.publish(entry) {
                        tracing::error!("not published: {stale}");
                    }
                }
                Output::Prove(asked) => self.topology.prove(asked),
                Output::Sampled(number) => self.topology.sampled(number),
                Output::AskSentinels => self.followers.values().for_each(|follower| follower.poll.notify_one()),
                Output::AskNode(addr) => {
                    self.reconcile();
                    if let Some(prober) = self.probers.get(&addr) {
                        prober.now.notify_one();
                    }
                }
                Output::UseCredentials(login) => _ = self.credentials.send_replace(login),
                Output::Remember(_) => {
                    // Before any Sentinel has told the name it is that of the file which was read.
                    let known = || self.memory.as_ref().map(|memory| memory.name.clone());
                    let name = self.name.borrow().clone().or_else(known);
                    self.remember(name.and_then(|name| self.view.to_remember(&name)));
                }
                Output::RememberCandidate(addr) => {
                    self.remember(self.memory.clone().map(|memory| Memory { candidate: Some(addr), ..memory }));
                }
                Output::AskFailover(Ok(order)) => self.ask_for_failover(order),
                Output::AskFailover(Err(why)) => self.answer_asked(Err(why)),
                Output::Log(level, text) => match level {
                    tracing::Level::ERROR => tracing::error!("{text}"),
                    tracing::Level::WARN => tracing::warn!("{text}"),
                    _ => tracing::info!("{text}"),
                },
                Output::Phase(phase, took) => {
                    let master = self.upstream.label().to_owned();
                    histogram!(FAILOVER_PHASE_SECONDS, "phase" => phase, "master" => master).record(took);
                }
            }
        }
    }

    /// Tasks for the Sentinels and nodes that the view wants, and no others.
    fn reconcile(&mut self) {
        self.followers.retain(|at, _| self.view.sentinels().any(|wanted| wanted == at));
        for at in self.view.sentinels() {
            if !self.followers.contains_key(at) {
                let follower = Follower::spawn(at.clone(), self.shared.clone(), self.out.clone());
                self.followers.insert(at.clone(), follower);
            }
        }
        let nodes = self.view.nodes(Instant::now());
        self.probers.retain(|addr, _| nodes.contains_key(addr));
        for (addr, how) in nodes {
            match self.probers.get(&addr) {
                Some(prober) => prober.pace(how),
                None => {
                    self.next_number += 1 << 32;
                    let credentials = self.credentials.subscribe();
                    let prober =
                        Prober::spawn(addr, how, credentials, self.shared.clone(), self.out.clone(), self.next_number);
                    self.probers.insert(addr, prober);
                }
            }
        }
        let every = self.view.poll_every();
        self.pace.send_if_modified(|current| std::mem::replace(current, every) != every);
    }

    fn show(&mut self, published: bool) {
        let now = Instant::now();
        if !published && self.shown.is_some_and(|at| now < at + Duration::from_millis(100)) {
            return;
        }
        self.shown = Some(now);
        let mut shown = self.view.show(now);
        shown.master_name = self.name.borrow().clone().unwrap_or_default();
        self.status.send_replace(shown);
    }

    /// No Sentinel alone chooses the name, or ends the process: most of those configured do, or of those that answer
    /// once the others had their chance.
    fn choose(&mut self, from: HostPort, mut names: Vec<String>) -> Result<(), Error> {
        if self.name.borrow().is_some() {
            return Ok(());
        }
        let now = Instant::now();
        names.sort();
        self.names.insert(from, names);
        let since = *self.named_since.get_or_insert(now);
        let configured = &self.parts.sentinel.addrs;
        let tried = configured.iter().all(|at| self.names.contains_key(at) || self.view.was_tried(at));
        let settled = tried && now > since + OTHERS_WITHIN;
        match electorate::name(&self.names, configured.len(), settled) {
            Name::Several(names) => return Err(Error::SeveralMasters(names)),
            Name::One(name) => {
                tracing::info!("Sentinel monitors one master: {name}");
                self.memory = remembered(&self.parts, &name);
                self.view.recall(self.memory.clone(), file(&self.parts, &name));
                self.upstream.found(&name);
                self.name.send_replace(Some(name));
            }
            Name::Nothing => self.view.set_reason("Sentinel monitors no master yet"),
            Name::Unknown if tried => {
                self.view
                    .set_reason("the Sentinels that answer monitor different masters, or are too few: set master_name");
            }
            Name::Unknown => {}
        }
        Ok(())
    }

    fn command(&mut self, (control, reply): ControlRequest) {
        let now = Instant::now();
        let done = match control {
            Control::Hold { for_ } => {
                self.view.handle(now, Input::Hold { until: now + for_ });
                self.carry_out();
                Ok(format!("new requests are held for at most {} s", for_.as_secs_f64()))
            }
            Control::Release => {
                self.view.handle(now, Input::Release);
                self.carry_out();
                Ok("requests flow again".into())
            }
            Control::Credentials { redis, sentinels } => {
                tracing::info!("the configured passwords have changed: using the new ones from now on");
                self.auth.send_replace(sentinels);
                self.view.handle(now, Input::Configured(redis));
                Ok("the new passwords are used from now on".into())
            }
            Control::Failover { force } => match self.view.want_failover(now, force) {
                Ok(()) => {
                    self.asked = Some(reply);
                    return;
                }
                Err(why) => Err(why),
            },
        };
        let _ = reply.send(done);
    }

    fn ask_for_failover(&self, order: Vec<HostPort>) {
        let orders = |at: HostPort| Some((self.followers.get(&at)?.orders.clone(), at));
        let (sentinels, out) = (order.into_iter().filter_map(orders).collect(), self.out.clone());
        tokio::spawn(async move {
            let _ = out.send(Message::Asked(ask_in_turn(sentinels).await)).await;
        });
    }

    fn answer_asked(&mut self, result: Result<(), String>) {
        if let Some(asked) = self.asked.take() {
            let _ = asked.send(result.map(|()| "Sentinel has begun the failover".into()));
        }
    }

    fn remember(&mut self, memory: Option<Memory>) {
        let (Some(dir), Some(memory)) = (&self.parts.state_dir, memory) else { return };
        self.keeper.keep(dir, &memory);
        self.memory = Some(memory);
    }
}

/// Asks one Sentinel after the other, until one has begun it or may have: a second one would begin a second failover.
async fn ask_in_turn(sentinels: Vec<(mpsc::Sender<Order>, HostPort)>) -> Result<(), String> {
    let mut refusal = "no Sentinel can be asked".to_owned();
    for (orders, at) in sentinels {
        let (sender, answer) = oneshot::channel();
        if orders.try_send(Order::Failover(sender)).is_err() {
            continue;
        }
        let at = show(&at);
        match tokio::time::timeout(follower::LIMIT * 2, answer).await {
            Ok(Ok(Ok(Begun::Now))) => return Ok(()),
            Ok(Ok(Ok(Begun::Before))) => {
                return Err(format!(
                    "a failover is under way (Sentinel {at} says INPROG): nothing was begun; wait until `switchmaster status` shows its end"
                ));
            }
            Ok(Ok(Ok(Begun::Not(words)))) => refusal = words,
            Ok(Ok(Err(error))) => return Err(unknown(&error.to_string())),
            Ok(Err(_)) | Err(_) => return Err(unknown(&format!("Sentinel {at} did not answer in time"))),
        }
    }
    Err(refusal)
}

fn unknown(why: &str) -> String {
    format!("{why}: it may have begun the failover all the same, so no other was asked; see `switchmaster status`")
}

async fn draining(drain: &mut Option<drain::Watch>) {
    match drain {
        Some(watch) => watch.draining().await,
        None => std::future::pending().await,
    }
}

fn from_session(report: Report) -> Input {
    match report {
        Report::Eof { term } => Input::SessionEof { term },
        Report::DialFailed { term, error } => Input::SessionDialFailed { term, error },
        Report::Refused { term, prefix } => Input::SessionRefused { term, prefix },
        Report::AuthRefused { term, error } => Input::SessionAuthRefused { term, error },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watch_task_may_run_on_a_thread_of_its_own() {
        fn movable<T: Send>(_: T) {}
        let started = |parts: Parts| {
            let (upstream, reports) = Upstream::new(None, None, true);
            let (_, commands) = mpsc::channel(1);
            let (status, _) = watch::channel(status::View::default());
            let (_, drain) = drain::channel();
            movable(run(parts, upstream, reports, || 0, commands, status, drain));
        };
        let _ = started;
    }
}
