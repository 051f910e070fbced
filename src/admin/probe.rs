//! The probe behind `/health`: a real PING, SET and GET through the proxy's own listener.
//!
//! It speaks RESP over a connection of its own, like any client; one probe runs at a time and its answer is shared
//! for a moment, so that asking often costs Redis nothing.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::sync::Mutex;

use crate::net::{Conn, Connector, ListenAddr};
use crate::secret::Credentials;

/// How long a good answer is given to others who ask.
const SHARED_FOR: Duration = Duration::from_millis(500);

/// A reply line longer than this is not from a Redis.
const LONGEST_LINE: u64 = 64 * 1024;

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
    target: ListenAddr,
    key: String,
    count: AtomicU64,
    last: Mutex<Option<(Instant, Found)>>,
}

impl Probe {
    /// A probe of the proxy that listens at `listener`; a wildcard address is reached over loopback.
    pub fn new(mut listener: ListenAddr) -> Probe {
        if let ListenAddr::Tcp(addr) = &mut listener
            && addr.ip().is_unspecified()
        {
            addr.set_ip(if addr.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
        }
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = if host.trim().is_empty() { "localhost" } else { host.trim() };
        Probe {
            target: listener,
            key: format!("switchmaster:health:{host}/{}", std::process::id()),
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
        let failed = |error: std::io::Error| format!("{}: {error}", self.target);
        let mut stream = BufReader::new(Connector::DEFAULT.connect_to(&self.target).await.map_err(failed)?);
        if let Some(credentials) = &credentials {
            match ask(&mut stream, &credentials.auth()).await {
                // The guide's own replicas have no password and are served all the same.
                Err(refusal) if refusal.contains("without any password") => {}
                other => expect("AUTH", other?.as_deref(), "OK")?,
            }
        }
        match ask(&mut stream, &["PING"]).await {
            Err(refusal) if credentials.is_none() && refusal.starts_with("PING: NOAUTH") => return Ok(Found::Answered),
            Err(refusal) if is_no_permission(&refusal, "PING") => return Ok(Found::NotPermitted("PING")),
            other => expect("PING", other?.as_deref(), "PONG")?,
        }
        let value = self.count.fetch_add(1, Ordering::Relaxed).to_string();
        for (command, request, expected) in
            [("SET", &["SET", &self.key, &value, "PX", "10000"][..], "OK"), ("GET", &["GET", &self.key][..], &value)]
        {
            match ask(&mut stream, request).await {
                Err(refusal) if is_no_permission(&refusal, command) => return Ok(Found::NotPermitted(command)),
                other => expect(command, other?.as_deref(), expected)?,
            }
        }
        Ok(Found::Written)
    }
}

/// An ACL rule speaks, so Redis and the way to it are well.
fn is_no_permission(refusal: &str, command: &str) -> bool {
    refusal.strip_prefix(command).is_some_and(|rest| rest.starts_with(": NOPERM"))
}

fn expect(command: &str, answer: Option<&str>, expected: &str) -> Result<(), String> {
    match answer {
        Some(answer) if answer == expected => Ok(()),
        Some(_) => Err(format!("{command}: an unexpected answer")),
        None => Err(format!("{command}: nothing was found")),
    }
}

/// One command and its reply, which must be a line or a bulk string.
async fn ask<A: AsRef<[u8]>>(stream: &mut BufReader<Conn>, command: &[A]) -> Result<Option<String>, String> {
    let name = String::from_utf8_lossy(command[0].as_ref());
    let broken = |error: std::io::Error| format!("{name}: {error}");
    let mut request = zeroize::Zeroizing::new(Vec::new());
    crate::wire::encode(&mut request, command);
    stream.write_all(&request).await.map_err(broken)?;

    let mut line = String::new();
    stream.take(LONGEST_LINE).read_line(&mut line).await.map_err(broken)?;
    let Some(line) = line.strip_suffix("\r\n") else {
        return Err(format!("{name}: the connection was closed"));
    };
    match line.split_at_checked(1) {
        Some(("+", text)) => Ok(Some(text.into())),
        Some(("-", text)) => Err(format!("{name}: {text}")),
        Some(("$", "-1")) => Ok(None),
        Some(("$", length)) => {
            let length = length.parse::<usize>().ok().filter(|length| *length <= LONGEST_LINE as usize);
            let mut bulk = vec![0; length.ok_or_else(|| format!("{name}: an unexpected answer"))? + 2];
            stream.read_exact(&mut bulk).await.map_err(broken)?;
            bulk.truncate(bulk.len() - 2);
            Ok(Some(String::from_utf8_lossy(&bulk).into_owned()))
        }
        _ => Err(format!("{name}: an unexpected answer")),
    }
}
