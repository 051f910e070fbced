//! The serving side alone: a real server replicates from it.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use switchmaster::backup::Error;
use switchmaster::backup::restore::node::Node;
use switchmaster::backup::restore::primary::{Primary, Stage};
use switchmaster::demo::cluster::until;
use switchmaster::demo::wire::{Reply, encode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;

use super::data::{Saved, assert_same};
use crate::it::stage::{LIMIT, ask, soon};
use crate::lone::Lone;
use crate::zoo;

#[tokio::test]
async fn a_server_takes_the_data_and_the_stream_behind_it_up_to_its_last_byte() {
    let (from, to) = (Lone::start(&[]).await, Lone::start(&["masterauth something"]).await);
    zoo::fill(from.addr, None).await.unwrap();
    let saved = Saved::of(&from.save().await);
    let expected = zoo::contents(from.addr, None).await.unwrap();

    // 1,000 increments of a counter in database 3, in pieces that end anywhere.
    let mut stream = Vec::new();
    encode(&mut stream, &["SELECT", "3"]);
    (0..1000).for_each(|_| encode(&mut stream, &["INCR", "counter"]));
    let mut pieces: Vec<Vec<u8>> = stream.chunks(777).map(<[u8]>::to_vec).rev().collect();
    let tail = async || Ok::<_, Error>(pieces.pop());

    let primary = Primary::bind(to.addr.ip()).await.unwrap();
    let (stage, mut told) = watch::channel(Stage::default());
    let mut wire = to.open(0).await;
    let addr = primary.addr();
    let watching = async {
        ask(&mut wire, &["REPLICAOF", &addr.ip().to_string(), &addr.port().to_string()]).await;
        soon(told.wait_for(|stage| *stage == Stage::Acknowledged)).await.unwrap();
        // One more than the target is turned away.
        let mut second = TcpStream::connect(addr).await.unwrap();
        assert_eq!(soon(second.read(&mut [0; 16])).await.unwrap_or(0), 0);
        let info = ask(&mut wire, &["INFO", "replication"]).await.to_string();
        assert!(info.contains("master_link_status:up"), "{info}");
    };
    tokio::select! {
        () = watching => {}
        Err(error) = primary.serve(Node::new(to.addr, None), saved.rdb(), tail, &stage) => panic!("{error}"),
    }
    assert_eq!(ask(&mut wire, &["REPLICAOF", "NO", "ONE"]).await.to_string(), "+OK");
    ask(&mut wire, &["SELECT", "3"]).await;
    assert_eq!(ask(&mut wire, &["GET", "counter"]).await, Reply::Bulk(b"1000".to_vec()));
    assert_same(&zoo::contents(to.addr, None).await.unwrap(), &expected, &[]);
    let libraries = ask(&mut wire, &["FUNCTION", "LIST"]).await.items().len() as u64;
    assert_eq!(libraries, saved.counts().functions, "functions come along");
}

/// Asks for the data as a replica does; returns all that it is given until it is turned away.
async fn strange(primary: SocketAddr, from: IpAddr) -> String {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(from, 0)).unwrap();
    let mut stream = socket.connect(primary).await.unwrap();
    let mut said = Vec::new();
    encode(&mut said, &["PING"]);
    encode(&mut said, &["REPLCONF", "listening-port", "6379"]);
    encode(&mut said, &["PSYNC", "?", "-1"]);
    stream.write_all(&said).await.unwrap();
    let mut given = Vec::new();
    let _ = soon(stream.read_to_end(&mut given)).await;
    String::from_utf8_lossy(&given).into_owned()
}

/// Whatever the address from which it comes, and also when it comes first; the target then gets its data from its own.
#[tokio::test]
async fn a_stranger_gets_nothing_and_the_target_comes_from_whatever_address_it_has() {
    let from = Lone::start(&[]).await;
    ask(&mut from.open(0).await, &["SET", "a-key", "a-secret"]).await;
    let saved = Saved::of(&from.save().await);
    let to = Lone::start(&["bind-source-addr 127.0.0.12"]).await;
    let primary = Primary::bind([127, 0, 0, 1].into()).await.unwrap();
    let (stage, mut told) = watch::channel(Stage::default());
    let addr = primary.addr();
    let mut wire = to.open(0).await;
    let watching = async {
        // One says nothing at all, and keeps nobody waiting.
        let _silent = TcpStream::connect(addr).await.unwrap();
        for stranger in ["127.0.9.9", "127.0.0.1", "127.0.0.12"] {
            let given = strange(addr, stranger.parse().unwrap()).await;
            let (promised, data) = given.split_once("+FULLRESYNC").expect(&given);
            assert_eq!(promised, "+PONG\r\n+OK\r\n", "{given}");
            assert!(data.trim_end().split(' ').count() == 3 && !data.contains('$'), "{given}");
            assert_eq!(*told.borrow(), Stage::Waiting);
        }
        assert_eq!(primary.refused().len(), 3);
        ask(&mut wire, &["REPLICAOF", &addr.ip().to_string(), &addr.port().to_string()]).await;
        soon(told.wait_for(|stage| *stage == Stage::Acknowledged)).await.unwrap();
    };
    tokio::select! {
        () = watching => {}
        Err(error) = primary.serve(Node::new(to.addr, None), saved.rdb(), async || Ok(None), &stage) => panic!("{error}"),
    }
    assert_eq!(ask(&mut wire, &["GET", "a-key"]).await, Reply::Bulk(b"a-secret".to_vec()));
}

/// The target follows somebody else: what asks for the data is not it.
#[tokio::test]
async fn a_target_that_synchronises_with_another_proves_nothing() {
    let (from, other) = (Lone::start(&[]).await, Lone::start(&["rdb-key-save-delay 20000"]).await);
    ask(&mut other.open(0).await, &["DEBUG", "POPULATE", "1000", "other", "20"]).await;
    let saved = Saved::of(&from.save().await);
    let to = Lone::start(&[]).await;
    let mut wire = to.open(0).await;
    ask(&mut wire, &["REPLICAOF", "127.0.0.1", &other.addr.port().to_string()]).await;
    until("it to synchronise", LIMIT, async || match ask(&mut to.open(0).await, &["INFO", "replication"]).await {
        info if info.to_string().contains("master_sync_in_progress:1") => Ok(()),
        info => Err(info.to_string()),
    })
    .await
    .unwrap();
    let primary = Primary::bind([127, 0, 0, 1].into()).await.unwrap();
    let (stage, told) = watch::channel(Stage::default());
    let given = tokio::select! {
        given = strange(primary.addr(), [127, 0, 0, 1].into()) => given,
        Err(error) = primary.serve(Node::new(to.addr, None), saved.rdb(), async || Ok(None), &stage) => panic!("{error}"),
    };
    assert!(!given.contains('$') && *told.borrow() == Stage::Waiting, "{given}");
}

#[tokio::test]
async fn a_target_that_goes_away_ends_it() {
    let (from, to) = (Lone::start(&[]).await, Lone::start(&[]).await);
    zoo::fill(from.addr, None).await.unwrap();
    let saved = Saved::of(&from.save().await);
    let primary = Primary::bind([127, 0, 0, 1].into()).await.unwrap();
    let (stage, mut told) = watch::channel(Stage::default());
    let mut wire = to.open(0).await;
    let addr = primary.addr();
    let kill = async {
        ask(&mut wire, &["REPLICAOF", &addr.ip().to_string(), &addr.port().to_string()]).await;
        soon(told.wait_for(|stage| *stage != Stage::Waiting)).await.unwrap();
        to.kill9();
        std::future::pending::<()>().await;
    };
    let serving = async { primary.serve(Node::new(to.addr, None), saved.rdb(), async || Ok(None), &stage).await };
    let ended = tokio::select! {
        () = kill => unreachable!(),
        ended = tokio::time::timeout(Duration::from_secs(20), serving) => ended.expect("it ends"),
    };
    assert!(matches!(ended, Err(Error::Restore(_))), "{ended:?}");
}
