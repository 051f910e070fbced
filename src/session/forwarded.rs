//! Which bytes of a read go out, and which are replaced or left out.

use crate::net::Unsent;

/// The beginning of a read buffer that can be written without copying; once anything is dropped or inserted, the rest is
/// copied.
#[derive(Debug, Default)]
pub struct Forwarded {
    end: usize,
    copied: bool,
}

impl Forwarded {
    /// `data[start..end]` goes out.
    #[inline]
    pub fn pass(&mut self, unsent: &mut Unsent, data: &[u8], start: usize, end: usize) {
        if !self.copied && start == self.end {
            self.end = end;
        } else {
            self.copy(unsent, data, start, end);
        }
    }

    #[cold]
    fn copy(&mut self, unsent: &mut Unsent, data: &[u8], start: usize, end: usize) {
        self.leave_out(unsent, data);
        unsent.push(&data[start..end]);
    }

    /// `instead` goes out in the place of what comes next in `data`.
    pub fn instead(&mut self, unsent: &mut Unsent, data: &[u8], instead: &[u8]) {
        self.leave_out(unsent, data);
        unsent.push(instead);
    }

    /// What comes next in `data` does not go out.
    pub fn leave_out(&mut self, unsent: &mut Unsent, data: &[u8]) {
        if !self.copied {
            unsent.push(&data[..self.end]);
            self.copied = true;
        }
    }

    /// The run that is still to be sent from `data`; empty once copies were made.
    pub fn run<'a>(&self, data: &'a [u8]) -> &'a [u8] {
        if self.copied { &[] } else { &data[..self.end] }
    }

    /// Copies were made: they wait in the `Unsent`.
    pub fn is_copied(&self) -> bool {
        self.copied
    }
}
