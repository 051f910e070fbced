//! The checker: what each client was told, against what the master holds in the end.
//!
//! It reads every single key. What is wrong is counted per stretch of time (one fault), with a few examples in words.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::time::{Duration, Instant};

use switchmaster::demo::wire::{Reply, Wire};

use super::event::{Event, Journal, Op, Outcome};
use super::raw::value;

/// Keys asked for at once.
const BATCH: usize = 200;
/// A client's last keys are kept: it may still read them.
const KEPT: u64 = 64;

/// A client under observation.
#[derive(Debug)]
pub struct Witness {
    /// Its name, which begins all its keys.
    pub name: String,
    /// The kind of client, for the table.
    pub sort: &'static str,
    /// Its database.
    pub db: u32,
    /// Values are padded up to this size.
    pub largest: usize,
    /// Where its events come from.
    pub journal: Journal,
    /// Operations so far.
    pub operations: u64,
    counters: HashMap<Op, Counter>,
    popped: HashMap<u64, (Instant, Instant)>,
    heard: u64,
    enqueued: Vec<(u64, Instant)>,
    oldest: u64,
    last_event: Instant,
}

#[derive(Debug, Default)]
struct Counter {
    last: i64,
    unknown: i64,
    /// When the last one was sent and acknowledged.
    at: Option<(Instant, Instant)>,
    /// The data set was lost: the next value is the new beginning.
    anew: bool,
}

/// A write that was acknowledged and is not there.
#[derive(Clone, Debug)]
pub struct Missing {
    /// In words.
    pub what: String,
    /// When it was sent.
    pub began: Instant,
    /// When it was acknowledged.
    pub acknowledged: Instant,
}

/// What was seen in one stretch of time.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// Operations.
    pub operations: u64,
    /// Error replies by first word.
    pub errors: BTreeMap<String, u64>,
    /// Connections lost, or not had.
    pub cut: u64,
    /// Requests without an answer.
    pub hung: u64,
    /// Answers that belong to another request, values that nobody wrote, messages out of order.
    pub crossed: u64,
    /// Requests that ran twice, messages that came twice.
    pub doubled: u64,
    /// Reads that did not find what the master has all the same: they were answered by another node.
    pub stale: u64,
    /// Acknowledged writes that are not there.
    pub missing: Vec<Missing>,
    /// The longest time between a request and its end.
    pub longest: Duration,
    /// Whose that was.
    pub longest_of: String,
    /// Clients that did nothing for long.
    pub silent: Vec<String>,
    /// What is wrong, in words.
    pub examples: Vec<String>,
}

impl Findings {
    /// Anything that an application would notice, other than waiting.
    pub fn disturbances(&self) -> u64 {
        self.errors.values().sum::<u64>() + self.cut + self.hung
    }

    fn example(&mut self, text: String) {
        if self.examples.len() < 12 {
            self.examples.push(text);
        }
    }
}

impl Witness {
    /// Nothing seen yet.
    pub fn new(name: String, sort: &'static str, db: u32, largest: usize) -> Witness {
        Witness {
            name,
            sort,
            db,
            largest,
            journal: Journal::default(),
            operations: 0,
            counters: HashMap::new(),
            popped: HashMap::new(),
            heard: 0,
            enqueued: Vec::new(),
            oldest: 0,
            last_event: Instant::now(),
        }
    }

    /// The data set is gone: nothing of before can be expected.
    pub fn forget(&mut self) {
        self.counters.values_mut().for_each(|counter| counter.anew = true);
        self.enqueued.clear();
        self.popped.clear();
    }

    /// Takes what the client did since the last time and compares it with the master, to which `wire` leads.
    pub async fn check(&mut self, wire: &mut Wire, into: &mut Findings) -> io::Result<()> {
        ask_ok(wire, &["SELECT", &self.db.to_string()]).await?;
        let events = self.journal.take();
        for event in &events {
            self.note(event, into);
        }
        self.check_keys(wire, &events, into).await?;
        self.check_lists(wire, &events, into).await?;
        self.check_queue(wire, into).await?;
        self.tidy(wire, &events).await
    }

    /// Whether it has been silent for longer than `limit`.
    pub fn is_silent(&self, limit: Duration) -> bool {
        self.last_event.elapsed() > limit
    }

    fn note(&mut self, event: &Event, into: &mut Findings) {
        let (name, number, op) = (&self.name, event.number, event.op);
        self.last_event = self.last_event.max(event.ended);
        into.operations += 1;
        self.operations += 1;
        let took = event.ended.saturating_duration_since(event.began);
        let waits = matches!(op, Op::Message | Op::Pop);
        if took > into.longest && !waits {
            into.longest = took;
            into.longest_of = format!("{name} {op:?}");
        }
        match &event.outcome {
            Outcome::Error(text) => {
                let words: Vec<&str> = text.split_whitespace().collect();
                *into.errors.entry(words.first().unwrap_or(&"").to_string()).or_default() += 1;
                into.example(format!("{name}: {op:?} {number}: -{text} after {} ms", took.as_millis()));
            }
            Outcome::Cut(text) => {
                into.cut += 1;
                into.example(format!("{name}: {op:?} {number}: {text} after {} ms", took.as_millis()));
            }
            Outcome::Hung => {
                into.hung += 1;
                into.example(format!("{name}: {op:?} {number}: no answer for {} ms", took.as_millis()));
            }
            Outcome::Wrong(text) => {
                into.crossed += 1;
                into.example(format!("{name}: {op:?} {number} was answered {text}"));
            }
            Outcome::Nil if op != Op::Get => {
                into.crossed += 1;
                into.example(format!("{name}: {op:?} {number} was answered nil"));
            }
            Outcome::Ok | Outcome::Nil | Outcome::Value(_) => {}
        }
        match (op, &event.outcome) {
            (Op::Incr | Op::Exec, Outcome::Value(value)) => {
                let counter = self.counters.entry(op).or_default();
                let (least, most) = (counter.last + 1, counter.last + 1 + counter.unknown);
                if *value > most && !counter.anew {
                    into.doubled += 1;
                    into.example(format!("{name}: {op:?} {number} counts {value}, at most {most} were sent"));
                } else if *value < least && !counter.anew {
                    let what = format!("{name}: {op:?} {number} counts {value}, {} was acknowledged", counter.last);
                    let (began, acknowledged) = counter.at.unwrap_or((event.began, event.began));
                    into.missing.push(Missing { what, began, acknowledged });
                }
                *counter = Counter { last: *value, unknown: 0, at: Some((event.began, event.ended)), anew: false };
            }
            (Op::Incr | Op::Exec, _) => self.counters.entry(op).or_default().unknown += 1,
            (Op::Enqueue, Outcome::Ok) => self.enqueued.push((number, event.ended)),
            (Op::Pop, Outcome::Ok) => {
                if let Some((began, acknowledged)) = self.popped.insert(number, (event.began, event.ended)) {
                    // Its first pop is missing on the new master, or it was enqueued twice.
                    let what = format!("{name}: element {number} was popped twice");
                    into.missing.push(Missing { what, began, acknowledged });
                }
            }
            (Op::Message, Outcome::Ok) => {
                if number == self.heard {
                    into.doubled += 1;
                    into.example(format!("{name}: message {number} came twice"));
                } else if number < self.heard {
                    into.crossed += 1;
                    into.example(format!("{name}: message {number} came after {}", self.heard));
                }
                self.heard = number;
            }
            _ => {}
        }
    }

    async fn check_keys(&self, wire: &mut Wire, events: &[Event], into: &mut Findings) -> io::Result<()> {
        let letter = |op| match op {
            Op::Set | Op::Get => Some("k"),
            Op::Eval => Some("e"),
            Op::Exec => Some("x"),
            _ => None,
        };
        let subjects: Vec<(&Event, &str)> = events
            .iter()
            .filter_map(|event| Some((event, letter(event.op)?)))
            .filter(|(event, _)| event.number > 0)
            .collect();
        for batch in subjects.chunks(if self.largest > 0 { 8 } else { BATCH }) {
            let keys = batch.iter().map(|(event, letter)| format!("{}:{letter}:{}", self.name, event.number));
            let request: Vec<String> = std::iter::once("MGET".to_owned()).chain(keys).collect();
            let Reply::Array(values) = wire.ask(&request).await? else {
                return Err(io::Error::other("MGET was not answered with an array"));
            };
            for ((event, letter), found) in batch.iter().zip(&values) {
                let what = format!("{}:{letter}:{}", self.name, event.number);
                let expected = value(&self.name, letter, event.number, self.largest);
                let is_there = match found {
                    Reply::Bulk(bytes) if bytes == expected.as_bytes() => true,
                    Reply::Nil => false,
                    other => {
                        into.crossed += 1;
                        into.example(format!(
                            "{what} holds {}",
                            other.to_string().chars().take(100).collect::<String>()
                        ));
                        continue;
                    }
                };
                match (&event.outcome, event.op) {
                    (Outcome::Nil, Op::Get) if is_there => {
                        into.stale += 1;
                        into.example(format!("{what} was not found by a read, and is there"));
                    }
                    (_, Op::Get) => {}
                    (Outcome::Ok | Outcome::Value(_), _) if !is_there => into.missing.push(Missing {
                        what: format!("{what} was acknowledged"),
                        began: event.began,
                        acknowledged: event.ended,
                    }),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    async fn check_lists(&self, wire: &mut Wire, events: &[Event], into: &mut Findings) -> io::Result<()> {
        let mut lists: BTreeMap<u64, Vec<&Event>> = BTreeMap::new();
        for event in events.iter().filter(|event| event.op == Op::Push && event.number > 0) {
            lists.entry(event.number / 64).or_default().push(event);
        }
        for (list, pushes) in lists {
            let reply = wire.ask(&["LRANGE", &format!("{}:l:{list}", self.name), "0", "-1"]).await?;
            let mut found: HashMap<&str, u64> = HashMap::new();
            for element in reply.items().iter().filter_map(Reply::text) {
                *found.entry(element).or_default() += 1;
            }
            for (element, _) in found.iter().filter(|(_, count)| **count > 1) {
                into.doubled += 1;
                into.example(format!("{element} is in its list twice"));
            }
            for push in pushes.into_iter().filter(|push| push.outcome == Outcome::Ok) {
                let element = format!("{}:{}", self.name, push.number);
                if !found.contains_key(element.as_str()) {
                    let what = format!("{element} was acknowledged (RPUSH)");
                    into.missing.push(Missing { what, began: push.began, acknowledged: push.ended });
                }
            }
        }
        Ok(())
    }

    /// What was put into the queue must have come out of it, or still be there.
    async fn check_queue(&mut self, wire: &mut Wire, into: &mut Findings) -> io::Result<()> {
        if self.enqueued.is_empty() {
            return Ok(());
        }
        let reply = wire.ask(&["LRANGE", &format!("{}:q", self.name), "0", "-1"]).await?;
        let waiting: HashSet<&str> = reply.items().iter().filter_map(Reply::text).collect();
        let now = Instant::now();
        let (name, popped) = (&self.name, &self.popped);
        self.enqueued.retain(|(number, ended)| {
            if popped.contains_key(number) || waiting.contains(format!("{name}:{number}").as_str()) {
                return !popped.contains_key(number);
            }
            // The pop may be on its way to us.
            if now.saturating_duration_since(*ended) < Duration::from_secs(2) {
                return true;
            }
            let what = format!("{name}: element {number} was enqueued and never came out");
            into.missing.push(Missing { what, began: *ended, acknowledged: *ended });
            false
        });
        Ok(())
    }

    /// Removes what was checked, so that a long run does not fill the servers.
    async fn tidy(&mut self, wire: &mut Wire, events: &[Event]) -> io::Result<()> {
        let newest = events.iter().filter(|event| event.op != Op::Message).map(|event| event.number).max().unwrap_or(0);
        let end = newest.saturating_sub(KEPT);
        while self.oldest < end {
            let next = (self.oldest + BATCH as u64).min(end);
            let keys =
                (self.oldest..next).flat_map(|n| ["k", "e", "x"].map(|letter| format!("{}:{letter}:{n}", self.name)));
            let lists = (self.oldest / 64..next / 64).map(|list| format!("{}:l:{list}", self.name));
            let request: Vec<String> = std::iter::once("UNLINK".to_owned()).chain(keys).chain(lists).collect();
            wire.ask(&request).await?;
            self.oldest = next;
        }
        Ok(())
    }
}

async fn ask_ok(wire: &mut Wire, request: &[&str]) -> io::Result<()> {
    match wire.ask(request).await? {
        Reply::Simple(_) => Ok(()),
        other => Err(io::Error::other(format!("{}: {other}", request[0]))),
    }
}
