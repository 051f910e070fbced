//! The layout of the sources is what lib.rs says it is.
//!
//! Reads text and runs nothing. Every check asserts that it saw files, so that a moved folder is no silent pass.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A file in `src` may have this many lines.
const MOST_LINES: usize = 600;

/// Longer files, each with its reason.
const LONGER: &[(&str, &str)] = &[
    ("src/resp/table.rs", "one line for each command"),
    ("src/sentinel/view/tests.rs", "the decision's own scenarios, one after the other"),
];

/// Rooms that import no other room of the crate, but for those listed.
const LEAVES: &[(&str, &[&str])] = &[
    ("src/topology.rs", &["secret"]),
    ("src/drain.rs", &[]),
    ("src/net", &["net"]),
    ("src/metrics.rs", &[]),
    ("src/secret.rs", &[]),
    ("src/resp", &["resp"]),
];

/// Names that say nothing, and become drawers for everything.
const BANNED: &[&str] = &["util", "utils", "helper", "helpers", "common", "shared", "constants", "misc"];

/// Every source below `folders`, by its path from the root.
fn sources(folders: &[&str]) -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders: Vec<PathBuf> = folders.iter().map(|folder| root.join(folder)).collect();
    let mut found = BTreeMap::new();
    while let Some(path) = folders.pop() {
        if path.is_dir() {
            folders.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            found.insert(name, fs::read_to_string(&path).unwrap());
        }
    }
    found
}

/// The lines of code: without comments, and without the tests at the end of a file.
fn code(text: &str) -> impl Iterator<Item = &str> {
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    text[..end].lines().map(str::trim).filter(|line| !line.starts_with("//"))
}

/// The rooms of the crate that a file names: `crate::admin::…` is `admin`.
fn rooms(text: &str) -> Vec<String> {
    let mut rooms = Vec::new();
    for line in code(text) {
        for (at, _) in line.match_indices("crate::") {
            // `$crate::` and the like are part of no import of ours.
            if line[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_') {
                continue;
            }
            let rest = &line[at + "crate::".len()..];
            let names: Vec<&str> = match rest.strip_prefix('{') {
                Some(group) => group.split('}').next().unwrap_or_default().split(',').collect(),
                None => vec![rest],
            };
            let word =
                |name: &str| name.trim().split(|c: char| !c.is_alphanumeric() && c != '_').next().map(str::to_owned);
            rooms.extend(names.into_iter().filter_map(word).filter(|room| !room.is_empty()));
        }
    }
    rooms
}

/// The files of `all` that are `place` or lie in it.
fn within<'a>(all: &'a BTreeMap<String, String>, place: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    let found: Vec<_> = all
        .iter()
        .filter(|(name, _)| *name == place || name.starts_with(&format!("{place}/")))
        .map(|(name, text)| (name.as_str(), text.as_str()))
        .collect();
    assert!(!found.is_empty(), "nothing at {place}");
    found.into_iter()
}

fn nothing_wrong(wrong: &[String]) {
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_file_opens_with_what_it_is() {
    let folders: Vec<&str> = ["src", "tests", "benches"].into_iter().filter(|folder| exists(folder)).collect();
    let all = sources(&folders);
    assert!(all.len() > 60, "only {} files were seen", all.len());
    let wrong: Vec<String> = all
        .iter()
        .filter(|(_, text)| !text.starts_with("//! "))
        .map(|(name, _)| format!("{name}: no //! line"))
        .collect();
    nothing_wrong(&wrong);
}

#[test]
fn the_planes_do_not_import_each_other_and_leaves_import_nothing() {
    let all = sources(&["src"]);
    let (control, data) = (["sentinel", "admin"], ["listener", "session"]);
    let planes = [("src/sentinel", data), ("src/admin", data), ("src/listener.rs", control), ("src/session", control)];
    let mut wrong = Vec::new();
    let mut imports = 0;
    for (place, forbidden) in planes {
        for (name, text) in within(&all, place) {
            for room in rooms(text) {
                imports += 1;
                if forbidden.contains(&room.as_str()) {
                    wrong.push(format!("{name} imports {room}, of the other plane"));
                }
            }
        }
    }
    assert!(imports > 50, "only {imports} imports were seen");
    for (place, allowed) in LEAVES {
        for (name, text) in within(&all, place) {
            let others = rooms(text).into_iter().filter(|room| !allowed.contains(&room.as_str()));
            wrong.extend(others.map(|room| format!("{name} is a leaf and imports {room}")));
        }
    }
    nothing_wrong(&wrong);
}

#[test]
fn one_file_uses_the_redis_crate_and_one_names_metrics() {
    let all = sources(&["src"]);
    let mut wrong = Vec::new();
    let (mut redis, mut names) = (0, 0);
    for (name, text) in &all {
        let uses_redis = code(text).any(|line| line.starts_with("use redis::") || line.contains(" redis::"));
        redis += usize::from(uses_redis);
        if uses_redis && name != "src/sentinel/client.rs" && !name.starts_with("src/sentinel/client/") {
            wrong.push(format!("{name} uses the redis crate"));
        }
        let quoted = |line: &&str| line.contains("\"switchmaster_");
        let named = code(text).filter(quoted).filter(|line| !line.contains("starts_with(")).count();
        names += named;
        if named > 0 && name != "src/metrics.rs" {
            wrong.push(format!("{name} has a metric's name as a string"));
        }
    }
    assert!(redis > 0 && names > 20, "redis in {redis} files, {names} metrics");
    nothing_wrong(&wrong);
}

#[test]
fn files_are_short_and_have_names() {
    let all = sources(&["src", "tests"]);
    let mut wrong = Vec::new();
    for (name, text) in &all {
        let lines = text.lines().count();
        let excused = LONGER.iter().any(|(longer, _)| longer == name);
        if name.starts_with("src/") && lines > MOST_LINES && !excused {
            wrong.push(format!("{name} has {lines} lines"));
        }
        let path = Path::new(name);
        let words = path.components().map(|part| part.as_os_str().to_string_lossy().into_owned());
        let words: Vec<String> = words.map(|word| word.trim_end_matches(".rs").to_owned()).collect();
        wrong.extend(words.iter().filter(|word| BANNED.contains(&word.as_str())).map(|word| format!("{name}: {word}")));
    }
    for (name, reason) in LONGER {
        assert!(!reason.is_empty());
        match all.get(*name) {
            Some(text) if text.lines().count() > MOST_LINES => {}
            _ => wrong.push(format!("{name} needs no excuse (any more)")),
        }
    }
    assert!(all.len() > 60, "only {} files were seen", all.len());
    nothing_wrong(&wrong);
}

#[test]
fn the_rooms_that_lib_names_exist_and_no_other() {
    let all = sources(&["src"]);
    let lib = &all["src/lib.rs"];
    let declared: Vec<&str> = lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    assert!(declared.len() > 10, "only {} rooms were seen", declared.len());
    let mut wrong = Vec::new();
    for room in &declared {
        if !all.contains_key(&format!("src/{room}.rs")) && !all.contains_key(&format!("src/{room}/mod.rs")) {
            wrong.push(format!("{room} has no file"));
        }
    }
    for name in all.keys() {
        let room = name.trim_start_matches("src/").split('/').next().unwrap_or_default().trim_end_matches(".rs");
        if !declared.contains(&room) && room != "lib" && room != "main" {
            wrong.push(format!("{name} is in no room of lib.rs"));
        }
    }
    // The map at the top of lib.rs speaks of rooms by their names.
    for room in ["listener", "session", "resp", "topology", "sentinel", "admin", "metrics"] {
        let shown = lib.lines().filter(|line| line.starts_with("//!")).any(|line| line.contains(room));
        if !shown || !declared.contains(&room) {
            wrong.push(format!("{room} is not in the map"));
        }
    }
    assert!(exists("config.example.toml"));
    nothing_wrong(&wrong);
}

fn exists(path: &str) -> bool {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path).exists()
}
