//! The configuration file: TOML to one value per key, each with its line; unknown keys are refused.
//!
//! Relative paths in the file are relative to the file.

use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::environment::read_value;
use super::keys::{KEYS, Key};
use super::origin::Origin;
use super::problem::Problem;
use super::sources::{Found, Layer};
use super::value::Raw;

/// Reads the file at `path`, which `named_by` asked for; nobody did when it is the default one.
pub(super) fn read(path: &Path, named_by: Option<&Origin>, problems: &mut Vec<Problem>) -> Layer {
    let at = |line, column| Origin::File { path: path.to_owned(), line, column };
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) => {
            let message = format!("the configuration file {} cannot be read: {error}", path.display());
            problems.push(Problem { origin: named_by.cloned(), message });
            return Layer::new();
        }
    };
    let text = match std::str::from_utf8(&bytes) {
        Ok(text) => text,
        Err(error) => {
            let (line, column) = position(&String::from_utf8_lossy(&bytes[..error.valid_up_to()]), usize::MAX);
            problems.push(Problem::at(&at(line, column), "the file is not UTF-8 text; save it as UTF-8"));
            return Layer::new();
        }
    };
    let table = match DeTable::parse(text) {
        Ok(table) => table,
        Err(error) => {
            let (line, column) = position(text, error.span().map_or(0, |span| span.start));
            let why = error.message().replace('\n', ", ");
            problems.push(Problem::at(&at(line, column), format!("not valid TOML: {why}")));
            return Layer::new();
        }
    };
    let mut entries: Vec<_> = table.get_ref().iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);

    let directory = path.parent().unwrap_or(Path::new(""));
    let mut layer = Layer::new();
    for (name, value) in entries {
        let origin_of = |span: std::ops::Range<usize>| {
            let (line, column) = position(text, span.start);
            at(line, column)
        };
        let (name_at, name) = (origin_of(name.span()), name.get_ref().as_ref());
        // A section's value has no place of its own.
        let origin = if value.get_ref().is_table() { name_at.clone() } else { origin_of(value.span()) };
        if let Some(key) = KEYS.iter().find(|key| key.name == name) {
            let raw = match raw(value) {
                Raw::Text(text) if key.is_path() && !text.is_empty() => {
                    Raw::Text(directory.join(text).display().to_string())
                }
                raw => raw,
            };
            put(&mut layer, key, Found { raw, origin, read_from: None }, problems);
        } else if let Some(key) = KEYS.iter().find(|key| key.has_file() && name.strip_suffix("_file") == Some(key.name))
        {
            match raw(value) {
                Raw::Text(file) if !file.is_empty() => {
                    let file = directory.join(file);
                    if let Some(value) = read_value(&file, &origin, name, problems) {
                        put(&mut layer, key, Found { raw: Raw::Text(value), origin, read_from: Some(file) }, problems);
                    }
                }
                Raw::Text(_) => {}
                _ => problems.push(Problem::at(&origin, format!("{name}: expected the path of a file in quotes"))),
            }
        } else {
            problems.push(Problem::at(&name_at, unknown(name, value.get_ref())));
        }
    }
    layer
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

fn unknown(name: &str, value: &DeValue<'_>) -> String {
    if let DeValue::Table(table) = value {
        let flat = table.keys().map(|inner| format!("{name}_{}", inner.get_ref()));
        if let Some(key) = flat.into_iter().find(|flat| KEYS.iter().any(|key| key.name == flat)) {
            return format!(
                "unknown section [{name}]: there are no sections; did you mean {key} at the top of the file?"
            );
        }
    }
    let files: Vec<String> = KEYS.iter().filter(|key| key.has_file()).map(|key| format!("{}_file", key.name)).collect();
    let known = KEYS.iter().map(|key| key.name).chain(files.iter().map(String::as_str));
    match nearest(name, known) {
        Some(near) => format!("unknown key {name}; did you mean {near}?"),
        None => format!("unknown key {name}; `switchmaster config print` lists every key"),
    }
}

/// The name among `known` that `name` most likely meant, if any is near.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_ascii_lowercase().replace('-', "_");
    let score = |candidate: &str| {
        let (a, b) = (plain(name), plain(candidate));
        let part = a.len() > 3 && b.contains(&a);
        let similar = strsim::normalized_damerau_levenshtein(&a, &b);
        if part { similar.max(0.6) } else { similar }
    };
    let scored = known.map(|candidate| (score(candidate), candidate));
    scored.filter(|(score, _)| *score >= 0.6).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, candidate)| candidate)
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
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset.min(text.len())).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}
