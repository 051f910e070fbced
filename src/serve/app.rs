//! The second step: the parts of the proxy, connected to each other ([`App`]).
//!
//! Nothing runs yet: no thread, no runtime, and no listener is accepted at.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::ConfigSource;
use super::bind::Sockets;
use super::control::Control;
use super::files::Files;
use super::listening::{Listening, Thread};
use super::reload::{Reach, Reloader, Request};
use super::worker::{self, Opening, Relaying};
use crate::admin;
use crate::config::{Listen, Loaded};
use crate::drain;
use crate::metrics::WorkerCounters;
use crate::net::{ListenAddr, Spare};
use crate::notify::{self, Caller};
use crate::sentinel;
use crate::upstream::Upstream;

/// A proxy that is ready to run.
pub struct App {
    pub(super) clients: Vec<ListenAddr>,
    /// Clients can wait at one of the listeners for the next process.
    pub(super) outlived: bool,
    pub(super) admin: Option<ListenAddr>,
    pub(super) upstream: Arc<Upstream>,
    pub(super) open: Arc<AtomicUsize>,
    pub(super) draining: Arc<AtomicBool>,
    pub(super) drain: drain::Signal,
    pub(super) grace: watch::Receiver<Duration>,
    pub(super) workers: Vec<Relaying>,
    pub(super) control: Control,
    pub(super) reloads: mpsc::Sender<Request>,
    pub(super) failed: oneshot::Receiver<sentinel::Error>,
    /// Calls the webhook and the heartbeat.
    pub(super) caller: Caller,
    /// To be dropped before the workers.
    pub(super) files: Files,
}

impl App {
    /// Builds what `loaded` describes around the sockets that were bound for it.
    pub fn build(loaded: Loaded, source: ConfigSource, sockets: Sockets) -> App {
        let outlived = sockets.outlive_us();
        let Sockets { listens, clients, queues, files, admin, admin_socket, share } = sockets;
        let config = loaded.config.clone();
        let following = &config.sentinel;
        let name = following.master_name.as_deref();
        let (upstream, reports) = Upstream::new(name, following.redis_auth.as_ref(), following.learn_credentials);
        let (open, spare) = (Arc::<AtomicUsize>::default(), Spare::new(share.spare));
        let (drain, drain_watch) = drain::channel();
        let files = Files::new(files);
        let counters: Arc<[Arc<WorkerCounters>]> = queues.iter().map(|_| Arc::default()).collect();
        let (threads, laters) = threads(&counters, &upstream, &open, &spare);
        let mut listening = Listening::new(threads, files.in_use(), drain_watch.clone(), clients[0].clone());
        let detach_idle_after = watch::Sender::new(config.backends.detach_idle_after);
        let listeners = listens.into_iter().zip(clients.iter().cloned());
        let settings = |listen: &Listen| worker::settings(&config, listen, &share);
        let accepting = listening.begin(listeners, queues, &drain_watch, settings);
        let relaying = |(listeners, later)| Relaying {
            upstream: upstream.clone(),
            listeners,
            later,
            detach_idle_after: detach_idle_after.subscribe(),
            drain: drain_watch.clone(),
        };
        let workers: Vec<Relaying> = accepting.into_iter().zip(laters).map(relaying).collect();

        let parts = watch::Sender::new(sentinel::Parts::new(&config, listening.own()));
        let configured = parts.subscribe();
        let proxy = listening.first();
        let reach = Reach::new(&config, listening, upstream.clone(), (spare, share), detach_idle_after, parts);
        let grace = reach.grace.subscribe();
        let (calls, caller) = notify::queue(reach.notify.subscribe());
        let (reloader, reloads) = Reloader::new(loaded, source, reach);
        let (failure, failed) = oneshot::channel();
        let draining = Arc::new(AtomicBool::new(false));
        let (admin_listener, admin) = admin.unzip();
        let (command_listener, admin_socket) = admin_socket.unzip();
        let admin_socket =
            admin_socket.map(|path| admin::Socket { path, group: config.admin_socket.group().map(str::to_owned) });
        let control = Control {
            state_dir: config.state_dir,
            proxy,
            upstream: upstream.clone(),
            workers: counters,
            draining: draining.clone(),
            listeners: [admin_listener, command_listener].into_iter().flatten().collect(),
            admin_socket,
            reloader,
            reloads: reloads.clone(),
            configured,
            reports,
            drain: drain_watch,
            failure,
            calls,
        };
        App {
            clients,
            outlived,
            admin,
            upstream,
            open,
            draining,
            drain,
            grace,
            workers,
            control,
            reloads,
            failed,
            caller,
            files,
        }
    }
}

/// What each thread has for its listeners, and where it hears of those to come.
fn threads(
    counters: &[Arc<WorkerCounters>],
    upstream: &Arc<Upstream>,
    sessions: &Arc<AtomicUsize>,
    spare: &Arc<Spare>,
) -> (Vec<Thread>, Vec<mpsc::UnboundedReceiver<Opening>>) {
    let thread = |counters: &Arc<WorkerCounters>| {
        let (later, opening) = mpsc::unbounded_channel();
        let (upstream, counters) = (upstream.clone(), counters.clone());
        let (sessions, spare, dials) = (sessions.clone(), spare.clone(), worker::dials());
        (Thread { upstream, counters, dials, sessions, spare, later }, opening)
    };
    counters.iter().map(thread).unzip()
}
