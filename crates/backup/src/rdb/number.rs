//! Numbers as an RDB writes them: the length of 1, 2, 5 or 9 bytes, and fields of a fixed size.
//!
//! A field may be cut anywhere by the end of a chunk; at most 16 bytes are kept until the rest comes.

/// What the first byte of a string or a length says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    /// A number.
    Plain(u64),
    /// Not a number: how the string that follows is encoded.
    Encoded(u8),
}

/// The bytes of one field, until all are there.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Field {
    bytes: [u8; 16],
    have: usize,
}

impl Field {
    /// Takes what is missing to `size` bytes (at most 16): how many were taken, and the field when it is whole.
    pub(super) fn exact(&mut self, input: &[u8], size: usize) -> (usize, Option<[u8; 16]>) {
        let taken = input.len().min(size - self.have);
        self.bytes[self.have..self.have + taken].copy_from_slice(&input[..taken]);
        self.have += taken;
        if self.have < size {
            return (taken, None);
        }
        self.have = 0;
        (taken, Some(self.bytes))
    }

    /// Takes a length (`rdbLoadLenByRef`).
    pub(super) fn length(&mut self, input: &[u8]) -> Result<(usize, Option<Length>), String> {
        let first = match (self.have, input.first()) {
            (0, None) => return Ok((0, None)),
            (0, Some(&first)) => first,
            _ => self.bytes[0],
        };
        let size = match first {
            0x00..=0x3f => 1,
            0x40..=0x7f => 2,
            0x80 => 5,
            0x81 => 9,
            0x82..=0xbf => return Err(format!("no length begins with the byte {first:#04x}")),
            0xc0..=0xff => 1,
        };
        let (taken, whole) = self.exact(input, size);
        let length = whole.map(|bytes| match first {
            0x00..=0x3f => Length::Plain(u64::from(first)),
            0x40..=0x7f => Length::Plain(u64::from(u16::from_be_bytes([first & 0x3f, bytes[1]]))),
            0x80 => Length::Plain(u64::from(u32::from_be_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]))),
            0x81..=0xbf => {
                let mut wide = [0; 8];
                wide.copy_from_slice(&bytes[1..9]);
                Length::Plain(u64::from_be_bytes(wide))
            }
            0xc0..=0xff => Length::Encoded(first & 0x3f),
        });
        Ok((taken, length))
    }

    /// Takes a length that is a number.
    pub(super) fn number(&mut self, input: &[u8]) -> Result<(usize, Option<u64>), String> {
        match self.length(input)? {
            (taken, Some(Length::Plain(number))) => Ok((taken, Some(number))),
            (_, Some(Length::Encoded(how))) => Err(format!("a number stands here, not a string of encoding {how}")),
            (taken, None) => Ok((taken, None)),
        }
    }
}
