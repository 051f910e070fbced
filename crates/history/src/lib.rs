//! What became of requests whose replies were lost: the new master's own replication stream decides.
//!
//! ```text
//!   window      a part of the stream, effect by effect
//!   form        what a request leaves in it
//!   window, form ◀── verdict      a connection's unanswered requests against a window
//! ```
//! Sans-IO: bytes and facts in, findings out; no socket, no clock. **Whatever is not proven is unknown, never absent.** The
//! rules and why they are safe: docs/history.md.

pub mod form;
pub mod verdict;
pub mod window;
