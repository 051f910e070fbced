//! A candidate that freezes, or cannot be reached from here, while the old master lives.

use super::*;

impl World {
    /// The leader waits for its candidate; the old master is well, and all name it.
    fn waiting(&mut self, ms: u64) {
        for _ in 0..ms / 100 {
            self.after(100);
            for index in 0..3 {
                let leads = |answer: &mut SentinelAnswer| answer.claim.as_mut().expect("claims").failover = index == 0;
                self.answer_with(index, MASTER, 5, leads);
            }
            self.master_says(MASTER, 200, &[CANDIDATE, OTHER]);
        }
    }

    /// Back at the old master, without a word of the candidate.
    fn abandoning() -> World {
        let mut world = World::held();
        world.waiting(1400);
        assert_eq!(world.phase(), Phase::Switching);
        world.handle(Input::Replies(40));
        world.waiting(300);
        assert_eq!((world.phase(), world.master().0, world.entry().term), (Phase::Stable, addr(MASTER), 1));
        world
    }
}

#[test]
fn a_frozen_candidate_is_waited_for_no_longer_than_the_planned_hold_limit() {
    let mut world = World::abandoning();
    assert!(world.logs.iter().any(|line| line.contains("at risk")), "{:?}", world.logs);
    assert_eq!(world.tracker.history.counters().failovers_aborted, 0, "it is still under way");
    world.waiting(20_000);
    assert_eq!((world.phase(), world.entry().term), (Phase::Stable, 1));
    let watch = world.tracker.nodes(world.now)[&addr(CANDIDATE)];
    assert_eq!((watch.every, watch.trusted), (Duration::from_millis(5), true));
    let warnings = world.tracker.show(world.now).warnings;
    assert!(warnings.iter().any(|warning| warning.contains("begun and not finished")), "{warnings:?}");
}

#[test]
fn a_candidate_that_thaws_into_a_master_is_held_for_at_once() {
    let mut world = World::abandoning();
    world.waiting(5_000);
    world.handle(Input::Replies(47));
    world.promoted_says(CANDIDATE, 101);
    assert_eq!(world.phase(), Phase::Switching);
    assert_eq!(world.tracker.history.counters().writes_at_risk, 7);
    assert!(world.logs.iter().any(|line| line.contains("at most 7 writes")), "{:?}", world.logs);
    world.after(5);
    world.answer(0, CANDIDATE, 6);
    world.promoted_says(CANDIDATE, 101);
    assert_eq!((world.phase(), world.master()), (Phase::Stable, (addr(CANDIDATE), 6, false)), "decided as ever");
    assert!(world.tracker.abandoned.is_none());
}

/// Sentinel's event comes before the node itself is seen as a master.
#[test]
fn what_is_lost_is_counted_whoever_tells_of_the_promotion() {
    let mut world = World::abandoning();
    world.waiting(1_000);
    world.handle(Input::Replies(47));
    world.selected();
    assert_eq!(world.phase(), Phase::Switching);
    world.after(5);
    world.answer(0, CANDIDATE, 6);
    world.promoted_says(CANDIDATE, 101);
    assert_eq!((world.phase(), world.master().0), (Phase::Stable, addr(CANDIDATE)));
    assert_eq!(world.tracker.history.counters().writes_at_risk, 7);
}

#[test]
fn a_candidate_that_thaws_into_a_replica_is_watched_for_a_while() {
    let mut world = World::abandoning();
    world.replica_says(CANDIDATE, true);
    world.waiting(20_000);
    assert!(world.tracker.abandoned.is_some(), "its Sentinel has not given it up");
    for _ in 0..100 {
        world.replica_says(CANDIDATE, true);
        world.quiet(100, MASTER, 5);
        world.master_says(MASTER, 200, &[CANDIDATE, OTHER]);
    }
    assert!(world.tracker.abandoned.is_some());
    for _ in 0..60 {
        world.replica_says(CANDIDATE, true);
        world.quiet(100, MASTER, 5);
        world.master_says(MASTER, 200, &[CANDIDATE, OTHER]);
    }
    assert!(world.tracker.abandoned.is_none());
    assert_eq!((world.phase(), world.entry().term), (Phase::Stable, 1));
}

#[test]
fn what_may_be_the_new_master_is_never_abandoned() {
    // It was seen as a master once.
    let mut world = World::held();
    world.promoted_says(CANDIDATE, 101);
    world.lose(0);
    for _ in 0..25 {
        world.after(100);
        for index in 1..3 {
            let leads = |answer: &mut SentinelAnswer| answer.claim.as_mut().expect("claims").failover = index == 1;
            world.answer_with(index, MASTER, 5, leads);
        }
        world.master_says(MASTER, 200, &[OTHER]);
    }
    assert_eq!(world.phase(), Phase::Switching);
    // A Sentinel names it, and it cannot be reached from here.
    let mut world = World::held();
    world.waiting(1000);
    for _ in 0..20 {
        world.after(100);
        world.answer(0, CANDIDATE, 6);
        world.master_says(MASTER, 200, &[OTHER]);
    }
    assert_eq!(world.phase(), Phase::Switching, "{:?}", world.logs);
    // The old master is silent too.
    let mut world = World::held();
    for _ in 0..20 {
        world.after(100);
        world.all_answer();
    }
    assert_eq!(world.phase(), Phase::Switching);
}

#[test]
fn a_start_behind_a_frozen_candidate_serves_from_the_living_master() {
    let mut world = World::new(settings());
    for index in 0..3 {
        world.connect(index);
        let leads = |answer: &mut SentinelAnswer| answer.claim.as_mut().expect("claims").failover = index == 0;
        world.answer_with(index, MASTER, 5, leads);
    }
    world.replica_says(OTHER, true);
    world.master_says(MASTER, 100, &[CANDIDATE, OTHER]);
    assert_eq!(world.phase(), Phase::Switching);
    world.waiting(2_000);
    assert_eq!((world.phase(), world.master().0), (Phase::Stable, addr(MASTER)), "{:?}", world.logs);
    assert!(world.tracker.nodes(world.now).contains_key(&addr(CANDIDATE)));
    world.promoted_says(CANDIDATE, 101);
    assert_eq!(world.phase(), Phase::Switching);
}
