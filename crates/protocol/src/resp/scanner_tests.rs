//! Frame ends at every split point, against frames whose ends are known.
//!
//! Generated frames carry bodies full of protocol bytes, so that a search in a body would show.

use super::*;
use proptest::prelude::*;

/// Either scanner, so that one property serves both.
trait Scanner: Default + Clone {
    fn feed(&mut self, input: &[u8]) -> Scan;
    fn boundary(&self) -> bool;
}
impl Scanner for RequestScanner {
    fn feed(&mut self, input: &[u8]) -> Scan {
        self.scan(input)
    }
    fn boundary(&self) -> bool {
        self.at_boundary()
    }
}
impl Scanner for ReplyScanner {
    fn feed(&mut self, input: &[u8]) -> Scan {
        self.scan(input)
    }
    fn boundary(&self) -> bool {
        self.at_boundary()
    }
}

/// All frame ends of `pieces`, as offsets in the whole, and the reason if it went wrong.
fn ends<S: Scanner>(pieces: &[&[u8]]) -> (Vec<usize>, Option<&'static str>) {
    let (mut scanner, mut found, mut base) = (S::default(), Vec::new(), 0);
    for piece in pieces {
        let mut rest = *piece;
        loop {
            match scanner.feed(rest) {
                Scan::Frame(used) => {
                    assert!(used > 0 && used <= rest.len() && scanner.boundary());
                    base += used;
                    rest = &rest[used..];
                    found.push(base);
                }
                Scan::Partial => {
                    base += rest.len();
                    break;
                }
                Scan::Invalid(why) => {
                    assert!(matches!(scanner.feed(b"+OK\r\n"), Scan::Invalid(_)));
                    return (found, Some(why));
                }
            }
        }
    }
    (found, None)
}

fn same_at_every_split<S: Scanner>(all: &[u8]) -> (Vec<usize>, Option<&'static str>) {
    let whole = ends::<S>(&[all]);
    for split in 0..=all.len() {
        assert_eq!(ends::<S>(&[&all[..split], &all[split..]]), whole, "at {split}");
    }
    assert_eq!(ends::<S>(&all.chunks(1).collect::<Vec<_>>()), whole);
    whole
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    let nasty = prop::sample::select(vec![b'\r', b'\n', b'$', b'*', b'0', b'1', 0, b'x', 0xff]);
    prop_oneof![
        9 => prop::collection::vec(nasty, 0..24),
        1 => prop::collection::vec(any::<u8>(), 95..130),
    ]
}

fn request() -> impl Strategy<Value = Vec<u8>> {
    let multibulk = prop::collection::vec(body(), 0..13).prop_map(|args| {
        let mut out = format!("*{}\r\n", args.len()).into_bytes();
        for arg in args {
            out.extend(format!("${}\r\n", arg.len()).bytes());
            out.extend(arg);
            out.extend(b"\r\n");
        }
        out
    });
    prop_oneof![
        8 => multibulk,
        1 => "([A-Za-z$+][ -~]{0,40})?\r?\n".prop_map(String::into_bytes),
        1 => prop::sample::select(vec![&b"*-1\r\n"[..], b"*-5\r\n", b"*0\r\n", b"\r\n", b"\n"]).prop_map(<[u8]>::to_vec),
    ]
}

fn reply() -> impl Strategy<Value = Vec<u8>> {
    let text = "[-+:,(#_][ -~\n]{0,12}\r\n".prop_map(String::into_bytes);
    let string = ("[$=!]", body()).prop_map(|(kind, body)| {
        let mut out = format!("{kind}{}\r\n", body.len()).into_bytes();
        out.extend(body);
        out.extend(b"\r\n");
        out
    });
    let null = prop::sample::select(vec![&b"$-1\r\n"[..], b"*-1\r\n", b"_\r\n", b"*0\r\n"]).prop_map(<[u8]>::to_vec);
    let leaf = prop_oneof![text, string, null];
    leaf.prop_recursive(4, 40, 12, |inner| {
        let many = prop::collection::vec(inner.clone(), 0..12);
        prop_oneof![
            ("[*~>]", many.clone()).prop_map(|(kind, items)| {
                let mut out = format!("{kind}{}\r\n", items.len()).into_bytes();
                out.extend(items.concat());
                out
            }),
            ("%", many.clone()).prop_map(pairs),
            ("\\|", many, inner.prop_filter("one reply", |reply| reply[0] != b'|')).prop_map(|(kind, items, reply)| {
                let mut out = pairs((kind, items));
                out.extend(reply);
                out
            }),
        ]
    })
}

fn pairs((kind, mut items): (String, Vec<Vec<u8>>)) -> Vec<u8> {
    items.truncate(items.len() / 2 * 2);
    let mut out = format!("{kind}{}\r\n", items.len() / 2).into_bytes();
    out.extend(items.concat());
    out
}

fn known_ends(frames: &[Vec<u8>]) -> Vec<usize> {
    let sums = frames.iter().scan(0, |sum, frame| {
        *sum += frame.len();
        Some(*sum)
    });
    sums.collect()
}

proptest! {
    #[test]
    fn requests_end_where_they_end_at_every_split(frames in prop::collection::vec(request(), 0..5)) {
        let found = same_at_every_split::<RequestScanner>(&frames.concat());
        prop_assert_eq!(found, (known_ends(&frames), None));
    }

    #[test]
    fn replies_end_where_they_end_at_every_split(frames in prop::collection::vec(reply(), 0..4)) {
        let found = same_at_every_split::<ReplyScanner>(&frames.concat());
        prop_assert_eq!(found, (known_ends(&frames), None));
    }

    #[test]
    fn garbage_neither_panics_nor_depends_on_the_split(
        garbage in prop::collection::vec(prop_oneof![
            3 => prop::sample::select(b"\r\n$*%|>-01239+:_".to_vec()),
            1 => any::<u8>(),
        ], 0..60)
    ) {
        same_at_every_split::<RequestScanner>(&garbage);
        same_at_every_split::<ReplyScanner>(&garbage);
        let starred = [b"*", &garbage[..]].concat();
        same_at_every_split::<RequestScanner>(&starred);
        same_at_every_split::<ReplyScanner>(&starred);
    }
}

#[test]
fn state_fits_in_64_bytes() {
    assert!(size_of::<RequestScanner>() <= 64);
    assert!(size_of::<ReplyScanner>() <= 64);
}

#[test]
fn requests_that_the_server_refuses_are_invalid() {
    for (bytes, why) in [
        (&b"*x\r\n"[..], "invalid multibulk length"),
        (b"*\r\n", "invalid multibulk length"),
        (b"*03\r\n", "invalid multibulk length"),
        (b"*+3\r\n", "invalid multibulk length"),
        (b"*-0\r\n", "invalid multibulk length"),
        (b"*2147483648\r\n", "invalid multibulk length"),
        (b"*9223372036854775808\r\n", "invalid multibulk length"),
        // One more than 64 bits have: it must not be read as 0 or 1.
        (b"*18446744073709551616\r\n", "invalid multibulk length"),
        (b"*18446744073709551617\r\n", "invalid multibulk length"),
        (b"*99999999999999999999999999\r\n", "invalid multibulk length"),
        (b"*1\r\nx", "expected '$'"),
        (b"*1\r\n$-1\r\n", "invalid bulk length"),
        (b"*1\r\n$01\r\n", "invalid bulk length"),
        (b"*1\r\n$536870913\r\n", "invalid bulk length"),
        (b"*1\r\n$18446744073709551617\r\n", "invalid bulk length"),
        (b"PI\0NG\r\n", "NUL in an inline request"),
    ] {
        let shown = bytes.escape_ascii();
        assert_eq!(same_at_every_split::<RequestScanner>(bytes), (vec![], Some(why)), "{shown}");
    }
}

#[test]
fn the_server_does_not_look_at_the_second_byte_of_a_line_end() {
    let found = same_at_every_split::<RequestScanner>(b"*1\rx$4\rxPINGxx*0\rx");
    assert_eq!(found, (vec![14, 18], None));
}

#[test]
fn an_inline_request_may_have_64_kib_and_no_more() {
    let mut line = vec![b'a'; 64 * 1024];
    let mut scanner = RequestScanner::default();
    assert_eq!(scanner.scan(&line), Scan::Partial);
    assert_eq!(scanner.clone().scan(b"\n"), Scan::Frame(1));
    assert_eq!(scanner.scan(b"a"), Scan::Invalid("too big inline request"));
    line.push(b'\n');
    assert_eq!(RequestScanner::default().scan(&line), Scan::Frame(line.len()));
}

#[test]
fn replies_that_no_server_sends_are_invalid() {
    for bytes in [
        &b"$?\r\n"[..],
        b"*?\r\n",
        b"$-2\r\n",
        b"%-1\r\n",
        b"*18446744073709551617\r\n",
        b"$18446744073709551617\r\n",
        b"$5\rx",
        b"x\r\n",
        b"\r\n",
        b"*2\r\n*9223372036854775807\r\n%9223372036854775807\r\n",
    ] {
        let (found, why) = same_at_every_split::<ReplyScanner>(bytes);
        assert!(found.is_empty() && why.is_some(), "{}", bytes.escape_ascii());
    }
}

#[test]
fn the_kind_of_a_reply_with_an_attribute_is_its_own() {
    let mut scanner = ReplyScanner::default();
    assert_eq!(scanner.kind(), 0);
    assert_eq!(scanner.scan(b"|1\r\n+key\r\n*1\r\n:1\r\n"), Scan::Partial);
    assert_eq!(scanner.kind(), b'|');
    assert_eq!(scanner.scan(b"-ERR no\r\n>0\r\n"), Scan::Frame(9));
    assert_eq!(scanner.kind(), b'-');
    assert_eq!(scanner.scan(b">0\r\n"), Scan::Frame(4));
    assert_eq!(scanner.kind(), b'>');
}

#[test]
fn the_rest_of_a_body_is_told() {
    let mut scanner = ReplyScanner::default();
    assert_eq!(scanner.scan(b"$10\r\nabc"), Scan::Partial);
    assert_eq!(scanner.body_remaining(), 9);
    assert_eq!(scanner.scan(b"defghij\r"), Scan::Partial);
    assert_eq!(scanner.body_remaining(), 1);
    assert_eq!(scanner.scan(b"\n"), Scan::Frame(1));
    assert_eq!(scanner.body_remaining(), 0);

    let mut scanner = RequestScanner::default();
    assert_eq!(scanner.scan(b"*2\r\n$3\r\nGET\r\n$4\r\nk"), Scan::Partial);
    assert_eq!(scanner.body_remaining(), 5);
    assert!(!scanner.at_boundary());
    assert_eq!(scanner.scan(b"eyy\r\n+"), Scan::Frame(5));
}
