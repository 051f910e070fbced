//! switchmaster: a Sentinel-aware TCP proxy for Redis. (map follows)
pub mod config;
pub mod drain;
pub mod metrics;
pub mod resp;
pub mod secret;
pub mod topology;
