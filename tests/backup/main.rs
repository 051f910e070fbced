//! Backups against real parts: an object store that checks signatures, folders, real servers.
#![cfg(feature = "backup")]

mod abandoned;
mod create;
mod lock;
mod lone;
mod pack;
#[path = "../it/support/proxy.rs"]
#[allow(dead_code, reason = "these tests need a part of it")]
mod proxy;
mod rdb;
mod store;
mod stored;
mod support;
mod zoo;
