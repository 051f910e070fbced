//! Planned failovers that meet replicas which stall or freeze, or each other: nothing acknowledged is lost unnoticed, and
//! service goes on.

use std::time::Duration;

use switchmaster::demo::cluster::{ClusterSpec, Member};
use switchmaster::demo::wire::Reply;
use tokio::time::Instant;

use crate::support::figures::turn;
use crate::support::proxy::{spec as spec_of, start_as, verb, view, wait_log, wait_settled};
use crate::support::stage::{LIMIT, Stage, ask, soon};

fn spec() -> ClusterSpec {
    ClusterSpec { partitionable: true, down_after: Duration::from_secs(5), ..ClusterSpec::default() }
}

/// What the replicas are sent stays in the relay.
fn stall(stage: &Stage) {
    stage.cluster.partition(&[Member::Node(0)], &[Member::Node(1), Member::Node(2)]);
}

/// The election lasts some 100 ms: several rounds, until one was hit.
#[tokio::test]
async fn what_is_written_while_sentinel_chooses_is_not_acknowledged_before_the_replicas_have_it() {
    let _turn = turn().await;
    for round in 0..10 {
        let stage = Stage::with(spec(), &[]).await;
        let mut wire = stage.open().await;
        let mut old = stage.cluster.connect(0).await.unwrap();
        stage.caught_up().await;
        stall(&stage);
        // The control: acknowledged before Sentinel began, and on no replica.
        assert_eq!(ask(&mut wire, &["SET", "before", "1"]).await, Reply::Simple("OK".into()));

        stage.cluster.failover(LIMIT).await.unwrap();
        // Without a pause: the election is short.
        let phase = soon(async {
            loop {
                let phase = view(&stage.proxy).await.phase;
                if phase != "stable" {
                    return phase;
                }
            }
        })
        .await;
        let (mut acknowledged, mut sent) = (Vec::new(), 0);
        let end = Instant::now() + Duration::from_secs(3);
        while Instant::now() < end {
            sent += 1;
            let key = format!("during-{sent}");
            if matches!(soon(wire.ask(&["SET", &key, "1"])).await.unwrap(), Reply::Simple(_)) {
                acknowledged.push(key);
            }
        }
        let ran = soon(old.ask(&["KEYS", "during-*"])).await.unwrap().items().len();
        let new = stage.cluster.wait_for_master_change(0, LIMIT).await.unwrap();
        let mut direct = stage.cluster.connect(new).await.unwrap();
        let lost = ask(&mut direct, &["EXISTS", "before"]).await;
        assert_eq!(lost, Reply::Integer(0), "else nothing stalled");
        assert!(!acknowledged.is_empty(), "{}", stage.proxy.log());
        for key in &acknowledged {
            let found = ask(&mut direct, &["EXISTS", key]).await;
            assert_eq!(found, Reply::Integer(1), "{key} of {sent}\n{}", stage.proxy.log());
        }
        println!(
            "round {round}: {phase}; {ran} ran on the old master, {} of {sent} acknowledged, none missing",
            acknowledged.len()
        );
        if ran > 0 {
            return;
        }
    }
    panic!("no write was ever sent during an election");
}

#[tokio::test]
async fn a_failover_that_is_asked_for_waits_for_replicas_that_lag() {
    let stage = Stage::with(spec(), &[]).await;
    let mut wire = stage.open().await;
    stall(&stage);
    assert_eq!(ask(&mut wire, &["SET", "before", "1"]).await, Reply::Simple("OK".into()));
    let refused = verb(&stage.proxy, &["failover"]).await;
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(69), "{told}");
    assert!(told.contains(" bytes behind ") && told.contains("nothing was asked for"), "{told}");
    assert!(told.contains("waiting for the replicas: "), "{told}");
    assert_eq!(stage.cluster.who_is_master().await, Ok(0));
    stage.cluster.heal();
    stage.caught_up().await;
    let done = verb(&stage.proxy, &["failover"]).await;
    assert!(done.status.success(), "{}\n{}", String::from_utf8_lossy(&done.stderr), stage.proxy.log());
    assert_eq!(ask(&mut wire, &["GET", "before"]).await.text(), Some("1"));
}

#[tokio::test]
async fn a_candidate_that_freezes_holds_requests_no_longer_than_the_planned_hold_limit() {
    let spec = ClusterSpec {
        replicas: 1,
        down_after: Duration::from_secs(5),
        failover_timeout: Duration::from_secs(60),
        ..ClusterSpec::default()
    };
    let stage = Stage::with(spec, &[("SWITCHMASTER_PLANNED_HOLD_LIMIT", "2s")]).await;
    let mut wire = stage.open().await;
    stage.cluster.node(1).stop();
    stage.cluster.failover(LIMIT).await.unwrap();
    wait_log(&stage.proxy, &["holding requests", "promotes"]).await;
    // Without the rule: held for 15 s, then refused for the rest of the minute.
    for _ in 0..20 {
        assert_eq!(ask(&mut wire, &["SET", "key", "1"]).await, Reply::Simple("OK".into()));
    }
    wait_log(&stage.proxy, &["WARN", "says nothing of its promotion", "at risk"]).await;
    // It goes on, as a master: held at once, and followed.
    stage.cluster.node(1).cont();
    wait_log(&stage.proxy, &["ERROR", "was promoted after all", "at most"]).await;
    stage.cluster.wait_for_master_change(0, LIMIT).await.unwrap();
    assert_eq!(ask(&mut wire, &["SET", "key", "2"]).await, Reply::Simple("OK".into()));
    assert!(stage.metric("switchmaster_writes_at_risk_total").await > 0.0);
}

#[tokio::test]
async fn of_two_that_ask_at_once_one_is_refused() {
    let stage = Stage::start().await;
    let other = start_as(&spec_of(&stage.cluster)).await;
    wait_settled(&other, &stage.cluster).await;
    let mut wire = stage.open().await;
    let (one, two) = tokio::join!(verb(&stage.proxy, &["failover"]), verb(&other, &["failover"]));
    let codes = [&one, &two].map(|done| done.status.code());
    let told = [&one, &two].map(|done| String::from_utf8_lossy(&done.stderr).into_owned()).concat();
    assert!(codes == [Some(0), Some(69)] || codes == [Some(69), Some(0)], "{codes:?} {told}");
    assert!(told.contains("a failover is under way"), "{told}");
    assert_eq!(ask(&mut wire, &["SET", "key", "1"]).await, Reply::Simple("OK".into()));
    stage.settled().await;
    assert_eq!(stage.metric("switchmaster_failovers_total").await, 1.0, "{}", stage.proxy.log());
}
