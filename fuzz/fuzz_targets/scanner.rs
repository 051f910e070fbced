//! However the bytes are split, both scanners find the same frames; requests also where a plain reading finds them.
//!
//! The first byte of the input chooses the pieces; what the scanners are fed is the rest.

#![no_main]

mod pieces;

use libfuzzer_sys::fuzz_target;
use switchmaster::resp::command::{blocking_timeout, classify};
use switchmaster::resp::ordinary;
use switchmaster::resp::request::{Args, encode, expects_reply, with_arg};
use switchmaster::resp::scanner::{ReplyScanner, RequestScanner, Scan};

/// Inputs up to this long are split at every place.
const EVERY_SPLIT: usize = 48;

fuzz_target!(|input: &[u8]| {
    let Some((&choice, bytes)) = input.split_first() else { return };
    let requests = scan_requests(&[bytes]);
    let replies = scan_replies(&[bytes]);
    assert_eq!(requests.ends, plain_request_ends(bytes), "requests in {}", bytes.escape_ascii());
    let run = ordinary::run(bytes, usize::MAX, usize::MAX);
    let run_ends = requests.ends.iter().take(run.requests).next_back().copied().unwrap_or_default();
    assert_eq!(run.bytes, run_ends, "the ordinary requests at the start of {}", bytes.escape_ascii());
    let same = |pieces: &[&[u8]]| {
        assert_eq!(scan_requests(pieces), requests, "requests in {}", show(pieces));
        assert_eq!(scan_replies(pieces), replies, "replies in {}", show(pieces));
    };
    same(&bytes.chunks(1).collect::<Vec<_>>());
    same(&pieces::pieces(bytes, choice));
    if bytes.len() <= EVERY_SPLIT {
        (0..=bytes.len()).for_each(|split| same(&[&bytes[..split], &bytes[split..]]));
    }
    let mut start = 0;
    for &end in &requests.ends {
        look_at(&bytes[start..end]);
        start = end;
    }
    // The head of a request that is still under way is looked at too.
    look_at(&bytes[start..]);
});

/// What a scanner made of some bytes.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    ends: Vec<usize>,
    /// The kind of each reply.
    kinds: Vec<u8>,
    broken: bool,
    at_boundary: bool,
    body_remaining: u64,
}

fn scan_requests(pieces: &[&[u8]]) -> Found {
    let mut scanner = RequestScanner::default();
    let (ends, broken) = ends(pieces, |piece| scanner.scan(piece), |_| {});
    let body_remaining = scanner.body_remaining();
    Found { ends, kinds: Vec::new(), broken, at_boundary: scanner.at_boundary(), body_remaining }
}

fn scan_replies(pieces: &[&[u8]]) -> Found {
    let scanner = std::cell::RefCell::new(ReplyScanner::default());
    let mut kinds = Vec::new();
    let scan = |piece: &[u8]| scanner.borrow_mut().scan(piece);
    let (ends, broken) = ends(pieces, scan, |_| kinds.push(scanner.borrow().kind()));
    let scanner = scanner.into_inner();
    let body_remaining = scanner.body_remaining();
    Found { ends, kinds, broken, at_boundary: scanner.at_boundary(), body_remaining }
}

/// The ends of the frames, as offsets in the whole, and whether the bytes turned out to be no protocol.
fn ends(pieces: &[&[u8]], mut scan: impl FnMut(&[u8]) -> Scan, mut found: impl FnMut(usize)) -> (Vec<usize>, bool) {
    let (mut base, mut ends) = (0, Vec::new());
    for piece in pieces {
        let mut rest = *piece;
        loop {
            match scan(rest) {
                Scan::Frame(used) => {
                    assert!(used > 0 && used <= rest.len(), "a frame of {used} in {} bytes", rest.len());
                    base += used;
                    ends.push(base);
                    found(base);
                    rest = &rest[used..];
                }
                Scan::Partial => break base += rest.len(),
                Scan::Invalid(_) => {
                    assert!(matches!(scan(b"+OK\r\n"), Scan::Invalid(_)), "valid again");
                    return (ends, true);
                }
            }
        }
    }
    (ends, false)
}

/// The ends of whole requests by the server's grammar, read from the whole buffer as `networking.c` does.
fn plain_request_ends(bytes: &[u8]) -> Vec<usize> {
    let (mut at, mut ends) = (0, Vec::new());
    while at < bytes.len() {
        match plain_request(&bytes[at..]) {
            Some(length) => at += length,
            None => break,
        }
        ends.push(at);
    }
    ends
}

fn plain_request(bytes: &[u8]) -> Option<usize> {
    if bytes[0] != b'*' {
        let end = bytes.iter().position(|&byte| byte == b'\n')?;
        return (end <= 64 * 1024 && !bytes[..end].contains(&0)).then_some(end + 1);
    }
    let (count, mut at) = plain_number(bytes)?;
    if count > i64::from(i32::MAX) {
        return None;
    }
    for _ in 0..count {
        let argument = bytes.get(at..).filter(|rest| rest.first() == Some(&b'$'))?;
        let (size, used) = plain_number(argument)?;
        let size = usize::try_from(size).ok().filter(|size| *size <= 512 * 1024 * 1024)?;
        at += used + size + 2;
        if at > bytes.len() {
            return None;
        }
    }
    Some(at)
}

/// The number between the type byte and `\r`, by `string2ll`, and where what follows the line begins.
fn plain_number(bytes: &[u8]) -> Option<(i64, usize)> {
    let end = bytes.iter().position(|&byte| byte == b'\r')?;
    let text = std::str::from_utf8(&bytes[1..end]).ok()?;
    let number: i64 = text.parse().ok()?;
    // `string2ll` takes one spelling of each number only.
    (number.to_string() == text && end + 2 <= bytes.len()).then_some((number, end + 2))
}

/// Whatever a client sends, reading it does not fail, and what is made from it is a request again.
fn look_at(request: &[u8]) {
    let args: Vec<_> = Args::new(request).collect();
    expects_reply(request);
    classify(request);
    let again = encode(&args.iter().map(|arg| &**arg).collect::<Vec<_>>());
    assert!(Args::new(&again).eq(args.iter().cloned()), "{}", request.escape_ascii());
    assert_eq!(scan_requests(&[&again]).ends, [again.len()]);
    if let Some((index, _)) = blocking_timeout(request) {
        let changed = with_arg(request, index, b"1.5");
        assert!(index >= args.len() || Args::new(&changed).nth(index).is_some_and(|arg| *arg == *b"1.5"));
    }
}

fn show(pieces: &[&[u8]]) -> String {
    pieces.iter().map(|piece| piece.escape_ascii().to_string()).collect::<Vec<_>>().join(" | ")
}
