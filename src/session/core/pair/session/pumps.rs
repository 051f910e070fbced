//! One turn of a session: the topology observed, replies and requests pumped, in the order of `session::driver`.
//!
//! What may be sent, and where, is checked here, at the socket.

use super::super::dice::Flow;
use super::super::world::World;
use super::{Dry, Session, turn_of};
use crate::session::CloseReason;
use crate::session::core::{Hear, Sight};
use crate::topology::{Entry, Phase};

/// Turns before what the old master has said is read no further.
const TURNS: usize = 16;
/// What the driver reads at once.
const SCRATCH: usize = 16 * 1024;

impl Session {
    /// One turn of everything; true when something moved.
    pub(super) fn turn(&mut self, world: &mut World, flow: &mut Flow, dry: &mut Dry) -> Result<bool, CloseReason> {
        if self.with_turn(world, |core, turn| core.is_clear(turn)) {
            let replied = !dry.backend && self.read_backend(world, flow, dry, true)?;
            return Ok(replied || (!dry.client && self.read_client(world, flow, dry, usize::MAX, true)?));
        }
        self.observe(world, flow, dry)?;
        let replied = self.pump_replies(world, flow, dry)?;
        let attached = self.attach(world);
        let requested = self.pump_requests(world, flow, dry)?;
        let moved = replied | attached | requested;
        if !moved {
            let client_dry = dry.client;
            self.with_turn(world, |core, turn| {
                let drained = core.drain(turn, client_dry);
                core.note_hold(turn);
                drained
            })?;
        }
        Ok(moved)
    }

    fn observe(&mut self, world: &mut World, flow: &mut Flow, dry: &mut Dry) -> Result<(), CloseReason> {
        let entry = world.entry.clone();
        let (must, hears) = self.with_turn(world, |core, turn| {
            core.note_idle(turn);
            let must = core.must_observe(turn);
            (must, must && core.hears_out(&entry))
        });
        if !must {
            return Ok(());
        }
        if hears {
            dry.backend = false;
            for _ in 0..TURNS {
                if !self.pump_replies(world, flow, dry)? {
                    break;
                }
            }
        }
        let (proven, is_heard) = (world.proven, !hears || dry.backend);
        self.with_turn(world, |core, turn| core.observe(turn, &entry, proven, is_heard))
    }

    /// Makes a backend when there is something to send and somewhere to send it.
    fn attach(&mut self, world: &mut World) -> bool {
        let Entry { generation, master, .. } = &*world.entry;
        if !self.core.wants_backend() {
            return false;
        }
        let Some(addr) =
            master.as_ref().map(|master| master.addr).filter(|_| self.core.has_seen(Sight::new(*generation, false)))
        else {
            self.woken = true;
            return false;
        };
        self.with_turn(world, |core, turn| core.attach(turn, addr));
        true
    }

    /// Backend to client.
    fn pump_replies(&mut self, world: &mut World, flow: &mut Flow, dry: &mut Dry) -> Result<bool, CloseReason> {
        if !self.flush_to_client(flow)? || (dry.backend && !self.core.has_answers()) {
            return Ok(false);
        }
        let mut moved = self.with_turn(world, |core, turn| core.deliver(turn));
        self.flush_to_client(flow)?;
        if let Some(reason) = self.core.ended() {
            return Err(reason);
        }
        moved |= !dry.backend && self.read_backend(world, flow, dry, false)?;
        Ok(moved)
    }

    fn read_backend(
        &mut self,
        world: &mut World,
        flow: &mut Flow,
        dry: &mut Dry,
        is_clear: bool,
    ) -> Result<bool, CloseReason> {
        let Some(link) = &mut self.link else { return Ok(false) };
        let taken = self.core.reads_backend(&turn_of(
            world,
            self.settings,
            &self.scripts,
            &self.credentials,
            self.stage,
            self.idle_ticks,
        ));
        let Some(take) = taken else { return Ok(false) };
        let there = link.readable().min(self.down_limit - self.read_down);
        if there == 0 {
            if !link.is_at_end() {
                (dry.backend, self.waits.backend_read) = (true, true);
                return Ok(false);
            }
            self.orphans.extend(self.link.take());
            self.with_turn(world, |core, turn| core.backend_ended(turn))?;
            return Ok(true);
        }
        let splices = self.splices && take.body > 0;
        let most = if splices { take.body } else { take.most.min(SCRATCH) };
        let bytes = link.read(flow.piece(there.min(most)));
        self.read_down += bytes.len();
        if splices {
            self.core.body_taken(bytes.len());
            self.pipe = bytes;
        } else {
            let end = self.with_turn(world, |core, turn| match is_clear && core.pass_replies(turn, &bytes) {
                true => bytes.len(),
                false => core.backend_bytes(turn, &bytes),
            });
            self.core.to_client().push(&bytes[..end]);
        }
        self.flush_to_client(flow)?;
        Ok(true)
    }

    /// Sends what the client did not take yet; false while something is left.
    fn flush_to_client(&mut self, flow: &mut Flow) -> Result<bool, CloseReason> {
        let client = &mut self.client;
        let out = self.core.to_client();
        while !out.is_empty() {
            if client.gone {
                return Err(CloseReason::ClientClosed);
            }
            let waiting = if self.pipe.is_empty() { out.bytes().len() } else { self.pipe.len() };
            let count = waiting.min(client.window);
            if count == 0 {
                self.waits.client_write = true;
                return Ok(false);
            }
            let count = flow.piece(count);
            client.window = if client.window == usize::MAX { usize::MAX } else { client.window - count };
            if self.pipe.is_empty() {
                client.heard.extend_from_slice(&out.bytes()[..count]);
                out.sent(count);
            } else {
                client.heard.extend(self.pipe.drain(..count));
                if self.pipe.is_empty() {
                    out.pipe_sent();
                }
            }
        }
        Ok(true)
    }

    /// Client to backend.
    fn pump_requests(&mut self, world: &mut World, flow: &mut Flow, dry: &mut Dry) -> Result<bool, CloseReason> {
        if dry.client && self.core.is_heard() {
            return Ok(false);
        }
        self.flush_to_backend(world, flow);
        if self.core.is_failing() {
            let entry = world.entry.clone();
            if self.with_turn(world, |core, turn| core.refuse_inbox(turn, &entry.reason)) {
                return Ok(true);
            }
        }
        let hear = self.with_turn(world, |core, turn| core.hear(turn));
        self.flush_to_backend(world, flow);
        match hear? {
            Hear::Again => Ok(true),
            Hear::Nothing => Ok(false),
            Hear::Bytes(_) if dry.client => Ok(false),
            Hear::Bytes(most) => self.read_client(world, flow, dry, most, false),
            Hear::Leaving => {
                if self.client.fin {
                    self.with_turn(world, |core, turn| core.client_left(turn))?;
                } else {
                    self.waits.client_read = true;
                }
                Ok(false)
            }
        }
    }

    fn read_client(
        &mut self,
        world: &mut World,
        flow: &mut Flow,
        dry: &mut Dry,
        most: usize,
        is_clear: bool,
    ) -> Result<bool, CloseReason> {
        let there = self.client.sent.len();
        if there == 0 {
            if !self.client.fin {
                (dry.client, self.waits.client_read) = (true, true);
                return Ok(false);
            }
            self.with_turn(world, |core, turn| core.client_ended(turn))?;
            return Ok(true);
        }
        let count = flow.piece(there.min(most).min(SCRATCH));
        let bytes: Vec<u8> = self.client.sent.drain(..count).collect();
        let requests = self.counts.requests;
        let end = self.with_turn(world, |core, turn| match is_clear && core.pass_requests(turn, &bytes) {
            true => bytes.len(),
            false => core.client_bytes(turn, &bytes),
        });
        self.check_begun(world, requests);
        self.core.keep_for_backend(&bytes[..end]);
        self.flush_to_backend(world, flow);
        Ok(true)
    }

    /// Nothing was begun while requests are held.
    fn check_begun(&self, world: &World, before: u64) {
        let is_open = matches!(world.entry.phase, Phase::Stable | Phase::Electing);
        let holds_queue = world.entry.phase == Phase::Switching;
        assert!(
            is_open || holds_queue || self.counts.requests == before,
            "a request was begun in {:?}",
            world.entry.phase
        );
    }

    fn flush_to_backend(&mut self, world: &World, flow: &mut Flow) {
        let (Some(link), Some(out)) = (&mut self.link, self.core.to_backend(Sight::new(world.entry.generation, false)))
        else {
            return;
        };
        while !out.is_empty() {
            assert_eq!((link.term, link.node), (world.entry.term, world.master), "sent to a master that was left");
            let count = out.bytes().len().min(link.room());
            if count == 0 {
                self.waits.backend_write = true;
                return;
            }
            let count = flow.piece(count);
            link.write(&out.bytes()[..count]);
            out.sent(count);
        }
    }
}
