//! Whom we believe: Sentinels that lie, are stale, foreign, doubled or gone, each beside the honest ones.
//!
//! A stranger's node must not even be asked: what is not in [`Tracker::nodes`] gets no byte.

use super::*;
use crate::secret::Secret;
use crate::sentinel::memory::{KnownSentinel, Memory};

/// A Sentinel of nobody's, in the list by mistake or worse.
const ROGUE: usize = 9;

fn stranger() -> SocketAddr {
    SocketAddr::from(([10, 9, 9, 9], 6379))
}

/// What ROGUE says: its own node, at an epoch above all.
fn rogue(answer: &mut SentinelAnswer, peers: &[usize]) {
    let claim = answer.claim.as_mut().expect("claims");
    (claim.addr, claim.epoch, claim.quorum) = (stranger(), 1000, 1);
    claim.other_sentinels = peers.len() as u64;
    let peer = |peer: &usize| Peer { addr: sentinel(*peer), run_id: format!("id{peer}"), s_down: false };
    answer.peers = Some(peers.iter().map(peer).collect());
    answer.replicas = Some(Vec::new());
}

fn with_rogue() -> Settings {
    Settings {
        sentinels: [0, 1, 2, ROGUE].map(sentinel).into(),
        credentials: Some(Credentials { username: None, password: Secret::new("pw") }),
        ..settings()
    }
}

fn alone() -> Settings {
    Settings { sentinels: vec![sentinel(0)], ..settings() }
}

/// The file of an earlier run that followed node 0 at `epoch`.
fn memory(epoch: u64) -> Memory {
    let known = |index| KnownSentinel { addr: sentinel(index).to_string(), run_id: format!("id{index}") };
    Memory {
        name: "mymaster".into(),
        addr: addr(MASTER),
        epoch,
        candidate: None,
        run_id: Some("run0".into()),
        history: vec!["history-a".into()],
        replicas: vec![addr(CANDIDATE), addr(OTHER)],
        family: vec![addr(MASTER), addr(CANDIDATE), addr(OTHER)],
        sentinels: (0..3).map(known).collect(),
    }
}

impl World {
    fn watches(&self, node: SocketAddr) -> bool {
        self.tracker.nodes(self.now).contains_key(&node)
    }

    fn trusted(&self, node: SocketAddr) -> bool {
        self.tracker.nodes(self.now).get(&node).is_some_and(|watch| watch.trusted)
    }

    fn stranger_says(&mut self, replid2: Option<&str>) {
        let info = Info {
            run_id: "rogue".into(),
            replid: "history-x".into(),
            replid2: replid2.map(Into::into),
            second_offset: Some(1),
            ..Info::default()
        };
        let role = Role::Master { offset: 1, replicas: Vec::new() };
        let answer =
            NodeAnswer { asked: self.now, connection: 1, role, info: Some(info), info_refused: None, login: 0 };
        self.handle(Input::Node(stranger(), FromNode::Answer(Box::new(answer))));
    }

    /// The start has looked for a failover under way: the nodes have said what they are, and silent Sentinels had their time.
    fn looked_at(&mut self) {
        self.replicas_say();
        self.after(1100);
        self.master_says(MASTER, 1, &[CANDIDATE, OTHER]);
    }

    fn has_logged(&self, words: &str) -> bool {
        self.logs.iter().any(|line| line.contains(words))
    }
}

#[test]
fn a_rogue_that_answers_first_is_neither_followed_nor_asked() {
    for peers in [&[][..], &[0, 1, 2], &[0, 1, 2, 11, 12, 13, 14]] {
        let mut world = World::new(with_rogue());
        world.connect(ROGUE);
        world.answer_with(ROGUE, MASTER, 5, |answer| rogue(answer, peers));
        world.stranger_says(None);
        for _ in 0..30 {
            world.after(50);
            world.answer_with(ROGUE, MASTER, 5, |answer| rogue(answer, peers));
            assert!(!world.watches(stranger()) && world.tracker.sentinels().count() == 4, "{peers:?}");
        }
        for index in 0..3 {
            world.connect(index);
            world.answer(index, MASTER, 5);
        }
        world.master_says(MASTER, 1, &[CANDIDATE, OTHER]);
        assert_eq!(world.master(), (addr(MASTER), 5, false), "{:?}", world.logs);
        for _ in 0..60 {
            world.quiet(100, MASTER, 5);
            world.master_says(MASTER, 1, &[CANDIDATE, OTHER]);
            world.answer_with(ROGUE, MASTER, 5, |answer| rogue(answer, peers));
            world.event(ROGUE, Kind::Candidate, MASTER, Some(77));
            world.event(ROGUE, Kind::MasterDown, MASTER, None);
            assert!(!world.watches(stranger()) && !world.watches(addr(77)));
        }
        assert_eq!((world.phase(), world.entry().term), (Phase::Stable, 1));
        assert!(world.has_logged("do not know each other"), "{:?}", world.logs);
        let shown = world.tracker.show(world.now);
        assert_eq!((shown.agreement.agreeing, shown.agreement.known), (3, 3));
        assert!(shown.warnings.iter().any(|warning| warning.contains("10.0.1.9")), "{:?}", shown.warnings);
    }
}

/// It took over the address and the run id of one of three, so that the others list it.
#[test]
fn one_of_the_set_that_lies_moves_nobody_and_drowns_nothing() {
    let mut world = World::following();
    let lie = |world: &mut World| world.answer_with(2, MASTER, 5, |answer| rogue(answer, &[0, 1]));
    lie(&mut world);
    world.stranger_says(Some("history-a"));
    world.after(100);
    assert!(!world.watches(stranger()), "one of three names it");
    world.event(2, Kind::Candidate, MASTER, Some(77));
    assert!(!world.trusted(addr(77)));
    let forged = Info {
        run_id: "rogue".into(),
        replid: "x".into(),
        replid2: Some("history-a".into()),
        second_offset: Some(101),
        ..Info::default()
    };
    world.after(5);
    for index in 0..2 {
        world.answer(index, MASTER, 5);
    }
    lie(&mut world);
    let role = Role::Master { offset: 101, replicas: Vec::new() };
    let answer = NodeAnswer { asked: world.now, connection: 1, role, info: Some(forged), info_refused: None, login: 0 };
    world.handle(Input::Node(addr(77), FromNode::Answer(Box::new(answer))));
    world.after(DRAINED);
    assert_eq!(world.master().0, addr(MASTER), "a forged history is not enough");
    // The others fail over: what they say is not drowned by a higher epoch.
    for _ in 0..20 {
        world.after(50);
        world.answer(0, CANDIDATE, 6);
        world.answer(1, CANDIDATE, 6);
        lie(&mut world);
        world.promoted_says(CANDIDATE, 101);
    }
    assert_eq!((world.phase(), world.master()), (Phase::Stable, (addr(CANDIDATE), 6, false)), "{:?}", world.logs);
}

#[test]
fn live_sessions_never_join_another_history() {
    let mut world = World::following();
    for _ in 0..30 {
        world.after(100);
        for index in 0..3 {
            world.answer_with(index, MASTER, 5, |answer| {
                let claim = answer.claim.as_mut().expect("claims");
                (claim.addr, claim.epoch) = (stranger(), 7);
            });
        }
        world.stranger_says(None);
        world.master_says(MASTER, 100, &[CANDIDATE, OTHER]);
    }
    assert_eq!((world.phase(), world.master().0, world.entry().term), (Phase::Switching, addr(MASTER), 1));
    assert!(world.has_logged("of another history") && world.has_logged("restart switchmaster"), "{:?}", world.logs);
    // Failovers that were missed look the same, but for the node: it was a replica of ours.
    let unknown = Info { run_id: "run1".into(), replid: "c".into(), replid2: Some("b".into()), ..Info::default() };
    world.after(100);
    world.answer(0, CANDIDATE, 8);
    world.node_says(CANDIDATE, Role::Master { offset: 1, replicas: vec![] }, Some(unknown.clone()));
    assert_eq!(world.master().0, addr(MASTER), "one Sentinel is not enough");
    world.answer(1, CANDIDATE, 8);
    world.node_says(CANDIDATE, Role::Master { offset: 1, replicas: vec![] }, Some(unknown));
    assert_eq!(world.master(), (addr(CANDIDATE), 8, false), "{:?}", world.logs);
}

#[test]
fn two_clusters_in_one_list_are_told_and_the_smaller_is_not_joined() {
    let foreign = |world: &mut World| world.answer_with(ROGUE, MASTER, 5, |answer| rogue(answer, &[8, 7]));
    let mut world = World::new(Settings { sentinels: [0, 1, ROGUE].map(sentinel).into(), ..settings() });
    world.connect(ROGUE);
    foreign(&mut world);
    world.connect(0);
    world.answer(0, MASTER, 5);
    assert!(world.entries.iter().all(|entry| entry.master.is_none()));
    world.connect(1);
    world.answer(1, MASTER, 5);
    world.looked_at();
    assert_eq!(world.master().0, addr(MASTER));
    assert!(
        world.tracker.sentinels().any(|at| *at == sentinel(2))
            && !world.tracker.sentinels().any(|at| *at == sentinel(8))
    );
    // Ours fall silent: the other set does not take over.
    world.lose(0);
    world.lose(1);
    for _ in 0..100 {
        world.after(100);
        foreign(&mut world);
        world.master_says(MASTER, 1, &[CANDIDATE, OTHER]);
    }
    assert_eq!((world.phase(), world.entry().term, world.watches(stranger())), (Phase::Stable, 1, false));
    assert!(world.has_logged("of another set"));

    // One of each: nobody is followed, unless an earlier run knew which is ours.
    for known in [false, true] {
        let mut world = World::new(Settings { sentinels: [0, ROGUE].map(sentinel).into(), ..settings() });
        if known {
            world.tracker.recall(Some(memory(5)), "FILE".into());
        }
        world.connect(0);
        world.connect(ROGUE);
        for _ in 0..70 {
            world.after(100);
            world.answer(0, MASTER, 5);
            foreign(&mut world);
            world.stranger_says(None);
            world.master_says(MASTER, 1, &[CANDIDATE, OTHER]);
            assert!(!world.watches(stranger()));
        }
        assert_eq!(world.entry().master.is_some(), known, "{:?}", world.logs);
        assert!(world.has_logged("do not know each other"));
    }
}

#[test]
fn a_lone_sentinel_is_enough_though_its_peers_cannot_be_reached() {
    let mut world = World::new(alone());
    world.connect(0);
    world.answer(0, MASTER, 5);
    assert_eq!(world.tracker.sentinels().count(), 3, "its peers are dialled");
    assert!(!world.trusted(addr(MASTER)), "they get a moment");
    world.lose(1);
    world.lose(2);
    assert!(world.trusted(addr(MASTER)));
    world.looked_at();
    assert_eq!(world.master(), (addr(MASTER), 5, false));
    for (what, change) in [
        ("no quorum", (|answer| answer.quorum = Some(Err("NOQUORUM".into()))) as fn(&mut SentinelAnswer)),
        ("down", |answer| answer.claim.as_mut().expect("claims").s_down = true),
    ] {
        let mut world = World::new(alone());
        world.connect(0);
        world.answer_with(0, MASTER, 5, change);
        world.lose(1);
        world.lose(2);
        world.after(2500);
        world.answer_with(0, MASTER, 5, change);
        assert!(!world.watches(addr(MASTER)), "{what}");
        world.master_says(MASTER, 1, &[]);
        assert_eq!(world.entry().master, None, "{what}");
    }
}

#[test]
fn one_of_three_is_believed_when_the_others_had_their_chance_and_it_lists_them() {
    for lists in [true, false] {
        let mut world = World::new(settings());
        let say = |world: &mut World| {
            world.answer_with(0, MASTER, 5, |answer| {
                answer.peers = answer.peers.take().filter(|_| lists).or(Some(Vec::new()))
            });
        };
        world.connect(0);
        say(&mut world);
        for _ in 0..5 {
            world.after(500);
            say(&mut world);
            world.master_says(MASTER, 1, &[]);
        }
        assert_eq!(world.entry().master, None, "the others are still being dialled");
        world.lose(1);
        world.lose(2);
        world.after(1500);
        say(&mut world);
        world.master_says(MASTER, 1, &[]);
        assert_eq!(world.entry().master, None, "and once more");
        world.after(600);
        say(&mut world);
        world.master_says(MASTER, 1, &[]);
        assert_eq!(world.entry().master.is_some(), lists);
        assert!(
            lists || world.tracker.situation.reason().contains("10.0.1.1:26379, 10.0.1.2:26379 do not answer"),
            "{}",
            world.tracker.situation.reason()
        );
    }
}

/// The honest ones are slow: one that lists them does not speak for them meanwhile.
#[test]
fn nobody_speaks_for_sentinels_that_take_connections() {
    let mut world = World::new(settings());
    world.connect(0);
    for index in [1, 2] {
        let lost = FromSentinel::Lost { error: "slow".into(), mute: index == 2 };
        world.handle(Input::Sentinel(sentinel(index), lost));
    }
    for _ in 0..20 {
        world.after(500);
        world.answer(0, MASTER, 5);
        world.master_says(MASTER, 1, &[]);
    }
    assert!(!world.watches(addr(MASTER)), "nor is its node asked");
    assert!(
        world.tracker.situation.reason().contains("10.0.1.2:26379 takes connections"),
        "{}",
        world.tracker.situation.reason()
    );
    world.lose(2);
    world.after(500);
    world.answer(0, MASTER, 5);
    assert!(world.watches(addr(MASTER)), "it is gone for good");
}

#[test]
fn an_earlier_run_vouches_for_a_node_of_its_history() {
    for (history, followed) in [("history-a", true), ("history-x", false)] {
        let mut world = World::new(settings());
        world.tracker.recall(Some(memory(5)), "FILE".into());
        world.lose(1);
        world.lose(2);
        world.connect(0);
        for _ in 0..5 {
            world.after(500);
            world.answer_with(0, MASTER, 5, |answer| {
                answer.peers = Some(Vec::new());
                answer.quorum = None;
            });
            let info = Info { run_id: "run0".into(), replid: history.into(), ..Info::default() };
            world.node_says(MASTER, Role::Master { offset: 1, replicas: vec![] }, Some(info));
        }
        assert_eq!(world.entry().master.is_some(), followed, "{history}: {}", world.tracker.situation.reason());
    }
}

#[test]
fn a_file_of_another_cluster_is_told_and_overruled_at_once() {
    let mut world = World::new(settings());
    let foreign =
        Memory { addr: stranger(), replicas: vec![], family: vec![stranger()], history: vec!["x".into()], ..memory(9) };
    world.tracker.recall(Some(foreign), "FILE".into());
    world.connect(0);
    world.answer(0, MASTER, 5);
    assert_eq!(world.entry().master, None);
    world.connect(1);
    world.answer(1, MASTER, 5);
    world.looked_at();
    assert_eq!(world.master(), (addr(MASTER), 5, false), "{}", world.tracker.situation.reason());
    assert!(
        world.has_logged("FILE remembers the master 10.9.9.9:6379 at epoch 9") && world.has_logged("another history")
    );
    let kept = world.tracker.to_remember("m").expect("followed");
    assert!(!kept.history.contains(&"x".into()) && !kept.family.contains(&stranger()), "{kept:?}");
}

#[test]
fn a_file_with_a_higher_epoch_of_the_same_nodes_is_told_at_once_and_overruled_after_10_s() {
    let mut world = World::new(settings());
    world.tracker.recall(Some(memory(9)), "FILE".into());
    for index in 0..3 {
        world.connect(index);
        world.answer(index, MASTER, 0);
    }
    world.master_says(MASTER, 1, &[CANDIDATE, OTHER]);
    assert!(world.has_logged("FILE remembers") && world.has_logged("for 10 s"), "{:?}", world.logs);
    world.quiet(9000, MASTER, 0);
    assert_eq!(world.entry().master, None);
    world.quiet(1500, MASTER, 0);
    world.master_says(MASTER, 1, &[CANDIDATE, OTHER]);
    assert_eq!(world.master(), (addr(MASTER), 0, false));
}

/// No Sentinel answers; the remembered master does, and these of its replicas.
fn dark(minority: Minority, streaming: &[usize]) -> World {
    let mut world = World::new(Settings { minority, ..settings() });
    world.tracker.recall(Some(memory(5)), "FILE".into());
    for index in 0..3 {
        world.lose(index);
    }
    assert!(!world.watches(addr(MASTER)), "the Sentinels have their chance");
    for _ in 0..10 {
        world.after(250);
        world.master_says(MASTER, 1, &[CANDIDATE, OTHER]);
        streaming.iter().for_each(|node| world.replica_says(*node, true));
    }
    world
}

#[test]
fn without_any_sentinel_the_master_of_an_earlier_run_is_served_if_its_replicas_say_so() {
    for minority in [Minority::Warn, Minority::Stop] {
        let world = dark(minority, &[CANDIDATE, OTHER]);
        assert_eq!(
            (world.phase(), world.master()),
            (Phase::Stable, (addr(MASTER), 5, false)),
            "{}",
            world.tracker.situation.reason()
        );
        assert!(world.has_logged("2 of its 2 replicas stream from it"));
        let mut world = dark(minority, &[CANDIDATE]);
        assert_eq!(world.entry().master, None, "the other one is waited for");
        for _ in 0..10 {
            world.after(250);
            world.master_says(MASTER, 1, &[CANDIDATE, OTHER]);
            world.replica_says(CANDIDATE, true);
        }
        assert_eq!(world.entry().master.is_some(), minority == Minority::Warn, "{}", world.tracker.situation.reason());
        assert!(minority == Minority::Stop || world.has_logged("Another may have been promoted"));
    }
    // One of them is a master too: nobody can tell.
    let mut world = dark(Minority::Warn, &[]);
    for _ in 0..20 {
        world.after(250);
        world.master_says(MASTER, 1, &[OTHER]);
        world.promoted_says(CANDIDATE, 101);
    }
    assert_eq!(world.entry().master, None);
    assert!(world.has_logged("may be the master"));
    // They come back, and say who it is.
    for index in 0..3 {
        world.connect(index);
        world.answer(index, CANDIDATE, 6);
    }
    world.after(1100);
    world.promoted_says(CANDIDATE, 101);
    assert_eq!(world.master(), (addr(CANDIDATE), 6, false));
}

/// They announce addresses that nobody here can dial; configured are others.
#[test]
fn announced_addresses_of_configured_sentinels_are_never_dialled() {
    let announced = |peer: usize| Peer {
        addr: HostPort { host: format!("172.17.0.{peer}"), port: 26379 },
        run_id: format!("id{peer}"),
        s_down: false,
    };
    let mut world = World::new(settings());
    for index in [0, 1, 2] {
        world.connect(index);
        let peers = |answer: &mut SentinelAnswer| {
            answer.peers = Some((0..3).filter(|peer| *peer != index).map(announced).collect());
        };
        world.answer_with(index, MASTER, 5, peers);
        assert_eq!(world.tracker.sentinels().count(), 3, "{:?}", world.tracker.sentinels);
    }
    world.looked_at();
    let shown = world.tracker.show(world.now);
    assert_eq!((shown.agreement.agreeing, shown.agreement.known, shown.sentinels.len()), (3, 3, 3));
}

#[test]
fn a_sentinel_that_went_down_a_moment_ago_costs_a_planned_failover_nothing() {
    for marked in [true, false] {
        let mut world = World::following();
        world.lose(2);
        let say = |world: &mut World| {
            for index in 0..2 {
                world.answer_with(index, MASTER, 5, |answer| {
                    answer.peers.iter_mut().flatten().for_each(|peer| peer.s_down = marked && peer.run_id == "id2");
                });
            }
        };
        say(&mut world);
        world.selected();
        world.after(5);
        say(&mut world);
        world.promoted_says(CANDIDATE, 101);
        world.after(DRAINED);
        let early = world.master() == (addr(CANDIDATE), 5, true);
        assert_eq!(early, marked, "its peers have marked it down, or it may still act: {:?}", world.logs);
    }
}

#[test]
fn what_the_next_run_should_know_is_written_when_it_changes() {
    let mut world = World::following();
    world.quiet(3000, MASTER, 5);
    world.master_says(MASTER, 100, &[CANDIDATE, OTHER]);
    let kept = world.tracker.to_remember("mymaster").expect("a master");
    assert_eq!(kept, Memory { run_id: Some("run0".into()), ..memory(5) });
}

/// `SENTINEL REMOVE` and `MONITOR` on all of them: their epochs begin at 0 again.
#[test]
fn a_table_that_begins_anew_delays_no_failover() {
    let mut world = World::following();
    for _ in 0..105 {
        world.quiet(100, MASTER, 0);
        world.master_says(MASTER, 100, &[CANDIDATE, OTHER]);
    }
    assert_eq!((world.phase(), world.master()), (Phase::Stable, (addr(MASTER), 0, false)));
    world.answer(0, CANDIDATE, 1);
    world.promoted_says(CANDIDATE, 101);
    world.after(1);
    world.promoted_says(CANDIDATE, 101);
    assert_eq!(world.master(), (addr(CANDIDATE), 1, false), "{:?}", world.logs);
}

#[test]
fn a_replica_that_leaves_unseen_by_the_sentinels_is_still_asked_for_by_the_next_run() {
    let mut world = World::following();
    let kept = |world: &World| world.tracker.to_remember("m").expect("a master").replicas;
    world.answer_with(0, MASTER, 5, |_| {});
    world.lose(0);
    world.lose(1);
    world.lose(2);
    for _ in 0..20 {
        world.after(100);
        world.master_says(MASTER, 100, &[OTHER]);
        world.replica_says(CANDIDATE, false);
    }
    assert_eq!((world.phase(), kept(&world)), (Phase::Stable, vec![addr(CANDIDATE), addr(OTHER)]));
    // With them it is known to be gone.
    for index in 0..3 {
        world.connect(index);
        world.answer_with(index, MASTER, 5, |answer| {
            answer.replicas.iter_mut().flatten().for_each(|replica| replica.down = replica.addr == addr(CANDIDATE));
        });
    }
    assert_eq!(kept(&world), [addr(OTHER)]);
}
