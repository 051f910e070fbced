//! Latency at a fixed rate of arrivals. Requests are sent when they are due, whether or not earlier ones were answered,
//! and latency counts from that moment: a target that stalls cannot hide it by slowing its clients down.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write as _;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::io::AsyncReadExt;

use crate::Failure;
use crate::client::Address;
use crate::load::{self, LOADS, Load, Transport};
use crate::report::median;
use crate::targets::{Target, Targets};

const CLIENTS: u64 = 50;
/// Of what the slowest target could do.
const SHARE: f64 = 0.6;
/// No sleep is shorter: what is due meanwhile goes out together, for every target alike.
const NAP: Duration = Duration::from_micros(50);

/// p50, p99 and p99.9 of each target in microseconds: medians over the rounds.
pub struct Latency {
    pub transport: Transport,
    /// Requests per second.
    pub rate: f64,
    pub percentiles: Vec<(&'static str, [f64; 3])>,
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "latency at {:.0} requests/s, {} (µs: p50, p99, p99.9)", self.rate, self.transport.name())?;
        for (name, [half, most, nearly_all]) in &self.percentiles {
            writeln!(f, "  {name:<20} {half:>7.0} {most:>7.0} {nearly_all:>7.0}")?;
        }
        Ok(())
    }
}

/// Finds the rate that all can bear, then measures in turns.
pub async fn measure(
    transport: Transport,
    targets: &Targets,
    rounds: usize,
    slice: Duration,
) -> Result<Latency, Failure> {
    let load = LOADS.iter().find(|load| load.name == "get-50").ok_or("no load get-50")?;
    let load = Load { transport, ..*load };
    let mut order = targets.plain(transport);
    let mut slowest = f64::INFINITY;
    for target in &order {
        let done = load::run(&load, target, slice).await?;
        slowest = slowest.min(done.requests as f64 / done.elapsed.as_secs_f64());
    }
    let rate = slowest * SHARE;
    let mut seen: BTreeMap<&str, Vec<[f64; 3]>> = BTreeMap::new();
    for _ in 0..rounds {
        for target in &order {
            let histogram = one(target, rate, slice * 3).await?;
            let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
            seen.entry(target.name).or_default().push([at(0.5), at(0.99), at(0.999)]);
        }
        order.reverse();
    }
    let plain = targets.plain(transport);
    let percentiles = plain.iter().filter_map(|target| {
        let rounds = seen.get(target.name)?;
        let column = |index: usize| median(&rounds.iter().map(|round| round[index]).collect::<Vec<_>>());
        Some((target.name, [column(0), column(1), column(2)]))
    });
    Ok(Latency { transport, rate, percentiles: percentiles.collect() })
}

/// Latencies in nanoseconds.
async fn one(target: &Target, rate: f64, length: Duration) -> Result<Histogram<u64>, Failure> {
    let (request, expected) = load::get_request(100);
    let interval = Duration::from_secs_f64(1.0 / rate);
    let each = (length.as_secs_f64() * rate) as u64 / CLIENTS;
    let started = Instant::now() + Duration::from_millis(20);
    // Request k of client c is due at a moment that both the sender and the reader can compute.
    let due = move |client: u64, k: u64| started + interval.mul_f64((k * CLIENTS + client) as f64);
    let (mut writers, mut readers) = (Vec::new(), Vec::new());
    for client in 0..CLIENTS {
        let (reader, writer) = connect(&target.address)?;
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

/// Both ends of a connection: one for the runtime, one for the sending thread. Requests are small: a socket that does
/// not take one at once means that the target is far behind, which ends the measurement with an error.
fn connect(address: &Address) -> Result<(Reader, Writer), Failure> {
    Ok(match address {
        Address::Tcp(addr) => {
            let stream = std::net::TcpStream::connect(addr)?;
            stream.set_nodelay(true)?;
            let writer = stream.try_clone()?;
            stream.set_nonblocking(true)?;
            (Box::new(tokio::net::TcpStream::from_std(stream)?), Box::new(writer))
        }
        Address::Unix(path) => {
            let stream = std::os::unix::net::UnixStream::connect(path)?;
            let writer = stream.try_clone()?;
            stream.set_nonblocking(true)?;
            (Box::new(tokio::net::UnixStream::from_std(stream)?), Box::new(writer))
        }
    })
}
