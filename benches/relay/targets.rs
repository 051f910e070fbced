//! What is measured: one Redis server, and whatever of the proxies this machine has in front of it.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use switchmaster::demo::cluster::{Cluster, ClusterSpec};
use switchmaster::demo::proxy::{Proxy, ProxySpec};
use tempfile::TempDir;

use crate::client::{Address, Client};
use crate::load::{Habit, Load, Transport, USER, VALUES};
use crate::peers::{self, Killed, Peer};
use crate::{Failure, cpu};

/// The server itself.
pub const DIRECT: &str = "direct";
/// The proxy of this project.
pub const OURS: &str = "switchmaster";
/// With one worker, where it would have one for each core.
pub const OURS_ONE: &str = "switchmaster, 1 worker";
/// With reuse_backends.
pub const OURS_REUSE: &str = "switchmaster, reuse";
/// The relay that looks at nothing, with as many workers as ours.
pub const NAKED: &str = "naked relay";
/// The same for [`OURS_ONE`].
pub const NAKED_ONE: &str = "naked relay, 1 worker";
/// What every row is compared with: the system's.
pub const HAPROXY: &str = "HAProxy";
/// nginx with its stream module.
pub const NGINX: &str = "nginx stream";

/// One address to put load on.
pub struct Target {
    pub name: String,
    pub transport: Transport,
    pub address: Address,
    pid: u32,
    part: Part,
}

/// Where a target takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Everywhere,
    /// Where AUTH and SELECT are not asked for: it shares its connections.
    NotPhp,
    /// Where clients connect again and again.
    Connects,
    /// Where numbers of threads are compared.
    Threads,
}

impl Target {
    /// Its processes now.
    pub fn processes(&self) -> Vec<u32> {
        cpu::family(self.pid)
    }

    /// Whether it is a proxy.
    pub fn is_relay(&self) -> bool {
        self.name != DIRECT
    }

    /// Its name in the rows of `load`: what is there for comparison over TCP says so.
    pub fn label(&self, load: &Load) -> String {
        if self.transport == load.transport { self.name.clone() } else { over_tcp(&self.name) }
    }
}

/// The name of a target over TCP in the rows of a load over Unix sockets.
pub fn over_tcp(name: &str) -> String {
    format!("{name}, TCP")
}

/// All of them, running.
pub struct Targets {
    all: Vec<Target>,
    /// The machine lacks these.
    pub absent: Vec<String>,
    /// Name and version of each program.
    pub versions: Vec<String>,
    children: Vec<Killed>,
    _cluster: Cluster,
    _proxies: Vec<Proxy>,
    _dir: TempDir,
}

impl Targets {
    /// Starts everything. `against` is another switchmaster binary.
    pub async fn start(against: Option<&str>) -> Result<Targets, Failure> {
        // HAProxy 3.0 lives in a folder of its own (ci/trixie) and sees only files that are in it.
        let trixie = trixie().filter(|trixie| trixie.join("programs/haproxy").exists());
        let mut builder = tempfile::Builder::new();
        builder.prefix("switchmaster-bench-");
        let dir = match &trixie {
            Some(trixie) => builder.tempdir_in(trixie.join("tmp"))?,
            None => builder.tempdir()?,
        };
        let redis_socket = dir.path().join("redis.sock");
        let cluster = cluster(&redis_socket).await?;
        let redis = cluster.node_addr(0);
        let mut targets = Targets {
            all: Vec::new(),
            absent: Vec::new(),
            versions: vec![version(&[&redis_server(), "--version"])],
            children: Vec::new(),
            _cluster: cluster,
            _proxies: Vec::new(),
            _dir: dir,
        };
        let pid = targets._cluster.node(0).pid().ok_or("no server")?.as_raw_nonzero().get() as u32;
        targets.add(DIRECT, Part::Everywhere, pid, redis, Some(redis_socket));

        let ours = env!("CARGO_BIN_EXE_switchmaster");
        targets.versions.push(version(&[ours, "--version"]));
        targets.ours(OURS, ours, Part::Everywhere, &[]).await?;
        targets.ours(OURS_ONE, ours, Part::Threads, &[("SWITCHMASTER_WORKERS", "1")]).await?;
        targets.ours(OURS_REUSE, ours, Part::Connects, &[("SWITCHMASTER_REUSE_BACKENDS", "true")]).await?;
        if let Some(binary) = against {
            targets.ours("switchmaster B", binary, Part::Everywhere, &[]).await?;
        }
        targets.naked(NAKED, Part::Everywhere, workers(), redis)?;
        targets.naked(NAKED_ONE, Part::Threads, 1, redis)?;
        targets.others(redis, trixie.as_deref())?;
        for target in &targets.all {
            answers(target).await?;
        }
        Ok(targets)
    }

    /// Those that `load` can be put on, in the order of the page; for Unix sockets also the server and HAProxy over
    /// TCP, as the way there would be without one.
    pub fn of(&self, load: &Load) -> Vec<&Target> {
        let fits = |target: &&Target| {
            if target.transport != load.transport {
                return target.transport == Transport::Tcp && [DIRECT, HAPROXY].contains(&target.name.as_str());
            }
            match target.part {
                Part::Everywhere => true,
                Part::NotPhp => load.habit != Habit::Php,
                Part::Connects => load.habit.connects(),
                Part::Threads => load.threads,
            }
        };
        self.all.iter().filter(fits).collect()
    }

    /// The proxies on this transport, each once, as they come.
    pub fn relays(&self, transport: Transport) -> impl Iterator<Item = &Target> {
        self.plain(transport).filter(|target| target.is_relay())
    }

    /// The same, and the server.
    pub fn plain(&self, transport: Transport) -> impl Iterator<Item = &Target> {
        self.all.iter().filter(move |target| {
            target.transport == transport && matches!(target.part, Part::Everywhere | Part::NotPhp)
        })
    }

    fn add(&mut self, name: &str, part: Part, pid: u32, tcp: SocketAddr, unix: Option<PathBuf>) {
        let tcp = (Transport::Tcp, Address::Tcp(tcp));
        for (transport, address) in [tcp].into_iter().chain(unix.map(|path| (Transport::Unix, Address::Unix(path)))) {
            self.all.push(Target { name: name.to_owned(), transport, address, pid, part });
        }
    }

    async fn ours(&mut self, name: &str, binary: &str, part: Part, settings: &[(&str, &str)]) -> Result<(), Failure> {
        let path = self._dir.path().join(format!("{}.sock", name.replace([' ', ','], "-")));
        let mut spec = ProxySpec::of(&self._cluster, binary);
        spec.also_listen.push(format!("unix:{}", path.display()));
        for (variable, value) in settings {
            spec.set(variable, *value);
        }
        let proxy = Proxy::start(&spec).await?;
        self.add(name, part, proxy.pid().as_raw_nonzero().get() as u32, proxy.addr(), Some(path));
        self._proxies.push(proxy);
        Ok(())
    }

    fn naked(&mut self, name: &str, part: Part, workers: usize, redis: SocketAddr) -> Result<(), Failure> {
        let (addr, path) = (free()?, self._dir.path().join(format!("{}.sock", name.replace([' ', ','], "-"))));
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("naked").arg(addr.to_string()).arg(&path).arg(redis.to_string()).arg(workers.to_string());
        self.peer(name, part, Peer { tcp: addr, unix: Some(path), child: Killed::spawn(&mut command)? });
        Ok(())
    }

    fn others(&mut self, redis: SocketAddr, trixie: Option<&Path>) -> Result<(), Failure> {
        let dir = self._dir.path().to_owned();
        if let Some(program) = program("haproxy") {
            self.versions.push(version(&[&program, "-v"]));
            self.peer(HAPROXY, Part::Everywhere, peers::haproxy(&program, &dir, redis, None)?);
            self.peer("HAProxy, 1 thread", Part::Threads, peers::haproxy(&program, &dir, redis, Some(1))?);
        } else {
            self.absent.push("haproxy".into());
        }
        match trixie.and_then(|trixie| trixie.join("programs/haproxy").to_str().map(str::to_owned)) {
            Some(program) => {
                self.versions.push(version(&[&program, "-v"]));
                self.peer("HAProxy 3.0", Part::Everywhere, peers::haproxy(&program, &dir, redis, None)?);
            }
            None => self.absent.push("HAProxy 3.0 (ci/install-deps bench, as root)".into()),
        }
        let module = Path::new("/usr/lib/nginx/modules/ngx_stream_module.so");
        match program("nginx").filter(|_| module.exists()) {
            Some(program) => {
                self.versions.push(version(&[&program, "-v"]));
                self.peer(NGINX, Part::Everywhere, peers::nginx(&program, module, &dir, redis, "auto")?);
                self.peer("nginx stream, 1 worker", Part::Threads, peers::nginx(&program, module, &dir, redis, "1")?);
            }
            None => self.absent.push("nginx with its stream module".into()),
        }
        match program("nutcracker") {
            Some(program) => {
                self.versions.push(version(&[&program, "-V"]));
                self.peer("twemproxy", Part::NotPhp, peers::twemproxy(&program, &dir, redis)?);
            }
            None => self.absent.push("nutcracker".into()),
        }
        Ok(())
    }

    fn peer(&mut self, name: &str, part: Part, peer: Peer) {
        self.add(name, part, peer.child.pid(), peer.tcp, peer.unix);
        self.children.push(peer.child);
    }
}

/// A server with the values that the loads ask for.
async fn cluster(socket: &Path) -> Result<Cluster, Failure> {
    let spec = ClusterSpec {
        replicas: 0,
        sentinels: 1,
        node_config: vec![
            format!("unixsocket {}", socket.display()),
            "save ''".into(),
            format!("user {} on >{} ~* &* +@all", USER.0, USER.1),
        ],
        ..ClusterSpec::default()
    };
    let cluster = Cluster::start(spec).await?;
    for bytes in VALUES {
        cluster.ask_node(0, &["SET", &format!("v{bytes}"), &"x".repeat(bytes)]).await?;
    }
    Ok(cluster)
}

/// Waits until it answers.
async fn answers(target: &Target) -> Result<(), Failure> {
    let started = Instant::now();
    loop {
        let attempt = async { Client::connect(&target.address).await?.ping().await };
        match tokio::time::timeout(Duration::from_secs(2), attempt).await {
            Ok(Ok(())) => return Ok(()),
            other if started.elapsed() > Duration::from_secs(10) => {
                return Err(format!("{} does not answer at {:?}: {other:?}", target.name, target.address).into());
            }
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// How many workers ours has if it is left to choose.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// An address on which nobody listens.
pub fn free() -> Result<SocketAddr, Failure> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// The server's program.
pub fn redis_server() -> String {
    std::env::var("REDIS_SERVER").unwrap_or_else(|_| "redis-server".into())
}

fn trixie() -> Option<PathBuf> {
    let folder = std::env::var_os("SWITCHMASTER_TRIXIE").map(PathBuf::from);
    folder.unwrap_or_else(|| "target/trixie".into()).canonicalize().ok()
}

/// The path of a program, also where only root looks.
pub fn program(name: &str) -> Option<String> {
    let path = std::env::var("PATH").unwrap_or_default();
    let folders = path.split(':').chain(["/usr/sbin", "/usr/local/sbin"]);
    folders.map(|folder| PathBuf::from(folder).join(name)).find(|path| path.exists())?.to_str().map(str::to_owned)
}

/// The first line of what a program says of itself.
fn version(command: &[&str]) -> String {
    let output = Command::new(command[0]).args(&command[1..]).output();
    let said = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
    let line = String::from_utf8_lossy(&said).lines().next().unwrap_or("").to_owned();
    line.split(" - ").next().unwrap_or("").split(" sha=").next().unwrap_or("").trim().to_owned()
}
