//! What happens in a history: to the nodes, and what each client does and when.

use super::dice::Dice;
use super::player::{Allowed, Op};
use super::server::Role;
use super::world::Act;
use crate::config::{OnLostPop, OnLostReply};

/// What happens to the master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// A planned failover, and a quick world.
    Planned,
    /// One that comes when the master has just been slow, or is behind.
    Busy,
    /// It is given up.
    Aborted,
    /// An early commit that is undone.
    Undone,
    Crash,
    Hang,
    /// It is silent for a while.
    Silence,
    /// Nothing but refusals tells.
    Demotion,
    /// Another process at the same address, with its data.
    Restart,
    /// Nobody takes over for long.
    Outage,
    /// A crash soon after a planned failover.
    Twice,
    /// An operator's hold.
    Stop,
}

impl Fate {
    /// No write is lost by it, and nobody is closed.
    fn spares_everything(self) -> bool {
        matches!(self, Fate::Planned | Fate::Aborted | Fate::Stop | Fate::Silence)
    }
}

const FATES: [Fate; 12] = [
    Fate::Planned,
    Fate::Busy,
    Fate::Aborted,
    Fate::Undone,
    Fate::Crash,
    Fate::Hang,
    Fate::Silence,
    Fate::Demotion,
    Fate::Restart,
    Fate::Outage,
    Fate::Twice,
    Fate::Stop,
];

const OPS: [Op; 44] = [
    Op::Echo,
    Op::Set,
    Op::Set,
    Op::Get,
    Op::Get,
    Op::Incr,
    Op::Incr,
    Op::Push,
    Op::Push,
    Op::Push,
    Op::Pipeline,
    Op::Pipeline,
    Op::Pipeline,
    Op::Eval,
    Op::Eval,
    Op::Sha,
    Op::Sha,
    Op::Multi,
    Op::Multi,
    Op::Multi,
    Op::Discard,
    Op::Watched,
    Op::Watched,
    Op::Feed,
    Op::Feed,
    Op::Pop,
    Op::PopBriefly,
    Op::Subscribe,
    Op::Unsubscribe,
    Op::Publish,
    Op::Select,
    Op::Select,
    Op::Auth,
    Op::BadAuth,
    Op::Hello,
    Op::Name,
    Op::Track,
    Op::Reset,
    Op::Skip,
    Op::Silence,
    Op::Wait,
    Op::Large,
    Op::List,
    Op::Half,
];

/// A client does something after a while.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub wait: u64,
    pub client: usize,
    pub op: Op,
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub fate: Fate,
    pub reply: OnLostReply,
    pub pop: OnLostPop,
    pub clients: usize,
    pub steps: Vec<Step>,
}

impl Plan {
    pub fn new(seed: u64) -> Plan {
        let mut dice = Dice::new(seed);
        let fate = FATES[(seed % FATES.len() as u64) as usize];
        let clients = 1 + dice.below(4);
        let (mut reply, mut pop) = (OnLostReply::Error, OnLostPop::Resend);
        if dice.one_in(3) {
            reply = dice.pick(&[OnLostReply::Close, OnLostReply::RetryIdempotent, OnLostReply::RetryAll]);
            pop = dice.pick(&[OnLostPop::Error, OnLostPop::Close]);
        }
        let count = 10 + dice.below(50);
        let steps = (0..count).map(|_| {
            let op = match dice.below(60) {
                0 => Op::Finish,
                1 => Op::Abandon,
                2 => Op::Quit,
                3 if !fate.spares_everything() => Op::TooLarge,
                _ => dice.pick(&OPS),
            };
            let wait = if dice.one_in(3) { 0 } else { dice.below(30) as u64 };
            Step { wait, client: dice.below(clients), op }
        });
        let steps = steps.collect();
        Plan { seed, fate, reply, pop, clients, steps }
    }

    pub fn allowed(&self) -> Allowed {
        let losses = !self.fate.spares_everything();
        Allowed { losses, outage: self.fate == Fate::Outage }
    }

    /// What happens, and when.
    pub fn script(&self, dice: &mut Dice) -> Vec<(u64, Act)> {
        let at = 30 + dice.below(250) as u64;
        match self.fate {
            Fate::Planned => {
                let elect = dice.one_in(2).then_some((at, Act::Elect));
                elect.into_iter().chain(planned(at)).chain(settled(at + 450)).collect()
            }
            Fate::Busy => busy(at, dice),
            Fate::Aborted => {
                vec![(at, Act::Elect), (at + dice.below(400) as u64, Act::Hold), (at + 900, Act::Release)]
            }
            Fate::Undone => {
                let undone = at + 470 + dice.below(400) as u64;
                let follow = (undone + 100, Act::Follow { node: 1, master: 0 });
                let back = (undone + 200, Act::Commit { node: 0, provisional: false });
                planned(at).into_iter().chain([(undone, Act::Hold), follow, back]).collect()
            }
            Fate::Crash => [(at, Act::Crash(0))].into_iter().chain(taken_over(at + 300)).collect(),
            Fate::Hang => {
                let thaw = (at + 1150, Act::Thaw(0));
                [(at, Act::Hang(0)), thaw].into_iter().chain(taken_over(at + 300)).collect()
            }
            Fate::Silence => vec![(at, Act::Hang(0)), (at + dice.below(1000) as u64, Act::Thaw(0))],
            Fate::Demotion => {
                let role = dice.pick(&[Role::Replica, Role::Orphan]);
                [(at, Act::Demote(0, role))].into_iter().chain(taken_over(at + 200)).collect()
            }
            Fate::Restart => {
                let restart = at + 1 + dice.below(300) as u64;
                vec![(at, Act::Crash(0)), (restart, Act::Restart { node: 0, keeps_data: true })]
            }
            Fate::Outage => {
                let restart = at + 14_000 + dice.below(3000) as u64;
                vec![(at, Act::Crash(0)), (restart, Act::Restart { node: 0, keeps_data: true })]
            }
            Fate::Twice => twice(at, at + 510 + dice.below(300) as u64),
            Fate::Stop => vec![(at, Act::Stop), (at + 100 + dice.below(500) as u64, Act::Release)],
        }
    }
}

/// Node 1 is promoted 450 ms after `at`, and followed early.
fn planned(at: u64) -> [(u64, Act); 3] {
    [(at + 400, Act::Hold), (at + 450, Act::Promote(1)), (at + 460, Act::Commit { node: 1, provisional: true })]
}

/// What comes after a promotion.
fn settled(promoted: u64) -> [(u64, Act); 3] {
    let follow = |at, node| (at, Act::Follow { node, master: 1 });
    [(promoted + 900, Act::Confirm), follow(promoted + 950, 2), follow(promoted + 2500, 0)]
}

/// Node 1 takes over from a master that is gone.
fn taken_over(at: u64) -> impl Iterator<Item = (u64, Act)> {
    let commit = (at + 160, Act::Commit { node: 1, provisional: true });
    [(at, Act::Hold), (at + 150, Act::Promote(1)), commit].into_iter().chain(settled(at + 150))
}

/// The old master is slow or paused, or the new one behind, at about the time of the promotion.
fn busy(at: u64, dice: &mut Dice) -> Vec<(u64, Act)> {
    let slow = at + 330 + dice.below(115) as u64;
    let (begin, end) = match dice.below(3) {
        0 => (Act::Hang(0), Act::Thaw(0)),
        1 => (Act::Pause(0), Act::Resume(0)),
        _ => (Act::Freeze(1), Act::Freeze(1)),
    };
    let until = slow + 20 + dice.below(120) as u64;
    let commit = (at + 490, Act::Commit { node: 1, provisional: dice.one_in(2) });
    let acts = [(slow, begin), (at + 400, Act::Hold), (at + 450, Act::Promote(1)), (until, end), commit];
    acts.into_iter().chain(settled(at + 450)).collect()
}

/// The new master dies soon after, and node 2 takes over.
fn twice(at: u64, second: u64) -> Vec<(u64, Act)> {
    let again = [
        (second, Act::Follow { node: 2, master: 1 }),
        (second + 50, Act::Crash(1)),
        (second + 250, Act::Hold),
        (second + 300, Act::Promote(2)),
        (second + 310, Act::Commit { node: 2, provisional: false }),
        (second + 900, Act::Follow { node: 0, master: 2 }),
    ];
    planned(at).into_iter().chain(again).collect()
}
