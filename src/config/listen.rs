//! One listener: its address and, behind `?`, what differs there from the rest of the configuration.
//!
//! `127.0.0.1:6380?on_lost_reply=close&hold_timeout=3s`. A listener can hold for a shorter time than the proxy, not
//! for a longer one: the end of an outage's deadline is told to all sessions at once.

use std::fmt;
use std::time::Duration;

use super::OnLostReply;
use super::address::parse_listen;
use super::keys::ON_LOST_REPLY;
use super::value::Raw;
use crate::net::{LONGEST_UNIX_PATH, ListenAddr};
use crate::{duration, size};

/// Where clients connect, and how their sessions are treated at a failover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Where; port 0 takes a free one.
    pub addr: ListenAddr,
    /// Permissions of a Unix socket.
    pub mode: u32,
    /// Group of a Unix socket, a name or a number; that of the process without.
    pub group: Option<String>,
    /// In place of `on_lost_reply`.
    pub on_lost_reply: Option<OnLostReply>,
    /// In place of `hold_timeout`, where it is shorter.
    pub hold_timeout: Option<Duration>,
    /// In place of `retain_bytes`.
    pub retain_bytes: Option<usize>,
}

const OPTIONS: &str = "on_lost_reply, hold_timeout or retain_bytes; a Unix socket also mode and group";
/// The owner and the group of the process may connect.
const MODE: u32 = 0o660;

impl Listen {
    /// A listener without anything of its own.
    pub fn new(addr: ListenAddr) -> Listen {
        Listen { addr, mode: MODE, group: None, on_lost_reply: None, hold_timeout: None, retain_bytes: None }
    }

    /// Fails with what is wrong with `text`, in a form that follows "expected …, ".
    pub(super) fn parse(text: &str) -> Result<Listen, String> {
        let (addr, options) = text.trim().split_once('?').unwrap_or((text, ""));
        let mut listen = Listen::new(match addr.strip_prefix("unix:").or(addr.starts_with('/').then_some(addr)) {
            Some(path) if !path.starts_with('/') => {
                return Err(format!("found {text:?}: the path of a Unix socket begins with \"/\""));
            }
            Some(path) if path.len() > LONGEST_UNIX_PATH => {
                let length = path.len();
                return Err(format!(
                    "found {text:?}: the path of a Unix socket has at most {LONGEST_UNIX_PATH} bytes, this one {length}"
                ));
            }
            Some(path) => ListenAddr::Unix(path.into()),
            None => ListenAddr::Tcp(parse_listen(addr)?),
        });
        let is_unix = matches!(listen.addr, ListenAddr::Unix(_));
        for option in options.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            let raw = Raw::Text(value.to_owned());
            let within = |problem: String| format!("found {text:?}: {name}: {problem}");
            match name {
                "mode" if is_unix => {
                    let mode = u32::from_str_radix(value, 8).ok().filter(|mode| (1..=0o777).contains(mode));
                    listen.mode = mode.ok_or_else(|| within("expected three octal digits, such as 660".into()))?;
                }
                "group" if is_unix && !value.is_empty() => listen.group = Some(value.into()),
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
            (self.mode != MODE).then(|| format!("mode={:o}", self.mode)),
            self.group.as_ref().map(|group| format!("group={group}")),
            policy.map(|(name, _)| format!("on_lost_reply={name}")),
            self.hold_timeout.map(|time| format!("hold_timeout={}", duration::exact(time))),
            self.retain_bytes.map(|bytes| format!("retain_bytes={}", size::exact(bytes))),
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
        let text = "unix:/run/switchmaster/redis.sock?mode=666&group=www-data";
        assert_eq!(Listen::parse(text).unwrap().to_string(), text);
        assert_eq!(Listen::parse("6379"), Ok(Listen::new(ListenAddr::Tcp("127.0.0.1:6379".parse().unwrap()))));
    }

    #[test]
    fn unknown_options_and_bad_values_are_refused() {
        for text in [
            "6379?on_lost=close",
            "6379?hold_timeout=3",
            "6379?on_lost_reply=maybe",
            "6379?retain_bytes",
            &format!("unix:/{}", "s".repeat(LONGEST_UNIX_PATH)),
            "6379?mode=660",
            "unix:a.sock",
            "/a?mode=888",
            "/a?group=",
        ] {
            assert!(Listen::parse(text).is_err(), "{text}");
        }
    }
}
