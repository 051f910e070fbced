//! One connection, whatever it runs over; the place for TLS.
//!
//! A read that does not fill its buffer clears the readiness, so that the next one costs no system call. Whoever looked
//! for the peer's end with [`Conn::poll_left`] need not remember it: bytes that the reactor knows nothing of are read
//! first from then on.

use std::fmt;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::pipe::Pipe;
use super::unix::UnixSocket;

/// A connected stream socket, non-blocking.
#[derive(Debug)]
pub struct Conn {
    stream: Stream,
    /// Bytes may wait of which the reactor knows nothing.
    unread: bool,
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    /// Boxed: most connections are TCP, and sessions pay for the larger.
    Unix(Box<UnixSocket>),
}

/// What can be said of a connection without reading from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// Open, and the peer has sent nothing that was not read.
    Clean,
    /// Open, and there is something to read.
    DataPending,
    /// The peer has closed it, perhaps behind bytes, or it is broken.
    Closed,
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// Whoever connects from this address.
    Tcp(SocketAddr),
    /// A process of this host.
    Unix {
        /// Its user when it connected.
        uid: u32,
    },
}

/// The user of this process.
pub fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

impl fmt::Display for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Asker::Tcp(addr) => addr.fmt(f),
            Asker::Unix { uid } => write!(f, "user {uid}"),
        }
    }
}

impl Conn {
    /// A TCP connection.
    pub(super) fn tcp(stream: TcpStream) -> Conn {
        Conn { stream: Stream::Tcp(stream), unread: false }
    }

    /// A Unix socket.
    pub(super) fn unix(socket: UnixSocket) -> Conn {
        Conn { stream: Stream::Unix(Box::new(socket)), unread: false }
    }

    /// Reads once; 0 is the end of the stream.
    #[inline]
    pub fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.unread
            && let Some(read) = self.past_the_reactor(|stream| Ok(rustix::io::read(stream, &mut *into)?))
        {
            return Poll::Ready(read);
        }
        match &mut self.stream {
            Stream::Tcp(stream) => {
                let mut buffer = ReadBuf::new(into);
                ready!(AsyncRead::poll_read(Pin::new(stream), cx, &mut buffer))?;
                Poll::Ready(Ok(buffer.filled().len()))
            }
            Stream::Unix(unix) => unix.poll_read(cx, into),
        }
    }

    /// Writes once.
    #[inline]
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Tcp(stream) => AsyncWrite::poll_write(Pin::new(stream), cx, bytes),
            Stream::Unix(unix) => unix.poll_write(cx, bytes),
        }
    }

    /// Says that no more bytes will come (FIN), and leaves the other direction open.
    pub fn shutdown(&mut self) {
        let _ = match &mut self.stream {
            Stream::Tcp(stream) => SockRef::from(&*stream).shutdown(Shutdown::Write),
            Stream::Unix(unix) => unix.shutdown(),
        };
    }

    /// Whether bytes may be moved by splice(2): what is on the wire is what is read and written.
    pub fn can_splice(&self) -> bool {
        match &self.stream {
            Stream::Tcp(_) | Stream::Unix(_) => true,
        }
    }

    /// Moves at most so many bytes from the socket into an empty pipe, once; 0 is the end of the stream. Only where
    /// [`Conn::can_splice`].
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, pipe: &mut Pipe, most: usize) -> Poll<io::Result<usize>> {
        if self.unread
            && let Some(moved) = self.past_the_reactor(|stream| pipe.fill(stream, most))
        {
            return Poll::Ready(moved);
        }
        match &mut self.stream {
            Stream::Tcp(stream) => loop {
                ready!(stream.poll_read_ready(cx))?;
                match stream.try_io(Interest::READABLE, || pipe.fill(&*stream, most)) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    moved => return Poll::Ready(moved),
                }
            },
            Stream::Unix(unix) => unix.poll_fill(cx, pipe, most),
        }
    }

    /// Moves what is in a pipe to the socket, once, as far as that takes it. Only where [`Conn::can_splice`].
    pub fn poll_empty(&mut self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Tcp(stream) => loop {
                ready!(stream.poll_write_ready(cx))?;
                match stream.try_io(Interest::WRITABLE, || pipe.empty(&*stream)) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    moved => return Poll::Ready(moved),
                }
            },
            Stream::Unix(unix) => unix.poll_empty(cx, pipe),
        }
    }

    /// Ready once the peer has closed its side (FIN or RST), also behind bytes that are not read.
    ///
    /// What wakes for bytes is given up for what wakes for the end, since epoll(7) reports both by edges. The next read
    /// therefore goes past the reactor, until there is nothing.
    pub fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.unread = true;
        loop {
            let is_closed = match &mut self.stream {
                Stream::Tcp(stream) => {
                    if ready!(stream.poll_read_ready(cx)).is_err() {
                        return Poll::Ready(());
                    }
                    let is_closed = is_read_closed(stream);
                    let _ = stream.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
                    is_closed
                }
                Stream::Unix(unix) => ready!(unix.poll_next_edge(cx)),
            };
            if is_closed {
                return Poll::Ready(());
            }
        }
    }

    /// Reads what the reactor does not know of, so that closing says FIN and not RST; no more than sockets hold.
    pub fn discard_unread(&mut self) {
        let mut rest = [0; 4096];
        for _ in 0..2048 {
            if !self.unread {
                return;
            }
            let read = self.past_the_reactor(|stream| Ok(rustix::io::read(stream, &mut rest)?));
            self.unread = matches!(read, Some(Ok(1..)));
        }
    }

    /// What the reactor knows of a connection that we dialled; costs no system call. (Of one that was accepted it takes for
    /// granted, until the first read, that there is something to read.)
    pub fn liveness(&self) -> Liveness {
        match &self.stream {
            Stream::Tcp(stream) => match stream.poll_read_ready(&mut Context::from_waker(Waker::noop())) {
                Poll::Pending => Liveness::Clean,
                Poll::Ready(Ok(())) if !is_read_closed(stream) => Liveness::DataPending,
                Poll::Ready(_) => Liveness::Closed,
            },
            Stream::Unix(unix) => unix.liveness(),
        }
    }

    /// Returns when there is something to read, or the end.
    pub async fn readable(&self) -> io::Result<()> {
        match &self.stream {
            Stream::Tcp(stream) => stream.readable().await,
            Stream::Unix(unix) => unix.readable().await,
        }
    }

    /// The peer's address; `None` for a Unix socket, or when the peer has gone.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        match &self.stream {
            Stream::Tcp(stream) => stream.peer_addr().ok(),
            Stream::Unix(_) => None,
        }
    }

    /// Who is at the other end.
    ///
    /// # Errors
    /// It has gone, or the kernel does not say.
    pub fn peer(&self) -> io::Result<Asker> {
        match &self.stream {
            Stream::Tcp(stream) => stream.peer_addr().map(Asker::Tcp),
            Stream::Unix(unix) => unix.peer_uid().map(|uid| Asker::Unix { uid }),
        }
    }

    /// Our end's address; `None` for a Unix socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.stream {
            Stream::Tcp(stream) => stream.local_addr().ok(),
            Stream::Unix(_) => None,
        }
    }

    /// Closing it resets it: what is unsent is lost, and the port is free at once. For connections on which nothing is
    /// owed.
    pub fn set_zero_linger(&self) {
        if let Stream::Tcp(stream) = &self.stream {
            let _ = stream.set_zero_linger();
        }
    }

    /// Reads once without asking the reactor; `None`, and it knows again, if there is nothing.
    #[cold]
    fn past_the_reactor(
        &mut self,
        mut read: impl FnMut(BorrowedFd<'_>) -> io::Result<usize>,
    ) -> Option<io::Result<usize>> {
        let socket = match &self.stream {
            Stream::Tcp(stream) => stream.as_fd(),
            Stream::Unix(unix) => unix.as_fd(),
        };
        match read(socket) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.unread = false;
                None
            }
            read => Some(read),
        }
    }
}

/// As far as the reactor knows.
fn is_read_closed(stream: &TcpStream) -> bool {
    let now = pin!(stream.ready(Interest::READABLE)).poll(&mut Context::from_waker(Waker::noop()));
    matches!(now, Poll::Ready(Ok(now)) if now.is_read_closed())
}

impl AsyncRead for Conn {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = ready!(Conn::poll_read(&mut self, cx, buffer.initialize_unfilled()))?;
        buffer.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Conn {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Conn::poll_write(&mut self, cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shutdown();
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::net::{Connector, ListenAddr, bind, bind_unix};

    /// Runs with a connected pair over TCP, and then with one over a Unix socket.
    fn with_pairs<F: Future<Output = ()>>(run: impl Fn(Conn, Conn) -> F) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        runtime.block_on(async {
            let tcp = bind("127.0.0.1:0".parse().unwrap(), 1).unwrap();
            let (unix, _file) = bind_unix(&dir.path().join("s"), 0o600, None, 1).unwrap();
            let unix_addr = ListenAddr::Unix(dir.path().join("s"));
            let tcp_addr = tcp[0].addr().unwrap();
            for (mut bound, addr) in [(tcp, tcp_addr), (unix, unix_addr)] {
                let listener = bound.remove(0).listen().unwrap();
                let (ours, theirs) = tokio::join!(Connector::DEFAULT.connect_to(&addr), listener.accept());
                run(ours.unwrap(), theirs.unwrap()).await;
            }
        });
    }

    async fn until(mut is_so: impl FnMut() -> bool) {
        let look = async {
            while !is_so() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), look).await.expect("within 5 s");
    }

    #[test]
    fn a_connection_is_as_small_as_a_socket_and_a_flag() {
        assert!(size_of::<Conn>() <= size_of::<TcpStream>() + 8, "{} bytes", size_of::<Conn>());
    }

    #[test]
    fn liveness_tells_quiet_from_bytes_and_from_the_end() {
        with_pairs(|ours, mut theirs| async move {
            assert_eq!(ours.liveness(), Liveness::Clean);
            theirs.write_all(b"x").await.unwrap();
            until(|| ours.liveness() == Liveness::DataPending).await;
            drop(theirs);
            until(|| ours.liveness() == Liveness::Closed).await;
        });
    }

    #[test]
    fn the_end_is_seen_behind_bytes_and_those_are_read_afterwards() {
        with_pairs(|mut ours, mut theirs| async move {
            ours.write_all(b"unread").await.unwrap();
            let mut byte = [0; 1];
            theirs.read_exact(&mut byte).await.unwrap();
            let left = tokio::time::timeout(Duration::from_millis(20), poll_fn(|cx| theirs.poll_left(cx))).await;
            assert!(left.is_err(), "it is still there");
            ours.shutdown();
            let left = tokio::time::timeout(Duration::from_secs(5), poll_fn(|cx| theirs.poll_left(cx))).await;
            assert!(left.is_ok());
            let mut rest = Vec::new();
            theirs.read_to_end(&mut rest).await.unwrap();
            assert_eq!(rest, b"nread");
        });
    }

    #[test]
    fn after_looking_for_the_end_bytes_still_wake() {
        with_pairs(|mut ours, mut theirs| async move {
            ours.write_all(b"a").await.unwrap();
            let look = tokio::time::timeout(Duration::from_millis(20), poll_fn(|cx| theirs.poll_left(cx)));
            assert!(look.await.is_err());
            let mut two = [0; 2];
            let (read, ()) = tokio::join!(theirs.read_exact(&mut two), async {
                tokio::time::sleep(Duration::from_millis(10)).await;
                ours.write_all(b"b").await.unwrap();
            });
            read.unwrap();
            assert_eq!(two, *b"ab");
        });
    }
}
