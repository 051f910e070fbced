//! What a request leaves in the replication stream when it runs and changes something.
//!
//! A form may name too much, which only costs an answer, and never too little: **whenever an execution changed data, one of
//! its effects matches one of the traces.** The table was measured on real servers (`tests/propagation`), which reproduce
//! it; a command that is not in it may have left anything.

use std::borrow::Cow;

use switchmaster_protocol::resp::command::{Class, classify};
use switchmaster_protocol::resp::request::{Args, encode};

mod scripts;

/// What to look for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// It changes no data.
    Nothing,
    /// It leaves at least one of these.
    Traces(Vec<Trace>),
    /// It may leave anything.
    Anything,
    /// It does more than change data (PUBLISH, CONFIG SET …), so that a stream cannot prove that it did not run.
    Outside,
}

/// Effects that a request may have left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The command is one of these.
    names: Vec<Cow<'static, str>>,
    /// Its arguments begin with these, of which there is at least one.
    lead: Vec<Vec<u8>>,
    rest: Rest,
}

/// What follows the arguments that a trace names.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Rest {
    Nothing,
    Anything,
    /// This is among it.
    Has(Vec<u8>),
}

impl Trace {
    /// An argument that every effect of this trace has.
    pub fn subject(&self) -> &[u8] {
        &self.lead[0]
    }

    /// Whether an effect with these arguments (its name first) is of this kind.
    pub fn matches(&self, mut effect: Args<'_>) -> bool {
        let Some(name) = effect.next() else { return false };
        self.names.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
            && self.lead.iter().all(|lead| effect.next().is_some_and(|arg| *arg == **lead))
            && match &self.rest {
                Rest::Nothing => effect.next().is_none(),
                Rest::Anything => true,
                Rest::Has(value) => effect.any(|arg| *arg == **value),
            }
    }
}

/// The form of one request: its name and arguments; a script as EVAL with its text.
pub fn of(args: &[&[u8]]) -> Form {
    let request = encode(args);
    let effect = classify(&request);
    if let Some(form) = scripts::form(args) {
        return form;
    }
    if effect.writes_nothing() {
        return Form::Nothing;
    }
    if !effect.stays_in_data_set(&request) {
        return Form::Outside;
    }
    if effect.class == Class::Blocking && effect.command.name == "XREAD" {
        return Form::Nothing;
    }
    traces(effect.command.name, args).map_or(Form::Anything, Form::Traces)
}

/// Those of a command by its name in upper case.
fn traces(name: &str, args: &[&[u8]]) -> Option<Vec<Trace>> {
    let key = *args.get(1)?;
    let verbatim = |name: &str| {
        let lead = args[1..].iter().map(|arg| arg.to_vec()).collect();
        vec![Trace { names: vec![Cow::Owned(name.to_owned())], lead, rest: Rest::Nothing }]
    };
    Some(match name {
        _ if VERBATIM.contains(&name) => verbatim(name),
        "SET" => setting(key, args.get(2)?, &args[3..]),
        "SETEX" | "PSETEX" => setting(key, args.get(3)?, &[]),
        "GETSET" => [verbatim(name), setting(key, args.get(2)?, &[])].concat(),
        "INCRBYFLOAT" => about(&["SET", "INCRBYFLOAT"], key),
        "GETDEL" => about(&["GETDEL", "DEL", "UNLINK"], key),
        "GETEX" => about(&["GETEX", "PEXPIREAT", "EXPIREAT", "PERSIST", "DEL", "UNLINK"], key),
        "EXPIRE" | "PEXPIRE" | "EXPIREAT" | "PEXPIREAT" => {
            about(&["EXPIRE", "PEXPIRE", "EXPIREAT", "PEXPIREAT", "DEL", "UNLINK"], key)
        }
        "RESTORE" => about(&["RESTORE", "DEL", "UNLINK"], key),
        "SORT" => stored(args)
            .into_iter()
            .flat_map(|to| about(&["SORT", "DEL", "UNLINK"], to))
            .chain(about(&["SORT"], key))
            .collect(),
        "SPOP" => about(&["SPOP", "SREM", "DEL", "UNLINK"], key),
        "HINCRBYFLOAT" => about(&["HSET", "HINCRBYFLOAT"], key),
        "HEXPIRE" | "HPEXPIRE" | "HEXPIREAT" | "HPEXPIREAT" | "HGETEX" | "HSETEX" | "HGETDEL" => about(
            &[
                "HEXPIRE",
                "HPEXPIRE",
                "HEXPIREAT",
                "HPEXPIREAT",
                "HGETEX",
                "HSETEX",
                "HGETDEL",
                "HSET",
                "HDEL",
                "HPERSIST",
                "DEL",
                "UNLINK",
            ],
            key,
        ),
        "GEOADD" => about(&["GEOADD", "ZADD"], key),
        "BLPOP" => popped(&["LPOP"], &args[1..args.len() - 1]),
        "BRPOP" => popped(&["RPOP"], &args[1..args.len() - 1]),
        "LMPOP" => popped(&["LPOP", "RPOP", "LMPOP"], counted(args, 1)?),
        "BLMPOP" => popped(&["LPOP", "RPOP", "LMPOP", "BLMPOP"], counted(args, 2)?),
        "BLMOVE" => about(&["LMOVE", "BLMOVE", "RPOPLPUSH"], key),
        "BRPOPLPUSH" => about(&["RPOPLPUSH", "BRPOPLPUSH", "LMOVE"], key),
        "BZPOPMIN" => popped(&["ZPOPMIN"], &args[1..args.len() - 1]),
        "BZPOPMAX" => popped(&["ZPOPMAX"], &args[1..args.len() - 1]),
        "ZMPOP" => popped(&["ZPOPMIN", "ZPOPMAX", "ZMPOP"], counted(args, 1)?),
        "BZMPOP" => popped(&["ZPOPMIN", "ZPOPMAX", "ZMPOP", "BZMPOP"], counted(args, 2)?),
        // Its id is the master's; its fields are the client's, behind options that may be rewritten.
        "XADD" => vec![trace(&["XADD"], key, Rest::Has(args.last()?.to_vec()))],
        "XTRIM" => about(&["XTRIM"], key),
        "XCLAIM" | "XAUTOCLAIM" => grouped(&["XCLAIM", "XAUTOCLAIM", "XDEL", "XACK"], key),
        "XREADGROUP" => {
            let from = behind_streams(args)?;
            let streams = &args[from..from + (args.len() - from) / 2];
            streams.iter().flat_map(|stream| grouped(&["XCLAIM", "XREADGROUP"], stream)).collect()
        }
        "XGROUP|CREATE" | "XGROUP|SETID" | "XGROUP|DESTROY" | "XGROUP|CREATECONSUMER" | "XGROUP|DELCONSUMER" => {
            verbatim("XGROUP")
        }
        _ => return None,
    })
}

/// Commands that stand in the stream as the client wrote them, but for the case of their names.
const VERBATIM: &[&str] = &[
    "SETNX",
    "MSET",
    "MSETNX",
    "APPEND",
    "SETRANGE",
    "SETBIT",
    "BITFIELD",
    "BITOP",
    "INCR",
    "INCRBY",
    "DECR",
    "DECRBY",
    "DEL",
    "UNLINK",
    "PERSIST",
    "RENAME",
    "RENAMENX",
    "COPY",
    "LPUSH",
    "RPUSH",
    "LPUSHX",
    "RPUSHX",
    "LINSERT",
    "LSET",
    "LREM",
    "LTRIM",
    "LPOP",
    "RPOP",
    "LMOVE",
    "RPOPLPUSH",
    "SADD",
    "SREM",
    "SMOVE",
    "SINTERSTORE",
    "SUNIONSTORE",
    "SDIFFSTORE",
    "HSET",
    "HMSET",
    "HSETNX",
    "HDEL",
    "HINCRBY",
    "HPERSIST",
    "ZADD",
    "ZINCRBY",
    "ZREM",
    "ZREMRANGEBYRANK",
    "ZREMRANGEBYSCORE",
    "ZREMRANGEBYLEX",
    "ZRANGESTORE",
    "ZINTERSTORE",
    "ZUNIONSTORE",
    "ZDIFFSTORE",
    "ZPOPMIN",
    "ZPOPMAX",
    "GEORADIUS",
    "GEORADIUSBYMEMBER",
    "GEOSEARCHSTORE",
    "PFADD",
    "PFMERGE",
    "XDEL",
    "XACK",
    "XSETID",
];

/// A value that is set, with whatever options and time: in some version a SET, in another what the client wrote. One whose
/// time is over deletes the key.
fn setting(key: &[u8], value: &[u8], options: &[&[u8]]) -> Vec<Trace> {
    let mut traces = vec![trace(&["SET", "SETEX", "PSETEX"], key, Rest::Has(value.to_vec()))];
    if options.iter().any(|option| option.eq_ignore_ascii_case(b"EXAT") || option.eq_ignore_ascii_case(b"PXAT")) {
        traces.extend(about(&["DEL", "UNLINK"], key));
    }
    traces
}

fn trace(names: &[&'static str], key: &[u8], rest: Rest) -> Trace {
    Trace { names: names.iter().map(|name| Cow::Borrowed(*name)).collect(), lead: vec![key.to_vec()], rest }
}

/// These commands, with this key before all other arguments.
fn about(names: &[&'static str], key: &[u8]) -> Vec<Trace> {
    vec![trace(names, key, Rest::Anything)]
}

/// Anything taken out of these keys, by whomever.
fn popped(names: &[&'static str], keys: &[&[u8]]) -> Vec<Trace> {
    keys.iter().flat_map(|key| about(names, key)).collect()
}

/// Changes of a stream's groups: XGROUP has its key behind the subcommand.
fn grouped(names: &[&'static str], key: &[u8]) -> Vec<Trace> {
    let lead = |sub: &[u8]| Trace {
        names: vec![Cow::Borrowed("XGROUP")],
        lead: vec![sub.to_vec(), key.to_vec()],
        rest: Rest::Anything,
    };
    [about(names, key), vec![lead(b"SETID"), lead(b"CREATECONSUMER")]].concat()
}

/// Where XREADGROUP has its first key. A group, or a consumer, may be named like an option.
fn behind_streams(args: &[&[u8]]) -> Option<usize> {
    let mut at = 1;
    loop {
        at += match args.get(at)?.to_ascii_uppercase().as_slice() {
            b"STREAMS" => return Some(at + 1),
            b"GROUP" => 3,
            b"COUNT" | b"BLOCK" | b"CLAIM" => 2,
            b"NOACK" => 1,
            _ => return None,
        };
    }
}

/// The keys behind their number at `at`.
fn counted<'a, 'b>(args: &'a [&'b [u8]], at: usize) -> Option<&'a [&'b [u8]]> {
    let count: usize = std::str::from_utf8(args.get(at)?).ok()?.parse().ok()?;
    args.get(at + 1..at.checked_add(1)?.checked_add(count)?)
}

/// What follows each STORE.
fn stored<'a>(args: &'a [&'a [u8]]) -> Vec<&'a [u8]> {
    args.windows(2).filter(|pair| pair[0].eq_ignore_ascii_case(b"STORE")).map(|pair| pair[1]).collect()
}
