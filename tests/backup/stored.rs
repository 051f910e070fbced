//! Backups that lie in a store, through the binary: listed, shown, checked, fetched, pruned; and damaged in every way.

mod copy;
mod damaged;
mod full;
mod strange;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;

use jiff::Timestamp;
use serde_json::Value;
use switchmaster::backup::pack::Identities;
use switchmaster::backup::store::Store;
use switchmaster::backup::{Manifest, catalog, fetch, verify};
use switchmaster::config::{BackupConfig, Location};
use switchmaster::wire::Reply;
use tempfile::TempDir;
use tokio::process::Command;

use crate::support::bucket::{Bucket, KEY_ID, SECRET, limits};
use crate::support::redis::Redis;
use crate::support::samples::{MASTER, packed, rdb};

/// A store with a place on the disk, where its objects can be damaged.
struct Shelf {
    folder: TempDir,
    bucket: Option<Bucket>,
    store: Store,
}

impl Shelf {
    async fn both() -> [Shelf; 2] {
        let bucket = Bucket::start().await;
        let store = bucket.store();
        [Shelf::in_folder(), Shelf { folder: tempfile::tempdir().unwrap(), bucket: Some(bucket), store }]
    }

    fn in_folder() -> Shelf {
        let folder = tempfile::tempdir().unwrap();
        let location = Location::Folder(folder.path().to_owned());
        let store = Store::with_limits(&BackupConfig::default(), Some(&location), limits()).unwrap();
        Shelf { folder, bucket: None, store }
    }

    fn path(&self, name: &str) -> PathBuf {
        match &self.bucket {
            Some(bucket) => bucket.path(name),
            None => self.folder.path().join(name),
        }
    }

    /// Publishes a backup of `plain`.
    async fn keep(&self, plain: &[u8], recipients: &[String], created: &str) -> Manifest {
        let (stored, manifest) = packed(plain, recipients, created);
        self.put(&manifest, stored).await;
        manifest
    }

    async fn put(&self, manifest: &Manifest, stored: Vec<u8>) {
        let name = &manifest.master_name;
        self.store.put_over(&catalog::object_name(name, &manifest.object), stored).await.unwrap();
        let bytes = manifest.to_bytes().unwrap();
        self.store.put_over(&catalog::manifest_name(name, &manifest.id), bytes).await.unwrap();
    }

    /// `switchmaster backup …` with this store, to its end.
    async fn run(&self, arguments: &[&str]) -> Ran {
        let Output { status, stdout, stderr } = self.command(arguments).output().await.unwrap();
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Ran { code: status.code(), out: text(&stdout), told: text(&stderr) }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_switchmaster"));
        command.env_clear().env("SWITCHMASTER_CONFIG", "/dev/null").env("SWITCHMASTER_LOG_LEVEL", "warn");
        command.env("SWITCHMASTER_BACKUP_STORE", self.store.location().to_string());
        // For the drill.
        for name in ["PATH", "REDIS_SERVER"] {
            command.env(name, std::env::var_os(name).unwrap_or_default());
        }
        if let Some(bucket) = &self.bucket {
            command.env("AWS_ENDPOINT_URL", format!("http://{}", bucket.addr));
            command.env("AWS_ACCESS_KEY_ID", KEY_ID).env("AWS_SECRET_ACCESS_KEY", SECRET);
        }
        command.arg("backup").args(arguments);
        command
    }
}

#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    out: String,
    told: String,
}

impl Ran {
    fn json(&self) -> Vec<Value> {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

#[tokio::test]
async fn what_is_kept_is_listed_and_shown() {
    for shelf in Shelf::both().await {
        let empty = shelf.run(&["list"]).await;
        assert!(empty.code == Some(0) && empty.out.contains("no backup"), "{empty:?}");
        let latest = shelf.run(&["show"]).await;
        assert!(latest.code == Some(85) && latest.told.contains("there is no backup"), "{latest:?}");

        let old = shelf.keep(&rdb(5_000, 1), &[], "2026-11-19T03:00:00Z").await;
        let new = shelf.keep(&rdb(70_000, 2), &[], "2026-11-20T03:00:00Z").await;
        // Neither is a backup: data without a manifest, and what belongs to others.
        shelf.store.put_over("mymaster/20261121T030000Z-01234567-1.rdb.zst", b"x".to_vec()).await.unwrap();
        shelf.store.put_over("mymaster/notes.txt", b"x".to_vec()).await.unwrap();
        let listed = shelf.run(&["list"]).await;
        let lines: Vec<&str> = listed.out.lines().collect();
        assert!(lines.len() == 3 && lines[1].starts_with(&old.id) && lines[2].starts_with(&new.id), "{listed:?}");
        let ids: Vec<Value> =
            shelf.run(&["list", "--json"]).await.json().iter().map(|line| line["id"].clone()).collect();
        assert_eq!(ids, [old.id.as_str(), new.id.as_str()]);

        assert_eq!(shelf.run(&["show", "--json"]).await.json()[0]["stored_sha256"], new.stored_sha256.as_str());
        let shown = shelf.run(&["show", "20261119"]).await;
        for part in [&old.id, &old.plain_sha256, "replica 127.0.0.1:6380", "never", "zstd level 3"] {
            assert!(shown.out.contains(part), "{part} in {shown:?}");
        }
        let ambiguous = shelf.run(&["show", "2026"]).await;
        assert!(ambiguous.code == Some(64) && ambiguous.told.contains(&old.id), "{ambiguous:?}");
        let nobody = shelf.run(&["show", "2025"]).await;
        assert!(nobody.code == Some(85) && nobody.told.contains("backup list"), "{nobody:?}");

        let (stored, mut other) = packed(&rdb(10, 3), &[], "2026-11-18T03:00:00Z");
        other.master_name = "sessions".to_owned();
        shelf.put(&other, stored).await;
        let several = shelf.run(&["show"]).await;
        assert!(several.code == Some(64) && several.told.contains("mymaster, sessions"), "{several:?}");
        let one = shelf.run(&["show", "--json", "--master-name", "sessions"]).await;
        assert_eq!(one.json()[0]["id"], other.id.as_str());
        assert_eq!(shelf.run(&["show", "--json", &old.id]).await.json()[0]["id"], old.id.as_str());
    }
}

#[tokio::test]
async fn a_manifest_that_cannot_be_used_is_told_and_never_deleted() {
    let shelf = Shelf::in_folder();
    let good = shelf.keep(&rdb(100, 1), &[], "2026-11-20T03:00:00Z").await;
    type Change = fn(&mut Value);
    let strange: [(&str, &str, Change); 4] = [
        ("2026-11-01T00:00:00Z", "newer", |manifest| manifest["format"] = 2.into()),
        ("2026-11-02T00:00:00Z", "damaged", |manifest| manifest["plain_bytes"] = "many".into()),
        ("2026-11-03T00:00:00Z", "is that of", |manifest| manifest["id"] = "20200101T000000Z-01234567-1".into()),
        ("2026-11-04T00:00:00Z", "as its data", |manifest| manifest["object"] = "../../etc/passwd".into()),
    ];
    for (created, _, change) in &strange {
        let manifest = shelf.keep(&rdb(100, 2), &[], created).await;
        let mut value = serde_json::to_value(&manifest).unwrap();
        change(&mut value);
        let sealed = serde_json::from_value::<Manifest>(value.clone()).map(|changed| changed.to_bytes().unwrap());
        let bytes = sealed.unwrap_or_else(|_| value.to_string().into());
        fs::write(shelf.path(&catalog::manifest_name(MASTER, &manifest.id)), bytes).unwrap();
    }
    let listed = shelf.run(&["list"]).await;
    for (created, told, _) in &strange {
        let id = catalog::id(created.parse().unwrap(), "01234567", 4711);
        assert!(listed.out.lines().any(|line| line.starts_with(&id) && line.contains(told)), "{told}: {listed:?}");
        let shown = shelf.run(&["show", &id]).await;
        let code = if *told == "newer" { 87 } else { 82 };
        assert!(shown.code == Some(code) && shown.told.contains(told), "{shown:?}");
    }
    let pruned = shelf.run(&["prune", "--keep-last", "1"]).await;
    assert!(pruned.code == Some(0) && pruned.out.contains("5 kept, 0 deleted"), "{pruned:?}");
    let checked = shelf.run(&["verify", "--all"]).await;
    assert!(checked.code == Some(82) && checked.told.contains("4 of 5"), "{checked:?}");
    assert!(checked.out.contains(&format!("sound  {}", good.id)), "{checked:?}");
    let marks = shelf.store.list("").await.unwrap().into_iter().filter(|object| object.name.contains(".damaged."));
    assert_eq!(marks.count(), 0, "nothing is known of their data");
}

#[tokio::test]
async fn what_was_checked_is_marked_until_it_is_damaged() {
    for shelf in Shelf::both().await {
        let manifest = shelf.keep(&rdb(300_000, 4), &[], "2026-11-20T03:00:00Z").await;
        let verified = async || shelf.run(&["list", "--json"]).await.json()[0]["verified"].clone();
        assert_eq!(verified().await, Value::Null);
        let checked = shelf.run(&["verify"]).await;
        assert!(checked.code == Some(0) && checked.out == format!("sound  {}\n", manifest.id), "{checked:?}");
        let at: Timestamp = verified().await.as_str().unwrap().parse().unwrap();
        assert!(Timestamp::now().duration_since(at).as_secs_f64().abs() < 600.0);

        let object = shelf.path(&catalog::object_name(MASTER, &manifest.object));
        let whole = fs::read(&object).unwrap();
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 1;
        fs::write(&object, &flipped).unwrap();
        let damaged = shelf.run(&["verify", "--json"]).await;
        assert!(damaged.code == Some(82) && damaged.told.contains("not what was stored"), "{damaged:?}");
        assert_eq!(verified().await, Value::Null, "a mark of earlier days is gone");
        let damage = async || shelf.run(&["list", "--json"]).await.json()[0]["damaged"].clone();
        assert!(damage().await.as_str().unwrap().contains("found by a check at "));
        for shown in [shelf.run(&["list"]).await, shelf.run(&["show"]).await] {
            assert!(shown.code == Some(0) && shown.out.contains("damaged: found by a check"), "{shown:?}");
        }
        fs::remove_file(&object).unwrap();
        assert_eq!(damage().await, "its data is gone");
        let gone = shelf.run(&["verify"]).await;
        assert!(gone.code == Some(82) && gone.told.contains("its data is gone"), "{gone:?}");
        fs::write(&object, &whole[1..]).unwrap();
        let cut = format!("its data has {} bytes instead of {}", whole.len() - 1, whole.len());
        assert_eq!(damage().await, cut.as_str());
        fs::write(&object, &whole).unwrap();
        assert!(damage().await.is_string(), "until a check finds it whole");
        assert_eq!(shelf.run(&["verify"]).await.code, Some(0));
        assert_eq!(damage().await, Value::Null);
        assert!(verified().await.is_string());
    }
}

/// Both hashes are right, and the manifest tells of other data: somebody wrote it by hand.
#[tokio::test]
async fn a_manifest_that_lies_is_found() {
    let shelf = Shelf::in_folder();
    let good = shelf.keep(&rdb(50_000, 4), &[], "2026-11-20T03:00:00Z").await;
    type Change = fn(&mut Manifest);
    let lies: [(&str, Change); 4] = [
        ("50 in all, and the manifest says 51", |manifest| {
            manifest.counts.databases.get_mut(&0).unwrap().keys += 1;
        }),
        ("version is REDIS 10, and the manifest says REDIS 11", |manifest| manifest.rdb_version = 11),
        ("CRC64 is none, and the manifest says 0123", |manifest| manifest.crc64 = Some("0123".to_owned())),
        ("unpacked it has", |manifest| manifest.plain_bytes += 1),
    ];
    for (told, lie) in lies {
        let mut manifest = good.clone();
        lie(&mut manifest);
        let name = catalog::manifest_name(MASTER, &good.id);
        fs::write(shelf.path(&name), manifest.to_bytes().unwrap()).unwrap();
        let ran = shelf.run(&["verify"]).await;
        assert!(ran.code == Some(82) && ran.told.contains(told), "{told}: {ran:?}");
    }
    // Sound to the byte, and no RDB.
    let shelf = Shelf::in_folder();
    shelf.keep(b"REDIS0010 and then nonsense", &[], "2026-11-20T03:00:00Z").await;
    let ran = shelf.run(&["verify"]).await;
    assert!(ran.code == Some(82) && ran.told.contains("of the RDB"), "{ran:?}");
}

/// 1,000 flipped bits of a manifest: whatever it is that they change.
#[test]
fn a_thousand_damages_of_a_manifest_are_found() {
    let (_, manifest) = packed(&rdb(1_000, 4), &[], "2026-11-20T03:00:00Z");
    let sealed = manifest.to_bytes().unwrap();
    assert!(Manifest::is_sealed(&sealed));
    assert_eq!(serde_json::from_slice::<Manifest>(&sealed).unwrap(), manifest);
    for flip in 0..1_000 {
        let mut bytes = sealed.clone();
        let at = flip * 7919 % (bytes.len() * 8);
        bytes[at / 8] ^= 1 << (at % 8);
        assert!(!Manifest::is_sealed(&bytes), "bit {at}");
    }
    assert!(!Manifest::is_sealed(&sealed[..sealed.len() - 1]) && !Manifest::is_sealed(&[&sealed[..], b" "].concat()));
}

/// 1,000 random damages of a stored object, encrypted or not: each is found, none ends the program, nothing is fetched.
#[tokio::test]
async fn a_thousand_damages_are_found() {
    let identity = age::x25519::Identity::generate();
    let key = tempfile::NamedTempFile::new().unwrap();
    let secret = identity.to_string();
    fs::write(key.path(), age::secrecy::ExposeSecret::expose_secret(&secret)).unwrap();
    let identities = Identities::read(Some(key.path())).unwrap();
    let recipients = [identity.to_public().to_string()];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    for (recipients, plain) in [(&[][..], rdb(40_000, 5)), (&recipients[..], rdb(90_000, 6))] {
        let shelf = Shelf::in_folder();
        let manifest = shelf.keep(&plain, recipients, "2026-11-20T03:00:00Z").await;
        let object = shelf.path(&catalog::object_name(MASTER, &manifest.object));
        let whole = fs::read(&object).unwrap();
        verify::check(&shelf.store, &manifest, &identities).await.unwrap();
        for round in 0..500 {
            let mut damaged = whole.clone();
            match round % 5 {
                0 | 1 => damaged[random(whole.len())] ^= 1 << random(8),
                2 => damaged.truncate(random(whole.len())),
                3 => damaged.extend((0..=random(100)).map(|_| random(256) as u8)),
                // A block of the disk that reads as zeros.
                _ => {
                    let from = random(whole.len());
                    let to = (from + 512).min(whole.len());
                    damaged[from..to].fill(0);
                }
            }
            if damaged == whole {
                continue;
            }
            fs::write(&object, &damaged).unwrap();
            let error = verify::check(&shelf.store, &manifest, &identities).await.unwrap_err();
            assert!(error.exit_code() == 82, "round {round}: {error}");
        }
        let target = shelf.folder.path().join("fetched.rdb");
        let arguments = ["fetch", "--output", target.to_str().unwrap(), "--identity", key.path().to_str().unwrap()];
        assert_eq!(shelf.run(&arguments).await.code, Some(82));
        assert!(!target.exists());
        fs::write(&object, &whole).unwrap();
        assert_eq!(shelf.run(&arguments).await.code, Some(0));
        assert!(fs::read(&target).unwrap() == plain);
    }
}

#[tokio::test]
async fn fetched_files_are_whole_private_and_overwrite_nothing() {
    for shelf in Shelf::both().await {
        let plain = rdb(3_000_000, 7);
        let manifest = shelf.keep(&plain, &[], "2026-11-20T03:00:00Z").await;
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("dump.rdb");
        let arguments = ["fetch", "latest", "--output", target.to_str().unwrap()];
        let fetched = shelf.run(&arguments).await;
        assert!(fetched.code == Some(0) && fetched.out.contains(&manifest.id), "{fetched:?}");
        assert!(fs::read(&target).unwrap() == plain);
        assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o600);
        let again = shelf.run(&arguments).await;
        assert!(again.code == Some(64) && again.told.contains("is there already"), "{again:?}");
        let nowhere = shelf.run(&["fetch", "--output", "/nowhere/dump.rdb"]).await;
        assert!(nowhere.code == Some(84) && nowhere.told.contains("/nowhere"), "{nowhere:?}");
        let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["dump.rdb"], "nothing else is left");
        let nothing = shelf.run(&["fetch"]).await;
        assert!(nothing.code == Some(64) && nothing.told.contains("--output FILE"), "{nothing:?}");
        assert!(nothing.told.contains("--aof DIR"), "{nothing:?}");
    }
}

/// The circle by files: what Redis saved is stored, and comes back both ways in which Redis reads at its start.
#[tokio::test]
async fn redis_loads_what_was_fetched() {
    let source = Redis::start("", |_| {}).await;
    for (key, value) in [("a", "1"), ("b", "2")] {
        source.ask(&["SET", key, value]).await;
    }
    source.ask(&["RPUSH", "list", "x", "y", "z"]).await;
    assert_eq!(source.ask(&["SAVE"]).await, Reply::Simple("OK".to_owned()));
    let saved = fs::read(source.folder.path().join("data/dump.rdb")).unwrap();
    let shelf = Shelf::in_folder();
    shelf.keep(&saved, &[], "2026-11-20T03:00:00Z").await;

    let folder = tempfile::tempdir().unwrap();
    let dump = folder.path().join("dump.rdb");
    let fetched = shelf.run(&["fetch", "--output", dump.to_str().unwrap()]).await;
    assert_eq!(fetched.code, Some(0), "{fetched:?}");
    let data = tempfile::tempdir().unwrap();
    let aof = data.path().to_owned();
    let arguments = ["fetch", "--aof", aof.to_str().unwrap()];
    let fetched = shelf.run(&arguments).await;
    assert_eq!(fetched.code, Some(0), "{fetched:?}");
    let again = shelf.run(&arguments).await;
    assert!(again.code == Some(64) && again.told.contains("holds an AOF already"), "{again:?}");

    let by_rdb = Redis::start("", |data| copy(folder.path(), data)).await;
    let by_aof = Redis::start("appendonly yes", |data| copy(&aof, data)).await;
    for redis in [&by_rdb, &by_aof] {
        assert_eq!(redis.ask(&["DBSIZE"]).await, Reply::Integer(3));
        assert_eq!(redis.ask(&["GET", "b"]).await, Reply::Bulk(b"2".to_vec()));
        assert_eq!(redis.ask(&["LRANGE", "list", "0", "-1"]).await.items().len(), 3);
    }
    by_aof.ask(&["SET", "c", "3"]).await;
    assert_eq!(by_aof.ask(&["BGREWRITEAOF"]).await.to_string(), "+Background append only file rewriting started");
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test]
async fn what_no_rule_keeps_is_deleted() {
    for shelf in Shelf::both().await {
        let mut manifests = Vec::new();
        for day in 10..20 {
            manifests.push(shelf.keep(&rdb(1_000, day), &[], &format!("2026-11-{day}T03:00:00Z")).await);
        }
        assert_eq!(shelf.run(&["verify", &manifests[2].id]).await.code, Some(0));
        let orphan = "mymaster/20261101T030000Z-01234567-1.rdb.zst";
        let (old, new) = (orphan, "mymaster/20261102T030000Z-01234567-1.rdb.zst");
        for (name, hours) in [(old, 25), (new, 1)] {
            shelf.store.put_over(name, b"x".to_vec()).await.unwrap();
            let file = fs::File::options().write(true).open(shelf.path(name)).unwrap();
            file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(hours * 3600)).unwrap();
        }
        let norule = shelf.run(&["prune"]).await;
        assert!(norule.code == Some(64) && norule.told.contains("needs a rule"), "{norule:?}");
        let objects = async || shelf.store.list("").await.unwrap().len();
        let before = objects().await;
        let dry = shelf.run(&["prune", "--keep-daily", "3", "--dry-run"]).await;
        assert!(dry.code == Some(0) && dry.out.contains("4 kept, 6 would be deleted"), "{dry:?}");
        assert_eq!(objects().await, before);

        let pruned = shelf.run(&["prune", "--keep-daily", "3", "--json"]).await.json();
        let summary = pruned.last().unwrap();
        assert_eq!((&summary["kept"], &summary["deleted"], &summary["orphans"]), (&4.into(), &6.into(), &1.into()));
        let left: Vec<String> =
            catalog::list(&shelf.store, None).await.unwrap().into_iter().map(|backup| backup.id).collect();
        let expected: Vec<&str> = [2, 7, 8, 9].iter().map(|at| manifests[*at].id.as_str()).collect();
        assert_eq!(left, expected);
        assert_eq!(shelf.store.size(old).await.unwrap(), None);
        assert_eq!(shelf.store.size(new).await.unwrap(), Some(1));
        // Of each kept one its data and manifest, one mark, the younger orphan.
        assert_eq!(objects().await, 4 * 2 + 1 + 1);
        assert_eq!(shelf.run(&["verify", "--all"]).await.code, Some(0));
    }
}

/// A file system of one MiB: refused before anything is written, and nothing is left.
#[tokio::test]
async fn a_full_spool_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let _small = match Mounted::tmpfs(folder.path(), "1m") {
        Ok(mounted) => mounted,
        Err(why) => return eprintln!("SKIPPED: no small file system: {why}"),
    };
    let shelf = Shelf::in_folder();
    let manifest = shelf.keep(&rdb(3_000_000, 8), &[], "2026-11-20T03:00:00Z").await;
    let config = BackupConfig { spool_dir: Some(folder.path().to_owned()), ..BackupConfig::default() };
    let error = fetch::fetch_to_spool(&shelf.store, &manifest, &Identities::default(), &config).await.unwrap_err();
    assert!(error.exit_code() == 84 && error.to_string().contains("backup_spool_dir"), "{error}");
    // The manifest says less than there is: it runs full on the way.
    let mut small = manifest.clone();
    small.plain_bytes = 500_000;
    let error = fetch::fetch_to_spool(&shelf.store, &small, &Identities::default(), &config).await.unwrap_err();
    assert_eq!(error.exit_code(), 82, "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// Unmounted when dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn tmpfs(at: &Path, size: &str) -> Result<Mounted, String> {
        let mount = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(at)
            .output()
            .map_err(|error| error.to_string())?;
        match mount.status.success() {
            true => Ok(Mounted(at.to_owned())),
            false => Err(String::from_utf8_lossy(&mount.stderr).trim().to_owned()),
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
