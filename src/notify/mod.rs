//! A webhook and a heartbeat, for those who have no Prometheus.
//!
//! Nobody waits for it: what control finds goes into bounded queues, and a thread of its own calls. The addresses are
//! secrets, and are in no log, no status and no payload.

mod delivery;
mod watcher;

use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{mpsc, watch};

pub use delivery::Caller;
pub use watcher::{Notice, Watcher};

use crate::callout;
use crate::config::NotifyConfig;
use crate::status::View;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);
/// Notices that wait for the webhook; one more is dropped, and that is logged.
const MOST_WAITING: usize = 64;

/// What is to be called, for who finds it.
#[derive(Debug)]
pub struct Calls {
    /// To be POSTed to the webhook, in this order.
    notices: mpsc::Sender<String>,
    /// For the heartbeat. One is left out while the one before is under way.
    beats: mpsc::Sender<()>,
}

/// Between who finds something and who calls.
pub fn queue(configured: watch::Receiver<NotifyConfig>) -> (Calls, Caller) {
    let ((notices, to_post), (beats, to_beat)) = (mpsc::channel(MOST_WAITING), mpsc::channel(1));
    (Calls { notices, beats }, Caller::new(to_post, to_beat, configured))
}

/// Looks for ever at what control sees, and puts what is to be called into the queues. A heartbeat says that the proxy
/// runs, that control looks, and that there is a master: it is left out otherwise.
pub async fn watch(views: watch::Receiver<View>, configured: watch::Receiver<NotifyConfig>, calls: Calls) {
    let mut watcher = Watcher::default();
    let mut beaten: Option<Instant> = None;
    let mut tick = tokio::time::interval(LOOK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let (now, view, configured) = (Instant::now(), views.borrow(), configured.borrow());
        for notice in watcher.look(now, &view) {
            if configured.webhook.is_some() && calls.notices.try_send(payload(&notice, &view)).is_err() {
                tracing::warn!("webhook: {MOST_WAITING} calls wait already, one more is dropped");
            }
        }
        let is_due = beaten.is_none_or(|at| now >= at + configured.heartbeat_interval);
        if configured.heartbeat.is_some() && is_due && view.master.is_some() && view.phase != "failing" {
            beaten = Some(now);
            let _ = calls.beats.try_send(());
        }
    }
}

/// The JSON of a notice.
fn payload(notice: &Notice, view: &View) -> String {
    let name = &view.master_name;
    let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut body = callout::message(notice.event, Some(name), &format!("{name}: {}", notice.text));
    body["master"] = serde_json::json!(view.master.as_ref().map(|master| &master.addr));
    body["phase"] = view.phase.as_str().into();
    body["time"] = at.into();
    if let Some(failover) = &notice.failover {
        body["failover"] = serde_json::json!(failover);
    }
    body.to_string()
}
