//! Everything on the control thread ([`Control`]): the admin server, reloads, and following Sentinel.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::reload::{Reloader, Request};
use super::thread;
use crate::admin::{self, Admin};
#[cfg(feature = "backup")]
use crate::backup;
use crate::control::{self, ControlRequest};
use crate::drain;
use crate::metrics::{self, WorkerCounters};
use crate::net::{Bound, ListenAddr, Listener};
use crate::notify::{self, Calls};
use crate::sentinel;
use crate::status::View;
use crate::topology::Report;
use crate::upstream::Upstream;

/// What the control thread will do.
pub(super) struct Control {
    pub(super) state_dir: Option<PathBuf>,
    /// Where a client of our own connects.
    pub(super) proxy: watch::Receiver<ListenAddr>,
    pub(super) upstream: Arc<Upstream>,
    pub(super) workers: Arc<[Arc<WorkerCounters>]>,
    pub(super) draining: Arc<AtomicBool>,
    /// Those of the admin server.
    pub(super) listeners: Vec<Bound>,
    pub(super) admin_socket: Option<admin::Socket>,
    pub(super) reloader: Reloader,
    pub(super) reloads: mpsc::Sender<Request>,
    /// For whoever follows Sentinel.
    pub(super) configured: watch::Receiver<sentinel::Parts>,
    pub(super) reports: mpsc::Receiver<Report>,
    pub(super) drain: drain::Watch,
    pub(super) failure: oneshot::Sender<sentinel::Error>,
    /// For whoever calls the webhook and the heartbeat.
    pub(super) calls: Calls,
}

impl Control {
    /// Has the runtime of the caller watch the admin listeners; what is returned controls.
    pub(super) fn begin(mut self) -> io::Result<impl Future<Output = ()> + Send> {
        let listeners =
            std::mem::take(&mut self.listeners).into_iter().map(Bound::listen).collect::<io::Result<_>>()?;
        Ok(self.run(listeners))
    }

    async fn run(self, listeners: Vec<Listener>) {
        let (status, shown) = watch::channel(View::default());
        let (orders, following) = mpsc::channel(16);
        let mut tasks = JoinSet::new();
        if !listeners.is_empty() {
            let (commands, given) = mpsc::channel(16);
            tasks.spawn(route(given, orders, self.reloads.clone()));
            tasks.spawn(admin::serve(self.admin_server(commands, shown), listeners));
        }
        tasks.spawn(notify::watch(status.subscribe(), self.reloader.notify(), self.calls));
        tasks.spawn(self.reloader.run());
        let workers = self.workers;
        let replies = move || workers.iter().map(|counters| counters.replies.get()).sum();
        let follow = async {
            let ended =
                sentinel::run(self.configured, self.upstream, self.reports, replies, following, status, self.drain)
                    .await;
            if let Err(error) = ended {
                let _ = self.failure.send(error);
            }
            // Sessions go on with what they know until the process ends.
            std::future::pending::<()>().await;
        };
        thread::beside(tasks, follow).await;
    }

    fn admin_server(&self, commands: admin::Commands, shown: watch::Receiver<View>) -> Admin {
        Admin {
            upstream: self.upstream.clone(),
            workers: self.workers.clone(),
            view: Arc::new(move || shown.borrow().clone()),
            backups: Arc::new(backups(self.state_dir.clone())),
            commands,
            draining: self.draining.clone(),
            prometheus: metrics::install(),
            proxy: self.proxy.clone(),
            options: admin::Options {
                token: self.reloader.token(),
                socket: self.admin_socket.clone(),
                ..admin::Options::default()
            },
        }
    }
}

/// Gives each order to whoever carries it out, and answers.
async fn route(
    mut given: mpsc::Receiver<ControlRequest>,
    following: mpsc::Sender<ControlRequest>,
    reloads: mpsc::Sender<Request>,
) {
    while let Some((order, answer)) = given.recv().await {
        if order != control::Control::Reload {
            let _ = following.send((order, answer)).await;
        } else if let Err(TrySendError::Full(request) | TrySendError::Closed(request)) = reloads.try_send(Some(answer))
        {
            request.map(|answer| answer.send(Err("others are to be carried out first, or the proxy is ending".into())));
        }
    }
}

/// What the runs of `backup` left in `state_dir`, as samples of the backups of the master of a given name.
#[cfg(feature = "backup")]
fn backups(state_dir: Option<PathBuf>) -> impl Fn(&str) -> String {
    move |master_name| {
        let mut records = state_dir.as_deref().map(backup::report::read_state).unwrap_or_default();
        records.entry(master_name.to_owned()).or_default();
        backup::report::exposition(&records)
    }
}

#[cfg(not(feature = "backup"))]
fn backups(_: Option<PathBuf>) -> impl Fn(&str) -> String {
    |_| String::new()
}
