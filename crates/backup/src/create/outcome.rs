//! What came of `backup create`, for people, for scripts and for the metrics.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use crate::Manifest;
use crate::output::count;
use crate::report::{self, Record};
use crate::size;

/// A run that is no failure.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// There is a new backup.
    Created(Box<Created>),
    /// `--if-older-than`: this one will do.
    YoungEnough {
        /// The newest backup.
        id: String,
        /// When its source began it.
        created: Timestamp,
    },
}

/// A new backup.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Created {
    /// As it was stored.
    #[serde(flatten)]
    pub manifest: Manifest,
    /// All of its keys.
    pub keys: u64,
    /// Those of the backup before it.
    pub keys_before: Option<u64>,
    /// They are less than half of those.
    pub key_drop: bool,
    /// From the lock to the manifest.
    pub seconds: f64,
}

impl Created {
    pub(super) fn new(manifest: Manifest, before: Option<&Manifest>, took: Duration) -> Created {
        let keys = manifest.counts.keys();
        let keys_before = before.map(|before| before.counts.keys());
        let key_drop = keys_before.is_some_and(|before| dropped(before, keys));
        if let Some(before) = keys_before.filter(|_| key_drop) {
            tracing::warn!(keys, before, "the data set has less than half of the keys that the last backup has");
        }
        Created { manifest, keys, keys_before, key_drop, seconds: took.as_secs_f64() }
    }

    pub(super) fn tell(&self, record: &mut Record) {
        *record = Record {
            last_run: report::now(),
            exit_code: 0,
            last_success: u64::try_from(self.manifest.created.as_second()).unwrap_or_default(),
            last_verified: record.last_verified,
            stream: record.stream.take(),
            duration: self.seconds,
            plain_bytes: self.manifest.plain_bytes,
            stored_bytes: self.manifest.stored_bytes,
            keys: self.keys,
            key_drop: self.key_drop,
        };
    }
}

/// Whether so many keys went that somebody should look. A handful of keys comes and goes.
fn dropped(before: u64, now: u64) -> bool {
    before >= 100 && now < before / 2
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::YoungEnough { id, .. } => write!(f, "nothing to do: {id} is young enough"),
            Outcome::Created(created) => {
                let Manifest { id, master_name, source, plain_bytes, stored_bytes, .. } = &created.manifest;
                write!(
                    f,
                    "{id}: {} of {master_name} from {} {}, {}, stored as {}, in {:.1} s",
                    count(created.keys, "key"),
                    source.role,
                    source.addr,
                    size::rounded(*plain_bytes),
                    size::rounded(*stored_bytes),
                    created.seconds
                )?;
                match created.keys_before.filter(|_| created.key_drop) {
                    Some(before) => write!(f, "; the backup before it has {before} keys"),
                    None => Ok(()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_many_keys_gone_is_a_drop_and_a_few_are_none() {
        for (before, now, drop) in
            [(1000, 499, true), (1000, 500, false), (99, 0, false), (100, 0, true), (10, 90, false)]
        {
            assert_eq!(dropped(before, now), drop, "{before} then {now}");
        }
    }
}
