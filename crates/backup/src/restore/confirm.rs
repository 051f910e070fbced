//! What is asked before data is overwritten: what is there now, what will be, who waits meanwhile.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;

use super::keys::Choice;
use super::preflight::Emptying;
use super::safety::BRIEF;
use super::survey::Survey;
use super::{settings, watch};
use crate::{Error, Manifest, output};

/// The question for a live restore.
pub fn question(survey: &Survey, manifest: &Manifest, safety: bool) -> String {
    let addr = survey.node.addr();
    let what = match &survey.monitored {
        Some(topology) => format!("{addr}, the master of {}", topology.name),
        None => format!("{addr}, which no Sentinel monitors"),
    };
    let mut text = format!("This replaces ALL data of {what}:\n");
    let now = content(survey.facts.keyspace.iter().map(|(db, keys)| (*db, *keys)), survey.facts.libraries);
    let then = manifest.counts.databases.iter().map(|(db, counts)| (*db, counts.keys));
    let then = content(then, manifest.counts.functions);
    let _ = writeln!(text, "  now      {now}");
    let _ = writeln!(text, "  then     {then} (backup {} of {})", manifest.id, manifest.created);
    if let Some(topology) = &survey.monitored {
        let limit = watch::budget(topology.down_after).as_secs();
        let _ = writeln!(text, "  limit    {limit} s to send it, before Sentinel would act; it is given up then");
    }
    if survey.facts.replicas > 0 {
        let _ = writeln!(text, "  replicas {}, which follow", survey.facts.replicas);
    }
    if let proxies @ 1.. = survey.proxies.count() as u64 {
        let proxies = if proxies == 1 { "1 proxy".into() } else { format!("{proxies} proxies") };
        let _ = writeln!(text, "  clients  of {proxies} wait; those that go past are not held");
    }
    for (title, concern) in concerns(survey) {
        let _ = writeln!(text, "  {title:<8} {concern}");
    }
    let _ = match safety {
        true => writeln!(
            text,
            "A backup of what is there now is made first. If that takes longer than {} s, what is written after its \
             moment and before clients wait is in neither; how much that was is told.",
            BRIEF.as_secs()
        ),
        false => writeln!(text, "NO backup of what is there now is made."),
    };
    text
}

/// What somebody who does not read the question should be told all the same, each under its title.
pub fn concerns(survey: &Survey) -> Vec<(&'static str, String)> {
    let mut concerns = Vec::new();
    if survey.proxies.count() == 0 {
        let concern = match survey.facts.clients.len() as u64 {
            0 => "none is connected, and no --proxy is named: those that come meanwhile are not held".into(),
            hosts => format!(
                "from {} are NOT held: no --proxy is named. Their writes fail or are lost meanwhile",
                output::count(hosts, "host")
            ),
        };
        concerns.push(("clients", concern));
    }
    if let (Emptying::Silent(time, why), Some(topology)) = (survey.emptying(), &survey.monitored)
        && time * 2 > topology.down_after
    {
        concerns.push((
            "silence",
            format!(
                "it does not answer for about {} s while it frees its old data ({why}), and Sentinel replaces a master \
                 that is silent for {} s (down-after-milliseconds): raise that first, or set {} yes on it",
                time.as_secs_f64().ceil(),
                topology.down_after.as_secs_f64(),
                settings::LAZY
            ),
        ));
    }
    concerns
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
         them is made. Each value is loaded at once: while it loads one of millions of elements, or of hundreds of MiB, the \
         server answers nobody, and if that lasts longer than down-after-milliseconds, Sentinel replaces it.\n",
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

/// `db0: 3 keys, db1: 4 keys, 1 function library`
fn content(databases: impl Iterator<Item = (u32, u64)>, libraries: u64) -> String {
    let mut each: Vec<String> = databases
        .filter(|(_, keys)| *keys > 0)
        .map(|(db, keys)| format!("db{db}: {}", output::count(keys, "key")))
        .collect();
    if each.is_empty() {
        each.push("no keys".into());
    }
    match libraries {
        0 => {}
        1 => each.push("1 function library".into()),
        _ => each.push(format!("{libraries} function libraries")),
    }
    each.join(", ")
}
