//! Socket options and binding, in one place so that listener and backend agree.
//!
//! Accepted sockets inherit what the listener has; nothing is set per connection that can be inherited.

use std::fmt;
use std::fs::{self, Permissions};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Connections waiting to be accepted; dials are capped well below what a server's own backlog takes.
const BACKLOG: i32 = 4096;
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// How long sent bytes may stay unacknowledged before the kernel gives the connection up.
const USER_TIMEOUT: Duration = Duration::from_secs(60);

/// Where clients connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddr {
    /// An address and port.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddr::Tcp(addr) => addr.fmt(f),
            ListenAddr::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The file of a Unix socket that we listen at; removed with it, if it is still ours.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Listens at a Unix socket with these permissions and this group, for `count` accept queues; non-blocking.
///
/// The file appears with its permissions already set. One that a process listens at is refused; what a process that
/// ended left behind is replaced; anything else at that path is refused.
pub fn bind_unix(
    path: &Path,
    mode: u32,
    group: Option<&str>,
    count: usize,
) -> io::Result<(Vec<UnixListener>, SocketFile)> {
    let at = |error: io::Error| io::Error::new(error.kind(), format!("unix:{}: {error}", path.display()));
    let taken = |what: &str| at(io::Error::new(io::ErrorKind::AddrInUse, what.to_owned()));
    if let Ok(found) = fs::symlink_metadata(path) {
        if !found.file_type().is_socket() {
            return Err(taken("something that is not a socket is there"));
        }
        if UnixStream::connect(path).is_ok() {
            return Err(taken("a process listens there"));
        }
    }
    let group = group.map(group_id).transpose().map_err(at)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let _ = fs::remove_file(&beside);
    let bound = (|| {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SockAddr::unix(&beside)?)?;
        fs::set_permissions(&beside, Permissions::from_mode(mode))?;
        if let Some(group) = group {
            std::os::unix::fs::chown(&beside, None, Some(group))?;
        }
        socket.listen(BACKLOG)?;
        let inode = fs::symlink_metadata(&beside)?.ino();
        fs::rename(&beside, path)?;
        let file = SocketFile { path: path.to_owned(), inode };
        let first: UnixListener = socket.into();
        let mut listeners = vec![first];
        while listeners.len() < count {
            listeners.push(listeners[0].try_clone()?);
        }
        Ok((listeners, file))
    })();
    bound.map_err(|error| {
        let _ = fs::remove_file(&beside);
        at(error)
    })
}

/// Watches a socket of ours for one direction only. Fails when the thread's runtime cannot.
#[expect(
    deprecated,
    reason = "its successor is unsafe for types whose descriptor changes hands; std's sockets keep theirs"
)]
pub fn watch<S: AsFd + AsRawFd>(socket: S, interest: Interest) -> io::Result<AsyncFd<S>> {
    AsyncFd::with_interest(socket, interest)
}

/// The number of a group: a number, or a name in /etc/group.
fn group_id(group: &str) -> io::Result<u32> {
    if let Ok(id) = group.parse() {
        return Ok(id);
    }
    let groups = fs::read_to_string("/etc/group")?;
    let id = groups.lines().find_map(|line| {
        // name:password:id:members (group(5))
        let mut fields = line.split(':');
        (fields.next() == Some(group)).then(|| fields.nth(1)?.parse().ok())?
    });
    id.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("there is no group {group:?} in /etc/group")))
}

/// Binds `addr` for `count` accept queues (SO_REUSEPORT when there are several), non-blocking.
///
/// Port 0 takes a free port, the same for all. An address that another process listens on is refused with the
/// name of that process where it can be seen, also if that process would let us share the port.
pub fn bind(addr: SocketAddr, count: usize) -> io::Result<Vec<TcpListener>> {
    if count > 1 && addr.port() != 0 {
        // SO_REUSEPORT would join another process of this user silently: look without it first.
        drop(bind_one(addr, false)?);
    }
    let first = bind_one(addr, count > 1)?;
    let bound = first.local_addr()?;
    let mut listeners = vec![first];
    while listeners.len() < count {
        listeners.push(bind_one(bound, true)?);
    }
    Ok(listeners)
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
            let holder = holder_of(addr).map(|holder| format!(", held by {holder}")).unwrap_or_default();
            Err(io::Error::new(error.kind(), format!("{addr} is in use{holder}")))
        }
        Err(error) => Err(io::Error::new(error.kind(), format!("{addr}: {error}"))),
    }
}

/// TCP_NODELAY, keepalive and TCP_USER_TIMEOUT: a peer that dies silently is noticed.
pub fn tune(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    // How many probes may stay unanswered is TCP_USER_TIMEOUT's to say (tcp(7)).
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL))?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))
}

/// The process that listens on `addr`, as `name (pid N)`, if /proc lets us see it.
fn holder_of(addr: SocketAddr) -> Option<String> {
    let table = if addr.is_ipv4() { "/proc/net/tcp" } else { "/proc/net/tcp6" };
    let wanted_port = format!("{:04X}", addr.port());
    let inode = std::fs::read_to_string(table).ok()?.lines().skip(1).find_map(|line| {
        // sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode (proc(5)); 0A is LISTEN
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, port) = fields.get(1)?.rsplit_once(':')?;
        (port == wanted_port && fields.get(3) == Some(&"0A")).then(|| fields.get(9).copied().map(str::to_owned))?
    })?;
    let link = format!("socket:[{inode}]");
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let pid = process.file_name().to_string_lossy().into_owned();
        if pid.parse::<u32>().is_err() {
            continue; // not a process, or `self`
        }
        let Ok(fds) = std::fs::read_dir(process.path().join("fd")) else { continue };
        let holds =
            fds.flatten().any(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to.as_os_str() == link.as_str()));
        if holds {
            let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (pid {pid})", name.trim()));
        }
    }
    None
}

/// Raises the limit of open descriptors to the hard limit; returns what it is now.
pub fn raise_descriptor_limit() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum.unwrap_or(u64::MAX),
        Err(_) => limit.current.unwrap_or(u64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn several_queues_share_one_port() {
        let listeners = bind("127.0.0.1:0".parse().unwrap(), 3).unwrap();
        let ports: Vec<u16> = listeners.iter().map(|l| l.local_addr().unwrap().port()).collect();
        assert!(ports.iter().all(|port| *port == ports[0] && *port != 0), "{ports:?}");
    }
}
