//! What should be done and said, in order, until the watch task takes it.
//!
//! A text that is logged once is logged once for the whole run, and only so many of them are remembered.

use std::collections::BTreeSet;

use tracing::Level;

use super::Output;

/// Texts of a kind that are remembered, so that no peer fills the memory or the log.
const MOST_TEXTS: usize = 32;

/// Outputs that wait to be taken.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    outputs: Vec<Output>,
    /// Shown as warnings from then on.
    notices: BTreeSet<String>,
    /// Only logged.
    alarms: BTreeSet<String>,
    warned_of_long_hold: bool,
}

impl Outbox {
    pub(super) fn push(&mut self, output: Output) {
        self.outputs.push(output);
    }

    pub(super) fn extend(&mut self, outputs: impl IntoIterator<Item = Output>) {
        self.outputs.extend(outputs);
    }

    pub(super) fn take(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }

    pub(super) fn log(&mut self, level: Level, text: String) {
        self.outputs.push(Output::Log(level, text));
    }

    /// Logs it once, and shows it from then on.
    pub(super) fn notice(&mut self, level: Level, text: String) {
        if self.notices.len() < MOST_TEXTS {
            self.notice_in_any_case(level, text);
        }
    }

    /// The same, however many there are: for texts that no peer can make up.
    pub(super) fn notice_in_any_case(&mut self, level: Level, text: String) {
        if self.notices.insert(text.clone()) {
            self.log(level, text);
        }
    }

    /// Logs it once.
    pub(super) fn log_once(&mut self, level: Level, text: String) {
        if self.alarms.len() < MOST_TEXTS && self.alarms.insert(text.clone()) {
            self.log(level, text);
        }
    }

    /// Logged once, whatever the limit is then; `status` goes on to show it.
    pub(super) fn warn_of_long_hold(&mut self, text: String) {
        if !std::mem::replace(&mut self.warned_of_long_hold, true) {
            self.log(Level::WARN, text);
        }
    }

    pub(super) fn notices(&self) -> impl Iterator<Item = &String> {
        self.notices.iter()
    }
}
