//! What a node, a Redis or Valkey server, says of itself: INFO, ROLE, its refusals, its passwords.
//!
//! Each text of a server is understood here and nowhere else. Sans-IO: texts go in, facts come out. Lenient: what is
//! missing or strange is absent, never a panic, since a node that was taken over may say anything.

pub mod auth;
pub mod info;
pub mod refusal;
pub mod role;
