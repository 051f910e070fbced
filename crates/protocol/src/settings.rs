//! The settings of backups: a part of the proxy's configuration that backups read too.
//!
//! Whatever is here is parsed, complete and checked.

use std::path::PathBuf;

use crate::callout::Address;
use crate::location::Location;
use crate::secret::Secret;

/// Backups: where they are kept, and who can read them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupConfig {
    /// Where they are kept; `None`: each verb wants `--store`.
    pub store: Option<Location>,
    /// URL of an S3-compatible service; `None`: Amazon's of the region.
    pub s3_endpoint: Option<String>,
    /// The region that requests are signed for.
    pub s3_region: String,
    /// `https://endpoint/bucket/key` instead of `https://bucket.endpoint/key`; always so when the endpoint is an IP address.
    pub s3_path_style: bool,
    /// The access key's id.
    pub s3_access_key_id: Option<String>,
    /// The access key.
    pub s3_secret_access_key: Option<Secret>,
    /// What makes a temporary access key whole.
    pub s3_session_token: Option<Secret>,
    /// age recipients that every backup is encrypted for; empty: no encryption.
    pub recipients: Vec<String>,
    /// The file with the age identity that reads them.
    pub identity_file: Option<PathBuf>,
    /// Where data waits between Redis and the store; `None`: the folder for temporary files.
    pub spool_dir: Option<PathBuf>,
    /// The file for node-exporter's textfile collector that `backup` writes; `None`: none.
    pub textfile: Option<PathBuf>,
    /// Is called after each good backup; `None`: nobody is.
    pub heartbeat: Option<Address>,
}

impl Default for BackupConfig {
    fn default() -> Self {
        BackupConfig {
            store: None,
            s3_endpoint: None,
            s3_region: "us-east-1".to_owned(),
            s3_path_style: false,
            s3_access_key_id: None,
            s3_secret_access_key: None,
            s3_session_token: None,
            recipients: Vec::new(),
            identity_file: None,
            spool_dir: None,
            textfile: None,
            heartbeat: None,
        }
    }
}
