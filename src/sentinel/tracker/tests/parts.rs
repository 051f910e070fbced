//! The parts of the tracker own their fields: private, and set nowhere but in their own file.
//!
//! Reads text. That a private field is written in its own file alone is the compiler's business; this is what it does not
//! see, because every file here is a child of the one that composes the parts.

use std::fs;
use std::path::Path;

/// The files of the tracker with their text; its tests are not among them.
fn files() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/sentinel/tracker");
    let paths = fs::read_dir(folder).expect("the tracker's folder").map(|entry| entry.expect("an entry").path());
    let sources = paths.filter(|path| path.extension().is_some_and(|ext| ext == "rs") && !path.ends_with("tests.rs"));
    sources.map(|path| (path.display().to_string(), fs::read_to_string(path).expect("a source"))).collect()
}

/// The lines between the braces of a struct.
fn body<'a>(text: &'a str, name: &str) -> Option<impl Iterator<Item = &'a str>> {
    let (_, rest) = text.split_once(&format!("struct {name} {{\n"))?;
    let lines = rest.lines().take_while(|line| *line != "}").map(str::trim);
    Some(lines.filter(|line| !line.starts_with("//") && !line.starts_with('#')))
}

#[test]
fn a_part_is_changed_by_its_own_methods_alone() {
    let tracker = include_str!("../../tracker.rs");
    let parts: Vec<(&str, &str)> = body(tracker, "Tracker")
        .expect("the tracker")
        .filter_map(|line| line.trim_end_matches(',').split_once(": "))
        .filter(|(name, _)| *name != "settings")
        .collect();
    assert!(parts.len() > 15, "{parts:?}");
    let files = files();
    let mut wrong = Vec::new();
    for (name, kind) in parts {
        let (file, kind) = kind.split_once("::").expect("a part is named by its file");
        let (_, text) = files.iter().find(|(path, _)| path.ends_with(&format!("/{file}.rs"))).expect("its file");
        let open = body(text, kind).expect("its struct").filter(|line| line.starts_with("pub"));
        wrong.extend(open.map(|line| format!("{file}: {line}")));
        let whole =
            [format!("self.{name} = "), format!("replace(&mut self.{name},"), format!("take(&mut self.{name})")];
        for (path, text) in &files {
            let replaced = whole.iter().any(|pattern| text.contains(pattern.as_str()));
            wrong.extend(replaced.then(|| format!("{path} replaces {name} as a whole")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
