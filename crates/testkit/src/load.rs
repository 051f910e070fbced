//! Load clients that check every reply, on a thread of their own, bounded in number, rate and time.
//!
//! A client never hides anything: it does not retry a request, and each connection it loses is counted.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::client::{Client, Kind};
use super::log::Log;
use super::report::{Report, Verdict, longer};
use super::server::ClusterError;
use super::verify::{Written, verify};
use crate::secret::Credentials;

/// Running load clients; dropping it ends them.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    halt: watch::Sender<Halt>,
    thread: Option<JoinHandle<()>>,
}

/// How many clients do what.
#[derive(Clone, Debug)]
pub struct LoadSpec {
    /// Clients that SET a new key each time.
    pub writers: usize,
    /// Clients that GET what a writer wrote shortly before.
    pub readers: usize,
    /// Clients that INCR a counter of their own.
    pub counters: usize,
    /// Clients that write by a script which takes `script_time`.
    pub scripts: usize,
    /// Clients that connect and then only wait.
    pub idle: usize,
    /// How long a script keeps the server busy before it writes.
    pub script_time: Duration,
    /// Requests per second and client, at most.
    pub rate: f64,
    /// Requests sent before their replies are read.
    pub pipeline: usize,
    /// Bytes of a value.
    pub value_size: usize,
    /// Clients are spread over this many databases.
    pub dbs: u32,
    /// How the clients authenticate.
    pub auth: Option<Credentials>,
    /// A new connection for each request, as php-fpm does.
    pub connect_each_time: bool,
    /// A request without a reply for this long has hung; its connection is given up.
    pub reply_limit: Duration,
    /// The clients end after this time by themselves.
    pub time_limit: Duration,
}

impl Default for LoadSpec {
    /// The load of the acceptance tests: 20 writers over 4 databases, 10 readers, 500 requests/s each.
    fn default() -> Self {
        LoadSpec {
            writers: 20,
            readers: 10,
            counters: 0,
            scripts: 0,
            idle: 0,
            script_time: Duration::from_millis(40),
            rate: 500.0,
            pipeline: 1,
            value_size: 64,
            dbs: 4,
            auth: None,
            connect_each_time: false,
            reply_limit: Duration::from_secs(60),
            time_limit: Duration::from_secs(300),
        }
    }
}

impl LoadSpec {
    /// No client at all, to be filled in.
    pub fn none() -> LoadSpec {
        LoadSpec { writers: 0, readers: 0, ..LoadSpec::default() }
    }

    fn kinds(&self) -> Vec<Kind> {
        let groups = [
            (Kind::Writer, self.writers),
            (Kind::Script, self.scripts),
            (Kind::Counter, self.counters),
            (Kind::Reader, self.readers),
            (Kind::Idle, self.idle),
        ];
        groups.into_iter().flat_map(|(kind, count)| std::iter::repeat_n(kind, count)).collect()
    }
}

/// What clients are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Halt {
    /// Go on.
    No,
    /// Send nothing more; what is outstanding is still waited for.
    Finish,
    /// Stop where you are.
    Abort,
}

/// What the clients' thread and the caller both look at.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) addr: SocketAddr,
    pub(super) spec: LoadSpec,
    /// Marks the keys of this load, so that several can share a cluster.
    pub(super) prefix: String,
    pub(super) started: Instant,
    pub(super) logs: Vec<Mutex<Log>>,
    finished: AtomicBool,
}

impl Load {
    /// Starts the clients, which connect to `addr`.
    pub fn start(addr: SocketAddr, spec: LoadSpec) -> io::Result<Load> {
        static LOADS: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let prefix = format!("{:x}.{:x}", std::process::id(), LOADS.fetch_add(1, Ordering::Relaxed));
        let kinds = spec.kinds();
        let started = Instant::now();
        let logs = kinds.iter().enumerate().map(|(index, &kind)| {
            let number = kinds[..index].iter().filter(|&&other| other == kind).count();
            Mutex::new(Log::new(kind, number, number as u32 % spec.dbs.max(1), started))
        });
        let logs = logs.collect();
        let shared = Arc::new(Shared { addr, spec, prefix, started, logs, finished: AtomicBool::new(false) });
        let (halt, told) = watch::channel(Halt::No);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let work = shared.clone();
        let thread = std::thread::Builder::new().name("load".into()).spawn(move || {
            let mut aborted = told.clone();
            runtime.block_on(async {
                tokio::select! {
                    () = run_clients(&work, told) => {}
                    _ = aborted.wait_for(|halt| *halt == Halt::Abort) => {}
                }
            });
            work.finished.store(true, Ordering::Release);
        })?;
        Ok(Load { shared, halt, thread: Some(thread) })
    }

    /// Waits until every client has connected and had its first reply (an idle one: has connected).
    pub async fn wait_until_served(&self, limit: Duration) -> Result<(), ClusterError> {
        let all = self.shared.logs.len();
        super::cluster::until("every load client to be served", limit, async || {
            let served = self.shared.logs.iter().filter(|log| lock(log).is_served()).count();
            if served == all { Ok(()) } else { Err(format!("{served} of {all}; {}", self.report())) }
        })
        .await
    }

    /// What was seen since the start.
    pub fn report(&self) -> Report {
        self.report_between(self.shared.started, Instant::now())
    }

    /// What was seen since `from`: requests sent then or later, and whatever else happened after it.
    pub fn report_since(&self, from: Instant) -> Report {
        self.report_between(from, Instant::now())
    }

    /// Requests sent within `[from, to)`, and what else happened in it.
    pub fn report_between(&self, from: Instant, to: Instant) -> Report {
        let mut report = Report::default();
        for (index, log) in self.shared.logs.iter().enumerate() {
            lock(log).add_to(&mut report, index, from, to);
        }
        report.longest = report.clients.iter().fold(None, |longest, client| longer(longest, client.longest));
        report.elapsed = to.min(Instant::now()).saturating_duration_since(from.max(self.shared.started));
        report
    }

    /// For each client, when it got its first right reply after `after` (for an idle one, `None`).
    pub fn first_replies_after(&self, after: Instant) -> Vec<Option<Instant>> {
        self.shared.logs.iter().map(|log| lock(log).first_reply_after(after)).collect()
    }

    /// From `moment` until the last of the clients had its next right reply; one that still has none counts up to now.
    pub fn longest_wait_after(&self, moment: Instant) -> Duration {
        let logs = self.shared.logs.iter().map(|log| lock(log));
        let asking = logs.filter(|log| log.kind() != Kind::Idle);
        let waits = asking.map(|log| {
            let served = log.first_reply_after(moment).unwrap_or_else(Instant::now);
            served.saturating_duration_since(moment)
        });
        waits.max().unwrap_or_default()
    }

    /// Requests answered rightly so far.
    pub fn answered(&self) -> u64 {
        self.shared.logs.iter().map(|log| lock(log).answered()).sum()
    }

    /// Lets every client finish what is outstanding, ends it, and reports.
    pub async fn stop(&self, limit: Duration) -> Result<Report, ClusterError> {
        self.halt.send_replace(Halt::Finish);
        let report = super::cluster::until("the load clients to finish", limit, async || {
            if self.shared.finished.load(Ordering::Acquire) { Ok(()) } else { Err(self.report().to_string()) }
        });
        report.await?;
        Ok(self.report())
    }

    /// Compares what was acknowledged until now with what the node at `addr` holds; the load may go on meanwhile.
    pub async fn verify(&self, addr: SocketAddr) -> io::Result<Verdict> {
        self.verify_with(addr, self.shared.spec.auth.as_ref()).await
    }

    /// The same with other credentials than those of the clients.
    pub async fn verify_with(&self, addr: SocketAddr, auth: Option<&Credentials>) -> io::Result<Verdict> {
        let settled = self.shared.finished.load(Ordering::Acquire);
        let written: Vec<Written> = self.shared.logs.iter().filter_map(|log| lock(log).written()).collect();
        verify(addr, auth, &self.shared, &written, settled).await
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.halt.send_replace(Halt::Abort);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

pub(super) fn lock(log: &Mutex<Log>) -> std::sync::MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

async fn run_clients(shared: &Arc<Shared>, told: watch::Receiver<Halt>) {
    let clients = (0..shared.logs.len()).map(|index| {
        let client = Client::new(shared.clone(), index, told.clone());
        tokio::spawn(client.run())
    });
    for client in clients.collect::<Vec<_>>() {
        let _ = client.await;
    }
}
