//! Compares what was acknowledged to load clients with what a node holds.
//!
//! It only reads, and asks for every single key: a count alone would not notice a wrong value.

use std::io;
use std::net::SocketAddr;

use super::report::Verdict;
use super::workload::{Keys, Kind};
use crate::secret::Credentials;
use crate::wire::{Reply, Wire};

/// Keys asked for at once.
const BATCH: usize = 500;

/// What one client wrote, as far as it was settled when asked.
#[derive(Clone, Debug)]
pub(super) enum Written {
    Keys { kind: Kind, number: usize, db: u32, acknowledged: Vec<bool> },
    Counter { number: usize, db: u32, last: u64, unknown: u64 },
}

pub(super) async fn verify(
    addr: SocketAddr,
    auth: Option<&Credentials>,
    keys: &Keys,
    written: &[Written],
    settled: bool,
) -> io::Result<Verdict> {
    let mut verdict = Verdict::default();
    for client in written {
        match client {
            Written::Keys { kind, number, db, acknowledged } => {
                let mut wire = Wire::open(addr, auth, *db).await?;
                for (batch, flags) in acknowledged.chunks(BATCH).enumerate() {
                    let first = (batch * BATCH) as u64;
                    let asked = (first..).take(flags.len()).map(|write| keys.key(*kind, *number, write));
                    let asked: Vec<String> = asked.collect();
                    let request: Vec<&str> = std::iter::once("MGET").chain(asked.iter().map(String::as_str)).collect();
                    let Reply::Array(values) = wire.ask(&request).await? else {
                        return Err(io::Error::other("MGET was not answered with an array"));
                    };
                    for ((key, &acknowledged), value) in asked.iter().zip(flags).zip(values) {
                        judge(&mut verdict, keys, key, acknowledged, &value);
                    }
                }
            }
            Written::Counter { number, db, last, unknown } => {
                let mut wire = Wire::open(addr, auth, *db).await?;
                let key = keys.counter(*number);
                let reply = wire.ask(&["GET", &key]).await?;
                let value = reply.text().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
                verdict.acknowledged += last;
                verdict.unacknowledged += unknown;
                if value < *last {
                    verdict.missing += last - value;
                    verdict.example(|| format!("{key} is {value}, {last} was acknowledged"));
                } else if settled {
                    let beyond = value - last;
                    verdict.unacknowledged_ran += beyond.min(*unknown);
                    if beyond > *unknown {
                        verdict.doubled += beyond - unknown;
                        verdict.example(|| format!("{key} is {value}, {last} was acknowledged, {unknown} unknown"));
                    }
                }
            }
        }
    }
    Ok(verdict)
}

fn judge(verdict: &mut Verdict, keys: &Keys, key: &str, acknowledged: bool, value: &Reply) {
    if acknowledged {
        verdict.acknowledged += 1;
    } else {
        verdict.unacknowledged += 1;
    }
    match value {
        Reply::Bulk(bytes) if bytes == keys.value(key).as_bytes() => {
            verdict.unacknowledged_ran += u64::from(!acknowledged);
        }
        Reply::Nil => {
            if acknowledged {
                verdict.missing += 1;
                verdict.example(|| format!("{key} was acknowledged and is missing"));
            }
        }
        other => {
            verdict.foreign += 1;
            verdict.example(|| format!("{key} holds {other}"));
        }
    }
}
