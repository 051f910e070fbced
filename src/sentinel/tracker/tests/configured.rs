//! Another list of Sentinels while the proxy runs: who stays, who goes, and that nothing else changes.

use super::*;

impl World {
    fn list(&mut self, sentinels: &[usize]) {
        let sentinels = sentinels.iter().copied().map(sentinel).collect();
        self.tracker.adjust(self.now, Settings { sentinels, ..settings() });
        self.handle(Input::Tick);
    }

    fn dialled(&self) -> Vec<HostPort> {
        self.tracker.sentinels().cloned().collect()
    }

    fn agreement(&self) -> (usize, usize) {
        let agreement = self.tracker.show(self.now).agreement;
        (agreement.agreeing, agreement.known)
    }

    /// All answer `rounds` times, the master too.
    fn serve(&mut self, rounds: usize) {
        for _ in 0..rounds {
            self.after(200);
            self.all_answer();
            self.master_says(MASTER, 100, &[CANDIDATE, OTHER]);
        }
    }

    /// Says the same as the others, of a set that does not know it and that it does not know.
    fn foreign(&mut self, index: usize) {
        self.connect(index);
        self.answer_with(index, OTHER, 1000, |answer| answer.peers = Some(Vec::new()));
    }
}

#[test]
fn one_that_its_peers_report_stays_and_nothing_moves() {
    let mut world = World::following();
    let before = world.entries.len();
    for list in [&[0][..], &[1, 2], &[2, 0, 1]] {
        world.list(list);
        assert_eq!(world.dialled(), [0, 1, 2].map(sentinel), "{list:?}");
        assert_eq!(world.agreement(), (3, 3));
        world.serve(5);
        assert_eq!((world.phase(), world.master().0, world.entry().term), (Phase::Stable, addr(MASTER), 1));
    }
    assert_eq!(world.entries.len(), before, "nothing new for the sessions");
}

#[test]
fn one_that_nobody_reports_is_not_dialled_any_more_and_has_no_say() {
    let mut world = World::following();
    world.list(&[0, 1, 2, 9]);
    world.foreign(9);
    assert!(world.dialled().contains(&sentinel(9)));
    world.list(&[0, 1, 2]);
    assert_eq!(world.dialled(), [0, 1, 2].map(sentinel));
    world.foreign(9);
    assert_eq!(world.dialled(), [0, 1, 2].map(sentinel), "what it says late is not heard");
    world.quiet(20_000, MASTER, 5);
    assert_eq!((world.master().0, world.entry().term), (addr(MASTER), 1));
}

#[test]
fn others_of_the_same_set_take_over_and_a_failover_is_followed_by_them() {
    let mut world = World::new(Settings { sentinels: vec![sentinel(0)], ..settings() });
    world.begin();
    world.lose(0);
    world.list(&[1, 2]);
    assert_eq!(world.dialled(), [0, 1, 2].map(sentinel), "its peers report it");
    for _ in 0..10 {
        world.after(200);
        world.answer(1, MASTER, 5);
        world.answer(2, MASTER, 5);
        world.master_says(MASTER, 100, &[CANDIDATE, OTHER]);
    }
    assert_eq!((world.phase(), world.master().0, world.entry().term), (Phase::Stable, addr(MASTER), 1));
    world.event(1, Kind::Candidate, MASTER, Some(CANDIDATE));
    assert_eq!(world.phase(), Phase::Switching);
}

#[test]
fn a_list_that_answers_nothing_leaves_those_of_before() {
    let mut world = World::following();
    world.list(&[7]);
    assert_eq!(world.dialled(), [0, 1, 2, 7].map(sentinel));
    world.handle(Input::Sentinel(sentinel(7), FromSentinel::Lost { error: "nobody there".into(), mute: false }));
    world.serve(100);
    assert_eq!((world.phase(), world.master().0, world.entry().term), (Phase::Stable, addr(MASTER), 1));
    assert_eq!(world.agreement().0, 3);
    world.list(&[0, 1, 2]);
    assert_eq!((world.dialled(), world.agreement()), ([0, 1, 2].map(sentinel).into(), (3, 3)));
}

#[test]
fn those_of_another_set_replace_the_wrong_ones_as_soon_as_they_answer() {
    let mut world = World::new(Settings { sentinels: vec![sentinel(9)], ..settings() });
    world.foreign(9);
    world.list(&[0, 1, 2]);
    assert_eq!(world.dialled(), [0, 1, 2, 9].map(sentinel), "nobody has answered yet");
    world.connect(0);
    world.answer(0, MASTER, 5);
    assert_eq!(world.dialled(), [0, 1, 2].map(sentinel));
    world.begin();
    assert_eq!((world.master().0, world.agreement()), (addr(MASTER), (3, 3)));
}
