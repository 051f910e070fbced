//! One holder at a time, whoever dies, stalls or has a wrong clock.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use switchmaster::backup::Error;
use switchmaster::backup::lock::{self, Master, acquire};
use switchmaster::backup::store::Store;
use switchmaster::config::{BackupConfig, Location};
use switchmaster::demo::cluster::until;
use switchmaster::secret::{Credentials, Secret};
use switchmaster::wire::{Reply, Wire};
use tempfile::TempDir;

use crate::lone::Lone;
use crate::support::bucket::{Bucket, limits};
use crate::support::redis::Redis;

const LIMIT: Duration = Duration::from_secs(60);
const LONG: Duration = Duration::from_secs(600);

struct Place {
    store: Store,
    /// Where the locks lie.
    folder: PathBuf,
}

async fn places(folder: &TempDir, bucket: &Bucket) -> [Place; 2] {
    let location = Location::Folder(folder.path().to_owned());
    let store = Store::with_limits(&BackupConfig::default(), Some(&location), limits()).unwrap();
    [
        Place { store, folder: folder.path().join("m/lock") },
        Place { store: bucket.store(), folder: bucket.path("m/lock") },
    ]
}

fn is_locked<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.exit_code(), 75, "{error}");
    error.to_string()
}

#[tokio::test]
async fn the_second_waits_for_the_first() {
    let (folder, bucket) = (tempfile::tempdir().unwrap(), Bucket::start().await);
    for place in places(&folder, &bucket).await {
        for _ in 0..3 {
            let first = acquire(&place.store, "m", LONG, None).await.unwrap();
            first.check().await.unwrap();
            let told = is_locked(acquire(&place.store, "m", LONG, None).await);
            assert!(told.contains(&format!("process {}", std::process::id())), "{told}");
            assert!(told.contains("expires in"), "{told}");
            let other = acquire(&place.store, "another-master", LONG, None).await.unwrap();
            other.release().await;
            first.release().await;
        }
        // Numbers rise and one object stays.
        let names: Vec<_> = fs::read_dir(&place.folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["3.json"]);
    }
}

/// A store that is away for a while has no locks at all; the holder must not take that for another's.
#[tokio::test]
async fn a_lock_that_goes_with_its_folder_is_not_lost() {
    let (folder, bucket) = (tempfile::tempdir().unwrap(), Bucket::start().await);
    for place in places(&folder, &bucket).await {
        let held = acquire(&place.store, "m", LONG, None).await.unwrap();
        let away = place.folder.with_extension("away");
        fs::rename(&place.folder, &away).unwrap();
        assert!(matches!(held.check().await, Err(Error::Store(_))), "nobody else is at work");
        fs::rename(&away, &place.folder).unwrap();
        held.check().await.unwrap();
        held.release().await;
    }
}

#[tokio::test]
async fn who_died_is_followed_when_the_lock_expires() {
    let (folder, bucket) = (tempfile::tempdir().unwrap(), Bucket::start().await);
    for place in places(&folder, &bucket).await {
        let ttl = Duration::from_secs(3);
        drop(acquire(&place.store, "m", ttl, None).await.unwrap());
        is_locked(acquire(&place.store, "m", ttl, None).await);
        let next = until("the lock", LIMIT, async || {
            acquire(&place.store, "m", LONG, None).await.map_err(|error| error.to_string())
        });
        next.await.unwrap_or_else(|error| panic!("{error}")).release().await;
    }
}

/// Whoever was killed on this host is not waited for; whoever seems to run elsewhere is.
#[tokio::test]
async fn who_was_killed_on_this_host_is_followed_at_once() {
    let (folder, bucket) = (tempfile::tempdir().unwrap(), Bucket::start().await);
    for place in places(&folder, &bucket).await {
        let mut child = Holder::start(&place.store, &bucket, None);
        let held = until("the lock to be held", LIMIT, async || match acquire(&place.store, "m", LONG, None).await {
            Err(error) if error.exit_code() == 75 => Ok(error.to_string()),
            Err(error) => panic!("{error}"),
            Ok(guard) => {
                guard.release().await;
                Err("it is free".to_owned())
            }
        });
        let held = held.await.unwrap_or_else(|error| panic!("{error}\n{}", child.output()));
        assert!(held.contains(&format!("process {}", child.id())), "{held}");
        child.kill9().await;
        // A lock of another host whose process had the same number is waited for.
        let path = fs::read_dir(&place.folder).unwrap().next().unwrap().unwrap().path();
        let ours = fs::read(&path).unwrap();
        let mut claim: serde_json::Value = serde_json::from_slice(&ours).unwrap();
        claim["process"]["boot"] = "another".into();
        fs::write(&path, claim.to_string()).unwrap();
        is_locked(acquire(&place.store, "m", LONG, None).await);
        fs::write(&path, ours).unwrap();
        let second = acquire(&place.store, "m", LONG, None).await.unwrap();
        is_locked(acquire(&place.store, "m", LONG, None).await);
        second.check().await.unwrap();
        second.release().await;
    }
}

/// The same where the master keeps the lock.
#[tokio::test]
async fn who_was_killed_on_this_host_is_followed_at_once_on_the_master() {
    let redis = Redis::start("", |_| {}).await;
    let bucket = Bucket::start().await;
    bucket.faults.ignore_conditions.store(true, Ordering::Relaxed);
    let store = bucket.store();
    let mut child = Holder::start(&store, &bucket, Some(redis.addr()));
    let key = "switchmaster:backup-lock:m";
    until("the lock to be held", LIMIT, async || match redis.ask(&["EXISTS", key]).await {
        Reply::Integer(1) => Ok(()),
        other => Err(other.to_string()),
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", child.output()));
    let told = is_locked(acquire(&store, "m", LONG, Some(plain(redis.addr()))).await);
    assert!(told.contains(&format!("process {}", child.id())), "{told}");
    child.kill9().await;
    let second = acquire(&store, "m", LONG, Some(plain(redis.addr()))).await.unwrap();
    is_locked(acquire(&store, "m", LONG, Some(plain(redis.addr()))).await);
    second.check().await.unwrap();
    second.release().await;
    assert_eq!(redis.ask(&["EXISTS", key]).await, Reply::Integer(0));
}

/// The master without a password.
fn plain(addr: SocketAddr) -> Master {
    Arc::new(move || {
        Box::pin(async move { Wire::connect(addr).await.map_err(|error| Error::Unavailable(error.to_string())) })
    })
}

/// Another process that takes the lock and keeps it.
struct Holder {
    child: tokio::process::Child,
    output: tempfile::NamedTempFile,
}

impl Holder {
    fn start(store: &Store, bucket: &Bucket, master: Option<SocketAddr>) -> Holder {
        let output = tempfile::NamedTempFile::new().unwrap();
        let child = tokio::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "lock::a_process_that_holds", "--include-ignored", "--nocapture"])
            .env("LOCK_TEST_STORE", store.location().to_string())
            .env("LOCK_TEST_ENDPOINT", format!("http://{}", bucket.addr))
            .env("LOCK_TEST_MASTER", master.map(|addr| addr.to_string()).unwrap_or_default())
            .stdout(output.reopen().unwrap())
            .stderr(output.reopen().unwrap())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Holder { child, output }
    }

    fn id(&self) -> u32 {
        self.child.id().unwrap()
    }

    fn output(&self) -> String {
        fs::read_to_string(self.output.path()).unwrap()
    }

    async fn kill9(&mut self) {
        self.child.kill().await.unwrap();
    }
}

/// Not a test of its own: what [`Holder`] starts.
#[tokio::test]
#[ignore = "started by who_was_killed_on_this_host_is_followed_at_once"]
async fn a_process_that_holds() {
    let Some(store) = given_store() else { return };
    let master = std::env::var("LOCK_TEST_MASTER").unwrap().parse().ok().map(plain);
    let held = until("the lock", LIMIT, async || {
        acquire(&store, "m", LONG, master.clone()).await.map_err(|error| error.to_string())
    });
    let _held = held.await.unwrap();
    std::future::pending::<()>().await;
}

/// As long as it is renewed nobody takes it; should this machine stall for longer than that, the first one knows.
#[tokio::test]
async fn a_lock_that_is_renewed_is_kept_or_known_to_be_lost() {
    let (folder, bucket) = (tempfile::tempdir().unwrap(), Bucket::start().await);
    for place in places(&folder, &bucket).await {
        let ttl = Duration::from_secs(3);
        let first = acquire(&place.store, "m", ttl, None).await.unwrap();
        let begun = std::time::Instant::now();
        while begun.elapsed() < ttl * 3 {
            match acquire(&place.store, "m", ttl, None).await {
                Err(error) => assert_eq!(error.exit_code(), 75, "{error}"),
                Ok(_second) => {
                    is_locked(first.check().await);
                    break;
                }
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        first.release().await;
    }
}

/// The store's times decide; what is older there than the time to live is free, what comes from its future is not.
#[tokio::test]
async fn only_the_clock_of_the_store_counts() {
    let (folder, bucket) = (tempfile::tempdir().unwrap(), Bucket::start().await);
    for place in places(&folder, &bucket).await {
        let first = acquire(&place.store, "m", LONG, None).await.unwrap();
        let lock = place.folder.join("1.json");
        let claim: serde_json::Value = serde_json::from_slice(&fs::read(&lock).unwrap()).unwrap();
        let fields: Vec<&String> = claim.as_object().unwrap().keys().collect();
        assert_eq!(fields, ["owner", "process", "released", "token", "ttl_ms", "what"], "and no time of a host");
        let fields: Vec<&String> = claim["process"].as_object().unwrap().keys().collect();
        assert_eq!(fields, ["boot", "host", "pid", "pids", "start"], "clock ticks after a boot are none");
        let written = |at: SystemTime| File::options().write(true).open(&lock).unwrap().set_modified(at).unwrap();
        written(SystemTime::now() + Duration::from_secs(86_400));
        is_locked(acquire(&place.store, "m", LONG, None).await);
        written(SystemTime::now() - LONG - Duration::from_secs(60));
        let second = acquire(&place.store, "m", LONG, None).await.unwrap();
        is_locked(first.check().await);
        second.check().await.unwrap();
        // What the first one gives back is not what the second one holds.
        first.release().await;
        second.check().await.unwrap();
        is_locked(acquire(&place.store, "m", LONG, None).await);
        second.release().await;
    }
}

#[tokio::test]
async fn a_lock_that_cannot_be_read_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let bucket = Bucket::start().await;
    for place in places(&folder, &bucket).await {
        fs::create_dir_all(&place.folder).unwrap();
        fs::write(place.folder.join("7.json"), "not JSON").unwrap();
        is_locked(acquire(&place.store, "m", LONG, None).await);
        let old = SystemTime::now() - lock::TTL - Duration::from_secs(60);
        File::options().write(true).open(place.folder.join("7.json")).unwrap().set_modified(old).unwrap();
        acquire(&place.store, "m", LONG, None).await.unwrap().release().await;
        assert!(place.folder.join("8.json").exists() && !place.folder.join("7.json").exists());
    }
}

#[tokio::test]
async fn the_master_keeps_the_lock_where_the_store_cannot() {
    let redis = Redis::start("requirepass of-the-lock", |_| {}).await;
    let bucket = Bucket::start().await;
    bucket.faults.ignore_conditions.store(true, Ordering::Relaxed);
    let store = bucket.store();
    let told = acquire(&store, "m", LONG, None).await.unwrap_err();
    assert!(told.exit_code() == 83 && told.to_string().contains("create-only"), "{told}");

    let addr = redis.addr();
    let master: Master = Arc::new(move || {
        Box::pin(async move {
            let mut wire = Wire::connect(addr).await.map_err(|error| Error::Unavailable(error.to_string()))?;
            wire.ask(&["AUTH", "of-the-lock"]).await.map_err(|error| Error::Unavailable(error.to_string()))?;
            Ok(wire)
        })
    });
    let ask = async |request: &[&str]| (master)().await.unwrap().ask(request).await.unwrap();
    let key = "switchmaster:backup-lock:m";
    let first = acquire(&store, "m", LONG, Some(master.clone())).await.unwrap();
    is_locked(acquire(&store, "m", LONG, Some(master.clone())).await);
    let Reply::Integer(left) = ask(&["PTTL", key]).await else { panic!("no number") };
    assert!(left > 500_000, "{left}");
    first.check().await.unwrap();
    first.release().await;
    assert_eq!(ask(&["EXISTS", key]).await, Reply::Integer(0));

    // Another took it meanwhile: neither check nor release touch what is not ours.
    let first = acquire(&store, "m", LONG, Some(master.clone())).await.unwrap();
    ask(&["SET", key, "another"]).await;
    is_locked(first.check().await);
    first.release().await;
    assert_eq!(ask(&["GET", key]).await, Reply::Bulk(b"another".to_vec()));
}

/// What docs/permissions.md and docs/point-in-time.md say that the ACL must allow for that: all of it, and nothing else.
#[tokio::test]
async fn a_lock_on_the_master_wants_what_the_documents_say() {
    let read = |path: &str| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    let permissions = read("docs/permissions.md");
    let rules = permissions.split('`').find(|words| words.starts_with("~switchmaster:backup-lock:")).expect("rules");
    assert!(read("docs/point-in-time.md").contains(&format!("`{rules}`")), "the documents differ");
    let redis = Lone::start(&[]).await;
    let bucket = Bucket::start().await;
    bucket.faults.ignore_conditions.store(true, Ordering::Relaxed);
    let store = bucket.store();
    let addr = redis.addr;
    let user = Credentials { username: Some("keeper".into()), password: Secret::new("kept") };
    let master: Master = Arc::new(move || {
        let user = user.clone();
        Box::pin(async move {
            Wire::open(addr, Some(&user), 0).await.map_err(|error| Error::Unavailable(error.to_string()))
        })
    });
    let mut wire = redis.open(0).await;
    let rules: Vec<&str> = rules.split(' ').collect();
    for missing in std::iter::once(None).chain(rules.iter().map(Some)) {
        let given = rules.iter().filter(|rule| Some(*rule) != missing);
        let words: Vec<&str> =
            ["ACL", "SETUSER", "keeper", "reset", "on", ">kept"].iter().chain(given).copied().collect();
        for request in [&words[..], &["ACL", "LOG", "RESET"], &["CONFIG", "RESETSTAT"], &["FLUSHALL"]] {
            assert_eq!(wire.ask(request).await.unwrap(), Reply::Simple("OK".into()), "{request:?}");
        }
        if let Ok(held) = acquire(&store, "m", Duration::from_secs(3), Some(master.clone())).await {
            let mut looks = redis.open(0).await;
            let renewed = until("the lock to be renewed or refused", LIMIT, async || {
                let stats = looks.ask(&["INFO", "commandstats"]).await.map_err(|error| error.to_string())?;
                let log = looks.ask(&["ACL", "LOG"]).await.map_err(|error| error.to_string())?;
                let renewed = stats.text().unwrap_or_default().contains("cmdstat_pexpire:calls=");
                if renewed || !log.items().is_empty() { Ok(()) } else { Err(stats.to_string()) }
            });
            renewed.await.unwrap();
            let _ = held.check().await;
            held.release().await;
        }
        let log = wire.ask(&["ACL", "LOG"]).await.unwrap();
        let refused: Vec<&str> = log.items().iter().filter_map(|entry| entry.field("object")).collect();
        assert_eq!(refused.is_empty(), missing.is_none(), "without {missing:?}: {refused:?}");
        assert!(missing.is_some() || wire.ask(&["DBSIZE"]).await.unwrap() == Reply::Integer(0), "it was given back");
    }
}

/// Processes that want it at the same time, each of them several times: they are in the protected place one by one.
#[tokio::test]
async fn processes_take_turns() {
    const PROCESSES: usize = 4;
    let (folder, bucket) = (tempfile::tempdir().unwrap(), Bucket::start().await);
    for place in places(&folder, &bucket).await {
        let work = tempfile::tempdir().unwrap();
        let program = std::env::current_exe().unwrap();
        let children: Vec<_> = (0..PROCESSES)
            .map(|_| {
                tokio::process::Command::new(&program)
                    .args(["--exact", "lock::a_process_of_the_test", "--include-ignored", "--nocapture"])
                    .env("LOCK_TEST_STORE", place.store.location().to_string())
                    .env("LOCK_TEST_ENDPOINT", format!("http://{}", bucket.addr))
                    .env("LOCK_TEST_WORK", work.path())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .kill_on_drop(true)
                    .spawn()
                    .unwrap()
            })
            .collect();
        for child in children {
            let output = child.wait_with_output().await.unwrap();
            let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            assert!(output.status.success() && told.contains("1 passed"), "{told}");
        }
        let entries = fs::read_dir(work.path()).unwrap().count();
        assert_eq!(entries, PROCESSES * TURNS, "each turn leaves one file");
    }
}

const TURNS: usize = 3;

/// Not a test of its own: what `processes_take_turns` starts.
#[tokio::test]
#[ignore = "started by processes_take_turns"]
async fn a_process_of_the_test() {
    let Some(store) = given_store() else { return };
    let work = PathBuf::from(std::env::var("LOCK_TEST_WORK").unwrap());
    for turn in 0..TURNS {
        let held = until("the lock", LIMIT, async || match acquire(&store, "m", LONG, None).await {
            Err(error) if error.exit_code() != 75 => panic!("{error}"),
            other => other.map_err(|error| error.to_string()),
        });
        let held = held.await.unwrap_or_else(|error| panic!("{error}"));
        let alone = work.join("somebody is here");
        File::create_new(&alone).expect("nobody else is here");
        tokio::time::sleep(Duration::from_millis(20)).await;
        held.check().await.unwrap();
        fs::remove_file(&alone).unwrap();
        File::create_new(work.join(format!("{}-{turn}", std::process::id()))).unwrap();
        held.release().await;
    }
}

/// The store of the test that started this process; `None`: none did.
fn given_store() -> Option<Store> {
    let config = BackupConfig {
        store: Some(std::env::var("LOCK_TEST_STORE").ok()?.parse().unwrap()),
        s3_endpoint: Some(std::env::var("LOCK_TEST_ENDPOINT").unwrap()),
        s3_access_key_id: Some(crate::support::bucket::KEY_ID.to_owned()),
        s3_secret_access_key: Some(Secret::new(crate::support::bucket::SECRET)),
        ..BackupConfig::default()
    };
    Some(Store::with_limits(&config, None, limits()).unwrap())
}
