//! Threads with a runtime of their own ([`Threads`]), ended and joined when dropped.
//!
//! A runtime watches a thread's sockets before the thread is there: one that cannot be watched fails the start.

use std::io;
use std::thread::{self, JoinHandle};

use tokio::runtime::Runtime;
use tokio::sync::watch;

/// The threads that run.
#[derive(Debug)]
pub(super) struct Threads {
    /// Dropped to end them.
    end: Option<watch::Sender<()>>,
    running: Vec<JoinHandle<()>>,
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
    /// None yet.
    pub(super) fn new() -> Threads {
        Threads { end: Some(watch::Sender::new(())), running: Vec::new() }
    }

    /// Runs the work until it ends or the threads are dropped.
    pub(super) fn start<W: Future<Output = ()> + Send + 'static>(&mut self, ready: Ready<W>) -> io::Result<()> {
        let Some(end) = &self.end else { return Ok(()) };
        let mut ended = end.subscribe();
        let Ready { work, runtime, name } = ready;
        self.running.push(thread::Builder::new().name(name).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = work => {}
                    _ = ended.changed() => {}
                }
            });
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
