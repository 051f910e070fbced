//! The drill: a throwaway redis-server loads a backup, and what it then holds is compared with the manifest.
//!
//! It listens on a Unix socket in a temporary folder and nowhere else, writes nothing, and is gone when this returns.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use super::{Counts, Error};
use crate::binary::Binary;
use crate::node::info::InfoText;
use crate::wire::{Reply, Wire};

/// How long it may take to come up, and in which pace it must load at least.
const START: Duration = Duration::from_secs(30);
const PACE: u64 = 2 * 1024 * 1024;
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// A server that has loaded the backup as expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drilled {
    /// What it calls itself.
    pub version: String,
    /// Keys that it holds.
    pub keys: u64,
    /// How long it took to load.
    pub took: Duration,
}

/// Lets a redis-server (`$REDIS_SERVER`, or the one in the PATH) load `rdb`, a plain file, and compares keys and expiries
/// of each database and the function libraries with `expected`.
///
/// # Errors
/// [`Error::Unavailable`] when there is no such program, or it does not start; [`Error::Unsound`] when it cannot load the
/// file or holds something else afterwards.
pub async fn drill(rdb: &File, expected: &Counts) -> Result<Drilled, Error> {
    let broken = |error: io::Error| Error::Internal(format!("the drill cannot be set up: {error}"));
    let binary = Binary::redis_server().map_err(|error| Error::Unavailable(error.to_string()))?;
    let dir = tempfile::Builder::new().prefix("switchmaster-drill-").tempdir().map_err(broken)?;
    // The file may have no name any more: the server opens its standard input by that name.
    symlink("/proc/self/fd/0", dir.path().join("dump.rdb")).map_err(broken)?;
    let log = File::create(dir.path().join("server.log")).map_err(broken)?;
    let socket = dir.path().join("drill.sock");
    let databases = expected.databases.keys().max().map_or(16, |db| u64::from(*db) + 1).max(16);
    let mut child = Command::new(binary.program())
        .args(["--dir", &dir.path().to_string_lossy(), "--unixsocket", &socket.to_string_lossy()])
        .args(["--port", "0", "--save", "", "--appendonly", "no", "--databases", &databases.to_string()])
        // A replica drops no key because its time is over: it holds what the file holds. It never finds this master.
        .args(["--replicaof", "127.0.0.1", "1"])
        .stdin(rdb.try_clone().map_err(broken)?)
        .stdout(log.try_clone().map_err(broken)?)
        .stderr(Stdio::from(log))
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| Error::Unavailable(format!("{} does not start: {error}", binary.program().display())))?;
    let started = Instant::now();
    let bytes = rdb.metadata().map_err(broken)?.len();
    let limit = START + Duration::from_secs(bytes / PACE);
    let outcome = tokio::select! {
        outcome = inspected(&socket, expected) => outcome,
        ended = child.wait() => Err(Error::Unsound(format!(
            "redis-server could not load the backup ({}):\n{}",
            ended.map_or_else(|error| error.to_string(), |status| status.to_string()),
            tail(dir.path())
        ))),
        () = sleep(limit) => Err(Error::Unsound(format!(
            "redis-server has not loaded the backup within {} s:\n{}", limit.as_secs(), tail(dir.path())
        ))),
    };
    end(child).await;
    outcome.map(|(version, keys)| Drilled { version, keys, took: started.elapsed() })
}

/// A connection that breaks off tells nothing: the server has ended, or will have said why before the time is over.
async fn inspected(socket: &Path, expected: &Counts) -> Result<(String, u64), Error> {
    match inspect(socket, expected).await {
        Ok(outcome) => outcome,
        Err(_) => std::future::pending().await,
    }
}

async fn inspect(socket: &Path, expected: &Counts) -> io::Result<Result<(String, u64), Error>> {
    let mut wire = loop {
        if let Ok(wire) = Wire::connect_unix(socket).await {
            break wire;
        }
        sleep(LOOK).await;
    };
    while let Reply::Error(_) = wire.ask(&["PING"]).await? {
        sleep(LOOK).await;
    }
    let info = wire.ask(&["INFO"]).await?.text().unwrap_or_default().to_owned();
    let libraries = match expected.functions {
        0 => 0,
        _ => wire.ask(&["FUNCTION", "LIST"]).await?.items().len() as u64,
    };
    Ok(compare(&info, libraries, expected))
}

/// What it calls itself and how many keys it holds, if that is all as expected.
fn compare(info: &str, libraries: u64, expected: &Counts) -> Result<(String, u64), Error> {
    let found = InfoText::new(info).keyspace();
    let wanted: BTreeMap<u32, (u64, u64)> =
        expected.databases.iter().map(|(db, counts)| (*db, (counts.keys, counts.expires))).collect();
    let dbs: BTreeSet<&u32> = found.keys().chain(wanted.keys()).collect();
    for db in dbs {
        let of = |all: &BTreeMap<u32, (u64, u64)>| all.get(db).copied().unwrap_or_default();
        let ((keys, expires), (wanted_keys, wanted_expires)) = (of(&found), of(&wanted));
        if (keys, expires) != (wanted_keys, wanted_expires) {
            return Err(Error::Unsound(format!(
                "database {db}: the server has loaded {keys} keys, {expires} with an expiry; the manifest says \
                 {wanted_keys} and {wanted_expires}"
            )));
        }
    }
    if libraries != expected.functions {
        return Err(Error::Unsound(format!(
            "the server has loaded {libraries} function libraries; the manifest says {}",
            expected.functions
        )));
    }
    let version = |key: &str| info.lines().find_map(|line| line.strip_prefix(key)).map(str::trim_end);
    let version = version("valkey_version:").or(version("redis_version:")).unwrap_or("of an unknown version");
    Ok((version.to_owned(), found.values().map(|(keys, _)| keys).sum()))
}

/// It has nothing to save and nobody to wait for.
async fn end(mut child: Child) {
    let _ = child.start_kill();
    let _ = child.wait().await;
}

fn tail(dir: &Path) -> String {
    let log = fs::read_to_string(dir.join("server.log")).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}
