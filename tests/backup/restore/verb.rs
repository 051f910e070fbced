//! The verbs as they are used: what they ask, what they say, how they end; and what is left when they are killed.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use switchmaster::demo::cluster::{ClusterSpec, until};
use switchmaster::demo::wire::Reply;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::data::{Saved, assert_same};
use crate::it::proxy::{self, ADMIN_TOKEN};
use crate::it::stage::{LIMIT, Stage, ask};
use crate::lone::Lone;
use crate::zoo;

/// A backup in a folder, and somebody who restores from it.
pub struct Shelf {
    saved: Saved,
    dir: TempDir,
    environment: Vec<(&'static str, String)>,
}

impl Shelf {
    /// With a backup of every type.
    pub async fn full() -> (Shelf, super::data::Contents) {
        let from = Lone::start(&[]).await;
        zoo::fill(from.addr, None).await.unwrap();
        let contents = zoo::contents(from.addr, None).await.unwrap();
        (Shelf::of(Saved::of(&from.save().await)), contents)
    }

    /// With a backup of many small keys.
    pub async fn of_keys(count: usize) -> Shelf {
        let from = Lone::start(&[]).await;
        ask(&mut from.open(0).await, &["DEBUG", "POPULATE", &count.to_string(), "restored", "20"]).await;
        Shelf::of(Saved::of(&from.save().await))
    }

    pub fn of(saved: Saved) -> Shelf {
        let dir = tempfile::tempdir().unwrap();
        let store = saved.shelve(dir.path());
        // A port that nobody can listen at: there is no Sentinel.
        let sentinels = "127.0.0.1:1".to_owned();
        let environment = vec![("SWITCHMASTER_BACKUP_STORE", store), ("SWITCHMASTER_SENTINELS", sentinels)];
        Shelf { saved, dir, environment }
    }

    pub fn watched_by(mut self, stage: &Stage) -> Shelf {
        let sentinels: Vec<String> = stage.cluster.sentinel_addrs().iter().map(ToString::to_string).collect();
        self.environment.retain(|(name, _)| *name != "SWITCHMASTER_SENTINELS");
        self.environment.push(("SWITCHMASTER_SENTINELS", sentinels.join(",")));
        self.environment.push(("SWITCHMASTER_REDIS_PASSWORD", "secret".into()));
        self.environment.push(("SWITCHMASTER_ADMIN_TOKEN", ADMIN_TOKEN.into()));
        self
    }

    /// As a user of the ACL.
    pub fn with_user(mut self, name: &str, password: &str) -> Shelf {
        self.environment.retain(|(name, _)| *name != "SWITCHMASTER_REDIS_PASSWORD");
        self.environment.push(("SWITCHMASTER_REDIS_USERNAME", name.into()));
        self.environment.push(("SWITCHMASTER_REDIS_PASSWORD", password.into()));
        self
    }

    /// Where the backups lie.
    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    fn object(&self) -> std::path::PathBuf {
        self.dir.path().join("mymaster").join(&self.saved.manifest.object)
    }

    pub fn start(&self, arguments: &[&str]) -> Child {
        Command::new(env!("CARGO_BIN_EXE_switchmaster"))
            .arg("backup")
            .args(arguments)
            .env_clear()
            .envs(["PATH", "REDIS_SERVER"].iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    }

    pub async fn run(&self, arguments: &[&str]) -> Output {
        let child = self.start(arguments);
        tokio::time::timeout(LIMIT, child.wait_with_output()).await.expect("it ends").unwrap()
    }
}

/// Its exit code and what it said on standard error.
pub fn ended(output: &Output) -> (i32, String) {
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
}

pub fn json(output: &Output) -> Value {
    assert_eq!(ended(output).0, 0, "{}", ended(output).1);
    serde_json::from_slice(&output.stdout).unwrap()
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_raw(child.id().unwrap() as i32).unwrap(), signal).unwrap();
}

/// Waits until the server whose log this is loads what it was served.
async fn loading(log: &Path) {
    until("the loading", LIMIT, async || {
        let log = std::fs::read_to_string(log).unwrap();
        if log.contains("Loading DB in memory") { Ok(()) } else { Err(log) }
    })
    .await
    .unwrap();
}

/// What is overwritten is no less secret than what is restored.
#[tokio::test]
async fn the_safety_backup_is_encrypted_as_the_restored_one_is() {
    let (from, to) = (Lone::start(&[]).await, Lone::start(&[]).await);
    let identity = age::x25519::Identity::generate();
    let shelf = Shelf::of(Saved::encrypted(&from.save().await, &[identity.to_public().to_string()]));
    let key = shelf.folder().join("identity.txt");
    std::fs::write(&key, age::secrecy::ExposeSecret::expose_secret(&identity.to_string())).unwrap();
    let mut wire = to.open(0).await;
    ask(&mut wire, &["SET", "old", "data"]).await;
    let (addr, key) = (to.addr.to_string(), key.to_str().unwrap());
    let told = json(&shelf.run(&["restore", "--target", &addr, "--identity", key, "--yes", "--json"]).await);
    let safety = told["safety_backup"].as_str().unwrap();
    assert!(shelf.folder().join(format!("mymaster/{safety}.rdb.zst.age")).exists(), "{told}");
    let back = ["restore", safety, "--target", &addr, "--identity", key, "--yes", "--json", "--no-safety-backup"];
    json(&shelf.run(&back).await);
    assert_eq!(ask(&mut wire, &["GET", "old"]).await, Reply::Bulk(b"data".to_vec()));
}

#[tokio::test]
async fn it_asks_first_and_changes_nothing_unless_it_is_told_to() {
    let (shelf, expected) = Shelf::full().await;
    let to = Lone::start(&[]).await;
    let mut wire = to.open(0).await;
    ask(&mut wire, &["SET", "old", "data"]).await;
    let addr = to.addr.to_string();

    let (code, said) = ended(&shelf.run(&["restore", "--target", &addr]).await);
    assert_eq!(code, 64);
    for part in [&addr, "which no Sentinel monitors", "db0: 1 key\n", &shelf.saved.manifest.id, "--yes"] {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
    // Another one would do: what is there now can be had back.
    let told = json(&shelf.run(&["restore", "--target", &addr, "--yes", "--json"]).await);
    let safety = told["safety_backup"].as_str().unwrap().to_owned();
    assert!(ask(&mut wire, &["EXISTS", "old"]).await == Reply::Integer(0) && safety.ends_with("-safety"), "{told}");
    json(&shelf.run(&["restore", &safety, "--target", &addr, "--yes", "--json", "--no-safety-backup"]).await);
    assert_eq!(ask(&mut wire, &["DBSIZE"]).await, Reply::Integer(1));

    // Damaged in the store: refused before the target is touched.
    let good = std::fs::read(shelf.object()).unwrap();
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    std::fs::write(shelf.object(), &bad).unwrap();
    let arguments = ["restore", "--target", &addr, "--yes", "--no-safety-backup", "--json"];
    let (code, said) = ended(&shelf.run(&arguments).await);
    assert_eq!(code, 82, "{said}");
    assert_eq!(ask(&mut wire, &["GET", "old"]).await, Reply::Bulk(b"data".to_vec()));
    std::fs::write(shelf.object(), &good).unwrap();

    let told = json(&shelf.run(&arguments).await);
    assert_eq!((&told["outcome"], &told["target"]), (&"restored".into(), &addr.as_str().into()));
    assert_eq!(told["keys"].as_u64(), Some(expected.len() as u64));
    assert_same(&zoo::contents(to.addr, None).await.unwrap(), &expected, &[]);
}

#[tokio::test]
async fn function_libraries_alone_are_worth_a_safety_backup() {
    let (shelf, _) = Shelf::full().await;
    let to = Lone::start(&[]).await;
    let library = "#!lua name=mine\nredis.register_function('f', function() return 1 end)";
    assert_eq!(ask(&mut to.open(0).await, &["FUNCTION", "LOAD", library]).await.text(), Some("mine"));
    let told = json(&shelf.run(&["restore", "latest", "--target", &to.addr.to_string(), "--yes", "--json"]).await);
    assert!(told["safety_backup"].is_string(), "{told}");
}

#[tokio::test]
async fn keys_are_restored_beside_what_is_there() {
    let (shelf, _) = Shelf::full().await;
    let to = Lone::start(&[]).await;
    let mut wire = to.open(0).await;
    ask(&mut wire, &["SET", "string:short", "mine"]).await;
    let addr = to.addr.to_string();
    let arguments = ["restore", "--keys", "--match", "string:*", "--db", "0", "--target", &addr, "--json"];
    let (code, said) = ended(&shelf.run(&arguments).await);
    assert!(code == 64 && said.contains("string:*") && said.contains("leaves those that exist"), "{said}");
    let told = json(&shelf.run(&[&arguments[..], &["--yes"]].concat()).await);
    assert_eq!((told["existing"].as_u64(), told["failed"].as_u64()), (Some(1), Some(0)), "{told}");
    assert!(told["restored"].as_u64() > Some(10), "{told}");
    assert_eq!(ask(&mut wire, &["GET", "string:short"]).await, Reply::Bulk(b"mine".to_vec()));
    // What is not there was meant otherwise.
    let none = ["restore", "--keys", "--match", "no-such-*", "--db", "3", "--target", &addr, "--yes"];
    let (code, said) = ended(&shelf.run(&none).await);
    assert_eq!(code, 85, "{said}");
    assert!(said.contains("no key in database 3 that matches \"no-such-*\"") && said.contains("nothing was"), "{said}");
    let told = json(&shelf.run(&[&arguments[..], &["--yes", "--replace"]].concat()).await);
    assert_eq!(told["existing"].as_u64(), Some(0), "{told}");
    assert_eq!(ask(&mut wire, &["GET", "string:short"]).await, Reply::Bulk(b"value".to_vec()));
}

#[tokio::test]
async fn a_drill_marks_what_a_server_could_load() {
    let (shelf, _) = Shelf::full().await;
    let told = json(&shelf.run(&["verify", "--drill", "--json"]).await);
    assert_eq!((&told["sound"], &told["drill"]), (&true.into(), &true.into()));
    let mut wrong = Shelf::of(shelf.saved);
    wrong.saved.manifest.counts.databases.get_mut(&9).unwrap().keys += 1;
    wrong.saved.shelve(wrong.dir.path());
    let (code, said) = ended(&wrong.run(&["verify", "--drill"]).await);
    assert_eq!(code, 82, "{said}");
}

#[tokio::test]
async fn a_signal_ends_it_with_a_master_again() {
    let shelf = Shelf::of_keys(4000).await;
    let to = Lone::start(&["key-load-delay 500"]).await;
    let addr = to.addr.to_string();
    let child = shelf.start(&["restore", "--target", &addr, "--yes", "--no-safety-backup"]);
    loading(&to.log()).await;
    signal(&child, Signal::TERM);
    let output = tokio::time::timeout(LIMIT, child.wait_with_output()).await.expect("it ends").unwrap();
    let (code, said) = ended(&output);
    println!("{said}");
    assert_eq!(code, 86);
    for part in ["interrupted", "a master again", "no safety backup"] {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
    let role = ask(&mut to.open(0).await, &["ROLE"]).await;
    assert_eq!(role.items()[0].text(), Some("master"));
}

#[tokio::test]
async fn one_that_is_given_up_before_it_is_whole_leaves_what_was_there() {
    // More than the sockets between the two hold, slowly loaded.
    let from = Lone::start(&["rdbcompression no"]).await;
    ask(&mut from.open(0).await, &["DEBUG", "POPULATE", "4000", "restored", "20000"]).await;
    let shelf = Shelf::of(Saved::of(&from.save().await));
    let to = Lone::start(&["key-load-delay 2000"]).await;
    let mut wire = to.open(0).await;
    ask(&mut wire, &["SET", "old", "data"]).await;
    let child = shelf.start(&["restore", "--target", &to.addr.to_string(), "--yes"]);
    loading(&to.log()).await;
    signal(&child, Signal::TERM);
    let output = tokio::time::timeout(LIMIT, child.wait_with_output()).await.expect("it ends").unwrap();
    let (code, said) = ended(&output);
    println!("{said}");
    assert_eq!(code, 86);
    for part in ["interrupted", "a master again, with the data that it had (1 key)", "is not needed"] {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
    assert!(!said.contains("switchmaster backup restore"), "there is nothing to go back to: {said}");
    assert_eq!(ask(&mut wire, &["GET", "old"]).await, Reply::Bulk(b"data".to_vec()));
}

/// As behind NAT, or with `bind-source-addr`.
#[tokio::test]
async fn a_node_may_connect_from_another_address_than_the_one_it_is_known_by() {
    let shelf = Shelf::of_keys(100).await;
    let to = Lone::start(&["bind-source-addr 127.0.0.12"]).await;
    let told = json(&shelf.run(&["restore", "--target", &to.addr.to_string(), "--yes", "--json"]).await);
    assert_eq!(told["keys"].as_u64(), Some(100), "{told}");
    assert_eq!(ask(&mut to.open(0).await, &["DBSIZE"]).await, Reply::Integer(100));
}

/// What a killed one left is put right by the next one.
#[tokio::test]
async fn one_that_was_killed_is_undone_by_the_next() {
    const SETTINGS: [(&str, &str); 3] =
        [("replica-lazy-flush", "no"), ("repl-diskless-load", "disabled"), ("repl-diskless-sync-max-replicas", "0")];
    let from = Lone::start(&["rdbcompression no"]).await;
    ask(&mut from.open(0).await, &["DEBUG", "POPULATE", "2000", "restored", "20000"]).await;
    let shelf = Shelf::of(Saved::of(&from.save().await));
    let to = Lone::start(&["key-load-delay 5000"]).await;
    let mut wire = to.open(0).await;
    ask(&mut wire, &["SET", "old", "data"]).await;
    let (addr, settings) = (to.addr.to_string(), async || {
        let mut found = Vec::new();
        for (name, _) in SETTINGS {
            let reply = ask(&mut to.open(0).await, &["CONFIG", "GET", name]).await;
            found.push(reply.field(name).unwrap_or_default().to_owned());
        }
        found
    });
    let mut child = shelf.start(&["restore", "--target", &addr, "--yes"]);
    loading(&to.log()).await;
    // Two at once are none: the second is refused.
    let (code, said) = ended(&shelf.run(&["restore", "--target", &addr, "--yes"]).await);
    assert!(code == 75 && said.contains(&format!("restores a backup of mymaster to {addr} now")), "{code} {said}");
    child.kill().await.unwrap();
    until("the target to notice", LIMIT, async || match to.open(0).await.ask(&["SET", "x", "1"]).await.unwrap() {
        Reply::Error(text) if text.starts_with("READONLY") => Ok(()),
        other => Err(other.to_string()),
    })
    .await
    .unwrap();
    assert_ne!(settings().await, SETTINGS.map(|(_, value)| value));
    ask(&mut to.open(0).await, &["CONFIG", "SET", "key-load-delay", "0"]).await;

    // It asks, and changes nothing unless it is told to.
    let (code, said) = ended(&shelf.run(&["restore", "--target", &addr]).await);
    assert!(code == 64 && said.contains("was killed") && said.contains("--yes"), "{code} {said}");
    assert_ne!(settings().await, SETTINGS.map(|(_, value)| value));
    let output = shelf.run(&["restore", "--target", &addr, "--yes", "--json"]).await;
    assert_eq!(json(&output)["keys"].as_u64(), Some(2000));
    let (_, said) = ended(&output);
    for part in ["was killed", "a master again, with the data that it had (1 key)"] {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
    assert_eq!(settings().await, SETTINGS.map(|(_, value)| value));
    let notes = shelf.folder().join("mymaster/restore");
    assert_eq!(std::fs::read_dir(notes).unwrap().count(), 0, "nothing is left to be told");
    let (_, said) = ended(&shelf.run(&["restore", "--target", &addr, "--yes"]).await);
    assert!(!said.contains("killed"), "{said}");
}

#[tokio::test]
async fn clients_flow_again_when_it_is_killed_in_the_middle() {
    let stage = Stage::with(ClusterSpec::with_password("secret"), &[]).await;
    stage.cluster.ask_node(0, &["SET", "old", "data"]).await.unwrap();
    stage.caught_up().await;
    let shelf = Shelf::of_keys(20_000).await.watched_by(&stage);
    stage.cluster.ask_node(0, &["CONFIG", "SET", "key-load-delay", "40"]).await.unwrap();
    let proxy = stage.proxy.admin().to_string();
    let child = shelf.start(&["restore", "--proxy", &proxy, "--yes", "--no-safety-backup"]);
    proxy::wait_view(&stage.proxy, "the hold", |view| view.phase == "paused").await;
    loading(stage.cluster.node(0).log_path()).await;
    signal(&child, Signal::KILL);
    let killed = Instant::now();
    // The master is a replica of nobody now: Sentinel replaces it when its patience of 20 s and down-after is over.
    let limit = Duration::from_secs(90);
    let flowing = until("requests to flow", limit, async || {
        let view = proxy::view(&stage.proxy).await;
        let there = view.phase == "stable" && view.master.as_ref().is_some_and(|master| !master.provisional);
        if there { Ok(view) } else { Err(format!("{view:?}")) }
    });
    let view = flowing.await.unwrap();
    println!("stable at {:?} after {:?}", view.master, killed.elapsed());
    proxy::wait_log(&stage.proxy, &["the hold has run out", "a restore that asked for it was killed"]).await;
    let reply = ask(&mut stage.open().await, &["SET", "new", "data"]).await;
    assert_eq!(reply.to_string(), "+OK");
    // The next one puts back what this one left, also in the file that the failover wrote.
    let lazy = async || {
        let reply = stage.cluster.ask_node(0, &["CONFIG", "GET", "replica-lazy-flush"]).await;
        let file = std::fs::read_to_string(stage.cluster.node(0).log_path().with_extension("conf")).unwrap();
        (reply.unwrap().field("replica-lazy-flush").map(str::to_owned), file.contains("replica-lazy-flush yes"))
    };
    stage.cluster.wait_replicating(LIMIT).await.unwrap();
    until("the failover to have written the file", LIMIT, async || match lazy().await {
        (Some(value), true) if value == "yes" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await
    .unwrap();
    let output = shelf.run(&["restore", "--proxy", &proxy, "--yes", "--json"]).await;
    assert_eq!(json(&output)["keys"].as_u64(), Some(20_000), "{}", ended(&output).1);
    assert!(ended(&output).1.contains("was killed"), "{}", ended(&output).1);
    assert_eq!(lazy().await, (Some("no".to_owned()), false));
}
