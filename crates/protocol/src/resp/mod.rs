//! The Redis protocol as the proxy needs it: where frames end, what a request says, what a command does.
//!
//! Nothing here reads a socket, a clock or the configuration: bytes go in, facts come out.

pub mod buffer;
pub mod command;
mod length;
pub mod ordinary;
pub mod reply;
pub mod request;
pub mod scanner;
mod table;
