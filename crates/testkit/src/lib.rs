//! Real Redis servers, Sentinels and faults, the proxy as a process, and clients that check every reply.
//!
//! `switchmaster demo` shows it, tests and benchmarks are made of it; nothing here is used while serving. The proxy is
//! started as its users start it, by the path of its binary: the kit knows nothing of its insides.

mod client;
pub mod cluster;
mod demo;
pub mod load;
mod log;
pub mod proxy;
pub mod relay;
pub mod report;
pub mod roles;
pub mod server;
mod spec;
mod table;
mod verify;
mod workload;

pub use demo::{DemoError, DemoOptions, Ending, run};
pub use switchmaster_protocol::wire;

use switchmaster_protocol::{interrupt, node, random, secret};
