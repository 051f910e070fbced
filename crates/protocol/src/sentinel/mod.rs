//! Asking Sentinels and nodes, and weighing what they answer.
//!
//! Nothing here decides whom to follow: that is the proxy's tracker, or a backup that looks for its source.

pub mod client;
pub mod consensus;
pub mod electorate;
pub mod event;
pub mod hold;
pub mod login;
pub mod report;
pub mod survey;
