//! CRC-64/REDIS, running, and the end of a DUMP payload.
//!
//! Jones' polynomial 0xad93d23594c935a9, reflected, nothing inverted: "123456789" is e9c6d914c4b8d9ca (`crc64.c`).

use std::fmt;

use crc_fast::{CrcAlgorithm, Digest};

/// The checksum of the bytes so far.
#[derive(Clone)]
pub struct Crc64(Digest);

/// The ten bytes that end a DUMP payload: the RDB version and the checksum of all before it, both little-endian
/// (`createDumpPayload`). `crc` has seen the type byte and the value.
pub fn dump_trailer(version: u32, mut crc: Crc64) -> [u8; 10] {
    let mut trailer = [0; 10];
    // DUMP keeps the two low bytes, as the server does.
    trailer[..2].copy_from_slice(&version.to_le_bytes()[..2]);
    crc.update(&trailer[..2]);
    trailer[2..].copy_from_slice(&crc.value().to_le_bytes());
    trailer
}

impl Crc64 {
    /// Of no bytes.
    pub fn new() -> Crc64 {
        Crc64(Digest::new(CrcAlgorithm::Crc64Redis))
    }

    /// These come next.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The checksum.
    pub fn value(&self) -> u64 {
        self.0.finalize()
    }
}

impl Default for Crc64 {
    fn default() -> Crc64 {
        Crc64::new()
    }
}

impl fmt::Debug for Crc64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Crc64({:016x})", self.value())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_one_of_redis_however_the_bytes_come() {
        let text = b"123456789";
        for cut in 0..=text.len() {
            let mut crc = Crc64::new();
            crc.update(&text[..cut]);
            crc.update(&text[cut..]);
            assert_eq!(crc.value(), 0xe9c6_d914_c4b8_d9ca, "cut at {cut}");
        }
        assert_eq!(Crc64::new().value(), 0);
    }
}
