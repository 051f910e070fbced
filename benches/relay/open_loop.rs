//! Latency at a fixed rate of arrivals. Requests are sent when they are due, whether or not earlier ones were answered,
//! and latency counts from that moment: a target that stalls cannot hide it by slowing its clients down.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;

use crate::Failure;
use crate::client::{Address, PING, PONG};
use crate::figures::Spread;
use crate::load::{self, Crew, Load, Transport};
use crate::targets::{DIRECT, Target, Targets};

const CLIENTS: u64 = 50;
/// Of what the slowest target could do.
const SHARE: f64 = 0.6;
/// No sleep is shorter: what is due meanwhile goes out together, for every target alike.
const NAP: Duration = Duration::from_micros(50);
/// What is looked at.
pub const QUANTILES: [(&str, f64); 3] = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)];

/// Latencies of each target in each round, in microseconds, at [`QUANTILES`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Latencies {
    /// Names of the targets, in their order on the page.
    pub targets: Vec<String>,
    /// Requests per second.
    pub rate: f64,
    /// Requests of each target in each round.
    pub requests: u64,
    pub rounds: Vec<BTreeMap<String, [f64; QUANTILES.len()]>>,
}

impl Latencies {
    /// One quantile of one target.
    pub fn at(&self, target: &str, quantile: usize) -> Option<Spread> {
        Spread::of(self.rounds.iter().filter_map(|round| Some(round.get(target)?[quantile])))
    }

    /// The same, less what the server itself took in the same round.
    pub fn added(&self, target: &str, quantile: usize) -> Option<Spread> {
        let added = |round: &BTreeMap<String, [f64; QUANTILES.len()]>| {
            Some(round.get(target)?[quantile] - round.get(DIRECT)?[quantile])
        };
        Spread::of(self.rounds.iter().filter_map(added))
    }
}

/// Finds the rate that all can bear, then measures in turns. `length` is that of one target in one round.
pub async fn measure(
    transport: Transport,
    targets: &Targets,
    rounds: usize,
    length: Duration,
) -> Result<Latencies, Failure> {
    let load = Load { transport, ..*load::named("get-50").ok_or("no load get-50")? };
    let mut order: Vec<&Target> =
        targets.of(&load).into_iter().filter(|target| target.transport == transport).collect();
    let names = order.iter().map(|target| target.name.clone()).collect();
    let mut slowest = f64::INFINITY;
    for target in &order {
        let done = Crew::new(&load, target).await?.work(length / 3).await?;
        slowest = slowest.min(done.requests as f64 / done.elapsed.as_secs_f64());
    }
    let rate = slowest * SHARE;
    let each = (length.as_secs_f64() * rate) as u64 / CLIENTS;
    let mut measured = Vec::new();
    for _ in 0..rounds {
        let mut round = BTreeMap::new();
        for target in &order {
            let histogram = one(target, rate, each).await?;
            let at = |(_, quantile)| histogram.value_at_quantile(quantile) as f64 / 1000.0;
            round.insert(target.name.clone(), QUANTILES.map(at));
        }
        measured.push(round);
        order.reverse();
    }
    Ok(Latencies { targets: names, rate, requests: each * CLIENTS, rounds: measured })
}

/// Latencies in nanoseconds of `each` requests of every client.
async fn one(target: &Target, rate: f64, each: u64) -> Result<Histogram<u64>, Failure> {
    let (request, expected) = load::get_request(100);
    let interval = Duration::from_secs_f64(1.0 / rate);
    let connections: Vec<_> = (0..CLIENTS).map(|_| connect(&target.address)).collect::<Result<_, _>>()?;
    let started = Instant::now() + Duration::from_millis(20);
    // Request k of client c is due at a moment that both the sender and the reader can compute.
    let due = move |client: u64, k: u64| started + interval.mul_f64((k * CLIENTS + client) as f64);
    let (mut writers, mut readers) = (Vec::new(), Vec::new());
    for (client, (reader, writer)) in (0..).zip(connections) {
        writers.push(writer);
        readers.push(tokio::spawn(read(reader, expected, each, move |k| due(client, k))));
    }
    let sender = std::thread::spawn(move || {
        for k in 0..each {
            for (client, writer) in writers.iter_mut().enumerate() {
                let at = due(client as u64, k);
                while let Some(left) = at.checked_duration_since(Instant::now()) {
                    std::thread::sleep(left.max(NAP));
                }
                writer.write_all(&request)?;
            }
        }
        Ok::<_, std::io::Error>(writers)
    });
    let mut all = Histogram::new(3)?;
    for reader in readers {
        all.add(reader.await??)?;
    }
    sender.join().map_err(|_| "the sender panicked")??;
    Ok(all)
}

async fn read(
    mut stream: Box<dyn tokio::io::AsyncRead + Unpin + Send>,
    expected: usize,
    count: u64,
    due: impl Fn(u64) -> Instant,
) -> Result<Histogram<u64>, std::io::Error> {
    let mut histogram = Histogram::new(3).map_err(std::io::Error::other)?;
    let mut buffer = vec![0; 16 * 1024];
    let (mut bytes, mut answered) = (0, 0);
    while answered < count {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let now = Instant::now();
        bytes += read;
        while bytes >= expected {
            bytes -= expected;
            let latency = now.saturating_duration_since(due(answered)).as_nanos() as u64;
            histogram.record(latency.max(1)).map_err(std::io::Error::other)?;
            answered += 1;
        }
    }
    Ok(histogram)
}

type Reader = Box<dyn tokio::io::AsyncRead + Unpin + Send>;
type Writer = Box<dyn std::io::Write + Send>;

/// Both ends of a connection on which one request was answered: one for the runtime, one for the sending thread.
/// Requests are small: a socket that does not take one at once means that the target is far behind, which ends the
/// measurement with an error.
fn connect(address: &Address) -> Result<(Reader, Writer), Failure> {
    Ok(match address {
        Address::Tcp(addr) => {
            let mut stream = std::net::TcpStream::connect(addr)?;
            stream.set_nodelay(true)?;
            warm(&mut stream)?;
            let writer = stream.try_clone()?;
            stream.set_nonblocking(true)?;
            (Box::new(tokio::net::TcpStream::from_std(stream)?), Box::new(writer))
        }
        Address::Unix(path) => {
            let mut stream = std::os::unix::net::UnixStream::connect(path)?;
            warm(&mut stream)?;
            let writer = stream.try_clone()?;
            stream.set_nonblocking(true)?;
            (Box::new(tokio::net::UnixStream::from_std(stream)?), Box::new(writer))
        }
    })
}

/// What connecting takes a proxy is measured elsewhere.
fn warm(stream: &mut (impl std::io::Read + std::io::Write)) -> std::io::Result<()> {
    stream.write_all(PING)?;
    stream.read_exact(&mut [0; PONG])
}
