//! The proxy as its users run it: the real binary, on ports picked here, ended by its pid.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use switchmaster::demo::cluster::Cluster;
use switchmaster::demo::server::free_port;
use tempfile::TempDir;

/// A running `switchmaster serve`; killed when dropped.
#[derive(Debug)]
pub struct Proxy {
    child: Child,
    listen: SocketAddr,
    admin: SocketAddr,
    dir: TempDir,
}

/// How to start one.
#[derive(Clone, Debug, Default)]
pub struct ProxySpec {
    pub sentinels: Vec<SocketAddr>,
    pub arguments: Vec<String>,
    pub environment: Vec<(String, String)>,
}

#[allow(dead_code)]
impl Proxy {
    /// The proxy for `cluster`, with the credentials that the cluster has.
    pub fn of(cluster: &Cluster) -> Proxy {
        let mut spec = ProxySpec { sentinels: cluster.sentinel_addrs(), ..ProxySpec::default() };
        let mut set = |name: &str, value: &Option<String>| {
            spec.environment.extend(value.clone().map(|value| (name.to_owned(), value)));
        };
        set("SWITCHMASTER_REDIS_PASSWORD", &cluster.spec().password);
        set("SWITCHMASTER_SENTINEL_PASSWORD", &cluster.spec().sentinel_password);
        set("SWITCHMASTER_MASTER_NAME", &Some(cluster.master_name().to_owned()));
        Proxy::start(&spec)
    }

    /// Starts it and returns when it accepts connections; tried again should somebody else take the port first.
    pub fn start(spec: &ProxySpec) -> Proxy {
        let mut failure = String::new();
        for _ in 0..3 {
            match Proxy::try_start(spec) {
                Ok(proxy) => return proxy,
                Err(output) => failure = output,
            }
        }
        panic!("the proxy did not start:\n{failure}");
    }

    /// Where clients connect.
    pub fn addr(&self) -> SocketAddr {
        self.listen
    }

    /// Where metrics, health and control are.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// All it logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the proxy is there to be signalled");
    }

    /// Its exit status, once it has ended.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let started = Instant::now();
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                _ if started.elapsed() > limit => return None,
                _ => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    fn try_start(spec: &ProxySpec) -> Result<Proxy, String> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let [listen, admin] =
            [(); 2].map(|()| SocketAddr::from((Ipv4Addr::LOCALHOST, free_port().expect("a free port"))));
        let log = File::create(dir.path().join("proxy.log")).expect("a log file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_switchmaster"));
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("SWITCHMASTER_") || text.starts_with("REDIS_") {
                command.env_remove(&name);
            }
        }
        command
            .args(["serve", "--listen", &listen.to_string(), "--admin", &admin.to_string()])
            .args(spec.sentinels.iter().flat_map(|addr| ["--sentinel".to_owned(), addr.to_string()]))
            .args(&spec.arguments)
            .env("STATE_DIRECTORY", dir.path())
            .envs(spec.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log);
        let child = command.spawn().expect("the binary that cargo built");
        let mut proxy = Proxy { child, listen, admin, dir };
        let started = Instant::now();
        while TcpStream::connect(listen).is_err() {
            if proxy.wait(Duration::ZERO).is_some() || started.elapsed() > Duration::from_secs(10) {
                return Err(proxy.log());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(proxy)
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("proxy.log")
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the proxy's log ---\n{}", self.log());
        }
    }
}
