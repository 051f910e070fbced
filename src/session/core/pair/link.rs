//! A connection from a session to a model server, with what is on its way in either direction.

use std::time::{Duration, Instant};

use super::dice::Flow;
use super::server::Health;
use super::world::World;
use crate::session::core::restoration::{Progress, Refusal, Restoration};
use crate::session::core::state::Restore;

/// An established connection.
#[derive(Debug)]
pub struct Link {
    pub node: usize,
    pub id: u64,
    /// The term for which it was made.
    pub term: u64,
    /// Taken by our socket, not yet at the server.
    up: Vec<u8>,
    up_fin: bool,
    /// At our socket, not yet read.
    down: Vec<u8>,
    /// No more will come behind `down`.
    down_end: bool,
    /// What the server says stays on its way.
    pub mute: bool,
    /// What our socket takes before the server does.
    pub size: usize,
}

impl Link {
    pub fn open(world: &mut World, node: usize, term: u64) -> Option<Link> {
        let id = world.servers[node].connect()?;
        Some(Link {
            node,
            id,
            term,
            up: Vec::new(),
            up_fin: false,
            down: Vec::new(),
            down_end: false,
            mute: false,
            size: usize::MAX,
        })
    }

    pub fn with_size(self, size: usize) -> Link {
        Link { size, ..self }
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.up.extend_from_slice(bytes);
    }

    /// How much our socket takes now.
    pub fn room(&self) -> usize {
        self.size.saturating_sub(self.up.len())
    }

    /// A FIN behind what was written.
    pub fn shut_down(&mut self) {
        self.up_fin = true;
    }

    pub fn readable(&self) -> usize {
        self.down.len()
    }

    pub fn is_at_end(&self) -> bool {
        self.down.is_empty() && self.down_end
    }

    pub fn read(&mut self, count: usize) -> Vec<u8> {
        self.down.drain(..count).collect()
    }

    /// Moves a piece in each direction; true if something moved.
    pub fn carry(&mut self, world: &mut World, flow: &mut Flow) -> bool {
        let server = &mut world.servers[self.node];
        let now = world.now;
        let mut moved = false;
        // The sockets of a server that is stopped fill up.
        let is_stuck = self.size != usize::MAX && server.health == Health::Hung;
        if !self.up.is_empty() && !is_stuck {
            let count = flow.piece(self.up.len());
            let bytes: Vec<u8> = self.up.drain(..count).collect();
            server.receive(self.id, &bytes, now);
            moved = true;
        } else if self.up_fin && self.up.is_empty() {
            server.finish(self.id, now);
            self.up_fin = false;
            moved = true;
        }
        if !self.mute && server.has_output(self.id) {
            let bytes = server.take_output(self.id, flow.piece(usize::MAX / 2).min(64 * 1024));
            self.down.extend_from_slice(&bytes);
            moved = true;
        }
        if !self.mute && !self.down_end && server.has_ended(self.id) {
            self.down_end = true;
            moved = true;
        }
        moved
    }

    /// The connection is given up; what our socket took still arrives. Whether something moved, and whether it is gone.
    pub fn let_go(&mut self, world: &mut World, flow: &mut Flow) -> (bool, bool) {
        self.mute = true;
        let moved = self.carry(world, flow);
        let is_gone = self.up.is_empty();
        if is_gone {
            world.servers[self.node].forget(self.id, world.now);
        }
        (moved | is_gone, is_gone)
    }

    /// The node's process died: what had arrived may be lost with the reset.
    pub fn reset(&mut self, flow: &mut Flow) {
        if flow.happens(2) {
            let kept = flow.piece(self.down.len() + 1) - 1;
            self.down.truncate(kept);
        }
    }
}

/// A connection in the making: dialled, and then given the client's state.
#[derive(Debug)]
pub struct Dial {
    pub node: usize,
    pub term: u64,
    pub restore: Restore,
    since: Instant,
    retry_at: Instant,
    pause: Duration,
    link: Option<Link>,
    heard: Vec<Vec<u8>>,
}

/// How an attempt ended.
pub enum Dialled {
    /// It goes on.
    Pending,
    /// Something moved, and it goes on.
    Moved,
    /// Another attempt is due; the node refused, or could not be reached.
    Failed { is_refusal: bool },
    /// The connection, and what the server said unasked.
    Done(Box<Link>, Vec<u8>),
    /// The node does not take this client, in these words.
    Never(Refusal),
    /// Not within its time.
    TooLate,
}

impl Dial {
    pub fn new(world: &World, node: usize, term: u64, restore: Restore) -> Dial {
        let pause = Duration::from_millis(10);
        Dial { node, term, restore, since: world.now, retry_at: world.now, pause, link: None, heard: Vec::new() }
    }

    /// When it is tried again, if it waits for that.
    pub fn wake(&self) -> Option<Instant> {
        self.link.is_none().then_some(self.retry_at)
    }

    pub fn carry(&mut self, world: &mut World, flow: &mut Flow) -> Dialled {
        let Some(link) = &mut self.link else {
            if world.now < self.retry_at {
                return Dialled::Pending;
            }
            let Some(mut link) = Link::open(world, self.node, self.term) else {
                return self.fail(world, false);
            };
            link.write(&self.restore.requests);
            self.link = Some(link);
            self.heard.clear();
            return if self.restore.expect.is_empty() { self.done(Vec::new()) } else { Dialled::Moved };
        };
        let moved = link.carry(world, flow);
        if link.readable() > 0 {
            let bytes = link.read(flow.piece(link.readable()));
            self.heard.push(bytes);
            let mut restoration = Restoration::new(&self.restore);
            let mut progress = Ok(Progress::More);
            for piece in &self.heard {
                progress = restoration.take(piece);
            }
            return match progress {
                Ok(Progress::More) => Dialled::Moved,
                Ok(Progress::Done(unasked)) => self.done(unasked),
                Err(Refusal::NotNow) => self.fail(world, true),
                Err(refusal) => Dialled::Never(refusal),
            };
        }
        if link.is_at_end() {
            return self.fail(world, false);
        }
        if moved { Dialled::Moved } else { Dialled::Pending }
    }

    fn done(&mut self, unasked: Vec<u8>) -> Dialled {
        Dialled::Done(Box::new(self.link.take().expect("it is there")), unasked)
    }

    fn fail(&mut self, world: &mut World, is_refusal: bool) -> Dialled {
        if let Some(link) = self.link.take() {
            world.servers[link.node].forget(link.id, world.now);
        }
        self.retry_at = world.now + self.pause;
        self.pause = (self.pause * 2).min(Duration::from_millis(250));
        if self.retry_at > self.since + Duration::from_secs(15) {
            Dialled::TooLate
        } else {
            Dialled::Failed { is_refusal }
        }
    }

    /// It is no longer wanted.
    pub fn give_up(self, world: &mut World) {
        if let Some(link) = self.link {
            world.servers[link.node].forget(link.id, world.now);
        }
    }
}
