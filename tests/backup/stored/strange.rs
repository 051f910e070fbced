//! What lies in a folder and is no backup, whatever it is called: it is told of, and hides nothing else.

use std::os::unix::fs::symlink;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::*;

/// Longer than anything here takes; what waits for a named pipe waits for ever.
const LIMIT: Duration = Duration::from_secs(60);

impl Shelf {
    async fn in_time(&self, arguments: &[&str]) -> Ran {
        let ran = tokio::time::timeout(LIMIT, self.run(arguments)).await;
        ran.unwrap_or_else(|_| panic!("{arguments:?} does not end"))
    }
}

fn pipe(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
}

/// In place of a manifest.
#[tokio::test]
async fn a_manifest_that_is_no_file_ends_nothing_for_the_others() {
    type Put = fn(&Path);
    let strange: [(&str, Put); 6] = [
        ("a named pipe", pipe),
        ("a folder", |path| fs::create_dir(path).unwrap()),
        ("leads in a circle", |path| symlink(path, path).unwrap()),
        ("leads nowhere", |path| symlink("/nowhere/at/all", path).unwrap()),
        ("21000000 bytes", |path| fs::File::create_new(path).unwrap().set_len(21_000_000).unwrap()),
        ("ermission denied", |path| {
            fs::write(path, "{}").unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o000)).unwrap();
        }),
    ];
    for (told, put) in strange {
        let shelf = Shelf::in_folder();
        let old = shelf.keep(&rdb(1_000, 1), &[], "2026-11-18T03:00:00Z").await;
        let other = shelf.keep(&rdb(1_000, 2), &[], "2026-11-19T03:00:00Z").await;
        let new = shelf.keep(&rdb(1_000, 3), &[], "2026-11-20T03:00:00Z").await;
        let manifest = shelf.path(&catalog::manifest_name(MASTER, &other.id));
        fs::remove_file(&manifest).unwrap();
        put(&manifest);
        if told == "ermission denied" && fs::read(&manifest).is_ok() {
            eprintln!("SKIPPED: nothing is forbidden to this user");
            continue;
        }
        // Its data is old enough to be taken for what an interrupted run left.
        let data = fs::File::options().write(true).open(shelf.path(&catalog::object_name(MASTER, &other.object)));
        data.unwrap().set_modified(std::time::SystemTime::now() - Duration::from_secs(3 * 86_400)).unwrap();

        let listed = shelf.in_time(&["list"]).await;
        assert_eq!(listed.code, Some(83), "{told}: {listed:?}");
        for (id, says) in [(&old.id, "never"), (&other.id, told), (&new.id, "never")] {
            assert!(listed.out.lines().any(|line| line.starts_with(id) && line.contains(says)), "{told}: {listed:?}");
        }
        let checked = shelf.in_time(&["verify", "--all"]).await;
        assert!(checked.code == Some(82) && checked.told.contains("1 of 3"), "{told}: {checked:?}");
        assert_eq!(checked.out.matches("sound  ").count(), 2, "{told}: {checked:?}");
        let pruned = shelf.in_time(&["prune", "--keep-last", "1"]).await;
        assert!(pruned.code == Some(83) && pruned.out.contains("1 deleted"), "{told}: {pruned:?}");
        assert!(!shelf.path(&catalog::object_name(MASTER, &old.object)).exists(), "{told}");
        assert!(shelf.path(&catalog::object_name(MASTER, &other.object)).exists(), "{told}: its data stays");
        assert_eq!(shelf.in_time(&["show", "--json"]).await.json()[0]["id"], new.id.as_str(), "{told}");
    }
}

/// Anywhere else: beside the backups, above them, among the segments of a stream and the locks.
#[tokio::test]
async fn what_lies_about_in_a_folder_ends_nothing() {
    let shelf = Shelf::in_folder();
    let manifest = shelf.keep(&rdb(1_000, 1), &[], "2026-11-20T03:00:00Z").await;
    let segments = format!("{MASTER}/stream/20261120T025958Z-01234567-96");
    let name = format!("{:016}-{:016}-20261120T030008.104Z-{}.seg.zst", 96, 200, "01234567".repeat(5));
    fs::create_dir_all(shelf.path(&segments)).unwrap();
    pipe(&shelf.path(&format!("{segments}/{name}")));
    for place in ["", MASTER, &segments] {
        pipe(&shelf.path(place).join("a pipe"));
        symlink("a circle", shelf.path(place).join("a circle")).unwrap();
        symlink(shelf.path(place), shelf.path(place).join("itself")).unwrap();
        fs::write(shelf.path(place).join("an odd\nname"), "").unwrap();
        fs::create_dir(shelf.path(place).join("lost+found")).unwrap();
    }
    fs::create_dir(shelf.path("mymaster/lock")).unwrap();
    pipe(&shelf.path("mymaster/lock/7.json"));
    let listed = shelf.in_time(&["list"]).await;
    assert!(listed.code == Some(0) && listed.out.contains(&manifest.id), "{listed:?}");
    let checked = shelf.in_time(&["verify", "--all"]).await;
    assert!(checked.code == Some(82) && checked.out.contains(&format!("sound  {}", manifest.id)), "{checked:?}");
    assert!(checked.out.contains("DAMAGED") && checked.out.contains("is a named pipe"), "{checked:?}");
    let pruned = shelf.in_time(&["prune", "--keep-last", "1"]).await;
    assert!(pruned.out.contains("1 kept"), "{pruned:?}");
    let missing = format!("{MASTER}/{}", "20261121T030000Z-01234567-1.rdb.zst");
    assert_eq!(shelf.store.size(&missing).await.unwrap(), None);
}

/// The folder of one master of several.
#[tokio::test]
async fn a_folder_that_may_not_be_looked_into_hides_no_other() {
    let shelf = Shelf::in_folder();
    let manifest = shelf.keep(&rdb(1_000, 1), &[], "2026-11-20T03:00:00Z").await;
    let secret = shelf.path("another");
    fs::create_dir(&secret).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::read_dir(&secret).is_ok() {
        return eprintln!("SKIPPED: nothing is forbidden to this user");
    }
    for arguments in [&["list"][..], &["verify", "--all"], &["prune", "--keep-last", "1"]] {
        let ran = shelf.in_time(arguments).await;
        assert!(ran.code == Some(83) && ran.out.contains(&manifest.id), "{arguments:?}: {ran:?}");
        assert!(ran.told.contains("another") && ran.told.contains("ermission denied"), "{arguments:?}: {ran:?}");
    }
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(shelf.in_time(&["list"]).await.code, Some(0));
}
