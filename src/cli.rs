//! The command line: clap structs only.
//!
//! No flag takes a secret (everybody sees a process's arguments), and no value is interpreted here: the same table
//! that reads the file reads flags.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

#[cfg(feature = "backup")]
use crate::backup::args::BackupArgs;

/// A Sentinel-aware TCP proxy for Redis: a failover that applications do not notice.
#[derive(Clone, Parser)]
#[command(name = "switchmaster", version, propagate_version = true, max_term_width = 100, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do; without one, serve.
    #[command(subcommand)]
    pub verb: Option<Verb>,
    /// Flags of every verb.
    #[command(flatten)]
    pub config: ConfigArgs,
}

const EXAMPLES: &str = "\
Examples:
  switchmaster                                    a Sentinel on this host, or named by REDIS_SENTINEL_HOSTS
  switchmaster --sentinel 10.0.0.5 --sentinel 10.0.0.6 --sentinel 10.0.0.7
  switchmaster --laravel-env /var/www/app/.env    takes Sentinels and password from the application
  switchmaster config check --config ./config.toml
  switchmaster status

Every key also has a variable (SWITCHMASTER_LISTEN, …) and a line in the configuration file. Order: flag,
environment, file, Laravel .env, default. Passwords: SWITCHMASTER_REDIS_PASSWORD or
SWITCHMASTER_REDIS_PASSWORD_FILE, the file, or the .env; never a flag.

Exit codes: 0 done, 64 wrong usage or configuration, 69 something needed is not available, 70 internal error.";

/// Flags of every verb: the configuration.
#[derive(Args, Clone, Default)]
#[command(next_help_heading = "Configuration")]
pub struct ConfigArgs {
    /// Where clients connect, a port alone or IP:PORT; may be given several times [default: 127.0.0.1:6379]
    #[arg(long, global = true, value_name = "ADDR")]
    pub listen: Vec<String>,
    /// A Sentinel to begin with, HOST or HOST:PORT; may be given several times, peers are learnt
    /// [default: 127.0.0.1:26379]
    #[arg(long, global = true, value_name = "ADDR")]
    pub sentinel: Vec<String>,
    /// The monitored name [default: the only one there is]
    #[arg(long, global = true, value_name = "NAME")]
    pub master_name: Option<String>,
    /// Where metrics, health and control are served, or "off" [default: 127.0.0.1:9379]
    #[arg(long, global = true, value_name = "ADDR")]
    pub admin: Option<String>,
    /// Where commands are taken from root, from the user of the process and from a group, unix:/PATH or "off"
    /// [default: admin.sock in $RUNTIME_DIRECTORY or /run/switchmaster]
    #[arg(long, global = true, value_name = "ADDR")]
    pub admin_socket: Option<String>,
    /// The configuration file [default: /etc/switchmaster/config.toml if it exists]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The .env of a Laravel application, for its Sentinels and its password
    #[arg(long, global = true, value_name = "FILE")]
    pub laravel_env: Option<String>,
    /// How long requests are held in one outage, such as 15s, or "auto" [default: auto]
    #[arg(long, global = true, value_name = "DURATION")]
    pub hold_timeout: Option<String>,
    /// How a request ends whose reply was lost: error, close, retry-idempotent, retry-all [default: error]
    #[arg(long, global = true, value_name = "ENDING")]
    pub on_lost_reply: Option<String>,
    /// Threads that relay, or "auto" [default: one per core]
    #[arg(long, global = true, value_name = "N")]
    pub workers: Option<String>,
    /// Client connections accepted at once [default: 10000]
    #[arg(long, global = true, value_name = "N")]
    pub max_clients: Option<String>,
    /// How long SIGTERM waits for what is under way [default: 30s]
    #[arg(long, global = true, value_name = "DURATION")]
    pub drain_grace: Option<String>,
    /// Where the last verified master is remembered across restarts [default: $STATE_DIRECTORY]
    #[arg(long, global = true, value_name = "DIR")]
    pub state_dir: Option<String>,
    /// Lowest level logged: error, warn, info, debug, trace [default: info]
    #[arg(long, global = true, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// text for people, json for collectors [default: text]
    #[arg(long, global = true, value_name = "FORMAT")]
    pub log_format: Option<String>,
}

impl ConfigArgs {
    /// The flags that were given, by the name of their key.
    pub fn by_key(&self) -> BTreeMap<&'static str, Vec<String>> {
        let single = |value: &Option<String>| value.iter().cloned().collect::<Vec<_>>();
        let all = [
            ("listen", self.listen.clone()),
            ("sentinels", self.sentinel.clone()),
            ("master_name", single(&self.master_name)),
            ("admin", single(&self.admin)),
            ("admin_socket", single(&self.admin_socket)),
            ("laravel_env", single(&self.laravel_env)),
            ("hold_timeout", single(&self.hold_timeout)),
            ("on_lost_reply", single(&self.on_lost_reply)),
            ("workers", single(&self.workers)),
            ("max_clients", single(&self.max_clients)),
            ("drain_grace", single(&self.drain_grace)),
            ("state_dir", single(&self.state_dir)),
            ("log_level", single(&self.log_level)),
            ("log_format", single(&self.log_format)),
        ];
        all.into_iter().filter(|(_, values)| !values.is_empty()).collect()
    }
}

/// What to do.
#[derive(Clone, Subcommand)]
pub enum Verb {
    /// Relay clients to the master and follow Sentinel (the default)
    #[command(after_help = "Example:\n  switchmaster serve --listen 6379 --sentinel 10.0.0.5\n\n\
        SIGTERM lets sessions end (drain_grace), SIGHUP reads the configuration again.")]
    Serve,
    /// Show what the running switchmaster sees: master, Sentinels, sessions
    #[command(after_help = "Examples:\n  switchmaster status\n  switchmaster status --json --admin 127.0.0.1:9379\n\n\
        Exit codes: 0 what it shows is ready (ok, failover, degraded), 69 not ready, or no switchmaster answers.")]
    Status(StatusArgs),
    /// The same live, as a screen of a terminal
    #[cfg(feature = "top")]
    #[command(after_help = "Examples:\n  switchmaster top\n  switchmaster top --admin 10.0.0.5:9379\n\n\
        q, Esc or Ctrl-C ends it. Exit code 64 where standard input or output is no terminal.")]
    Top,
    /// Wait until the running switchmaster is ready, as /ready says: for deploys and health checks
    #[command(
        after_help = "Examples:\n  switchmaster wait                  after a start, before the application's\n  \
        switchmaster wait --timeout 0s     HEALTHCHECK of a container: asks once\n\n\
        Exit codes: 0 ready, 69 not ready in time; what it is waiting for is on standard error."
    )]
    Wait(WaitArgs),
    /// Print where the master is: for scripts, and for going around the proxy
    #[command(after_help = "Examples:\n  switchmaster direct            10.0.0.11:6379\n  \
        redis-cli -u \"$(switchmaster direct --url)\" role\n  \
        switchmaster direct --env      REDIS_HOST=… and REDIS_PORT=…, as in a .env\n\n\
        It asks the running switchmaster; where none answers, or it has no master, the Sentinels of the\n\
        configuration, and then that node for its role. Exit codes: 0 printed, 69 nobody knows one for sure.")]
    Direct(DirectArgs),
    /// Find what is wrong with the Sentinel set-up: asks every Sentinel and node, and changes nothing
    #[command(after_help = "Examples:\n  switchmaster doctor\n  switchmaster doctor --laravel /var/www/app\n  \
        switchmaster doctor --fix      the commands that mend what was found; none is run\n\n\
        It needs +config|get, +acl|list and +command|info besides what switchmaster needs, and says so where it has\n\
        not. Exit codes: 0 nothing found, 1 findings, 64 wrong configuration or master name, 69 no Sentinel answers.")]
    Doctor(DoctorArgs),
    /// Ask Sentinel for a planned failover through the running switchmaster, and watch it
    #[command(after_help = "Example:\n  switchmaster failover\n\nClients are held for a moment and see no error. \
        It waits up to 10 s for replicas that lag, and is refused (69) when one still does, or while a failover is \
        under way.")]
    Failover(FailoverArgs),
    /// Hold new requests of every client until `release`, or for a time
    #[command(after_help = "Examples:\n  switchmaster hold --for 10s\n  switchmaster release")]
    Hold(HoldArgs),
    /// End a hold
    #[command(after_help = "Example:\n  switchmaster release")]
    Release,
    /// Have the running switchmaster read its configuration again, as SIGHUP does
    #[command(
        after_help = "Example:\n  switchmaster reload\n\nPrints what has changed, and what needs a restart. If the \
        configuration is wrong, or a listener cannot be opened, nothing changes, and it says where (64)."
    )]
    Reload,
    /// Make, check and restore backups that can be trusted
    #[cfg(feature = "backup")]
    #[command(after_help = "Examples:\n  switchmaster backup create --store s3://bucket/redis\n  \
        switchmaster backup list\n  switchmaster backup verify latest\n\n\
        Exit codes besides those of the other verbs: 75 another host makes a backup or a restore, 80 no node may be \
        the source, 81 the stream ended early, 82 not a whole and sound backup, 83 the store refused, 84 no room in \
        the spool folder, 85 no such backup or no such key in it, 86 the restore was given up, 87 a format newer than \
        this switchmaster, 130 ended by a signal.")]
    Backup(Box<BackupArgs>),
    #[cfg(feature = "demo")]
    /// Start a throwaway cluster, put load on it and fail it over before your eyes
    #[command(
        after_help = "Examples:\n  switchmaster demo\n  switchmaster demo --keep   leave it running to play with"
    )]
    Demo(DemoArgs),
    /// Check or show the configuration without starting anything
    #[command(
        after_help = "Examples:\n  switchmaster config check --config ./config.toml\n  switchmaster config print"
    )]
    Config(ConfigVerbArgs),
}

/// Arguments of `status`.
#[derive(Args, Clone)]
pub struct StatusArgs {
    /// One JSON object instead of text
    #[arg(long)]
    pub json: bool,
    /// Again each second, until Ctrl-C
    #[arg(long)]
    pub watch: bool,
}

/// Arguments of `wait`.
#[derive(Args, Clone)]
pub struct WaitArgs {
    /// Give up after this long, such as 10s; 0s asks once
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = crate::duration::parse)]
    pub timeout: std::time::Duration,
}

/// Arguments of `direct`.
#[derive(Args, Clone)]
pub struct DirectArgs {
    /// redis://HOST:PORT, without user and password
    #[arg(long, conflicts_with = "env")]
    pub url: bool,
    /// Two lines, REDIS_HOST=… and REDIS_PORT=…
    #[arg(long)]
    pub env: bool,
    /// Ask the Sentinels alone, also while switchmaster runs
    #[arg(long)]
    pub without_proxy: bool,
}

/// Arguments of `doctor`.
#[derive(Args, Clone)]
pub struct DoctorArgs {
    /// One JSON object instead of text
    #[arg(long, conflicts_with = "fix")]
    pub json: bool,
    /// Print the commands and lines that mend what was found, and nothing else; none is run
    #[arg(long)]
    pub fix: bool,
    /// Look at this Laravel application too: its .env and its config, PHP-FPM and nginx of this host
    #[arg(long, value_name = "DIR")]
    pub laravel: Option<PathBuf>,
}

/// Arguments of `failover`.
#[derive(Args, Clone)]
pub struct FailoverArgs {
    /// Ask Sentinel also when the master is silent or a replica lags behind it
    #[arg(long)]
    pub force: bool,
}

/// Arguments of `hold`.
#[derive(Args, Clone)]
pub struct HoldArgs {
    /// Release by itself after this long, such as 10s; at most 300s
    #[arg(long = "for", value_name = "DURATION", default_value = "10s", value_parser = crate::control::hold_length)]
    pub duration: std::time::Duration,
}

/// Arguments of `demo`.
#[derive(Args, Clone)]
pub struct DemoArgs {
    /// Leave the cluster and the proxy running until Ctrl-C
    #[arg(long)]
    pub keep: bool,
}

/// Arguments of `config`.
#[derive(Args, Clone)]
pub struct ConfigVerbArgs {
    /// Which of the two
    #[arg(value_enum)]
    pub action: ConfigAction,
}

/// What `config` does.
#[derive(Clone, Copy, ValueEnum)]
pub enum ConfigAction {
    /// Say whether the configuration is right; exit 64 and every mistake if it is not
    Check,
    /// Print every value and where it came from; secrets are masked
    Print,
}
