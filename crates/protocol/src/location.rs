//! Where backups are kept ([`Location`]): `s3://BUCKET/PREFIX` or `file:///DIR`, as it was written.
//!
//! Parsed without the network: whether the place exists is found out when it is opened.

use std::fmt;
use std::path::{Component, Path, PathBuf};

/// A bucket with a prefix, or a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// `s3://BUCKET/PREFIX`; the prefix has no slash at either end and may be empty.
    S3 {
        /// The bucket.
        bucket: String,
        /// What each object's name begins with.
        prefix: String,
    },
    /// `file:///DIR`, an absolute path.
    Folder(PathBuf),
}

const EXPECTED: &str = "s3://BUCKET, s3://BUCKET/PREFIX or file:///DIR";

impl Location {
    /// Reads a URL. Fails with "expected …, found …".
    pub fn parse(text: &str) -> Result<Location, String> {
        let refuse = |why: &str| Err(format!("expected {EXPECTED}, found {text:?}{why}"));
        if let Some(rest) = text.strip_prefix("s3://") {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' || c == '-';
            if !(3..=63).contains(&bucket.len()) || !bucket.chars().all(fits) {
                return refuse(": a bucket's name has 3 to 63 lowercase letters, digits, dots and hyphens");
            }
            let prefix = prefix.trim_matches('/');
            let odd = |c: char| !(c.is_ascii_alphanumeric() || "/.-_+=@".contains(c));
            if prefix.contains(odd) || prefix.split('/').any(|part| matches!(part, "." | "..")) || prefix.contains("//")
            {
                return refuse(": a prefix has letters, digits, / and .-_+=@");
            }
            return Ok(Location::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() });
        }
        if let Some(path) = text.strip_prefix("file://") {
            let path = Path::new(path);
            if !path.is_absolute() {
                return refuse(": the path must be absolute, with three slashes before it");
            }
            if path.components().any(|part| part == Component::ParentDir) {
                return refuse(": name the folder without ..");
            }
            return Ok(Location::Folder(path.components().collect()));
        }
        match text.starts_with('/') {
            true => refuse(&format!(": for a folder, write file://{text}")),
            false => refuse(""),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Location::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
            Location::Folder(path) => write!(f, "file://{}", path.display()),
        }
    }
}

impl std::str::FromStr for Location {
    type Err = String;

    fn from_str(text: &str) -> Result<Location, String> {
        Location::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_shown_as_it_is_read() {
        for (text, shown) in [
            ("s3://backups", "s3://backups"),
            ("s3://backups/", "s3://backups"),
            ("s3://my-bucket.eu/redis/prod/", "s3://my-bucket.eu/redis/prod"),
            ("file:///var/backups/", "file:///var/backups"),
            ("file:///a//b/./c", "file:///a/b/c"),
        ] {
            assert_eq!(Location::parse(text).unwrap().to_string(), shown);
        }
        for text in [
            "",
            "s3://",
            "s3://B",
            "s3://Bucket/x",
            "s3://ab",
            "s3://bucket/a//b",
            "s3://bucket/../x",
            "s3://bucket/a b",
            "file://var/backups",
            "file:///var/../etc",
            "/var/backups",
            "gs://bucket",
            "https://x",
        ] {
            assert!(Location::parse(text).unwrap_err().starts_with("expected s3://"), "{text}");
        }
        assert!(Location::parse("/var/backups").unwrap_err().contains("file:///var/backups"));
    }
}
