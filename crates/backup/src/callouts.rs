//! Who is called when `backup create` has ended: the heartbeat after a good one, the webhook after one that failed.
//!
//! At most three tries within a minute; a call that nobody takes changes nothing of what the run itself says.

use std::time::Duration;

use super::Error;
use crate::config::Config;

/// How long one call may take.
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// Before each other try.
const RETRY: Duration = Duration::from_secs(3);
const MOST_TRIES: usize = 3;

/// Calls whoever is configured for how it ended. That another host makes a backup now, or that somebody stopped it, is no
/// failure.
pub async fn created(outcome: &Result<(), Error>, config: &Config) {
    let (address, json) = match outcome {
        Ok(()) => (&config.backup.heartbeat, None),
        Err(Error::Locked(_) | Error::Interrupted(_) | Error::Usage(_)) => return,
        Err(error) => (&config.webhook, Some(failure(error, config))),
    };
    let Some(address) = address else { return };
    let called = if json.is_some() { "webhook" } else { "backup_heartbeat_url" };
    for tried in 1..=MOST_TRIES {
        match address.call(json.clone(), CALL_LIMIT).await {
            Ok(()) => return,
            Err(why) if tried == MOST_TRIES => tracing::warn!("{called}: {why}"),
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}

fn failure(error: &Error, config: &Config) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let (host, master_name) = (host.trim(), config.sentinel.master_name.as_deref());
    let text = format!("switchmaster on {host}: the backup failed: {error}");
    serde_json::json!({
        "event": "backup_failed", "text": text, "host": host, "master_name": master_name, "exit_code": error.exit_code(),
    })
    .to_string()
}
