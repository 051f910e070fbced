//! The last verified master, kept in a small file across restarts.
//!
//! It raises the epoch below which nothing is believed, and says to the next run which data and which Sentinels are ours; a
//! missing or broken file costs nothing but that, and files of before read as ones that know less. At every instant it is
//! whole, whatever ends this process; and, once it is synced, whatever ends the host.

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
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
        if memory.name != name {
            let text = format!("{} is of the master {:?}", path.display(), memory.name);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(Some(memory))
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
    /// The last one could not be written, which was logged.
    is_failing: AtomicBool,
}

impl Keeper {
    /// Keeps `memory` in `dir`: written and synced in the background, as a disk may take its time. One with a candidate is in
    /// its file already when this returns, for sessions go there next: it outlasts this process, and soon the host.
    ///
    /// Needs a tokio runtime. What cannot be written is logged, once until something can.
    pub fn keep(&mut self, dir: &Path, memory: &Memory) {
        self.last += 1;
        let (number, kept) = (self.last, self.kept.clone());
        let (dir, memory) = (dir.to_owned(), memory.clone());
        if memory.candidate.is_some() {
            put(&dir, &memory, number, &kept, Sync::Later);
        }
        tokio::task::spawn_blocking(move || put(&dir, &memory, number, &kept, Sync::Now));
    }
}

/// Whether it is on the disk when it is in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sync {
    Now,
    Later,
}

fn put(dir: &Path, memory: &Memory, number: u64, kept: &Kept, sync: Sync) {
    let written = write(dir, memory, number, kept, sync);
    let was_failing = kept.is_failing.swap(written.is_err(), Ordering::Relaxed);
    match written {
        Err(error) if !was_failing => {
            tracing::warn!("the master cannot be remembered in {}: {error}", dir.display());
        }
        Ok(()) if was_failing => tracing::info!("the master is remembered in {} again", dir.display()),
        _ => {}
    }
}

/// Writes a new file beside the old one and renames it over, unless a newer one is there.
fn write(dir: &Path, memory: &Memory, number: u64, kept: &Kept, sync: Sync) -> io::Result<()> {
    let path = Memory::path(dir, &memory.name);
    let _turn = (sync == Sync::Now).then(|| kept.writing.lock().unwrap_or_else(PoisonError::into_inner));
    let fresh = path.with_extension(if sync == Sync::Now { "new" } else { "candidate" });
    let renamed = fill(&fresh, memory, sync).and_then(|()| {
        let mut newest = kept.number.lock().unwrap_or_else(PoisonError::into_inner);
        if number < *newest {
            return fs::remove_file(&fresh);
        }
        *newest = number;
        fs::rename(&fresh, &path)
    });
    if renamed.is_err() {
        let _ = fs::remove_file(&fresh); // a part of it, on a disk that is full
    } else if sync == Sync::Now {
        fs::File::open(dir)?.sync_all()?;
    }
    renamed
}

fn fill(path: &Path, memory: &Memory, sync: Sync) -> io::Result<()> {
    let mut file = fs::File::create(path)?;
    file.write_all(serde_json::to_string(memory)?.as_bytes())?;
    if sync == Sync::Now { file.sync_data() } else { Ok(()) }
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
            write(dir.path(), &memory, 1, &kept, Sync::Later).expect("writes");
            write(dir.path(), &memory, 1, &kept, Sync::Now).expect("writes");
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
        write(dir.path(), &Memory { name: "n".into(), ..old }, 1, &kept, Sync::Now).expect("writes");
        assert_eq!(Memory::only(dir.path()), None, "one of two is no one's");
    }

    #[test]
    fn a_file_of_another_master_is_refused_and_so_is_what_is_no_file() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = Memory::path(dir.path(), "m");
        fs::write(&file, r#"{"name":"n","addr":"127.0.0.1:1","epoch":7}"#).expect("writes");
        let error = Memory::read(dir.path(), "m").expect_err("it is not ours");
        assert!(error.to_string().contains("is of the master \"n\""), "{error}");
        fs::remove_file(&file).expect("removes");
        fs::create_dir(&file).expect("creates");
        assert!(Memory::read(dir.path(), "m").is_err());
    }

    #[test]
    fn at_every_instant_the_file_is_whole_also_where_writing_fails() {
        const WRITES: u64 = 300;
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (dir, kept) = (dir.path(), Kept::default());
        let text = r#"{"name":"m","addr":"127.0.0.1:1","epoch":1}"#;
        let memory: Memory = serde_json::from_str(text).expect("parses");
        write(dir, &memory, 1, &kept, Sync::Now).expect("writes");
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for number in 2..WRITES {
                    // Longer and shorter ones, and some that cannot be written.
                    let history = vec!["x".repeat(40); (number % 50) as usize];
                    let sync = if number % 2 == 0 { Sync::Now } else { Sync::Later };
                    let blocked = (number % 10 == 0).then(|| dir.join("master-m.new"));
                    blocked.iter().for_each(|path| fs::create_dir(path).expect("creates"));
                    let written = write(dir, &Memory { epoch: number, history, ..memory.clone() }, number, &kept, sync);
                    assert_eq!(written.is_err(), blocked.is_some());
                    blocked.iter().for_each(|path| fs::remove_dir(path).expect("removes"));
                }
            });
            let mut last = 0;
            while !writer.is_finished() {
                let epoch = Memory::read(dir, "m").expect("it is whole").expect("it is there").epoch;
                assert!(epoch >= last, "{epoch} after {last}");
                last = epoch;
            }
        });
        assert_eq!(fs::read_dir(dir).expect("a folder").count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_file_of_a_newer_version_is_read_as_far_as_it_is_known() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let text = r#"{"format":9,"name":"m","addr":"127.0.0.1:1","epoch":7,"shadow":{"a":[1]},"history":["h"],
            "sentinels":[{"addr":"s:26379","run_id":"id","tls":true}]}"#;
        fs::write(Memory::path(dir.path(), "m"), text).expect("writes");
        let found = Memory::read(dir.path(), "m").expect("reads").expect("a file");
        assert_eq!((found.epoch, &found.history[..], found.sentinels.len()), (7, &["h".to_owned()][..], 1));
        assert_eq!(Memory::only(dir.path()), Some(found));
    }

    #[test]
    fn what_is_older_never_replaces_what_is_newer() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let kept = Kept::default();
        let text = r#"{"name":"m","addr":"127.0.0.1:1","epoch":7}"#;
        let memory: Memory = serde_json::from_str(text).expect("parses");
        for (number, epoch) in [(2, 8), (1, 7)] {
            write(dir.path(), &Memory { epoch, ..memory.clone() }, number, &kept, Sync::Now).expect("writes");
        }
        let found = Memory::read(dir.path(), "m").expect("reads").expect("a file");
        assert_eq!(found.epoch, 8);
        assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 1, "nothing is left beside it");
    }
}
