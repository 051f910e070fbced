//! The process environment: our own variables, those of a Laravel set-up, and what systemd hands down.
//!
//! An empty variable counts as not set, as in a compose file's `${NAME:-}`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::keys::{Draft, KEYS};
use super::laravel;
use super::layer::{Found, Layer, read_value};
use super::origin::Origin;
use super::packages;
use super::problem::Problem;
use super::suggest::{Unknown, judge, refuse_tls};
use super::value::Raw;

const PREFIX: &str = "SWITCHMASTER_";

/// `SWITCHMASTER_NAME` for each key, or `SWITCHMASTER_NAME_FILE` with the path of a file that holds the value. `foreign`:
/// variables that are perhaps of a newer version.
pub(super) fn own(
    environment: &BTreeMap<String, OsString>,
    problems: &mut Vec<Problem>,
    foreign: &mut Vec<Problem>,
) -> Layer {
    let mut layer = Layer::new();
    let mut known = vec!["CONFIG".to_owned()];
    for key in KEYS {
        let (name, file) = (key.variable(), format!("{}_FILE", key.variable()));
        let value = variable(environment, &name, problems);
        let path = variable(environment, &file, problems);
        match (value, path) {
            (Some(_), Some(_)) => problems.push(Problem::at(
                &Origin::Environment(name.clone()),
                format!("{name} and {file} are both set: unset one of the two"),
            )),
            (Some(value), None) => {
                let origin = Origin::Environment(name.clone());
                layer.insert(key.name, Found { raw: Raw::Text(value), origin, read_from: None });
            }
            (None, Some(path)) => {
                let origin = Origin::Environment(file.clone());
                if let Some(value) = read_value(Path::new(&path), &origin, &file, problems) {
                    let read_from = Some(PathBuf::from(path)).filter(|_| key.has_file());
                    layer.insert(key.name, Found { raw: Raw::Text(value), origin, read_from });
                }
            }
            (None, None) => {}
        }
        known.extend([name, file].map(|name| name[PREFIX.len()..].to_owned()));
    }
    for (name, value) in environment {
        let Some(key) = name.strip_prefix(PREFIX).filter(|key| !known.iter().any(|known| known == key)) else {
            continue;
        };
        // Kubernetes sets these for a Service that is called switchmaster.
        if name.contains("_SERVICE_") || name.contains("_PORT") {
            continue;
        }
        let at = Origin::Environment(name.clone());
        if let Some(refusal) = refuse_tls(name, value.to_str().unwrap_or_default()) {
            problems.push(Problem::at(&at, refusal));
            continue;
        }
        let found = judge(key, known.iter().map(String::as_str));
        let hint = match found {
            Unknown::Misspelt(near) | Unknown::Foreign(Some(near)) => format!("did you mean {PREFIX}{near}?"),
            Unknown::Foreign(None) => {
                "`switchmaster config print` lists every key; its variable is SWITCHMASTER_ and the key in capitals"
                    .to_owned()
            }
        };
        let is_foreign = matches!(found, Unknown::Foreign(_));
        let unknown = if is_foreign { &mut *foreign } else { &mut *problems };
        unknown.push(Problem::at(&at, format!("unknown variable {name}; {hint}")));
    }
    layer
}

/// The names that Laravel set-ups use, out of the environment.
pub(super) fn laravel(
    environment: &BTreeMap<String, OsString>,
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<Problem>,
) -> Layer {
    let mut layer = Layer::new();
    for key in KEYS {
        let Some(name) = key.laravel else { continue };
        if let Some(value) = variable(environment, name, problems).and_then(laravel::meaning) {
            let origin = Origin::Environment(name.to_owned());
            layer.insert(key.name, Found { raw: Raw::Text(value), origin, read_from: None });
        }
    }
    let variables = environment.iter().filter(|(name, _)| !name.starts_with(PREFIX)).filter_map(|(name, value)| {
        let value = laravel::meaning(value.to_str()?.to_owned())?;
        Some((name.clone(), (value, Origin::Environment(name.clone()))))
    });
    packages::fill(&mut layer, &variables.collect(), warnings);
    layer
}

/// `STATE_DIRECTORY`, which systemd sets for every unit that has one, and the variables that other programs share with
/// this one: they yield to whatever the operator wrote for switchmaster, and one that is no value here is nobody's mistake.
pub(super) fn inherited(environment: &BTreeMap<String, OsString>) -> Layer {
    let mut layer = Layer::new();
    let directories = environment.get("STATE_DIRECTORY").and_then(|value| value.to_str()).unwrap_or_default();
    if let Some(first) = directories.split(':').next().filter(|first| !first.is_empty()) {
        let origin = Origin::Environment("STATE_DIRECTORY".to_owned());
        layer.insert("state_dir", Found { raw: Raw::Text(first.to_owned()), origin, read_from: None });
    }
    for key in KEYS {
        let set = key.usual.iter().find_map(|name| Some((*name, variable(environment, name, &mut Vec::new())?)));
        let found = set.map(|(name, value)| (Origin::Environment(name.to_owned()), Raw::Text(value)));
        if let Some((origin, raw)) = found.filter(|(_, raw)| (key.set)(&mut Draft::default(), raw).is_ok()) {
            layer.insert(key.name, Found { raw, origin, read_from: None });
        }
    }
    layer
}

fn variable(environment: &BTreeMap<String, OsString>, name: &str, problems: &mut Vec<Problem>) -> Option<String> {
    match environment.get(name)?.to_str() {
        Some(value) => Some(value.to_owned()).filter(|value| !value.is_empty()),
        None => {
            problems.push(Problem::at(&Origin::Environment(name.to_owned()), "the value is not UTF-8 text"));
            None
        }
    }
}
