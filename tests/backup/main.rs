//! Backups against real parts: an object store that checks signatures, folders, real servers.
#![cfg(feature = "backup")]

mod abandoned;
mod create;
mod follow;
mod guide;
#[path = "../it/support/mod.rs"]
#[allow(dead_code, reason = "these tests need a part of it")]
mod it;
mod lock;
mod lone;
mod measure;
mod pack;
mod rdb;
mod restore;
mod store;
mod stored;
mod support;
mod zoo;
