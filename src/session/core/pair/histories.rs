//! Random clients through random failovers: what no order of events may break.
//!
//! A history is a plan (what happens to the nodes, what each client does and when) and the pieces in which bytes flow,
//! all from one seed. One that fails is played again with fewer and fewer steps, and what is left of it is printed.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::dice::{Dice, Flow};
use super::plan::Plan;
use super::player::{Op, Outcome, Player};
use super::stage::Stage;
use super::world::Act;
use crate::config::OnLostReply;
use crate::session::CloseReason;

/// A plan being played.
struct History {
    plan: Plan,
    stage: Stage,
    players: Vec<Player>,
    dice: Dice,
}

impl History {
    fn new(plan: Plan) -> History {
        let mut dice = Dice::new(plan.seed ^ 0x5eed);
        let lag = Duration::from_millis(if plan.allowed().losses {
            dice.pick(&[1, 5, 20, 60])
        } else {
            1 + dice.below(10) as u64
        });
        let mut stage = Stage::new(2, lag);
        (stage.settings.on_lost_reply, stage.settings.on_lost_pop) = (plan.reply, plan.pop);
        for server in &mut stage.world.servers {
            server.users.insert("app".into(), b"app-secret".to_vec());
        }
        if !dice.one_in(4) {
            stage.flow = Flow::Pieces(Dice::new(plan.seed));
        }
        let mut script = plan.script(&mut dice);
        script.sort_by_key(|(at, _)| *at);
        stage.world.play(script);
        let mut players = Vec::new();
        for number in 0..plan.clients {
            let client = stage.open();
            let session = &mut stage.sessions[client];
            session.uses_pool = dice.one_in(3);
            session.splices = dice.one_in(2);
            session.socket = if plan.allowed().losses && dice.one_in(3) { 20 + dice.below(100) } else { usize::MAX };
            players.push(Player::new(number, &stage.world));
        }
        History { plan, stage, players, dice }
    }

    fn listen(&mut self) {
        let allowed = self.plan.allowed();
        for (player, session) in self.players.iter_mut().zip(&mut self.stage.sessions) {
            player.listen(session, &self.stage.world, allowed);
        }
    }

    /// Lets time pass, with bytes still under way when the master dies.
    fn pass(&mut self, millis: u64) {
        let end = self.stage.world.now + Duration::from_millis(millis);
        loop {
            let is_fatal = matches!(
                self.stage.world.next_act(),
                Some(Act::Crash(_) | Act::Hang(_) | Act::Pause(_) | Act::Demote(..))
            );
            if is_fatal && self.dice.one_in(2) {
                for _ in 0..self.dice.below(5) {
                    self.stage.round();
                }
            } else {
                self.stage.settle();
            }
            self.listen();
            if self.stage.world.now >= end {
                return;
            }
            let next = self.stage.next_event().map_or(end, |next| next.min(end));
            self.stage.step_to(next);
        }
    }

    fn play(&mut self) {
        for step in self.plan.steps.clone() {
            self.pass(step.wait);
            let millis = self.stage.world.millis();
            let session = &mut self.stage.sessions[step.client];
            self.players[step.client].act(step.op, &mut self.dice, session, millis);
        }
        while self.stage.world.is_playing() {
            self.pass(50);
        }
        self.finish();
        self.check();
    }

    /// Everything that is still under way comes to its end.
    fn finish(&mut self) {
        for _ in 0..3 {
            for (player, session) in self.players.iter_mut().zip(&mut self.stage.sessions) {
                player.act(Op::Rest, &mut self.dice, session, self.stage.world.millis());
            }
            self.pass(1000);
        }
        let is_waiting = |history: &History, at: usize| {
            history.players[at].is_blocked() && history.stage.sessions[at].ended.is_none()
        };
        let mut feeds = 0;
        while let Some(blocked) = (0..self.players.len()).find(|at| is_waiting(self, *at)) {
            let (player, session) = (&self.players[blocked], &self.stage.sessions[blocked]);
            let (world, master) = (&self.stage.world, self.stage.world.master);
            let blocks = session
                .link
                .as_ref()
                .is_some_and(|link| link.node == master && world.servers[master].is_blocked(link.id));
            assert!(blocks || player.has_left, "client {blocked} waits for a pop that does not block");
            feeds += 1;
            assert!(feeds < 200, "client {blocked} is not served");
            let (db, now) = (player.db, world.now);
            self.stage.world.servers[master].ask_in(db, "RPUSH q fed", now);
            self.pass(20);
        }
        for (player, session) in self.players.iter_mut().zip(&mut self.stage.sessions) {
            player.act(Op::Echo, &mut self.dice, session, self.stage.world.millis());
        }
        self.pass(300);
        let Stage { world, sessions, flow, .. } = &mut self.stage;
        sessions.iter_mut().for_each(|session| session.check_rest(world, flow));
    }

    fn check(&self) {
        let allowed = self.plan.allowed();
        for (player, session) in self.players.iter().zip(&self.stage.sessions) {
            let (number, ended) = (player.number, session.ended);
            if ended.is_none() {
                assert!(player.owes_nothing(), "client {number} is owed {}", player.owed());
                assert!(!player.has_left, "client {number} has left and is still served");
                if !player.was_refused {
                    self.check_state(player);
                }
                continue;
            }
            // What is behind a pop that blocks has not run, and more of it than is kept cannot be sent again.
            let is_unkept = player.outstanding() > 30_000;
            let is_fine = match ended.expect("looked at above") {
                CloseReason::ClientClosed => player.has_left,
                CloseReason::Outage => allowed.outage,
                CloseReason::LostReply if player.has_left => true,
                CloseReason::LostReply | CloseReason::PartialReply | CloseReason::Unreachable => allowed.losses,
                CloseReason::NotReplayable => allowed.losses || is_unkept,
                _ => false,
            };
            assert!(is_fine, "client {number} was closed: {ended:?}, owed {}", player.owed());
        }
        self.check_writes();
        self.check_pops();
        self.check_databases();
    }

    /// The connection has become what its client was told.
    fn check_state(&self, player: &Player) {
        let link = self.stage.sessions[player.number].link.as_ref();
        if let Some(link) = link {
            let state = self.stage.world.servers[link.node].state_of(link.id);
            assert_eq!(state, player.state(), "client {} is on a connection that is another", player.number);
        }
    }

    /// How often each request stands in the history that survives.
    fn runs(&self) -> BTreeMap<Vec<u8>, Vec<usize>> {
        let mut runs: BTreeMap<Vec<u8>, Vec<usize>> = BTreeMap::new();
        let history = &self.stage.world.servers[self.stage.world.master].history;
        let requests = history.iter().flat_map(|write| &write.requests);
        for (at, request) in requests.enumerate() {
            runs.entry(request.clone()).or_default().push(at);
        }
        runs
    }

    fn check_writes(&self) {
        let runs = self.runs();
        let allowed = self.plan.allowed();
        for player in &self.players {
            let mut last = 0;
            for (request, outcome) in &player.writes {
                let ran = runs.get(request).map_or(&[][..], Vec::as_slice);
                let shown = format!("{:.60} ({outcome:?})", request.escape_ascii().to_string());
                let may_repeat = match self.plan.reply {
                    OnLostReply::RetryAll => true,
                    OnLostReply::RetryIdempotent => request.starts_with(b"SET"),
                    OnLostReply::Error | OnLostReply::Close => false,
                };
                assert!(ran.len() <= 1 || may_repeat, "{shown} ran {} times", ran.len());
                assert!(ran.is_empty() || *outcome != Outcome::NotRun, "{shown} ran");
                let must_be_there = *outcome == Outcome::Acknowledged && !allowed.losses && !allowed.outage;
                assert!(!must_be_there || ran.len() == 1, "{shown} is gone");
                if let [at] = ran {
                    assert!(*at >= last || may_repeat, "{shown} ran before what was asked before it");
                    last = *at;
                }
            }
            let counter = format!("EVAL return(redis.call('incr',KEYS[1])) 1 c{} n", player.number).into_bytes();
            let counted = runs.get(&counter).map_or(0, Vec::len);
            assert!(
                counted <= player.counted || self.plan.reply == OnLostReply::RetryAll,
                "counted {counted} of {}",
                player.counted
            );
            assert!(
                allowed.losses || counted >= player.counts_acknowledged,
                "counted {counted}, acknowledged {}",
                player.counts_acknowledged
            );
        }
    }

    /// No element is given to two, and in a planned failover none is lost.
    fn check_pops(&self) {
        let mut popped: Vec<&String> = self.players.iter().flat_map(|player| &player.popped).collect();
        let all = popped.len();
        popped.sort();
        popped.dedup();
        let surely_once = !self.plan.allowed().losses;
        assert!(!surely_once || popped.len() == all, "an element was given twice");
    }

    /// Keys are where their names say.
    fn check_databases(&self) {
        if self.players.iter().any(|player| player.was_refused) {
            return;
        }
        for (db, key) in self.stage.world.servers[self.stage.world.master].keys() {
            let name = String::from_utf8_lossy(key);
            let named = name.strip_prefix('d').and_then(|rest| rest.split(':').next()?.parse::<u32>().ok());
            assert!(named.is_none_or(|named| named == *db), "{name} is in database {db}");
        }
    }
}

/// Plays a plan; why it failed, and what its clients did and heard.
fn outcome(plan: &Plan) -> Result<(), String> {
    let mut history = History::new(plan.clone());
    let played = catch_unwind(AssertUnwindSafe(|| history.play()));
    played.map_err(|panic| {
        let why = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        let mut log: Vec<&(u128, String)> = history.players.iter().flat_map(|player| &player.log).collect();
        log.sort_by_key(|(at, _)| *at);
        let lines: Vec<String> = log.iter().map(|(at, line)| format!("{at:>6} ms {line}")).collect();
        format!("{}\n  {}", why.unwrap_or_default(), lines.join("\n  "))
    })
}

/// Leaves out whatever it also fails without.
fn shrink(mut plan: Plan) -> Plan {
    let mut size = plan.steps.len() / 2;
    while size > 0 {
        let mut at = 0;
        while at < plan.steps.len() {
            let mut fewer = plan.clone();
            fewer.steps.drain(at..(at + size).min(plan.steps.len()));
            if outcome(&fewer).is_err() { plan = fewer } else { at += size }
        }
        size /= 2;
    }
    plan
}

/// What is left of a failing plan, and why it fails.
fn report(plan: &Plan) -> String {
    let mut dice = Dice::new(plan.seed ^ 0x5eed);
    (dice.roll(), dice.roll());
    let script = plan.script(&mut dice);
    let Plan { seed, fate, reply, pop, clients, .. } = plan;
    let why = outcome(plan).err().unwrap_or_default();
    format!("seed {seed} ({fate:?}, {reply:?}, {pop:?}, {clients} clients): {why}\n  nodes: {script:?}")
}

fn play(seeds: std::ops::Range<u64>) {
    let seeds = std::env::var("PAIR_SEED").ok().and_then(|seed| seed.parse().ok()).map_or(seeds, |seed| seed..seed + 1);
    for seed in seeds {
        let plan = Plan::new(seed);
        if outcome(&plan).is_err() {
            panic!("{}", report(&shrink(plan)));
        }
    }
}

#[test]
fn five_hundred_histories() {
    play(0..500);
}

#[test]
fn another_five_hundred() {
    play(500..1000);
}

#[test]
fn a_third_five_hundred() {
    play(1000..1500);
}

#[test]
fn a_fourth_five_hundred() {
    play(1500..2000);
}
