//! The verbs of `switchmaster backup`: each opens what it needs and calls its own file.

use std::path::PathBuf;
use std::sync::Arc;

use super::pack::Identities;
use super::store::Store;
use super::{Error, callouts, catalog, copy, create, fetch, follow, prune, report, restore, show, verify};
use crate::args::{BackupAction, BackupArgs, FetchArgs, Identity, Which};
use crate::config::{BackupConfig, Config};
use crate::interrupt::interruption;

/// Runs one verb to its end; the text or JSON for the user goes to standard output. `read` is for `copy --to-config`.
pub async fn run(args: BackupArgs, config: &Config, read: &copy::ReadConfig) -> Result<(), Error> {
    // What is written holds the data of others: files are for their owner only.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let json = args.json;
    let master_name = config.sentinel.master_name.as_deref();
    let open = || Store::open(&config.backup, args.store.as_ref());
    let out = &mut std::io::stdout();
    let find = async |store: &Store, which: &Which| catalog::resolve(store, master_name, &which.id).await;
    match args.action {
        BackupAction::List => {
            let store = open()?;
            show::list(&store, master_name, json, out).await?;
            store.was_whole()
        }
        BackupAction::Show(which) => {
            let store = open()?;
            show::show(&store, &find(&store, &which).await?, json, out).await
        }
        BackupAction::Verify(args) => {
            let (store, identities) = (open()?, identities(&args.identity, &config.backup)?);
            let backups = match args.all {
                true => catalog::list(&store, master_name).await?,
                false => vec![find(&store, &args.which).await?],
            };
            let identities = Arc::new(identities);
            let found = verify::verify(&store, &backups, &identities, args.drill, config, json, out).await;
            if args.all {
                let streams = verify::verify_streams(&store, &backups, &identities, config, json, out).await;
                found.and(streams)?;
                store.was_whole()?;
            } else {
                found?;
            }
            for backup in &backups {
                report::record(config, Some(&backup.master_name), |record| record.last_verified = report::now());
            }
            Ok(())
        }
        BackupAction::Prune(rules) => prune::prune(&open()?, master_name, &rules, json, out).await,
        BackupAction::Fetch(FetchArgs { output: None, aof: None, .. }) => Err(Error::Usage(
            "fetch where to? --output FILE writes a plain RDB; --aof DIR writes what a Redis with appendonly yes loads \
             from its data directory"
                .to_owned(),
        )),
        BackupAction::Fetch(args) => {
            let (store, identities) = (open()?, identities(&args.identity, &config.backup)?);
            let backup = find(&store, &args.which).await?;
            if let Some(file) = &args.output {
                fetch::to_file(&store, &backup, &identities, file, json, out).await?;
            }
            if let Some(dir) = &args.aof {
                fetch::to_aof(&store, &backup, &identities, dir, json, out).await?;
            }
            Ok(())
        }
        BackupAction::Copy(args) => {
            let from = open()?;
            let to = copy::second(&args, &config.backup, read, &from)?;
            let backups = match (args.all, args.since) {
                (true, _) => catalog::list(&from, master_name).await?,
                (_, Some(age)) => copy::since(catalog::list(&from, master_name).await?, age),
                _ => vec![find(&from, &args.which).await?],
            };
            let interrupted = interruption().map_err(Error::Internal)?;
            tokio::select! {
                done = copy::copy(&from, &to, &backups, &config.backup, json, out) => done,
                () = interrupted => {
                    Err(Error::Interrupted("interrupted: what was copied is whole, and a second run goes on".to_owned()))
                }
            }
        }
        BackupAction::Create(args) => {
            let created = async { create::run(&args, &open()?, config, json, out).await }.await;
            callouts::created(&created, config).await;
            created
        }
        BackupAction::Restore(args) => {
            let (store, identities) = (open()?, Arc::new(identities(&args.identity, &config.backup)?));
            let backup = find(&store, &args.which).await?;
            restore::restore(&args, &store, &backup, &identities, config, json, out).await
        }
        BackupAction::Follow(args) => follow::run(config, &open()?, &args, json).await,
    }
}

fn identities(given: &Identity, config: &BackupConfig) -> Result<Identities, Error> {
    let file: Option<&PathBuf> = given.identity.as_ref().or(config.identity_file.as_ref());
    Identities::read(file.map(PathBuf::as_path))
}
