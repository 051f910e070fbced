//! Servers, what replicates between them, and what the control plane would publish of them, on virtual time.
//!
//! A script says what happens to the nodes and what Sentinel decides; the entries follow from what the nodes are at that
//! moment, by the tracker's own rules (`sentinel`): a sample of the master's offset counts from when it was asked, a
//! promotion is compared with the samples, a node that answers proves that it is the master still.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::server::{Health, Role, Server};
use crate::topology::{Entry, Master, Phase, Report};

/// Between two looks at the master. (The tracker's are 200 ms apart and 5 ms in a failover.)
const LOOK: Duration = Duration::from_millis(50);
const LOOK_HELD: Duration = Duration::from_millis(5);
/// A master that is silent for so long is suspected.
const SILENCE: Duration = Duration::from_millis(600);
/// When requests fail, after the outage began.
pub const DEADLINE: Duration = Duration::from_secs(15);

/// Something that happens. Nodes go by their number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// kill -9.
    Crash(usize),
    /// A new process at the same address, with its data or without.
    Restart {
        node: usize,
        keeps_data: bool,
    },
    /// SIGSTOP and SIGCONT.
    Hang(usize),
    Thaw(usize),
    /// CLIENT PAUSE … WRITE, and its end.
    Pause(usize),
    Resume(usize),
    /// The node becomes a master with what it has got.
    Promote(usize),
    /// The node becomes this; its clients stay.
    Demote(usize, Role),
    /// It is made a replica of another: its clients are killed and it takes that one's data.
    Follow {
        node: usize,
        master: usize,
    },
    /// Its link to the master stands still.
    Freeze(usize),
    /// Too few replicas for writes, or enough again.
    Lack(usize, bool),
    /// `+try-failover`: a Sentinel is about to choose.
    Elect,
    /// `+selected-slave`.
    Hold,
    /// Sessions go to this node: a new term, provisional or not.
    Commit {
        node: usize,
        provisional: bool,
    },
    /// The epoch confirms an early commit.
    Confirm,
    /// The failover was given up: the old master stays.
    Release,
    /// An operator's `hold`.
    Stop,
    /// Somebody else does this on the master.
    Ask(String),
}

/// A look at the master's offset.
#[derive(Clone, Copy, Debug)]
struct Look {
    number: u64,
    asked: Instant,
    offset: usize,
}

/// `master_replid2` and `second_repl_offset`.
#[derive(Clone, Copy, Debug)]
struct Heritage {
    of: usize,
    process: usize,
    length: usize,
}

pub struct World {
    pub servers: Vec<Server>,
    pub start: Instant,
    pub now: Instant,
    pub entry: Arc<Entry>,
    /// The latest question that the master answered as what it is.
    pub proven: Option<Instant>,
    /// The number of the last look.
    pub sample: u64,
    script: VecDeque<(Instant, Act)>,
    /// Whom each node follows.
    masters: Vec<Option<usize>>,
    frozen: Vec<bool>,
    /// Whose history each master goes on with.
    heritage: Vec<Option<Heritage>>,
    /// What replication takes.
    lag: Duration,
    /// Of this term.
    looks: Vec<Look>,
    next_look: Instant,
    /// A session has seen something that makes it worth a look.
    is_asked: bool,
    answered_at: Instant,
    /// The process of the present term: how often its node was started before.
    process: usize,
    starts: Vec<usize>,
    /// The master lived when the hold began.
    lives: bool,
    pub master: usize,
}

/// The address of a node.
pub fn addr(node: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, node as u8 + 1], 6379))
}

impl World {
    /// Node 0 is the master of so many.
    pub fn new(nodes: usize, lag: Duration) -> World {
        let start = Instant::now();
        let mut servers: Vec<Server> = (0..nodes).map(|_| Server::new()).collect();
        servers[1..].iter_mut().for_each(|replica| replica.role = Role::Replica);
        let mut world = World {
            servers,
            start,
            now: start,
            entry: Arc::new(Entry {
                generation: 1,
                term: 1,
                master: None,
                phase: Phase::Stable,
                outage_since: None,
                replicated_until: None,
                covered_until: None,
                diverged_from: None,
                reason: String::new(),
            }),
            proven: None,
            sample: 1,
            script: VecDeque::new(),
            masters: (0..nodes).map(|node| (node > 0).then_some(0)).collect(),
            frozen: vec![false; nodes],
            heritage: vec![None; nodes],
            lag,
            looks: Vec::new(),
            next_look: start,
            is_asked: false,
            answered_at: start,
            process: 0,
            starts: vec![0; nodes],
            lives: true,
            master: 0,
        };
        let master = world.master_entry(0, false);
        Arc::make_mut(&mut world.entry).master = Some(master);
        world
    }

    /// What is to happen, in milliseconds from now, in their order.
    pub fn play(&mut self, acts: impl IntoIterator<Item = (u64, Act)>) {
        for (millis, act) in acts {
            let at = self.now + Duration::from_millis(millis);
            let behind = self.script.partition_point(|(other, _)| *other <= at);
            self.script.insert(behind, (at, act));
        }
    }

    /// The script is not at its end.
    pub fn is_playing(&self) -> bool {
        !self.script.is_empty()
    }

    /// What happens next, if that is an act.
    pub fn next_act(&self) -> Option<&Act> {
        self.script.front().filter(|(at, _)| self.next_event().is_none_or(|next| *at <= next)).map(|(_, act)| act)
    }

    /// The next act happens by then.
    pub fn is_due(&self, by: Instant) -> bool {
        self.script.front().is_some_and(|(at, _)| *at <= by)
    }

    /// The node of this address.
    pub fn node_at(&self, at: SocketAddr) -> usize {
        (0..self.servers.len()).find(|node| addr(*node) == at).expect("an address of a node")
    }

    /// Milliseconds since the start, for people.
    pub fn millis(&self) -> u128 {
        (self.now - self.start).as_millis()
    }

    /// When something happens next by itself.
    pub fn next_event(&self) -> Option<Instant> {
        let act = self.script.front().map(|(at, _)| *at);
        let servers = self.servers.iter().filter_map(Server::next_wake).min();
        let replication = (0..self.servers.len()).filter_map(|node| self.next_write(node)).min();
        let looks = self.is_playing() || self.is_asked || self.entry.phase != Phase::Stable;
        let look = looks.then_some(self.next_look);
        let deadline = self.deadline();
        [act, servers, replication, look, deadline].into_iter().flatten().min()
    }

    /// Moves the time, at most to the next event, and lets happen what is due.
    pub fn advance(&mut self, to: Instant) {
        self.now = to.min(self.next_event().unwrap_or(to)).max(self.now);
        self.replicate();
        let now = self.now;
        for server in self.servers.iter_mut().filter(|server| server.next_wake().is_some_and(|at| at <= now)) {
            server.work(now);
        }
        if self.now >= self.next_look {
            self.look();
        }
        if self.deadline().is_some_and(|at| at <= self.now) {
            self.publish(|entry| {
                (entry.phase, entry.reason) = (Phase::Failing, "no master for 15 s: nobody took over".into())
            });
        }
        while self.script.front().is_some_and(|(at, _)| *at <= self.now) {
            let (_, act) = self.script.pop_front().expect("just seen");
            self.act(act);
        }
    }

    /// A session says what it has seen.
    pub fn report(&mut self, report: &Report) {
        if let Report::Eof { .. } | Report::Refused { .. } | Report::DialFailed { .. } = report {
            // The tracker asks the node at once; the question is behind what was seen.
            self.next_look = self.next_look.min(self.now + Duration::from_millis(2));
            self.is_asked = true;
        }
    }

    /// The master is not asked for a while.
    pub fn look_later(&mut self) {
        self.next_look = self.now + LOOK;
    }

    /// Whether this write is on every replica that may be chosen.
    pub fn is_covered(&self, request: &[u8]) -> bool {
        let has = |node: usize| {
            self.servers[node].history.iter().any(|write| write.requests.iter().any(|one| one == request))
        };
        (0..self.servers.len()).all(|node| self.masters[node] != Some(self.master) || has(node))
    }

    fn deadline(&self) -> Option<Instant> {
        let is_outage = matches!(self.entry.phase, Phase::Suspect | Phase::Switching);
        self.entry.outage_since.filter(|_| is_outage).map(|since| since + DEADLINE)
    }

    /// When the node gets the next write of its master.
    fn next_write(&self, node: usize) -> Option<Instant> {
        let master =
            self.masters[node].filter(|master| !self.frozen[node] && self.servers[*master].health == Health::Up)?;
        let write = self.servers[master].history.get(self.servers[node].history.len())?;
        (self.servers[node].health == Health::Up).then(|| write.at + self.lag)
    }

    fn replicate(&mut self) {
        for node in 0..self.servers.len() {
            while self.next_write(node).is_some_and(|at| at <= self.now) {
                let master = self.masters[node].expect("it has a next write");
                let write = self.servers[master].history[self.servers[node].history.len()].clone();
                self.servers[node].apply(&write);
            }
        }
        for master in 0..self.servers.len() {
            let followers = (0..self.servers.len()).filter(|node| self.masters[*node] == Some(master));
            let offsets: Vec<usize> = followers.map(|node| self.servers[node].history.len()).collect();
            self.servers[master].acknowledge(offsets, self.now);
        }
    }

    /// A ROLE of the master, and what follows from it.
    fn look(&mut self) {
        let is_held = matches!(self.entry.phase, Phase::Electing | Phase::Switching);
        self.next_look = self.now + if is_held { LOOK_HELD } else { LOOK };
        self.is_asked = false;
        let server = &self.servers[self.master];
        let phase = self.entry.phase;
        let is_quiet = matches!(phase, Phase::Stable | Phase::Electing);
        match server.health {
            Health::Down if is_quiet => self.suspect("the master refuses connections"),
            Health::Hung if is_quiet && self.now > self.answered_at + SILENCE => self.suspect("the master is silent"),
            Health::Down | Health::Hung => {}
            Health::Up if self.starts[self.master] != self.process => {
                if is_quiet || matches!(phase, Phase::Suspect | Phase::Failing) {
                    self.commit(self.master, false, None, None);
                }
            }
            Health::Up if server.role == Role::Master => self.note_answer(),
            Health::Up if is_quiet => self.hold("the master says it is a replica"),
            Health::Up => {}
        }
    }

    fn note_answer(&mut self) {
        self.answered_at = self.now;
        self.sample += 1;
        let offset = self.servers[self.master].history.len();
        self.looks.push(Look { number: self.sample, asked: self.now, offset });
        self.proven = Some(self.now);
        match self.entry.phase {
            Phase::Suspect => self.resume(),
            Phase::Electing => {
                let followers = (0..self.servers.len()).filter(|node| self.masters[*node] == Some(self.master));
                let least = followers.map(|node| self.servers[node].history.len()).min();
                let covered = least.and_then(|least| self.covered(least));
                if covered > self.entry.covered_until {
                    self.publish(|entry| entry.covered_until = covered);
                }
            }
            _ => {}
        }
    }

    /// Until when a history of this length has everything that this term's master had answered.
    fn covered(&self, length: usize) -> Option<Instant> {
        self.looks.iter().rev().find(|look| look.offset <= length).map(|look| look.asked)
    }

    fn act(&mut self, act: Act) {
        let now = self.now;
        match act {
            Act::Crash(node) => self.servers[node].crash(),
            Act::Restart { node, keeps_data } => {
                self.servers[node].restart(keeps_data);
                self.starts[node] += 1;
            }
            Act::Hang(node) => self.servers[node].hang(true, now),
            Act::Thaw(node) => self.servers[node].hang(false, now),
            Act::Pause(node) => self.servers[node].pause(true, now),
            Act::Resume(node) => self.servers[node].pause(false, now),
            Act::Promote(node) => {
                let length = self.servers[node].history.len();
                let of = self.masters[node].take();
                self.heritage[node] = of.map(|of| Heritage { of, process: self.starts[of], length });
                self.servers[node].promote();
            }
            Act::Demote(node, role) => self.servers[node].demote(role, now),
            Act::Follow { node, master } => self.follow(node, master),
            Act::Freeze(node) => self.frozen[node] = true,
            Act::Lack(node, lacks) => self.servers[node].lacks_replicas = lacks,
            Act::Ask(request) => _ = self.servers[self.master].ask(&request, now),
            Act::Elect => self.publish(|entry| entry.phase = Phase::Electing),
            Act::Hold => self.hold("Sentinel promotes a replica"),
            Act::Stop => self.publish(|entry| {
                (entry.phase, entry.outage_since) = (Phase::Paused, Some(now));
            }),
            Act::Commit { node, provisional } => {
                // The tracker waits for one more look at an old master that lives.
                if self.lives
                    && self.servers[self.master].health == Health::Up
                    && self.servers[self.master].role == Role::Master
                {
                    self.note_answer();
                }
                let heritage = self.heritage[node]
                    .filter(|heritage| (heritage.of, heritage.process) == (self.master, self.process));
                let common = heritage.map(|heritage| heritage.length);
                let until = common.filter(|_| self.lives).and_then(|common| self.covered(common));
                let from = common.and_then(|common| self.looks.iter().find(|look| look.offset >= common));
                let from = from.map(|look| look.number);
                self.commit(node, provisional, until, from);
            }
            Act::Confirm => self.publish(|entry| {
                entry.master.as_mut().expect("a master").provisional = false;
            }),
            Act::Release => self.resume(),
        }
    }

    fn follow(&mut self, node: usize, master: usize) {
        let now = self.now;
        self.servers[node].demote(Role::Replica, now);
        self.servers[node].kill_clients();
        let (low, high) = self.servers.split_at_mut(node.max(master));
        let (replica, source) = if node < master { (&mut low[node], &high[0]) } else { (&mut high[0], &low[master]) };
        replica.copy(source);
        replica.health = Health::Up;
        self.masters[node] = Some(master);
        self.frozen[node] = false;
    }

    fn suspect(&mut self, why: &str) {
        let (now, why) = (self.now, why.to_owned());
        self.lives = false;
        self.publish(|entry| {
            (entry.phase, entry.reason, entry.covered_until) = (Phase::Suspect, why, None);
            entry.outage_since.get_or_insert(now);
        });
    }

    fn hold(&mut self, why: &str) {
        let (now, why) = (self.now, why.to_owned());
        if !matches!(self.entry.phase, Phase::Suspect | Phase::Switching) {
            self.lives = self.servers[self.master].health != Health::Down;
        }
        self.publish(|entry| {
            (entry.phase, entry.reason, entry.covered_until) = (Phase::Switching, why, None);
            entry.outage_since.get_or_insert(now);
        });
    }

    fn resume(&mut self) {
        self.proven = Some(self.now);
        self.answered_at = self.now;
        self.lives = true;
        self.publish(|entry| {
            (entry.phase, entry.outage_since, entry.covered_until) = (Phase::Stable, None, None);
            entry.reason.clear();
        });
    }

    fn commit(
        &mut self,
        node: usize,
        provisional: bool,
        replicated_until: Option<Instant>,
        diverged_from: Option<u64>,
    ) {
        self.master = node;
        self.process = self.starts[node];
        self.looks.clear();
        self.answered_at = self.now;
        self.lives = true;
        self.next_look = self.now;
        let master = self.master_entry(node, provisional);
        self.publish(|entry| {
            entry.term += 1;
            (entry.master, entry.phase, entry.outage_since) = (Some(master), Phase::Stable, None);
            (entry.replicated_until, entry.diverged_from, entry.covered_until) =
                (replicated_until, diverged_from, None);
            entry.reason.clear();
        });
    }

    fn master_entry(&self, node: usize, provisional: bool) -> Master {
        let run_id = Some(format!("{node}-{}", self.starts[node]));
        Master { addr: addr(node), run_id, epoch: self.entry.term, provisional }
    }

    fn publish(&mut self, change: impl FnOnce(&mut Entry)) {
        let entry = Arc::make_mut(&mut self.entry);
        change(entry);
        entry.generation += 1;
    }
}
