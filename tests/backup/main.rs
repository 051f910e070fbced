//! Backups against real parts: an object store that checks signatures, folders, real servers.
#![cfg(feature = "backup")]

mod abandoned;
mod lock;
mod lone;
mod pack;
mod rdb;
mod store;
mod stored;
mod support;
mod zoo;
