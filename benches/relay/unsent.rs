//! What a connection of the naked relay would not take yet.
//!
//! Empty, it owns no memory. Bounded by whoever reads no more for a direction while its [`Unsent`] is not empty.

use std::io;
use std::task::{Context, Poll, ready};

use switchmaster::net::Conn;

/// Bytes that were not taken, and how many of them were since.
#[derive(Default)]
pub struct Unsent(Option<Box<(Vec<u8>, usize)>>);

impl Unsent {
    /// Everything was taken.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Sends `bytes` at once as far as the connection takes them; the rest waits. Nothing waits before.
    pub fn send(&mut self, conn: &mut Conn, cx: &mut Context<'_>, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match conn.poll_write(cx, bytes) {
                Poll::Ready(written) => bytes = &bytes[written?..],
                Poll::Pending => {
                    self.0 = Some(Box::new((bytes.to_vec(), 0)));
                    break;
                }
            }
        }
        Ok(())
    }

    /// Sends what waits.
    pub fn poll_flush(&mut self, conn: &mut Conn, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(waiting) = &mut self.0 {
            let (bytes, sent) = &mut **waiting;
            while *sent < bytes.len() {
                *sent += ready!(conn.poll_write(cx, &bytes[*sent..]))?;
            }
        }
        self.0 = None;
        Poll::Ready(Ok(()))
    }
}
