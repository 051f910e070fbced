//! A PHP script of tests/laravel: started, waited for, told to stop; and what it says at its end.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use switchmaster::demo::cluster::until;

use super::LIMIT;

const PACKAGES: &str = "php-cli php-redis php-nrk-predis php-illuminate-redis php-illuminate-cache \
                        php-illuminate-queue php-illuminate-session";

/// A running script of tests/laravel; killed when dropped.
#[derive(Debug)]
pub struct PhpRun {
    name: String,
    child: Child,
    seen: Arc<Seen>,
    readers: Vec<JoinHandle<()>>,
}

/// What the script has said so far.
#[derive(Debug, Default)]
struct Seen {
    iterations: AtomicU64,
    exceptions: AtomicU64,
    last_line: Mutex<String>,
    errors: Mutex<String>,
}

/// `$PHP`, else php from the PATH.
fn php() -> std::ffi::OsString {
    std::env::var_os("PHP").filter(|program| !program.is_empty()).unwrap_or_else(|| "php".into())
}

#[allow(dead_code)]
impl PhpRun {
    /// Starts `script` with `client` against `addr`; it runs until [`PhpRun::stop`].
    pub fn start(script: &str, client: &str, addr: SocketAddr, password: Option<&str>, arguments: &[&str]) -> PhpRun {
        let path = format!("{}/tests/laravel/{script}", env!("CARGO_MANIFEST_DIR"));
        let mut command = Command::new(php());
        command
            .args(["-d", "display_errors=stderr", "-d", "html_errors=0", &path])
            .args(["--client", client, "--host", &addr.ip().to_string()])
            .args(["--port", &addr.port().to_string()])
            .args(arguments)
            .env_remove("REDIS_PASSWORD")
            .envs(password.map(|password| ("REDIS_PASSWORD", password)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("php cannot be run ({error}). Install it with: apt-get install {PACKAGES}"));
        let seen = Arc::new(Seen::default());
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut errors = child.stderr.take().unwrap();
        let readers = vec![
            std::thread::spawn({
                let seen = seen.clone();
                move || output.lines().map_while(Result::ok).for_each(|line| seen.note(line))
            }),
            std::thread::spawn({
                let seen = seen.clone();
                move || {
                    let mut text = Vec::new();
                    let _ = errors.read_to_end(&mut text);
                    *seen.errors.lock().unwrap() = String::from_utf8_lossy(&text).into_owned();
                }
            }),
        ];
        let name = format!("{client} {script} {}", arguments.join(" "));
        PhpRun { name: name.trim_end().to_owned(), child, seen, readers }
    }

    /// Waits until it has done `more` iterations from now on.
    pub async fn progress(&self, more: u64) {
        let from = self.seen.iterations.load(Ordering::Relaxed);
        let what = format!("{more} more iterations of {}", self.name);
        until(&what, LIMIT, async || {
            let done = self.seen.iterations.load(Ordering::Relaxed) - from;
            self.check(done >= more, format!("{done} done"))
        })
        .await
        .unwrap();
    }

    /// Waits until it has counted so many exceptions since its start.
    pub async fn exceptions(&self, count: u64) {
        let what = format!("{count} exceptions of {}", self.name);
        until(&what, LIMIT, async || {
            let counted = self.seen.exceptions.load(Ordering::Relaxed);
            self.check(counted >= count, format!("{counted} counted"))
        })
        .await
        .unwrap();
    }

    /// Tells it to finish (its standard input ends) and returns what it says.
    pub async fn stop(self, limit: Duration) -> Outcome {
        let name = self.name.clone();
        Outcome { name, ..self.finish(limit).await }
    }

    /// The same for a script that says something else.
    pub async fn finish<T: DeserializeOwned>(mut self, limit: Duration) -> T {
        drop(self.child.stdin.take());
        let what = format!("the end of {}", self.name);
        let status = until(&what, limit, async || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            other => Err(format!("{other:?}")),
        })
        .await
        .unwrap();
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        let line = self.seen.last_line.lock().unwrap();
        let errors = self.seen.errors.lock().unwrap();
        let name = &self.name;
        assert!(
            status.success(),
            "{name}: {status}\n{line}\n{errors}\nIf something is missing: apt-get install {PACKAGES}"
        );
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{name} said {line:?}: {error}\n{errors}"))
    }

    fn check(&self, met: bool, so_far: String) -> Result<(), String> {
        if self.readers.iter().any(JoinHandle::is_finished) {
            let errors = self.seen.errors.lock().unwrap();
            let line = self.seen.last_line.lock().unwrap();
            panic!(
                "{} ended by itself: {line}\n{errors}\nIf something is missing: apt-get install {PACKAGES}",
                self.name
            );
        }
        if met { Ok(()) } else { Err(so_far) }
    }
}

impl Drop for PhpRun {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Seen {
    fn note(&self, line: String) {
        let mut words = line.split(' ');
        if words.next() == Some("progress") {
            let mut number = || words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
            self.iterations.store(number(), Ordering::Relaxed);
            self.exceptions.store(number(), Ordering::Relaxed);
        } else {
            *self.last_line.lock().unwrap() = line;
        }
    }
}

/// What a script says at its end.
#[derive(Debug, Deserialize)]
pub struct Outcome {
    #[serde(skip)]
    pub name: String,
    pub iterations: u64,
    pub exceptions: Exceptions,
    /// Reads that returned what nobody wrote there.
    pub wrong: Strange,
    /// Reads that returned nothing, or something older, where a write was acknowledged.
    pub missing: Strange,
    pub wrong_db: u64,
    pub writes: u64,
    pub acknowledged: Vec<Acknowledged>,
    pub counters: Vec<Counter>,
    pub longest_ms: u64,
    pub reconnects: u64,
    pub jobs: Option<Jobs>,
}

/// DB, key, value as stored, and when it was acknowledged (Unix, ms).
#[derive(Clone, Debug, Deserialize)]
pub struct Acknowledged(pub u32, pub String, pub String, pub u64);

#[derive(Debug, Deserialize)]
pub struct Exceptions {
    pub count: u64,
    /// `step: class: message`, and how often.
    pub kinds: std::collections::BTreeMap<String, u64>,
}

#[derive(Debug, Deserialize)]
pub struct Strange {
    pub count: u64,
    pub first: Vec<Sample>,
}

#[derive(Debug, Deserialize)]
#[allow(dead_code)] // Read by Debug.
pub struct Sample {
    pub what: String,
    pub expected: Value,
    pub found: Value,
}

#[derive(Debug, Deserialize)]
pub struct Counter {
    pub db: u32,
    pub key: String,
    pub acknowledged: u64,
    pub unknown: u64,
}

#[derive(Debug, Deserialize)]
pub struct Jobs {
    pub pushed: u64,
    pub pushes_unknown: u64,
    pub ran: u64,
    pub pops_unknown: u64,
    pub released: u64,
    pub deleted: u64,
    pub lost: Vec<Job>,
    pub twice: Vec<Job>,
    pub never_pushed: Vec<String>,
    #[serde(default)]
    pub pushed_ids: Vec<String>,
    #[serde(default)]
    pub ran_ids: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[allow(dead_code)] // Read by Debug.
pub struct Job {
    pub id: String,
    /// When its last step was acknowledged.
    pub at: u64,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}: {} iterations, {} writes, {} exceptions {:?}, wrong {} {:?}, missing {} {:?}, wrong DB {}, \
             {} reconnects, longest {} ms",
            self.name,
            self.iterations,
            self.writes,
            self.exceptions.count,
            self.exceptions.kinds,
            self.wrong.count,
            self.wrong.first,
            self.missing.count,
            self.missing.first,
            self.wrong_db,
            self.reconnects,
            self.longest_ms
        )?;
        let Some(jobs) = &self.jobs else {
            return Ok(());
        };
        write!(
            f,
            "; jobs: {} pushed (+{} unknown), {} ran (+{} pops unknown), {} released, {} deleted, {} lost, {} twice",
            jobs.pushed,
            jobs.pushes_unknown,
            jobs.ran,
            jobs.pops_unknown,
            jobs.released,
            jobs.deleted,
            jobs.lost.len(),
            jobs.twice.len()
        )
    }
}
