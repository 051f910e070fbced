//! `switchmaster doctor`: what is wrong with a Sentinel set-up, before the night in which it counts.
//!
//! ```text
//!   gather: asks every Sentinel and node, read-only ──▶ facts ──▶ check ──▶ report: text, JSON
//!   application: reads a Laravel's files            ──▶
//! ```
//! The checks are sans-IO: facts in, findings out. Nothing here changes anything, and no secret leaves the facts.

pub mod application;
pub mod check;
pub mod facts;
pub mod gather;
pub mod report;

use switchmaster_protocol::{address, duration, node, secret, sentinel, wire};
