//! As whom the nodes are asked: as configured, as a client, or as nobody.
//!
//! The one owner of that choice, which the probers and `/health` follow; it reads no file and dials nobody. Credentials
//! that may not ask are never worse than none: the next are tried, and at last none.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tracing::Level;

use super::{Output, Tracker};
use crate::secret::Credentials;
use crate::sentinel::report::{NodeAnswer, Role};
use crate::status::CredentialsState;
pub use switchmaster_protocol::sentinel::login::Login;

/// What was refused is tried again this often where nothing works: the node may have been set right.
const AGAIN_AFTER: Duration = Duration::from_secs(5);
/// The same where something else works meanwhile.
const BETTER_AFTER: Duration = Duration::from_secs(30);
/// What works is proven on a new connection this often: an open one outlives the password it was made with.
const PROVEN_FOR: Duration = Duration::from_secs(10);
/// The same after a client has shown another password for the same user.
const DOUBTED_AFTER: Duration = Duration::from_secs(2);
/// Clients' credentials that are remembered, the newest first.
const MOST_LEARNT: usize = 8;

/// What a node made of credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Response {
    /// ROLE was answered.
    Accepted,
    /// They are right, but their user may not ask ROLE: the node's words.
    NotPermitted(String),
    /// They are wrong, or there are none and the node wants some: the node's words.
    Refused(String),
}

impl Response {
    fn of(role: &Role) -> Response {
        match role {
            Role::Unreadable(words) if words.contains("NOPERM") => Response::NotPermitted(words.clone()),
            Role::Unreadable(words) => Response::Refused(words.clone()),
            Role::Master { .. } | Role::Replica { .. } | Role::Occupied(_) => Response::Accepted,
        }
    }
}

/// Whose a login is.
enum Owner {
    Configured,
    Client,
    /// Without credentials, where there are others.
    Nobody,
    /// Without credentials, since there are none.
    NobodyAlone,
}

/// What an ACL user of ours needs.
const RULE: &str = "It needs +role and +info (ACL SETUSER … +role +info)";

#[derive(Debug, Default)]
struct Candidate {
    credentials: Option<Credentials>,
    response: Option<(Instant, Response)>,
    /// The response was logged.
    logged: bool,
}

/// Every login there is.
#[derive(Debug)]
pub(super) struct Logins {
    learn: bool,
    configured: Option<Candidate>,
    nobody: Candidate,
    /// Clients', the newest first.
    learnt: VecDeque<Candidate>,
    current: Login,
    chosen: Instant,
    /// A node has answered since, or what there is to choose from has changed.
    settled: bool,
    /// A client has shown another password for the user of `current`.
    doubted: bool,
    /// ROLE may be asked and INFO may not: the node's words.
    no_info: Option<String>,
}

impl Candidate {
    fn new(credentials: Option<Credentials>) -> Candidate {
        Candidate { credentials, ..Candidate::default() }
    }

    fn is_accepted(&self) -> bool {
        matches!(self.response, Some((_, Response::Accepted)))
    }

    fn refusal(&self) -> Option<&Response> {
        self.response.as_ref().map(|(_, response)| response).filter(|response| **response != Response::Accepted)
    }

    fn is_not_permitted(&self) -> bool {
        matches!(self.refusal(), Some(Response::NotPermitted(_)))
    }

    /// It may be tried (again): it was not refused within this time.
    fn is_due(&self, now: Instant, after: Duration) -> bool {
        self.refusal().is_none() || self.response.as_ref().is_some_and(|(at, _)| now >= *at + after)
    }
}

impl Logins {
    pub(super) fn new(configured: Option<Credentials>, learn: bool, now: Instant) -> Logins {
        let current = Login { id: 1, credentials: configured.clone() };
        let configured = configured.map(|credentials| Candidate::new(Some(credentials)));
        let (nobody, learnt) = (Candidate::default(), VecDeque::new());
        Logins { learn, configured, nobody, learnt, current, chosen: now, settled: true, doubted: false, no_info: None }
    }

    /// In the order in which they are tried.
    fn all(&self) -> impl Iterator<Item = &Candidate> {
        self.configured.iter().chain([&self.nobody]).chain(&self.learnt)
    }

    /// `None` when it is not to be used any more.
    fn current(&mut self) -> Option<&mut Candidate> {
        let Logins { configured, nobody, learnt, current, .. } = self;
        let mut all = configured.iter_mut().chain([nobody]).chain(learnt);
        all.find(|candidate| candidate.credentials == current.credentials)
    }

    /// A client's AUTH succeeded with these.
    fn offer(&mut self, credentials: Credentials) {
        let configured = self.configured.as_ref().and_then(|own| own.credentials.as_ref());
        if !self.learn || configured == Some(&credentials) {
            return;
        }
        let user = |of: &Credentials| of.username.clone().filter(|name| *name != *b"default");
        let rotated = |current: &Credentials| *current != credentials && user(current) == user(&credentials);
        self.doubted |= self.current.credentials.as_ref().is_some_and(rotated);
        let known = self.learnt.iter().position(|known| known.credentials.as_ref() == Some(&credentials));
        let mut candidate = known.and_then(|at| self.learnt.remove(at)).unwrap_or_default();
        if !candidate.is_not_permitted() && !candidate.is_accepted() {
            candidate.response = None;
        }
        candidate.credentials = Some(credentials);
        self.settled = true;
        self.learnt.push_front(candidate);
        if self.learnt.len() > MOST_LEARNT {
            let unused = self.learnt.iter().rposition(|old| old.credentials != self.current.credentials);
            self.learnt.remove(unused.unwrap_or(MOST_LEARNT));
        }
    }

    /// What `answer` says of the present login, and whose that is, when it is worth a line in the log.
    fn judge(&mut self, now: Instant, answer: &NodeAnswer) -> Option<(Response, Owner)> {
        if answer.login != self.current.id {
            return None;
        }
        if answer.info.is_some() || answer.info_refused.is_some() {
            self.no_info.clone_from(&answer.info_refused);
        }
        let owner = self.owner();
        self.settled = true;
        let response = Response::of(&answer.role);
        let accepted = response == Response::Accepted;
        let candidate = self.current()?;
        let is_news = if accepted { !candidate.is_accepted() } else { !candidate.logged };
        candidate.logged = !accepted;
        candidate.response = Some((now, response.clone()));
        is_news.then_some((response, owner))
    }

    /// Whose the present login is.
    fn owner(&self) -> Owner {
        if self.configured.as_ref().is_some_and(|own| own.credentials == self.current.credentials) {
            Owner::Configured
        } else if self.current.credentials.is_some() {
            Owner::Client
        } else if self.configured.is_none() && self.learnt.is_empty() {
            Owner::NobodyAlone
        } else {
            Owner::Nobody
        }
    }

    /// The login to use from now on, if it is another one, or the same to be proven on a new connection. While
    /// something goes on (not `quiet`), what works stays.
    fn choose(&mut self, now: Instant, quiet: bool) -> Option<Login> {
        // What is tried gets the time for an answer.
        if !self.settled && now < self.chosen + AGAIN_AFTER {
            return None;
        }
        let current = self.current.credentials.clone();
        let next = if self.current().is_some_and(|candidate| candidate.refusal().is_none()) {
            let proven_for = if self.doubted { DOUBTED_AFTER } else { PROVEN_FOR };
            let better = self.configured.as_ref().filter(|own| own.is_due(now, BETTER_AFTER));
            match better.filter(|own| own.credentials != current) {
                _ if !quiet => return None,
                Some(own) => own.credentials.clone(),
                None if now >= self.chosen + proven_for => current,
                None => return None,
            }
        } else {
            let untried = self.all().find(|candidate| candidate.refusal().is_none());
            // Where nothing works, whoever can at least log in; nobody's questions fill no log of failed logins.
            let least_bad = || self.all().find(|candidate| candidate.is_not_permitted()).unwrap_or(&self.nobody);
            let next = untried.or_else(|| self.all().find(|candidate| candidate.is_due(now, AGAIN_AFTER)));
            let is_new = next.is_some();
            let next = next.unwrap_or_else(least_bad).credentials.clone();
            if !is_new && next == current {
                return None;
            }
            next
        };
        self.current = Login { id: self.current.id + 1, credentials: next };
        self.chosen = now;
        self.settled = false;
        self.doubted = false;
        Some(self.current.clone())
    }

    fn state(&self) -> CredentialsState {
        match self.configured.as_ref().map(Candidate::refusal) {
            Some(None) => CredentialsState::Configured,
            Some(Some(Response::NotPermitted(_))) => CredentialsState::NotPermitted,
            Some(Some(_)) => CredentialsState::Refused,
            None if self.nobody.refusal().is_none() => CredentialsState::NotNeeded,
            None if self.learnt.iter().any(Candidate::is_accepted) => CredentialsState::Learnt,
            None if self.all().any(Candidate::is_not_permitted) => CredentialsState::NotPermitted,
            None => CredentialsState::Missing,
        }
    }

    fn works(&self) -> bool {
        self.all().any(Candidate::is_accepted)
    }
}

impl Tracker {
    /// The first choice, before anything was heard.
    pub fn login(&self) -> Login {
        self.logins.current.clone()
    }

    /// What lets a client of our own in: for `/health`. `None`: nothing that we know of, or nothing is needed.
    pub fn health_credentials(&self) -> Option<&Credentials> {
        let logins = &self.logins;
        let untried = || logins.configured.iter().find(|own| own.response.is_none());
        let permitted = || logins.all().find(|candidate| candidate.is_not_permitted());
        let best = logins.all().find(|candidate| candidate.is_accepted()).or_else(untried).or_else(permitted);
        best.and_then(|candidate| candidate.credentials.as_ref())
    }

    /// Whether the nodes accept what we have, for people.
    pub(super) fn credentials_state(&self) -> CredentialsState {
        self.logins.state()
    }

    pub(super) fn on_offer(&mut self, credentials: Credentials) {
        self.logins.offer(credentials);
    }

    /// Whether clients' credentials may be used from now on.
    pub(super) fn on_learning(&mut self, learn: bool) {
        self.logins.learn = learn;
        if !learn {
            self.logins.learnt.clear();
        }
    }

    /// The configuration's own are these now: their file was changed.
    pub(super) fn on_configured(&mut self, credentials: Option<Credentials>) {
        let before = self.logins.configured.take();
        let same = before.filter(|before| before.credentials == credentials);
        self.logins.configured = credentials.map(|own| same.unwrap_or_else(|| Candidate::new(Some(own))));
        self.logins.settled = true;
    }

    /// The master, or whoever is to become the first one, answered: what that says of what it was asked with.
    pub(super) fn on_login(&mut self, now: Instant, answer: &NodeAnswer, addr: SocketAddr) {
        let Some((response, owner)) = self.logins.judge(now, answer) else { return };
        const BLIND: &str =
            "ROLE cannot be read with them, so a failover takes about a second longer and is not verified on the node";
        let (level, text) = match (response, owner) {
            (Response::Accepted, Owner::Client) => {
                (Level::INFO, "the nodes are asked with the credentials of a client from now on".into())
            }
            (Response::Refused(words), Owner::Configured) => {
                (Level::ERROR, format!("Redis {addr} refuses our credentials ({words}): {BLIND}"))
            }
            (Response::NotPermitted(words), Owner::Configured) => {
                (Level::ERROR, format!("Redis {addr} does not let our user ask ROLE ({words}): {BLIND}. {RULE}"))
            }
            (Response::Refused(words), Owner::NobodyAlone) => {
                let text = format!(
                    "Redis {addr} wants a password and there is none ({words}): ROLE cannot be read, so a failover takes about a second longer and is not verified on the node"
                );
                (Level::ERROR, text)
            }
            (Response::NotPermitted(words), Owner::Client | Owner::NobodyAlone) => {
                (Level::WARN, format!("Redis {addr} does not let a client's user ask ROLE ({words}): {BLIND}. {RULE}"))
            }
            (Response::Refused(words), Owner::Client) => {
                (Level::WARN, format!("Redis {addr} refuses the credentials of a client now ({words})"))
            }
            (Response::Accepted, _) | (_, Owner::Nobody) => return,
        };
        self.out.log(level, text);
    }

    /// Follows what was learnt about the logins; to be called before each decision.
    pub(super) fn choose_login(&mut self, now: Instant) {
        let quiet = self.situation.is_following() && !self.followed.is_early() && !self.attention.is_paid(now);
        if let Some(login) = self.logins.choose(now, quiet) {
            self.out.push(Output::UseCredentials(login));
        }
    }

    /// What is wrong with the credentials, and what to do.
    pub(super) fn credential_warnings(&self) -> Vec<String> {
        let logins = &self.logins;
        let meanwhile = match logins.works() {
            true if logins.nobody.is_accepted() => "Meanwhile the nodes are asked without",
            true => "Meanwhile the nodes are asked with those of a client",
            false => "Until then a failover takes about a second longer",
        };
        let mut warnings = Vec::new();
        match logins.configured.as_ref().map(Candidate::refusal) {
            Some(Some(Response::NotPermitted(words))) => warnings.push(format!(
                "Redis does not let our user (redis_username) ask ROLE ({words}). {RULE}. {meanwhile}"
            )),
            Some(Some(Response::Refused(words))) => warnings.push(format!(
                "Redis refuses our credentials ({words}): set redis_password (and redis_username), or the file that it comes from, to what the nodes expect. {meanwhile}"
            )),
            Some(_) => {}
            None if logins.works() => {}
            None => {
                let refused = logins.all().find(|candidate| candidate.is_not_permitted());
                match refused.unwrap_or(&logins.nobody).refusal() {
                    Some(Response::NotPermitted(words)) => warnings.push(format!(
                        "Redis does not let the user of a client ask ROLE ({words}), and no other is set: set SWITCHMASTER_REDIS_USERNAME and SWITCHMASTER_REDIS_PASSWORD to one that may. {RULE}. {meanwhile} and the master is not verified"
                    )),
                    Some(Response::Refused(words)) => warnings.push(format!(
                        "Redis wants a password and none is set ({words}): set SWITCHMASTER_REDIS_PASSWORD. {meanwhile} and the master is not verified"
                    )),
                    _ => {}
                }
            }
        }
        warnings.extend(logins.no_info.iter().map(|words| {
            format!("Redis does not let us ask INFO ({words}): a master's history is not verified. {RULE}")
        }));
        warnings
    }
}
