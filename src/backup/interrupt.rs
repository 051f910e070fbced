//! Ctrl-C and SIGTERM, for verbs that clean up before they end.
//!
//! From the first call on, these signals end nothing by themselves.

use std::io;

use tokio::signal::unix::{SignalKind, signal};

use crate::backup::Error;

/// Ends with the first of these signals from now on.
///
/// # Errors
/// The operating system lets no handler be set.
pub fn interruption() -> Result<impl Future<Output = ()>, Error> {
    let handle =
        |kind| signal(kind).map_err(|error: io::Error| Error::Internal(format!("signals cannot be handled: {error}")));
    let (mut interrupt, mut terminate) = (handle(SignalKind::interrupt())?, handle(SignalKind::terminate())?);
    let mut hangup = handle(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    })
}
