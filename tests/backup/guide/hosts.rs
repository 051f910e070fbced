//! The hosts of the guide: each with a network, a file system and processes of its own, joined by a bridge.
//!
//! Nothing outlives a [`Hosts`]: the first process of each host takes the others with it, and what a host wrote below
//! /etc, /var and /usr/local was never on this machine's disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long a host may take to be there.
const START: Duration = Duration::from_secs(20);

/// Stands for systemd on a host: starts and stops what the unit's own ExecStart lines say.
const SYSTEMCTL: &str = include_str!("systemctl");

/// All hosts, on one bridge.
pub struct Hosts {
    hosts: Vec<Host>,
    /// Where the hosts find their installed programs; removed in the end.
    _folder: tempfile::TempDir,
}

struct Host {
    name: String,
    /// Unshared; its child is the first process of the host.
    child: Child,
    first: u32,
    folder: PathBuf,
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Hosts {
    /// Starts a host for each name and address; `bridge` is the address of the network that this process is in.
    pub fn start(hosts: &[(&str, &str)], bridge: &str, program: &Path) -> Hosts {
        ip(&["link", "set", "lo", "up"]);
        ip(&["link", "add", "guide", "type", "bridge"]);
        ip(&["addr", "add", &format!("{bridge}/24"), "dev", "guide"]);
        ip(&["link", "set", "guide", "up"]);
        let folder = tempfile::tempdir().unwrap();
        let hosts = hosts.iter().map(|(name, addr)| Host::start(name, addr, folder.path(), program)).collect();
        Hosts { hosts, _folder: folder }
    }

    /// Runs a script on a host as its administrator, in a folder that holds this project's contrib/.
    pub fn run(&self, host: &str, script: &str) -> Output {
        self.host(host).run(script)
    }

    /// Writes a file on a host.
    pub fn write(&self, host: &str, path: &str, text: &str) {
        let given = self.host(host).folder.join("given");
        fs::write(&given, text).unwrap();
        let parent = Path::new(path).parent().unwrap().display();
        let output = self.run(host, &format!("mkdir -p {parent} && cp {} {path}", given.display()));
        assert!(output.status.success(), "{host} {path}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn host(&self, name: &str) -> &Host {
        self.hosts.iter().find(|host| host.name == name).unwrap_or_else(|| panic!("no host {name}"))
    }
}

impl Host {
    fn start(name: &str, addr: &str, folder: &Path, program: &Path) -> Host {
        let folder = folder.join(name);
        fs::create_dir_all(folder.join("bin")).unwrap();
        for (tool, text) in [("systemctl", SYSTEMCTL), ("sudo", "#!/bin/sh\nexec \"$@\"\n")] {
            let path = folder.join("bin").join(tool);
            fs::write(&path, text).unwrap();
            let mode = Command::new("chmod").arg("755").arg(&path).status().unwrap();
            assert!(mode.success());
        }
        fs::copy(program, folder.join("bin/switchmaster")).unwrap();
        let contrib = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib");
        assert!(Command::new("cp").arg("-r").arg(&contrib).arg(&folder).status().unwrap().success());
        // What a host changes lies in memory, over what this machine has.
        let set_up = format!(
            "set -e; over={0}/over; mkdir -p $over; mount -t tmpfs none $over
             for dir in etc var usr/local; do
                 mkdir -p $over/$dir/new $over/$dir/work
                 mount -t overlay none -o lowerdir=/$dir,upperdir=$over/$dir/new,workdir=$over/$dir/work /$dir
             done
             cp {0}/bin/* /usr/local/bin/
             hostname {name} 2>/dev/null || true
             ip link set lo up; touch {0}/ready
             # Stays, and buries what its children leave behind.
             for _ in {{1..1800}}; do sleep 1; done",
            folder.display()
        );
        let child = Command::new("unshare")
            .args(["--net", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c"])
            .arg(set_up)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let first = until(&format!("{name} to start"), || {
            let children = format!("/proc/{0}/task/{0}/children", child.id());
            let first = fs::read_to_string(children).ok()?.trim().parse().ok()?;
            folder.join("ready").exists().then_some(first)
        });
        let host = Host { name: name.to_owned(), child, first, folder };
        let number = addr.rsplit('.').next().unwrap();
        let (near, far) = (format!("near{number}"), format!("far{number}"));
        ip(&["link", "add", &near, "type", "veth", "peer", "name", &far, "netns", &first.to_string()]);
        ip(&["link", "set", &near, "master", "guide", "up"]);
        let output = host.run(&format!("ip addr add {addr}/24 dev {far} && ip link set {far} up"));
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        host
    }

    fn run(&self, script: &str) -> Output {
        Command::new("nsenter")
            .args(["--target", &self.first.to_string(), "--net", "--mount", "--uts", "--pid", "--"])
            .args([
                "env",
                "-i",
                "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "HOME=/root",
                "DEBIAN_FRONTEND=noninteractive",
            ])
            .args(["bash", "-e", "-c", &format!("cd {}\n{script}", self.folder.display())])
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().unwrap();
    assert!(output.status.success(), "ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
}

/// Looks again until there is something to see.
pub fn until<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(started.elapsed() < START, "waited for {what}");
        thread::sleep(Duration::from_millis(20));
    }
}
