//! Look-ups of every name, and requests whose arguments decide.

use super::super::request::encode;
use super::super::table::{TABLE, packed};
use super::*;
use proptest::prelude::*;

fn effect(line: &str) -> Effect {
    let words: Vec<_> = line.split(' ').map(str::as_bytes).collect();
    let effect = classify(&encode(&words));
    assert_eq!(effect, classify(format!("{line}\r\n").as_bytes()), "inline");
    effect
}

proptest! {
    #[test]
    fn each_name_is_found_in_any_case(line in 0..TABLE.len(), cases: u64) {
        let command = &TABLE[line];
        let mixed: String = (0..).zip(command.name.chars()).map(|(at, letter)| {
            if cases >> (at % 64) & 1 == 0 { letter } else { letter.to_ascii_lowercase() }
        }).collect();
        let found = match mixed.split_once('|') {
            None => lookup(mixed.as_bytes()),
            Some((name, sub)) => {
                prop_assert!(std::ptr::eq(lookup(mixed.as_bytes()), &UNKNOWN));
                classify(&encode(&[name.as_bytes(), sub.as_bytes()])).command
            }
        };
        prop_assert_eq!(found.name, command.name);
    }

    #[test]
    fn any_name_finds_itself_or_nothing(name in "[A-Za-z|._]{0,10}", garbage: Vec<u8>) {
        let found = lookup(name.as_bytes());
        prop_assert!(found.name.eq_ignore_ascii_case(&name) || std::ptr::eq(found, &UNKNOWN));
        classify(&garbage);
        blocking_timeout(&garbage);
    }
}

#[test]
fn every_line_is_found_and_stands_once() {
    for command in TABLE {
        let (name, sub) = command.name.split_once('|').unwrap_or((command.name, ""));
        let found = find(name.as_bytes(), sub.as_bytes()).unwrap();
        assert!(std::ptr::eq(found, command), "{} twice", command.name);
        if !sub.is_empty() {
            assert_eq!(lookup(name.as_bytes()).look, Look::Subcommand, "{name}");
        }
    }
}

#[test]
fn arguments_decide_the_class() {
    use Class::{Blocking, Connection, Idempotent, Never, Read, Write};
    for (class, lines) in [
        (
            Read,
            "get k|BITFIELD k GET u8 0 get u4 1|GETEX k|SORT k BY x|GEORADIUS k 1 2 3 m|\
             XREAD COUNT 2 STREAMS s 0|XREADGROUP GROUP g c STREAMS s 0|CONFIG GET x|\
             SCRIPT LOAD x|EVAL_RO x 0|MEMORY USAGE k|OBJECT ENCODING k|PING|json.get k|\
             XREADGROUP GROUP BLOCK c BLOCK 0 STREAMS s 0|COMMAND|COMMAND DOCS|LCS a b",
        ),
        (
            Idempotent,
            "SET k v|set k v EX 10|SET k NX|SET k v PX 10 KEEPTTL|SET k v EX NX|DEL k|\
             HSET h f v|SADD s m|EXPIREAT k 5|SETEX k 5 v|ZADD z 1 m|SCRIPT FLUSH",
        ),
        (
            Write,
            "INCR k|SET k v NX|SET k v EX 10 NX|SET k v GET|SET k v XX GET|SET k v IFEQ x|\
             EXPIRE k 5|EXPIREAT k 5 NX|ZADD z INCR 1 m|ZADD z NX 1 m|SORT k STORE d|\
             GEORADIUS k 1 2 3 m STOREDIST d|BITFIELD k GET u8 0 SET u8 0 1|\
             BITFIELD k OVERFLOW FAIL GET u8 0|GETEX k EX 5|XREADGROUP GROUP g c STREAMS s >|\
             EVAL x 0|FCALL f 0|CONFIG SET a b|NOSUCH x|NOSUCH|CONFIG|CONFIG NOSUCH",
        ),
        (Blocking, "BLPOP k 0|XREAD BLOCK 0 STREAMS s $|XREADGROUP GROUP g c BLOCK 5 STREAMS s >"),
        (Connection, "CLIENT SETNAME x|CLIENT NOSUCH|AUTH x|MULTI"),
        (Never, "SHUTDOWN|EXEC|WAIT 1 0|CLIENT KILL x|DEBUG SLEEP 1|SCRIPT KILL"),
    ] {
        for line in lines.split('|') {
            assert_eq!(effect(line).class, class, "{line}");
        }
    }
}

#[test]
fn arguments_decide_the_shape() {
    for (scalar, aggregate) in [
        ("LPOP k", "LPOP k 2"),
        ("SPOP k", "SPOP k 2"),
        ("ZRANK z m", "ZRANK z m WITHSCORE"),
        ("LPOS l x", "LPOS l x COUNT 2"),
        ("LCS a b LEN", "LCS a b IDX"),
        ("SORT k STORE d", "SORT k"),
        ("COMMAND COUNT", "COMMAND"),
    ] {
        assert_eq!(effect(scalar).shape, Shape::Scalar, "{scalar}");
        assert_eq!(effect(aggregate).shape, Shape::Aggregate, "{aggregate}");
    }
    assert_eq!(effect("EVAL x 0").shape, Shape::Unknown);
    assert_eq!(classify(b"\r\n").command, &UNKNOWN);
}

#[test]
fn the_time_out_of_a_blocking_request_is_found() {
    use Timeout::{Millis, Seconds};
    for (line, timeout) in [
        ("BLPOP a b 1.5", Some((3, Seconds))),
        ("BRPOP a 0", Some((2, Seconds))),
        ("BLMOVE a b LEFT RIGHT 2", Some((5, Seconds))),
        ("BRPOPLPUSH a b 2", Some((3, Seconds))),
        ("BLMPOP 2 1 a LEFT", Some((1, Seconds))),
        ("bzmpop 2 1 a MIN", Some((1, Seconds))),
        ("BZPOPMIN a 3", Some((2, Seconds))),
        ("BZPOPMAX a 3", Some((2, Seconds))),
        ("XREAD COUNT 1 BLOCK 100 STREAMS s $", Some((4, Millis))),
        ("XREADGROUP GROUP BLOCK STREAMS BLOCK 7 STREAMS s >", Some((5, Millis))),
        ("XREAD STREAMS BLOCK 0", None),
        ("GET k", None),
    ] {
        let found = blocking_timeout(&encode(&line.split(' ').map(str::as_bytes).collect::<Vec<_>>()));
        assert_eq!(found, timeout, "{line}");
    }
}

/// The names that an application sends most must not share a slot of the short way.
#[test]
fn frequent_names_are_found_the_short_way() {
    for name in ["GET", "SET", "DEL", "INCR", "EXISTS", "EXPIRE", "HGET", "HSET", "LPUSH", "RPUSH", "AUTH", "SELECT"] {
        assert_eq!(find_short(packed(name.as_bytes())).map(|command| command.name), Some(name));
        assert_eq!(find_short(packed(name.to_ascii_lowercase().as_bytes())).map(|command| command.name), Some(name));
    }
}

#[test]
fn what_reaches_beyond_the_data_set_is_known() {
    let stays = |words: &[&str]| {
        let args: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        let request = request::encode(&args);
        classify(&request).stays_in_data_set(&request)
    };
    for words in [
        &["GET", "a"][..],
        &["INCR", "a"],
        &["LPUSH", "a", "publish"],
        &["BLPOP", "a", "0"],
        &["FLUSHALL"],
        &["FUNCTION", "DELETE", "lib"],
        &["EVAL", "return redis.call('incr', KEYS[1])", "1", "a"],
    ] {
        assert!(stays(words), "{words:?}");
    }
    for words in [
        &["PUBLISH", "a", "b"][..],
        &["SPUBLISH", "a", "b"],
        &["EVAL", "redis.call('Publish', KEYS[1], 'x')", "1", "a"],
        &["EVAL", "redis.call(ARGV[1], KEYS[1], 'x')", "1", "a", "publish"],
        &["EVALSHA", "e0e1f9fabfc9d4800c877a703b823ac0578ff8db", "0"],
        &["FCALL", "f", "0"],
        &["MODULE.COMMAND", "a"],
        &["MIGRATE", "host", "6379", "key", "0", "100"],
        &["CONFIG", "SET", "maxmemory", "1"],
        &["ACL", "SETUSER", "u"],
        &["SHUTDOWN"],
        &["EXEC"],
    ] {
        assert!(!stays(words), "{words:?}");
    }
}
