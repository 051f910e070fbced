//! The metrics of backups: names, help, and the text of Prometheus.
//!
//! All of them are gauges that are written out when somebody asks; the running proxy appends them to its own.

use std::fmt::Write;

/// Declares each name once: as a documented constant and as a row of [`ALL`].
macro_rules! names {
    ($($constant:ident $kind:literal $name:literal $help:literal)*) => {
        $(#[doc = $help] pub const $constant: &str = $name;)*

        /// Every metric as `(name, kind, help)`.
        pub const ALL: &[(&str, &str, &str)] = &[$(($name, $kind, $help)),*];
    };
}

names! {
    BACKUP_LAST_RUN "gauge" "switchmaster_backup_last_run_timestamp_seconds" "When `backup create` last ended, well or not, in seconds since the Unix epoch; 0: never."
    BACKUP_EXIT_CODE "gauge" "switchmaster_backup_last_exit_code" "Exit code of the last `backup create`; 0: done."
    BACKUP_LAST_SUCCESS "gauge" "switchmaster_backup_last_success_timestamp_seconds" "When the last good backup was begun, in seconds since the Unix epoch; 0: never."
    BACKUP_LAST_VERIFIED "gauge" "switchmaster_backup_last_verified_timestamp_seconds" "When a stored backup last passed `backup verify`, in seconds since the Unix epoch; 0: never."
    BACKUP_DURATION "gauge" "switchmaster_backup_duration_seconds" "How long the last good backup took."
    BACKUP_PLAIN_BYTES "gauge" "switchmaster_backup_plain_bytes" "Bytes of the RDB of the last good backup."
    BACKUP_STORED_BYTES "gauge" "switchmaster_backup_stored_bytes" "Bytes that the store keeps of it."
    BACKUP_KEYS "gauge" "switchmaster_backup_keys" "Keys in it."
    BACKUP_KEY_DROP "gauge" "switchmaster_backup_key_drop" "1 when it has less than half the keys of the one before it."
    BACKUP_STREAM_SHIPPED "gauge" "switchmaster_backup_stream_shipped_timestamp_seconds" "`backup follow`: everything that had arrived by then is in the store, in seconds since the Unix epoch."
    BACKUP_STREAM_OFFSET "gauge" "switchmaster_backup_stream_shipped_offset" "`backup follow`: the replication offset of that moment."
    BACKUP_STREAM_LAG "gauge" "switchmaster_backup_stream_lag_bytes" "`backup follow`: how far the replica is ahead of that offset."
    BACKUP_STREAM_SPOOL "gauge" "switchmaster_backup_stream_spool_bytes" "`backup follow`: bytes that wait on this host for the store."
}

/// Appends the HELP and TYPE lines of a metric.
pub fn write_head(text: &mut String, name: &str) {
    let (_, kind, help) = ALL.iter().find(|(listed, ..)| *listed == name).expect("every name is listed");
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// A label's value as it stands between its quotes.
pub fn escape_label(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
