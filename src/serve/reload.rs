//! Reading the configuration again while the proxy runs ([`Reloader`]): for SIGHUP, for `switchmaster reload`, and every
//! 2 s for the passwords alone, so that a rotation needs neither.
//!
//! One task owns what is in force; a configuration that is wrong changes nothing. What can change and what cannot is
//! `config`'s to say ([`crate::config::Changes`]); here it is handed to those who go by it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::ConfigSource;
use super::descriptors::Share;
use super::worker::{self, Relaying};
use crate::config::{Changes, Config, Listen, Loaded, Problem, Problems};
use crate::net::Spare;
use crate::secret::Secret;
use crate::sentinel;
use crate::session::Worker;
use crate::upstream::Upstream;

/// Between two looks at the files that passwords come from.
const PASSWORDS_EVERY: Duration = Duration::from_secs(2);

/// Who wants to know what came of a reload: what it has changed, or what is wrong with the configuration.
pub(super) type Request = Option<oneshot::Sender<Result<String, String>>>;

/// Owns the configuration that is in force.
pub(super) struct Reloader {
    running: Loaded,
    source: ConfigSource,
    requests: mpsc::Receiver<Request>,
    reach: Reach,
}

/// Those who go by what a reload can change.
pub(super) struct Reach {
    /// Of each thread, for each listener.
    workers: Vec<Vec<Arc<Worker>>>,
    /// Listeners that are not configured but inherited, behind the others.
    inherited: Vec<Listen>,
    upstream: Arc<Upstream>,
    spare: Arc<Spare>,
    share: Share,
    /// For whoever follows Sentinel.
    parts: watch::Sender<sentinel::Parts>,
    /// `drain_grace` as it is configured now.
    pub(super) grace: watch::Sender<Duration>,
    /// `admin_token` as it is configured now.
    token: watch::Sender<Option<Secret>>,
}

impl Reloader {
    /// With what the proxy was started with; also returns where reloads are asked for.
    pub(super) fn new(running: Loaded, source: ConfigSource, reach: Reach) -> (Reloader, mpsc::Sender<Request>) {
        let (reloads, requests) = mpsc::channel(4);
        (Reloader { running, source, requests, reach }, reloads)
    }

    /// `admin_token` as it is configured at any time.
    pub(super) fn token(&self) -> watch::Receiver<Option<Secret>> {
        self.reach.token.subscribe()
    }

    /// Runs for ever.
    pub(super) async fn run(mut self) {
        loop {
            tokio::select! {
                Some(request) = self.requests.recv() => {
                    let outcome = self.reload().await;
                    request.map(|reply| reply.send(outcome));
                }
                () = tokio::time::sleep(PASSWORDS_EVERY), if self.running.reads_files() => self.follow_passwords().await,
                else => return,
            }
        }
    }

    async fn reload(&mut self) -> Result<String, String> {
        let next = self.read().await.map_err(|problems| {
            for problem in &problems.0 {
                tracing::error!("not reloaded, nothing changes: {problem}");
            }
            problems.to_string()
        })?;
        for warning in next.warnings.iter().chain(&next.foreign) {
            tracing::warn!("{warning}");
        }
        let unknown: String = next.foreign.iter().map(|foreign| format!("\nwarning: {foreign}")).collect();
        let changes = self.take_over(next);
        Ok(format!("{changes}{unknown}"))
    }

    /// Files that cannot be read, or are wrong, may be half written: they are looked at again.
    async fn follow_passwords(&mut self) {
        let Ok(found) = self.read().await else { return };
        let next = self.running.with_passwords_of(found);
        if next.config == self.running.config {
            tracing::debug!("the files were read: no password has changed");
        } else {
            self.take_over(next);
        }
    }

    async fn read(&self) -> Result<Loaded, Problems> {
        let read = self.source.read.clone();
        let failed = |error: tokio::task::JoinError| {
            Err(Problems(vec![Problem { origin: None, message: format!("it cannot be read: {error}") }]))
        };
        tokio::task::spawn_blocking(move || read()).await.unwrap_or_else(failed)
    }

    fn take_over(&mut self, next: Loaded) -> Changes {
        let (next, changes) = self.running.take_over(next);
        self.running = next;
        let config = &self.running.config;
        if !changes.applied.is_empty() {
            (self.source.set_log_level)(config.log.level);
            self.reach.apply(config);
        }
        tracing::info!("{}", changes.summary());
        for change in &changes.waiting {
            tracing::warn!("needs a restart: {change}");
        }
        changes
    }
}

impl Reach {
    pub(super) fn new(
        config: &Config,
        inherited: Vec<Listen>,
        workers: &[Relaying],
        upstream: Arc<Upstream>,
        (spare, share): (Arc<Spare>, Share),
        parts: watch::Sender<sentinel::Parts>,
    ) -> Reach {
        let of_thread = |thread: &Relaying| thread.listeners.iter().map(|(worker, _)| worker.clone()).collect();
        Reach {
            workers: workers.iter().map(of_thread).collect(),
            inherited,
            upstream,
            spare,
            share,
            parts,
            grace: watch::Sender::new(config.drain_grace),
            token: watch::Sender::new(config.admin_token.clone()),
        }
    }

    fn apply(&mut self, config: &Config) {
        self.grace.send_replace(config.drain_grace);
        self.token.send_replace(config.admin_token.clone());
        let share = Share::take(config);
        self.spare.change(share.spare as isize - self.share.spare as isize);
        self.share = share;
        for workers in &self.workers {
            for (worker, listen) in workers.iter().zip(config.listen.iter().chain(&self.inherited)) {
                worker.settings.send_replace(Arc::new(worker::settings(config, listen, &share)));
            }
        }
        self.upstream.topology.renew();
        self.parts.send_modify(|parts| *parts = sentinel::Parts::new(config, parts.own.clone()));
    }
}
