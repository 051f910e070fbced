//! Point in time: the replication stream after a backup, cut into segments and shipped every few seconds.

pub mod commands;
pub mod cutter;
pub mod finder;
pub mod position;
pub mod segment;
pub mod timeline;
