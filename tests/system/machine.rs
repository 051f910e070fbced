//! A Debian that was booted in a container, with switchmaster installed as docs/operations.md says.
//!
//! It shares this network and nothing else. It is ended with its value.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use switchmaster::demo::cluster::{Cluster, until};

pub const LISTEN: &str = "127.0.0.1:6379";
/// As contrib/switchmaster.socket has it.
pub const SOCKET: &str = "run/switchmaster.sock";
const CONFIG: &str = "etc/switchmaster/config.toml";
const BOOTED_WITHIN: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Machine {
    dir: PathBuf,
    nspawn: Child,
    /// Its first process, as seen from here.
    init: String,
    config: String,
}

impl Machine {
    /// Boots the system in `dir` with the binary and the units of this build; nothing is started there.
    pub async fn boot(dir: &Path, cluster: &Cluster) -> io::Result<Machine> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        for unit in ["switchmaster.service", "switchmaster.socket"] {
            fs::copy(here.join("contrib").join(unit), dir.join("usr/lib/systemd/system").join(unit))?;
        }
        let sentinels: Vec<String> =
            cluster.sentinel_addrs().iter().map(|addr| format!("{:?}", addr.to_string())).collect();
        let config = format!(
            "sentinels = [{}]\nmaster_name = {:?}\nredis_password = {:?}\nworkers = 2\n",
            sentinels.join(", "),
            cluster.master_name(),
            super::PASSWORD
        );
        fs::create_dir_all(dir.join("etc/switchmaster"))?;
        fs::write(dir.join(CONFIG), &config)?;
        let _ = fs::remove_dir_all(dir.join("var/lib/private/switchmaster"));
        let nspawn = Command::new("systemd-nspawn")
            .args(["--quiet", "--boot", "--register=no", "--keep-unit", "--console=pipe", "--directory"])
            .arg(dir)
            .arg(format!("--bind-ro={}:/usr/local/bin/switchmaster", binary()))
            // systemd 257 needs them; a host of the old kind has them beside its own.
            .env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let mut machine = Machine { dir: dir.to_owned(), nspawn, init: String::new(), config };
        let booted = until("the system to boot", BOOTED_WITHIN, async || {
            let children = format!("/proc/{0}/task/{0}/children", machine.nspawn.id());
            let children = fs::read_to_string(children).map_err(|error| error.to_string())?;
            machine.init = children.trim().to_owned();
            let state = machine.run(&["systemctl", "is-system-running"]);
            if state == "running" || state == "degraded" { Ok(()) } else { Err(format!("it is {state:?}")) }
        });
        booted.await.map_err(|error| io::Error::other(error.to_string()))?;
        Ok(machine)
    }

    /// Both units run, with the configuration of the beginning, and a master is followed.
    pub async fn start(&mut self) {
        self.configure("");
        self.run(&["systemctl", "reset-failed"]);
        self.succeed(&["systemctl", "start", "switchmaster.socket", "switchmaster.service"]);
        self.following().await;
    }

    pub async fn following(&self) {
        until("a master to be followed", Duration::from_secs(20), async || {
            let status = self.status();
            if status.starts_with("following ") { Ok(()) } else { Err(status) }
        })
        .await
        .expect("a master is followed");
    }

    /// Ends both units.
    pub fn stop(&self) {
        self.succeed(&["systemctl", "stop", "switchmaster.socket", "switchmaster.service"]);
    }

    /// The configuration of the beginning and these lines.
    pub fn configure(&self, more: &str) {
        fs::write(self.path(CONFIG), format!("{}{more}", self.config)).expect("the configuration is written");
    }

    /// A file in there, without the leading slash; not below folders that are mounted there (/run, /tmp).
    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    /// A file in there as its processes see it.
    pub fn seen_path(&self, file: &str) -> PathBuf {
        Path::new("/proc").join(&self.init).join("root").join(file)
    }

    /// What the service says of itself.
    pub fn status(&self) -> String {
        self.property("StatusText")
    }

    pub fn property(&self, name: &str) -> String {
        self.run(&["systemctl", "show", "--value", "--property", name, "switchmaster.service"])
    }

    /// The service's main process, as seen from here.
    pub fn main_pid(&self) -> Option<u32> {
        let inner = self.property("MainPID");
        fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
            let status = fs::read_to_string(process.path().join("status")).ok()?;
            let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
            let is_it = status.starts_with("Name:\tswitchmaster\n") && pids.split_whitespace().nth(1) == Some(&inner);
            is_it.then(|| process.file_name().to_str()?.parse().ok())?
        })
    }

    /// Runs a command in there; what it printed.
    pub fn run(&self, command: &[&str]) -> String {
        String::from_utf8_lossy(&self.output(command).stdout).trim().to_owned()
    }

    /// The same for one that must succeed.
    pub fn succeed(&self, command: &[&str]) -> String {
        let output = self.output(command);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {error}\n{}", self.journal(40));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    pub fn output(&self, command: &[&str]) -> Output {
        self.command(command).output().expect("nsenter runs")
    }

    /// Begins a command in there, and does not wait for it.
    pub fn begin(&self, command: &[&str]) -> Child {
        self.command(command).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("nsenter runs")
    }

    fn command(&self, command: &[&str]) -> Command {
        let mut entered = Command::new("nsenter");
        entered.args(["--target", &self.init, "--mount", "--uts", "--ipc", "--pid"]).args(command).stdin(Stdio::null());
        entered
    }

    /// The last lines of the journal.
    pub fn journal(&self, lines: usize) -> String {
        self.run(&[
            "journalctl",
            "--no-pager",
            "--output=short-precise",
            "--boot",
            "--unit=switchmaster*",
            &format!("--lines={lines}"),
        ])
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.run(&["systemctl", "poweroff", "--force"]);
        let asked = Instant::now();
        while self.nspawn.try_wait().is_ok_and(|ended| ended.is_none()) {
            if asked.elapsed() > Duration::from_secs(10) {
                let _ = self.nspawn.kill();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Another than this build's is named by `SYSTEM_BINARY`.
fn binary() -> String {
    std::env::var("SYSTEM_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_switchmaster").into())
}

pub fn listen() -> SocketAddr {
    LISTEN.parse().expect("an address")
}
