//! A secret: shown as `***`, wiped from memory when dropped. What clients send is bytes, and need not be text.

use std::fmt;
use zeroize::Zeroizing;

/// A password or other secret. `Debug` and `Display` mask it; the memory is zeroed on drop.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Wraps bytes, or a text.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Secret(Zeroizing::new(bytes.into()))
    }

    /// The secret itself, for the one place that sends it.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The same of a secret that was configured, which is text; of any other nothing.
    pub fn reveal(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A password with, for an ACL user, its name. No user name means the `default` user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The ACL user; `None` sends `AUTH password`.
    pub username: Option<Vec<u8>>,
    /// The password.
    pub password: Secret,
}

impl Credentials {
    /// The words of the AUTH that sends them.
    pub fn auth(&self) -> Vec<&[u8]> {
        let words = [Some(&b"AUTH"[..]), self.username.as_deref(), Some(self.password.bytes())];
        words.into_iter().flatten().collect()
    }
}
