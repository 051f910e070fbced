//! The command line of `backup`: clap structs only.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::config::{HostPort, Location};
use crate::{duration, size};

/// Where a switchmaster listens for commands, unless it was told otherwise.
const ADMIN_PORT: u16 = 9379;

/// Arguments of `backup`.
#[derive(Args, Clone)]
pub struct BackupArgs {
    /// What to do
    #[command(subcommand)]
    pub action: BackupAction,
    /// Where backups are kept, s3://BUCKET/PREFIX or file:///DIR [default: the key backup_store]
    #[arg(long, global = true, value_name = "URL")]
    pub store: Option<Location>,
    /// One JSON object (or one for each line of a list) instead of text
    #[arg(long, global = true)]
    pub json: bool,
}

/// What `backup` does.
#[derive(Clone, Subcommand)]
pub enum BackupAction {
    /// Stream the data of a healthy replica to the store, and check what arrived there
    #[command(after_help = "Examples:\n  switchmaster backup create --store s3://bucket/redis\n  \
        switchmaster backup create --if-older-than 20h     for a timer on several hosts")]
    Create(CreateArgs),
    /// List the backups of the store, newest last
    List,
    /// Show what one backup holds
    Show(Which),
    /// Read a stored backup again and check every byte of it
    #[command(after_help = "Examples:\n  switchmaster backup verify latest\n  \
        switchmaster backup verify latest --drill     a throwaway redis-server loads it\n\n\
        Exit codes: 0 sound (also when the store does not let it be marked), 82 damaged or not loaded.")]
    Verify(VerifyArgs),
    /// Delete backups that no rule keeps
    #[command(after_help = "Example:\n  switchmaster backup prune --keep-daily 7 --keep-weekly 4 --dry-run")]
    Prune(PruneArgs),
    /// Write a backup to a file that Redis can load
    #[command(after_help = "Examples:\n  switchmaster backup fetch latest --output dump.rdb\n  \
        switchmaster backup fetch latest --aof /var/lib/redis     for appendonly yes (Redis 7 or later)")]
    Fetch(FetchArgs),
    /// Put the data of a backup back
    #[command(
        after_help = "Examples:\n  switchmaster backup restore latest --proxy 10.0.0.1:9379 --proxy 10.0.0.2:9379\n  \
        switchmaster backup restore latest --to 2026-11-20T03:14:00Z --proxy 127.0.0.1:9379\n  \
        switchmaster backup restore latest --keys --match 'user:*' --db 0 --target 10.0.0.9:6379\n  \
        switchmaster backup restore latest --target 10.0.0.9:6379     a node that no Sentinel monitors"
    )]
    Restore(RestoreArgs),
    /// Copy backups, and what was shipped after them, to a second store
    #[command(after_help = "Examples:\n  switchmaster backup copy --to file:///srv/backups --all\n  \
        switchmaster backup copy --to-config /etc/switchmaster/second.toml --since 7d     another account\n\n\
        Byte for byte: no key is needed. What is there already is passed over, so that it can be run again at any time.\n\
        Exit codes: 0 all of it is there, 82 something was damaged or differs, and was not copied.")]
    Copy(CopyArgs),
    /// Keep on shipping every change of the data, so that `restore --to` reaches any moment
    #[command(after_help = "Example:\n  switchmaster backup follow --every 10s --base-every 24h")]
    Follow(FollowArgs),
}

/// Arguments of `backup create`.
#[derive(Args, Clone, Default)]
pub struct CreateArgs {
    /// Take the master when no replica will do
    #[arg(long)]
    pub allow_master: bool,
    /// Do nothing when the store has a backup that is younger than this, such as 20h
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub if_older_than: Option<Duration>,
    /// Encrypt for this age recipient; may be given several times [default: the key backup_recipients]
    #[arg(long, value_name = "AGE1…")]
    pub recipient: Vec<String>,
    /// It is there to undo a restore.
    #[arg(skip)]
    pub safety: bool,
}

/// Which backup.
#[derive(Args, Clone)]
pub struct Which {
    /// Its id as `backup list` prints it, the beginning of one, or "latest"
    #[arg(value_name = "ID", default_value = "latest")]
    pub id: String,
}

/// What reads encrypted backups.
#[derive(Args, Clone, Default)]
pub struct Identity {
    /// The file with the age identity that reads encrypted backups [default: the key backup_identity_file]
    #[arg(long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
}

/// Arguments of `backup verify`.
#[derive(Args, Clone)]
pub struct VerifyArgs {
    /// Which one
    #[command(flatten)]
    pub which: Which,
    /// Every backup of the store
    #[arg(long, conflicts_with = "id")]
    pub all: bool,
    /// Also let a throwaway redis-server load it, and compare the counts
    #[arg(long)]
    pub drill: bool,
    /// What reads encrypted ones
    #[command(flatten)]
    pub identity: Identity,
}

/// Arguments of `backup prune`.
#[derive(Args, Clone, Debug, Default)]
pub struct PruneArgs {
    /// Keep the newest N
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub keep_last: usize,
    /// Keep the newest of each of the last N days that have one
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub keep_daily: usize,
    /// The same for weeks
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub keep_weekly: usize,
    /// The same for months
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub keep_monthly: usize,
    /// Keep all that are younger than this, such as 7d
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub keep_within: Option<Duration>,
    /// Say what would go, and delete nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Arguments of `backup fetch`.
#[derive(Args, Clone)]
pub struct FetchArgs {
    /// Which one
    #[command(flatten)]
    pub which: Which,
    /// Write a plain RDB file here
    #[arg(long, value_name = "FILE", conflicts_with = "aof")]
    pub output: Option<PathBuf>,
    /// Write an AOF base file with its manifest below this data directory
    #[arg(long, value_name = "DIR")]
    pub aof: Option<PathBuf>,
    /// What reads encrypted ones
    #[command(flatten)]
    pub identity: Identity,
}

/// Arguments of `backup restore`.
#[derive(Args, Clone)]
pub struct RestoreArgs {
    /// Which one
    #[command(flatten)]
    pub which: Which,
    /// The node to restore to [default: the master that Sentinel names]
    #[arg(long, value_name = "ADDR")]
    pub target: Option<SocketAddr>,
    /// The admin address of a switchmaster that fronts the cluster, HOST or HOST:PORT (9379); name every one
    #[arg(long, value_name = "ADDR", value_parser = parse_proxy)]
    pub proxy: Vec<HostPort>,
    /// The address at which the target can reach this host [default: the one that faces it]
    #[arg(long, value_name = "IP")]
    pub serve_at: Option<std::net::IpAddr>,
    /// Key by key with RESTORE, beside what is there: for managed servers, or some of the keys
    #[arg(long, conflicts_with_all = ["proxy", "serve_at"])]
    pub keys: bool,
    /// Only keys that match this glob-style pattern, as in SCAN
    #[arg(long = "match", value_name = "PATTERN", requires = "keys")]
    pub pattern: Option<String>,
    /// Only keys of this database
    #[arg(long, value_name = "N", requires = "keys")]
    pub db: Option<u32>,
    /// Replace keys that exist
    #[arg(long, requires = "keys")]
    pub replace: bool,
    /// Up to this moment, from what `backup follow` shipped: 2026-11-20T03:14:00Z
    #[arg(long, value_name = "TIME", conflicts_with = "keys")]
    pub to: Option<String>,
    /// Up to just before the last time this command ran, such as FLUSHALL
    #[arg(long, value_name = "COMMAND", conflicts_with_all = ["keys", "to"])]
    pub before_command: Option<String>,
    /// Take no safety backup of the target first
    #[arg(long)]
    pub no_safety_backup: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// What reads encrypted ones
    #[command(flatten)]
    pub identity: Identity,
}

/// Arguments of `backup copy`.
#[derive(Args, Clone)]
pub struct CopyArgs {
    /// Which one
    #[command(flatten)]
    pub which: Which,
    /// Every backup of the store
    #[arg(long, conflicts_with = "id")]
    pub all: bool,
    /// Every backup that is younger than this, such as 7d
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, conflicts_with_all = ["id", "all"])]
    pub since: Option<Duration>,
    /// The second store, s3://BUCKET/PREFIX or file:///DIR [default: backup_store of --to-config]
    #[arg(long, value_name = "URL", required_unless_present = "to_config")]
    pub to: Option<Location>,
    /// The configuration file that says how to reach it (backup_s3_…) [default: as the first one is reached]
    #[arg(long, value_name = "FILE")]
    pub to_config: Option<PathBuf>,
}

/// Arguments of `backup follow`.
#[derive(Args, Clone)]
pub struct FollowArgs {
    /// Ship what changed this often
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, default_value = "10s")]
    pub every: Duration,
    /// Begin with a new base this often
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, default_value = "24h")]
    pub base_every: Duration,
    /// At most so much waits on this host for a store that is away, such as 1GiB; then a new base is made
    #[arg(long, value_name = "SIZE", value_parser = size::parse, default_value = "1GiB")]
    pub spool_limit: usize,
    /// Encrypt for this age recipient; may be given several times [default: the key backup_recipients]
    #[arg(long, value_name = "AGE1…")]
    pub recipient: Vec<String>,
}

fn parse_proxy(text: &str) -> Result<HostPort, String> {
    HostPort::parse(text, Some(ADMIN_PORT)).map_err(|found| format!("expected HOST or HOST:PORT, {found}"))
}
