//! How far a long step has come: a bar on a terminal, nothing anywhere else.
//!
//! It goes to standard error, so that what the verb prints can be piped, and it is gone when the step is.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// One step under way; dropping it takes the bar away.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// A step that is expected to take so many bytes; 0: nobody knows.
    pub fn begin(step: &'static str, expected: u64) -> Progress {
        let target = match std::io::stderr().is_terminal() {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target((expected > 0).then_some(expected), target);
        let template = match expected {
            0 => "{msg:9} {spinner} {bytes} {bytes_per_sec}",
            _ => "{msg:9} [{bar:30}] {bytes} of about {total_bytes}, {bytes_per_sec}, {eta} left",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(step);
        Progress { bar }
    }

    /// So many bytes are done.
    pub fn reached(&self, bytes: u64) {
        if self.bar.length().is_some_and(|expected| expected < bytes) {
            self.bar.set_length(bytes);
        }
        self.bar.set_position(bytes);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
