//! The commands of a model server: who may run what, MULTI and its queue, and everything about the connection.

use std::time::{Duration, Instant};

use super::connection::{Blocked, Multi, ReplyMode, Wait};
use super::data::{end, number};
use super::{Reply, Role, Server, Words};

/// What a command needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The data set.
    Read,
    /// A master.
    Write,
    /// May write, as scripts do, and PUBLISH, which replicas get too.
    Maybe,
    /// Nothing: also while loading, or without a master.
    Any,
}

/// Name, number of words (at least, if negative), kind. (Redis 7.0 commands.)
const COMMANDS: &[(&str, i32, Kind)] = &[
    ("GET", 2, Kind::Read),
    ("STRLEN", 2, Kind::Read),
    ("MGET", -2, Kind::Read),
    ("EXISTS", -2, Kind::Read),
    ("LRANGE", 4, Kind::Read),
    ("LLEN", 2, Kind::Read),
    ("HGETALL", 2, Kind::Read),
    ("HLEN", 2, Kind::Read),
    ("SCARD", 2, Kind::Read),
    ("SMEMBERS", 2, Kind::Read),
    ("PING", -1, Kind::Read),
    ("ECHO", 2, Kind::Read),
    ("WAIT", 3, Kind::Read),
    ("SET", -3, Kind::Write),
    ("SETNX", 3, Kind::Write),
    ("GETDEL", 2, Kind::Write),
    ("APPEND", 3, Kind::Write),
    ("SETRANGE", 4, Kind::Write),
    ("INCR", 2, Kind::Write),
    ("INCRBY", 3, Kind::Write),
    ("DECR", 2, Kind::Write),
    ("MSET", -3, Kind::Write),
    ("DEL", -2, Kind::Write),
    ("RPUSH", -3, Kind::Write),
    ("LPUSH", -3, Kind::Write),
    ("LPOP", -2, Kind::Write),
    ("RPOP", -2, Kind::Write),
    ("LMOVE", 5, Kind::Write),
    ("LMPOP", -4, Kind::Write),
    ("HSET", -4, Kind::Write),
    ("SADD", -3, Kind::Write),
    ("SPOP", -2, Kind::Write),
    ("FLUSHALL", -1, Kind::Write),
    ("BLPOP", -3, Kind::Write),
    ("BRPOP", -3, Kind::Write),
    ("BLMOVE", 6, Kind::Write),
    ("BLMPOP", -5, Kind::Write),
    ("EVAL", -3, Kind::Maybe),
    ("EVALSHA", -3, Kind::Maybe),
    ("EVAL_RO", -3, Kind::Read),
    ("PUBLISH", 3, Kind::Maybe),
    ("SPUBLISH", 3, Kind::Maybe),
    ("SCRIPT", -2, Kind::Any),
    ("MULTI", 1, Kind::Any),
    ("EXEC", 1, Kind::Any),
    ("DISCARD", 1, Kind::Any),
    ("WATCH", -2, Kind::Any),
    ("UNWATCH", 1, Kind::Any),
    ("SELECT", 2, Kind::Any),
    ("AUTH", -2, Kind::Any),
    ("HELLO", -1, Kind::Any),
    ("RESET", 1, Kind::Any),
    ("QUIT", -1, Kind::Any),
    ("CLIENT", -2, Kind::Any),
    ("ACL", -2, Kind::Any),
    ("SUBSCRIBE", -2, Kind::Any),
    ("PSUBSCRIBE", -2, Kind::Any),
    ("SSUBSCRIBE", -2, Kind::Any),
    ("UNSUBSCRIBE", -1, Kind::Any),
    ("PUNSUBSCRIBE", -1, Kind::Any),
    ("SUNSUBSCRIBE", -1, Kind::Any),
    ("MONITOR", 1, Kind::Any),
    ("REPLCONF", -1, Kind::Any),
    ("PSYNC", -3, Kind::Any),
];

/// What MULTI does not queue.
const NOT_QUEUED: [&str; 6] = ["EXEC", "DISCARD", "MULTI", "WATCH", "QUIT", "RESET"];
pub const READONLY: &str = "READONLY You can't write against a read only replica.";

fn find(name: &str) -> Option<(i32, Kind)> {
    COMMANDS.iter().find(|(known, ..)| *known == name).map(|(_, words, kind)| (*words, *kind))
}

fn name_of(words: &Words) -> String {
    String::from_utf8_lossy(&words[0]).to_uppercase()
}

impl Server {
    /// Answers one request.
    pub(super) fn serve(&mut self, id: u64, words: &Words, now: Instant) {
        let reply = self.answer(id, words, now);
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let is_muted = self.mutes_failing_auth
            && words[0].eq_ignore_ascii_case(b"AUTH")
            && !(connection.input.is_empty() && connection.output.is_empty());
        if let Some(reply) = reply.as_ref().filter(|reply| !(is_muted && reply.is_error())) {
            connection.reply(reply);
        }
        connection.mode = match connection.mode {
            ReplyMode::SkipNext => ReplyMode::Skip,
            ReplyMode::Skip => ReplyMode::On,
            mode => mode,
        };
        self.commit(id, now);
    }

    /// Whether CLIENT PAUSE … WRITE keeps it waiting.
    pub(super) fn may_write(&self, id: u64, words: &Words) -> bool {
        let writes = |words: &Words| {
            let kind = words.first().and_then(|_| find(&name_of(words)));
            kind.is_some_and(|(_, kind)| matches!(kind, Kind::Write | Kind::Maybe))
        };
        let multi = self.connections.get(&id).and_then(|connection| connection.multi.as_ref());
        match multi {
            Some(multi) if words.first().is_some_and(|name| name.eq_ignore_ascii_case(b"EXEC")) => {
                multi.queue.iter().any(writes)
            }
            Some(_) => false,
            None => writes(words),
        }
    }

    /// The reply to one request; `None` where there is none, or none yet.
    pub(super) fn answer(&mut self, id: u64, words: &Words, now: Instant) -> Option<Reply> {
        let name = name_of(words);
        let known = find(&name);
        let has_words =
            |wanted: i32| if wanted < 0 { words.len() as i32 >= -wanted } else { words.len() as i32 == wanted };
        let is_open = matches!(name.as_str(), "AUTH" | "HELLO" | "QUIT" | "RESET");
        let connection = &self.connections[&id];
        let wrong = match known {
            None => Some(format!("ERR unknown command '{name}', with args beginning with: ")),
            Some((wanted, _)) if !has_words(wanted) => {
                Some(format!("ERR wrong number of arguments for '{}' command", name.to_lowercase()))
            }
            _ if connection.user.is_none() && !is_open => Some("NOAUTH Authentication required.".into()),
            _ if connection.is_subscriber() && !is_for_subscribers(&name) => Some(format!(
                "ERR Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context",
                name.to_lowercase()
            )),
            Some((_, kind)) => self.refusal(id, &name, kind),
        };
        let connection = self.connection(id);
        if let Some(wrong) = wrong {
            if let Some(multi) = &mut connection.multi {
                multi.aborted = true;
                if name == "EXEC" {
                    connection.multi = None;
                    connection.unwatch();
                    return Some(Reply::Error(format!("EXECABORT Transaction discarded because of: {wrong}")));
                }
            }
            return Some(Reply::Error(wrong));
        }
        if let (Some(multi), false) = (&mut connection.multi, NOT_QUEUED.contains(&name.as_str())) {
            multi.queue.push(words.clone());
            return Some(Reply::Status("QUEUED".into()));
        }
        self.execute(id, words, now, false)
    }

    /// Why the node does not run it now.
    fn refusal(&self, id: u64, name: &str, kind: Kind) -> Option<String> {
        let queue = self.connections[&id].multi.as_ref().filter(|_| name == "EXEC").map(|multi| &multi.queue);
        let kinds = queue.into_iter().flatten().filter_map(|words| Some(find(&name_of(words))?.1));
        let kinds: Vec<Kind> = kinds.chain([kind]).collect();
        let needs_data = kinds.iter().any(|kind| *kind != Kind::Any);
        let writes = kinds.contains(&Kind::Write);
        match self.role {
            Role::Replica | Role::Orphan if writes => Some(READONLY.into()),
            Role::Loading if needs_data => Some("LOADING Redis is loading the dataset in memory".into()),
            Role::Orphan if needs_data => {
                Some("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.".into())
            }
            Role::Master if writes && self.lacks_replicas => {
                Some("NOREPLICAS Not enough good replicas to write.".into())
            }
            _ => None,
        }
    }

    /// Runs a command, alone or as part of a transaction.
    pub(super) fn execute(&mut self, id: u64, words: &Words, now: Instant, in_exec: bool) -> Option<Reply> {
        let name = name_of(words);
        self.show_to_monitors(id, &name, words);
        let (db, args) = (self.connections[&id].db, &words[1..]);
        let before = self.data.touched();
        let reply = match self.data.run(db, &name, args) {
            Some(reply) => {
                self.note_read(id, &name, args);
                Some(reply)
            }
            None => self.run(id, &name, words, now, in_exec),
        };
        if self.data.touched() > before && !matches!(name.as_str(), "EXEC" | "EVAL" | "EVALSHA") {
            self.effects.push(words.join(&b' '));
        }
        if let (Some(tracking), false) =
            (&mut self.connection(id).tracking, matches!(name.as_str(), "CLIENT" | "MULTI"))
        {
            tracking.caching &= in_exec;
        }
        reply
    }

    fn run(&mut self, id: u64, name: &str, words: &Words, now: Instant, in_exec: bool) -> Option<Reply> {
        let args = &words[1..];
        match name {
            "PING" if self.connections[&id].is_subscriber() => {
                let text = args.first().cloned().unwrap_or_default();
                Some(Reply::Array(vec![Reply::bulk("pong"), Reply::Bulk(text)]))
            }
            "PING" => Some(args.first().map_or(Reply::Status("PONG".into()), Reply::bulk)),
            "ECHO" => Some(Reply::bulk(&args[0])),
            "BLPOP" | "BRPOP" | "BLMOVE" | "BLMPOP" => {
                Some(self.block(id, name, words, now, in_exec).transpose()?.unwrap_or_else(Reply::Error))
            }
            "WAIT" => self.wait(id, words, now, in_exec),
            "EVAL" | "EVALSHA" | "EVAL_RO" => Some(self.eval(id, name, words, now)),
            "SCRIPT" => Some(self.script(args)),
            "MULTI" | "EXEC" | "DISCARD" | "WATCH" | "UNWATCH" => Some(self.transaction(id, name, args, now)),
            "PUBLISH" | "SPUBLISH" => {
                self.effects.push(words.join(&b' '));
                Some(Reply::Number(self.publish(name == "SPUBLISH", &args[0], &args[1])))
            }
            "SUBSCRIBE" | "PSUBSCRIBE" | "SSUBSCRIBE" => self.subscribe(id, name, args),
            "UNSUBSCRIBE" | "PUNSUBSCRIBE" | "SUNSUBSCRIBE" => self.unsubscribe(id, name, args),
            "REPLCONF" => Some(Reply::ok()),
            "PSYNC" => {
                self.connection(id).replicates = true;
                Some(Reply::Status("FULLRESYNC 8371b4fb1155b71f4a04d3e1bc3e18c4a990aeeb 0".into()))
            }
            _ => self.change_connection(id, name, args),
        }
    }

    /// What is about the connection alone.
    fn change_connection(&mut self, id: u64, name: &str, args: &[Vec<u8>]) -> Option<Reply> {
        let default = self.password.is_none().then(|| "default".to_owned());
        let connection = self.connections.get_mut(&id)?;
        match name {
            "SELECT" => match number::<u32>(&args[0]) {
                Ok(db) if db < 16 => connection.db = db,
                _ => return Some(Reply::error("ERR DB index is out of range")),
            },
            "AUTH" => {
                let (user, password) =
                    if args.len() == 1 { (&b"default"[..], &args[0]) } else { (&args[0][..], &args[1]) };
                return Some(self.authenticate(id, user, password, args.len() == 1).err().unwrap_or_else(Reply::ok));
            }
            "HELLO" => return Some(self.hello(id, args)),
            "RESET" => {
                connection.reset(default);
                return Some(Reply::Status("RESET".into()));
            }
            "QUIT" => {
                connection.reply(&Reply::ok());
                connection.ended = true;
                return None;
            }
            "MONITOR" => connection.monitors = true,
            "ACL" => return Some(connection.user.as_ref().map_or(Reply::Nil, Reply::bulk)),
            _ => return self.client(id, args),
        }
        Some(Reply::ok())
    }

    fn authenticate(&mut self, id: u64, user: &[u8], password: &[u8], alone: bool) -> Result<(), Reply> {
        let name = String::from_utf8_lossy(user).into_owned();
        if name == "default" && self.password.is_none() {
            if alone {
                return Err(Reply::error(
                    "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?",
                ));
            }
        } else {
            let known = if name == "default" { self.password.as_ref() } else { self.users.get(&name) };
            if known.is_none_or(|known| known != password) {
                return Err(Reply::error("WRONGPASS invalid username-password pair or user is disabled."));
            }
        }
        self.connection(id).user = Some(name);
        Ok(())
    }

    fn hello(&mut self, id: u64, args: &[Vec<u8>]) -> Reply {
        let version = args.first().map(|version| number::<u8>(version));
        if !matches!(version, None | Some(Ok(2 | 3))) {
            return Reply::error("NOPROTO unsupported protocol version");
        }
        let mut name = None;
        let mut options = args.iter().skip(1);
        while let Some(option) = options.next() {
            match option.to_ascii_uppercase().as_slice() {
                b"AUTH" => {
                    let (Some(user), Some(password)) = (options.next(), options.next()) else { break };
                    if let Err(refused) = self.authenticate(id, user, password, false) {
                        return refused;
                    }
                }
                b"SETNAME" => name = options.next().cloned(),
                _ => return Reply::error("ERR Syntax error in HELLO option"),
            }
        }
        let role = if self.role == Role::Master { "master" } else { "replica" };
        let connection = self.connection(id);
        if connection.user.is_none() {
            return Reply::error(
                "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time",
            );
        }
        connection.name = name.unwrap_or_else(|| std::mem::take(&mut connection.name));
        connection.resp3 = version.map_or(connection.resp3, |version| version == Ok(3));
        let proto = Reply::Number(if connection.resp3 { 3 } else { 2 });
        Reply::Map(vec![(Reply::bulk("proto"), proto), (Reply::bulk("role"), Reply::bulk(role))])
    }

    fn client(&mut self, id: u64, args: &[Vec<u8>]) -> Option<Reply> {
        let kind = String::from_utf8_lossy(&args[0]).to_uppercase();
        let option = args.get(1).map(|arg| arg.to_ascii_uppercase()).unwrap_or_default();
        let connection = self.connections.get_mut(&id)?;
        match kind.as_str() {
            "ID" => return Some(Reply::Number(id as i64)),
            "GETNAME" if connection.name.is_empty() => return Some(Reply::Nil),
            "GETNAME" => return Some(Reply::bulk(&connection.name)),
            "SETNAME" if args.len() == 2 => connection.name = args[1].clone(),
            "SETINFO" if args.len() == 3 => {
                _ = connection.told.insert(format!("SETINFO {}", String::from_utf8_lossy(&option)), args[2].clone())
            }
            "NO-EVICT" => _ = connection.told.insert(kind, option),
            "TRACKING" => return Some(self.track(id, &args[1..])),
            "CACHING" => match &mut connection.tracking {
                Some(tracking) if tracking.opt_in && option == b"YES" => tracking.caching = true,
                _ => {
                    return Some(Reply::error(
                        "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled",
                    ));
                }
            },
            "REPLY" => match option.as_slice() {
                b"ON" => connection.mode = ReplyMode::On,
                b"OFF" => {
                    connection.mode = ReplyMode::Off;
                    return None;
                }
                _ => {
                    if connection.mode != ReplyMode::Off {
                        connection.mode = ReplyMode::SkipNext;
                    }
                    return None;
                }
            },
            _ => return Some(Reply::error(format!("ERR unknown subcommand '{kind}'. Try CLIENT HELP."))),
        }
        Some(Reply::ok())
    }

    fn transaction(&mut self, id: u64, name: &str, args: &[Vec<u8>], now: Instant) -> Reply {
        let connection = self.connection(id);
        match (name, connection.multi.is_some()) {
            ("MULTI", true) => return Reply::error("ERR MULTI calls can not be nested"),
            ("WATCH", true) => return Reply::error("ERR WATCH inside MULTI is not allowed"),
            ("EXEC" | "DISCARD", false) => return Reply::Error(format!("ERR {name} without MULTI")),
            ("MULTI", _) => connection.multi = Some(Multi::default()),
            ("WATCH", _) => connection.watched.extend(args.iter().map(|key| (connection.db, key.clone()))),
            ("EXEC", _) => return self.exec(id, now),
            _ => {
                connection.unwatch();
                if name == "DISCARD" {
                    connection.multi = None;
                }
            }
        }
        Reply::ok()
    }

    fn exec(&mut self, id: u64, now: Instant) -> Reply {
        let connection = self.connection(id);
        let dirty = connection.dirty;
        connection.unwatch();
        match connection.multi.take() {
            Some(multi) if multi.aborted => Reply::error("EXECABORT Transaction discarded because of previous errors."),
            Some(_) if dirty => Reply::NilArray,
            multi => {
                let queue = multi.map(|multi| multi.queue).unwrap_or_default();
                Reply::Array(queue.iter().filter_map(|words| self.execute(id, words, now, true)).collect())
            }
        }
    }

    /// Pops at once, or waits for something; nothing is waited for inside a transaction.
    fn block(
        &mut self,
        id: u64,
        name: &str,
        words: &Words,
        now: Instant,
        in_exec: bool,
    ) -> Result<Option<Reply>, String> {
        let (timeout, on) = match name {
            "BLMOVE" => {
                let to = Some((words[2].clone(), end(&words[4])?));
                (&words[5], Wait::Pop { keys: vec![words[1].clone()], end: end(&words[3])?, to })
            }
            "BLMPOP" => (&words[1], Wait::Pop { keys: vec![words[3].clone()], end: end(&words[4])?, to: None }),
            _ => {
                let side = if name == "BLPOP" { b"LEFT".as_slice() } else { b"RIGHT" };
                let keys = words[1..words.len() - 1].to_vec();
                (&words[words.len() - 1], Wait::Pop { keys, end: end(side)?, to: None })
            }
        };
        let timeout = number::<f64>(timeout).ok().filter(|timeout| timeout.is_finite() && timeout.abs() < 1e9);
        let timeout = timeout.ok_or("ERR timeout is not a float or out of range")?;
        if let Some(reply) = self.pop_for(self.connections[&id].db, &on) {
            return Ok(Some(reply));
        }
        if in_exec {
            return Ok(Some(Reply::NilArray));
        }
        self.turns += 1;
        let until = (timeout > 0.0).then(|| now + Duration::from_secs_f64(timeout));
        self.connection(id).blocked = Some(Blocked { on, until, turn: self.turns, request: words.clone() });
        Ok(None)
    }

    /// What a pop gets now, if there is something.
    pub(super) fn pop_for(&mut self, db: u32, on: &Wait) -> Option<Reply> {
        let Wait::Pop { keys, end, to } = on else { return None };
        for key in keys {
            let Ok(Some(element)) = self.data.pop(db, key, *end) else { continue };
            return Some(match to {
                Some((to, end)) => {
                    self.data.push(db, to, *end, &element).ok()?;
                    Reply::Bulk(element)
                }
                None => Reply::Array(vec![Reply::bulk(key), Reply::Bulk(element)]),
            });
        }
        None
    }

    fn wait(&mut self, id: u64, words: &Words, now: Instant, in_exec: bool) -> Option<Reply> {
        let (Ok(wanted), Ok(millis)) = (number::<usize>(&words[1]), number::<u64>(&words[2])) else {
            return Some(Reply::error("ERR timeout is not an integer or out of range"));
        };
        let count = self.acknowledged(id);
        if count >= wanted || in_exec {
            return Some(Reply::Number(count as i64));
        }
        self.turns += 1;
        let until = (millis > 0).then(|| now + Duration::from_millis(millis.min(1 << 40)));
        let blocked = Blocked { on: Wait::Replicas(wanted), until, turn: self.turns, request: words.clone() };
        self.connection(id).blocked = Some(blocked);
        None
    }
}

fn is_for_subscribers(name: &str) -> bool {
    name.ends_with("SUBSCRIBE") || matches!(name, "PING" | "QUIT" | "RESET")
}
