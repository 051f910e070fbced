//! The proxies of others, each configured to do what ours does and nothing else: one listener, one server, no log.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Failure;
use crate::targets::free;

/// A proxy that was started.
pub struct Peer {
    pub tcp: SocketAddr,
    pub unix: Option<PathBuf>,
    pub child: Killed,
}

/// A child that ends with us.
pub struct Killed(pub Child);

impl Killed {
    /// Starts it, silent.
    pub fn spawn(command: &mut Command) -> Result<Killed, Failure> {
        let silent = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Killed(silent.spawn().map_err(|error| format!("{command:?}: {error}"))?))
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

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

/// HAProxy in TCP mode; `threads` as it chooses itself if `None`: one for each core.
pub fn haproxy(program: &str, dir: &Path, redis: SocketAddr, threads: Option<u32>) -> Result<Peer, Failure> {
    let tcp = free()?;
    let (config, unix) = (dir.join(format!("{}.cfg", tcp.port())), dir.join(format!("{}.sock", tcp.port())));
    let threads = threads.map(|count| format!("  nbthread {count}\n")).unwrap_or_default();
    let text = format!(
        "global\n  maxconn 9900\n{threads}\
         defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n\
         listen redis\n  bind {tcp}\n  bind unix@{}\n  server redis {redis}\n",
        unix.display()
    );
    fs::write(&config, text)?;
    let child = Killed::spawn(Command::new(program).arg("-db").arg("-f").arg(&config))?;
    Ok(Peer { tcp, unix: Some(unix), child })
}

/// nginx with its stream module; `workers` is a number or "auto": one for each core.
pub fn nginx(program: &str, module: &Path, dir: &Path, redis: SocketAddr, workers: &str) -> Result<Peer, Failure> {
    let tcp = free()?;
    let (config, unix) = (dir.join(format!("{}.conf", tcp.port())), dir.join(format!("{}.sock", tcp.port())));
    let text = format!(
        "load_module {};\nworker_processes {workers};\nworker_rlimit_nofile 20000;\npid {}/{}.pid;\nerror_log /dev/null;\n\
         events {{ worker_connections 19000; }}\n\
         stream {{ server {{ listen {tcp}; listen unix:{}; proxy_pass {redis}; proxy_timeout 1h; tcp_nodelay on; }} }}\n",
        module.display(),
        dir.display(),
        tcp.port(),
        unix.display(),
    );
    fs::write(&config, text)?;
    let child = Killed::spawn(Command::new(program).arg("-c").arg(&config).args(["-g", "daemon off;"]))?;
    Ok(Peer { tcp, unix: Some(unix), child })
}

/// twemproxy, which shares one connection among all clients.
pub fn twemproxy(program: &str, dir: &Path, redis: SocketAddr) -> Result<Peer, Failure> {
    let tcp = free()?;
    let config = dir.join("nutcracker.yml");
    let text = format!(
        "redis:\n  listen: {tcp}\n  redis: true\n  hash: fnv1a_64\n  distribution: ketama\n  servers:\n   - {redis}:1\n"
    );
    fs::write(&config, text)?;
    let stats = free()?.port().to_string();
    let mut command = Command::new(program);
    // Its buffers would hold less than the largest value otherwise.
    command.arg("-c").arg(&config).args(["-a", "127.0.0.1", "-s", &stats, "-m", "2097152"]);
    Ok(Peer { tcp, unix: None, child: Killed::spawn(&mut command)? })
}
