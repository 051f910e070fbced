//! The session core between clients and servers that are models, on virtual time: no socket, no clock, no task.
//!
//! `contract` plays every row of the README's table, `split` cuts both streams at every byte, `histories` lets seeds
//! decide everything. What a model says and does is never taken from the code that is tested, but for the framing.

mod contract;
mod dice;
mod histories;
mod link;
mod plan;
mod player;
mod server;
mod session;
mod split;
mod stage;
mod world;
