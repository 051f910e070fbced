//! Finished segments that wait for the store: files in a folder of their own, found again after a restart.
//!
//! A file is there under its name only when it is whole. What they take, together with the segment in the making, is
//! bounded: the file system belongs to others, too.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Seek};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::segment::Name;
use super::timeline::Stored;
use crate::Error;

/// The folder and what is in it.
#[derive(Debug)]
pub struct Queue {
    dir: PathBuf,
    files: VecDeque<Waiting>,
    bytes: u64,
    /// Locked until the process ends; not empty while a run is not finished.
    lock: File,
    unfinished: bool,
}

/// A segment that is not in the store yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Which one.
    pub segment: Stored,
    /// Where it is now.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
}

impl Queue {
    /// Opens the folder of `master_name` below `spool`, and finds what an earlier run left there.
    ///
    /// # Errors
    /// [`Error::Spool`]: it cannot be used. [`Error::Locked`]: another process of this host uses it.
    pub fn open(spool: &Path, master_name: &str) -> Result<Queue, Error> {
        let dir = spool.join(format!("switchmaster-follow-{}", master_name.replace('/', "_")));
        let refused = |error: io::Error| Error::Spool(format!("the spool folder {}: {error}", dir.display()));
        match DirBuilder::new().mode(0o700).create(&dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(refused(error)),
            _ => {}
        }
        // In a folder for temporary files somebody else could have been there before.
        let meta = fs::symlink_metadata(&dir).map_err(refused)?;
        if !meta.is_dir() || meta.uid() != rustix::process::geteuid().as_raw() {
            return Err(Error::Spool(format!("{} is not a folder of this user; set backup_spool_dir", dir.display())));
        }
        let lock = File::options().create(true).truncate(false).write(true).open(dir.join("lock")).map_err(refused)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            Error::Locked(format!("another `backup follow` runs on this host (it holds {})", dir.display()))
        })?;
        let unfinished = lock.metadata().map_err(refused)?.len() > 0;
        let mut queue = Queue { dir, files: VecDeque::new(), bytes: 0, lock, unfinished };
        queue.look().map_err(|error| Error::Spool(format!("the spool folder {}: {error}", queue.dir.display())))?;
        Ok(queue)
    }

    /// Whether the last run of this host began and did not end by itself.
    pub fn is_unfinished(&self) -> bool {
        self.unfinished
    }

    /// This run has the lock of the store.
    pub fn begun(&mut self) {
        // Should this fail, a run after a crash waits for the lock before it follows, which is all.
        let _ = self.lock.write_all_at(b"follows", 0);
    }

    /// This run has given it back.
    pub fn finished(&mut self) {
        let _ = self.lock.set_len(0);
    }

    /// A file for the commands of the segment in the making; it has no name, so that nothing leaves it behind.
    pub fn open_segment(&self) -> Result<File, Error> {
        tempfile::tempfile_in(&self.dir).map_err(|error| self.refused(&error))
    }

    /// A file for a segment that is being packed; to be kept with [`Queue::push`].
    pub fn open_packed(&self) -> Result<tempfile::NamedTempFile, Error> {
        let made = tempfile::Builder::new().prefix(".packing-").tempfile_in(&self.dir);
        made.map_err(|error| self.refused(&error))
    }

    /// Takes a segment that is whole.
    pub fn push(&mut self, segment: Stored, packed: tempfile::NamedTempFile) -> Result<(), Error> {
        let folder = self.dir.join(&segment.stream);
        let path = folder.join(segment.name.to_string());
        let kept = fs::create_dir_all(&folder).and_then(|()| {
            let bytes = packed.as_file().metadata()?.len();
            packed.as_file().sync_data()?;
            packed.persist(&path)?;
            Ok(bytes)
        });
        let bytes = kept.map_err(|error| self.refused(&error))?;
        self.bytes += bytes;
        self.files.push_back(Waiting { segment, path, bytes });
        Ok(())
    }

    /// The oldest one, and the file open at its beginning.
    pub fn front(&self) -> Option<Result<(Waiting, File), Error>> {
        let front = self.files.front()?;
        let open = || {
            let mut file = File::open(&front.path)?;
            file.rewind()?;
            Ok((front.clone(), file))
        };
        Some(open().map_err(|error| self.refused(&error)))
    }

    /// The oldest one is in the store.
    pub fn pop(&mut self) {
        if let Some(front) = self.files.pop_front() {
            self.bytes = self.bytes.saturating_sub(front.bytes);
            let _ = fs::remove_file(&front.path);
            // Fails while others are in it.
            let _ = front.path.parent().map(fs::remove_dir);
        }
    }

    /// Gives up what waits; returns how many segments that were.
    pub fn clear(&mut self) -> usize {
        let count = self.files.len();
        while !self.files.is_empty() {
            self.pop();
        }
        count
    }

    /// What waits, the oldest first.
    pub fn waiting(&self) -> impl Iterator<Item = &Stored> {
        self.files.iter().map(|waiting| &waiting.segment)
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What cannot be read is no segment of ours, and what is half packed comes again.
    fn look(&mut self) -> io::Result<()> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            if !entry.file_type()?.is_dir() {
                if entry.file_name().to_string_lossy().starts_with(".packing-") {
                    fs::remove_file(entry.path())?;
                }
                continue;
            }
            let stream = entry.file_name().to_string_lossy().into_owned();
            for file in fs::read_dir(entry.path())? {
                let file = file?;
                if let Some(name) = Name::parse(&file.file_name().to_string_lossy()) {
                    let segment = Stored { stream: stream.clone(), name };
                    found.push(Waiting { segment, path: file.path(), bytes: file.metadata()?.len() });
                }
            }
        }
        found.sort_by(|a, b| (a.segment.name.end_ms, &a.segment).cmp(&(b.segment.name.end_ms, &b.segment)));
        self.bytes = found.iter().map(|waiting| waiting.bytes).sum();
        self.files = found.into();
        Ok(())
    }

    fn refused(&self, error: &io::Error) -> Error {
        Error::Spool(format!("the spool folder {}: {error}; make room, or set backup_spool_dir", self.dir.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    fn segment(from: u64) -> Stored {
        let (to, end_ms, replid) = (from + 10, 1_000 + from, "a".repeat(40));
        let name = Name { from, to, end_ms, replid, encrypted: false, discarded: false };
        Stored { stream: "20261120T031400Z-aaaaaaaa-0".into(), name }
    }

    fn push(queue: &mut Queue, from: u64, text: &str) {
        let mut packed = queue.open_packed().unwrap();
        packed.write_all(text.as_bytes()).unwrap();
        queue.push(segment(from), packed).unwrap();
    }

    #[test]
    fn what_waits_is_found_again_in_its_order() {
        let dir = tempfile::tempdir().unwrap();
        let mut queue = Queue::open(dir.path(), "mymaster").unwrap();
        assert!(matches!(Queue::open(dir.path(), "mymaster"), Err(Error::Locked(_))));
        push(&mut queue, 20, "second");
        push(&mut queue, 10, "first");
        let half = queue.open_packed().unwrap().into_temp_path();
        half.keep().unwrap();
        drop(queue);
        let mut queue = Queue::open(dir.path(), "mymaster").unwrap();
        assert_eq!(queue.bytes(), 11);
        assert_eq!(queue.waiting().collect::<Vec<_>>(), [&segment(10), &segment(20)]);
        let (waiting, mut file) = queue.front().unwrap().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!((waiting.segment, text.as_str()), (segment(10), "first"));
        queue.pop();
        assert_eq!((queue.bytes(), queue.clear(), queue.bytes()), (6, 1, 0));
        assert!(queue.front().is_none());
        let left: Vec<_> = fs::read_dir(dir.path().join("switchmaster-follow-mymaster")).unwrap().flatten().collect();
        assert_eq!(left.len(), 1, "only the lock is left: {left:?}");
    }
}
