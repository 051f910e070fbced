//! What stands beside each backup: what it holds, where it came from, and how to know that it is whole.
//!
//! Written last and once. Fields may be added; a reader ignores what it does not know.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Error;

/// The JSON object `….manifest.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The format of this object: 1.
    pub format: u32,
    /// `<UTC>-<first 8 of the replid>-<offset>`: unique, and in the order of time.
    pub id: String,
    /// The monitored name.
    pub master_name: String,
    /// When the source began the RDB.
    pub created: Timestamp,
    /// The object with the data, by its name beside this manifest.
    pub object: String,
    /// The node it came from.
    pub source: Source,
    /// `REDIS` or `VALKEY`.
    pub magic: String,
    /// The version in the RDB's header.
    pub rdb_version: u32,
    /// The RDB's own CRC64, in hexadecimal; `None`: the source has `rdbchecksum no`.
    pub crc64: Option<String>,
    /// Bytes of the plain RDB.
    pub plain_bytes: u64,
    /// SHA-256 of the plain RDB, in hexadecimal.
    pub plain_sha256: String,
    /// How the stored object was made from it.
    pub packing: Packing,
    /// Bytes of the stored object.
    pub stored_bytes: u64,
    /// SHA-256 of the stored object, in hexadecimal.
    pub stored_sha256: String,
    /// What a walk over the RDB counted.
    pub counts: Counts,
    /// The version of the switchmaster that wrote this.
    pub tool: String,
}

/// Where the data came from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// Address of the node.
    pub addr: String,
    /// `replica` or `master`.
    pub role: String,
    /// `redis_version` or `valkey_version` of its INFO.
    pub version: String,
    /// `run_id` of its INFO.
    pub run_id: String,
    /// The replication ID in its +FULLRESYNC.
    pub replid: String,
    /// The offset in its +FULLRESYNC: the data is that of this point in the stream.
    pub offset: u64,
}

/// The steps from the plain RDB to the stored object, in their order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Packing {
    /// `zstd`.
    pub compression: String,
    /// Its level.
    pub level: i32,
    /// `age`, or `None` for no encryption.
    pub encryption: Option<String>,
    /// The recipients that can read it, `age1…`.
    pub recipients: Vec<String>,
}

/// Counts of one RDB.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// By database number.
    pub databases: BTreeMap<u32, DbCounts>,
    /// Function libraries.
    pub functions: u64,
}

/// Counts of one database.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DbCounts {
    /// Keys in all.
    pub keys: u64,
    /// Keys with an expiry.
    pub expires: u64,
    /// Keys by type: `string`, `list`, `set`, `zset`, `hash`, `stream`, `array`, `module`.
    pub types: BTreeMap<String, u64>,
}

/// What stands before the hash of everything above it, in the object's last line.
const SEAL: &[u8] = b",\n  \"seal\": \"";

impl Manifest {
    /// The object, sealed: with a hash of its own text in the last line, so that every change of it shows.
    ///
    /// # Errors
    /// `Internal`: it cannot be written as JSON.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        let mut bytes = serde_json::to_vec_pretty(self).map_err(|error| Error::Internal(error.to_string()))?;
        bytes.truncate(bytes.len() - "\n}".len());
        let seal = hex(&Sha256::digest(&bytes));
        bytes.extend_from_slice(SEAL);
        bytes.extend_from_slice(seal.as_bytes());
        bytes.extend_from_slice(b"\"\n}\n");
        Ok(bytes)
    }

    /// The object is to the byte what was sealed.
    pub fn is_sealed(bytes: &[u8]) -> bool {
        let Some(at) = bytes.windows(SEAL.len()).rposition(|window| window == SEAL) else { return false };
        bytes[at + SEAL.len()..] == *format!("{}\"\n}}\n", hex(&Sha256::digest(&bytes[..at]))).as_bytes()
    }
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Counts {
    /// Keys of all databases.
    pub fn keys(&self) -> u64 {
        self.databases.values().fold(0, |keys, db| keys.saturating_add(db.keys))
    }
}
