//! A client that does what its dice say, and judges every reply it gets: in order, its own, and allowed at that moment.

use std::collections::{BTreeMap, VecDeque};

use super::dice::Dice;
use super::server::Server;
use super::session::Session;
use super::world::World;
use crate::resp::request::encode;
use crate::resp::scanner::{ReplyScanner, Scan};
use crate::topology::Phase;

/// What a client does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Echo,
    Set,
    Get,
    Incr,
    Push,
    Pipeline,
    Eval,
    Sha,
    Multi,
    Discard,
    Watched,
    Feed,
    Pop,
    PopBriefly,
    Subscribe,
    Unsubscribe,
    Publish,
    Select,
    Auth,
    BadAuth,
    Hello,
    Name,
    Track,
    Reset,
    Skip,
    Silence,
    Wait,
    Large,
    TooLarge,
    List,
    Half,
    Rest,
    Quit,
    Finish,
    Abandon,
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing was heard of it (yet).
    Open,
    Acknowledged,
    /// An error says that nobody knows.
    Unknown,
    /// Refused, or discarded: it did not run.
    NotRun,
}

/// The reply that a request is to get.
#[derive(Clone, Debug)]
enum Want {
    /// Exactly this.
    Exactly(String),
    Number,
    /// A value of its own key: exactly this one, unless something was lost.
    Value(Option<String>),
    /// The reply to the write of this number; `:7` or `+OK`.
    Write(usize),
    Counter,
    Queued,
    /// These writes, if it ran. It may be nil if keys are watched.
    Exec {
        writes: Vec<usize>,
        watched: bool,
    },
    Pop,
    List,
    Confirmation(String),
    Refusal(&'static str),
    Anything,
}

pub struct Player {
    pub number: usize,
    wants: VecDeque<(Want, Vec<u8>)>,
    /// Its writes: the request, and what became of it.
    pub writes: Vec<(Vec<u8>, Outcome)>,
    pub counted: usize,
    pub counts_acknowledged: usize,
    /// What it popped.
    pub popped: Vec<String>,
    /// What its connection must have become: a server that is told only what was confirmed.
    shadow: Server,
    shadow_id: u64,
    resp3: bool,
    pub db: u32,
    channels: Vec<String>,
    tracks: bool,
    values: BTreeMap<(u32, usize), String>,
    /// Nothing more is said before everything is answered.
    waits: bool,
    /// What is still to be sent of a request.
    half: Vec<u8>,
    sha: Option<String>,
    pub has_left: bool,
    /// It was refused for want of a master, and what it had meant to do is in pieces.
    is_refused: bool,
    /// What it wanted to make of its connection was refused: it says nothing more.
    is_confused: bool,
    pub was_refused: bool,
    /// What it did and heard, and when, in milliseconds.
    pub log: Vec<(u128, String)>,
}

/// What may happen to the replies of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// Writes may be lost, and connections closed for it.
    pub losses: bool,
    /// The deadline may pass.
    pub outage: bool,
}

impl Player {
    pub fn new(number: usize, world: &World) -> Player {
        let mut shadow = Server::new();
        shadow.users.clone_from(&world.servers[0].users);
        let shadow_id = shadow.connect().expect("it is up");
        Player {
            number,
            wants: VecDeque::new(),
            writes: Vec::new(),
            counted: 0,
            counts_acknowledged: 0,
            popped: Vec::new(),
            shadow,
            shadow_id,
            resp3: false,
            db: 0,
            channels: Vec::new(),
            tracks: false,
            values: BTreeMap::new(),
            waits: false,
            half: Vec::new(),
            sha: None,
            has_left: false,
            is_refused: false,
            is_confused: false,
            was_refused: false,
            log: Vec::new(),
        }
    }

    pub fn owes_nothing(&self) -> bool {
        self.wants.is_empty()
    }

    /// It is owed the reply to a pop, and nothing before it.
    pub fn is_blocked(&self) -> bool {
        matches!(self.wants.front(), Some((Want::Pop, _)))
    }

    /// Bytes of requests that it is owed a reply to.
    pub fn outstanding(&self) -> usize {
        self.wants.iter().map(|(_, request)| request.len()).sum()
    }

    pub fn owed(&self) -> String {
        format!("{:?}", self.wants.iter().map(|(want, _)| want).collect::<Vec<_>>())
    }

    /// Its connection, as it must be.
    pub fn state(&self) -> Option<String> {
        self.shadow.state_of(self.shadow_id)
    }

    fn key(&self, name: &str) -> String {
        format!("d{}:{name}{}", self.db, self.number)
    }

    /// Does this, unless it waits for replies.
    pub fn act(&mut self, op: Op, dice: &mut Dice, session: &mut Session, millis: u128) {
        self.waits &= !self.wants.is_empty();
        let is_subscriber = !self.channels.is_empty() && !self.resp3;
        if self.has_left || self.waits || (self.is_confused && op != Op::Rest) || session.ended.is_some() {
            return;
        }
        let op = match op {
            Op::Rest => op,
            Op::Finish | Op::Abandon => op,
            _ if !self.half.is_empty() => Op::Rest,
            Op::Subscribe | Op::Unsubscribe | Op::Reset | Op::Quit => op,
            _ if is_subscriber => return,
            _ => op,
        };
        let alone = matches!(
            op,
            Op::Select
                | Op::Auth
                | Op::Hello
                | Op::Track
                | Op::Reset
                | Op::Skip
                | Op::Silence
                | Op::Subscribe
                | Op::Unsubscribe
                | Op::Sha
        );
        if alone && !self.wants.is_empty() {
            return;
        }
        let before = self.wants.len();
        self.log.push((millis, format!("client {} does {op:?}", self.number)));
        let mut bytes = Vec::new();
        self.say_op(op, dice, &mut bytes);
        self.waits = alone && self.wants.len() > before;
        if op == Op::Half && bytes.len() > 3 {
            self.half = bytes.split_off(1 + dice.below(bytes.len() - 1));
        }
        session.send(&bytes);
        match op {
            Op::Finish => session.finish(),
            Op::Abandon => session.abandon(),
            _ => {}
        }
        self.has_left |= matches!(op, Op::Quit | Op::Finish | Op::Abandon);
    }

    fn say_op(&mut self, op: Op, dice: &mut Dice, out: &mut Vec<u8>) {
        let (key, list) = (self.key("k"), self.key("o"));
        match op {
            Op::Echo => self.echo(out),
            Op::Half if dice.one_in(2) => self.transaction(&list, 1 + dice.below(3), false, out),
            Op::Set | Op::Half => self.set(&key, 0, out),
            Op::Large => self.set(&key, 17_000 + dice.below(10_000), out),
            Op::TooLarge => self.set(&key, 70_000, out),
            Op::Get => {
                let value = self.values.get(&(self.db, self.number)).cloned();
                self.say(&["GET", &key], Want::Value(value), out);
            }
            Op::Incr => {
                self.counted += 1;
                let counter = format!("c{}", self.number);
                self.say(&["EVAL", "return(redis.call('incr',KEYS[1]))", "1", &counter, "n"], Want::Counter, out);
            }
            Op::Push => self.push(&list, out),
            Op::Feed => self.push("q", out),
            Op::Pipeline => {
                for _ in 0..2 + dice.below(5) {
                    let op = dice.pick(&[Op::Echo, Op::Push, Op::Get, Op::Set, Op::Incr, Op::List]);
                    self.say_op(op, dice, out);
                }
            }
            Op::Eval => self.eval(&list, out),
            Op::Sha => self.script(&list, out),
            Op::Multi => self.transaction(&list, 1 + dice.below(3), false, out),
            Op::Watched => {
                self.say(&["WATCH", &key], Want::Exactly("+OK".into()), out);
                self.transaction(&list, 1, true, out);
            }
            Op::Discard => self.discard(&list, out),
            Op::Pop => self.say(&["BLPOP", "q", "0"], Want::Pop, out),
            Op::PopBriefly => self.say(&["BLPOP", "q", "0.05"], Want::Pop, out),
            Op::Publish => {
                let write = self.note_write();
                self.say_write(write, &["PUBLISH", "c1", &self.id(write)], Want::Write(write), out);
            }
            Op::Wait => self.say(&["WAIT", "1", "20"], Want::Number, out),
            Op::List => self.say(&["LRANGE", &list, "0", "-1"], Want::List, out),
            Op::Quit => self.say(&["QUIT"], Want::Exactly("+OK".into()), out),
            Op::Rest => out.append(&mut self.half),
            Op::Finish | Op::Abandon => {}
            _ => self.say_state(op, dice, out),
        }
    }

    /// What changes the connection.
    fn say_state(&mut self, op: Op, dice: &mut Dice, out: &mut Vec<u8>) {
        let ok = || Want::Exactly("+OK".into());
        match op {
            Op::Subscribe => {
                let names = [["c1", "c2"], ["c2", "c3"]][dice.below(2)];
                self.say(
                    &["SUBSCRIBE", names[0], names[1]],
                    Want::Confirmation(format!("subscribe ${} {}", 2, names[0])),
                    out,
                );
                self.wants.push_back((Want::Confirmation(format!("subscribe ${} {}", 2, names[1])), Vec::new()));
                self.channels.extend(names.map(str::to_owned));
                self.channels.sort();
                self.channels.dedup();
            }
            Op::Unsubscribe => {
                let channels = std::mem::take(&mut self.channels);
                let Some((first, rest)) = channels.split_first() else { return self.echo(out) };
                self.say(&["UNSUBSCRIBE"], Want::Confirmation(format!("unsubscribe $2 {first}")), out);
                for name in rest {
                    self.wants.push_back((Want::Confirmation(format!("unsubscribe $2 {name}")), Vec::new()));
                }
            }
            Op::Select => {
                self.db = dice.below(4) as u32;
                self.say(&["SELECT", &self.db.to_string()], ok(), out);
            }
            Op::Auth => self.say(&["AUTH", "app", "app-secret"], ok(), out),
            Op::BadAuth => self.say(&["AUTH", "app", "wrong"], Want::Refusal("-WRONGPASS"), out),
            Op::Hello => {
                self.resp3 = dice.one_in(2) || self.resp3;
                self.say(&["HELLO", if self.resp3 { "3" } else { "2" }], Want::Anything, out);
            }
            Op::Name => self.say(&["CLIENT", "SETNAME", &format!("n{}", dice.below(9))], ok(), out),
            Op::Track if self.resp3 => {
                self.tracks = dice.one_in(2);
                self.say(&["CLIENT", "TRACKING", if self.tracks { "ON" } else { "OFF" }], ok(), out);
            }
            Op::Reset => {
                (self.resp3, self.db) = (false, 0);
                self.channels.clear();
                self.tracks = false;
                self.say(&["RESET"], Want::Exactly("+RESET".into()), out);
            }
            Op::Skip | Op::Silence => self.silence(op, out),
            _ => self.echo(out),
        }
    }

    fn silence(&mut self, op: Op, out: &mut Vec<u8>) {
        if self.tracks || !self.channels.is_empty() {
            return self.echo(out); // not followed where the server speaks unasked
        }
        let write = self.note_write();
        let list = self.key("o");
        let id = self.id(write);
        let push: [&str; 3] = ["RPUSH", &list, &id];
        self.writes[write].0 = push.join(" ").into_bytes();
        let mut requests = vec![vec!["CLIENT", "REPLY", if op == Op::Skip { "SKIP" } else { "OFF" }], push.to_vec()];
        if op == Op::Silence {
            requests.push(vec!["CLIENT", "REPLY", "ON"]);
            self.wants.push_back((Want::Exactly("+OK".into()), Vec::new()));
        }
        requests.iter().for_each(|words| out.extend(request(words)));
        self.echo(out);
    }

    fn script(&mut self, list: &str, out: &mut Vec<u8>) {
        let Some(sha) = self.sha.clone() else {
            self.say(&["SCRIPT", "LOAD", "return(redis.call('rpush',KEYS[1],ARGV[1]))"], Want::Anything, out);
            self.sha = Some(String::new());
            return;
        };
        if sha.is_empty() {
            return self.echo(out);
        }
        let write = self.note_write();
        self.say_write(write, &["EVALSHA", &sha, "1", list, &self.id(write)], Want::Write(write), out);
    }

    fn eval(&mut self, list: &str, out: &mut Vec<u8>) {
        let write = self.note_write();
        let id = self.id(write);
        let words = ["EVAL", "return(redis.call('rpush',KEYS[1],ARGV[1]))", "1", list, &id];
        self.say_write(write, &words, Want::Write(write), out);
    }

    fn discard(&mut self, list: &str, out: &mut Vec<u8>) {
        self.say(&["MULTI"], Want::Exactly("+OK".into()), out);
        let write = self.note_write();
        self.say_write(write, &["RPUSH", list, &self.id(write)], Want::Queued, out);
        self.say(&["DISCARD"], Want::Exactly("+OK".into()), out);
        self.writes[write].1 = Outcome::NotRun;
    }

    fn echo(&mut self, out: &mut Vec<u8>) {
        let text = format!("e{}-{}", self.number, self.log.len() * 100 + self.wants.len());
        self.say(&["ECHO", &text], Want::Exactly(format!("${} {text}", text.len())), out);
    }

    fn set(&mut self, key: &str, padding: usize, out: &mut Vec<u8>) {
        let write = self.note_write();
        let value = format!("{}{}", self.id(write), "x".repeat(padding));
        self.values.insert((self.db, self.number), value.clone());
        self.say_write(write, &["SET", key, &value], Want::Write(write), out);
    }

    fn push(&mut self, list: &str, out: &mut Vec<u8>) {
        let write = self.note_write();
        self.say_write(write, &["RPUSH", list, &self.id(write)], Want::Write(write), out);
    }

    fn transaction(&mut self, list: &str, count: usize, watched: bool, out: &mut Vec<u8>) {
        self.say(&["MULTI"], Want::Exactly("+OK".into()), out);
        let mut writes = Vec::new();
        for _ in 0..count {
            let write = self.note_write();
            self.say_write(write, &["RPUSH", list, &self.id(write)], Want::Queued, out);
            writes.push(write);
        }
        self.say(&["EXEC"], Want::Exec { writes, watched }, out);
    }

    fn note_write(&mut self) -> usize {
        self.writes.push((Vec::new(), Outcome::Open));
        self.writes.len() - 1
    }

    /// The text that makes a write unlike all others.
    fn id(&self, write: usize) -> String {
        format!("w{}-{write}.", self.number)
    }

    fn say_write(&mut self, write: usize, words: &[&str], want: Want, out: &mut Vec<u8>) {
        self.writes[write].0 = words.join(" ").into_bytes();
        self.say(words, want, out);
    }

    fn say(&mut self, words: &[&str], want: Want, out: &mut Vec<u8>) {
        let bytes = request(words);
        out.extend_from_slice(&bytes);
        self.wants.push_back((want, bytes));
    }

    /// Looks at what was heard.
    pub fn listen(&mut self, session: &mut Session, world: &World, allowed: Allowed) {
        let heard = &mut session.client.heard;
        while !heard.is_empty()
            && let Scan::Frame(length) = ReplyScanner::default().scan(heard)
        {
            let frame: Vec<u8> = heard.drain(..length).collect();
            let frame = String::from_utf8_lossy(&frame).trim_end().replace("\r\n", " ");
            self.log.push((world.millis(), format!("client {} hears {frame:.90}", self.number)));
            self.judge(&frame, world, allowed);
        }
    }

    fn judge(&mut self, frame: &str, world: &World, allowed: Allowed) {
        let words: Vec<&str> = frame.split(' ').collect();
        let is_message =
            matches!(words.get(2), Some(&("message" | "invalidate"))) && matches!(&words[0][..1], "*" | ">");
        if is_message {
            return;
        }
        let Some((want, request)) = self.wants.pop_front() else { panic!("{frame:.200} was not asked for") };
        let me = self.number;
        if frame.starts_with("-UNKNOWNRESULT") {
            assert!(allowed.losses, "client {me}: {want:?} was lost");
            return self.lost(&want);
        }
        if frame.starts_with("-MASTERDOWN switchmaster") {
            assert!(allowed.outage, "client {me}: {want:?} was refused");
            return self.refused(&want);
        }
        if self.is_refused && matches!(want, Want::Queued | Want::Exec { .. }) {
            self.is_refused &= !matches!(want, Want::Exec { .. });
            return;
        }
        let fits = match &want {
            Want::Exactly(text) => frame == text,
            Want::Number => frame.starts_with(':'),
            Want::Counter => frame.starts_with(':'),
            Want::Value(value) => match value {
                _ if allowed.losses || allowed.outage => frame.starts_with('$') || frame == "_",
                Some(value) => frame == format!("${} {value}", value.len()),
                None => frame == "$-1" || frame == "_",
            },
            Want::Write(_) => frame.starts_with(':') || frame == "+OK",
            Want::Queued => frame == "+QUEUED",
            Want::Exec { watched, .. } => frame.starts_with("*") || (*watched && frame == "_"),
            Want::Pop => frame.starts_with("*2 $1 q ") || frame == "*-1" || frame == "_",
            Want::List => frame.starts_with('*'),
            Want::Confirmation(text) => frame[1..].contains(text.as_str()),
            Want::Refusal(text) => frame.starts_with(text),
            Want::Anything => !frame.starts_with('-'),
        };
        assert!(fits, "client {me} heard {frame:.200}, not {want:?}");
        self.take(&want, frame, world);
        if !request.is_empty() && !frame.starts_with('-') && changes_connection(&request) {
            self.shadow.receive(self.shadow_id, &request, world.now);
            self.shadow.take_output(self.shadow_id, usize::MAX);
        }
    }

    /// The reply that was wanted has come.
    fn take(&mut self, want: &Want, frame: &str, world: &World) {
        let mut acknowledged = Vec::new();
        match want {
            Want::Write(write) => acknowledged.push(*write),
            Want::Exec { writes, .. } if frame.starts_with("*-1") || frame == "_" => {
                writes.iter().for_each(|write| self.writes[*write].1 = Outcome::NotRun);
            }
            Want::Exec { writes, .. } => acknowledged.clone_from(writes),
            Want::Counter => {
                self.counts_acknowledged += 1;
            }
            Want::Pop => {
                self.popped.extend(frame.rsplit(' ').next().filter(|word| word.starts_with('w')).map(str::to_owned))
            }
            Want::Anything if frame.starts_with("$40 ") => self.sha = Some(frame[4..].to_owned()),
            _ => {}
        }
        for write in acknowledged {
            self.writes[write].1 = Outcome::Acknowledged;
            if matches!(world.entry.phase, Phase::Electing | Phase::Switching) {
                let request = &self.writes[write].0;
                assert!(
                    world.is_covered(request),
                    "{} was acknowledged in {:?}",
                    request.escape_ascii(),
                    world.entry.phase
                );
            }
        }
    }

    fn lost(&mut self, want: &Want) {
        match want {
            Want::Write(write) => self.writes[*write].1 = Outcome::Unknown,
            // A WAIT that the deadline ends is told apart no better.
            Want::Counter | Want::Pop | Want::Number => {}
            _ => panic!("client {}: {want:?} was lost, which harms nobody", self.number),
        }
    }

    fn refused(&mut self, want: &Want) {
        self.was_refused = true;
        self.is_confused |= matches!(want, Want::Exactly(_) | Want::Confirmation(_) | Want::Anything);
        match want {
            Want::Write(write) => self.writes[*write].1 = Outcome::NotRun,
            Want::Exec { .. } => self.is_refused = false,
            _ => self.is_refused |= !matches!(want, Want::Counter | Want::Value(_) | Want::Pop | Want::Number),
        }
    }
}

fn request(words: &[&str]) -> Vec<u8> {
    encode(&words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>())
}

/// It is of the connection, or queued for a transaction.
fn changes_connection(request: &[u8]) -> bool {
    let has = |word: &[u8]| request.windows(word.len()).any(|part| part == word);
    [&b"\nSELECT"[..], b"\nAUTH", b"\nHELLO", b"\nCLIENT", b"SUBSCRIBE", b"\nRESET"].into_iter().any(has)
}
