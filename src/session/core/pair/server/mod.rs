//! A Redis server on virtual time: bytes of its connections in, bytes out.
//!
//! Nothing here reads a clock, opens a socket or draws a random number: the same bytes at the same times give the same
//! bytes. What it says is what Redis 7.0.15 says on the wire. Its replication stream is a list of writes, each with the
//! requests that made it, so that a test can count what ran in the history that survives.

mod commands;
mod connection;
mod data;
mod pubsub;
mod reply;
mod scripts;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Instant;

use crate::resp::request::Args;
use crate::resp::scanner::{RequestScanner, Scan};

use connection::{Blocked, Connection, Wait};
use data::{Data, Key, Value};

pub use reply::Reply;

/// The arguments of a request, its name first.
type Words = Vec<Vec<u8>>;

/// What a master gave its replicas: the effect of one command, script or transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    pub at: Instant,
    /// The requests that made it, their arguments with a space between.
    pub requests: Vec<Vec<u8>>,
    changes: Vec<(Key, Option<Value>)>,
}

/// What the node says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Master,
    /// It refuses writes.
    Replica,
    /// It refuses nearly everything: its link is down, and it does not serve old data.
    Orphan,
    /// It refuses nearly everything: it reads its data set.
    Loading,
}

/// How the process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    Up,
    /// Stopped: the kernel takes connections and bytes, nothing answers.
    Hung,
    /// Gone: connections are refused.
    Down,
}

#[derive(Debug)]
pub struct Server {
    pub role: Role,
    pub health: Health,
    /// Every write of the data set, in the order of the replication stream. Its length is the offset.
    pub history: Vec<Write>,
    /// CLIENT PAUSE … WRITE.
    paused: bool,
    /// Writes are refused (`min-replicas-to-write`).
    pub lacks_replicas: bool,
    /// A failing AUTH gets no reply where more is pending behind it (Redis 7.2 and later, redis#15640).
    pub mutes_failing_auth: bool,
    pub password: Option<Vec<u8>>,
    /// ACL users besides `default`, each with its password. They are not replicated.
    pub users: BTreeMap<String, Vec<u8>>,
    data: Data,
    scripts: BTreeMap<String, Vec<u8>>,
    connections: BTreeMap<u64, Connection>,
    /// How far each replica has come.
    replicas: Vec<usize>,
    /// What the command at hand did that goes to replicas.
    effects: Vec<Vec<u8>>,
    opened: u64,
    turns: u64,
}

impl Server {
    pub fn new() -> Server {
        Server {
            role: Role::Master,
            health: Health::Up,
            history: Vec::new(),
            paused: false,
            lacks_replicas: false,
            mutes_failing_auth: false,
            password: None,
            users: BTreeMap::new(),
            data: Data::default(),
            scripts: BTreeMap::new(),
            connections: BTreeMap::new(),
            replicas: Vec::new(),
            effects: Vec::new(),
            opened: 0,
            turns: 0,
        }
    }

    /// A new connection; `None` where nobody listens.
    pub fn connect(&mut self) -> Option<u64> {
        if self.health == Health::Down {
            return None;
        }
        self.opened += 1;
        let user = self.password.is_none().then(|| "default".to_owned());
        self.connections.insert(self.opened, Connection { user, ..Connection::default() });
        Some(self.opened)
    }

    /// Bytes of a client have arrived.
    pub fn receive(&mut self, id: u64, bytes: &[u8], now: Instant) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.input.extend_from_slice(bytes);
            self.work(now);
        }
    }

    /// The client's FIN has arrived.
    pub fn finish(&mut self, id: u64, now: Instant) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.eof = true;
            self.work(now);
        }
    }

    /// The client is gone, and takes nothing more.
    pub fn forget(&mut self, id: u64, now: Instant) {
        // A server that is stopped reads what had arrived before it learns of that.
        if self.health == Health::Hung {
            return self.finish(id, now);
        }
        self.connections.remove(&id);
    }

    /// At most so many bytes for the client.
    pub fn take_output(&mut self, id: u64, most: usize) -> Vec<u8> {
        let Some(connection) = self.connections.get_mut(&id) else { return Vec::new() };
        let most = most.min(connection.output.len());
        connection.output.drain(..most).collect()
    }

    pub fn has_output(&self, id: u64) -> bool {
        self.connections.get(&id).is_some_and(|connection| !connection.output.is_empty())
    }

    /// The server says nothing more: it has closed, or the connection is none (any more).
    pub fn has_ended(&self, id: u64) -> bool {
        self.connections.get(&id).is_none_or(|connection| connection.ended && connection.output.is_empty())
    }

    pub fn is_blocked(&self, id: u64) -> bool {
        self.connections.get(&id).is_some_and(|connection| connection.blocked.is_some())
    }

    /// What a connection has become: user, database, protocol, name, subscriptions, and whether MULTI is open.
    pub fn state_of(&self, id: u64) -> Option<String> {
        let connection = self.connections.get(&id)?;
        let names = connection.subscriptions.iter().flatten().map(|name| String::from_utf8_lossy(name));
        Some(format!(
            "user={:?} db={} resp3={} name={} multi={:?} monitor={} mode={:?} tracking={} told={:?} subscribed={}",
            connection.user,
            connection.db,
            connection.resp3,
            String::from_utf8_lossy(&connection.name),
            connection.multi.as_ref().map(|multi| (multi.queue.len(), multi.aborted)),
            connection.monitors,
            connection.mode,
            connection.tracking.is_some(),
            connection.told,
            names.collect::<Vec<_>>().join(","),
        ))
    }

    /// Every key with its database.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.data.keys()
    }

    /// Runs a request as an administrator's connection in database 0 would.
    pub fn ask(&mut self, request: &str, now: Instant) -> Option<Reply> {
        self.ask_in(0, request, now)
    }

    /// The same in another database.
    pub fn ask_in(&mut self, db: u32, request: &str, now: Instant) -> Option<Reply> {
        let health = std::mem::replace(&mut self.health, Health::Up);
        let id = self.connect().expect("it is up");
        let connection = self.connections.get_mut(&id)?;
        (connection.user, connection.db) = (Some("default".into()), db);
        let words = request.split_whitespace().map(|word| word.as_bytes().to_vec()).collect();
        let reply = self.answer(id, &words, now);
        self.commit(id, now);
        self.connections.remove(&id);
        self.health = health;
        self.work(now);
        reply
    }

    /// When something happens by itself: the first end of a blocking command's time.
    pub fn next_wake(&self) -> Option<Instant> {
        let is_up = self.health == Health::Up;
        let blocked = self.connections.values().filter_map(|connection| connection.blocked.as_ref()?.until);
        blocked.min().filter(|_| is_up)
    }

    /// Takes note of the time, and does whatever can be done.
    pub fn work(&mut self, now: Instant) {
        if self.health != Health::Up {
            return;
        }
        self.time_out(now);
        loop {
            let ids: Vec<u64> = self.connections.keys().copied().collect();
            let mut moved = false;
            for id in ids {
                while self.step(id, now) {
                    moved = true;
                }
            }
            if !moved {
                return;
            }
        }
    }

    /// Serves the next request of a connection, if it may be served; true if something moved.
    fn step(&mut self, id: u64, now: Instant) -> bool {
        let Some(connection) = self.connections.get_mut(&id) else { return false };
        if connection.ended {
            connection.input.clear();
            return false;
        }
        if connection.blocked.is_some() {
            // A server lets go of what blocks when its client leaves, and runs nothing behind it.
            if connection.eof {
                self.connections.remove(&id);
            }
            return false;
        }
        if connection.replicates {
            connection.input.clear();
        }
        let length = match RequestScanner::default().scan(&connection.input) {
            Scan::Frame(_) if connection.reads_inline && connection.input[0] == b'*' => {
                connection.push(&Reply::error("ERR unknown command '*1'"));
                connection.ended = true;
                return true;
            }
            Scan::Frame(length) if !connection.input.is_empty() => length,
            Scan::Invalid(_) => {
                connection.push(&Reply::error("ERR Protocol error: expected '$', got 'P'"));
                connection.ended = true;
                return true;
            }
            _ => {
                let moved = connection.eof && !connection.ended;
                connection.ended |= connection.eof;
                return moved;
            }
        };
        let words: Words = Args::new(&connection.input[..length]).map(|word| word.into_owned()).collect();
        if self.paused && self.may_write(id, &words) {
            return false; // it waits where it is
        }
        let connection = self.connection(id);
        connection.reads_inline = connection.input[0] != b'*' && words.is_empty();
        connection.input.drain(..length);
        if !words.is_empty() {
            self.serve(id, &words, now);
        }
        true
    }

    /// What was changed goes to replicas, watchers and caches, and to who waits for it.
    fn commit(&mut self, by: u64, now: Instant) {
        let touched = self.data.take_touched();
        let requests = std::mem::take(&mut self.effects);
        if touched.is_empty() && requests.is_empty() {
            return;
        }
        let changes = touched.iter().map(|key| (key.clone(), self.data.get(key.0, &key.1).cloned())).collect();
        self.history.push(Write { at: now, requests, changes });
        if let Some(writer) = self.connections.get_mut(&by) {
            writer.written = self.history.len();
        }
        self.note_changes(&touched);
        self.serve_blocked(now);
    }

    /// WATCH and CLIENT TRACKING see these keys change.
    fn note_changes(&mut self, touched: &[Key]) {
        for connection in self.connections.values_mut() {
            connection.dirty |= touched.iter().any(|key| connection.watched.contains(key));
        }
        touched.iter().for_each(|(_, key)| self.invalidate(key));
    }

    /// Pops for who has waited longest, as long as there is something.
    fn serve_blocked(&mut self, now: Instant) {
        loop {
            let mut waiting: Vec<(u64, u64)> = self
                .connections
                .iter()
                .filter_map(|(id, connection)| Some((connection.blocked.as_ref()?.turn, *id)))
                .collect();
            waiting.sort_unstable();
            let served = waiting.into_iter().find_map(|(_, id)| {
                let connection = &self.connections[&id];
                let (db, blocked) = (connection.db, connection.blocked.clone()?);
                let Wait::Pop { .. } = blocked.on else { return None };
                Some((id, self.pop_for(db, &blocked.on)?, blocked))
            });
            let Some((id, reply, blocked)) = served else { return };
            self.unblock(id, &reply);
            self.effects.push(blocked.request.join(&b' '));
            self.commit(id, now);
        }
    }

    /// Ends what a connection waits for.
    fn unblock(&mut self, id: u64, reply: &Reply) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.blocked = None;
            connection.reply(reply);
        }
    }

    /// Whose time is over is answered with nothing; WAIT with how many replicas have it.
    fn time_out(&mut self, now: Instant) {
        let is_over = |blocked: &Blocked| blocked.until.is_some_and(|until| until <= now);
        let over: Vec<u64> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.blocked.as_ref().is_some_and(is_over))
            .map(|(id, _)| *id)
            .collect();
        for id in over {
            let is_wait =
                self.connections[&id].blocked.as_ref().is_some_and(|blocked| matches!(blocked.on, Wait::Replicas(_)));
            let reply = if is_wait { Reply::Number(self.acknowledged(id) as i64) } else { Reply::NilArray };
            self.unblock(id, &reply);
        }
    }

    /// Replicas that have the last write of this connection.
    fn acknowledged(&self, id: u64) -> usize {
        let written = self.connections.get(&id).map_or(0, |connection| connection.written);
        self.replicas.iter().filter(|offset| **offset >= written).count()
    }

    fn connection(&mut self, id: u64) -> &mut Connection {
        self.connections.get_mut(&id).expect("the connection at hand")
    }
}

/// What happens to a node.
impl Server {
    /// The replicas have come so far.
    pub fn acknowledge(&mut self, replicas: Vec<usize>, now: Instant) {
        if self.replicas == replicas {
            return;
        }
        self.replicas = replicas;
        let waiting = |connection: &Connection| match connection.blocked.as_ref()?.on {
            Wait::Replicas(wanted) => Some(wanted),
            Wait::Pop { .. } => None,
        };
        let all: Vec<(u64, usize)> =
            self.connections.iter().filter_map(|(id, connection)| Some((*id, waiting(connection)?))).collect();
        for (id, wanted) in all {
            let count = self.acknowledged(id);
            if count >= wanted {
                self.unblock(id, &Reply::Number(count as i64));
            }
        }
        self.work(now);
    }

    /// A replica takes the next write of its master's stream.
    pub fn apply(&mut self, write: &Write) {
        for (key, value) in &write.changes {
            self.data.put(key.clone(), value.clone());
        }
        let touched = self.data.take_touched();
        self.note_changes(&touched);
        self.history.push(write.clone());
    }

    /// A replica takes all of a master's data.
    pub fn copy(&mut self, master: &Server) {
        self.data = master.data.clone();
        self.data.take_touched();
        self.history = master.history.clone();
    }

    /// `REPLICAOF NO ONE`, and Sentinel's CLIENT KILL behind it.
    pub fn promote(&mut self) {
        self.role = Role::Master;
        self.connections.clear();
        self.replicas.clear();
    }

    /// `REPLICAOF`: what blocks is told so and closed; others stay until they are killed.
    pub fn demote(&mut self, role: Role, now: Instant) {
        self.role = role;
        let text = "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)";
        for connection in self.connections.values_mut().filter(|connection| connection.blocked.is_some()) {
            connection.blocked = None;
            connection.reply(&Reply::error(text));
            connection.ended = true;
        }
        self.paused = false;
        self.work(now);
    }

    /// `CLIENT UNBLOCK id`.
    pub fn let_go(&mut self, id: u64, now: Instant) {
        if self.is_blocked(id) {
            self.unblock(id, &Reply::NilArray);
            self.work(now);
        }
    }

    /// CLIENT KILL of everybody: behind what they were sent.
    pub fn kill_clients(&mut self) {
        self.connections.values_mut().for_each(|connection| connection.ended = true);
    }

    /// CLIENT PAUSE … WRITE, and its end.
    pub fn pause(&mut self, paused: bool, now: Instant) {
        self.paused = paused;
        self.work(now);
    }

    /// kill -9: every connection is lost, with what was not taken yet.
    pub fn crash(&mut self) {
        self.health = Health::Down;
        self.connections.clear();
        self.paused = false;
    }

    /// A process at the same address, with its data set or an empty one.
    pub fn restart(&mut self, keeps_data: bool) {
        self.health = Health::Up;
        self.scripts.clear();
        if !keeps_data {
            self.data = Data::default();
            self.history.clear();
        }
    }

    /// SIGSTOP and SIGCONT: what waits in its sockets runs then.
    pub fn hang(&mut self, hangs: bool, now: Instant) {
        if self.health != Health::Down {
            self.health = if hangs { Health::Hung } else { Health::Up };
            self.work(now);
        }
    }
}
