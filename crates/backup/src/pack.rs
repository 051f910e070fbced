//! A plain RDB to the object that is stored and back: zstd, then age where there are recipients.
//!
//! Both ends are hashed in the same pass, and nothing is believed that was not hashed. What is stored can be read by
//! hand: `age -d -i KEY x.rdb.zst.age | zstd -d`. Memory is bounded by zstd's window (16 MiB at most when reading).

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use age::stream::{StreamReader, StreamWriter};
use age::x25519;
use sha2::{Digest, Sha256};

use super::manifest::hex;
use super::{Error, Manifest, Packing};

/// zstd's own default; its window at this level is 2 MiB.
const LEVEL: i32 = 3;
/// The largest window accepted when reading, as a power of two.
const WINDOW_LOG_MAX: u32 = 24;
/// No age header is larger.
const AGE_HEADER_MAX: u64 = 1 << 20;
const CHUNK: usize = 128 * 1024;

/// What packing made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// Bytes of the plain file.
    pub plain_bytes: u64,
    /// Its SHA-256, in hexadecimal.
    pub plain_sha256: String,
    /// Bytes of what is to be stored.
    pub stored_bytes: u64,
    /// Its SHA-256, in hexadecimal.
    pub stored_sha256: String,
}

/// For whom backups are encrypted; for nobody: they are not.
#[derive(Clone, Debug, Default)]
pub struct Recipients(Vec<x25519::Recipient>);

impl Recipients {
    /// Parses `age1…` texts. Fails with [`Error::Usage`].
    pub fn parse(texts: &[String]) -> Result<Recipients, Error> {
        let parse = |text: &String| {
            text.parse().map_err(|why| {
                Error::Usage(format!("backup_recipients: {text} is no age recipient ({why}): age-keygen prints one"))
            })
        };
        Ok(Recipients(texts.iter().map(parse).collect::<Result<_, _>>()?))
    }

    /// What is written into the result arrives in `out`, encrypted where there are recipients.
    pub fn seal<W: Write>(&self, out: W) -> Result<Seal<W>, Error> {
        if self.0.is_empty() {
            return Ok(Seal::Bare(out));
        }
        let encryptor = age::Encryptor::with_recipients(self.0.iter().map(|key| key as &dyn age::Recipient));
        let encryptor = encryptor.map_err(|error| Error::Internal(format!("age: {error}")))?;
        let writer = encryptor.wrap_output(out).map_err(|error| Error::Spool(format!("the spool: {error}")))?;
        Ok(Seal::Age(writer))
    }

    /// Whether nothing is encrypted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As the manifest records it.
    pub fn packing(&self) -> Packing {
        Packing {
            compression: "zstd".to_owned(),
            level: LEVEL,
            encryption: (!self.0.is_empty()).then(|| "age".to_owned()),
            recipients: self.0.iter().map(x25519::Recipient::to_string).collect(),
        }
    }

    /// What the name of a stored object ends with.
    pub fn suffix(&self) -> &'static str {
        if self.0.is_empty() { ".rdb.zst" } else { ".rdb.zst.age" }
    }
}

/// What reads encrypted backups.
#[derive(Clone, Default)]
pub struct Identities {
    keys: Arc<[Box<dyn age::Identity + Send + Sync>]>,
    file: Option<String>,
}

impl Identities {
    /// Reads the file that age-keygen wrote; no file is no identity. Fails with [`Error::Usage`].
    pub fn read(file: Option<&Path>) -> Result<Identities, Error> {
        let Some(path) = file else { return Ok(Identities::default()) };
        let shown = path.display().to_string();
        let refuse = |why: String| Error::Usage(format!("the age identity {shown} {why}"));
        let file = File::open(path).map_err(|error| refuse(format!("cannot be read: {error}")))?;
        let parsed = age::IdentityFile::from_buffer(BufReader::new(file));
        let parsed = parsed.map_err(|error| refuse(format!("is none: {error}")))?;
        let keys = parsed.into_identities().map_err(|error| refuse(format!("is none: {error}")))?;
        if keys.is_empty() {
            return Err(refuse("has no line AGE-SECRET-KEY-1…".to_owned()));
        }
        Ok(Identities { keys: keys.into(), file: Some(shown) })
    }
}

impl Identities {
    /// What [`Recipients::seal`] sealed, if it was. `what` names it in errors.
    ///
    /// Reads the beginning. Fails with [`Error::Usage`] when no identity reads it, [`Error::Unsound`] when it is not
    /// what was sealed, and with whatever `sealed` fails with.
    pub fn unseal<'a>(&self, sealed: impl Read + 'a, encrypted: bool, what: &str) -> Result<Box<dyn Read + 'a>, Error> {
        if !encrypted {
            return Ok(Box::new(sealed));
        }
        if self.keys.is_empty() {
            return Err(Error::Usage(format!(
                "{what} is encrypted: give the identity with --identity or backup_identity_file"
            )));
        }
        let keys = self.keys.iter().map(|key| key.as_ref() as &dyn age::Identity);
        let buffered = BufReader::with_capacity(CHUNK, sealed);
        match age::Decryptor::new_buffered(buffered).and_then(|decryptor| decryptor.decrypt(keys)) {
            Ok(reader) => Ok(Box::new(reader)),
            Err(age::DecryptError::Io(error)) => Err(Error::from_io(error)),
            Err(age::DecryptError::NoMatchingKeys) => Err(Error::Usage(format!(
                "{what} is encrypted for others: the identity in {} does not read it",
                self.file.as_deref().unwrap_or("use")
            ))),
            Err(error) => Err(Error::Unsound(format!("{what} is not what was stored: {error}"))),
        }
    }
}

/// Packs `plain` (from its beginning) into `out` (at its position). `progress` hears how many plain bytes are done.
///
/// Fails with [`Error::Spool`]: both are files of this host.
pub fn pack(
    mut plain: File,
    out: File,
    recipients: &Recipients,
    progress: &mut dyn FnMut(u64),
) -> Result<Packed, Error> {
    let spool = |error: io::Error| Error::Spool(format!("the spool: {error}"));
    plain.rewind().map_err(spool)?;
    let length = plain.metadata().map_err(spool)?.len();
    let hashing = Hashing::new(BufWriter::with_capacity(CHUNK, out));
    let mut encoder = zstd::Encoder::new(recipients.seal(hashing)?, LEVEL).map_err(spool)?;
    encoder.include_checksum(true).map_err(spool)?;
    encoder.set_pledged_src_size(Some(length)).map_err(spool)?;
    let (mut hash, mut bytes) = (Sha256::new(), 0);
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = plain.read(&mut chunk).map_err(spool)?;
        if read == 0 {
            break;
        }
        hash.update(&chunk[..read]);
        encoder.write_all(&chunk[..read]).map_err(spool)?;
        bytes += read as u64;
        progress(bytes);
    }
    let mut hashing = encoder.finish().and_then(Seal::finish).map_err(spool)?;
    hashing.flush().map_err(spool)?;
    Ok(Packed {
        plain_bytes: bytes,
        plain_sha256: hex(&hash.finalize()),
        stored_bytes: hashing.bytes,
        stored_sha256: hex(&hashing.hash.finalize()),
    })
}

/// Stored bytes in, plain bytes out. The bytes it gives are only to be believed once [`Unpacker::finish`] said so.
///
/// An `io::Error` of its reads holds an [`Error`]; [`Error::from_io`] takes it out.
pub struct Unpacker<R: Read> {
    /// `None` after an error: nothing more is read from a broken chain.
    plain: Option<zstd::Decoder<'static, BufReader<Source<R>>>>,
    stored: Tap<R>,
    hash: Sha256,
    bytes: u64,
    manifest: Manifest,
}

impl<R: Read> Unpacker<R> {
    /// Begins with the first stored bytes: `stored` is the object that `manifest` is about.
    ///
    /// Fails with [`Error::Usage`] when no identity reads it, [`Error::Newer`] when it is packed in a way that is not
    /// known, [`Error::Unsound`] when it is not what was stored, and with whatever `stored` fails with.
    pub fn new(stored: R, manifest: &Manifest, identities: &Identities) -> Result<Unpacker<R>, Error> {
        let packing = &manifest.packing;
        let known = matches!(packing.encryption.as_deref(), None | Some("age")) && packing.compression == "zstd";
        if !known {
            let how = packing.encryption.as_deref().map(|name| format!(" and {name}")).unwrap_or_default();
            return Err(Error::Newer(format!(
                "backup {} is packed with {}{how}: that needs a newer switchmaster",
                manifest.id, packing.compression
            )));
        }
        let encrypted = packing.encryption.is_some();
        if encrypted && identities.keys.is_empty() {
            return Err(Error::Usage(format!(
                "backup {} is encrypted for {}: give the identity with --identity or backup_identity_file",
                manifest.id,
                packing.recipients.join(", ")
            )));
        }
        let tap = Tap::new(stored, if encrypted { AGE_HEADER_MAX } else { manifest.stored_bytes });
        let mut unpacker =
            Unpacker { plain: None, stored: tap.clone(), hash: Sha256::new(), bytes: 0, manifest: manifest.clone() };
        let source = match encrypted {
            false => Source::Bare(tap),
            true => {
                let buffered = BufReader::with_capacity(CHUNK, tap.clone());
                let keys = identities.keys.iter().map(|key| key.as_ref() as &dyn age::Identity);
                match age::Decryptor::new_buffered(buffered).and_then(|decryptor| decryptor.decrypt(keys)) {
                    Ok(reader) => Source::Age(Box::new(reader)),
                    Err(error) => return Err(unpacker.judge_header(error, identities)),
                }
            }
        };
        tap_limit(&unpacker.stored, manifest.stored_bytes);
        let decoder = zstd::Decoder::with_buffer(BufReader::with_capacity(CHUNK, source)).and_then(|mut decoder| {
            decoder.window_log_max(WINDOW_LOG_MAX)?;
            Ok(decoder)
        });
        unpacker.plain = Some(decoder.map_err(|error| Error::Internal(format!("zstd: {error}")))?);
        Ok(unpacker)
    }

    /// Reads what is left and says whether all of it, stored and plain, is what the manifest tells.
    pub fn finish(mut self) -> Result<(), Error> {
        let mut chunk = vec![0; CHUNK];
        while self.read(&mut chunk).map_err(Error::from_io)? > 0 {}
        self.check_stored()?;
        let expected = (self.manifest.plain_bytes, self.manifest.plain_sha256.as_str());
        let found = hex(&self.hash.finalize());
        match (self.bytes, found.as_str()) == expected {
            true => Ok(()),
            false => Err(Error::Unsound(format!(
                "backup {}: unpacked it has {} bytes and SHA-256 {found}, the manifest says {} and {}",
                self.manifest.id, self.bytes, expected.0, expected.1
            ))),
        }
    }

    /// Plain bytes that were given so far.
    pub fn given(&self) -> u64 {
        self.bytes
    }

    /// Reads the stored bytes to their end and compares them.
    fn check_stored(&mut self) -> Result<(), Error> {
        let (bytes, found) = self.stored.end(self.manifest.stored_bytes)?;
        match bytes == self.manifest.stored_bytes && found == self.manifest.stored_sha256 {
            true => Ok(()),
            false => Err(Error::Unsound(format!(
                "backup {}: {} is not what was stored: {} bytes with SHA-256 {found}, the manifest says {} and {}",
                self.manifest.id,
                self.manifest.object,
                if bytes > self.manifest.stored_bytes { format!("more than {}", bytes - 1) } else { bytes.to_string() },
                self.manifest.stored_bytes,
                self.manifest.stored_sha256
            ))),
        }
    }

    /// Decoding failed: because of the store, because the bytes are not those that were stored, or neither.
    fn judge(&mut self, what: &str) -> Error {
        self.plain = None;
        match self.check_stored() {
            Err(error) => error,
            Ok(()) => Error::Unsound(format!(
                "backup {}: the stored bytes are those of the manifest, but cannot be unpacked: {what}",
                self.manifest.id
            )),
        }
    }

    fn judge_header(&mut self, error: age::DecryptError, identities: &Identities) -> Error {
        tap_limit(&self.stored, self.manifest.stored_bytes);
        match (self.check_stored(), error) {
            (Err(error), _) => error,
            (Ok(()), age::DecryptError::NoMatchingKeys) => Error::Usage(format!(
                "backup {} is encrypted for {}: the identity in {} does not read it",
                self.manifest.id,
                self.manifest.packing.recipients.join(", "),
                identities.file.as_deref().unwrap_or("use")
            )),
            (Ok(()), error) => self.judge(&error.to_string()),
        }
    }
}

impl<R: Read> Read for Unpacker<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Some(plain) = &mut self.plain else { return Ok(0) };
        let read = match plain.read(into) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => return Err(io::Error::other(self.judge(&error.to_string()))),
        };
        self.hash.update(&into[..read]);
        self.bytes += read as u64;
        if self.bytes > self.manifest.plain_bytes {
            let what = format!("more than the {} plain bytes that it should hold", self.manifest.plain_bytes);
            return Err(io::Error::other(self.judge(&what)));
        }
        Ok(read)
    }
}

/// What is written into it is encrypted, where there are recipients.
pub enum Seal<W: Write> {
    /// For nobody: as it is.
    Bare(W),
    /// For the recipients.
    Age(StreamWriter<W>),
}

impl<W: Write> Seal<W> {
    /// Writes what is left; without, the end is missing.
    pub fn finish(self) -> io::Result<W> {
        match self {
            Seal::Bare(writer) => Ok(writer),
            Seal::Age(writer) => writer.finish(),
        }
    }
}

impl<W: Write> Write for Seal<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Seal::Bare(writer) => writer.write(bytes),
            Seal::Age(writer) => writer.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Seal::Bare(writer) => writer.flush(),
            Seal::Age(writer) => writer.flush(),
        }
    }
}

enum Source<R: Read> {
    Bare(Tap<R>),
    Age(Box<StreamReader<BufReader<Tap<R>>>>),
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Source::Bare(reader) => reader.read(into),
            Source::Age(reader) => reader.read(into),
        }
    }
}

/// Counts and hashes what goes through.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
    bytes: u64,
}

impl<W: Write> Hashing<W> {
    fn new(inner: W) -> Self {
        Hashing { inner, hash: Sha256::new(), bytes: 0 }
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// The stored bytes, hashed below all decoders, which give no access to what they read from.
struct Tap<R>(Arc<Mutex<Tapped<R>>>);

struct Tapped<R> {
    inner: R,
    hash: Sha256,
    bytes: u64,
    limit: u64,
    failed: Option<Error>,
}

impl<R> Clone for Tap<R> {
    fn clone(&self) -> Self {
        Tap(self.0.clone())
    }
}

impl<R> Tap<R> {
    fn new(inner: R, limit: u64) -> Self {
        Tap(Arc::new(Mutex::new(Tapped { inner, hash: Sha256::new(), bytes: 0, limit, failed: None })))
    }

    fn lock(&self) -> MutexGuard<'_, Tapped<R>> {
        self.0.lock().expect("no panic while it is held")
    }
}

fn tap_limit<R>(tap: &Tap<R>, limit: u64) {
    tap.lock().limit = limit;
}

impl<R: Read> Tap<R> {
    /// Reads to the end, or one byte beyond `most`; the count and the hash of everything.
    fn end(&self, most: u64) -> Result<(u64, String), Error> {
        tap_limit(self, most.saturating_add(1));
        let mut chunk = vec![0; CHUNK];
        let mut tap = self.clone();
        loop {
            if let Some(error) = &self.lock().failed {
                return Err(error.clone());
            }
            match tap.read(&mut chunk) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::from_io(error)),
            }
        }
        let tapped = self.lock();
        Ok((tapped.bytes, hex(&tapped.hash.clone().finalize())))
    }
}

impl<R: Read> Read for Tap<R> {
    /// Ends at the limit: a decoder that wants more finds itself cut off, and the hash tells why.
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut tapped = self.lock();
        let room = usize::try_from(tapped.limit - tapped.bytes.min(tapped.limit)).unwrap_or(usize::MAX).min(into.len());
        if room == 0 {
            return Ok(0);
        }
        let read = match tapped.inner.read(&mut into[..room]) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => {
                let error = Error::from_io(error);
                tapped.failed = Some(error.clone());
                return Err(io::Error::other(error));
            }
        };
        tapped.hash.update(&into[..read]);
        tapped.bytes += read as u64;
        Ok(read)
    }
}
