//! What is asked before data is overwritten: what is there now, what will be, who waits meanwhile.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;

use super::keys::Choice;
use super::survey::Survey;
use super::watch;
use crate::backup::{Error, Manifest};

/// The question for a live restore.
pub fn question(survey: &Survey, manifest: &Manifest, safety: bool) -> String {
    let addr = survey.node.addr();
    let what = match &survey.monitored {
        Some(topology) => format!("{addr}, the master of {}", topology.name),
        None => format!("{addr}, which no Sentinel monitors"),
    };
    let mut text = format!("This replaces ALL data of {what}:\n");
    let now = keys(survey.facts.keyspace.iter().map(|(db, keys)| (*db, *keys)));
    let then = keys(manifest.counts.databases.iter().map(|(db, counts)| (*db, counts.keys)));
    let _ = writeln!(text, "  now      {now}");
    let _ = writeln!(text, "  then     {then} (backup {} of {})", manifest.id, manifest.created);
    if let Some(topology) = &survey.monitored {
        let limit = watch::budget(topology.down_after).as_secs();
        let _ = writeln!(text, "  limit    {limit} s, before Sentinel would act; it is given up then");
    }
    if survey.facts.replicas > 0 {
        let _ = writeln!(text, "  replicas {}, which follow", survey.facts.replicas);
    }
    let others = survey.facts.clients.len();
    let proxies = survey.proxies.count();
    let _ = match proxies {
        0 if others > 0 => writeln!(
            text,
            "  clients  from {others} hosts, NOT held: no --proxy is named. Their writes fail or are lost meanwhile"
        ),
        0 => writeln!(
            text,
            "  clients  none is connected, and no --proxy is named: those that come meanwhile are not held"
        ),
        _ => writeln!(text, "  clients  of {proxies} proxies wait; those that go past them are not held"),
    };
    let _ = match safety {
        true => writeln!(text, "A backup of what is there now is made first."),
        false => writeln!(text, "NO backup of what is there now is made."),
    };
    text
}

/// The question for a restore key by key.
pub fn question_by_key(target: SocketAddr, manifest: &Manifest, choice: &Choice) -> String {
    let which = match &choice.pattern {
        Some(pattern) => format!("the keys that match {:?}", String::from_utf8_lossy(pattern)),
        None => "all keys".into(),
    };
    let of = match choice.db {
        Some(db) => format!(" of database {db}"),
        None => String::new(),
    };
    let others = if choice.replace { "REPLACES those that exist" } else { "leaves those that exist" };
    format!(
        "This writes {which}{of} of backup {} of {} to {target}, and {others}. Other keys stay as they are; no backup of \
         them is made.\n",
        manifest.id, manifest.created
    )
}

/// Asks on the terminal.
///
/// # Errors
/// [`Error::Usage`] when there is no terminal to ask on, [`Error::Restore`] for any answer but yes.
pub fn ask(question: &str, yes: bool) -> Result<(), Error> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(Error::Usage(format!(
            "{question}there is no terminal to confirm that on: say --yes if it is what you want; nothing was changed"
        )));
    }
    let _ = write!(io::stderr(), "{question}Type yes to go on: ");
    let mut answer = String::new();
    let _ = io::stdin().read_line(&mut answer);
    match answer.trim() {
        "yes" => Ok(()),
        _ => Err(Error::Restore("not confirmed; nothing was changed".into())),
    }
}

/// `db0: 3 keys, db1: 4 keys`
fn keys(databases: impl Iterator<Item = (u32, u64)>) -> String {
    let each: Vec<String> =
        databases.filter(|(_, keys)| *keys > 0).map(|(db, keys)| format!("db{db}: {keys} keys")).collect();
    if each.is_empty() { "no keys".into() } else { each.join(", ") }
}
