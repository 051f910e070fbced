//! The table of every key: one row gives its file name, variable, flag, parser and how it is shown.
//!
//! The variable of a key is always `SWITCHMASTER_` and its name in capitals, so no row can forget one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::value::Raw;
use super::{Config, HoldTimeout, Minority, OnLostPop, OnLostReply, default_workers};
use crate::callout::Address;
use crate::secret::Secret;
use crate::{duration, size};

/// One key of the configuration.
pub struct Key {
    /// Its name in the file.
    pub name: &'static str,
    /// The flag that sets it, with its dashes.
    pub flag: Option<&'static str>,
    /// The variable by which Laravel set-ups know it, in the environment and in `.env`.
    pub laravel: Option<&'static str>,
    /// Variables of the environment by which other programs know it; they yield to all that names switchmaster.
    pub usual: &'static [&'static str],
    /// What a reload does with a new value.
    pub reload: Reload,
    /// A path, which is relative to the file that it stands in.
    pub(super) is_path: bool,
    pub(super) set: fn(&mut Draft, &Raw) -> Result<(), String>,
    /// Puts back, into what was read anew, what the running proxy cannot change.
    pub(super) keep: fn(&mut Config, &Config),
    value: Value,
    has_file: bool,
}

/// What a reload (SIGHUP, `switchmaster reload`) does with a new value of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// It counts at once, for running sessions too.
    Live,
    /// It counts for the sessions to come.
    NewSessions,
    /// It is named in the log, and waits for a restart.
    Restart,
    /// The proxy does not use it: each `switchmaster backup` reads it when it starts.
    Unused,
}

enum Value {
    /// As TOML; `None` when there is none.
    Shown(fn(&Draft) -> Option<String>),
    Secret(fn(&Draft) -> Option<&Secret>),
}

impl Key {
    /// The variable that sets it.
    pub fn variable(&self) -> String {
        format!("SWITCHMASTER_{}", self.name.to_ascii_uppercase())
    }

    /// Never shown.
    pub fn is_secret(&self) -> bool {
        matches!(self.value, Value::Secret(_))
    }

    /// Whether the file knows `NAME_file` too: secrets, and the name that goes with a password.
    pub fn has_file(&self) -> bool {
        self.has_file
    }

    /// The value as TOML, a secret masked; `None` when there is none.
    pub(super) fn show(&self, draft: &Draft) -> Option<String> {
        match self.value {
            Value::Shown(show) => show(draft),
            Value::Secret(get) => get(draft).map(|secret| quote(&secret.to_string())),
        }
    }

    pub(super) fn is_same(&self, one: &Draft, other: &Draft) -> bool {
        match self.value {
            Value::Shown(show) => show(one) == show(other),
            Value::Secret(get) => get(one) == get(other),
        }
    }
}

/// A configuration in the making: complete from the start, since it starts from the defaults.
#[derive(Clone, Debug, Default)]
pub(super) struct Draft {
    pub config: Config,
    pub laravel_env: Option<PathBuf>,
    pub redis: Account,
    pub sentinel: Account,
    /// Credentials that were read from a file of their own, by key.
    pub read_from: BTreeMap<&'static str, PathBuf>,
}

/// User name and password before they are put together.
#[derive(Clone, Debug, Default)]
pub(super) struct Account {
    pub username: Option<String>,
    pub password: Option<Secret>,
}

const MAX_SIZE: usize = 1 << 40;

const fn row(name: &'static str, set: fn(&mut Draft, &Raw) -> Result<(), String>, value: Value) -> Key {
    let has_file = matches!(value, Value::Secret(_));
    let (flag, laravel, usual, reload) = (None, None, &[], Reload::Live);
    Key { name, flag, laravel, usual, reload, is_path: false, set, keep: |_, _| (), value, has_file }
}

const fn key(
    name: &'static str,
    set: fn(&mut Draft, &Raw) -> Result<(), String>,
    show: fn(&Draft) -> Option<String>,
) -> Key {
    row(name, set, Value::Shown(show))
}

const fn secret(
    name: &'static str,
    set: fn(&mut Draft, &Raw) -> Result<(), String>,
    get: fn(&Draft) -> Option<&Secret>,
) -> Key {
    row(name, set, Value::Secret(get))
}

impl Key {
    const fn flag(mut self, flag: &'static str) -> Key {
        self.flag = Some(flag);
        self
    }

    const fn laravel(mut self, variable: &'static str) -> Key {
        self.laravel = Some(variable);
        self
    }

    const fn usual(mut self, variables: &'static [&'static str]) -> Key {
        self.usual = variables;
        self
    }

    const fn path(mut self) -> Key {
        self.is_path = true;
        self
    }

    const fn file(mut self) -> Key {
        self.has_file = true;
        self
    }

    const fn new_sessions(mut self) -> Key {
        self.reload = Reload::NewSessions;
        self
    }

    /// A reload leaves it as it is, as `keep` puts it back.
    const fn restart(mut self, keep: fn(&mut Config, &Config)) -> Key {
        (self.reload, self.keep) = (Reload::Restart, keep);
        self
    }

    const fn unused(mut self) -> Key {
        self.reload = Reload::Unused;
        self
    }
}

/// Every key, in the order of `config.example.toml`.
pub static KEYS: &[Key] = &[
    key("listen", |d, raw| put(&mut d.config.listen, raw.listeners()), |d| Some(list(&d.config.listen)))
        .flag("--listen"),
    key(
        "admin",
        |d, raw| put(&mut d.config.admin, raw.listen_addr_or_off()),
        |d| Some(d.config.admin.map_or_else(|| quote("off"), |addr| quote(&addr.to_string()))),
    )
    .flag("--admin")
    .restart(|next, running| next.admin = running.admin),
    key(
        "admin_socket",
        |d, raw| put(&mut d.config.admin_socket, raw.admin_socket()),
        |d| Some(d.config.admin_socket.to_string()).filter(|text| !text.is_empty()).map(|text| quote(&text)),
    )
    .flag("--admin-socket")
    .restart(|next, running| next.admin_socket.clone_from(&running.admin_socket)),
    secret("admin_token", |d, raw| put(&mut d.config.admin_token, raw.token()), |d| d.config.admin_token.as_ref()),
    key(
        "sentinels",
        |d, raw| put(&mut d.config.sentinel.addrs, raw.sentinels()),
        |d| Some(list(&d.config.sentinel.addrs)),
    )
    .flag("--sentinel")
    .laravel("REDIS_SENTINEL_HOSTS"),
    key(
        "master_name",
        |d, raw| put(&mut d.config.sentinel.master_name, raw.master_name()),
        |d| d.config.sentinel.master_name.as_deref().map(quote),
    )
    .flag("--master-name")
    .laravel("REDIS_SENTINEL_SERVICE_NAME")
    .restart(|next, running| next.sentinel.master_name.clone_from(&running.sentinel.master_name)),
    key(
        "redis_username",
        |d, raw| put(&mut d.redis.username, raw.secret()),
        |d| d.redis.username.as_deref().map(quote),
    )
    .laravel("REDIS_USERNAME")
    .file(),
    secret("redis_password", |d, raw| put(&mut d.redis.password, text(raw)), |d| d.redis.password.as_ref())
        .laravel("REDIS_PASSWORD"),
    key(
        "sentinel_username",
        |d, raw| put(&mut d.sentinel.username, raw.secret()),
        |d| d.sentinel.username.as_deref().map(quote),
    )
    .laravel("REDIS_SENTINEL_USERNAME")
    .file(),
    secret("sentinel_password", |d, raw| put(&mut d.sentinel.password, text(raw)), |d| d.sentinel.password.as_ref())
        .laravel("REDIS_SENTINEL_PASSWORD"),
    key(
        "learn_credentials",
        |d, raw| put(&mut d.config.sentinel.learn_credentials, raw.flag()),
        |d| Some(d.config.sentinel.learn_credentials.to_string()),
    ),
    key("laravel_env", |d, raw| put(&mut d.laravel_env, raw.path()), |d| d.laravel_env.as_deref().map(path))
        .flag("--laravel-env")
        .path(),
    key(
        "address_map",
        |d, raw| put(&mut d.config.sentinel.address_map, raw.address_map()),
        |d| {
            let pairs = d.config.sentinel.address_map.iter();
            let pairs: Vec<String> = pairs.map(|(from, to)| format!("\"{from}\" = \"{to}\"")).collect();
            Some(if pairs.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", pairs.join(", ")) })
        },
    )
    .restart(|next, running| next.sentinel.address_map.clone_from(&running.sentinel.address_map)),
    key(
        "hold_timeout",
        |d, raw| {
            let hold = match raw {
                Raw::Text(text) if text.trim() == "auto" => Ok(HoldTimeout::Auto),
                raw => match raw.duration(seconds(0, 600)) {
                    Ok(duration) => Ok(HoldTimeout::Fixed(duration)),
                    Err(why) => Err(why.replacen("expected ", "expected \"auto\" or ", 1)),
                },
            };
            put(&mut d.config.failover.hold_timeout, hold)
        },
        |d| {
            Some(match d.config.failover.hold_timeout {
                HoldTimeout::Auto => quote("auto"),
                HoldTimeout::Fixed(duration) => quote(&duration::exact(duration)),
            })
        },
    )
    .flag("--hold-timeout"),
    key(
        "planned_hold_limit",
        |d, raw| put(&mut d.config.failover.planned_hold_limit, raw.duration(millis(100, 600_000))),
        |d| Some(quote(&duration::exact(d.config.failover.planned_hold_limit))),
    ),
    key(
        "on_lost_reply",
        |d, raw| put(&mut d.config.failover.on_lost_reply, raw.one_of(ON_LOST_REPLY)),
        |d| Some(name_of(ON_LOST_REPLY, d.config.failover.on_lost_reply)),
    )
    .flag("--on-lost-reply"),
    key(
        "on_lost_pop",
        |d, raw| put(&mut d.config.failover.on_lost_pop, raw.one_of(ON_LOST_POP)),
        |d| Some(name_of(ON_LOST_POP, d.config.failover.on_lost_pop)),
    ),
    key(
        "retain_bytes",
        |d, raw| put(&mut d.config.failover.retain_bytes, raw.size(0..=MAX_SIZE)),
        |d| Some(quote(&size::exact(d.config.failover.retain_bytes))),
    ),
    key(
        "retain_total",
        |d, raw| put(&mut d.config.failover.retain_total_bytes, raw.size(0..=MAX_SIZE)),
        |d| Some(quote(&size::exact(d.config.failover.retain_total_bytes))),
    ),
    key(
        "warm_backends",
        |d, raw| put(&mut d.config.backends.warm, raw.number("a number of connections", 0..=1000)),
        |d| Some(d.config.backends.warm.to_string()),
    ),
    key(
        "reuse_backends",
        |d, raw| put(&mut d.config.backends.reuse, raw.flag()),
        |d| Some(d.config.backends.reuse.to_string()),
    ),
    key(
        "detach_idle_after",
        |d, raw| {
            let after = match raw.duration(seconds(0, 604_800)) {
                Ok(short) if !short.is_zero() && short < Duration::from_millis(100) => {
                    Err(format!("expected \"0s\" or a duration from 100ms to 7d, found {}", duration::exact(short)))
                }
                after => after,
            };
            put(&mut d.config.backends.detach_idle_after, after)
        },
        |d| Some(quote(&duration::exact(d.config.backends.detach_idle_after))),
    ),
    key(
        "minority",
        |d, raw| put(&mut d.config.sentinel.minority, raw.one_of(MINORITY)),
        |d| Some(name_of(MINORITY, d.config.sentinel.minority)),
    ),
    key(
        "heartbeat",
        |d, raw| put(&mut d.config.sentinel.heartbeat, raw.duration(millis(10, 10_000))),
        |d| Some(quote(&duration::exact(d.config.sentinel.heartbeat))),
    ),
    key(
        "suspect_after",
        |d, raw| put(&mut d.config.sentinel.suspect_after, raw.duration(millis(20, 60_000))),
        |d| Some(quote(&duration::exact(d.config.sentinel.suspect_after))),
    ),
    key(
        "poll_interval",
        |d, raw| put(&mut d.config.sentinel.poll_interval, raw.duration(millis(100, 60_000))),
        |d| Some(quote(&duration::exact(d.config.sentinel.poll_interval))),
    ),
    secret(
        "webhook_url",
        |d, raw| put(&mut d.config.notify.webhook, raw.callout()),
        |d| d.config.notify.webhook.as_ref().map(Address::secret),
    ),
    secret(
        "heartbeat_url",
        |d, raw| put(&mut d.config.notify.heartbeat, raw.callout()),
        |d| d.config.notify.heartbeat.as_ref().map(Address::secret),
    ),
    key(
        "heartbeat_interval",
        |d, raw| put(&mut d.config.notify.heartbeat_interval, raw.duration(seconds(1, 86_400))),
        |d| Some(quote(&duration::exact(d.config.notify.heartbeat_interval))),
    ),
    key(
        "backup_store",
        |d, raw| put(&mut d.config.backup.store, raw.location()),
        |d| d.config.backup.store.as_ref().map(|store| quote(&store.to_string())),
    )
    .unused(),
    key(
        "backup_s3_endpoint",
        |d, raw| put(&mut d.config.backup.s3_endpoint, raw.endpoint()),
        |d| d.config.backup.s3_endpoint.as_deref().map(quote),
    )
    .usual(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"])
    .unused(),
    key(
        "backup_s3_region",
        |d, raw| {
            let region = raw.line("a region, such as \"us-east-1\"")?;
            d.config.backup.s3_region = region.ok_or("expected a region, such as \"us-east-1\", found none")?;
            Ok(())
        },
        |d| Some(quote(&d.config.backup.s3_region)),
    )
    .usual(&["AWS_REGION", "AWS_DEFAULT_REGION"])
    .unused(),
    key(
        "backup_s3_path_style",
        |d, raw| put(&mut d.config.backup.s3_path_style, raw.flag()),
        |d| Some(d.config.backup.s3_path_style.to_string()),
    )
    .unused(),
    key(
        "backup_s3_access_key_id",
        |d, raw| put(&mut d.config.backup.s3_access_key_id, raw.secret()),
        |d| d.config.backup.s3_access_key_id.as_deref().map(quote),
    )
    .usual(&["AWS_ACCESS_KEY_ID"])
    .file()
    .unused(),
    secret(
        "backup_s3_secret_access_key",
        |d, raw| put(&mut d.config.backup.s3_secret_access_key, text(raw)),
        |d| d.config.backup.s3_secret_access_key.as_ref(),
    )
    .usual(&["AWS_SECRET_ACCESS_KEY"])
    .unused(),
    secret(
        "backup_s3_session_token",
        |d, raw| put(&mut d.config.backup.s3_session_token, text(raw)),
        |d| d.config.backup.s3_session_token.as_ref(),
    )
    .usual(&["AWS_SESSION_TOKEN"])
    .unused(),
    key(
        "backup_recipients",
        |d, raw| put(&mut d.config.backup.recipients, raw.recipients()),
        |d| Some(list(&d.config.backup.recipients)),
    )
    .unused(),
    key(
        "backup_identity_file",
        |d, raw| put(&mut d.config.backup.identity_file, raw.path()),
        |d| d.config.backup.identity_file.as_deref().map(path),
    )
    .path()
    .unused(),
    key(
        "backup_spool_dir",
        |d, raw| put(&mut d.config.backup.spool_dir, raw.path()),
        |d| d.config.backup.spool_dir.as_deref().map(path),
    )
    .path()
    .unused(),
    key(
        "backup_textfile",
        |d, raw| put(&mut d.config.backup.textfile, raw.path()),
        |d| d.config.backup.textfile.as_deref().map(path),
    )
    .path()
    .unused(),
    secret(
        "backup_heartbeat_url",
        |d, raw| put(&mut d.config.backup.heartbeat, raw.callout()),
        |d| d.config.backup.heartbeat.as_ref().map(Address::secret),
    )
    .unused(),
    key(
        "workers",
        |d, raw| {
            let workers = match raw {
                Raw::Text(text) if text.trim() == "auto" => Ok(default_workers()),
                raw => raw.number("\"auto\" or a whole number", 1..=1024),
            };
            put(&mut d.config.workers, workers)
        },
        |d| Some(d.config.workers.to_string()),
    )
    .flag("--workers")
    .restart(|next, running| next.workers = running.workers),
    key(
        "max_clients",
        |d, raw| put(&mut d.config.max_clients, raw.number("a whole number", 1..=10_000_000)),
        |d| Some(d.config.max_clients.to_string()),
    )
    .flag("--max-clients")
    .new_sessions(),
    key(
        "drain_grace",
        |d, raw| put(&mut d.config.drain_grace, raw.duration(seconds(0, 86_400))),
        |d| Some(quote(&duration::exact(d.config.drain_grace))),
    )
    .flag("--drain-grace"),
    key("state_dir", |d, raw| put(&mut d.config.state_dir, raw.path()), |d| d.config.state_dir.as_deref().map(path))
        .flag("--state-dir")
        .restart(|next, running| next.state_dir.clone_from(&running.state_dir))
        .path(),
    key(
        "log_level",
        |d, raw| put(&mut d.config.log.level, raw.one_of(LEVEL)),
        |d| Some(name_of(LEVEL, d.config.log.level)),
    )
    .flag("--log-level"),
    key(
        "log_format",
        |d, raw| put(&mut d.config.log.json, raw.one_of(FORMAT)),
        |d| Some(name_of(FORMAT, d.config.log.json)),
    )
    .flag("--log-format")
    .restart(|next, running| next.log.json = running.log.json),
];

pub(super) const ON_LOST_REPLY: &[(&str, OnLostReply)] = &[
    ("error", OnLostReply::Error),
    ("close", OnLostReply::Close),
    ("retry-idempotent", OnLostReply::RetryIdempotent),
    ("retry-all", OnLostReply::RetryAll),
];
const ON_LOST_POP: &[(&str, OnLostPop)] =
    &[("resend", OnLostPop::Resend), ("error", OnLostPop::Error), ("close", OnLostPop::Close)];
const MINORITY: &[(&str, Minority)] = &[("warn", Minority::Warn), ("stop", Minority::Stop)];
const FORMAT: &[(&str, bool)] = &[("text", false), ("json", true)];
const LEVEL: &[(&str, tracing::Level)] = &[
    ("error", tracing::Level::ERROR),
    ("warn", tracing::Level::WARN),
    ("info", tracing::Level::INFO),
    ("debug", tracing::Level::DEBUG),
    ("trace", tracing::Level::TRACE),
];

fn text(raw: &Raw) -> Result<Option<Secret>, String> {
    Ok(raw.secret()?.map(Secret::new))
}

fn put<T>(place: &mut T, value: Result<T, String>) -> Result<(), String> {
    *place = value?;
    Ok(())
}

fn seconds(low: u64, high: u64) -> std::ops::RangeInclusive<Duration> {
    Duration::from_secs(low)..=Duration::from_secs(high)
}

fn millis(low: u64, high: u64) -> std::ops::RangeInclusive<Duration> {
    Duration::from_millis(low)..=Duration::from_millis(high)
}

fn name_of<T: Copy + PartialEq>(choices: &[(&str, T)], wanted: T) -> String {
    quote(choices.iter().find(|(_, choice)| *choice == wanted).expect("every choice has a name").0)
}

fn list<T: std::fmt::Display>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(|item| quote(&item.to_string())).collect();
    format!("[{}]", items.join(", "))
}

/// A path that means the same wherever the printed file is put.
pub(super) fn path(path: &Path) -> String {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    quote(&path.display().to_string())
}

/// A TOML string.
pub(super) fn quote(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
