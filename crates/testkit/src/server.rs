//! One real redis-server or redis-sentinel process: started, signalled, killed by its pid.
//!
//! It never outlives its [`Server`], and only processes started here are ever signalled.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Pid, Signal, kill_process};
pub use switchmaster_protocol::binary::{Binary, NotInstalled};
use tokio::net::TcpStream;

/// A server process and how to start it again.
#[derive(Debug)]
pub struct Server {
    name: String,
    addr: SocketAddr,
    binary: Binary,
    config: PathBuf,
    log: PathBuf,
    child: Mutex<Option<Child>>,
}

/// Why a server, or a cluster of them, could not be started or did not get where it was asked to go.
#[derive(Debug)]
pub enum ClusterError {
    /// No such program on this machine.
    NotInstalled(NotInstalled),
    /// The port was taken by somebody else.
    PortTaken(SocketAddr),
    /// The process ended at its start.
    Died {
        /// Which one.
        name: String,
        /// The last lines it logged.
        log: String,
    },
    /// A condition was not met in time.
    TimedOut {
        /// What was waited for.
        what: String,
        /// For how long.
        limit: Duration,
        /// What was the case instead.
        last: String,
    },
    /// The operating system refused.
    Io(io::Error),
}

impl Server {
    /// A server that is not started yet; `config` is its configuration file, beside which it logs.
    pub fn new(name: impl Into<String>, addr: SocketAddr, binary: Binary, config: PathBuf) -> Server {
        let log = config.with_extension("log");
        Server { name: name.into(), addr, binary, config, log, child: Mutex::new(None) }
    }

    /// Starts the process and returns when it accepts connections.
    pub async fn start(&self) -> Result<(), ClusterError> {
        let output = File::options().create(true).append(true).open(&self.log)?;
        let logged_before = output.metadata()?.len();
        let child = Command::new(self.binary.program())
            .arg(&self.config)
            .args(self.binary.arguments())
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()?;
        if let Some(mut old) = self.lock().replace(child) {
            let _ = old.kill();
            let _ = old.wait();
        }
        let limit = Duration::from_secs(10);
        let started = Instant::now();
        loop {
            if TcpStream::connect(self.addr).await.is_ok_and(|stream| stream.local_addr().ok() != Some(self.addr))
                && self.is_running()
            {
                return Ok(());
            }
            if !self.is_running() {
                let log = fs::read(&self.log).unwrap_or_default();
                let log = String::from_utf8_lossy(log.get(logged_before as usize..).unwrap_or_default()).into_owned();
                return Err(if log.contains("Address already in use") {
                    ClusterError::PortTaken(self.addr)
                } else {
                    ClusterError::Died { name: self.name.clone(), log }
                });
            }
            if started.elapsed() > limit {
                let what = format!("{} to accept connections at {}", self.name, self.addr);
                return Err(ClusterError::TimedOut { what, limit, last: self.log_tail() });
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Starts it again on the same port, with the configuration as it was last rewritten.
    pub async fn restart(&self) -> Result<(), ClusterError> {
        self.kill9();
        let started = Instant::now();
        loop {
            match self.start().await {
                Err(ClusterError::PortTaken(_)) if started.elapsed() < Duration::from_secs(5) => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// `kill -9`; the process is gone when this returns. The moment is that of the signal.
    pub fn kill9(&self) -> Instant {
        let at = Instant::now();
        if let Some(mut child) = self.lock().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        at
    }

    /// SIGSTOP: it keeps its sockets and answers nothing.
    pub fn stop(&self) -> Instant {
        self.signal(Signal::STOP)
    }

    /// SIGCONT.
    pub fn cont(&self) -> Instant {
        self.signal(Signal::CONT)
    }

    /// SIGTERM: an orderly shutdown; returns when the process has ended.
    pub async fn shutdown(&self, limit: Duration) -> Result<Instant, ClusterError> {
        let at = self.signal(Signal::TERM);
        while self.is_running() {
            if at.elapsed() > limit {
                let what = format!("{} to shut down", self.name);
                return Err(ClusterError::TimedOut { what, limit, last: self.log_tail() });
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(at)
    }

    /// Whether the process exists (a stopped one does).
    pub fn is_running(&self) -> bool {
        match self.lock().as_mut() {
            Some(child) => matches!(child.try_wait(), Ok(None)),
            None => false,
        }
    }

    /// The process id while it runs.
    pub fn pid(&self) -> Option<Pid> {
        self.lock().as_ref().map(Pid::from_child)
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What it is called in messages, such as `node 0`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// Its whole log.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    fn signal(&self, signal: Signal) -> Instant {
        let at = Instant::now();
        // Under the lock, and not reaped yet: the pid is still this process's.
        if let Some(child) = self.lock().as_ref() {
            let _ = kill_process(Pid::from_child(child), signal);
        }
        at
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill9();
    }
}

/// A loopback port that is free now, outside the range from which outgoing connections take theirs:
/// a port in it can be taken while its server is down, and a dial to it can even meet itself.
pub fn free_port() -> io::Result<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let lowest_outgoing = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|range| range.split_whitespace().next()?.parse::<u32>().ok())
        .unwrap_or(32768);
    let first = 10_000;
    if lowest_outgoing < first + 1_000 {
        return Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port());
    }
    let seed = || {
        let nanos = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.subsec_nanos());
        (nanos ^ std::process::id().wrapping_mul(2_654_435_761)).max(1)
    };
    let _ = NEXT.compare_exchange(0, seed(), Ordering::Relaxed, Ordering::Relaxed);
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..200 {
        let port = first + NEXT.fetch_add(7, Ordering::Relaxed) % (lowest_outgoing - first);
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port as u16)) {
            Ok(_) => return Ok(port as u16),
            Err(error) => last = error,
        }
    }
    Err(last)
}

impl fmt::Display for ClusterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClusterError::NotInstalled(error) => error.fmt(f),
            ClusterError::PortTaken(addr) => write!(f, "{addr} is taken"),
            ClusterError::Died { name, log } => write!(f, "{name} ended at its start:\n{log}"),
            ClusterError::TimedOut { what, limit, last } => {
                write!(f, "waited {:.1} s for {what}; last seen: {last}", limit.as_secs_f64())
            }
            ClusterError::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ClusterError {}

impl From<io::Error> for ClusterError {
    fn from(error: io::Error) -> Self {
        ClusterError::Io(error)
    }
}

impl From<NotInstalled> for ClusterError {
    fn from(error: NotInstalled) -> Self {
        ClusterError::NotInstalled(error)
    }
}
