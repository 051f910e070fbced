//! The listeners as they are open now ([`Listening`]), and how a reload opens, changes and closes them.
//!
//! All that is new is open before anything changes: what cannot be opened leaves everything as it was. No session of a
//! listener that stays is touched; those of one that goes end as in a drain.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::timeout;

use super::bind::bind;
use super::descriptors::Share;
use super::files::FilesInUse;
use super::worker::{self, Accepting, Opening};
use crate::config::{Config, Listen};
use crate::drain::{self, Stage, StageCell};
use crate::listener::Drains;
use crate::metrics::WorkerCounters;
use crate::net::{Bound, ListenAddr, Spare};
use crate::session::{Settings, Worker};
use crate::upstream::Upstream;

/// How long sessions of a listener that closed have for what is still owed to them, behind `drain_grace`; then they are cut,
/// each with a FIN.
const STOPPING: Duration = Duration::from_secs(1);
const CUTTING: Duration = Duration::from_millis(500);

/// The listeners of all worker threads.
#[derive(Debug)]
pub(super) struct Listening {
    /// In the order of the configuration; behind them what is inherited and not configured.
    open: Vec<Open>,
    threads: Vec<Thread>,
    files: FilesInUse,
    /// Let go when the drain of the process begins: then none is opened any more.
    drain: Option<drain::Watch>,
    first: watch::Sender<ListenAddr>,
}

/// One worker thread, as far as its listeners need it.
#[derive(Debug)]
pub(super) struct Thread {
    pub(super) upstream: Arc<Upstream>,
    pub(super) counters: Arc<WorkerCounters>,
    pub(super) dials: Arc<Semaphore>,
    /// Sessions open in the whole process.
    pub(super) sessions: Arc<AtomicUsize>,
    pub(super) spare: Arc<Spare>,
    pub(super) later: mpsc::UnboundedSender<Opening>,
}

/// A listener that is accepted at, on every thread.
#[derive(Debug)]
struct Open {
    listen: Listen,
    /// Where it is, port 0 resolved.
    addr: ListenAddr,
    /// A service manager has it too: closed here, clients would wait in its queue.
    outlives_us: bool,
    workers: Vec<Arc<Worker>>,
    closing: drain::Signal,
}

impl Thread {
    fn worker(&self, settings: Settings) -> Arc<Worker> {
        Arc::new(Worker {
            upstream: self.upstream.clone(),
            counters: self.counters.clone(),
            settings: watch::Sender::new(Arc::new(settings)),
            dials: self.dials.clone(),
            open: self.sessions.clone(),
            closing: StageCell::default(),
            spare: self.spare.clone(),
        })
    }
}

impl Listening {
    /// None yet.
    pub(super) fn new(threads: Vec<Thread>, files: FilesInUse, drain: drain::Watch, first: ListenAddr) -> Listening {
        Listening { open: Vec::new(), threads, files, drain: Some(drain), first: watch::Sender::new(first) }
    }

    /// Adds those that were bound at the start, with the queues of each thread; returns what each thread accepts at.
    pub(super) fn begin(
        &mut self,
        listeners: impl Iterator<Item = (Listen, ListenAddr)>,
        queues: Vec<Vec<Bound>>,
        process: &drain::Watch,
        settings: impl Fn(&Listen) -> Settings,
    ) -> Vec<Vec<Accepting>> {
        let mut accepting: Vec<Vec<Accepting>> = queues.iter().map(|_| Vec::new()).collect();
        let mut queues: Vec<_> = queues.into_iter().map(Vec::into_iter).collect();
        for (listen, addr) in listeners {
            let settings = settings(&listen);
            let of_each = queues.iter_mut().filter_map(Iterator::next).collect();
            let (open, begun) = self.prepare((listen, addr), of_each, process.clone(), settings);
            self.open.push(open);
            accepting.iter_mut().zip(begun).for_each(|(thread, begun)| thread.push(begun));
        }
        accepting
    }

    fn prepare(
        &self,
        (listen, addr): (Listen, ListenAddr),
        queues: Vec<Bound>,
        process: drain::Watch,
        settings: Settings,
    ) -> (Open, Vec<Accepting>) {
        let outlives_us = queues[0].outlives_us();
        let (closing, own) = drain::channel();
        let drains = Drains { process, own };
        let workers: Vec<_> = self.threads.iter().map(|thread| thread.worker(settings)).collect();
        let accepting = workers.iter().zip(queues).map(|(worker, queue)| {
            let (worker, drains) = (worker.clone(), drains.clone());
            Accepting { worker, queue, drains }
        });
        let accepting = accepting.collect();
        (Open { listen, addr, outlives_us, workers, closing }, accepting)
    }

    /// Where a client of our own connects.
    pub(super) fn first(&self) -> watch::Receiver<ListenAddr> {
        self.first.subscribe()
    }

    /// The addresses that are no master's.
    pub(super) fn own(&self) -> Vec<SocketAddr> {
        let tcp = |open: &Open| if let ListenAddr::Tcp(addr) = open.addr { Some(addr) } else { None };
        self.open.iter().filter_map(tcp).collect()
    }

    /// Sessions go by this configuration from now on.
    pub(super) fn set(&self, config: &Config, share: &Share) {
        for open in &self.open {
            let settings = Arc::new(worker::settings(config, &open.listen, share));
            open.workers.iter().for_each(|worker| _ = worker.settings.send_replace(settings.clone()));
        }
    }

    /// Returns once the drain of the process has begun.
    pub(super) async fn draining(&mut self) {
        match &mut self.drain {
            Some(drain) => drain.draining().await,
            None => std::future::pending().await,
        }
        self.drain = None;
    }

    /// Opens, changes and closes until what is open is what `config` says. Of a Unix socket that stays, who may connect.
    ///
    /// # Errors
    /// One could not be opened, or changed: nothing has changed.
    pub(super) async fn change(&mut self, config: &Config, share: &Share) -> io::Result<()> {
        let mut left: Vec<usize> = (0..self.open.len()).collect();
        let mut stays = |listen: &Listen| {
            let at = left.iter().position(|index| self.open[*index].listen.addr == listen.addr)?;
            Some(left.remove(at))
        };
        let kept: Vec<Option<usize>> = config.listen.iter().map(&mut stays).collect();
        let mut fresh = Vec::new();
        let mut failed = None;
        for (listen, _) in config.listen.iter().zip(&kept).filter(|(_, kept)| kept.is_none()) {
            match self.open_one(listen, worker::settings(config, listen, share)).await {
                Ok(open) => fresh.push(open),
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        let stay =
            config.listen.iter().zip(&kept).filter_map(|(listen, kept)| Some((&self.open[(*kept)?].listen, listen)));
        if let Some(error) = failed.or_else(|| self.permit(stay).err()) {
            fresh.into_iter().for_each(|open| self.close(open, Duration::ZERO));
            return Err(error);
        }
        self.put(config, kept, fresh);
        Ok(())
    }

    /// All that is new is open; the rest cannot fail.
    fn put(&mut self, config: &Config, kept: Vec<Option<usize>>, fresh: Vec<Open>) {
        let mut old: Vec<Option<Open>> = std::mem::take(&mut self.open).into_iter().map(Some).collect();
        let mut fresh = fresh.into_iter();
        for (listen, kept) in config.listen.iter().zip(kept) {
            let open = kept.map_or_else(|| fresh.next(), |index| old[index].take());
            self.open.extend(open.map(|open| Open { listen: listen.clone(), ..open }));
        }
        for open in old.into_iter().flatten() {
            if open.outlives_us {
                tracing::warn!(
                    "{} stays open: the service manager listens there, and clients would wait for ever",
                    open.addr
                );
                self.open.push(Open { listen: Listen::new(open.addr.clone()), ..open });
            } else {
                tracing::info!("{} is closed: its sessions end between their requests", open.addr);
                self.close(open, config.drain_grace);
            }
        }
        self.first.send_replace(self.open[0].addr.clone());
    }

    async fn open_one(&self, listen: &Listen, settings: Settings) -> io::Result<Open> {
        let (wanted, count) = (listen.clone(), self.threads.len());
        // Another process that starts at a Unix socket's path is waited for.
        let (queues, file) = tokio::task::spawn_blocking(move || bind(&wanted, count)).await??;
        let ending = || io::Error::other("the process is about to end, and opens no listener any more");
        let process = self.drain.clone().ok_or_else(ending)?;
        let (open, accepting) = self.prepare((listen.clone(), queues[0].addr()?), queues, process, settings);
        self.files.add(file);
        let mut answers = Vec::new();
        for (thread, accepting) in self.threads.iter().zip(accepting) {
            let (answer, begun) = oneshot::channel();
            let _ = thread.later.send(Opening { accepting, answer });
            answers.push(begun);
        }
        for begun in answers {
            let begun = begun.await.unwrap_or_else(|_| Err(io::Error::other("a thread has ended")));
            if let Err(error) = begun {
                self.close(open, Duration::ZERO);
                return Err(error);
            }
        }
        Ok(open)
    }

    /// Of each pair, what is and what is to be; all of them or none.
    fn permit<'a>(&self, pairs: impl Iterator<Item = (&'a Listen, &'a Listen)>) -> io::Result<()> {
        let permit = |listen: &Listen| match &listen.addr {
            ListenAddr::Unix(path) => self.files.permit(path, listen.mode, listen.group.as_deref()),
            ListenAddr::Tcp(_) => Ok(()),
        };
        let mut done = Vec::new();
        for (before, next) in pairs.filter(|(before, next)| (before.mode, &before.group) != (next.mode, &next.group)) {
            done.push(before);
            if let Err(error) = permit(next) {
                done.into_iter().for_each(|before| _ = permit(before));
                return Err(error);
            }
        }
        Ok(())
    }

    /// Nobody is accepted any more, and its sessions end: between requests within `grace`, and then as they are.
    fn close(&self, open: Open, grace: Duration) {
        let Open { addr, mut closing, workers, .. } = open;
        if let ListenAddr::Unix(path) = &addr {
            self.files.remove(path);
        }
        tokio::spawn(async move {
            for (stage, limit) in [(Stage::Ending, grace), (Stage::Stopping, STOPPING), (Stage::Cutting, CUTTING)] {
                let _ = timeout(limit, closing.end(stage)).await;
            }
            drop(workers);
        });
    }
}
