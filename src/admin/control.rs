//! Who may give commands to the control plane, and giving them.
//!
//! Whom the kernel vouches for at the Unix socket, and who has the token. Nobody else of this host may: every process of it
//! reaches the port. Besides, a web page that is open on this host must not be able to give one, though it found out the
//! token: neither by a cross-site form or script (the header, no `Origin`), nor by pointing a name of its own at this
//! address (the `Host` must be an address).

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use hyper::header::{AUTHORIZATION, HOST, HeaderMap, ORIGIN};
use tokio::sync::{mpsc, oneshot};

use crate::control::{Control, ControlRequest, HEADER};
use crate::net::{Asker, own_uid};
use crate::secret::Secret;

/// Where orders go.
pub type Commands = mpsc::Sender<ControlRequest>;

/// The Unix socket at which commands are taken without a token.
#[derive(Clone, Debug)]
pub struct Socket {
    /// Where it is.
    pub path: PathBuf,
    /// Its members may give commands there. That who connects is a member is the kernel's to say: the file's permissions
    /// let nobody else connect.
    pub group: Option<String>,
}

impl Socket {
    fn trusts(&self, uid: u32) -> bool {
        uid == 0 || uid == own_uid() || self.group.is_some()
    }
}

impl fmt::Display for Socket {
    /// Where and from whom.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at unix:{} from root, user {}", self.path.display(), own_uid())?;
        self.group.iter().try_for_each(|group| write!(f, ", group {group}"))
    }
}

/// Whether this request may give a command: it comes from whom the socket trusts, or carries `token`
/// (`Authorization: Bearer …`). `Err` says why not.
pub fn permit(headers: &HeaderMap, peer: Asker, token: Option<&Secret>, socket: Option<&Socket>) -> Result<(), String> {
    let vouched_for = matches!(peer, Asker::Unix { uid } if socket.is_some_and(|socket| socket.trusts(uid)));
    match (headers.get(AUTHORIZATION), token) {
        (Some(given), Some(token)) if is_token(given.as_bytes(), token) => {}
        (Some(_), Some(_)) => return Err("the admin_token is another one here".into()),
        (Some(_), None) => return Err("this switchmaster has no admin_token".into()),
        (None, _) if vouched_for => {}
        (None, _) => {
            let place = socket.map_or(String::new(), |socket| format!("{socket}, and "));
            let none = if token.is_some() { "" } else { ", and none is set" };
            return Err(format!("commands are taken {place}with the admin_token{none}"));
        }
    }
    if headers.contains_key(ORIGIN) || headers.get("sec-fetch-site").is_some() {
        return Err("commands are not taken from web pages".into());
    }
    if !headers.contains_key(HEADER) {
        return Err("a command needs the header 'X-Switchmaster: 1'".into());
    }
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or("");
    if !is_an_address(host) {
        return Err(format!("the Host header {host:?} is not an IP address or localhost"));
    }
    Ok(())
}

/// Hands the command over and waits for its answer, at most `limit`.
pub async fn give(commands: &Commands, control: Control, limit: Duration) -> Result<String, String> {
    let (answer, answered) = oneshot::channel();
    commands.try_send((control, answer)).map_err(|_| "the control plane takes no commands now")?;
    match tokio::time::timeout(limit, answered).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Err("the control plane dropped the command".into()),
        Err(_) => Err(format!("no answer within {} s; the command may still be carried out", limit.as_secs())),
    }
}

/// Looks at every byte, so that the time it takes tells nothing of the token.
fn is_token(given: &[u8], token: &Secret) -> bool {
    let (Some(given), token) = (given.strip_prefix(b"Bearer "), token.reveal().as_bytes()) else { return false };
    given.len() == token.len() && given.iter().zip(token).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

/// An IP address or `localhost`, with or without a port.
fn is_an_address(host: &str) -> bool {
    if host.parse::<SocketAddr>().is_ok() || host.parse::<IpAddr>().is_ok() {
        return true;
    }
    if let Some(inner) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return inner.parse::<IpAddr>().is_ok();
    }
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name.eq_ignore_ascii_case("localhost") || (host.matches(':').count() == 1 && name.parse::<IpAddr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(more: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [(HEADER, "1"), ("host", "10.0.0.5:9379")].iter().chain(more) {
            headers.insert(hyper::header::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn over_tcp_commands_need_the_token_wherever_they_come_from() {
        let token = Secret::new("correct horse battery");
        let right = ("authorization", "Bearer correct horse battery");
        for peer in ["127.0.0.1:50000", "[::1]:50000", "10.0.0.9:50000"].map(|addr| Asker::Tcp(addr.parse().unwrap())) {
            assert_eq!(permit(&headers(&[right]), peer, Some(&token), None), Ok(()));
            assert!(permit(&headers(&[right]), peer, None, None).is_err());
            for wrong in
                ["Bearer correct horse battera", "Bearer correct horse", "correct horse battery", "Bearer ", ""]
            {
                assert!(permit(&headers(&[("authorization", wrong)]), peer, Some(&token), None).is_err(), "{wrong}");
            }
            let socket = Socket { path: "/run/admin.sock".into(), group: None };
            let why = permit(&headers(&[]), peer, None, Some(&socket)).unwrap_err();
            assert!(why.contains("at unix:/run/admin.sock from root") && why.ends_with("none is set"), "{why}");
            assert!(permit(&headers(&[]), peer, Some(&token), Some(&socket)).is_err());
            for (name, value) in
                [("origin", "http://evil.example"), ("sec-fetch-site", "none"), ("host", "evil.example")]
            {
                let page = headers(&[right, (name, value)]);
                assert!(
                    permit(&page, peer, Some(&token), None).is_err(),
                    "a page that knows the token is still a page"
                );
            }
        }
    }

    #[test]
    fn at_the_socket_the_kernel_says_who_may() {
        let token = Secret::new("correct horse battery");
        let own = own_uid();
        let other = own + 1;
        let socket = Socket { path: "/run/admin.sock".into(), group: None };
        let asked = |uid, more: &[(&str, &str)], socket| {
            permit(&headers(more), Asker::Unix { uid }, Some(&token), Some(socket))
        };
        assert_eq!((asked(0, &[], &socket), asked(own, &[], &socket)), (Ok(()), Ok(())));
        assert!(asked(other, &[], &socket).is_err());
        assert_eq!(asked(other, &[("authorization", "Bearer correct horse battery")], &socket), Ok(()));
        assert!(asked(0, &[("authorization", "Bearer another")], &socket).is_err());
        assert!(asked(0, &[("origin", "http://evil.example")], &socket).is_err());
        assert!(permit(&headers(&[]), Asker::Unix { uid: 0 }, None, None).is_err(), "at some other socket");
        let shared = Socket { group: Some("ops".into()), ..socket.clone() };
        assert_eq!(asked(other, &[], &shared), Ok(()), "or it could not have connected");
    }

    #[test]
    fn names_other_than_localhost_are_not_addresses() {
        for good in ["127.0.0.1:9379", "127.0.0.1", "[::1]:9379", "[::1]", "localhost:9379", "localhost", "10.0.0.5:1"]
        {
            assert!(is_an_address(good), "{good}");
        }
        for bad in [
            "",
            "evil.example:9379",
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example:9379",
            "127.0.0.1@evil",
        ] {
            assert!(!is_an_address(bad), "{bad}");
        }
    }
}
