//! switchmaster: a Sentinel-aware TCP proxy for Redis. (map follows)
pub mod config;
pub mod demo;
pub mod drain;
pub mod metrics;
pub mod secret;
pub mod topology;
