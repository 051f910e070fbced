//! The floor: a relay that looks at no byte. The same runtime, the same sockets, the same reads into a shared scratch,
//! and nothing else; what switchmaster costs more than this is what it does.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::task::{Context, Poll};

use switchmaster::session::client::{Client, Unix};
use switchmaster::session::pipe::{Scratch, Socket, Unsent};
use switchmaster::socket;
use tokio::net::{TcpListener, TcpStream, UnixListener};

use crate::Failure;

/// Serves until it is killed.
pub fn run(listen: SocketAddr, path: &Path, upstream: SocketAddr, workers: usize) -> Result<(), Failure> {
    let tcp = socket::bind(listen, workers)?;
    let (unix, _file) = socket::bind_unix(path, 0o600, None, workers)?;
    let threads: Vec<_> =
        tcp.into_iter().zip(unix).map(|(tcp, unix)| std::thread::spawn(move || work(tcp, unix, upstream))).collect();
    for thread in threads {
        thread.join().map_err(|_| "a worker panicked")??;
    }
    Ok(())
}

fn work(tcp: std::net::TcpListener, unix: std::os::unix::net::UnixListener, upstream: SocketAddr) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (tcp, unix) = (TcpListener::from_std(tcp)?, UnixListener::from_std(unix)?);
        let from_unix = tokio::spawn(async move {
            loop {
                let client = unix.accept().await?.0.into_std().and_then(Unix::new)?;
                tokio::spawn(relay(Client::Unix(client), upstream));
            }
        });
        while !from_unix.is_finished() {
            tokio::spawn(relay(Client::Tcp(tcp.accept().await?.0), upstream));
        }
        from_unix.await?
    })
}

async fn relay(mut client: Client, upstream: SocketAddr) -> io::Result<()> {
    let mut backend = TcpStream::connect(upstream).await?;
    backend.set_nodelay(true)?;
    let (mut up, mut down) = (Unsent::default(), Unsent::default());
    poll_fn(|cx| {
        let ended = pump(&mut backend, &mut client, &mut down, cx)? | pump(&mut client, &mut backend, &mut up, cx)?;
        if ended { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
}

/// Moves what there is; true at the end of the stream.
fn pump(from: &mut impl Socket, to: &mut impl Socket, unsent: &mut Unsent, cx: &mut Context<'_>) -> io::Result<bool> {
    let mut scratch = Scratch::take();
    loop {
        if !unsent.is_empty() && unsent.poll_flush(to, cx)?.is_pending() {
            return Ok(false);
        }
        match from.poll_read(cx, &mut scratch)? {
            Poll::Pending => return Ok(false),
            Poll::Ready(0) => return Ok(true),
            Poll::Ready(read) => unsent.send(to, cx, &scratch[..read])?,
        }
    }
}
