//! Everything on the control thread ([`Control`]): the admin server, reloads, and following Sentinel.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError};

use tokio::sync::{mpsc, oneshot, watch};

use super::reload::{Reloader, Request};
use crate::admin::{self, Admin};
use crate::config::Config;
use crate::drain;
use crate::metrics::{self, Relay};
use crate::sentinel;
use crate::session::CloseReason;
use crate::socket::ListenAddr;
use crate::topology::{Report, Topology};

/// What the control thread will do.
pub(super) struct Control {
    pub(super) config: Config,
    /// Where clients connect, port 0 resolved.
    pub(super) clients: Vec<ListenAddr>,
    pub(super) topology: Arc<Topology>,
    pub(super) relays: Arc<[Arc<Relay>]>,
    pub(super) draining: Arc<AtomicBool>,
    pub(super) admin_listener: Option<TcpListener>,
    pub(super) reloader: Reloader,
    pub(super) reloads: mpsc::Sender<Request>,
    /// The way to whoever follows Sentinel, and its other end.
    pub(super) orders: mpsc::Sender<sentinel::Command>,
    pub(super) commands: mpsc::Receiver<sentinel::Command>,
    pub(super) reports: mpsc::Receiver<Report>,
    pub(super) drain: drain::Watch,
    pub(super) failure: oneshot::Sender<sentinel::Error>,
}

impl Control {
    /// Has the runtime of the caller watch the admin listener; what is returned controls.
    pub(super) fn begin(mut self) -> io::Result<impl Future<Output = ()> + Send> {
        let listener = self.admin_listener.take().map(tokio::net::TcpListener::from_std).transpose()?;
        Ok(self.run(listener))
    }

    async fn run(self, listener: Option<tokio::net::TcpListener>) {
        let (status, shown) = watch::channel(admin::View::default());
        if let Some(listener) = listener {
            tokio::spawn(admin::serve(self.admin_server(shown), listener));
        }
        tokio::spawn(self.reloader.run());
        let relays = self.relays;
        let replies = move || relays.iter().map(|relay| relay.replies.get()).sum();
        let parts = sentinel::Parts::new(&self.config, tcp(&self.clients));
        let ended = sentinel::run(parts, self.topology, self.reports, replies, self.commands, status, self.drain).await;
        if let Err(error) = ended {
            let _ = self.failure.send(error);
        }
        // Sessions go on with what they know until the process ends.
        std::future::pending::<()>().await;
    }

    fn admin_server(&self, shown: watch::Receiver<admin::View>) -> Admin {
        let credentials = self.topology.credentials();
        Admin {
            topology: self.topology.clone(),
            relays: self.relays.clone(),
            close_reasons: &CloseReason::NAMES,
            view: Arc::new(move || shown.borrow().clone()),
            commands: translate(self.orders.clone(), self.reloads.clone()),
            draining: self.draining.clone(),
            prometheus: metrics::install(),
            proxy: self.clients[0].clone(),
            credentials: Arc::new(move || credentials.lock().unwrap_or_else(PoisonError::into_inner).clone()),
            options: admin::Options {
                token: self.reloader.token(),
                state_dir: self.config.state_dir.clone(),
                ..admin::Options::default()
            },
        }
    }
}

fn tcp(clients: &[ListenAddr]) -> Vec<SocketAddr> {
    clients.iter().filter_map(|at| if let ListenAddr::Tcp(addr) = at { Some(*addr) } else { None }).collect()
}

/// Gives the admin server's commands to those who carry them out.
fn translate(orders: mpsc::Sender<sentinel::Command>, reloads: mpsc::Sender<Request>) -> admin::Commands {
    let (commands, mut received) = mpsc::channel::<admin::Command>(16);
    tokio::spawn(async move {
        while let Some((control, answer)) = received.recv().await {
            let (orders, reloads) = (orders.clone(), reloads.clone());
            tokio::spawn(async move {
                let _ = answer.send(carry_out(&orders, &reloads, control).await);
            });
        }
    });
    commands
}

async fn carry_out(
    orders: &mpsc::Sender<sentinel::Command>,
    reloads: &mpsc::Sender<Request>,
    control: admin::Control,
) -> Result<String, String> {
    const ENDING: &str = "the proxy is ending";
    let send = |order| async { orders.send(order).await.map_err(|_| ENDING.to_owned()) };
    match control {
        admin::Control::Hold { for_ } => {
            let (reply, done) = oneshot::channel();
            send(sentinel::Command::Hold { limit: for_, reply }).await?;
            done.await.map_err(|_| ENDING)?;
            Ok(format!("new requests are held for at most {} s", for_.as_secs_f64()))
        }
        admin::Control::Release => {
            let (reply, done) = oneshot::channel();
            send(sentinel::Command::Release { reply }).await?;
            done.await.map_err(|_| ENDING)?;
            Ok("requests flow again".into())
        }
        admin::Control::Failover { force } => {
            let (reply, done) = oneshot::channel();
            send(sentinel::Command::Failover { force, reply }).await?;
            done.await.map_err(|_| ENDING)??;
            Ok("Sentinel has begun the failover".into())
        }
        admin::Control::Reload => {
            let (reply, done) = oneshot::channel();
            reloads.send(Some(reply)).await.map_err(|_| ENDING)?;
            done.await.map_err(|_| ENDING)?
        }
    }
}
