//! Unix-socket listeners: who may connect, what is left behind, and a client that does not read.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use switchmaster::demo::cluster::{Cluster, ClusterSpec, until};
use switchmaster::demo::proxy::Proxy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::support::proxy::{LIMIT, run, spec, start_as, wait_stable};

async fn cluster() -> Cluster {
    Cluster::start(ClusterSpec { replicas: 0, sentinels: 1, ..ClusterSpec::default() }).await.unwrap()
}

async fn ask(stream: &mut UnixStream, request: &[u8], expected: &[u8]) {
    stream.write_all(request).await.unwrap();
    let mut reply = vec![0; expected.len()];
    tokio::time::timeout(LIMIT, stream.read_exact(&mut reply)).await.expect("a reply").unwrap();
    assert_eq!(reply, expected);
}

async fn listening(cluster: &Cluster, path: &Path, options: &str) -> Proxy {
    let mut spec = spec(cluster);
    spec.also_listen.push(format!("unix:{}{options}", path.display()));
    let proxy = start_as(&spec).await;
    wait_stable(&proxy).await;
    proxy
}

#[tokio::test]
async fn the_socket_has_its_permissions_and_goes_with_the_process() {
    let (cluster, dir) = (cluster().await, tempfile::tempdir().unwrap());
    let path = dir.path().join("redis.sock");
    let own_group = fs::metadata(dir.path()).unwrap().gid();
    // What a killed process leaves is replaced.
    drop(UnixListener::bind(&path).unwrap());
    let mut proxy = listening(&cluster, &path, &format!("?mode=600&group={own_group}")).await;
    let found = fs::symlink_metadata(&path).unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!((found.permissions().mode() & 0o777, found.gid()), (0o600, own_group));
    ask(&mut UnixStream::connect(&path).await.unwrap(), b"PING\r\n", b"+PONG\r\n").await;
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing but the socket");

    proxy.signal(Signal::TERM);
    assert!(proxy.wait(LIMIT).await.is_some_and(|status| status.success()));
    assert!(!path.exists(), "it is removed");
}

#[tokio::test]
async fn a_path_in_use_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (path, file) = (dir.path().join("redis.sock"), dir.path().join("notes.txt"));
    let _held = UnixListener::bind(&path).unwrap();
    fs::write(&file, "mine").unwrap();
    for (at, why) in [(&path, "a process listens there"), (&file, "something that is not a socket is there")] {
        let listen = format!("unix:{}", at.display());
        let ended = run(
            &["serve"],
            &[("SWITCHMASTER_CONFIG", "/dev/null"), ("SWITCHMASTER_LISTEN", &listen), ("SWITCHMASTER_ADMIN", "off")],
        )
        .await;
        let told = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(69), "{told}");
        assert!(told.contains(&listen) && told.contains(why), "{told}");
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
    let gone = format!("unix:{}?group=no-such-group", dir.path().join("other.sock").display());
    let ended = run(
        &["serve"],
        &[("SWITCHMASTER_CONFIG", "/dev/null"), ("SWITCHMASTER_LISTEN", &gone), ("SWITCHMASTER_ADMIN", "off")],
    )
    .await;
    assert!(String::from_utf8_lossy(&ended.stderr).contains("there is no group \"no-such-group\""));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left behind");
}

/// Replies far beyond what the socket takes: they wait, and arrive whole and in order.
#[tokio::test]
async fn a_client_that_reads_late_gets_everything() {
    const VALUE: usize = 200_000;
    const COUNT: usize = 40;
    let (cluster, dir) = (cluster().await, tempfile::tempdir().unwrap());
    let path = dir.path().join("redis.sock");
    let proxy = listening(&cluster, &path, "").await;
    let mut client = UnixStream::connect(&path).await.unwrap();
    let value = "x".repeat(VALUE);
    ask(&mut client, format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${VALUE}\r\n{value}\r\n").as_bytes(), b"+OK\r\n").await;
    let mut expected = Vec::new();
    for number in 0..COUNT {
        client.write_all(format!("ECHO {number}\r\nGET k\r\n").as_bytes()).await.unwrap();
        expected.extend_from_slice(
            format!("${}\r\n{number}\r\n${VALUE}\r\n{value}\r\n", number.to_string().len()).as_bytes(),
        );
    }
    // The proxy has taken what the socket holds and waits for this client; others are served meanwhile.
    until("the proxy to wait", LIMIT, async || {
        let mut other = UnixStream::connect(&path).await.map_err(|error| error.to_string())?;
        ask(&mut other, b"PING\r\n", b"+PONG\r\n").await;
        Ok(())
    })
    .await
    .unwrap();
    let mut got = vec![0; expected.len()];
    tokio::time::timeout(LIMIT, client.read_exact(&mut got)).await.expect("all of it").unwrap();
    assert!(got == expected);
    drop(client);
    until("its session to end", Duration::from_secs(10), async || {
        let open = crate::support::proxy::view(&proxy).await.traffic.sessions;
        if open == 0 { Ok(()) } else { Err(format!("{open} are open")) }
    })
    .await
    .unwrap();
}
