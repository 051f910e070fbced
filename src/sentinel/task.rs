//! The watch task: feeds what it hears to the tracker, and does what that decides.
//!
//! Decides nothing itself but which master is meant while no name is configured.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::histogram;
use tokio::sync::{mpsc, oneshot, watch};

use super::{Error, Parts, file, remembered};
use crate::config::HostPort;
use crate::control::{Control, ControlRequest};
use crate::drain;
use crate::metrics::FAILOVER_PHASE_SECONDS;
use crate::secret::Credentials;
use crate::sentinel::client::Begun;
use crate::sentinel::electorate::{self, Name};
use crate::sentinel::follower::{self, Context, Follower, Message, Order};
use crate::sentinel::memory::{Keeper, Memory};
use crate::sentinel::prober::Prober;
use crate::sentinel::report::Input;
use crate::sentinel::tracker::{Login, OTHERS_WITHIN, Output, Tracker};
use crate::status;
use crate::topology::Report;
use crate::upstream::Upstream;

/// The watch task.
pub(super) struct Task {
    pub(super) tracker: Tracker,
    pub(super) parts: Parts,
    pub(super) upstream: Arc<Upstream>,
    pub(super) status: watch::Sender<status::View>,
    pub(super) context: Arc<Context>,
    pub(super) out: mpsc::Sender<Message>,
    pub(super) name: watch::Sender<Option<String>>,
    pub(super) pace: watch::Sender<Duration>,
    pub(super) credentials: watch::Sender<Login>,
    pub(super) auth: watch::Sender<Option<Credentials>>,
    pub(super) own: watch::Sender<Vec<SocketAddr>>,
    pub(super) followers: HashMap<HostPort, Follower>,
    pub(super) probers: HashMap<SocketAddr, Prober>,
    /// Connections are numbered over all probers of a node: each prober begins far above the last.
    pub(super) next_number: u64,
    /// What was read or written last.
    pub(super) memory: Option<Memory>,
    pub(super) keeper: Keeper,
    /// Who is answered when a Sentinel has begun the failover, or none has.
    pub(super) asked: Option<oneshot::Sender<Result<String, String>>>,
    pub(super) shown: Option<Instant>,
    /// What each Sentinel monitors, while no name is known, and since when one has said so.
    pub(super) names: BTreeMap<HostPort, Vec<String>>,
    pub(super) named_since: Option<Instant>,
}

impl Task {
    /// Until the runtime ends, or several masters could be meant.
    pub(super) async fn run(mut self, mut inbox: Inbox, relay_replies: impl Fn() -> u64) -> Result<(), Error> {
        let mut replies = relay_replies();
        let mut looked = Instant::now();
        loop {
            self.act(looked);
            let wake = self.tracker.next_tick(Instant::now());
            let heard = inbox.next(wake).await;
            let input = self.take_in(heard)?;
            looked = Instant::now();
            // First, so that a commit knows which replies were before it.
            let seen = relay_replies();
            if seen != replies {
                replies = seen;
                self.tracker.handle(Instant::now(), Input::Replies(seen));
            }
            if let Some(input) = input {
                self.tracker.handle(Instant::now(), input);
            }
        }
    }

    /// Does what was decided on all that had arrived when it `looked`.
    fn act(&mut self, looked: Instant) {
        if let Some(proved) = self.upstream.credentials.take_offered() {
            self.tracker.handle(Instant::now(), Input::Credentials(proved));
        }
        let before = self.upstream.topology.generation();
        self.carry_out();
        self.upstream.topology.look(looked);
        self.upstream.credentials.set(self.tracker.health_credentials());
        self.reconcile();
        self.show(before != self.upstream.topology.generation());
    }

    /// What of it is for the tracker; the rest is done at once.
    fn take_in(&mut self, heard: Heard) -> Result<Option<Input>, Error> {
        match heard {
            Heard::Message(Message::Input(input)) => return Ok(Some(input)),
            Heard::Message(Message::Masters(from, names)) => self.choose(from, names)?,
            Heard::Message(Message::Asked(result)) => {
                self.tracker.failover_asked(Instant::now(), result.is_ok());
                self.answer_asked(result);
            }
            Heard::Report(report) => return Ok(Some(from_session(report))),
            Heard::Control(request) => self.order(request),
            Heard::Configured(parts) => self.reload(*parts),
            Heard::Drain => {}
            Heard::Nothing => return Ok(Some(Input::Tick)),
        }
        Ok(None)
    }

    fn carry_out(&mut self) {
        for output in self.tracker.take() {
            match output {
                Output::Publish(entry) => {
                    if let Err(stale) = self.upstream.topology.publish(entry) {
                        tracing::error!("not published: {stale}");
                    }
                }
                Output::Prove(asked) => self.upstream.topology.prove(asked),
                Output::Sampled(number) => self.upstream.topology.sampled(number),
                Output::AskSentinels => self.followers.values().for_each(|follower| follower.poll.notify_one()),
                Output::AskNode(addr) => {
                    self.reconcile();
                    if let Some(prober) = self.probers.get(&addr) {
                        prober.now.notify_one();
                    }
                }
                Output::UseCredentials(login) => _ = self.credentials.send_replace(login),
                Output::Remember(_) => {
                    // Before any Sentinel has given the name it is that of the file which was read.
                    let known = || self.memory.as_ref().map(|memory| memory.name.clone());
                    let name = self.name.borrow().clone().or_else(known);
                    self.remember(name.and_then(|name| self.tracker.to_remember(&name)));
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
                    histogram!(FAILOVER_PHASE_SECONDS, "phase" => phase.name(), "master" => master).record(took);
                }
            }
        }
    }

    /// Tasks for the Sentinels and nodes that the view wants, and no others. One that a panic has ended is made anew.
    fn reconcile(&mut self) {
        self.followers
            .retain(|at, follower| !follower.has_ended() && self.tracker.sentinels().any(|wanted| wanted == at));
        for at in self.tracker.sentinels() {
            if !self.followers.contains_key(at) {
                let follower = Follower::spawn(at.clone(), self.context.clone(), self.out.clone());
                self.followers.insert(at.clone(), follower);
            }
        }
        let nodes = self.tracker.nodes(Instant::now());
        self.probers.retain(|addr, prober| !prober.has_ended() && nodes.contains_key(addr));
        for (addr, how) in nodes {
            match self.probers.get(&addr) {
                Some(prober) => prober.pace(how),
                None => {
                    self.next_number += 1 << 32;
                    let credentials = self.credentials.subscribe();
                    let prober =
                        Prober::spawn(addr, how, credentials, self.context.clone(), self.out.clone(), self.next_number);
                    self.probers.insert(addr, prober);
                }
            }
        }
        let every = self.tracker.poll_every();
        self.pace.send_if_modified(|current| std::mem::replace(current, every) != every);
    }

    fn show(&mut self, published: bool) {
        let now = Instant::now();
        if !published && self.shown.is_some_and(|at| now < at + Duration::from_millis(100)) {
            return;
        }
        self.shown = Some(now);
        let mut shown = self.tracker.show(now);
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
        let tried = configured.iter().all(|at| self.names.contains_key(at) || self.tracker.was_tried(at));
        let settled = tried && now > since + OTHERS_WITHIN;
        match electorate::name(&self.names, configured.len(), settled) {
            Name::Several(names) => return Err(Error::SeveralMasters(names)),
            Name::One(name) => {
                tracing::info!("Sentinel monitors one master: {name}");
                self.memory = remembered(&self.parts, &name);
                self.tracker.recall(self.memory.clone(), file(&self.parts, &name));
                self.upstream.found(&name);
                self.name.send_replace(Some(name));
            }
            Name::Nothing => self.tracker.set_reason("Sentinel monitors no master yet"),
            Name::Unknown if tried => {
                self.tracker
                    .set_reason("the Sentinels that answer monitor different masters, or are too few: set master_name");
            }
            Name::Unknown => {}
        }
        Ok(())
    }

    fn order(&mut self, (control, answer): ControlRequest) {
        let now = Instant::now();
        let done = match control {
            Control::Hold { for_ } => {
                self.tracker.handle(now, Input::Hold { until: now + for_ });
                self.carry_out();
                Ok(format!("new requests are held for at most {} s", for_.as_secs_f64()))
            }
            Control::Release => {
                self.tracker.handle(now, Input::Release);
                self.carry_out();
                Ok("requests flow again".into())
            }
            Control::Failover { force } => match self.tracker.want_failover(now, force) {
                Ok(()) => {
                    self.asked = Some(answer);
                    return;
                }
                Err(why) => Err(why),
            },
            Control::Reload => Err("whoever follows Sentinel reads no configuration".into()),
        };
        let _ = answer.send(done);
    }

    fn reload(&mut self, parts: Parts) {
        let auth = &parts.sentinel.auth;
        self.auth.send_if_modified(|used| {
            let is_new = used != auth;
            used.clone_from(auth);
            is_new
        });
        self.own.send_replace(parts.own.clone());
        self.upstream.credentials.learn(parts.sentinel.learn_credentials);
        self.tracker.adjust(Instant::now(), parts.settings());
        self.names.retain(|at, _| self.tracker.sentinels().any(|known| known == at));
        self.parts = parts;
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

/// Whatever the task hears.
pub(super) struct Inbox {
    pub(super) messages: mpsc::Receiver<Message>,
    pub(super) reports: mpsc::Receiver<Report>,
    pub(super) commands: mpsc::Receiver<ControlRequest>,
    pub(super) configured: watch::Receiver<Parts>,
    /// Let go when the drain begins: sessions that still drain need a master, so following goes on.
    pub(super) drain: Option<drain::Watch>,
}

enum Heard {
    /// From a follower, a prober, or whoever asks for a failover.
    Message(Message),
    /// From a session.
    Report(Report),
    /// From an operator.
    Control(ControlRequest),
    /// The configuration was read again.
    Configured(Box<Parts>),
    /// The drain begins.
    Drain,
    /// Until it was time.
    Nothing,
}

impl Inbox {
    async fn next(&mut self, wake: Instant) -> Heard {
        tokio::select! {
            biased;
            Some(message) = self.messages.recv() => Heard::Message(message),
            Some(report) = self.reports.recv() => Heard::Report(report),
            Some(command) = self.commands.recv() => Heard::Control(command),
            Ok(()) = self.configured.changed() => Heard::Configured(Box::new(self.configured.borrow_and_update().clone())),
            () = draining(&mut self.drain) => {
                self.drain = None;
                Heard::Drain
            }
            () = tokio::time::sleep_until(wake.into()) => Heard::Nothing,
        }
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
        Report::DialFailed { term } => Input::SessionDialFailed { term },
        Report::Refused { term } => Input::SessionRefused { term },
        Report::AuthRefused { term, error } => Input::SessionAuthRefused { term, error },
    }
}
