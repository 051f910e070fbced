//! What one source says ([`Layer`]): a raw value for each key that it names, and where it was found.
//!
//! Nothing is interpreted yet, and no layer knows another.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::origin::Origin;
use super::problem::Problem;
use super::value::Raw;

/// What one source says.
pub(super) type Layer = BTreeMap<&'static str, Found>;

/// A value where it was found.
#[derive(Clone)]
pub(super) struct Found {
    pub raw: Raw,
    pub origin: Origin,
    /// The file of its own that it was read from (`…_file`).
    pub read_from: Option<PathBuf>,
}

/// What a value's own file holds, without the line break at its end.
pub(super) fn read_value(path: &Path, origin: &Origin, key: &str, problems: &mut Vec<Problem>) -> Option<String> {
    let mut refuse = |why: String| {
        problems.push(Problem::at(origin, format!("{key}: {} {why}", path.display())));
        None
    };
    match std::fs::read(path) {
        Err(error) => refuse(format!("cannot be read: {error}")),
        Ok(bytes) => match String::from_utf8(bytes) {
            Err(_) => refuse("is not UTF-8 text".to_owned()),
            Ok(text) => match text.strip_suffix('\n').map_or(text.as_str(), |t| t.strip_suffix('\r').unwrap_or(t)) {
                "" => refuse("is empty".to_owned()),
                text => Some(text.to_owned()),
            },
        },
    }
}
