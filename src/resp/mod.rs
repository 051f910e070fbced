//! The Redis protocol as the proxy needs it: where frames end, what a request says, what a command does.
//!
//! Nothing here reads a socket, a clock or the configuration: bytes go in, facts come out.

mod length;
pub mod scanner;
