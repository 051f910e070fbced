//! The Sentinels during a restore: whether one is about to replace the master.
//!
//! A Sentinel takes its master for down when it has called itself a replica for `down-after-milliseconds` and two INFO
//! periods of 10 s (sentinel.c, `sentinelCheckSubjectivelyDown`): until then a restore is none of its business.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::Error;
use crate::config::{Config, HostPort};
use crate::sentinel::client::{AddressMap, Sentinel};
use crate::sentinel::event::Kind;

/// Two INFO periods.
const PATIENCE: Duration = Duration::from_secs(20);
/// Given up so long before Sentinel's own patience ends: REPLICAOF NO ONE and the INFO that shows it take their time.
const RESERVE: Duration = Duration::from_secs(3);
/// For connecting to a Sentinel.
const CONNECT: Duration = Duration::from_secs(2);

/// How long the master may be a replica.
pub fn budget(down_after: Duration) -> Duration {
    down_after + PATIENCE - RESERVE
}

/// Subscriptions to the Sentinels that could be reached.
#[derive(Debug)]
pub struct Watch {
    heard: mpsc::Receiver<Heard>,
    listening: usize,
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
enum Heard {
    Trouble(String),
    Lost,
}

impl Watch {
    /// Subscribes to every Sentinel of `sentinels`.
    ///
    /// # Errors
    /// Less than half of them can be heard.
    pub async fn start(config: &Config, name: &str, sentinels: &[HostPort]) -> Result<Watch, Error> {
        let map = AddressMap::new(config.sentinel.address_map.clone());
        let (out, heard) = mpsc::channel(16);
        let mut tasks = JoinSet::new();
        let mut problems = Vec::new();
        for at in sentinels {
            let auth = config.sentinel.auth.as_ref();
            match Sentinel::connect(&map.map(at), &mut Vec::new(), auth, CONNECT).await {
                Ok(sentinel) => _ = tasks.spawn(listen(sentinel, at.to_string(), name.to_owned(), out.clone())),
                Err(error) => problems.push(error.to_string()),
            }
        }
        let listening = tasks.len();
        if listening * 2 <= sentinels.len() {
            let problems = problems.join("; ");
            return Err(Error::Unavailable(format!(
                "{listening} of {} Sentinels can be heard: {problems}; nothing was changed",
                sentinels.len()
            )));
        }
        Ok(Watch { heard, listening, _tasks: tasks })
    }

    /// What of that has been heard already and not been told.
    pub fn heard(&mut self) -> Option<String> {
        std::iter::from_fn(|| self.heard.try_recv().ok()).find_map(|heard| match heard {
            Heard::Trouble(what) => Some(what),
            Heard::Lost => None,
        })
    }

    /// Returns when a Sentinel takes the master for down or begins to replace it, or when none is heard any more.
    pub async fn trouble(&mut self) -> String {
        loop {
            match self.heard.recv().await {
                Some(Heard::Trouble(what)) => return what,
                Some(Heard::Lost) => {
                    self.listening -= 1;
                    if self.listening == 0 {
                        return "no Sentinel can be heard any more".into();
                    }
                }
                None => return "no Sentinel can be heard any more".into(),
            }
        }
    }
}

async fn listen(mut sentinel: Sentinel, at: String, name: String, out: mpsc::Sender<Heard>) {
    while let Ok(event) = sentinel.event(Some(&name)).await {
        let what = match event.kind {
            Kind::MasterDown => "takes the master for down",
            Kind::TryFailover | Kind::Candidate | Kind::Promoted => "has begun a failover",
            Kind::SwitchMaster => "names another master",
            _ => continue,
        };
        if out.send(Heard::Trouble(format!("Sentinel {at} {what}"))).await.is_err() {
            return;
        }
    }
    let _ = out.send(Heard::Lost).await;
}
