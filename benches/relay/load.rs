//! The loads, and the closed loop that makes them: each client sends when it has its replies.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::LocalSet;

use crate::Failure;
use crate::client::Client;
use crate::targets::Target;

/// How clients reach a target. The targets' own connections to Redis are TCP always, as from another host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    Unix,
}

impl Transport {
    /// For names of loads.
    pub fn name(self) -> &'static str {
        match self {
            Transport::Tcp => "tcp",
            Transport::Unix => "unix",
        }
    }
}

/// What a client does, again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    /// GETs of a value of this many bytes, so many in one write.
    Get { bytes: usize, pipeline: usize },
    /// Connects, PINGs once, closes.
    Connect,
    /// As PHP does for each page: connects, AUTH, SELECT, three commands, closes.
    Php,
}

/// One load.
#[derive(Debug)]
pub struct Load {
    pub name: &'static str,
    /// For people.
    pub title: &'static str,
    pub habit: Habit,
    pub clients: usize,
    pub transport: Transport,
    /// Its system calls are counted too.
    pub traced: bool,
}

const fn get(name: &'static str, title: &'static str, bytes: usize, pipeline: usize, clients: usize) -> Load {
    Load { name, title, habit: Habit::Get { bytes, pipeline }, clients, transport: Transport::Tcp, traced: false }
}

/// All of them.
pub const LOADS: &[Load] = &[
    Load { traced: true, ..get("get-1", "GET 100 B, 1 client", 100, 1, 1) },
    Load { traced: true, ..get("get-50", "GET 100 B, 50 clients", 100, 1, 50) },
    get("get-500", "GET 100 B, 500 clients", 100, 1, 500),
    get("tiny-50", "GET 16 B, 50 clients", 16, 1, 50),
    get("kilo-50", "GET 1 KiB, 50 clients", 1024, 1, 50),
    get("pipeline-16", "GET 100 B, 50 clients, pipeline 16", 100, 16, 50),
    get("pipeline-100", "GET 100 B, 50 clients, pipeline 100", 100, 100, 50),
    get("64k", "GET 64 KiB, 20 clients", 64 * 1024, 1, 20),
    get("1m", "GET 1 MiB, 8 clients", 1024 * 1024, 1, 8),
    Load { habit: Habit::Connect, traced: true, ..get("connect", "connect + PING + close, 20 clients", 0, 1, 20) },
    Load {
        habit: Habit::Php,
        traced: true,
        ..get("php", "connect + AUTH + SELECT + 3 commands + close, 20 clients", 0, 1, 20)
    },
    Load { transport: Transport::Unix, traced: true, ..get("unix-1", "GET 100 B, 1 client, Unix socket", 100, 1, 1) },
    Load {
        transport: Transport::Unix,
        traced: true,
        ..get("unix-50", "GET 100 B, 50 clients, Unix socket", 100, 1, 50)
    },
    Load {
        transport: Transport::Unix,
        ..get("unix-pipeline-16", "GET 100 B, 50 clients, pipeline 16, Unix socket", 100, 16, 50)
    },
    Load {
        transport: Transport::Unix,
        habit: Habit::Php,
        ..get("unix-php", "connect + AUTH + SELECT + 3 commands + close, 20 clients, Unix socket", 0, 1, 20)
    },
];

/// The sizes of the values that must be there: key `v<bytes>` has so many.
pub const VALUES: [usize; 5] = [16, 100, 1024, 64 * 1024, 1024 * 1024];

/// The user of [`Habit::Php`].
pub const USER: (&str, &str) = ("app", "bench");

/// What was done.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// Requests answered; of [`Habit::Connect`] and [`Habit::Php`] connections.
    pub requests: u64,
    pub elapsed: Duration,
}

/// The bytes of `GET v<bytes>`, and of its reply.
pub fn get_request(bytes: usize) -> (Vec<u8>, usize) {
    let request = switchmaster::resp::request::encode(&[b"GET", format!("v{bytes}").as_bytes()]);
    (request, format!("${bytes}\r\n").len() + bytes + 2)
}

/// Runs `load` on `target` for `length`; every client finishes what it has begun.
pub async fn run(load: &Load, target: &Target, length: Duration) -> Result<Done, Failure> {
    let set = LocalSet::new();
    let answered = Rc::new(Cell::new(0));
    let mut clients = Vec::new();
    if matches!(load.habit, Habit::Get { .. }) {
        for _ in 0..load.clients {
            clients.push(Some(Client::connect(&target.address).await?));
        }
    } else {
        clients.extend((0..load.clients).map(|_| None));
    }
    let started = Instant::now();
    let mut tasks = Vec::new();
    for client in clients {
        let (answered, habit, address) = (answered.clone(), load.habit, target.address.clone());
        tasks.push(set.spawn_local(async move {
            match (habit, client) {
                (Habit::Get { bytes, pipeline }, Some(mut client)) => {
                    let (request, expected) = get_request(bytes);
                    let (request, expected) = (request.repeat(pipeline), expected * pipeline);
                    while started.elapsed() < length {
                        client.exchange(&request, expected).await?;
                        answered.set(answered.get() + pipeline as u64);
                    }
                }
                (Habit::Php, _) => {
                    let auth = switchmaster::resp::request::encode(&[b"AUTH", USER.0.as_bytes(), USER.1.as_bytes()]);
                    let (get, expected) = get_request(100);
                    while started.elapsed() < length {
                        let mut client = Client::connect(&address).await?;
                        client.exchange(&auth, 5).await?;
                        client.exchange(b"*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n", 5).await?;
                        for _ in 0..3 {
                            client.exchange(&get, expected).await?;
                        }
                        answered.set(answered.get() + 1);
                    }
                }
                _ => {
                    while started.elapsed() < length {
                        let mut client = Client::connect(&address).await?;
                        client.exchange(b"*1\r\n$4\r\nPING\r\n", 7).await?;
                        answered.set(answered.get() + 1);
                    }
                }
            }
            Ok::<(), std::io::Error>(())
        }));
    }
    set.await;
    let elapsed = started.elapsed();
    for task in tasks {
        task.await?.map_err(|error| format!("{} at {}: {error}", load.name, target.name))?;
    }
    Ok(Done { requests: answered.get(), elapsed })
}
