//! The sessions of this thread, so that a change of the topology can wake them in order of urgency.
//!
//! Thread-local on purpose: a session is polled, woken and dropped on the one thread it was accepted on.

use std::cell::{Cell, RefCell};
use std::num::NonZeroU32;
use std::task::Waker;
use std::time::Duration;

use tokio::sync::watch;

use super::Worker;
use super::core::Urgency;
use crate::drain::{News, Stage};
use crate::topology::Topology;

thread_local! {
    static SLOTS: RefCell<Slots> = const { RefCell::new(Slots { slots: Vec::new(), free: Vec::new() }) };
    static IDLE_TICKS: Cell<u16> = const { Cell::new(0) };
    static STAGE: Cell<Stage> = const { Cell::new(Stage::Serving) };
}

/// Sessions woken before others get a turn.
const BATCH: usize = 64;
/// How often held sessions look at the clock.
const TICK: Duration = Duration::from_millis(100);
/// Idle for one of these, a session is quiet.
const QUIET: Duration = Duration::from_millis(40);
/// How often a drain looks at what is left.
const DRAIN_TICK: Duration = Duration::from_millis(10);
/// The same where one listener closes and others stay, at most: each look is one at the sessions of all.
const CLOSE_TICK: Duration = Duration::from_millis(320);

struct Slots {
    slots: Vec<Option<Slot>>,
    free: Vec<NonZeroU32>,
}

struct Slot {
    waker: Waker,
    urgency: Urgency,
    /// Something is under way that was so when the drain began.
    unsettled: bool,
}

/// A session's place in the registry; dropping it leaves.
#[derive(Debug)]
pub struct Ticket(NonZeroU32);

impl Ticket {
    /// Enters the registry of this thread.
    pub fn new(waker: Waker) -> Ticket {
        SLOTS.with_borrow_mut(|all| {
            let slot = Some(Slot { waker, urgency: Urgency::Idle, unsettled: false });
            let free = all.free.pop();
            let place = free.unwrap_or_else(|| {
                all.slots.push(None);
                NonZeroU32::new(all.slots.len() as u32).expect("one was pushed")
            });
            let ticket = Ticket(place);
            all.slots[ticket.index()] = slot;
            ticket
        })
    }

    fn index(&self) -> usize {
        self.0.get() as usize - 1
    }

    /// Says how urgent this session's waking is from now on.
    pub fn set_urgency(&self, urgency: Urgency) {
        SLOTS.with_borrow_mut(|all| {
            if let Some(slot) = &mut all.slots[self.index()] {
                slot.urgency = urgency;
            }
        });
    }

    /// What was under way when the drain began is done.
    pub fn settle(&self) {
        SLOTS.with_borrow_mut(|all| {
            if let Some(slot) = &mut all.slots[self.index()] {
                slot.unsettled = false;
            }
        });
    }

    /// Wakes this session after a while, if it is still there.
    pub fn wake_in(&self, delay: Duration) {
        let waker = SLOTS.with_borrow(|all| all.slots[self.index()].as_ref().map(|slot| slot.waker.clone()));
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            if let Some(waker) = waker {
                waker.wake();
            }
        });
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        SLOTS.with_borrow_mut(|all| {
            all.slots[self.index()] = None;
            all.free.push(self.0);
        });
    }
}

/// Counts up each `detach_idle_after`: a session that was idle from one tick to the next gives its backend up.
pub fn idle_ticks() -> u16 {
    IDLE_TICKS.get()
}

/// How far the drain is, as this thread's sessions are to see it.
#[inline]
pub fn stage() -> Stage {
    STAGE.get()
}

/// Wakes this thread's sessions when the topology changes. One per worker thread; runs for ever.
pub async fn herald(topology: &Topology) {
    let mut changed = topology.subscribe();
    let mut term = topology.current().term;
    loop {
        // A listener may hold for a shorter time than the proxy: while an outage lasts, its sessions look at the clock.
        let outage = topology.current().outage_since.is_some();
        tokio::select! {
            change = changed.changed() => if change.is_err() { return },
            () = tokio::time::sleep(TICK), if outage => {}
        }
        let now = topology.current().term;
        // A hold needs no waking: sessions see it before their next send. Only a new term concerns the idle.
        let from = if now == term { Urgency::Waiting } else { Urgency::Idle };
        term = now;
        wake(from).await;
    }
}

/// Counts rounds of `detach_idle_after`, if that is not zero, in which idle sessions give their backends back. Once the
/// drain is asked for it wakes sessions at each stage. One per worker thread; runs for ever.
pub async fn rounds(mut detach_idle_after: watch::Receiver<Duration>, mut drain: News) {
    let busy = drain.busy();
    loop {
        let detach_after = *detach_idle_after.borrow_and_update();
        tokio::select! {
            () = drain.reached(Stage::Settling) => break,
            () = tokio::time::sleep(detach_after), if !detach_after.is_zero() => {}
            Ok(()) = detach_idle_after.changed() => continue,
        }
        IDLE_TICKS.set(IDLE_TICKS.get().wrapping_add(1));
        wake_all(Urgency::Idle).await;
    }
    STAGE.set(Stage::Settling);
    SLOTS.with_borrow_mut(|all| all.slots.iter_mut().flatten().for_each(|slot| slot.unsettled = true));
    wake(Urgency::Idle).await;
    while SLOTS.with_borrow(|all| all.slots.iter().flatten().any(|slot| slot.unsettled)) {
        tokio::select! {
            () = drain.reached(Stage::Quieting) => break,
            () = tokio::time::sleep(DRAIN_TICK) => {}
        }
    }
    drop(busy);
    drain.reached(Stage::Quieting).await;
    while drain.stage() == Stage::Quieting {
        STAGE.set(Stage::Quieting);
        IDLE_TICKS.set(IDLE_TICKS.get().wrapping_add(1));
        wake(Urgency::Idle).await;
        tokio::select! {
            () = drain.reached(Stage::Ending) => break,
            () = tokio::time::sleep(QUIET) => {}
        }
    }
    loop {
        STAGE.set(drain.stage());
        wake(Urgency::Idle).await;
        tokio::time::sleep(DRAIN_TICK).await;
    }
}

/// Ends the sessions of one listener on this thread, stage by stage; returns when nobody waits for them any more.
pub async fn close(worker: &Worker, mut closing: News) {
    let mut pause = DRAIN_TICK;
    loop {
        worker.closing.set(closing.stage());
        wake(Urgency::Idle).await;
        tokio::select! {
            goes_on = closing.changed() => match goes_on {
                true => pause = DRAIN_TICK,
                false => return,
            },
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(CLOSE_TICK),
        }
    }
}

/// Wakes all sessions of at least this urgency, the most urgent first.
async fn wake(least: Urgency) {
    for urgency in [Urgency::Attached, Urgency::Waiting, Urgency::Idle] {
        if urgency < least {
            return;
        }
        wake_all(urgency).await;
    }
}

/// Wakes all sessions of this urgency, and lets others run between batches.
async fn wake_all(urgency: Urgency) {
    let mut next = 0;
    while let Some(after) = wake_batch(urgency, next) {
        next = after;
        tokio::task::yield_now().await;
    }
}

fn wake_batch(urgency: Urgency, from: usize) -> Option<usize> {
    SLOTS.with_borrow(|all| {
        let mut woken = 0;
        for (index, slot) in all.slots.iter().enumerate().skip(from) {
            if let Some(slot) = slot
                && slot.urgency == urgency
            {
                slot.waker.wake_by_ref();
                woken += 1;
                if woken == BATCH {
                    return Some(index + 1);
                }
            }
        }
        None
    })
}
