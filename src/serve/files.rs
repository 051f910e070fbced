//! The files of our Unix sockets ([`Files`]), which a reload adds to and takes from while the server runs.
//!
//! Whoever has [`Files`] removes them all when dropped, and so before the threads that listen there.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::net::SocketFile;

/// Removes the files when dropped.
#[derive(Debug, Default)]
pub(super) struct Files(FilesInUse);

/// The same files, for who opens and closes listeners.
#[derive(Clone, Debug, Default)]
pub(super) struct FilesInUse(Arc<Mutex<Vec<SocketFile>>>);

impl Files {
    pub(super) fn new(files: Vec<SocketFile>) -> Files {
        Files(FilesInUse(Arc::new(Mutex::new(files))))
    }

    pub(super) fn in_use(&self) -> FilesInUse {
        self.0.clone()
    }

    /// Removes them all.
    pub(super) fn clear(&self) {
        self.0.lock().clear();
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        self.clear();
    }
}

impl FilesInUse {
    pub(super) fn add(&self, file: Option<SocketFile>) {
        self.lock().extend(file);
    }

    /// Removes the file at `path`, if it is one of ours.
    pub(super) fn remove(&self, path: &Path) {
        self.lock().retain(|file| file.path() != path);
    }

    /// Changes who may connect at `path`, if that is one of ours: a service manager's it changes itself.
    pub(super) fn permit(&self, path: &Path, mode: u32, group: Option<&str>) -> io::Result<()> {
        self.lock().iter().filter(|file| file.path() == path).try_for_each(|file| file.permit(mode, group))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<SocketFile>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
