//! The run of ordinary requests, or replies, at the start of a read: whole, and nothing to the session but bytes, one reply
//! to one request.
//!
//! One pass over what nearly all traffic is. What is anything else (an unknown command, one that blocks or changes the
//! session, a form that clients do not send, a part; an error, an aggregate) ends the run and is left to the scanners and
//! `classify`, which agree with what is found here. In a pipeline many look alike: one that differs from the one before
//! it in keys and values alone is found by comparing what is left.

use super::command::{Class, Command, Duty, Look, Shape, find_short};
use super::length::whole;
use super::request::short_name;
use super::scanner::{ARGUMENT_LIMIT, VALUE_LIMIT};

/// What stands at the start of a read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// Its length.
    pub bytes: usize,
    /// How many requests or replies that are.
    pub count: usize,
    /// One of the requests may change data.
    pub writes: bool,
}

/// The run of requests at the start of `data`, which starts where a request starts; of at most so many requests and bytes.
pub fn requests(data: &[u8], most: usize, most_bytes: usize) -> Run {
    let data = &data[..data.len().min(most_bytes)];
    let mut run = Run::default();
    while run.count < most
        && let Some(request) = ordinary(&data[run.bytes..])
    {
        let (this, rest) = data[run.bytes..].split_at(request.length);
        let count = 1 + if rest.len() < this.len() { 0 } else { request.alike(this, rest, most - run.count - 1) };
        run.bytes += count * request.length;
        run.count += count;
        run.writes |= !matches!(request.command.class, Class::Read);
    }
    run
}

/// The run of replies at the start of `data`, which starts where a reply starts; of at most so many: `+OK`, numbers, values.
pub fn replies(data: &[u8], most: usize) -> Run {
    let mut run = Run::default();
    while run.count < most
        && let Some((head, length)) = ordinary_reply(&data[run.bytes..])
    {
        let (this, rest) = data[run.bytes..].split_at(length);
        let count =
            1 + if rest.len() < length { 0 } else { replies_alike(&this[..head], length, rest, most - run.count - 1) };
        run.bytes += count * length;
        run.count += count;
    }
    run
}

/// An ordinary request that is wholly here.
struct Ordinary {
    command: &'static Command,
    length: usize,
    /// Where the first argument behind the name begins, and where the line of the second one does, and that one's value.
    first: usize,
    second: (usize, usize),
    arguments: u64,
}

#[inline]
fn ordinary(data: &[u8]) -> Option<Ordinary> {
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
    let (mut first, mut second) = (0, (0, 0));
    for argument in 1..name.arguments {
        let (size, used) = whole(b'$', ARGUMENT_LIMIT, data.get(at..)?)?;
        match argument {
            1 => first = at + used,
            2 => second = (at, at + used),
            _ => {}
        }
        at += used + size + 2;
    }
    (at <= data.len()).then_some(Ordinary { command, length: at, first, second, arguments: name.arguments })
}

impl Ordinary {
    /// How many of the requests in `rest`, at most so many, are as `this` one, but for the key and the value.
    fn alike(&self, this: &[u8], rest: &[u8], most: usize) -> usize {
        let (first, (from, to)) = (self.first, self.second);
        if !(2..=3).contains(&self.arguments) || !(16..=32).contains(&first) || to - from > 8 {
            return 0;
        }
        // All that is no key and no value, in words that overlap.
        let head = |request: &[u8]| {
            let (begin, end) = (request.first_chunk()?, request.get(first - 16..)?.first_chunk()?);
            Some((u128::from_le_bytes(*begin), u128::from_le_bytes(*end)))
        };
        let size = |request: &[u8]| {
            let (begin, end) = (request.get(from..)?.first_chunk()?, request.get(to - 4..)?.first_chunk()?);
            Some((u32::from_le_bytes(*begin), u32::from_le_bytes(*end)))
        };
        let (this_head, requests) = (head(this), rest.chunks_exact(self.length).take(most));
        if to == 0 {
            return requests.take_while(|request| head(request) == this_head).count();
        }
        let this_size = size(this);
        requests.take_while(|request| head(request) == this_head && size(request) == this_size).count()
    }
}

/// The lengths of the first line and of the whole of an ordinary reply that is wholly here.
#[inline]
fn ordinary_reply(data: &[u8]) -> Option<(usize, usize)> {
    if data.starts_with(b"+OK\r\n") {
        return Some((5, 5));
    }
    let head = match data.first()? {
        b'$' => {
            let (size, used) = whole(b'$', VALUE_LIMIT, data)?;
            return (used + size + 2 <= data.len()).then_some((used, used + size + 2));
        }
        b':' => whole(b':', VALUE_LIMIT, data)?.1,
        _ => return None,
    };
    Some((head, head))
}

/// How many of the replies in `rest`, at most so many, are as long as one of `length` bytes and begin with its `head`.
fn replies_alike(head: &[u8], length: usize, rest: &[u8], most: usize) -> usize {
    if head.len() > 8 {
        return 0;
    }
    let mut bytes = [0; 8];
    bytes[..head.len()].copy_from_slice(head);
    let (head, mask) = (u64::from_le_bytes(bytes), u64::MAX >> (64 - 8 * head.len()));
    let (mut at, mut count) = (0, 0);
    while count < most
        && at + length <= rest.len()
        && let Some(word) = rest[at..].first_chunk()
        && u64::from_le_bytes(*word) & mask == head
    {
        at += length;
        count += 1;
    }
    count
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
    use super::super::scanner::{ReplyScanner, RequestScanner, Scan};
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
            let both = Run { bytes: get.len() + set.len(), count: 2, writes: true };
            assert_eq!(requests(&data, 10, 1000), both, "{}", other.escape_ascii());
            let first = Run { bytes: get.len(), count: 1, writes: false };
            assert_eq!(requests(&data, 1, 1000), first);
            assert_eq!(requests(&data, 10, both.bytes - 1), first);
        }
    }

    #[test]
    fn replies_end_before_what_the_session_must_see() {
        let value = [&b"$20\r\n"[..], &[b'v'; 20], b"\r\n"].concat();
        for other in [&b"-ERR no\r\n"[..], b"*0\r\n", b"$-1\r\n", b"+QUEUED\r\n", b"$3\r\nab", b">1\r\n+a\r\n", b""] {
            let data = [&value[..], &value, b":12\r\n", b":13\r\n", b"+OK\r\n", b"+OK\r\n", other].concat();
            let all = Run { bytes: data.len() - other.len(), count: 6, writes: false };
            assert_eq!(replies(&data, 10), all, "{}", other.escape_ascii());
            assert_eq!(replies(&data, 2), Run { bytes: 2 * value.len(), count: 2, writes: false });
        }
    }

    /// Names of commands, and arguments of few lengths, so that many follow one of their own form.
    fn pipeline() -> impl Strategy<Value = Vec<Vec<Vec<u8>>>> {
        let names =
            prop::sample::select(vec!["GET", "set", "DEL", "Ping", "EXEC", "EVAL", "HGETALL", "SISMEMBER", "X"]);
        let words = prop::sample::select(vec![0, 1, 9, 12, 100])
            .prop_flat_map(|length| prop::collection::vec(any::<u8>(), length));
        let request = (names, prop::collection::vec(words, 0..4))
            .prop_map(|(name, words)| std::iter::once(name.as_bytes().to_vec()).chain(words).collect());
        let again = (request, 1..5usize).prop_map(|(request, times): (Vec<_>, _)| vec![request; times]);
        prop::collection::vec(again, 0..5).prop_map(|requests| requests.concat())
    }

    proptest! {
        #[test]
        fn scanner_and_table_agree(pipeline in pipeline(), flips in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 0..3), cut: prop::sample::Index) {
            let mut data: Vec<u8> = pipeline.iter().flat_map(|args| encode(&args.iter().map(Vec::as_slice).collect::<Vec<_>>())).collect();
            for (at, byte) in flips {
                if !data.is_empty() {
                    let at = at.index(data.len());
                    data[at] = byte;
                }
            }
            let data = &data[..cut.index(data.len() + 1)];
            let found = requests(data, usize::MAX, usize::MAX);
            let (mut at, mut count, mut writes) = (0, 0, false);
            while at < found.bytes {
                let Scan::Frame(length) = RequestScanner::default().scan(&data[at..]) else { panic!("no request") };
                let effect = classify(&data[at..at + length]);
                prop_assert!(expects_reply(&data[at..]) && is_ordinary(effect.command) && effect.class == effect.command.class);
                writes |= !effect.writes_nothing();
                (at, count) = (at + length, count + 1);
            }
            prop_assert_eq!(found, Run { bytes: at, count, writes });
        }

        #[test]
        fn the_reply_scanner_agrees(kinds in prop::collection::vec((0..6usize, 1..4usize), 0..8), flip: Option<(prop::sample::Index, u8)>, cut: prop::sample::Index) {
            let forms = [&b"+OK\r\n"[..], b":7\r\n", b":1234\r\n", b"$3\r\nabc\r\n", b"$11\r\nhello world\r\n", b"$-1\r\n"];
            let mut data: Vec<u8> = kinds.into_iter().flat_map(|(kind, times)| forms[kind].repeat(times)).collect();
            if let Some((at, byte)) = flip && !data.is_empty() {
                let at = at.index(data.len());
                data[at] = byte;
            }
            let data = &data[..cut.index(data.len() + 1)];
            let found = replies(data, usize::MAX);
            let (mut at, mut count) = (0, 0);
            while at < found.bytes {
                let mut scanner = ReplyScanner::default();
                let Scan::Frame(length) = scanner.scan(&data[at..]) else { panic!("no reply") };
                prop_assert!(matches!(scanner.kind(), b'+' | b':' | b'$'));
                (at, count) = (at + length, count + 1);
            }
            prop_assert_eq!((found.bytes, found.count), (at, count));
        }
    }
}
