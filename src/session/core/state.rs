//! What a connection has become by the replies its client has seen, and the requests that make another one so.
//!
//! Sans-IO. Only delivered replies count: a SELECT whose +OK never reached the client has not happened. What
//! cannot be restored is named in `untracked`, and such a session ends at a failover instead of being guessed.

mod subscriptions;
mod tracking;

use std::borrow::Cow;

use zeroize::Zeroizing;

use super::front::ReplyMode;
use crate::resp::command::{Duty, Effect, classify};
use crate::resp::request::{self, Args};
use crate::resp::scanner::{RequestScanner, Scan};
use crate::secret::{Credentials, Secret};
use subscriptions::Subscriptions;
use tracking::Tracking;

/// The state of one session. The default is that of a fresh connection.
#[derive(Debug, Default)]
pub struct State {
    db: u32,
    /// The RESP version agreed by HELLO; 0 is the initial RESP2.
    protocol: u8,
    watch: Watch,
    /// What most sessions do not have.
    rare: Option<Box<Rare>>,
}

/// What WATCH has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Watch {
    #[default]
    Nothing,
    Keys,
    /// EXEC must answer nil: the keys that it was to watch were on a backend that is gone.
    Broken,
}

#[derive(Debug, Default)]
struct Rare {
    /// MONITOR was accepted.
    monitoring: bool,
    /// Why the session cannot be moved.
    untracked: Option<&'static str>,
    credentials: Option<Credentials>,
    /// CLIENT SETNAME, SETINFO and the like: the last request of each kind, sent again as it was.
    client: Vec<(Vec<u8>, Vec<u8>)>,
    transaction: Option<Transaction>,
    subscriptions: Subscriptions,
    /// CLIENT TRACKING, if it is on.
    tracking: Option<Tracking>,
}

/// Kinds of CLIENT requests that are kept for a move.
const MOST_KINDS: usize = 64;
/// Bytes of an open transaction that are kept for a move.
const TRANSACTION_BYTES: usize = 1024 * 1024;
/// What is kept for a move even where no memory is left: enough for what applications say of themselves.
const LITTLE_STATE: usize = 4 * 1024;

/// An open MULTI.
#[derive(Debug, Default)]
struct Transaction {
    /// MULTI and the queued requests, as the client sent them.
    requests: Vec<u8>,
    queued: usize,
    /// The database that the last queued SELECT names.
    db: Option<u32>,
    /// A command was refused when it was to be queued: EXEC answers -EXECABORT.
    aborted: bool,
    /// Why it cannot be queued again elsewhere. Ends with it: the session can be moved when it is over.
    untracked: Option<&'static str>,
}

/// The requests that restore a state, and what each of their replies must be.
#[derive(Debug, Default)]
pub struct Restore {
    /// To be sent in one run. Holds secrets.
    pub requests: Zeroizing<Vec<u8>>,
    /// One for each reply, in order.
    pub expect: Vec<Expect>,
}

/// What a reply during the restoration must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Not an error, except that a node without any password is taken as it is.
    Authenticated,
    /// Anything but an error.
    Accepted,
    /// Whatever it is: CLIENT SETINFO and the like are courtesies.
    Anything,
    /// `+QUEUED`.
    Queued,
    /// The confirmation of a subscription; messages may come before it.
    Subscribed,
    /// A script was loaded; an error means that it was not, and nothing else.
    Loaded,
}

impl State {
    /// Whether the client speaks RESP3.
    pub fn is_resp3(&self) -> bool {
        self.protocol == 3
    }

    /// Why this session cannot be moved, if it cannot.
    pub fn untracked(&self) -> Option<&'static str> {
        let rare = self.rare.as_ref()?;
        rare.untracked.or_else(|| rare.tracking.as_ref()?.untracked())
    }

    /// Why the open transaction cannot be queued again elsewhere.
    pub fn unkept_transaction(&self) -> Option<&'static str> {
        self.rare.as_ref()?.transaction.as_ref()?.untracked
    }

    /// What MULTI has queued does nothing outside the data set.
    pub fn queue_stays_in_data_set(&self) -> bool {
        let Some(transaction) = self.rare.as_ref().and_then(|rare| rare.transaction.as_ref()) else { return true };
        let mut rest = &transaction.requests[..];
        while let Scan::Frame(length) = RequestScanner::default().scan(rest) {
            let (request, behind) = rest.split_at(length);
            if !classify(request).stays_in_data_set(request) {
                return false;
            }
            rest = behind;
            if rest.is_empty() {
                break;
            }
        }
        transaction.untracked.is_none()
    }

    /// From now on this session cannot be moved.
    pub fn give_up(&mut self, why: &'static str) {
        self.rare().untracked.get_or_insert(why);
    }

    /// Whether MULTI is open.
    pub fn in_transaction(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.transaction.is_some())
    }

    /// Memory held for what a client can make large.
    pub fn held_bytes(&self) -> usize {
        let Some(rare) = &self.rare else { return 0 };
        rare.transaction.as_ref().map_or(0, |transaction| transaction.requests.capacity()) + rare.lasting_bytes()
    }

    /// No memory is left for more than a little: what is larger is not kept, and the session cannot be moved.
    pub fn make_do(&mut self) {
        if let Some(rare) = self.rare.as_mut().filter(|rare| rare.lasting_bytes() > LITTLE_STATE) {
            rare.untracked.get_or_insert("no memory was left to keep its state");
            rare.client = Vec::new();
            rare.tracking.iter_mut().for_each(Tracking::forget);
            rare.subscriptions.forget_names();
        }
    }

    /// Gives up keeping the open transaction for a move.
    pub fn forget_transaction(&mut self) {
        if let Some(transaction) = self.rare.as_mut().and_then(|rare| rare.transaction.as_mut()) {
            transaction.untracked.get_or_insert("no memory was left to keep the transaction");
            transaction.requests = Vec::new();
        }
    }

    /// Whether keys are watched.
    pub fn is_watching(&self) -> bool {
        self.watch == Watch::Keys
    }

    /// Whether the next EXEC must answer nil.
    pub fn is_watch_broken(&self) -> bool {
        self.watch == Watch::Broken
    }

    /// Whether the server speaks unasked: subscriptions, MONITOR or invalidations. Then a backend is needed always.
    pub fn is_listening(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.monitoring || rare.tracking.is_some()) || self.subscriptions() > 0
    }

    /// Whether MONITOR is in force.
    pub fn is_monitoring(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.monitoring)
    }

    /// Whether invalidations were missed when a backend is lost.
    pub fn is_tracking(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.tracking.is_some())
    }

    /// Channels, patterns and shard channels together.
    pub fn subscriptions(&self) -> usize {
        self.rare.as_ref().map_or(0, |rare| rare.subscriptions.total())
    }

    /// How many confirmations an UNSUBSCRIBE without names gets: one for each subscription of its kind, at least one.
    pub fn confirmations(&self, duty: Duty) -> u32 {
        let kind = match duty {
            Duty::Unsubscribe => 0,
            Duty::Punsubscribe => 1,
            _ => 2,
        };
        self.rare.as_ref().map_or(1, |rare| rare.subscriptions.count(kind).max(1) as u32)
    }

    /// The client has been given the confirmation `word channel :count`.
    pub fn confirmed(&mut self, word: &[u8], name: &[u8], count: Option<usize>) {
        let subscriptions = &mut self.rare().subscriptions;
        subscriptions.confirmed(word, name, count);
        if !subscriptions.are_kept() {
            self.give_up("too many subscriptions");
        }
    }

    /// The backend is gone, and with it what it watched.
    pub fn backend_lost(&mut self) {
        if self.watch == Watch::Keys {
            self.watch = Watch::Broken;
        }
    }

    /// Forgets the open transaction (its EXEC was answered without being sent).
    pub fn drop_transaction(&mut self) {
        if let Some(rare) = &mut self.rare {
            rare.transaction = None;
        }
        self.watch = Watch::Nothing;
    }

    /// The client has been given a reply: CLIENT CACHING is for one request or transaction, and for the CLIENT commands
    /// before it (server.c, resetClient).
    pub fn answered(&mut self, effect: Effect, queued: bool) {
        if let Some(tracking) = self.rare.as_mut().and_then(|rare| rare.tracking.as_mut())
            && !(queued || matches!(effect.duty, Duty::Client | Duty::Multi))
        {
            tracking.caching = None;
        }
    }

    /// The client has been given `reply` to `request`. Returns credentials that have just proved right.
    pub fn delivered(&mut self, effect: Effect, queued: bool, request: &[u8], reply: &[u8]) -> Option<Credentials> {
        let refused = reply.first() == Some(&b'-');
        if queued && !matches!(effect.duty, Duty::Exec | Duty::Discard | Duty::Reset | Duty::Quit) {
            self.queued(effect, request, reply);
            return None;
        }
        if request.is_empty() {
            self.give_up("a request that changes the session was too large to keep");
            return None;
        }
        if refused {
            // EXEC without MULTI leaves what is watched.
            if effect.duty == Duty::Exec && self.in_transaction() {
                self.drop_transaction();
            }
            return None;
        }
        match effect.duty {
            Duty::Auth => {
                let args: Vec<Cow<'_, [u8]>> = Args::new(request).collect();
                let credentials = match args.as_slice() {
                    [_, password] => credentials(None, password),
                    [_, user, password] => credentials(Some(user), password),
                    _ => return None,
                };
                self.rare().credentials = Some(credentials.clone());
                return Some(credentials);
            }
            Duty::Hello => return self.hello(request),
            Duty::Select => self.db = number(Args::new(request).nth(1)).unwrap_or(self.db),
            Duty::Client => self.client(request),
            Duty::ReadOnly | Duty::ReadWrite => self.remember(b"READONLY".to_vec(), request),
            Duty::Multi => {
                self.rare().transaction = Some(Transaction { requests: request.to_vec(), ..Transaction::default() });
            }
            Duty::Exec => {
                let db = self.rare.as_ref().and_then(|rare| rare.transaction.as_ref()?.db);
                let ran = reply.first() == Some(&b'*') && !reply.starts_with(b"*-1");
                if let (Some(db), true) = (db, ran) {
                    self.db = db;
                }
                self.drop_transaction();
            }
            Duty::Discard => self.drop_transaction(),
            // What was watched before on a lost backend breaks the transaction all the same.
            Duty::Watch if self.watch == Watch::Nothing => self.watch = Watch::Keys,
            Duty::Unwatch => self.watch = Watch::Nothing,
            Duty::Reset => self.reset(),
            Duty::Monitor => self.rare().monitoring = true,
            _ => {}
        }
        None
    }

    fn queued(&mut self, effect: Effect, request: &[u8], reply: &[u8]) {
        let selected = (effect.duty == Duty::Select).then(|| number(Args::new(request).nth(1))).flatten();
        let Some(transaction) = self.rare.as_mut().and_then(|rare| rare.transaction.as_mut()) else {
            return self.give_up("a reply that does not fit an open MULTI");
        };
        if reply == b"+QUEUED\r\n" {
            transaction.queued += 1;
            transaction.db = selected.or(transaction.db);
            if transaction.untracked.is_none() {
                transaction.requests.extend_from_slice(request);
            }
            if request.is_empty() || transaction.requests.len() > TRANSACTION_BYTES {
                transaction.untracked = Some("a transaction too large to keep");
                transaction.requests = Vec::new();
            } else if !matches!(
                effect.duty,
                Duty::None | Duty::Ping | Duty::Select | Duty::Eval | Duty::Evalsha | Duty::Script
            ) {
                self.give_up("a command inside MULTI that changes the connection");
            }
        } else {
            transaction.aborted = true;
        }
    }

    fn hello(&mut self, request: &[u8]) -> Option<Credentials> {
        let args: Vec<Cow<'_, [u8]>> = Args::new(request).collect();
        self.protocol = number(args.get(1).cloned()).map_or(self.protocol, |version| version as u8);
        let mut proved = None;
        let mut at = 2;
        while at < args.len() {
            match args[at].to_ascii_uppercase().as_slice() {
                b"AUTH" if at + 2 < args.len() => {
                    let credentials = credentials(Some(&args[at + 1]), &args[at + 2]);
                    self.rare().credentials = Some(credentials.clone());
                    proved = Some(credentials);
                    at += 3;
                }
                b"SETNAME" if at + 1 < args.len() => {
                    let name = request::encode(&[b"CLIENT", b"SETNAME", &args[at + 1]]);
                    self.remember(b"SETNAME".to_vec(), &name);
                    at += 2;
                }
                _ => at += 1,
            }
        }
        proved
    }

    fn client(&mut self, request: &[u8]) {
        let mut args = Args::new(request).skip(1);
        let mut kind = args.next().map(|name| name.to_ascii_uppercase()).unwrap_or_default();
        match kind.as_slice() {
            b"SETINFO" => {
                kind.push(b' ');
                kind.extend(args.next().unwrap_or_default().to_ascii_uppercase());
                self.remember(kind, request);
            }
            b"CAPA" => {
                // They add up (Valkey 8 networking.c, clientCommand).
                for capability in args {
                    kind.push(b' ');
                    kind.extend(capability.to_ascii_uppercase());
                }
                self.remember(kind, request);
            }
            b"SETNAME" | b"NO-EVICT" | b"NO-TOUCH" | b"MAINT_NOTIFICATIONS" | b"IMPORT-SOURCE" => {
                self.remember(kind, request);
            }
            b"TRACKING" => {
                let tracking = self.rare().tracking.take().unwrap_or_default();
                self.rare().tracking = tracking.and_then(request);
            }
            b"CACHING" => {
                if let Some(tracking) = &mut self.rare().tracking {
                    tracking.caching = Some(request.to_vec());
                }
            }
            _ => {}
        }
    }

    fn remember(&mut self, kind: Vec<u8>, request: &[u8]) {
        let client = &mut self.rare().client;
        client.retain(|(known, _)| *known != kind);
        client.push((kind, request.to_vec()));
        if client.len() > MOST_KINDS {
            self.give_up("too much said by CLIENT");
        }
    }

    fn reset(&mut self) {
        // RESET keeps the library's name and version, and what only Valkey knows (networking.c, resetCommand and
        // clearClientConnectionState). Redis 7.0 keeps NO-EVICT too, later ones do not: that courtesy is let go.
        const KEPT: [&[u8]; 3] = [b"SETINFO", b"CAPA", b"IMPORT-SOURCE"];
        let rare = self.rare.take().map(|mut rare| {
            rare.client.retain(|(kind, _)| KEPT.iter().any(|kept| kind.starts_with(kept)));
            Box::new(Rare { untracked: rare.untracked, client: rare.client, ..Rare::default() })
        });
        *self = State { rare, ..State::default() };
    }

    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// The requests that bring a fresh connection to this state; none if it is that of a fresh connection. `scripts`
    /// are loaded on the way; `replies` is what the client wants to be answered.
    pub(super) fn restore(&self, scripts: &[Vec<u8>], replies: ReplyMode) -> Restore {
        let mut restore = Restore::default();
        if let Some(credentials) = self.rare.as_ref().and_then(|rare| rare.credentials.as_ref()) {
            restore.add(&credentials.auth(), Expect::Authenticated);
        }
        if self.protocol != 0 {
            restore.add(&[b"HELLO", self.protocol.to_string().as_bytes()], Expect::Accepted);
        }
        if self.db != 0 {
            restore.add(&[b"SELECT", self.db.to_string().as_bytes()], Expect::Accepted);
        }
        for script in scripts {
            restore.add(&[b"SCRIPT", b"LOAD", script], Expect::Loaded);
        }
        if let Some(rare) = &self.rare {
            for (_, request) in &rare.client {
                restore.requests.extend_from_slice(request);
                restore.expect.push(Expect::Anything);
            }
            for request in rare.tracking.iter().flat_map(Tracking::requests) {
                restore.requests.extend_from_slice(request);
                restore.expect.push(Expect::Accepted);
            }
            for (request, confirmations) in rare.subscriptions.requests() {
                restore.add(&request, Expect::Subscribed);
                restore.expect.extend(std::iter::repeat_n(Expect::Subscribed, confirmations - 1));
            }
            if let Some(caching) = rare.tracking.as_ref().and_then(|tracking| tracking.caching.as_ref()) {
                restore.requests.extend_from_slice(caching);
                restore.expect.push(Expect::Accepted);
            }
            if let Some(transaction) = &rare.transaction {
                restore.requests.extend_from_slice(&transaction.requests);
                restore.expect.push(Expect::Accepted);
                restore.expect.extend(std::iter::repeat_n(Expect::Queued, transaction.queued));
                if transaction.aborted {
                    // Refused by every server, so that this transaction is aborted too.
                    restore.add(&[b"GET"], Expect::Anything);
                }
            }
        }
        if self.is_monitoring() {
            restore.add(&[b"MONITOR"], Expect::Accepted);
        }
        let mode: &[u8] = match replies {
            ReplyMode::On => return restore,
            ReplyMode::Off => b"OFF",
            ReplyMode::SkipNext => b"SKIP",
        };
        // Neither gets a reply.
        restore.requests.extend_from_slice(&request::encode(&[b"CLIENT", b"REPLY", mode]));
        restore
    }
}

impl Rare {
    /// Bytes of what lasts longer than a transaction.
    fn lasting_bytes(&self) -> usize {
        let of = |credentials: &Credentials| {
            credentials.username.as_ref().map_or(0, Vec::len) + credentials.password.bytes().len()
        };
        let client = self.client.iter().map(|(kind, request)| kind.len() + request.len()).sum::<usize>();
        let tracking = self.tracking.as_ref().map_or(0, Tracking::held_bytes);
        self.credentials.as_ref().map_or(0, of) + client + tracking + self.subscriptions.held_bytes()
    }
}

impl Restore {
    /// Whether scripts are among it.
    pub fn loads_scripts(&self) -> bool {
        self.expect.contains(&Expect::Loaded)
    }

    fn add(&mut self, args: &[&[u8]], expect: Expect) {
        let request = Zeroizing::new(request::encode(args));
        self.requests.extend_from_slice(&request);
        self.expect.push(expect);
    }
}

fn credentials(username: Option<&[u8]>, password: &[u8]) -> Credentials {
    Credentials { username: username.map(<[u8]>::to_vec), password: Secret::new(password) }
}

fn number(arg: Option<Cow<'_, [u8]>>) -> Option<u32> {
    std::str::from_utf8(&arg?).ok()?.parse().ok()
}
