//! What a model server says unasked: messages, invalidations, the lines of MONITOR.

use super::connection::Tracking;
use super::{Reply, Server, Words};

/// Read commands whose keys CLIENT TRACKING remembers.
const TRACKED: [&str; 8] = ["GET", "STRLEN", "MGET", "EXISTS", "LRANGE", "LLEN", "HGETALL", "SMEMBERS"];

impl Server {
    pub(super) fn subscribe(&mut self, id: u64, name: &str, names: &[Vec<u8>]) -> Option<Reply> {
        let (kind, word) = (kind_of(name), name.to_lowercase());
        for channel in names {
            let connection = self.connection(id);
            connection.subscriptions[kind].insert(channel.clone());
            let count = count(&connection.subscriptions, kind);
            connection.push(&Reply::Push(vec![Reply::bulk(&word), Reply::bulk(channel), count]));
        }
        None
    }

    pub(super) fn unsubscribe(&mut self, id: u64, name: &str, names: &[Vec<u8>]) -> Option<Reply> {
        let (kind, word) = (kind_of(&name.replace("UNSUB", "SUB")), name.to_lowercase());
        let connection = self.connection(id);
        let names = match names {
            [] => connection.subscriptions[kind].iter().cloned().collect(),
            names => names.to_vec(),
        };
        for channel in &names {
            connection.subscriptions[kind].remove(channel);
            let count = count(&connection.subscriptions, kind);
            connection.push(&Reply::Push(vec![Reply::bulk(&word), Reply::bulk(channel), count]));
        }
        if names.is_empty() {
            let count = count(&connection.subscriptions, kind);
            connection.push(&Reply::Push(vec![Reply::bulk(&word), Reply::Nil, count]));
        }
        None
    }

    pub(super) fn publish(&mut self, shard: bool, channel: &[u8], text: &[u8]) -> i64 {
        let mut heard = 0;
        for connection in self.connections.values_mut() {
            let [channels, patterns, shards] = &connection.subscriptions;
            let mut messages = Vec::new();
            if (if shard { shards } else { channels }).contains(channel) {
                let word = if shard { "smessage" } else { "message" };
                messages.push(Reply::Push(vec![Reply::bulk(word), Reply::bulk(channel), Reply::bulk(text)]));
            }
            for pattern in patterns.iter().filter(|pattern| !shard && fits(pattern, channel)) {
                let parts = [&b"pmessage"[..], pattern, channel, text].map(Reply::bulk);
                messages.push(Reply::Push(parts.to_vec()));
            }
            heard += messages.len() as i64;
            messages.iter().for_each(|message| connection.push(message));
        }
        heard
    }

    /// CLIENT TRACKING.
    pub(super) fn track(&mut self, id: u64, args: &[Vec<u8>]) -> Reply {
        let words: Vec<Vec<u8>> = args.iter().map(|word| word.to_ascii_uppercase()).collect();
        let connection = self.connection(id);
        if words.first().is_none_or(|word| word != b"ON") {
            connection.tracking = None;
            return Reply::ok();
        }
        let has = |word: &[u8]| words.iter().any(|option| option == word);
        let mut tracking = connection.tracking.take().unwrap_or_default();
        tracking.broadcasts = has(b"BCAST");
        tracking.opt_in = has(b"OPTIN");
        let named = words.iter().zip(args.iter().skip(1)).filter(|(option, _)| *option == b"PREFIX");
        tracking.prefixes.extend(named.map(|(_, prefix)| prefix.clone()));
        connection.tracking = Some(tracking);
        Reply::ok()
    }

    /// What was read is told when it changes.
    pub(super) fn note_read(&mut self, id: u64, name: &str, args: &[Vec<u8>]) {
        let Some(tracking) = &mut self.connection(id).tracking else { return };
        if TRACKED.contains(&name) && !tracking.broadcasts && (tracking.caching || !tracking.opt_in) {
            let keys = if matches!(name, "MGET" | "EXISTS") { args } else { &args[..1] };
            tracking.keys.extend(keys.iter().cloned());
        }
    }

    /// A key was changed.
    pub(super) fn invalidate(&mut self, key: &[u8]) {
        let is_concerned = |tracking: &mut Tracking| match tracking.broadcasts {
            true => tracking.prefixes.is_empty() || tracking.prefixes.iter().any(|prefix| key.starts_with(prefix)),
            false => tracking.keys.remove(key),
        };
        for connection in self.connections.values_mut().filter(|connection| connection.resp3) {
            if connection.tracking.as_mut().is_some_and(is_concerned) {
                connection.push(&Reply::Push(vec![Reply::bulk("invalidate"), Reply::Array(vec![Reply::bulk(key)])]));
            }
        }
    }

    /// What runs is shown to who said MONITOR.
    pub(super) fn show_to_monitors(&mut self, id: u64, name: &str, words: &Words) {
        if matches!(name, "AUTH" | "HELLO" | "EXEC" | "MONITOR") {
            return;
        }
        let db = self.connections[&id].db;
        let quoted: Vec<String> = words.iter().map(|word| format!("\"{}\"", word.escape_ascii())).collect();
        let line = format!("1700000000.123456 [{db} 10.9.0.1:{id}] {}", quoted.join(" "));
        for connection in self.connections.values_mut().filter(|connection| connection.monitors) {
            connection.push(&Reply::Status(line.clone()));
        }
    }
}

fn kind_of(name: &str) -> usize {
    match name {
        "SUBSCRIBE" => 0,
        "PSUBSCRIBE" => 1,
        _ => 2,
    }
}

/// Shard channels are counted by themselves.
fn count(subscriptions: &[std::collections::BTreeSet<Vec<u8>>; 3], kind: usize) -> Reply {
    let [channels, patterns, shards] = subscriptions;
    Reply::Number(if kind == 2 { shards.len() } else { channels.len() + patterns.len() } as i64)
}

/// A pattern with one star at its end.
fn fits(pattern: &[u8], channel: &[u8]) -> bool {
    pattern.strip_suffix(b"*").map_or(pattern == channel, |start| channel.starts_with(start))
}
