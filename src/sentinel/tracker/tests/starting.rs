//! Starts in the middle of a failover: the old master is never served from, and what has ended holds nothing up.

use super::*;

impl World {
    /// Nothing is known but what these settings say; all Sentinels are heard and name the master.
    fn starting(settings: Settings, leader: Option<usize>) -> World {
        let mut world = World::new(settings);
        for index in 0..3 {
            world.connect(index);
            world.leads(index, Some(index) == leader);
        }
        world
    }

    fn leads(&mut self, index: usize, leads: bool) {
        self.answer_with(index, MASTER, 5, |answer| answer.claim.as_mut().expect("claims").failover = leads);
    }

    fn served(&self) -> Vec<SocketAddr> {
        let stable = self.entries.iter().filter(|entry| entry.phase == Phase::Stable);
        stable.filter_map(|entry| entry.master.as_ref()).map(|master| master.addr).collect()
    }
}

#[test]
fn a_promotion_that_nobody_has_announced_is_waited_for() {
    for leader_is_heard in [true, false] {
        let mut world = World::starting(settings(), leader_is_heard.then_some(2));
        world.promoted_says(CANDIDATE, 101);
        world.replica_says(OTHER, true);
        world.after(20);
        world.master_says(MASTER, 130, &[OTHER]);
        assert_eq!((world.phase(), world.master().0), (Phase::Switching, addr(MASTER)), "{:?}", world.logs);
        assert!(world.logs.iter().any(|line| line.contains("was promoted from")), "{:?}", world.logs);
        world.after(5);
        for index in 0..3 {
            world.leads(index, leader_is_heard && index == 2);
        }
        world.promoted_says(CANDIDATE, 101);
        world.after(5);
        world.master_says(MASTER, 130, &[OTHER]);
        world.after(DRAINED);
        if !leader_is_heard {
            assert_eq!(world.phase(), Phase::Switching);
            world.answer(1, CANDIDATE, 6);
            world.promoted_says(CANDIDATE, 101);
        }
        assert_eq!((world.phase(), world.master().0), (Phase::Stable, addr(CANDIDATE)), "{:?}", world.logs);
        assert_eq!(world.master().2, leader_is_heard, "early where the leader vouches for it");
        assert_eq!(world.served(), [addr(CANDIDATE)]);
    }
}

#[test]
fn a_failover_whose_candidate_is_not_known_yet_is_joined() {
    let mut world = World::starting(settings(), Some(1));
    world.replicas_say();
    world.master_says(MASTER, 100, &[CANDIDATE, OTHER]);
    assert_eq!(world.phase(), Phase::Switching);
    world.after(50);
    world.leads(1, true);
    world.master_says(MASTER, 100, &[CANDIDATE, OTHER]);
    assert_eq!(world.phase(), Phase::Switching, "it still runs");
    world.promoted_says(CANDIDATE, 101);
    world.after(5);
    for index in 0..3 {
        world.leads(index, index == 1);
    }
    world.promoted_says(CANDIDATE, 101);
    world.after(DRAINED);
    assert_eq!(world.master(), (addr(CANDIDATE), 5, true), "{:?}", world.logs);
    assert_eq!(world.served(), [addr(CANDIDATE)]);
}

#[test]
fn a_failover_that_is_given_up_ends_the_hold_of_the_start() {
    let mut world = World::starting(settings(), Some(1));
    world.replicas_say();
    world.master_says(MASTER, 100, &[CANDIDATE, OTHER]);
    assert_eq!(world.phase(), Phase::Switching);
    world.after(100);
    world.all_answer();
    world.master_says(MASTER, 100, &[CANDIDATE, OTHER]);
    assert_eq!((world.phase(), world.master().0, world.entry().term), (Phase::Stable, addr(MASTER), 1));
}

#[test]
fn what_an_event_told_before_the_first_master_counts() {
    let mut world = World::new(settings());
    world.connect(0);
    world.selected();
    for index in 0..3 {
        world.connect(index);
        world.answer(index, MASTER, 5);
    }
    world.replicas_say();
    world.master_says(MASTER, 100, &[CANDIDATE, OTHER]);
    assert_eq!(world.phase(), Phase::Switching);
    world.event(0, Kind::Aborted { reason: "slave-timeout".into() }, MASTER, None);
    world.after(5);
    world.replica_says(CANDIDATE, true);
    world.master_says(MASTER, 100, &[CANDIDATE, OTHER]);
    assert_eq!(world.served(), [addr(MASTER)]);

    let mut world = World::new(settings());
    world.connect(0);
    world.selected();
    world.event(0, Kind::Aborted { reason: "no-good-slave".into() }, MASTER, None);
    world.begin();
}

#[test]
fn every_replica_has_its_time_to_answer() {
    let mut world = World::starting(settings(), None);
    world.replica_says(CANDIDATE, true);
    world.master_says(MASTER, 100, &[CANDIDATE, OTHER]);
    world.after(900);
    assert!(world.entries.iter().all(|entry| entry.master.is_none()), "the other one may be promoted");
    let asked = world.tracker.nodes(world.now);
    assert!(asked[&addr(OTHER)].trusted && asked.contains_key(&addr(CANDIDATE)), "{asked:?}");
    world.after(200);
    world.master_says(MASTER, 100, &[CANDIDATE, OTHER]);
    assert_eq!((world.phase(), world.master().0), (Phase::Stable, addr(MASTER)));

    for gone in [FromNode::Refused("nobody listens".into()), FromNode::Silent("no route".into())] {
        let mut world = World::starting(settings(), None);
        world.replica_says(CANDIDATE, true);
        world.handle(Input::Node(addr(OTHER), gone));
        world.master_says(MASTER, 100, &[CANDIDATE]);
        assert_eq!(world.phase(), Phase::Stable, "at once");
    }
}

#[test]
fn an_old_master_that_was_not_demoted_yet_holds_nothing_up() {
    let mut world = World::new(settings());
    for index in 0..3 {
        world.connect(index);
        // The leader goes on until the other replicas have followed.
        world.answer_with(index, CANDIDATE, 6, |answer| {
            answer.claim.as_mut().expect("claims").failover = index == 1;
            if index == 1 {
                answer.replicas.as_mut().expect("listed")[0].addr = addr(CANDIDATE);
            }
        });
    }
    world.replica_says(OTHER, true);
    world.master_says(MASTER, 130, &[]);
    world.promoted_says(CANDIDATE, 101);
    assert_eq!((world.phase(), world.master()), (Phase::Stable, (addr(CANDIDATE), 6, false)), "{:?}", world.logs);
}

#[test]
fn an_early_commit_of_an_earlier_run_is_gone_on_with() {
    let remembered = || Settings { floor: Some((addr(MASTER), 5)), candidate: Some(addr(CANDIDATE)), ..settings() };
    // It does not answer: longer than any other replica is waited for.
    let mut world = World::starting(remembered(), None);
    world.replica_says(OTHER, true);
    world.after(1200);
    world.all_answer();
    world.master_says(MASTER, 130, &[OTHER]);
    assert_eq!(world.phase(), Phase::Switching, "{:?}", world.logs);
    world.promoted_says(CANDIDATE, 101);
    world.answer(1, CANDIDATE, 6);
    world.promoted_says(CANDIDATE, 101);
    assert_eq!(world.served(), [addr(CANDIDATE)]);
    // It was undone.
    let mut world = World::starting(remembered(), None);
    world.replicas_say();
    world.master_says(MASTER, 130, &[CANDIDATE, OTHER]);
    assert_eq!((world.phase(), world.master().0), (Phase::Stable, addr(MASTER)), "{:?}", world.logs);
    // The epoch has risen since: whatever it was, it is settled.
    let mut world = World::new(remembered());
    for index in 0..3 {
        world.connect(index);
        world.answer(index, OTHER, 7);
    }
    world.replica_says(MASTER, true);
    world.handle(Input::Node(addr(CANDIDATE), FromNode::Silent("no route".into())));
    world.master_says(OTHER, 130, &[MASTER]);
    assert_eq!(world.served(), [addr(OTHER)]);
}

#[test]
fn an_early_commit_is_remembered_when_it_is_made_and_forgotten_when_it_is_settled() {
    let outputs = |world: &mut World, input| {
        world.tracker.handle(world.now, input);
        let outputs = world.tracker.take().into_iter();
        outputs
            .filter(|output| matches!(output, Output::Remember(_) | Output::RememberCandidate(_)))
            .collect::<Vec<_>>()
    };
    let mut world = World::held();
    world.promoted_says(CANDIDATE, 101);
    world.after(DRAINED - 20);
    world.now += Duration::from_millis(20);
    assert!(matches!(outputs(&mut world, Input::Tick)[..], [Output::RememberCandidate(it)] if it == addr(CANDIDATE)));
    let mut answer = world.tracker.sentinels.get(&sentinel(1)).expect("known").answer.clone().expect("answered");
    answer.asked = world.now;
    let claim = answer.claim.as_mut().expect("claims");
    (claim.addr, claim.epoch) = (addr(CANDIDATE), 6);
    let confirmed = outputs(&mut world, Input::Sentinel(sentinel(1), FromSentinel::Answer(Box::new(answer))));
    assert!(matches!(&confirmed[..], [Output::Remember(master)] if master.addr == addr(CANDIDATE)), "{confirmed:?}");
}
