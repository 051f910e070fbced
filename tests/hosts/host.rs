//! A host: a network namespace with an address on a bridge, and processes in it.
//!
//! A host that loses its link sends nothing any more, no FIN and no RST: that is what a power cut looks like from
//! elsewhere. All processes end with the test, whose process namespace goes with it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};

/// A machine of its own, as far as the network goes.
#[derive(Debug)]
pub struct Host {
    /// Short, and unique.
    pub name: String,
    /// Its address on the bridge.
    pub ip: String,
    /// Where its processes keep their files.
    pub dir: PathBuf,
    anchor: Child,
    running: RefCell<BTreeMap<String, Child>>,
}

/// The bridge, with an address of the test itself: 10.77.0.254.
pub fn prepare() -> io::Result<()> {
    ip("link set lo up")?;
    ip("link add bridge type bridge")?;
    ip("addr add 10.77.0.254/24 dev bridge")?;
    ip("link set bridge up")
}

impl Host {
    /// Host `number` of the net (1 to 253); its files are below `dir`.
    pub fn new(name: &str, number: usize, dir: &Path) -> Host {
        let mut command = Command::new("unshare");
        let anchor = command.args(["--net", "sh", "-c", "ip link set lo up; exec sleep infinity"]).spawn().unwrap();
        let (address, dir) = (format!("10.77.0.{number}"), dir.join(name));
        std::fs::create_dir_all(&dir).unwrap();
        let host = Host { name: name.into(), ip: address, dir, anchor, running: RefCell::default() };
        // The namespace is there as soon as it is not ours any more.
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        let its = format!("/proc/{}/ns/net", host.anchor.id());
        super::until("a network namespace", super::LIMIT, || std::fs::read_link(&its).is_ok_and(|net| net != own));
        ip(&format!("link add v{number} type veth peer name eth0 netns {}", host.anchor.id())).unwrap();
        ip(&format!("link set v{number} master bridge up")).unwrap();
        for arguments in ["link set lo up", &format!("addr add {}/24 dev eth0", host.ip), "link set eth0 up"] {
            assert!(host.command("ip").args(arguments.split(' ')).status().unwrap().success(), "ip {arguments}");
        }
        host
    }

    /// A command that will run here.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.anchor.id())).arg("--").arg(program);
        command.stdin(Stdio::null());
        command
    }

    /// Starts it as `name`, which is not running; what it prints is added to a file of that name.
    pub fn start(&self, name: &str, mut command: Command) {
        let log = File::options().create(true).append(true).open(self.dir.join(format!("{name}.log"))).unwrap();
        let child = command.process_group(0).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let before = self.running.borrow_mut().insert(name.into(), child);
        assert!(before.is_none(), "{name} runs twice on {}", self.name);
    }

    /// Sends it, and what it has started, a signal.
    pub fn signal(&self, name: &str, signal: Signal) {
        if let Some(child) = self.running.borrow().get(name) {
            let _ = kill_process_group(Pid::from_child(child), signal);
        }
    }

    /// Whether it has not ended by itself.
    pub fn runs(&self, name: &str) -> bool {
        self.running.borrow_mut().get_mut(name).is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Ends it by `signal` and waits for that; asks nothing if it has ended.
    pub fn end(&self, name: &str, signal: Signal) {
        self.signal(name, signal);
        if let Some(mut child) = self.running.borrow_mut().remove(name) {
            let _ = child.wait();
        }
    }

    /// `kill -9` for all that runs here.
    pub fn end_all(&self) {
        let names: Vec<String> = self.running.borrow().keys().cloned().collect();
        names.iter().for_each(|name| self.end(name, Signal::KILL));
    }

    /// The names of what was started and not ended.
    pub fn names(&self) -> Vec<String> {
        self.running.borrow().keys().cloned().collect()
    }

    /// Pulls the cable, or puts it back.
    pub fn link(&self, up: bool) {
        let number = self.ip.rsplit('.').next().unwrap();
        ip(&format!("link set v{number} {}", if up { "up" } else { "down" })).unwrap();
    }

    /// What one of its processes printed last.
    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.join(format!("{name}.log"))).unwrap_or_default()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.end_all();
        let _ = self.anchor.kill();
        let _ = self.anchor.wait();
        let number = self.ip.rsplit('.').next().unwrap();
        let _ = ip(&format!("link del v{number}"));
    }
}

fn ip(arguments: &str) -> io::Result<()> {
    let status = Command::new("ip").args(arguments.split(' ')).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("ip {arguments}: {status}"))) }
}
