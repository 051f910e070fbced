//! The first step: what the process asks of the system before anything runs ([`Sockets`]), sockets and descriptors.
//!
//! No thread, no runtime. What the system refuses ends the start, with the address in the error.

use std::io;
use std::path::PathBuf;

use super::descriptors::Share;
use crate::config::{AdminSocket, Config, Listen};
use crate::net::{self, Bound, ListenAddr, SocketFile};

/// Sockets that listen and nobody accepts at yet. Dropping it closes them.
#[derive(Debug)]
pub struct Sockets {
    /// Where clients connect, port 0 resolved, in the order of the configuration.
    pub(super) clients: Vec<ListenAddr>,
    /// For each worker its accept queue of each of them.
    pub(super) queues: Vec<Vec<Bound>>,
    /// To be dropped before the queues.
    pub(super) files: Vec<SocketFile>,
    /// With the address that it got.
    pub(super) admin: Option<(Bound, ListenAddr)>,
    /// With its path.
    pub(super) admin_socket: Option<(Bound, PathBuf)>,
    pub(super) share: Share,
}

impl Sockets {
    /// Binds all that is configured, or nothing.
    pub fn bind(config: &Config) -> io::Result<Sockets> {
        let mut sockets = Sockets {
            clients: Vec::new(),
            queues: (0..config.workers).map(|_| Vec::new()).collect(),
            files: Vec::new(),
            admin: None,
            admin_socket: None,
            share: Share::take(config),
        };
        for listen in &config.listen {
            let queues = sockets.listen(listen, config.workers)?;
            sockets.clients.push(queues[0].addr()?);
            sockets.queues.iter_mut().zip(queues).for_each(|(worker, queue)| worker.push(queue));
        }
        if let Some(addr) = config.admin {
            let bound = net::bind(addr, 1)?.remove(0);
            let addr = bound.addr()?;
            sockets.admin = Some((bound, addr));
        }
        sockets.listen_for_commands(&config.admin_socket)?;
        Ok(sockets)
    }

    /// One that nobody has configured may be missing: who has the token still gives commands.
    fn listen_for_commands(&mut self, wanted: &AdminSocket) -> io::Result<()> {
        let mut refusal = None;
        for path in wanted.places() {
            match net::bind_unix(path, wanted.mode(), wanted.group(), 1) {
                Ok((mut queues, file)) => {
                    self.files.push(file);
                    self.admin_socket = Some((queues.remove(0), path.clone()));
                    return Ok(());
                }
                Err(error) => refusal = refusal.or(Some(error)),
            }
        }
        match (wanted, refusal) {
            (AdminSocket::At { .. }, Some(error)) => return Err(error),
            (AdminSocket::Usual(_), Some(error)) => {
                tracing::info!("no admin socket, commands need the admin_token: {error}")
            }
            _ => {}
        }
        Ok(())
    }

    fn listen(&mut self, listen: &Listen, workers: usize) -> io::Result<Vec<Bound>> {
        match &listen.addr {
            ListenAddr::Tcp(addr) => net::bind(*addr, workers),
            ListenAddr::Unix(path) => {
                let (queues, file) = net::bind_unix(path, listen.mode, listen.group.as_deref(), workers)?;
                self.files.push(file);
                Ok(queues)
            }
        }
    }
}
