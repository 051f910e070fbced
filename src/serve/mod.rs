//! The composition root, and the only place that knows both planes: [`Sockets`], then [`App`], then [`Server`].
//!
//! Nothing is decided here. To bind asks the system for sockets, to build connects the parts, to spawn starts threads:
//! three steps with three lifetimes, so that one of them can be done again without the others. Worker threads relay,
//! one thread controls; each has a runtime of its own, so that `status` answers when the workers are busy and a busy
//! control plane costs no request a wait.

mod app;
mod bind;
mod control;
mod descriptors;
mod files;
mod listening;
mod manager;
mod notice;
mod reload;
mod server;
mod taken;
mod thread;
mod watchdog;
mod worker;

use std::fmt;
use std::io;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};

use crate::config::{Loaded, Problems};
use crate::net::Inherited;
use crate::sentinel;

pub use app::App;
pub use bind::Sockets;
pub use manager::not_started;
pub use server::Server;
pub use taken::taken;

/// Why the proxy could not start or go on.
#[derive(Debug)]
pub enum Error {
    /// The system refused something: a port, a thread.
    Io(io::Error),
    /// What is configured cannot be followed (several masters and no name, say).
    Sentinel(sentinel::Error),
    /// A panic ended what the thread of this name did, which all need.
    Panicked(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io(error) => error.fmt(f),
            Error::Sentinel(error) => error.fmt(f),
            Error::Panicked(thread) => write!(f, "the thread {thread} has panicked: see above"),
        }
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Error {
        Error::Io(error)
    }
}

/// How the configuration is read again, and what of it belongs to the whole process.
#[derive(Clone)]
pub struct ConfigSource {
    /// Reads every source anew. May block.
    pub read: Arc<dyn Fn() -> Result<Loaded, Problems> + Send + Sync>,
    /// Logs from this level on.
    pub set_log_level: Arc<dyn Fn(tracing::Level) + Send + Sync>,
}

/// Serves until SIGTERM or SIGINT, then drains; a second one ends it. SIGHUP reloads. Blocks the calling thread, which must
/// be the only one: the listeners of a service manager are taken out of the environment.
pub fn run(loaded: Loaded, source: ConfigSource) -> Result<(), Error> {
    let inherited = Inherited::of_process()?;
    let runtime = thread::runtime()?;
    // Before anything else: a signal that comes during the start is carried out behind it.
    let watched = |kind| {
        let _context = runtime.enter();
        signal(kind)
    };
    let mut terminate = watched(SignalKind::terminate())?;
    let mut interrupt = watched(SignalKind::interrupt())?;
    let mut hangup = watched(SignalKind::hangup())?;
    let sockets = Sockets::bind(&loaded.config, inherited)?;
    let mut server = App::build(loaded, source, sockets).spawn()?;
    let mut manager = server.manager();
    runtime.block_on(async {
        let ended = loop {
            tokio::select! {
                _ = terminate.recv() => break Ok(()),
                _ = interrupt.recv() => break Ok(()),
                _ = hangup.recv() => manager.reloading(server.reload()),
                error = server.failed() => break Err(error),
                () = manager.turn() => {}
            }
        };
        if let Err(Error::Panicked(_)) = ended {
            server.abandon();
            return ended;
        }
        manager.stopping();
        let again = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        tokio::select! {
            () = server.stop(again) => {}
            () = manager.turns() => {}
        }
        ended
    })
}
