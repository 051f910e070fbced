//! A webhook and a heartbeat, for those who have no Prometheus.
//!
//! Nobody waits for it: what control finds goes into a bounded queue, and a thread of its own calls. The addresses are
//! secrets, and are in no log, no status and no payload.

mod delivery;
mod watcher;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{mpsc, watch};

pub use delivery::Caller;
pub use watcher::{Notice, Watcher};

use crate::config::NotifyConfig;
use crate::status::View;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);
/// Notices that wait for the webhook; one more is dropped, and that is logged.
const MOST_WAITING: usize = 64;

/// What is to be called, in the order in which it came about.
#[derive(Debug)]
pub enum Call {
    /// POST it to the webhook.
    Notice(String),
    /// Call the heartbeat.
    Heartbeat,
}

/// A queue between who finds something and who calls.
pub fn queue() -> (mpsc::Sender<Call>, mpsc::Receiver<Call>) {
    mpsc::channel(MOST_WAITING)
}

/// Looks for ever at what control sees, and puts what is to be called into the queue. A heartbeat says that the proxy
/// runs, that control looks, and that there is a master: it is left out otherwise.
pub async fn watch(
    view: Arc<dyn Fn() -> View + Send + Sync>,
    configured: watch::Receiver<NotifyConfig>,
    calls: mpsc::Sender<Call>,
) {
    let mut watcher = Watcher::default();
    let mut beaten: Option<Instant> = None;
    let mut tick = tokio::time::interval(LOOK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let (now, view) = (Instant::now(), view());
        let configured = configured.borrow().clone();
        for notice in watcher.look(now, &view) {
            if configured.webhook.is_some() && calls.try_send(Call::Notice(payload(&notice, &view))).is_err() {
                tracing::warn!("webhook: {} calls wait already, one more is dropped", MOST_WAITING);
            }
        }
        let is_due = beaten.is_none_or(|at| now >= at + configured.heartbeat_interval);
        if configured.heartbeat.is_some() && is_due && view.master.is_some() && view.phase != "failing" {
            beaten = Some(now);
            let _ = calls.try_send(Call::Heartbeat);
        }
    }
}

/// The JSON of a notice. `text` is what Slack, Mattermost and the like show.
fn payload(notice: &Notice, view: &View) -> String {
    let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let name = &view.master_name;
    let mut body = serde_json::json!({
        "event": notice.event,
        "text": format!("switchmaster on {}: {name}: {}", host(), notice.text),
        "host": host(),
        "master_name": name,
        "master": view.master.as_ref().map(|master| &master.addr),
        "phase": view.phase,
        "time": at,
    });
    if let Some(failover) = &notice.failover {
        body["failover"] = serde_json::json!(failover);
    }
    body.to_string()
}

/// The name of this host.
fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}
