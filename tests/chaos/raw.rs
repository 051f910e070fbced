//! Raw RESP clients: what they send is on the wire as written here, and nothing is retried behind the checker's back.

use std::io;
use std::time::{Duration, Instant};

use switchmaster::net::ListenAddr;
use switchmaster::secret::Credentials;
use switchmaster::wire::{self, Reply, encode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::event::{Journal, Op, Outcome};

/// A reply takes at most this long: the proxy's longest hold and more.
const REPLY_LIMIT: Duration = Duration::from_secs(40);
/// Sets a key that nobody else sets, and tells when it runs a second time.
const SCRIPT: &str = "return redis.call('SET', KEYS[1], ARGV[1], 'NX') and ARGV[1] or 'ran twice'";

/// TCP or a Unix socket.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}
type Wire = wire::Wire<Box<dyn Stream>>;

/// What a raw client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    /// Everything, one request at a time.
    Mixed,
    /// The same in RESP3, in another database.
    Resp3,
    /// Sixteen requests at once.
    Pipelined,
    /// Values up to this size.
    Large(usize),
    /// A connection for each few requests, as php-fpm has.
    Short,
    /// `RPUSH` to its queue and `BLPOP` from it, on two connections.
    Queue,
    /// `PUBLISH` and `SUBSCRIBE`, on two connections.
    Messages,
    /// Says something only now and then.
    Idle,
}

/// One client to run.
#[derive(Clone, Debug)]
pub struct Raw {
    /// Its name, which begins all its keys.
    pub name: String,
    /// What it does.
    pub habit: Habit,
    /// Where the proxy is.
    pub addr: ListenAddr,
    /// The cluster's password.
    pub auth: Option<Credentials>,
    /// Between two requests, or pipelines of them.
    pub pause: Duration,
    /// Where its events go.
    pub journal: Journal,
    /// True when it should end.
    pub stop: watch::Receiver<bool>,
}

/// What a reply must be.
enum Due {
    Exactly(Op, u64, Vec<u8>),
    Ok(Op, u64),
    Number(Op, u64),
    Queued,
    Exec(u64),
}

impl Raw {
    /// Runs until told to stop.
    pub async fn run(self) {
        match self.habit {
            Habit::Queue => _ = tokio::join!(self.work(), self.consume()),
            Habit::Messages => _ = tokio::join!(self.work(), self.subscribe()),
            _ => self.work().await,
        }
    }

    fn is_over(&self) -> bool {
        *self.stop.borrow()
    }

    async fn open(&self) -> io::Result<Wire> {
        let began = Instant::now();
        let attempt = async {
            let stream: Box<dyn Stream> = match &self.addr {
                ListenAddr::Tcp(addr) => {
                    let stream = TcpStream::connect(addr).await?;
                    stream.set_nodelay(true)?;
                    Box::new(stream)
                }
                ListenAddr::Unix(path) => Box::new(UnixStream::connect(path).await?),
            };
            let mut wire = Wire::over(stream);
            wire.log_in(self.auth.as_ref(), 0).await?;
            if self.habit == Habit::Resp3 {
                let reply = wire.ask(&["HELLO", "3"]).await?;
                if let Reply::Error(error) = reply {
                    return Err(io::Error::other(error));
                }
                wire.ask(&["SELECT", "3"]).await?;
            }
            match wire.ask(&["CLIENT", "SETNAME", &format!("chaos-{}", self.name)]).await? {
                Reply::Error(error) => Err(io::Error::other(error)),
                _ => Ok(wire),
            }
        };
        let attempt = timeout(REPLY_LIMIT, attempt).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        match &attempt {
            Ok(_) => self.journal.note(Op::Connect, 0, began, Outcome::Ok),
            Err(error) => {
                self.journal.note(Op::Connect, 0, began, Outcome::Cut(error.to_string()));
                sleep(Duration::from_millis(50)).await;
            }
        }
        attempt
    }

    async fn work(&self) {
        let mut wire: Option<Wire> = None;
        let (mut number, mut acknowledged, mut turns) = (0, None, 0);
        while !self.is_over() {
            let Some(open) = &mut wire else {
                wire = self.open().await.ok();
                continue;
            };
            let mut bytes = Vec::new();
            let mut due = Vec::new();
            for _ in 0..if self.habit == Habit::Pipelined { 16 } else { 1 } {
                number += 1;
                self.request(number, acknowledged, &mut bytes, &mut due);
            }
            let began = Instant::now();
            let sent = timeout(REPLY_LIMIT, open.send(&bytes)).await;
            let mut failed = match sent {
                Ok(sent) => sent.err(),
                Err(_) => Some(io::ErrorKind::TimedOut.into()),
            };
            for due in due {
                let reply = match failed.take() {
                    Some(error) => Err(error),
                    None => timeout(REPLY_LIMIT, open.receive())
                        .await
                        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
                };
                match reply {
                    Ok(reply) => {
                        if let (Due::Ok(Op::Set, set), Reply::Simple(_)) = (&due, &reply) {
                            acknowledged = Some(*set);
                        }
                        self.judge(due, began, reply);
                    }
                    Err(error) => {
                        self.lost(&due, began, &error);
                        failed = Some(error);
                    }
                }
            }
            turns += 1;
            if failed.is_some() || (self.habit == Habit::Short && turns % 4 == 0) {
                wire = None;
            }
            sleep(self.pause).await;
        }
    }

    fn request(&self, number: u64, acknowledged: Option<u64>, bytes: &mut Vec<u8>, due: &mut Vec<Due>) {
        let name = &self.name;
        let set = |letter: &str| (format!("{name}:{letter}:{number}"), self.value(letter, number));
        match (self.habit, number % 8) {
            (Habit::Idle, _) => {
                let text = format!("{name}:{number}");
                encode(bytes, &["ECHO", &text]);
                due.push(Due::Exactly(Op::Echo, number, text.into_bytes()));
            }
            (Habit::Queue, _) => {
                encode(bytes, &["RPUSH", &format!("{name}:q"), &format!("{name}:{number}")]);
                due.push(Due::Number(Op::Enqueue, number));
            }
            (Habit::Messages, _) => {
                encode(bytes, &["PUBLISH", &format!("{name}:ch"), &number.to_string()]);
                due.push(Due::Number(Op::Publish, number));
            }
            (_, 1) if acknowledged.is_some() => {
                let read = acknowledged.unwrap_or(0);
                encode(bytes, &["GET", &format!("{name}:k:{read}")]);
                due.push(Due::Exactly(Op::Get, read, self.value("k", read).into_bytes()));
            }
            (_, 2) => {
                encode(bytes, &["INCR", &format!("{name}:i")]);
                due.push(Due::Number(Op::Incr, number));
            }
            (_, 3) => {
                encode(bytes, &["RPUSH", &format!("{name}:l:{}", number / 64), &format!("{name}:{number}")]);
                due.push(Due::Number(Op::Push, number));
            }
            (_, 4) => {
                let (key, value) = set("e");
                encode(bytes, &["EVAL", SCRIPT, "1", &key, &value]);
                due.push(Due::Exactly(Op::Eval, number, value.into_bytes()));
            }
            (_, 5) => {
                let (key, value) = set("x");
                encode(bytes, &["MULTI"]);
                encode(bytes, &["SET", &key, &value]);
                encode(bytes, &["INCR", &format!("{name}:xc")]);
                encode(bytes, &["EXEC"]);
                due.extend([Due::Ok(Op::Echo, number), Due::Queued, Due::Queued, Due::Exec(number)]);
            }
            (_, 6) => {
                let text = format!("{name}:{number}");
                encode(bytes, &["ECHO", &text]);
                due.push(Due::Exactly(Op::Echo, number, text.into_bytes()));
            }
            _ => {
                let (key, value) = set("k");
                encode(bytes, &["SET", &key, &value]);
                due.push(Due::Ok(Op::Set, number));
            }
        }
    }

    fn value(&self, letter: &str, number: u64) -> String {
        value(&self.name, letter, number, if let Habit::Large(most) = self.habit { most } else { 0 })
    }

    fn judge(&self, due: Due, began: Instant, reply: Reply) {
        let (op, number) = due.what();
        let outcome = match (due, reply) {
            (_, Reply::Error(text)) => Outcome::Error(text),
            (Due::Ok(..), Reply::Simple(text)) if text == "OK" => Outcome::Ok,
            (Due::Queued, Reply::Simple(text)) if text == "QUEUED" => return,
            (Due::Exactly(_, _, expected), Reply::Bulk(bytes)) if bytes == expected => Outcome::Ok,
            (Due::Exactly(Op::Get, ..), Reply::Nil) => Outcome::Nil,
            (Due::Number(Op::Incr, _), Reply::Integer(value)) => Outcome::Value(value),
            (Due::Number(..), Reply::Integer(_)) => Outcome::Ok,
            (Due::Exec(_), Reply::Array(items)) => match items.as_slice() {
                [Reply::Simple(_), Reply::Integer(value)] => Outcome::Value(*value),
                _ => Outcome::Wrong(format!("EXEC: {items:?}")),
            },
            (Due::Exec(_), Reply::Nil) => Outcome::Nil,
            (_, other) => Outcome::Wrong(other.to_string().chars().take(200).collect()),
        };
        self.journal.note(op, number, began, outcome);
    }

    fn lost(&self, due: &Due, began: Instant, error: &io::Error) {
        let (op, number) = due.what();
        let hung = error.kind() == io::ErrorKind::TimedOut;
        self.journal.note(op, number, began, if hung { Outcome::Hung } else { Outcome::Cut(error.to_string()) });
    }

    async fn consume(&self) {
        let prefix = format!("{}:", self.name);
        let mut wire: Option<Wire> = None;
        while !self.is_over() {
            let Some(open) = &mut wire else {
                wire = self.open().await.ok();
                continue;
            };
            let began = Instant::now();
            let reply = timeout(REPLY_LIMIT, open.ask(&["BLPOP", &format!("{}:q", self.name), "1"])).await;
            let outcome = match reply {
                Err(_) => Outcome::Hung,
                Ok(Err(error)) => Outcome::Cut(error.to_string()),
                Ok(Ok(Reply::Nil)) => continue,
                Ok(Ok(Reply::Error(text))) => Outcome::Error(text),
                Ok(Ok(reply)) => {
                    let number = reply.items().get(1).and_then(|item| item.text()?.strip_prefix(&prefix)?.parse().ok());
                    match number {
                        Some(number) => {
                            self.journal.note(Op::Pop, number, began, Outcome::Ok);
                            continue;
                        }
                        None => Outcome::Wrong(reply.to_string()),
                    }
                }
            };
            if matches!(outcome, Outcome::Cut(_) | Outcome::Hung) {
                wire = None;
            }
            self.journal.note(Op::Pop, 0, began, outcome);
        }
    }

    async fn subscribe(&self) {
        let channel = format!("{}:ch", self.name);
        let mut wire: Option<Wire> = None;
        let mut stop = self.stop.clone();
        while !self.is_over() {
            let Some(open) = &mut wire else {
                wire = self.open().await.ok();
                if let Some(open) = &mut wire {
                    let began = Instant::now();
                    match timeout(REPLY_LIMIT, open.ask(&["SUBSCRIBE", &channel])).await {
                        Ok(Ok(reply)) if reply.items().len() == 3 => {}
                        other => {
                            self.journal.note(Op::Message, 0, began, Outcome::Cut(format!("SUBSCRIBE: {other:?}")));
                            wire = None;
                        }
                    }
                }
                continue;
            };
            let began = Instant::now();
            let received = tokio::select! {
                received = open.receive() => received,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            let outcome = match received {
                Ok(reply) => {
                    let is_message = reply.items().first().and_then(Reply::text) == Some("message");
                    match reply.items().get(2).and_then(|item| item.text()?.parse().ok()).filter(|_| is_message) {
                        Some(number) => {
                            self.journal.note(Op::Message, number, Instant::now(), Outcome::Ok);
                            continue;
                        }
                        None => Outcome::Wrong(reply.to_string()),
                    }
                }
                Err(error) => {
                    wire = None;
                    Outcome::Cut(error.to_string())
                }
            };
            self.journal.note(Op::Message, 0, began, outcome);
        }
    }
}

impl Due {
    fn what(&self) -> (Op, u64) {
        match self {
            Due::Exactly(op, number, _) | Due::Ok(op, number) | Due::Number(op, number) => (*op, *number),
            Due::Queued => (Op::Echo, 0),
            Due::Exec(number) => (Op::Exec, *number),
        }
    }
}

/// The value of a client's write: it names its key, and is padded up to `most` bytes by a length of its own.
pub fn value(name: &str, letter: &str, number: u64, most: usize) -> String {
    let mut value = format!("{name}:{letter}:{number}=");
    if most > 0 {
        let length = (number.wrapping_mul(2_654_435_761) % most as u64) as usize;
        value.extend(std::iter::repeat_n('x', length));
    }
    value
}
