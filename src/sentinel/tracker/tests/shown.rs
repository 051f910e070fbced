//! What people are shown of replicas that are known by host names, and what these prove.

use super::*;
use crate::sentinel::report::NamedReplica;

#[test]
fn replicas_that_are_listed_by_names_have_a_lag_and_a_link() {
    let mut world = World::new(settings());
    for index in 0..3 {
        world.connect(index);
        world.answer(index, MASTER, 5);
    }
    world.replicas_say();
    let named = vec![
        NamedReplica { addr: Some(addr(CANDIDATE)), offset: 90, lag: 1 },
        NamedReplica { addr: None, offset: 100, lag: 0 },
    ];
    let info =
        Info { run_id: world.run_ids[MASTER].clone(), replid: "history-a".into(), keys: 10, named, ..Info::default() };
    world.node_says(MASTER, Role::Master { offset: 100, replicas: Vec::new() }, Some(info));
    assert_eq!(world.phase(), Phase::Stable);
    let shown = world.tracker.show(world.now).replicas;
    let first = shown.iter().find(|replica| replica.addr == addr(CANDIDATE).to_string()).expect("it is shown");
    assert_eq!((first.link.as_str(), first.lag_bytes, first.lag_seconds), ("up", Some(10), Some(1.0)));
    let other = shown.iter().find(|replica| replica.addr == addr(OTHER).to_string()).expect("the Sentinels know it");
    assert_eq!((other.link.as_str(), other.lag_bytes), ("down", None));
    assert!(world.tracker.replicas_acknowledge(), "names acknowledge as addresses do");
}
