//! Packing and unpacking: the same bytes again, and every change of them found.

use std::io::Read;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use switchmaster::backup::Manifest;
use switchmaster::backup::pack::{Identities, Unpacker};

use crate::support::samples::{bytes, packed};

const CREATED: &str = "2026-11-20T03:14:00Z";

struct Key {
    recipient: String,
    file: tempfile::NamedTempFile,
}

fn key() -> Key {
    let identity = age::x25519::Identity::generate();
    let file = tempfile::NamedTempFile::new().unwrap();
    let secret = identity.to_string();
    std::fs::write(file.path(), format!("# a comment\n{}\n", age::secrecy::ExposeSecret::expose_secret(&secret)))
        .unwrap();
    Key { recipient: identity.to_public().to_string(), file }
}

impl Key {
    fn identities(&self) -> Identities {
        Identities::read(Some(self.file.path())).unwrap()
    }
}

/// Unpacks and checks all of it.
fn unpack(stored: impl Read, manifest: &Manifest, identities: &Identities) -> Result<Vec<u8>, (u8, String)> {
    let told = |error: switchmaster::backup::Error| (error.exit_code(), error.to_string());
    let mut unpacker = Unpacker::new(stored, manifest, identities).map_err(told)?;
    let mut plain = Vec::new();
    unpacker.read_to_end(&mut plain).map_err(switchmaster::backup::Error::from_io).map_err(told)?;
    unpacker.finish().map_err(told)?;
    Ok(plain)
}

/// Gives a byte at a time, as the worst of networks does.
struct Drip<'a>(&'a [u8]);

impl Read for Drip<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let (Some(first), Some(place)) = (self.0.first(), into.first_mut()) else { return Ok(0) };
        *place = *first;
        self.0 = &self.0[1..];
        Ok(1)
    }
}

#[test]
fn what_was_packed_comes_out_again() {
    let (one, two, other) = (key(), key(), key());
    for length in [0, 1, 131_072, 3_000_000] {
        let plain = bytes(length, 7);
        let (stored, manifest) = packed(&plain, &[], CREATED);
        assert_eq!(unpack(stored.as_slice(), &manifest, &Identities::default()), Ok(plain.clone()));
        let (stored, manifest) = packed(&plain, &[one.recipient.clone(), two.recipient.clone()], CREATED);
        for key in [&one, &two] {
            assert_eq!(unpack(stored.as_slice(), &manifest, &key.identities()), Ok(plain.clone()));
        }
        let (code, told) = unpack(stored.as_slice(), &manifest, &other.identities()).unwrap_err();
        assert!(code == 64 && told.contains("does not read it") && told.contains(&one.recipient), "{told}");
        let (code, told) = unpack(stored.as_slice(), &manifest, &Identities::default()).unwrap_err();
        assert!(code == 64 && told.contains("--identity"), "{told}");
    }
    let plain = bytes(5_000, 8);
    let (stored, manifest) = packed(&plain, std::slice::from_ref(&one.recipient), CREATED);
    assert_eq!(unpack(Drip(&stored), &manifest, &one.identities()), Ok(plain));
}

#[test]
fn what_is_stored_can_be_read_with_zstd_alone() {
    let plain = bytes(300_000, 9);
    let (stored, _) = packed(&plain, &[], CREATED);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), stored).unwrap();
    let output = Command::new("zstd").args(["-d", "-c"]).stdin(Stdio::null()).arg(file.path()).output();
    let output = output.expect("zstd (ci/install-deps test installs it)");
    assert!(output.status.success() && output.stdout == plain);
    let shown = Command::new("zstd").args(["-lv"]).arg(file.path()).output().unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("XXH64") && shown.contains("300000"), "{shown}");
}

/// Every byte of small objects, each changed in one bit: found, and told as what it is.
#[test]
fn a_flipped_bit_is_found_wherever_it_is() {
    let key = key();
    let plain = bytes(1_500, 10);
    for recipients in [&[][..], std::slice::from_ref(&key.recipient)] {
        let (stored, manifest) = packed(&plain, recipients, CREATED);
        for at in 0..stored.len() {
            let mut flipped = stored.clone();
            flipped[at] ^= 1 << (at % 8);
            let (code, told) = unpack(flipped.as_slice(), &manifest, &key.identities()).unwrap_err();
            assert!(code == 82 && told.contains("not what was stored"), "byte {at}: {code} {told}");
        }
    }
}

#[test]
fn a_shorter_or_longer_object_is_found() {
    let key = key();
    let plain = bytes(200_000, 11);
    for recipients in [&[][..], std::slice::from_ref(&key.recipient)] {
        let (stored, manifest) = packed(&plain, recipients, CREATED);
        for length in [0, 1, 20, 200, stored.len() / 2, stored.len() - 1] {
            let (code, told) = unpack(&stored[..length], &manifest, &key.identities()).unwrap_err();
            assert!(code == 82 && told.contains("not what was stored"), "{length} bytes: {code} {told}");
        }
        // Also by a whole second frame, which zstd itself would take.
        for more in [b"x".to_vec(), stored.clone(), bytes(1_000_000, 12)] {
            let longer = [stored.clone(), more].concat();
            let (code, told) = unpack(longer.as_slice(), &manifest, &key.identities()).unwrap_err();
            assert!(code == 82 && told.contains("more than"), "{code} {told}");
        }
    }
}

/// The manifest itself may lie: what unpacks to more than it says is stopped there, whatever the hashes say.
#[test]
fn a_bomb_is_stopped_at_the_size_of_the_manifest() {
    let (stored, mut manifest) = packed(&vec![0; 64 << 20], &[], CREATED);
    assert!(stored.len() < 100_000);
    manifest.plain_bytes = 1 << 20;
    let mut unpacker = Unpacker::new(stored.as_slice(), &manifest, &Identities::default()).unwrap();
    let mut sunk = 0;
    let mut chunk = vec![0; 64 << 10];
    let error = loop {
        match unpacker.read(&mut chunk) {
            Ok(0) => panic!("it ended"),
            Ok(read) => sunk += read,
            Err(error) => break switchmaster::backup::Error::from_io(error),
        }
    };
    assert!(error.exit_code() == 82 && error.to_string().contains("more than the 1048576"), "{error}");
    assert!(sunk <= (1 << 20) + chunk.len(), "{sunk}");
}

#[test]
fn a_packing_that_is_not_known_is_told() {
    let (stored, mut manifest) = packed(&bytes(100, 13), &[], CREATED);
    manifest.packing.compression = "lz5".to_owned();
    let (code, told) = unpack(stored.as_slice(), &manifest, &Identities::default()).unwrap_err();
    assert!(code == 87 && told.contains("lz5") && told.contains("newer"), "{told}");
}

#[test]
fn an_identity_that_is_none_is_told() {
    for (content, wanted) in
        [("", "no line"), ("# only a comment\n", "no line"), ("AGE-SECRET-KEY-1NONSENSE\n", "is none")]
    {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        let told = Identities::read(Some(file.path())).err().unwrap();
        assert!(told.exit_code() == 64 && told.to_string().contains(wanted), "{told}");
        assert!(!told.to_string().contains("NONSENSE"), "{told}");
    }
    let told = Identities::read(Some("/nowhere/age.key".as_ref())).err().unwrap();
    assert!(told.to_string().contains("/nowhere/age.key cannot be read"), "{told}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Bytes that nobody packed: an error, never a panic, and never more than was promised.
    #[test]
    fn foreign_bytes_are_an_error(foreign in proptest::collection::vec(any::<u8>(), 0..4096), keep in 0_usize..400) {
        let key = key();
        for recipients in [&[][..], std::slice::from_ref(&key.recipient)] {
            let (stored, mut manifest) = packed(&bytes(2_000, 14), recipients, CREATED);
            let forged = [&stored[..keep.min(stored.len())], &foreign].concat();
            manifest.stored_bytes = forged.len() as u64;
            prop_assert!(unpack(forged.as_slice(), &manifest, &key.identities()).is_err());
        }
    }
}
