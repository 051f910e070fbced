//! The decision on virtual time: three Sentinels, three nodes, and every way in which it may go wrong.

mod belief;
mod configured;
mod credentials;
mod shown;

use super::*;
use crate::sentinel::event::Kind;
use crate::sentinel::report::{Claim, Info, NodeAnswer, Peer, ReplicaFact, Role};
use crate::status::CredentialsState;
use crate::topology::Phase;

mod abandoned;
mod electing;
mod parts;
mod planned;
mod starting;

/// Behind the time that a promotion waits for the old master, in milliseconds.
const DRAINED: u64 = super::switching::DRAINED_WITHIN.as_millis() as u64 + 5;
const MASTER: usize = 0;
const CANDIDATE: usize = 1;
const OTHER: usize = 2;

/// A view with a clock; what it publishes is kept.
struct World {
    tracker: Tracker,
    now: Instant,
    entries: Vec<Entry>,
    logs: Vec<String>,
    proofs: Vec<Instant>,
    asked: Option<Result<Vec<HostPort>, String>>,
    /// The number of the newest sample of the master's offset.
    samples: u64,
    /// Connection numbers of the nodes: another number is another connection.
    connections: [u64; 3],
    run_ids: [String; 3],
}

fn addr(node: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, node as u8 + 1], 6379))
}

fn sentinel(index: usize) -> HostPort {
    HostPort { host: format!("10.0.1.{index}"), port: 26379 }
}

fn settings() -> Settings {
    Settings {
        sentinels: (0..3).map(sentinel).collect(),
        address_map: AddressMap::default(),
        heartbeat: Duration::from_millis(200),
        poll_interval: Duration::from_secs(1),
        suspect_after: Duration::from_millis(600),
        hold_timeout: HoldTimeout::Auto,
        planned_hold_limit: Duration::from_millis(1500),
        minority: Minority::Warn,
        credentials: None,
        learn_credentials: true,
        floor: None,
        candidate: None,
    }
}

impl World {
    fn new(settings: Settings) -> World {
        let now = Instant::now();
        World {
            tracker: Tracker::new(settings, now),
            now,
            entries: Vec::new(),
            logs: Vec::new(),
            proofs: Vec::new(),
            asked: None,
            samples: 0,
            connections: [1, 1, 1],
            run_ids: ["run0".into(), "run1".into(), "run2".into()],
        }
    }

    /// A world that follows node 0 at epoch 5, named by all three Sentinels.
    fn following() -> World {
        let mut world = World::new(settings());
        world.begin();
        world
    }

    fn begin(&mut self) {
        for index in 0..3 {
            self.connect(index);
            self.answer(index, MASTER, 5);
        }
        self.replicas_say();
        self.master_says(MASTER, 100, &[CANDIDATE, OTHER]);
        assert_eq!(self.phase(), Phase::Stable, "{:?}", self.logs);
        self.after(200);
        self.master_says(MASTER, 100, &[CANDIDATE, OTHER]);
    }

    fn handle(&mut self, input: Input) {
        self.tracker.handle(self.now, input);
        for output in self.tracker.take() {
            match output {
                Output::Publish(entry) => self.entries.push(entry),
                Output::Log(_, text) => self.logs.push(text),
                Output::Prove(asked) => self.proofs.push(asked),
                Output::AskFailover(what) => self.asked = Some(what),
                Output::Sampled(number) => self.samples = number,
                _ => {}
            }
        }
    }

    /// Time goes by in steps in which the view is called when it asked to be.
    fn after(&mut self, ms: u64) {
        let end = self.now + Duration::from_millis(ms);
        loop {
            let tick = self.tracker.next_tick(self.now);
            if tick >= end {
                self.now = end;
                self.handle(Input::Tick);
                return;
            }
            self.now = tick;
            self.handle(Input::Tick);
        }
    }

    /// The same, while the master answers its heartbeats and all Sentinels name `node`.
    fn quiet(&mut self, ms: u64, node: usize, epoch: u64) {
        for _ in 0..ms / 100 {
            self.after(100);
            for index in 0..3 {
                self.answer(index, node, epoch);
            }
        }
    }

    fn entry(&self) -> &Entry {
        self.entries.last().expect("something was published")
    }

    fn phase(&self) -> Phase {
        self.entry().phase
    }

    fn master(&self) -> (SocketAddr, u64, bool) {
        let master = self.entry().master.as_ref().expect("a master");
        (master.addr, master.epoch, master.provisional)
    }

    fn connect(&mut self, index: usize) {
        self.handle(Input::Sentinel(sentinel(index), FromSentinel::Connected));
    }

    fn lose(&mut self, index: usize) {
        self.handle(Input::Sentinel(sentinel(index), FromSentinel::Lost { error: "gone".into(), mute: false }));
    }

    fn answer(&mut self, index: usize, node: usize, epoch: u64) {
        self.answer_with(index, node, epoch, |_| {});
    }

    fn answer_with(&mut self, index: usize, node: usize, epoch: u64, change: impl FnOnce(&mut SentinelAnswer)) {
        let replica = |node| ReplicaFact {
            addr: addr(node),
            reported_master: false,
            down: false,
            link_up: true,
            link_down_for: Duration::ZERO,
            offset: 0,
            never_promoted: false,
        };
        let mut answer = SentinelAnswer {
            asked: self.now,
            myid: Some(format!("id{index}")),
            claim: Some(Claim {
                addr: addr(node),
                epoch,
                run_id: None,
                s_down: false,
                o_down: false,
                disconnected: false,
                failover: false,
                quorum: 2,
                other_sentinels: 2,
                down_after: Duration::from_secs(1),
                failover_timeout: Duration::from_secs(10),
            }),
            problem: None,
            peers: Some(
                (0..3)
                    .filter(|peer| *peer != index)
                    .map(|peer| Peer { addr: sentinel(peer), run_id: format!("id{peer}"), s_down: false })
                    .collect(),
            ),
            replicas: Some((0..3).filter(|other| *other != node).map(replica).collect()),
            quorum: Some(Ok(())),
        };
        change(&mut answer);
        self.handle(Input::Sentinel(sentinel(index), FromSentinel::Answer(Box::new(answer))));
    }

    fn event(&mut self, index: usize, kind: Kind, of: usize, node: Option<usize>) {
        let what = FromSentinel::Event { kind, master: Some(addr(of)), node: node.map(addr) };
        self.handle(Input::Sentinel(sentinel(index), what));
    }

    fn selected(&mut self) {
        self.event(0, Kind::Candidate, MASTER, Some(CANDIDATE));
    }

    /// All Sentinels answer: the candidate is a replica to them.
    fn all_answer(&mut self) {
        for index in 0..3 {
            self.answer(index, MASTER, 5);
        }
    }

    fn node_says(&mut self, node: usize, role: Role, info: Option<Info>) {
        let (connection, login) = (self.connections[node], self.tracker.login().id);
        let answer = NodeAnswer { asked: self.now, connection, role, info, info_refused: None, login };
        self.handle(Input::Node(addr(node), FromNode::Answer(Box::new(answer))));
    }

    fn master_says(&mut self, node: usize, offset: u64, replicas: &[usize]) {
        let info = Info { run_id: self.run_ids[node].clone(), replid: "history-a".into(), keys: 10, ..Info::default() };
        let replicas = replicas.iter().map(|replica| (addr(*replica), offset)).collect();
        self.node_says(node, Role::Master { offset, replicas }, Some(info));
    }

    fn replica_says(&mut self, node: usize, link_up: bool) {
        let info = Info { run_id: self.run_ids[node].clone(), replid: "history-a".into(), ..Info::default() };
        self.node_says(node, Role::Replica { master: Some(addr(MASTER)), link_up, offset: 100 }, Some(info));
    }

    /// The replicas have what the master has.
    fn level(&mut self) {
        self.master_says(MASTER, 100, &[CANDIDATE, OTHER]);
        self.replicas_say();
    }

    fn replicas_say(&mut self) {
        self.replica_says(CANDIDATE, true);
        self.replica_says(OTHER, true);
    }

    /// The candidate was promoted out of history-a when it had everything below `second`.
    fn promoted_says(&mut self, node: usize, second: u64) {
        let info = Info {
            run_id: self.run_ids[node].clone(),
            replid: "history-b".into(),
            replid2: Some("history-a".into()),
            second_offset: Some(second),
            keys: 10,
            ..Info::default()
        };
        self.node_says(node, Role::Master { offset: second, replicas: Vec::new() }, Some(info));
    }

    fn refused(&mut self, node: usize) {
        self.handle(Input::Node(addr(node), FromNode::Eof));
        self.handle(Input::Node(addr(node), FromNode::Refused("connection refused".into())));
    }

    /// Held, and everything that allows an early commit is there but the promotion.
    fn held() -> World {
        let mut world = World::following();
        world.selected();
        assert_eq!(world.phase(), Phase::Switching);
        assert!(world.entry().outage_since.is_some());
        world.after(5);
        world.all_answer();
        world.replica_says(CANDIDATE, true);
        world.after(1);
        world
    }
}

#[test]
fn the_first_master_is_published_when_it_says_so_itself() {
    let mut world = World::new(settings());
    world.after(50);
    assert_eq!(world.phase(), Phase::Suspect);
    world.connect(0);
    world.answer(0, MASTER, 5);
    world.connect(1);
    world.answer(1, MASTER, 5);
    world.lose(2);
    world.replicas_say();
    assert_eq!(world.entry().master, None, "a majority is not enough");
    assert!(world.tracker.nodes(world.now).contains_key(&addr(MASTER)), "it is asked");
    world.replica_says(MASTER, true);
    assert_eq!(world.entry().master, None);
    world.master_says(MASTER, 1, &[]);
    assert_eq!(world.master(), (addr(MASTER), 5, false));
    assert_eq!((world.phase(), world.entry().term, world.entry().outage_since), (Phase::Stable, 1, None));
}

#[test]
fn one_sentinel_without_quorum_is_not_believed_at_the_start() {
    let mut world = World::new(settings());
    world.connect(0);
    world.answer_with(0, MASTER, 5, |answer| answer.quorum = Some(Err("NOQUORUM 1 usable Sentinels".into())));
    world.lose(1);
    world.lose(2);
    world.master_says(MASTER, 1, &[]);
    world.after(2000);
    assert_eq!(world.entry().master, None);
    world.answer(0, MASTER, 5);
    world.master_says(MASTER, 1, &[]);
    assert_eq!(world.master().0, addr(MASTER), "with a quorum it is");
}

#[test]
fn nothing_below_the_remembered_epoch_is_believed() {
    let mut world = World::new(Settings { floor: Some((addr(MASTER), 9)), ..settings() });
    for index in 0..3 {
        world.connect(index);
        world.answer(index, OTHER, 8);
    }
    world.master_says(OTHER, 1, &[]);
    assert!(world.entries.iter().all(|entry| entry.master.is_none()));
    world.quiet(10_500, OTHER, 8);
    world.master_says(OTHER, 1, &[]);
    assert_eq!(world.master(), (addr(OTHER), 8, false), "but a majority that insists for 10 s is");
}

#[test]
fn a_planned_failover_is_committed_at_the_promotion_and_confirmed_by_the_epoch() {
    let mut world = World::held();
    world.master_says(MASTER, 110, &[CANDIDATE, OTHER]);
    world.after(5);
    world.promoted_says(CANDIDATE, 111);
    assert_eq!(world.phase(), Phase::Switching, "one more sample of the old master is waited for");
    world.after(5);
    let now = world.now;
    world.handle(Input::Replies(1));
    world.master_says(MASTER, 110, &[OTHER]);
    assert_eq!(world.phase(), Phase::Switching, "and one more, since replies have just come");
    world.after(5);
    let sampled = world.now;
    assert!(sampled > now);
    world.master_says(MASTER, 110, &[OTHER]);
    assert_eq!((world.phase(), world.master()), (Phase::Stable, (addr(CANDIDATE), 5, true)));
    assert_eq!(world.entry().term, 2);
    assert_eq!(world.entry().replicated_until, Some(sampled), "offset 110 is covered by second_repl_offset 111");
    world.after(900);
    world.promoted_says(CANDIDATE, 111);
    world.answer(1, CANDIDATE, 6);
    assert_eq!((world.phase(), world.master(), world.entry().term), (Phase::Stable, (addr(CANDIDATE), 6, false), 2));
    assert_eq!(world.tracker.history.counters().failovers_planned, 1);
    assert_eq!(world.tracker.history.counters().early_commits, 1);
}

#[test]
fn what_was_sent_after_the_last_common_byte_was_seen_is_told_from_the_rest() {
    for (second, seen) in [(111, true), (131, false)] {
        let mut world = World::held();
        world.master_says(MASTER, 110, &[CANDIDATE, OTHER]);
        let number = world.samples;
        world.after(5);
        world.master_says(MASTER, 120, &[CANDIDATE, OTHER]);
        world.promoted_says(CANDIDATE, second);
        world.after(DRAINED);
        assert_eq!(world.entry().term, 2);
        assert_eq!(world.entry().diverged_from, seen.then_some(number), "the stream ends at {}", second - 1);
    }
}

#[test]
fn a_crash_tells_it_too_and_another_process_or_a_way_back_does_not() {
    let mut world = World::following();
    let number = world.samples;
    world.refused(MASTER);
    world.selected();
    world.after(5);
    world.all_answer();
    world.promoted_says(CANDIDATE, 101);
    world.after(DRAINED);
    assert_eq!((world.entry().term, world.entry().replicated_until), (2, None));
    assert!(world.entry().diverged_from.is_some_and(|from| from <= number), "{:?}", world.entry());
    // Nobody confirms it, and the old master goes on.
    let mut world = World::held();
    world.master_says(MASTER, 110, &[CANDIDATE, OTHER]);
    world.promoted_says(CANDIDATE, 111);
    world.after(DRAINED);
    assert_eq!((world.entry().term, world.entry().diverged_from.is_some()), (2, true));
    world.after(3_500);
    world.all_answer();
    world.after(600);
    world.all_answer();
    world.master_says(MASTER, 120, &[OTHER]);
    world.after(20);
    assert_eq!((world.master().0, world.entry().term), (addr(MASTER), 3), "{:?}", world.logs);
    assert_eq!(world.entry().diverged_from, None);
}

/// A master lists replicas that are announced by host names as such: no address of them is known from it.
#[test]
fn a_candidate_that_only_the_sentinels_list_is_asked_with_credentials() {
    let is_trusted = |world: &World| world.tracker.nodes(world.now)[&addr(CANDIDATE)].trusted;
    let mut world = World::new(settings());
    for index in 0..3 {
        world.connect(index);
        world.answer_with(index, MASTER, 5, |answer| answer.replicas = answer.replicas.take().filter(|_| index == 0));
    }
    world.master_says(MASTER, 100, &[]);
    world.selected();
    assert!(!is_trusted(&world), "one Sentinel of three");
    world.answer(1, MASTER, 5);
    assert!(is_trusted(&world), "two");
}

#[test]
fn a_new_master_confirmed_before_its_first_answer_has_lost_no_replica() {
    let mut world = World::held();
    world.promoted_says(CANDIDATE, 101);
    world.after(DRAINED);
    assert_eq!(world.master(), (addr(CANDIDATE), 5, true));
    world.answer(1, CANDIDATE, 6);
    // The old master and the third node do not follow it yet.
    world.promoted_says(CANDIDATE, 101);
    assert_eq!((world.phase(), world.master()), (Phase::Stable, (addr(CANDIDATE), 6, false)));
}

#[test]
fn an_idle_old_master_is_covered_up_to_the_last_look() {
    let mut world = World::held();
    world.promoted_says(CANDIDATE, 101);
    world.after(5);
    let last = world.now;
    world.master_says(MASTER, 100, &[OTHER]);
    assert_eq!(world.entry().replicated_until, Some(last));
}

#[test]
fn an_old_master_that_wrote_on_needs_no_further_sample() {
    let mut world = World::held();
    let sampled = world.now;
    world.master_says(MASTER, 110, &[CANDIDATE, OTHER]);
    world.after(5);
    world.master_says(MASTER, 120, &[CANDIDATE, OTHER]);
    world.after(1);
    world.promoted_says(CANDIDATE, 111);
    assert_eq!(world.phase(), Phase::Stable);
    assert_eq!(world.entry().replicated_until, Some(sampled));
}

#[test]
fn a_silent_old_master_does_not_hold_up_the_commit() {
    let mut world = World::held();
    world.promoted_says(CANDIDATE, 101);
    world.after(DRAINED);
    assert_eq!(world.master().0, addr(CANDIDATE));
}

#[test]
fn a_candidate_that_was_demoted_lately_waits_for_the_epoch() {
    let mut world = World::following();
    world.selected();
    world.after(5);
    world.answer(0, MASTER, 5);
    world.answer(1, MASTER, 5);
    world.answer_with(2, MASTER, 5, |answer| {
        for replica in answer.replicas.iter_mut().flatten() {
            replica.reported_master = replica.addr == addr(CANDIDATE);
        }
    });
    // A later answer says otherwise; the first one counts.
    world.answer(2, MASTER, 5);
    world.promoted_says(CANDIDATE, 101);
    world.after(500);
    world.master_says(MASTER, 100, &[OTHER]);
    assert_eq!(world.phase(), Phase::Switching);
    world.promoted_says(CANDIDATE, 101);
    world.answer(0, CANDIDATE, 6);
    assert_eq!(world.phase(), Phase::Switching, "its Sentinel alone knows, and the third may demote it yet");
    world.answer(1, CANDIDATE, 6);
    assert_eq!(world.master(), (addr(CANDIDATE), 6, false));
    assert_eq!(world.tracker.history.counters().early_commits, 0);
}

#[test]
fn a_candidate_that_nobody_else_hears_of_is_followed_by_the_epoch_in_the_end() {
    let mut world = World::following();
    world.selected();
    world.after(5);
    let is_master_to = |world: &mut World, index| {
        world.answer_with(index, MASTER, 5, |answer| {
            answer.replicas.iter_mut().flatten().for_each(|replica| replica.reported_master = true);
        });
    };
    world.answer(0, MASTER, 5);
    is_master_to(&mut world, 1);
    is_master_to(&mut world, 2);
    for _ in 0..25 {
        world.after(100);
        world.promoted_says(CANDIDATE, 101);
        world.answer(0, CANDIDATE, 6);
        assert_eq!(world.phase(), Phase::Switching);
    }
    world.after(600);
    world.promoted_says(CANDIDATE, 101);
    world.answer(0, CANDIDATE, 6);
    assert_eq!(world.master(), (addr(CANDIDATE), 6, false));
}

#[test]
fn a_master_that_is_being_replaced_when_it_is_followed_gets_no_request() {
    let waiting = |aborted: bool| {
        let mut world = World::following();
        world.selected();
        world.after(5);
        world.answer(0, MASTER, 5);
        world.answer(1, MASTER, 5);
        // The third has not said whether the candidate was a master lately: the epoch is waited for.
        world.promoted_says(CANDIDATE, 101);
        world.after(900);
        world.event(1, Kind::Candidate, CANDIDATE, Some(OTHER));
        if aborted {
            world.event(1, Kind::Aborted { reason: "no-good-slave".into() }, CANDIDATE, None);
        }
        world.after(50);
        world.promoted_says(CANDIDATE, 101);
        world.answer(0, CANDIDATE, 6);
        assert_eq!((world.master().0, world.entry().term), (addr(CANDIDATE), 2));
        world
    };
    let world = waiting(true);
    assert_eq!(world.phase(), Phase::Stable);
    let mut world = waiting(false);
    assert_eq!(world.phase(), Phase::Switching);
    world.after(5);
    let info = Info {
        run_id: world.run_ids[OTHER].clone(),
        replid: "history-c".into(),
        replid2: Some("history-b".into()),
        second_offset: Some(120),
        ..Info::default()
    };
    world.node_says(OTHER, Role::Master { offset: 120, replicas: Vec::new() }, Some(info));
    world.answer(1, OTHER, 7);
    assert_eq!((world.master(), world.phase()), ((addr(OTHER), 7, false), Phase::Stable));
    let flowed = world.entries.iter().any(|entry| entry.term == 2 && entry.phase == Phase::Stable);
    assert!(!flowed, "what is sent to the one in between is lost");
}

#[test]
fn a_promotion_that_is_announced_behind_its_commit_is_not_ahead() {
    let mut world = World::held();
    world.promoted_says(CANDIDATE, 101);
    world.after(DRAINED);
    assert_eq!(world.master(), (addr(CANDIDATE), 5, true));
    world.after(800);
    world.promoted_says(CANDIDATE, 101);
    world.event(0, Kind::Promoted, MASTER, Some(CANDIDATE));
    (0..3).for_each(|index| world.answer(index, CANDIDATE, 6));
    assert_eq!(world.phase(), Phase::Stable);
    // The way back, at once.
    world.event(1, Kind::Candidate, CANDIDATE, Some(MASTER));
    world.after(5);
    (0..3).for_each(|index| world.answer(index, CANDIDATE, 6));
    let info = Info {
        run_id: world.run_ids[MASTER].clone(),
        replid: "history-c".into(),
        replid2: Some("history-b".into()),
        second_offset: Some(101),
        ..Info::default()
    };
    world.node_says(MASTER, Role::Master { offset: 101, replicas: Vec::new() }, Some(info.clone()));
    world.after(DRAINED);
    world.node_says(MASTER, Role::Master { offset: 101, replicas: Vec::new() }, Some(info));
    assert_eq!((world.master(), world.phase()), ((addr(MASTER), 6, true), Phase::Stable));
}

#[test]
fn a_silent_sentinel_forbids_the_early_commit() {
    let mut world = World::following();
    world.selected();
    world.after(5);
    world.answer(0, MASTER, 5);
    world.answer(1, MASTER, 5);
    world.promoted_says(CANDIDATE, 101);
    world.after(100);
    assert_eq!(world.phase(), Phase::Switching);
}

#[test]
fn a_crash_is_suspected_at_once_and_committed_at_the_promotion() {
    let mut world = World::following();
    let crashed = world.now;
    world.refused(MASTER);
    assert_eq!((world.phase(), world.entry().outage_since), (Phase::Suspect, Some(crashed)));
    world.after(1200);
    world.event(0, Kind::MasterDown, MASTER, None);
    world.selected();
    assert_eq!((world.phase(), world.entry().outage_since), (Phase::Switching, Some(crashed)));
    world.after(5);
    world.all_answer();
    world.promoted_says(CANDIDATE, 101);
    assert_eq!((world.phase(), world.master()), (Phase::Stable, (addr(CANDIDATE), 5, true)));
    assert_eq!(world.entry().replicated_until, None);
    assert_eq!(world.tracker.history.counters().failovers_crash, 1);
}

#[test]
fn silence_is_suspected_and_ends_with_any_sign_of_life() {
    let mut world = World::following();
    world.after(500);
    assert_eq!(world.phase(), Phase::Stable);
    world.after(200);
    assert_eq!(world.phase(), Phase::Suspect);
    let asked = world.now;
    world.master_says(MASTER, 100, &[CANDIDATE, OTHER]);
    assert_eq!((world.phase(), world.entry().term, world.entry().outage_since), (Phase::Stable, 1, None));
    assert_eq!(world.proofs.last(), Some(&asked));
    world.after(500);
    world.handle(Input::Replies(1));
    world.after(500);
    assert_eq!(world.phase(), Phase::Stable, "replies to sessions are life");
    world.after(700);
    assert_eq!(world.phase(), Phase::Suspect);
    world.node_says(MASTER, Role::Occupied("-BUSY".into()), None);
    assert_eq!(world.phase(), Phase::Stable, "a busy script answers too");
}

#[test]
fn our_own_late_wake_up_is_not_the_masters_silence() {
    let mut world = World::following();
    world.tracker.next_tick(world.now);
    world.now += Duration::from_secs(5);
    world.handle(Input::Tick);
    assert_eq!(world.phase(), Phase::Switching, "not suspected, but in doubt");
    world.all_answer();
    world.master_says(MASTER, 100, &[CANDIDATE, OTHER]);
    assert_eq!(world.phase(), Phase::Stable);
    world.after(700);
    assert_eq!(world.phase(), Phase::Suspect, "but what follows is");
}

#[test]
fn an_abort_ends_the_hold_only_when_the_candidate_is_a_replica() {
    let mut world = World::held();
    world.event(0, Kind::Aborted { reason: "slave-timeout".into() }, MASTER, None);
    world.after(50);
    world.master_says(MASTER, 100, &[CANDIDATE, OTHER]);
    assert_eq!(world.phase(), Phase::Switching, "the candidate was not asked since");
    world.replica_says(CANDIDATE, false);
    assert_eq!(world.phase(), Phase::Switching, "its link is down");
    world.replica_says(CANDIDATE, true);
    assert_eq!((world.phase(), world.master().0, world.entry().term), (Phase::Stable, addr(MASTER), 1));
    assert_eq!(world.tracker.history.counters().failovers_aborted, 1);
}

#[test]
fn after_an_abort_the_candidate_is_distrusted_for_a_while() {
    let mut world = World::held();
    world.event(0, Kind::Aborted { reason: "slave-timeout".into() }, MASTER, None);
    world.after(5);
    world.master_says(MASTER, 100, &[CANDIDATE, OTHER]);
    world.replica_says(CANDIDATE, true);
    assert_eq!(world.phase(), Phase::Stable);
    // A late SLAVEOF NO ONE still runs.
    world.after(7);
    world.promoted_says(CANDIDATE, 101);
    world.selected();
    world.all_answer();
    world.after(5);
    world.promoted_says(CANDIDATE, 101);
    world.after(100);
    world.promoted_says(CANDIDATE, 101);
    assert_eq!((world.phase(), world.master().0), (Phase::Switching, addr(MASTER)), "held, but not followed");
}

#[test]
fn a_hold_without_a_promotion_ends_by_itself() {
    let mut world = World::held();
    world.after(1600);
    world.replica_says(CANDIDATE, true);
    world.master_says(MASTER, 100, &[CANDIDATE, OTHER]);
    assert_eq!(world.phase(), Phase::Stable);
}

#[test]
fn losing_the_leader_ends_the_hold_only_by_the_candidates_word() {
    let mut world = World::held();
    world.lose(0);
    world.master_says(MASTER, 100, &[CANDIDATE, OTHER]);
    world.promoted_says(CANDIDATE, 101);
    world.after(100);
    assert_eq!(world.phase(), Phase::Switching, "promoted, and nobody vouches for it");
    world.answer(1, CANDIDATE, 6);
    world.promoted_says(CANDIDATE, 101);
    assert_eq!(world.master(), (addr(CANDIDATE), 6, false));
}

#[test]
fn an_unconfirmed_early_commit_is_held_and_undone_by_a_majority() {
    let mut world = World::held();
    world.promoted_says(CANDIDATE, 101);
    world.after(DRAINED);
    assert_eq!(world.master(), (addr(CANDIDATE), 5, true));
    for _ in 0..31 {
        world.after(100);
        world.promoted_says(CANDIDATE, 101);
        world.all_answer();
    }
    assert_eq!(world.phase(), Phase::Switching);
    world.master_says(MASTER, 130, &[OTHER]);
    world.after(100);
    world.all_answer();
    assert_eq!(world.phase(), Phase::Switching, "not at once");
    world.after(600);
    world.all_answer();
    world.master_says(MASTER, 130, &[OTHER]);
    assert_eq!((world.phase(), world.master(), world.entry().term), (Phase::Stable, (addr(MASTER), 5, false), 3));
    assert_eq!(world.tracker.history.counters().early_commits_wrong, 1);
}

#[test]
fn an_early_commit_whose_sentinel_is_lost_is_held_at_once_and_not_undone_before_its_time() {
    for confirmed in [true, false] {
        let mut world = World::held();
        world.promoted_says(CANDIDATE, 101);
        world.after(DRAINED);
        assert_eq!((world.phase(), world.master()), (Phase::Stable, (addr(CANDIDATE), 5, true)));
        world.lose(0);
        world.after(1);
        assert_eq!(world.phase(), Phase::Switching);
        for _ in 0..10 {
            world.after(100);
            world.promoted_says(CANDIDATE, 101);
            world.master_says(MASTER, 130, &[OTHER]);
            world.answer(1, MASTER, 5);
            world.answer(2, MASTER, 5);
        }
        assert_eq!((world.phase(), world.entry().term), (Phase::Switching, 2), "the others may still hear of it");
        if confirmed {
            world.answer(1, CANDIDATE, 6);
            world.promoted_says(CANDIDATE, 101);
            assert_eq!((world.phase(), world.master()), (Phase::Stable, (addr(CANDIDATE), 6, false)));
            assert_eq!(world.tracker.history.counters().early_commits_wrong, 0);
            continue;
        }
        for _ in 0..22 {
            world.after(100);
            world.master_says(MASTER, 130, &[OTHER]);
            world.answer(1, MASTER, 5);
            world.answer(2, MASTER, 5);
        }
        assert_eq!((world.phase(), world.master()), (Phase::Stable, (addr(MASTER), 5, false)));
        assert_eq!(world.tracker.history.counters().early_commits_wrong, 1);
    }
}

#[test]
fn a_late_confirmation_ends_the_hold_in_the_same_term() {
    let mut world = World::held();
    world.promoted_says(CANDIDATE, 101);
    world.after(DRAINED);
    for _ in 0..31 {
        world.after(100);
        world.promoted_says(CANDIDATE, 101);
    }
    assert_eq!(world.phase(), Phase::Switching);
    world.answer(1, CANDIDATE, 6);
    world.promoted_says(CANDIDATE, 101);
    assert_eq!((world.phase(), world.master(), world.entry().term), (Phase::Stable, (addr(CANDIDATE), 6, false), 2));
    assert_eq!(world.tracker.history.counters().early_commits_wrong, 0);
    assert_eq!(world.tracker.history.counters().failovers_aborted, 0);
}

#[test]
fn a_stale_sentinel_never_moves_us_back() {
    let mut world = World::following();
    world.answer(2, OTHER, 4);
    world.master_says(OTHER, 50, &[]);
    for _ in 0..150 {
        world.after(100);
        world.answer(0, MASTER, 5);
        world.answer(1, MASTER, 5);
        world.answer(2, OTHER, 4);
        world.master_says(MASTER, 100, &[CANDIDATE, OTHER]);
    }
    assert_eq!(world.entries.len(), world.entries.iter().filter(|entry| entry.term <= 1).count());
    assert_eq!((world.phase(), world.master().0), (Phase::Stable, addr(MASTER)));
    assert!(world.tracker.show(world.now).warnings.iter().any(|warning| warning.contains("10.0.1.2")));
}

#[test]
fn one_sentinel_is_enough_to_go_forward_in_the_lineage_and_not_out_of_it() {
    let mut world = World::following();
    world.answer(2, CANDIDATE, 6);
    let foreign = Info { run_id: "run1".into(), replid: "other-cluster".into(), ..Info::default() };
    world.node_says(CANDIDATE, Role::Master { offset: 1, replicas: Vec::new() }, Some(foreign));
    world.after(100);
    assert_eq!((world.phase(), world.master().0), (Phase::Stable, addr(MASTER)), "a foreign node named by one");
    world.promoted_says(CANDIDATE, 101);
    world.after(1);
    world.promoted_says(CANDIDATE, 101);
    assert_eq!(world.master(), (addr(CANDIDATE), 6, false), "an heir named by one");
}

#[test]
fn a_split_at_one_epoch_stays_with_the_majority() {
    let mut world = World::following();
    world.answer(2, OTHER, 5);
    world.master_says(OTHER, 50, &[]);
    world.after(100);
    assert_eq!((world.phase(), world.master().0), (Phase::Stable, addr(MASTER)));
    world.answer(1, OTHER, 5);
    world.after(5);
    world.master_says(OTHER, 50, &[]);
    assert_eq!(world.master().0, addr(OTHER), "two of three name it at the same epoch");
}

#[test]
fn another_process_at_the_same_address_is_a_new_term() {
    let mut world = World::following();
    world.refused(MASTER);
    world.after(100);
    world.connections[MASTER] = 2;
    world.run_ids[MASTER] = "run0-again".into();
    let info = Info { run_id: "run0-again".into(), replid: "fresh".into(), keys: 0, ..Info::default() };
    world.node_says(MASTER, Role::Master { offset: 0, replicas: Vec::new() }, Some(info));
    assert_eq!((world.phase(), world.entry().term), (Phase::Suspect, 1), "the Sentinels are asked first");
    world.after(5);
    world.answer(0, MASTER, 5);
    world.answer(1, MASTER, 5);
    world.answer(2, MASTER, 5);
    assert_eq!((world.phase(), world.entry().term, world.master().0), (Phase::Stable, 2, addr(MASTER)));
    assert_eq!(world.entry().replicated_until, None);
    assert!(world.logs.iter().any(|line| line.contains("EMPTY")), "{:?}", world.logs);
    let shown = world.tracker.show(world.now);
    assert!(shown.warnings.iter().any(|warning| warning.contains("EMPTY")) && shown.counters.empty_restarts == 1);
    assert_eq!(shown.last_failover.map(|last| last.kind), Some("restart".into()));
}

/// ROLE and INFO of the master while a restore server, which is no node of ours, is its master.
fn restoring(world: &mut World) {
    let stranger = SocketAddr::from(([10, 0, 9, 9], 40_000));
    let info = Info { run_id: world.run_ids[MASTER].clone(), replid: "history-a".into(), ..Info::default() };
    world.node_says(MASTER, Role::Replica { master: Some(stranger), link_up: false, offset: 0 }, Some(info));
}

/// ROLE and INFO of the master after its REPLICAOF NO ONE.
fn restored(world: &mut World) {
    let info = Info {
        run_id: world.run_ids[MASTER].clone(),
        replid: "history-r".into(),
        replid2: Some("history-of-the-restore".into()),
        second_offset: Some(5001),
        keys: 7,
        ..Info::default()
    };
    world.node_says(MASTER, Role::Master { offset: 5000, replicas: Vec::new() }, Some(info));
}

#[test]
fn a_restore_behind_a_hold_is_waited_for_and_is_a_new_term_of_the_same_master() {
    let mut world = World::following();
    world.handle(Input::Hold { until: world.now + Duration::from_secs(60) });
    world.after(100);
    for _ in 0..40 {
        restoring(&mut world);
        world.quiet(1000, MASTER, 5);
        assert_eq!((world.phase(), world.master().0), (Phase::Paused, addr(MASTER)), "{:?}", world.logs);
    }
    let asked: Vec<SocketAddr> = world.tracker.nodes(world.now).into_keys().collect();
    assert!(asked.iter().all(|node| *node == addr(MASTER)), "the stranger is not even asked: {asked:?}");
    world.after(1);
    restored(&mut world);
    assert_eq!((world.phase(), world.entry().term), (Phase::Paused, 1), "the Sentinels are asked first");
    world.after(5);
    world.all_answer();
    assert_eq!((world.phase(), world.entry().term, world.master()), (Phase::Paused, 2, (addr(MASTER), 5, false)));
    world.handle(Input::Release);
    assert_eq!(world.phase(), Phase::Stable);
    assert_eq!(world.tracker.show(world.now).last_failover.map(|last| last.kind), Some("restore".into()));
    // Its replicas come back; the next failover finds its lineage.
    world.after(200);
    restored(&mut world);
    world.quiet(1000, MASTER, 5);
    restored(&mut world);
    assert_eq!((world.phase(), world.entry().term), (Phase::Stable, 2));
    world.selected();
    world.after(5);
    world.all_answer();
    world.replica_says(CANDIDATE, true);
    world.after(1);
    let info = Info {
        run_id: "run1".into(),
        replid: "history-s".into(),
        replid2: Some("history-r".into()),
        second_offset: Some(5001),
        ..Info::default()
    };
    world.node_says(CANDIDATE, Role::Master { offset: 5001, replicas: Vec::new() }, Some(info));
    world.after(DRAINED);
    assert_eq!((world.phase(), world.master().0), (Phase::Stable, addr(CANDIDATE)), "{:?}", world.logs);
}

#[test]
fn a_restore_that_no_heartbeat_saw_is_known_by_its_history() {
    let mut world = World::following();
    world.handle(Input::Hold { until: world.now + Duration::from_secs(60) });
    world.after(100);
    restored(&mut world);
    world.after(5);
    world.all_answer();
    assert_eq!((world.phase(), world.entry().term), (Phase::Paused, 2));
}

#[test]
fn a_history_that_ends_for_want_of_replicas_is_no_restore() {
    let mut world = World::following();
    let info = Info { run_id: "run0".into(), replid: "history-b".into(), keys: 10, ..Info::default() };
    world.node_says(MASTER, Role::Master { offset: 100, replicas: vec![] }, Some(info));
    world.after(5);
    world.all_answer();
    assert_eq!(world.entry().term, 1);
}

#[test]
fn an_outage_that_outlasts_a_hold_is_timed_from_its_end() {
    let mut world = World::following();
    world.handle(Input::Hold { until: world.now + Duration::from_secs(60) });
    world.refused(MASTER);
    world.after(30_000);
    assert_eq!(world.phase(), Phase::Paused, "down-after + 10 s is long over");
    world.handle(Input::Release);
    assert_eq!(world.phase(), Phase::Suspect);
    world.after(10_900);
    assert_eq!(world.phase(), Phase::Suspect);
    world.after(200);
    assert_eq!(world.phase(), Phase::Failing);
}

#[test]
fn a_failover_during_a_hold_is_a_failover() {
    let mut world = World::following();
    world.handle(Input::Hold { until: world.now + Duration::from_secs(60) });
    world.selected();
    assert_eq!(world.phase(), Phase::Switching);
}

#[test]
fn a_failover_after_a_long_hold_has_the_whole_time_of_an_outage() {
    let mut world = World::following();
    world.handle(Input::Hold { until: world.now + Duration::from_secs(60) });
    world.after(100);
    for _ in 0..30 {
        restoring(&mut world);
        world.quiet(1000, MASTER, 5);
    }
    world.selected();
    assert_eq!(world.phase(), Phase::Switching, "down-after + 10 s is long over: {:?}", world.logs);
    assert_eq!(world.entry().outage_since, Some(world.now));
}

#[test]
fn a_restarted_old_master_is_not_taken_while_it_is_being_replaced() {
    let mut world = World::following();
    world.refused(MASTER);
    world.after(1200);
    world.selected();
    world.connections[MASTER] = 2;
    world.run_ids[MASTER] = "run0-again".into();
    world.master_says(MASTER, 0, &[]);
    world.after(500);
    world.all_answer();
    world.master_says(MASTER, 0, &[]);
    assert_eq!((world.phase(), world.entry().term), (Phase::Switching, 1));
}

#[test]
fn the_same_process_on_a_new_connection_is_no_failover() {
    let mut world = World::following();
    world.handle(Input::SessionEof { term: 1 });
    world.handle(Input::Node(addr(MASTER), FromNode::Eof));
    world.connections[MASTER] = 2;
    let asked = world.now;
    world.master_says(MASTER, 100, &[CANDIDATE, OTHER]);
    assert_eq!((world.phase(), world.entry().term), (Phase::Stable, 1));
    assert_eq!(world.proofs.last(), Some(&asked));
}

#[test]
fn a_replica_that_vanishes_is_held_for_and_asked() {
    let mut world = World::following();
    world.master_says(MASTER, 100, &[OTHER]);
    assert_eq!(world.phase(), Phase::Switching);
    world.replica_says(CANDIDATE, false);
    world.master_says(MASTER, 100, &[OTHER]);
    assert_eq!(world.phase(), Phase::Stable, "it only lost its link");
    assert_eq!(world.tracker.history.counters().failovers_aborted, 0);
    world.master_says(MASTER, 100, &[CANDIDATE, OTHER]);
    world.master_says(MASTER, 100, &[OTHER]);
    world.handle(Input::Node(addr(CANDIDATE), FromNode::Refused("gone".into())));
    world.master_says(MASTER, 100, &[OTHER]);
    assert_eq!(world.phase(), Phase::Stable, "it is dead");
    world.master_says(MASTER, 100, &[CANDIDATE, OTHER]);
    world.master_says(MASTER, 100, &[OTHER]);
    world.promoted_says(CANDIDATE, 101);
    world.after(500);
    assert_eq!(world.phase(), Phase::Switching, "it was promoted, and we do not hear the leader");
    world.answer(1, CANDIDATE, 6);
    world.promoted_says(CANDIDATE, 101);
    assert_eq!(world.master(), (addr(CANDIDATE), 6, false));
}

#[test]
fn the_deadline_of_an_outage_fails_requests_until_a_master_is_back() {
    let mut world = World::following();
    world.refused(MASTER);
    world.after(10_900);
    assert_eq!(world.phase(), Phase::Suspect);
    world.after(200);
    assert_eq!(world.phase(), Phase::Failing, "down-after 1 s and 10 s more");
    assert!(world.entry().reason.contains("no master for 11 s"), "{}", world.entry().reason);
    assert!(world.entry().outage_since.is_some());
    world.master_says(MASTER, 100, &[CANDIDATE, OTHER]);
    assert_eq!((world.phase(), world.entry().term), (Phase::Stable, 1));
}

#[test]
fn without_any_sentinel_the_last_master_stays_while_it_answers() {
    let mut world = World::following();
    for index in 0..3 {
        world.lose(index);
    }
    for _ in 0..100 {
        world.after(200);
        world.master_says(MASTER, 100, &[CANDIDATE, OTHER]);
    }
    assert_eq!((world.phase(), world.entry().term), (Phase::Stable, 1));
}

#[test]
fn without_credentials_the_majoritys_word_is_followed() {
    let mut world = World::new(settings());
    for index in 0..3 {
        world.connect(index);
        world.answer(index, MASTER, 5);
    }
    for node in [CANDIDATE, OTHER, MASTER] {
        world.node_says(node, Role::Unreadable("-NOAUTH".into()), None);
    }
    assert_eq!((world.phase(), world.master().0), (Phase::Stable, addr(MASTER)));
    world.after(200);
    let asked = world.now;
    world.node_says(MASTER, Role::Unreadable("-NOAUTH".into()), None);
    assert_eq!(world.proofs.last(), Some(&asked), "NOAUTH on the same connection is life");
    assert!(world.tracker.show(world.now).warnings.iter().any(|warning| warning.contains("password")));
    world.selected();
    world.after(5);
    world.all_answer();
    world.node_says(CANDIDATE, Role::Unreadable("-NOAUTH".into()), None);
    world.after(100);
    assert_eq!(world.phase(), Phase::Switching, "no early commit");
    world.answer(1, CANDIDATE, 6);
    world.node_says(CANDIDATE, Role::Unreadable("-NOAUTH".into()), None);
    assert_eq!(world.phase(), Phase::Switching, "one Sentinel is not enough");
    world.answer(2, CANDIDATE, 6);
    world.node_says(CANDIDATE, Role::Unreadable("-NOAUTH".into()), None);
    assert_eq!(world.master(), (addr(CANDIDATE), 6, false));
}

#[test]
fn a_clients_credentials_are_used_when_there_are_none() {
    let mut world = World::new(settings());
    for index in 0..3 {
        world.connect(index);
        world.answer(index, MASTER, 5);
    }
    for node in [CANDIDATE, OTHER, MASTER] {
        world.node_says(node, Role::Unreadable("-NOAUTH".into()), None);
    }
    let credentials = Credentials { username: None, password: crate::secret::Secret::new("x") };
    world.tracker.handle(world.now, Input::Credentials(credentials));
    assert!(world.tracker.take().iter().any(|output| matches!(output, Output::UseCredentials(_))));
    world.connections[MASTER] = 2;
    world.master_says(MASTER, 100, &[]);
    assert_eq!(world.tracker.show(world.now).credentials, CredentialsState::Learnt);
    assert_eq!((world.phase(), world.entry().term), (Phase::Stable, 1), "the same term, now with a run id");
}

#[test]
fn a_demoted_master_is_held_for() {
    let mut world = World::following();
    world.handle(Input::SessionRefused { term: 1 });
    world.node_says(MASTER, Role::Replica { master: Some(addr(CANDIDATE)), link_up: true, offset: 1 }, None);
    assert_eq!(world.phase(), Phase::Switching);
    world.answer(0, CANDIDATE, 6);
    world.promoted_says(CANDIDATE, 101);
    assert_eq!(world.master(), (addr(CANDIDATE), 6, false));
}

#[test]
fn the_operators_hold_pauses_and_runs_out() {
    let mut world = World::following();
    let until = world.now + Duration::from_millis(300);
    world.handle(Input::Hold { until });
    assert_eq!(world.phase(), Phase::Paused);
    world.after(400);
    assert_eq!(world.phase(), Phase::Stable);
    world.handle(Input::Hold { until: world.now + Duration::from_secs(60) });
    world.handle(Input::Release);
    assert_eq!(world.phase(), Phase::Stable);
}

#[test]
fn a_minority_whose_replicas_are_gone_is_told_or_stopped() {
    for (minority, phase) in [(Minority::Warn, Phase::Stable), (Minority::Stop, Phase::Suspect)] {
        let mut world = World::new(Settings { minority, ..settings() });
        world.begin();
        world.lose(1);
        world.lose(2);
        for _ in 0..40 {
            world.after(100);
            world.answer_with(0, MASTER, 5, |answer| answer.quorum = Some(Err("NOQUORUM".into())));
            world.master_says(MASTER, 100, &[CANDIDATE, OTHER]);
        }
        assert_eq!(world.phase(), phase);
        assert!(world.logs.iter().any(|line| line.contains("1 of 3 Sentinels")), "{:?}", world.logs);
    }
}

#[test]
fn peers_are_learnt_and_doubles_are_dropped() {
    let mut world =
        World::new(Settings { sentinels: vec![HostPort { host: "localhost".into(), port: 26379 }], ..settings() });
    let local = HostPort { host: "localhost".into(), port: 26379 };
    world.handle(Input::Sentinel(local.clone(), FromSentinel::Connected));
    world.tracker.sentinels.learn(&Peer { addr: sentinel(0), run_id: String::new(), s_down: false });
    world.connect(0);
    world.answer(0, MASTER, 5);
    let answer = world.tracker.sentinels.get(&sentinel(0)).expect("known").answer.clone().expect("answered");
    world.handle(Input::Sentinel(local.clone(), FromSentinel::Answer(Box::new(answer))));
    let known: Vec<HostPort> = world.tracker.sentinels().cloned().collect();
    assert_eq!(known, vec![sentinel(1), sentinel(2), local]);
}

#[test]
fn the_last_failover_is_shown_with_its_phases_and_its_gap() {
    let mut world = World::held();
    world.handle(Input::Replies(40));
    world.master_says(MASTER, 120, &[CANDIDATE, OTHER]);
    world.after(1);
    world.promoted_says(CANDIDATE, 111);
    world.after(25);
    world.after(7);
    world.handle(Input::Replies(41));
    world.after(100);
    world.handle(Input::Replies(50));
    let shown = world.tracker.show(world.now);
    assert!(shown.replicas.iter().all(|replica| replica.addr != addr(CANDIDATE).to_string()), "{:?}", shown.replicas);
    world.quiet(500, CANDIDATE, 6);
    let last = world.tracker.show(world.now).last_failover.expect("there was one");
    assert_eq!(
        (last.kind.as_str(), last.from, last.to),
        ("planned", addr(MASTER).to_string(), addr(CANDIDATE).to_string())
    );
    let phases: Vec<&str> = last.phases.iter().map(|(phase, _)| phase.as_str()).collect();
    assert_eq!(phases, ["promotion", "hold", "attach", "confirm"]);
    assert!(last.phases.iter().all(|(_, ms)| *ms > 0.0 && *ms < 300.0), "{:?}", last.phases);
    assert_eq!((last.offset_gap_bytes, last.writes_at_risk), (Some(10), 0));
}

#[test]
fn the_replies_of_an_undone_early_commit_are_at_risk() {
    let mut world = World::held();
    world.handle(Input::Replies(40));
    world.promoted_says(CANDIDATE, 101);
    world.after(DRAINED);
    world.handle(Input::Replies(47));
    for _ in 0..45 {
        world.after(100);
        world.all_answer();
        world.master_says(MASTER, 130, &[OTHER]);
    }
    assert_eq!(world.master().0, addr(MASTER));
    assert_eq!(
        (world.tracker.history.counters().early_commits_wrong, world.tracker.history.counters().writes_at_risk),
        (1, 7)
    );
    assert!(world.logs.iter().any(|line| line.contains("at most 7 writes")), "{:?}", world.logs);
}

#[test]
fn a_sentinel_that_lags_behind_a_switch_is_not_warned_about_at_once() {
    let mut world = World::held();
    world.promoted_says(CANDIDATE, 101);
    world.after(DRAINED);
    let old = |world: &World| {
        world.tracker.show(world.now).warnings.iter().any(|warning| warning.contains("its table is old"))
    };
    for step in 0..70 {
        world.after(100);
        world.answer(0, CANDIDATE, 6);
        world.answer(1, CANDIDATE, 6);
        world.answer(2, MASTER, 5);
        world.promoted_says(CANDIDATE, 101);
        assert!(step > 45 || !old(&world), "told after {step} steps");
    }
    assert!(old(&world));
}

#[test]
fn a_long_hold_is_told_once_in_the_log() {
    let mut world = World::new(Settings { hold_timeout: HoldTimeout::Fixed(Duration::from_secs(30)), ..settings() });
    world.begin();
    world.after(1000);
    assert_eq!(world.logs.iter().filter(|line| line.contains("held up to 30 s")).count(), 1, "{:?}", world.logs);
}

#[test]
fn sentinels_that_call_the_master_down_and_missing_credentials_are_shown() {
    let mut world = World::new(settings());
    for index in 0..3 {
        world.connect(index);
        world.answer_with(index, MASTER, 5, |answer| {
            let claim = answer.claim.as_mut().expect("claims");
            (claim.s_down, claim.o_down) = (index == 0, index == 1);
        });
    }
    world.node_says(MASTER, Role::Unreadable("-NOAUTH".into()), None);
    let shown = world.tracker.show(world.now);
    assert_eq!(shown.sentinels.iter().map(|sentinel| sentinel.master_down).collect::<Vec<_>>(), [true, true, false]);
    assert_eq!(shown.credentials, CredentialsState::Missing);
}

/// We did not run for so long; the next thing that is handled is `Tick`.
fn frozen(world: &mut World, ms: u64) -> Instant {
    let before = world.now;
    world.tracker.next_tick(before);
    world.now += Duration::from_millis(ms);
    world.handle(Input::Tick);
    before
}

/// The master and all Sentinels say so, in answers to questions of that instant.
fn all_is_well(world: &mut World, asked: Instant) {
    for index in 0..3 {
        world.answer_with(index, MASTER, 5, |answer| answer.asked = asked);
    }
    let info = Info { run_id: world.run_ids[MASTER].clone(), replid: "history-a".into(), ..Info::default() };
    let role = Role::Master { offset: 100, replicas: vec![(addr(CANDIDATE), 100), (addr(OTHER), 100)] };
    let (connection, info) = (world.connections[MASTER], Some(info));
    let answer = NodeAnswer { asked, connection, role, info, info_refused: None, login: 0 };
    world.handle(Input::Node(addr(MASTER), FromNode::Answer(Box::new(answer))));
}

#[test]
fn behind_a_gap_of_our_own_nothing_flows_before_a_question_of_after_it_is_answered() {
    let mut world = World::following();
    let before = frozen(&mut world, 2_500);
    assert_eq!((world.phase(), world.entry().term), (Phase::Switching, 1));
    assert_eq!(world.entry().outage_since, Some(world.now));
    // What waited in the sockets says that all is well.
    all_is_well(&mut world, before);
    assert_eq!(world.phase(), Phase::Switching);
    world.after(3);
    world.master_says(MASTER, 100, &[CANDIDATE, OTHER]);
    world.answer(0, MASTER, 5);
    world.answer(1, MASTER, 5);
    assert_eq!(world.phase(), Phase::Switching, "one Sentinel is still to answer: it may be the one that promotes");
    world.answer(2, MASTER, 5);
    assert_eq!((world.phase(), world.entry().term, world.entry().outage_since), (Phase::Stable, 1, None));
}

#[test]
fn a_gap_that_hides_no_promotion_costs_nothing() {
    let mut world = World::following();
    frozen(&mut world, 80);
    assert_eq!(world.phase(), Phase::Stable);
}

/// An answer to what was asked before the last of them may be older than the failover. But on a host with little time for
/// us the next gap comes before all answers to the last one.
#[test]
fn behind_gaps_in_a_row_only_answers_of_after_the_last_count_but_not_for_ever() {
    let mut world = World::following();
    let (mut asked, began) = (world.now, world.now + Duration::from_millis(200));
    while world.now <= began + Duration::from_millis(900) {
        frozen(&mut world, 200);
        all_is_well(&mut world, asked);
        assert_eq!((world.phase(), world.entry().outage_since), (Phase::Switching, Some(began)));
        asked = world.now;
    }
    frozen(&mut world, 200);
    frozen(&mut world, 200);
    all_is_well(&mut world, asked);
    assert_eq!(world.phase(), Phase::Stable, "{}", world.tracker.situation.reason());
    frozen(&mut world, 200);
    assert_eq!(world.phase(), Phase::Switching, "the next is a new one");
}

#[test]
fn behind_a_gap_a_majority_of_the_sentinels_does_and_with_none_the_master_with_its_replicas() {
    let mut world = World::following();
    frozen(&mut world, 1_000);
    world.answer(0, MASTER, 5);
    world.answer(2, MASTER, 5);
    world.master_says(MASTER, 100, &[CANDIDATE, OTHER]);
    assert_eq!(world.phase(), Phase::Switching);
    world.after(300);
    world.master_says(MASTER, 100, &[CANDIDATE, OTHER]);
    assert_eq!(world.phase(), Phase::Stable, "the third keeps silent");

    for index in 0..3 {
        world.lose(index);
    }
    frozen(&mut world, 1_000);
    assert_eq!(world.phase(), Phase::Switching);
    world.after(5);
    world.master_says(MASTER, 100, &[CANDIDATE, OTHER]);
    assert_eq!(world.phase(), Phase::Stable);
    frozen(&mut world, 1_000);
    world.master_says(MASTER, 100, &[OTHER]);
    world.after(50);
    assert_eq!(world.phase(), Phase::Switching, "a replica has left: it is asked first");
}

#[test]
fn a_failover_that_a_gap_hid_is_followed() {
    // Sentinel says that it is about it, and was not heard to choose.
    let mut world = World::following();
    frozen(&mut world, 400);
    for index in 0..3 {
        world.answer_with(index, MASTER, 5, |answer| {
            if let Some(claim) = &mut answer.claim {
                claim.failover = index == 0;
            }
        });
    }
    world.master_says(MASTER, 100, &[CANDIDATE, OTHER]);
    world.after(20);
    assert_eq!(world.phase(), Phase::Switching);
    world.master_says(MASTER, 100, &[OTHER]);
    world.promoted_says(CANDIDATE, 101);
    world.answer(1, CANDIDATE, 6);
    world.after(20);
    assert_eq!((world.phase(), world.master().0, world.entry().term), (Phase::Stable, addr(CANDIDATE), 2));
}

#[test]
fn what_a_candidate_said_before_a_gap_moves_nobody() {
    let mut world = World::held();
    let before = frozen(&mut world, 700);
    let info = Info {
        run_id: world.run_ids[CANDIDATE].clone(),
        replid: "history-b".into(),
        replid2: Some("history-a".into()),
        second_offset: Some(101),
        ..Info::default()
    };
    let role = Role::Master { offset: 101, replicas: Vec::new() };
    let stale = NodeAnswer {
        asked: before,
        connection: world.connections[CANDIDATE],
        role,
        info: Some(info),
        info_refused: None,
        login: 0,
    };
    world.handle(Input::Node(addr(CANDIDATE), FromNode::Answer(Box::new(stale))));
    world.after(5);
    world.master_says(MASTER, 100, &[OTHER]);
    world.after(5);
    assert_eq!((world.phase(), world.entry().term), (Phase::Switching, 1));
    world.promoted_says(CANDIDATE, 101);
    world.after(DRAINED);
    assert_eq!((world.phase(), world.entry().term), (Phase::Stable, 2), "asked anew it does");
}
