//! Listening at a Unix socket: a file with permissions, a group, and at most one process that listens there.
//!
//! Nobody can connect before the permissions are set, and what another process listens at is never replaced.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket, Type};

use super::bind::BACKLOG;
use super::listener::Bound;

/// The file of a Unix socket that we listen at; removed with it, if it is still ours. To be dropped before the listeners:
/// while they are there nobody else takes it for abandoned, nor gets its inode.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    device_and_inode: (u64, u64),
    /// The group that it was made with.
    own_group: u32,
}

impl SocketFile {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Changes who may connect; `None`: the group of the process. Whoever is connected stays.
    ///
    /// # Errors
    /// There is no such group, or we may not give it to the file; the file is another's by now.
    pub fn permit(&self, mode: u32, group: Option<&str>) -> io::Result<()> {
        let at = |error: io::Error| io::Error::new(error.kind(), format!("unix:{}: {error}", self.path.display()));
        if !self.is_ours() {
            return Err(at(io::Error::new(io::ErrorKind::NotFound, "the socket is gone")));
        }
        let group = group.map_or(Ok(self.own_group), group_id).map_err(at)?;
        // Nobody but the owner while it has the group of one and the permissions of the other.
        fs::set_permissions(&self.path, Permissions::from_mode(mode & 0o700)).map_err(at)?;
        std::os::unix::fs::chown(&self.path, None, Some(group)).map_err(at)?;
        fs::set_permissions(&self.path, Permissions::from_mode(mode)).map_err(at)
    }

    fn is_ours(&self) -> bool {
        let is_same = |found: fs::Metadata| (found.dev(), found.ino()) == self.device_and_inode;
        fs::symlink_metadata(&self.path).is_ok_and(is_same)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_ours() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// How long another process that starts there may take.
const DIRECTORY_LIMIT: Duration = Duration::from_secs(5);

/// Listens at a Unix socket with these permissions and this group, for `count` accept queues; non-blocking.
///
/// Nobody can connect before the permissions are set. One that a process listens at is refused; what a process that
/// ended left behind is replaced; anything else at that path is refused. Of several processes that start there at once
/// one gets it.
pub fn bind_unix(path: &Path, mode: u32, group: Option<&str>, count: usize) -> io::Result<(Vec<Bound>, SocketFile)> {
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
        let device_and_inode = (found.dev(), found.ino());
        let file = SocketFile { path: path.to_owned(), device_and_inode, own_group: found.gid() };
        fs::set_permissions(path, Permissions::from_mode(mode))?;
        if let Some(group) = group {
            std::os::unix::fs::chown(path, None, Some(group))?;
        }
        socket.listen(BACKLOG)?;
        Ok((Bound::from(UnixListener::from(socket)).share(count)?, file))
    })();
    bound.map_err(at)
}

/// Whether a process listens at this socket, and lets us connect.
pub fn is_listened_at(path: &Path) -> bool {
    match connect_unix(path) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::WouldBlock, // a queue that is full
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::LONGEST_UNIX_PATH;

    #[test]
    fn of_those_that_start_at_one_path_at_once_one_gets_it_and_keeps_it() {
        const AT_ONCE: usize = 8;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("redis.sock");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
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
            let (mut listeners, file) = won.into_iter().next().unwrap().unwrap();
            connect_unix(&path).unwrap();
            runtime.block_on(async {
                let listener = listeners.remove(0).listen().unwrap();
                let accepted = tokio::time::timeout(Duration::from_secs(5), listener.accept()).await;
                accepted.expect("it is the winner's").unwrap();
                drop(file);
            });
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
