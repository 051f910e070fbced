//! What lies in a folder, whatever that is, listed bit by bit.
//!
//! The library ends at the first entry that it cannot look at, and opens whatever has the right name: a named pipe would
//! keep it for ever. Here what cannot be looked at is passed over and told of, and what is no file is listed as an object
//! without bytes, so that it is seen; [`strange`] says what it is, and it is never opened.

use std::fs::{self, DirEntry, FileType, Metadata, ReadDir};
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::Object;
use crate::Error;

/// Entries that are looked at in one step.
const STEP: usize = 1_000;
/// Where some file systems put what they find after a crash; readable for root alone.
const FOUND_AFTER_A_CRASH: &str = "lost+found";

/// A walk under way.
#[derive(Debug)]
pub(super) struct Walk {
    deep: bool,
    /// The folders that are open, each in the one before it.
    open: Vec<Level>,
}

#[derive(Debug)]
struct Level {
    entries: ReadDir,
    path: PathBuf,
    /// As objects below it are named, with a slash at its end unless it is the root.
    name: String,
    /// Device and inode.
    id: (u64, u64),
}

/// What one step found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// In no order.
    pub(super) objects: Vec<Object>,
    /// Folders right in the first one, unless they are walked over too.
    pub(super) folders: Vec<String>,
    /// What could not be looked at, and why.
    pub(super) unseen: Vec<String>,
}

impl Walk {
    /// Over `folder`, below which objects are named `name/…`, and when `deep` over all folders in it. A folder that is not
    /// there is empty.
    ///
    /// # Errors
    /// [`Error::Unreadable`]: this user may not look into it. [`Error::Store`]: any other reason.
    pub(super) fn begin(folder: &Path, name: &str, deep: bool) -> Result<Walk, Error> {
        let shown = folder.display();
        let open = match Level::open(folder, name) {
            Ok(level) => vec![level],
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Vec::new(),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                return Err(Error::Unreadable(format!("{shown}: {error}")));
            }
            Err(error) => return Err(Error::Store(format!("file://{shown}: {error}"))),
        };
        Ok(Walk { deep, open })
    }

    /// Goes on for a while; `None`: all was seen.
    pub(super) fn step(&mut self) -> Option<Found> {
        self.open.last()?;
        let mut found = Found::default();
        for _ in 0..STEP {
            let Some(level) = self.open.last_mut() else { break };
            match level.entries.next() {
                Some(Ok(entry)) => {
                    let deeper = level.look(&entry, self.deep, &mut found);
                    if let Some(deeper) = deeper {
                        self.enter(deeper, &mut found);
                    }
                }
                Some(Err(error)) => {
                    found.unseen.push(format!("{}: {error}", level.path.display()));
                    self.open.pop();
                }
                None => drop(self.open.pop()),
            }
        }
        Some(found)
    }

    fn enter(&mut self, (path, name): (PathBuf, String), found: &mut Found) {
        match Level::open(&path, &name) {
            Ok(level) if self.open.iter().any(|above| above.id == level.id) => {
                found.unseen.push(format!("{}: a symbolic link that leads in a circle", path.display()));
            }
            Ok(level) => self.open.push(level),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => found.unseen.push(format!("{}: {error}", path.display())),
        }
    }
}

impl Level {
    fn open(path: &Path, name: &str) -> std::io::Result<Level> {
        let (entries, meta) = (fs::read_dir(path)?, fs::metadata(path)?);
        let name = if name.is_empty() { String::new() } else { format!("{name}/") };
        Ok(Level { entries, path: path.to_owned(), name, id: (meta.dev(), meta.ino()) })
    }

    /// Takes one entry; returns a folder that is to be walked over, and its name.
    fn look(&self, entry: &DirEntry, deep: bool, found: &mut Found) -> Option<(PathBuf, String)> {
        let (path, file_name) = (entry.path(), entry.file_name());
        // No object has such a name.
        let file_name = file_name.to_str().filter(|name| !name.contains(char::is_control) && !is_staged(name))?;
        let meta = match fs::metadata(&path) {
            Ok(meta) => meta,
            // A link to nothing, in a circle, or to what this user may not see; or else it has just gone.
            Err(_) => fs::symlink_metadata(&path).ok()?,
        };
        let name = format!("{}{file_name}", self.name);
        if !meta.is_dir() {
            let bytes = if meta.is_file() { meta.len() } else { 0 };
            found.objects.push(Object { name, bytes, modified: modified(&meta) });
        } else if file_name != FOUND_AFTER_A_CRASH {
            match deep {
                true => return Some((path, name)),
                false => found.folders.push(file_name.to_owned()),
            }
        }
        None
    }
}

/// What lies at `path` in place of a file; `None`: a file, or nothing.
pub(super) fn strange(path: &Path) -> Option<&'static str> {
    match fs::metadata(path) {
        Ok(meta) => kind(meta.file_type()),
        Err(_) if !fs::symlink_metadata(path).is_ok_and(|meta| meta.is_symlink()) => None,
        Err(error) if error.kind() == ErrorKind::NotFound => Some("a symbolic link that leads nowhere"),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            Some("a symbolic link that leads in a circle")
        }
        Err(_) => Some("a symbolic link that cannot be followed"),
    }
}

fn kind(of: FileType) -> Option<&'static str> {
    match () {
        () if of.is_file() => None,
        () if of.is_dir() => Some("a folder"),
        () if of.is_fifo() => Some("a named pipe"),
        () if of.is_socket() => Some("a socket"),
        () => Some("a device"),
    }
}

/// What the library writes before it gives it its name: `NAME#1`.
fn is_staged(name: &str) -> bool {
    let number = name.split_once('#').map_or("", |(_, number)| number);
    !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
}

fn modified(meta: &Metadata) -> Timestamp {
    let at = meta.modified().ok().and_then(|at| Timestamp::try_from(at).ok());
    at.unwrap_or(Timestamp::UNIX_EPOCH)
}
