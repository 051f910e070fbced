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
use super::listening::Listening;
use crate::config::{Changes, Config, Loaded, NotifyConfig, Problem, Problems};
use crate::net::Spare;
use crate::secret::Secret;
use crate::sentinel;
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
    listening: Listening,
    upstream: Arc<Upstream>,
    spare: Arc<Spare>,
    share: Share,
    detach_idle_after: watch::Sender<Duration>,
    /// For whoever follows Sentinel.
    parts: watch::Sender<sentinel::Parts>,
    /// `drain_grace` as it is configured now.
    pub(super) grace: watch::Sender<Duration>,
    /// `admin_token` as it is configured now.
    token: watch::Sender<Option<Secret>>,
    /// Whom to call, as it is configured now.
    pub(super) notify: watch::Sender<NotifyConfig>,
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

    /// Whom to call, as it is configured at any time.
    pub(super) fn notify(&self) -> watch::Receiver<NotifyConfig> {
        self.reach.notify.subscribe()
    }

    /// Runs for ever.
    pub(super) async fn run(mut self) {
        loop {
            tokio::select! {
                Some(request) = self.requests.recv() => {
                    let outcome = self.reload().await;
                    request.map(|reply| reply.send(outcome));
                }
                () = self.reach.listening.draining() => {}
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
        let (next, changes) = self.running.take_over(next);
        if next.config.listen != self.running.config.listen
            && let Err(error) = self.reach.listening.change(&next.config, &self.reach.share).await
        {
            let at = next.origin("listen").map(|origin| format!("{origin}: ")).unwrap_or_default();
            let problem = format!("{at}listen: {error}");
            tracing::error!("not reloaded, nothing changes: {problem}");
            return Err(problem);
        }
        let unknown: String = next.foreign.iter().map(|foreign| format!("\nwarning: {foreign}")).collect();
        self.put_in_force(next, &changes);
        Ok(format!("{changes}{unknown}"))
    }

    /// Files that cannot be read, or are wrong, may be half written: they are looked at again.
    async fn follow_passwords(&mut self) {
        let Ok(found) = self.read().await else { return };
        let next = self.running.with_passwords_of(found);
        if next.config == self.running.config {
            tracing::debug!("the files were read: no password has changed");
        } else {
            let (next, changes) = self.running.take_over(next);
            self.put_in_force(next, &changes);
        }
    }

    async fn read(&self) -> Result<Loaded, Problems> {
        let read = self.source.read.clone();
        let failed = |error: tokio::task::JoinError| {
            Err(Problems(vec![Problem { origin: None, message: format!("it cannot be read: {error}") }]))
        };
        tokio::task::spawn_blocking(move || read()).await.unwrap_or_else(failed)
    }

    fn put_in_force(&mut self, next: Loaded, changes: &Changes) {
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
    }
}

impl Reach {
    pub(super) fn new(
        config: &Config,
        listening: Listening,
        upstream: Arc<Upstream>,
        (spare, share): (Arc<Spare>, Share),
        detach_idle_after: watch::Sender<Duration>,
        parts: watch::Sender<sentinel::Parts>,
    ) -> Reach {
        Reach {
            listening,
            upstream,
            spare,
            share,
            detach_idle_after,
            parts,
            grace: watch::Sender::new(config.drain_grace),
            token: watch::Sender::new(config.admin_token.clone()),
            notify: watch::Sender::new(config.notify.clone()),
        }
    }

    fn apply(&mut self, config: &Config) {
        self.grace.send_replace(config.drain_grace);
        self.token.send_replace(config.admin_token.clone());
        self.notify.send_replace(config.notify.clone());
        let share = Share::take(config);
        self.spare.change(share.spare as isize - self.share.spare as isize);
        self.share = share;
        self.listening.set(config, &share);
        let idle = config.backends.detach_idle_after;
        self.detach_idle_after.send_if_modified(|used| std::mem::replace(used, idle) != idle);
        self.upstream.topology.renew();
        self.parts.send_modify(|parts| *parts = sentinel::Parts::new(config, self.listening.own()));
    }
}
