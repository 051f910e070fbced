//! Asking every Sentinel and node at once ([`Question::ask`]), over connections of our own.
//!
//! Read-only: INFO, ACL LIST, COMMAND INFO, and the questions of SENTINEL and CONFIG. One that says nothing costs
//! [`SERVER_LIMIT`] and is a fact; the Sentinels are asked first, then whom they name, so all of it takes at most three times as long.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::address::HostPort;
use crate::facts::{AskedServer, Fields, NodeFacts, SentinelFacts, SetUp, place};
use crate::node::auth;
use crate::node::info::InfoText;
use crate::secret::{Credentials, Secret};
use crate::sentinel::client::AddressMap;
use crate::wire::{Reply, Wire};

/// For everything that is asked of one server, connecting included.
pub const SERVER_LIMIT: Duration = Duration::from_millis(1500);
/// Bytes of one reply; CONFIG GET * has about 10 kB.
const LONGEST_REPLY: usize = 4 << 20;
/// Settings that are secrets.
const SECRETS: &[&str] = &["requirepass", "masterauth", "tls-key-file-pass", "tls-client-key-file-pass"];
/// What Sentinel sends to nodes, and what replicas send to masters.
const NEEDED: &[&str] =
    &["slaveof", "config", "multi", "exec", "client", "publish", "subscribe", "info", "ping", "psync", "replconf"];
/// Servers that are asked; more are not a set-up but an attack.
const MOST_SERVERS: usize = 100;

/// What to ask, and as whom.
#[derive(Clone, Debug)]
pub struct Question {
    /// The Sentinels to begin with.
    pub sentinels: Vec<HostPort>,
    /// The monitored name; `None` takes the only one there is.
    pub master_name: Option<String>,
    /// Credentials for the Sentinels.
    pub sentinel_auth: Option<Credentials>,
    /// Credentials for the nodes.
    pub redis_auth: Option<Credentials>,
    /// What is dialled instead of an address that is reported.
    pub map: AddressMap,
}

/// Why nothing can be said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// No Sentinel answers; what came of each.
    Unreachable(Vec<String>),
    /// The name is not among those that they monitor, or they monitor several and none was chosen.
    WrongName(Vec<String>),
}

impl std::fmt::Display for Unanswered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Unanswered::Unreachable(why) => write!(f, "no Sentinel answers: {}", why.join("; ")),
            Unanswered::WrongName(names) if names.is_empty() => f.write_str("the Sentinels monitor nothing"),
            Unanswered::WrongName(names) => {
                write!(f, "the Sentinels monitor {}: choose one with --master-name", names.join(", "))
            }
        }
    }
}

impl std::error::Error for Unanswered {}

impl Question {
    /// Asks all of them.
    ///
    /// # Errors
    /// When no Sentinel answers, or none for the name.
    pub async fn ask(&self) -> Result<SetUp, Unanswered> {
        let name = self.name().await?;
        let mut sentinels = self.ask_sentinels(&name, self.sentinels.clone()).await;
        let answered: BTreeSet<&String> =
            sentinels.iter().filter_map(|asked| asked.answer.as_ref().ok()?.myid.as_ref()).collect();
        let mut peers = BTreeSet::new();
        for peer in sentinels.iter().filter_map(|asked| asked.answer.as_ref().ok()).flat_map(|said| &said.peers) {
            let is_new = !peer.get("runid").is_some_and(|runid| answered.contains(runid));
            peers.extend(place(peer).filter(|at| is_new && sentinels.iter().all(|asked| asked.at != *at)));
        }
        sentinels.extend(self.ask_sentinels(&name, peers.into_iter().take(MOST_SERVERS).collect()).await);

        let mut known = BTreeSet::new();
        for said in sentinels.iter().filter_map(|asked| asked.answer.as_ref().ok()) {
            let entries = std::iter::once(&said.master).chain(&said.replicas);
            known.extend(entries.filter_map(place).filter(|at| at.port != 0));
        }
        let mut asking = JoinSet::new();
        for at in known.into_iter().take(MOST_SERVERS) {
            let (map, auth) = (self.map.clone(), self.redis_auth.clone());
            asking.spawn(asked(at, map, move |address| async move { node(address, auth.as_ref()).await }));
        }
        let mut nodes = asking.join_all().await;
        nodes.sort_by(|one, other| one.at.cmp(&other.at));
        Ok(SetUp { name, sentinels, nodes, ..SetUp::default() })
    }

    async fn name(&self) -> Result<String, Unanswered> {
        let (mut names, mut silent, mut heard) = (BTreeSet::new(), Vec::new(), false);
        let mut asking = JoinSet::new();
        for at in &self.sentinels {
            let (at, map, auth) = (at.clone(), self.map.clone(), self.sentinel_auth.clone());
            asking.spawn(asked(at, map, move |address| async move { monitored(address, auth.as_ref()).await }));
        }
        for asked in asking.join_all().await {
            match asked.answer {
                Ok(theirs) => (heard, names) = (true, names.into_iter().chain(theirs).collect()),
                Err(why) => silent.push(format!("{}: {why}", asked.at)),
            }
        }
        if !heard {
            return Err(Unanswered::Unreachable(silent));
        }
        let chosen = match &self.master_name {
            Some(name) => names.contains(name).then(|| name.clone()),
            None if names.len() == 1 => names.first().cloned(),
            None => None,
        };
        chosen.ok_or_else(|| Unanswered::WrongName(names.into_iter().collect()))
    }

    async fn ask_sentinels(&self, name: &str, at: Vec<HostPort>) -> Vec<AskedServer<SentinelFacts>> {
        let mut asking = JoinSet::new();
        for at in at {
            let (name, map, auth) = (name.to_owned(), self.map.clone(), self.sentinel_auth.clone());
            asking.spawn(asked(at, map, move |address| async move { sentinel(address, &name, auth.as_ref()).await }));
        }
        let mut sentinels = asking.join_all().await;
        sentinels.sort_by(|one, other| one.at.cmp(&other.at));
        sentinels
    }
}

async fn asked<T, Asking: Future<Output = io::Result<T>>>(
    at: HostPort,
    map: AddressMap,
    ask: impl FnOnce(SocketAddr) -> Asking,
) -> AskedServer<T> {
    let address = match map.resolve(&at, SERVER_LIMIT).await {
        Ok(address) => address,
        Err(error) => return AskedServer { at, ip: None, answer: Err(error.to_string()) },
    };
    let answer = match timeout(SERVER_LIMIT, ask(address)).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} ms", SERVER_LIMIT.as_millis())),
    };
    AskedServer { at, ip: Some(address.ip()), answer }
}

/// A connection, and why the credentials were refused; one that needs none is open to everybody.
async fn open(address: SocketAddr, auth: Option<&Credentials>) -> io::Result<(Wire, Option<String>)> {
    let mut wire = Wire::connect(address).await?.at_most(LONGEST_REPLY);
    let refusal = match auth {
        Some(auth) => match wire.ask(&auth.auth()).await? {
            Reply::Error(why) if !auth::is_not_needed(&why) => Some(why),
            _ => None,
        },
        None => None,
    };
    Ok((wire, refusal))
}

/// An answer to PING without credentials.
async fn is_open(address: SocketAddr) -> io::Result<bool> {
    let mut wire = Wire::connect(address).await?.at_most(LONGEST_REPLY);
    Ok(matches!(wire.ask(&["PING"]).await?, Reply::Simple(_)))
}

/// The names of the masters that a Sentinel monitors.
async fn monitored(address: SocketAddr, auth: Option<&Credentials>) -> io::Result<Vec<String>> {
    let (mut wire, _) = open(address, auth).await?;
    let masters = refused(wire.ask(&["SENTINEL", "MASTERS"]).await?)?;
    Ok(masters.items().iter().filter_map(|one| Some(one.field("name")?.to_owned())).collect())
}

async fn sentinel(address: SocketAddr, name: &str, auth: Option<&Credentials>) -> io::Result<SentinelFacts> {
    let (mut wire, _) = open(address, auth).await?;
    let entries = |reply: Reply| reply.items().iter().map(fields).collect();
    let master = fields(&refused(wire.ask(&["SENTINEL", "MASTER", name]).await?)?);
    let replicas = entries(wire.ask(&["SENTINEL", "REPLICAS", name]).await?);
    let peers = entries(wire.ask(&["SENTINEL", "SENTINELS", name]).await?);
    let no_quorum = match wire.ask(&["SENTINEL", "CKQUORUM", name]).await? {
        Reply::Error(why) if why.starts_with("NOQUORUM") => Some(why),
        _ => None,
    };
    let myid = wire.ask(&["SENTINEL", "MYID"]).await?.text().map(str::to_owned);
    let mut settings = fields(&wire.ask(&["SENTINEL", "CONFIG", "GET", "*"]).await?);
    settings.remove("sentinel-pass");
    let info = wire.ask(&["INFO"]).await?.text().unwrap_or_default().to_owned();
    let (skew, open) = (skew(&info), is_open(address).await?);
    Ok(SentinelFacts { master, replicas, peers, no_quorum, myid, settings, info, open, skew })
}

/// A connection to a node that remembers what was refused.
struct Conversation {
    wire: Wire,
    refused: Vec<String>,
}

impl Conversation {
    async fn ask(&mut self, request: &[&str]) -> io::Result<Option<Reply>> {
        match self.wire.ask(request).await? {
            Reply::Error(why) => {
                self.refused.push(format!("{}: {why}", request.join(" ")));
                Ok(None)
            }
            reply => Ok(Some(reply)),
        }
    }
}

async fn node(address: SocketAddr, auth: Option<&Credentials>) -> io::Result<NodeFacts> {
    let (wire, login) = open(address, auth).await?;
    // Connections to one's own address come from it: then its files are ours to read.
    let is_here = wire.local_addr().is_ok_and(|own| own.ip() == address.ip() || address.ip().is_loopback());
    let open = is_open(address).await?;
    let mut node = Conversation { wire, refused: Vec::new() };
    let info = node.ask(&["INFO"]).await?.and_then(|reply| Some(reply.text()?.to_owned())).unwrap_or_default();
    let mut settings = node.ask(&["CONFIG", "GET", "*"]).await?.map(|reply| fields(&reply)).unwrap_or_default();
    let mut secret = |name: &str| settings.remove(name).filter(|value| !value.is_empty()).map(Secret::new);
    let (requirepass, masterauth) = (secret("requirepass"), secret("masterauth"));
    SECRETS.iter().for_each(|name| _ = secret(name));
    let users = node.ask(&["ACL", "LIST"]).await?.map(|reply| {
        let mut users: Vec<Secret> = reply.items().iter().filter_map(Reply::text).map(Secret::new).collect();
        users.sort_by(|one, other| one.bytes().cmp(other.bytes()));
        users
    });
    let known = node.ask(&[&["COMMAND", "INFO"][..], NEEDED].concat()).await?;
    let is_gone = |(_, command): &(&&str, &Reply)| command.items().is_empty();
    let renamed = known.map(|known| {
        let gone = NEEDED.iter().zip(known.items()).filter(is_gone);
        gone.map(|(name, _)| name.to_ascii_uppercase()).collect()
    });
    let file = InfoText::new(&info).text("config_file").filter(|path| is_here && !path.is_empty());
    let file = file.and_then(|path| std::fs::read_to_string(Path::new(path)).ok()).map(|text| lines(&text));
    let (skew, renamed, refused) = (skew(&info), renamed.unwrap_or_default(), node.refused);
    Ok(NodeFacts { info, settings, requirepass, masterauth, users, file, renamed, refused, login, open, skew })
}

fn refused(reply: Reply) -> io::Result<Reply> {
    match reply {
        Reply::Error(why) => Err(io::Error::other(why)),
        reply => Ok(reply),
    }
}

fn fields(reply: &Reply) -> Fields {
    let pairs = reply.items().chunks_exact(2);
    pairs.filter_map(|pair| Some((pair[0].text()?.to_owned(), pair[1].text()?.to_owned()))).collect()
}

/// `name value …` of a redis.conf, without its secrets; of a name that comes again, the last line.
fn lines(text: &str) -> Fields {
    let mut found = Fields::new();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        let Some((name, value)) = line.split_once(char::is_whitespace) else { continue };
        let name = name.to_ascii_lowercase();
        if !SECRETS.contains(&name.as_str()) && name != "user" {
            found.insert(name, value.trim().trim_matches('"').to_owned());
        }
    }
    found
}

fn skew(info: &str) -> Option<i64> {
    let theirs: i64 = InfoText::new(info).number("server_time_usec")?;
    let ours = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_micros()).ok()?;
    Some((theirs - ours) / 1000)
}
