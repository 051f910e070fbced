//! What a Laravel's files say ([`read`]), by simple means: a value is a number or a call of `env()`, on one line.
//!
//! Read-only. What is written otherwise is reported as not read, never guessed.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::timeout;

use crate::address::HostPort;
use crate::duration;
use crate::facts::{Application, Fields};
use crate::sentinel::client::AddressMap;
use crate::wire::Wire;

/// For connecting where the application does.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// Packages that find the master by themselves.
const PACKAGES: &[&str] = &[
    "monospice/laravel-redis-sentinel-drivers",
    "namoshek/laravel-redis-sentinel",
    "goopil/laravel-redis-sentinel",
    "cooperaj/laravel-redis-sentinel",
    "hxd/redis-sentinel-switch",
    "iben12/laravel-redis-sentinel",
];

/// Reads the application in the folder `path`, whose `.env` says `variables`; `ours` are the addresses of switchmaster.
pub async fn read(path: &Path, variables: &Fields, ours: &[String]) -> Application {
    let mut unread = Vec::new();
    let mut application = Application { path: path.display().to_string(), ..Application::default() };
    application.target = target(variables);
    (application.is_ours, application.refused) = follow(&application.target, ours).await;
    if let Some((_, composer)) = contents(path.join("composer.json"), &mut unread) {
        let has = |name: &str| composer.contains(&format!("\"{name}\""));
        application.packages.extend(PACKAGES.iter().filter(|name| has(name)).map(|name| (*name).to_owned()));
        application.has_reverb = has("laravel/reverb");
    }
    let files: [(&str, &[(&'static str, &'static str)]); 3] = [
        ("config/queue.php", &[("retry_after", "retry_after")]),
        (
            "config/database.php",
            &[
                ("read_timeout", "read_timeout"),
                ("read_write_timeout", "read_write_timeout"),
                ("command_retries", "command_retries"),
                ("retry", "retry"),
            ],
        ),
        ("config/horizon.php", &[("timeout", "timeout of horizon")]),
    ];
    for (file, names) in files {
        let file = path.join(file);
        if file.ends_with("horizon.php") && !file.exists() {
            continue;
        }
        let Some((file, php)) = contents(file, &mut unread) else { continue };
        let php = if file.ends_with("queue.php") { section(&php, "redis") } else { php };
        if file.ends_with("database.php")
            && meaningful(&php).any(|(_, line)| is_key(line, "replication") && line.contains("sentinel"))
        {
            application.packages.push("'replication' => 'sentinel' in config/database.php".to_owned());
        }
        for (key, name) in names {
            for found in values(&php, key, variables) {
                match found {
                    Ok(number) => application.numbers.push((*name, number, file.display().to_string())),
                    Err(line) => unread.push(format!("{}: {line}", file.display())),
                }
            }
        }
    }
    for (pattern, name) in [("/etc/php", "request_terminate_timeout"), ("/etc/nginx", "fastcgi_read_timeout")] {
        directives(Path::new(pattern), name, 4, &mut application.numbers, &mut unread);
    }
    // A time-out of 0 is none.
    let is_limit = |name: &str| !matches!(name, "command_retries" | "retry");
    application.numbers.retain(|(name, number, _)| *number > 0.0 || !is_limit(name));
    Application { unread, ..application }
}

fn contents(file: PathBuf, unread: &mut Vec<String>) -> Option<(PathBuf, String)> {
    match std::fs::read_to_string(&file) {
        Ok(text) => Some((file, text)),
        Err(error) => {
            unread.push(format!("{}: {error}", file.display()));
            None
        }
    }
}

/// Where Laravel connects: REDIS_URL before the rest; a host that is a path is a socket.
fn target(variables: &Fields) -> String {
    let get = |name: &str| variables.get(name).map(String::as_str);
    let (mut host, mut port) = (get("REDIS_HOST").unwrap_or("127.0.0.1"), get("REDIS_PORT").unwrap_or("6379"));
    if let Some(url) = get("REDIS_URL") {
        let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
        if url.starts_with("unix:") {
            return rest.split('?').next().unwrap_or_default().to_owned();
        }
        let place = rest.split(['/', '?']).next().unwrap_or_default();
        let place = place.rsplit_once('@').map_or(place, |(_, place)| place);
        (host, port) =
            place.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).unwrap_or((place, "6379"));
    }
    let host = host.strip_prefix("tls://").or(host.strip_prefix("tcp://")).unwrap_or(host);
    let host = host.strip_prefix("unix://").or(host.strip_prefix("unix:")).unwrap_or(host);
    if host.starts_with('/') { host.to_owned() } else { format!("{host}:{port}") }
}

/// Whether it is one of ours, and why nobody answers there.
async fn follow(target: &str, ours: &[String]) -> (bool, Option<String>) {
    if target.starts_with('/') {
        let is_ours = |own: &String| own.strip_prefix("unix:").unwrap_or(own) == target;
        return (ours.iter().any(is_ours), ping(Wire::connect_unix(Path::new(target))).await);
    }
    let Ok(at) = HostPort::parse(target, None) else { return (false, Some("no address".to_owned())) };
    let address = match AddressMap::new(Vec::new()).resolve(&at, CONNECT_LIMIT).await {
        Ok(address) => address,
        Err(error) => return (false, Some(error.to_string())),
    };
    let is_ours = |own: &String| {
        let own: Option<SocketAddr> = own.parse().ok();
        own.is_some_and(|own| own.port() == address.port() && (own.ip() == address.ip() || own.ip().is_unspecified()))
    };
    (ours.iter().any(is_ours), ping(Wire::connect(address)).await)
}

/// Why there is no answer; one that asks for a password is an answer.
async fn ping(connecting: impl Future<Output = io::Result<Wire>>) -> Option<String> {
    match timeout(CONNECT_LIMIT, async { connecting.await?.ask(&["PING"]).await }).await {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("no answer within {} s", CONNECT_LIMIT.as_secs())),
    }
}

/// Lines that are no comments, with their numbers from 1.
fn meaningful(php: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = php.lines().enumerate().map(|(at, line)| (at + 1, line.trim()));
    lines.filter(|(_, line)| !["//", "#", "*", "/*", "|"].iter().any(|comment| line.starts_with(comment)))
}

fn is_key(line: &str, key: &str) -> bool {
    let quoted = line.strip_prefix(['\'', '"']).and_then(|rest| rest.strip_prefix(key));
    quoted.is_some_and(|rest| rest.starts_with(['\'', '"']) && rest.contains("=>"))
}

/// From the line that opens the array `name` to the one that closes it.
fn section(php: &str, name: &str) -> String {
    let mut depth = 0_i32;
    let mut lines = Vec::new();
    for (_, line) in meaningful(php) {
        if depth == 0 && !(is_key(line, name) && line.ends_with('[')) {
            continue;
        }
        depth += line.matches('[').count() as i32 - line.matches(']').count() as i32;
        lines.push(line);
        if depth <= 0 {
            break;
        }
    }
    lines.join("\n")
}

/// Each value of a key: a number, or the default or the variable of `env()`; else its line.
fn values(php: &str, key: &str, variables: &Fields) -> Vec<Result<f64, String>> {
    let lines = meaningful(php).map(|(_, line)| line).filter(|line| is_key(line, key));
    let value = |line: &str| {
        let value = line.split_once("=>").map_or("", |(_, value)| value).split("//").next().unwrap_or_default().trim();
        let value = value.trim_end_matches(',').trim();
        let bare = |text: &str| text.trim().trim_matches(['\'', '"']).parse::<f64>().ok();
        let call = value.trim_start_matches("(int)").trim_start_matches("(float)").trim();
        let inner = call.strip_prefix("env(").and_then(|rest| rest.strip_suffix(')'));
        let of_env = inner.and_then(|inner| {
            let (name, default) = inner.split_once(',').unwrap_or((inner, "0"));
            bare(variables.get(name.trim().trim_matches(['\'', '"'])).map_or(default, String::as_str))
        });
        let null = (value == "null" || value == "[" || value == "[]").then_some(0.0);
        bare(value).or(of_env).or(null).ok_or_else(|| format!("{key}: `{value}` is not understood"))
    };
    lines.map(value).collect()
}

/// Directives of nginx or FPM below a folder, if there is one.
fn directives(
    folder: &Path,
    name: &'static str,
    depth: usize,
    numbers: &mut Vec<(&'static str, f64, String)>,
    unread: &mut Vec<String>,
) {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) if depth > 0 => entries,
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return unread.push(format!("{}: {error}", folder.display()));
        }
        _ => return,
    };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        if path.is_dir() {
            directives(&path, name, depth - 1, numbers, unread);
            continue;
        }
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        for line in text.lines().map(str::trim) {
            let Some(value) = line.strip_prefix(name).filter(|rest| rest.starts_with([' ', '\t', '='])) else {
                continue;
            };
            let value = value.trim_matches([' ', '\t', '=', ';']);
            match seconds(value) {
                Some(seconds) => numbers.push((name, seconds, path.display().to_string())),
                None => unread.push(format!("{}: {name} `{value}` is not understood", path.display())),
            }
        }
    }
}

/// `30` and what the grammar of durations has: `30s`, `2m`, `500ms`.
fn seconds(value: &str) -> Option<f64> {
    let bare = value.parse().map(Duration::from_secs).ok();
    bare.or_else(|| duration::parse(value).ok()).map(|value| value.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&str, &str)]) -> Fields {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn an_application_leads_where_laravel_would_connect() {
        for (variables, expected) in [
            (&[][..], "127.0.0.1:6379"),
            (&[("REDIS_HOST", "10.0.0.1"), ("REDIS_PORT", "6380")], "10.0.0.1:6380"),
            (&[("REDIS_HOST", "x"), ("REDIS_URL", "redis://user:p@ss@db:7/1?x=1")], "db:7"),
            (&[("REDIS_URL", "tcp://db")], "db:6379"),
            (&[("REDIS_HOST", "/run/switchmaster.sock"), ("REDIS_PORT", "0")], "/run/switchmaster.sock"),
            (&[("REDIS_HOST", "tls://db")], "db:6379"),
        ] {
            assert_eq!(target(&fields(variables)), expected, "{variables:?}");
        }
    }

    #[test]
    fn numbers_of_php_are_read_or_reported() {
        let php = "<?php return ['connections' => [\n'database' => [\n'retry_after' => 30,\n],\n'redis' => [\n// 'retry_after' => 1,\n\
                   'retry_after' => (int) env('REDIS_QUEUE_RETRY_AFTER', 90),\n'block_for' => null,\n],\n]];";
        let redis = section(php, "redis");
        assert_eq!(values(&redis, "retry_after", &Fields::new()), [Ok(90.0)]);
        assert_eq!(values(&redis, "retry_after", &fields(&[("REDIS_QUEUE_RETRY_AFTER", "45")])), [Ok(45.0)]);
        assert_eq!(values(&redis, "block_for", &Fields::new()), [Ok(0.0)]);
        let odd = values("'retry' => Config::retries(),", "retry", &Fields::new());
        assert_eq!(odd, [Err("retry: `Config::retries()` is not understood".to_owned())]);
        assert_eq!(
            [seconds("30s"), seconds("2m"), seconds("500ms"), seconds("x")],
            [Some(30.0), Some(120.0), Some(0.5), None]
        );
    }
}
