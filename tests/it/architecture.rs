//! ARCHITECTURE.md is true where a test can tell: its map has the rooms that there are, with what they import, and its
//! timers are those of the code.
//!
//! Reads text and runs nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::tidy::{ROOMS, is_test, sources};

/// A row of a table: its cells.
type Row = Vec<String>;

/// The rows of every table between `<!-- name -->` and `<!-- /name -->`, without their heads.
fn rows(name: &str) -> Vec<Row> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md")).unwrap();
    let (open, close) = (format!("<!-- {name} -->"), format!("<!-- /{name} -->"));
    let tables = text.split(&open).skip(1).map(|rest| rest.split_once(&close).expect("a table that ends").0);
    let rows = tables.flat_map(|table| table.lines().filter(|line| line.starts_with('|')).skip(2));
    let cells = |row: &str| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    rows.map(cells).collect()
}

/// What stands between backticks.
fn quoted(cell: &str) -> BTreeSet<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The rooms of its own crate that a room imports, by their names there.
fn of_its_crate(room: &str, imports: &str) -> BTreeSet<String> {
    let krate = |room: &str| room.split_once("::").map_or(String::new(), |(krate, _)| krate.to_owned());
    let rooms: BTreeSet<&str> = ROOMS.iter().map(|(room, _)| *room).collect();
    let own = imports.split_whitespace().filter(|other| rooms.contains(other) && krate(other) == krate(room));
    own.map(|other| other.split("::").last().unwrap().to_owned()).collect()
}

#[test]
fn the_map_has_every_room_and_what_it_imports() {
    let rows = rows("rooms");
    let named: Vec<String> = rows.iter().flat_map(|row| quoted(&row[0])).collect();
    let there: BTreeSet<String> = ROOMS.iter().map(|(room, _)| (*room).to_owned()).collect();
    assert!(named.len() > 40, "only {named:?}");
    assert_eq!(named.iter().cloned().collect::<BTreeSet<_>>(), there, "the map and tidy.rs differ");
    assert_eq!(named.len(), there.len(), "a room stands twice on the map");
    for row in rows.iter().filter(|row| row.len() == 3) {
        let room = quoted(&row[0]).pop_first().unwrap();
        let (_, imports) = ROOMS.iter().find(|(name, _)| *name == room).unwrap();
        assert_eq!(quoted(&row[2]), of_its_crate(&room, imports), "what {room} imports: ARCHITECTURE.md, tidy.rs");
    }
}

/// The constants of a file that are times: name, and value as in `1500 ms` or `2 s and 3 s`.
fn timers(text: &str) -> BTreeMap<String, String> {
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    let mut found = BTreeMap::new();
    for line in text[..end].lines().filter(|line| !line.starts_with(' ')) {
        let Some((name, rest)) = line.split_once("const ").and_then(|(_, rest)| rest.split_once(": ")) else {
            continue;
        };
        let Some((_, value)) = rest.split_once(" = ").filter(|(kind, _)| kind.contains("Duration")) else { continue };
        let times = value.split("Duration::from_").skip(1).map(|time| {
            let (unit, number) = time.split_once('(').unwrap();
            let number: String = number.chars().filter(char::is_ascii_digit).collect();
            format!("{number} {}", if unit == "secs" { "s" } else { "ms" })
        });
        found.insert(name.to_owned(), times.collect::<Vec<_>>().join(" and "));
    }
    found
}

#[test]
fn the_timers_are_those_of_the_code() {
    let mut there = BTreeSet::new();
    let rows = rows("timers");
    for (path, text) in sources(&["src", "crates/protocol/src"]).into_iter().filter(|(path, _)| !is_test(path)) {
        let is_its = |file: &String| path.ends_with(&format!("/{file}"));
        let file = rows.iter().filter_map(|row| quoted(&row[0]).pop_first()).find(is_its).unwrap_or(path.clone());
        there.extend(timers(&text).into_iter().map(|(name, value)| (file.clone(), name, value)));
    }
    let listed = rows.iter().flat_map(|row| {
        let file = quoted(&row[0]).pop_first().expect("a file");
        let timers = row[1].split("; `").filter_map(|timer| timer.trim_start_matches('`').split_once("` "));
        timers.map(move |(name, rest)| (file.clone(), name.to_owned(), rest.split(':').next().unwrap().to_owned()))
    });
    let listed: BTreeSet<_> = listed.collect();
    assert!(listed.len() > 50, "only {listed:?}");
    let (gone, new): (Vec<_>, Vec<_>) = (listed.difference(&there).collect(), there.difference(&listed).collect());
    assert!(gone.is_empty() && new.is_empty(), "not in the code: {gone:?}\nnot in ARCHITECTURE.md: {new:?}");
}
