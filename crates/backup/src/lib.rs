//! Backups that can be trusted: made from a replica, read back before they count, put back without files.
//!
//! ```text
//!   create   source (which node) ─▶ replica (PSYNC) ─▶ spool ─▶ rdb (walk, CRC) ─▶ pack (zstd, age) ─▶ store ─▶ manifest
//!   restore  store ─▶ pack ─▶ spool ─▶ rdb ─▶ primary (serves it) ─▶ the target's REPLICAOF, behind held clients
//!   follow   replica (the stream after the RDB) ─▶ segments ─▶ store
//!   copy     store ─▶ spool (SHA-256) ─▶ a second store
//! ```
//!
//! A tool beside the proxy: it shares the Sentinel client, the wire and the admin client with it (`switchmaster-protocol`),
//! and nothing of the proxy itself. No manifest, no backup: the manifest is written last, and only when the stored bytes were read
//! again and are what was sent.

pub mod args;
mod callouts;
pub mod catalog;
pub mod config;
pub mod copy;
pub mod create;
pub mod drill;
mod error;
pub mod fetch;
pub mod follow;
pub mod lock;
mod manifest;
pub mod metrics;
mod output;
pub mod pack;
mod process;
mod progress;
pub mod prune;
pub mod rdb;
pub mod replica;
pub mod report;
pub mod restore;
pub mod show;
pub mod source;
mod spool;
pub mod store;
mod verbs;
pub mod verify;

pub use config::Config;
pub use error::Error;
pub use manifest::{Counts, DbCounts, Manifest, Packing, Source};
pub use progress::Progress;
pub use spool::Spool;
pub use verbs::run;

use switchmaster_protocol::{
    binary, callout, control, duration, interrupt, net, node, random, remote, resp, secret, sentinel, size, status,
    wire,
};
