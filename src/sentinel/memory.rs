//! The last verified master, kept in a small file across restarts.
//!
//! It only raises the epoch below which nothing is believed; a missing or broken file costs nothing but that.

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The file's content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// The monitored name: another name's memory is not ours.
    pub name: String,
    /// The master's address.
    pub addr: SocketAddr,
    /// Its config-epoch.
    pub epoch: u64,
    /// The node that was followed early in its place, while that is neither confirmed nor undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<SocketAddr>,
}

impl Memory {
    /// Reads what was written last for `name`; `None` when there is nothing.
    ///
    /// # Errors
    /// The file exists but cannot be read or is not ours; the text says so.
    pub fn read(dir: &Path, name: &str) -> io::Result<Option<Memory>> {
        let path = path(dir, name);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let memory: Memory = serde_json::from_str(&text)?;
        Ok((memory.name == name).then_some(memory))
    }

    /// Writes a new file beside the old one and renames it over.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        let path = path(dir, &self.name);
        let fresh = path.with_extension("new");
        let mut file = fs::File::create(&fresh)?;
        file.write_all(serde_json::to_string(self)?.as_bytes())?;
        if self.candidate.is_none() {
            file.sync_data()?;
        } // else sessions wait for this, and it need only outlast the process
        fs::rename(fresh, path)
    }
}

fn path(dir: &Path, name: &str) -> PathBuf {
    let safe: String = name
        .chars()
        .map(|letter| if letter.is_ascii_alphanumeric() || "-_".contains(letter) { letter } else { '_' })
        .collect();
    dir.join(format!("master-{safe}.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_back_and_broken_files_are_told() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        assert!(matches!(Memory::read(dir.path(), "m"), Ok(None)));
        let addr = "127.0.0.1:1".parse().expect("parses");
        for candidate in [None, Some(addr)] {
            let memory = Memory { name: "m".into(), addr, epoch: 7, candidate };
            memory.write(dir.path()).expect("writes");
            assert_eq!(Memory::read(dir.path(), "m").expect("reads"), Some(memory));
        }
        assert!(matches!(Memory::read(dir.path(), "other"), Ok(None)));
        fs::write(path(dir.path(), "m"), "{").expect("writes");
        assert!(Memory::read(dir.path(), "m").is_err());
    }
}
