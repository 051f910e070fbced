//! The third step: the proxy as it runs ([`Server`]), and how it ends.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::files::Files;
use super::manager::Manager;
use super::reload::Request;
use super::thread::{Ready, Threads};
use super::worker::Relaying;
use super::{App, Error};
use crate::drain::{self, Stage};
use crate::net::ListenAddr;
use crate::sentinel;
use crate::upstream::Upstream;

/// Stages of the drain in which connections are refused, and how long each lasts at most: in `drain_grace`, but for the
/// last, in which each client is still read for a moment so that it gets a FIN and no reset.
const ENDING: Duration = Duration::from_secs(1);
/// Before them where clients can wait for the next process, and so much later it begins.
const QUIETING: Duration = Duration::from_millis(300);
const STOPPING: Duration = Duration::from_secs(1);
const CUTTING: Duration = Duration::from_millis(500);

/// A running proxy. Dropping it ends everything at once; [`Server::stop`] drains first.
#[derive(Debug)]
pub struct Server {
    /// Dropped before the threads, and so before the listeners.
    files: Files,
    threads: Threads,
    /// The name of one that has panicked.
    panicked: mpsc::Receiver<String>,
    /// Where clients connect, port 0 resolved.
    pub clients: Vec<ListenAddr>,
    /// Where metrics, health and control are.
    pub admin: Option<ListenAddr>,
    /// Whose master the clients reach.
    pub upstream: Arc<Upstream>,
    open: Arc<AtomicUsize>,
    outlived: bool,
    draining: Arc<AtomicBool>,
    drain: Option<drain::Signal>,
    /// `drain_grace` as it is configured now.
    grace: watch::Receiver<Duration>,
    failure: Option<oneshot::Receiver<sentinel::Error>>,
    reloads: mpsc::Sender<Request>,
}

impl App {
    /// Starts the threads, once the runtime of each watches its listeners: then clients can connect. The first master is
    /// looked for meanwhile.
    pub fn spawn(self) -> io::Result<Server> {
        let ready = |(index, worker): (usize, Relaying)| Ready::new(format!("worker-{index}"), || worker.begin());
        let count = self.workers.len();
        let workers = self.workers.into_iter().enumerate().map(ready).collect::<io::Result<Vec<_>>>()?;
        let control = Ready::new("control", || self.control.begin())?;
        let caller = Ready::new("caller", || Ok(self.caller.run()))?;
        let (mut threads, panicked) = Threads::new(Manager::watchdog());
        workers.into_iter().try_for_each(|worker| threads.start(worker))?;
        threads.start(control)?;
        threads.start(caller)?;
        let listen: Vec<String> = self.clients.iter().map(ListenAddr::to_string).collect();
        tracing::info!(
            admin = self.admin.as_ref().map_or_else(|| "off".into(), |addr| addr.to_string()),
            workers = count,
            "listening on {}",
            listen.join(", ")
        );
        if Manager::is_there() && !self.outlived {
            tracing::warn!("no socket is the service manager's: while this service restarts, clients are refused");
        }
        Ok(Server {
            clients: self.clients,
            admin: self.admin,
            upstream: self.upstream,
            open: self.open,
            outlived: self.outlived,
            panicked,
            draining: self.draining,
            drain: Some(self.drain),
            grace: self.grace,
            failure: Some(self.failed),
            reloads: self.reloads,
            files: self.files,
            threads,
        })
    }
}

impl Server {
    /// Client connections that are open.
    pub fn sessions(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Has the configuration read again; what comes of it is logged, and returned unless others come first.
    pub fn reload(&self) -> oneshot::Receiver<Result<String, String>> {
        let (answer, outcome) = oneshot::channel();
        // Where the channel is full, reloads are still to come.
        let _ = self.reloads.try_send(Some(answer));
        outcome
    }

    /// Who speaks with the service manager; once.
    pub(super) fn manager(&mut self) -> Manager {
        Manager::new(self.upstream.clone(), self.open.clone(), self.threads.watchdog())
    }

    /// Returns when the control plane cannot go on, or a thread has panicked.
    pub(super) async fn failed(&mut self) -> Error {
        let Server { failure, panicked, .. } = self;
        let following = async {
            if let Some(open) = failure
                && let Ok(error) = open.await
            {
                *failure = None;
                return error;
            }
            *failure = None;
            std::future::pending().await
        };
        tokio::select! {
            error = following => Error::Sentinel(error),
            Some(name) = panicked.recv() => Error::Panicked(name),
        }
    }

    /// Ends without a drain, and without waiting for a thread.
    pub(super) fn abandon(mut self) {
        self.files.clear();
        self.threads.abandon();
    }

    /// Lets what takes long finish while everybody is served, and then ends each session between two of its requests; all
    /// within `drain_grace`, or until `again` returns. What is left then is cut.
    ///
    /// Connections are accepted until sessions are ended, so that one slow request is no outage for the others. Who comes
    /// after that, to a listener that outlives us, is for the next process.
    ///
    /// A failover is waited for: whose requests are held is answered here. One that begins when connections are not
    /// accepted any more is so only where they wait for the next process, and are not refused.
    pub async fn stop(&mut self, again: impl Future<Output = ()>) {
        let Some(mut drain) = self.drain.take() else { return };
        let grace = *self.grace.borrow();
        self.draining.store(true, Ordering::Relaxed);
        tracing::info!(sessions = self.sessions(), "draining for at most {} s", grace.as_secs());
        let last = grace.min(ENDING + STOPPING);
        let at_ease_until = Instant::now() + grace - last;
        let topology = &self.upstream.topology;
        let orderly = async {
            let settled = async {
                drain.settle().await;
                topology.failed_over().await;
            };
            let _ = timeout_at(at_ease_until, settled).await;
            self.files.clear(); // while it is certain that they are ours
            if self.outlived {
                let _ = timeout(QUIETING.min(last), drain.end(Stage::Quieting)).await;
            }
            let ending = async {
                loop {
                    sleep(last.min(ENDING)).await;
                    let waited = self.outlived && timeout_at(at_ease_until, topology.failed_over()).await == Ok(true);
                    // What was held is to be asked and answered then.
                    if !waited {
                        break;
                    }
                }
            };
            tokio::select! {
                () = drain.end(Stage::Ending) => {}
                () = ending => {}
            }
            let _ = timeout(last.saturating_sub(ENDING), drain.end(Stage::Stopping)).await;
        };
        tokio::select! {
            () = orderly => {}
            () = again => tracing::info!("asked again: what is left is cut"),
        }
        let left = self.sessions();
        let _ = timeout(CUTTING, drain.end(Stage::Cutting)).await;
        tracing::info!(cut = left, "stopped");
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::OwnedFd;

    use super::super::ConfigSource;
    use super::super::bind::Sockets;
    use super::*;
    use crate::config::{Config, Loaded, Sources};
    use crate::net::{Bound, Inherited};

    /// What no runtime can watch: epoll refuses files.
    fn unwatchable() -> Bound {
        let listener = TcpListener::from(OwnedFd::from(tempfile::tempfile().unwrap()));
        listener.set_nonblocking(true).unwrap();
        listener.into()
    }

    fn loaded() -> Loaded {
        let environment = [
            ("SWITCHMASTER_LISTEN", "127.0.0.1:0"),
            ("SWITCHMASTER_ADMIN", "127.0.0.1:0"),
            ("SWITCHMASTER_ADMIN_SOCKET", "off"),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.into())).into();
        Config::load(&Sources { environment, ..Sources::default() }).unwrap()
    }

    fn spawn(loaded: Loaded, sockets: Sockets) -> io::Result<Server> {
        let again = loaded.clone();
        let source = ConfigSource { read: Arc::new(move || Ok(again.clone())), set_log_level: Arc::new(|_| ()) };
        App::build(loaded, source, sockets).spawn()
    }

    #[test]
    fn a_listener_that_no_runtime_can_watch_fails_the_start() {
        let loaded = loaded();
        let bound = || Sockets::bind(&loaded.config, Inherited::default()).unwrap();
        let server = spawn(loaded.clone(), bound()).unwrap();
        assert!(server.admin.as_ref().is_some_and(|addr| !addr.to_string().ends_with(":0")));
        let mut one = bound();
        one.queues[0][0] = unwatchable();
        assert_eq!(spawn(loaded.clone(), one).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn so_does_an_admin_listener() {
        let loaded = loaded();
        let mut bound = Sockets::bind(&loaded.config, Inherited::default()).unwrap();
        bound.admin.as_mut().unwrap().0 = unwatchable();
        assert_eq!(spawn(loaded, bound).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }
}
