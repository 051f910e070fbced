//! Pruning: which moments go with a backup, and the segments that nobody needs any more.

use std::fs;
use std::time::Duration;

use switchmaster::backup::follow::{self, replay::Goal};
use switchmaster::demo::cluster::ClusterSpec;

use super::load::{Counter, all, counters, now_ms};
use super::scene::Scene;

#[tokio::test]
async fn the_moments_that_go_with_a_base_are_told_before_and_after() {
    // What is written while nobody follows is more than a replica remembers: a gap.
    let node_config = vec!["repl-backlog-size 16kb".to_owned()];
    let scene = Scene::start(ClusterSpec { node_config, ..ClusterSpec::default() }).await;
    let follower = scene.follow(&[]);
    scene.based(&follower).await;
    let first = scene.moment(&follower).await;
    follower.terminate().await;
    let counter = Counter::start(&scene.cluster, 0).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (_, count) = counter.stop().await;
    let follower = scene.follow(&[]);
    scene
        .wait(&follower, "a second base", async || match scene.manifests().await.len() {
            2.. => Ok(()),
            found => Err(format!("{found} bases")),
        })
        .await;
    let second = scene.moment(&follower).await;
    scene.in_reach(&follower).await;
    let gap = scene.prepare(&Goal::Time(now_ms() + 60_000)).await.err().unwrap().to_string();
    let (_, ranges) = gap.split_once("moments that can be reached: ").expect(&gap);
    let lost = ranges.split(", ").next().unwrap();
    assert!(lost.contains(" to ") && ranges.matches(" to ").count() == 2, "{gap}");
    follower.terminate().await;

    let before = scene.segments(&scene.store()).await;
    let prune = async |arguments: &[&str]| {
        let ran = scene.command(&["prune", "--keep-last", "1"]).args(arguments).output().await.unwrap();
        let said = String::from_utf8_lossy(&ran.stdout).into_owned();
        assert!(ran.status.success(), "{said}{}", String::from_utf8_lossy(&ran.stderr));
        said
    };
    let said = prune(&["--dry-run"]).await;
    assert!(said.contains(&format!("mymaster: moments that would be lost: {lost}\n")), "{lost} in\n{said}");
    let said = prune(&["--dry-run", "--json"]).await;
    let summary: serde_json::Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    let (begin, end) = lost.split_once(" to ").unwrap();
    assert_eq!(summary["lost_moments"], serde_json::json!({ "mymaster": [[begin, end]] }), "{said}");
    assert_eq!((scene.segments(&scene.store()).await, scene.manifests().await.len()), (before.clone(), 2));

    // A check of all looks at the stream too.
    let verify = async || {
        let ran = scene.command(&["verify", "--all"]).output().await.unwrap();
        (ran.status.code(), String::from_utf8_lossy(&ran.stdout).into_owned())
    };
    let (code, said) = verify().await;
    assert!(code == Some(0) && said.contains(" of the stream of mymaster"), "{said}");
    let segments = follow::segments(&scene.store(), "mymaster").await.unwrap();
    let path = scene.dir.path().join("store").join(follow::shipper::object("mymaster", &segments[0]));
    let whole = fs::read(&path).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    fs::write(&path, flipped).unwrap();
    let (code, said) = verify().await;
    assert!(code == Some(82) && said.contains("DAMAGED") && said.contains("seg.zst"), "{said}");
    fs::write(&path, whole).unwrap();

    // One that is gone from the midst of a stream is a gap, with the moments that cannot be reached any more.
    let stream = |at: usize| (&segments[at].stream, segments[at].name.from);
    let midst =
        (1..segments.len() - 1).rev().find(|&at| stream(at - 1).0 == stream(at).0 && stream(at).0 == stream(at + 1).0);
    let name = &segments[midst.expect("three segments of a stream")].name;
    let path = scene.dir.path().join("store").join(follow::shipper::object("mymaster", &segments[midst.unwrap()]));
    fs::rename(&path, scene.dir.path().join("gone")).unwrap();
    let (code, said) = verify().await;
    let place = format!("the segments from offset {} to {}; moments that cannot be restored: 2", name.from, name.to);
    assert!(code == Some(82) && said.contains("MISSING") && said.contains(&place), "{said}");
    fs::rename(scene.dir.path().join("gone"), &path).unwrap();
    assert_eq!(verify().await.0, Some(0));

    // To what leads from a damaged backup nobody gets anyway.
    let object = &scene.manifests().await[0].object;
    let (data, away) = (scene.dir.path().join("store/mymaster").join(object), scene.dir.path().join("away"));
    fs::rename(&data, &away).unwrap();
    let said = prune(&["--dry-run"]).await;
    assert!(said.contains("damaged") && !said.contains("lost"), "{said}");
    fs::rename(&away, &data).unwrap();

    let said = prune(&[]).await;
    assert!(said.contains(&format!("mymaster: moments that are lost: {lost}\n")), "{lost} in\n{said}");
    let left = scene.segments(&scene.store()).await;
    let stream = &before.last().unwrap().0;
    assert!(left.len() < before.len() && left.iter().all(|(name, _)| name == stream), "{left:?}\n{said}");
    let (gone, plural) = match before.len() - left.len() {
        1 => (1, ""),
        more => (more, "s"),
    };
    assert!(said.contains(&format!("{gone} segment{plural} of the stream deleted")), "{said}");
    let refused = scene.prepare(&Goal::Time(first)).await.err().unwrap().to_string();
    assert!(refused.contains("the oldest backup is of"), "{refused}");
    let follower = scene.follow(&[]);
    let target = scene.restore(&follower, &Goal::Time(second)).await;
    assert_eq!(counters(target.addr).await, all(count));
    // Once more there is nothing to tell.
    let said = prune(&[]).await;
    assert!(!said.contains("lost"), "{said}");
}
