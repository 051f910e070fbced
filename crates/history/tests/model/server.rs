//! A small Redis: strings, lists and sets, what a request answers, and what it leaves in the replication stream.
//!
//! Written from what real servers leave (`propagation/forms.txt`), and without the table that is tested.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

pub type Words = Vec<String>;

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Text(String),
    List(VecDeque<String>),
    Set(BTreeSet<String>),
}

/// What a key holds, and when it ends, in milliseconds.
pub type Held = (Value, Option<u64>);

/// The data of one node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Store(pub BTreeMap<(u32, String), Held>);

pub const ADD: &str = "return redis.call('exists',KEYS[1])<1 and redis.call('setex',KEYS[1],ARGV[2],ARGV[1])";
/// A script that nobody has listed, and that writes a key which it does not declare.
pub const STRANGE: &str = "return redis.call('incr', ARGV[1])";

pub fn words(text: &[&str]) -> Words {
    text.iter().map(|word| (*word).to_owned()).collect()
}

impl Store {
    fn text(&self, at: &(u32, String)) -> Option<&str> {
        match self.0.get(at) {
            Some((Value::Text(text), _)) => Some(text),
            _ => None,
        }
    }

    /// Answers a request, and adds what it leaves.
    pub fn run(&mut self, database: u32, request: &[String], now: u64, left: &mut Vec<Words>) -> String {
        let name = request[0].as_str();
        let keys: Vec<&String> = match name {
            "MSET" => request[1..].iter().step_by(2).collect(),
            "DEL" => request[1..].iter().collect(),
            "RENAME" => request[1..3].iter().collect(),
            "EVAL" => vec![&request[3]],
            "FLUSHDB" => Vec::new(),
            _ => vec![&request[1]],
        };
        for key in keys {
            let at = (database, key.clone());
            if self.0.get(&at).is_some_and(|(_, end)| end.is_some_and(|end| end <= now)) {
                self.0.remove(&at);
                left.push(words(&["DEL", key]));
            }
        }
        self.command(database, request, now, left)
    }

    fn command(&mut self, database: u32, request: &[String], now: u64, left: &mut Vec<Words>) -> String {
        let args: Vec<&str> = request.iter().map(String::as_str).collect();
        let at = |key: &str| (database, key.to_owned());
        let verbatim = || request.to_vec();
        let wrong = || "-WRONGTYPE\r\n".to_owned();
        let ok = || "+OK\r\n".to_owned();
        let number = |number: usize| format!(":{number}\r\n");
        let is_there = |store: &Store, key: &str| store.0.contains_key(&at(key));
        match *args {
            ["GET", key] => self.text(&at(key)).map_or("$-1\r\n".to_owned(), |text| format!("+{text}\r\n")),
            ["SET", key, value, "KEEPTTL"] => {
                let end = self.0.get(&at(key)).and_then(|(_, end)| *end);
                self.0.insert(at(key), (Value::Text(value.to_owned()), end));
                left.push(verbatim());
                ok()
            }
            ["SET", key, _, "NX"] | ["SETNX", key, _] if is_there(self, key) => match args[0] {
                "SET" => "$-1\r\n".to_owned(),
                _ => number(0),
            },
            ["SET", key, value] | ["SET", key, value, "NX"] | ["SETNX", key, value] => {
                self.0.insert(at(key), (Value::Text(value.to_owned()), None));
                left.push(verbatim());
                if args[0] == "SET" { ok() } else { number(1) }
            }
            ["SET", key, value, "EX", life] | ["SETEX", key, life, value] => {
                let end = now + life.parse::<u64>().unwrap() * 1000;
                self.0.insert(at(key), (Value::Text(value.to_owned()), Some(end)));
                left.push(words(&["SET", key, value, "PXAT", &end.to_string()]));
                ok()
            }
            ["EVAL", ADD, _, key, value, life] => match is_there(self, key) {
                true => "$-1\r\n".to_owned(),
                false => self.command(database, &words(&["SETEX", key, life, value]), now, left),
            },
            ["EVAL", STRANGE, _, _, key] => self.command(database, &words(&["INCR", key]), now, left),
            ["MSET", ref pairs @ ..] => {
                for pair in pairs.chunks(2) {
                    self.0.insert(at(pair[0]), (Value::Text(pair[1].to_owned()), None));
                }
                left.push(verbatim());
                ok()
            }
            ["INCR", key] => {
                let end = self.0.get(&at(key)).and_then(|(_, end)| *end);
                let old = match self.0.get(&at(key)) {
                    None => Some(0),
                    Some((Value::Text(text), _)) => text.parse::<i64>().ok(),
                    Some(_) => return wrong(),
                };
                let Some(old) = old else { return "-ERR\r\n".to_owned() };
                self.0.insert(at(key), (Value::Text((old + 1).to_string()), end));
                left.push(verbatim());
                format!(":{}\r\n", old + 1)
            }
            ["DEL", ref keys @ ..] => {
                let gone = keys.iter().filter(|key| self.0.remove(&at(key)).is_some()).count();
                left.extend((gone > 0).then(verbatim));
                number(gone)
            }
            ["GETDEL", key] => match self.0.get(&at(key)) {
                None => "$-1\r\n".to_owned(),
                Some((Value::Text(text), _)) => {
                    let reply = format!("+{text}\r\n");
                    self.0.remove(&at(key));
                    left.push(words(&["DEL", key]));
                    reply
                }
                Some(_) => wrong(),
            },
            ["EXPIRE", key, life] => match self.0.get_mut(&at(key)) {
                None => number(0),
                Some((_, end)) => {
                    *end = Some(now + life.parse::<u64>().unwrap() * 1000);
                    left.push(words(&["PEXPIREAT", key, &end.unwrap().to_string()]));
                    number(1)
                }
            },
            ["RENAME", from, to] => match self.0.remove(&at(from)) {
                None => "-ERR no such key\r\n".to_owned(),
                Some(held) => {
                    self.0.insert(at(to), held);
                    left.push(verbatim());
                    ok()
                }
            },
            ["FLUSHDB"] => {
                self.0.retain(|(of, _), _| *of != database);
                left.push(verbatim());
                ok()
            }
            ["RPUSH", key, value] => {
                let empty = || (Value::List(VecDeque::new()), None);
                let (Value::List(list), _) = self.0.entry(at(key)).or_insert_with(empty) else { return wrong() };
                list.push_back(value.to_owned());
                left.push(verbatim());
                number(list.len())
            }
            ["LPOP", key] | ["BLPOP", key, _] => match self.0.get_mut(&at(key)) {
                None => "*-1\r\n".to_owned(),
                Some((Value::List(list), _)) => {
                    let value = list.pop_front().unwrap();
                    if list.is_empty() {
                        self.0.remove(&at(key));
                    }
                    left.push(words(&["LPOP", key]));
                    format!("+{value}\r\n")
                }
                Some(_) => wrong(),
            },
            ["SADD", key, member] => {
                let empty = || (Value::Set(BTreeSet::new()), None);
                let (Value::Set(set), _) = self.0.entry(at(key)).or_insert_with(empty) else { return wrong() };
                let is_new = set.insert(member.to_owned());
                left.extend(is_new.then(verbatim));
                number(usize::from(is_new))
            }
            ["SPOP", key] => match self.0.get_mut(&at(key)) {
                None => "$-1\r\n".to_owned(),
                Some((Value::Set(set), _)) => {
                    let member = set.pop_last().unwrap();
                    left.push(words(&["SREM", key, &member]));
                    if set.is_empty() {
                        self.0.remove(&at(key));
                    }
                    format!("+{member}\r\n")
                }
                Some(_) => wrong(),
            },
            _ => panic!("{args:?}"),
        }
    }
}
