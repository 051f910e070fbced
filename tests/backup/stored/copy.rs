//! A second store: what is copied is there byte for byte, what is damaged is not, and a copy that was killed goes on.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sha2::{Digest, Sha256};
use switchmaster::backup::Config;
use switchmaster::backup::follow::replay::{Goal, Replay};
use switchmaster::backup::follow::segment::{self, Index, Name};
use switchmaster::backup::follow::shipper;
use switchmaster::backup::follow::timeline::Stored;
use switchmaster::demo::cluster::until;
use switchmaster::wire::encode;

use super::*;
use crate::it::stage::ask;
use crate::lone::Lone;
use crate::support::samples::{REPLID, bytes};

/// For what a busy machine does in a second.
const LIMIT: Duration = Duration::from_secs(60);

impl Shelf {
    async fn in_bucket() -> Shelf {
        let bucket = Bucket::start().await;
        let store = bucket.store();
        Shelf { folder: tempfile::tempdir().unwrap(), bucket: Some(bucket), store }
    }

    /// A configuration file that reaches it, and nothing but it.
    fn config_file(&self, secret: &str) -> PathBuf {
        let mut lines = format!("backup_store = \"{}\"\n", self.store.location());
        // In a bucket's own folder nothing else lies.
        let folder = match &self.bucket {
            Some(bucket) => {
                let key = self.folder.path().join("key");
                fs::write(&key, secret).unwrap();
                lines += &format!(
                    "backup_s3_endpoint = \"http://{}\"\nbackup_s3_access_key_id = \"{KEY_ID}\"\n\
                     backup_s3_secret_access_key_file = \"{}\"\n",
                    bucket.addr,
                    key.display()
                );
                self.folder.path().to_owned()
            }
            None => std::env::temp_dir(),
        };
        let file = folder.join(format!("second-{}.toml", self.folder.path().file_name().unwrap().to_str().unwrap()));
        fs::write(&file, lines).unwrap();
        file
    }

    /// `backup copy` from here to there.
    async fn copy(&self, to: &Shelf, arguments: &[&str]) -> Ran {
        let config = to.config_file(SECRET);
        let ran = self.run(&[&["copy", "--to-config", config.to_str().unwrap()], arguments].concat()).await;
        fs::remove_file(config).unwrap();
        ran
    }

    /// Every object but for marks, by its name.
    async fn objects(&self) -> Vec<(String, Vec<u8>)> {
        let mut objects = Vec::new();
        for object in self.store.list("").await.unwrap() {
            if !object.name.ends_with("verified.json") && !object.name.ends_with("damaged.json") {
                objects.push((object.name.clone(), fs::read(self.path(&object.name)).unwrap()));
            }
        }
        objects
    }

    /// Publishes a segment of these commands, which end at `ms`.
    async fn segment(&self, from: u64, commands: &[&[&str]], ms: u64) -> Stored {
        let mut stream = Vec::new();
        commands.iter().for_each(|command| encode(&mut stream, command));
        let to = from + stream.len() as u64;
        let sha256 = Sha256::digest(&stream).iter().map(|byte| format!("{byte:02x}")).collect();
        let index = Index { format: 1, replid: REPLID.to_owned(), from, to, sha256, marks: vec![(to, ms)] };
        let mut stored = Vec::new();
        segment::write(&index, &mut &stream[..], &mut stored).unwrap();
        let name = Name { from, to, end_ms: ms, replid: REPLID.to_owned(), encrypted: false, discarded: false };
        let segment = Stored { stream: "20261120T025958Z-0-4700".to_owned(), name };
        self.store.put_over(&shipper::object(MASTER, &segment), stored).await.unwrap();
        segment
    }

    /// The stream up to a moment, as a restore would replay it.
    async fn replayed(&self, ms: u64) -> Result<Vec<u8>, String> {
        let (config, identities) = (Config::default(), Arc::new(Identities::default()));
        let goal = Goal::Time(ms);
        let replay = Replay::prepare(&config, &self.store, MASTER, None, &goal, &identities).await;
        let mut replay = replay.map_err(|error| error.to_string())?;
        let mut stream = Vec::new();
        while let Some(chunk) = replay.chunk().map_err(|error| error.to_string())? {
            stream.extend_from_slice(&chunk);
        }
        Ok(stream)
    }
}

/// Each kind of store to each other.
async fn pairs() -> Vec<(Shelf, Shelf)> {
    vec![
        (Shelf::in_bucket().await, Shelf::in_folder()),
        (Shelf::in_folder(), Shelf::in_bucket().await),
        (Shelf::in_bucket().await, Shelf::in_bucket().await),
    ]
}

#[tokio::test]
async fn every_byte_is_copied_once() {
    let recipients = [age::x25519::Identity::generate().to_public().to_string()];
    for (from, to) in pairs().await {
        let old = from.keep(&rdb(5_000, 1), &[], "2026-11-19T03:00:00Z").await;
        // Of more than one part of an upload, and nobody here has the key.
        let new = from.keep(&bytes(9_000_000, 2), &recipients, "2026-11-20T03:00:00Z").await;

        let latest = from.copy(&to, &["--json"]).await.json();
        assert_eq!((&latest[0]["id"], &latest[0]["copied"]), (&Value::from(new.id.as_str()), &Value::Bool(true)));
        assert_eq!(to.objects().await.len(), 2, "the latest alone");
        let all = from.copy(&to, &["--all"]).await;
        assert_eq!(all.code, Some(0), "{all:?}");
        for told in [format!("there already  {}", new.id), format!("copied  {}", old.id), "1 copied (".to_owned()] {
            assert!(all.out.contains(&told), "{told} in {all:?}");
        }
        let copied = to.objects().await;
        assert!(copied == from.objects().await, "not the same");
        let again = from.copy(&to, &["--all", "--json"]).await.json();
        assert_eq!(again.last().unwrap()["there"], 2);
        assert_eq!(again.last().unwrap()["copied"], 0);
        assert!(to.objects().await == copied);
        assert_eq!(to.run(&["verify", &old.id]).await.code, Some(0), "the second store stands by itself");
    }
}

#[tokio::test]
async fn what_is_to_be_copied_is_chosen() {
    let (from, to) = (Shelf::in_folder(), Shelf::in_folder());
    let nothing = from.copy(&to, &["--all"]).await;
    assert!(nothing.code == Some(85) && nothing.told.contains("no such backup to copy"), "{nothing:?}");
    let now = Timestamp::now();
    let old = from.keep(&rdb(5_000, 1), &[], "2026-01-19T03:00:00Z").await;
    let young = from.keep(&rdb(5_000, 2), &[], &(now - Duration::from_secs(3 * 86_400)).to_string()).await;
    let new = from.keep(&rdb(5_000, 3), &[], &(now - Duration::from_secs(3_600)).to_string()).await;
    let ids = async || {
        let backups = catalog::list(&to.store, None).await.unwrap();
        backups.into_iter().map(|backup| backup.id).collect::<Vec<_>>()
    };
    assert_eq!(from.copy(&to, &["--since", "2d"]).await.code, Some(0));
    assert_eq!(ids().await, [new.id.as_str()]);
    assert_eq!(from.copy(&to, &["--since", "4d"]).await.code, Some(0));
    assert_eq!(ids().await, [young.id.as_str(), new.id.as_str()]);
    assert_eq!(from.copy(&to, &[&old.id]).await.code, Some(0));
    assert_eq!(ids().await, [old.id.as_str(), young.id.as_str(), new.id.as_str()]);

    let there = to.store.location().to_string();
    assert_eq!(from.run(&["copy", "--to", &there]).await.code, Some(0), "without a file, as the first one is reached");
    for (arguments, told) in [
        (vec!["copy"], "--to"),
        (vec!["copy", "--to", &from.store.location().to_string()], "is the store that is copied"),
        (vec!["copy", "--to", &there, "--to-config", "/nowhere.toml"], "/nowhere.toml"),
        (vec!["copy", "--to-config", "/dev/null"], "has no backup_store"),
        (vec!["copy", "--to", &there, "--all", "--since", "2d"], "--since"),
    ] {
        let refused = from.run(&arguments).await;
        assert!(refused.code == Some(64) && refused.told.contains(told), "{refused:?}");
    }
}

/// The first store's key is in the environment: it must not be tried on the second account, and no secret is shown.
#[tokio::test]
async fn the_second_account_has_its_own_key() {
    let (from, to) = (Shelf::in_bucket().await, Shelf::in_bucket().await);
    from.keep(&rdb(5_000, 1), &[], "2026-11-20T03:00:00Z").await;
    let config = to.config_file("another-secret");
    let refused = from.run(&["copy", "--to-config", config.to_str().unwrap()]).await;
    assert!(refused.code == Some(83) && refused.told.contains("signature does not match"), "{refused:?}");
    assert!(refused.told.contains(&to.bucket.as_ref().unwrap().addr.to_string()), "{refused:?}");
    assert!(!refused.told.contains("another-secret") && !refused.told.contains(SECRET), "{refused:?}");
}

#[tokio::test]
async fn a_copy_that_was_killed_goes_on() {
    for last in ["manifest", ".rdb.zst", "stream"] {
        let (from, to) = (Shelf::in_folder(), Shelf::in_bucket().await);
        from.keep(&rdb(5_000, 1), &[], "2026-11-19T03:00:00Z").await;
        // Of more than one part, where that is what is waited for.
        let length = if last == ".rdb.zst" { 9_000_000 } else { 5_000 };
        from.keep(&rdb(length, 2), &[], "2026-11-20T03:00:00Z").await;
        from.segment(4_700, &[&["SET", "a", "1"]], 1_795_144_500_000).await;
        let faults = to.bucket.as_ref().unwrap().faults.clone();
        *faults.only.lock().unwrap() = last.to_owned();
        faults.stall_uploads.store(true, Ordering::Relaxed);

        let config = to.config_file(SECRET);
        let mut command = from.command(&["copy", "--all", "--to-config", config.to_str().unwrap()]);
        let mut child = command.stdout(std::process::Stdio::null()).spawn().unwrap();
        let stalled = async || match faults.stalled.load(Ordering::Relaxed) {
            0 => Err("none".to_owned()),
            _ => Ok(()),
        };
        until("an upload that waits", LIMIT, stalled).await.unwrap();
        child.kill().await.unwrap();
        for backup in catalog::list(&to.store, None).await.unwrap() {
            assert_eq!(to.run(&["verify", &backup.id]).await.code, Some(0), "what has a manifest is whole");
        }
        let whole = from.objects().await;
        assert!(to.objects().await.len() < whole.len(), "killed before {last} was written");

        faults.stall_uploads.store(false, Ordering::Relaxed);
        let again = from.copy(&to, &["--all"]).await;
        assert_eq!(again.code, Some(0), "{again:?}");
        assert!(to.objects().await == whole, "not the same after {last}");
    }
}

#[tokio::test]
async fn what_is_damaged_is_named_and_stays_where_it_is() {
    for (from, to) in pairs().await {
        let mut manifests = Vec::new();
        for day in 15..=19 {
            manifests.push(from.keep(&rdb(5_000, day), &[], &format!("2026-11-{day}T03:00:00Z")).await);
        }
        let data = |at: usize| catalog::object_name(MASTER, &manifests[at].object);
        let flip = |shelf: &Shelf, name: &str| {
            let mut bytes = fs::read(shelf.path(name)).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(shelf.path(name), bytes).unwrap();
        };
        flip(&from, &data(0));
        fs::remove_file(from.path(&data(1))).unwrap();
        flip(&from, &catalog::manifest_name(MASTER, &manifests[2].id));
        // Of the fourth another one is there already.
        to.store.put_over(&data(3), b"something else".to_vec()).await.unwrap();

        let ran = from.copy(&to, &["--all"]).await;
        assert_eq!(ran.code, Some(82), "{ran:?}");
        let refused: Vec<&str> = ran.out.lines().filter(|line| line.starts_with("NOT COPIED")).collect();
        assert_eq!(refused.len(), 4, "{ran:?}");
        for (at, told) in
            [(0, "is not what was stored"), (1, "its data is gone"), (2, "its manifest"), (3, "left as it is")]
        {
            let named = refused.iter().any(|line| line.contains(&manifests[at].id) && line.contains(told));
            assert!(named, "{told} in {ran:?}");
        }
        let ids: Vec<String> = catalog::list(&to.store, None).await.unwrap().into_iter().map(|it| it.id).collect();
        assert_eq!(ids, [manifests[4].id.as_str()]);
        let mut expected = vec![data(3), data(4), catalog::manifest_name(MASTER, &manifests[4].id)];
        expected.sort();
        let there: Vec<String> = to.objects().await.into_iter().map(|(name, _)| name).collect();
        assert_eq!(there, expected, "nothing of the others");
        assert_eq!(fs::read(to.path(&data(3))).unwrap(), b"something else");
        let one = from.copy(&to, &[&manifests[0].id]).await;
        assert!(one.code == Some(82) && one.told.contains(&data(0)), "{one:?}");
    }
}

#[tokio::test]
async fn every_moment_can_be_reached_from_the_second_store() {
    for (from, to) in pairs().await {
        let base = from.keep(&rdb(5_000, 1), &[], "2026-11-20T03:14:00Z").await;
        let at = base.created.as_millisecond() as u64;
        let first = from.segment(4_700, &[&["SET", "a", "1"], &["SET", "b", "2"]], at + 10_000).await;
        let second = from.segment(first.name.to, &[&["SET", "a", "3"]], at + 20_000).await;
        // Before any base: of no use to anybody.
        from.segment(100, &[&["SET", "z", "0"]], at - 10_000).await;
        let ran = from.copy(&to, &[]).await;
        assert!(ran.code == Some(0) && ran.out.contains("2 segments of the stream"), "{ran:?}");
        for ms in [at, at + 10_000, at + 20_000] {
            assert_eq!(to.replayed(ms).await.unwrap(), from.replayed(ms).await.unwrap());
        }

        // A later base, and what came between: a copy of the latest leaves no gap behind it.
        let third = from.segment(second.name.to, &[&["SET", "c", "4"]], at + 30_000).await;
        let (stored, mut later) = packed(&rdb(5_000, 2), &[], "2026-11-20T03:14:40Z");
        later.source.offset = third.name.to;
        from.put(&later, stored).await;
        let ran = from.copy(&to, &["latest"]).await;
        assert!(ran.code == Some(0) && ran.out.contains("1 segment of the stream"), "{ran:?}");
        assert_eq!(to.replayed(at + 30_000).await.unwrap(), from.replayed(at + 30_000).await.unwrap());

        // What is damaged is not copied, and what differs is left.
        let fourth = from.segment(third.name.to, &[&["SET", "d", "5"]], at + 50_000).await;
        let name = shipper::object(MASTER, &fourth);
        let mut bytes = fs::read(from.path(&name)).unwrap();
        let end = bytes.len() - 6;
        bytes[end] ^= 1;
        fs::write(from.path(&name), bytes).unwrap();
        to.store.put_over(&shipper::object(MASTER, &first), b"something else".to_vec()).await.unwrap();
        let ran = from.copy(&to, &[]).await;
        assert_eq!(ran.code, Some(82), "{ran:?}");
        for told in [&name, &shipper::object(MASTER, &first)] {
            assert!(
                ran.out.lines().any(|line| line.starts_with("NOT COPIED") && line.contains(told)),
                "{told}: {ran:?}"
            );
        }
        assert_eq!(to.store.size(&name).await.unwrap(), None);
        assert_eq!(to.store.get(&shipper::object(MASTER, &first)).await.unwrap().unwrap(), b"something else");
    }
}

#[tokio::test]
async fn a_copy_is_restored() {
    let (from, to) = (Shelf::in_bucket().await, Shelf::in_folder());
    let source = Lone::start(&[]).await;
    let mut wire = source.open(0).await;
    for number in 0..100 {
        ask(&mut wire, &["SET", &format!("key:{number}"), &number.to_string()]).await;
    }
    let plain = fs::read(source.save().await).unwrap();
    let manifest = from.keep(&plain, &[], "2026-11-20T03:00:00Z").await;
    assert_eq!(from.copy(&to, &[]).await.code, Some(0));
    drop(from);
    let target = Lone::start(&[]).await;
    let address = target.addr.to_string();
    let ran = to.run(&["restore", &manifest.id, "--target", &address, "--yes", "--no-safety-backup"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let mut wire = target.open(0).await;
    assert_eq!(ask(&mut wire, &["DBSIZE"]).await, Reply::Integer(100));
    assert_eq!(ask(&mut wire, &["GET", "key:42"]).await, Reply::Bulk(b"42".to_vec()));
}
