//! Brings finished segments to the store, the oldest first, and believes only what it read there again.
//!
//! Never gives up by itself: a store that is away is waited for, as long as the spool holds.

use std::cell::RefCell;
use std::fs::File;
use std::io::Read;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

use super::queue::Queue;
use super::rate_limited_log::RateLimitedLog;
use super::segment::Name;
use super::timeline::Stored;
use crate::Error;
use crate::store::Store;

/// After a failure; doubles up to the second.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// The name of a segment's object.
pub fn object(master_name: &str, segment: &Stored) -> String {
    format!("{}/{}/{}", folder(master_name), segment.stream, segment.name)
}

/// The segment of an object's name.
pub fn parse(master_name: &str, object: &str) -> Option<Stored> {
    let (stream, name) = object.strip_prefix(&folder(master_name))?.strip_prefix('/')?.split_once('/')?;
    Some(Stored { stream: stream.to_owned(), name: Name::parse(name)? })
}

/// The folder of all streams of a master.
pub fn folder(master_name: &str) -> String {
    format!("{master_name}/stream")
}

/// Ships what is in the queue and what comes, until dropped. `shipped` hears of each one that is safe.
pub async fn ship(
    store: &Store,
    master_name: &str,
    queue: &RefCell<Queue>,
    pushed: &Notify,
    mut shipped: impl FnMut(&Stored),
) -> ! {
    let mut failing = RateLimitedLog::default();
    let mut wait = RETRY.0;
    loop {
        let Some(front) = queue.borrow().front() else {
            pushed.notified().await;
            continue;
        };
        let outcome = match front {
            Ok((waiting, file)) => {
                let done = ship_one(store, &object(master_name, &waiting.segment), file, waiting.bytes).await;
                done.map(|()| waiting.segment)
            }
            Err(error) => Err(error),
        };
        match outcome {
            Ok(segment) => {
                if wait > RETRY.0 {
                    tracing::info!("the store is back: shipping goes on");
                }
                wait = RETRY.0;
                failing.reset();
                // It may have been given up meanwhile.
                let still = queue.borrow().waiting().next() == Some(&segment);
                if still {
                    queue.borrow_mut().pop();
                }
                shipped(&segment);
            }
            Err(error) => {
                let waiting = queue.borrow().bytes();
                failing
                    .log(|| tracing::warn!("cannot ship: {error}; {} KiB wait in the spool", waiting.div_ceil(1024)));
                sleep(wait).await;
                wait = RETRY.1.min(2 * wait);
            }
        }
    }
}

/// Writes one and reads it back. An earlier run may have written it and not lived to know.
async fn ship_one(store: &Store, name: &str, file: File, bytes: u64) -> Result<(), Error> {
    let again = file.try_clone().map_err(|error| Error::Spool(format!("the spool: {error}")))?;
    if store.size(name).await? != Some(bytes) {
        store.put_file(name, file, &mut |_| {}).await?;
    }
    compare(store, name, again).await
}

async fn compare(store: &Store, name: &str, mut file: File) -> Result<(), Error> {
    use std::io::Seek;
    let unreadable = |error| Error::Spool(format!("the spool: {error}"));
    file.rewind().map_err(unreadable)?;
    let mut stored = store.get_stream(name).await?;
    let differs = || Error::Unsound(format!("{} is not what was sent", store.url(name)));
    let mut sent = Vec::new();
    while let Some(chunk) = stored.next().await {
        let chunk = chunk?;
        sent.resize(chunk.len(), 0);
        file.read_exact(&mut sent).map_err(|_| differs())?;
        if sent != chunk {
            return Err(differs());
        }
    }
    match file.read(&mut [0]).map_err(unreadable)? {
        0 => Ok(()),
        _ => Err(differs()),
    }
}
