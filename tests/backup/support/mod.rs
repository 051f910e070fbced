//! What several tests of backups need: an object store in this process with faults, a Redis, bytes to store.

pub mod bucket;
pub mod redis;
pub mod samples;
pub mod sentinels;
