//! The RDB on its way in: walked, counted and spooled in one go, so that a bad one is known at its last byte.

use std::fs::File;

use crate::rdb::{Summary, Walker};
use crate::replica::Sink;
use crate::{Error, Progress, Spool};

/// Takes what the source sends.
pub(super) struct Intake {
    walker: Walker,
    spool: Spool,
    progress: Progress,
}

impl Intake {
    pub(super) fn new(spool: Spool, progress: Progress) -> Intake {
        Intake { walker: Walker::new(), spool, progress }
    }

    /// What the RDB holds, and the RDB.
    pub(super) fn finish(self) -> Result<(Summary, File), Error> {
        let summary = self.walker.finish()?;
        Ok((summary, self.spool.into_file()?))
    }
}

impl Sink for Intake {
    fn take(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        let taken = self.walker.feed(bytes, &mut |_| {})?;
        self.spool.write(&bytes[..taken])?;
        self.progress.reached(self.spool.bytes());
        Ok(taken)
    }

    fn ended(&self) -> bool {
        self.walker.is_over()
    }
}
