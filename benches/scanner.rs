//! How long it takes to find where a request or a reply ends (`cargo bench --bench scanner`).

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use switchmaster::resp::command::classify;
use switchmaster::resp::request::encode;
use switchmaster::resp::scanner::{ReplyScanner, RequestScanner};

fn requests(criterion: &mut Criterion) {
    let value = "x".repeat(100);
    let large = "x".repeat(64 * 1024);
    let set = encode(&[b"SET", b"key:000000000001", value.as_bytes()]);
    let requests = [
        ("PING", encode(&[b"PING"])),
        ("PING inline", b"PING\r\n".to_vec()),
        ("GET", encode(&[b"GET", b"key:000000000001"])),
        ("SET 100 B", set.clone()),
        ("SET 64 KiB", encode(&[b"SET", b"key:000000000001", large.as_bytes()])),
    ];
    let mut group = criterion.benchmark_group("request");
    for (name, request) in &requests {
        group.throughput(Throughput::Bytes(request.len() as u64));
        group.bench_function(*name, |bencher| {
            let mut scanner = RequestScanner::default();
            bencher.iter(|| scanner.scan(black_box(request)));
        });
    }
    group.bench_function("SET 100 B, byte by byte", |bencher| {
        let mut scanner = RequestScanner::default();
        bencher.iter(|| {
            for byte in set.chunks(1) {
                black_box(scanner.scan(black_box(byte)));
            }
        });
    });
    group.bench_function("what SET does", |bencher| bencher.iter(|| classify(black_box(&set))));
    group.finish();
}

fn replies(criterion: &mut Criterion) {
    let bulk = |bytes: usize| [format!("${bytes}\r\n").as_bytes(), &vec![b'x'; bytes], b"\r\n"].concat();
    let hundred = [&b"*100\r\n"[..], &bulk(16).repeat(100)].concat();
    let replies = [
        ("+OK", b"+OK\r\n".to_vec()),
        (":1", b":1\r\n".to_vec()),
        ("100 B", bulk(100)),
        ("64 KiB", bulk(64 * 1024)),
        ("100 elements", hundred),
    ];
    let mut group = criterion.benchmark_group("reply");
    for (name, reply) in &replies {
        group.throughput(Throughput::Bytes(reply.len() as u64));
        group.bench_function(*name, |bencher| {
            let mut scanner = ReplyScanner::default();
            bencher.iter(|| scanner.scan(black_box(reply)));
        });
    }
    group.finish();
}

criterion_group!(scanner, requests, replies);
criterion_main!(scanner);
