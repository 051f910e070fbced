//! What is damaged stands for nothing: it is passed over, and no sound backup goes in its favour.

use switchmaster::backup::follow;

use super::*;

impl Shelf {
    /// Flips a bit of the data.
    fn damage(&self, manifest: &Manifest) {
        let path = self.path(&catalog::object_name(MASTER, &manifest.object));
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
    }

    async fn ids(&self) -> Vec<String> {
        catalog::list(&self.store, None).await.unwrap().into_iter().map(|backup| backup.id).collect()
    }
}

#[tokio::test]
async fn prune_keeps_the_sound_one_and_drops_the_damaged_one() {
    for shelf in Shelf::both().await {
        let mut manifests = Vec::new();
        for day in 17..=20 {
            manifests.push(shelf.keep(&rdb(1_000, day), &[], &format!("2026-11-{day}T03:00:00Z")).await);
        }
        let id = |at: usize| manifests[at].id.as_str();
        assert_eq!(shelf.run(&["verify", id(0)]).await.code, Some(0));
        assert_eq!(shelf.run(&["verify", id(3)]).await.code, Some(0));
        shelf.damage(&manifests[3]);
        assert_eq!(shelf.run(&["verify", "--all"]).await.code, Some(82));

        // The verified marks of the check above are on all but the damaged one.
        let pruned = shelf.run(&["prune", "--keep-last", "1"]).await;
        assert!(pruned.code == Some(0) && pruned.out.contains("no newer one is sound"), "{pruned:?}");
        assert_eq!(shelf.ids().await, [id(2), id(3)]);

        // What is gone needs no check.
        fs::remove_file(shelf.path(&catalog::object_name(MASTER, &manifests[2].object))).unwrap();
        let newest = shelf.keep(&rdb(1_000, 21), &[], "2026-11-21T03:00:00Z").await;
        let pruned = shelf.run(&["prune", "--keep-last", "3"]).await;
        for told in ["damaged: its data is gone", "damaged: found by a check", "1 kept, 2 deleted"] {
            assert!(pruned.out.contains(told), "{told}: {pruned:?}");
        }
        assert_eq!(shelf.ids().await, [newest.id.as_str()]);
        assert_eq!(shelf.store.list(MASTER).await.unwrap().len(), 2, "no mark is left");
    }
}

#[tokio::test]
async fn latest_passes_over_what_is_damaged_and_says_so() {
    let shelf = Shelf::in_folder();
    let old = shelf.keep(&rdb(1_000, 1), &[], "2026-11-19T03:00:00Z").await;
    let new = shelf.keep(&rdb(1_000, 2), &[], "2026-11-20T03:00:00Z").await;
    shelf.damage(&new);
    let shown = shelf.run(&["show", "--json"]).await;
    assert_eq!(shown.json()[0]["id"], new.id.as_str(), "nobody knows yet");
    assert_eq!(shelf.run(&["verify"]).await.code, Some(82));
    let shown = shelf.run(&["show", "--json"]).await;
    assert_eq!(shown.json()[0]["id"], old.id.as_str());
    assert!(shown.told.contains(&format!("passed over {}", new.id)), "{shown:?}");
    assert_eq!(shelf.run(&["show", &new.id]).await.code, Some(0));
    let timeline = follow::read(&shelf.store, MASTER, []).await.unwrap();
    let at = |manifest: &Manifest| manifest.created.as_millisecond() as u64;
    assert_eq!(timeline.to(at(&old)).unwrap().base.id, old.id);
    assert!(timeline.to(at(&new)).is_err(), "no base of a restore to a moment");
    let unreadable = shelf.keep(&rdb(1_000, 3), &[], "2026-11-21T03:00:00Z").await;
    fs::write(shelf.path(&catalog::manifest_name(MASTER, &unreadable.id)), "{").unwrap();
    let shown = shelf.run(&["show", "--json"]).await;
    assert_eq!(shown.json()[0]["id"], old.id.as_str());
    assert!(shown.told.contains(&format!("passed over {}: its manifest", unreadable.id)), "{shown:?}");
    fs::remove_file(shelf.path(&catalog::manifest_name(MASTER, &unreadable.id))).unwrap();
    // With nothing else left, the newest is looked at all the same.
    fs::remove_file(shelf.path(&catalog::object_name(MASTER, &old.object))).unwrap();
    let checked = shelf.run(&["verify"]).await;
    assert!(checked.code == Some(82) && checked.told.contains(&new.id), "{checked:?}");
}

#[tokio::test]
async fn a_store_that_takes_no_marks_hears_what_was_found_all_the_same() {
    let bucket = Bucket::start().await;
    let store = bucket.store();
    let shelf = Shelf { folder: tempfile::tempdir().unwrap(), bucket: Some(bucket), store };
    let manifest = shelf.keep(&rdb(1_000, 1), &[], "2026-11-20T03:00:00Z").await;
    let refuse = &shelf.bucket.as_ref().unwrap().faults.refuse_uploads;
    refuse.store(true, std::sync::atomic::Ordering::Relaxed);
    let sound = shelf.run(&["verify"]).await;
    assert!(sound.code == Some(0) && sound.out == format!("sound  {}\n", manifest.id), "{sound:?}");
    assert!(sound.told.contains("could not be marked") && sound.told.contains("access denied"), "{sound:?}");
    shelf.damage(&manifest);
    let damaged = shelf.run(&["verify"]).await;
    assert!(damaged.code == Some(82) && damaged.told.contains("not what was stored"), "{damaged:?}");
}

/// Its bytes are those that were published: what this host makes of them says nothing against them.
#[tokio::test]
async fn what_is_too_new_for_this_host_is_not_damaged() {
    let shelf = Shelf::in_folder();
    let mut newer = rdb(1_000, 1);
    newer[..9].copy_from_slice(b"REDIS9999");
    let known = shelf.keep(&newer, &[], "2026-11-19T03:00:00Z").await;
    // A type that no version has yet, where the type of the first key stands.
    newer[11] = 99;
    let unknown = shelf.keep(&newer, &[], "2026-11-20T03:00:00Z").await;
    let checked = shelf.run(&["verify", &known.id]).await;
    assert_eq!(checked.code, Some(0), "{checked:?}");
    let drilled = shelf.run(&["verify", "--drill", &known.id]).await;
    assert!(drilled.code == Some(82) && drilled.out.starts_with("NOT LOADED"), "{drilled:?}");
    let checked = shelf.run(&["verify", &unknown.id]).await;
    assert!(checked.code == Some(87) && checked.told.contains("newer than this switchmaster"), "{checked:?}");
    for line in shelf.run(&["list", "--json"]).await.json() {
        assert_eq!(line["damaged"], Value::Null, "{line}");
    }
}
