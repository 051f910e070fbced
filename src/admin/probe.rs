//! The probe behind `/health`: a real PING, SET and GET through the proxy's own listener.
//!
//! It speaks RESP over a connection of its own, like any client; one probe runs at a time and its answer is shared
//! for a moment, so that asking often costs Redis nothing.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, watch};

use crate::host;
use crate::net::ListenAddr;
use crate::node::auth;
use crate::node::refusal::code;
use crate::secret::Credentials;
use crate::wire::{Reply, Wire};

/// How long a good answer is given to others who ask.
const SHARED_FOR: Duration = Duration::from_millis(500);

/// In bytes. A longer reply is not from a Redis.
const LONGEST_REPLY: usize = 64 * 1024;

/// What a good probe found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A key was written and read.
    Written,
    /// Redis answered and asks for credentials which nobody has told us. A host that waits for its first client's
    /// must not be kept from that client.
    Answered,
    /// Redis answered, but the user may not do this.
    NotPermitted(&'static str),
}

impl Found {
    /// For people.
    pub fn words(self) -> String {
        match self {
            Found::Written => "Redis is accessible through the proxy".into(),
            Found::Answered => "Redis answers through the proxy; without credentials nothing was written".into(),
            Found::NotPermitted(command) => format!(
                "Redis answers through the proxy; the user may not {command} here (NOPERM), so nothing was written: \
                 allow it ~switchmaster:health:* +ping +set +get"
            ),
        }
    }
}

/// Why a probe failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nothing came back in time. While a failover holds requests this is what it looks like.
    TimedOut,
    /// The proxy or Redis answered with something else than expected.
    Wrong(String),
}

/// Probes one listener.
#[derive(Debug)]
pub struct Probe {
    listener: watch::Receiver<ListenAddr>,
    key: String,
    count: AtomicU64,
    last: Mutex<Option<(Instant, Found)>>,
}

impl Probe {
    /// A probe of the proxy that listens at `listener`.
    pub fn new(listener: watch::Receiver<ListenAddr>) -> Probe {
        Probe {
            listener,
            key: format!("switchmaster:health:{}/{}", host::name(), std::process::id()),
            count: AtomicU64::new(0),
            last: Mutex::new(None),
        }
    }

    /// PING, SET and GET within `budget`, waiting for another's probe included.
    pub async fn run(&self, credentials: Option<Credentials>, budget: Duration) -> Result<Found, Failure> {
        let probe = async {
            let mut last = self.last.lock().await;
            if let Some((_, found)) = last.filter(|(at, _)| at.elapsed() < SHARED_FOR) {
                return Ok(found);
            }
            *last = None;
            let found = self.converse(credentials).await.map_err(Failure::Wrong)?;
            *last = Some((Instant::now(), found));
            Ok(found)
        };
        tokio::time::timeout(budget, probe).await.unwrap_or(Err(Failure::TimedOut))
    }

    async fn converse(&self, credentials: Option<Credentials>) -> Result<Found, String> {
        let target = reached(self.listener.borrow().clone());
        let failed = |error: io::Error| format!("{target}: {error}");
        let wire = match &target {
            ListenAddr::Tcp(addr) => Wire::connect(*addr).await,
            ListenAddr::Unix(path) => Wire::connect_unix(path).await,
        };
        let mut wire = wire.map_err(failed)?.at_most(LONGEST_REPLY);
        if let Some(credentials) = &credentials {
            match ask(&mut wire, &credentials.auth()).await? {
                // The guide's own replicas have no password and are served all the same.
                Reply::Error(refusal) if auth::is_not_needed(&refusal) => {}
                reply => expect("AUTH", &reply, "OK")?,
            }
        }
        match ask(&mut wire, &["PING"]).await? {
            Reply::Error(error) if credentials.is_none() && code(&error) == b"NOAUTH" => return Ok(Found::Answered),
            // An ACL rule speaks, so Redis and the way to it are well.
            Reply::Error(error) if code(&error) == b"NOPERM" => return Ok(Found::NotPermitted("PING")),
            reply => expect("PING", &reply, "PONG")?,
        }
        let value = self.count.fetch_add(1, Ordering::Relaxed).to_string();
        for (command, request, expected) in
            [("SET", &["SET", &self.key, &value, "PX", "10000"][..], "OK"), ("GET", &["GET", &self.key][..], &value)]
        {
            match ask(&mut wire, request).await? {
                Reply::Error(error) if code(&error) == b"NOPERM" => return Ok(Found::NotPermitted(command)),
                reply => expect(command, &reply, expected)?,
            }
        }
        Ok(Found::Written)
    }
}

/// A wildcard address is reached over loopback.
fn reached(mut listener: ListenAddr) -> ListenAddr {
    if let ListenAddr::Tcp(addr) = &mut listener
        && addr.ip().is_unspecified()
    {
        addr.set_ip(if addr.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
    }
    listener
}

/// The reply must be a line or a bulk string of this text.
fn expect(command: &str, reply: &Reply, expected: &str) -> Result<(), String> {
    match reply {
        Reply::Error(text) => Err(format!("{command}: {text}")),
        Reply::Nil => Err(format!("{command}: nothing was found")),
        reply if reply.text() == Some(expected) => Ok(()),
        _ => Err(format!("{command}: an unexpected answer")),
    }
}

async fn ask<A: AsRef<[u8]>>(wire: &mut Wire, command: &[A]) -> Result<Reply, String> {
    let name = String::from_utf8_lossy(command[0].as_ref());
    wire.ask(command).await.map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => format!("{name}: the connection was closed"),
        _ => format!("{name}: {error}"),
    })
}
