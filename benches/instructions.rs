//! Loops over what is done for each request: callgrind counts their instructions, and tests/it/instructions.rs holds
//! the counts below bounds. One argument names the case.

use std::hint::black_box;

use switchmaster::resp::command::classify;
use switchmaster::resp::ordinary::{self, Run};
use switchmaster::resp::request::encode;
use switchmaster::resp::scanner::{ReplyScanner, RequestScanner, Scan};

const ROUNDS: u32 = 10_000;

fn main() {
    // As redis-benchmark sends it, and one whose arguments are all shorter than ten bytes.
    let set = encode(&[b"SET", b"key:__rand_int__", b"xxx"]);
    let short = encode(&[b"SET", b"key", b"xxx"]);
    let get = encode(&[b"GET", b"key:__rand_int__"]);
    let value = format!("$100\r\n{}\r\n", "x".repeat(100)).into_bytes();
    let (mut requests, mut replies) = (RequestScanner::default(), ReplyScanner::default());
    match std::env::args().nth(1).as_deref() {
        Some("nothing") => again(&set, |_| {}),
        Some("scan short SET") => again(&short, |set| whole(requests.scan(set), set)),
        Some("scan SET") => again(&set, |set| whole(requests.scan(set), set)),
        Some("scan GET") => again(&get, |get| whole(requests.scan(get), get)),
        Some("scan +OK") => again(b"+OK\r\n", |reply| whole(replies.scan(reply), reply)),
        Some("scan 100 B") => again(&value, |reply| whole(replies.scan(reply), reply)),
        Some("16 GETs") => again(&get.repeat(16), |gets| sixteen(ordinary::requests(gets, 100, 100_000))),
        Some("16 SETs") => again(&set.repeat(16), |sets| sixteen(ordinary::requests(sets, 100, 100_000))),
        Some("16 values") => again(&value.repeat(16), |values| sixteen(ordinary::replies(values, 100))),
        Some("classify GET") => again(&get, |get| _ = black_box(classify(get))),
        _ => {} // under `cargo bench` or `cargo test --all-targets`
    }
}

fn again(input: &[u8], mut each: impl FnMut(&[u8])) {
    for _ in 0..ROUNDS {
        each(black_box(input));
    }
}

fn sixteen(run: Run) {
    assert_eq!(run.count, 16);
}

/// The scan must have found what there is, or nothing was counted.
fn whole(scan: Scan, input: &[u8]) {
    assert!(matches!(scan, Scan::Frame(end) if end == input.len()), "{scan:?}");
}
