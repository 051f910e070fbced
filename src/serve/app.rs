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
use super::descriptors::Share;
use super::reload::{Reach, Reloader, Request};
use super::worker::{self, Relaying};
use crate::admin;
use crate::config::{Config, Loaded};
use crate::drain;
use crate::metrics::WorkerCounters;
use crate::net::{Bound, ListenAddr, SocketFile, Spare};
use crate::sentinel;
use crate::session::Worker;
use crate::upstream::Upstream;

/// A proxy that is ready to run.
pub struct App {
    pub(super) clients: Vec<ListenAddr>,
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
    /// To be dropped before the workers.
    pub(super) files: Vec<SocketFile>,
}

/// What all workers have in common.
struct Common {
    upstream: Arc<Upstream>,
    open: Arc<AtomicUsize>,
    spare: Arc<Spare>,
}

impl App {
    /// Builds what `loaded` describes around the sockets that were bound for it.
    pub fn build(loaded: Loaded, source: ConfigSource, sockets: Sockets) -> App {
        let Sockets { clients, queues, files, admin, admin_socket, share } = sockets;
        let config = loaded.config.clone();
        let following = &config.sentinel;
        let name = following.master_name.as_deref();
        let (upstream, reports) = Upstream::new(name, following.redis_auth.as_ref(), following.learn_credentials);
        let common = Common { upstream: upstream.clone(), open: Arc::default(), spare: Spare::new(share.spare) };
        let (drain, drain_watch) = drain::channel();
        let counters: Arc<[Arc<WorkerCounters>]> = queues.iter().map(|_| Arc::default()).collect();
        let workers = counters.iter().zip(queues);
        let worker = |(counters, queues)| common.worker(&config, &share, counters, queues, drain_watch.clone());
        let workers: Vec<Relaying> = workers.map(worker).collect();

        let tcp = |addr: &ListenAddr| if let ListenAddr::Tcp(addr) = addr { Some(*addr) } else { None };
        let own = clients.iter().filter_map(tcp).collect();
        let parts = watch::Sender::new(sentinel::Parts::new(&config, own));
        let configured = parts.subscribe();
        let Common { open, spare, .. } = common;
        let reach = Reach::new(&config, &workers, upstream.clone(), (spare, share), parts);
        let grace = reach.grace.subscribe();
        let (reloader, reloads) = Reloader::new(loaded, source, reach);
        let (failure, failed) = oneshot::channel();
        let draining = Arc::new(AtomicBool::new(false));
        let (admin_listener, admin) = admin.unzip();
        let (command_listener, admin_socket) = admin_socket.unzip();
        let admin_socket =
            admin_socket.map(|path| admin::Socket { path, group: config.admin_socket.group().map(str::to_owned) });
        let control = Control {
            state_dir: config.state_dir,
            proxy: clients[0].clone(),
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
        };
        App { clients, admin, upstream, open, draining, drain, grace, workers, control, reloads, failed, files }
    }
}

impl Common {
    fn worker(
        &self,
        config: &Config,
        share: &Share,
        counters: &Arc<WorkerCounters>,
        queues: Vec<Bound>,
        drain: drain::Watch,
    ) -> Relaying {
        let dials = worker::dials();
        let workers = config.listen.iter().map(|listen| {
            Arc::new(Worker {
                upstream: self.upstream.clone(),
                counters: counters.clone(),
                settings: watch::Sender::new(Arc::new(worker::settings(config, listen, share))),
                dials: dials.clone(),
                open: self.open.clone(),
                spare: self.spare.clone(),
            })
        });
        Relaying { upstream: self.upstream.clone(), listeners: workers.zip(queues).collect(), drain }
    }
}
