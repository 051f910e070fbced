//! Clients as PHP pages are ([`Visits`]): connect, AUTH, SELECT, SET, GET, close, so many a second, whatever happens.
//!
//! Nobody retries.

use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use switchmaster::demo::wire::{Reply, Wire};
use switchmaster::secret::{Credentials, Secret};

use super::machine::listen;

/// A page gives up after this.
const PATIENCE: Duration = Duration::from_secs(20);

/// How one ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Served,
    /// Nobody listens.
    Refused,
    /// A reset, or a close before the first reply.
    Reset,
    /// A close between two requests.
    Closed,
    /// A write whose reply was lost.
    Unknown,
    /// Another error, or a reply of another kind.
    Wrong,
    TimedOut,
}

#[derive(Clone, Copy, Debug)]
pub struct Visit {
    pub began: Instant,
    pub took: Duration,
    pub ending: Ending,
}

#[derive(Debug)]
pub struct Visits {
    seen: Arc<Mutex<Vec<Visit>>>,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Visits {
    /// `a_second` of them; every eighth by the Unix socket, if there is one.
    pub fn start(a_second: u32, socket: Option<PathBuf>) -> Visits {
        let (seen, end) = (Arc::<Mutex<Vec<Visit>>>::default(), Arc::<AtomicBool>::default());
        let (into, until) = (seen.clone(), end.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let mut tick = tokio::time::interval(Duration::from_secs(1) / a_second);
                let mut running = tokio::task::JoinSet::new();
                for number in 0u64.. {
                    tick.tick().await;
                    if until.load(Ordering::Relaxed) {
                        break;
                    }
                    let (into, socket) = (into.clone(), socket.clone().filter(|_| number % 8 == 7));
                    running.spawn(async move {
                        let visit = visit(number, socket).await;
                        into.lock().unwrap_or_else(PoisonError::into_inner).push(visit);
                    });
                    while running.try_join_next().is_some() {}
                }
                while running.join_next().await.is_some() {}
            });
        });
        Visits { seen, end, thread: Some(thread) }
    }

    /// Ends them, and returns all.
    pub fn stop(mut self) -> Vec<Visit> {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the visitors end");
        }
        std::mem::take(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Visits {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
    }
}

async fn visit(number: u64, socket: Option<PathBuf>) -> Visit {
    let began = Instant::now();
    let mut replies = 0;
    let outcome = tokio::time::timeout(PATIENCE, page(number, socket, &mut replies)).await;
    let ending = match outcome {
        Ok(Ok(ending)) => ending,
        Ok(Err(error)) => match error.kind() {
            // The folder is there; the socket is not.
            ErrorKind::ConnectionRefused | ErrorKind::NotFound => Ending::Refused,
            ErrorKind::UnexpectedEof if replies > 0 => Ending::Closed,
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Ending::Reset,
            _ => Ending::Wrong,
        },
        Err(_) => Ending::TimedOut,
    };
    Visit { began, took: began.elapsed(), ending }
}

async fn page(number: u64, socket: Option<PathBuf>, replies: &mut u32) -> io::Result<Ending> {
    let mut wire = match socket {
        Some(socket) => Wire::connect_unix(&socket).await?,
        None => Wire::connect(listen()).await?,
    };
    wire.log_in(Some(&credentials()), 0).await?;
    *replies += 1;
    let (key, value) = (format!("visit:{}", number % 100), number.to_string());
    for request in [&["SELECT", "1"][..], &["SET", &key, &value], &["GET", &key]] {
        let reply = wire.ask(request).await?;
        *replies += 1;
        match reply {
            Reply::Simple(_) => {}
            // Another page may have written since.
            Reply::Bulk(_) if request[0] == "GET" => {}
            Reply::Error(text) if text.starts_with("UNKNOWNRESULT") => return Ok(Ending::Unknown),
            other => {
                println!("    {request:?}: {other}");
                return Ok(Ending::Wrong);
            }
        }
    }
    Ok(Ending::Served)
}

/// Those of every client.
pub fn credentials() -> Credentials {
    Credentials { username: None, password: Secret::new(super::PASSWORD) }
}
