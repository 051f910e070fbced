//! One load client: a connection, a stream of requests at its rate, and a judgement of each reply.
//!
//! A request is sent once; whatever becomes of it goes to the client's log.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::log::Log;
use super::report::Outcome;
use super::workload::{Keys, Kind, LoadSpec};
use crate::wire::{Reply, Wire, encode};

/// Keeps the server busy for ARGV[2] microseconds, then writes. TIME stands still in a script from 7.2 on, and 7.0 has
/// no clock.
const SLOW_WRITE: &str = "local has, clock = pcall(function() return os.clock end) \
    local function now() if has then return clock() * 1000000 end \
        local t = redis.call('TIME') return t[1] * 1000000 + t[2] end \
    local ends = now() + tonumber(ARGV[2]) \
    while now() < ends do end \
    redis.call('SET', KEYS[1], ARGV[1]) return ARGV[1]";

/// How far the clients are to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Halt {
    /// Go on.
    No,
    /// Send nothing more; what is outstanding is still waited for.
    Finish,
    /// Stop where you are.
    Abort,
}

/// The clients of one load: what they are to do, and what came of it.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) addr: SocketAddr,
    pub(super) spec: LoadSpec,
    pub(super) keys: Keys,
    pub(super) started: Instant,
    pub(super) logs: Vec<Mutex<Log>>,
    /// All of them have ended.
    pub(super) finished: AtomicBool,
}

pub(super) struct Client {
    group: Arc<Group>,
    index: usize,
    told: watch::Receiver<Halt>,
    kind: Kind,
    random: u64,
    /// With a connection for each request: when the client set out to connect, from which its pause counts.
    set_out: Option<Instant>,
}

/// The reply that a request must get.
enum Due {
    Write { number: u64, value: Option<String> },
    Increment,
    Value(Option<String>),
}

impl Client {
    pub(super) fn new(group: Arc<Group>, index: usize, told: watch::Receiver<Halt>) -> Client {
        let kind = lock(&group.logs[index]).kind();
        Client { group, index, told, kind, set_out: None, random: 0x9e37_79b9_7f4a_7c15 ^ (index as u64 + 1) }
    }

    pub(super) async fn run(mut self) {
        let (rate, depth) = (self.group.spec.rate.max(0.01), self.depth());
        let mut pace = interval(Duration::from_secs_f64(depth as f64 / rate));
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut wire = None;
        let mut had_one = false;
        while !self.is_over() {
            if wire.is_none() && had_one && self.group.spec.connect_each_time && self.set_out.is_none() {
                tokio::select! {
                    _ = pace.tick() => {}
                    _ = self.told.changed() => continue,
                }
            }
            let Some(open) = &mut wire else {
                wire = self.connect(had_one).await;
                had_one |= wire.is_some();
                continue;
            };
            if self.kind == Kind::Idle {
                tokio::select! {
                    _ = open.readable() => {
                        self.log().lost_connection(None);
                        wire = None;
                    }
                    _ = self.told.changed() => {}
                }
                continue;
            }
            if !self.group.spec.connect_each_time {
                tokio::select! {
                    _ = pace.tick() => {}
                    _ = self.told.changed() => continue,
                }
            }
            let since = self.set_out.unwrap_or_else(Instant::now);
            if self.exchange(open, depth).await.is_err() {
                self.log().lost_connection(Some(since));
                wire = None;
            } else if self.group.spec.connect_each_time {
                wire = None;
            }
        }
    }

    fn is_over(&self) -> bool {
        *self.told.borrow() != Halt::No
            || self.group.started.elapsed() > self.group.spec.time_limit
            || self.log().is_full()
    }

    /// A counter's requests must not overlap: each value is judged by the one before.
    fn depth(&self) -> usize {
        if self.kind == Kind::Counter { 1 } else { self.group.spec.pipeline.max(1) }
    }

    async fn connect(&mut self, again: bool) -> Option<Wire> {
        let spec = &self.group.spec;
        let db = self.log().db();
        if spec.connect_each_time {
            let set_out = *self.set_out.get_or_insert_with(Instant::now);
            self.log().sent(set_out);
        }
        let attempt = timeout(spec.reply_limit, Wire::open(self.group.addr, spec.auth.as_ref(), db)).await;
        match attempt.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(wire) => {
                let mut log = self.log();
                if let Ok(local) = wire.local_addr() {
                    log.opened(local);
                }
                if again && !spec.connect_each_time {
                    log.reconnected();
                }
                drop(log);
                Some(wire)
            }
            Err(error) => {
                self.log().refused(error.to_string());
                sleep(Duration::from_millis(20)).await;
                None
            }
        }
    }

    /// Sends `depth` requests and judges their replies. An error means that the connection is of no more use.
    async fn exchange(&mut self, wire: &mut Wire, depth: usize) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(256 * depth);
        let due: Vec<Due> = (0..depth).map(|_| self.request(&mut bytes)).collect();
        let limit = self.group.spec.reply_limit;
        let sent = self.set_out.take().unwrap_or_else(Instant::now);
        self.log().sent(sent);
        let mut failed = self.bounded(limit, wire.send(&bytes)).await.err();
        for due in due {
            let reply = match failed.take() {
                Some(error) => Err(error),
                None => self.bounded(limit.saturating_sub(sent.elapsed()), wire.receive()).await,
            };
            match reply {
                Ok(reply) => self.judge(due, sent, reply),
                Err(error) => {
                    let hung = error.kind() == io::ErrorKind::TimedOut;
                    self.gave_up(due, sent, if hung { Outcome::Hung } else { Outcome::Lost });
                    failed = Some(error);
                }
            }
        }
        self.log().all_answered();
        failed.map_or(Ok(()), Err)
    }

    async fn bounded<T>(&self, limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        timeout(limit, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    fn request(&mut self, bytes: &mut Vec<u8>) -> Due {
        let group = self.group.clone();
        match self.kind {
            Kind::Writer | Kind::Script => {
                let mut log = self.log();
                let number = log.next_write();
                let key = group.keys.key(self.kind, log.number(), number);
                drop(log);
                let value = group.keys.value(&key);
                if self.kind == Kind::Writer {
                    encode(bytes, &["SET", &key, &value]);
                    return Due::Write { number, value: None };
                }
                let busy = group.spec.script_time.as_micros().to_string();
                encode(bytes, &["EVAL", SLOW_WRITE, "1", &key, &value, &busy]);
                Due::Write { number, value: Some(value) }
            }
            Kind::Counter => {
                let key = group.keys.counter(self.log().number());
                encode(bytes, &["INCR", &key]);
                Due::Increment
            }
            Kind::Reader | Kind::Idle => {
                let key = self.a_written_key();
                let value = key.as_ref().map(|key| group.keys.value(key));
                encode(bytes, &["GET", key.as_deref().unwrap_or("never-written")]);
                Due::Value(value)
            }
        }
    }

    fn judge(&self, due: Due, sent: Instant, reply: Reply) {
        let mut log = self.log();
        let outcome = match (due, reply) {
            (due, Reply::Error(text)) => {
                log.error(text);
                if matches!(due, Due::Increment) {
                    log.unknown_increment();
                }
                Outcome::Error
            }
            (Due::Write { number, value: None }, Reply::Simple(text)) if text == "OK" => {
                log.acknowledge(number);
                Outcome::Ok
            }
            (Due::Write { number, value: Some(value) }, Reply::Bulk(bytes)) if bytes == value.as_bytes() => {
                log.acknowledge(number);
                Outcome::Ok
            }
            (Due::Increment, Reply::Integer(value)) => {
                log.counted(value.unsigned_abs());
                Outcome::Ok
            }
            (Due::Value(Some(value)), Reply::Bulk(bytes)) if bytes == value.as_bytes() => Outcome::Ok,
            (Due::Value(expected), Reply::Nil) => {
                if expected.is_some() {
                    log.stale();
                }
                Outcome::Ok
            }
            _ => Outcome::Crossed,
        };
        log.ended(sent, outcome);
    }

    fn gave_up(&self, due: Due, sent: Instant, outcome: Outcome) {
        let mut log = self.log();
        if matches!(due, Due::Increment) {
            log.unknown_increment();
        }
        log.ended(sent, outcome);
    }

    /// One of the last keys acknowledged to a writer in this client's database.
    fn a_written_key(&mut self) -> Option<String> {
        let db = self.log().db();
        let start = self.random() as usize;
        let logs = &self.group.logs;
        (0..logs.len()).find_map(|step| {
            let log = lock(&logs[start.wrapping_add(step) % logs.len()]);
            let last = log.last().filter(|_| matches!(log.kind(), Kind::Writer | Kind::Script) && log.db() == db)?;
            Some(self.group.keys.key(log.kind(), log.number(), last))
        })
    }

    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        lock(&self.group.logs[self.index])
    }
}

pub(super) fn lock(log: &Mutex<Log>) -> std::sync::MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
