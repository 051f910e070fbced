//! Between `+try-failover` and `+selected-slave`: what every replica that may be chosen has is released, and no more.

use super::*;

impl World {
    fn tried(&mut self) {
        self.event(0, Kind::TryFailover, MASTER, None);
    }

    fn replica_has(&mut self, node: usize, offset: u64) {
        self.node_says(node, Role::Replica { master: Some(addr(MASTER)), link_up: true, offset }, None);
    }

    fn covered(&self) -> (Phase, Option<Instant>) {
        (self.phase(), self.entry().covered_until)
    }
}

#[test]
fn replies_are_released_up_to_what_every_replica_has() {
    let mut world = World::following();
    world.tried();
    assert_eq!(world.covered(), (Phase::Electing, None));
    let nodes = world.tracker.nodes(world.now);
    for node in [MASTER, CANDIDATE, OTHER] {
        assert_eq!(nodes[&addr(node)].every, Duration::from_millis(5));
    }
    world.after(5);
    let first = world.now;
    world.master_says(MASTER, 110, &[CANDIDATE, OTHER]);
    world.replica_has(CANDIDATE, 110);
    assert_eq!(world.covered(), (Phase::Electing, None), "the other one has not answered");
    world.replica_has(OTHER, 110);
    assert_eq!(world.covered(), (Phase::Electing, Some(first)));
    world.after(5);
    let second = world.now;
    world.master_says(MASTER, 150, &[CANDIDATE, OTHER]);
    world.replica_has(CANDIDATE, 160);
    world.replica_has(OTHER, 149);
    assert_eq!(world.covered(), (Phase::Electing, Some(first)), "one of them lacks a byte");
    world.replica_has(OTHER, 150);
    assert_eq!(world.covered(), (Phase::Electing, Some(second)));
    assert_eq!((world.entry().term, world.entry().outage_since), (1, None), "requests flow");
    world.selected();
    assert_eq!(world.covered(), (Phase::Switching, None));
}

#[test]
fn an_election_that_takes_long_or_comes_to_nothing_releases_everything() {
    let mut world = World::following();
    world.tried();
    world.replica_has(OTHER, 1);
    for _ in 0..49 {
        world.after(10);
        world.master_says(MASTER, 200, &[CANDIDATE, OTHER]);
    }
    assert_eq!(world.phase(), Phase::Electing);
    world.after(20);
    assert_eq!(world.covered(), (Phase::Stable, None));
    let mut world = World::following();
    world.tried();
    world.event(1, Kind::Aborted { reason: "not-elected".into() }, MASTER, None);
    assert_eq!(world.phase(), Phase::Electing, "that was another Sentinel");
    world.event(0, Kind::Aborted { reason: "no-good-slave".into() }, MASTER, None);
    assert_eq!(world.phase(), Phase::Stable);
}

#[test]
fn who_cannot_be_chosen_is_not_waited_for() {
    let mut world = World::following();
    world.answer_with(0, MASTER, 5, |_| {});
    for index in 0..3 {
        world.answer_with(index, MASTER, 5, |answer| {
            for replica in answer.replicas.iter_mut().flatten().filter(|replica| replica.addr == addr(OTHER)) {
                (replica.never_promoted, replica.link_up, replica.down) = (index == 0, index != 1, index == 2);
                replica.link_down_for = if index == 1 { Duration::from_millis(10_001) } else { Duration::ZERO };
            }
        });
    }
    world.tried();
    let asked = world.now;
    world.master_says(MASTER, 110, &[CANDIDATE, OTHER]);
    world.replica_has(CANDIDATE, 110);
    assert_eq!(world.covered(), (Phase::Electing, Some(asked)));
    // One that is dead is none either; and when none is left, nothing is withheld.
    world.handle(Input::Node(addr(CANDIDATE), FromNode::Refused("nobody listens".into())));
    assert_eq!(world.phase(), Phase::Stable);
}

#[test]
fn one_that_has_just_lost_its_master_can_be_chosen() {
    let mut world = World::following();
    for index in 0..3 {
        world.answer_with(index, MASTER, 5, |answer| {
            for replica in answer.replicas.iter_mut().flatten().filter(|replica| replica.addr == addr(OTHER)) {
                (replica.link_up, replica.link_down_for) = (false, Duration::from_secs(10));
            }
        });
    }
    let alone = Role::Replica { master: Some(addr(MASTER)), link_up: false, offset: 60 };
    world.master_says(MASTER, 100, &[CANDIDATE]);
    world.node_says(OTHER, alone.clone(), None);
    assert_eq!(world.phase(), Phase::Stable);
    world.tried();
    world.master_says(MASTER, 110, &[CANDIDATE]);
    world.replica_has(CANDIDATE, 110);
    world.node_says(OTHER, alone, None);
    assert_eq!(world.covered(), (Phase::Electing, None), "what it lacks may be lost");
}

#[test]
fn other_failovers_are_no_election() {
    let crash = |world: &mut World| world.event(1, Kind::MasterDown, MASTER, None);
    let tilt = |world: &mut World| world.event(0, Kind::TiltOn, MASTER, None);
    let hold = |world: &mut World| world.handle(Input::Hold { until: world.now + Duration::from_secs(5) });
    let unseen = |world: &mut World| world.node_says(MASTER, Role::Unreadable("-NOPERM".into()), None);
    let befores: [&dyn Fn(&mut World); 4] = [&crash, &tilt, &hold, &unseen];
    for before in befores {
        let mut world = World::following();
        before(&mut world);
        world.tried();
        assert_ne!(world.phase(), Phase::Electing);
    }
    let mut world = World::following();
    world.event(0, Kind::TryFailover, OTHER, None);
    assert_eq!(world.phase(), Phase::Stable, "of another master");
    world.tried();
    world.event(1, Kind::MasterDown, MASTER, None);
    assert_eq!(world.phase(), Phase::Stable, "it is called down after all");
}

#[test]
fn a_failover_that_is_asked_for_waits_for_level_replicas() {
    let mut world = World::following();
    world.after(1);
    world.want();
    world.after(5);
    world.all_answer();
    assert_eq!(world.tracker.nodes(world.now)[&addr(OTHER)].every, Duration::from_millis(20));
    // Always a second behind.
    for step in 0..99_u64 {
        world.after(100);
        world.all_answer();
        world.master_says(MASTER, 10_000 + 100 * step, &[CANDIDATE, OTHER]);
        world.replica_has(CANDIDATE, 10_000 + 100 * step);
        world.replica_has(OTHER, 9_000 + 100 * step);
    }
    assert_eq!(world.asked(), None);
    world.after(100);
    let told = world.asked().expect("decided").expect_err("it lags");
    assert!(told.starts_with("the replica 10.0.0.3:6379 is 1000 bytes behind 10.0.0.1:6379"), "{told}");
    world.want();
    world.after(5);
    world.all_answer();
    world.master_says(MASTER, 20_000, &[CANDIDATE, OTHER]);
    world.after(40);
    world.replica_has(CANDIDATE, 20_000);
    world.replica_has(OTHER, 20_050);
    assert!(matches!(world.asked(), Some(Ok(_))), "what it had a moment ago is enough");
}

#[test]
fn force_does_not_look_at_the_replicas() {
    let mut world = World::following();
    world.after(1);
    assert_eq!(world.tracker.want_failover(world.now, true), Ok(()));
    world.after(5);
    world.all_answer();
    assert!(matches!(world.asked(), Some(Ok(_))));
}
