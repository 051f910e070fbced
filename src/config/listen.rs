//! One listener: its address and, behind `?`, what differs there from the rest of the configuration.
//!
//! `127.0.0.1:6380?on_lost_reply=close&hold_timeout=3s`. A listener can hold for a shorter time than the proxy, not
//! for a longer one: the end of an outage's deadline is told to all sessions at once.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use super::OnLostReply;
use super::address::parse_listen;
use super::keys::ON_LOST_REPLY;
use super::value::{Raw, show_duration, show_size};

/// Where clients connect, and how their sessions are treated at a failover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// The address; port 0 takes a free one.
    pub addr: SocketAddr,
    /// In place of `on_lost_reply`.
    pub on_lost_reply: Option<OnLostReply>,
    /// In place of `hold_timeout`, where it is shorter.
    pub hold_timeout: Option<Duration>,
    /// In place of `retain_bytes`.
    pub retain_bytes: Option<usize>,
}

const OPTIONS: &str = "on_lost_reply, hold_timeout or retain_bytes";

impl Listen {
    /// A listener without anything of its own.
    pub fn new(addr: SocketAddr) -> Listen {
        Listen { addr, on_lost_reply: None, hold_timeout: None, retain_bytes: None }
    }

    /// Fails with what is wrong with `text`, in a form that follows "expected …, ".
    pub(super) fn parse(text: &str) -> Result<Listen, String> {
        let (addr, options) = text.trim().split_once('?').unwrap_or((text, ""));
        let mut listen = Listen::new(parse_listen(addr)?);
        for option in options.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            let raw = Raw::Text(value.to_owned());
            let within = |problem: String| format!("found {text:?}: {name}: {problem}");
            match name {
                "on_lost_reply" => listen.on_lost_reply = Some(raw.one_of(ON_LOST_REPLY).map_err(within)?),
                "hold_timeout" => {
                    let range = Duration::from_millis(1)..=Duration::from_secs(3600);
                    listen.hold_timeout = Some(raw.duration(range).map_err(within)?);
                }
                "retain_bytes" => listen.retain_bytes = Some(raw.size(0..=1 << 30).map_err(within)?),
                _ => return Err(format!("found {text:?}: a listener has no option {name:?} ({OPTIONS})")),
            }
        }
        Ok(listen)
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let policy = self.on_lost_reply.and_then(|policy| ON_LOST_REPLY.iter().find(|(_, known)| *known == policy));
        let options = [
            policy.map(|(name, _)| format!("on_lost_reply={name}")),
            self.hold_timeout.map(|time| format!("hold_timeout={}", show_duration(time))),
            self.retain_bytes.map(|bytes| format!("retain_bytes={}", show_size(bytes))),
        ];
        let options: Vec<String> = options.into_iter().flatten().collect();
        let mark = if options.is_empty() { "" } else { "?" };
        write!(f, "{}{mark}{}", self.addr, options.join("&"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_shown_as_they_are_read() {
        let text = "127.0.0.1:6380?on_lost_reply=close&hold_timeout=3s&retain_bytes=16KiB";
        let listen = Listen::parse(text).unwrap();
        assert_eq!(listen.on_lost_reply, Some(OnLostReply::Close));
        assert_eq!(listen.to_string(), text);
        assert_eq!(Listen::parse("6379"), Ok(Listen::new("127.0.0.1:6379".parse().unwrap())));
    }

    #[test]
    fn unknown_options_and_bad_values_are_refused() {
        for text in ["6379?on_lost=close", "6379?hold_timeout=3", "6379?on_lost_reply=maybe", "6379?retain_bytes"] {
            assert!(Listen::parse(text).is_err(), "{text}");
        }
    }
}
