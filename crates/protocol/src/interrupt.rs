//! Ctrl-C, SIGTERM and the end of the terminal (SIGHUP), for verbs that clean up before they end. `serve` has its own:
//! there SIGHUP ends nothing, and a second signal hurries.
//!
//! From the first call on, these signals end nothing by themselves. SIGHUP stays ignored where it was before, as under
//! `nohup`: whoever started this wants it to outlive the terminal.

use std::fs;
use std::future::pending;

use tokio::signal::unix::{SignalKind, signal};

/// Ends with the first of these signals from now on.
///
/// # Errors
/// The operating system lets no handler be set.
pub fn interruption() -> Result<impl Future<Output = ()>, String> {
    let handle = |kind| signal(kind).map_err(|error| format!("signals cannot be handled: {error}"));
    let (mut interrupt, mut terminate) = (handle(SignalKind::interrupt())?, handle(SignalKind::terminate())?);
    let mut hangup = match is_ignored(SignalKind::hangup()) {
        true => None,
        false => Some(handle(SignalKind::hangup())?),
    };
    let hung_up = async move {
        match &mut hangup {
            Some(hangup) => hangup.recv().await,
            None => pending().await,
        }
    };
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hung_up => {}
        }
    })
}

/// Whether this process ignores the signal (proc(5), `SigIgn` of `/proc/self/status`). Where that cannot be read, it does
/// not.
fn is_ignored(signal: SignalKind) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    ignored >> (signal.as_raw_value() - 1) & 1 == 1
}
