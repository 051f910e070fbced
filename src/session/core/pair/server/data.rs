//! The data set of a model server, and the commands that do nothing else but read and change it.
//!
//! Every key that a command changes is noted in `touched`: that is all that replication, WATCH and tracking need.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::reply::Reply;

/// A key in its database.
pub type Key = (u32, Vec<u8>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Text(Vec<u8>),
    List(VecDeque<Vec<u8>>),
    Hash(BTreeMap<Vec<u8>, Vec<u8>>),
    Set(BTreeSet<Vec<u8>>),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Data {
    keys: BTreeMap<Key, Value>,
    /// Changed since the last [`Data::take_touched`], in their order.
    touched: Vec<Key>,
}

const WRONG_TYPE: &str = "WRONGTYPE Operation against a key holding the wrong kind of value";
const NOT_A_NUMBER: &str = "ERR value is not an integer or out of range";

/// Either end of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Left,
    Right,
}

impl Data {
    pub fn get(&self, db: u32, key: &[u8]) -> Option<&Value> {
        self.keys.get(&(db, key.to_vec()))
    }

    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.keys.keys()
    }

    /// How many keys were changed since [`Data::take_touched`].
    pub fn touched(&self) -> usize {
        self.touched.len()
    }

    /// The keys that were changed since the last call.
    pub fn take_touched(&mut self) -> Vec<Key> {
        std::mem::take(&mut self.touched)
    }

    /// What a replica does with a change.
    pub fn put(&mut self, key: Key, value: Option<Value>) {
        self.touched.push(key.clone());
        match value {
            Some(value) => _ = self.keys.insert(key, value),
            None => _ = self.keys.remove(&key),
        }
    }

    /// Runs a command of this name (in capitals); `None` if it is none of the data set's.
    pub fn run(&mut self, db: u32, name: &str, args: &[Vec<u8>]) -> Option<Reply> {
        let reply = match name {
            "GET" | "SET" | "SETNX" | "GETDEL" | "APPEND" | "STRLEN" | "SETRANGE" | "INCR" | "INCRBY" | "DECR" => {
                self.text(db, name, args)
            }
            "MGET" => Ok(Reply::Array(args.iter().map(|key| self.text_or_nil(db, key)).collect())),
            "MSET" => {
                args.chunks_exact(2)
                    .for_each(|pair| self.put((db, pair[0].clone()), Some(Value::Text(pair[1].clone()))));
                Ok(Reply::ok())
            }
            "DEL" => Ok(Reply::Number(args.iter().filter(|key| self.remove(db, key)).count() as i64)),
            "EXISTS" => Ok(Reply::Number(args.iter().filter(|key| self.get(db, key).is_some()).count() as i64)),
            "RPUSH" | "LPUSH" | "LPOP" | "RPOP" | "LRANGE" | "LLEN" | "LMOVE" | "LMPOP" => self.list(db, name, args),
            "HSET" | "HGETALL" | "HLEN" => self.hash(db, name, args),
            "SADD" | "SCARD" | "SMEMBERS" | "SPOP" => self.set(db, name, args),
            "FLUSHALL" => {
                self.touched.extend(std::mem::take(&mut self.keys).into_keys());
                Ok(Reply::ok())
            }
            _ => return None,
        };
        Some(reply.unwrap_or_else(Reply::error))
    }

    /// Pops an element for a client that blocks, or pops at once; `None` while there is none.
    pub fn pop(&mut self, db: u32, key: &[u8], end: End) -> Result<Option<Vec<u8>>, String> {
        let Some(list) = self.list_at(db, key)? else { return Ok(None) };
        let mut list = list.clone();
        let element = if end == End::Left { list.pop_front() } else { list.pop_back() };
        self.put((db, key.to_vec()), (!list.is_empty()).then_some(Value::List(list)));
        Ok(element)
    }

    pub fn push(&mut self, db: u32, key: &[u8], end: End, element: &[u8]) -> Result<usize, String> {
        let mut list = self.list_at(db, key)?.cloned().unwrap_or_default();
        if end == End::Left {
            list.push_front(element.to_vec())
        } else {
            list.push_back(element.to_vec())
        }
        let length = list.len();
        self.put((db, key.to_vec()), Some(Value::List(list)));
        Ok(length)
    }

    fn remove(&mut self, db: u32, key: &[u8]) -> bool {
        let there = self.get(db, key).is_some();
        if there {
            self.put((db, key.to_vec()), None);
        }
        there
    }

    fn text_at(&self, db: u32, key: &[u8]) -> Result<Option<&Vec<u8>>, String> {
        match self.get(db, key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(_) => Err(WRONG_TYPE.into()),
        }
    }

    fn text_or_nil(&self, db: u32, key: &[u8]) -> Reply {
        self.text_at(db, key).ok().flatten().map_or(Reply::Nil, Reply::bulk)
    }

    fn list_at(&self, db: u32, key: &[u8]) -> Result<Option<&VecDeque<Vec<u8>>>, String> {
        match self.get(db, key) {
            None => Ok(None),
            Some(Value::List(list)) => Ok(Some(list)),
            Some(_) => Err(WRONG_TYPE.into()),
        }
    }

    fn text(&mut self, db: u32, name: &str, args: &[Vec<u8>]) -> Result<Reply, String> {
        let key = &args[0];
        let old = self.text_at(db, key);
        let old = if name == "SET" { old.unwrap_or_default().cloned() } else { old?.cloned() };
        let mut set = |value: Vec<u8>| self.put((db, key.clone()), Some(Value::Text(value)));
        Ok(match name {
            "GET" => old.map_or(Reply::Nil, Reply::Bulk),
            "STRLEN" => Reply::Number(old.map_or(0, |text| text.len() as i64)),
            "SET" => return Ok(self.set_text(db, args, old)),
            "SETNX" => {
                if old.is_none() {
                    set(args[1].clone());
                }
                Reply::Number(old.is_none().into())
            }
            "GETDEL" => {
                self.remove(db, key);
                old.map_or(Reply::Nil, Reply::Bulk)
            }
            "APPEND" => {
                let text = [old.unwrap_or_default(), args[1].clone()].concat();
                set(text.clone());
                Reply::Number(text.len() as i64)
            }
            "SETRANGE" => {
                let mut text = old.unwrap_or_default();
                let at = number::<u32>(&args[1])? as usize % (1 << 20);
                text.resize(text.len().max(at + args[2].len()), 0);
                text[at..at + args[2].len()].copy_from_slice(&args[2]);
                set(text.clone());
                Reply::Number(text.len() as i64)
            }
            _ => {
                let by: i64 = match name {
                    "INCR" => 1,
                    "DECR" => -1,
                    _ => number(&args[1])?,
                };
                let sum = old.map_or(Ok(0), |text| number::<i64>(&text))?.checked_add(by).ok_or(NOT_A_NUMBER)?;
                set(sum.to_string().into_bytes());
                Reply::Number(sum)
            }
        })
    }

    /// SET with its options.
    fn set_text(&mut self, db: u32, args: &[Vec<u8>], old: Option<Vec<u8>>) -> Reply {
        let option = |word: &[u8]| args[2..].iter().any(|arg| arg.eq_ignore_ascii_case(word));
        let refused = (option(b"NX") && old.is_some()) || (option(b"XX") && old.is_none());
        if !refused {
            self.put((db, args[0].clone()), Some(Value::Text(args[1].clone())));
        }
        match old {
            old if option(b"GET") => old.map_or(Reply::Nil, Reply::Bulk),
            _ if refused => Reply::Nil,
            _ => Reply::ok(),
        }
    }

    fn list(&mut self, db: u32, name: &str, args: &[Vec<u8>]) -> Result<Reply, String> {
        let key = &args[0];
        Ok(match name {
            "RPUSH" | "LPUSH" => {
                let end = if name == "RPUSH" { End::Right } else { End::Left };
                let mut length = 0;
                for element in &args[1..] {
                    length = self.push(db, key, end, element)?;
                }
                Reply::Number(length as i64)
            }
            "LPOP" | "RPOP" => {
                let end = if name == "LPOP" { End::Left } else { End::Right };
                let Some(count) = args.get(1) else {
                    return Ok(self.pop(db, key, end)?.map_or(Reply::Nil, Reply::Bulk));
                };
                let mut popped = Vec::new();
                for _ in 0..number::<usize>(count)? {
                    let Some(element) = self.pop(db, key, end)? else { break };
                    popped.push(Reply::Bulk(element));
                }
                if popped.is_empty() { Reply::NilArray } else { Reply::Array(popped) }
            }
            "LMPOP" => match self.pop(db, &args[1], end(&args[2])?)? {
                Some(element) => Reply::Array(vec![Reply::bulk(&args[1]), Reply::Array(vec![Reply::Bulk(element)])]),
                None => Reply::NilArray,
            },
            "LLEN" => Reply::Number(self.list_at(db, key)?.map_or(0, |list| list.len() as i64)),
            "LRANGE" => Reply::Array(self.list_at(db, key)?.into_iter().flatten().map(Reply::bulk).collect()),
            _ => match self.pop(db, key, end(&args[2])?)? {
                Some(element) => {
                    self.push(db, &args[1], end(&args[3])?, &element)?;
                    Reply::Bulk(element)
                }
                None => Reply::Nil,
            },
        })
    }

    fn hash(&mut self, db: u32, name: &str, args: &[Vec<u8>]) -> Result<Reply, String> {
        let mut hash = match self.get(db, &args[0]) {
            None => BTreeMap::new(),
            Some(Value::Hash(hash)) => hash.clone(),
            Some(_) => return Err(WRONG_TYPE.into()),
        };
        Ok(match name {
            "HLEN" => Reply::Number(hash.len() as i64),
            "HGETALL" => Reply::Map(hash.iter().map(|(key, value)| (Reply::bulk(key), Reply::bulk(value))).collect()),
            _ => {
                let before = hash.len();
                hash.extend(args[1..].chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())));
                let added = hash.len() - before;
                self.put((db, args[0].clone()), Some(Value::Hash(hash)));
                Reply::Number(added as i64)
            }
        })
    }

    fn set(&mut self, db: u32, name: &str, args: &[Vec<u8>]) -> Result<Reply, String> {
        let mut set = match self.get(db, &args[0]) {
            None => BTreeSet::new(),
            Some(Value::Set(set)) => set.clone(),
            Some(_) => return Err(WRONG_TYPE.into()),
        };
        let before = set.len();
        let reply = match name {
            "SCARD" => Reply::Number(before as i64),
            "SMEMBERS" => Reply::Set(set.iter().map(Reply::bulk).collect()),
            "SADD" => {
                set.extend(args[1..].iter().cloned());
                Reply::Number((set.len() - before) as i64)
            }
            // Which members it takes is the server's to say: the first.
            _ => match args.get(1) {
                None => set.pop_first().map_or(Reply::Nil, Reply::Bulk),
                Some(count) => {
                    let count = number::<usize>(count)?;
                    Reply::Set(std::iter::from_fn(|| set.pop_first()).take(count).map(Reply::Bulk).collect())
                }
            },
        };
        if set.len() != before {
            self.put((db, args[0].clone()), (!set.is_empty()).then_some(Value::Set(set)));
        }
        Ok(reply)
    }
}

/// LEFT or RIGHT.
pub fn end(word: &[u8]) -> Result<End, String> {
    match word.to_ascii_uppercase().as_slice() {
        b"LEFT" => Ok(End::Left),
        b"RIGHT" => Ok(End::Right),
        _ => Err("ERR syntax error".into()),
    }
}

pub fn number<N: std::str::FromStr>(text: &[u8]) -> Result<N, String> {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or_else(|| NOT_A_NUMBER.into())
}
