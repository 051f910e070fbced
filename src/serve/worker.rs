//! Everything on one worker thread ([`Relaying`]): it accepts at each listener, and wakes its sessions.

use std::io;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::descriptors::Share;
use super::thread;
use crate::config::{Config, Listen};
use crate::drain;
use crate::listener;
use crate::net::Bound;
use crate::session::{Settings, Worker, registry};
use crate::upstream::Upstream;

/// Dials under way at once in one worker: far below the 511 that Redis queues by default (`tcp-backlog`).
const DIALS: usize = 128;

/// What one worker thread will do.
#[derive(Debug)]
pub(super) struct Relaying {
    pub(super) upstream: Arc<Upstream>,
    /// At least one.
    pub(super) listeners: Vec<(Arc<Worker>, Bound)>,
    pub(super) drain: drain::Watch,
}

impl Relaying {
    /// Has the runtime of the caller watch the listeners; what is returned accepts.
    pub(super) fn begin(self) -> io::Result<impl Future<Output = ()> + Send> {
        let Relaying { upstream, listeners, drain } = self;
        let settings = listeners[0].0.settings.subscribe();
        let registered = listeners.into_iter().map(|(worker, bound)| Ok((bound.listen()?, worker)));
        let listeners = registered.collect::<io::Result<Vec<_>>>()?;
        Ok(async move {
            let mut tasks = JoinSet::new();
            for (listener, worker) in listeners {
                tasks.spawn(listener::run(listener, worker, drain.clone()));
            }
            tasks.spawn(registry::rounds(settings, drain.news()));
            drop(drain);
            thread::beside(tasks, registry::herald(&upstream.topology)).await;
        })
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
