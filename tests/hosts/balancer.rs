//! HAProxy before two app hosts, each with nginx, php-fpm with five children, Laravel and a switchmaster of its own.
//!
//! A failover ejects nobody and fails no request, those whose write was under way at a kill aside; a fault of one host
//! ejects that host alone.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::app::App;
use super::cluster::{Cluster, queued, start_proxy};
use super::host::Host;
use super::{LIMIT, Options, Outcome, REPLICATION_LAG_MS, unix_ms, until};

const CLIENTS: usize = 4;
/// A visitor's patience.
const PATIENCE: Duration = Duration::from_secs(60);

/// What visitors saw since the last look.
#[derive(Debug, Default)]
struct Seen {
    good: usize,
    failed: BTreeMap<String, usize>,
    longest: Duration,
    /// Pages that were answered: their jobs are acknowledged.
    ids: Vec<String>,
}

/// Planned failovers, kills, then a switchmaster that is gone from one host.
pub fn run(options: &Options) -> Outcome {
    let dir = tempfile::tempdir().unwrap();
    let redis: Vec<Host> = (1..=3).map(|number| Host::new(&format!("redis-{number}"), number, dir.path())).collect();
    let web: Vec<Host> = [11, 12].map(|number| Host::new(&format!("app-{number}"), number, dir.path())).into();
    let balancer = Host::new("balancer", 20, dir.path());
    let nodes: Vec<&Host> = redis.iter().collect();
    let cluster = Cluster::start(nodes.clone(), nodes.clone(), 2, options.down_after, "");
    let clients = [("phpredis", "REDIS_PERSISTENT=true"), ("predis", "")];
    let apps: Vec<App> = web
        .iter()
        .zip(clients)
        .map(|(host, (client, env))| {
            start_proxy(host, &nodes, &[]);
            let app = App::new(host, &options.forky, client, "127.0.0.1", env);
            app.serve();
            app.start("work", "queue:work redis --tries=3 --sleep=0 --timeout=15");
            app
        })
        .collect();
    start_haproxy(&balancer, &web);
    until("both hosts up", LIMIT, || up(&balancer) == [true, true]);
    let (seen, stop) = (Mutex::new(Seen::default()), AtomicBool::new(false));
    let mut outcome = Outcome::default();
    let (ids, kills) = std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (seen, stop, ip) = (&seen, &stop, &balancer.ip);
            scope.spawn(move || visit(client, ip, seen, stop));
        }
        let faults = Faults { cluster: &cluster, balancer: &balancer, seen: &seen };
        let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            faults.play(rounds(options), &web[0], &nodes, &mut outcome)
        }));
        stop.store(true, Ordering::Relaxed);
        played.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    let master = cluster.wait_whole();
    for app in &apps {
        until(&format!("an empty queue of {}", app.name), LIMIT * 2, || queued(master, &app.queue()) == 0);
    }
    let mut ends: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    apps.iter().flat_map(|app| app.diary().done).for_each(|(id, times)| ends.entry(id).or_default().extend(times));
    let lost = ids.iter().filter(|id| !ends.contains_key(*id)).count();
    let twice: Vec<u64> =
        ends.values().filter(|times| times.len() > 1).filter_map(|times| times.iter().min().copied()).collect();
    outcome.seen.push(format!("jobs of answered pages: {}, lost {lost}, completed twice {}", ids.len(), twice.len()));
    // A worker's delete under way at a kill, and what a master acknowledged in its last moment.
    let unexcused = twice.iter().filter(|at| !kills.iter().any(|(from, to)| *from <= **at && **at <= *to)).count();
    if lost > kills.len() || unexcused > 0 {
        outcome.broken.push(format!("{lost} jobs lost, {unexcused} completed twice with no kill"));
    }
    outcome
}

/// How many failovers, and how many kills.
fn rounds(options: &Options) -> usize {
    options.rounds.map_or(1, |rounds| rounds.div_ceil(2))
}

struct Faults<'a> {
    cluster: &'a Cluster<'a>,
    balancer: &'a Host,
    seen: &'a Mutex<Seen>,
}

impl Faults<'_> {
    /// Returns the pages that were answered, and from when to when each kill was felt (Unix, ms).
    fn play(
        &self,
        rounds: usize,
        web: &Host,
        sentinels: &[&Host],
        outcome: &mut Outcome,
    ) -> (Vec<String>, Vec<(u64, u64)>) {
        let (mut ids, mut kills) = (Vec::new(), Vec::new());
        self.settle();
        std::mem::take(&mut *self.seen.lock().unwrap());
        for fault in ["planned failover", "kill -9"] {
            for _ in 0..rounds {
                self.cluster.wait_whole();
                if fault == "kill -9" {
                    let old = self.cluster.wait_whole();
                    let from = unix_ms();
                    old.end("redis", Signal::KILL);
                    self.cluster.wait_for_another(old);
                    self.settle();
                    kills.push((from.saturating_sub(REPLICATION_LAG_MS), unix_ms()));
                    self.cluster.boot(old);
                } else {
                    self.cluster.fail_over();
                }
                self.settle();
            }
            let seen = std::mem::take(&mut *self.seen.lock().unwrap());
            let ejected = ejections(self.balancer);
            outcome.seen.push(format!(
                "{fault} × {rounds}: {} requests, failed {:?}, longest {:.1} s, ejections {ejected:?}",
                seen.good,
                seen.failed,
                seen.longest.as_secs_f64()
            ));
            let excused = |what: &str| fault == "kill -9" && what.contains("UNKNOWNRESULT");
            let failed: Vec<_> = seen.failed.keys().filter(|what| !excused(what)).collect();
            if ejected != [0, 0] || !failed.is_empty() {
                outcome.broken.push(format!("{fault}: ejections {ejected:?}, {failed:?}"));
            }
            ids.extend(seen.ids);
        }
        self.local_fault(web, sentinels, outcome, &mut ids);
        (ids, kills)
    }

    /// One host's switchmaster is gone: the balancer takes that host out, and the other serves everybody.
    fn local_fault(&self, web: &Host, sentinels: &[&Host], outcome: &mut Outcome, ids: &mut Vec<String>) {
        web.end("switchmaster", Signal::KILL);
        until("the host without switchmaster is out", LIMIT, || up(self.balancer) == [false, true]);
        let before = std::mem::take(&mut *self.seen.lock().unwrap());
        self.settle();
        let after = std::mem::take(&mut *self.seen.lock().unwrap());
        // A request that the host had before may end now.
        let failed: usize = after.failed.values().sum();
        outcome.seen.push(format!(
            "a host without switchmaster: {:?} until it was out, {} requests and {failed} failures then, ejections {:?}",
            before.failed.values().sum::<usize>(), after.good, ejections(self.balancer)
        ));
        if failed > CLIENTS || ejections(self.balancer) != [1, 0] {
            outcome.broken.push(format!("a local fault: {:?}", after.failed));
        }
        start_proxy(web, sentinels, &[]);
        until("the host is back", LIMIT, || up(self.balancer) == [true, true]);
        ids.extend(before.ids.into_iter().chain(after.ids));
    }

    /// Some pages more, on every child of every host.
    fn settle(&self) {
        let before = self.seen.lock().unwrap().good;
        let mut last = String::new();
        until("answered pages", LIMIT, || {
            let seen = self.seen.lock().unwrap();
            if seen.failed.keys().last().is_some_and(|what| *what != last) {
                last = seen.failed.keys().last().unwrap().clone();
                println!("a visitor saw: {last}");
            }
            seen.good >= before + 60
        });
    }
}

/// One visitor, page after page.
fn visit(client: usize, ip: &str, seen: &Mutex<Seen>, stop: &AtomicBool) {
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let id = format!("visit:{client}:{number}");
        let began = Instant::now();
        let answer = get(ip, &format!("/page/{id}")).unwrap_or_else(|error| error.to_string());
        let mut seen = seen.lock().unwrap();
        seen.longest = seen.longest.max(began.elapsed());
        if answer.starts_with("HTTP/1.1 200") && answer.contains(&format!("page {id}")) {
            seen.good += 1;
            seen.ids.push(id);
        } else {
            let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
            let what =
                format!("{} {}", head.lines().next().unwrap_or("no answer"), body.chars().take(80).collect::<String>());
            *seen.failed.entry(what).or_default() += 1;
        }
        drop(seen);
        std::thread::sleep(Duration::from_millis(30));
    }
}

fn get(ip: &str, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((ip, 80))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Its checks are HAProxy's defaults (every 2 s, three failures) on the guide's route, with the time-out that the pause
/// of a crash asks for.
fn start_haproxy(balancer: &Host, web: &[Host]) {
    let servers: String = web
        .iter()
        .map(|host| format!("  server {} {}:80 check inter 2s fall 3 rise 2\n", host.name, host.ip))
        .collect();
    let config = format!(
        "global\n  stats socket {socket} mode 600\n  maxconn 200\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n\
         \x20 timeout check 10s\nfrontend web\n  bind :80\n  default_backend laravel\nbackend laravel\n  balance roundrobin\n\
         \x20 option httpchk GET /health\n  http-check expect status 200\n{servers}",
        socket = balancer.dir.join("stats.sock").display()
    );
    let file = balancer.dir.join("haproxy.cfg");
    std::fs::write(&file, config).unwrap();
    let mut command = balancer.command("haproxy");
    command.arg("-db").arg("-f").arg(file);
    balancer.start("haproxy", command);
}

/// Whether it sends requests to each host.
fn up(balancer: &Host) -> [bool; 2] {
    servers(balancer, 17).map(|status| status.starts_with("UP"))
}

/// How often each host was taken out.
fn ejections(balancer: &Host) -> [usize; 2] {
    servers(balancer, 22).map(|count| count.parse().unwrap_or(usize::MAX))
}

/// A column of `show stat` for each server.
fn servers(balancer: &Host, column: usize) -> [String; 2] {
    let mut text = String::new();
    if let Ok(mut stream) = std::os::unix::net::UnixStream::connect(balancer.dir.join("stats.sock")) {
        let _ = stream.write_all(b"show stat\n").and_then(|()| stream.read_to_string(&mut text));
    }
    let mut rows = text
        .lines()
        .filter(|line| line.starts_with("laravel,app-"))
        .map(|line| line.split(',').nth(column).unwrap_or("").to_owned());
    [rows.next().unwrap_or_default(), rows.next().unwrap_or_default()]
}
