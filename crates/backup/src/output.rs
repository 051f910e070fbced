//! Lines on standard output, and the words in them that every verb needs.
//!
//! A reader that went away is no error.

use std::io::Write;

use jiff::Timestamp;

use super::Error;

/// Writes a line; a reader that went away (`| head`) is no error.
pub(super) fn line(out: &mut dyn Write, text: &str) -> Result<(), Error> {
    match writeln!(out, "{text}") {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        // A terminal that was closed.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => Ok(()),
        Err(error) => Err(Error::Internal(format!("standard output: {error}"))),
    }
}

/// A time to the second.
pub(super) fn seconds(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// So many of these: `1 key`, `2 keys`.
pub(super) fn count(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}
