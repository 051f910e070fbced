//! What an application noted: which jobs were acknowledged, which came to their end, and which exceptions were seen.
//!
//! Times are Unix, ms.

use std::collections::BTreeMap;

use serde_json::Value;

/// The notes of one application's processes, by kind.
#[derive(Debug, Default)]
pub struct Diary {
    /// Id, begun, acknowledged.
    pub pushed: BTreeMap<String, (u64, u64)>,
    /// Begun, ended in an exception.
    pub unknown: Vec<(u64, u64)>,
    /// When each job came to its end, one time for each of its runs.
    pub done: BTreeMap<String, Vec<u64>>,
    /// When, where, what.
    pub exceptions: Vec<(u64, String, String)>,
    /// When, at which step, what was expected and found.
    pub wrong: Vec<(u64, String, String)>,
    /// Passes of the exercise; begun, ended.
    pub passes: Vec<(u64, u64)>,
    /// Messages broadcast, and heard.
    pub said: usize,
    pub heard: usize,
    /// Batches dispatched, and run to their end.
    pub batches: usize,
    pub batched: usize,
}

impl Diary {
    /// Adds a file of notes.
    pub fn add(&mut self, text: &str) {
        for line in text.lines() {
            // The last line may be being written.
            if let Ok(Value::Array(fields)) = serde_json::from_str(line) {
                self.note(&fields);
            }
        }
    }

    fn note(&mut self, fields: &[Value]) {
        let text = |index: usize| {
            fields
                .get(index)
                .map_or(String::new(), |field| field.as_str().map_or_else(|| field.to_string(), str::to_owned))
        };
        let time = |index: usize| fields.get(index).and_then(Value::as_u64).unwrap_or(0);
        match text(0).as_str() {
            "pushed" => _ = self.pushed.insert(text(1), (time(2), time(3))),
            "unknown" => self.unknown.push((time(2), time(3))),
            "done" => self.done.entry(text(1)).or_default().push(time(2)),
            "exception" => self.exceptions.push((time(2), text(1), text(3))),
            "wrong" => self.wrong.push((time(2), text(1), text(3))),
            "passed" => self.passes.push((time(2), time(3))),
            "said" => self.said += 1,
            "heard" => self.heard += 1,
            "batch" => self.batches += 1,
            "batched" => self.batched += 1,
            _ => {}
        }
    }

    /// Acknowledged jobs that never came to their end, with the time of the acknowledgement.
    pub fn lost(&self) -> Vec<(&str, u64)> {
        let never = self.pushed.iter().filter(|(id, _)| !self.done.contains_key(*id));
        never.map(|(id, (_, acknowledged))| (id.as_str(), *acknowledged)).collect()
    }

    /// Jobs that came to their end more than once, with the time of the first.
    pub fn twice(&self) -> Vec<(&str, u64)> {
        self.done.iter().filter(|(_, ends)| ends.len() > 1).map(|(id, ends)| (id.as_str(), ends[0])).collect()
    }

    /// The longest that a push or a pass which was under way between `from` and `to` took, in ms.
    pub fn pause(&self, from: u64, to: u64) -> u64 {
        let all = self.pushed.values().chain(&self.unknown).chain(&self.passes);
        all.filter(|(begun, ended)| *ended >= from && *begun <= to)
            .map(|(begun, ended)| ended - begun)
            .max()
            .unwrap_or(0)
    }

    /// How many runs of jobs came to an end.
    pub fn ends(&self) -> usize {
        self.done.values().map(Vec::len).sum()
    }

    /// The kinds of the exceptions from `from` to `to`, with how often each was seen.
    pub fn kinds(&self, from: u64, to: u64) -> BTreeMap<String, usize> {
        let mut kinds = BTreeMap::new();
        for (at, place, text) in &self.exceptions {
            if (from..to).contains(at) {
                let end = text.char_indices().nth(110).map_or(text.len(), |(end, _)| end);
                *kinds.entry(format!("{place}: {}", &text[..end])).or_default() += 1;
            }
        }
        kinds
    }
}
