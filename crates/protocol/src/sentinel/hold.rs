//! How long requests are held in one outage where nobody has said it (`hold_timeout = "auto"`).
//!
//! The proxy holds so long, and the doctor measures other time-outs by it.

use std::time::Duration;

/// Requests are held for so much longer than Sentinel takes to call a master down, and for so long at most.
const HELD_BEYOND: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(45));
/// The same while Sentinel's time is not known.
const HELD_UNKNOWN: Duration = Duration::from_secs(15);

/// The longest hold, by the largest down-after of the Sentinels.
pub fn longest(down_after: Option<Duration>) -> Duration {
    down_after.map_or(HELD_UNKNOWN, |down_after| (down_after + HELD_BEYOND.0).min(HELD_BEYOND.1))
}
