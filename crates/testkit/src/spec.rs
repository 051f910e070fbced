//! What a throwaway cluster consists of, and the configuration files that say so.
//!
//! Pure text: nothing here starts or asks anything.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::Duration;

/// What to start. `ClusterSpec::default()` is one master, two replicas, three Sentinels, no password.
#[derive(Clone, Debug)]
pub struct ClusterSpec {
    /// By what name everybody knows this host: 127.0.0.1, ::1 or localhost.
    pub host: String,
    /// Names of the monitored masters; each gets its own replicas.
    pub masters: Vec<String>,
    /// Replicas of each master.
    pub replicas: usize,
    /// Sentinels, which all watch all masters.
    pub sentinels: usize,
    /// Sentinels that must agree; `None`: the majority.
    pub quorum: Option<usize>,
    /// `requirepass` and `masterauth` of the nodes.
    pub password: Option<String>,
    /// Off: as in the disaster recovery guide, replicas have `masterauth` and no `requirepass`, the master the other
    /// way round. After a failover the third node then fails to authenticate to the new master, and does not follow.
    pub replicas_require_password: bool,
    /// An ACL user for clients: name, password, rules such as `~* &* +@all`.
    pub acl_user: Option<(String, String, String)>,
    /// `requirepass` of the Sentinels.
    pub sentinel_password: Option<String>,
    /// Sentinel's `down-after-milliseconds`.
    pub down_after: Duration,
    /// Sentinel's `failover-timeout`: a failed attempt is repeated only after twice this time.
    pub failover_timeout: Duration,
    /// Whether the nodes keep an append-only file, so that a restarted one is not empty.
    pub appendonly: bool,
    /// Puts a relay in front of every process so that they can be cut from each other.
    pub partitionable: bool,
    /// Settings from files: then every index is a host of its own, with an address of 127.0.1.0/24, and what is below a
    /// name of `OWN` in them is said by this specification.
    pub files: Option<ConfigFiles>,
    /// Further lines for every node's redis.conf.
    pub node_config: Vec<String>,
    /// Further lines for every sentinel.conf.
    pub sentinel_config: Vec<String>,
}

/// A redis.conf and a sentinel.conf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigFiles {
    /// For every node.
    pub redis: &'static str,
    /// For every Sentinel.
    pub sentinel: &'static str,
}

impl ConfigFiles {
    /// What deploy/redis ships.
    pub const DEPLOYED: ConfigFiles = ConfigFiles {
        redis: include_str!("../../../deploy/redis/redis.conf"),
        sentinel: include_str!("../../../deploy/redis/sentinel.conf"),
    };
}

/// What a throwaway cluster has to say itself: places, passwords, who follows whom.
const OWN: &[&str] = &[
    "port",
    "bind",
    "dir",
    "daemonize",
    "supervised",
    "pidfile",
    "logfile",
    "requirepass",
    "masterauth",
    "replicaof",
    "replica-announce-ip",
    "sentinel monitor",
    "sentinel auth-pass",
    "sentinel sentinel-pass",
    "sentinel announce-ip",
];

/// The settings of a file but for those.
fn settings(file: &str) -> impl Iterator<Item = String> {
    let is_own = |line: &str| OWN.iter().any(|own| line.strip_prefix(own).is_some_and(|rest| rest.starts_with(' ')));
    file.lines().filter(move |line| !line.is_empty() && !line.starts_with('#') && !is_own(line)).map(str::to_owned)
}

/// A party to a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Member {
    /// `cluster.node(i)`.
    Node(usize),
    /// `cluster.sentinel(i)`.
    Sentinel(usize),
    /// Everything that dials from 127.0.0.1: proxies, clients, this harness. Only ever the dialling side.
    Outside,
}

impl Default for ClusterSpec {
    fn default() -> Self {
        ClusterSpec {
            host: "127.0.0.1".into(),
            masters: vec!["mymaster".into()],
            replicas: 2,
            sentinels: 3,
            quorum: None,
            password: None,
            replicas_require_password: true,
            acl_user: None,
            sentinel_password: None,
            down_after: Duration::from_secs(1),
            failover_timeout: Duration::from_secs(10),
            appendonly: false,
            partitionable: false,
            files: None,
            node_config: Vec::new(),
            sentinel_config: Vec::new(),
        }
    }
}

impl ClusterSpec {
    /// The default with a password on every node.
    pub fn with_password(password: &str) -> ClusterSpec {
        ClusterSpec { password: Some(password.into()), ..ClusterSpec::default() }
    }

    /// Where the processes listen: the address of `host`.
    pub fn ip(&self) -> IpAddr {
        if self.host == "::1" { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() }
    }

    /// The address of process `index`, a node or a Sentinel.
    pub fn ip_of(&self, index: usize) -> IpAddr {
        match self.files {
            Some(_) => Ipv4Addr::new(127, 0, 1, index as u8 + 1).into(),
            None => self.ip(),
        }
    }

    /// By what name everybody knows it.
    fn host_of(&self, index: usize) -> String {
        if self.files.is_some() { self.ip_of(index).to_string() } else { self.host.clone() }
    }

    /// Nodes of each master: itself and its replicas.
    pub fn group_size(&self) -> usize {
        1 + self.replicas
    }
}

/// Where the processes are. Nodes and Sentinels by index.
#[derive(Clone, Debug, Default)]
pub(super) struct Ports {
    pub(super) nodes: Vec<Port>,
    pub(super) sentinels: Vec<Port>,
}

/// The port on which a process listens, and the one by which others know it: its relay's, if it has one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Port {
    pub(super) bound: u16,
    pub(super) known: u16,
}

impl ClusterSpec {
    /// The host goes by a name, not by an address.
    fn is_named(&self) -> bool {
        self.host.parse::<IpAddr>().is_err()
    }

    /// redis.conf of node `index`, which works in `dir`.
    pub(super) fn node_conf(&self, index: usize, dir: &Path, ports: &Ports) -> String {
        let master = index - index % self.group_size();
        let is_master = index == master;
        let mut lines = vec![
            format!("port {}", ports.nodes[index].bound),
            format!("bind {}", self.ip_of(index)),
            format!("dir {}", dir.display()),
            "daemonize no".into(),
        ];
        match self.files {
            Some(files) => {
                lines.push(format!("replica-announce-ip {}", self.ip_of(index)));
                lines.extend(settings(files.redis));
            }
            None => lines.extend([
                "save \"\"".into(),
                format!("appendonly {}", if self.appendonly { "yes" } else { "no" }),
                "repl-diskless-sync yes".into(),
                "repl-diskless-sync-delay 0".into(),
                "repl-backlog-size 16mb".into(),
            ]),
        }
        if self.partitionable {
            lines.push(format!("bind-source-addr {}", source(Member::Node(index))));
            lines.push("replica-announce-ip 127.0.0.1".into());
            lines.push(format!("replica-announce-port {}", ports.nodes[index].known));
        }
        if let Some(password) = &self.password {
            if is_master || self.replicas_require_password {
                lines.push(format!("requirepass {password}"));
            }
            if !is_master || self.replicas_require_password {
                lines.push(format!("masterauth {password}"));
            }
        }
        if let Some((name, password, rules)) = &self.acl_user {
            lines.push(format!("user {name} on >{password} {rules}"));
        }
        if !is_master {
            lines.push(format!("replicaof {} {}", self.host_of(master), ports.nodes[master].known));
        }
        if self.is_named() {
            lines.push(format!("replica-announce-ip {}", self.host));
        }
        lines.extend_from_slice(&self.node_config);
        lines.join("\n") + "\n"
    }

    /// sentinel.conf of Sentinel `index`, which works in `dir`.
    pub(super) fn sentinel_conf(&self, index: usize, dir: &Path, ports: &Ports) -> String {
        let id = |sentinel: usize| format!("{:040x}", 0xabcd_0000 + u64::from(ports.sentinels[sentinel].bound));
        let mut lines = vec![
            format!("port {}", ports.sentinels[index].bound),
            format!("bind {}", self.ip_of(index)),
            format!("dir {}", dir.display()),
            "daemonize no".into(),
            "protected-mode no".into(),
            format!("sentinel myid {}", id(index)),
        ];
        if self.partitionable {
            lines.push(format!("bind-source-addr {}", source(Member::Sentinel(index))));
            lines.push("sentinel announce-ip 127.0.0.1".into());
            lines.push(format!("sentinel announce-port {}", ports.sentinels[index].known));
        }
        if let Some(password) = &self.sentinel_password {
            lines.push(format!("requirepass {password}"));
            lines.push(format!("sentinel sentinel-pass {password}"));
        }
        if self.is_named() {
            lines.push("sentinel resolve-hostnames yes".into());
            lines.push("sentinel announce-hostnames yes".into());
            lines.push(format!("sentinel announce-ip {}", self.host));
        }
        let quorum = self.quorum.unwrap_or(self.sentinels / 2 + 1);
        for (group, name) in self.masters.iter().enumerate() {
            let port = ports.nodes[group * self.group_size()].known;
            let master = self.host_of(group * self.group_size());
            lines.push(format!("sentinel monitor {name} {master} {port} {quorum}"));
            match self.files {
                Some(files) => {
                    lines.push(format!("sentinel announce-ip {}", self.ip_of(index)));
                    lines.extend(settings(files.sentinel));
                }
                None => {
                    lines.push(format!("sentinel down-after-milliseconds {name} {}", self.down_after.as_millis()));
                    lines.push(format!("sentinel failover-timeout {name} {}", self.failover_timeout.as_millis()));
                    lines.push(format!("sentinel parallel-syncs {name} {}", self.replicas.max(1)));
                }
            }
            if let Some(password) = &self.password {
                lines.push(format!("sentinel auth-pass {name} {password}"));
            }
            // They would find each other by themselves, some seconds later.
            for other in (0..self.sentinels).filter(|&other| other != index) {
                let port = ports.sentinels[other].known;
                lines.push(format!("sentinel known-sentinel {name} {} {port} {}", self.host_of(other), id(other)));
            }
        }
        lines.extend_from_slice(&self.sentinel_config);
        lines.join("\n") + "\n"
    }
}

/// The address from which a member of a partitionable cluster dials the others.
pub(super) fn source(member: Member) -> IpAddr {
    IpAddr::V4(match member {
        Member::Node(index) => Ipv4Addr::new(127, 0, 2, index as u8 + 1),
        Member::Sentinel(index) => Ipv4Addr::new(127, 0, 3, index as u8 + 1),
        Member::Outside => Ipv4Addr::LOCALHOST,
    })
}
