//! The same bytes in pieces, as a slice or as a stream that ends with them; the peer's side of it is thrown away.
#![allow(dead_code, reason = "each target needs a part of it")]

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::{Builder, Runtime};

/// Pieces of varying sizes, by a generator that `choice` starts; 0: all in one.
pub fn pieces(bytes: &[u8], choice: u8) -> Vec<&[u8]> {
    if choice == 0 {
        return vec![bytes];
    }
    let (mut state, mut rest, mut pieces) = (u32::from(choice), bytes, Vec::new());
    while !rest.is_empty() {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let size = ((state >> 24) as usize % 23).min(rest.len());
        let (piece, after) = rest.split_at(size);
        pieces.push(piece);
        rest = after;
    }
    pieces
}

/// A connection whose peer sends these pieces and hangs up.
#[derive(Debug)]
pub struct Stream(VecDeque<Vec<u8>>);

impl Stream {
    pub fn of(pieces: &[&[u8]]) -> Stream {
        Stream(pieces.iter().filter(|piece| !piece.is_empty()).map(|piece| piece.to_vec()).collect())
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(piece) = self.0.front_mut() {
            let rest = piece.split_off(piece.len().min(into.remaining()));
            into.put_slice(piece);
            *piece = rest;
            if piece.is_empty() {
                self.0.pop_front();
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Does what reads such streams: nothing in it ever waits.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    thread_local!(static RUNTIME: Runtime = Builder::new_current_thread().enable_time().build().unwrap());
    RUNTIME.with(|runtime| runtime.block_on(future))
}
