//! Scripts of a model server: calls one after the other, of which the last may be returned.
//!
//! `redis.call('set',KEYS[1],ARGV[1]);return redis.call('get',KEYS[1])` is all of Lua that is known here, besides
//! `redis.error_reply('…')`, an argument or a number in the place of the last call.

use std::time::Instant;

use super::commands::READONLY;
use super::data::number;
use super::{Reply, Role, Server, Words};

impl Server {
    pub(super) fn script(&mut self, args: &[Vec<u8>]) -> Reply {
        match args[0].to_ascii_uppercase().as_slice() {
            b"LOAD" if args.len() == 2 => Reply::bulk(self.learn(&args[1])),
            b"FLUSH" => {
                self.scripts.clear();
                Reply::ok()
            }
            _ => Reply::Array(args[1..].iter().map(|sha| Reply::Number(self.find(sha).is_some().into())).collect()),
        }
    }

    pub(super) fn eval(&mut self, id: u64, name: &str, words: &Words, now: Instant) -> Reply {
        let body = match name {
            "EVALSHA" => self.find(&words[1]),
            _ => {
                self.learn(&words[1]);
                Some(words[1].clone())
            }
        };
        let Some(body) = body else { return Reply::error("NOSCRIPT No matching script. Please use EVAL.") };
        let keys = number::<usize>(&words[2]).unwrap_or(0);
        let (keys, args) = words[3..].split_at(keys.min(words.len() - 3));
        let body = String::from_utf8_lossy(&body).into_owned();
        let before = self.data.touched();
        let effects = self.effects.len();
        let mut reply = Reply::Nil;
        for statement in body.split(';') {
            let statement = statement.split("--").next().unwrap_or_default();
            reply = self.statement(id, statement.trim().trim_start_matches("return").trim(), keys, args, now);
            if reply.is_error() {
                break;
            }
        }
        // To its replicas a script is what it did; here, the request that did it.
        let published = self.effects.len() > effects;
        self.effects.truncate(effects);
        if published || self.data.touched() > before {
            self.effects.push(words.join(&b' '));
        }
        reply
    }

    fn statement(&mut self, id: u64, text: &str, keys: &[Vec<u8>], args: &[Vec<u8>], now: Instant) -> Reply {
        let text = text.trim_start_matches('(').trim_end_matches(')');
        if let Some(error) = text.strip_prefix("redis.error_reply(") {
            return Reply::error(error.trim_matches('\''));
        }
        let Some(call) = text.strip_prefix("redis.call(") else {
            return match text.parse() {
                Ok(number) => Reply::Number(number),
                Err(_) => value(text, keys, args).map_or(Reply::Nil, Reply::Bulk),
            };
        };
        let words: Words = call.split(',').filter_map(|word| value(word.trim(), keys, args)).collect();
        let is_write = self.may_write(u64::MAX, &words) && !words[0].eq_ignore_ascii_case(b"publish");
        if is_write && self.role == Role::Replica {
            return Reply::Error(format!("{READONLY} script: 0, on @user_script:1."));
        }
        self.execute(id, &words, now, true).unwrap_or(Reply::Nil)
    }

    fn learn(&mut self, body: &[u8]) -> String {
        let sha = sha(body);
        self.scripts.insert(sha.clone(), body.to_vec());
        sha
    }

    fn find(&self, sha: &[u8]) -> Option<Vec<u8>> {
        self.scripts.get(&String::from_utf8_lossy(sha).to_lowercase()).cloned()
    }
}

/// Forty digits that differ for different scripts. Nobody compares them with real ones.
fn sha(body: &[u8]) -> String {
    let hash = body
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
    format!("{hash:040x}")
}

fn value(word: &str, keys: &[Vec<u8>], args: &[Vec<u8>]) -> Option<Vec<u8>> {
    let nth = |prefix: &str| word.strip_prefix(prefix)?.strip_suffix(']')?.parse::<usize>().ok()?.checked_sub(1);
    if let Some(literal) = word.strip_prefix('\'') {
        return Some(literal.trim_end_matches('\'').as_bytes().to_vec());
    }
    nth("KEYS[").and_then(|at| keys.get(at)).or_else(|| nth("ARGV[").and_then(|at| args.get(at))).cloned()
}
