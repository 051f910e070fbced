//! A master for one target: serves an RDB file, then the stream that follows it, and hears how far the target is.
//!
//! Nobody else is served. An address says nothing: a target may have several, or one for many behind NAT. But one of all
//! connections is told at a time that it is synchronised with, and not a byte of the data follows before the target, asked on
//! a connection of ours, says that it is. What is served must have been verified wholly before, because a target that
//! meets a fault in it exits.

use std::convert::Infallible;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::conversation::{Conversation, Said};
use super::node::{Link, Node};
use crate::Error;
use crate::random;
use crate::wire;

/// Bytes of the file that are read and sent at once.
const CHUNK: usize = 256 * 1024;
/// A replica's handshake takes round trips, nothing else.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// So many may be in their handshakes at once.
const HANDSHAKES: usize = 32;
/// How long the target may take to say that it is synchronised with.
const PROOF: Duration = Duration::from_secs(3);
/// Between two questions whether it says so.
const LOOK: Duration = Duration::from_millis(20);
/// Between two questions how far the target is, until it is there.
const ASK: Duration = Duration::from_millis(100);
/// Between two PINGs afterwards; Redis's own masters take 10 s.
const PING: Duration = Duration::from_secs(1);

/// The listening side, before and while it serves.
#[derive(Debug)]
pub struct Primary {
    listener: TcpListener,
    addr: SocketAddr,
    replid: String,
    /// Who asked for the data and was not the target.
    refused: Mutex<Vec<SocketAddr>>,
}

/// What is served first.
#[derive(Debug)]
pub struct Rdb {
    /// A plain RDB file, verified wholly.
    pub file: File,
    /// Its length.
    pub bytes: u64,
    /// The replication offset of its data: that of its manifest. The stream's first byte is the one after it.
    pub offset: u64,
}

/// How far it is. The stages follow each other; the last one stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// The target has not asked for the data yet.
    #[default]
    Waiting,
    /// So many bytes of the RDB file are sent.
    Sending(u64),
    /// The RDB file is sent, and so many bytes of the stream.
    Streaming(u64),
    /// All is sent; the target still has to load it.
    Loading,
    /// The target has loaded and applied everything.
    Acknowledged,
}

impl Primary {
    /// Listens on a free port of `ip`.
    pub async fn bind(ip: IpAddr) -> Result<Primary, Error> {
        let refused = |error| {
            Error::Unavailable(format!("cannot listen at {ip}: {error}; is it an address of this host (--serve-at)?"))
        };
        let listener = TcpListener::bind(SocketAddr::new(ip, 0)).await.map_err(refused)?;
        let addr = listener.local_addr().map_err(refused)?;
        // One that no history has: nothing may take our stream for a continuation of its own.
        Ok(Primary { listener, addr, replid: random::hex(40), refused: Mutex::default() })
    }

    /// Where the target is to find it: the arguments of its REPLICAOF.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Who asked for the data and was refused, because the target did not say that it was it.
    pub fn refused(&self) -> Vec<SocketAddr> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for `target`, which is told elsewhere to come, sends it `rdb` and then what `tail` gives until that gives `None`, and keeps the link
    /// alive until the future is dropped. `tail`'s pieces may end anywhere: nothing is sent between them.
    ///
    /// Fails when the target ends the connection, or when the file or `tail` cannot be read.
    pub async fn serve(
        &self,
        target: Node,
        rdb: Rdb,
        tail: impl AsyncFnMut() -> Result<Option<Vec<u8>>, Error>,
        stage: &watch::Sender<Stage>,
    ) -> Result<Infallible, Error> {
        let mut stream = self.synchronise(target, rdb.offset).await?;
        let line = format!("${}\r\n", rdb.bytes);
        let (reader, mut writer) = stream.split();
        let (told, acknowledged) = watch::channel(None);
        let send = async {
            writer.write_all(line.as_bytes()).await.map_err(lost)?;
            send(rdb, tail, writer, acknowledged, stage).await
        };
        let refuse = async {
            loop {
                if let Ok((_, peer)) = self.listener.accept().await {
                    tracing::warn!("refused a connection from {peer}: one target is served already");
                }
            }
        };
        tokio::select! {
            ended = send => ended,
            ended = hear(reader, told) => ended,
            never = refuse => never,
        }
    }

    /// The target's connection, at the point where it waits for the data.
    async fn synchronise(&self, mut target: Node, offset: u64) -> Result<TcpStream, Error> {
        let home = target.addr().ip().to_canonical();
        let mut handshakes = FuturesUnordered::new();
        // Those that have asked for the data; the likely one first.
        let mut waiting: Vec<(TcpStream, SocketAddr)> = Vec::new();
        loop {
            if !waiting.is_empty() {
                let likely = waiting.iter().position(|(_, peer)| peer.ip().to_canonical() == home);
                let (mut stream, peer) = waiting.remove(likely.unwrap_or_default());
                match self.prove(&mut target, &mut stream, offset).await {
                    Ok(()) => {
                        if likely.is_none() {
                            tracing::info!("{} comes from {peer}, and says itself that it does", target.addr());
                        }
                        return Ok(stream);
                    }
                    Err(why) => {
                        tracing::warn!("refused a connection from {peer}: it is not the target: {why}");
                        self.refused.lock().unwrap_or_else(PoisonError::into_inner).push(peer);
                    }
                }
            }
            tokio::select! {
                biased;
                Some(done) = handshakes.next() => match done {
                    Ok(replica) => waiting.push(replica),
                    // It tries again by itself.
                    Err(why) => tracing::warn!("{why}"),
                },
                accepted = self.listener.accept(), if handshakes.len() < HANDSHAKES => {
                    let (stream, peer) = accepted
                        .map_err(|error| Error::Internal(format!("cannot accept at {}: {error}", self.addr)))?;
                    handshakes.push(shaken(stream, peer));
                }
                () = std::future::ready(()), if !waiting.is_empty() => {}
            }
        }
    }

    /// Tells the other end of `stream` that it is synchronised with, and nobody else, and waits until `target` says so of
    /// itself (replication.c: `REPL_STATE_TRANSFER`, from the line on). `Err` says what it says instead.
    async fn prove(&self, target: &mut Node, stream: &mut TcpStream, offset: u64) -> Result<(), String> {
        let mut says = async |wanted: bool| {
            let until = Instant::now() + PROOF;
            loop {
                let link = target.link().await.map_err(|error| error.to_string())?;
                let follows = link.master == Some((self.addr.ip().to_string(), self.addr.port()));
                if (follows && link.synchronising) == wanted {
                    return Ok(());
                }
                if Instant::now() >= until {
                    return Err(describe(&link));
                }
                sleep(LOOK).await;
            }
        };
        // It may not have seen yet that an earlier connection was closed.
        says(false).await?;
        let line = format!("+FULLRESYNC {} {offset}\r\n", self.replid);
        stream.write_all(line.as_bytes()).await.map_err(|error| error.to_string())?;
        says(true).await
    }
}

fn describe(link: &Link) -> String {
    match &link.master {
        Some((host, port)) if link.synchronising => format!("it synchronises with {host}:{port} already"),
        Some((host, port)) => format!("it follows {host}:{port}, and was not synchronised with"),
        None => "it follows nobody".into(),
    }
}

/// A replica that has asked for the data. `Err` says why there is none.
async fn shaken(mut stream: TcpStream, peer: SocketAddr) -> Result<(TcpStream, SocketAddr), String> {
    match timeout(HANDSHAKE, handshake(&mut stream)).await {
        Ok(Ok(())) => Ok((stream, peer)),
        Ok(Err(why)) => Err(format!("{peer} ended its handshake: {why}")),
        Err(_) => Err(format!("{peer} did not finish its handshake within {} s", HANDSHAKE.as_secs())),
    }
}

async fn handshake(stream: &mut TcpStream) -> Result<(), String> {
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let mut conversation = Conversation::default();
    let mut buffer = [0; 1024];
    loop {
        while let Some(said) = conversation.next()? {
            match said {
                Said::Answer(text) => stream.write_all(text.as_bytes()).await.map_err(|error| error.to_string())?,
                Said::Sync => return Ok(()),
                Said::Acknowledged(_) => {}
            }
        }
        match stream.read(&mut buffer).await {
            Ok(0) => return Err("it closed the connection".into()),
            Ok(count) => conversation.feed(&buffer[..count]),
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// The writing half: the file, the stream, then questions and PINGs as a master sends them.
async fn send(
    mut rdb: Rdb,
    mut tail: impl AsyncFnMut() -> Result<Option<Vec<u8>>, Error>,
    mut writer: WriteHalf<'_>,
    mut acknowledged: watch::Receiver<Option<u64>>,
    stage: &watch::Sender<Stage>,
) -> Result<Infallible, Error> {
    let unreadable = |error| Error::Spool(format!("the fetched backup cannot be read: {error}"));
    rdb.file.seek(SeekFrom::Start(0)).map_err(unreadable)?;
    let mut chunk = vec![0; CHUNK];
    let mut sent = 0;
    while sent < rdb.bytes {
        stage.send_replace(Stage::Sending(sent));
        let wanted = CHUNK.min(usize::try_from(rdb.bytes - sent).unwrap_or(CHUNK));
        rdb.file.read_exact(&mut chunk[..wanted]).map_err(unreadable)?;
        writer.write_all(&chunk[..wanted]).await.map_err(lost)?;
        sent += wanted as u64;
    }
    let mut streamed = 0;
    stage.send_replace(Stage::Streaming(streamed));
    while let Some(bytes) = tail().await? {
        writer.write_all(&bytes).await.map_err(lost)?;
        streamed += bytes.len() as u64;
        stage.send_replace(Stage::Streaming(streamed));
    }
    let end = rdb.offset + streamed;
    stage.send_replace(Stage::Loading);
    let (mut ask, mut ping) = (Vec::new(), Vec::new());
    wire::encode(&mut ask, &["REPLCONF", "GETACK", "*"]);
    wire::encode(&mut ping, &["PING"]);
    loop {
        // Its word is needed even where the data is of offset 0.
        let there = *acknowledged.borrow_and_update() >= Some(end);
        if there {
            stage.send_if_modified(|stage| std::mem::replace(stage, Stage::Acknowledged) != Stage::Acknowledged);
        }
        writer.write_all(if there { &ping } else { &ask }).await.map_err(lost)?;
        tokio::select! {
            () = sleep(if there { PING } else { ASK }) => {}
            Ok(()) = acknowledged.changed(), if !there => {}
        }
    }
}

/// The reading half: how far the target says it is.
async fn hear(mut reader: ReadHalf<'_>, told: watch::Sender<Option<u64>>) -> Result<Infallible, Error> {
    let mut conversation = Conversation::default();
    let mut buffer = [0; 1024];
    loop {
        while let Some(said) = conversation.next().map_err(|what| Error::Restore(format!("the target said {what}")))? {
            if let Said::Acknowledged(offset) = said {
                told.send_replace(Some(offset));
            }
        }
        match reader.read(&mut buffer).await.map_err(lost)? {
            0 => return Err(Error::Restore("the target closed the connection".into())),
            count => conversation.feed(&buffer[..count]),
        }
    }
}

fn lost(error: std::io::Error) -> Error {
    Error::Restore(format!("the connection to the target broke: {error}"))
}
