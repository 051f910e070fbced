//! What the proxy, its backups and its test kit all need to know of Redis, of Sentinel and of one another.
//!
//! ```text
//!   net                sockets: connections, how they are made and accepted
//!   resp, net ◀── wire   bytes of Redis: what is said, and one connection to say it on
//!   sentinel           asking Sentinels and nodes, and whom their answers name
//!   status, control ◀── remote      what a running switchmaster shows and takes, and asking it
//!   resp ◀── node      what servers say of themselves, and why they refuse
//!   address, location, secret, settings, duration, size, binary      values, as people write them
//!   random, interrupt                names that nobody else has, and the signals that end a verb
//! ```
//! Nothing here relays, decides or keeps state: no session, no topology, no tracker. Backups and test kit depend on this
//! crate alone, so that neither is compiled again for a change of the proxy.

pub mod address;
pub mod binary;
pub mod callout;
pub mod control;
pub mod duration;
pub mod host;
pub mod interrupt;
pub mod location;
pub mod net;
pub mod node;
pub mod random;
pub mod remote;
pub mod resp;
pub mod secret;
pub mod sentinel;
pub mod settings;
pub mod size;
pub mod status;
pub mod wire;
