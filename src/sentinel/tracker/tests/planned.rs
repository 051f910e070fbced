//! A planned failover on an operator's word: one at a time, at the same Sentinel from every host.

use super::*;

impl World {
    /// What became of a failover that was asked for, if that is decided.
    pub(super) fn asked(&mut self) -> Option<Result<Vec<HostPort>, String>> {
        self.asked.take()
    }

    pub(super) fn want(&mut self) {
        assert_eq!(self.tracker.want_failover(self.now, false), Ok(()));
        self.after(1);
    }
}

#[test]
fn the_sentinels_are_asked_by_their_run_ids() {
    let ids = ["zz", "aa", "mm"];
    let renamed = |world: &mut World| {
        for index in 0..3 {
            world.answer_with(index, MASTER, 5, |answer| {
                answer.myid = Some(ids[index].into());
                let peers = (0..3).filter(|peer| *peer != index);
                let peer = |peer: usize| Peer { addr: sentinel(peer), run_id: ids[peer].into(), s_down: false };
                answer.peers = Some(peers.map(peer).collect());
            });
        }
    };
    let mut world = World::new(settings());
    (0..3).for_each(|index| world.connect(index));
    renamed(&mut world);
    world.level();
    renamed(&mut world);
    world.after(1);
    world.want();
    assert_eq!(world.asked(), None, "they are asked first whether one is under way");
    world.after(5);
    renamed(&mut world);
    world.level();
    assert_eq!(world.asked(), Some(Ok(vec![sentinel(1), sentinel(2), sentinel(0)])));
}

#[test]
fn a_second_one_is_refused_until_the_first_has_ended() {
    let mut world = World::following();
    world.want();
    let refused = |world: &mut World| world.tracker.want_failover(world.now, true).expect_err("one at a time");
    assert!(refused(&mut world).contains("another command"));
    world.after(5);
    world.all_answer();
    world.level();
    assert!(matches!(world.asked(), Some(Ok(_))));
    assert!(refused(&mut world).contains("another command"), "it is being asked");
    world.tracker.failover_asked(world.now, true);
    assert!(refused(&mut world).contains("just begun"));
    world.after(100);
    world.selected();
    assert!(refused(&mut world).contains("promotes"));
    world.after(5);
    world.all_answer();
    world.promoted_says(CANDIDATE, 101);
    world.after(DRAINED);
    assert_eq!(world.phase(), Phase::Stable);
    assert!(refused(&mut world).contains("not confirmed"));
    world.answer(1, CANDIDATE, 6);
    world.promoted_says(CANDIDATE, 101);
    assert_eq!(world.tracker.want_failover(world.now, false), Ok(()));
    world.after(5);
    for index in 0..3 {
        let leads = |answer: &mut SentinelAnswer| answer.claim.as_mut().expect("claims").failover = index == 2;
        world.answer_with(index, CANDIDATE, 6, leads);
    }
    let told = world.asked().expect("decided").expect_err("its Sentinel has not ended it");
    assert!(told.contains("Sentinel 10.0.1.2:26379 is carrying it out"), "{told}");
}

#[test]
fn one_that_came_to_nothing_does_not_stand_in_the_way_of_the_next() {
    for given_up in [true, false] {
        let mut world = World::following();
        world.want();
        world.after(5);
        world.all_answer();
        world.level();
        assert!(matches!(world.asked(), Some(Ok(_))));
        world.tracker.failover_asked(world.now, given_up);
        if given_up {
            world.event(0, Kind::Aborted { reason: "no-good-slave".into() }, MASTER, None);
        }
        world.want();
    }
}

#[test]
fn without_a_master_or_a_sentinel_it_says_so() {
    let mut world = World::new(settings());
    world.want();
    let told = world.asked().expect("decided").expect_err("no master");
    assert!(told.contains("no master to move away from: no Sentinel has answered yet"), "{told}");
    let mut world = World::following();
    (0..3).for_each(|index| world.lose(index));
    world.want();
    world.level();
    let told = world.asked().expect("decided").expect_err("no Sentinel");
    assert!(told.contains("no Sentinel is connected"), "{told}");
    let mut world = World::following();
    world.refused(MASTER);
    world.want();
    let told = world.asked().expect("decided").expect_err("no living master");
    assert!(told.contains("--force"), "{told}");
}
