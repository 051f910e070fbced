//! A Laravel `.env`, read as vlucas/phpdotenv and Laravel's `env()` read it, for the few names that concern Redis.
//!
//! Lines about anything else are never an error here: they are the application's business. What Sentinel packages call
//! these names is in `packages.rs`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use super::keys::KEYS;
use super::layer::{Found, Layer};
use super::origin::Origin;
use super::packages::{self, Variables};
use super::problem::Problem;
use super::value::Raw;

/// Every variable of the `.env` at `path` (or in that directory) that has a value, as Laravel's `env()` has it. Secrets are
/// among them.
///
/// # Errors
/// When it cannot be read; lines that cannot are left out.
pub fn variables(path: &Path) -> std::io::Result<BTreeMap<String, String>> {
    let environment = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value))).collect();
    let text = std::fs::read_to_string(file(path))?;
    let entries = parse(&text, &environment).into_iter();
    Ok(entries.filter_map(|entry| Some((entry.name, meaning(entry.value.ok()?)?))).collect())
}

fn file(path: &Path) -> std::path::PathBuf {
    if path.is_dir() { path.join(".env") } else { path.to_owned() }
}

/// Reads the `.env` at `path` (or in that directory), which `named_by` asked for; the names about Redis in it that have no
/// effect go into `unused`.
pub(super) fn read(
    path: &Path,
    named_by: &Origin,
    environment: &BTreeMap<String, OsString>,
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<Problem>,
    unused: &mut Vec<String>,
) -> Layer {
    let path = file(path);
    let text = match std::fs::read(&path).map(String::from_utf8) {
        Ok(Ok(text)) => text,
        Ok(Err(_)) => {
            problems.push(Problem::at(named_by, format!("the Laravel .env {} is not UTF-8 text", path.display())));
            return Layer::new();
        }
        Err(error) => {
            let message = format!("the Laravel .env {} cannot be read: {error}", path.display());
            problems.push(Problem::at(named_by, message));
            return Layer::new();
        }
    };
    let mut layer = Layer::new();
    let mut variables = Variables::new();
    for entry in parse(&text, environment) {
        let key = KEYS.iter().find(|key| key.laravel == Some(entry.name.as_str()));
        let origin = Origin::Laravel { path: path.clone(), line: entry.line };
        match (entry.value, key) {
            (Err(why), key) if key.is_some() || packages::is_known(&entry.name) => {
                problems.push(Problem::at(&origin, format!("{}: {why}", entry.name)));
            }
            (Err(_), _) => {}
            // The last line about a name counts.
            (Ok(value), key) => match meaning(value) {
                Some(value) => {
                    if let Some(key) = key {
                        let (raw, origin) = (Raw::Text(value.clone()), origin.clone());
                        layer.insert(key.name, Found { raw, origin, read_from: None });
                    }
                    variables.insert(entry.name, (value, origin));
                }
                None => {
                    key.map(|key| layer.remove(key.name));
                    variables.remove(&entry.name);
                }
            },
        }
    }
    packages::fill(&mut layer, &variables, warnings);
    let is_used = |origin: &Origin| layer.values().any(|found| found.origin == *origin);
    let about_redis = |name: &str| name.starts_with("REDIS_") || name.to_ascii_uppercase().contains("SENTINEL");
    let idle = variables
        .iter()
        .filter(|(name, (_, origin))| about_redis(name) && !is_used(origin) && !packages::is_known(name));
    unused.extend(idle.map(|(name, _)| name.clone()));
    layer
}

/// What Laravel's `env()` makes of a value: `null`, `(null)`, `empty` and `(empty)` are none, quotes around it go.
pub(super) fn meaning(value: String) -> Option<String> {
    match value.to_ascii_lowercase().as_str() {
        "" | "null" | "(null)" | "empty" | "(empty)" => return None,
        _ => {}
    }
    for quote in ['"', '\''] {
        if let Some(inner) = value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)) {
            return Some(inner.to_owned()).filter(|inner| !inner.is_empty());
        }
    }
    Some(value)
}

/// One `NAME=value` with the line it begins at.
#[derive(Debug, PartialEq)]
struct Entry {
    name: String,
    line: usize,
    value: Result<String, &'static str>,
}

fn parse(text: &str, environment: &BTreeMap<String, OsString>) -> Vec<Entry> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines: Vec<&str> = text.lines().collect();
    let mut entries: Vec<Entry> = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let line = at + 1;
        let first = lines[at].trim();
        at += 1;
        let Some((name, value)) = first.split_once('=').filter(|_| !first.starts_with('#')) else {
            continue;
        };
        let name = name.trim();
        let name = name.strip_prefix("export").filter(|rest| rest.starts_with(char::is_whitespace)).unwrap_or(name);
        let name = name.trim().trim_matches(['"', '\'']).to_owned();

        // A double-quoted value may go on over further lines; one that never ends is an error of its first line.
        let mut whole = value.trim().to_owned();
        let mut next = at;
        let mut value = unquote(&whole);
        while value == Err(UNCLOSED) && whole.starts_with('"') && next < lines.len() {
            whole.push('\n');
            whole.push_str(lines[next]);
            next += 1;
            value = unquote(&whole);
        }
        match value {
            Ok(_) => at = next,
            // It only seemed to close, at the opening quote of a later line.
            Err(_) if next > at => value = Err(UNCLOSED),
            Err(_) => {}
        }
        let value = value.map(|pieces| {
            let earlier = |wanted: &str| match environment.get(wanted) {
                Some(value) => value.to_str().map(str::to_owned),
                None => entries.iter().rfind(|entry| entry.name == wanted)?.value.clone().ok(),
            };
            pieces.into_iter().map(|piece| piece.expand(&earlier)).collect()
        });
        entries.push(Entry { name, line, value });
    }
    entries
}

const UNCLOSED: &str = "the closing quote is missing";

/// A piece of a value: text as it is, or `${NAME}`.
#[derive(Debug, PartialEq)]
enum Piece {
    Text(String),
    Variable(String),
}

impl Piece {
    /// A variable that is not defined stays as it was written.
    fn expand(self, lookup: &impl Fn(&str) -> Option<String>) -> String {
        match self {
            Piece::Text(text) => text,
            Piece::Variable(name) => lookup(&name).unwrap_or_else(|| format!("${{{name}}}")),
        }
    }
}

/// The pieces of a value: bare to the first white space or `#`, verbatim in single quotes, with escapes in double
/// ones; behind it only a comment.
fn unquote(value: &str) -> Result<Vec<Piece>, &'static str> {
    let mut pieces = Vec::new();
    let rest = match value.chars().next() {
        Some('\'') => {
            let (inner, rest) = value[1..].split_once('\'').ok_or(UNCLOSED)?;
            pieces.push(Piece::Text(inner.to_owned()));
            rest
        }
        Some('"') => double_quoted(&value[1..], &mut pieces)?,
        _ => {
            let end = value.find(|c: char| c == '#' || c.is_whitespace()).unwrap_or(value.len());
            let mut bare = &value[..end];
            while let Some(c) = bare.chars().next() {
                bare = take(bare, c, &mut pieces);
            }
            &value[end..]
        }
    };
    match rest.trim_start() {
        "" => Ok(pieces),
        comment if comment.starts_with('#') => Ok(pieces),
        _ => Err("text follows the value; put a value with spaces in quotes"),
    }
}

fn double_quoted<'a>(mut rest: &'a str, pieces: &mut Vec<Piece>) -> Result<&'a str, &'static str> {
    loop {
        let c = rest.chars().next().ok_or(UNCLOSED)?;
        match c {
            '"' => return Ok(&rest[1..]),
            '\\' => {
                let escaped = rest[1..].chars().next().ok_or(UNCLOSED)?;
                let meant = match escaped {
                    '"' | '\\' | '$' => escaped,
                    'f' => '\x0c',
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    'v' => '\x0b',
                    _ => {
                        return Err("a backslash before this character means nothing; write two for one");
                    }
                };
                push(pieces, meant);
                rest = &rest[1 + escaped.len_utf8()..];
            }
            c => rest = take(rest, c, pieces),
        }
    }
}

/// Takes `c`, the first character of `rest`, or the whole `${NAME}` that it begins; returns what is behind.
fn take<'a>(rest: &'a str, c: char, pieces: &mut Vec<Piece>) -> &'a str {
    let variable = rest.strip_prefix("${").and_then(|inner| inner.split_once('}'));
    let fits = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.".contains(&b));
    match variable {
        Some((name, behind)) if fits(name) => {
            pieces.push(Piece::Variable(name.to_owned()));
            behind
        }
        _ => {
            push(pieces, c);
            &rest[c.len_utf8()..]
        }
    }
}

fn push(pieces: &mut Vec<Piece>, c: char) {
    match pieces.last_mut() {
        Some(Piece::Text(text)) => text.push(c),
        _ => pieces.push(Piece::Text(c.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Result<String, &'static str> {
        let environment = BTreeMap::from([("HOME_HOST".to_owned(), OsString::from("10.0.0.9"))]);
        parse(text, &environment).pop().expect("an entry").value
    }

    #[test]
    fn values_are_read_as_phpdotenv_reads_them() {
        for (text, expected) in [
            ("A=plain", "plain"),
            ("A = spaced ", "spaced"),
            ("export A=exported", "exported"),
            ("A=pass#word", "pass"),
            ("A=value # a comment", "value"),
            ("A='single # $x ${Y} \\n'", "single # $x ${Y} \\n"),
            ("A=\"double \\\"quoted\\\" \\\\ \\$x\\n\" # c", "double \"quoted\" \\ $x\n"),
            ("A=\"two\nlines\"", "two\nlines"),
            ("A=back\\slash", "back\\slash"),
            ("B=b\nA=${B}/${HOME_HOST}/${NOBODY}", "b/10.0.0.9/${NOBODY}"),
            ("B=b\nA=\"${B}-\\${B}\"", "b-${B}"),
            ("A=", ""),
            ("A=ab\"c'd", "ab\"c'd"),
            ("A=$x", "$x"),
            ("\u{feff}A=bom\r\n", "bom"),
        ] {
            assert_eq!(value(text).as_deref(), Ok(expected), "{text}");
        }
        for text in ["A=\"open", "A='open", "A=two words", "A='a'b", "A=\"\\x\""] {
            assert!(value(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_open_quote_costs_its_own_line_only() {
        let entries = parse("A=\"open\nB=\"b\"\n# C=c\n\nnonsense\nD=d", &BTreeMap::new());
        let names: Vec<(&str, usize)> = entries.iter().map(|entry| (entry.name.as_str(), entry.line)).collect();
        assert_eq!(names, [("A", 1), ("B", 2), ("D", 6)]);
    }

    #[test]
    fn null_and_empty_are_none() {
        for text in ["", "null", "NULL", "(null)", "empty", "(empty)", "''"] {
            assert_eq!(meaning(text.to_owned()), None, "{text}");
        }
        assert_eq!(meaning("'x'".to_owned()).as_deref(), Some("x"));
    }
}
