//! What an idle session costs a proxy in memory of its own. The kernel's memory for sockets is not in it.

use std::fmt;
use std::time::Duration;

use crate::client::Client;
use crate::targets::Target;
use crate::{Failure, cpu};

/// Two descriptors for each session in the proxy, one in this process and one in the server.
const SESSIONS: usize = 9000;

/// Bytes for each session.
pub struct Idle {
    pub name: &'static str,
    /// Connected, and nothing said.
    pub silent: f64,
    /// After one request, so with a connection to the server.
    pub served: f64,
}

impl fmt::Display for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "idle session: {:<20} {:>7.0} B, with backend {:>7.0} B", self.name, self.silent, self.served)
    }
}

/// Opens the sessions, looks, lets each ask once, and looks again.
pub async fn measure(target: &Target) -> Result<Idle, Failure> {
    let settle = || tokio::time::sleep(Duration::from_millis(500));
    let before = cpu::memory(&target.processes());
    let mut clients = Vec::with_capacity(SESSIONS);
    for _ in 0..SESSIONS {
        clients.push(Client::connect(&target.address).await?);
    }
    settle().await;
    let silent = cpu::memory(&target.processes());
    for client in &mut clients {
        client.exchange(b"*1\r\n$4\r\nPING\r\n", 7).await?;
    }
    settle().await;
    let served = cpu::memory(&target.processes());
    let each = |bytes: u64| bytes.saturating_sub(before) as f64 / SESSIONS as f64;
    let idle = Idle { name: target.name, silent: each(silent), served: each(served) };
    drop(clients);
    settle().await;
    Ok(idle)
}
