//! Socket options and binding, in one place so that listener and backend agree.
//!
//! Accepted sockets inherit what the listener has; nothing is set per connection that can be inherited.

use std::fmt;
use std::fs::{self, Permissions};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
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

/// The file of a Unix socket that we listen at; removed with it, if it is still ours. To be dropped before the listeners:
/// while they are there nobody else takes it for abandoned, nor gets its inode.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    device_and_inode: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = |found: fs::Metadata| (found.dev(), found.ino()) == self.device_and_inode;
        if fs::symlink_metadata(&self.path).is_ok_and(is_ours) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Bytes that the path of a Unix socket may have (`sun_path` has 108 with its NUL, unix(7)).
pub const LONGEST_UNIX_PATH: usize = 107;
/// How long another process that starts there may take.
const DIRECTORY_LIMIT: Duration = Duration::from_secs(5);

/// Listens at a Unix socket with these permissions and this group, for `count` accept queues; non-blocking.
///
/// Nobody can connect before the permissions are set. One that a process listens at is refused; what a process that
/// ended left behind is replaced; anything else at that path is refused. Of several processes that start there at once
/// one gets it.
pub fn bind_unix(
    path: &Path,
    mode: u32,
    group: Option<&str>,
    count: usize,
) -> io::Result<(Vec<UnixListener>, SocketFile)> {
    let at = |error: io::Error| io::Error::new(error.kind(), format!("unix:{}: {error}", path.display()));
    let taken = |what: &str| at(io::Error::new(io::ErrorKind::AddrInUse, what.to_owned()));
    let group = group.map(group_id).transpose().map_err(at)?;
    let _alone = lock_directory(path).map_err(at)?;
    if let Ok(found) = fs::symlink_metadata(path) {
        if !found.file_type().is_socket() {
            return Err(taken("something that is not a socket is there"));
        }
        match connect_unix(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(at)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Ok(()) => return Err(taken("a process listens there")),
            // A queue that is full.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(taken("a process listens there")),
            Err(error) => return Err(taken(&format!("a socket is there, and who listens is not known ({error})"))),
        }
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(at)?;
    socket.set_nonblocking(true).map_err(at)?;
    SockAddr::unix(path).and_then(|addr| socket.bind(&addr)).map_err(at)?;
    let bound = (|| {
        let found = fs::symlink_metadata(path)?;
        let file = SocketFile { path: path.to_owned(), device_and_inode: (found.dev(), found.ino()) };
        fs::set_permissions(path, Permissions::from_mode(mode))?;
        if let Some(group) = group {
            std::os::unix::fs::chown(path, None, Some(group))?;
        }
        socket.listen(BACKLOG)?;
        let mut listeners: Vec<UnixListener> = vec![socket.into()];
        while listeners.len() < count {
            listeners.push(listeners[0].try_clone()?);
        }
        Ok((listeners, file))
    })();
    bound.map_err(at)
}

/// Whether a process listens there; does not wait for it to accept.
fn connect_unix(path: &Path) -> io::Result<()> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)
}

/// Locks the directory of a socket against other processes that start there: each would take the socket that another has
/// bound, and does not listen at yet, for abandoned. The kernel lets go of it with the process.
fn lock_directory(path: &Path) -> io::Result<fs::File> {
    let directory = fs::File::open(path.parent().unwrap_or(path))?;
    let began = Instant::now();
    loop {
        match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(directory),
            Err(Errno::WOULDBLOCK) if began.elapsed() < DIRECTORY_LIMIT => thread::sleep(Duration::from_millis(5)),
            Err(Errno::WOULDBLOCK) => {
                let text = "another process keeps its directory locked (flock)";
                return Err(io::Error::new(io::ErrorKind::WouldBlock, text));
            }
            Err(error) => return Err(error.into()),
        }
    }
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

    #[test]
    fn of_those_that_start_at_one_path_at_once_one_gets_it_and_keeps_it() {
        const AT_ONCE: usize = 8;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("redis.sock");
        for round in 0..50 {
            if round % 2 == 0 {
                drop(UnixListener::bind(&path).unwrap()); // left behind
            }
            let start = std::sync::Barrier::new(AT_ONCE);
            let outcomes: Vec<_> = thread::scope(|scope| {
                let one = || {
                    start.wait();
                    bind_unix(&path, 0o600, None, 1)
                };
                let all: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(one)).collect();
                all.into_iter().map(|one| one.join().unwrap()).collect()
            });
            let (won, lost): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
            assert_eq!(won.len(), 1, "round {round}: {lost:?}");
            for error in lost.into_iter().map(Result::unwrap_err) {
                assert_eq!(error.to_string(), format!("unix:{}: a process listens there", path.display()));
            }
            let (listeners, file) = won.into_iter().next().unwrap().unwrap();
            connect_unix(&path).unwrap();
            listeners[0].accept().expect("it is the winner's");
            drop(file);
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left");
        }
    }

    #[test]
    fn a_path_may_be_as_long_as_the_kernel_allows() {
        let dir = tempfile::tempdir().unwrap();
        let room = LONGEST_UNIX_PATH - dir.path().as_os_str().len() - 1;
        for missing in [0, 1, 6, 7] {
            let path = dir.path().join("s".repeat(room - missing));
            let (_listeners, _file) = bind_unix(&path, 0o600, None, 1).unwrap();
            connect_unix(&path).unwrap();
        }
        assert!(bind_unix(&dir.path().join("s".repeat(room + 1)), 0o600, None, 1).is_err());
    }

    #[test]
    fn a_socket_that_we_may_not_or_cannot_connect_to_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.sock");
        let _datagrams = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        let error = bind_unix(&path, 0o600, None, 1).unwrap_err();
        assert!(error.to_string().contains("a socket is there, and who listens is not known"), "{error}");
        // One whose queue is full is alive.
        let path = dir.path().join("busy.sock");
        let busy = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        busy.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        busy.listen(0).unwrap();
        let mut waiting = Vec::new();
        loop {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            match socket.connect(&SockAddr::unix(&path).unwrap()) {
                Ok(()) => waiting.push(socket),
                Err(_) => break,
            }
        }
        let error = bind_unix(&path, 0o600, None, 1).unwrap_err();
        assert!(error.to_string().contains("a process listens there"), "{error}");
        assert!(path.exists());
    }
}
