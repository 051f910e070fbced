//! A failover that throws away what the followed replica had: none of it is a moment that can be reached.

use std::time::Duration;

use switchmaster::backup::follow::replay::Goal;
use switchmaster::demo::cluster::ClusterSpec;
use switchmaster::wire::Reply;

use super::load::{Counter, all, counters, now_ms};
use super::scene::Scene;
use super::{LIMIT, MASTER, before};

#[tokio::test]
async fn a_moment_whose_writes_were_thrown_away_is_refused() {
    let scene = Scene::start(ClusterSpec::default()).await;
    let follower = scene.follow(&[]);
    scene.based(&follower).await;
    // The other replica is promoted, and the one that is followed has more than that one.
    let followed =
        (1..3).find(|&node| follower.log().contains(&format!("following {}", scene.cluster.node_addr(node))));
    let promoted = 3 - followed.unwrap_or_else(|| panic!("{}", follower.log()));
    scene.cluster.ask_node(promoted, &["CONFIG", "SET", "replica-priority", "1"]).await.unwrap();
    scene
        .wait(&follower, "the Sentinels to know whom to promote", async || {
            for sentinel in 0..scene.cluster.sentinels().len() {
                let known = scene.cluster.ask_sentinel(sentinel, &["SENTINEL", "REPLICAS", MASTER]).await;
                let known = known.map_err(|error| error.to_string())?;
                if !known.items().iter().any(|replica| replica.field("slave-priority") == Some("1")) {
                    return Err(format!("{known}"));
                }
            }
            Ok(())
        })
        .await;
    let counter = Counter::start(&scene.cluster, 0).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (_, count) = counter.stop().await;
    let good = scene.moment(&follower).await;
    // A client that does not hear of the failover, until the old master is a replica.
    let mut old = scene.cluster.connect(0).await.unwrap();
    let lost = tokio::spawn(async move {
        let mut lost = 0;
        while let Ok(Reply::Integer(_)) = old.ask(&["INCR", "counter"]).await {
            lost += 1;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        lost
    });
    scene.cluster.failover(LIMIT).await.unwrap();
    scene
        .wait(&follower, "the new master to take a write", async || {
            let reply = scene.cluster.ask_node(promoted, &["SET", "new", "branch"]).await;
            let reply = reply.map_err(|error| error.to_string())?;
            if reply == Reply::Simple("OK".into()) { Ok(()) } else { Err(reply.to_string()) }
        })
        .await;
    let acknowledged = now_ms();
    println!("{} increments at the old master", lost.await.unwrap());
    follower.says("threw away its last").await;
    scene
        .wait(&follower, "a base of the new stream", async || match scene.manifests().await.len() {
            2.. => Ok(()),
            bases => Err(format!("{bases} bases")),
        })
        .await;
    scene.in_reach(&follower).await;

    let log = follower.log();
    match scene.prepare(&Goal::Time(acknowledged)).await {
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains("threw away what was written then: choose 20"), "{text}\n{log}");
            assert!(text.contains("the first moment of the new stream; moments that can be reached: 20"), "{text}");
            println!("{text}");
            // The first of the two that it names.
            let at = text.split("choose ").nth(1).unwrap().split(' ').next().unwrap();
            let at = Goal::parse(Some(at), None).unwrap().unwrap();
            assert!(matches!(at, Goal::Time(ms) if good <= ms && ms < acknowledged), "{good}, {text}");
            let target = scene.restore(&follower, &at).await;
            assert_eq!(target.open(0).await.ask(&["GET", "new"]).await.unwrap(), Reply::Nil);
        }
        Ok(replay) => assert_ne!(replay.base(), scene.manifests().await[0].id, "{replay}\n{log}"),
    }
    let target = scene.restore(&follower, &Goal::Time(good)).await;
    assert_eq!(counters(target.addr).await, all(count), "{log}");
    // And nobody finds a command that never ran.
    let error = scene.prepare(&before("INCR nothing")).await.err().unwrap().to_string();
    assert!(error.contains("in no segment"), "{error}");
    follower.terminate().await;
    // The word of what was thrown away survives a restart, and is told once.
    let words = || async {
        let segments = scene.segments(&scene.store()).await;
        segments.into_iter().filter(|(_, name)| name.discarded).count()
    };
    assert_eq!(words().await, 1);
    let follower = scene.follow(&[]);
    scene.in_reach(&follower).await;
    follower.terminate().await;
    assert_eq!((words().await, scene.manifests().await.len()), (1, 2));
}
