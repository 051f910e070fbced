//! The scripts whose effects are known: those of Laravel's queues, locks and caches.
//!
//! Known by their whole text, without comments and blanks. Of each, **any execution that changes something leaves at least
//! one of the effects that stand here**, whatever the keys hold: what comes before the first of these may fail, which ends
//! the script with nothing changed.

use super::{Form, Trace, about, traces};

/// The scripts: the text, and the traces of `KEYS` and `ARGV`.
type Known = (&'static str, fn(&[&[u8]], &[&[u8]]) -> Option<Vec<Trace>>);

const KNOWN: &[Known] = &[
    // Cache::add.
    ("return redis.call('exists',KEYS[1])<1 and redis.call('setex',KEYS[1],ARGV[2],ARGV[1])", |keys, argv| {
        traces("SETEX", &[b"SETEX", keys.first()?, argv.get(1)?, argv.first()?])
    }),
    // A lock is released, and refreshed, by its owner.
    (
        "if redis.call(\"get\",KEYS[1]) == ARGV[1] then return redis.call(\"del\",KEYS[1]) else return 0 end",
        |keys, _| traces("DEL", &[b"DEL", keys.first()?]),
    ),
    (
        "if redis.call(\"get\",KEYS[1]) == ARGV[1] then return redis.call(\"expire\",KEYS[1],ARGV[2]) else return 0 end",
        |keys, _| traces("EXPIRE", &[b"EXPIRE", keys.first()?]),
    ),
    // A job is pushed.
    ("redis.call('rpush', KEYS[1], ARGV[1]) redis.call('rpush', KEYS[2], 1)", |keys, argv| {
        traces("RPUSH", &[b"RPUSH", keys.first()?, argv.first()?])
    }),
    // A job is reserved. If the list has none, nothing changes.
    (
        "local job = redis.call('lpop', KEYS[1]) local reserved = false if(job ~= false) then \
         reserved = cjson.decode(job) reserved['attempts'] = reserved['attempts'] + 1 \
         reserved = cjson.encode(reserved) redis.call('zadd', KEYS[2], ARGV[1], reserved) \
         redis.call('lpop', KEYS[3]) end return {job, reserved}",
        |keys, _| Some(about(&["LPOP"], keys.first()?)),
    ),
    // A reserved job is delayed.
    ("redis.call('zrem', KEYS[2], ARGV[1]) redis.call('zadd', KEYS[1], ARGV[2], ARGV[1]) return true", |keys, argv| {
        let removed = traces("ZREM", &[b"ZREM", keys.get(1)?, argv.first()?])?;
        Some([removed, traces("ZADD", &[b"ZADD", keys.first()?, argv.get(1)?, argv.first()?])?].concat())
    }),
    // Jobs whose time has come.
    (
        "local val = redis.call('zrangebyscore', KEYS[1], '-inf', ARGV[1]) if(next(val) ~= nil) then \
         redis.call('zremrangebyrank', KEYS[1], 0, #val - 1) for i = 1, #val, 100 do \
         redis.call('rpush', KEYS[2], unpack(val, i, math.min(i+99, #val))) \
         for j = i, math.min(i+99, #val) do redis.call('rpush', KEYS[3], 1) end end end return val",
        |keys, _| Some(about(&["ZREMRANGEBYRANK"], keys.first()?)),
    ),
];

/// The form of EVAL with a script that is known.
pub fn form(args: &[&[u8]]) -> Option<Form> {
    let [name, script, count, rest @ ..] = args else { return None };
    if !name.eq_ignore_ascii_case(b"EVAL") {
        return None;
    }
    let script = plain(std::str::from_utf8(script).ok()?);
    let (_, traces) = KNOWN.iter().find(|(known, _)| plain(known) == script)?;
    let count: usize = std::str::from_utf8(count).ok()?.parse().ok()?;
    let (keys, argv) = rest.split_at_checked(count)?;
    Some(traces(keys, argv).map_or(Form::Anything, Form::Traces))
}

/// Without the lines that are comments, and with one blank between two words.
fn plain(script: &str) -> String {
    let lines = script.lines().filter(|line| !line.trim_start().starts_with("--"));
    lines.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ")
}
