//! The floor: a relay on one thread that looks at no byte. The same runtime, the same reads into a shared scratch, and
//! nothing else; what switchmaster costs more than this is what it does.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

use crate::Failure;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; 128 * 1024]);
}

/// Serves until it is killed.
pub fn run(listen: SocketAddr, upstream: SocketAddr) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(listen).await?;
        loop {
            let (client, _) = listener.accept().await?;
            tokio::spawn(async move {
                client.set_nodelay(true)?;
                let backend = TcpStream::connect(upstream).await?;
                backend.set_nodelay(true)?;
                let mut lanes = [Lane::default(), Lane::default()];
                let (mut client, mut backend) = (client, backend);
                poll_fn(|cx| {
                    let [up, down] = &mut lanes;
                    let ended = down.pump(&mut backend, &mut client, cx)? | up.pump(&mut client, &mut backend, cx)?;
                    if ended { Poll::Ready(Ok::<(), io::Error>(())) } else { Poll::Pending }
                })
                .await
            });
        }
    })
}

/// What one direction could not send yet.
#[derive(Default)]
struct Lane {
    unsent: Vec<u8>,
}

impl Lane {
    /// Moves what there is; true at the end of the stream.
    fn pump(&mut self, from: &mut TcpStream, to: &mut TcpStream, cx: &mut Context<'_>) -> io::Result<bool> {
        loop {
            while !self.unsent.is_empty() {
                match Pin::new(&mut *to).poll_write(cx, &self.unsent)? {
                    Poll::Ready(sent) => _ = self.unsent.drain(..sent),
                    Poll::Pending => return Ok(false),
                }
            }
            let done = SCRATCH.with_borrow_mut(|scratch| {
                let mut buffer = ReadBuf::new(scratch);
                match Pin::new(&mut *from).poll_read(cx, &mut buffer)? {
                    Poll::Pending => return Ok(Some(false)),
                    Poll::Ready(()) if buffer.filled().is_empty() => return Ok(Some(true)),
                    Poll::Ready(()) => {}
                }
                let mut rest = buffer.filled();
                while !rest.is_empty() {
                    match Pin::new(&mut *to).poll_write(cx, rest)? {
                        Poll::Ready(sent) => rest = &rest[sent..],
                        Poll::Pending => break,
                    }
                }
                self.unsent.extend_from_slice(rest);
                Ok::<_, io::Error>(None)
            })?;
            if let Some(ended) = done {
                return Ok(ended);
            }
        }
    }
}
