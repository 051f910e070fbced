//! What the checks know: what each Sentinel and node said, and what an application's files say.
//!
//! Plain data. Passwords are [`Secret`]s, compared and never shown; what could not be read is absent, with its reason.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::address::HostPort;
use crate::node::info::{InfoRole, InfoText};
use crate::secret::Secret;
use crate::sentinel::hold;

/// Names with their values, as a server or a file has them.
pub type Fields = BTreeMap<String, String>;

/// Everything that is known of a set-up.
#[derive(Clone, Debug, Default)]
pub struct SetUp {
    /// The monitored name.
    pub name: String,
    /// Every Sentinel that is configured or known to another.
    pub sentinels: Vec<AskedServer<SentinelFacts>>,
    /// Every node that a Sentinel names.
    pub nodes: Vec<AskedServer<NodeFacts>>,
    /// `hold_timeout` where it is not "auto".
    pub hold: Option<Duration>,
    /// The Laravel application, if one was given.
    pub application: Option<Application>,
}

/// A server, and what it said or why it said nothing.
#[derive(Clone, Debug)]
pub struct AskedServer<T> {
    /// As it is known to those who named it.
    pub at: HostPort,
    /// Where it was dialled; `None`: its name leads nowhere.
    pub ip: Option<IpAddr>,
    /// What it said.
    pub answer: Result<T, String>,
}

/// What a Sentinel says of the monitored master.
#[derive(Clone, Debug, Default)]
pub struct SentinelFacts {
    /// SENTINEL MASTER.
    pub master: Fields,
    /// SENTINEL REPLICAS.
    pub replicas: Vec<Fields>,
    /// SENTINEL SENTINELS.
    pub peers: Vec<Fields>,
    /// CKQUORUM's refusal.
    pub no_quorum: Option<String>,
    /// SENTINEL MYID.
    pub myid: Option<String>,
    /// SENTINEL CONFIG GET *; empty where it is refused.
    pub settings: Fields,
    /// INFO.
    pub info: String,
    /// It answers without a password.
    pub open: bool,
    /// Milliseconds by which its clock is ahead of this host's.
    pub skew: Option<i64>,
}

/// What a node says of itself.
#[derive(Clone, Debug, Default)]
pub struct NodeFacts {
    /// INFO.
    pub info: String,
    /// CONFIG GET *, without its secrets; empty where it is refused.
    pub settings: Fields,
    /// `requirepass`; `None` where it has none, or CONFIG GET is refused.
    pub requirepass: Option<Secret>,
    /// `masterauth`, likewise.
    pub masterauth: Option<Secret>,
    /// Lines of ACL LIST, which hold hashes of passwords.
    pub users: Option<Vec<Secret>>,
    /// Its configuration file, if it is on this host and may be read.
    pub file: Option<Fields>,
    /// Commands that are renamed or taken away, of those that Sentinel and replication need.
    pub renamed: Vec<String>,
    /// What this user may not ask, each with the refusal.
    pub refused: Vec<String>,
    /// The credentials were refused, with the reason; what it says was said without them.
    pub login: Option<String>,
    /// It answers without a password.
    pub open: bool,
    /// Milliseconds by which its clock is ahead of this host's.
    pub skew: Option<i64>,
}

/// A Laravel application as its files have it.
#[derive(Clone, Debug, Default)]
pub struct Application {
    /// Its folder.
    pub path: String,
    /// Where REDIS_URL, REDIS_HOST and REDIS_PORT lead.
    pub target: String,
    /// Whether that is an address of switchmaster.
    pub is_ours: bool,
    /// Why nobody answers there.
    pub refused: Option<String>,
    /// Sentinel packages of its composer.json, and a Sentinel mode of its config/database.php.
    pub packages: Vec<String>,
    /// Whether composer.json has Reverb.
    pub has_reverb: bool,
    /// Settings that were found, by their name, each with its number (times in seconds) and its place.
    pub numbers: Vec<(&'static str, f64, String)>,
    /// What could not be read or understood.
    pub unread: Vec<String>,
}

impl SetUp {
    /// The Sentinels that answered, with where they are.
    pub fn heard(&self) -> impl Iterator<Item = (&HostPort, &SentinelFacts)> {
        self.sentinels.iter().filter_map(|asked| Some((&asked.at, asked.answer.as_ref().ok()?)))
    }

    /// The nodes that answered, with where they are.
    pub fn alive(&self) -> impl Iterator<Item = (&HostPort, &NodeFacts)> {
        self.nodes.iter().filter_map(|asked| Some((&asked.at, asked.answer.as_ref().ok()?)))
    }

    /// The nodes that say that they are replicas.
    pub fn replicas(&self) -> impl Iterator<Item = (&HostPort, &NodeFacts)> {
        self.alive().filter(|(_, node)| matches!(node.role(), Some(InfoRole::Replica { .. })))
    }

    /// The master that most Sentinels name.
    pub fn master_at(&self) -> Option<HostPort> {
        let named: Vec<HostPort> = self.heard().filter_map(|(_, sentinel)| place(&sentinel.master)).collect();
        let votes = |at: &HostPort| named.iter().filter(|other| *other == at).count();
        named.iter().max_by_key(|at| votes(at)).cloned()
    }

    /// That master, if it answered and is one.
    pub fn master(&self) -> Option<(&HostPort, &NodeFacts)> {
        let named = self.master_at();
        let is_master = |node: &NodeFacts| node.role() == Some(InfoRole::Master);
        self.alive().find(|(at, node)| Some(*at) == named.as_ref() && is_master(node))
    }

    /// The largest value of a setting of the Sentinels, in milliseconds or as a number.
    pub fn largest(&self, setting: &str) -> Option<u64> {
        self.heard().filter_map(|(_, sentinel)| sentinel.master.get(setting)?.parse().ok()).max()
    }

    /// How long a request may be held in one outage.
    pub fn longest_hold(&self) -> Duration {
        let down_after = self.largest("down-after-milliseconds").map(Duration::from_millis);
        self.hold.unwrap_or_else(|| hold::longest(down_after))
    }
}

impl NodeFacts {
    /// What it says that it is.
    pub fn role(&self) -> Option<InfoRole> {
        InfoText::new(&self.info).role()
    }

    /// A setting that is a number.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.settings.get(name)?.parse().ok()
    }
}

/// `ip` and `port` of an entry of a Sentinel.
pub fn place(entry: &Fields) -> Option<HostPort> {
    Some(HostPort { host: entry.get("ip")?.clone(), port: entry.get("port")?.parse().ok()? })
}

/// Whether the flags of an entry have this one.
pub fn has_flag(entry: &Fields, flag: &str) -> bool {
    entry.get("flags").is_some_and(|flags| flags.split(',').any(|has| has == flag))
}
