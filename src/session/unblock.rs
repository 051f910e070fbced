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
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::{Worker, pool};
use crate::net::Conn;
use crate::resp::buffer::ReplyBuffer;
use crate::resp::request::encode;
use crate::upstream::UpstreamId;

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
    /// Our ends of the connections on which something blocks, by the upstream and its master.
    static BLOCKED: RefCell<HashMap<(UpstreamId, SocketAddr), Vec<SocketAddr>>> = RefCell::default();
}

/// What blocks on this backend is to be let go. Its reply comes from there.
pub fn ask(worker: &Arc<Worker>, backend: &Conn) {
    let (Some(own), Some(master)) = (backend.local_addr(), backend.peer_addr()) else { return };
    let at = (worker.upstream.id, master);
    let is_first = BLOCKED.with_borrow_mut(|blocked| {
        let blocked = blocked.entry(at).or_default();
        blocked.push(own);
        blocked.len() == 1
    });
    if is_first {
        let worker = worker.clone();
        tokio::spawn(async move {
            tokio::time::sleep(GATHERING).await;
            let blocked = BLOCKED.with_borrow_mut(|blocked| blocked.remove(&at)).unwrap_or_default();
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
    let credentials = worker.upstream.credentials.current();
    if let Some(credentials) = &credentials {
        requests.extend_from_slice(&Zeroizing::new(encode(&credentials.auth())));
    }
    requests.extend_from_slice(&encode(&[&b"CLIENT"[..], b"LIST"]));
    stream.write_all(&requests).await?;
    let list = last_reply(&mut stream, 1 + usize::from(credentials.is_some())).await?;
    let list = String::from_utf8_lossy(&list);
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
    last_reply(&mut stream, found + 3).await?;
    Ok(())
}

/// The last of so many replies.
async fn last_reply(stream: &mut Conn, count: usize) -> io::Result<Vec<u8>> {
    let (mut replies, mut last, mut taken) = (ReplyBuffer::new(MOST_BYTES), Vec::new(), 0);
    while taken < count {
        match replies.take()? {
            Some(reply) => {
                taken += 1;
                last = reply.to_vec();
            }
            None => {
                if stream.read_buf(replies.room()?).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        }
    }
    Ok(last)
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
