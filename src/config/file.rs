//! The configuration file: TOML to one value per key, each with its line. An unknown key is a mistake where it looks like
//! one, and else reported beside them, as one of a newer version.
//!
//! Relative paths in the file are relative to the file.

use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{KEYS, Key};
use super::layer::{Found, Layer, read_value};
use super::origin::Origin;
use super::problem::Problem;
use super::suggest::{Unknown, judge, refuse_tls};
use super::value::Raw;

/// Reads the file at `path`, which `named_by` asked for; nobody did when it is the default one. `foreign`: its keys that are
/// perhaps of a newer version.
pub(super) fn read(
    path: &Path,
    named_by: Option<&Origin>,
    problems: &mut Vec<Problem>,
    foreign: &mut Vec<Problem>,
) -> Layer {
    let text = match text(path, named_by) {
        Ok(text) => text,
        Err(problem) => {
            problems.push(problem);
            return Layer::new();
        }
    };
    let at = |offset| origin(path, &text, offset);
    let table = match DeTable::parse(&text) {
        Ok(table) => table,
        Err(error) => {
            let why = error.message().replace('\n', ", ");
            problems
                .push(Problem::at(&at(error.span().map_or(0, |span| span.start)), format!("not valid TOML: {why}")));
            return Layer::new();
        }
    };
    let mut entries: Vec<_> = table.get_ref().iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);

    let mut layer = Layer::new();
    for (name, value) in entries {
        let (name_at, name) = (at(name.span().start), name.get_ref().as_ref());
        // A section's value has no place of its own.
        let origin = if value.get_ref().is_table() { name_at.clone() } else { at(value.span().start) };
        let directory = path.parent().unwrap_or(Path::new(""));
        if let Some(key) = KEYS.iter().find(|key| key.name == name) {
            let raw = match raw(value) {
                Raw::Text(text) if key.is_path && !text.is_empty() => {
                    Raw::Text(directory.join(text).display().to_string())
                }
                raw => raw,
            };
            put(&mut layer, key, Found { raw, origin, read_from: None }, problems);
        } else if let Some(key) = KEYS.iter().find(|key| key.has_file() && name.strip_suffix("_file") == Some(key.name))
        {
            let found = from_own_file(raw(value), directory, origin, name, problems);
            found.into_iter().for_each(|found| put(&mut layer, key, found, problems));
        } else {
            match unknown(name, value.get_ref()) {
                Ok(message) => foreign.push(Problem::at(&name_at, message)),
                Err(message) => problems.push(Problem::at(&name_at, message)),
            }
        }
    }
    layer
}

/// The value of `name`, which is a `…_file`; nothing where the path is empty.
fn from_own_file(raw: Raw, directory: &Path, origin: Origin, name: &str, problems: &mut Vec<Problem>) -> Option<Found> {
    match raw {
        Raw::Text(file) if !file.is_empty() => {
            let file = directory.join(file);
            let value = read_value(&file, &origin, name, problems)?;
            Some(Found { raw: Raw::Text(value), origin, read_from: Some(file) })
        }
        Raw::Text(_) => None,
        _ => {
            problems.push(Problem::at(&origin, format!("{name}: expected the path of a file in quotes")));
            None
        }
    }
}

fn text(path: &Path, named_by: Option<&Origin>) -> Result<String, Problem> {
    let bytes = std::fs::read(path).map_err(|error| {
        let message = format!("the configuration file {} cannot be read: {error}", path.display());
        Problem { origin: named_by.cloned(), message }
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let at = origin(path, &String::from_utf8_lossy(valid), usize::MAX);
        Problem::at(&at, "the file is not UTF-8 text; save it as UTF-8")
    })
}

fn put(layer: &mut Layer, key: &'static Key, found: Found, problems: &mut Vec<Problem>) {
    if let Some(other) = layer.get(key.name) {
        let message =
            format!("{0} and {0}_file are both set (the other: {1}): leave one of the two", key.name, other.origin);
        problems.push(Problem::at(&found.origin, message));
        return;
    }
    layer.insert(key.name, found);
}

/// What to say of an unknown key; `Err` where it is a mistake.
fn unknown(name: &str, value: &DeValue<'_>) -> Result<String, String> {
    if let DeValue::Table(table) = value {
        let flat = table.keys().map(|inner| format!("{name}_{}", inner.get_ref()));
        if let Some(key) = flat.into_iter().find(|flat| KEYS.iter().any(|key| key.name == flat)) {
            return Err(format!(
                "unknown section [{name}]: there are no sections; did you mean {key} at the top of the file?"
            ));
        }
    }
    let text = if let DeValue::String(text) = value { text.as_ref() } else { "" };
    if let Some(refusal) = refuse_tls(name, text) {
        return Err(refusal);
    }
    let files: Vec<String> = KEYS.iter().filter(|key| key.has_file()).map(|key| format!("{}_file", key.name)).collect();
    let known = KEYS.iter().map(|key| key.name).chain(files.iter().map(String::as_str));
    match judge(name, known) {
        Unknown::Misspelt(near) => Err(format!("unknown key {name}; did you mean {near}?")),
        Unknown::Foreign(Some(near)) => Ok(format!("unknown key {name}; did you mean {near}?")),
        Unknown::Foreign(None) => Ok(format!("unknown key {name}; `switchmaster config print` lists every key")),
    }
}

fn raw(value: &Spanned<DeValue<'_>>) -> Raw {
    match value.get_ref() {
        DeValue::String(text) => Raw::Text(text.to_string()),
        DeValue::Integer(number) => integer(number).map_or(Raw::Other("a number out of range"), Raw::Integer),
        DeValue::Boolean(flag) => Raw::Bool(*flag),
        DeValue::Float(_) => Raw::Other("a number with a decimal point"),
        DeValue::Datetime(_) => Raw::Other("a date"),
        DeValue::Array(items) => {
            let texts = items.iter().map(|item| match item.get_ref() {
                DeValue::String(text) => Some(text.to_string()),
                DeValue::Integer(number) => integer(number),
                _ => None,
            });
            texts.collect::<Option<_>>().map_or(Raw::Other("a list of something else"), Raw::List)
        }
        DeValue::Table(table) => {
            let pairs = table.iter().map(|(name, value)| match value.get_ref() {
                DeValue::String(text) => Some((name.get_ref().to_string(), text.to_string())),
                _ => None,
            });
            pairs.collect::<Option<_>>().map_or(Raw::Other("a table of something else"), Raw::Table)
        }
    }
}

fn integer(number: &toml::de::DeInteger<'_>) -> Option<String> {
    i64::from_str_radix(number.as_str(), number.radix()).ok().map(|number| number.to_string())
}

/// Line and column, from 1, of the byte at `offset`; columns count characters.
fn origin(path: &Path, text: &str, offset: usize) -> Origin {
    let before = text.get(..offset.min(text.len())).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let (line, column) = (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1);
    Origin::File { path: path.to_owned(), line, column }
}
