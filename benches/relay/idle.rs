//! What an idle session costs a proxy in memory of its own. The kernel's memory for sockets is not in it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::client::Client;
use crate::targets::Target;
use crate::{Failure, cpu};

/// Bytes for each session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Idle {
    pub target: String,
    pub sessions: usize,
    /// Connected, and nothing said.
    pub silent: f64,
    /// After one request, so with a connection to the server.
    pub served: f64,
}

/// Opens the sessions, looks, lets each ask once, and looks again. Each takes two descriptors in the proxy, one in this
/// process and one in the server.
pub async fn measure(target: &Target, sessions: usize) -> Result<Idle, Failure> {
    let settle = || tokio::time::sleep(Duration::from_millis(500));
    // What the first session costs once, all have paid.
    Client::connect(&target.address).await?.ping().await?;
    settle().await;
    let before = cpu::memory(&target.processes());
    let mut clients = Vec::with_capacity(sessions);
    for _ in 0..sessions {
        clients.push(Client::connect(&target.address).await?);
    }
    settle().await;
    let silent = cpu::memory(&target.processes());
    for client in &mut clients {
        client.ping().await?;
    }
    settle().await;
    let served = cpu::memory(&target.processes());
    drop(clients);
    settle().await;
    let each = |bytes: u64| bytes.saturating_sub(before) as f64 / sessions as f64;
    Ok(Idle { target: target.name.clone(), sessions, silent: each(silent), served: each(served) })
}
