//! A real cluster to throw away, clients that check every reply, and the demonstration made of both.
//!
//! The tests drive the same [`cluster`] and [`load`]; nothing here is used while serving.

pub mod cluster;
pub mod relay;
pub mod server;
pub mod wire;
