//! A folder as the store: it must be there, at the beginning and at every request.
//!
//! It is never made here. Below a mount point that is not mounted it would land on the wrong disk, and the library makes
//! every folder above what it writes; so it is looked at before each request, and a request without it is not made.
//! What is in it may be anything: how it is listed, and what is opened, says [`walk`](super::walk).

use std::collections::HashSet;
use std::fs::{self, Metadata};
use std::io::{Error as IoError, ErrorKind};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;

use crate::Error;

/// A folder that was there.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    /// Without symbolic links, as the library uses it.
    path: PathBuf,
    /// Another file system is mounted there; that must stay so.
    mount_point: bool,
}

impl Folder {
    /// Opens a folder that is there.
    pub(super) fn open(given: &Path) -> Result<(Folder, LocalFileSystem), Error> {
        let path = given.canonicalize().map_err(|error| refused(given, &error))?;
        let meta = path.metadata().map_err(|error| refused(given, &error))?;
        if !meta.is_dir() {
            return Err(Error::Store(format!("file://{} is not a folder", given.display())));
        }
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        if let Some(at) = unmounted(&path, &read("/etc/fstab"), &read("/proc/self/mountinfo")) {
            let (shown, at) = (given.display(), at.display());
            return Err(Error::Store(format!(
                "file://{shown}: nothing is mounted at {at}, where /etc/fstab says that something is: `mount {at}`"
            )));
        }
        if meta.permissions().mode() & 0o077 != 0 {
            tracing::debug!(folder = %given.display(), "other users may look into the folder of the backups");
        }
        let above = path.parent().unwrap_or(&path).metadata().map_err(|error| refused(given, &error))?;
        let objects = LocalFileSystem::new_with_prefix(&path);
        let objects = objects.map_err(|error| Error::Store(format!("file://{}: {error}", given.display())))?;
        Ok((Folder { mount_point: differ(&meta, &above), path }, objects.with_fsync(true)))
    }

    /// Where an object lies.
    pub(super) fn join(&self, object: &ObjectPath) -> PathBuf {
        self.path.join(object.as_ref())
    }

    /// It is there still, and what was mounted there is mounted.
    pub(super) async fn check(&self) -> Result<(), Error> {
        // Not in this thread: a network file system may keep the question for long.
        let look = |path: &Path| tokio::fs::metadata(path.to_owned());
        let meta = look(&self.path).await.map_err(|error| refused(&self.path, &error))?;
        let shown = self.path.display();
        if !meta.is_dir() {
            return Err(Error::Store(format!("file://{shown} is not a folder any more")));
        }
        if self.mount_point {
            let above = look(self.path.parent().unwrap_or(&self.path)).await;
            if !differ(&meta, &above.map_err(|error| refused(&self.path, &error))?) {
                return Err(Error::Store(format!("file://{shown}: what was mounted there is not any more: mount it")));
            }
        }
        Ok(())
    }
}

/// Where on the way to `path` nothing is mounted although it should be: what is written would land on another disk.
fn unmounted(path: &Path, fstab: &str, mountinfo: &str) -> Option<PathBuf> {
    // Both files write these four so that a line can be split at its spaces.
    let unescaped = |field: &str| {
        let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
        PathBuf::from(escapes.iter().fold(field.to_owned(), |field, (escape, it)| field.replace(escape, it)))
    };
    let mounted: HashSet<PathBuf> =
        mountinfo.lines().filter_map(|line| line.split_whitespace().nth(4)).map(unescaped).collect();
    let entries = fstab.lines().filter(|line| !line.trim_start().starts_with('#'));
    let mut points = entries.filter_map(|line| line.split_whitespace().nth(1)).map(unescaped);
    points.find(|at| at.parent().is_some() && path.starts_with(at) && !mounted.contains(at))
}

/// On two file systems.
fn differ(folder: &Metadata, above: &Metadata) -> bool {
    folder.dev() != above.dev()
}

fn refused(folder: &Path, error: &IoError) -> Error {
    let shown = folder.display();
    match error.kind() {
        ErrorKind::NotFound => Error::Store(format!(
            "file://{shown}: there is no such folder: mount it, or create it with `install -d -m 700 {shown:?}`"
        )),
        _ => Error::Store(format!("file://{shown}: {error}")),
    }
}
