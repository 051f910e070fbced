//! The safety backup of what a restore is about to overwrite, and what was written after it was taken.
//!
//! A backup is the data of one moment. What is written between that moment and the hold of the clients is neither in it
//! nor in the restored data: so it is counted, and where a backup takes but a moment, it is made once more under the
//! hold.

use std::fmt;
use std::time::Duration;

use tokio::time::timeout;

use super::node::Node;
use super::survey::Survey;
use crate::config::Config;
use crate::create::{self, Created, Lone};
use crate::follow::commands::{Commands, Next};
use crate::follow::position::Backlog;
use crate::replica::{Begin, Replica, Want};
use crate::size;
use crate::store::Store;
use crate::{Error, Manifest, catalog, output, source};

/// A backup that took no longer is made again while clients wait.
pub const BRIEF: Duration = Duration::from_secs(2);
/// How long counting may take.
const COUNTED_WITHIN: Duration = Duration::from_secs(2);
/// Of each command only its name is of interest.
const NAME: usize = 64;
/// What a master's stream holds besides writes: signs of life, and what Sentinels tell each other.
const NO_WRITES: [&str; 7] = ["PING", "REPLCONF", "SELECT", "PUBLISH", "SPUBLISH", "MULTI", "EXEC"];

/// A backup that was made, and what can make another.
#[derive(Debug)]
pub struct Safety<'a> {
    store: &'a Store,
    config: &'a Config,
    lone: Option<Lone>,
    /// For whom it is encrypted, where the configuration does not say.
    recipients: &'a [String],
    made: Created,
}

/// What came after the backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gap {
    /// So many writes.
    Writes(u64),
    /// So many bytes of the replication stream, which could not be looked at.
    Bytes(u64),
    /// The target has another history since.
    Unknown,
}

impl Safety<'_> {
    /// Backs up what the target of `survey` has, beside the backup `restored` and encrypted as that is where the
    /// configuration names no recipients: what is overwritten is no less secret.
    ///
    /// # Errors
    /// As `backup create`.
    pub async fn make<'a>(
        survey: &Survey,
        restored: &'a Manifest,
        store: &'a Store,
        config: &'a Config,
    ) -> Result<Safety<'a>, Error> {
        let lone = || Lone { addr: survey.node.addr(), name: restored.master_name.clone() };
        let lone = survey.monitored.is_none().then(lone);
        let recipients = &restored.packing.recipients;
        let made = create::safety(lone.clone(), recipients, store, config).await?;
        Ok(Safety { store, config, lone, recipients, made })
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.made.manifest.id
    }

    /// Makes it once more where `node`, whose clients are held, was written to since, and that takes but a moment.
    /// Returns what it lacks all the same, for people.
    ///
    /// # Errors
    /// As `backup create`; the first one stays then.
    pub async fn close(&mut self, node: &mut Node, held: bool) -> Result<Option<String>, Error> {
        let mut gap = self.gap(node).await?;
        if held && gap != Gap::Writes(0) && self.made.seconds <= BRIEF.as_secs_f64() {
            let again = create::safety(self.lone.clone(), self.recipients, self.store, self.config).await?;
            let first = std::mem::replace(&mut self.made, again);
            self.delete(&first.manifest).await;
            gap = self.gap(node).await?;
        }
        Ok((gap != Gap::Writes(0)).then(|| {
            let until = if held { "clients were held" } else { "the data was replaced" };
            format!(
                "{gap} came after the snapshot of the safety backup {} and before {until}: it lacks them",
                self.id()
            )
        }))
    }

    async fn gap(&self, node: &mut Node) -> Result<Gap, Error> {
        let source = &self.made.manifest.source;
        let backlog = Backlog::parse(&node.text(&["INFO", "replication"]).await?);
        let Some(now) = backlog.filter(|now| now.replid == source.replid && now.offset >= source.offset) else {
            return Ok(Gap::Unknown);
        };
        if now.offset == source.offset {
            return Ok(Gap::Writes(0));
        }
        // Asked for more than it has, it would begin a full synchronisation.
        if now.begins.is_some_and(|begins| begins <= source.offset) {
            match timeout(COUNTED_WITHIN, self.count(node, now.offset)).await {
                Ok(Ok(writes)) => return Ok(Gap::Writes(writes)),
                Ok(Err(why)) => tracing::debug!("the writes since the safety backup cannot be counted: {why}"),
                Err(_) => tracing::debug!("the writes since the safety backup are too many to be counted in time"),
            }
        }
        Ok(Gap::Bytes(now.offset - source.offset))
    }

    /// The writes in the stream of `node` from the backup up to `end`.
    async fn count(&self, node: &Node, end: u64) -> Result<u64, String> {
        let auth = self.config.sentinel.redis_auth.as_ref();
        let Manifest { source, .. } = &self.made.manifest;
        let text = |error: Error| error.to_string();
        let described = source::Node::ask(node.addr(), auth, COUNTED_WITHIN).await;
        let described = described.map_err(|error| error.reason)?;
        let mut replica = Replica::connect(&described, auth, Want::Stream).await.map_err(text)?;
        match replica.psync(Some((&source.replid, source.offset))).await.map_err(text)? {
            Begin::Continue { .. } => {}
            Begin::Full { .. } => return Err("it offers everything instead of what follows".into()),
        }
        let mut commands = Commands::new(source.offset, NAME);
        let mut writes = 0;
        while commands.position() < end {
            let mut bytes = replica.next().await.map_err(text)?.bytes;
            while let Next::Command(used, command) = commands.next(bytes).map_err(|error| error.what.to_owned())? {
                bytes = &bytes[used..];
                let name = command.arguments().next().unwrap_or_default();
                let is_write = !NO_WRITES.iter().any(|other| name.eq_ignore_ascii_case(other.as_bytes()));
                writes += u64::from(is_write && command.end <= end);
            }
        }
        Ok(writes)
    }

    async fn delete(&self, manifest: &Manifest) {
        let Manifest { master_name, id, object, .. } = manifest;
        for name in [catalog::manifest_name(master_name, id), catalog::object_name(master_name, object)] {
            if let Err(error) = self.store.delete(&name).await {
                tracing::warn!(%error, "an earlier safety backup, {id}, stays for a week");
                return;
            }
        }
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Gap::Writes(writes) => f.write_str(&output::count(*writes, "write")),
            Gap::Bytes(bytes) => write!(f, "the writes in {} of the replication stream", size::rounded(*bytes)),
            Gap::Unknown => f.write_str("an unknown number of writes (the master is another one since)"),
        }
    }
}
