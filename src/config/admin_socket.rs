//! The Unix socket at which commands are taken without a token: where it is, and whose it is besides.
//!
//! Where nothing is configured, server and verbs look through the same places in the same order, so that one finds the
//! other; its name has the port of the admin address, so that it is never that of another switchmaster on this host.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::listen::Listen;
use crate::net::ListenAddr;

/// Where commands are taken from root, from the user of the process and perhaps from a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminSocket {
    /// Nothing was configured: at the first of these where it can be.
    Usual(Vec<PathBuf>),
    /// There, or the proxy does not start.
    At {
        /// Absolute.
        path: PathBuf,
        /// Its members may give commands too.
        group: Option<String>,
    },
    /// Nowhere.
    Off,
}

/// What systemd makes for the unit (`RuntimeDirectory=switchmaster`).
const USUAL_DIRECTORY: &str = "/run/switchmaster";
const USUAL_NAME: &str = "admin.sock";

impl Default for AdminSocket {
    fn default() -> AdminSocket {
        AdminSocket::Usual(vec![Path::new(USUAL_DIRECTORY).join(USUAL_NAME)])
    }
}

impl AdminSocket {
    /// Where it may be, in this order.
    pub fn places(&self) -> &[PathBuf] {
        match self {
            AdminSocket::Usual(places) => places,
            AdminSocket::At { path, .. } => std::slice::from_ref(path),
            AdminSocket::Off => &[],
        }
    }

    /// The group whose members may give commands.
    pub fn group(&self) -> Option<&str> {
        match self {
            AdminSocket::At { group, .. } => group.as_deref(),
            _ => None,
        }
    }

    /// Permissions of the file: others cannot even connect.
    pub fn mode(&self) -> u32 {
        if self.group().is_some() { 0o660 } else { 0o600 }
    }

    /// Fails with what is wrong with `text`, in a form that follows "expected …, ".
    pub(super) fn parse(text: &str) -> Result<AdminSocket, String> {
        if text.trim().eq_ignore_ascii_case("off") {
            return Ok(AdminSocket::Off);
        }
        let listen = Listen::parse(text)?;
        let has_more = listen != (Listen { group: listen.group.clone(), ..Listen::new(listen.addr.clone()) });
        match listen.addr {
            ListenAddr::Unix(path) if !has_more => Ok(AdminSocket::At { path, group: listen.group }),
            ListenAddr::Unix(_) => Err(format!("found {text:?}: it has no option but group")),
            ListenAddr::Tcp(_) => Err(format!("found {text:?}")),
        }
    }

    /// Fills in where it is if nothing was configured.
    pub(super) fn look_around(&mut self, environment: &BTreeMap<String, OsString>, admin: Option<SocketAddr>) {
        let AdminSocket::Usual(places) = self else { return };
        let name = match admin.map_or(9379, |admin| admin.port()) {
            0 => return places.clear(), // nobody knows the port that it will get
            9379 => USUAL_NAME.to_owned(),
            port => format!("admin-{port}.sock"),
        };
        let directory = |variable: &str| {
            let first = environment.get(variable)?.to_str()?.split(':').next()?;
            first.starts_with('/').then(|| PathBuf::from(first))
        };
        let usual = Path::new(USUAL_DIRECTORY).join(&name);
        *places = directory("RUNTIME_DIRECTORY").map(|own| own.join(&name)).into_iter().collect();
        places.extend((!places.contains(&usual)).then_some(usual));
        places.extend(directory("XDG_RUNTIME_DIR").map(|own| own.join(format!("switchmaster-{name}"))));
    }
}

impl fmt::Display for AdminSocket {
    /// As it is written in the configuration; what is usual is not.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AdminSocket::Usual(_) => Ok(()),
            AdminSocket::At { path, group: None } => write!(f, "unix:{}", path.display()),
            AdminSocket::At { path, group: Some(group) } => write!(f, "unix:{}?group={group}", path.display()),
            AdminSocket::Off => f.write_str("off"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_shown_as_it_is_read_and_takes_nothing_but_a_group() {
        for text in ["unix:/run/switchmaster/admin.sock", "unix:/a/b?group=ops", "off"] {
            assert_eq!(AdminSocket::parse(text).unwrap().to_string(), text);
        }
        for text in ["127.0.0.1:9379", "unix:a.sock", "/a?mode=666", "/a?retain_bytes=1", "/a?group="] {
            assert!(AdminSocket::parse(text).is_err(), "{text}");
        }
        assert_eq!(
            (AdminSocket::parse("/a").unwrap().mode(), AdminSocket::parse("/a?group=b").unwrap().mode()),
            (0o600, 0o660)
        );
    }

    #[test]
    fn the_usual_places_are_of_one_admin_port() {
        let places = |environment: &[(&str, &str)], admin: &str| {
            let mut socket = AdminSocket::Usual(Vec::new());
            let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), value.into())).collect();
            socket.look_around(&environment, admin.parse().ok());
            socket.places().iter().map(|path| path.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(places(&[], "127.0.0.1:9379"), ["/run/switchmaster/admin.sock"]);
        assert_eq!(places(&[], "off"), ["/run/switchmaster/admin.sock"]);
        assert_eq!(places(&[], "127.0.0.1:0"), [""; 0]);
        let own = [("RUNTIME_DIRECTORY", "/run/other:/run/more"), ("XDG_RUNTIME_DIR", "/run/user/7")];
        assert_eq!(
            places(&own, "[::]:9380"),
            [
                "/run/other/admin-9380.sock",
                "/run/switchmaster/admin-9380.sock",
                "/run/user/7/switchmaster-admin-9380.sock"
            ]
        );
        assert_eq!(places(&[("RUNTIME_DIRECTORY", "/run/switchmaster")], "off"), ["/run/switchmaster/admin.sock"]);
    }
}
