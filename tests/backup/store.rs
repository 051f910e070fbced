//! The store, over a folder and over a service that checks signatures, with what goes wrong on the way.

use std::io::Read;
use std::sync::atomic::Ordering;
use std::time::Duration;

use switchmaster::backup::store::{Limits, Put, Store};
use switchmaster::config::{BackupConfig, Location};
use switchmaster::secret::Secret;
use tempfile::TempDir;
use tokio::process::Command;

use crate::support::bucket::{BUCKET, Bucket, KEY_ID, SECRET, limits};
use crate::support::samples::{bytes, file};

/// A folder and a bucket, empty.
struct Places {
    folder: TempDir,
    bucket: Bucket,
}

impl Places {
    async fn new() -> Places {
        Places { folder: tempfile::tempdir().unwrap(), bucket: Bucket::start().await }
    }

    fn both(&self) -> [Store; 2] {
        [in_folder(&self.folder), self.bucket.store()]
    }
}

fn in_folder(folder: &TempDir) -> Store {
    let location = Location::Folder(folder.path().to_owned());
    Store::with_limits(&BackupConfig::default(), Some(&location), limits()).unwrap()
}

async fn whole(store: &Store, name: &str) -> Vec<u8> {
    let mut incoming = store.get_stream(name).await.unwrap();
    let read = tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        incoming.read_to_end(&mut bytes).map(|_| bytes)
    });
    read.await.unwrap().unwrap()
}

#[tokio::test]
async fn what_is_written_is_read_listed_and_deleted() {
    let places = Places::new().await;
    for store in places.both() {
        let (small, large) = (bytes(1_000, 1), bytes(12_000_000, 2));
        let mut heard = Vec::new();
        let sent = store.put_file("m/small", file(&small), &mut |bytes| heard.push(bytes)).await.unwrap();
        assert_eq!((sent, heard.as_slice()), (1_000, &[1_000][..]));
        heard.clear();
        let sent = store.put_file("m/large", file(&large), &mut |bytes| heard.push(bytes)).await.unwrap();
        assert_eq!(sent, 12_000_000);
        assert!(heard.len() == 3 && heard.is_sorted() && heard[2] == 12_000_000, "{heard:?}");
        assert!(whole(&store, "m/large").await == large);
        assert_eq!(store.get("m/small").await.unwrap().unwrap(), small);
        store.put_over("other/x", b"x".to_vec()).await.unwrap();

        let names = |objects: Vec<switchmaster::backup::store::Object>| {
            objects.into_iter().map(|object| (object.name, object.bytes)).collect::<Vec<_>>()
        };
        let (m, all) = (names(store.list("m").await.unwrap()), names(store.list("").await.unwrap()));
        assert_eq!(m, [("m/large".to_owned(), 12_000_000), ("m/small".to_owned(), 1_000)]);
        assert_eq!(all.len(), 3);
        assert_eq!(store.list("nobody").await.unwrap(), []);

        store.delete("m/large").await.unwrap();
        store.delete("m/large").await.unwrap();
        assert_eq!(store.size("m/large").await.unwrap(), None);
        assert_eq!(store.get("m/large").await.unwrap(), None);
        assert_eq!(store.get_stream("m/large").await.unwrap_err().exit_code(), 85);
    }
}

#[tokio::test]
async fn a_name_is_written_once() {
    let places = Places::new().await;
    for store in places.both() {
        assert!(store.probe().await.unwrap().create_only, "{}", store.location());
        assert_eq!(store.put_new("m/x", b"first".to_vec()).await.unwrap(), Put::Created);
        assert_eq!(store.put_new("m/x", b"second".to_vec()).await.unwrap(), Put::Exists);
        // The answer was lost and the request is sent again: it is still ours.
        assert_eq!(store.put_new("m/x", b"first".to_vec()).await.unwrap(), Put::Created);
        assert_eq!(store.get("m/x").await.unwrap().unwrap(), b"first");
        for length in [100, 6_000_000] {
            let name = format!("m/{length}");
            store.put_file(&name, file(&bytes(length, 3)), &mut |_| {}).await.unwrap();
            let again = store.put_file(&name, file(&bytes(length, 4)), &mut |_| {}).await.unwrap_err();
            assert!(again.exit_code() == 83 && again.to_string().contains("exists already"), "{again}");
            assert!(whole(&store, &name).await == bytes(length, 3));
        }
        assert_eq!(store.list("probe").await.unwrap(), [], "the probe leaves nothing");
        let (first, second) = (store.clone(), store.clone());
        let race = tokio::join!(first.put_new("m/race", b"a".to_vec()), second.put_new("m/race", b"b".to_vec()));
        let created = [race.0.unwrap(), race.1.unwrap()].into_iter().filter(|put| *put == Put::Created).count();
        assert_eq!(created, 1);
    }
}

#[tokio::test]
async fn a_service_without_conditional_writes_is_found_out() {
    for refuses in [true, false] {
        let bucket = Bucket::start().await;
        let fault = if refuses { &bucket.faults.refuse_conditions } else { &bucket.faults.ignore_conditions };
        fault.store(true, Ordering::Relaxed);
        let store = bucket.store();
        assert!(!store.probe().await.unwrap().create_only);
        assert_eq!(store.put_new("m/x", b"first".to_vec()).await.unwrap(), Put::Created);
        assert_eq!(store.put_new("m/x", b"second".to_vec()).await.unwrap(), Put::Exists);
        assert_eq!(store.get("m/x").await.unwrap().unwrap(), b"first");
    }
    let bucket = Bucket::start().await;
    bucket.faults.refuse_conditions.store(true, Ordering::Relaxed);
    let unprobed = bucket.store();
    assert_eq!(unprobed.put_new("m/x", b"first".to_vec()).await.unwrap(), Put::Created);
}

#[tokio::test]
async fn a_few_errors_are_got_over_and_many_are_told() {
    let bucket = Bucket::start().await;
    let store = bucket.store();
    let large = bytes(12_000_000, 5);
    for (errors, cut) in [(2, 0), (0, 2)] {
        bucket.faults.errors.store(errors, Ordering::Relaxed);
        bucket.faults.cut.store(cut, Ordering::Relaxed);
        let name = format!("m/{errors}-{cut}");
        store.put_file(&name, file(&large), &mut |_| {}).await.unwrap();
        bucket.faults.errors.store(errors, Ordering::Relaxed);
        assert!(whole(&store, &name).await == large);
    }
    *bucket.faults.only.lock().unwrap() = "partNumber=2".to_owned();
    bucket.faults.errors.store(1_000, Ordering::Relaxed);
    let failed = store.put_file("m/failed", file(&large), &mut |_| {}).await.unwrap_err();
    let told = failed.to_string();
    assert!(failed.exit_code() == 83 && told.contains("500") && told.contains("m/failed"), "{told}");
    assert!(told.contains(&bucket.addr.to_string()) && told.contains("s3://backups/some/prefix"), "{told}");
    assert_eq!(store.size("m/failed").await.unwrap(), None);
}

#[tokio::test]
async fn a_stalled_upload_and_a_stalled_download_end() {
    let bucket = Bucket::start().await;
    let limits = Limits { stall: Duration::from_secs(2), ..limits() };
    let store = Store::with_limits(&bucket.config(), None, limits).unwrap();
    store.put_over("m/there", bytes(100_000, 6)).await.unwrap();
    bucket.faults.stall_uploads.store(true, Ordering::Relaxed);
    for length in [1_000, 12_000_000] {
        let mut quiet = |_| {};
        let upload = store.put_file("m/stalled", file(&bytes(length, 6)), &mut quiet);
        let ended = tokio::time::timeout(Duration::from_secs(60), upload).await.expect("an end");
        let told = ended.unwrap_err();
        assert!(told.exit_code() == 83 && told.to_string().contains("no progress for 2 s"), "{told}");
    }
    bucket.faults.stall_uploads.store(false, Ordering::Relaxed);
    assert_eq!(store.size("m/stalled").await.unwrap(), None);

    bucket.faults.stall_downloads.store(true, Ordering::Relaxed);
    let read = async {
        let mut incoming = store.get_stream("m/there").await?;
        while let Some(chunk) = incoming.next().await {
            chunk?;
        }
        Ok::<_, switchmaster::backup::Error>(())
    };
    let ended = tokio::time::timeout(Duration::from_secs(60), read).await.expect("an end");
    assert_eq!(ended.unwrap_err().exit_code(), 83);
}

#[tokio::test]
async fn what_is_wrong_is_said_with_what_to_do() {
    let bucket = Bucket::start().await;
    let told = async |change: &dyn Fn(&mut BackupConfig)| {
        let mut config = bucket.config();
        change(&mut config);
        let limits = Limits { retries: 1, ..limits() };
        let store = Store::with_limits(&config, None, limits).unwrap();
        let listed = store.list("").await.unwrap_err();
        assert_eq!(listed.exit_code(), 83);
        // s3s-fs makes a folder of a bucket that is not there.
        let written = store.put_new("m/x", b"x".to_vec()).await;
        [listed.to_string()].into_iter().chain(written.err().map(|error| error.to_string())).collect::<Vec<_>>()
    };
    let secret = told(&|config| config.s3_secret_access_key = Some(Secret::new("wrong"))).await;
    let key = told(&|config| config.s3_access_key_id = Some("AKIANOBODY".to_owned())).await;
    let missing = told(&|config| config.store = Some("s3://no-such-bucket".parse().unwrap())).await;
    let nobody = told(&|config| config.s3_endpoint = Some("http://127.0.0.1:9".to_owned())).await;
    assert_eq!([secret.len(), key.len(), nobody.len()], [2, 2, 2]);
    for text in &secret {
        assert!(text.contains("signature does not match: check backup_s3_secret_access_key"), "{text}");
        assert!(!text.contains("wrong") && !text.contains(SECRET), "{text}");
    }
    for text in &key {
        assert!(text.contains("check backup_s3_access_key_id"), "{text}");
    }
    for text in &missing {
        assert!(text.contains("no such bucket: create it"), "{text}");
    }
    for text in &nobody {
        assert!(text.contains("127.0.0.1:9") && text.to_lowercase().contains("connection refused"), "{text}");
    }
}

#[tokio::test]
async fn a_folder_must_be_there() {
    let folder = tempfile::tempdir().unwrap();
    let open = |path: std::path::PathBuf| Store::open(&BackupConfig::default(), Some(&Location::Folder(path)));
    let told = open(folder.path().join("missing")).unwrap_err();
    assert!(told.exit_code() == 83 && told.to_string().contains("install -d -m 700"), "{told}");
    std::fs::write(folder.path().join("file"), "x").unwrap();
    assert!(open(folder.path().join("file")).unwrap_err().to_string().contains("is not a folder"));
    let told = Store::open(&BackupConfig::default(), None).unwrap_err();
    assert!(told.exit_code() == 64 && told.to_string().contains("backup_store"), "{told}");
}

/// An empty mount point looks like a new store: what is written there would be hidden by what is mounted later.
#[tokio::test]
async fn where_fstab_mounts_something_it_must_be_mounted() {
    let folder = tempfile::tempdir().unwrap();
    let (etc, share) = (folder.path().join("etc"), folder.path().join("a share"));
    std::fs::create_dir(&etc).unwrap();
    std::fs::create_dir_all(share.join("redis")).unwrap();
    let escaped = share.display().to_string().replace(' ', "\\040");
    std::fs::write(etc.join("fstab"), format!("# at home\nproc /proc proc\nnas:/x {escaped} nfs defaults 0 0\n"))
        .unwrap();
    let run = async |mount: &str, store: &std::path::Path| {
        let script = format!(
            "mount --bind \"$ETC\" /etc && {mount} && exec {} backup list --store \"file://$STORE\"",
            env!("CARGO_BIN_EXE_switchmaster")
        );
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script]);
        command.env_clear().env("PATH", std::env::var("PATH").unwrap());
        let output = command.env("ETC", &etc).env("SHARE", &share).env("STORE", store).output().await.unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for store in [share.clone(), share.join("redis")] {
        let (code, told) = run("true", &store).await;
        assert_eq!(code, 83, "{told}");
        assert!(
            told.contains("nothing is mounted at") && told.contains(&format!("`mount {}`", share.display())),
            "{told}"
        );
    }
    assert_eq!(run("mount -t tmpfs none \"$SHARE\"", &share).await, (0, String::new()));
    // Beside it.
    assert_eq!(run("true", &etc).await, (0, String::new()));
}

/// As below a mount point: what is written while it is away would land on another disk.
#[tokio::test]
async fn a_folder_that_goes_away_is_not_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("share");
    std::fs::create_dir(&path).unwrap();
    let location = Location::Folder(path.clone());
    let store = Store::with_limits(&BackupConfig::default(), Some(&location), limits()).unwrap();
    store.put_new("m/x", b"x".to_vec()).await.unwrap();
    std::fs::rename(&path, folder.path().join("away")).unwrap();
    let large = bytes(12_000_000, 7);
    let told = [
        store.put_new("m/y", b"y".to_vec()).await.err(),
        store.put_over("m/x", b"y".to_vec()).await.err(),
        store.put_file("m/large", file(&large), &mut |_| {}).await.err(),
        store.get("m/x").await.err(),
        store.get_stream("m/x").await.err(),
        store.head("m/x").await.err(),
        store.delete("m/x").await.err(),
        store.list("m").await.err(),
        store.list_folder("m").await.err(),
        store.probe().await.err(),
    ];
    for error in told {
        let error = error.expect("an error");
        assert!(error.exit_code() == 83 && error.to_string().contains("no such folder: mount it"), "{error}");
    }
    assert!(!path.exists());
    std::fs::rename(folder.path().join("away"), &path).unwrap();
    assert_eq!(store.get("m/x").await.unwrap().unwrap(), b"x");
    assert_eq!(store.list("").await.unwrap().len(), 1);
}

/// What a killed upload leaves in a folder; the newer one may still be at work.
#[tokio::test]
async fn old_unfinished_uploads_in_a_folder_are_removed() {
    let folder = tempfile::tempdir().unwrap();
    let store = in_folder(&folder);
    std::fs::create_dir(folder.path().join("m")).unwrap();
    for (name, hours) in [("m/old.rdb.zst#1", 25), ("m/new.rdb.zst#1", 1), ("m/old.rdb.zst", 25)] {
        let file = std::fs::File::create(folder.path().join(name)).unwrap();
        file.set_modified(std::time::SystemTime::now() - Duration::from_secs(hours * 3600)).unwrap();
    }
    let before = store.probe().await.unwrap().now - Duration::from_secs(24 * 3600);
    assert_eq!(store.abort_stale_multiparts("m", before).await.unwrap(), 1);
    assert!(!folder.path().join("m/old.rdb.zst#1").exists() && folder.path().join("m/new.rdb.zst#1").exists());
    assert!(folder.path().join("m/old.rdb.zst").exists());
}

#[tokio::test]
async fn s3cmd_reads_what_was_written() {
    let bucket = Bucket::start().await;
    let store = bucket.store();
    let (small, large) = (bytes(1_000, 20), bytes(12_000_000, 21));
    store.put_new("m/x.manifest.json", small.clone()).await.unwrap();
    store.put_file("m/x.rdb.zst", file(&large), &mut |_| {}).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let configuration = folder.path().join("s3cfg");
    let lines = format!(
        "[default]\naccess_key = {KEY_ID}\nsecret_key = {SECRET}\nhost_base = {0}\nhost_bucket = {0}\nuse_https = False\n\
         bucket_location = us-east-1\n",
        bucket.addr
    );
    std::fs::write(&configuration, lines).unwrap();
    let run = async |arguments: &[&str]| {
        let mut command = Command::new("s3cmd");
        command.arg("-c").arg(&configuration).args(["--no-progress"]).args(arguments);
        let output = command.output().await.expect("s3cmd (ci/install-deps test installs it)");
        let told = [output.stdout, output.stderr].concat();
        let told = String::from_utf8_lossy(&told).into_owned();
        assert!(output.status.success(), "{arguments:?}: {told}");
        told
    };
    let listed = run(&["ls", "-r", &format!("s3://{BUCKET}/some/prefix/")]).await;
    assert!(listed.contains("some/prefix/m/x.rdb.zst") && listed.contains("12000000"), "{listed}");
    for (name, content) in [("m/x.manifest.json", small), ("m/x.rdb.zst", large)] {
        let target = folder.path().join("got");
        let target = target.to_str().unwrap();
        run(&["get", "--force", &format!("s3://{BUCKET}/some/prefix/{name}"), target]).await;
        assert!(std::fs::read(target).unwrap() == content, "{name}");
    }
}
