//! The serving side alone: a real server replicates from it.

use std::time::Duration;

use switchmaster::backup::Error;
use switchmaster::backup::restore::primary::{Primary, Stage};
use switchmaster::demo::wire::{Reply, encode};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;

use super::data::{Saved, assert_same};
use crate::it::stage::{ask, soon};
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

    let primary = Primary::bind(to.addr.ip(), to.addr.ip()).await.unwrap();
    let (stage, mut told) = watch::channel(Stage::default());
    let mut wire = to.open(0).await;
    let addr = primary.addr();
    let watching = async {
        ask(&mut wire, &["REPLICAOF", &addr.ip().to_string(), &addr.port().to_string()]).await;
        soon(told.wait_for(|stage| *stage == Stage::Acknowledged)).await.unwrap();
        // One more than the target, and one that is not the target's host: both are turned away.
        let mut second = TcpStream::connect(addr).await.unwrap();
        assert_eq!(soon(second.read(&mut [0; 16])).await.unwrap_or(0), 0);
        let info = ask(&mut wire, &["INFO", "replication"]).await.to_string();
        assert!(info.contains("master_link_status:up"), "{info}");
    };
    tokio::select! {
        () = watching => {}
        Err(error) = primary.serve(saved.rdb(), tail, &stage) => panic!("{error}"),
    }
    assert_eq!(ask(&mut wire, &["REPLICAOF", "NO", "ONE"]).await.to_string(), "+OK");
    ask(&mut wire, &["SELECT", "3"]).await;
    assert_eq!(ask(&mut wire, &["GET", "counter"]).await, Reply::Bulk(b"1000".to_vec()));
    assert_same(&zoo::contents(to.addr, None).await.unwrap(), &expected, &[]);
    let libraries = ask(&mut wire, &["FUNCTION", "LIST"]).await.items().len() as u64;
    assert_eq!(libraries, saved.counts().functions, "functions come along");
}

#[tokio::test]
async fn a_stranger_gets_nothing() {
    let from = Lone::start(&[]).await;
    let saved = Saved::of(&from.save().await);
    let primary = Primary::bind([127, 0, 0, 1].into(), [127, 0, 0, 1].into()).await.unwrap();
    let (stage, told) = watch::channel(Stage::default());
    let strange = async {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.9.9:0".parse().unwrap()).unwrap();
        let mut stream = socket.connect(primary.addr()).await.unwrap();
        soon(stream.read(&mut [0; 16])).await.unwrap_or(0)
    };
    let read = tokio::select! {
        read = strange => read,
        Err(error) = primary.serve(saved.rdb(), async || Ok(None), &stage) => panic!("{error}"),
    };
    assert_eq!((read, *told.borrow()), (0, Stage::Waiting));
}

#[tokio::test]
async fn a_target_that_goes_away_ends_it() {
    let (from, to) = (Lone::start(&[]).await, Lone::start(&[]).await);
    zoo::fill(from.addr, None).await.unwrap();
    let saved = Saved::of(&from.save().await);
    let primary = Primary::bind([127, 0, 0, 1].into(), [127, 0, 0, 1].into()).await.unwrap();
    let (stage, mut told) = watch::channel(Stage::default());
    let mut wire = to.open(0).await;
    let addr = primary.addr();
    let kill = async {
        ask(&mut wire, &["REPLICAOF", &addr.ip().to_string(), &addr.port().to_string()]).await;
        soon(told.wait_for(|stage| *stage != Stage::Waiting)).await.unwrap();
        to.kill9();
        std::future::pending::<()>().await;
    };
    let serving = async { primary.serve(saved.rdb(), async || Ok(None), &stage).await };
    let ended = tokio::select! {
        () = kill => unreachable!(),
        ended = tokio::time::timeout(Duration::from_secs(20), serving) => ended.expect("it ends"),
    };
    assert!(matches!(ended, Err(Error::Restore(_))), "{ended:?}");
}
