//! Whom the Sentinels name, asked once ([`SentinelSurvey`]): for tools that follow nothing.
//!
//! Those that are configured, and the peers that they report. What they say is weighed as the proxy weighs it; no node is
//! asked.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::address::HostPort;
use crate::secret::Credentials;
use crate::sentinel::client::{self, AddressMap, Sentinel};
use crate::sentinel::consensus::{self, Consensus, Named};
use crate::sentinel::electorate;
use crate::sentinel::report::SentinelAnswer;

/// For connecting to a Sentinel, and for each of its answers.
const LIMIT: Duration = Duration::from_secs(2);

/// What to ask, and as whom.
#[derive(Clone, Debug)]
pub struct SentinelSurvey<'a> {
    /// The Sentinels to begin with.
    pub sentinels: &'a [HostPort],
    /// The monitored name; `None` takes the only one there is.
    pub master_name: Option<&'a str>,
    /// Credentials for the Sentinels.
    pub auth: Option<&'a Credentials>,
    /// What is dialled instead of an address that is reported.
    pub map: &'a AddressMap,
}

/// What the Sentinels that are believed have answered.
#[derive(Clone, Debug)]
pub struct Surveyed {
    /// The monitored name.
    pub name: String,
    /// Their answers, each once.
    pub answers: Vec<(HostPort, SentinelAnswer)>,
    /// How many of them there are: a majority is of these.
    pub known: usize,
}

/// Why nobody could be named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SurveyError {
    /// No Sentinel answers; what each said instead.
    Unreachable(Vec<String>),
    /// They monitor several masters, and none was chosen; their names, sorted.
    SeveralMasters(Vec<String>),
    /// They answer, and what they say names no one master; why.
    Undecided(String),
}

impl fmt::Display for SurveyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SurveyError::Unreachable(problems) => write!(f, "no Sentinel answers: {}", problems.join("; ")),
            SurveyError::SeveralMasters(names) => {
                write!(f, "Sentinel monitors several masters: {}; choose one with --master-name", names.join(", "))
            }
            SurveyError::Undecided(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for SurveyError {}

impl SentinelSurvey<'_> {
    /// Asks all of them.
    ///
    /// # Errors
    /// All but the weighing of [`Surveyed::master`].
    pub async fn run(&self) -> Result<Surveyed, SurveyError> {
        let name = self.name().await?;
        let (answers, known) = self.poll_all(&name).await?;
        Ok(Surveyed { name, answers, known })
    }

    /// The configured name, or the only one that the Sentinels monitor.
    async fn name(&self) -> Result<String, SurveyError> {
        if let Some(name) = self.master_name {
            return Ok(name.to_owned());
        }
        let mut problems = Vec::new();
        for at in self.sentinels {
            let mut names = match self.masters(self.map.map(at)).await {
                Ok(names) => names,
                Err(error) => {
                    problems.push(error.to_string());
                    continue;
                }
            };
            names.sort();
            match &names[..] {
                [name] => return Ok(name.clone()),
                [] => problems.push(format!("Sentinel {at} monitors nothing")),
                _ => return Err(SurveyError::SeveralMasters(names)),
            }
        }
        Err(SurveyError::Unreachable(problems))
    }

    async fn masters(&self, at: HostPort) -> Result<Vec<String>, client::Error> {
        Sentinel::connect(&at, &mut Vec::new(), self.auth, LIMIT).await?.masters(LIMIT).await
    }

    /// The answers of every Sentinel that is believed, each once, and how many of these there are.
    async fn poll_all(&self, name: &str) -> Result<(Vec<(HostPort, SentinelAnswer)>, usize), SurveyError> {
        let mut known: BTreeSet<HostPort> = self.sentinels.iter().cloned().collect();
        let mut polls = JoinSet::new();
        let ask = |polls: &mut JoinSet<_>, at: &HostPort| {
            let (at, name, map, auth) = (at.clone(), name.to_owned(), self.map.clone(), self.auth.cloned());
            polls.spawn(async move {
                let polled = async {
                    let mut sentinel = Sentinel::connect(&map.map(&at), &mut Vec::new(), auth.as_ref(), LIMIT).await?;
                    sentinel.poll(&name, &map, LIMIT).await
                };
                let answer = polled.await;
                (at, answer)
            });
        };
        known.iter().for_each(|at| ask(&mut polls, at));
        let mut answers: Vec<(HostPort, SentinelAnswer)> = Vec::new();
        let mut problems = Vec::new();
        while let Some(polled) = polls.join_next().await {
            let (at, answer) = match polled {
                Ok((at, Ok(answer))) => (at, answer),
                Ok((_, Err(error))) => {
                    problems.push(error.to_string());
                    continue;
                }
                Err(error) => {
                    problems.push(error.to_string());
                    continue;
                }
            };
            // Two names of one Sentinel have one voice.
            if answer.myid.is_some() && answers.iter().any(|(_, other)| other.myid == answer.myid) {
                continue;
            }
            for peer in answer.peers.iter().flatten() {
                if known.insert(peer.addr.clone()) {
                    ask(&mut polls, &peer.addr);
                }
            }
            answers.push((at, answer));
        }
        if answers.is_empty() {
            return Err(SurveyError::Unreachable(problems));
        }
        // Without a claim there is no set to count: the reason is in the answers.
        if answers.iter().all(|(_, answer)| answer.claim.is_none()) {
            return Ok((answers, 0));
        }
        electorate::among(self.sentinels, answers, self.map).ok_or_else(|| {
            SurveyError::Undecided(format!(
                "no set of Sentinels that know each other holds a majority of `sentinels`: nobody says reliably who is \
                 the master of {name}. Take those of another cluster, and those that are gone, out of the list ({})",
                problems.join("; ")
            ))
        })
    }
}

impl Surveyed {
    /// Whom they name.
    ///
    /// # Errors
    /// [`SurveyError::Undecided`]: none, or several at the same epoch.
    pub fn master(&self) -> Result<Named, SurveyError> {
        let said = || self.answers.iter().map(|(_, answer)| answer);
        let name = &self.name;
        Err(SurveyError::Undecided(match consensus::weigh(said(), self.known) {
            Consensus::Agreed(named) => return Ok(named),
            Consensus::Conflicting { epoch, addrs } => {
                let addrs: Vec<String> = addrs.iter().map(SocketAddr::to_string).collect();
                format!(
                    "the Sentinels name several masters of {name} at epoch {epoch}: {}; try again when they agree",
                    addrs.join(", ")
                )
            }
            Consensus::None => {
                let problems: Vec<&str> = said().filter_map(|answer| answer.problem.as_deref()).collect();
                format!("no Sentinel names a master of {name}: {}", problems.join("; "))
            }
        }))
    }
}
