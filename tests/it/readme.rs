//! The documents say what the program does: names, defaults, commands, links and exit codes, checked as written.
//!
//! A `sh` block below `<!-- run -->` is run as it stands against a running proxy; every other command is parsed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use clap::error::ErrorKind;
use switchmaster::backup;
use switchmaster::cli::Cli;
use switchmaster::config::{KEYS, Key, Reload};
use switchmaster::demo::cluster::{Cluster, ClusterSpec};
use switchmaster::demo::proxy::Proxy;
use switchmaster::metrics;
use switchmaster::session::CloseReason;
use tokio::process::Command;

use crate::support::proxy;

/// Those of the proxy, and those of backups, which it shows too.
fn all_metrics() -> impl Iterator<Item = &'static (&'static str, &'static str, &'static str)> {
    metrics::ALL.iter().chain(backup::metrics::ALL)
}

#[test]
fn the_table_of_metrics_is_that_of_the_program() {
    let listed: Vec<_> =
        table(&page("monitoring"), "metrics").into_iter().map(|[name, kind, help]| (code(&name), kind, help)).collect();
    let all: Vec<_> =
        all_metrics().map(|(name, kind, help)| (name.to_string(), kind.to_string(), help.to_string())).collect();
    assert_eq!(listed, all);
}

#[test]
fn no_document_names_a_metric_that_does_not_exist() {
    let mut texts = documents();
    let rules = root().join("contrib/prometheus-rules.yml");
    texts.push((rules.clone(), fs::read_to_string(rules).unwrap()));
    let mut seen = BTreeSet::new();
    for (path, text) in texts {
        for word in text.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_')) {
            if word.starts_with("switchmaster_") {
                let known = all_metrics().any(|(name, ..)| *name == word);
                assert!(known, "{}: there is no metric {word}", path.display());
                seen.insert(word.to_owned());
            }
        }
    }
    assert!(seen.len() > 20, "only {seen:?}");
}

#[test]
fn the_reasons_for_a_close_are_those_of_the_program() {
    let text = page("monitoring");
    let rows = text.split("| reason |").nth(1).expect("the table of reasons").lines().skip(2);
    let listed: Vec<_> = rows.take_while(|line| line.starts_with('|')).map(|line| code(&cells(line)[0])).collect();
    assert_eq!(listed, CloseReason::ALL.map(CloseReason::name));
}

#[test]
fn the_table_of_keys_has_every_key_with_its_default() {
    let listed: BTreeMap<String, String> = table(&page("configuration"), "config")
        .into_iter()
        .map(|[key, default, ..]: [String; 4]| (code(&key), default))
        .collect();
    let files = KEYS.iter().filter(|key| key.has_file()).map(|key| format!("{}_file", key.name));
    let keys: BTreeSet<String> = KEYS.iter().map(|key| key.name.to_owned()).chain(files).collect();
    assert_eq!(listed.keys().cloned().collect::<BTreeSet<_>>(), keys);

    let example = fs::read_to_string(root().join("config.example.toml")).unwrap();
    let defaults = toml::from_str::<toml::Table>(&example).unwrap();
    for (key, cell) in listed {
        let shown = code(&cell);
        match defaults.get(&key) {
            Some(default) => {
                let shown: toml::Table = toml::from_str(&format!("value = {shown}")).unwrap_or_default();
                assert_eq!(shown.get("value"), Some(default), "the default of {key} is given as {cell}");
            }
            None => {
                let value: Result<toml::Table, _> = toml::from_str(&format!("value = {shown}"));
                assert!(value.is_err(), "{key} has no default, and {cell} is given");
            }
        }
    }
}

#[test]
fn the_table_of_keys_says_what_a_reload_does() {
    for [key, _, _, counts] in table(&page("configuration"), "config") {
        let name = code(&key);
        let named = |key: &&Key| key.name == name || (key.has_file() && name == format!("{}_file", key.name));
        let shown = match KEYS.iter().find(named).expect("a key").reload {
            Reload::Live => "at once",
            Reload::NewSessions => "new sessions",
            Reload::Restart => "restart",
            Reload::Unused => "–",
        };
        assert_eq!(counts, shown, "{name}");
    }
    let example = fs::read_to_string(root().join("config.example.toml")).unwrap();
    let head: String = example.split("\n\n").next().unwrap().replace("\n# ", " ");
    let (_, sessions) = head.split_once("for new sessions only, ").expect("the paragraph on reloads");
    let (sessions, rest) = sessions.split_once("; after a restart, ").expect("the paragraph on reloads");
    let restart = rest.split('.').next().unwrap();
    for (listed, kind) in [(sessions, Reload::NewSessions), (restart, Reload::Restart)] {
        let keys: Vec<_> = KEYS.iter().filter(|key| key.reload == kind).map(|key| key.name).collect();
        assert_eq!(listed.split(", ").collect::<Vec<_>>(), keys);
    }
}

#[test]
fn the_exit_codes_are_those_of_the_program() {
    let main = fs::read_to_string(root().join("src/main.rs")).unwrap();
    let codes = main.lines().filter_map(|line| line.strip_prefix("const EXIT_")?.split("= ").nth(1)?.strip_suffix(';'));
    let codes: BTreeSet<String> = codes.map(str::to_owned).chain(["0".to_owned()]).collect();
    let listed: BTreeSet<String> = table(&page("commands"), "exit codes").into_iter().map(|[code, _]| code).collect();
    assert_eq!(listed, codes);
}

#[cfg(feature = "backup")]
#[test]
fn the_exit_codes_of_backups_are_those_of_the_program() {
    use switchmaster::backup::Error;
    let own: [fn(String) -> Error; 12] = [
        Error::Usage,
        Error::Unavailable,
        Error::Internal,
        Error::Locked,
        Error::NoSource,
        Error::Truncated,
        Error::Unsound,
        Error::Store,
        Error::Spool,
        Error::NotFound,
        Error::Restore,
        Error::Newer,
    ];
    let codes: BTreeSet<String> = own.iter().map(|error| error(String::new()).exit_code().to_string()).collect();
    assert_eq!(codes.len(), own.len());
    let tables = ["exit codes", "backup exit codes"].map(|name| table(&page("commands"), name));
    let listed: BTreeSet<String> = tables.into_iter().flatten().map(|[code, _]| code).collect();
    assert_eq!(listed, codes.into_iter().chain(["0", "1"].map(str::to_owned)).collect());
}

#[test]
fn the_contract_is_a_whole_table_and_quotes_the_error_as_it_is() {
    let text = readme();
    let rows: Vec<[String; 3]> = table(&text, "contract");
    assert!(rows.len() >= 12, "only {} rows", rows.len());
    let quoted = "UNKNOWNRESULT the master failed over before it replied";
    assert!(text.contains(quoted));
    assert!(fs::read_to_string(root().join("src/session/core/ledger/fate.rs")).unwrap().contains(quoted));
}

#[test]
fn every_command_is_understood() {
    let mut commands = 0;
    for (path, text) in documents() {
        let shell = blocks(&text).into_iter().filter(|block| matches!(block.language, "sh" | "console"));
        let lines = shell.flat_map(|block| block.lines.iter().map(|line| line.to_string()).collect::<Vec<_>>());
        for command in lines.chain(inline_commands(&text)) {
            match command.split_whitespace().next() {
                Some("switchmaster") => understood(&path, &command),
                Some("make") => {
                    let makefile = fs::read_to_string(root().join("Makefile")).unwrap();
                    for target in command.split_whitespace().skip(1).filter(|word| !word.contains('=')) {
                        let rule = format!("\n{target}:");
                        assert!(makefile.contains(&rule), "{}: there is no make {target}", path.display());
                    }
                }
                _ => continue,
            }
            commands += 1;
        }
    }
    assert!(commands > 25, "only {commands} commands were seen");
}

#[test]
fn the_table_of_commands_has_every_command() {
    let listed: BTreeSet<String> = table(&page("commands"), "verbs")
        .into_iter()
        .map(|[command, _]| code(&command).split_whitespace().nth(1).expect("a verb").to_owned())
        .collect();
    let command = <Cli as clap::CommandFactory>::command();
    let verbs: BTreeSet<String> = command.get_subcommands().map(|verb| verb.get_name().to_owned()).collect();
    assert_eq!(listed, verbs);
}

#[test]
fn every_link_leads_somewhere() {
    let mut links = 0;
    for (path, text) in documents() {
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("http") {
                continue;
            }
            links += 1;
            let (file, anchor) = link.split_once('#').map_or((link, None), |(file, anchor)| (file, Some(anchor)));
            let target = match file {
                "" => path.clone(),
                file => path.parent().unwrap().join(file),
            };
            assert!(target.exists(), "{}: {link} leads nowhere", path.display());
            if let Some(anchor) = anchor {
                let there = fs::read_to_string(&target).unwrap();
                let mut anchors = there.lines().filter(|line| line.starts_with('#')).map(anchor_of);
                assert!(anchors.any(|known| known == anchor), "{}: no heading for {link}", path.display());
            }
        }
    }
    assert!(links > 15, "only {links} links were seen");
}

/// A table of contents that leaves out a page, or a README that grows again.
#[test]
fn every_page_is_in_the_table_of_contents_and_the_readme_is_short() {
    let contents = page("README");
    let pages: Vec<_> = documents().into_iter().filter(|(path, _)| path.parent().unwrap().ends_with("docs")).collect();
    for (path, _) in &pages {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(name == "README.md" || contents.contains(&format!("]({name})")), "docs/README.md does not list {name}");
    }
    assert!(pages.len() > 10, "only {} pages", pages.len());
    let lines = readme().lines().count();
    assert!(lines <= 330, "{lines} lines in README.md: what is not for the first quarter of an hour goes to docs");
}

#[tokio::test]
async fn what_is_marked_runs_as_written() {
    let texts = documents();
    let marked = texts.iter().flat_map(|(_, text)| blocks(text)).filter(|block| block.run);
    let marked: BTreeSet<&str> = marked.flat_map(|block| block.lines).collect();
    assert!(marked.len() >= 5, "only {marked:?}");
    let cluster = Cluster::start(ClusterSpec::with_password("of-the-readme")).await.unwrap();
    let proxy = proxy::start(&cluster).await;
    let followed = async || match ask(&["status"], &proxy).await {
        (true, told) if told.contains("3 of 3 agree") => Ok(()),
        (_, told) => Err(told),
    };
    switchmaster::demo::cluster::until("a proxy that follows", Duration::from_secs(20), followed).await.unwrap();
    for line in marked {
        let mut words = line.split_whitespace();
        assert_eq!(words.next(), Some("switchmaster"), "{line}");
        let arguments: Vec<&str> = words.collect();
        let (succeeded, told) = ask(&arguments, &proxy).await;
        assert!(succeeded, "{line}: {told}\n{}", proxy.log());
    }
}

async fn ask(arguments: &[&str], proxy: &Proxy) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_switchmaster"))
        .args(arguments)
        .env_clear()
        .env("SWITCHMASTER_ADMIN", proxy.admin().to_string())
        .env("SWITCHMASTER_ADMIN_SOCKET", proxy.admin_socket())
        .output()
        .await
        .unwrap();
    let told = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&told).into_owned())
}

/// A command without one of its arguments, as text names it, is understood too.
fn understood(path: &Path, command: &str) {
    let words = command.split_whitespace().take_while(|word| !matches!(*word, "|" | "&" | "#"));
    if let Err(error) = Cli::try_parse_from(words) {
        let known = [
            ErrorKind::MissingRequiredArgument,
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
            ErrorKind::DisplayHelp,
            ErrorKind::DisplayVersion,
        ];
        assert!(known.contains(&error.kind()), "{}: {command}: {error}", path.display());
    }
}

/// Commands between backticks in running text.
fn inline_commands(text: &str) -> Vec<String> {
    let mut fenced = false;
    let prose = text.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fence && !fenced
    });
    let prose = prose.collect::<Vec<_>>().join("\n");
    let spans = prose.split('`').skip(1).step_by(2);
    spans.filter(|span| span.starts_with("switchmaster ") || span.starts_with("make ")).map(str::to_owned).collect()
}

/// A fenced block.
struct Block<'a> {
    language: &'a str,
    /// It stands below `<!-- run -->`.
    run: bool,
    lines: Vec<&'a str>,
}

fn blocks(text: &str) -> Vec<Block<'_>> {
    let mut blocks = Vec::new();
    let mut open: Option<Block<'_>> = None;
    let mut before = "";
    for line in text.lines() {
        match (line.trim_start().strip_prefix("```"), open.take()) {
            (Some(_), Some(block)) => blocks.push(block),
            (Some(language), None) => {
                open = Some(Block { language, run: before == "<!-- run -->", lines: Vec::new() });
            }
            (None, Some(mut block)) => {
                block.lines.extend((!line.trim().is_empty()).then_some(line.trim()));
                open = Some(block);
            }
            (None, None) => {}
        }
        before = line;
    }
    assert!(open.is_none(), "a block that never ends");
    blocks
}

/// The rows of the table between `<!-- name -->` and `<!-- /name -->`, without its head.
fn table<const COLUMNS: usize>(text: &str, name: &str) -> Vec<[String; COLUMNS]> {
    let (_, rest) = text.split_once(&format!("<!-- {name} -->")).unwrap_or_else(|| panic!("no <!-- {name} -->"));
    let (table, _) = rest.split_once(&format!("<!-- /{name} -->")).unwrap_or_else(|| panic!("no <!-- /{name} -->"));
    let rows = table.lines().filter(|line| line.starts_with('|')).skip(2);
    rows.map(|row| cells(row).try_into().unwrap_or_else(|_| panic!("not {COLUMNS} columns: {row}"))).collect()
}

fn cells(row: &str) -> Vec<String> {
    row.trim().trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
}

fn code(cell: &str) -> String {
    cell.trim_matches('`').to_owned()
}

/// The anchor that a heading gets.
fn anchor_of(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|letter| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_'));
    kept.map(|letter| if letter == ' ' { '-' } else { letter }).collect()
}

fn readme() -> String {
    fs::read_to_string(root().join("README.md")).unwrap()
}

/// A page of `docs`.
fn page(name: &str) -> String {
    fs::read_to_string(root().join("docs").join(name).with_extension("md")).unwrap()
}

/// Every Markdown document.
fn documents() -> Vec<(PathBuf, String)> {
    let docs = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let docs = docs.filter(|path| path.extension().is_some_and(|ending| ending == "md"));
    let here = ["README.md", "CHANGELOG.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md"];
    let all: Vec<PathBuf> = here.iter().map(|name| root().join(name)).chain(docs).collect();
    assert!(all.len() >= 8, "only {all:?}");
    all.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
