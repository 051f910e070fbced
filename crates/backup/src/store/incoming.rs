//! An object on its way in ([`Incoming`]): fetched by a task of the runtime, read by blocking code somewhere else.
//!
//! A few chunks wait between the two, so memory is bounded and neither end runs away from the other.

use std::io::{self, Read};

use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::Store;
use crate::Error;

/// The bytes of an object. Read it in `spawn_blocking`: a read blocks until bytes come, and the runtime fetches them.
///
/// An `io::Error` of it holds an [`Error`]; [`Error::from_io`] takes it out again.
#[derive(Debug)]
pub struct Incoming {
    chunks: mpsc::Receiver<Result<Vec<u8>, Error>>,
    chunk: Vec<u8>,
    at: usize,
    bytes: u64,
}

const WAITING: usize = 8;

impl Incoming {
    pub(super) fn start(store: Store, name: &str, found: object_store::GetResult) -> Incoming {
        let bytes = found.meta.size;
        let (sender, chunks) = mpsc::channel(WAITING);
        let name = name.to_owned();
        tokio::spawn(async move {
            let mut stream = found.into_stream();
            loop {
                let next = match timeout(store.limits.stall, stream.next()).await {
                    Err(_) => Err(store.stalled("reading", &name)),
                    Ok(None) => break,
                    Ok(Some(Err(error))) => Err(store.refused("reading", &name, &error)),
                    Ok(Some(Ok(chunk))) => Ok(chunk.to_vec()),
                };
                let failed = next.is_err();
                if sender.send(next).await.is_err() || failed {
                    break;
                }
            }
        });
        Incoming { chunks, chunk: Vec::new(), at: 0, bytes }
    }

    /// The object's size, as the store tells it.
    pub fn size(&self) -> u64 {
        self.bytes
    }

    /// The next chunk, for async code; `None` at the end.
    pub async fn next(&mut self) -> Option<Result<Vec<u8>, Error>> {
        self.chunks.recv().await
    }
}

impl Read for Incoming {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.at == self.chunk.len() {
            match self.chunks.blocking_recv() {
                None => return Ok(0),
                Some(Err(error)) => return Err(io::Error::other(error)),
                Some(Ok(chunk)) => (self.chunk, self.at) = (chunk, 0),
            }
        }
        let length = into.len().min(self.chunk.len() - self.at);
        into[..length].copy_from_slice(&self.chunk[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}
