//! Connections to Sentinels and to Redis nodes: asks, parses, and never waits without a limit.
//!
//! The only user of the `redis` crate. Nothing here retries, reconnects or decides; a connection that failed once
//! is dropped. Replies are parsed leniently: an absent field is `None`, never a panic. Whoever is at the other end,
//! what it sends is bounded: bytes (`metered`), messages, list entries, and the length of what goes on from here.

mod metered;
mod reply;

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use metered::{Allowance, Metered, too_much};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, ProtocolVersion, PushInfo, PushKind, RedisConnectionInfo, Value};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::address::HostPort;
use crate::net::Connector;
use crate::node::auth as node_auth;
use crate::secret::Credentials;
use crate::sentinel::event::{self, Event};
use crate::sentinel::login::Login;
use crate::sentinel::report::{NodeAnswer, Role, SentinelAnswer};

use reply::{
    claim, entries, error_of, fields, is_list, no_permission, parse_info, peer, replica, reply_error, role, text, words,
};

/// Messages that wait to be read, and events about our master within one second; a failover makes about 30.
const MOST_EVENTS: usize = 256;
/// The longest message that is looked at: host names have 255 bytes.
const LONGEST_MESSAGE: usize = 4096;

/// Names whose addresses are remembered.
const MOST_NAMES: usize = 256;

/// Why a Sentinel or a node could not be asked. Every variant names the address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The host name could not be resolved.
    Resolve(String),
    /// Nobody listens there.
    Refused(String),
    /// Another failure of the network.
    Io(String),
    /// No connection, or no address, within the limit.
    TimedOut(String),
    /// It takes connections, and does not answer within the limit: the process lives, and may only be slow.
    Mute(String),
    /// NOAUTH, WRONGPASS or NOPERM.
    Auth(String),
    /// Another error reply, or a reply that is no reply to this question.
    Reply(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Resolve(text)
            | Error::Refused(text)
            | Error::Io(text)
            | Error::TimedOut(text)
            | Error::Mute(text)
            | Error::Auth(text)
            | Error::Reply(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Error {}

/// Turns reported addresses into addresses to dial: the operator's map first, then names are resolved.
#[derive(Clone, Debug, Default)]
pub struct AddressMap {
    pairs: Vec<(HostPort, HostPort)>,
    /// Where names led when they were last resolved.
    names: Arc<Mutex<HashMap<HostPort, SocketAddr>>>,
}

impl AddressMap {
    /// Reported address -> address to dial.
    pub fn new(pairs: Vec<(HostPort, HostPort)>) -> AddressMap {
        AddressMap { pairs, names: Arc::default() }
    }

    /// The address to dial for a reported one.
    pub fn map(&self, reported: &HostPort) -> HostPort {
        let mapped = self.pairs.iter().find(|(from, _)| from == reported).map(|(_, to)| to);
        mapped.unwrap_or(reported).clone()
    }

    /// Maps and resolves; the first address of a name wins.
    pub async fn resolve(&self, reported: &HostPort, limit: Duration) -> Result<SocketAddr, Error> {
        let mapped = self.map(reported);
        let addrs = resolve(&mapped, limit).await?;
        let first = *addrs.first().ok_or_else(|| Error::Resolve(format!("{reported} has no address")))?;
        if mapped.host.parse::<IpAddr>().is_err() {
            let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
            if names.len() < MOST_NAMES || names.contains_key(&mapped) {
                names.insert(mapped, first);
            }
        }
        Ok(first)
    }

    /// The same without asking DNS: where a name led when it was last resolved. For what people see.
    pub fn remembered(&self, reported: &HostPort) -> Option<SocketAddr> {
        self.literal(reported).or_else(|| {
            let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
            names.get(&self.map(reported)).copied()
        })
    }

    /// The same without asking DNS.
    pub fn literal(&self, reported: &HostPort) -> Option<SocketAddr> {
        let mapped = self.map(reported);
        Some(SocketAddr::new(mapped.host.parse::<IpAddr>().ok()?, mapped.port))
    }
}

async fn resolve(addr: &HostPort, limit: Duration) -> Result<Vec<SocketAddr>, Error> {
    if let Ok(ip) = addr.host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, addr.port)]);
    }
    let look_up = tokio::net::lookup_host((addr.host.as_str(), addr.port));
    match tokio::time::timeout(limit, look_up).await {
        Ok(Ok(addrs)) => Ok(addrs.collect()),
        Ok(Err(error)) => Err(Error::Resolve(format!("cannot resolve {}: {error}", addr.host))),
        Err(_) => Err(Error::TimedOut(format!("resolving {} took longer than {limit:?}", addr.host))),
    }
}

/// One connection of the `redis` crate whose driver ends with it.
struct Connection {
    peer: String,
    inner: MultiplexedConnection,
    driver: JoinHandle<()>,
    allowance: Allowance,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connection {
    /// Dials and says HELLO 3 if `protocol` is RESP3. The crate's own time limit is switched off: ours are used.
    async fn open(
        peer: String,
        addr: SocketAddr,
        info: RedisConnectionInfo,
        pushes: Option<Inbox>,
        limit: Duration,
    ) -> Result<Connection, Error> {
        let end = tokio::time::Instant::now() + limit;
        let connect = async {
            Connector::DEFAULT.connect(addr).await.map_err(|error| match error.kind() {
                std::io::ErrorKind::ConnectionRefused => Error::Refused(format!("{peer}: connection refused")),
                _ => Error::Io(format!("{peer}: {error}")),
            })
        };
        let stream = within(&peer, "connecting", limit, connect).await??;
        let greet = async {
            let mut config = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
            if let Some(pushes) = pushes {
                config = config.set_push_sender(move |push| pushes.put(push));
            }
            let (stream, allowance) = Metered::new(stream);
            let (inner, driver) = MultiplexedConnection::new_with_config(&info, stream, config)
                .await
                .map_err(|error| redis_error(&peer, &error))?;
            Ok((inner, driver, allowance))
        };
        let greeted = tokio::time::timeout_at(end, greet).await;
        let (inner, driver, allowance) = greeted.map_err(|_| mute(&peer, "the greeting", limit))??;
        let driver = tokio::spawn(driver);
        Ok(Connection { peer, inner, driver, allowance })
    }

    /// Sends commands in one write; the replies in order, errors among them as values.
    async fn ask(&mut self, commands: &[Cmd], limit: Duration) -> Result<Vec<Value>, Error> {
        let mut pipeline = redis::Pipeline::with_capacity(commands.len());
        for command in commands {
            pipeline.add_command(command.clone());
        }
        self.allowance.renew();
        let asking = self.inner.send_packed_commands(&pipeline, 0, commands.len());
        let replies = tokio::time::timeout(limit, asking).await.map_err(|_| mute(&self.peer, "the answer", limit))?;
        replies.map_err(|error| match self.allowance.is_exceeded() {
            true => Error::Reply(format!("{} is given up for a moment: {}", self.peer, too_much())),
            false => redis_error(&self.peer, &error),
        })
    }
}

fn mute(peer: &str, what: &str, limit: Duration) -> Error {
    Error::Mute(format!("{peer}: {what} took longer than {} ms", limit.as_millis()))
}

async fn within<T>(peer: &str, what: &str, limit: Duration, future: impl Future<Output = T>) -> Result<T, Error> {
    let elapsed = |_| Error::TimedOut(format!("{peer}: {what} took longer than {} ms", limit.as_millis()));
    tokio::time::timeout(limit, future).await.map_err(elapsed)
}

fn redis_error(peer: &str, error: &redis::RedisError) -> Error {
    match error.code() {
        Some(code) => reply_error(peer, code, error.detail().unwrap_or_default()),
        None if error.is_io_error() || error.is_connection_dropped() => {
            Error::Io(format!("{peer}: the connection was closed ({error})"))
        }
        None => Error::Reply(format!("{peer}: {}", words(&error.to_string()))),
    }
}

fn cmd(words: &[&str]) -> Cmd {
    let mut cmd = Cmd::new();
    for word in words {
        cmd.arg(word);
    }
    cmd
}

/// `AUTH password` or `AUTH user password`.
fn auth(credentials: &Credentials) -> Cmd {
    let mut cmd = Cmd::new();
    cmd.arg(credentials.auth());
    cmd
}

/// Messages of a subscription on their way to whoever reads them: so many, and none that is longer than any Sentinel's.
struct Inbox {
    messages: mpsc::Sender<PushInfo>,
    flooded: Arc<AtomicBool>,
}

impl Inbox {
    fn put(&self, push: PushInfo) -> Result<(), ()> {
        let length = |value: &Value| if let Value::BulkString(bytes) = value { bytes.len() } else { 0 };
        let wanted = match push.kind {
            PushKind::PMessage => {
                push.data.len() == 3 && push.data.iter().map(length).sum::<usize>() <= LONGEST_MESSAGE
            }
            PushKind::Disconnection => true,
            _ => false,
        };
        if wanted && let Err(mpsc::error::TrySendError::Full(_)) = self.messages.try_send(push) {
            self.flooded.store(true, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// A Sentinel: queries and subscription on one RESP3 connection, so that the life of one is the life of both.
pub struct Sentinel {
    connection: Connection,
    messages: mpsc::Receiver<PushInfo>,
    flooded: Arc<AtomicBool>,
    /// Events about our master since then.
    events: (Instant, usize),
    myid: Option<String>,
    /// For the log, once: it has no password although we have one.
    pub notice: Option<String>,
}

impl Sentinel {
    /// Dials, authenticates and subscribes to all its messages. `known` are the addresses that its name last had:
    /// they are dialled while it cannot be resolved, and replaced when it can.
    pub async fn connect(
        at: &HostPort,
        known: &mut Vec<SocketAddr>,
        credentials: Option<&Credentials>,
        limit: Duration,
    ) -> Result<Sentinel, Error> {
        match resolve(at, limit).await {
            Ok(addrs) => *known = addrs,
            Err(error) if known.is_empty() => return Err(error),
            Err(_) => {}
        }
        let mut last = Error::Resolve(format!("{at} has no address"));
        for addr in known.iter().copied().take(4) {
            match Sentinel::connect_addr(at, addr, credentials, limit).await {
                Ok(sentinel) => return Ok(sentinel),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn connect_addr(
        at: &HostPort,
        addr: SocketAddr,
        credentials: Option<&Credentials>,
        limit: Duration,
    ) -> Result<Sentinel, Error> {
        let peer = format!("Sentinel {at}");
        let mut info = RedisConnectionInfo::default()
            .set_protocol(ProtocolVersion::RESP3)
            .set_lib_name("switchmaster", env!("CARGO_PKG_VERSION"))
            .set_skip_set_lib_name();
        if let Some(credentials) = credentials {
            info = info.set_password(credentials.password.reveal());
            if let Some(user) = &credentials.username {
                info = info.set_username(String::from_utf8_lossy(user));
            }
        }
        let (sender, messages) = mpsc::channel(MOST_EVENTS);
        let flooded = Arc::new(AtomicBool::new(false));
        let inbox = Inbox { messages: sender, flooded: flooded.clone() };
        let mut connection = Connection::open(peer, addr, info, Some(inbox), limit).await?;
        let commands =
            [cmd(&["CLIENT", "SETNAME", "switchmaster"]), cmd(&["SENTINEL", "MYID"]), cmd(&["PSUBSCRIBE", "*"])];
        let replies = connection.ask(&commands, limit).await?;
        if let Some(Value::ServerError(error)) = replies.get(2) {
            return Err(reply_error(&connection.peer, error.code(), error.details().unwrap_or_default()));
        }
        let myid = replies.get(1).and_then(text);
        // HELLO's AUTH succeeds silently where the default user has no password; the one-argument AUTH does not.
        let mut notice = None;
        if let Some(credentials) = credentials.filter(|credentials| credentials.username.is_none()) {
            let reply = connection.ask(&[auth(credentials)], limit).await?;
            if let Some(Value::ServerError(error)) = reply.first()
                && error.details().is_some_and(node_auth::is_not_needed)
            {
                notice = Some(format!("{} needs no password, but one is configured for Sentinels", connection.peer));
            }
        }
        Ok(Sentinel { connection, messages, flooded, events: (Instant::now(), 0), myid, notice })
    }

    /// The next message about `name`.
    ///
    /// # Errors
    /// When the connection has ended, or is to be given up because messages come faster than any failover sends them.
    pub async fn event(&mut self, name: Option<&str>) -> Result<Event, Error> {
        loop {
            let message = self.messages.recv().await.filter(|push| push.kind == PushKind::PMessage);
            if self.connection.allowance.is_exceeded() {
                return Err(self.flood(&too_much()));
            }
            if self.flooded.load(Ordering::Relaxed) {
                return Err(self.flood(&format!("it sent {MOST_EVENTS} messages faster than they are read")));
            }
            let Some(message) = message else {
                return Err(Error::Io(format!("{} closed the connection", self.connection.peer)));
            };
            let words: Vec<String> = message.data.iter().filter_map(text).collect();
            if let ([_, channel, payload], Some(name)) = (&words[..], name)
                && let Some(event) = event::parse(name, channel, payload)
            {
                let (since, count) = &mut self.events;
                if since.elapsed() > Duration::from_secs(1) {
                    (*since, *count) = (Instant::now(), 0);
                }
                *count += 1;
                if *count > MOST_EVENTS {
                    return Err(self.flood(&format!("it sent {MOST_EVENTS} events within a second")));
                }
                return Ok(event);
            }
        }
    }

    fn flood(&self, why: &str) -> Error {
        Error::Reply(format!("{} is given up for a moment: {why}", self.connection.peer))
    }

    /// PING, which a Sentinel answers also while it is subscribed (RESP3).
    pub async fn ping(&mut self, limit: Duration) -> Result<(), Error> {
        self.connection.ask(&[cmd(&["PING"])], limit).await.map(|_| ())
    }

    /// The names of all masters it monitors.
    pub async fn masters(&mut self, limit: Duration) -> Result<Vec<String>, Error> {
        let replies = self.connection.ask(&[cmd(&["SENTINEL", "MASTERS"])], limit).await?;
        match replies.first() {
            Some(Value::ServerError(error)) => {
                Err(reply_error(&self.connection.peer, error.code(), error.details().unwrap_or_default()))
            }
            Some(value) => Ok(entries(value).filter_map(|item| fields(item).remove("name")).collect()),
            None => Err(Error::Reply(format!("{}: no reply", self.connection.peer))),
        }
    }

    /// Everything it knows about `name`, in one round trip. MASTER is read before and after the address, because
    /// the two are not one atomic answer: only equal epochs are believed.
    pub async fn poll(&mut self, name: &str, map: &AddressMap, limit: Duration) -> Result<SentinelAnswer, Error> {
        let sentinel = |what: &str| cmd(&["SENTINEL", what, name]);
        let asked = Instant::now();
        let commands = [
            sentinel("MASTER"),
            sentinel("GET-MASTER-ADDR-BY-NAME"),
            sentinel("MASTER"),
            sentinel("SENTINELS"),
            sentinel("REPLICAS"),
            sentinel("CKQUORUM"),
        ];
        let replies = self.connection.ask(&commands, limit).await?;
        let [before, addr, after, peers, replicas, quorum] = &replies[..] else {
            return Err(Error::Reply(format!("{}: {} replies to 6 questions", self.connection.peer, replies.len())));
        };
        if let Some(error @ Error::Auth(_)) = error_of(&self.connection.peer, before) {
            return Err(error);
        }
        let (claim, problem) = match claim(&self.connection.peer, name, before, addr, after, map, limit).await {
            Ok(claim) => (Some(claim), None),
            Err(problem) => (None, Some(problem)),
        };
        let peers = is_list(peers).then(|| entries(peers).filter_map(peer).collect());
        let replicas = if is_list(replicas) {
            let (began, mut facts) = (Instant::now(), Vec::new());
            for entry in entries(replicas) {
                // One limit for all their names.
                facts.extend(replica(entry, map, limit.saturating_sub(began.elapsed())).await);
            }
            Some(facts)
        } else {
            None
        };
        let quorum = match quorum {
            Value::ServerError(error) if matches!(error.code(), "NOPERM" | "ERR") => None,
            Value::ServerError(error) => {
                Some(Err(format!("{} {}", words(error.code()), words(error.details().unwrap_or_default()))))
            }
            _ => Some(Ok(())),
        };
        Ok(SentinelAnswer { asked, myid: self.myid.clone(), claim, problem, peers, replicas, quorum })
    }

    /// `SENTINEL FAILOVER name`: asks for a planned failover (sentinel.c, `sentinelCommand`).
    ///
    /// # Errors
    /// There is no answer: whether it was begun is not known.
    pub async fn failover(&mut self, name: &str, limit: Duration) -> Result<Begun, Error> {
        let replies = self.connection.ask(&[cmd(&["SENTINEL", "FAILOVER", name])], limit).await?;
        Ok(match replies.first() {
            Some(Value::ServerError(error)) if error.code() == "INPROG" => Begun::Before,
            Some(reply) => match error_of(&self.connection.peer, reply) {
                Some(error) => Begun::Not(error.to_string()),
                None => Begun::Now,
            },
            None => return Err(Error::Reply(format!("{}: no reply", self.connection.peer))),
        })
    }
}

/// What a Sentinel answers to `SENTINEL FAILOVER`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begun {
    /// It has begun a failover.
    Now,
    /// -INPROG: one is under way.
    Before,
    /// It will not, and why, in its own words.
    Not(String),
}

/// A Redis node: ROLE and INFO over RESP2, which every version and every ACL of ours understands.
pub struct Node {
    connection: Connection,
    map: AddressMap,
    number: u64,
    login: u64,
    /// The credentials were refused; questions may still be answered, or say NOAUTH.
    refused: Option<String>,
    /// For the log, once: it has no password although we have one.
    pub notice: Option<String>,
}

impl Node {
    /// Dials and authenticates. `number` goes into each answer as [`NodeAnswer::connection`].
    pub async fn connect(
        addr: SocketAddr,
        login: &Login,
        map: &AddressMap,
        number: u64,
        limit: Duration,
    ) -> Result<Node, Error> {
        let info = RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP2).set_skip_set_lib_name();
        let connection = Connection::open(format!("Redis {addr}"), addr, info, None, limit).await?;
        let mut node = Node { connection, map: map.clone(), number, login: login.id, refused: None, notice: None };
        if let Some(credentials) = &login.credentials {
            let replies = node.connection.ask(&[auth(credentials)], limit).await?;
            match replies.first() {
                Some(Value::ServerError(error)) if error.details().is_some_and(node_auth::is_not_needed) => {
                    node.notice = Some(format!("{} needs no password, but one is configured", node.connection.peer));
                }
                Some(Value::ServerError(error)) => {
                    let detail = words(error.details().unwrap_or_default());
                    node.refused = Some(format!("{}: -{} {detail}", node.connection.peer, words(error.code())));
                }
                _ => {}
            }
        }
        Ok(node)
    }

    /// Asks ROLE and, when `with_info`, what INFO knows, in one round trip. INFO follows by itself when the role
    /// is not the one in `last`: a promotion is never reported without its lineage.
    pub async fn ask(&mut self, with_info: bool, last: Option<&Role>, limit: Duration) -> Result<NodeAnswer, Error> {
        let asked = Instant::now();
        let mut commands = vec![cmd(&["ROLE"])];
        if with_info {
            commands.extend(Node::info_commands());
        }
        let replies = self.connection.ask(&commands, limit).await?;
        let role = match (role(&self.connection.peer, replies.first(), &self.map)?, &self.refused) {
            (Role::Unreadable(_), Some(refused)) => Role::Unreadable(refused.clone()),
            (role, _) => role,
        };
        let mut informed = if with_info { replies[1..].to_vec() } else { Vec::new() };
        if !with_info && last.is_none_or(|last| std::mem::discriminant(last) != std::mem::discriminant(&role)) {
            informed = self.connection.ask(&Node::info_commands(), limit).await?;
        }
        let info = parse_info(&informed, &self.map);
        // Where not even ROLE is answered, that says it all.
        let readable = !matches!(role, Role::Unreadable(_));
        let info_refused = informed.iter().find_map(no_permission).filter(|_| readable && info.is_none());
        Ok(NodeAnswer { asked, connection: self.number, role, info, info_refused, login: self.login })
    }

    /// Whether the other side has closed the connection.
    pub fn is_closed(&self) -> bool {
        self.connection.driver.is_finished()
    }

    /// Returns when the other side has closed the connection.
    pub async fn closed(&mut self) {
        let _ = (&mut self.connection.driver).await;
    }

    // One section each: INFO takes several only since 7.0.
    fn info_commands() -> [Cmd; 4] {
        ["server", "replication", "persistence", "keyspace"].map(|section| cmd(&["INFO", section]))
    }
}
