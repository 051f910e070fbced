//! Putting a backup back: live, by serving it as a master to the target, or key by key.
//!
//! Nothing of the target is touched before the backup was verified wholly and everything that could refuse was asked.

mod conversation;
pub mod primary;
