//! The drill: a real server loads what is sound, and says what is not.

use std::io::{Read, Write};
use std::os::unix::fs::FileExt;

use switchmaster::backup::drill::drill;
use switchmaster::backup::{Counts, Error};

use super::data::Saved;
use crate::it::stage::{ask, soon};
use crate::lone::Lone;
use crate::zoo;

#[tokio::test]
async fn a_server_loads_it_and_holds_what_the_manifest_says() {
    let from = Lone::start(&[]).await;
    zoo::fill(from.addr, None).await.unwrap();
    // Its time is over when the drill loads it; it counts all the same.
    let mut wire = from.open(0).await;
    ask(&mut wire, &["DEBUG", "SET-ACTIVE-EXPIRE", "0"]).await;
    ask(&mut wire, &["SET", "over", "x", "PX", "1"]).await;
    let saved = Saved::of(&from.save().await);
    let drilled = soon(drill(&saved.file, saved.counts())).await.unwrap();
    println!("{drilled:?}");
    assert_eq!(drilled.keys, saved.counts().keys());

    let mut wrong = saved.counts().clone();
    wrong.databases.get_mut(&1).unwrap().keys += 1;
    let error = soon(drill(&saved.file, &wrong)).await.unwrap_err();
    assert!(matches!(&error, Error::Unsound(text) if text.contains("database 1")), "{error}");
    let mut wrong = saved.counts().clone();
    wrong.functions += 1;
    let error = soon(drill(&saved.file, &wrong)).await.unwrap_err();
    assert!(error.to_string().contains("libraries"), "{error}");
}

#[tokio::test]
async fn a_server_that_cannot_load_it_says_why() {
    let from = Lone::start(&[]).await;
    zoo::fill(from.addr, None).await.unwrap();
    let saved = Saved::of(&from.save().await);
    let mut bytes = Vec::new();
    (&saved.file).read_to_end(&mut bytes).unwrap();
    let mut broken = tempfile::tempfile().unwrap();
    broken.write_all(&bytes).unwrap();
    broken.write_all_at(b"REDIS9999", 0).unwrap();
    let error = soon(drill(&broken, &Counts::default())).await.unwrap_err();
    assert_eq!(error.exit_code(), 82);
    assert!(error.to_string().contains("Can't handle RDB format version 9999"), "{error}");
}
