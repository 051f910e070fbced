//! A network and mount namespace of our own: packets can be dropped and names unlearnt without touching the machine.
//!
//! The program starts itself again inside; whatever it changes there ends with it. Where the system allows no
//! namespace, the faults that need one are skipped, which is said.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const INSIDE: &str = "CHAOS_NAMESPACE";

/// The namespace we are in.
#[derive(Debug)]
pub struct Namespace {
    hosts: PathBuf,
    names: String,
}

/// Starts this program again inside a namespace; returns only where that is not possible, or inside.
pub fn enter() -> Option<Namespace> {
    if std::env::var_os(INSIDE).is_some() {
        return Namespace::prepare().map_err(|error| eprintln!("no faults by namespace: {error}")).ok();
    }
    let mut arguments = vec!["--net", "--mount"];
    if !rustix::process::getuid().is_root() {
        arguments.push("--map-root-user");
    }
    let mut probe = Command::new("unshare");
    probe.args(&arguments).args(["sh", "-c", "ip link set lo up && ip rule add pref 10 lookup local"]);
    probe.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if !probe.status().is_ok_and(|status| status.success()) {
        println!("No namespaces here (unshare, ip): half-open connections and DNS failures are skipped.");
        return None;
    }
    let program = std::env::current_exe().ok()?;
    let error = Command::new("unshare")
        .args(&arguments)
        .arg("--")
        .arg(program)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .exec();
    println!("No namespace ({error}): half-open connections and DNS failures are skipped.");
    None
}

impl Namespace {
    fn prepare() -> io::Result<Namespace> {
        run("ip", &["link", "set", "lo", "up"])?;
        // Rules of ours must come before the one that finds local addresses.
        run("ip", &["rule", "add", "pref", "10", "lookup", "local"])?;
        run("ip", &["rule", "del", "pref", "0"])?;
        let dir = std::env::temp_dir();
        let hosts = dir.join(format!("chaos-hosts-{}", std::process::id()));
        let resolv = dir.join(format!("chaos-resolv-{}", std::process::id()));
        let names = "127.0.0.1 localhost sentinel-0.test sentinel-1.test sentinel-2.test\n".to_owned();
        fs::write(&hosts, &names)?;
        fs::write(&resolv, "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")?;
        bind(&hosts, "/etc/hosts")?;
        bind(&resolv, "/etc/resolv.conf")?;
        // The mounts keep them.
        let _ = fs::remove_file(&resolv);
        let _ = fs::remove_file(&hosts);
        Ok(Namespace { hosts: "/etc/hosts".into(), names })
    }

    /// Names under which Sentinel `index` can be found, while [`Namespace::forget_names`] does not hold.
    pub fn sentinel_name(&self, index: usize) -> String {
        format!("sentinel-{index}.test")
    }

    /// Drops every packet that is sent from TCP port `port`.
    pub fn mute(&self, port: u16) -> io::Result<()> {
        run("ip", &["rule", "add", "pref", "1", "ipproto", "tcp", "sport", &port.to_string(), "blackhole"])
    }

    /// Ends that for all ports.
    pub fn unmute(&self) {
        while run("ip", &["rule", "del", "pref", "1"]).is_ok() {}
    }

    /// No Sentinel's name resolves any more.
    pub fn forget_names(&self) -> io::Result<()> {
        fs::write(&self.hosts, "127.0.0.1 localhost\n")
    }

    /// They do again.
    pub fn restore_names(&self) -> io::Result<()> {
        fs::write(&self.hosts, &self.names)
    }
}

fn bind(source: &Path, target: &str) -> io::Result<()> {
    run("mount", &["--bind", &source.to_string_lossy(), target])
}

fn run(program: &str, arguments: &[&str]) -> io::Result<()> {
    let status = Command::new(program).args(arguments).stderr(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("{program} {}", arguments.join(" ")))) }
}
