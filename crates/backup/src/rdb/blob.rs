//! The strings that carry a structure of their own: what their first bytes and their last one must say.
//!
//! The entries inside are not read: this is what a server checks without `sanitize-dump-payload yes`, and the checksum
//! covers the rest.

/// So many first bytes are looked at.
pub(super) const HEAD: usize = 10;

/// The structures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blob {
    /// With entries in groups of so many.
    Listpack(u16),
    /// With entries in groups of so many.
    Ziplist(u16),
    /// Integers of 2, 4 or 8 bytes.
    Intset,
    /// Of Redis before 2.6.
    Zipmap,
}

/// The end mark of all but the intset.
const END: u8 = 0xff;

impl Blob {
    /// Whether a string of `len` bytes can be this.
    pub(super) fn check(self, head: &[u8], len: u64, last: Option<u8>) -> Result<(), String> {
        let name = self.name();
        if len < self.least() {
            return Err(format!("{name} of {len} bytes is too short"));
        }
        let short = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
        let long = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let is_long = |says: u32| {
            if u64::from(says) == len { Ok(()) } else { Err(format!("{name} of {len} bytes says it has {says}")) }
        };
        let in_groups = |entries: u16, of: u16| {
            // A count that does not fit is not kept.
            if entries == u16::MAX || entries.is_multiple_of(of) {
                return Ok(());
            }
            Err(format!("{name} of {entries} entries, which come in groups of {of}"))
        };
        match self {
            Blob::Listpack(group) => {
                is_long(long(0))?;
                in_groups(short(4), group)?;
            }
            Blob::Ziplist(group) => {
                is_long(long(0))?;
                if u64::from(long(4)) > len - 1 {
                    return Err(format!("{name} of {len} bytes has its last entry at {}", long(4)));
                }
                in_groups(short(8), group)?;
            }
            Blob::Intset => {
                let (size, integers) = (long(0), long(4));
                if !matches!(size, 2 | 4 | 8) {
                    return Err(format!("{name} with integers of {size} bytes"));
                }
                if integers == 0 || 8 + u64::from(integers) * u64::from(size) != len {
                    return Err(format!("{name} of {len} bytes says it has {integers} integers of {size} bytes"));
                }
                return Ok(());
            }
            Blob::Zipmap => {}
        }
        match last {
            Some(byte) if byte != END => Err(format!("{name} without its end mark")),
            _ => Ok(()),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Blob::Listpack(_) => "a listpack",
            Blob::Ziplist(_) => "a ziplist",
            Blob::Intset => "an intset",
            Blob::Zipmap => "a zipmap",
        }
    }

    /// Bytes of the header and the end mark; of an intset, with one integer.
    fn least(self) -> u64 {
        match self {
            Blob::Listpack(_) => 7,
            Blob::Ziplist(_) => 11,
            Blob::Intset => 10,
            Blob::Zipmap => 2,
        }
    }
}
