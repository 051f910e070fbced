//! Uploads that nobody finished, on moto, which lists and aborts them as Amazon does.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use switchmaster::backup::store::Store;
use switchmaster::config::BackupConfig;
use switchmaster::secret::Secret;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::support::bucket::limits;

/// Serves, begins uploads by the names it reads, and prints what is unfinished when it reads an empty line.
const SERVER: &str = r#"
import sys, boto3
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
s3 = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1",
                  aws_access_key_id="AKIATEST", aws_secret_access_key="secret")
s3.create_bucket(Bucket="backups")
print(port, flush=True)
for line in sys.stdin:
    key = line.strip()
    if key:
        upload = s3.create_multipart_upload(Bucket="backups", Key=key)
        s3.upload_part(Bucket="backups", Key=key, UploadId=upload["UploadId"], PartNumber=1, Body=b"x" * 100)
        print("begun", flush=True)
    else:
        uploads = s3.list_multipart_uploads(Bucket="backups").get("Uploads", [])
        print(" ".join(sorted(upload["Key"] for upload in uploads)), flush=True)
"#;

struct Moto {
    _child: Child,
    asks: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    store: Store,
}

impl Moto {
    /// `None` when it is not installed: it comes from another registry, and ci/install-deps says so.
    async fn start() -> Option<Moto> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
        let python = target.join("backup-venv/bin/python");
        let there = Command::new(&python).args(["-c", "import moto.server, boto3"]).output().await;
        if !there.is_ok_and(|output| output.status.success()) {
            eprintln!("SKIPPED: there is no moto in backup-venv (ci/install-deps test)");
            return None;
        }
        let mut child = Command::new(&python)
            .args(["-c", SERVER])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let asks = child.stdin.take().unwrap();
        let mut answers = BufReader::new(child.stdout.take().unwrap()).lines();
        let port = answers.next_line().await.unwrap().expect("the port");
        let config = BackupConfig {
            store: Some("s3://backups/redis".parse().unwrap()),
            s3_endpoint: Some(format!("http://127.0.0.1:{port}")),
            s3_access_key_id: Some("AKIATEST".to_owned()),
            s3_secret_access_key: Some(Secret::new("secret")),
            ..BackupConfig::default()
        };
        let store = Store::with_limits(&config, None, limits()).unwrap();
        Some(Moto { _child: child, asks, answers, store })
    }

    async fn ask(&mut self, line: &str) -> String {
        self.asks.write_all(format!("{line}\n").as_bytes()).await.unwrap();
        self.answers.next_line().await.unwrap().expect("an answer")
    }
}

#[tokio::test]
async fn only_old_uploads_of_this_prefix_are_aborted() {
    let Some(mut moto) = Moto::start().await else { return };
    for key in ["redis/m/a.rdb.zst", "redis/m/b c&d.rdb.zst", "redis/m2/c.rdb.zst", "redis-2/m/d.rdb.zst"] {
        assert_eq!(moto.ask(key).await, "begun");
    }
    // moto says of every upload that it began in November 2010.
    let (before, after) = ("2010-11-01T00:00:00Z".parse().unwrap(), moto.store.probe().await.unwrap().now);
    assert_eq!(moto.store.abort_stale_multiparts("m", before).await.unwrap(), 0);
    assert_eq!(moto.store.abort_stale_multiparts("m", after).await.unwrap(), 2);
    assert_eq!(moto.ask("").await, "redis-2/m/d.rdb.zst redis/m2/c.rdb.zst");
    assert_eq!(moto.store.abort_stale_multiparts("", after).await.unwrap(), 1);
    assert_eq!(moto.ask("").await, "redis-2/m/d.rdb.zst");
}

/// What the store itself writes, on a second implementation.
#[tokio::test]
async fn moto_takes_what_is_written() {
    let Some(moto) = Moto::start().await else { return };
    let store = &moto.store;
    let large = crate::support::samples::bytes(12_000_000, 30);
    store.put_file("m/large", crate::support::samples::file(&large), &mut |_| {}).await.unwrap();
    assert_eq!(store.size("m/large").await.unwrap(), Some(12_000_000));
    assert_eq!(store.list("m").await.unwrap().len(), 1);
    store.delete("m/large").await.unwrap();
    assert_eq!(store.list("").await.unwrap(), []);
}
