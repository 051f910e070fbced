//! The planner's own scenarios. Times are small numbers, in milliseconds.

use super::*;

const A: char = 'a';
const B: char = 'b';

fn id(letter: char) -> String {
    letter.to_string().repeat(40)
}

fn base(name: &str, ms: u64, replid: char, offset: u64) -> Base {
    Base { id: name.into(), ms, replid: id(replid), offset }
}

fn segment(stream: &str, from: u64, to: u64, end_ms: u64, replid: char) -> Stored {
    Stored {
        stream: stream.into(),
        name: Name { from, to, end_ms, replid: id(replid), encrypted: false, discarded: false },
    }
}

/// One stream with two bases, a failover at 300, and a later stream of another history.
fn timeline() -> Timeline {
    let bases = vec![base("second", 2_500, B, 350), base("first", 1_000, A, 150), base("third", 9_000, 'c', 40)];
    let stored = vec![
        segment("s2", 40, 90, 9_900, 'c'),
        segment("s1", 300, 400, 3_000, B),
        segment("s1", 100, 200, 1_500, A),
        segment("s1", 200, 300, 2_000, A),
        segment("s1", 400, 500, 4_000, B),
    ];
    Timeline::new(bases, stored)
}

fn way(plan: Result<Plan, Refusal>) -> (String, Vec<u64>) {
    let plan = plan.unwrap();
    (plan.base.id, plan.segments.iter().map(|segment| segment.name.from).collect())
}

fn marks(list: &[(u64, u64)]) -> impl DoubleEndedIterator<Item = Mark> {
    list.iter().map(|&(offset, ms)| Mark { offset, ms })
}

#[test]
fn what_is_needed_comes_after_a_base_with_what_was_thrown_away() {
    let from = |timeline: &Timeline| timeline.needed().iter().map(|it| it.name.from).collect::<Vec<_>>();
    assert_eq!(from(&timeline()), [100, 200, 300, 400, 40]);
    assert_eq!(from(&timeline().only("second")), [300, 400]);
    let thrown = |stream: &str, from: u64, replid: char| {
        let mut segment = segment(stream, from, from + 50, 0, replid);
        segment.name.discarded = true;
        segment
    };
    let stored = vec![
        segment("s1", 100, 200, 1_500, A),
        segment("s1", 200, 300, 2_000, A),
        segment("s1", 300, 400, 2_500, A),
        thrown("s1", 250, A),
        thrown("s2", 7, B),
    ];
    assert_eq!(from(&Timeline::new(vec![base("first", 1_000, A, 210)], stored)), [250, 200]);
}

#[test]
fn a_moment_is_reached_from_the_newest_base_before_it() {
    let timeline = timeline();
    for (ms, expected, segments) in [
        (1_000, "first", vec![100]),
        (1_499, "first", vec![100]),
        (1_500, "first", vec![100, 200]),
        (2_499, "first", vec![100, 200, 300]),
        (2_500, "second", vec![300]),
        (4_000, "second", vec![300, 400]),
        (9_500, "third", vec![40]),
    ] {
        assert_eq!(way(timeline.to(ms)), (expected.to_owned(), segments), "to {ms}");
    }
}

#[test]
fn moments_that_nothing_leads_to_are_refused_with_the_limits() {
    let timeline = timeline();
    assert_eq!(timeline.to(999), Err(Refusal::TooEarly { oldest: 1_000 }));
    assert_eq!(timeline.to(4_001), Err(Refusal::Gap { before: 4_000, after: 9_000 }));
    assert_eq!(timeline.to(9_901), Err(Refusal::TooLate { last: 9_900 }));
    assert_eq!(timeline.ranges(), Ranges::new(vec![(1_000, 4_000), (9_000, 9_900)]));
    assert_eq!(Timeline::new(vec![], vec![]).to(5), Err(Refusal::NoBase));
    assert!(Timeline::new(vec![], vec![]).ranges().is_empty());
    assert_eq!(
        Refusal::TooEarly { oldest: 1_795_144_440_007 }.to_string(),
        "the oldest backup is of 2026-11-20T03:14:00.007Z"
    );
}

#[test]
fn a_base_of_another_history_is_not_continued() {
    // The same offset, but another replication ID: the tail of a master that was lost.
    let timeline = Timeline::new(vec![base("x", 1_000, B, 150)], vec![segment("s", 100, 200, 1_500, A)]);
    assert_eq!(timeline.to(1_200), Err(Refusal::TooLate { last: 1_000 }));
    assert_eq!(way(timeline.to(1_000)), ("x".to_owned(), vec![]));
    // Taken right at a failover, where the old name's segment ends.
    let ends = Timeline::new(
        vec![base("x", 1_000, B, 200)],
        vec![segment("s", 100, 200, 1_500, A), segment("s", 200, 250, 1_700, B)],
    );
    assert_eq!(way(ends.to(1_600)), ("x".to_owned(), vec![200]));
}

#[test]
fn a_missing_segment_ends_what_can_be_reached() {
    let stored = vec![segment("s", 100, 200, 1_500, A), segment("s", 250, 300, 2_000, A)];
    let timeline = Timeline::new(vec![base("x", 1_000, A, 150)], stored);
    assert_eq!(way(timeline.to(1_400)).1, [100]);
    assert_eq!(timeline.to(1_800), Err(Refusal::TooLate { last: 1_500 }));
}

#[test]
fn a_missing_segment_is_a_hole_with_the_moments_that_it_costs() {
    const STREAM: &str = "19700101T000000Z-aaaaaaaa-100";
    let bases = vec![base("first", 1_000, A, 150), base("second", 2_500, A, 350)];
    let all: Vec<Stored> =
        [(100, 200, 1_500), (200, 300, 2_000), (300, 400, 3_000), (400, 500, 4_000), (500, 600, 5_000)]
            .map(|(from, to, ms)| segment(STREAM, from, to, ms, A))
            .to_vec();
    let holes = |without: &[u64]| {
        let stored = all.iter().filter(|segment| !without.contains(&segment.name.from)).cloned().collect();
        let holes = Timeline::new(bases.clone(), stored).holes();
        holes.into_iter().map(|hole| (hole.from, hole.to, hole.lost)).collect::<Vec<_>>()
    };
    let lost = |begin, end| Ranges::new(vec![(begin, end)]);
    assert_eq!(holes(&[]), []);
    assert_eq!(holes(&[200]), [(200, 300, lost(1_500, 2_500))], "up to the next base");
    assert_eq!(holes(&[400]), [(400, 500, lost(3_000, 5_000))], "no base comes after it");
    assert_eq!(holes(&[100]), [(150, 200, lost(1_000, 2_500))], "the first one, which a base needs");
    let at = |seconds: &str| format!("1970-01-01T00:00:0{seconds}00Z");
    let apart = format!("{} to {}, {} to {}", at("1.5"), at("2.5"), at("2.5"), at("5.0"));
    assert_eq!(holes(&[200, 300])[0].2.to_string(), apart, "a base in the hole reaches itself alone");
    assert_eq!(holes(&[500]), [], "what never came is not missing");
    let told = Timeline::new(bases.clone(), all[..1].iter().chain(&all[2..]).cloned().collect()).holes()[0].to_string();
    let place = format!("{STREAM}: the segments from offset 200 to 300; moments that cannot be restored:");
    assert_eq!(told, format!("{place} {} to {}", at("1.5"), at("2.5")));
    // What prune deletes from the beginning of a stream was needed by nobody.
    let pruned = Timeline::new(vec![base("second", 2_500, A, 350)], all[2..].to_vec());
    assert_eq!(pruned.holes(), []);
}

#[test]
fn segments_that_overlap_are_used_once() {
    let stored = vec![
        segment("s", 100, 200, 1_500, A),
        segment("s", 100, 150, 1_200, A),
        segment("s", 180, 300, 2_000, A),
        segment("s", 150, 200, 1_500, A),
    ];
    let timeline = Timeline::new(vec![base("x", 1_000, A, 110)], stored);
    let plan = timeline.to(2_000).unwrap();
    let places: Vec<_> = plan.segments.iter().map(|segment| (segment.name.from, segment.name.to)).collect();
    assert_eq!(places, [(100, 150), (100, 200), (180, 300)]);
}

#[test]
fn the_stop_is_the_last_mark_that_is_not_after_the_moment() {
    let plan = timeline().to(1_999).unwrap();
    let list = [(240, 1_700), (280, 1_900), (300, 2_000)];
    assert_eq!(plan.stop(1_899, marks(&list)), Mark { offset: 240, ms: 1_700 });
    assert_eq!(plan.stop(1_900, marks(&list)), Mark { offset: 280, ms: 1_900 });
    // Between the end of one segment and the first mark of the next.
    assert_eq!(plan.stop(1_600, marks(&list)), Mark { offset: 200, ms: 1_500 });
    // Never before the base, and the base's own time is then the moment.
    let plan = timeline().to(1_200).unwrap();
    assert_eq!(plan.stop(1_200, marks(&[(140, 1_150)])), Mark { offset: 150, ms: 1_000 });
}

#[test]
fn a_place_is_reached_from_a_base_before_it_in_the_same_run() {
    let timeline = timeline();
    let searched: Vec<u64> = timeline.newest_first().map(|segment| segment.name.from).collect();
    assert_eq!(searched, [40, 400, 300, 200, 100]);
    let within = segment("s1", 300, 400, 3_000, B);
    let plan = timeline.until(&within, 340).unwrap();
    assert_eq!(way(Ok(plan)), ("first".to_owned(), vec![100, 200, 300]));
    let plan = timeline.until(&within, 350).unwrap();
    assert_eq!(way(Ok(plan)), ("second".to_owned(), vec![]));
    assert_eq!(timeline.until(&segment("s1", 100, 200, 1_500, A), 149), None);
    let only = timeline.only("first");
    assert_eq!(way(Ok(only.until(&within, 380).unwrap())), ("first".to_owned(), vec![100, 200, 300]));
}

#[test]
fn segments_go_with_the_last_base_that_needs_them() {
    let useless = |bases: Vec<Base>| {
        let timeline = Timeline { bases, ..timeline() };
        timeline.useless().iter().map(|segment| segment.name.from).collect::<Vec<_>>()
    };
    assert_eq!(useless(timeline().bases), [0; 0]);
    assert_eq!(useless(vec![base("second", 2_500, B, 350), base("third", 9_000, 'c', 40)]), [100, 200]);
    assert_eq!(useless(vec![base("third", 9_000, 'c', 40)]), [100, 200, 300, 400]);
    // The newest run may still get its first base.
    assert_eq!(useless(vec![base("first", 1_000, A, 150)]), [0; 0]);
    assert_eq!(useless(vec![]), [0; 0]);
}

#[test]
fn a_clock_that_is_set_back_hides_no_moment() {
    // At 300 the clock goes back from 10,000 to 7,000. Segments of before stamps were held, and of since then.
    for after in [[7_500, 8_000, 12_000], [10_000, 10_000, 12_000]] {
        let stored = vec![
            segment("s", 100, 200, 6_000, A),
            segment("s", 200, 300, 10_000, A),
            segment("s", 300, 400, after[0], A),
            segment("s", 400, 500, after[1], A),
            segment("s", 500, 600, after[2], A),
        ];
        let bases = vec![base("first", 5_000, A, 150), base("second", 7_600, A, 450)];
        let timeline = Timeline::new(bases.clone(), stored.clone());
        assert_eq!(timeline.ranges(), Ranges::new(vec![(5_000, 12_000)]));
        assert_eq!(way(timeline.to(7_800)), ("first".to_owned(), vec![100, 200]));
        assert_eq!(way(timeline.to(9_999)), ("first".to_owned(), vec![100, 200]));
        // Everything that came before the clock had caught up.
        assert_eq!(way(timeline.to(10_000)), ("second".to_owned(), vec![400, 500]));
        assert_eq!(timeline.last().unwrap().name.from, 500);
        // While it is still behind.
        let timeline = Timeline::new(bases, stored[..4].to_vec());
        assert_eq!(way(timeline.to(8_500)), ("first".to_owned(), vec![100, 200]));
        assert_eq!((timeline.latest(), timeline.last().unwrap().name.from), (10_000, 400));
    }
}

#[test]
fn the_base_of_a_new_stream_is_not_before_the_stream() {
    let stored = vec![
        segment("19700101T000001Z-aaaaaaaa-100", 100, 200, 9_500, A),
        segment("19700101T000010Z-bbbbbbbb-40", 40, 90, 9_500, B),
    ];
    let timeline = Timeline::new(vec![base("first", 1_200, A, 150), base("second", 7_000, B, 60)], stored);
    assert_eq!(way(timeline.to(8_000)).0, "first");
    assert_eq!(timeline.ranges(), Ranges::new(vec![(1_200, 9_500), (10_000, 10_000)]));
    assert_eq!(timeline.last().unwrap().name.from, 40);
}

#[test]
fn what_a_failover_threw_away_leads_nowhere() {
    let thrown = |end_ms| {
        let mut word = segment("s1", 250, 400, end_ms, A);
        word.name.discarded = true;
        word
    };
    let stored = |end_ms| {
        vec![
            segment("s1", 100, 200, 1_500, A),
            segment("s1", 200, 300, 2_500, A),
            segment("s1", 300, 400, 3_500, A),
            thrown(end_ms),
        ]
    };
    let bases = vec![base("first", 1_000, A, 150), base("lost", 2_600, A, 320)];
    let timeline = Timeline::new(bases.clone(), stored(2_000));
    let plan = timeline.to(2_000).unwrap();
    // Also where a clock that stands still gave the same moment to what came next.
    let same = [(240, 2_000), (260, 2_000), (300, 2_500)];
    assert_eq!(plan.stop(2_000, marks(&same)), Mark { offset: 240, ms: 2_000 });
    assert_eq!(way(Ok(plan)), ("first".to_owned(), vec![100, 200]));
    assert_eq!(timeline.to(2_001), Err(Refusal::Discarded { before: 2_000, after: None }));
    let searched: Vec<(u64, u64)> =
        timeline.newest_first().map(|stored| (stored.name.from, timeline.survives(&stored))).collect();
    assert_eq!(searched, [(200, 250), (100, 250)]);
    // The follower goes on from what it has, and hears again that it was thrown away.
    assert_eq!(timeline.last().unwrap().name.to, 400);
    // A follower that was started later does not know when: up to the last segment that is sure to be whole.
    let mut all = stored(0);
    all.push(segment("s2", 700, 800, 6_000, B));
    let bases = [&bases[..], &[base("new", 5_000, B, 710)]].concat();
    let timeline = Timeline::new(bases, all.clone());
    assert_eq!(timeline.ranges(), Ranges::new(vec![(1_000, 1_500), (5_000, 6_000)]));
    let refused = timeline.to(3_000).unwrap_err();
    assert_eq!(refused, Refusal::Discarded { before: 1_500, after: Some(5_000) });
    assert_eq!(
        refused.to_string(),
        "the failover right after 1970-01-01T00:00:01.500Z threw away what was written then: choose \
         1970-01-01T00:00:01.500Z or 1970-01-01T00:00:05.000Z, the first moment of the new stream"
    );
    // The word goes with the last segment.
    let useless = Timeline::new(vec![base("new", 5_000, B, 710)], all.clone()).useless();
    assert_eq!((useless.len(), useless.contains(&thrown(0))), (4, true));
    let left = Timeline::new(vec![base("new", 5_000, B, 710)], all.split_off(3));
    assert_eq!(left.useless(), [thrown(0)]);
}
