//! Who holds a port that is in use: for the error that says so.

use std::fs;
use std::net::SocketAddr;

/// The process that listens on `addr`, as `name (pid N)`, if /proc lets us see it.
pub(super) fn port_holder(addr: SocketAddr) -> Option<String> {
    let table = if addr.is_ipv4() { "/proc/net/tcp" } else { "/proc/net/tcp6" };
    let wanted_port = format!("{:04X}", addr.port());
    let inode = fs::read_to_string(table).ok()?.lines().skip(1).find_map(|line| {
        // sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode (proc(5)); 0A is LISTEN
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, port) = fields.get(1)?.rsplit_once(':')?;
        (port == wanted_port && fields.get(3) == Some(&"0A")).then(|| fields.get(9).copied().map(str::to_owned))?
    })?;
    let link = format!("socket:[{inode}]");
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let pid = process.file_name().to_string_lossy().into_owned();
        if pid.parse::<u32>().is_err() {
            continue; // not a process, or `self`
        }
        let Ok(fds) = fs::read_dir(process.path().join("fd")) else { continue };
        let holds = fds.flatten().any(|fd| fs::read_link(fd.path()).is_ok_and(|to| to.as_os_str() == link.as_str()));
        if holds {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (pid {pid})", name.trim()));
        }
    }
    None
}
