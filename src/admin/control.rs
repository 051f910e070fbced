//! Commands to the control plane, and who may give them.
//!
//! A web page that is open on this host must not be able to give one: neither by a cross-site form or script (the
//! header, no `Origin`), nor by pointing a name of its own at this address (the `Host` must be an address). From other
//! hosts a command needs the token besides.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hyper::header::{AUTHORIZATION, HOST, HeaderMap, ORIGIN};
use tokio::sync::{mpsc, oneshot};

use crate::secret::Secret;

/// The header that a command must carry; its value does not matter.
pub const HEADER: &str = "x-switchmaster";

/// The longest hold that can be asked for.
pub const LONGEST_HOLD: Duration = Duration::from_secs(300);

/// A command to the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Hold new requests for this long, or until released.
    Hold {
        /// At most [`LONGEST_HOLD`].
        for_: Duration,
    },
    /// End a hold.
    Release,
    /// Ask Sentinel for a planned failover.
    Failover {
        /// Whatever the nodes are like.
        force: bool,
    },
    /// Read the configuration again.
    Reload,
}

/// A command and where its answer goes: what was done, or why not, in plain words.
pub type Command = (Control, oneshot::Sender<Result<String, String>>);

/// Where commands go.
pub type Commands = mpsc::Sender<Command>;

/// The command of a path below `/control/`. `Err` says what is wrong with it.
pub fn parse(verb: &str, query: Option<&str>) -> Result<Control, String> {
    match verb {
        "hold" => {
            let text = query.unwrap_or("").split('&').find_map(|pair| pair.strip_prefix("for="));
            let text = text.ok_or("say for how long: /control/hold?for=10s")?;
            Ok(Control::Hold { for_: hold_length(text)? })
        }
        "release" => Ok(Control::Release),
        "reload" => Ok(Control::Reload),
        "failover" => match query {
            None | Some("") => Ok(Control::Failover { force: false }),
            Some("force") => Ok(Control::Failover { force: true }),
            Some(other) => Err(format!("a failover takes nothing or ?force, not {other:?}")),
        },
        _ => Err(format!("there is no command {verb:?}")),
    }
}

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

/// How long a hold lasts: a [`duration`] within the limits.
pub fn hold_length(text: &str) -> Result<Duration, String> {
    let length = duration(text).ok_or_else(|| format!("{text:?} is not a duration such as 500ms, 10s or 2m"))?;
    if length.is_zero() || length > LONGEST_HOLD {
        return Err(format!("a hold lasts more than 0 and at most {} s", LONGEST_HOLD.as_secs()));
    }
    Ok(length)
}

/// `500ms`, `10s`, `1.5s` or `2m`.
pub fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = if let Some(number) = text.strip_suffix("ms") {
        (number, 0.001)
    } else if let Some(number) = text.strip_suffix('s') {
        (number, 1.0)
    } else {
        (text.strip_suffix('m')?, 60.0)
    };
    if !number.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * unit).ok()
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
    fn durations_have_a_unit() {
        assert_eq!(duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(duration("1.5s"), Some(Duration::from_millis(1500)));
        assert_eq!(duration("2m"), Some(Duration::from_secs(120)));
        for wrong in ["", "10", "s", "-1s", "infs", "nans", "1e99s", "10h", "+1s"] {
            assert_eq!(duration(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_hold_says_for_how_long() {
        assert_eq!(parse("hold", Some("for=10s")), Ok(Control::Hold { for_: Duration::from_secs(10) }));
        for wrong in [None, Some(""), Some("for="), Some("for=0s"), Some("for=10m"), Some("until=10s")] {
            assert!(parse("hold", wrong).is_err(), "{wrong:?}");
        }
        assert!(parse("explode", None).is_err());
        assert_eq!(hold_length("301s").unwrap_err(), "a hold lasts more than 0 and at most 300 s");
    }

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
