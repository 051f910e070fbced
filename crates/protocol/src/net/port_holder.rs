//! Who listens at a port, as far as /proc shows it: for the error that a port is in use, and to say so beforehand.

use std::fs;
use std::net::{IpAddr, SocketAddr};

/// The process that listens on `addr`, as `name (pid N)`, if /proc lets us see it.
pub(super) fn port_holder(addr: SocketAddr) -> Option<String> {
    process(&socket_at(addr, |_| true)?.inode)
}

/// Who listens where `addr` could not be bound: `name (pid N)`, or `a process of USER` where /proc hides which. Asks
/// nobody, and binds nothing.
pub fn listens_at(addr: SocketAddr) -> Option<String> {
    let (own, every) = (hex(addr.ip()), hex(unspecified(addr.ip())));
    let socket = socket_at(addr, |ip| ip == own || ip == every || addr.ip().is_unspecified())?;
    Some(process(&socket.inode).unwrap_or_else(|| format!("a process of {}", user(&socket.uid))))
}

struct Listening {
    inode: String,
    uid: String,
}

/// The socket that listens at this port, at an address of which `is_meant`, in the notation of /proc.
fn socket_at(addr: SocketAddr, is_meant: impl Fn(&str) -> bool) -> Option<Listening> {
    let table = if addr.is_ipv4() { "/proc/net/tcp" } else { "/proc/net/tcp6" };
    let wanted_port = format!("{:04X}", addr.port());
    fs::read_to_string(table).ok()?.lines().skip(1).find_map(|line| {
        // sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode (proc(5)); 0A is LISTEN
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (ip, port) = fields.get(1)?.rsplit_once(':')?;
        let is_it = port == wanted_port && fields.get(3) == Some(&"0A") && is_meant(ip);
        is_it.then(|| Some(Listening { uid: (*fields.get(7)?).to_owned(), inode: (*fields.get(9)?).to_owned() }))?
    })
}

fn process(inode: &str) -> Option<String> {
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

/// Words of 32 bits as this machine reads them, in hexadecimal.
fn hex(ip: IpAddr) -> String {
    let octets = match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let words = octets.chunks_exact(4).map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
    words.map(|word| format!("{word:08X}")).collect()
}

fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// The name of a user in /etc/passwd, or the number.
fn user(uid: &str) -> String {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    // name:password:uid:… (passwd(5))
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1) == Some(uid)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| format!("user {uid}"))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn whoever_listens_is_found_where_it_is_in_the_way() {
        let me = format!("(pid {})", std::process::id());
        for (held, asked, is_in_the_way) in [
            ("127.0.0.1:0", "127.0.0.1", true),
            ("127.0.0.1:0", "0.0.0.0", true),
            ("127.0.0.1:0", "127.0.0.2", false),
            ("0.0.0.0:0", "127.0.0.1", true),
            ("[::1]:0", "::1", true),
            ("[::1]:0", "::", true),
        ] {
            // Some hosts have no IPv6.
            let Ok(listener) = TcpListener::bind(held) else { continue };
            let port = listener.local_addr().unwrap().port();
            let found = listens_at(SocketAddr::new(asked.parse().unwrap(), port));
            assert_eq!(found.as_ref().is_some_and(|who| who.contains(&me)), is_in_the_way, "{held} {asked}: {found:?}");
        }
        assert_eq!(user("0"), "root");
        assert_eq!(user("4294967294"), "user 4294967294");
    }
}
