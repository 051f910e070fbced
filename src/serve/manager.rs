//! What is said to the service manager ([`Manager`]), by sd_notify(3): that we serve, reload, stop, and that all threads turn.
//!
//! Where there is none (no NOTIFY_SOCKET) nothing is sent. Runs on the main thread, which has nothing else to do.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tokio::sync::{oneshot, watch};

use super::notice::{Notices, Seen};
use super::watchdog::Watchdog;
use crate::upstream::Upstream;

/// Between two looks at how many sessions there are.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A start that failed ends so much later: the service manager tries again at once, and shall not do so all the time.
const FAILED_FOR: Duration = Duration::from_secs(1);
/// Notices that wait for a service manager that does not read; later ones are dropped.
const WAITING: usize = 64;

/// The outcome of a reload, once there is one.
pub(super) type Outcome = oneshot::Receiver<Result<String, String>>;

/// The service manager, as we see it.
pub(super) struct Manager {
    notices: Notices,
    voice: Voice,
    watchdog: Watchdog,
    is_stuck: bool,
    upstream: Arc<Upstream>,
    changed: watch::Receiver<()>,
    /// Of the topology, when it was looked at last.
    generation: u64,
    open: Arc<AtomicUsize>,
    is_ending: bool,
    reloading: Option<Outcome>,
    next_look: Instant,
    /// Never without a watchdog.
    next_feed: Option<Instant>,
}

impl Manager {
    /// Of a process that begins to serve; nothing is said yet.
    pub(super) fn new(upstream: Arc<Upstream>, open: Arc<AtomicUsize>, watchdog: Watchdog) -> Manager {
        let (now, changed) = (Instant::now(), upstream.topology.subscribe());
        let next_feed = watchdog.every().map(|every| now + every);
        Manager {
            notices: Notices::new(now),
            voice: Voice::new(),
            watchdog,
            is_stuck: false,
            upstream,
            changed,
            generation: 0,
            open,
            is_ending: false,
            reloading: None,
            next_look: now,
            next_feed,
        }
    }

    /// Whether one has started us, and hears what is said.
    pub(super) fn is_there() -> bool {
        std::env::var_os("NOTIFY_SOCKET").is_some()
    }

    /// The watchdog of this service, if it has one.
    pub(super) fn watchdog() -> Watchdog {
        Watchdog::new(sd_notify::watchdog_enabled())
    }

    /// Waits until there may be something to say, and says it. To be called again and again; may be dropped at any time.
    pub(super) async fn turn(&mut self) {
        tokio::select! {
            // At each proof of life too, of which there is nothing to say.
            Ok(()) = self.changed.changed() => {
                let generation = self.upstream.topology.generation();
                if std::mem::replace(&mut self.generation, generation) == generation {
                    return;
                }
            }
            outcome = reloaded(&mut self.reloading) => {
                self.reloading = None;
                self.notices.reloaded(outcome);
                self.look();
                return self.voice.say(&[NotifyState::Ready]);
            }
            () = tokio::time::sleep_until(self.next_look.into()) => self.next_look = Instant::now() + LOOK_EVERY,
            () = due(self.next_feed) => {
                self.next_feed = self.watchdog.every().map(|every| Instant::now() + every);
                return self.feed();
            }
        }
        self.look();
    }

    /// For as long as it is polled.
    pub(super) async fn turns(&mut self) {
        loop {
            self.turn().await;
        }
    }

    /// A reload was begun.
    pub(super) fn reloading(&mut self, outcome: Outcome) {
        self.reloading = Some(outcome);
        // The time is for Type=notify-reload (systemd 253); others do not know it.
        let now = NotifyState::monotonic_usec_now().ok();
        self.voice.say(&[NotifyState::Reloading].into_iter().chain(now).collect::<Vec<_>>());
    }

    /// The process is to end.
    pub(super) fn stopping(&mut self) {
        self.is_ending = true;
        self.voice.say(&[NotifyState::Stopping]);
        self.look();
    }

    fn look(&mut self) {
        let entry = self.upstream.topology.current();
        let seen = Seen {
            master: entry.master.as_ref().map(|master| master.addr),
            phase: entry.phase,
            reason: entry.reason.clone(),
            sessions: self.open.load(Ordering::Relaxed),
            is_ending: self.is_ending,
        };
        let notice = self.notices.look(Instant::now(), &seen);
        let ready = notice.ready.then_some(NotifyState::Ready);
        let status = notice.status.as_deref().map(NotifyState::Status);
        self.voice.say(&ready.into_iter().chain(status).collect::<Vec<_>>());
    }

    /// Once each thread has turned, and control has looked.
    fn feed(&mut self) {
        let mut stuck = self.watchdog.stuck();
        if self.upstream.topology.is_unwatched(Instant::now()) && !stuck.contains(&"control") {
            stuck.push("control");
        }
        if stuck.is_empty() {
            self.is_stuck = false;
            return self.voice.say(&[NotifyState::Watchdog]);
        }
        if !std::mem::replace(&mut self.is_stuck, true) {
            tracing::error!("stuck: {}; if that lasts, the service manager ends this process", stuck.join(", "));
        }
    }
}

/// The start failed, as `why` says: the service manager shows it, and tries again only after a while.
pub fn not_started(why: &str) {
    if Manager::is_there() {
        send(&NotifyState::Status(&why.replace('\n', " ")).to_string());
        std::thread::sleep(FAILED_FOR);
    }
}

async fn due(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

async fn reloaded(outcome: &mut Option<Outcome>) -> Result<(), String> {
    match outcome {
        // Where nobody answers others come first, and will say what came of them.
        Some(outcome) => outcome.await.map_or(Ok(()), |outcome| outcome.map(drop)),
        None => std::future::pending().await,
    }
}

/// Sends from a thread of its own: a service manager that does not read must not keep us from hearing a signal.
struct Voice(Option<SyncSender<String>>);

impl Voice {
    /// Silent where nobody listens.
    fn new() -> Voice {
        if !Manager::is_there() {
            return Voice(None);
        }
        let (sender, texts) = sync_channel::<String>(WAITING);
        let send = move || texts.iter().for_each(|text| send(&text));
        Voice(std::thread::Builder::new().name("notices".into()).spawn(send).ok().map(|_| sender))
    }

    fn say(&self, state: &[NotifyState<'_>]) {
        if let Some(sender) = &self.0
            && !state.is_empty()
        {
            let lines: Vec<String> = state.iter().map(ToString::to_string).collect();
            let _ = sender.try_send(lines.join("\n"));
        }
    }
}

fn send(text: &str) {
    if let Err(error) = sd_notify::notify(&[NotifyState::Custom(text)]) {
        tracing::debug!("the service manager cannot be reached: {error}");
    }
}
