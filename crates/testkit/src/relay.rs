//! A cutting relay: TCP in front of one server, cut, black-holed or delayed at will, for all peers or for one source address.
//!
//! It runs on a thread of its own and knows nothing of the bytes it carries.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, tcp};
use tokio::sync::{oneshot, watch};

/// The relay; dropping it cuts everything and frees the port.
#[derive(Debug)]
pub struct Relay {
    addr: SocketAddr,
    rules: watch::Sender<Rules>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What happens to bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Passage {
    /// Forwarded.
    #[default]
    Open,
    /// Connections are closed, new ones too, as if nobody listened.
    Refuse,
    /// Connections stay and are accepted, nothing is forwarded: a partition. Bytes sent meanwhile arrive when it opens.
    BlackHole,
    /// Forwarded this much later, in each direction.
    Delay(Duration),
    /// What clients say arrives, what the server says is lost: requests run, and nobody learns of it.
    Mute,
}

#[derive(Clone, Debug, Default)]
struct Rules {
    everyone: Passage,
    by_source: HashMap<IpAddr, Passage>,
}

impl Relay {
    /// A relay to `target`, listening on 127.0.0.1:`port` (0: any).
    pub fn start(target: SocketAddr, port: u16) -> io::Result<Relay> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        let (rules, seen) = watch::channel(Rules::default());
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name(format!("relay-{}", addr.port())).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener, target, seen) => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Relay { addr, rules, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What happens to everyone without a rule of their own.
    pub fn set(&self, passage: Passage) {
        self.rules.send_modify(|rules| rules.everyone = passage);
    }

    /// What happens to connections from `source`.
    pub fn set_for(&self, source: IpAddr, passage: Passage) {
        self.rules.send_modify(|rules| {
            rules.by_source.insert(source, passage);
        });
    }

    /// Everything is forwarded again.
    pub fn restore(&self) {
        self.rules.send_modify(|rules| *rules = Rules::default());
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Rules {
    fn of(&self, source: IpAddr) -> Passage {
        self.by_source.get(&source).copied().unwrap_or(self.everyone)
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, rules: watch::Receiver<Rules>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else {
        return;
    };
    loop {
        match listener.accept().await {
            Ok((client, peer)) => {
                tokio::spawn(carry(client, peer.ip(), target, rules.clone()));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn carry(client: TcpStream, source: IpAddr, target: SocketAddr, rules: watch::Receiver<Rules>) {
    if rules.borrow().of(source) == Passage::Refuse {
        return;
    }
    let pass = async {
        wait_until_open(&mut rules.clone(), source).await;
        let Ok(server) = TcpStream::connect(target).await else {
            return;
        };
        let _ = client.set_nodelay(true);
        let _ = server.set_nodelay(true);
        let (client_in, client_out) = client.into_split();
        let (server_in, server_out) = server.into_split();
        let there = copy(client_in, server_out, rules.clone(), source, false);
        let back = copy(server_in, client_out, rules.clone(), source, true);
        // An error in one direction ends both; a half-close is passed on.
        let _ = tokio::try_join!(there, back);
    };
    let refused = async {
        let mut rules = rules.clone();
        let _ = rules.wait_for(|rules| rules.of(source) == Passage::Refuse).await;
    };
    tokio::select! {
        () = pass => {}
        () = refused => {}
    }
}

async fn copy(
    mut from: tcp::OwnedReadHalf,
    mut to: tcp::OwnedWriteHalf,
    mut rules: watch::Receiver<Rules>,
    source: IpAddr,
    from_server: bool,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let length = from.read(&mut buffer).await?;
        let passage = wait_until_open(&mut rules, source).await;
        if let Passage::Delay(delay) = passage {
            tokio::time::sleep(delay).await;
        }
        if length == 0 {
            return to.shutdown().await;
        }
        if from_server && passage == Passage::Mute {
            continue;
        }
        to.write_all(&buffer[..length]).await?;
    }
}

async fn wait_until_open(rules: &mut watch::Receiver<Rules>, source: IpAddr) -> Passage {
    let not_black = |rules: &Rules| rules.of(source) != Passage::BlackHole;
    let passage = rules.wait_for(not_black).await.map(|rules| rules.of(source));
    // An error means that the relay is being dropped: like a cut.
    passage.unwrap_or(Passage::Refuse)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn a_black_hole_keeps_the_bytes_and_a_cut_closes() {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let relay = Relay::start(server.local_addr().unwrap(), 0).unwrap();
        let mut client = std::net::TcpStream::connect(relay.addr()).unwrap();
        let (mut far, _) = server.accept().unwrap();
        let mut byte = [0];
        client.write_all(b"a").unwrap();
        far.read_exact(&mut byte).unwrap();

        relay.set_for(Ipv4Addr::LOCALHOST.into(), Passage::BlackHole);
        client.write_all(b"b").unwrap();
        far.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        assert!(far.read_exact(&mut byte).is_err(), "nothing passes a black hole");
        relay.restore();
        far.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        far.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"b");

        relay.set(Passage::Mute);
        far.write_all(b"c").unwrap();
        client.write_all(b"d").unwrap();
        far.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"d");
        client.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        assert!(client.read(&mut byte).is_err(), "a mute server is not heard");

        relay.set(Passage::Refuse);
        assert_eq!(client.read(&mut byte).unwrap(), 0, "a cut closes");
    }
}
