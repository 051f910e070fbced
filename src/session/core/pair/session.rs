//! One client, the core between, and its connection to a server: the driver's part, played as `session::driver` does.
//!
//! A session is polled only when something it waits for has happened (bytes, room to write, the topology, a timer), so
//! that a core which forgets to ask for something stalls here as it would there.

mod pumps;

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::dice::Flow;
use super::link::{Dial, Dialled, Link};
use super::world::World;
use crate::config::{OnLostPop, OnLostReply};
use crate::drain::Stage;
use crate::session::CloseReason;
use crate::session::core::restoration::Refusal;
use crate::session::core::{Action, Core, Counts, Settings, Sight, Turn};
use crate::topology::Report;
use crate::upstream::{KnownCredentials, Scripts};

/// Turns of one poll, as the driver takes them before others get theirs.
const TURNS: usize = 16;

pub const SETTINGS: Settings = Settings {
    on_lost_reply: OnLostReply::Error,
    on_lost_pop: OnLostPop::Resend,
    hold_timeout: None,
    retain_bytes: 64 * 1024,
    retain_total: 64 * 1024 * 1024,
    reuse_backends: false,
    warm_backends: 0,
    detach_idle_after: Duration::ZERO,
    max_clients: 1000,
};

/// The client's end of its connection.
#[derive(Debug)]
pub struct Client {
    /// Sent and not read by the session.
    sent: Vec<u8>,
    fin: bool,
    /// It has closed: what the session writes fails.
    gone: bool,
    /// Received and not looked at.
    pub heard: Vec<u8>,
    /// How much more it takes.
    pub window: usize,
    /// The session has closed the connection.
    pub is_closed: bool,
}

pub struct Session {
    core: Core,
    pub client: Client,
    pub link: Option<Link>,
    dial: Option<Dial>,
    /// Given up, with something still on its way.
    orphans: Vec<Link>,
    pub ended: Option<CloseReason>,
    pub settings: Settings,
    scripts: Rc<Scripts>,
    credentials: Rc<KnownCredentials>,
    pub counts: Counts,
    pub stage: Stage,
    idle_ticks: u16,
    /// A connection of the pool is taken where one will do.
    pub uses_pool: bool,
    /// What the servers say stays on its way.
    pub is_mute: bool,
    /// How many bytes of the backends it has read, and how many it may have read for now.
    pub read_down: usize,
    pub down_limit: usize,
    /// Splices what it may.
    pub splices: bool,
    /// What its socket to a backend takes before the server does.
    pub socket: usize,
    pipe: Vec<u8>,
    woken: bool,
    /// Turns in which something moved.
    moves: usize,
    wake_at: Option<Instant>,
    waits: Waits,
    seen: (u64, Option<Instant>),
}

/// What the last poll found not ready.
#[derive(Debug, Default)]
struct Waits {
    client_read: bool,
    client_write: bool,
    backend_read: bool,
    backend_write: bool,
}

/// What was found dry in this poll.
#[derive(Default)]
struct Dry {
    client: bool,
    backend: bool,
}

impl Session {
    pub fn new(world: &World, settings: Settings, scripts: Rc<Scripts>, credentials: Rc<KnownCredentials>) -> Session {
        let core = {
            let turn = turn_of(world, settings, &scripts, &credentials, Stage::Serving, 0);
            Core::new(&world.entry, &turn)
        };
        let client = Client {
            sent: Vec::new(),
            fin: false,
            gone: false,
            heard: Vec::new(),
            window: usize::MAX,
            is_closed: false,
        };
        Session {
            core,
            client,
            link: None,
            dial: None,
            orphans: Vec::new(),
            ended: None,
            settings,
            scripts,
            credentials,
            counts: Counts::default(),
            stage: Stage::Serving,
            idle_ticks: 0,
            uses_pool: false,
            is_mute: false,
            read_down: 0,
            down_limit: usize::MAX,
            splices: false,
            socket: usize::MAX,
            pipe: Vec::new(),
            woken: true,
            moves: 0,
            wake_at: None,
            waits: Waits::default(),
            seen: (world.entry.generation, world.proven),
        }
    }

    /// The client sends this.
    pub fn send(&mut self, bytes: &[u8]) {
        self.client.sent.extend_from_slice(bytes);
        self.woken |= self.waits.client_read;
    }

    /// The client says FIN.
    pub fn finish(&mut self) {
        self.client.fin = true;
        self.woken |= self.waits.client_read;
    }

    /// The client is gone.
    pub fn abandon(&mut self) {
        self.client.gone = true;
        self.finish();
    }

    /// The client takes so much more.
    pub fn open_window(&mut self, window: usize) {
        self.client.window = window;
        self.woken |= self.waits.client_write;
    }

    /// The proxy drains.
    pub fn set_stage(&mut self, stage: Stage) {
        self.stage = stage;
        self.woken = true;
    }

    /// `detach_idle_after` has passed.
    pub fn tick(&mut self) {
        self.idle_ticks += 1;
        self.woken = true;
    }

    /// It may read the backend again.
    pub fn limit_down(&mut self, limit: usize) {
        self.down_limit = limit;
        self.woken |= self.waits.backend_read;
    }

    /// Since when it wants to be woken by the clock.
    pub fn wake(&self) -> Option<Instant> {
        let dial = self.dial.as_ref().and_then(Dial::wake);
        [self.wake_at.filter(|_| self.ended.is_none()), dial].into_iter().flatten().min()
    }

    /// Polls the session if anything has happened that it waits for; true if something moved.
    pub fn poll(&mut self, world: &mut World, flow: &mut Flow) -> bool {
        let present = (world.entry.generation, world.proven);
        if self.seen != present || self.wake_at.is_some_and(|at| at <= world.now) {
            self.woken = true;
        }
        self.seen = present;
        self.wake_at = self.wake_at.filter(|at| *at > world.now);
        if self.ended.is_some() || !std::mem::take(&mut self.woken) {
            return false;
        }
        self.waits = Waits::default();
        let mut dry = Dry::default();
        for _ in 0..TURNS {
            match self.turn(world, flow, &mut dry) {
                Ok(true) => self.moves += 1,
                Ok(false) => return true,
                Err(reason) => {
                    self.end(reason, world);
                    return true;
                }
            }
        }
        self.woken = true;
        true
    }

    /// Polls it though nothing has happened: nothing may move. What did would have waited for ever.
    pub fn check_rest(&mut self, world: &mut World, flow: &mut Flow) {
        let before = (self.moves, self.ended.is_none());
        self.woken = true;
        self.poll(world, flow);
        assert_eq!((self.moves, self.ended.is_none()), before, "it was asleep with something to do");
    }

    /// Moves what is on its way to and from servers; true if something moved.
    pub fn carry(&mut self, world: &mut World, flow: &mut Flow) -> bool {
        let mut moved = false;
        self.orphans.retain_mut(|link| {
            let (moves, is_gone) = link.let_go(world, flow);
            moved |= moves;
            !is_gone
        });
        if let Some(link) = &mut self.link {
            link.mute = self.is_mute;
            let moves = link.carry(world, flow);
            self.woken |= moves && self.waits.backend_read && (link.readable() > 0 || link.is_at_end());
            self.woken |= self.waits.backend_write && link.room() > 0;
            moved |= moves;
        }
        moved | self.carry_dial(world, flow)
    }

    /// The process of this node died.
    pub fn reset_links(&mut self, node: usize, flow: &mut Flow) {
        if let Some(link) = self.link.as_mut().filter(|link| link.node == node) {
            link.reset(flow);
        }
    }

    fn carry_dial(&mut self, world: &mut World, flow: &mut Flow) -> bool {
        let Some(dial) = &mut self.dial else { return false };
        let term = dial.term;
        match dial.carry(world, flow) {
            Dialled::Pending => return false,
            Dialled::Moved => {}
            Dialled::Failed { is_refusal } => {
                world.report(&if is_refusal { Report::Refused { term } } else { Report::DialFailed { term } });
            }
            Dialled::Done(link, unasked) => {
                let dial = self.dial.take().expect("it carried");
                if dial.restore.loads_scripts() {
                    self.scripts.loaded(term);
                }
                self.link = Some(link.with_size(self.socket));
                self.core.attached(false);
                if !unasked.is_empty() {
                    self.with_turn(world, |core, turn| {
                        let end = core.backend_bytes(turn, &unasked);
                        core.to_client().push(&unasked[..end]);
                    });
                }
                self.woken = true;
            }
            Dialled::Never(Refusal::Auth(error)) => {
                world.report(&Report::AuthRefused { term, error });
                self.end(CloseReason::AuthRefused, world);
            }
            Dialled::Never(refusal) => {
                assert!(matches!(refusal, Refusal::Other), "{refusal:?}");
                self.end(CloseReason::NotRestored, world);
            }
            Dialled::TooLate => {
                self.dial = None;
                if let Err(reason) = self.core.not_attached(CloseReason::Unreachable) {
                    self.end(reason, world);
                }
            }
        }
        true
    }

    fn end(&mut self, reason: CloseReason, world: &mut World) {
        self.ended = Some(reason);
        self.client.is_closed = true;
        self.drop_backend(world);
    }

    fn drop_backend(&mut self, world: &mut World) {
        self.orphans.extend(self.link.take());
        if let Some(dial) = self.dial.take() {
            dial.give_up(world);
        }
    }

    /// Calls the core, and does what it wants done.
    fn with_turn<T>(&mut self, world: &mut World, call: impl FnOnce(&mut Core, &mut Turn<'_>) -> T) -> T {
        let (scripts, credentials, settings) = (self.scripts.clone(), self.credentials.clone(), self.settings);
        let mut turn = turn_of(world, settings, &scripts, &credentials, self.stage, self.idle_ticks);
        let result = call(&mut self.core, &mut turn);
        let (actions, counts) = (std::mem::take(&mut turn.actions), turn.counts);
        self.note(counts);
        actions.into_iter().for_each(|action| self.carry_out(action, world));
        result
    }

    fn note(&mut self, counts: Counts) {
        self.counts.requests += counts.requests;
        self.counts.replies += counts.replies;
        self.counts.moved += counts.moved;
        self.counts.replayed += counts.replayed;
        self.counts.lost += counts.lost;
        self.counts.withheld += counts.withheld;
    }

    fn carry_out(&mut self, action: Action, world: &mut World) {
        match action {
            Action::Attach { addr, restore, may_be_ready } => {
                let (node, term) = (world.node_at(addr), self.core.term());
                assert_eq!((term, node), (world.entry.term, world.master), "attached to a node that is not the master");
                if may_be_ready
                    && self.uses_pool
                    && let Some(link) = Link::open(world, node, term)
                {
                    self.link = Some(link.with_size(self.socket));
                    return self.core.attached(true);
                }
                self.dial = Some(Dial::new(world, node, term, restore));
            }
            Action::Leave(_) => self.drop_backend(world),
            Action::ShutDown => self.link.iter_mut().for_each(Link::shut_down),
            Action::Unblock => {
                if let Some(link) = &self.link {
                    world.servers[link.node].let_go(link.id, world.now);
                }
            }
            Action::WakeIn(delay) => {
                let at = world.now + delay.max(Duration::from_millis(1));
                self.wake_at = Some(self.wake_at.map_or(at, |before| before.min(at)));
            }
            Action::Report(report) => world.report(&report),
            Action::NoReset | Action::LoginRefused | Action::Settled | Action::Held(_) => {}
        }
    }
}

fn turn_of<'a>(
    world: &World,
    settings: Settings,
    scripts: &'a Scripts,
    credentials: &'a KnownCredentials,
    stage: Stage,
    idle_ticks: u16,
) -> Turn<'a> {
    Turn {
        now: world.now,
        sight: Sight::new(world.entry.generation, false),
        stage,
        sample: world.sample,
        idle_ticks,
        settings,
        scripts,
        credentials,
        counts: Counts::default(),
        actions: Vec::new(),
    }
}
