//! The choice of the source, by its rules: no server is needed to know who is refused, and why.

use super::*;

fn replica(port: u16, lag: u64) -> Node {
    let text = format!(
        "redis_version:7.0.15\r\nrun_id:r{port}\r\nrole:slave\r\nmaster_link_status:up\r\nslave_repl_offset:{}\r\n\
         slave_priority:100\r\nmaster_replid:abc\r\nused_memory:1000\r\ndb0:keys=3,expires=1\r\ndb7:keys=4,expires=0\r\n",
        1000 - lag
    );
    Node::parse(addr(port), &text).expect("a whole INFO")
}

fn master() -> Node {
    let text = "redis_version:7.0.15\r\nrun_id:m\r\nrole:master\r\nmaster_replid:abc\r\nmaster_repl_offset:1000\r\n";
    Node::parse(addr(1), text).expect("a whole INFO")
}

fn addr(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], port))
}

fn topology(replicas: impl IntoIterator<Item = Node>) -> Topology {
    let nodes = std::iter::once(master()).chain(replicas);
    Topology {
        name: "mymaster".into(),
        master: addr(1),
        epoch: 1,
        majority: true,
        failover: false,
        down_after: Duration::from_secs(5),
        failover_timeout: Duration::from_secs(60),
        sentinels: Vec::new(),
        candidates: nodes.map(|node| Candidate { addr: node.addr, node: Ok(node) }).collect(),
    }
}

fn chosen(topology: &Topology, allow_master: bool) -> Result<u16, Vec<Refusal>> {
    choose(topology, allow_master, &BTreeSet::new()).map(|node| node.addr.port())
}

fn refused(topology: &Topology, port: u16) -> (String, bool) {
    let refusals = chosen(topology, false).expect_err("nobody may serve");
    let refusal = refusals.into_iter().find(|refusal| refusal.addr == addr(port)).expect("every node is listed");
    (refusal.reason, refusal.passing)
}

#[test]
fn the_least_lag_wins_and_a_node_that_is_never_promoted_before_it() {
    assert_eq!(chosen(&topology([replica(2, 30), replica(3, 10), replica(4, 20)]), true), Ok(3));
    let never = Node { priority: 0, ..replica(4, 900) };
    assert_eq!(chosen(&topology([replica(2, 30), replica(3, 10), never]), false), Ok(4));
}

#[test]
fn a_node_that_failed_before_comes_last_but_comes() {
    let two = topology([replica(2, 0), replica(3, 10)]);
    let avoid = BTreeSet::from([addr(2)]);
    assert_eq!(choose(&two, true, &avoid).map(|node| node.addr.port()), Ok(3));
    assert_eq!(choose(&topology([replica(2, 0)]), true, &avoid).map(|node| node.addr.port()), Ok(2));
}

#[test]
fn the_master_is_taken_only_when_it_may_be_and_nobody_else_will_do() {
    let unwell = || Node { loading: true, ..replica(2, 0) };
    assert_eq!(chosen(&topology([replica(3, 500)]), true), Ok(3));
    assert_eq!(chosen(&topology([unwell()]), true), Ok(1));
    let (reason, passing) = refused(&topology([unwell()]), 1);
    assert!(reason.contains("--allow-master") && !passing, "{reason}");
}

#[test]
fn every_refusal_says_why() {
    let cases = [
        (Node { loading: true, ..replica(2, 0) }, "loading"),
        (Node { child: Some("save"), ..replica(2, 0) }, "save"),
        (Node { role: InfoRole::Replica { link_up: false }, ..replica(2, 0) }, "link"),
        (Node { role: InfoRole::Master, ..replica(2, 0) }, "Sentinels do not"),
        (Node { replid: "other".into(), ..replica(2, 0) }, "another history"),
    ];
    for (node, word) in cases {
        let (reason, passing) = refused(&topology([node]), 2);
        assert!(reason.contains(word) && passing, "{reason}");
    }
    let mut denied = topology([replica(2, 0)]);
    denied.candidates[1].node = Err(AskError { reason: "refuses AUTH (-WRONGPASS)".into(), denied: true });
    assert!(matches!(refused(&denied, 2), (_, false)), "waiting is of no use");
    let refusals = chosen(&denied, false).expect_err("nobody may serve");
    assert!(matches!(no_source(&denied, &refusals), Error::Unavailable(_)));
    let mut silent = topology([replica(2, 0)]);
    silent.candidates[1].node = Err("cannot be reached: connection refused".into());
    let refusals = chosen(&silent, false).expect_err("nobody may serve");
    assert!(matches!(no_source(&silent, &refusals), Error::NoSource(_)));
    let text = no_source(&silent, &refusals).to_string();
    assert!(
        text.contains("\n  10.0.0.1:2 cannot be reached") && text.contains("\n  10.0.0.1:1 is the master"),
        "{text}"
    );
}

#[test]
fn children_and_sizes_are_read_from_info() {
    let text = "redis_version:7.2.4\r\nvalkey_version:8.0.1\r\nrun_id:r\r\nrole:slave\r\nmaster_replid:abc\r\n\
        rdb_bgsave_in_progress:1\r\nasync_loading:1\r\nused_memory:5\r\nmaxmemory:9\r\ndb0:keys=3,expires=1\r\ndb7:keys=4\r\n";
    let node = Node::parse(addr(2), text).expect("a whole INFO");
    assert_eq!((node.version.as_str(), node.valkey), ("8.0.1", true));
    assert!(node.child.is_some_and(|child| child.contains("save")) && node.loading);
    assert_eq!((node.keys, node.used_memory, node.maxmemory, node.priority), (7, 5, 9, 100));
    assert_eq!(node.role, InfoRole::Replica { link_up: false });
    assert_eq!(Node::parse(addr(2), "role:master\r\n"), None);
}

/// A node that was taken over may say anything.
#[test]
fn numbers_that_cannot_be_end_nothing() {
    let info = "role:master\r\nrun_id:x\r\nredis_version:7\r\nmaster_replid:x\r\nmaster_repl_offset:18446744073709551615\r\n\
                db0:keys=18446744073709551615,expires=0\r\ndb1:keys=18446744073709551615,expires=0\r\n";
    assert_eq!(Node::parse(([127, 0, 0, 1], 6379).into(), info).unwrap().keys, u64::MAX);
}
