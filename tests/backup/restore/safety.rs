//! What a safety backup has: all that was acknowledged before clients were held, or else the restore says what it lacks.

use std::path::Path;

use serde_json::Value;
use switchmaster::demo::wire::{Reply, Wire};

use super::verb::{Shelf, ended, json};
use crate::it::stage::{Stage, ask, soon};
use crate::lone::Lone;

/// What the counter holds in the backup that is restored.
const RESTORED: i64 = 1_000_000;

/// A backup whose counter is far ahead, in front of `stage`.
async fn shelf(stage: &Stage) -> Shelf {
    let from = Lone::start(&[]).await;
    ask(&mut from.open(0).await, &["SET", "counter", &RESTORED.to_string()]).await;
    Shelf::of(super::data::Saved::of(&from.save().await)).watched_by(stage)
}

/// Restores while a client counts through the proxy: what the verb told, and how far the client had come when the data
/// was replaced.
async fn restored_under_load(stage: &Stage, shelf: &Shelf, payload: &str) -> (Value, i64) {
    let mut client = stage.open().await;
    let counting = async {
        let mut last = 0;
        loop {
            match ask(&mut client, &["INCR", "counter"]).await {
                Reply::Integer(number) if number > RESTORED => return last,
                Reply::Integer(number) => last = number,
                other => panic!("{other}"),
            }
            // Answered before the next INCR: only the last one may be of the restored data.
            ask(&mut client, &["SET", "payload", payload]).await;
        }
    };
    let admin = stage.proxy.admin().to_string();
    let restoring = async { json(&shelf.run(&["restore", "--proxy", &admin, "--yes", "--json"]).await) };
    let (told, last) = soon(async { tokio::join!(restoring, counting) }).await;
    println!("{told}\nthe client had counted to {last}");
    (told, last)
}

/// How far the counter is in the safety backup.
async fn counted(shelf: &Shelf, told: &Value) -> i64 {
    let to = Lone::start(&[]).await;
    let (id, addr) = (told["safety_backup"].as_str().unwrap(), to.addr.to_string());
    json(&shelf.run(&["restore", id, "--target", &addr, "--yes", "--json", "--no-safety-backup"]).await);
    let mut wire: Wire = to.open(0).await;
    ask(&mut wire, &["GET", "counter"]).await.text().unwrap().parse().unwrap()
}

/// How many writes the restore says that the safety backup lacks.
fn lacking(told: &Value) -> i64 {
    let warnings = told["warnings"].as_array().unwrap();
    let writes = warnings.iter().find_map(|warning| {
        let (number, rest) = warning.as_str()?.split_once(" write")?;
        rest.contains("came after the snapshot of the safety backup").then(|| number.parse().unwrap())
    });
    writes.unwrap_or(0)
}

fn manifests(folder: &Path) -> usize {
    let files = std::fs::read_dir(folder.join("mymaster")).unwrap();
    files.filter(|file| file.as_ref().unwrap().file_name().to_string_lossy().ends_with("-safety.manifest.json")).count()
}

#[tokio::test]
async fn nothing_is_missing_where_a_backup_takes_a_moment() {
    let stage = Stage::start().await;
    let shelf = shelf(&stage).await;
    let (told, last) = restored_under_load(&stage, &shelf, "x").await;
    // A machine so busy that this backup took longer is told what is missing: then the numbers are these.
    let (counted, lacking) = (counted(&shelf, &told).await, lacking(&told));
    assert!(last > 0 && (lacking == 0 || told["held_seconds"].as_f64() > Some(0.0)));
    assert!(2 * (last - counted) - lacking <= 1, "to {last} was counted, {counted} in the backup, {lacking} lacking");
    assert_eq!(manifests(shelf.folder()), 1, "an earlier one is gone");
}

#[tokio::test]
async fn where_it_takes_longer_every_write_that_is_missing_is_counted() {
    let stage = Stage::start().await;
    let shelf = shelf(&stage).await;
    for node in 0..3 {
        // More than 2 s for what is there.
        stage.cluster.ask_node(node, &["CONFIG", "SET", "rdb-key-save-delay", "4000"]).await.unwrap();
    }
    let mut direct = stage.cluster.connect(0).await.unwrap();
    for number in 0..600 {
        ask(&mut direct, &["SET", &format!("old:{number}"), "x"]).await;
    }
    stage.caught_up().await;
    let (told, last) = restored_under_load(&stage, &shelf, "x").await;
    let (counted, lacking) = (counted(&shelf, &told).await, lacking(&told));
    assert!(lacking > 0, "{told}");
    let missing = 2 * (last - counted);
    assert!((lacking - missing).abs() <= 2, "to {last} was counted, {counted} in the backup, {lacking} lacking");
}

#[tokio::test]
async fn writes_that_the_backlog_has_lost_are_told_by_their_bytes() {
    let stage = Stage::start().await;
    let shelf = shelf(&stage).await;
    for node in 0..3 {
        stage.cluster.ask_node(node, &["CONFIG", "SET", "rdb-key-save-delay", "4000"]).await.unwrap();
        stage.cluster.ask_node(node, &["CONFIG", "SET", "repl-backlog-size", "16384"]).await.unwrap();
    }
    let mut direct = stage.cluster.connect(0).await.unwrap();
    for number in 0..600 {
        ask(&mut direct, &["SET", &format!("old:{number}"), "x"]).await;
    }
    stage.caught_up().await;
    let (told, _) = restored_under_load(&stage, &shelf, &"x".repeat(20_000)).await;
    let warnings = told["warnings"].to_string();
    assert!(warnings.contains("of the replication stream came after the snapshot of the safety backup"), "{warnings}");
}

#[tokio::test]
async fn a_second_restore_is_told_of_the_first_and_a_lone_server_of_no_drop() {
    let from = Lone::start(&[]).await;
    ask(&mut from.open(0).await, &["DEBUG", "POPULATE", "2000", "restored", "20"]).await;
    let shelf = Shelf::of(super::data::Saved::of(&from.save().await));
    let to = Lone::start(&["rdb-key-save-delay 3000000"]).await;
    ask(&mut to.open(0).await, &["SET", "old", "data"]).await;
    let addr = to.addr.to_string();
    let arguments = ["restore", "--target", &addr, "--yes"];
    let first = shelf.start(&arguments);
    switchmaster::demo::cluster::until("the first one's lock", crate::it::stage::LIMIT, async || {
        let lock = std::fs::read_to_string(shelf.folder().join("mymaster/lock/1.json"));
        lock.map_err(|error| error.to_string())
    })
    .await
    .unwrap();
    let (code, said) = ended(&shelf.run(&arguments).await);
    assert!(code == 75 && said.contains(&format!("restores a backup of mymaster to {addr} now")), "{code} {said}");
    let output = soon(first.wait_with_output()).await.unwrap();
    let (code, said) = ended(&output);
    assert_eq!(code, 0, "{said}");
    assert!(!said.contains("less than half"), "the backups before are of another server: {said}");
}
