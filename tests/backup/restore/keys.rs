//! Key by key: what is chosen arrives as it was, what is there stays unless it is to be replaced.

use switchmaster::backup::restore::keys::{Choice, Outcome, restore};
use switchmaster::demo::wire::{Reply, Wire};

use super::data::{Saved, assert_same};
use crate::it::stage::{Stage, ask, soon};
use crate::lone::Lone;
use crate::zoo;

async fn put(saved: &Saved, wire: Wire, choice: Choice) -> Outcome {
    let outcome = soon(restore(&saved.file, wire, &choice)).await.unwrap();
    println!("{outcome:?}");
    outcome
}

#[tokio::test]
async fn every_type_arrives_as_it_was() {
    let (from, to) = (Lone::start(&[]).await, Lone::start(&[]).await);
    zoo::fill(from.addr, None).await.unwrap();
    let saved = Saved::of(&from.save().await);
    let expected = zoo::contents(from.addr, None).await.unwrap();
    let outcome = put(&saved, to.open(0).await, Choice::default()).await;
    assert_eq!((outcome.restored, outcome.failures), (expected.len() as u64, vec![]));
    assert_eq!((outcome.libraries, outcome.existing, outcome.others), (saved.counts().functions, 0, 0));
    assert_same(&zoo::contents(to.addr, None).await.unwrap(), &expected, &[]);
    // Once more: all are there, and the libraries too.
    let again = put(&saved, to.open(0).await, Choice::default()).await;
    assert_eq!((again.restored, again.existing, again.failed), (0, expected.len() as u64, 1), "{again:?}");
    assert!(again.failures[0].contains("--replace"), "{again:?}");
    let replaced = put(&saved, to.open(0).await, Choice { replace: true, ..Choice::default() }).await;
    assert_eq!((replaced.restored, replaced.failed), (expected.len() as u64, 0));
    assert_same(&zoo::contents(to.addr, None).await.unwrap(), &expected, &[]);
}

#[tokio::test]
async fn some_keys_go_through_the_proxy_and_the_others_stay_out() {
    let from = Lone::start(&[]).await;
    for db in [0, 3] {
        let mut wire = from.open(db).await;
        for number in 0..2000 {
            wire.ask(&["SET", &format!("user:{number}"), &number.to_string()]).await.unwrap();
            wire.ask(&["SET", &format!("session:{number}"), "x"]).await.unwrap();
        }
        wire.ask(&["SET", "user:gone", "x", "PX", "1"]).await.unwrap();
        wire.ask(&["SET", "user:later", "x", "PX", "900000"]).await.unwrap();
    }
    // What is over is written to an RDB only while nothing has noticed.
    let mut wire = from.open(0).await;
    ask(&mut wire, &["DEBUG", "SET-ACTIVE-EXPIRE", "0"]).await;
    ask(&mut wire, &["SET", "user:over", "x", "PX", "1"]).await;
    let saved = Saved::of(&from.save().await);

    let stage = Stage::start().await;
    let mut wire = stage.open().await;
    ask(&mut wire, &["SELECT", "3"]).await;
    ask(&mut wire, &["SET", "user:7", "mine"]).await;
    let through = stage.open().await;
    let choice = Choice { pattern: Some(b"user:*".to_vec()), db: Some(3), replace: false };
    let outcome = put(&saved, through, choice).await;
    assert_eq!((outcome.restored, outcome.existing, outcome.failed), (2000, 1, 0));
    assert_eq!(outcome.others, saved.counts().keys() - 2001 - outcome.expired);
    assert_eq!(ask(&mut wire, &["GET", "user:7"]).await, Reply::Bulk(b"mine".to_vec()));
    assert_eq!(ask(&mut wire, &["GET", "user:8"]).await, Reply::Bulk(b"8".to_vec()));
    assert_eq!(ask(&mut wire, &["DBSIZE"]).await, Reply::Integer(2001));
    let Reply::Integer(left) = ask(&mut wire, &["PTTL", "user:later"]).await else { panic!() };
    assert!(left > 0 && left <= 900_000);
    let choice = Choice { pattern: Some(b"user:over".to_vec()), db: Some(0), replace: false };
    let outcome = put(&saved, stage.open().await, choice).await;
    assert_eq!((outcome.restored, outcome.expired), (0, 1));
}

#[tokio::test]
async fn a_huge_value_is_sent_from_the_file() {
    let (from, to) = (Lone::start(&["rdbcompression no"]).await, Lone::start(&[]).await);
    let mut wire = from.open(0).await;
    ask(&mut wire, &["SETRANGE", "huge", "200000000", "end"]).await;
    ask(&mut wire, &["SET", "small", "x"]).await;
    let saved = Saved::of(&from.save().await);
    let outcome = put(&saved, to.open(0).await, Choice::default()).await;
    assert_eq!((outcome.restored, outcome.failed), (2, 0));
    let mut wire = to.open(0).await;
    assert_eq!(ask(&mut wire, &["STRLEN", "huge"]).await, Reply::Integer(200_000_003));
    assert_eq!(ask(&mut wire, &["GETRANGE", "huge", "-3", "-1"]).await, Reply::Bulk(b"end".to_vec()));
}

#[tokio::test]
async fn a_target_that_takes_no_writes_ends_it() {
    let (from, to) = (Lone::start(&[]).await, Lone::start(&["replicaof 127.0.0.1 1"]).await);
    zoo::fill(from.addr, None).await.unwrap();
    let saved = Saved::of(&from.save().await);
    let wire = to.open(0).await;
    let error = soon(restore(&saved.file, wire, &Choice::default())).await.unwrap_err();
    assert!(error.to_string().contains("READONLY") && error.to_string().contains("0 keys"), "{error}");
}
