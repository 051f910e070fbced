//! Addresses as people write them: `host:port`, `[v6]:port`, a port alone.
//!
//! Nothing is resolved here.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// A host name or IP address with a port, not resolved yet.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    /// A name, an IPv4 address, or an IPv6 address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl HostPort {
    /// Reads `host`, `host:port`, `ip:port`, `v6`, `[v6]` or `[v6]:port`; without a port it is `default_port`.
    ///
    /// Fails with what is wrong with `text`, in a form that follows "expected …, ".
    pub fn parse(text: &str, default_port: Option<u16>) -> Result<HostPort, String> {
        let text = text.trim();
        let (host, port) = split(text)?;
        let port = match port {
            Some(port) => port_number(port)?,
            None => default_port.ok_or_else(|| format!("found {text:?}: the port is missing"))?,
        };
        if port == 0 {
            return Err(format!("found {text:?}: nothing can be reached at port 0"));
        }
        let fits = |c: char| c.is_alphanumeric() || "-_.:%".contains(c);
        match host {
            "" => Err(format!("found {text:?}: the host is missing")),
            host if !host.chars().all(fits) => Err(format!("found {text:?}: that is no host name")),
            host => Ok(HostPort { host: host.to_owned(), port }),
        }
    }
}

impl FromStr for HostPort {
    type Err = String;

    /// [`HostPort::parse`] with the port required.
    fn from_str(text: &str) -> Result<Self, String> {
        HostPort::parse(text, None)
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// An address to listen at: a port alone (then at 127.0.0.1), `ip:port`, `localhost:port`. Port 0 takes a free one.
///
/// Fails with what is wrong with `text`, in a form that follows "expected …, ".
pub fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return Ok((Ipv4Addr::LOCALHOST, port_number(text)?).into());
    }
    let (host, port) = split(text)?;
    let ip = match host {
        "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        host => host.parse().map_err(|_| match host {
            "" => format!("found {text:?}"),
            host => format!("found {text:?}: {host:?} is no IP address (0.0.0.0 listens on every IPv4 address)"),
        })?,
    };
    let port = port.ok_or_else(|| format!("found {text:?}: the port is missing"))?;
    Ok((ip, port_number(port)?).into())
}

/// Whether something that listens at `listener` is reached by dialling `host`, as far as the text tells.
pub fn reaches(dialled: &HostPort, listener: &SocketAddr) -> bool {
    if dialled.port != listener.port() {
        return false;
    }
    match dialled.host.parse::<IpAddr>() {
        Ok(ip) => ip == listener.ip() || (listener.ip().is_unspecified() && (ip.is_loopback() || ip.is_unspecified())),
        Err(_) => dialled.host == "localhost" && (listener.ip().is_loopback() || listener.ip().is_unspecified()),
    }
}

fn split(text: &str) -> Result<(&str, Option<&str>), String> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, after) =
            rest.split_once(']').ok_or_else(|| format!("found {text:?}: the closing bracket is missing"))?;
        if host.split('%').next().unwrap_or(host).parse::<Ipv6Addr>().is_err() {
            return Err(format!("found {text:?}: {host:?} is no IPv6 address"));
        }
        return match after.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if after.is_empty() => Ok((host, None)),
            None => Err(format!("found {text:?}")),
        };
    }
    match text.matches(':').count() {
        0 => Ok((text, None)),
        1 => Ok(text.split_once(':').map(|(host, port)| (host, Some(port))).expect("counted")),
        _ if text.parse::<Ipv6Addr>().is_ok() => Ok((text, None)),
        _ => Err(format!("found {text:?}: an IPv6 address with a port is written [address]:port")),
    }
}

fn port_number(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| format!("found the port {text:?}: a port is a number up to 65535"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_in_every_form_and_shown_so_that_they_read_again() {
        for (text, shown) in [
            ("10.0.0.1", "10.0.0.1:26379"),
            ("10.0.0.1:5000", "10.0.0.1:5000"),
            (" redis-1.internal:5000 ", "redis-1.internal:5000"),
            ("::1", "[::1]:26379"),
            ("[::1]", "[::1]:26379"),
            ("[fe80::1%eth0]:7", "[fe80::1%eth0]:7"),
        ] {
            let addr = HostPort::parse(text, Some(26379)).unwrap();
            assert_eq!(addr.to_string(), shown);
            assert_eq!(shown.parse(), Ok(addr));
        }
        for text in ["", ":1", "a:0", "a:65536", "a:b", "[::1", "[::1]x", "a:1:2", "a b:1", "host", "tcp://a:1"] {
            assert!(text.parse::<HostPort>().is_err(), "{text}");
        }
    }

    #[test]
    fn listen_takes_a_port_alone() {
        assert_eq!(parse_listen("6379"), Ok("127.0.0.1:6379".parse().unwrap()));
        assert_eq!(parse_listen("[::1]:0"), Ok("[::1]:0".parse().unwrap()));
        assert_eq!(parse_listen("localhost:1"), Ok("127.0.0.1:1".parse().unwrap()));
        for text in ["", "redis:6379", "127.0.0.1", "127.0.0.1:", "70000", "unix:/run/x.sock"] {
            assert!(parse_listen(text).is_err(), "{text}");
        }
    }
}
