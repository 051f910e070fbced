//! Threads with a runtime of their own ([`Threads`]), ended and joined when dropped.
//!
//! A runtime watches a thread's sockets before the thread is there: one that cannot be watched fails the start.

use std::io;
use std::panic::resume_unwind;
use std::thread::{self, JoinHandle};

use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::watchdog::{Beat, Watchdog};

/// The threads that run.
#[derive(Debug)]
pub(super) struct Threads {
    /// Dropped to end them.
    end: Option<watch::Sender<()>>,
    running: Vec<JoinHandle<()>>,
    panicked: mpsc::Sender<String>,
    watchdog: Watchdog,
}

/// Says which thread has panicked.
struct Alarm {
    name: String,
    panicked: mpsc::Sender<String>,
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if thread::panicking() {
            // One that is full has somebody's name already.
            let _ = self.panicked.try_send(std::mem::take(&mut self.name));
        }
    }
}

/// A thread that could be started.
pub(super) struct Ready<W> {
    work: W,
    runtime: Runtime,
    name: String,
}

/// A runtime for the calling thread.
pub(super) fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

impl<W: Future<Output = ()> + Send + 'static> Ready<W> {
    /// `begin` runs here and now, in the context of the thread's runtime, and returns the thread's work.
    pub(super) fn new(name: impl Into<String>, begin: impl FnOnce() -> io::Result<W>) -> io::Result<Ready<W>> {
        let runtime = runtime()?;
        let work = {
            let _context = runtime.enter();
            begin()?
        };
        Ok(Ready { work, runtime, name: name.into() })
    }
}

impl Threads {
    /// None yet; also returns where the name of one comes that has panicked.
    pub(super) fn new(watchdog: Watchdog) -> (Threads, mpsc::Receiver<String>) {
        let (panicked, names) = mpsc::channel(1);
        (Threads { end: Some(watch::Sender::new(())), running: Vec::new(), panicked, watchdog }, names)
    }

    /// Takes the watchdog of those that were started.
    pub(super) fn watchdog(&mut self) -> Watchdog {
        std::mem::take(&mut self.watchdog)
    }

    /// They run on until the process ends: one that hangs keeps nobody waiting.
    pub(super) fn abandon(&mut self) {
        self.running.clear();
    }

    /// Runs the work until it ends or the threads are dropped.
    pub(super) fn start<W: Future<Output = ()> + Send + 'static>(&mut self, ready: Ready<W>) -> io::Result<()> {
        let Some(end) = &self.end else { return Ok(()) };
        let mut ended = end.subscribe();
        let Ready { work, runtime, name } = ready;
        let beat = self.watchdog.watch(&name);
        let alarm = Alarm { name: name.clone(), panicked: self.panicked.clone() };
        self.running.push(thread::Builder::new().name(name).spawn(move || {
            let _alarm = alarm;
            runtime.block_on(async {
                tokio::select! {
                    () = work => {}
                    () = Beat::run(beat) => {}
                    _ = ended.changed() => {}
                }
            });
            // A name that is being looked up, which may take a minute, keeps nobody waiting.
            runtime.shutdown_background();
        })?);
        Ok(())
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.end = None;
        for thread in self.running.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Does `work` with these tasks beside it. What they do is needed: a panic of one is one of the thread.
pub(super) async fn beside(mut tasks: JoinSet<()>, work: impl Future<Output = ()>) {
    let panicked = async {
        loop {
            match tasks.join_next().await {
                Some(Err(error)) if error.is_panic() => break error.into_panic(),
                Some(_) => {}
                None => std::future::pending().await,
            }
        }
    };
    tokio::select! {
        () = work => {}
        panic = panicked => resume_unwind(panic),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(work: impl Future<Output = ()> + Send + 'static) -> Option<String> {
        let (mut threads, mut panicked) = Threads::new(Watchdog::default());
        threads.start(Ready::new("one", || Ok(work)).unwrap()).unwrap();
        let _ = threads.running.remove(0).join();
        panicked.try_recv().ok()
    }

    #[test]
    fn a_panic_of_a_thread_or_of_a_task_that_it_needs_is_reported() {
        assert_eq!(runs(async {}), None);
        assert_eq!(runs(async { panic!("of a test") }).as_deref(), Some("one"));
        let task = async {
            let mut tasks = JoinSet::new();
            tasks.spawn(async {});
            tasks.spawn(async { panic!("of a test") });
            beside(tasks, std::future::pending()).await;
        };
        assert_eq!(runs(task).as_deref(), Some("one"));
    }

    #[test]
    fn a_look_up_that_hangs_keeps_nobody_waiting() {
        let (mut threads, _) = Threads::new(Watchdog::default());
        let (begun, has_begun) = std::sync::mpsc::channel();
        let looks_up = async move {
            let hangs = move || _ = (begun.send(()), thread::sleep(std::time::Duration::from_secs(3600)));
            let _ = tokio::task::spawn_blocking(hangs).await;
        };
        threads.start(Ready::new("one", || Ok(looks_up)).unwrap()).unwrap();
        has_begun.recv().unwrap();
        drop(threads);
    }

    #[test]
    fn one_that_hangs_keeps_nobody_waiting_once_it_is_abandoned() {
        let (mut threads, _) = Threads::new(Watchdog::default());
        let hangs = async { thread::sleep(std::time::Duration::from_secs(3600)) };
        threads.start(Ready::new("one", || Ok(hangs)).unwrap()).unwrap();
        threads.abandon();
        drop(threads);
    }
}
