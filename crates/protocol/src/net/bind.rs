//! Listening at a TCP port, and the options of every TCP socket.
//!
//! Accepted sockets inherit what the listener has; nothing is set per connection that can be inherited.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use super::listener::Bound;
use super::port_holder::port_holder;

/// Connections waiting to be accepted; dials are capped well below what a server's own backlog takes.
pub(super) const BACKLOG: i32 = 4096;
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// How long sent bytes may stay unacknowledged before the kernel gives the connection up.
const USER_TIMEOUT: Duration = Duration::from_secs(60);

/// Binds `addr` for `count` accept queues (SO_REUSEPORT when there are several), non-blocking.
///
/// Port 0 takes a free port, the same for all. An address that another process listens on is refused with the
/// name of that process where it can be seen, also if that process would let us share the port, or starts at this moment.
pub fn bind(addr: SocketAddr, count: usize) -> io::Result<Vec<Bound>> {
    // The first listens alone before it lets others in: of two processes that start at once, one gets the port.
    let first = bind_one(addr, false)?;
    if count > 1 {
        SockRef::from(&first).set_reuse_port(true)?;
    }
    let bound = first.local_addr()?;
    let mut listeners = vec![first];
    while listeners.len() < count {
        listeners.push(bind_one(bound, true)?);
    }
    Ok(listeners.into_iter().map(Bound::from).collect())
}

fn bind_one(addr: SocketAddr, reuse_port: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if reuse_port {
        socket.set_reuse_port(true)?;
    }
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    tune(&SockRef::from(&socket))?;
    socket.set_nonblocking(true)?;
    let bound = socket.bind(&addr.into()).and_then(|()| socket.listen(BACKLOG));
    match bound {
        Ok(()) => Ok(socket.into()),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let holder = port_holder(addr).map(|holder| format!(", held by {holder}")).unwrap_or_default();
            Err(io::Error::new(error.kind(), format!("{addr} is in use{holder}")))
        }
        Err(error) => Err(io::Error::new(error.kind(), format!("{addr}: {error}"))),
    }
}

/// TCP_NODELAY, keepalive and TCP_USER_TIMEOUT: a peer that dies silently is noticed.
pub(super) fn tune(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    // How many probes may stay unanswered is TCP_USER_TIMEOUT's to say (tcp(7)).
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL))?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::ListenAddr;

    #[test]
    fn a_taken_port_names_its_holder() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = held.local_addr().unwrap();
        for count in [1, 2] {
            let error = bind(addr, count).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
            assert!(error.to_string().contains(&format!("pid {}", std::process::id())), "{error}");
        }
    }

    #[test]
    fn of_several_that_bind_at_once_one_gets_the_port() {
        const ROUNDS: usize = 50;
        const AT_ONCE: usize = 4;
        for round in 0..ROUNDS {
            let free = bind("127.0.0.1:0".parse().unwrap(), 1).unwrap();
            let ListenAddr::Tcp(addr) = free[0].addr().unwrap() else { unreachable!("bound to TCP") };
            drop(free);
            let start = std::sync::Barrier::new(AT_ONCE);
            let outcomes: Vec<io::Result<Vec<Bound>>> = std::thread::scope(|scope| {
                let one = || {
                    start.wait();
                    bind(addr, 2)
                };
                let all: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(one)).collect();
                all.into_iter().map(|one| one.join().unwrap()).collect()
            });
            assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "round {round}: {outcomes:?}");
        }
    }

    #[test]
    fn each_of_several_queues_gets_connections() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let bound = bind("127.0.0.1:0".parse().unwrap(), 3).unwrap();
            let ListenAddr::Tcp(addr) = bound[0].addr().unwrap() else { unreachable!("bound to TCP") };
            let clients: Vec<_> = (0..96).map(|_| std::net::TcpStream::connect(addr).unwrap()).collect();
            let mut accepted = 0;
            for queue in bound {
                let queue = queue.listen().unwrap();
                let before = accepted;
                while tokio::time::timeout(Duration::from_millis(20), queue.accept()).await.is_ok() {
                    accepted += 1;
                }
                assert!(accepted > before, "one queue got none");
            }
            assert_eq!(accepted, clients.len());
        });
    }

    #[test]
    fn several_queues_share_one_port() {
        let listeners = bind("127.0.0.1:0".parse().unwrap(), 3).unwrap();
        let ports = listeners.iter().map(|bound| match bound.addr().unwrap() {
            ListenAddr::Tcp(addr) => addr.port(),
            ListenAddr::Unix(_) => unreachable!("bound to TCP"),
        });
        let ports: Vec<u16> = ports.collect();
        assert!(ports.iter().all(|port| *port == ports[0] && *port != 0), "{ports:?}");
    }
}
