//! The proxy as its users run it: `switchmaster serve` as a process of its own, ended by its pid.
//!
//! It gets exactly the environment it is given: no setting of the user's leaks into the demo or a test.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::net::TcpStream;

use super::cluster::Cluster;
use super::server::free_port;

/// A running proxy; killed when dropped.
#[derive(Debug)]
pub struct Proxy {
    child: Child,
    listen: SocketAddr,
    admin: SocketAddr,
    dir: TempDir,
}

/// How to start one.
#[derive(Clone, Debug)]
pub struct ProxySpec {
    /// The switchmaster binary.
    pub binary: PathBuf,
    /// Where clients connect; `None`: a free port.
    pub listen: Option<SocketAddr>,
    /// Where metrics, health and control are; `None`: a free port.
    pub admin: Option<SocketAddr>,
    /// Listeners besides it, as in the configuration.
    pub also_listen: Vec<String>,
    /// Arguments after `serve`.
    pub arguments: Vec<String>,
    /// Variables such as SWITCHMASTER_SENTINELS.
    pub environment: Vec<(String, String)>,
    /// How many descriptors it may have; `None`: as many as this process.
    pub descriptors: Option<u32>,
}

/// Why the proxy did not start.
#[derive(Debug)]
pub enum ProxyError {
    /// The operating system refused.
    Io(io::Error),
    /// It ended, or accepted nobody for 10 s; what it logged.
    NotServing(String),
}

/// In the folder of each.
const ADMIN_SOCKET: &str = "admin.sock";

impl ProxySpec {
    /// The proxy for `cluster`: all its Sentinels, its master's name, its secrets.
    pub fn of(cluster: &Cluster, binary: impl Into<PathBuf>) -> ProxySpec {
        let sentinels: Vec<String> = cluster.sentinel_addrs().iter().map(SocketAddr::to_string).collect();
        let mut spec = ProxySpec {
            binary: binary.into(),
            listen: None,
            admin: None,
            also_listen: Vec::new(),
            arguments: Vec::new(),
            environment: Vec::new(),
            descriptors: None,
        };
        spec.set("SWITCHMASTER_SENTINELS", sentinels.join(","));
        spec.set("SWITCHMASTER_MASTER_NAME", cluster.master_name());
        if let Some(password) = &cluster.spec().password {
            spec.set("SWITCHMASTER_REDIS_PASSWORD", password);
        }
        if let Some(password) = &cluster.spec().sentinel_password {
            spec.set("SWITCHMASTER_SENTINEL_PASSWORD", password);
        }
        spec
    }

    /// Adds an environment variable, or replaces it.
    pub fn set(&mut self, name: &str, value: impl Into<String>) -> &mut ProxySpec {
        self.environment.retain(|(other, _)| other != name);
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Removes an environment variable.
    pub fn unset(&mut self, name: &str) -> &mut ProxySpec {
        self.environment.retain(|(other, _)| other != name);
        self
    }
}

impl Proxy {
    /// Starts it and returns when it accepts connections; on free ports, tried again should somebody else be faster.
    pub async fn start(spec: &ProxySpec) -> Result<Proxy, ProxyError> {
        let mut attempts = if spec.listen.is_some() { 1 } else { 3 };
        loop {
            attempts -= 1;
            match Proxy::try_start(spec).await {
                Err(ProxyError::NotServing(_)) if attempts > 0 => {}
                outcome => return outcome,
            }
        }
    }

    async fn try_start(spec: &ProxySpec) -> Result<Proxy, ProxyError> {
        let dir = tempfile::Builder::new().prefix("switchmaster-").tempdir()?;
        let listen = match spec.listen {
            Some(listen) => listen,
            None => SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?)),
        };
        let admin = match spec.admin {
            Some(admin) => admin,
            None => SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?)),
        };
        let log = File::create(dir.path().join("proxy.log"))?;
        let mut command = Command::new(&spec.binary);
        if let Some(limit) = spec.descriptors {
            command = Command::new("sh");
            command.arg("-c").arg(format!("ulimit -n {limit} && exec \"$0\" \"$@\"")).arg(&spec.binary);
        }
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("SWITCHMASTER_") || text.starts_with("REDIS_") {
                command.env_remove(&name);
            }
        }
        let child = command
            .arg("serve")
            .args(&spec.arguments)
            .env("SWITCHMASTER_LISTEN", [&[listen.to_string()], &spec.also_listen[..]].concat().join(","))
            .env("SWITCHMASTER_ADMIN", admin.to_string())
            .env("SWITCHMASTER_ADMIN_SOCKET", dir.path().join(ADMIN_SOCKET))
            .env("STATE_DIRECTORY", dir.path())
            .envs(spec.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut proxy = Proxy { child, listen, admin, dir };
        let started = Instant::now();
        let sockets = spec.also_listen.iter().filter_map(|at| at.strip_prefix("unix:"));
        let sockets: Vec<&Path> = sockets.map(|at| Path::new(at.split('?').next().unwrap_or_default())).collect();
        while !sockets.iter().all(|path| path.exists()) || TcpStream::connect(listen).await.is_err() {
            if proxy.child.try_wait()?.is_some() || started.elapsed() > Duration::from_secs(10) {
                return Err(ProxyError::NotServing(proxy.log()));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(proxy)
    }

    /// Where clients connect.
    pub fn addr(&self) -> SocketAddr {
        self.listen
    }

    /// Where metrics, health and control are.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Where it takes commands from its own user.
    pub fn admin_socket(&self) -> PathBuf {
        self.dir.path().join(ADMIN_SOCKET)
    }

    /// All it logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Where it logs.
    pub fn log_path(&self) -> PathBuf {
        self.dir.path().join("proxy.log")
    }

    /// Where it keeps its state.
    pub fn state_dir(&self) -> &Path {
        self.dir.path()
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends it a signal, while it runs.
    pub fn signal(&mut self, signal: Signal) {
        if let Ok(None) = self.child.try_wait() {
            let _ = kill_process(self.pid(), signal);
        }
    }

    /// Its exit status, once it has ended; `None` after `limit`.
    pub async fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let started = Instant::now();
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                _ if started.elapsed() > limit => return None,
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the proxy at {} logged:\n{}", self.listen, self.log());
        }
    }
}

/// The first free port at or after `wanted`'s, for a proxy that is about to be started.
pub fn next_free(wanted: SocketAddr) -> io::Result<SocketAddr> {
    let mut addr = wanted;
    loop {
        match TcpListener::bind(addr) {
            Ok(_) => return Ok(addr),
            Err(error)
                if error.kind() == io::ErrorKind::AddrInUse && addr.port() < wanted.port().saturating_add(100) =>
            {
                addr.set_port(addr.port() + 1);
            }
            Err(error) => return Err(error),
        }
    }
}

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProxyError::Io(error) => error.fmt(f),
            ProxyError::NotServing(log) => write!(f, "the proxy does not serve; it logged:\n{log}"),
        }
    }
}

impl std::error::Error for ProxyError {}

impl From<io::Error> for ProxyError {
    fn from(error: io::Error) -> Self {
        ProxyError::Io(error)
    }
}
