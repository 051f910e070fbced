//! `config print`: the whole configuration as TOML that parses again, with each value's origin behind it.
//!
//! A password is never written out. A masked one is a comment, so that `***` is never taken for a password.

use super::keys::{KEYS, path};
use super::origin::Origin;
use super::sources::Loaded;

impl Loaded {
    /// What came out of the variables of a Laravel set-up, as [`Loaded::print`] shows it.
    pub fn understood(&self) -> String {
        let mut lines = print_if(self, Origin::is_laravel);
        if !self.laravel_unused.is_empty() {
            lines += &format!("# without effect here: {}\n", self.laravel_unused.join(", "));
        }
        lines
    }

    /// The whole configuration as TOML that parses again: secrets masked, each value's origin behind it.
    pub fn print(&self) -> String {
        format!("# What switchmaster runs on, and where each value came from.\n{}", print_if(self, |_| true))
    }
}

/// A line for each key whose value is from such a place.
fn print_if(loaded: &Loaded, wanted: impl Fn(&Origin) -> bool) -> String {
    let mut lines = Vec::new();
    for key in KEYS {
        let origin = &loaded.origins[key.name];
        if !wanted(origin) {
            continue;
        }
        let account = key.name.strip_suffix("_username");
        let of_masked = account.is_some_and(|account| {
            let password = format!("{account}_password");
            key.show(&loaded.draft).is_some() && !loaded.draft.read_from.contains_key(password.as_str())
        });
        let line = match (key.show(&loaded.draft), loaded.draft.read_from.get(key.name)) {
            (Some(_), Some(file)) => format!("{}_file = {}", key.name, path(file)),
            (Some(value), None) if key.is_secret() || of_masked => format!("# {} = {value}", key.name),
            (Some(value), None) => format!("{} = {value}", key.name),
            (None, _) => format!("# {} is not set", key.name),
        };
        lines.push(format!("{line}  # {origin}\n"));
    }
    lines.concat()
}
