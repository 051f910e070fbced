//! The second step: the parts of the proxy, connected to each other ([`App`]).
//!
//! Nothing runs yet: no thread, no runtime, and no listener is accepted at.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::Source;
use super::bind::{Bound, Queue};
use super::control::Control;
use super::descriptors::Share;
use super::reload::{Reach, Reloader, Request};
use super::worker::{self, Relaying};
use crate::config::{Config, Loaded};
use crate::drain;
use crate::metrics::Relay;
use crate::sentinel;
use crate::session::Worker;
use crate::session::scripts::Scripts;
use crate::session::spare::Spare;
use crate::socket::{ListenAddr, SocketFile};
use crate::topology::Topology;

/// A proxy that is ready to run.
pub struct App {
    pub(super) clients: Vec<ListenAddr>,
    pub(super) admin: Option<SocketAddr>,
    pub(super) topology: Arc<Topology>,
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
    topology: Arc<Topology>,
    scripts: Arc<Scripts>,
    open: Arc<AtomicUsize>,
    spare: Arc<Spare>,
}

impl App {
    /// Builds what `loaded` describes around the sockets that were bound for it.
    pub fn build(loaded: Loaded, source: Source, bound: Bound) -> App {
        let Bound { clients, queues, files, admin, share } = bound;
        let config = loaded.config.clone();
        let (topology, reports) = Topology::new();
        topology.use_credentials(config.sentinel.redis_auth.as_ref());
        let spare = Spare::new(share.spare);
        let common = Common { topology, scripts: Arc::default(), open: Arc::default(), spare };
        let (drain, drain_watch) = drain::channel();
        let relays: Arc<[Arc<Relay>]> = queues.iter().map(|_| Arc::default()).collect();
        let workers = relays.iter().zip(queues);
        let workers = workers.map(|(relay, queues)| common.worker(&config, &share, relay, queues, drain_watch.clone()));
        let workers: Vec<Relaying> = workers.collect();

        let Common { topology, open, spare, .. } = common;
        let (orders, commands) = mpsc::channel(16);
        let reach = Reach::new(&config, &workers, topology.clone(), (spare, share), orders.clone());
        let grace = reach.grace.subscribe();
        let (reloader, reloads) = Reloader::new(loaded, source, reach);
        let (failure, failed) = oneshot::channel();
        let draining = Arc::new(AtomicBool::new(false));
        let (admin_listener, admin) = admin.unzip();
        let control = Control {
            config,
            clients: clients.clone(),
            topology: topology.clone(),
            relays,
            draining: draining.clone(),
            admin_listener,
            reloader,
            reloads: reloads.clone(),
            orders,
            commands,
            reports,
            drain: drain_watch,
            failure,
        };
        App { clients, admin, topology, open, draining, drain, grace, workers, control, reloads, failed, files }
    }
}

impl Common {
    fn worker(
        &self,
        config: &Config,
        share: &Share,
        relay: &Arc<Relay>,
        queues: Vec<Queue>,
        drain: drain::Watch,
    ) -> Relaying {
        let dials = worker::dials();
        let workers = config.listen.iter().map(|listen| {
            Arc::new(Worker {
                topology: self.topology.clone(),
                relay: relay.clone(),
                settings: watch::Sender::new(Arc::new(worker::settings(config, listen, share))),
                dials: dials.clone(),
                scripts: self.scripts.clone(),
                open: self.open.clone(),
                spare: self.spare.clone(),
                credentials: self.topology.credentials(),
            })
        });
        Relaying { topology: self.topology.clone(), listeners: workers.zip(queues).collect(), drain }
    }
}
