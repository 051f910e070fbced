//! Putting a backup back: live, by serving it as a master to the target, or key by key.
//!
//! Nothing of the target is touched before the backup was verified wholly and everything that could refuse was asked.
//!
//! ```text
//!   (what a killed one left) ─▶ survey (node, Sentinels, proxies) ─▶ confirm ─▶ fetch ─▶ note, settings
//!     ─▶ safety backup ─▶ survey once more
//!     ─▶ live: hold the proxies ─▶ safety: what came since ─▶ REPLICAOF primary ─▶ loaded, counted ─▶ REPLICAOF NO ONE
//!     ─▶ release          when it is given up: undo
//! ```

pub mod confirm;
mod conversation;
pub mod keys;
pub mod live;
pub mod node;
mod note;
mod pattern;
mod preflight;
pub mod primary;
pub mod proxies;
pub mod safety;
pub mod settings;
pub mod survey;
mod undo;
pub mod watch;

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::json;

use self::keys::Choice;
use self::live::{Content, Outcome};
use self::node::Node;
use self::note::Note;
use self::primary::{Primary, Rdb, Stage};
use self::safety::Safety;
use self::settings::Settings;
use self::survey::Survey;
use super::catalog::Backup;
use super::fetch::fetch_to_spool;
use super::follow::replay::{Goal, Replay};
use super::pack::Identities;
use super::source::{self, dial};
use super::store::Store;
use super::{Error, Manifest, Progress, catalog, output, rdb};
use crate::args::RestoreArgs;
use crate::config::Config;

/// `backup restore`: asks, restores, and says on `out` what came of it.
///
/// # Errors
/// [`Error::Restore`] when it was refused or given up; its message says what is in the target then.
pub async fn restore(
    args: &RestoreArgs,
    store: &Store,
    backup: &Backup,
    identities: &Arc<Identities>,
    config: &Config,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let text = match Goal::parse(args.to.as_deref(), args.before_command.as_deref())? {
        Some(goal) => {
            let master_name = &backup.master_name;
            let only = (args.which.id != "latest").then_some(backup.id.as_str());
            let mut replay = Replay::prepare(config, store, master_name, only, &goal, identities).await?;
            let base = catalog::resolve(store, Some(master_name), replay.base()).await?;
            live(args, store, base.usable()?, Some(&mut replay), identities, config, json).await?
        }
        None if args.keys => by_key(args, store, backup.usable()?, identities, config, json).await?,
        None => live(args, store, backup.usable()?, None, identities, config, json).await?,
    };
    output::line(out, &text)
}

async fn live(
    args: &RestoreArgs,
    store: &Store,
    manifest: &Manifest,
    mut replay: Option<&mut Replay>,
    identities: &Identities,
    config: &Config,
    json: bool,
) -> Result<String, Error> {
    let proxies = proxies::resolve(&args.proxy).await?;
    note::clear(store, &manifest.master_name, args.target, args.yes, config).await?;
    let at_least = preflight::size(manifest, None);
    let mut survey = Survey::take(config, args.target, &proxies, manifest, at_least).await?;
    let mut question = confirm::question(&survey, manifest, !args.no_safety_backup);
    if let Some(replay) = &replay {
        question = format!("The backup is followed by its stream, up to {replay}.\n{question}");
    }
    confirm::ask(&question, args.yes)?;
    if args.yes {
        confirm::concerns(&survey).iter().for_each(|(title, concern)| tracing::warn!("{title}: {concern}"));
    }
    let file = fetch_to_spool(store, manifest, identities, &config.backup).await?;
    let summary = rdb::walk(&file, &mut |_| {})?;
    preflight::sound(&summary, manifest)?;
    survey.size = preflight::size(manifest, Some(&summary));
    if let Some(replay) = replay.as_deref_mut() {
        replay.check_database(summary.aux.get("repl-stream-db").map(String::as_str))?;
    }
    let until = replay.as_ref().map(|replay| replay.to_string());
    // The stream changes them.
    let counts = replay.is_none().then_some(&manifest.counts);
    let tail = async || replay.as_mut().map_or(Ok(None), |replay| replay.chunk());
    let rdb = Rdb { file, bytes: manifest.plain_bytes, offset: manifest.source.offset };
    let content = Content { rdb, tail, counts };
    let ip = match args.serve_at {
        Some(ip) => ip,
        None => survey.node.facing().await?,
    };
    let primary = Primary::bind(ip).await?;
    let (replicas, size, auth) = (survey.replicas(), survey.size, config.sentinel.redis_auth.as_ref());
    let settings = Settings::plan(&mut survey.node, &survey.facts, replicas, size, auth).await;
    let mut note = Note::new(&survey, primary.addr(), &settings);
    note.leave(store, &manifest.master_name).await;
    settings.make().await;
    let outcome = with_safety_backup(
        args,
        store,
        manifest,
        Ready { survey, primary, note: &mut note },
        &proxies,
        content,
        config,
    )
    .await;
    let left = settings.put_back().await;
    left.iter().for_each(|left| tracing::warn!("{left}"));
    if left.is_empty() {
        note.take_away(store, &manifest.master_name).await;
    }
    let (target, outcome) = outcome?;
    let safety = &outcome.safety;
    let (keys, held, replicas) = (outcome.keys, outcome.held.as_secs_f64(), outcome.replicas);
    let mut text = format!(
        "{target} holds {} now: {}, {}, done in {held:.1} s",
        manifest.id,
        output::count(keys, "key"),
        match replicas {
            1 => "1 replica follows".into(),
            _ => format!("{replicas} replicas follow"),
        }
    );
    if let Some(until) = &until {
        text += &format!("\nand what followed, up to {until}");
    }
    if let Some(id) = safety {
        text += &format!("\nwhat was there before is in backup {id}");
    }
    outcome.warnings.iter().for_each(|warning| text += &format!("\nwarning: {warning}"));
    if outcome.interrupted {
        return Err(Error::Interrupted(text));
    }
    if json {
        let told = json!({
            "outcome": "restored", "id": manifest.id, "target": target, "keys": keys, "held_seconds": held,
            "replicas": replicas, "safety_backup": safety, "until": until, "warnings": outcome.warnings,
        });
        return Ok(told.to_string());
    }
    Ok(text)
}

/// What a live restore begins with.
struct Ready<'a> {
    survey: Survey,
    primary: Primary,
    note: &'a mut Note,
}

/// Backs up what is there, if anything is, and replaces it with `content`.
async fn with_safety_backup(
    args: &RestoreArgs,
    store: &Store,
    manifest: &Manifest,
    Ready { survey, primary, note }: Ready<'_>,
    proxies: &[SocketAddr],
    content: Content<'_, impl AsyncFnMut() -> Result<Option<Vec<u8>>, Error>>,
    config: &Config,
) -> Result<(SocketAddr, Outcome), Error> {
    let is_empty = survey.facts.keys() == 0 && survey.facts.libraries == 0;
    let safety = match args.no_safety_backup || is_empty {
        true => None,
        false => Some(Safety::make(&survey, manifest, store, config).await?),
    };
    // That took its time: the world may be another one.
    let survey = Survey::take(config, args.target, proxies, manifest, survey.size).await?;
    let target = survey.node.addr();
    note.look_again(&survey);
    note.leave(store, &manifest.master_name).await;
    let (stage, mut told) = tokio::sync::watch::channel(Stage::default());
    let show_stage = async {
        let progress = Progress::begin("restoring", manifest.plain_bytes);
        while told.changed().await.is_ok() {
            if let Stage::Sending(sent) = *told.borrow_and_update() {
                progress.reached(sent);
            }
        }
        std::future::pending().await
    };
    let outcome = tokio::select! {
        outcome = live::replace(survey, content, primary, safety, config, &stage) => outcome?,
        never = show_stage => never,
    };
    Ok((target, outcome))
}

async fn by_key(
    args: &RestoreArgs,
    store: &Store,
    manifest: &Manifest,
    identities: &Identities,
    config: &Config,
    json: bool,
) -> Result<String, Error> {
    let target = match args.target {
        Some(target) => target,
        None => source::find(config).await?.master,
    };
    let credentials = config.sentinel.redis_auth.as_ref();
    // A managed server may not tell; then the first RESTORE does.
    if let Ok(facts) = Node::new(target, credentials.cloned()).facts().await
        && facts.rdb_version.is_some()
    {
        preflight::loads(&facts, manifest)
            .and_then(|()| preflight::has_databases(&facts, manifest, args.db))
            .map_err(|why| Error::Restore(format!("{target}: {why}; nothing was changed")))?;
    }
    let choice = Choice { pattern: args.pattern.clone().map(String::into_bytes), db: args.db, replace: args.replace };
    confirm::ask(&confirm::question_by_key(target, manifest, &choice), args.yes)?;
    let file = fetch_to_spool(store, manifest, identities, &config.backup).await?;
    let wire = dial(target, credentials).await.map_err(|why| Error::Unavailable(format!("{target} {why}")))?;
    let outcome = keys::restore(&file, wire, &choice).await?;
    let text = match json {
        true => json!({
            "outcome": "restored", "id": manifest.id, "target": target, "restored": outcome.restored,
            "existing": outcome.existing, "expired": outcome.expired, "others": outcome.others,
            "libraries": outcome.libraries, "failed": outcome.failed, "failures": outcome.failures,
        })
        .to_string(),
        false => format!("{target}: {outcome} from {}", manifest.id),
    };
    if outcome.failed > 0 {
        return Err(Error::Restore(text));
    }
    if outcome.matched() == 0 && (choice.pattern.is_some() || choice.db.is_some()) {
        return Err(Error::NotFound(format!(
            "backup {} has no {choice}, of {}; nothing was restored",
            manifest.id,
            output::count(outcome.others, "key")
        )));
    }
    Ok(text)
}
