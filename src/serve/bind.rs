//! The first step: what the process asks of the system before anything runs ([`Bound`]), sockets and descriptors.
//!
//! No thread, no runtime. What the system refuses ends the start, with the address in the error.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;

use super::descriptors::Share;
use crate::config::{Config, Listen};
use crate::listener::Listener;
use crate::socket::{self, ListenAddr, SocketFile};

/// Sockets that listen and nobody accepts at yet. Dropping it closes them.
#[derive(Debug)]
pub struct Bound {
    /// Where clients connect, port 0 resolved, in the order of the configuration.
    pub(super) clients: Vec<ListenAddr>,
    /// For each worker its accept queue of each of them.
    pub(super) queues: Vec<Vec<Queue>>,
    /// To be dropped before the queues.
    pub(super) files: Vec<SocketFile>,
    /// With the address that it got.
    pub(super) admin: Option<(TcpListener, SocketAddr)>,
    pub(super) share: Share,
}

/// One worker's accept queue of a listener, watched by no runtime yet.
#[derive(Debug)]
pub(super) enum Queue {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Bound {
    /// Binds all that is configured, or nothing.
    pub fn bind(config: &Config) -> io::Result<Bound> {
        let mut bound = Bound {
            clients: Vec::new(),
            queues: (0..config.workers).map(|_| Vec::new()).collect(),
            files: Vec::new(),
            admin: None,
            share: Share::take(config),
        };
        for listen in &config.listen {
            let queues = bound.listen(listen, config.workers)?;
            bound.queues.iter_mut().zip(queues).for_each(|(worker, queue)| worker.push(queue));
        }
        if let Some(addr) = config.admin {
            let listener = socket::bind(addr, 1)?.remove(0);
            let addr = listener.local_addr()?;
            bound.admin = Some((listener, addr));
        }
        Ok(bound)
    }

    fn listen(&mut self, listen: &Listen, workers: usize) -> io::Result<Vec<Queue>> {
        match &listen.addr {
            ListenAddr::Tcp(addr) => {
                let listeners = socket::bind(*addr, workers)?;
                self.clients.push(ListenAddr::Tcp(listeners[0].local_addr()?));
                Ok(listeners.into_iter().map(Queue::Tcp).collect())
            }
            ListenAddr::Unix(path) => {
                let (listeners, file) = socket::bind_unix(path, listen.mode, listen.group.as_deref(), workers)?;
                self.clients.push(listen.addr.clone());
                self.files.push(file);
                Ok(listeners.into_iter().map(Queue::Unix).collect())
            }
        }
    }
}

impl Queue {
    /// Has the runtime of the caller watch it.
    pub(super) fn register(self) -> io::Result<Listener> {
        match self {
            Queue::Tcp(listener) => Listener::tcp(listener),
            Queue::Unix(listener) => Listener::unix(listener),
        }
    }
}
