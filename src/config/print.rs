//! `config print`: the whole configuration as TOML that parses again, with each value's origin behind it.
//!
//! A password is never written out. A masked one is a comment, so that `***` is never taken for a password.

use super::keys::{KEYS, path};
use super::sources::Loaded;

pub(super) fn print(loaded: &Loaded) -> String {
    let mut lines = vec!["# What switchmaster runs on, and where each value came from.".to_owned()];
    for key in KEYS {
        let origin = &loaded.origins[key.name];
        let account = key.name.strip_suffix("_username");
        let of_masked = account.is_some_and(|account| {
            let password = format!("{account}_password");
            (key.show)(&loaded.draft).is_some() && !loaded.draft.read_from.contains_key(password.as_str())
        });
        let line = match ((key.show)(&loaded.draft), loaded.draft.read_from.get(key.name)) {
            (Some(_), Some(file)) => format!("{}_file = {}", key.name, path(file)),
            (Some(value), None) if key.secret || of_masked => format!("# {} = {value}", key.name),
            (Some(value), None) => format!("{} = {value}", key.name),
            (None, _) => format!("# {} is not set", key.name),
        };
        lines.push(format!("{line}  # {origin}"));
    }
    lines.push(String::new());
    lines.join("\n")
}
