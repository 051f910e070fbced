//! The run of ordinary requests at the start of a read: whole, and nothing to the session but bytes with one reply.
//!
//! One pass over what nearly all traffic is. What is anything else (an unknown command, one that blocks or changes the
//! session, a form that clients do not send, a part) ends the run and is left to the scanner and `classify`, which agree
//! with what is found here.

use super::command::{Class, Command, Duty, Look, Shape, find_short};
use super::length::whole;
use super::request::short_name;
use super::scanner::ARGUMENT_LIMIT;

/// What stands at the start of a read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// Its length.
    pub bytes: usize,
    /// How many requests that are.
    pub requests: usize,
    /// One of them may change data.
    pub writes: bool,
}

/// The run at the start of `data`, which starts where a request starts; of at most so many requests and bytes.
pub fn run(data: &[u8], most_requests: usize, most_bytes: usize) -> Run {
    let mut run = Run::default();
    while run.requests < most_requests
        && let Some((length, command)) = ordinary(&data[run.bytes..])
        && run.bytes + length <= most_bytes
    {
        run.bytes += length;
        run.requests += 1;
        run.writes |= !matches!(command.class, Class::Read);
    }
    run
}

/// The length and command of an ordinary request that is wholly here.
#[inline]
fn ordinary(data: &[u8]) -> Option<(usize, &'static Command)> {
    let name = short_name(data)?;
    let command = find_short(name.packed)?;
    let plain = match command.look {
        Look::Nothing => true,
        Look::Set => name.arguments == 3,
        _ => false,
    };
    if !plain || !is_ordinary(command) {
        return None;
    }
    let mut at = name.end + 2;
    for _ in 1..name.arguments {
        let (size, used) = whole(b'$', ARGUMENT_LIMIT, data.get(at..)?)?;
        at += used + size + 2;
    }
    (at <= data.len()).then_some((at, command))
}

/// The session need not know of it: its one reply changes nothing, and a RESET leaves nothing of it.
const fn is_ordinary(command: &Command) -> bool {
    matches!(command.duty, Duty::None | Duty::Ping)
        && matches!(command.class, Class::Read | Class::Idempotent | Class::Write)
        && !matches!(command.shape, Shape::Unknown)
}

#[cfg(test)]
mod tests {
    use super::super::command::classify;
    use super::super::request::{encode, expects_reply};
    use super::super::scanner::{RequestScanner, Scan};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn it_ends_before_what_the_session_must_know_of() {
        let get = encode(&[b"get", b"a"]);
        let set = encode(&[b"SET", b"a", &[b'x'; 200]]);
        for other in [
            &b"*1\r\n$5\r\nMULTI\r\n"[..],
            b"*3\r\n$5\r\nBLPOP\r\n$1\r\na\r\n$1\r\n0\r\n",
            b"*4\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\nb\r\n$2\r\nNX\r\n",
            b"*1\r\n$6\r\nNOSUCH\r\n",
            b"PING\r\n",
            b"*2\r\n$3\r\nGET\r\n$5\r\nab",
            b"",
        ] {
            let data = [&get[..], &set, other].concat();
            let both = Run { bytes: get.len() + set.len(), requests: 2, writes: true };
            assert_eq!(run(&data, 10, 1000), both, "{}", other.escape_ascii());
            let first = Run { bytes: get.len(), requests: 1, writes: false };
            assert_eq!(run(&data, 1, 1000), first);
            assert_eq!(run(&data, 10, both.bytes - 1), first);
        }
    }

    proptest! {
        #[test]
        fn scanner_and_table_agree(
            words in prop::collection::vec(prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30), 0..4), 0..4),
            names in prop::collection::vec(prop::sample::select(vec!["GET", "set", "DEL", "Ping", "EXEC", "EVAL", "HGETALL", "X"]), 4),
            cut: prop::sample::Index,
        ) {
            let mut data = Vec::new();
            for (name, words) in names.iter().zip(&words) {
                let args: Vec<&[u8]> = std::iter::once(name.as_bytes()).chain(words.iter().map(Vec::as_slice)).collect();
                data.extend(encode(&args));
            }
            let data = &data[..cut.index(data.len() + 1)];
            let found = run(data, usize::MAX, usize::MAX);
            let (mut at, mut requests, mut writes) = (0, 0, false);
            while at < found.bytes {
                let Scan::Frame(length) = RequestScanner::default().scan(&data[at..]) else { panic!("no request") };
                let effect = classify(&data[at..at + length]);
                prop_assert!(expects_reply(&data[at..]) && is_ordinary(effect.command) && effect.class == effect.command.class);
                writes |= !effect.writes_nothing();
                (at, requests) = (at + length, requests + 1);
            }
            prop_assert_eq!(found, Run { bytes: at, requests, writes });
        }
    }
}
