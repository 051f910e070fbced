//! A time that data can be restored to, as people read and write it.
//!
//! To the millisecond, in UTC, by the clock of the host that received the stream.

use std::fmt;

use jiff::Timestamp;

/// Milliseconds since 1970: 2026-11-20T03:14:00.007Z.
#[derive(Clone, Copy, Debug)]
pub struct RestorePoint(pub u64);

impl fmt::Display for RestorePoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Timestamp::from_millisecond(self.0 as i64) {
            Ok(at) => write!(f, "{at:.3}"),
            Err(_) => write!(f, "{} ms", self.0),
        }
    }
}
