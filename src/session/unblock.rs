//! Lets blocking requests go without losing what they pop: `CLIENT UNBLOCK` (Redis 5 or later), asked on a connection of
//! our own, answers as the time-out does, or finds that the answer is on its way.
//!
//! Best effort: where it is not permitted, or an address is translated on the way, nothing happens, and the caller
//! closes. A FIN alone would lose an element: a server that reads it in the turn in which it served the client drops the
//! reply (Redis 7.0 networking.c, handleClientsWithPendingWrites).

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::{Worker, pool};
use crate::net::Conn;
use crate::resp::request::encode;
use crate::resp::scanner::{ReplyScanner, Scan};

/// How long others may take to ask too.
const GATHERING: Duration = Duration::from_millis(5);
/// After this the caller will have closed.
const LIMIT: Duration = Duration::from_secs(1);
/// A list of 100,000 clients.
const MOST_BYTES: usize = 64 * 1024 * 1024;
/// A write that changes nothing. In one transaction with a write, UNBLOCK waits while clients are paused: servers crash
/// when one is unblocked that waits for the end of a CLIENT PAUSE (redis#14164, valkey#2111; seen with Redis 7.0).
const WRITE: [&[u8]; 2] = [b"PERSIST", b"switchmaster:no-such-key"];

thread_local! {
    /// Our ends of the connections on which something blocks.
    static BLOCKED: RefCell<Vec<SocketAddr>> = const { RefCell::new(Vec::new()) };
}

/// What blocks on this backend is to be let go. Its reply comes from there.
pub fn ask(worker: &Arc<Worker>, backend: &Conn) {
    let (Some(own), Some(master)) = (backend.local_addr(), backend.peer_addr()) else { return };
    let is_first = BLOCKED.with_borrow_mut(|blocked| {
        blocked.push(own);
        blocked.len() == 1
    });
    if is_first {
        let worker = worker.clone();
        tokio::spawn(async move {
            tokio::time::sleep(GATHERING).await;
            let blocked = BLOCKED.take();
            match timeout(LIMIT, unblock(&worker, master, &blocked)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "CLIENT UNBLOCK"),
                Err(_) => tracing::debug!("CLIENT UNBLOCK: no answer"),
            }
        });
    }
}

async fn unblock(worker: &Worker, master: SocketAddr, blocked: &[SocketAddr]) -> io::Result<()> {
    let mut stream = pool::dial(worker, master).await?;
    let mut requests = Zeroizing::new(Vec::new());
    let credentials = worker.credentials.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if let Some(credentials) = &credentials {
        requests.extend_from_slice(&Zeroizing::new(encode(&credentials.auth())));
    }
    requests.extend_from_slice(&encode(&[&b"CLIENT"[..], b"LIST"]));
    stream.write_all(&requests).await?;
    let replies = read_replies(&mut stream, 1 + usize::from(credentials.is_some())).await?;
    let list = String::from_utf8_lossy(&replies);
    let ids: HashMap<&str, &str> = list.lines().filter_map(address_and_id).collect();

    let mut requests = encode(&[b"MULTI"]);
    requests.extend_from_slice(&encode(&WRITE));
    let mut found = 0;
    for id in blocked.iter().filter_map(|own| ids.get(own.to_string().as_str())) {
        requests.extend_from_slice(&encode(&[&b"CLIENT"[..], b"UNBLOCK", id.as_bytes(), b"TIMEOUT"]));
        found += 1;
    }
    if found == 0 {
        return Err(io::Error::other("none of ours is in the list of clients"));
    }
    requests.extend_from_slice(&encode(&[b"EXEC"]));
    stream.write_all(&requests).await?;
    read_replies(&mut stream, found + 3).await?;
    Ok(())
}

/// The bytes of so many replies.
async fn read_replies(stream: &mut Conn, count: usize) -> io::Result<Vec<u8>> {
    let (mut scanner, mut replies, mut scanned) = (ReplyScanner::default(), Vec::new(), 0);
    let mut missing = count;
    while missing > 0 {
        match scanner.scan(&replies[scanned..]) {
            Scan::Frame(length) => {
                scanned += length;
                missing -= 1;
                continue;
            }
            Scan::Partial => scanned = replies.len(),
            Scan::Invalid(why) => return Err(io::Error::new(io::ErrorKind::InvalidData, why)),
        }
        if replies.len() > MOST_BYTES || stream.read_buf(&mut replies).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(replies)
}

/// Of a line such as `id=4 addr=127.0.0.1:41934 laddr=…` that is of a blocked client.
fn address_and_id(line: &str) -> Option<(&str, &str)> {
    let field = |name: &str| line.split(' ').find_map(|field| field.strip_prefix(name));
    field("flags=")?.contains('b').then_some((field("addr=")?, field("id=")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocked_clients_are_found_by_their_address() {
        let line = "id=4 addr=127.0.0.1:41934 laddr=127.0.0.1:7777 fd=8 name= age=0 idle=0 flags=b db=0 cmd=blpop";
        assert_eq!(address_and_id(line), Some(("127.0.0.1:41934", "4")));
        assert_eq!(address_and_id(&line.replace("flags=b", "flags=N")), None);
        assert_eq!(address_and_id("$1234"), None);
    }
}
