//! switchmaster: a Sentinel-aware TCP proxy for Redis. (map follows)
pub mod config;
pub mod drain;
pub mod metrics;
pub mod secret;
pub mod sentinel;
pub mod topology;
