//! Why a backup verb failed, and with which exit code: each kind of failure has its own, for scripts and timers.

use std::fmt;
use std::io;

/// The message says what is wrong, where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// Wrong arguments or configuration.
    Usage(String),
    /// A node, a Sentinel or a proxy could not be reached, or refused.
    Unavailable(String),
    /// A defect of this program, or of the machine it runs on.
    Internal(String),
    /// Another host makes a backup now, on its own or for a restore.
    Locked(String),
    /// No node may serve as the source.
    NoSource(String),
    /// The source ended the stream before the end of the data.
    Truncated(String),
    /// What was received or stored is not a whole, sound backup.
    Unsound(String),
    /// The store could not be written or read.
    Store(String),
    /// One thing in the store is no file, is far too large, or may not be read by this user; others may be read.
    Unreadable(String),
    /// Data in a format that only a newer version of this program knows.
    Newer(String),
    /// The spool folder of this host cannot hold the data.
    Spool(String),
    /// There is no such backup, or nothing in it of what was asked for.
    NotFound(String),
    /// A restore was not begun, or was given up: the message says what is in the target now.
    Restore(String),
    /// Ended by a signal, and cleaned up.
    Interrupted(String),
}

impl Error {
    /// What an `io::Error` holds that passed through `io::Read` or `io::Write`; any other is of this machine.
    pub fn from_io(error: io::Error) -> Error {
        error.downcast::<Error>().unwrap_or_else(|error| Error::Internal(error.to_string()))
    }

    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Usage(_) => 64,
            Error::Unavailable(_) => 69,
            Error::Internal(_) => 70,
            Error::Locked(_) => 75,
            Error::NoSource(_) => 80,
            Error::Truncated(_) => 81,
            Error::Unsound(_) => 82,
            Error::Store(_) | Error::Unreadable(_) => 83,
            Error::Spool(_) => 84,
            Error::NotFound(_) => 85,
            Error::Restore(_) => 86,
            Error::Newer(_) => 87,
            Error::Interrupted(_) => 130,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Usage(text)
            | Error::Unavailable(text)
            | Error::Internal(text)
            | Error::Locked(text)
            | Error::NoSource(text)
            | Error::Truncated(text)
            | Error::Unsound(text)
            | Error::Store(text)
            | Error::Unreadable(text)
            | Error::Newer(text)
            | Error::Spool(text)
            | Error::NotFound(text)
            | Error::Restore(text)
            | Error::Interrupted(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Error {}
