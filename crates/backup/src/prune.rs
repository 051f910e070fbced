//! Which backups may go ([`plan`], which decides without the store), and their deletion.
//!
//! The newest backup, the newest one that a check found whole, and those whose manifest cannot be read or that are dated
//! in the future always stay. What is known to be damaged stands for no other, and goes once a newer one is sound. Safety
//! backups stay for a week, and stand for no other either. The manifest goes first: from then on it is no backup any more,
//! and what is left of it is found as an orphan.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::json;

use super::catalog::{self, Backup};
use super::follow::Pruned;
use super::follow::ranges::Ranges;
use super::follow::timeline::Stored;
use super::store::{Object, Store};
use super::{Error, follow, output};
use crate::args::PruneArgs;
use crate::size;

/// What an interrupted run may still be busy with is left alone for this long.
const LEFTOVERS: Duration = Duration::from_secs(24 * 3600);
/// Whoever restored the wrong thing has this long to notice.
const SAFETY_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// A backup as the rules see it.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// When it was taken.
    pub created: Timestamp,
    /// Whether a check found it whole.
    pub verified: bool,
    /// Whether its manifest can be read by this program.
    pub readable: bool,
    /// Whether its data is known to be damaged.
    pub damaged: bool,
    /// Whether it is there to undo a restore.
    pub safety: bool,
}

impl Candidate {
    /// Whether it may stand for others: it is what it says it is.
    fn counts(&self, now: Timestamp) -> bool {
        let is_plain = !(self.damaged || self.safety);
        self.readable && is_plain && !catalog::is_of_the_future(self.created, now)
    }
}

/// Why each backup stays, in the order of `backups` (the oldest first, all of one master name); none: it may go.
pub fn plan(rules: &PruneArgs, backups: &[Candidate], now: Timestamp) -> Vec<Vec<&'static str>> {
    let mut reasons = vec![Vec::new(); backups.len()];
    let sound = || backups.iter().enumerate().rev().filter(|(_, backup)| backup.counts(now));
    let age = |created: Timestamp| Duration::try_from(now.duration_since(created)).unwrap_or_default();
    let safety = backups.iter().enumerate().filter(|(_, backup)| backup.safety);
    for (at, _) in safety.filter(|(_, backup)| age(backup.created) < SAFETY_KEPT) {
        reasons[at].push("a safety backup of this week");
    }
    for (at, _) in sound().take(1) {
        reasons[at].push("the newest");
    }
    let newest = sound().next().map_or(0, |(at, _)| at);
    for (at, _) in backups.iter().enumerate().skip(newest).filter(|(_, backup)| backup.damaged) {
        reasons[at].push("damaged, and no newer one is sound");
    }
    for (at, _) in sound().filter(|(_, backup)| backup.verified).take(1) {
        reasons[at].push("the last verified");
    }
    for (at, _) in backups.iter().enumerate().filter(|(_, backup)| !backup.readable) {
        reasons[at].push("its manifest cannot be read");
    }
    for (at, _) in backups.iter().enumerate().filter(|(_, backup)| catalog::is_of_the_future(backup.created, now)) {
        reasons[at].push("dated in the future: is a clock wrong?");
    }
    for (at, _) in sound().take(rules.keep_last) {
        reasons[at].push("last");
    }
    if let Some(within) = rules.keep_within {
        for (at, _) in sound().filter(|(_, backup)| age(backup.created) < within) {
            reasons[at].push("within");
        }
    }
    type Period = fn(Timestamp) -> (i16, i16);
    let periods: [(&str, usize, Period); 3] = [
        ("daily", rules.keep_daily, |at| {
            let date = utc(at);
            (date.year(), date.day_of_year())
        }),
        ("weekly", rules.keep_weekly, |at| {
            let week = utc(at).iso_week_date();
            (week.year(), i16::from(week.week()))
        }),
        ("monthly", rules.keep_monthly, |at| {
            let date = utc(at);
            (date.year(), i16::from(date.month()))
        }),
    ];
    for (reason, count, period) in periods {
        let mut seen = BTreeSet::new();
        for (at, backup) in sound() {
            if seen.len() < count && seen.insert(period(backup.created)) {
                reasons[at].push(reason);
            }
        }
    }
    reasons
}

/// Deletes what no rule keeps, orphans and unfinished uploads older than a day; says each on `out`. What cannot be deleted or
/// read keeps nothing else from being deleted.
///
/// Fails with [`Error::Usage`] when no rule is given (nothing at all would be kept but the newest), and with the error of what
/// could not be deleted or read, after having tried all.
pub async fn prune(
    store: &Store,
    master_name: Option<&str>,
    rules: &PruneArgs,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let none = rules.keep_last + rules.keep_daily + rules.keep_weekly + rules.keep_monthly == 0;
    if none && rules.keep_within.is_none() {
        return Err(Error::Usage(
            "prune needs a rule for what to keep, such as --keep-daily 7 --keep-weekly 4 or --keep-within 7d"
                .to_owned(),
        ));
    }
    // The streams first: what comes meanwhile may be a base without its stream, never a stream without its base.
    let mut streams = streams(store, master_name).await?;
    let objects = catalog::objects(store, master_name).await?;
    let backups = catalog::of_objects(store, &objects).await?;
    let now = now_of(store).await?;
    let mut pruning = Pruning { store, rules, json, out, done: Tally::default(), failed: Vec::new() };
    let names: BTreeSet<&str> = backups.iter().map(|backup| backup.master_name.as_str()).collect();
    for name in names {
        let segments = match streams.remove(name) {
            Some(None) => continue,
            segments => segments.flatten().unwrap_or_default(),
        };
        let backups: Vec<&Backup> = backups.iter().filter(|backup| backup.master_name == name).collect();
        let stay = pruning.backups(&backups, now).await?;
        pruning.stream(name, &segments, &backups, &stay).await?;
    }
    let old = now - LEFTOVERS;
    pruning.orphans(&objects, old).await?;
    pruning.uploads(master_name.unwrap_or_default(), old).await;
    output::line(pruning.out, &pruning.done.summary(json, rules.dry_run))?;
    match pruning.failed.as_slice() {
        [] => store.was_whole(),
        [error] => Err(error.clone()),
        [first, ..] => {
            let count = pruning.failed.len();
            Err(Error::Store(format!("{count} things could not be deleted; the first: {first}")))
        }
    }
}

/// The segments of each master; `None`: they cannot be read.
async fn streams(store: &Store, master_name: Option<&str>) -> Result<BTreeMap<String, Option<Vec<Stored>>>, Error> {
    let masters = match master_name {
        Some(name) => vec![name.to_owned()],
        None => store.list_folder("").await?.1,
    };
    let mut streams = BTreeMap::new();
    for name in masters {
        let segments = match follow::segments(store, &name).await {
            // Nobody knows what would be lost with its backups: all of them stay.
            Err(Error::Unreadable(why)) => {
                store.pass_over(&why);
                None
            }
            segments => Some(segments?),
        };
        streams.insert(name, segments);
    }
    Ok(streams)
}

/// The store's own time, by which things there are old.
async fn now_of(store: &Store) -> Result<Timestamp, Error> {
    match store.probe().await {
        Ok(probe) => Ok(probe.now),
        // On a full disk nothing can be written, and there is most to be deleted.
        Err(Error::Store(why)) => {
            tracing::warn!("nothing can be written there ({why}): how old things are is by the clock of this host");
            Ok(Timestamp::now())
        }
        Err(error) => Err(error),
    }
}

/// A prune under way.
struct Pruning<'a> {
    store: &'a Store,
    rules: &'a PruneArgs,
    json: bool,
    out: &'a mut dyn Write,
    done: Tally,
    failed: Vec<Error>,
}

/// What was done, or would be.
#[derive(Default)]
struct Tally {
    kept: u64,
    deleted: u64,
    freed_bytes: u64,
    segments: u64,
    /// By master name.
    lost: BTreeMap<String, Ranges>,
    orphans: u64,
    /// `None`: not looked for.
    uploads: Option<u64>,
}

impl Pruning<'_> {
    /// Deletes those that no rule keeps of one master's. Returns the others.
    async fn backups<'b>(&mut self, backups: &[&'b Backup], now: Timestamp) -> Result<Vec<&'b Backup>, Error> {
        let candidates: Vec<Candidate> = backups.iter().map(|backup| candidate(backup)).collect();
        let mut stay = Vec::new();
        for (backup, reasons) in backups.iter().zip(plan(self.rules, &candidates, now)) {
            let mut reasons: Vec<String> = reasons.into_iter().map(str::to_owned).collect();
            if reasons.is_empty()
                && !self.rules.dry_run
                && let Err(error) = delete(self.store, backup).await
            {
                reasons.push(format!("could not be deleted: {error}"));
                self.failed.push(error);
            }
            if reasons.is_empty() {
                self.done.deleted += 1;
                self.done.freed_bytes += stored_bytes(backup);
            } else {
                self.done.kept += 1;
                stay.push(*backup);
            }
            self.report(backup, &reasons)?;
        }
        Ok(stay)
    }

    /// Says what became of a backup; no `reasons`: it went.
    fn report(&mut self, backup: &Backup, reasons: &[String]) -> Result<(), Error> {
        let bytes = stored_bytes(backup);
        let line = if self.json {
            json!({ "id": backup.id, "master_name": backup.master_name, "kept": !reasons.is_empty(),
                "reasons": reasons, "damaged": backup.damage, "stored_bytes": bytes, "dry_run": self.rules.dry_run })
            .to_string()
        } else if reasons.is_empty() {
            let damage = backup.damage.as_ref().map(|damage| format!("  damaged: {damage}")).unwrap_or_default();
            format!("{}  {}  {}{damage}", deleted(self.rules.dry_run), backup.id, size::rounded(bytes))
        } else {
            format!("kept  {}  {}", backup.id, reasons.join(", "))
        };
        output::line(self.out, &line)
    }

    /// Deletes the segments that none of the backups needs which `stay`, of `all` of one master's.
    async fn stream(
        &mut self,
        name: &str,
        segments: &[Stored],
        all: &[&Backup],
        stay: &[&Backup],
    ) -> Result<(), Error> {
        let Pruned { useless, lost } = follow::pruned(name, segments, follow::bases(all), follow::bases(stay));
        // One that cannot be read, or only seems to be damaged, may need any of them.
        if stay.iter().all(|backup| backup.manifest.is_ok() && backup.damage.is_none()) {
            for segment in &useless {
                // Of thousands that cannot be deleted, one is reported.
                if !self.delete(segment).await {
                    break;
                }
                self.done.segments += 1;
            }
        }
        if !lost.is_empty() {
            let verb = if self.rules.dry_run { "would be lost" } else { "are lost" };
            if !self.json {
                output::line(self.out, &format!("{name}: moments that {verb}: {lost}"))?;
            }
            self.done.lost.insert(name.to_owned(), lost);
        }
        Ok(())
    }

    /// Deletes what interrupted backups left before `old`.
    async fn orphans(&mut self, objects: &[Object], old: Timestamp) -> Result<(), Error> {
        for orphan in catalog::orphans(objects).filter(|orphan| orphan.modified < old) {
            if !self.delete(&orphan.name).await {
                continue;
            }
            self.done.orphans += 1;
            if !self.json {
                let did = deleted(self.rules.dry_run);
                output::line(self.out, &format!("{did}  {}  left by an interrupted backup", orphan.name))?;
            }
        }
        Ok(())
    }

    /// Aborts uploads below `folder` that were begun before `old` and not ended.
    async fn uploads(&mut self, folder: &str, old: Timestamp) {
        if self.rules.dry_run {
            return;
        }
        match self.store.abort_stale_multiparts(folder, old).await {
            Ok(count) => self.done.uploads = Some(count as u64),
            // The backups are pruned; what a service cannot do is no reason to call that a failure.
            Err(error) => tracing::warn!("{error}"),
        }
    }

    /// Whether the object is gone, or would be.
    async fn delete(&mut self, name: &str) -> bool {
        if self.rules.dry_run {
            return true;
        }
        match self.store.delete(name).await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!("{error}");
                self.failed.push(error);
                false
            }
        }
    }
}

impl Tally {
    fn summary(&self, json: bool, dry_run: bool) -> String {
        let Tally { kept, deleted, freed_bytes, segments, lost, orphans, uploads } = self;
        if json {
            return json!({ "kept": kept, "deleted": deleted, "freed_bytes": freed_bytes, "segments": segments,
                "lost_moments": lost, "orphans": orphans, "aborted_uploads": uploads, "dry_run": dry_run })
            .to_string();
        }
        let did = if dry_run { "would be deleted" } else { "deleted" };
        let uploads = match uploads {
            Some(count @ 1..) => format!(", {} aborted", output::count(*count, "unfinished upload")),
            _ => String::new(),
        };
        let stream = match segments {
            0 => String::new(),
            _ => format!(", {} of the stream {did}", output::count(*segments, "segment")),
        };
        format!("{kept} kept, {deleted} {did} ({}){stream}{uploads}", size::rounded(*freed_bytes))
    }
}

fn deleted(dry_run: bool) -> &'static str {
    if dry_run { "would delete" } else { "deleted" }
}

fn stored_bytes(backup: &Backup) -> u64 {
    backup.manifest.as_ref().map_or(0, |manifest| manifest.stored_bytes)
}

async fn delete(store: &Store, backup: &Backup) -> Result<(), Error> {
    let manifest = backup.usable()?;
    let name = &backup.master_name;
    store.delete(&catalog::manifest_name(name, &backup.id)).await?;
    store.delete(&catalog::object_name(name, &manifest.object)).await?;
    store.delete(&catalog::verified_name(name, &backup.id)).await?;
    store.delete(&catalog::damaged_name(name, &backup.id)).await
}

fn candidate(backup: &Backup) -> Candidate {
    let created = backup.manifest.as_ref().map_or(Timestamp::UNIX_EPOCH, |manifest| manifest.created);
    Candidate {
        created,
        verified: backup.verified.is_some(),
        readable: backup.manifest.is_ok(),
        damaged: backup.damage.is_some(),
        safety: catalog::is_safety(&backup.id),
    }
}

fn utc(at: Timestamp) -> jiff::civil::Date {
    at.to_zoned_datetime(TimeZone::UTC).date()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn candidates(times: &[&str]) -> Vec<Candidate> {
        times
            .iter()
            .map(|time| Candidate { created: at(time), verified: false, readable: true, damaged: false, safety: false })
            .collect()
    }

    fn kept(rules: &PruneArgs, backups: &[Candidate]) -> Vec<usize> {
        let plan = plan(rules, backups, at("2026-11-20T12:00:00Z"));
        plan.iter().enumerate().filter(|(_, reasons)| !reasons.is_empty()).map(|(at, _)| at).collect()
    }

    #[test]
    fn a_safety_backup_stays_a_week_and_stands_for_no_other() {
        let mut backups = candidates(&["2026-11-01T03:00:00Z", "2026-11-02T03:00:00Z", "2026-11-19T09:00:00Z"]);
        (backups[1].safety, backups[2].safety) = (true, true);
        assert_eq!(kept(&PruneArgs { keep_last: 1, ..PruneArgs::default() }, &backups), [0, 2]);
    }

    #[test]
    fn one_of_the_future_stays_and_stands_for_no_other() {
        let backups = candidates(&[
            "2026-11-18T03:00:00Z",
            "2026-11-19T03:00:00Z",
            "2026-11-20T12:04:00Z", // of a clock that is as right as clocks are
            "2026-11-30T03:00:00Z",
        ]);
        assert_eq!(kept(&PruneArgs { keep_last: 2, ..PruneArgs::default() }, &backups), [1, 2, 3]);
    }

    #[test]
    fn each_rule_keeps_the_newest_of_its_period() {
        let backups = candidates(&[
            "2026-09-30T23:59:59Z", // 0: September
            "2026-11-08T03:00:00Z", // 1: Sunday of week 45
            "2026-11-09T03:00:00Z", // 2: Monday of week 46
            "2026-11-18T03:00:00Z", // 3
            "2026-11-19T03:00:00Z", // 4
            "2026-11-19T23:59:59Z", // 5: the newest of its day
            "2026-11-20T00:00:00Z", // 6: in UTC another day
            "2026-11-20T03:00:00Z", // 7
        ]);
        let rules = |change: fn(&mut PruneArgs)| {
            let mut rules = PruneArgs::default();
            change(&mut rules);
            rules
        };
        for (rules, expected) in [
            (rules(|rules| rules.keep_last = 2), &[6, 7][..]),
            (rules(|rules| rules.keep_daily = 3), &[3, 5, 7]),
            (rules(|rules| rules.keep_weekly = 3), &[1, 2, 7]),
            (rules(|rules| rules.keep_monthly = 5), &[0, 7]),
            (rules(|rules| rules.keep_within = Some(Duration::from_secs(36 * 3600))), &[4, 5, 6, 7]),
            (
                rules(|rules| {
                    rules.keep_daily = 1;
                    rules.keep_monthly = 2;
                }),
                &[0, 7],
            ),
        ] {
            assert_eq!(kept(&rules, &backups), expected, "{rules:?}");
        }
    }

    #[test]
    fn the_newest_the_last_verified_and_the_unreadable_stay() {
        let mut backups = candidates(&[
            "2026-01-01T00:00:00Z",
            "2026-01-02T00:00:00Z",
            "2026-01-03T00:00:00Z",
            "2026-01-04T00:00:00Z",
            "2026-01-05T00:00:00Z",
        ]);
        (backups[0].verified, backups[1].verified) = (true, true);
        backups[4].readable = false;
        let rules = PruneArgs { keep_last: 1, ..PruneArgs::default() };
        assert_eq!(kept(&rules, &backups), [1, 3, 4]);
    }

    #[test]
    fn a_damaged_one_stands_for_no_other_and_goes_once_a_newer_one_is_sound() {
        let mut backups = candidates(&[
            "2026-11-16T03:00:00Z",
            "2026-11-17T03:00:00Z", // 1: damaged
            "2026-11-18T03:00:00Z",
            "2026-11-19T03:00:00Z", // 3: damaged
            "2026-11-20T03:00:00Z", // 4: damaged, and was found whole before
        ]);
        for at in [1, 3, 4] {
            backups[at].damaged = true;
        }
        backups[4].verified = true;
        backups[0].verified = true;
        assert_eq!(kept(&PruneArgs { keep_last: 1, ..PruneArgs::default() }, &backups), [0, 2, 3, 4]);
        assert_eq!(kept(&PruneArgs { keep_daily: 2, ..PruneArgs::default() }, &backups), [0, 2, 3, 4]);
        let within = PruneArgs { keep_within: Some(Duration::from_secs(90 * 3600)), ..PruneArgs::default() };
        assert_eq!(kept(&within, &backups), [0, 2, 3, 4]);
        for backup in &mut backups {
            backup.damaged = true;
        }
        assert_eq!(kept(&PruneArgs { keep_last: 1, ..PruneArgs::default() }, &backups), [0, 1, 2, 3, 4]);
    }

    proptest! {
        #[test]
        fn more_rules_keep_more(
            hours in proptest::collection::vec(0_i64..20_000, 1..40),
            marks in proptest::collection::vec((any::<bool>(), any::<bool>(), any::<bool>()), 40),
            (last, daily, weekly, monthly) in (0_usize..5, 0_usize..9, 0_usize..5, 0_usize..5),
        ) {
            let mut hours = hours;
            hours.sort_unstable();
            let backups: Vec<Candidate> = hours
                .iter()
                .zip(&marks)
                .map(|(hour, (verified, readable, damaged))| Candidate {
                    created: Timestamp::from_second(1_700_000_000 + hour * 3600).unwrap(),
                    verified: *verified,
                    readable: *readable,
                    damaged: *readable && *damaged,
                    safety: false,
                })
                .collect();
            let sound = |backup: &Candidate| backup.readable && !backup.damaged;
            let rules = PruneArgs { keep_last: last, keep_daily: daily, keep_weekly: weekly, keep_monthly: monthly,
                ..PruneArgs::default() };
            let few = PruneArgs { keep_last: last, ..PruneArgs::default() };
            let now = Timestamp::from_second(1_780_000_000).unwrap();
            let (many, few) = (plan(&rules, &backups, now), plan(&few, &backups, now));
            for (at, backup) in backups.iter().enumerate() {
                prop_assert!(few[at].is_empty() || !many[at].is_empty());
                prop_assert!(backup.readable || !many[at].is_empty());
            }
            let newest = backups.iter().rposition(sound);
            prop_assert!(newest.is_none_or(|at| !many[at].is_empty()));
            let verified = backups.iter().rposition(|backup| sound(backup) && backup.verified);
            prop_assert!(verified.is_none_or(|at| !many[at].is_empty()));
            let kept = many.iter().filter(|reasons| reasons.contains(&"last")).count();
            prop_assert_eq!(kept, last.min(backups.iter().filter(|backup| sound(backup)).count()));
            // What is damaged changes nothing for the others.
            let others: Vec<Candidate> = backups.iter().filter(|backup| !backup.damaged).cloned().collect();
            let without = plan(&rules, &others, now);
            let with: Vec<_> = many.iter().zip(&backups).filter(|(_, backup)| !backup.damaged).collect();
            prop_assert!(with.iter().map(|(reasons, _)| *reasons).eq(&without));
        }
    }
}
