//! Restores: served as a master, live behind proxies, key by key, and in a drill.
//!
//! Whatever is claimed of the data is claimed of DUMP and of the times at which keys expire.

mod abort;
mod data;
mod drill;
mod keys;
mod live;
mod primary;
mod safety;
mod settings;
mod takeover;
mod verb;
