//! How long it takes to note requests and to settle them (`cargo bench --bench ledger`).

use std::hint::black_box;
use std::time::Instant;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use switchmaster::resp::command::classify;
use switchmaster::resp::request::encode;
use switchmaster::session::core::ledger::{Asked, Ledger};

fn pipelines(criterion: &mut Criterion) {
    let get = encode(&[b"GET", b"key:000000000001"]);
    let (effect, now) = (classify(&get), Instant::now());
    let mut group = criterion.benchmark_group("ledger");
    for pipeline in [1, 16, 100] {
        group.throughput(Throughput::Elements(pipeline));
        group.bench_function(format!("{pipeline} noted, {pipeline} settled"), |bencher| {
            let mut ledger = Ledger::default();
            bencher.iter(|| {
                for _ in 0..pipeline {
                    ledger.push(Asked::new(effect), black_box(&get), now);
                }
                for _ in 0..pipeline {
                    black_box(ledger.expected());
                    ledger.settle();
                }
            });
        });
    }
    group.finish();
}

criterion_group!(ledger, pipelines);
criterion_main!(ledger);
