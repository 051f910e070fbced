//! The first step: what the process asks of the system before anything runs ([`Sockets`]), sockets and descriptors.
//!
//! No thread, no runtime. What the system refuses ends the start, with the address in the error.

use std::io;
use std::path::PathBuf;

use super::descriptors::Share;
use crate::config::{AdminSocket, Config, Listen};
use crate::net::{self, Bound, Inherited, ListenAddr, SocketFile};

/// Sockets that listen and nobody accepts at yet. Dropping it closes them.
#[derive(Debug)]
pub struct Sockets {
    /// What clients connect to: the configuration's, and behind those what was inherited and is not in it.
    pub(super) listens: Vec<Listen>,
    /// Where each of them is, port 0 resolved.
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
    /// Binds all that is configured and not inherited, or nothing. Whatever else is inherited is served as a listener
    /// without options: clients would wait there for ever.
    pub fn bind(config: &Config, mut inherited: Inherited) -> io::Result<Sockets> {
        let mut sockets = Sockets {
            listens: config.listen.clone(),
            clients: Vec::new(),
            queues: (0..config.workers).map(|_| Vec::new()).collect(),
            files: Vec::new(),
            admin: None,
            admin_socket: None,
            share: Share::take(config),
        };
        let admin = config.admin.map(|addr| (addr, inherited.take(&ListenAddr::Tcp(addr))));
        let others =
            inherited.addrs().into_iter().filter(|addr| config.listen.iter().all(|listen| listen.addr != *addr));
        for other in others {
            tracing::info!("{other} is not in `listen`, and served since the service manager listens there");
            sockets.listens.push(Listen::new(other));
        }
        for listen in sockets.listens.clone() {
            let queues = sockets.listen(&listen, config.workers, &mut inherited)?;
            sockets.clients.push(queues[0].addr()?);
            sockets.queues.iter_mut().zip(queues).for_each(|(worker, queue)| worker.push(queue));
        }
        if let Some((addr, handed)) = admin {
            let bound = handed.map_or_else(|| Ok(net::bind(addr, 1)?.remove(0)), Ok::<_, io::Error>)?;
            let addr = bound.addr()?;
            sockets.admin = Some((bound, addr));
        }
        sockets.listen_for_commands(&config.admin_socket)?;
        Ok(sockets)
    }

    /// Whether clients can wait at one of them for the next process.
    pub(super) fn outlive_us(&self) -> bool {
        self.queues.iter().flatten().any(Bound::outlives_us)
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

    fn listen(&mut self, listen: &Listen, workers: usize, inherited: &mut Inherited) -> io::Result<Vec<Bound>> {
        if let Some(handed) = inherited.take(&listen.addr) {
            return handed.share(workers);
        }
        let (queues, file) = bind(listen, workers)?;
        self.files.extend(file);
        Ok(queues)
    }
}

/// An accept queue for each worker, and the file of a Unix socket.
pub(super) fn bind(listen: &Listen, workers: usize) -> io::Result<(Vec<Bound>, Option<SocketFile>)> {
    match &listen.addr {
        ListenAddr::Tcp(addr) => Ok((net::bind(*addr, workers)?, None)),
        ListenAddr::Unix(path) => {
            let (queues, file) = net::bind_unix(path, listen.mode, listen.group.as_deref(), workers)?;
            Ok((queues, Some(file)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(addr: &str) -> (Bound, ListenAddr) {
        let bound = net::bind(addr.parse().unwrap(), 1).unwrap().remove(0);
        let addr = bound.addr().unwrap();
        (bound, addr)
    }

    fn config(listen: &[&ListenAddr]) -> Config {
        let listen = listen.iter().map(|addr| Listen::new((*addr).clone())).collect();
        Config { listen, admin: None, admin_socket: AdminSocket::Off, workers: 2, ..Config::default() }
    }

    #[test]
    fn what_is_inherited_is_taken_by_address_and_what_is_not_configured_is_served_too() {
        let ((first, first_addr), (second, second_addr), (admin, admin_addr)) =
            (one("127.0.0.1:0"), one("127.0.0.1:0"), one("127.0.0.1:0"));
        let free = ListenAddr::Tcp("127.0.0.1:0".parse().unwrap());
        let ListenAddr::Tcp(admin_tcp) = admin_addr else { unreachable!("bound to TCP") };
        let config = Config { admin: Some(admin_tcp), ..config(&[&free, &second_addr]) };
        let sockets = Sockets::bind(&config, [first, admin, second].into_iter().collect()).unwrap();
        assert_eq!(sockets.clients[1..], [second_addr, first_addr]);
        assert_eq!(sockets.listens.len(), 3);
        assert!(sockets.queues.iter().all(|queues| queues.len() == 3), "each worker accepts at each");
        assert!(sockets.outlive_us() && sockets.files.is_empty());
        assert_eq!(sockets.admin.unwrap().1, admin_addr);
    }

    #[test]
    fn alone_it_binds_and_a_port_of_a_service_manager_is_taken() {
        let free = ListenAddr::Tcp("127.0.0.1:0".parse().unwrap());
        assert!(!Sockets::bind(&config(&[&free]), Inherited::default()).unwrap().outlive_us());
        let (_held, addr) = one("127.0.0.1:0");
        let error = Sockets::bind(&config(&[&addr]), Inherited::default()).unwrap_err();
        assert!(error.to_string().contains(&format!("{addr} is in use, held by")), "{error}");
    }
}
