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

use super::client::{Client, Group, Halt, lock};
use super::log::Log;
use super::report::{Report, Verdict, longer};
use super::server::ClusterError;
use super::verify::{Written, verify};
use super::workload::{Keys, Kind};
use crate::secret::Credentials;

pub use super::workload::LoadSpec;

/// Running load clients; dropping it ends them.
#[derive(Debug)]
pub struct Load {
    group: Arc<Group>,
    halt: watch::Sender<Halt>,
    thread: Option<JoinHandle<()>>,
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
        let keys = Keys { prefix, value_size: spec.value_size };
        let group = Arc::new(Group { addr, spec, keys, started, logs, finished: AtomicBool::new(false) });
        let (halt, told) = watch::channel(Halt::No);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let work = group.clone();
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
        Ok(Load { group, halt, thread: Some(thread) })
    }

    /// Waits until every client has connected and had its first reply (an idle one: has connected).
    pub async fn wait_until_served(&self, limit: Duration) -> Result<(), ClusterError> {
        let all = self.group.logs.len();
        super::cluster::until("every load client to be served", limit, async || {
            let served = self.group.logs.iter().filter(|log| lock(log).is_served()).count();
            if served == all { Ok(()) } else { Err(format!("{served} of {all}; {}", self.report())) }
        })
        .await
    }

    /// What was seen since the start.
    pub fn report(&self) -> Report {
        self.report_between(self.group.started, Instant::now())
    }

    /// What was seen since `from`: requests sent then or later, and whatever else happened after it.
    pub fn report_since(&self, from: Instant) -> Report {
        self.report_between(from, Instant::now())
    }

    /// Requests sent within `[from, to)`, and what else happened in it.
    pub fn report_between(&self, from: Instant, to: Instant) -> Report {
        let mut report = Report::default();
        for (index, log) in self.group.logs.iter().enumerate() {
            lock(log).add_to(&mut report, index, from, to);
        }
        report.longest = report.clients.iter().fold(None, |longest, client| longer(longest, client.longest));
        report.elapsed = to.min(Instant::now()).saturating_duration_since(from.max(self.group.started));
        report
    }

    /// For each client, when it got its first right reply after `after` (for an idle one, `None`).
    pub fn first_replies_after(&self, after: Instant) -> Vec<Option<Instant>> {
        self.group.logs.iter().map(|log| lock(log).first_reply_after(after)).collect()
    }

    /// From `moment` until the last of the clients had its next right reply; one that still has none counts up to now.
    pub fn longest_wait_after(&self, moment: Instant) -> Duration {
        let logs = self.group.logs.iter().map(|log| lock(log));
        let asking = logs.filter(|log| log.kind() != Kind::Idle);
        let waits = asking.map(|log| {
            let served = log.first_reply_after(moment).unwrap_or_else(Instant::now);
            served.saturating_duration_since(moment)
        });
        waits.max().unwrap_or_default()
    }

    /// Requests answered rightly so far.
    pub fn answered(&self) -> u64 {
        self.group.logs.iter().map(|log| lock(log).answered()).sum()
    }

    /// Lets every client finish what is outstanding, ends it, and reports.
    pub async fn stop(&self, limit: Duration) -> Result<Report, ClusterError> {
        self.halt.send_replace(Halt::Finish);
        let report = super::cluster::until("the load clients to finish", limit, async || {
            if self.group.finished.load(Ordering::Acquire) { Ok(()) } else { Err(self.report().to_string()) }
        });
        report.await?;
        Ok(self.report())
    }

    /// Compares what was acknowledged until now with what the node at `addr` holds; the load may go on meanwhile.
    pub async fn verify(&self, addr: SocketAddr) -> io::Result<Verdict> {
        self.verify_with(addr, self.group.spec.auth.as_ref()).await
    }

    /// The same with other credentials than those of the clients.
    pub async fn verify_with(&self, addr: SocketAddr, auth: Option<&Credentials>) -> io::Result<Verdict> {
        let settled = self.group.finished.load(Ordering::Acquire);
        let written: Vec<Written> = self.group.logs.iter().filter_map(|log| lock(log).written()).collect();
        verify(addr, auth, &self.group.keys, &written, settled).await
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

async fn run_clients(group: &Arc<Group>, told: watch::Receiver<Halt>) {
    let clients = (0..group.logs.len()).map(|index| {
        let client = Client::new(group.clone(), index, told.clone());
        tokio::spawn(client.run())
    });
    for client in clients.collect::<Vec<_>>() {
        let _ = client.await;
    }
}
