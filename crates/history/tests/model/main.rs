//! No finding is ever wrong: random histories of several clients of several hosts on the same keys, with crashes, and the
//! truth beside them.
//!
//! A history: clients pipeline requests to a master; some are answered; samples of its offset arrive late. It crashes. The
//! replica that is promoted has its stream up to some unit. What is unanswered is judged by the new master's stream, what
//! is absent is sent again, and that master crashes too: its heir has all of it, less than the first promotion had, or
//! continues the first master as if the second had never been (a provisional term that is undone).
//!
//! The truth: *absent* is right if no execution that changed something is part of the living history, nor any of a request
//! behind it on its connection. *Ran* is right if the request, run once more after all that lives, answers what was found
//! and changes nothing.
//!
//! `HISTORY_MODEL` is the number of histories (4,000 unless it is given).

mod server;

use std::collections::BTreeMap;
use std::ops::Range;

use server::{ADD, STRANGE, Store, Words, words};
use switchmaster_history::verdict::{LostRequest, Rule, Sending, Verdict, judge};
use switchmaster_history::window::{Ancestry, Unreadable, Window, WindowReader};
use switchmaster_protocol::resp::request::encode_into;

/// The clocks of a host and the master may differ by so much, in milliseconds.
const SKEW: u64 = 50;

/// A linear congruential generator, so that a seed is a history.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % limit
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

#[derive(Clone, Debug)]
struct Request {
    number: usize,
    commands: Vec<Words>,
    is_transaction: bool,
    database: u32,
    /// Master, sample, and when.
    sent: Vec<(usize, u64, u64)>,
}

/// A request ran.
#[derive(Clone, Debug)]
struct Execution {
    number: usize,
    /// The offset behind what it left.
    end: u64,
    changed: bool,
}

#[derive(Clone)]
struct Client {
    database: u32,
    /// Sent, not answered.
    unanswered: Vec<Request>,
    /// How many of them the master has run.
    run: usize,
}

/// One master's life.
#[derive(Clone)]
struct Master {
    name: usize,
    store: Store,
    /// From offset 0, with that of its ancestors.
    stream: Vec<u8>,
    /// At each unit's end: the data, and the time.
    units: Vec<(u64, Store, u64)>,
    executions: Vec<Execution>,
    selected: Option<u32>,
    samples: Vec<u64>,
}

impl Master {
    fn offset(&self) -> u64 {
        self.stream.len() as u64
    }

    fn write(&mut self, database: u32, effects: &[Words], is_transaction: bool) {
        if effects.is_empty() {
            return;
        }
        if self.selected != Some(database) {
            encode_into(&mut self.stream, &["SELECT", &database.to_string()]);
            self.selected = Some(database);
        }
        let wrapped = effects.len() > 1 || is_transaction && effects.len().is_multiple_of(2);
        if wrapped {
            encode_into(&mut self.stream, &["MULTI"]);
        }
        effects.iter().for_each(|effect| encode_into(&mut self.stream, effect));
        if wrapped {
            encode_into(&mut self.stream, &["EXEC"]);
        }
    }

    fn execute(&mut self, request: &Request, now: u64) {
        let mut effects = Vec::new();
        let before = self.store.clone();
        for command in &request.commands {
            self.store.run(request.database, command, now, &mut effects);
        }
        // What has expired was no longer there.
        let mut expired = before;
        expired.0.retain(|_, (_, end)| end.is_none_or(|end| end > now));
        let mut after = self.store.clone();
        after.0.retain(|_, (_, end)| end.is_none_or(|end| end > now));
        let own = effects.iter().any(|effect| effect[0] != "DEL") || expired != after;
        self.write(request.database, &effects, request.is_transaction);
        self.executions.push(Execution { number: request.number, end: self.offset(), changed: own });
        self.unit(now);
    }

    fn unit(&mut self, now: u64) {
        self.units.push((self.offset(), self.store.clone(), now));
    }

    /// The replica that has everything up to `end` is the master now.
    fn heir(&self, name: usize, end: u64) -> Master {
        let (_, store, _) = self.units.iter().rev().find(|(at, ..)| *at == end).expect("a unit");
        let mut heir = self.clone();
        heir.name = name;
        heir.store = store.clone();
        heir.stream.truncate(end as usize);
        heir.units.retain(|(at, ..)| *at <= end);
        heir.executions.retain(|execution| execution.end <= end);
        heir.selected = None;
        heir.samples = vec![end];
        heir
    }
}

/// What the run saw: how often each finding was right, and how.
#[derive(Debug, Default)]
struct Tally {
    counts: BTreeMap<String, u64>,
}

impl Tally {
    fn add(&mut self, what: impl Into<String>) {
        *self.counts.entry(what.into()).or_default() += 1;
    }

    fn of(&self, what: &str) -> u64 {
        self.counts.get(what).copied().unwrap_or(0)
    }
}

struct History {
    random: Random,
    now: u64,
    next: usize,
    clients: Vec<Client>,
}

fn command(random: &mut Random, unique: usize) -> Words {
    let text = ["a", "b", "c"];
    let (key, other) = (*random.pick(&text), *random.pick(&text));
    let value = *random.pick(&["1", "2", "x"]);
    let own = format!("own-{unique}");
    let life = *random.pick(&["1", "2", "9"]);
    match random.below(26) {
        0..=3 => words(&["SET", key, value]),
        4 => words(&["SET", key, &own]),
        5 => words(&["SET", key, value, "EX", life]),
        6 => words(&["SET", key, value, "NX"]),
        7 => words(&["SET", key, value, "KEEPTTL"]),
        8 => words(&["SETEX", key, life, value]),
        9 => words(&["SETNX", key, value]),
        10 => words(&["MSET", key, value, other, "1"]),
        11 => words(&["INCR", key]),
        12 => words(&["INCR", &own]),
        13 => words(&["DEL", key]),
        14 => words(&["DEL", key, other]),
        15 => words(&["GETDEL", key]),
        16 => words(&["EXPIRE", key, life]),
        17 => words(&["RENAME", key, other]),
        18 => words(&["RPUSH", "l", &own]),
        19 => words(&["RPUSH", "l", value]),
        20 => words(&[*random.pick(&["LPOP", "BLPOP"]), "l", "0"]),
        21 => words(&["SADD", "s", value]),
        22 => words(&["SPOP", "s"]),
        23 => words(&["GET", key]),
        24 => words(&["EVAL", ADD, "1", key, value, life]),
        _ => match random.below(4) {
            0 => words(&["EVAL", STRANGE, "1", "none", key]),
            1 => words(&["FLUSHDB"]),
            _ => words(&["SADD", "s", &own]),
        },
    }
}

fn request(random: &mut Random, number: usize, database: u32) -> Request {
    let is_transaction = random.chance(12);
    let count = if is_transaction { 1 + random.below(3) } else { 1 };
    let fix = |command: Words| if command[0] == "LPOP" { words(&["LPOP", "l"]) } else { command };
    let commands = (0..count).map(|_| fix(command(random, number))).collect();
    Request { number, commands, is_transaction, database, sent: Vec::new() }
}

impl History {
    /// Requests are sent, run and answered for a while.
    fn live(&mut self, master: &mut Master, steps: usize) {
        for _ in 0..steps {
            let at = self.random.below(self.clients.len());
            match self.random.below(10) {
                0..=3 => {
                    let database = self.clients[at].database;
                    let mut request = request(&mut self.random, self.next, database);
                    self.next += 1;
                    request.sent.push((master.name, *self.random.pick(&last(&master.samples)), self.now));
                    self.clients[at].unanswered.push(request);
                }
                4..=6 => {
                    let client = &mut self.clients[at];
                    if let Some(request) = client.unanswered.get(client.run) {
                        master.execute(request, self.now);
                        client.run += 1;
                    }
                }
                7 => {
                    let client = &mut self.clients[at];
                    if client.run > 0 {
                        client.unanswered.remove(0);
                        client.run -= 1;
                    }
                }
                8 => master.samples.push(master.offset()),
                _ => {
                    self.now += *self.random.pick(&[0, 1, 40, 1500]) as u64;
                    if self.random.chance(30) {
                        encode_into(&mut master.stream, &["PING"]);
                        master.unit(self.now);
                    }
                }
            }
        }
    }

    /// Judges what is unanswered on each connection by the living history; what is absent stays, to be sent again.
    fn judge(&mut self, living: &Master, ancestry: &Ancestry, tally: &mut Tally) {
        let end = ancestry.end().unwrap();
        let starts: Vec<u64> = living.units.iter().map(|(at, ..)| *at).filter(|at| *at <= end).collect();
        let first = if self.random.chance(70) { 0 } else { *self.random.pick(&starts) };
        let window = read(&mut self.random, living, ancestry, first);
        for at in 0..self.clients.len() {
            let requests = std::mem::take(&mut self.clients[at].unanswered);
            let findings = find(&window, &requests, self.now);
            check(&requests, &findings, living, self.now, tally);
            let absent = requests.into_iter().zip(findings).filter(|(_, finding)| *finding == Verdict::Absent);
            self.clients[at].unanswered = absent.map(|(request, _)| request).collect();
            self.clients[at].run = 0;
        }
    }

    /// Other hosts have found the new master already, and write to it.
    fn elsewhere(&mut self, master: &mut Master) {
        for _ in 0..self.random.below(4) * self.random.below(2) {
            let database = self.random.below(2) as u32;
            let other = request(&mut self.random, usize::MAX, database);
            master.execute(&other, self.now);
        }
    }

    fn send_again(&mut self, master: &Master) {
        let now = self.now;
        for request in self.clients.iter_mut().flat_map(|client| &mut client.unanswered) {
            request.sent.push((master.name, *master.samples.last().unwrap(), now));
        }
    }
}

fn last(samples: &[u64]) -> Vec<u64> {
    samples[samples.len().saturating_sub(3)..].to_vec()
}

/// The window from `first` to the living history's end, in pieces; one that is cut short is refused.
fn read(random: &mut Random, living: &Master, ancestry: &Ancestry, first: u64) -> Window {
    let bytes = &living.stream[first as usize..];
    let last = living.offset();
    let mut reader = WindowReader::new(ancestry.clone(), first, last, 1 << 20).unwrap();
    let mut short = WindowReader::new(ancestry.clone(), first, last, 1 << 20).unwrap();
    if !bytes.is_empty() {
        let cut = random.below(bytes.len());
        short.take(&bytes[..cut]).unwrap();
        assert!(matches!(short.finish(), Err(Unreadable::Short(_))));
    }
    bytes.chunks(1 + random.below(40)).for_each(|piece| reader.take(piece).unwrap());
    reader.finish().unwrap()
}

fn find(window: &Window, requests: &[Request], now: u64) -> Vec<Verdict> {
    let names: Vec<Vec<String>> =
        requests.iter().map(|request| request.sent.iter().map(|(name, ..)| name.to_string()).collect()).collect();
    let unanswered: Vec<LostRequest<'_>> = requests
        .iter()
        .zip(&names)
        .map(|(request, names)| LostRequest {
            commands: request.commands.iter().map(|words| words.iter().map(|word| word.as_bytes()).collect()).collect(),
            is_transaction: request.is_transaction,
            database: request.database,
            sendings: request
                .sent
                .iter()
                .zip(names)
                .map(|((_, after, _), replid)| Sending { replid, after: *after })
                .collect(),
            time: Some(time(request, now)),
        })
        .collect();
    judge(window, &unanswered)
}

fn time(request: &Request, now: u64) -> Range<u64> {
    request.sent[0].2.saturating_sub(SKEW)..now + SKEW + 1
}

fn check(requests: &[Request], findings: &[Verdict], living: &Master, now: u64, tally: &mut Tally) {
    let ran = |request: &Request| living.executions.iter().any(|execution| execution.number == request.number);
    let changed = |request: &Request| {
        living.executions.iter().any(|execution| execution.number == request.number && execution.changed)
    };
    let (end, mut again) = (&living.store, living.store.clone());
    let mut is_absent = false;
    for (request, finding) in requests.iter().zip(findings) {
        if changed(request) {
            tally.add("changed something");
        }
        assert!(!is_absent || *finding == Verdict::Absent, "{finding:?} behind an absent one");
        match finding {
            Verdict::Absent => {
                is_absent = true;
                assert!(!changed(request), "{request:?} ran, and was found absent");
                tally.add("absent");
            }
            Verdict::Ran(reply) => {
                tally.add(if ran(request) { "ran, its own" } else { "ran, by another's" });
                let answered = answer(&mut again, request, now);
                assert_eq!(answered.as_bytes(), &reply[..], "{request:?}");
            }
            Verdict::Unknown(rule) => tally.add(format!("unknown, {rule}")),
        }
    }
    for (key, (value, until)) in &again.0 {
        let Some((was, was_until)) = end.0.get(key) else { panic!("{key:?} is new") };
        assert_eq!(value, was, "{key:?} is another");
        // Its life may have begun when the request can have run.
        let lives: Vec<u64> = requests.iter().flat_map(|request| lives(request, &key.1)).collect();
        let earliest = requests.iter().map(|request| time(request, now).start).min().unwrap_or(now);
        let fits = |was: u64| lives.iter().any(|life| (earliest + life..=now + life + SKEW).contains(&was));
        assert!(until == was_until || was_until.is_some_and(fits), "{key:?} until {was_until:?}, not {until:?}");
    }
    assert_eq!(again.0.len(), end.0.len(), "a key is gone");
}

/// The lives that a request gives a key, in milliseconds.
fn lives(request: &Request, key: &str) -> Vec<u64> {
    let life = |command: &Words| match command.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["SET", of, _, "EX", life] | ["SETEX", of, life, _] if of == key => Some(life.parse::<u64>().unwrap() * 1000),
        _ => None,
    };
    request.commands.iter().filter_map(life).collect()
}

fn answer(store: &mut Store, request: &Request, now: u64) -> String {
    // The server's own expiry waits: only what the request does counts.
    let replies: Vec<String> =
        request.commands.iter().map(|command| store.run(request.database, command, 0, &mut Vec::new())).collect();
    let lives: Vec<_> = request
        .commands
        .iter()
        .flat_map(|command| lives(&Request { commands: vec![command.clone()], ..request.clone() }, &command[1]))
        .collect();
    // Run at 0, so that nothing has expired: a life begins now.
    for ((database, _), (_, until)) in store.0.iter_mut() {
        if *database == request.database && until.is_some_and(|until| lives.contains(&until)) {
            *until = until.map(|life| life + now);
        }
    }
    match request.is_transaction {
        true => format!("*{}\r\n{}", replies.len(), replies.concat()),
        false => replies.concat(),
    }
}

fn play(seed: u64, tally: &mut Tally) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let clients = 2 + random.below(4);
    let client = |random: &mut Random| Client {
        database: random.below(2) as u32 * random.below(2) as u32,
        unanswered: Vec::new(),
        run: 0,
    };
    let clients = (0..clients).map(|_| client(&mut random)).collect();
    let mut history = History { random, now: 1_700_000_000_000, next: 0, clients };
    let mut first = Master {
        name: 0,
        store: Store::default(),
        stream: Vec::new(),
        units: Vec::new(),
        executions: Vec::new(),
        selected: None,
        samples: vec![0],
    };
    first.unit(history.now);
    let steps = 10 + history.random.below(50);
    history.live(&mut first, steps);
    let cut = history.cut(&first, 0);
    let mut second = first.heir(1, cut);
    let ancestry = Ancestry::default().continuing("0", cut);
    history.elsewhere(&mut second);
    history.judge(&second, &ancestry, tally);
    history.send_again(&second);
    let steps = history.random.below(40);
    history.live(&mut second, steps);
    // The second crash.
    let (mut third, ancestry) = match history.random.below(3) {
        0 => {
            let cut = history.cut(&first, 0);
            (first.heir(2, cut), Ancestry::default().continuing("0", cut))
        }
        1 => {
            let ahead = history.cut(&second, cut);
            (second.heir(2, ahead), ancestry.continuing("1", ahead))
        }
        _ => {
            let behind = history.cut(&second, 0);
            (second.heir(2, behind), ancestry.continuing("1", behind))
        }
    };
    history.elsewhere(&mut third);
    history.judge(&third, &ancestry, tally);
}

impl History {
    /// Where the promoted replica has got to: mostly near the end.
    fn cut(&mut self, master: &Master, least: u64) -> u64 {
        let ends: Vec<u64> = master.units.iter().map(|(at, ..)| *at).filter(|at| *at >= least).collect();
        let back = if self.random.chance(50) { self.random.below(3) } else { self.random.below(ends.len()) };
        ends[ends.len() - 1 - back.min(ends.len() - 1)]
    }
}

#[test]
fn no_finding_is_wrong() {
    let histories: u64 = std::env::var("HISTORY_MODEL").ok().and_then(|count| count.parse().ok()).unwrap_or(4_000);
    let mut tally = Tally::default();
    for seed in 0..histories {
        let outcome = std::panic::catch_unwind(|| {
            let mut tally = Tally::default();
            play(seed, &mut tally);
            tally
        });
        let Ok(one) = outcome else { panic!("in history {seed}") };
        one.counts.into_iter().for_each(|(what, count)| *tally.counts.entry(what).or_default() += count);
    }
    println!("{histories} histories: {:#?}", tally.counts);
    // A history that decides nothing, or that is always empty, proves nothing.
    for what in ["absent", "changed something", "ran, its own", "ran, by another's"] {
        assert!(tally.of(what) * 100 > histories, "only {} {what}", tally.of(what));
    }
    let rules = [
        Rule::Lineage,
        Rule::Begins,
        Rule::Anything,
        Rule::Databases,
        Rule::Present,
        Rule::Overwritten,
        Rule::Expiry,
        Rule::Order,
    ];
    for rule in rules {
        assert!(tally.of(&format!("unknown, {rule}")) > 0, "{rule} was never the reason");
    }
}
