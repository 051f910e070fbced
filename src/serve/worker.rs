//! Everything on one worker thread ([`Relaying`]): it accepts at each listener, and wakes its sessions.

use std::io;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::descriptors::Share;
use super::thread;
use crate::config::{Config, Listen};
use crate::drain;
use crate::listener::{self, Drains};
use crate::net::Bound;
use crate::session::{Settings, Worker, registry};
use crate::upstream::Upstream;

/// Dials under way at once in one worker: far below the 511 that Redis queues by default (`tcp-backlog`).
const DIALS: usize = 128;

/// What one worker thread will do.
#[derive(Debug)]
pub(super) struct Relaying {
    pub(super) upstream: Arc<Upstream>,
    pub(super) listeners: Vec<Accepting>,
    /// Listeners of a reload.
    pub(super) later: mpsc::UnboundedReceiver<Opening>,
    pub(super) detach_idle_after: watch::Receiver<Duration>,
    pub(super) drain: drain::Watch,
}

/// A listener on one worker thread.
#[derive(Debug)]
pub(super) struct Accepting {
    pub(super) worker: Arc<Worker>,
    pub(super) queue: Bound,
    pub(super) drains: Drains,
}

/// One that is to be accepted at from now on, and who wants to know whether it is.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) accepting: Accepting,
    pub(super) answer: oneshot::Sender<io::Result<()>>,
}

impl Accepting {
    /// Has the runtime of the caller watch it; what is returned accepts.
    fn begin(self) -> io::Result<impl Future<Output = ()> + Send> {
        Ok(listener::run(self.queue.listen()?, self.worker, self.drains))
    }
}

impl Relaying {
    /// Has the runtime of the caller watch the listeners; what is returned accepts.
    pub(super) fn begin(self) -> io::Result<impl Future<Output = ()> + Send> {
        let Relaying { upstream, listeners, later, detach_idle_after, drain } = self;
        let listeners = listeners.into_iter().map(Accepting::begin).collect::<io::Result<Vec<_>>>()?;
        Ok(async move {
            let mut tasks = JoinSet::new();
            for accepts in listeners {
                tasks.spawn(accepts);
            }
            tasks.spawn(open(later));
            tasks.spawn(registry::rounds(detach_idle_after, drain.news()));
            drop(drain);
            thread::beside(tasks, registry::herald(&upstream.topology)).await;
        })
    }
}

/// Accepts at whatever comes; a panic there is one of this task.
async fn open(mut later: mpsc::UnboundedReceiver<Opening>) {
    let mut accepting = JoinSet::new();
    loop {
        tokio::select! {
            Some(Opening { accepting: next, answer }) = later.recv() => {
                let begun = next.begin().map(|accepts| _ = accepting.spawn(accepts));
                // Whoever has asked may have gone with its thread.
                let _ = answer.send(begun);
            }
            Some(ended) = accepting.join_next() => match ended {
                Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
                _ => {}
            },
            else => return,
        }
    }
}

/// Dials under way on one thread.
pub(super) fn dials() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(DIALS))
}

/// What is configured for the sessions of `listen` on one thread.
pub(super) fn settings(config: &Config, listen: &Listen, share: &Share) -> Settings {
    Settings {
        on_lost_reply: listen.on_lost_reply.unwrap_or(config.failover.on_lost_reply),
        on_lost_pop: config.failover.on_lost_pop,
        hold_timeout: listen.hold_timeout,
        retain_bytes: listen.retain_bytes.unwrap_or(config.failover.retain_bytes),
        retain_total: config.failover.retain_total_bytes / config.workers,
        warm_backends: config.backends.warm,
        reuse_backends: config.backends.reuse,
        detach_idle_after: config.backends.detach_idle_after,
        max_clients: share.clients,
    }
}
