//! Who is called when `backup create` has ended: the heartbeat after a good one, the webhook after one that failed.
//!
//! At most three tries within a minute; a call that nobody takes changes nothing of what the run itself says.

use std::time::Duration;

use super::Error;
use crate::callout::{self, CALL_LIMIT};
use crate::config::Config;

/// Before each other try.
const RETRY: Duration = Duration::from_secs(3);
const MOST_TRIES: usize = 3;

/// Calls whoever is configured for how it ended. That another host makes a backup now, or that somebody stopped it, is no
/// failure.
pub async fn created(outcome: &Result<(), Error>, config: &Config) {
    let (called, address, json) = match outcome {
        Ok(()) => ("backup_heartbeat_url", &config.backup.heartbeat, None),
        Err(Error::Locked(_) | Error::Interrupted(_) | Error::Usage(_)) => return,
        Err(error) => ("webhook", &config.webhook, Some(failure(error, config))),
    };
    let Some(address) = address else { return };
    for tried in 1..=MOST_TRIES {
        match address.call(json.clone(), CALL_LIMIT).await {
            Ok(()) => return,
            Err(why) if tried == MOST_TRIES => tracing::warn!("{called}: {why}"),
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}

fn failure(error: &Error, config: &Config) -> String {
    let text = format!("the backup failed: {error}");
    let mut body = callout::message("backup_failed", config.sentinel.master_name.as_deref(), &text);
    body["exit_code"] = error.exit_code().into();
    body.to_string()
}
