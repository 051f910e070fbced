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
        let commit = |at, provisional| (at, Act::Commit { node: 1, provisional });
        let follow = |at, node| (at, Act::Follow { node, master: 1 });
        let (hold, promote) = (at + dice.below(400) as u64, at + 450);
        let after = [(promote + 900, Act::Confirm), follow(promote + 950, 2), follow(promote + 2500, 0)];
        let crash = |at| vec![(at, Act::Hold), (at + 150, Act::Promote(1)), commit(at + 160, true)];
        match self.fate {
            Fate::Planned => {
                let elect = dice.one_in(2).then_some((at, Act::Elect));
                let rest = [(at + 400, Act::Hold), (promote, Act::Promote(1)), commit(promote + 10, true)];
                elect.into_iter().chain(rest).chain(after).collect()
            }
            Fate::Busy => {
                let slow = at + 330 + dice.below(115) as u64;
                let act = dice.pick(&[0, 1, 2]);
                let (begin, end) = match act {
                    0 => (Act::Hang(0), Act::Thaw(0)),
                    1 => (Act::Pause(0), Act::Resume(0)),
                    _ => (Act::Freeze(1), Act::Freeze(1)),
                };
                let until = slow + 20 + dice.below(120) as u64;
                let mut acts = vec![(slow, begin), (at + 400, Act::Hold), (promote, Act::Promote(1)), (until, end)];
                acts.sort_by_key(|(at, _)| *at);
                acts.push(commit(promote + 40, dice.one_in(2)));
                acts.into_iter().chain(after).collect()
            }
            Fate::Aborted => vec![(at, Act::Elect), (hold, Act::Hold), (at + 900, Act::Release)],
            Fate::Undone => {
                let undone = promote + 10 + dice.below(400) as u64;
                let back = [
                    (undone, Act::Hold),
                    (undone + 100, Act::Follow { node: 1, master: 0 }),
                    (undone + 200, Act::Commit { node: 0, provisional: false }),
                ];
                let first = [(hold, Act::Hold), (promote, Act::Promote(1)), commit(promote + 10, true)];
                first.into_iter().chain(back).collect()
            }
            Fate::Crash => [(at, Act::Crash(0))].into_iter().chain(crash(at + 300)).chain(after).collect(),
            Fate::Hang => {
                let thaw = [(promote + 700, Act::Thaw(0))];
                [(at, Act::Hang(0))].into_iter().chain(crash(at + 300)).chain(thaw).chain(after).collect()
            }
            Fate::Silence => vec![(at, Act::Hang(0)), (at + dice.below(1000) as u64, Act::Thaw(0))],
            Fate::Demotion => {
                let role = dice.pick(&[Role::Replica, Role::Orphan]);
                [(at, Act::Demote(0, role))].into_iter().chain(crash(at + 200)).chain(after).collect()
            }
            Fate::Restart => {
                vec![(at, Act::Crash(0)), (at + 1 + dice.below(300) as u64, Act::Restart { node: 0, keeps_data: true })]
            }
            Fate::Outage => {
                let restart = at + 14_000 + dice.below(3000) as u64;
                vec![(at, Act::Crash(0)), (restart, Act::Restart { node: 0, keeps_data: true })]
            }
            Fate::Twice => {
                let second = promote + 60 + dice.below(300) as u64;
                let again = [
                    (second, Act::Follow { node: 2, master: 1 }),
                    (second + 50, Act::Crash(1)),
                    (second + 250, Act::Hold),
                    (second + 300, Act::Promote(2)),
                    (second + 310, Act::Commit { node: 2, provisional: false }),
                    (second + 900, Act::Follow { node: 0, master: 2 }),
                ];
                let first = [(at + 400, Act::Hold), (promote, Act::Promote(1)), commit(promote + 10, true)];
                first.into_iter().chain(again).collect()
            }
            Fate::Stop => vec![(at, Act::Stop), (at + 100 + dice.below(500) as u64, Act::Release)],
        }
    }
}
