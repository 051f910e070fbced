//! Calls the webhook and the heartbeat, on a thread of its own.
//!
//! Notices go out in order and are tried again for a quarter of an hour; a heartbeat is tried once, since the next one
//! follows. One that hangs keeps the other waiting for nothing.

use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::callout::CALL_LIMIT;
use crate::config::NotifyConfig;

/// Before the second try; each later one waits twice as long, up to the longest.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(120);
/// Tries of one notice: about a quarter of an hour.
const MOST_TRIES: u32 = 14;

/// Calls what comes.
#[derive(Debug)]
pub struct Caller {
    notices: mpsc::Receiver<String>,
    beats: mpsc::Receiver<()>,
    /// Whom to call. A reload may change it.
    configured: watch::Receiver<NotifyConfig>,
}

impl Caller {
    pub(super) fn new(
        notices: mpsc::Receiver<String>,
        beats: mpsc::Receiver<()>,
        configured: watch::Receiver<NotifyConfig>,
    ) -> Caller {
        Caller { notices, beats, configured }
    }

    /// Runs for ever.
    pub async fn run(self) {
        tokio::join!(post(self.notices, self.configured.clone()), beat(self.beats, self.configured));
        std::future::pending().await
    }
}

async fn post(mut notices: mpsc::Receiver<String>, configured: watch::Receiver<NotifyConfig>) {
    while let Some(json) = notices.recv().await {
        let mut pause = FIRST_RETRY;
        for tried in 1..=MOST_TRIES {
            // Read anew: a reload may have mended it, or taken it away.
            let Some(webhook) = configured.borrow().webhook.clone() else { break };
            match webhook.call(Some(json.clone()), CALL_LIMIT).await {
                Ok(()) => break,
                Err(why) if tried == MOST_TRIES => tracing::warn!("webhook: given up after {tried} tries: {why}"),
                Err(why) => {
                    if tried == 1 {
                        tracing::warn!("webhook: {why}; it is tried again");
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_RETRY);
                }
            }
        }
    }
}

async fn beat(mut beats: mpsc::Receiver<()>, configured: watch::Receiver<NotifyConfig>) {
    let mut is_failing = false;
    while beats.recv().await.is_some() {
        let Some(heartbeat) = configured.borrow().heartbeat.clone() else { continue };
        let called = heartbeat.call(None, CALL_LIMIT).await;
        if let Err(why) = &called
            && !is_failing
        {
            tracing::warn!("heartbeat: {why}");
        }
        is_failing = called.is_err();
    }
}
