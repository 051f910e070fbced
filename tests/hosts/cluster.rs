//! Redis and Sentinels on hosts: set up, asked, and brought back after a fault.
//!
//! A node's and a Sentinel's files outlive their processes, as on a disk: what Sentinel has written there counts at the
//! next start.

use std::process::Command;
use std::time::Duration;

use redis::Value;
use rustix::process::Signal;

use super::host::Host;
use super::{LIMIT, until};

/// Of every node and every client.
pub const PASSWORD: &str = "of-the-hosts";
const MASTER: &str = "mymaster";

/// The nodes, the first of which is the first master, and the Sentinels.
#[derive(Debug)]
pub struct Cluster<'a> {
    pub nodes: Vec<&'a Host>,
    pub sentinels: Vec<&'a Host>,
}

impl<'a> Cluster<'a> {
    /// Starts it all and returns when the replicas stream and the Sentinels know each other. `node_config`: lines for every
    /// node.
    pub fn start(
        nodes: Vec<&'a Host>,
        sentinels: Vec<&'a Host>,
        quorum: usize,
        down_after: u64,
        node_config: &str,
    ) -> Cluster<'a> {
        let cluster = Cluster { nodes, sentinels };
        for (index, host) in cluster.nodes.iter().enumerate() {
            let replica = if index > 0 { format!("replicaof {} 6379\n", cluster.nodes[0].ip) } else { String::new() };
            let config = format!(
                "bind {ip}\nport 6379\ndir {dir}\nrequirepass {PASSWORD}\nmasterauth {PASSWORD}\nsave \"\"\nappendonly yes\n\
                 appendfsync everysec\nrepl-timeout 10\nrepl-ping-replica-period 1\nrepl-diskless-sync-delay 0\n{node_config}\n{replica}",
                ip = host.ip,
                dir = host.dir.display()
            );
            std::fs::write(host.dir.join("redis.conf"), config).unwrap();
            cluster.start_node(host);
        }
        for host in &cluster.sentinels {
            let config = format!(
                "bind {ip}\nport 26379\ndir {dir}\nsentinel monitor {MASTER} {master} 6379 {quorum}\nsentinel auth-pass {MASTER} {PASSWORD}\n\
                 sentinel down-after-milliseconds {MASTER} {down_after}\nsentinel failover-timeout {MASTER} 6000\n\
                 sentinel parallel-syncs {MASTER} 1\n",
                ip = host.ip,
                dir = host.dir.display(),
                master = cluster.nodes[0].ip,
            );
            std::fs::write(host.dir.join("sentinel.conf"), config).unwrap();
            cluster.start_sentinel(host);
        }
        cluster.wait_whole();
        cluster
    }

    pub fn start_node(&self, host: &Host) {
        let mut command = host.command("redis-server");
        command.arg(host.dir.join("redis.conf"));
        host.start("redis", command);
        let accepts = || !matches!(ask(host, 6379, &["PING"]), None | Some(Value::ServerError(_)));
        until("a Redis that answers", LIMIT, accepts);
    }

    pub fn start_sentinel(&self, host: &Host) {
        let mut command = host.command("redis-sentinel");
        command.arg(host.dir.join("sentinel.conf"));
        host.start("sentinel", command);
        until("a Sentinel that answers", LIMIT, || ask(host, 26379, &["PING"]).is_some());
        // Sentinels that look each second, not each ten, heal sooner; they forget it when they end.
        ask(host, 26379, &["SENTINEL", "DEBUG", "info-period", "1000", "publish-period", "500"]);
    }

    /// The address of the master, by most of the Sentinels that can be asked.
    pub fn master(&self) -> Option<&'a Host> {
        let mut votes: Vec<String> = Vec::new();
        for host in &self.sentinels {
            if let Some(Value::Array(items)) = ask(host, 26379, &["SENTINEL", "get-master-addr-by-name", MASTER]) {
                votes.extend(items.first().and_then(text));
            }
        }
        let most = votes.iter().max_by_key(|ip| votes.iter().filter(|other| other == ip).count())?;
        let host = self.nodes.iter().find(|host| host.ip == *most)?;
        is_master(host).then_some(*host)
    }

    /// Waits for a master that is not `old`.
    pub fn wait_for_another(&self, old: &Host) -> &'a Host {
        until("another master", LIMIT, || self.master().is_some_and(|host| host.name != old.name));
        self.master().unwrap()
    }

    /// Waits until every replica streams and every Sentinel sees all of it.
    pub fn wait_whole(&self) -> &'a Host {
        let whole = || {
            let Some(master) = self.master() else { return false };
            let replicas = self.nodes.len() - 1;
            let streams = info(master).matches("state=online").count() == replicas;
            let others = (replicas, self.sentinels.len() - 1);
            streams && self.sentinels.iter().all(|host| seen_by(host, &master.ip) == Some(others))
        };
        until("a whole cluster", LIMIT * 2, whole);
        self.master().unwrap()
    }

    /// Asks a Sentinel for a failover, again until one takes it.
    pub fn fail_over(&self) -> &'a Host {
        let old = self.wait_whole();
        let accepted = || {
            self.sentinels
                .iter()
                .any(|host| matches!(ask(host, 26379, &["SENTINEL", "FAILOVER", MASTER]), Some(Value::Okay)))
        };
        until("a Sentinel that makes a failover", LIMIT, accepted);
        self.wait_for_another(old)
    }

    /// After a power cut, or a kill of everything: what is missing on `host` is started.
    pub fn boot(&self, host: &Host) {
        let runs = |name: &str, on: &[&Host]| on.iter().any(|other| other.name == host.name) && !host.runs(name);
        if runs("redis", &self.nodes) {
            host.end("redis", Signal::KILL);
            self.start_node(host);
        }
        if runs("sentinel", &self.sentinels) {
            host.end("sentinel", Signal::KILL);
            self.start_sentinel(host);
        }
    }
}

/// switchmaster on `host`, at 127.0.0.1:6379; `more`: variables of its environment.
pub fn start_proxy(host: &Host, sentinels: &[&Host], more: &[(&str, &str)]) {
    let named: Vec<String> = sentinels.iter().map(|host| format!("{}:26379", host.ip)).collect();
    let mut command: Command = host.command(env!("CARGO_BIN_EXE_switchmaster"));
    command
        .arg("serve")
        .env("SWITCHMASTER_LISTEN", "127.0.0.1:6379")
        .env("SWITCHMASTER_ADMIN", "127.0.0.1:9379")
        .env("SWITCHMASTER_ADMIN_SOCKET", host.dir.join("admin.sock"))
        .env("SWITCHMASTER_SENTINELS", named.join(","))
        .env("SWITCHMASTER_REDIS_PASSWORD", PASSWORD)
        .env("STATE_DIRECTORY", &host.dir)
        .envs(more.iter().copied());
    host.start("switchmaster", command);
    until("a proxy that is ready", LIMIT, || {
        let mut curl = host.command("curl");
        curl.args(["-sf", "http://127.0.0.1:9379/ready"]).output().is_ok_and(|output| output.stdout.starts_with(b"ok"))
    });
}

/// The length of everything that waits in `queue`: to be run, delayed, or reserved.
pub fn queued(master: &Host, queue: &str) -> i64 {
    let key = |ending: &str| format!("laravel-database-queues:{queue}{ending}");
    let length = |command: &str, key: String| match ask(master, 6379, &[command, &key]) {
        Some(Value::Int(length)) => length,
        _ => i64::MAX / 4,
    };
    length("LLEN", key("")) + length("ZCARD", key(":delayed")) + length("ZCARD", key(":reserved"))
}

/// A reply; none within 300 ms, or no connection: none.
fn ask(host: &Host, port: u16, request: &[&str]) -> Option<Value> {
    let url = match port {
        6379 => format!("redis://:{PASSWORD}@{}:{port}", host.ip),
        _ => format!("redis://{}:{port}", host.ip),
    };
    let limit = Duration::from_millis(300);
    let mut connection = redis::Client::open(url).ok()?.get_connection_with_timeout(limit).ok()?;
    connection.set_read_timeout(Some(limit)).ok()?;
    let mut command = redis::cmd(request[0]);
    request[1..].iter().for_each(|argument| _ = command.arg(argument));
    command.query(&mut connection).ok()
}

fn is_master(host: &Host) -> bool {
    info(host).contains("role:master")
}

fn info(host: &Host) -> String {
    ask(host, 6379, &["INFO", "replication"]).as_ref().and_then(text).unwrap_or_default()
}

/// How many replicas and other Sentinels this one sees up, if it names that master.
fn seen_by(sentinel: &Host, master: &str) -> Option<(usize, usize)> {
    let up = |kind: &str| match ask(sentinel, 26379, &["SENTINEL", kind, MASTER])? {
        Value::Array(items) => Some(items.iter().filter(|item| !format!("{item:?}").contains("_down")).count()),
        _ => None,
    };
    match ask(sentinel, 26379, &["SENTINEL", "get-master-addr-by-name", MASTER])? {
        Value::Array(items) if items.first().and_then(text).as_deref() == Some(master) => {}
        _ => return None,
    }
    Some((up("replicas")?, up("sentinels")?))
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        Value::VerbatimString { text, .. } | Value::SimpleString(text) => Some(text.clone()),
        _ => None,
    }
}
