//! Pruning where nothing can be written: on a full disk, where it is needed most, and on one that is read-only.

use super::*;

/// `switchmaster backup prune --keep-last 1` on a disk of its own with the backups of `shelf`, after `prepare` (a shell
/// command in the folder); then what is left in the folder of the master.
async fn pruned(shelf: &Shelf, prepare: &str) -> Option<Ran> {
    let script = format!(
        "mount -t tmpfs -o size=1m none \"$DISK\" && cp -R \"$SHELF/.\" \"$DISK\" && cd \"$DISK\" && {{ {prepare}; }} \
         && \"$PROGRAM\" backup prune --keep-last 1 --store \"file://$DISK\"; code=$?; ls \"$DISK/{MASTER}\"; exit $code"
    );
    let disk = tempfile::tempdir().unwrap();
    let isolated = ["--user", "--map-root-user", "--mount"];
    let probe = Command::new("unshare").args(isolated).args(["mount", "-t", "tmpfs", "none"]).arg(disk.path()).output();
    if !probe.await.is_ok_and(|probe| probe.status.success()) {
        eprintln!("SKIPPED: nothing can be mounted");
        return None;
    }
    let Output { status, stdout, stderr } = Command::new("unshare")
        .args(isolated)
        .args(["sh", "-c", &script])
        .env("SWITCHMASTER_CONFIG", "/dev/null")
        .env("PROGRAM", env!("CARGO_BIN_EXE_switchmaster"))
        .env("DISK", disk.path())
        .env("SHELF", shelf.folder.path())
        .output()
        .await
        .unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Some(Ran { code: status.code(), out: text(&stdout), told: text(&stderr) })
}

#[tokio::test]
async fn a_full_disk_can_be_pruned() {
    let shelf = Shelf::in_folder();
    let old = shelf.keep(&rdb(90_000, 1), &[], "2026-11-19T03:00:00Z").await;
    let new = shelf.keep(&rdb(1_000, 2), &[], "2026-11-20T03:00:00Z").await;
    let fill = "cat /dev/zero > fill 2> /dev/null; ! echo x > probe";
    let Some(ran) = pruned(&shelf, fill).await else { return };
    assert!(ran.code == Some(0) && ran.out.contains("1 kept, 1 deleted"), "{ran:?}");
    assert!(!ran.out.contains(&old.object) && ran.out.contains(&new.object), "{ran:?}");
    assert!(ran.told.contains("No space left on device"), "{ran:?}");
}

#[tokio::test]
async fn a_read_only_disk_is_told_and_what_would_go_is_said_all_the_same() {
    let shelf = Shelf::in_folder();
    let old = shelf.keep(&rdb(1_000, 1), &[], "2026-11-19T03:00:00Z").await;
    shelf.keep(&rdb(1_000, 2), &[], "2026-11-20T03:00:00Z").await;
    let Some(ran) = pruned(&shelf, "mount -o remount,ro \"$DISK\"").await else { return };
    assert!(ran.code == Some(83) && ran.out.contains("2 kept, 0 deleted"), "{ran:?}");
    assert!(ran.out.contains(&format!("kept  {}  could not be deleted: ", old.id)), "{ran:?}");
    assert!(ran.told.contains("Read-only file system") && ran.out.contains(&old.object), "{ran:?}");
}
