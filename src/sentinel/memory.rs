//! The last verified master, kept in a small file across restarts.
//!
//! It raises the epoch below which nothing is believed, and says to the next run which data and which Sentinels are ours; a
//! missing or broken file costs nothing but that, and files of before read as ones that know less.

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

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
    /// The `run_id` of its process.
    #[serde(default)]
    pub run_id: Option<String>,
    /// The names of the histories that our masters have had (`master_replid`), newest last.
    #[serde(default)]
    pub history: Vec<String>,
    /// The replicas that it has now.
    #[serde(default)]
    pub replicas: Vec<SocketAddr>,
    /// Every node that was a master of ours or a replica of one.
    #[serde(default)]
    pub family: Vec<SocketAddr>,
    /// The Sentinels that are believed.
    #[serde(default)]
    pub sentinels: Vec<KnownSentinel>,
}

/// A Sentinel that was believed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownSentinel {
    /// `host:port`, as it was dialled.
    pub addr: String,
    /// Its run id.
    pub run_id: String,
}

impl Memory {
    /// Reads what was written last for `name`; `None` when there is nothing.
    ///
    /// # Errors
    /// The file exists but cannot be read or is not ours; the text says so.
    pub fn read(dir: &Path, name: &str) -> io::Result<Option<Memory>> {
        let path = Memory::path(dir, name);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let memory: Memory = serde_json::from_str(&text)?;
        Ok((memory.name == name).then_some(memory))
    }

    /// The only master that is remembered in `dir`, for a start that knows no name and hears no Sentinel.
    pub fn only(dir: &Path) -> Option<Memory> {
        let files = fs::read_dir(dir).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut files = files.filter(|file| file.starts_with("master-") && file.ends_with(".json"));
        let file = files.next().filter(|_| files.next().is_none())?;
        serde_json::from_str(&fs::read_to_string(dir.join(file)).ok()?).ok()
    }

    /// The file for `name`.
    pub fn path(dir: &Path, name: &str) -> PathBuf {
        let safe: String = name
            .chars()
            .map(|letter| if letter.is_ascii_alphanumeric() || "-_".contains(letter) { letter } else { '_' })
            .collect();
        dir.join(format!("master-{safe}.json"))
    }
}

/// Keeps memories in the order in which they come, and its caller waiting only where sessions have to wait too.
#[derive(Debug, Default)]
pub struct Keeper {
    kept: Arc<Kept>,
    last: u64,
}

#[derive(Debug, Default)]
struct Kept {
    /// One at a time in the background.
    writing: Mutex<()>,
    /// The number of the newest that is in its file.
    number: Mutex<u64>,
}

impl Keeper {
    /// Keeps `memory` in `dir`. One with a candidate is in its file when this returns, for sessions go there next; it need
    /// only outlast the process. Any other one is written and synced in the background, as a disk may take its time.
    ///
    /// Needs a tokio runtime. What cannot be written is logged.
    pub fn keep(&mut self, dir: &Path, memory: &Memory) {
        self.last += 1;
        let (number, kept) = (self.last, self.kept.clone());
        let (dir, memory) = (dir.to_owned(), memory.clone());
        if memory.candidate.is_some() {
            put(&dir, &memory, number, &kept);
        } else {
            tokio::task::spawn_blocking(move || put(&dir, &memory, number, &kept));
        }
    }
}

fn put(dir: &Path, memory: &Memory, number: u64, kept: &Kept) {
    if let Err(error) = write(dir, memory, number, kept) {
        tracing::warn!("the master cannot be remembered in {}: {error}", dir.display());
    }
}

/// Writes a new file beside the old one and renames it over, unless a newer one is there.
fn write(dir: &Path, memory: &Memory, number: u64, kept: &Kept) -> io::Result<()> {
    let path = Memory::path(dir, &memory.name);
    let is_synced = memory.candidate.is_none();
    let _turn = is_synced.then(|| kept.writing.lock().unwrap_or_else(PoisonError::into_inner));
    let fresh = path.with_extension(if is_synced { "new" } else { "candidate" });
    let mut file = fs::File::create(&fresh)?;
    file.write_all(serde_json::to_string(memory)?.as_bytes())?;
    if is_synced {
        file.sync_data()?;
    }
    let mut newest = kept.number.lock().unwrap_or_else(PoisonError::into_inner);
    if number < *newest {
        return fs::remove_file(fresh);
    }
    *newest = number;
    fs::rename(fresh, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_back_and_broken_files_are_told() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        assert!(matches!(Memory::read(dir.path(), "m"), Ok(None)));
        let kept = Kept::default();
        let addr = "127.0.0.1:1".parse().expect("parses");
        let memory = Memory {
            name: "m".into(),
            addr,
            epoch: 7,
            candidate: None,
            run_id: Some("run".into()),
            history: vec!["a".into(), "b".into()],
            replicas: vec![addr],
            family: vec![addr],
            sentinels: vec![KnownSentinel { addr: "s:26379".into(), run_id: "id".into() }],
        };
        for candidate in [None, Some(addr)] {
            let memory = Memory { candidate, ..memory.clone() };
            write(dir.path(), &memory, 1, &kept).expect("writes");
            assert_eq!(Memory::read(dir.path(), "m").expect("reads"), Some(memory.clone()));
            assert_eq!(Memory::only(dir.path()), Some(memory));
        }
        assert!(matches!(Memory::read(dir.path(), "other"), Ok(None)));
        let file = Memory::path(dir.path(), "m");
        fs::write(&file, r#"{"name":"m","addr":"127.0.0.1:1","epoch":7}"#).expect("writes");
        let old = Memory::read(dir.path(), "m").expect("reads").expect("a file of before");
        assert_eq!((old.epoch, old.history.len()), (7, 0));
        fs::write(&file, "{").expect("writes");
        assert!(Memory::read(dir.path(), "m").is_err());
        write(dir.path(), &Memory { name: "n".into(), ..old }, 1, &kept).expect("writes");
        assert_eq!(Memory::only(dir.path()), None, "one of two is no one's");
    }
    #[test]
    fn what_is_older_never_replaces_what_is_newer() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let kept = Kept::default();
        let text = r#"{"name":"m","addr":"127.0.0.1:1","epoch":7}"#;
        let memory: Memory = serde_json::from_str(text).expect("parses");
        for (number, epoch) in [(2, 8), (1, 7)] {
            write(dir.path(), &Memory { epoch, ..memory.clone() }, number, &kept).expect("writes");
        }
        let found = Memory::read(dir.path(), "m").expect("reads").expect("a file");
        assert_eq!(found.epoch, 8);
        assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 1, "nothing is left beside it");
    }
}
