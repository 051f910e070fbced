//! Who is in the set, for lists of every kind.

use std::time::{Duration, Instant};

use super::*;
use crate::sentinel::report::Claim;

/// One Sentinel as the view hands it in.
#[derive(Clone)]
struct One {
    at: HostPort,
    configured: bool,
    run_id: Option<String>,
    answer: Option<SentinelAnswer>,
}

fn at(number: u8) -> HostPort {
    HostPort { host: format!("10.0.1.{number}"), port: 26379 }
}

/// It answers as `id{number}`, names node `master`, and lists `peers`.
fn answering(number: u8, master: u8, peers: &[u8]) -> One {
    let peer = |peer: &u8| Peer { addr: at(*peer), run_id: format!("id{peer}"), s_down: false };
    let answer = SentinelAnswer {
        asked: Instant::now(),
        myid: Some(format!("id{number}")),
        claim: Some(Claim {
            addr: ([10, 0, 0, master], 6379).into(),
            epoch: 5,
            run_id: None,
            s_down: false,
            o_down: false,
            disconnected: false,
            failover: false,
            quorum: 2,
            other_sentinels: peers.len() as u64,
            down_after: Duration::from_secs(1),
            failover_timeout: Duration::from_secs(10),
        }),
        problem: None,
        peers: Some(peers.iter().filter(|peer| **peer != number).map(peer).collect()),
        replicas: None,
        quorum: Some(Ok(())),
    };
    One { at: at(number), configured: true, run_id: Some(format!("id{number}")), answer: Some(answer) }
}

fn silent(number: u8) -> One {
    One { at: at(number), configured: true, run_id: None, answer: None }
}

fn learnt(one: One) -> One {
    One { configured: false, ..one }
}

/// The set of a cluster of three, all configured.
fn three() -> Vec<One> {
    (1..=3).map(|number| answering(number, 1, &[1, 2, 3])).collect()
}

struct Count {
    set: Electorate,
    map: AddressMap,
    remembered: BTreeSet<String>,
}

impl Count {
    fn new() -> Count {
        Count { set: Electorate::default(), map: AddressMap::default(), remembered: BTreeSet::new() }
    }

    fn update(&mut self, all: &[One], settled: bool) -> &Electorate {
        let listed: Vec<Listed> = (all.iter())
            .map(|one| Listed {
                at: &one.at,
                configured: one.configured,
                run_id: one.run_id.as_deref(),
                answer: one.answer.as_ref(),
            })
            .collect();
        self.set.update(&listed, &self.map, settled, &self.remembered);
        &self.set
    }

    fn say(&self) -> Vec<String> {
        self.set.say.iter().map(|at| at.host.trim_start_matches("10.0.1.").to_owned()).collect()
    }
}

#[test]
fn three_that_list_each_other_are_a_set_from_the_second_on() {
    let mut count = Count::new();
    let all = three();
    assert!(!count.update(&[all[0].clone(), silent(2), silent(3)], false).is_established(), "one of three");
    assert!(count.update(&[all[0].clone(), all[1].clone(), silent(3)], false).is_anchored());
    assert_eq!((count.set.known(), count.say()), (3, vec!["1".into(), "2".into()]));
    count.update(&all, true);
    assert_eq!((count.set.known(), count.say().len(), count.set.rivals().len()), (3, 3, 0));
}

#[test]
fn one_that_lists_the_others_is_outside_while_they_do_not_list_it() {
    let mut count = Count::new();
    let rogue = answering(9, 9, &[1, 2, 3]);
    let early = [vec![rogue.clone()], (1..=3).map(silent).collect()].concat();
    assert!(!count.update(&early, false).is_established(), "the honest ones have their chance");
    let all = [vec![rogue], three()].concat();
    assert_eq!(count.update(&all, true).known(), 3);
    assert!(!count.set.has_voice(&at(9)) && !count.set.has_say(&at(9)));
    assert_eq!(count.set.rivals(), [vec![at(9)]]);
}

#[test]
fn five_that_were_made_up_know_each_other_too() {
    let made_up: Vec<One> = (5..=9).map(|number| answering(number, 9, &[5, 6, 7, 8, 9])).collect();
    let made_up: Vec<One> = made_up.into_iter().map(|one| if one.at == at(9) { one } else { learnt(one) }).collect();
    let mut count = Count::new();
    let early = [vec![made_up[4].clone()], (1..=3).map(silent).collect()].concat();
    count.update(&early, true);
    assert!(!count.set.is_established() && count.set.strangers().is_empty(), "one of four configured");
    let all = [made_up, three()].concat();
    assert_eq!((count.update(&all, true).known(), count.say()), (3, vec!["1".into(), "2".into(), "3".into()]));
}

#[test]
fn of_two_clusters_in_one_list_the_majority_of_the_list_counts() {
    let other = answering(6, 9, &[6, 7, 8]);
    let mut count = Count::new();
    count.update(&[answering(1, 1, &[1, 2, 3]), answering(2, 1, &[1, 2, 3]), other.clone()], true);
    assert_eq!((count.set.known(), count.say()), (3, vec!["1".into(), "2".into()]));
    assert_eq!(count.set.strangers().iter().map(|peer| peer.addr.clone()).collect::<Vec<_>>(), [at(3)]);

    let even = [answering(1, 1, &[1, 2, 3]), other];
    let mut count = Count::new();
    assert!(!count.update(&even, true).is_established());
    assert_eq!(count.set.rivals().len(), 2);
    count.remembered = ["id2".into(), "id1".into()].into();
    count.update(&even, true);
    assert!(count.set.is_established() && !count.set.is_anchored(), "the earlier run knew this one");
    assert_eq!((count.set.known(), count.say()), (3, vec!["1".into()]));
    assert!(count.set.strangers().is_empty(), "what is not anchored teaches nothing");
}

#[test]
fn silent_ones_count_for_the_only_set_that_lists_them() {
    let mut count = Count::new();
    let one = [answering(1, 1, &[1, 2, 3]), silent(2), silent(3)];
    assert!(!count.update(&one, false).is_established());
    count.update(&one, true);
    assert!(count.set.holds_configured() && !count.set.is_anchored());
    assert_eq!((count.set.known(), count.say()), (3, vec!["1".into()]));
    let mut count = Count::new();
    let two = [answering(9, 9, &[1, 2, 3]), answering(1, 1, &[1, 2, 3]), silent(2), silent(3)];
    assert!(!count.update(&two, true).is_established(), "claimed by both, they count for none");
}

#[test]
fn silent_ones_are_found_by_mapped_address_and_remembered_run_id() {
    let mut count = Count::new();
    let front = |number: u8| HostPort { host: "127.0.0.1".into(), port: u16::from(number) };
    count.map = AddressMap::new((2..=3).map(|number| (at(number), front(number))).collect());
    let mapped = |number| One { at: front(number), ..silent(number) };
    assert!(count.update(&[answering(1, 1, &[1, 2, 3]), mapped(2), mapped(3)], true).holds_configured());
    let mut count = Count::new();
    let unknown = |number| One { at: front(number), ..silent(number) };
    let one = answering(1, 1, &[1, 2, 3]);
    assert!(!count.update(&[one.clone(), unknown(2), unknown(3)], true).is_established());
    let remembered = |number: u8| One { run_id: Some(format!("id{number}")), ..unknown(number) };
    assert!(count.update(&[one, remembered(2), remembered(3)], true).holds_configured());
}

#[test]
fn one_sentinel_under_two_addresses_counts_once() {
    let mut count = Count::new();
    let again = |master| One { at: at(21), ..answering(1, master, &[1, 2, 3]) };
    count.update(&[three(), vec![again(1)]].concat(), true);
    assert_eq!((count.set.known(), count.say()), (3, vec!["1".into(), "2".into(), "3".into()]));
    assert!(count.set.has_voice(&at(21)));
    count.update(&[three(), vec![again(9)]].concat(), true);
    assert_eq!((count.set.known(), count.say()), (3, vec!["2".into(), "3".into()]), "it contradicts itself");
}

#[test]
fn a_set_goes_on_while_its_sentinels_are_replaced_or_reset() {
    let mut count = Count::new();
    let five = |number| learnt(answering(number, 1, &[1, 2, 3, 4, 5]));
    count.update(&three(), true);
    // Two more, learnt; then the configured ones but one are gone for good.
    let configured = (1..=3).map(|number| One { configured: true, ..five(number) });
    count.update(&configured.chain([five(4), five(5)]).collect::<Vec<_>>(), true);
    assert_eq!(count.set.known(), 5);
    let gone = |number| One { answer: None, run_id: Some(format!("id{number}")), ..silent(number) };
    let left = [One { configured: true, ..five(3) }, five(4), five(5), gone(1), gone(2)];
    assert_eq!(count.update(&left, true).known(), 5);
    let alone = |number| learnt(answering(number, 1, &[3, 4, 5]));
    let left = [One { configured: true, ..alone(3) }, alone(4), alone(5), gone(1), gone(2)];
    assert_eq!((count.update(&left, true).known(), count.say().len()), (3, 3));
    // SENTINEL RESET on all of them: for two seconds nobody knows anybody.
    let empty = |number| learnt(answering(number, 1, &[]));
    let reset = [One { configured: true, ..empty(3) }, empty(4), empty(5), gone(1), gone(2)];
    assert_eq!((count.update(&reset, true).known(), count.say().len()), (3, 3));
    // Most of them fall silent, and another set answers: it does not become ours.
    let others: Vec<One> = (1..=2).map(|number| answering(number + 10, 9, &[11, 12])).collect();
    let taken = [vec![empty(4)], others.clone(), vec![One { at: at(3), ..gone(3) }]].concat();
    count.update(&taken, true);
    assert!(!count.set.has_voice(&at(4)) || count.set.known() == 3);
}

#[test]
fn live_sets_are_not_replaced_by_one_that_lists_their_silent_sentinels() {
    let mut count = Count::new();
    let rogue = answering(9, 9, &[1, 2, 3, 5, 6, 7, 8]);
    count.update(&[three(), vec![rogue.clone()]].concat(), true);
    let gone = |number: u8| One { run_id: Some(format!("id{number}")), ..silent(number) };
    count.update(&[vec![rogue], (1..=3).map(gone).collect()].concat(), true);
    assert_eq!((count.set.known(), count.say().len(), count.set.strangers().len()), (3, 0, 0));
    assert!(!count.set.has_voice(&at(9)));
}

#[test]
fn where_one_may_not_say_the_others_list_suffices() {
    let mute = |number: u8, others| {
        let mut one = answering(number, 1, &[]);
        let answer = one.answer.as_mut().expect("answers");
        answer.peers = None;
        answer.claim.as_mut().expect("claims").other_sentinels = others;
        one
    };
    let mut count = Count::new();
    count.update(&[mute(1, 2), answering(2, 1, &[1, 2, 3]), mute(3, 2)], true);
    assert_eq!((count.set.known(), count.say().len()), (3, 3));
    let mut count = Count::new();
    count.update(&[mute(1, 4), mute(2, 4)], true);
    assert_eq!((count.set.known(), count.say().len()), (5, 2), "they still tell how many there are");
    let mut count = Count::new();
    let strange = |number| {
        let mut one = mute(number, 0);
        one.answer.as_mut().expect("answers").claim = None;
        one
    };
    count.update(&[strange(1), strange(2), answering(3, 1, &[3])], true);
    assert!(!count.set.is_established(), "two that do not monitor the name are no set");
}

#[test]
fn no_sentinel_alone_chooses_the_name() {
    let told = |all: &[(u8, &[&str])]| -> BTreeMap<HostPort, Vec<String>> {
        all.iter().map(|(number, names)| (at(*number), names.iter().map(|&name| name.into()).collect())).collect()
    };
    assert_eq!(name(&told(&[(1, &["m"])]), 1, false), Name::One("m".into()));
    assert_eq!(name(&told(&[(1, &["a", "b"])]), 1, false), Name::Several(vec!["a".into(), "b".into()]));
    assert_eq!(name(&told(&[(9, &["evil"])]), 4, false), Name::Unknown);
    assert_eq!(name(&told(&[(9, &["a", "b"]), (1, &["m"])]), 4, false), Name::Unknown);
    assert_eq!(
        name(&told(&[(9, &["a", "b"]), (1, &["m"]), (2, &["m"]), (3, &["m"])]), 4, false),
        Name::One("m".into())
    );
    assert_eq!(name(&told(&[(1, &["m"])]), 3, true), Name::One("m".into()), "the others are down");
    assert_eq!(name(&told(&[(1, &["m"]), (9, &["evil"])]), 4, true), Name::Unknown);
    assert_eq!(name(&told(&[(1, &[]), (2, &[])]), 2, false), Name::Nothing);
}
