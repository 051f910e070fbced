//! The floor: a relay that looks at no byte. The same runtime, the same sockets, the same reads into a shared scratch,
//! and nothing else; what switchmaster costs more than this is what it does.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::task::{Context, Poll};

use switchmaster::net::{self, Bound, Conn, Connector, Listener, Scratch};

use crate::Failure;
use crate::unsent::Unsent;

/// Serves until it is killed.
pub fn run(listen: SocketAddr, path: &Path, upstream: SocketAddr, workers: usize) -> Result<(), Failure> {
    let tcp = net::bind(listen, workers)?;
    let (unix, _file) = net::bind_unix(path, 0o600, None, workers)?;
    let threads: Vec<_> =
        tcp.into_iter().zip(unix).map(|(tcp, unix)| std::thread::spawn(move || work(tcp, unix, upstream))).collect();
    for thread in threads {
        thread.join().map_err(|_| "a worker panicked")??;
    }
    Ok(())
}

fn work(tcp: Bound, unix: Bound, upstream: SocketAddr) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (tcp, unix) = (tcp.listen()?, unix.listen()?);
        let from_unix = tokio::spawn(accept(unix, upstream));
        accept(tcp, upstream).await?;
        from_unix.await?
    })
}

async fn accept(listener: Listener, upstream: SocketAddr) -> io::Result<()> {
    loop {
        tokio::spawn(relay(listener.accept().await?, upstream));
    }
}

async fn relay(mut client: Conn, upstream: SocketAddr) -> io::Result<()> {
    let mut backend = Connector::DEFAULT.connect(upstream).await?;
    let (mut up, mut down) = (Unsent::default(), Unsent::default());
    poll_fn(|cx| {
        let ended = pump(&mut backend, &mut client, &mut down, cx)? | pump(&mut client, &mut backend, &mut up, cx)?;
        if ended { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
}

/// Moves what there is; true at the end of the stream.
fn pump(from: &mut Conn, to: &mut Conn, unsent: &mut Unsent, cx: &mut Context<'_>) -> io::Result<bool> {
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
