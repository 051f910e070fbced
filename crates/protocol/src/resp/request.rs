//! The arguments of one request, multibulk or inline, and requests made from arguments.
//!
//! Reads what `RequestScanner` has framed; given a part or garbage it yields fewer arguments,
//! it does not fail.

use super::length::{Length, Step, whole};
use std::borrow::Cow;

/// The arguments of a request, in order. Those of a multibulk request borrow from it, also
/// those of an inline request unless quoting changed them.
///
/// Of a leading part of a multibulk request the arguments that are whole are given; of an inline
/// request none before its newline. An inline request with unbalanced quotes has none.
#[derive(Clone, Debug)]
pub struct Args<'a>(Form<'a>);

#[derive(Clone, Debug)]
enum Form<'a> {
    Multibulk { rest: &'a [u8], left: usize },
    Inline { rest: &'a [u8] },
}

impl<'a> Args<'a> {
    /// The arguments of `request`, which starts where a request starts. What follows it is ignored.
    pub fn new(request: &'a [u8]) -> Args<'a> {
        Args(match line(b'*', request) {
            Some((count, rest)) => Form::Multibulk { rest, left: usize::try_from(count).unwrap_or(0) },
            None => Form::Inline { rest: inline(request).filter(|line| balanced(line)).unwrap_or(b"") },
        })
    }
}

impl<'a> Iterator for Args<'a> {
    type Item = Cow<'a, [u8]>;

    #[inline]
    fn next(&mut self) -> Option<Cow<'a, [u8]>> {
        match &mut self.0 {
            Form::Multibulk { left: 0, .. } => None,
            Form::Multibulk { rest, left } => {
                let (size, body) = line(b'$', rest)?;
                let (argument, after) = body.split_at_checked(usize::try_from(size).ok()?)?;
                *rest = after.get(2..)?;
                *left -= 1;
                Some(Cow::Borrowed(argument))
            }
            Form::Inline { rest } => match word(rest) {
                Word::Some(word, after) => {
                    *rest = after;
                    Some(word)
                }
                Word::End | Word::Unbalanced => None,
            },
        }
    }
}

/// The head of a request of the shape that clients send: up to 9 arguments, a name of up to 8 bytes.
pub(super) struct ShortName {
    /// The name in upper case, as `table::packed` packs it.
    pub packed: u64,
    /// With the name.
    pub arguments: u64,
    /// Where the name ends.
    pub end: usize,
}

/// The head of `request`, if it is of that shape; `None` says nothing.
#[inline]
pub(super) fn short_name(request: &[u8]) -> Option<ShortName> {
    const SHAPE: u64 = u64::from_le_bytes(*b"*0\r\n$0\r\n");
    // What is left after the xor are the two digits, in their places.
    let digits = u64::from_le_bytes(*request.first_chunk()?) ^ SHAPE;
    let (arguments, length) = (digits >> 8 & 0xff, digits >> 40);
    if digits & !0xff00_0000_ff00 != 0 || !(1..=9).contains(&arguments) || !(1..=8).contains(&length) {
        return None;
    }
    // The 8 bytes that end with the name.
    let bytes = u64::from_be_bytes(*request.get(length as usize..)?.first_chunk()?);
    let packed = bytes & 0xdfdf_dfdf_dfdf_dfdf & u64::MAX >> (64 - 8 * length);
    Some(ShortName { packed, arguments, end: 8 + length as usize })
}

/// Whether the server answers this whole request. It does not answer `*0`, `*-1` and blank lines.
pub fn expects_reply(request: &[u8]) -> bool {
    if let [b'*', b'1'..=b'9', b'\r', ..] = request {
        return true;
    }
    match line(b'*', request) {
        Some((count, _)) => count > 0,
        None => inline(request).is_some_and(|line| !matches!(word(line), Word::End)),
    }
}

/// A multibulk request of these arguments.
pub fn encode(args: &[&[u8]]) -> Vec<u8> {
    let bodies: usize = args.iter().map(|arg| arg.len() + 16).sum();
    let mut out = Vec::with_capacity(16 + bodies);
    encode_into(&mut out, args);
    out
}

/// Appends a multibulk request of these arguments.
pub fn encode_into<A: AsRef<[u8]>>(out: &mut Vec<u8>, args: &[A]) {
    begin(out, args.len());
    args.iter().for_each(|arg| argument(out, arg.as_ref()));
}

/// Appends the head of a multibulk request of so many arguments, which follow.
pub fn begin(out: &mut Vec<u8>, count: usize) {
    out.extend(format!("*{count}\r\n").bytes());
}

/// Appends one argument of a request that was begun.
pub fn argument(out: &mut Vec<u8>, arg: &[u8]) {
    out.extend(format!("${}\r\n", arg.len()).bytes());
    out.extend_from_slice(arg);
    out.extend_from_slice(b"\r\n");
}

/// `request` as a multibulk request with another argument at `index` (0 is the command's name).
/// An index past the end changes nothing.
pub fn with_arg(request: &[u8], index: usize, new: &[u8]) -> Vec<u8> {
    let mut args: Vec<_> = Args::new(request).collect();
    if let Some(arg) = args.get_mut(index) {
        *arg = Cow::Borrowed(new);
    }
    encode(&args.iter().map(|arg| &**arg).collect::<Vec<_>>())
}

/// The value of the number line at the start of `bytes` and what follows the line.
#[inline]
fn line(kind: u8, bytes: &[u8]) -> Option<(i64, &[u8])> {
    if let Some((value, used)) = whole(kind, usize::MAX, bytes) {
        return Some((i64::try_from(value).ok()?, &bytes[used..]));
    }
    let (first, digits) = bytes.split_first()?;
    if *first != kind {
        return None;
    }
    let mut length = Length::default();
    for (at, &byte) in digits.iter().enumerate() {
        match length.push(byte) {
            Step::More => {}
            Step::Done(value, _) => return Some((value, &digits[at + 1..])),
            Step::Bad => return None,
        }
    }
    None
}

/// The inline request at the start of `bytes`, without its end of line.
fn inline(bytes: &[u8]) -> Option<&[u8]> {
    if bytes.first() == Some(&b'*') {
        return None;
    }
    let end = bytes.iter().position(|&byte| byte == b'\n')?;
    let line = &bytes[..end];
    Some(line.strip_suffix(b"\r").unwrap_or(line))
}

fn balanced(mut line: &[u8]) -> bool {
    loop {
        match word(line) {
            Word::Some(_, rest) => line = rest,
            Word::End => return true,
            Word::Unbalanced => return false,
        }
    }
}

/// What an inline request goes on with.
enum Word<'a> {
    Some(Cow<'a, [u8]>, &'a [u8]),
    End,
    Unbalanced,
}

/// The next word of an inline request, by the rules of the server's `sdssplitargs`.
fn word(line: &[u8]) -> Word<'_> {
    let Some(start) = line.iter().position(|&byte| !is_space(byte)) else {
        return Word::End;
    };
    let line = &line[start..];
    if line[0] == 0 {
        return Word::End;
    }
    let ends = |byte: u8| matches!(byte, b' ' | b'\n' | b'\r' | b'\t' | 0);
    let stop = line.iter().position(|&byte| ends(byte) || matches!(byte, b'"' | b'\'')).unwrap_or(line.len());
    let (plain, mut rest) = line.split_at(stop);
    if rest.first().is_none_or(|&byte| ends(byte)) {
        return Word::Some(Cow::Borrowed(plain), rest);
    }
    let mut word = plain.to_vec();
    loop {
        match *rest {
            [] => return Word::Some(Cow::Owned(word), rest),
            [byte, ..] if ends(byte) => return Word::Some(Cow::Owned(word), rest),
            [quote @ (b'"' | b'\''), ref quoted @ ..] => {
                // A closing quote ends the word: only space may follow it.
                return match unquote(quote, quoted, &mut word) {
                    Some(after) if after.first().is_none_or(|&byte| is_space(byte) || byte == 0) => {
                        Word::Some(Cow::Owned(word), after)
                    }
                    _ => Word::Unbalanced,
                };
            }
            [byte, ref after @ ..] => {
                word.push(byte);
                rest = after;
            }
        }
    }
}

/// Adds a quoted part to `word`; what follows its closing quote, or `None` if that is missing.
fn unquote<'a>(quote: u8, mut quoted: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        quoted = match *quoted {
            [] | [0, ..] => return None,
            [byte, ref rest @ ..] if byte == quote => return Some(rest),
            [b'\\', b'\'', ref rest @ ..] if quote == b'\'' => {
                word.push(b'\'');
                rest
            }
            [b'\\', b'x', high, low, ref rest @ ..]
                if quote == b'"' && high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                word.push(nibble(high) << 4 | nibble(low));
                rest
            }
            [b'\\', escaped, ref rest @ ..] if quote == b'"' && escaped != 0 => {
                word.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => other,
                });
                rest
            }
            [byte, ref rest @ ..] => {
                word.push(byte);
                rest
            }
        };
    }
}

fn nibble(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

/// C's `isspace`.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | 9..=13)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn args(request: &[u8]) -> Vec<Vec<u8>> {
        Args::new(request).map(Cow::into_owned).collect()
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_read_back(
            words in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..140), 0..13),
            more: Vec<u8>,
        ) {
            let request = encode(&words.iter().map(Vec::as_slice).collect::<Vec<_>>());
            prop_assert_eq!(expects_reply(&request), !words.is_empty());
            for cut in 0..request.len() {
                let part = args(&request[..cut]);
                prop_assert!(part.len() < words.len().max(1) && words.starts_with(&part));
            }
            prop_assert_eq!(args(&[request, more].concat()), words);
        }

        #[test]
        fn garbage_is_harmless(garbage in prop::collection::vec(prop_oneof![
            3 => prop::sample::select(b"\r\n$*-019 \"'\\xa\0".to_vec()),
            1 => any::<u8>(),
        ], 0..50)) {
            args(&garbage);
            expects_reply(&garbage);
            args(&[b"*3\r\n", &garbage[..]].concat());
        }
    }

    #[test]
    fn inline_requests_are_split_as_the_server_splits_them() {
        for (line, words) in [
            (&b"PING\r\n"[..], vec![&b"PING"[..]]),
            (b"  set\tkey  value \n", vec![b"set", b"key", b"value"]),
            (b"set k \"a b\\x41\\n\\q\"\r\n", vec![b"set", b"k", b"a bA\nq"]),
            (b"set k 'it\\'s \\n' ''\n", vec![b"set", b"k", b"it's \\n", b""]),
            (b"set pre\"fix\"\n", vec![b"set", b"prefix"]),
            (b"set \"a\"b\n", vec![]),
            (b"set \"a\n", vec![]),
            (b"PING", vec![]),
            (b"\r\n", vec![]),
        ] {
            assert_eq!(args(line), words, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn blank_requests_get_no_reply_and_wrong_ones_do() {
        for silent in [&b"\r\n"[..], b"\n", b"   \r\n", b"*0\r\n", b"*-1\r\n", b"*-5\r\n"] {
            assert!(!expects_reply(silent), "{}", silent.escape_ascii());
        }
        for answered in [&b"PING\n"[..], b"set \"a\n", b"*1\r\n$4\r\nPING\r\n"] {
            assert!(expects_reply(answered), "{}", answered.escape_ascii());
        }
    }

    #[test]
    fn one_argument_is_replaced() {
        let request = encode(&[b"BLPOP", b"a", b"0"]);
        assert_eq!(with_arg(&request, 2, b"1.5"), encode(&[b"BLPOP", b"a", b"1.5"]));
        assert_eq!(with_arg(b"blpop a 5\r\n", 2, b"4"), encode(&[b"blpop", b"a", b"4"]));
        assert_eq!(with_arg(&request, 3, b"x"), request);
    }
}
