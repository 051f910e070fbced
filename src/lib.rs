//! switchmaster: a Sentinel-aware TCP proxy for Redis. (map follows)
pub mod cli;
pub mod config;
pub mod drain;
pub mod metrics;
pub mod secret;
pub mod topology;
