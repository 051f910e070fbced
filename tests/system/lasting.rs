//! Clients that stay connected ([`Lasting`]) and note each write: what was acknowledged, what became of a close.
//!
//! Each pushes rising numbers to a list of its own. One that is closed connects again and goes on with the next number;
//! nothing is sent twice.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use switchmaster::demo::wire::{Reply, Wire};

use super::machine::listen;
use super::visits::credentials;

/// What happened to one.
#[derive(Clone, Debug, Default)]
pub struct Log {
    pub acknowledged: Vec<u64>,
    /// Sent, and no reply came, or an error that says that it is not known.
    pub unknown: Vec<u64>,
    /// When a connection ended, and whether a request was under way.
    pub closes: Vec<(Instant, bool)>,
    pub refused: usize,
    /// Error replies that are not about an unknown fate.
    pub errors: Vec<String>,
}

#[derive(Debug)]
pub struct Lasting {
    logs: Vec<Arc<Mutex<Log>>>,
    name: String,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// What the data says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Verdict {
    pub acknowledged: usize,
    pub missing: usize,
    pub twice: usize,
}

impl Lasting {
    /// So many of them, each with so long a pause between two writes.
    pub fn start(count: usize, pause: Duration) -> Lasting {
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let name = format!("lasting:{}", STARTED.fetch_add(1, Ordering::Relaxed));
        let logs: Vec<Arc<Mutex<Log>>> = (0..count).map(|_| Arc::default()).collect();
        let end = Arc::<AtomicBool>::default();
        let (mine, until, of) = (logs.clone(), end.clone(), name.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let mut running = tokio::task::JoinSet::new();
                for (index, log) in mine.into_iter().enumerate() {
                    running.spawn(client(format!("{of}:{index}"), log, pause, until.clone()));
                }
                while running.join_next().await.is_some() {}
            });
        });
        Lasting { logs, name, end, thread: Some(thread) }
    }

    pub fn logs(&self) -> Vec<Log> {
        self.logs.iter().map(|log| log.lock().unwrap_or_else(PoisonError::into_inner).clone()).collect()
    }

    /// Ends them.
    pub fn stop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the clients end");
        }
    }

    /// Compares what was acknowledged with what the master holds; to be called when they have ended.
    pub async fn verify(&self, master: SocketAddr) -> io::Result<Verdict> {
        let mut wire = Wire::open(master, Some(&credentials()), 0).await?;
        let mut verdict = Verdict::default();
        for (index, log) in self.logs().into_iter().enumerate() {
            let reply = wire.ask(&["LRANGE", &format!("{}:{index}", self.name), "0", "-1"]).await?;
            let Reply::Array(items) = reply else { return Err(io::Error::other(format!("LRANGE says {reply}"))) };
            let mut held: HashMap<u64, usize> = HashMap::new();
            for number in items.iter().filter_map(|item| item.text()?.parse().ok()) {
                *held.entry(number).or_default() += 1;
            }
            verdict.acknowledged += log.acknowledged.len();
            verdict.missing += log.acknowledged.iter().filter(|number| !held.contains_key(number)).count();
            verdict.twice += held.values().filter(|times| **times > 1).count();
        }
        Ok(verdict)
    }
}

impl Drop for Lasting {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
    }
}

async fn client(list: String, log: Arc<Mutex<Log>>, pause: Duration, end: Arc<AtomicBool>) {
    let note = |change: &mut dyn FnMut(&mut Log)| change(&mut log.lock().unwrap_or_else(PoisonError::into_inner));
    let mut number = 0;
    while !end.load(Ordering::Relaxed) {
        let mut wire = match Wire::open(listen(), Some(&credentials()), 0).await {
            Ok(wire) => wire,
            Err(error) => {
                if error.kind() == io::ErrorKind::ConnectionRefused {
                    note(&mut |log| log.refused += 1);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        while !end.load(Ordering::Relaxed) {
            // A close is seen when it comes, as by a client that polls its socket before it writes.
            if tokio::time::timeout(pause, wire.readable()).await.is_ok() {
                note(&mut |log| log.closes.push((Instant::now(), false)));
                break;
            }
            number += 1;
            match wire.ask(&["RPUSH", &list, &number.to_string()]).await {
                Ok(Reply::Integer(_)) => note(&mut |log| log.acknowledged.push(number)),
                Ok(Reply::Error(text)) if text.starts_with("UNKNOWNRESULT") => {
                    note(&mut |log| log.unknown.push(number))
                }
                Ok(other) => note(&mut |log| log.errors.push(other.to_string())),
                Err(_) => {
                    note(&mut |log| {
                        log.unknown.push(number);
                        log.closes.push((Instant::now(), true));
                    });
                    break;
                }
            }
        }
    }
}
