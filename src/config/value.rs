//! One value as it was written ([`Raw`]), and how it becomes a typed one.
//!
//! Every refusal reads "expected …, found …". `Raw` has no `Debug`: it may be a secret.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::address::parse_listen;
use super::{AdminSocket, DEFAULT_SENTINEL_PORT, HostPort, Listen, Location};
use crate::callout::{self, Address};
use crate::secret::Secret;
use crate::{duration, size};

/// A value as it was written. Flags, environment and `.env` give `Text` (or `List`, for repeated flags).
#[derive(Clone)]
pub enum Raw {
    /// Text.
    Text(String),
    /// A TOML integer.
    Integer(String),
    /// A TOML boolean.
    Bool(bool),
    /// A TOML array of strings or integers; a repeated flag.
    List(Vec<String>),
    /// A TOML table of strings.
    Table(Vec<(String, String)>),
    /// Any other TOML value, named as in "an array of tables".
    Other(&'static str),
}

const LISTEN: &str = "IP:PORT, [IPV6]:PORT, a port alone or unix:/PATH, such as \"127.0.0.1:6379\"";
const HOST: &str = "HOST or HOST:PORT (an IPv6 address as [ADDRESS]:PORT), such as \"10.0.0.5:26379\"";
const MAP: &str = "pairs of HOST:PORT, such as { \"172.17.0.2:6379\" = \"10.0.0.5:6379\" }";

impl Raw {
    pub(super) fn listeners(&self) -> Result<Vec<Listen>, String> {
        let items = self.items(LISTEN)?;
        items.iter().map(|item| Listen::parse(item).map_err(|found| expected(LISTEN, found))).collect()
    }

    pub(super) fn listen_addr_or_off(&self) -> Result<Option<SocketAddr>, String> {
        const ADMIN: &str = "\"off\", IP:PORT, [IPV6]:PORT or a port alone, such as \"127.0.0.1:9379\"";
        match self {
            Raw::Text(text) if text.trim().eq_ignore_ascii_case("off") => Ok(None),
            Raw::Text(text) | Raw::Integer(text) => {
                parse_listen(text).map(Some).map_err(|found| expected(ADMIN, found))
            }
            other => Err(other.mismatch(ADMIN)),
        }
    }

    pub(super) fn admin_socket(&self) -> Result<AdminSocket, String> {
        const SOCKET: &str = "\"off\" or unix:/PATH, such as \"unix:/run/switchmaster/admin.sock?group=adm\"";
        match self {
            Raw::Text(text) => AdminSocket::parse(text).map_err(|found| expected(SOCKET, found)),
            other => Err(other.mismatch(SOCKET)),
        }
    }

    /// Hosts with the Sentinel port as the default; one named twice is taken once.
    pub(super) fn sentinels(&self) -> Result<Vec<HostPort>, String> {
        let mut hosts = Vec::new();
        for item in self.items(HOST)? {
            // Predis writes them as tcp://host:port?timeout=….
            let bare = item.strip_prefix("tcp://").map_or(item.as_str(), |rest| rest.split(['?', '/']).next().unwrap());
            let host = HostPort::parse(bare, Some(DEFAULT_SENTINEL_PORT)).map_err(|found| expected(HOST, found))?;
            if !hosts.contains(&host) {
                hosts.push(host);
            }
        }
        Ok(hosts)
    }

    pub(super) fn address_map(&self) -> Result<Vec<(HostPort, HostPort)>, String> {
        let pairs = match self {
            Raw::Table(pairs) => pairs.clone(),
            Raw::Text(text) => split_list(text)
                .into_iter()
                .map(|pair| match pair.split_once('=') {
                    Some((from, to)) => Ok((from.to_owned(), to.to_owned())),
                    None => Err(expected(
                        "REPORTED=DIALLED pairs, such as \"172.17.0.2:6379=10.0.0.5:6379\"",
                        format!("found {pair:?}"),
                    )),
                })
                .collect::<Result<_, _>>()?,
            other => return Err(other.mismatch(MAP)),
        };
        let parse = |text: &str| text.parse::<HostPort>().map_err(|found| expected(MAP, found));
        let mut map: Vec<(HostPort, HostPort)> = Vec::new();
        for (from, to) in &pairs {
            let (from, to) = (parse(from)?, parse(to)?);
            if map.iter().any(|(known, _)| *known == from) {
                return Err(format!("{from} is mapped twice; leave one of the two"));
            }
            map.push((from, to));
        }
        Ok(map)
    }

    pub(super) fn number(&self, what: &str, range: RangeInclusive<usize>) -> Result<usize, String> {
        let what = format!("{what} from {} to {}", range.start(), range.end());
        match self {
            Raw::Text(text) | Raw::Integer(text) => match text.trim().parse() {
                Ok(number) if range.contains(&number) => Ok(number),
                _ => Err(self.mismatch(&what)),
            },
            other => Err(other.mismatch(&what)),
        }
    }

    pub(super) fn duration(&self, range: RangeInclusive<Duration>) -> Result<Duration, String> {
        let duration = match self {
            Raw::Text(text) => duration::parse(text)?,
            Raw::Integer(text) => {
                return Err(format!("expected {}, found {text}: the unit is missing", duration::EXPECTED));
            }
            other => return Err(other.mismatch(duration::EXPECTED)),
        };
        if range.contains(&duration) {
            return Ok(duration);
        }
        let (low, high) = (duration::exact(*range.start()), duration::exact(*range.end()));
        Err(format!("expected a duration from {low} to {high}, found {}", duration::exact(duration)))
    }

    pub(super) fn size(&self, range: RangeInclusive<usize>) -> Result<usize, String> {
        let size = match self {
            Raw::Text(text) | Raw::Integer(text) => size::parse(text)?,
            other => return Err(other.mismatch(size::EXPECTED)),
        };
        if range.contains(&size) {
            return Ok(size);
        }
        let (low, high) = (size::exact(*range.start()), size::exact(*range.end()));
        Err(format!("expected a size from {low} to {high}, found {}", size::exact(size)))
    }

    pub(super) fn flag(&self) -> Result<bool, String> {
        match self {
            Raw::Bool(flag) => Ok(*flag),
            Raw::Text(text) => match text.trim().to_ascii_lowercase().as_str() {
                "true" | "yes" | "on" | "1" => Ok(true),
                "false" | "no" | "off" | "0" => Ok(false),
                _ => Err(self.mismatch("true or false")),
            },
            other => Err(other.mismatch("true or false")),
        }
    }

    pub(super) fn one_of<T: Copy>(&self, choices: &[(&str, T)]) -> Result<T, String> {
        if let Raw::Text(text) = self {
            let wanted = text.trim().to_ascii_lowercase();
            if let Some((_, choice)) = choices.iter().find(|(name, _)| *name == wanted) {
                return Ok(*choice);
            }
        }
        let names: Vec<String> = choices.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        Err(self.mismatch(&format!("one of {}", names.join(", "))))
    }

    /// Text; `None` when empty. Nothing of the value goes into the refusal.
    pub(super) fn secret(&self) -> Result<Option<String>, String> {
        match self {
            Raw::Text(text) if text.is_empty() => Ok(None),
            Raw::Text(text) if text.contains(['\r', '\n', '\0']) => {
                Err("expected text of one line, found a line break or a zero byte in it".to_owned())
            }
            Raw::Text(text) => Ok(Some(text.clone())),
            Raw::Integer(_) => Err("expected text in quotes, found a bare number".to_owned()),
            other => Err(format!("expected text in quotes, found {}", other.kind())),
        }
    }

    /// An address that is called, and that whoever has it may call; `None` when empty.
    pub(super) fn callout(&self) -> Result<Option<Address>, String> {
        let Some(text) = self.secret()? else { return Ok(None) };
        let refusal = || format!("expected {}, found something else", callout::EXPECTED);
        Address::parse(text.trim()).map(Some).ok_or_else(refusal)
    }

    /// A secret that goes into an HTTP header, and that nobody should guess; `None` when empty.
    pub(super) fn token(&self) -> Result<Option<Secret>, String> {
        const TOKEN: &str = "at least 16 letters, digits or other visible characters without spaces";
        match self.secret()? {
            Some(text) if text.len() < 16 => Err(format!("expected {TOKEN}, found {}", text.len())),
            Some(text) if !text.bytes().all(|byte| byte.is_ascii_graphic()) => {
                Err(format!("expected {TOKEN}, found another one among them"))
            }
            text => Ok(text.map(Secret::new)),
        }
    }

    /// A name that Sentinel accepts; `None` when empty.
    pub(super) fn master_name(&self) -> Result<Option<String>, String> {
        const NAME: &str = "a name of letters, digits and .-_, as in `sentinel monitor NAME …`";
        match self {
            Raw::Text(text) if text.is_empty() => Ok(None),
            Raw::Text(text) if text.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c)) => {
                Ok(Some(text.clone()))
            }
            other => Err(other.mismatch(NAME)),
        }
    }

    /// Text of one line; `None` when empty.
    pub(super) fn line(&self, what: &str) -> Result<Option<String>, String> {
        match self {
            Raw::Text(text) if text.is_empty() => Ok(None),
            Raw::Text(text) if !text.contains(char::is_whitespace) => Ok(Some(text.clone())),
            other => Err(other.mismatch(what)),
        }
    }

    pub(super) fn location(&self) -> Result<Option<Location>, String> {
        match self {
            Raw::Text(text) if text.is_empty() => Ok(None),
            Raw::Text(text) => Location::parse(text).map(Some),
            other => Err(other.mismatch("s3://BUCKET/PREFIX or file:///DIR in quotes")),
        }
    }

    /// `http://HOST:PORT` or `https://…`, without a path.
    pub(super) fn endpoint(&self) -> Result<Option<String>, String> {
        const ENDPOINT: &str = "https://HOST or https://HOST:PORT, such as \"https://us-east-1.linodeobjects.com\"";
        match self {
            Raw::Text(text) if text.is_empty() => Ok(None),
            Raw::Text(text) => {
                let bare = text.trim_end_matches('/');
                let host = bare.strip_prefix("https://").or_else(|| bare.strip_prefix("http://")).unwrap_or_default();
                match host.is_empty() || host.contains(|c: char| "/?#@".contains(c) || c.is_whitespace()) {
                    true => Err(self.mismatch(ENDPOINT)),
                    false => Ok(Some(bare.to_owned())),
                }
            }
            other => Err(other.mismatch(ENDPOINT)),
        }
    }

    /// age recipients; an empty list is none.
    pub(super) fn recipients(&self) -> Result<Vec<String>, String> {
        const RECIPIENTS: &str = "age recipients, such as [\"age1…\"]";
        let items = match self {
            Raw::List(items) if items.is_empty() => Vec::new(),
            Raw::Text(text) if text.is_empty() => Vec::new(),
            raw => raw.items(RECIPIENTS)?,
        };
        match items.iter().find(|item| !item.starts_with("age1")) {
            // Nothing of the value: it may be the identity, taken for the recipient.
            Some(_) => Err(format!("expected {RECIPIENTS}, found one that does not begin with age1")),
            None => Ok(items),
        }
    }

    pub(super) fn path(&self) -> Result<Option<PathBuf>, String> {
        match self {
            Raw::Text(text) if text.is_empty() => Ok(None),
            Raw::Text(text) => Ok(Some(PathBuf::from(text))),
            other => Err(other.mismatch("a path in quotes")),
        }
    }

    /// A list, or one text with commas; never empty.
    fn items(&self, what: &str) -> Result<Vec<String>, String> {
        let items = match self {
            Raw::Text(text) | Raw::Integer(text) => split_list(text),
            Raw::List(items) => items.iter().flat_map(|item| split_list(item)).collect(),
            other => return Err(other.mismatch(what)),
        };
        match items.is_empty() {
            true => Err(format!("expected {what}, found none")),
            false => Ok(items),
        }
    }

    fn mismatch(&self, what: &str) -> String {
        let found = match self {
            Raw::Text(text) => format!("found {text:?}"),
            Raw::Integer(text) => format!("found {text}"),
            Raw::Bool(flag) => format!("found {flag}"),
            other => format!("found {}", other.kind()),
        };
        expected(what, found)
    }

    fn kind(&self) -> &'static str {
        match self {
            Raw::Text(_) => "text",
            Raw::Integer(_) => "a number",
            Raw::Bool(_) => "true or false",
            Raw::List(_) => "a list",
            Raw::Table(_) => "a table",
            Raw::Other(kind) => kind,
        }
    }
}

fn expected(what: &str, found: String) -> String {
    format!("expected {what}, {found}")
}

fn split_list(text: &str) -> Vec<String> {
    let quotes = ['"', '\''];
    text.split([',', ' ', '\t', '\n'])
        .map(|item| item.trim().trim_matches(quotes))
        .filter(|item| !item.is_empty())
        .map(str::to_owned)
        .collect()
}
