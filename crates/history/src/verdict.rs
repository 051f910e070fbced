//! What became of the unanswered requests of one connection: absent, run with a reply that follows, or unknown.
//!
//! *Absent* is proven by a window without any effect that the request may have left: on the living history it did not run,
//! or changed nothing, which nobody has seen. *Run* is proven where the keys hold at the window's end just what the request
//! sets: then it may count as the last that was run, whoever it was that set them. Why both are safe: docs/history.md.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

use crate::form::{self, Form, Trace};
use crate::window::{Reach, StreamEffect, Window};

/// A request whose reply was lost.
#[derive(Clone, Debug)]
pub struct LostRequest<'a> {
    /// What runs: the request, or all that an EXEC runs. Each is its name and arguments; a script is EVAL with its text.
    pub commands: Vec<Vec<&'a [u8]>>,
    /// They are a transaction, which is answered with a list.
    pub is_transaction: bool,
    /// The database of the connection.
    pub database: u32,
    /// Each time that it was sent.
    pub sendings: Vec<Sending<'a>>,
    /// When it can have run, by the master's clock, in milliseconds since 1970: from when it was sent until the master was
    /// given up, widened by as much as the clocks may differ. `None`: not known.
    pub time: Option<Range<u64>>,
}

/// A request was sent to a master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sending<'a> {
    /// The history that the master wrote.
    pub replid: &'a str,
    /// It had written so many bytes, or more, when the request was sent: a sample that had arrived before.
    pub after: u64,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It did not run on the living history, or changed nothing, and nothing behind it on its connection has run: to be
    /// sent again in its place.
    Absent,
    /// This answer is true.
    Ran(Vec<u8>),
    /// For this reason nobody knows.
    Unknown(Rule),
}

/// Why a finding is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// It was never sent to a master of a known history, or one of its sendings was to one that is no ancestor.
    Lineage,
    /// It was sent before the window begins.
    Begins,
    /// It does more than change data.
    Outside,
    /// It may change anything, and something was changed.
    Anything,
    /// Whole databases were emptied or exchanged.
    Databases,
    /// An effect of which nobody knows what it is about.
    Opaque,
    /// An effect that may be its own, or another's.
    Present,
    /// Its own effect, or another's just like it, and later the key was changed again.
    Overwritten,
    /// The key holds what it sets, but until another time than it can have set.
    Expiry,
    /// It is absent, but something behind it on its connection may have run.
    Order,
}

impl Rule {
    /// For logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Rule::Lineage => "lineage",
            Rule::Begins => "begins",
            Rule::Outside => "outside",
            Rule::Anything => "anything",
            Rule::Databases => "databases",
            Rule::Opaque => "opaque",
            Rule::Present => "present",
            Rule::Overwritten => "overwritten",
            Rule::Expiry => "expiry",
            Rule::Order => "order",
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The findings on all unanswered requests of one connection, in the order in which they were sent.
pub fn judge(window: &Window, requests: &[LostRequest<'_>]) -> Vec<Verdict> {
    let mut findings: Vec<Verdict> = requests.iter().map(|request| alone(window, request)).collect();
    let mut is_suffix = true;
    // What a later request, which counts as run, sets anew.
    let mut covered: HashSet<(u32, &[u8])> = HashSet::new();
    for (request, finding) in requests.iter().zip(&mut findings).rev() {
        if *finding == Verdict::Absent {
            if is_suffix {
                continue;
            }
            *finding = Verdict::Unknown(Rule::Order);
        }
        if let Verdict::Unknown(Rule::Overwritten | Rule::Expiry | Rule::Order) = finding {
            let keys = keys(&overwrites(request).unwrap_or_default());
            if !keys.is_empty() && keys.iter().all(|key| covered.contains(&(request.database, *key))) {
                *finding = Verdict::Ran(answer(request));
            }
        }
        is_suffix = false;
        if let (Verdict::Ran(_), Some(sets)) = (&*finding, overwrites(request)) {
            let anew = sets.iter().filter(|set| set.expiry != Expiry::Kept);
            covered.extend(anew.map(|set| (request.database, set.key)));
        }
    }
    findings
}

/// The finding on one request as if it were the only one.
fn alone(window: &Window, request: &LostRequest<'_>) -> Verdict {
    let ranges = match ranges(window, &request.sendings) {
        Ok(ranges) => ranges,
        Err(rule) => return Verdict::Unknown(rule),
    };
    let mut traces = Vec::new();
    let (mut writes, mut anything) = (false, false);
    for command in &request.commands {
        match form::of(command) {
            Form::Nothing => {}
            Form::Outside => return Verdict::Unknown(Rule::Outside),
            Form::Anything => (writes, anything) = (true, true),
            Form::Traces(more) => {
                writes = true;
                traces.extend(more);
            }
        }
    }
    if !writes {
        return Verdict::Absent;
    }
    let concerns = |effect: &&StreamEffect| {
        ranges.iter().any(|range| range.start <= effect.bytes.start && effect.bytes.end <= range.end)
    };
    let mut inside = window.effects().iter().filter(concerns);
    if anything {
        return match inside.next() {
            Some(_) => Verdict::Unknown(Rule::Anything),
            None => Verdict::Absent,
        };
    }
    if let Some(rule) = unclear(inside) {
        return Verdict::Unknown(rule);
    }
    let is_its = |trace: &Trace| {
        let mut found =
            window.naming(trace.subject()).filter(concerns).filter(|effect| in_database(effect, request.database));
        found.any(|effect| trace.matches(window.arguments(effect)))
    };
    if !traces.iter().any(is_its) {
        return Verdict::Absent;
    }
    match at_end(window, request, concerns) {
        Ok(()) => Verdict::Ran(answer(request)),
        Err(rule) => Verdict::Unknown(rule),
    }
}

/// Where the effects of each sending can be.
fn ranges(window: &Window, sendings: &[Sending<'_>]) -> Result<Vec<Range<u64>>, Rule> {
    if sendings.is_empty() {
        return Err(Rule::Lineage);
    }
    let range = |sending: &Sending<'_>| {
        let end = window.ancestry().shared(sending.replid).ok_or(Rule::Lineage)?;
        // One that was sent after the histories had parted left nothing that is alive.
        if sending.after < end && sending.after < window.range().start {
            return Err(Rule::Begins);
        }
        Ok(sending.after..end)
    };
    sendings.iter().map(range).collect()
}

fn in_database(effect: &StreamEffect, database: u32) -> bool {
    effect.database.is_none_or(|known| known == database)
}

/// A whole value that is set blindly, whatever was there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Overwrite<'a> {
    key: &'a [u8],
    value: &'a [u8],
    expiry: Expiry,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expiry {
    Never,
    /// As it was before.
    Kept,
    /// In milliseconds since 1970.
    At(u64),
    /// In milliseconds from when it runs.
    In(u64),
}

/// What the request sets, if that is all it does and +OK is its only answer.
fn overwrites<'a>(request: &'a LostRequest<'a>) -> Option<Vec<Overwrite<'a>>> {
    request.commands.iter().map(|command| sets(command)).collect::<Option<Vec<_>>>().map(|sets| sets.concat())
}

/// The same of one command.
fn sets<'a, A: AsRef<[u8]>>(args: &'a [A]) -> Option<Vec<Overwrite<'a>>> {
    let arg = |at: usize| -> Option<&'a [u8]> { args.get(at).map(|arg| arg.as_ref()) };
    let number = |at: usize| std::str::from_utf8(arg(at)?).ok()?.parse::<u64>().ok();
    let name = String::from_utf8_lossy(arg(0)?).to_ascii_uppercase();
    let key = arg(1)?;
    match name.as_str() {
        "SET" => {
            let expiry = match arg(3).map(<[u8]>::to_ascii_uppercase).as_deref() {
                None => Expiry::Never,
                Some(b"KEEPTTL") if args.len() == 4 => Expiry::Kept,
                Some(b"EX") if args.len() == 5 => Expiry::In(number(4)?.checked_mul(1000)?),
                Some(b"PX") if args.len() == 5 => Expiry::In(number(4)?),
                Some(b"EXAT") if args.len() == 5 => Expiry::At(number(4)?.checked_mul(1000)?),
                Some(b"PXAT") if args.len() == 5 => Expiry::At(number(4)?),
                Some(_) => return None,
            };
            Some(vec![Overwrite { key, value: arg(2)?, expiry }])
        }
        "SETEX" | "PSETEX" if args.len() == 4 => {
            let unit = if name == "SETEX" { 1000 } else { 1 };
            Some(vec![Overwrite { key, value: arg(3)?, expiry: Expiry::In(number(2)?.checked_mul(unit)?) }])
        }
        "MSET" if args.len() % 2 == 1 => {
            let pairs = args[1..].chunks(2);
            let set =
                |pair: &'a [A]| Overwrite { key: pair[0].as_ref(), value: pair[1].as_ref(), expiry: Expiry::Never };
            Some(pairs.map(set).collect())
        }
        _ => None,
    }
}

fn keys<'a>(sets: &[Overwrite<'a>]) -> Vec<&'a [u8]> {
    sets.iter().map(|set| set.key).collect()
}

/// All +OK: that of the request, or the list of those of its transaction.
fn answer(request: &LostRequest<'_>) -> Vec<u8> {
    let ok = b"+OK\r\n";
    match request.is_transaction {
        false => ok.to_vec(),
        true => [format!("*{}\r\n", request.commands.len()).as_bytes(), &ok.repeat(request.commands.len())].concat(),
    }
}

/// Whether each key of the request holds at the window's end what the request sets, and it was set where it can have run.
fn at_end(window: &Window, request: &LostRequest<'_>, concerns: impl Fn(&&StreamEffect) -> bool) -> Result<(), Rule> {
    let sets = overwrites(request).ok_or(Rule::Present)?;
    let mut seen = HashSet::new();
    // Of a key that is set twice the last counts.
    for set in sets.iter().rev().filter(|set| seen.insert(set.key)) {
        if sets.iter().filter(|other| other.key == set.key).count() > 1 && set.expiry == Expiry::Kept {
            return Err(Rule::Present);
        }
        let last = window
            .naming(set.key)
            .rev()
            .find(|effect| in_database(effect, request.database) && touches(window, effect, set.key));
        let last = last.filter(|effect| concerns(effect)).ok_or(Rule::Overwritten)?;
        // Of any database: it may be that of another.
        if last.database != Some(request.database) {
            return Err(Rule::Present);
        }
        let args: Vec<_> = window.arguments(last).collect();
        let found = self::sets(&args).unwrap_or_default();
        let found = found.iter().rev().find(|found| found.key == set.key).ok_or(Rule::Overwritten)?;
        if found.value != set.value {
            return Err(Rule::Overwritten);
        }
        let is_same = match (set.expiry, found.expiry) {
            (Expiry::Never, Expiry::Never) | (Expiry::Kept, _) => true,
            (Expiry::At(wanted), Expiry::At(found)) => wanted == found,
            (Expiry::In(life), Expiry::At(found)) => {
                let time = request.time.as_ref().ok_or(Rule::Expiry)?;
                found.checked_sub(life).is_some_and(|ran| time.contains(&ran))
            }
            _ => false,
        };
        if !is_same {
            return Err(Rule::Expiry);
        }
    }
    // What empties or exchanges whole databases names no key.
    unclear(window.effects().iter()).map_or(Ok(()), Err)
}

/// One of these is about more than the keys among its arguments.
fn unclear<'a>(mut effects: impl Iterator<Item = &'a StreamEffect>) -> Option<Rule> {
    effects.find_map(|effect| match effect.reach {
        Reach::Keys => None,
        Reach::Databases => Some(Rule::Databases),
        Reach::Unknown => Some(Rule::Opaque),
    })
}

/// The effect has this key among its arguments (the index may give others).
fn touches(window: &Window, effect: &StreamEffect, key: &[u8]) -> bool {
    window.arguments(effect).skip(1).any(|arg| *arg == *key)
}
