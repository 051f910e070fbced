//! The session core between clients and servers that are models, on virtual time: no socket, no clock, no task.
//!
//! `contract` plays every row of the README's table, `split` cuts both streams at every byte, `histories` lets seeds
//! decide everything, [`tape`] a fuzzer. What a model says and does is never taken from the code that is tested, but for
//! the framing.
#![cfg_attr(not(test), allow(dead_code, reason = "the fuzz target needs a part of it"))]

#[cfg(test)]
mod contract;
mod dice;
#[cfg(test)]
mod histories;
mod link;
#[cfg(test)]
mod plan;
#[cfg(test)]
mod player;
mod server;
mod session;
#[cfg(test)]
mod split;
mod stage;
pub mod tape;
mod world;
