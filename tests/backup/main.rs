//! Backups against real parts: an object store that checks signatures, folders, real servers.
#![cfg(feature = "backup")]

mod abandoned;
#[path = "../it/support/mod.rs"]
#[allow(dead_code, reason = "these tests need a part of it")]
mod it;
mod follow;
mod lock;
mod lone;
mod pack;
mod rdb;
mod restore;
mod store;
mod stored;
mod support;
mod zoo;
