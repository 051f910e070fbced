//! Tests against real servers.
mod sentinel;
