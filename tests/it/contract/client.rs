//! A client of a case: sends requests written as words, hears replies as they were on the wire.
//!
//! Nothing is parsed away: `*-1` and `_`, `*3` and `>3` are told apart. In a request and in what is expected `@` is the
//! case's own key, so that cases never meet.

use std::io;
use std::time::{Duration, Instant};

use switchmaster::net::ListenAddr;
use switchmaster::resp::request::encode;
use switchmaster::resp::scanner::{ReplyScanner, Scan};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

/// No reply takes longer, whatever happens to the master.
const LIMIT: Duration = Duration::from_secs(25);

/// Why a case failed.
pub struct Failure(pub String);
pub type Told<T = ()> = Result<T, Failure>;

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure(error.to_string())
    }
}

impl From<String> for Failure {
    fn from(text: String) -> Failure {
        Failure(text)
    }
}

/// Fails the case unless the condition holds.
pub fn ensure(holds: bool, otherwise: impl Into<String>) -> Told {
    if holds { Ok(()) } else { Err(Failure(otherwise.into())) }
}

/// TCP or a Unix socket.
trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

pub struct Client {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
    /// Where the next frame begins, and what of it the scanner has seen.
    start: usize,
    scanned: usize,
    scanner: ReplyScanner,
    tag: String,
    pub resp: u8,
    /// The last request, for the complaint.
    last: String,
}

impl Client {
    /// Connects and agrees on the protocol; RESP2 is where every connection starts.
    pub async fn open(addr: &ListenAddr, resp: u8, tag: &str) -> Told<Client> {
        let stream: Box<dyn Stream> = match addr {
            ListenAddr::Tcp(addr) => {
                let stream = TcpStream::connect(addr).await?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
            ListenAddr::Unix(path) => Box::new(UnixStream::connect(path).await?),
        };
        let mut client = Client {
            stream,
            buffer: Vec::new(),
            start: 0,
            scanned: 0,
            scanner: ReplyScanner::default(),
            tag: tag.into(),
            resp,
            last: "connect".into(),
        };
        if resp == 3 {
            client.ask("HELLO 3", "%…").await?;
        }
        Ok(client)
    }

    /// The case's own key.
    pub fn key(&self) -> &str {
        &self.tag
    }

    pub async fn say(&mut self, request: &str) -> Told {
        let bytes = self.encoded(request);
        self.last = request.chars().take(60).collect();
        self.send(&bytes).await
    }

    /// Several requests in one write.
    pub async fn say_all(&mut self, requests: &[&str]) -> Told {
        let bytes: Vec<u8> = requests.iter().flat_map(|request| self.encoded(request)).collect();
        self.last = requests.join(", ").chars().take(60).collect();
        self.send(&bytes).await
    }

    /// A request as its bytes.
    pub fn encoded(&self, request: &str) -> Vec<u8> {
        let words: Vec<String> = request.split_whitespace().map(|word| word.replace('@', &self.tag)).collect();
        encode(&words.iter().map(String::as_bytes).collect::<Vec<_>>())
    }

    pub async fn send(&mut self, bytes: &[u8]) -> Told {
        Ok(self.stream.write_all(bytes).await?)
    }

    /// FIN: nothing more is said.
    pub async fn close_sending(&mut self) -> Told {
        Ok(self.stream.shutdown().await?)
    }

    /// The next frame, line ends as spaces: `*2 $3 foo :1`.
    pub async fn frame(&mut self) -> Told<String> {
        let frame = timeout(LIMIT, self.next_frame()).await;
        let frame = frame.map_err(|_| format!("nothing heard for {LIMIT:?} after {}", self.last))?;
        frame?.ok_or_else(|| Failure(format!("the connection ended after {}", self.last)))
    }

    /// Expects this frame next; one that ends with `…` names its beginning.
    pub async fn hear(&mut self, expected: &str) -> Told {
        let frame = self.frame().await?;
        self.compare(&frame, expected)
    }

    pub async fn hear_all(&mut self, expected: &[&str]) -> Told {
        for one in expected {
            self.hear(one).await?;
        }
        Ok(())
    }

    pub async fn ask(&mut self, request: &str, expected: &str) -> Told {
        self.say(request).await?;
        self.hear(expected).await
    }

    /// What is answered.
    pub async fn get(&mut self, request: &str) -> Told<String> {
        self.say(request).await?;
        self.frame().await
    }

    /// Frames until one contains all of this; others are passed over.
    pub async fn hear_of(&mut self, part: &str) -> Told<String> {
        let part = part.replace('@', &self.tag);
        let started = Instant::now();
        while started.elapsed() < LIMIT {
            let frame = self.frame().await?;
            if frame.contains(&part) {
                return Ok(frame);
            }
        }
        Err(Failure(format!("{part} was not heard of")))
    }

    /// Expects the end of the stream: FIN, not RST, and no byte before it.
    pub async fn end(&mut self) -> Told {
        match timeout(LIMIT, self.next_frame()).await {
            Ok(Ok(None)) => ensure(self.buffer.len() == self.start, "ended inside a reply"),
            Ok(Ok(Some(frame))) => Err(Failure(format!("{} was answered {frame}, a FIN was expected", self.last))),
            Ok(Err(Failure(why))) => Err(Failure(format!("a FIN was expected: {why}"))),
            Err(_) => Err(Failure(format!("still open {LIMIT:?} after {}", self.last))),
        }
    }

    /// Expects the end of the stream after some of these frames.
    pub async fn end_after(&mut self, frames: &[&str]) -> Told {
        for expected in frames {
            match self.next_frame().await? {
                Some(frame) => self.compare(&frame, expected)?,
                None => return Ok(()),
            }
        }
        self.end().await
    }

    /// Bytes read until the end of the stream, at most `most`; the second is whether it ended.
    pub async fn drain(&mut self, most: usize) -> Told<(usize, bool)> {
        let mut total = self.buffer.len() - self.start;
        self.buffer.clear();
        (self.start, self.scanned) = (0, 0);
        let mut buffer = vec![0; 64 * 1024];
        while total < most {
            let space = buffer.len().min(most - total);
            let read = timeout(LIMIT, self.stream.read(&mut buffer[..space])).await;
            match read.map_err(|_| format!("{total} bytes and then nothing"))?? {
                0 => return Ok((total, true)),
                read => total += read,
            }
        }
        Ok((total, false))
    }

    /// Nothing arrives for this long.
    pub async fn quiet(&mut self, time: Duration) -> Told {
        match timeout(time, self.next_frame()).await {
            Err(_) => Ok(()),
            Ok(frame) => Err(Failure(format!("silence was expected, came {:?}", frame?))),
        }
    }

    /// "Nothing" in the place of an array, and of a string.
    pub fn nil_array(&self) -> &'static str {
        if self.resp == 3 { "_" } else { "*-1" }
    }

    pub fn nil(&self) -> &'static str {
        if self.resp == 3 { "_" } else { "$-1" }
    }

    /// A message or confirmation of these strings, `rest` behind them as it is.
    pub fn push(&self, strings: &[&str], rest: &str) -> String {
        let count = strings.len() + usize::from(!rest.is_empty());
        let strings: String = strings.iter().map(|text| format!(" {}", self.bulk(text))).collect();
        format!("{}{count}{strings} {rest}", if self.resp == 3 { '>' } else { '*' }).trim_end().into()
    }

    pub fn bulk(&self, text: &str) -> String {
        let text = text.replace('@', &self.tag);
        format!("${} {text}", text.len())
    }

    fn compare(&self, frame: &str, expected: &str) -> Told {
        let expected = expected.replace('@', &self.tag);
        let fits = match expected.strip_suffix('…') {
            Some(beginning) => frame.starts_with(beginning),
            None => frame == expected,
        };
        ensure(fits, format!("{} was answered {frame:.200}, not {expected}", self.last))
    }

    async fn next_frame(&mut self) -> Told<Option<String>> {
        loop {
            match self.scanner.scan(&self.buffer[self.scanned..]) {
                Scan::Frame(length) => {
                    self.scanned += length;
                    let frame = String::from_utf8_lossy(&self.buffer[self.start..self.scanned]);
                    let frame = frame.trim_end().replace("\r\n", " ");
                    self.start = self.scanned;
                    return Ok(Some(frame));
                }
                Scan::Partial => self.scanned = self.buffer.len(),
                Scan::Invalid(why) => return Err(Failure(format!("not a reply: {why:?}"))),
            }
            self.buffer.drain(..self.start);
            self.scanned -= std::mem::take(&mut self.start);
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }
}
