//! Who may give commands to the control plane, and giving them.
//!
//! A web page that is open on this host must not be able to give one: neither by a cross-site form or script (the
//! header, no `Origin`), nor by pointing a name of its own at this address (the `Host` must be an address). From other
//! hosts a command needs the token besides.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hyper::header::{AUTHORIZATION, HOST, HeaderMap, ORIGIN};
use tokio::sync::{mpsc, oneshot};

use crate::control::{Control, ControlRequest, HEADER};
use crate::secret::Secret;

/// Where orders go.
pub type Commands = mpsc::Sender<ControlRequest>;

/// Whether this request may give a command: from this host, or with `token` (`Authorization: Bearer …`) from another.
/// `Err` says why not.
pub fn permit(headers: &HeaderMap, peer: SocketAddr, token: Option<&Secret>) -> Result<(), String> {
    let here = peer.ip().to_canonical().is_loopback();
    match (headers.get(AUTHORIZATION), token) {
        (None, _) if here => {}
        (None, Some(_)) => return Err("commands from other hosts need the admin_token of this switchmaster".into()),
        (_, None) if here => {}
        (_, None) => {
            return Err("commands are taken from this host only; with an admin_token, from others too".into());
        }
        (Some(given), Some(token)) if is_token(given.as_bytes(), token) => {}
        (Some(_), Some(_)) => return Err("the admin_token is another one here".into()),
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

    #[test]
    fn commands_from_other_hosts_need_the_token_and_web_pages_give_none() {
        let token = Secret::new("correct horse battery");
        let (here, elsewhere) = ("127.0.0.1:50000".parse().unwrap(), "10.0.0.9:50000".parse().unwrap());
        let headers = |more: &[(hyper::header::HeaderName, &str)]| {
            let mut headers = HeaderMap::new();
            headers.insert(HEADER, "1".parse().unwrap());
            headers.insert(HOST, "10.0.0.5:9379".parse().unwrap());
            for (name, value) in more {
                headers.insert(name, value.parse().unwrap());
            }
            headers
        };
        let bearer = |token: &str| (AUTHORIZATION, format!("Bearer {token}"));
        let (right, wrong) = (bearer("correct horse battery"), bearer("correct horse battera"));
        let given = |pair: &(hyper::header::HeaderName, String)| headers(&[(pair.0.clone(), pair.1.as_str())]);
        assert_eq!(permit(&headers(&[]), here, None), Ok(()));
        assert_eq!(permit(&headers(&[]), here, Some(&token)), Ok(()));
        assert_eq!(permit(&given(&right), here, None), Ok(()));
        assert_eq!(permit(&given(&right), elsewhere, Some(&token)), Ok(()));
        assert!(permit(&headers(&[]), elsewhere, None).is_err());
        assert!(permit(&headers(&[]), elsewhere, Some(&token)).is_err());
        assert!(permit(&given(&right), elsewhere, None).is_err());
        for peer in [here, elsewhere] {
            assert!(permit(&given(&wrong), peer, Some(&token)).is_err());
            assert!(permit(&headers(&[(AUTHORIZATION, "correct horse battery")]), peer, Some(&token)).is_err());
        }
        let page = [(right.0.clone(), right.1.as_str()), (ORIGIN, "http://evil.example")];
        assert!(
            permit(&headers(&page), elsewhere, Some(&token)).is_err(),
            "a page that knows the token is still a page"
        );
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
