//! Settings of servers during a restore: what is changed and put back, what it costs where it may not be, and for whom.

use std::fs;
use std::path::Path;

use switchmaster::demo::cluster::{ClusterSpec, until};

use super::verb::{Shelf, ended, json};
use crate::it::stage::{LIMIT, Stage, ask};
use crate::lone::Lone;

const NAMES: [&str; 3] = ["replica-lazy-flush", "repl-diskless-load", "repl-diskless-sync-max-replicas"];

/// Those settings of each node.
async fn settings(stage: &Stage) -> Result<[[String; 3]; 3], String> {
    let mut found = <[[String; 3]; 3]>::default();
    for (node, found) in found.iter_mut().enumerate() {
        for (name, found) in NAMES.iter().zip(found) {
            let reply = stage.cluster.ask_node(node, &["CONFIG", "GET", name]).await;
            *found = reply.map_err(|error| error.to_string())?.field(name).unwrap_or_default().to_owned();
        }
    }
    Ok(found)
}

#[tokio::test]
async fn they_are_other_ones_for_as_long_as_it_takes() {
    let stage = Stage::start().await;
    for number in 0..300 {
        stage.cluster.ask_node(0, &["SET", &format!("old:{number}"), "data"]).await.unwrap();
    }
    stage.caught_up().await;
    for node in 0..3 {
        // The safety backup takes its time.
        stage.cluster.ask_node(node, &["CONFIG", "SET", "rdb-key-save-delay", "10000"]).await.unwrap();
    }
    let shelf = Shelf::of_keys(1000).await.watched_by(&stage);
    // A name will do.
    let proxy = format!("localhost:{}", stage.proxy.admin().port());
    let child = shelf.start(&["restore", "--proxy", &proxy, "--yes", "--json"]);
    let changed = [["yes", "swapdb", "2"], ["yes", "disabled", "1"], ["yes", "disabled", "1"]];
    until("the settings", LIMIT, async || match settings(&stage).await? {
        found if found == changed => Ok(()),
        found => Err(format!("{found:?}")),
    })
    .await
    .unwrap();
    let output = tokio::time::timeout(LIMIT, child.wait_with_output()).await.expect("it ends").unwrap();
    assert_eq!(json(&output)["warnings"], serde_json::json!([]));
    assert!(!ended(&output).1.contains("WARN"), "{}", ended(&output).1);
    assert_eq!(settings(&stage).await.unwrap(), [["no", "disabled", "0"]; 3]);
}

#[tokio::test]
async fn where_there_is_no_room_for_both_it_says_for_how_long_the_master_would_be_silent() {
    let stage = Stage::with(
        ClusterSpec { node_config: vec!["enable-debug-command yes".into()], ..ClusterSpec::with_password("secret") },
        &[],
    )
    .await;
    let mut direct = stage.cluster.connect(0).await.unwrap();
    ask(&mut direct, &["DEBUG", "POPULATE", "300000", "old", "20"]).await;
    // Copied from the master at once, as DEBUG POPULATE is not.
    let shelf = Shelf::of_keys(1000).await.watched_by(&stage);
    let used = ask(&mut direct, &["INFO", "memory"]).await;
    let used = used.text().unwrap().lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap().to_owned();
    ask(&mut direct, &["CONFIG", "SET", "maxmemory", &used]).await;
    let (code, said) = ended(&shelf.run(&["restore"]).await);
    println!("{said}");
    assert_eq!(code, 64, "it asks");
    for part in ["silence", "for about 1 s", "maxmemory", "silent for 1 s", "set replica-lazy-flush yes on it"] {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
    // Somebody has decided that there is room.
    ask(&mut direct, &["CONFIG", "SET", "replica-lazy-flush", "yes"]).await;
    let (_, said) = ended(&shelf.run(&["restore"]).await);
    assert!(!said.contains("silence"), "{said}");
}

/// The permissions that docs/permissions.md names are enough, and without those for settings it goes as well.
#[tokio::test]
async fn the_permissions_in_the_documents_are_enough() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/permissions.md")).unwrap();
    let rules = |begins: &str| {
        let found = page.split('`').find(|words| words.starts_with(begins));
        found.unwrap_or_else(|| panic!("docs/permissions.md names none that begin with {begins}")).to_owned()
    };
    let base = page.lines().find_map(|line| line.strip_prefix("ACL SETUSER switchmaster on >PASSWORD ")).unwrap();
    let rules = format!("{base} {} {}", rules("+psync"), rules("+replicaof"));
    assert!(rules.contains("+config|set"), "{rules}");
    let stage = Stage::with(
        ClusterSpec { acl_user: Some(("keeper".into(), "kept".into(), rules)), ..ClusterSpec::with_password("secret") },
        &[],
    )
    .await;
    stage.cluster.ask_node(0, &["SET", "old", "data"]).await.unwrap();
    stage.caught_up().await;
    let shelf = Shelf::of_keys(1000).await.watched_by(&stage).with_user("keeper", "kept");
    let admin = stage.proxy.admin().to_string();
    let arguments = ["restore", "--proxy", &admin, "--yes", "--json"];
    let output = shelf.run(&arguments).await;
    assert_eq!(json(&output)["warnings"], serde_json::json!([]));
    assert!(!ended(&output).1.contains("WARN"), "{}", ended(&output).1);
    for node in 0..3 {
        let fewer = ["ACL", "SETUSER", "keeper", "-config|get", "-config|set"];
        assert_eq!(stage.cluster.ask_node(node, &fewer).await.unwrap().to_string(), "+OK");
    }
    assert_eq!(json(&shelf.run(&arguments).await)["keys"].as_u64(), Some(1000));
}

#[tokio::test]
async fn clients_that_nobody_holds_and_names_that_mean_nothing_are_told() {
    let shelf = Shelf::of_keys(3).await;
    let to = Lone::start(&[]).await;
    let addr = to.addr.to_string();
    let output = shelf.run(&["restore", "--target", &addr, "--yes"]).await;
    let (code, said) = ended(&output);
    assert!(code == 0 && said.contains("no --proxy is named"), "{code} {said}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("3 keys, 0 replicas follow"), "{output:?}");
    for (proxy, code, part) in [
        ("no-such-host.invalid", 69, "no-such-host.invalid:9379"),
        ("localhost:1", 69, "nobody listens at"),
        ("localhost:x", 64, "a port is a number"),
    ] {
        let (found, said) = ended(&shelf.run(&["restore", "--target", &addr, "--yes", "--proxy", proxy]).await);
        assert!(found == code && said.contains(part), "{proxy}: {found} {said}");
    }
}
