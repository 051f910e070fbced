//! Where data waits between Redis and the store: a file without a name, so that no way out of the program leaves it.
//!
//! It is written as fast as Redis sends, and never fills the file system that it is on: it belongs to others, too.

use std::fs::{File, Permissions};
use std::io::{self, ErrorKind, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::Error;
use crate::config::BackupConfig;

/// Free space is looked at again after so many bytes.
const LOOK_EVERY: u64 = 16 * 1024 * 1024;
/// So much of the file system is left to others: a fiftieth, at most this many bytes.
const LEAVE: u64 = 256 * 1024 * 1024;

/// A file being filled.
#[derive(Debug)]
pub struct Spool {
    file: File,
    dir: PathBuf,
    bytes: u64,
    looked_at: u64,
}

impl Spool {
    /// An empty one in `backup_spool_dir`, or where temporary files go. `expected` bytes must fit.
    ///
    /// # Errors
    /// [`Error::Spool`]: the folder cannot be written, or has no room.
    pub fn create(config: &BackupConfig, expected: u64) -> Result<Spool, Error> {
        let dir = config.spool_dir.clone().unwrap_or_else(std::env::temp_dir);
        let created = tempfile::tempfile_in(&dir).and_then(|file| {
            file.set_permissions(Permissions::from_mode(0o600))?;
            Ok(file)
        });
        let file = created.map_err(|error| {
            Error::Spool(format!("cannot write to the spool folder {}: {error}; set backup_spool_dir", dir.display()))
        })?;
        let spool = Spool { file, dir, bytes: 0, looked_at: 0 };
        spool.check_room(expected)?;
        Ok(spool)
    }

    /// Appends.
    ///
    /// # Errors
    /// [`Error::Spool`]: no room is left.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let written = self.file.write_all(bytes);
        written.map_err(|error| match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                self.full(&error.to_string())
            }
            _ => Error::Spool(format!("cannot write to the spool folder {}: {error}", self.dir.display())),
        })?;
        self.bytes += bytes.len() as u64;
        if self.bytes >= self.looked_at + LOOK_EVERY {
            self.looked_at = self.bytes;
            self.check_room(0)?;
        }
        Ok(())
    }

    /// Bytes written so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The file, to be read from its beginning. Closing it frees the space.
    ///
    /// # Errors
    /// [`Error::Spool`]: the file system does not take back what it was given.
    pub fn into_file(mut self) -> Result<File, Error> {
        let rewound = self.file.rewind();
        rewound.map_err(|error| Error::Spool(format!("the spool folder {}: {error}", self.dir.display())))?;
        Ok(self.file)
    }

    fn check_room(&self, expected: u64) -> Result<(), Error> {
        let (free, total) = room(&self.file)
            .map_err(|error| Error::Spool(format!("the spool folder {}: {error}", self.dir.display())))?;
        let leave = LEAVE.min(total / 50);
        if free.saturating_sub(leave) < expected.max(1) {
            let wanted = if expected > 0 { format!(", about {} MiB are needed", mib(expected)) } else { String::new() };
            return Err(self.full(&format!("{} of {} MiB are free{wanted}", mib(free), mib(total))));
        }
        Ok(())
    }

    fn full(&self, why: &str) -> Error {
        Error::Spool(format!(
            "the spool folder {} has no room after {} MiB: {why}; make room, or set backup_spool_dir to a folder that \
             holds the data set",
            self.dir.display(),
            mib(self.bytes)
        ))
    }
}

/// Bytes of the file system of `file` that we may use, and that it has.
fn room(file: &File) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::fstatvfs(file)?;
    Ok((stat.f_bavail.saturating_mul(stat.f_frsize), stat.f_blocks.saturating_mul(stat.f_frsize)))
}

fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1024 * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::path::Path;

    fn config(dir: &Path) -> BackupConfig {
        BackupConfig { spool_dir: Some(dir.into()), ..BackupConfig::default() }
    }

    #[test]
    fn what_was_written_is_read_back_from_a_file_without_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::create(&config(dir.path()), 1).unwrap();
        spool.write(b"REDIS").unwrap();
        spool.write(b"0010").unwrap();
        assert_eq!(spool.bytes(), 9);
        let mut file = spool.into_file().unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "REDIS0010");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_cannot_fit_is_refused_before_anything_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let error = Spool::create(&config(dir.path()), u64::MAX / 2).unwrap_err();
        assert!(matches!(&error, Error::Spool(text) if text.contains("backup_spool_dir")), "{error}");
        let error = Spool::create(&config(&dir.path().join("none")), 1).unwrap_err();
        assert!(matches!(&error, Error::Spool(text) if text.contains("none")), "{error}");
    }
}
