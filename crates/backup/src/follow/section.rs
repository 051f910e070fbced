//! A part of a file, read by a position of its own.
//!
//! Handles of one file share their position; sections do not, so that two may be read at the same time.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

/// Ends where it ends, whatever follows in the file.
#[derive(Debug)]
pub struct Section {
    file: File,
    at: u64,
    end: u64,
}

impl Section {
    /// `length` bytes from `at` on.
    pub fn new(file: &File, (at, length): (u64, u64)) -> io::Result<Section> {
        Ok(Section { file: file.try_clone()?, at, end: at + length })
    }
}

impl Read for Section {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let room = into.len().min(usize::try_from(self.end - self.at).unwrap_or(usize::MAX));
        let count = self.file.read_at(&mut into[..room], self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}
