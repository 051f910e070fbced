//! The layout of the sources is what lib.rs says it is, and rooms import each other in one order.
//!
//! Reads text and runs nothing. Every check asserts that it saw files, so that a moved folder is no silent pass.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The members of the workspace: the name by which [`ROOMS`] calls them, and where their sources are.
const MEMBERS: &[(&str, &str)] = &[
    ("", "src"),
    ("protocol", "crates/protocol/src"),
    ("backup", "crates/backup/src"),
    ("doctor", "crates/doctor/src"),
    ("testkit", "crates/testkit/src"),
    ("history", "crates/history/src"),
];

/// A source may have this many lines.
const MOST_LINES: usize = 600;

/// Longer files, each with its reason.
const LONGER: &[(&str, &str)] = &[
    ("crates/protocol/src/resp/table.rs", "one line for each command"),
    ("src/sentinel/tracker/tests.rs", "the decision's own scenarios, one after the other"),
];

/// Every room of every member, with the rooms that it may import. A room stands behind all that it imports, so that there
/// is no circle. What is in `lib.rs` and `main.rs` is no room: they know all.
///
/// The control plane (`sentinel`, `admin`) and the data plane (`listener`, `session`) do not import each other; nothing of
/// the proxy is imported by another member.
pub(super) const ROOMS: &[(&str, &str)] = &[
    // What all members know.
    ("protocol::address", ""),
    ("protocol::binary", ""),
    ("protocol::location", ""),
    ("protocol::resp", ""),
    ("protocol::secret", ""),
    ("protocol::status", ""),
    ("protocol::duration", ""),
    ("protocol::control", "protocol::duration"),
    ("protocol::interrupt", ""),
    ("protocol::node", "protocol::resp"),
    ("protocol::random", ""),
    ("protocol::size", ""),
    ("protocol::net", ""),
    ("protocol::host", ""),
    ("protocol::callout", "protocol::host protocol::net protocol::secret"),
    ("protocol::settings", "protocol::callout protocol::location protocol::secret"),
    ("protocol::wire", "protocol::net protocol::resp protocol::secret"),
    ("protocol::remote", "protocol::control protocol::net protocol::secret protocol::status"),
    ("protocol::sentinel", "protocol::address protocol::net protocol::node protocol::resp protocol::secret"),
    // The proxy: leaves, the two planes, and who composes them.
    ("close_reason", ""),
    ("drain", ""),
    ("metrics", "close_reason"),
    ("topology", ""),
    (
        "config",
        "protocol::address protocol::callout protocol::duration protocol::location protocol::net protocol::secret protocol::settings \
         protocol::size",
    ),
    ("direct", "config protocol::remote protocol::sentinel"),
    ("log", "config"),
    ("verbs", "protocol::control protocol::duration protocol::remote protocol::size protocol::status"),
    ("top", "protocol::duration protocol::remote protocol::size protocol::status"),
    ("cli", "backup protocol::control protocol::duration"),
    ("upstream", "topology protocol::secret"),
    (
        "session",
        "close_reason config drain metrics topology upstream protocol::net protocol::node protocol::resp \
         protocol::secret",
    ),
    ("listener", "drain session protocol::net"),
    (
        "sentinel",
        "config drain metrics topology upstream protocol::control protocol::secret protocol::sentinel \
         protocol::status",
    ),
    (
        "admin",
        "close_reason metrics topology upstream protocol::control protocol::host protocol::net protocol::node protocol::secret \
         protocol::status protocol::wire",
    ),
    ("notify", "config protocol::callout protocol::duration protocol::status"),
    (
        "serve",
        "admin backup config drain listener metrics notify sentinel session topology upstream protocol::control \
         protocol::net protocol::secret protocol::status",
    ),
    // Backups.
    ("backup::error", ""),
    ("backup::metrics", ""),
    ("backup::process", ""),
    ("backup::progress", ""),
    ("backup::config", "protocol::address protocol::callout protocol::location protocol::secret protocol::settings"),
    ("backup::args", "backup::config protocol::duration protocol::size"),
    ("backup::manifest", "backup::error"),
    ("backup::pack", "backup::error backup::manifest"),
    ("backup::rdb", "backup::error backup::manifest"),
    ("backup::report", "backup::config backup::metrics"),
    ("backup::spool", "backup::config backup::error"),
    (
        "backup::source",
        "backup::config backup::error protocol::node protocol::secret protocol::sentinel protocol::wire",
    ),
    ("backup::replica", "backup::error backup::source protocol::net protocol::node protocol::secret protocol::wire"),
    ("backup::store", "backup::config backup::error protocol::random"),
    (
        "backup::lock",
        "backup::config backup::error backup::process backup::source backup::store protocol::random protocol::wire",
    ),
    ("backup::drill", "backup::error backup::manifest protocol::binary protocol::node protocol::wire"),
    ("backup::output", "backup::error"),
    ("backup::catalog", "backup::error backup::manifest backup::output backup::store"),
    ("backup::show", "backup::catalog backup::error backup::manifest backup::output backup::store protocol::size"),
    (
        "backup::fetch",
        "backup::catalog backup::config backup::error backup::manifest backup::output backup::pack backup::progress \
         backup::spool backup::store protocol::size",
    ),
    (
        "backup::create",
        "backup::args backup::catalog backup::config backup::error backup::lock backup::manifest backup::output \
         backup::pack backup::progress backup::rdb backup::replica backup::report backup::source backup::spool \
         backup::store protocol::interrupt protocol::size",
    ),
    (
        "backup::follow",
        "backup::args backup::catalog backup::config backup::create backup::error backup::lock backup::manifest \
         backup::output backup::pack backup::replica backup::report backup::source backup::spool backup::store \
         protocol::interrupt protocol::node protocol::resp protocol::wire",
    ),
    (
        "backup::copy",
        "backup::args backup::catalog backup::config backup::error backup::fetch backup::follow backup::manifest \
         backup::output backup::progress backup::spool backup::store protocol::size",
    ),
    (
        "backup::prune",
        "backup::args backup::catalog backup::error backup::follow backup::output backup::store protocol::size",
    ),
    (
        "backup::restore",
        "backup::args backup::catalog backup::config backup::create backup::error backup::fetch backup::follow \
         backup::manifest backup::output backup::pack backup::process backup::progress backup::rdb backup::replica \
         backup::source backup::store protocol::control protocol::interrupt protocol::net protocol::node \
         protocol::random protocol::remote protocol::resp protocol::secret protocol::sentinel protocol::size protocol::status \
         protocol::wire",
    ),
    (
        "backup::verify",
        "backup::catalog backup::config backup::drill backup::error backup::fetch backup::follow backup::manifest \
         backup::output backup::pack backup::progress backup::rdb backup::store",
    ),
    ("backup::callouts", "backup::config backup::error protocol::callout"),
    (
        "backup::verbs",
        "backup::args backup::callouts backup::catalog backup::config backup::copy backup::create backup::error backup::fetch \
         backup::follow backup::pack backup::prune backup::report backup::restore backup::show backup::store \
         backup::verify protocol::interrupt",
    ),
    // The doctor.
    ("doctor::facts", "protocol::address protocol::node protocol::secret protocol::sentinel"),
    ("doctor::application", "doctor::facts protocol::address protocol::duration protocol::sentinel protocol::wire"),
    ("doctor::check", "doctor::facts protocol::address protocol::node protocol::secret"),
    (
        "doctor::gather",
        "doctor::facts protocol::address protocol::node protocol::secret protocol::sentinel protocol::wire",
    ),
    ("doctor::report", "doctor::check doctor::facts"),
    // The test kit.
    ("testkit::relay", ""),
    ("testkit::report", ""),
    ("testkit::spec", ""),
    ("testkit::table", "testkit::report"),
    ("testkit::workload", "protocol::secret"),
    ("testkit::server", "protocol::binary"),
    ("testkit::verify", "testkit::report testkit::workload protocol::secret protocol::wire"),
    ("testkit::log", "testkit::report testkit::verify testkit::workload"),
    ("testkit::client", "testkit::log testkit::report testkit::workload protocol::wire"),
    ("testkit::cluster", "testkit::relay testkit::server testkit::spec protocol::node protocol::secret protocol::wire"),
    (
        "testkit::load",
        "testkit::client testkit::cluster testkit::log testkit::report testkit::server testkit::verify \
         testkit::workload protocol::secret",
    ),
    ("testkit::proxy", "testkit::cluster testkit::server"),
    ("testkit::roles", "testkit::cluster testkit::server protocol::node protocol::secret protocol::wire"),
    (
        "testkit::demo",
        "testkit::cluster testkit::load testkit::proxy testkit::report testkit::server testkit::table \
         protocol::interrupt protocol::random",
    ),
    // What a new master's stream says of lost replies.
    ("history::window", "protocol::resp"),
    ("history::form", "protocol::resp"),
    ("history::verdict", "history::form history::window"),
];

/// Names that several public types have, and why.
const NAMESAKES: &[(&[&str], &str)] = &[
    (&["Error"], "each room's own, named with its room"),
    (&["Config"], "the proxy's, and the part of it that backups read"),
    (&["Node", "Role", "Master", "Topology"], "a node as a session, a Sentinel, a backup or a restore knows it"),
    (
        &["Command", "Commands", "Entry", "Malformed"],
        "a command, an entry, a mistake of the wire or of a stored stream",
    ),
    (&["Outcome", "Verdict", "Report", "Refusal", "Found"], "what came of a question: each room asks one of its own"),
    (&["State", "Stage", "Kind", "Event", "Watch", "Progress", "Counts"], "of whatever the room is about"),
    (&["Fate", "Origin"], "of a request or of a node's stream; of a request or of a value"),
    (&["Settings", "Server", "Probe", "Candidate", "Name", "Taken", "Key"], "yet to be told apart"),
];

/// Places outside `net` that still name a socket type of the runtime or of the standard library.
const SOCKETS: &[(&str, &str)] = &[
    ("crates/backup/src/restore", "the primary's end that a target replicates from, and who answers at an address"),
    ("crates/testkit/src", "relays that misbehave, and ports that are free"),
];

/// Names that say nothing, and become drawers for everything.
const BANNED: &[&str] = &["util", "utils", "helper", "helpers", "common", "shared", "constants", "misc"];

/// Where the sources of all members are.
fn folders() -> Vec<&'static str> {
    MEMBERS.iter().map(|(_, folder)| *folder).collect()
}

/// Every source below `folders`, by its path from the root.
pub(super) fn sources(folders: &[&str]) -> BTreeMap<String, String> {
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

/// How a member calls things: rooms, and the names of types and rooms that its lib.rs gives to others.
struct Names {
    member: &'static str,
    /// From a name at the crate's root to the room that it stands for.
    known: BTreeMap<String, String>,
    /// Names of the crate itself.
    own: Vec<String>,
}

impl Names {
    /// Reads the lib.rs of `member`; `others` have been read before.
    fn of(member: &'static str, lib: &str, others: &[Names]) -> Names {
        let mut names = Names { member, known: BTreeMap::new(), own: Vec::new() };
        let room = |name: &str| if member.is_empty() { name.to_owned() } else { format!("{member}::{name}") };
        let lines: Vec<&str> = code(lib).collect();
        for line in &lines {
            let declared = line.trim_start_matches("pub ").strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';'));
            names.known.extend(declared.map(|name| (name.to_owned(), room(name))));
        }
        let uses = lines.join(" ");
        for statement in uses.split(';').filter_map(|part| Some(part.split_once("use ")?.1)) {
            let (path, alias) = statement.split_once(" as ").unwrap_or((statement, ""));
            let (first, rest) = path.split_once("::").unwrap_or((path, ""));
            if first == "crate" {
                names.own.push(alias.to_owned());
            } else if let Some(other) = others.iter().find(|other| first == format!("switchmaster_{}", other.member)) {
                if rest.is_empty() {
                    names.known.insert(alias.to_owned(), other.member.to_owned());
                } else {
                    names.known.extend(heads(rest).into_iter().map(|name| (name.clone(), other.known[&name].clone())));
                }
            } else if let Some(room) = names.known.get(first).cloned() {
                let given = if alias.is_empty() { heads(rest) } else { vec![alias.to_owned()] };
                names.known.extend(given.into_iter().map(|name| (name, room.clone())));
            }
        }
        names
    }

    /// The rooms that a file of this member names, by `crate::`, by enough `super::`, or by another member's name.
    /// `depth` is that of the file's module: 0 for lib.rs.
    fn rooms(&self, text: &str, depth: usize, all: &[Names]) -> Vec<String> {
        let mut text = code(text).collect::<Vec<_>>().join("\n");
        for own in &self.own {
            text = text.replace(&format!("crate::{own}::"), "crate::");
        }
        let mut found = Vec::new();
        let supers = "super::".repeat(depth);
        for (prefix, of) in std::iter::once(("crate::".to_owned(), self))
            .chain((depth > 0).then_some((supers, self)))
            .chain(all.iter().map(|other| (format!("switchmaster_{}::", other.member), other)))
        {
            for (at, _) in text.match_indices(&prefix) {
                // Part of a longer word, of `$crate::`, or of a longer row of `super::`.
                let before = &text[..at];
                let is_part = before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$');
                if is_part || before.ends_with("super::") || text[at + prefix.len()..].starts_with("super::") {
                    continue;
                }
                let heads = heads(&text[at + prefix.len()..]);
                found.extend(heads.iter().filter_map(|name| of.known.get(name)).cloned());
            }
        }
        found
    }
}

/// The first names of what a path goes on with: `{a::b, c}` has a and c, `a::b` a.
fn heads(path: &str) -> Vec<String> {
    let word =
        |text: &str| text.trim().split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or("").to_owned();
    let Some(group) = path.strip_prefix('{') else { return vec![word(path)] };
    let (mut heads, mut depth, mut begin) = (Vec::new(), 0, 0);
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                heads.push(word(&group[begin..at]));
                begin = at + 1;
                if letter == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    heads.retain(|head| !head.is_empty());
    heads
}

/// Every member, each with what it calls its rooms; what others are made of comes first.
fn members(all: &BTreeMap<String, String>) -> Vec<Names> {
    let mut members = Vec::new();
    for wanted in ["protocol", "backup", "doctor", "testkit", "history", ""] {
        let (member, folder) = MEMBERS.iter().find(|(member, _)| *member == wanted).unwrap();
        members.push(Names::of(member, &all[&format!("{folder}/lib.rs")], &members));
    }
    members
}

/// The member and the room of a file, and the depth of its module; `None` for lib.rs and main.rs.
fn place(name: &str) -> Option<(&'static str, String, usize)> {
    let (member, rest) =
        MEMBERS.iter().find_map(|(member, folder)| Some((*member, name.strip_prefix(folder)?.strip_prefix('/')?)))?;
    let rest = rest.trim_end_matches(".rs").trim_end_matches("/mod");
    let room = rest.split('/').next().unwrap_or_default();
    let full = if member.is_empty() { room.to_owned() } else { format!("{member}::{room}") };
    (!matches!(room, "lib" | "main")).then_some((member, full, rest.split('/').count()))
}

/// Whether a file has tests alone: they may look anywhere.
pub(super) fn is_test(name: &str) -> bool {
    name.ends_with("tests.rs") || name.contains("/tests/") || name.contains("/session/core/pair/")
}

fn nothing_wrong(wrong: &[String]) {
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_file_opens_with_what_it_is() {
    let folders: Vec<&str> =
        ["src", "crates", "tests", "benches"].into_iter().filter(|folder| exists(folder)).collect();
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
fn rooms_import_what_stands_before_them_and_is_listed() {
    let mut wrong = Vec::new();
    for (at, (room, allowed)) in ROOMS.iter().enumerate() {
        let before: Vec<&str> = ROOMS[..at].iter().map(|(earlier, _)| *earlier).collect();
        // A whole member, which imports nothing of the proxy: its rooms have an order of their own.
        let is_known = |other: &&str| before.contains(other) || MEMBERS.iter().any(|(member, _)| member == other);
        let behind = allowed.split_whitespace().filter(|other| !is_known(other));
        wrong.extend(behind.map(|other| format!("{room} may not import {other}, which stands behind it")));
        wrong.extend(before.contains(room).then(|| format!("{room} is listed twice")));
    }
    let all = sources(&folders());
    let members = members(&all);
    let mut seen: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, text) in all.iter().filter(|(name, _)| !is_test(name)) {
        let Some((member, room, depth)) = place(name) else { continue };
        let names = members.iter().find(|names| names.member == member).unwrap();
        let imported = seen.entry(room.clone()).or_default();
        for other in names.rooms(text, depth, &members).into_iter().filter(|other| *other != room) {
            let allowed = ROOMS.iter().find(|(listed, _)| *listed == room).map_or("", |(_, allowed)| allowed);
            let is_allowed = allowed.split_whitespace().any(|allowed| allowed == other);
            if !is_allowed {
                wrong.push(format!("{name} imports {other}"));
            }
            imported.insert(other);
        }
    }
    let imports: usize = seen.values().map(BTreeSet::len).sum();
    assert!(seen.len() > 50 && imports > 200, "only {imports} imports of {} rooms were seen", seen.len());
    for (room, allowed) in ROOMS {
        let Some(imported) = seen.get(*room) else {
            wrong.push(format!("there is no room {room}"));
            continue;
        };
        let unused = allowed.split_whitespace().filter(|other| !imported.contains(*other));
        wrong.extend(unused.map(|other| format!("{room} does not import {other} (any more)")));
    }
    wrong.extend(
        seen.keys()
            .filter(|room| ROOMS.iter().all(|(listed, _)| listed != *room))
            .map(|room| format!("{room} is not listed")),
    );
    nothing_wrong(&wrong);
}

#[test]
fn public_types_share_no_name_without_a_reason() {
    let all = sources(&folders());
    let mut places: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (name, text) in all.iter().filter(|(name, _)| !is_test(name)) {
        for line in code(text) {
            let declared = ["struct ", "enum ", "trait ", "type ", "union "]
                .iter()
                .find_map(|kind| line.strip_prefix("pub ")?.strip_prefix(kind));
            if let Some(declared) = declared {
                places.entry(heads(declared).remove(0)).or_default().push(name);
            }
        }
    }
    assert!(places.len() > 200, "only {} types were seen", places.len());
    let excused: Vec<&str> = NAMESAKES.iter().flat_map(|(names, _)| names.iter().copied()).collect();
    let mut wrong = Vec::new();
    for (name, files) in &places {
        match (files.len() > 1, excused.contains(&name.as_str())) {
            (true, false) => wrong.push(format!("{name} is a type of {}", files.join(" and of "))),
            (false, true) => wrong.push(format!("{name} has no namesake (any more)")),
            _ => {}
        }
    }
    wrong.extend(excused.iter().filter(|name| !places.contains_key(**name)).map(|name| format!("there is no {name}")));
    assert!(NAMESAKES.iter().all(|(_, reason)| !reason.is_empty()));
    nothing_wrong(&wrong);
}

#[test]
fn sockets_are_named_in_net_alone() {
    let all = sources(&folders());
    let types = ["TcpStream", "TcpListener", "UnixStream", "UnixListener", "socket2::"];
    let names = |text: &str| code(text).any(|line| types.iter().any(|name| line.contains(name)));
    let net = "crates/protocol/src/net";
    let in_place = |name: &str, place: &str| name == place || name.starts_with(&format!("{place}/"));
    let naming: Vec<&str> = all.iter().filter(|(_, text)| names(text)).map(|(name, _)| name.as_str()).collect();
    assert!(naming.iter().filter(|name| in_place(name, net)).count() > 3, "{naming:?}");
    let mut wrong = Vec::new();
    for name in &naming {
        let excused = SOCKETS.iter().any(|(place, _)| in_place(name, place));
        if !excused && !in_place(name, net) {
            wrong.push(format!("{name} names a socket type"));
        }
    }
    for (place, reason) in SOCKETS {
        assert!(!reason.is_empty());
        if !naming.iter().any(|name| in_place(name, place)) {
            wrong.push(format!("{place} needs no excuse (any more)"));
        }
    }
    nothing_wrong(&wrong);
}

#[test]
fn one_file_uses_the_redis_crate_and_each_metric_is_named_in_one() {
    let all = sources(&folders());
    let mut wrong = Vec::new();
    let (mut redis, mut names) = (0, 0);
    for (name, text) in &all {
        let uses_redis = code(text).any(|line| line.starts_with("use redis::") || line.contains(" redis::"));
        redis += usize::from(uses_redis);
        let client = "crates/protocol/src/sentinel/client";
        if uses_redis && *name != format!("{client}.rs") && !name.starts_with(&format!("{client}/")) {
            wrong.push(format!("{name} uses the redis crate"));
        }
        let quoted = |line: &&str| line.contains("\"switchmaster_");
        let named = code(text).filter(quoted).filter(|line| !line.contains("starts_with(")).count();
        names += named;
        if named > 0 && !name.ends_with("src/metrics.rs") {
            wrong.push(format!("{name} has a metric's name as a string"));
        }
    }
    assert!(redis > 0 && names > 20, "redis in {redis} files, {names} metrics");
    nothing_wrong(&wrong);
}

#[test]
fn files_are_short_and_have_names() {
    let all = sources(&["src", "crates", "tests"]);
    let mut wrong = Vec::new();
    for (name, text) in &all {
        let lines = text.lines().count();
        let excused = LONGER.iter().any(|(longer, _)| longer == name);
        if !name.starts_with("tests/") && lines > MOST_LINES && !excused {
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
fn the_map_in_lib_names_the_rooms_that_there_are() {
    let all = sources(&folders());
    let map: String = all["src/lib.rs"].lines().filter(|line| line.starts_with("//!")).collect();
    let members = members(&all);
    let known = &members.last().unwrap().known;
    for room in ["listener", "session", "resp", "topology", "sentinel", "admin", "metrics", "backup", "demo", "wire"] {
        assert!(map.contains(room) && known.contains_key(room), "{room} is not in the map");
    }
    assert!(exists("config.example.toml"));
}

fn exists(path: &str) -> bool {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path).exists()
}
