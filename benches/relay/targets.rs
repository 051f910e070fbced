//! What is measured: one Redis server, and whatever of the proxies this machine has in front of it.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use switchmaster::demo::cluster::{Cluster, ClusterSpec};
use switchmaster::demo::proxy::{Proxy, ProxySpec};
use tempfile::TempDir;

use crate::client::{Address, Client};
use crate::load::{Habit, Load, Transport, USER, VALUES};
use crate::{Failure, cpu};

/// The server itself.
pub const DIRECT: &str = "direct";
/// The proxy of this project.
pub const OURS: &str = "switchmaster";
/// The relay that looks at nothing.
pub const NAKED: &str = "naked relay";
/// What every row is compared with.
pub const HAPROXY: &str = "HAProxy";

/// One address to put load on.
pub struct Target {
    pub name: &'static str,
    pub transport: Transport,
    pub address: Address,
    pid: u32,
    /// It answers these; twemproxy knows no SELECT, and shares its connections.
    php: bool,
    /// Measured only where clients connect again and again.
    only_connects: bool,
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
}

/// All of them, running.
pub struct Targets {
    all: Vec<Target>,
    /// The machine lacks these.
    pub absent: Vec<String>,
    /// Name and version of each program.
    pub versions: Vec<String>,
    _cluster: Cluster,
    _proxies: Vec<Proxy>,
    _children: Vec<Killed>,
    _dir: TempDir,
}

/// A child that ends with us.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // nginx ends its workers only when it is asked to.
        let _ = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status();
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(2) && matches!(self.0.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Targets {
    /// Starts everything. `against` is another switchmaster binary.
    pub async fn start(against: Option<&str>) -> Result<Targets, Failure> {
        let dir = tempfile::Builder::new().prefix("switchmaster-bench-").tempdir()?;
        let socket = |name: &str| dir.path().join(format!("{name}.sock"));
        let spec = ClusterSpec {
            replicas: 0,
            sentinels: 1,
            node_config: vec![
                format!("unixsocket {}", socket("redis").display()),
                "save ''".into(),
                format!("user {} on >{} ~* &* +@all", USER.0, USER.1),
            ],
            ..ClusterSpec::default()
        };
        let cluster = Cluster::start(spec).await?;
        for bytes in VALUES {
            cluster.ask_node(0, &["SET", &format!("v{bytes}"), &"x".repeat(bytes)]).await?;
        }
        let redis = cluster.node_addr(0);
        let redis_pid = cluster.node(0).pid().ok_or("no server")?.as_raw_nonzero().get() as u32;
        let target =
            |name, transport, address, pid| Target { name, transport, address, pid, php: true, only_connects: false };
        let mut all = vec![
            target(DIRECT, Transport::Tcp, Address::Tcp(redis), redis_pid),
            target(DIRECT, Transport::Unix, Address::Unix(socket("redis")), redis_pid),
        ];
        let mut versions = vec![version(&[&redis_server(), "--version"])];
        let (mut children, mut absent, mut proxies) = (Vec::new(), Vec::new(), Vec::new());

        let ours = env!("CARGO_BIN_EXE_switchmaster");
        versions.push(version(&[ours, "--version"]));
        let binaries = [(OURS, ours, false), ("switchmaster, reuse", ours, true)];
        for (name, binary, reuse) in binaries.into_iter().chain(against.map(|path| ("switchmaster B", path, false))) {
            let mut spec = ProxySpec::of(&cluster, binary);
            let path = socket(&name.replace([' ', ','], "-"));
            spec.also_listen.push(format!("unix:{}", path.display()));
            spec.set("SWITCHMASTER_REUSE_BACKENDS", reuse.to_string());
            let proxy = Proxy::start(&spec).await?;
            let (addr, pid) = (proxy.addr(), proxy.pid().as_raw_nonzero().get() as u32);
            for (transport, address) in [(Transport::Tcp, Address::Tcp(addr)), (Transport::Unix, Address::Unix(path))] {
                all.push(Target { only_connects: reuse, ..target(name, transport, address, pid) });
            }
            proxies.push(proxy);
        }

        let addr = free()?;
        let this = std::env::current_exe()?;
        let arguments = ["naked".into(), addr.to_string(), redis.to_string()];
        let child = spawn(Command::new(this).args(arguments))?;
        all.push(target(NAKED, Transport::Tcp, Address::Tcp(addr), child.0.id()));
        children.push(child);

        if let Some(program) = program("haproxy") {
            let (addr, path) = (free()?, socket("haproxy"));
            let config = dir.path().join("haproxy.cfg");
            fs::write(
                &config,
                format!(
                    "global\n  maxconn 9900\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n\
                 listen redis\n  bind {addr}\n  bind unix@{}\n  server redis {redis}\n",
                    path.display()
                ),
            )?;
            let child = spawn(Command::new(&program).arg("-db").arg("-f").arg(&config))?;
            all.push(target(HAPROXY, Transport::Tcp, Address::Tcp(addr), child.0.id()));
            all.push(target(HAPROXY, Transport::Unix, Address::Unix(path), child.0.id()));
            versions.push(version(&[&program, "-v"]));
            children.push(child);
        } else {
            absent.push("haproxy".into());
        }

        let module = Path::new("/usr/lib/nginx/modules/ngx_stream_module.so");
        match program("nginx").filter(|_| module.exists()) {
            Some(program) => {
                let (addr, path) = (free()?, socket("nginx"));
                let config = dir.path().join("nginx.conf");
                fs::write(
                    &config,
                    format!(
                        "load_module {};\nworker_processes auto;\nworker_rlimit_nofile 20000;\npid {d}/nginx.pid;\nerror_log /dev/null;\n\
                     events {{ worker_connections 19000; }}\n\
                     stream {{ server {{ listen {addr}; listen unix:{}; proxy_pass {redis}; proxy_timeout 1h; tcp_nodelay on; }} }}\n",
                        module.display(),
                        path.display(),
                        d = dir.path().display()
                    ),
                )?;
                let mut command = Command::new(&program);
                command.arg("-c").arg(&config).args(["-g", "daemon off;"]);
                let child = spawn(&mut command)?;
                all.push(target("nginx stream", Transport::Tcp, Address::Tcp(addr), child.0.id()));
                all.push(target("nginx stream", Transport::Unix, Address::Unix(path), child.0.id()));
                versions.push(version(&[&program, "-v"]));
                children.push(child);
            }
            None => absent.push("nginx with its stream module".into()),
        }

        if let Some(program) = program("nutcracker") {
            let addr = free()?;
            let config = dir.path().join("nutcracker.yml");
            fs::write(
                &config,
                format!(
                    "redis:\n  listen: {addr}\n  redis: true\n  hash: fnv1a_64\n  distribution: ketama\n  servers:\n   - {redis}:1\n"
                ),
            )?;
            let stats = free()?.port().to_string();
            let child = spawn(Command::new(&program).arg("-c").arg(&config).args([
                "-a",
                "127.0.0.1",
                "-s",
                &stats,
                "-m",
                "2097152",
            ]))?;
            all.push(Target { php: false, ..target("twemproxy", Transport::Tcp, Address::Tcp(addr), child.0.id()) });
            versions.push(version(&[&program, "-V"]));
            children.push(child);
        } else {
            absent.push("nutcracker".into());
        }

        for target in &all {
            answers(target).await?;
        }
        Ok(Targets { all, absent, versions, _cluster: cluster, _proxies: proxies, _children: children, _dir: dir })
    }

    /// Those that `load` can be put on.
    pub fn of(&self, load: &Load) -> Vec<&Target> {
        let fits = |target: &&Target| {
            target.transport == load.transport
                && (target.php || load.habit != Habit::Php)
                && (!target.only_connects || matches!(load.habit, Habit::Php | Habit::Connect))
        };
        self.all.iter().filter(fits).collect()
    }

    /// The proxies on this transport, each once.
    pub fn relays(&self, transport: Transport) -> impl Iterator<Item = &Target> {
        self.all
            .iter()
            .filter(move |target| target.transport == transport && target.is_relay() && !target.only_connects)
    }

    /// Everything on this transport, the server too.
    pub fn plain(&self, transport: Transport) -> Vec<&Target> {
        self.all.iter().filter(|target| target.transport == transport && !target.only_connects).collect()
    }
}

/// Waits until it answers.
async fn answers(target: &Target) -> Result<(), Failure> {
    let started = Instant::now();
    loop {
        let attempt = async {
            let mut client = Client::connect(&target.address).await?;
            client.exchange(b"*1\r\n$4\r\nPING\r\n", 7).await
        };
        match tokio::time::timeout(Duration::from_secs(2), attempt).await {
            Ok(Ok(())) => return Ok(()),
            other if started.elapsed() > Duration::from_secs(10) => {
                return Err(format!("{} does not answer at {:?}: {other:?}", target.name, target.address).into());
            }
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

fn free() -> Result<SocketAddr, Failure> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn spawn(command: &mut Command) -> Result<Killed, Failure> {
    Ok(Killed(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?))
}

fn redis_server() -> String {
    std::env::var("REDIS_SERVER").unwrap_or_else(|_| "redis-server".into())
}

/// The path of a program, also where only root looks.
fn program(name: &str) -> Option<String> {
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
