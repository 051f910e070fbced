//! The composition root: bind, spawn, signals, drain. The only place that knows both planes.
//!
//! Nothing is decided here. Worker threads relay, one thread controls; each has a runtime of its own, so that
//! `status` answers when the workers are busy and a busy control plane costs no request a wait.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::admin::{self, Admin};
#[cfg(feature = "backup")]
use crate::backup;
use crate::config::{Config, Listen};
use crate::control::{self, ControlRequest};
use crate::drain::{self, Stage};
use crate::listener;
use crate::metrics::{self, WorkerCounters};
use crate::net::{self, Bound, ListenAddr, SocketFile, Spare};
use crate::sentinel;
use crate::session::{Settings, Worker, registry};
use crate::status::View;
use crate::topology::{Report, Topology};
use crate::upstream::Upstream;

/// Dials under way at once in one worker: far below the 511 that Redis queues by default (`tcp-backlog`).
const DIALS: usize = 128;
/// Descriptors of the control plane: Sentinels, nodes, files, and the admin server's 64 connections.
const CONTROL_DESCRIPTORS: u64 = 128;
/// Those of a worker besides its listeners: its runtime's, and a client that is being accepted or refused.
const WORKER_DESCRIPTORS: u64 = 8;

/// Between two looks at the files that passwords come from.
const PASSWORDS_EVERY: Duration = Duration::from_secs(2);

/// Why the proxy could not start or go on.
#[derive(Debug)]
pub enum Error {
    /// The system refused something: a port, a thread.
    Io(io::Error),
    /// What is configured cannot be followed (several masters and no name, say).
    Sentinel(sentinel::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io(error) => error.fmt(f),
            Error::Sentinel(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Error {
        Error::Io(error)
    }
}

/// Stages of the drain in which connections are refused, and how long each lasts at most: in `drain_grace`, but for the
/// last, in which each client is still read for a moment so that it gets a FIN and no reset.
const ENDING: Duration = Duration::from_secs(1);
const STOPPING: Duration = Duration::from_secs(1);
const CUTTING: Duration = Duration::from_millis(500);

/// Reads the configuration again; `None` while it cannot be read, or is wrong.
pub type Reread = Arc<dyn Fn() -> Option<Config> + Send + Sync>;

/// Serves until SIGTERM or SIGINT, then drains; a second one ends it. Blocks the calling thread. With `reread`, passwords
/// that are changed in their files are followed.
pub fn run(config: &Config, reread: Option<Reread>) -> Result<(), Error> {
    let mut server = Server::start(config, reread)?;
    runtime()?.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let ended = loop {
            tokio::select! {
                _ = terminate.recv() => break Ok(()),
                _ = interrupt.recv() => break Ok(()),
                _ = hangup.recv() => tracing::info!("SIGHUP: the configuration is read at the start only, but for passwords; restart to change it"),
                error = server.failed() => break Err(error),
            }
        };
        let again = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        server.stop(config.drain_grace, again).await;
        ended
    })
}

/// A running proxy. Dropping it ends everything at once; [`Server::stop`] drains first.
#[derive(Debug)]
pub struct Server {
    /// Where clients connect, port 0 resolved.
    pub clients: Vec<ListenAddr>,
    /// Where metrics, health and control are.
    pub admin: Option<SocketAddr>,
    /// What sessions see.
    pub topology: Arc<Topology>,
    open: Arc<AtomicUsize>,
    draining: Arc<AtomicBool>,
    drain: Option<drain::Signal>,
    failure: Option<oneshot::Receiver<sentinel::Error>>,
    /// Dropped to end the threads.
    end: Option<watch::Sender<()>>,
    threads: Vec<JoinHandle<()>>,
    files: Vec<SocketFile>,
}

impl Server {
    /// Binds and spawns. Returns once clients can connect; the first master is looked for meanwhile.
    pub fn start(config: &Config, reread: Option<Reread>) -> Result<Server, Error> {
        let (max_clients, spare) = share_descriptors(config);
        let spare = Spare::new(spare);
        let mut queues: Vec<Vec<Bound>> = (0..config.workers).map(|_| Vec::new()).collect();
        let (mut clients, mut files) = (Vec::new(), Vec::new());
        for listen in &config.listen {
            let bound = match &listen.addr {
                ListenAddr::Tcp(addr) => net::bind(*addr, config.workers)?,
                ListenAddr::Unix(path) => {
                    let group = listen.group.as_deref();
                    let (bound, file) = net::bind_unix(path, listen.mode, group, config.workers)?;
                    files.push(file);
                    bound
                }
            };
            clients.push(bound[0].addr()?);
            queues.iter_mut().zip(bound).for_each(|(queue, listener)| queue.push(listener));
        }
        let admin_listener = match config.admin {
            Some(addr) => net::bind(addr, 1)?.pop(),
            None => None,
        };
        let admin = match admin_listener.as_ref().map(Bound::addr).transpose()? {
            Some(ListenAddr::Tcp(addr)) => Some(addr),
            _ => None,
        };

        let following = &config.sentinel;
        let name = following.master_name.as_deref();
        let (upstream, reports) = Upstream::new(name, following.redis_auth.as_ref(), following.learn_credentials);
        let (end, ended) = watch::channel(());
        let (drain, drain_watch) = drain::channel();
        let open = Arc::new(AtomicUsize::new(0));
        let draining = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        let mut workers = Vec::new();
        for (index, listeners) in queues.into_iter().enumerate() {
            let counters = Arc::new(WorkerCounters::default());
            workers.push(counters.clone());
            let dials = Arc::new(Semaphore::new(DIALS));
            let worker = |listen: &Listen| Worker {
                upstream: upstream.clone(),
                counters: counters.clone(),
                settings: Settings {
                    on_lost_reply: listen.on_lost_reply.unwrap_or(config.failover.on_lost_reply),
                    on_lost_pop: config.failover.on_lost_pop,
                    hold_timeout: listen.hold_timeout,
                    retain_bytes: listen.retain_bytes.unwrap_or(config.failover.retain_bytes),
                    retain_total: config.failover.retain_total_bytes / config.workers,
                    reuse_backends: config.backends.reuse,
                },
                warm_backends: config.backends.warm,
                dials: dials.clone(),
                open: open.clone(),
                spare: spare.clone(),
            };
            let listeners = config.listen.iter().map(|listen| Arc::new(worker(listen))).zip(listeners).collect();
            let detach_after = config.backends.detach_idle_after;
            let work = work(upstream.clone(), listeners, max_clients, detach_after, drain_watch.clone());
            threads.push(spawn(&format!("worker-{index}"), ended.clone(), work)?);
        }

        let (failure, failed) = oneshot::channel();
        let control = Control {
            config: config.clone(),
            own: clients.clone(),
            upstream: upstream.clone(),
            workers: workers.into(),
            draining: draining.clone(),
            admin_listener,
            reread,
            reports,
            drain: drain_watch,
            failure,
        };
        threads.push(spawn("control", ended, control.run())?);
        let listen: Vec<String> = clients.iter().map(ListenAddr::to_string).collect();
        tracing::info!(
            admin = admin.map(|addr| addr.to_string()).unwrap_or_else(|| "off".into()),
            workers = config.workers,
            "listening on {}",
            listen.join(", ")
        );
        Ok(Server {
            clients,
            admin,
            topology: upstream.topology.clone(),
            open,
            draining,
            drain: Some(drain),
            failure: Some(failed),
            end: Some(end),
            threads,
            files,
        })
    }

    /// Client connections that are open.
    pub fn sessions(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Returns when the control plane cannot go on.
    async fn failed(&mut self) -> Error {
        if let Some(failure) = &mut self.failure
            && let Ok(error) = failure.await
        {
            self.failure = None;
            return Error::Sentinel(error);
        }
        self.failure = None;
        std::future::pending().await
    }

    /// Lets what takes long finish while everybody is served, and then ends each session between two of its requests; all
    /// within `grace`, or until `again` returns. What is left then is cut.
    ///
    /// Connections are accepted until sessions are ended, so that one slow request is no outage for the others.
    pub async fn stop(&mut self, grace: Duration, again: impl Future<Output = ()>) {
        let Some(mut drain) = self.drain.take() else { return };
        self.draining.store(true, Ordering::Relaxed);
        tracing::info!(sessions = self.sessions(), "draining for at most {} s", grace.as_secs());
        let last = grace.min(ENDING + STOPPING);
        let orderly = async {
            let _ = timeout(grace - last, drain.settle()).await;
            self.files.clear(); // while it is certain that they are ours
            for (stage, limit) in [(Stage::Ending, last.min(ENDING)), (Stage::Stopping, last.saturating_sub(ENDING))] {
                let _ = timeout(limit, drain.end(stage)).await;
            }
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

impl Drop for Server {
    fn drop(&mut self) {
        self.files.clear();
        self.end = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Everything on one worker thread.
async fn work(
    upstream: Arc<Upstream>,
    listeners: Vec<(Arc<Worker>, Bound)>,
    max_clients: usize,
    detach_after: Duration,
    drain: drain::Watch,
) {
    for (worker, listener) in listeners {
        if let Ok(listener) = listener.listen() {
            tokio::spawn(listener::run(listener, worker, max_clients, drain.clone()));
        }
    }
    tokio::spawn(registry::rounds(detach_after, drain.news()));
    drop(drain);
    registry::herald(&upstream.topology).await;
}

/// Everything on the control thread.
struct Control {
    config: Config,
    own: Vec<ListenAddr>,
    upstream: Arc<Upstream>,
    workers: Arc<[Arc<WorkerCounters>]>,
    draining: Arc<AtomicBool>,
    admin_listener: Option<Bound>,
    reread: Option<Reread>,
    reports: mpsc::Receiver<Report>,
    drain: drain::Watch,
    failure: oneshot::Sender<sentinel::Error>,
}

impl Control {
    async fn run(self) {
        let (commands, orders) = mpsc::channel(16);
        let passwords = commands.clone();
        let (status, shown) = watch::channel(View::default());
        if let Some(listener) = self.admin_listener.and_then(|listener| listener.listen().ok()) {
            let admin = Admin {
                upstream: self.upstream.clone(),
                workers: self.workers.clone(),
                view: Arc::new(move || shown.borrow().clone()),
                backups: Arc::new(backups(self.config.state_dir.clone())),
                commands,
                draining: self.draining,
                prometheus: metrics::install(),
                proxy: self.own[0].clone(),
                options: admin::Options { token: self.config.admin_token.clone(), ..admin::Options::default() },
            };
            tokio::spawn(admin::serve(admin, listener));
        }
        if let Some(reread) = self.reread {
            tokio::spawn(follow_passwords(reread, self.config.clone(), passwords));
        }
        let workers = self.workers;
        let replies = move || workers.iter().map(|counters| counters.replies.get()).sum();
        let own = self.own.iter().filter_map(|own| if let ListenAddr::Tcp(addr) = own { Some(*addr) } else { None });
        let parts = sentinel::Parts::new(&self.config, own.collect());
        let ended = sentinel::run(parts, self.upstream, self.reports, replies, orders, status, self.drain).await;
        if let Err(error) = ended {
            let _ = self.failure.send(error);
        }
        // Sessions go on with what they know until the process ends.
        std::future::pending::<()>().await;
    }
}

/// Looks at the files again and again: a rotation needs no restart.
async fn follow_passwords(reread: Reread, config: Config, orders: mpsc::Sender<ControlRequest>) {
    let (mut redis, mut sentinels) = (config.sentinel.redis_auth, config.sentinel.auth);
    loop {
        tokio::time::sleep(PASSWORDS_EVERY).await;
        let reread = reread.clone();
        let Ok(Some(found)) = tokio::task::spawn_blocking(move || reread()).await else { continue };
        if (&redis, &sentinels) != (&found.sentinel.redis_auth, &found.sentinel.auth) {
            (redis, sentinels) = (found.sentinel.redis_auth, found.sentinel.auth);
            let (redis, sentinels) = (redis.clone(), sentinels.clone());
            let (reply, _) = oneshot::channel();
            if orders.send((control::Control::Credentials { redis, sentinels }, reply)).await.is_err() {
                return;
            }
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

/// How many clients may be there at once, and how many descriptors are left beyond theirs and the control plane's.
fn share_descriptors(config: &Config) -> (usize, usize) {
    let limit = net::raise_descriptor_limit();
    let (share, wanted) = Share::of(limit, config);
    if limit < wanted {
        tracing::warn!(
            "max_clients = {} needs {wanted} descriptors ({} for each client), and the hard limit is {limit}: raise it \
             (LimitNOFILE= in systemd, ulimit -Hn) or lower max_clients; {} clients are served at once",
            config.max_clients,
            share.each,
            share.clients
        );
    }
    (share.clients, share.spare)
}

/// What each gets of the process's descriptors.
#[derive(Debug, PartialEq, Eq)]
struct Share {
    /// Of a client: its socket and its backend; a Unix socket is registered a second time while a write waits.
    each: u64,
    clients: usize,
    spare: usize,
}

impl Share {
    /// More than this many spare ones are of no use.
    const MOST_SPARE: u64 = 1 << 16;

    /// Also returns what the configuration needs.
    fn of(limit: u64, config: &Config) -> (Share, u64) {
        let is_unix = |listen: &Listen| matches!(listen.addr, ListenAddr::Unix(_));
        let each = if config.listen.iter().any(is_unix) { 3 } else { 2 };
        let own = CONTROL_DESCRIPTORS + config.workers as u64 * (WORKER_DESCRIPTORS + config.listen.len() as u64);
        let clients = config.max_clients as u64;
        let wanted = own + clients * each;
        let room = limit - own.min(limit / 2);
        // Where there is not enough for all clients, a part stays spare nevertheless: connections made ready are worth it.
        let clients = if room < clients * each { (room - room / 8) / each } else { clients };
        let spare = (room - clients * each).min(Self::MOST_SPARE);
        (Share { each, clients: clients as usize, spare: spare as usize }, wanted)
    }
}

fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Runs `work` on a thread with a runtime of its own until it ends or `ended` does.
fn spawn(
    name: &str,
    mut ended: watch::Receiver<()>,
    work: impl Future<Output = ()> + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let runtime = runtime()?;
    thread::Builder::new().name(name.into()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                () = work => {}
                _ = ended.changed() => {}
            }
        });
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_kept_for_control_and_shared_among_the_rest() {
        let mut config = Config { workers: 1, max_clients: 500, ..Config::default() };
        let own = CONTROL_DESCRIPTORS + WORKER_DESCRIPTORS + 1;
        let share = |limit, config: &Config| Share::of(limit, config).0;
        assert_eq!(Share::of(own + 1000, &config), (Share { each: 2, clients: 500, spare: 0 }, own + 1000));
        assert_eq!(share(own + 1100, &config), Share { each: 2, clients: 500, spare: 100 });
        assert_eq!(share(own + 800, &config), Share { each: 2, clients: 350, spare: 100 });
        assert_eq!(share(100, &config), Share { each: 2, clients: 22, spare: 6 }, "half of what there is");
        assert!(share(u64::MAX, &config).spare < 1 << 20, "no limit");
        config.listen.push(Listen::new(ListenAddr::Unix("/run/redis.sock".into())));
        assert_eq!(share(own + 1600, &config), Share { each: 3, clients: 500, spare: 99 });
    }
}
