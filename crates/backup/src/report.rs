//! What came of the last runs, for those who watch: node-exporter's textfile collector, and the running proxy's metrics.
//!
//! Every run changes what was known before, so that a run that fails does not hide when the last good one was. Files are
//! replaced, never half written, and a file that cannot be written fails no backup.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::metrics as names;

/// The file in `state_dir`.
const STATE: &str = "backup.json";
/// How the textfile keeps the records that its samples were made from: a comment for Prometheus.
const KEPT: &str = "# switchmaster backup: ";

/// What is known of one master's backups. Times are seconds since the Unix epoch, 0: never.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// When `backup create` last ended.
    pub last_run: u64,
    /// With which exit code.
    pub exit_code: u8,
    /// When the last good backup was begun.
    pub last_success: u64,
    /// When a stored backup last passed `backup verify`.
    pub last_verified: u64,
    /// How long the last good backup took, in seconds.
    pub duration: f64,
    /// Bytes of its RDB.
    pub plain_bytes: u64,
    /// Bytes that the store keeps of it.
    pub stored_bytes: u64,
    /// Its keys.
    pub keys: u64,
    /// They are less than half of those of the backup before.
    pub key_drop: bool,
    /// How far `backup follow` is, where it ran.
    pub stream: Option<Stream>,
}

/// What `backup follow` has shipped.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stream {
    /// Everything that had arrived by then is in the store.
    pub shipped: u64,
    /// The replication offset of that moment.
    pub offset: u64,
    /// How far the replica was ahead of it, in bytes.
    pub lag_bytes: u64,
    /// Bytes that waited on this host.
    pub spool_bytes: u64,
}

/// By the monitored name.
pub type Records = BTreeMap<String, Record>;

/// Changes what is known of `master_name`, wherever the configuration wants it kept. `None`: it could not be found out
/// which one it is about, so it is about all that were ever backed up from here.
pub fn record(config: &Config, master_name: Option<&str>, change: impl Fn(&mut Record)) {
    let keep = |path: &Path, known: io::Result<Records>, text: fn(&Records) -> String| {
        let written = known.and_then(|mut records| {
            match master_name {
                Some(name) => change(records.entry(name.to_owned()).or_default()),
                None => records.values_mut().for_each(&change),
            }
            replace(path, &text(&records))
        });
        if let Err(error) = written {
            tracing::warn!(path = %path.display(), %error, "cannot tell what came of this run");
        }
    };
    if let Some(path) = &config.backup.textfile {
        keep(path, read(path, kept), textfile);
    }
    if let Some(path) = config.state_dir.as_ref().map(|dir| dir.join(STATE)) {
        let json = |records: &Records| serde_json::to_string(records).unwrap_or_default();
        keep(&path, read(&path, whole), json);
    }
}

/// What the runs of `backup` left in `state_dir`; nothing when they left nothing that can be read.
pub fn read_state(state_dir: &Path) -> Records {
    read(&state_dir.join(STATE), whole).unwrap_or_default()
}

/// The samples, in Prometheus' text format.
pub fn exposition(records: &Records) -> String {
    let mut text = String::new();
    let mut gauge = |name: &str, value: fn(&Record) -> f64| {
        names::write_head(&mut text, name);
        for (master_name, record) in records {
            let label = names::escape_label(master_name);
            let _ = writeln!(text, "{name}{{master=\"{label}\"}} {}", value(record));
        }
    };
    gauge(names::BACKUP_LAST_RUN, |record| record.last_run as f64);
    gauge(names::BACKUP_EXIT_CODE, |record| f64::from(record.exit_code));
    gauge(names::BACKUP_LAST_SUCCESS, |record| record.last_success as f64);
    gauge(names::BACKUP_LAST_VERIFIED, |record| record.last_verified as f64);
    gauge(names::BACKUP_DURATION, |record| record.duration);
    gauge(names::BACKUP_PLAIN_BYTES, |record| record.plain_bytes as f64);
    gauge(names::BACKUP_STORED_BYTES, |record| record.stored_bytes as f64);
    gauge(names::BACKUP_KEYS, |record| record.keys as f64);
    gauge(names::BACKUP_KEY_DROP, |record| f64::from(u8::from(record.key_drop)));
    let streams: Vec<(&String, &Stream)> =
        records.iter().filter_map(|(name, record)| Some((name, record.stream.as_ref()?))).collect();
    let mut gauge = |name: &str, value: fn(&Stream) -> u64| {
        names::write_head(&mut text, name);
        if streams.is_empty() {
            let _ = writeln!(text, "{name} 0");
        }
        for (master_name, stream) in &streams {
            let _ = writeln!(text, "{name}{{master=\"{}\"}} {}", names::escape_label(master_name), value(stream));
        }
    };
    gauge(names::BACKUP_STREAM_SHIPPED, |stream| stream.shipped);
    gauge(names::BACKUP_STREAM_OFFSET, |stream| stream.offset);
    gauge(names::BACKUP_STREAM_LAG, |stream| stream.lag_bytes);
    gauge(names::BACKUP_STREAM_SPOOL, |stream| stream.spool_bytes);
    text
}

/// Seconds since the Unix epoch.
pub fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn textfile(records: &Records) -> String {
    format!("{KEPT}{}\n{}", serde_json::to_string(records).unwrap_or_default(), exposition(records))
}

/// Reads the records that `find` finds in a file; none where there is no file. What is there and cannot be read is
/// replaced: it says nothing.
fn read(path: &Path, find: fn(&str) -> Option<&str>) -> io::Result<Records> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(find(&text).and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default()),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => {
            Ok(Records::default())
        }
        Err(error) => Err(error),
    }
}

fn kept(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix(KEPT))
}

fn whole(text: &str) -> Option<&str> {
    Some(text)
}

/// Readable by everybody: node-exporter and the proxy run as other users, and there is no secret in it.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // The collector reads *.prom: this name is none of them.
    let mut file = tempfile::Builder::new().prefix(".switchmaster-").suffix(".new").tempfile_in(dir)?;
    file.as_file().set_permissions(Permissions::from_mode(0o644))?;
    file.write_all(text.as_bytes())?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_fails_does_not_hide_the_last_good_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config { state_dir: Some(dir.path().into()), ..Config::default() };
        let textfile = dir.path().join("redis.prom");
        config.backup.textfile = Some(textfile.clone());
        record(&config, Some("mymaster"), |record| {
            (record.last_run, record.last_success, record.keys) = (100, 90, 7);
        });
        record(&config, Some("my\"other"), |record| record.keys = 1);
        record(&config, Some("mymaster"), |record| (record.last_run, record.exit_code) = (200, 80));
        let records = read_state(dir.path());
        assert_eq!(records["mymaster"].last_success, 90);
        let text = fs::read_to_string(&textfile).unwrap();
        for line in [
            "switchmaster_backup_last_run_timestamp_seconds{master=\"mymaster\"} 200",
            "switchmaster_backup_last_exit_code{master=\"mymaster\"} 80",
            "switchmaster_backup_last_success_timestamp_seconds{master=\"mymaster\"} 90",
            "switchmaster_backup_keys{master=\"my\\\"other\"} 1",
            "# TYPE switchmaster_backup_keys gauge",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert_eq!(fs::metadata(&textfile).unwrap().permissions().mode() & 0o444, 0o444);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing else is left");
    }

    #[test]
    fn a_broken_file_is_replaced_and_a_folder_that_is_not_there_is_no_failure() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(STATE), "{").unwrap();
        let mut config = Config { state_dir: Some(dir.path().into()), ..Config::default() };
        config.backup.textfile = Some(dir.path().join("none/redis.prom"));
        record(&config, Some("mymaster"), |record| record.keys = 3);
        assert_eq!(read_state(dir.path())["mymaster"].keys, 3);
    }
}
