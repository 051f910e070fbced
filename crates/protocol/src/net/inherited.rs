//! Listening sockets that a service manager made for us and keeps ([`Inherited`]), by LISTEN_FDS (sd_listen_fds(3)).
//!
//! They are found by their addresses; LISTEN_FDNAMES says nothing that those do not. What waits in their queues outlives
//! this process, so they are never bound anew, and their files are not ours to remove.

use std::io;

use listenfd::ListenFd;
use socket2::SockRef;

use super::address::ListenAddr;
use super::bind::{BACKLOG, tune};
use super::listener::Bound;

/// Those that nobody has taken yet.
#[derive(Debug, Default)]
pub struct Inherited(Vec<(ListenAddr, Bound)>);

impl Inherited {
    /// Those that the environment names for this process, which is changed: to be called before there are threads, and a
    /// second call finds none.
    ///
    /// # Errors
    /// One of them is no stream socket that listens (a datagram socket, or `Accept=yes` in the unit).
    pub fn of_process() -> io::Result<Inherited> {
        let mut handed = ListenFd::from_env();
        (0..handed.len()).map(|index| take(&mut handed, index)).collect::<io::Result<Vec<_>>>().map(Inherited)
    }

    /// The one that listens at `addr`.
    pub fn take(&mut self, addr: &ListenAddr) -> Option<Bound> {
        let index = self.0.iter().position(|(at, _)| at == addr)?;
        Some(self.0.swap_remove(index).1)
    }

    /// Where those listen that nobody has taken.
    pub fn addrs(&self) -> Vec<ListenAddr> {
        self.0.iter().map(|(addr, _)| addr.clone()).collect()
    }
}

impl FromIterator<Bound> for Inherited {
    /// As if a service manager had made them.
    fn from_iter<I: IntoIterator<Item = Bound>>(sockets: I) -> Inherited {
        Inherited(sockets.into_iter().filter_map(|bound| Some((bound.addr().ok()?, bound.outliving_us()))).collect())
    }
}

fn take(handed: &mut ListenFd, index: usize) -> io::Result<(ListenAddr, Bound)> {
    let refused = |why: String| {
        let text = format!("the socket that was handed over as descriptor {} cannot be used: {why}", index + 3);
        io::Error::new(io::ErrorKind::InvalidInput, text)
    };
    let bound = if let Ok(Some(listener)) = handed.take_unix_listener(index) {
        listener.set_nonblocking(true)?;
        prepare(&SockRef::from(&listener)).map_err(refused)?;
        Bound::from(listener)
    } else {
        let listener = handed.take_tcp_listener(index).map_err(|error| refused(error.to_string()))?;
        let listener = listener.ok_or_else(|| refused("it is not there".into()))?;
        listener.set_nonblocking(true)?;
        let socket = SockRef::from(&listener);
        prepare(&socket).map_err(refused)?;
        tune(&socket)?;
        Bound::from(listener)
    };
    Ok((bound.addr()?, bound.outliving_us()))
}

/// Makes its queue as long as that of a socket of our own.
fn prepare(socket: &SockRef<'_>) -> Result<(), String> {
    match socket.is_listener() {
        Ok(true) => socket.listen(BACKLOG).map_err(|error| error.to_string()),
        Ok(false) => Err("it does not listen (Accept= must be no)".into()),
        Err(error) => Err(error.to_string()),
    }
}
