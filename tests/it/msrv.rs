//! The Rust version that is promised is true: no dependency demands a newer one, and the documents name the same.
//!
//! Asks cargo what Cargo.lock demands, offline. What our own code takes from the standard library clippy holds against the
//! same `rust-version` (`incompatible_msrv`).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// A version as cargo writes it: `1.89` or `1.89.0`.
type Version = Vec<u32>;

fn version(text: &str) -> Version {
    let mut parts: Version = text.split('.').map(|part| part.parse().expect("a version")).collect();
    parts.resize(3, 0);
    parts
}

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What Cargo.lock has for this machine.
fn metadata() -> Value {
    let about = cargo(&["-vV"]);
    let host = about.lines().find_map(|line| line.strip_prefix("host: ")).expect("cargo tells its host");
    let of_host = ["--offline", "--locked", "--all-features", "--format-version", "1", "--filter-platform", host];
    serde_json::from_str(&cargo(&[&["metadata"], &of_host[..]].concat())).unwrap()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().expect("a list").iter()
}

/// The crates that demand most of all that the workspace is made of, and what that is; `with_tests`: also of what only
/// tests and benchmarks use.
fn most_demanded(metadata: &Value, with_tests: bool) -> (Version, Vec<String>) {
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let nodes: BTreeMap<String, &Value> =
        list(&metadata["resolve"]["nodes"]).map(|node| (text(&node["id"]), &node["deps"])).collect();
    let mut wanted: Vec<String> = list(&metadata["workspace_members"]).map(text).collect();
    let mut seen = Vec::new();
    while let Some(id) = wanted.pop() {
        if !seen.contains(&id) {
            let is_used = |dep: &&Value| list(&dep["dep_kinds"]).any(|kind| with_tests || kind["kind"] != "dev");
            wanted.extend(list(nodes[&id]).filter(is_used).map(|dep| text(&dep["pkg"])));
            seen.push(id);
        }
    }
    assert!(seen.len() > 100, "only {seen:?}");
    let foreign = list(&metadata["packages"]).filter(|package| !package["source"].is_null());
    let used = foreign.filter(|package| seen.contains(&text(&package["id"])));
    let mut demands = BTreeMap::<Version, Vec<String>>::new();
    for package in used {
        if let Some(demanded) = package["rust_version"].as_str() {
            demands.entry(version(demanded)).or_default().push(text(&package["name"]));
        }
    }
    demands.pop_last().expect("somebody demands something")
}

/// The version in the row of CONTRIBUTING.md's table that is called this.
fn promised(row: &str) -> Version {
    let document = document("CONTRIBUTING.md");
    let line = document.lines().find(|line| line.starts_with(&format!("| {row} |"))).expect("a row");
    version(line.split('|').nth(2).unwrap().trim())
}

fn document(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

#[test]
fn no_dependency_demands_a_newer_rust_than_is_promised() {
    let metadata = metadata();
    let (to_build, by) = most_demanded(&metadata, false);
    assert!(to_build <= promised("to build"), "{by:?} demand {to_build:?}");
    let (to_test, by) = most_demanded(&metadata, true);
    assert!(to_test <= promised("to test"), "{by:?} demand {to_test:?}");
}

#[test]
fn every_document_names_the_same_rust() {
    let promised = promised("to build");
    assert_eq!(version(env!("CARGO_PKG_RUST_VERSION")), promised, "Cargo.toml, CONTRIBUTING.md");
    let readme = document("README.md");
    let named =
        readme.split_once("With Rust ").and_then(|(_, rest)| rest.split_once(" or later")).expect("a sentence").0;
    assert_eq!(version(named), promised, "README.md, CONTRIBUTING.md");
}
