//! A real cluster to throw away, clients that check every reply, and the demonstration made of both.
//!
//! The tests drive the same [`cluster`] and [`load`]; nothing here is used while serving.

mod client;
pub mod cluster;
pub mod load;
mod log;
pub mod relay;
pub mod report;
pub mod server;
mod verify;
pub mod wire;
