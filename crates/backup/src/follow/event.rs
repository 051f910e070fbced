//! What `follow --json` prints: a line for each thing that happened. The log says it for people.

use serde::Serialize;

use super::restore_point::RestorePoint;
use super::timeline::Stored;
use crate::output::line;

/// Moments are those of the log: 2026-11-20T03:14:00.007Z.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A segment is in the store, and with it everything that had arrived by the moment.
    Shipped {
        /// The folder of its stream.
        stream: String,
        /// The offset before its first byte.
        from: u64,
        /// The offset after its last byte.
        to: u64,
        /// Everything until then.
        moment: String,
    },
    /// There is a new base.
    Base {
        /// The id of the backup.
        id: String,
    },
    /// No node, or no room, goes on with this stream: until the next base no moment can be restored.
    Gap {
        /// Up to where it was received.
        offset: u64,
        /// Why it ended.
        why: String,
    },
    /// Told to end, it ends.
    Stopped {
        /// Everything until then is in the store; none: nothing was shipped.
        moment: Option<String>,
        /// Segments that wait in the spool for the next run.
        waiting: usize,
    },
}

impl Event {
    pub(super) fn shipped(segment: &Stored) -> Event {
        let (stream, name) = (segment.stream.clone(), &segment.name);
        Event::Shipped { stream, from: name.from, to: name.to, moment: RestorePoint(name.end_ms).to_string() }
    }

    /// To standard output. That nobody reads it stops no stream.
    pub(super) fn print(&self) {
        let _ = serde_json::to_string(self).map(|text| line(&mut std::io::stdout(), &text));
    }
}
