//! The loads, and the closed loop that makes them: each client sends when it has its replies.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::LocalSet;

use crate::Failure;
use crate::client::{Address, Client};
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

impl Habit {
    /// Every request, or every page, has a connection of its own.
    pub fn connects(self) -> bool {
        matches!(self, Habit::Connect | Habit::Php)
    }
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
    /// Proxies are measured with other numbers of threads too.
    pub threads: bool,
}

const fn get(name: &'static str, title: &'static str, bytes: usize, pipeline: usize, clients: usize) -> Load {
    let habit = Habit::Get { bytes, pipeline };
    Load { name, title, habit, clients, transport: Transport::Tcp, traced: false, threads: false }
}

const fn unix(load: Load) -> Load {
    Load { transport: Transport::Unix, ..load }
}

const KIB: usize = 1024;

/// All of them.
pub const LOADS: &[Load] = &[
    Load { traced: true, ..get("get-1", "GET 100 B, 1 client", 100, 1, 1) },
    Load { traced: true, threads: true, ..get("get-50", "GET 100 B, 50 clients", 100, 1, 50) },
    get("get-500", "GET 100 B, 500 clients", 100, 1, 500),
    get("tiny-50", "GET 16 B, 50 clients", 16, 1, 50),
    get("kilo-50", "GET 1 KiB, 50 clients", KIB, 1, 50),
    Load { threads: true, ..get("pipeline-16", "GET 100 B, 50 clients, pipeline 16", 100, 16, 50) },
    get("pipeline-100", "GET 100 B, 50 clients, pipeline 100", 100, 100, 50),
    get("64k", "GET 64 KiB, 20 clients", 64 * KIB, 1, 20),
    get("256k", "GET 256 KiB, 8 clients", 256 * KIB, 1, 8),
    get("1m", "GET 1 MiB, 8 clients", 1024 * KIB, 1, 8),
    Load { habit: Habit::Connect, traced: true, ..get("connect", "connect + PING + close, 20 clients", 0, 1, 20) },
    Load {
        habit: Habit::Php,
        traced: true,
        ..get("php", "connect + AUTH + SELECT + 3 commands + close, 20 clients", 0, 1, 20)
    },
    unix(Load { traced: true, ..get("unix-1", "GET 100 B, 1 client, Unix socket", 100, 1, 1) }),
    unix(Load { traced: true, threads: true, ..get("unix-50", "GET 100 B, 50 clients, Unix socket", 100, 1, 50) }),
    unix(get("unix-500", "GET 100 B, 500 clients, Unix socket", 100, 1, 500)),
    unix(get("unix-pipeline-16", "GET 100 B, 50 clients, pipeline 16, Unix socket", 100, 16, 50)),
    unix(get("unix-64k", "GET 64 KiB, 20 clients, Unix socket", 64 * KIB, 1, 20)),
    unix(get("unix-1m", "GET 1 MiB, 8 clients, Unix socket", 1024 * KIB, 1, 8)),
    unix(Load {
        habit: Habit::Php,
        ..get("unix-php", "connect + AUTH + SELECT + 3 commands + close, 20 clients, Unix socket", 0, 1, 20)
    }),
];

/// The load of this name.
pub fn named(name: &str) -> Option<&'static Load> {
    LOADS.iter().find(|load| load.name == name)
}

/// The sizes of the values that must be there: key `v<bytes>` has so many.
pub const VALUES: [usize; 6] = [16, 100, KIB, 64 * KIB, 256 * KIB, 1024 * KIB];

/// The user of [`Habit::Php`].
pub const USER: (&str, &str) = ("app", "bench");

/// The bytes of `GET v<bytes>`, and of its reply.
pub fn get_request(bytes: usize) -> (Vec<u8>, usize) {
    let request = switchmaster::resp::request::encode(&[b"GET", format!("v{bytes}").as_bytes()]);
    (request, format!("${bytes}\r\n").len() + bytes + 2)
}

/// What was done.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// Requests answered; of habits that connect, connections.
    pub requests: u64,
    pub elapsed: Duration,
}

/// The clients of a load, at one target. Those that stay connected do so from slice to slice: what it costs to
/// connect is in no figure but that of habits that connect.
pub struct Crew<'a> {
    load: &'a Load,
    target: &'a Target,
    connected: Vec<Client>,
}

impl<'a> Crew<'a> {
    /// Connects them, if they stay so, and lets each ask once.
    pub async fn new(load: &'a Load, target: &'a Target) -> Result<Crew<'a>, Failure> {
        let mut connected = Vec::new();
        if !load.habit.connects() {
            for _ in 0..load.clients {
                let mut client = Client::connect(&target.address).await?;
                client.ping().await?;
                connected.push(client);
            }
        }
        Ok(Crew { load, target, connected })
    }

    /// Works for `length`; every client finishes what it has begun.
    pub async fn work(&mut self, length: Duration) -> Result<Done, Failure> {
        let set = LocalSet::new();
        let (load, target) = (self.load, self.target);
        let requests = Rc::new(Cell::new(0));
        let started = Instant::now();
        let mut connected = std::mem::take(&mut self.connected).into_iter();
        let tasks: Vec<_> = (0..load.clients)
            .map(|_| {
                let (requests, client, address) = (requests.clone(), connected.next(), target.address.clone());
                let habit = load.habit;
                set.spawn_local(async move {
                    let goes_on = || started.elapsed() < length;
                    let count = |more: u64| requests.set(requests.get() + more);
                    follow(habit, client, &address, goes_on, count).await
                })
            })
            .collect();
        set.await;
        let elapsed = started.elapsed();
        for task in tasks {
            let client = task.await?.map_err(|error| format!("{} at {}: {error}", load.name, target.name))?;
            self.connected.extend(client);
        }
        Ok(Done { requests: requests.get(), elapsed })
    }
}

/// One client at work; it comes back if it stays connected.
async fn follow(
    habit: Habit,
    client: Option<Client>,
    address: &Address,
    goes_on: impl Fn() -> bool,
    count: impl Fn(u64),
) -> io::Result<Option<Client>> {
    match (habit, client) {
        (Habit::Get { bytes, pipeline }, Some(mut client)) => {
            let (request, expected) = get_request(bytes);
            let (request, expected) = (request.repeat(pipeline), expected * pipeline);
            while goes_on() {
                client.exchange(&request, expected).await?;
                count(pipeline as u64);
            }
            return Ok(Some(client));
        }
        (Habit::Php, _) => {
            let auth = switchmaster::resp::request::encode(&[b"AUTH", USER.0.as_bytes(), USER.1.as_bytes()]);
            let (get, expected) = get_request(100);
            while goes_on() {
                let mut client = Client::connect(address).await?;
                client.exchange(&auth, 5).await?;
                client.exchange(b"*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n", 5).await?;
                for _ in 0..3 {
                    client.exchange(&get, expected).await?;
                }
                count(1);
            }
        }
        _ => {
            while goes_on() {
                Client::connect(address).await?.ping().await?;
                count(1);
            }
        }
    }
    Ok(None)
}
