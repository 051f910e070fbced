//! What a client did, as the checker sees it: one event for each operation, whoever ran it.
//!
//! Raw and Rust clients push events; foreign ones print them as JSON, one a line, with wall-clock microseconds.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

/// What a client asked for. Writes carry a number that is unique for the client; it names their key and value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Op {
    /// `SET c:k:n`
    Set,
    /// `EVAL` that sets `c:e:n`.
    Eval,
    /// `MULTI`, `SET c:x:n`, `INCR c:xc`, `EXEC`; the value is the counter's.
    Exec,
    /// `RPUSH c:l:(n/64)`, element `c:n`.
    Push,
    /// `RPUSH c:q`, element `c:n`: popped by a consumer.
    Enqueue,
    /// `BLPOP c:q`; the number is that of the element.
    Pop,
    /// `INCR c:i`
    Incr,
    /// `GET c:k:n`, which was acknowledged.
    Get,
    /// `ECHO c:n`, `PING` and the like: an answer of its own, no data.
    Echo,
    /// `PUBLISH c:ch n`
    Publish,
    /// A message with number n arrived.
    Message,
    /// A connection was opened (or not).
    Connect,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// As it had to.
    Ok,
    /// A counter's new value.
    Value(i64),
    /// Nothing there.
    Nil,
    /// An error reply.
    Error(String),
    /// The connection ended.
    Cut(String),
    /// No answer within the client's limit.
    Hung,
    /// An answer that belongs to something else.
    Wrong(String),
}

/// One operation.
#[derive(Clone, Debug)]
pub struct Event {
    /// What.
    pub op: Op,
    /// Its number.
    pub number: u64,
    /// When it was sent, and when its outcome was known.
    pub began: Instant,
    /// See above.
    pub ended: Instant,
    /// How it ended.
    pub outcome: Outcome,
}

/// A client's events since they were last taken.
#[derive(Clone, Debug, Default)]
pub struct Journal(Arc<Mutex<Vec<Event>>>);

impl Journal {
    /// Notes an operation that ends now.
    pub fn note(&self, op: Op, number: u64, began: Instant, outcome: Outcome) {
        self.push(Event { op, number, began, ended: Instant::now(), outcome });
    }

    /// Notes an operation.
    pub fn push(&self, event: Event) {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(event);
    }

    /// Takes what was noted.
    pub fn take(&self) -> Vec<Event> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }
}

/// One moment on both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    instant: Instant,
    system: SystemTime,
}

impl Clock {
    /// Now.
    pub fn new() -> Clock {
        Clock { instant: Instant::now(), system: SystemTime::now() }
    }

    /// The instant of a wall-clock time in microseconds.
    pub fn instant(self, micros: u64) -> Instant {
        let base = self.system.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let at = Duration::from_micros(micros);
        if at >= base {
            self.instant + (at - base)
        } else {
            self.instant.checked_sub(base - at).unwrap_or(self.instant)
        }
    }
}

/// Reads a foreign client's line: `{"op":"set","n":7,"b":µs,"e":µs,"r":"ok"}`; `r` is ok, nil, error, cut, hung or
/// wrong, `m` its message, `v` a counter's value.
pub fn parse(line: &str, clock: Clock) -> Option<Event> {
    let json: Value = serde_json::from_str(line).ok()?;
    let op = match json["op"].as_str()? {
        "set" => Op::Set,
        "eval" => Op::Eval,
        "exec" => Op::Exec,
        "push" => Op::Push,
        "incr" => Op::Incr,
        "get" => Op::Get,
        "echo" => Op::Echo,
        "connect" => Op::Connect,
        _ => return None,
    };
    let text = || json["m"].as_str().unwrap_or_default().to_owned();
    let outcome = match json["r"].as_str()? {
        "ok" => json["v"].as_i64().map_or(Outcome::Ok, Outcome::Value),
        "nil" => Outcome::Nil,
        "error" => Outcome::Error(text()),
        "cut" => Outcome::Cut(text()),
        "hung" => Outcome::Hung,
        "wrong" => Outcome::Wrong(text()),
        _ => return None,
    };
    let at = |key: &str| json[key].as_u64().map(|micros| clock.instant(micros));
    Some(Event { op, number: json["n"].as_u64().unwrap_or(0), began: at("b")?, ended: at("e")?, outcome })
}
