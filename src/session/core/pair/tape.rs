//! A tape of bytes decides everything: what one client sends and in which pieces, and what happens to the master.
//!
//! Where nothing can be lost, the client hears what a lone server says to the same bytes, the writes that survive are
//! that server's, and so is what has become of the connection. Where masters die, no write is there more often than it
//! was asked for, and replies keep their order. Seeds make tapes in `make test`, and so does a fuzzer
//! (`fuzz/fuzz_targets/session.rs`).

use std::time::{Duration, Instant};

use super::dice::{Dice, Flow};
use super::server::{Role, Server};
use super::stage::{Stage, words};
use super::world::Act;
use crate::resp::request::Args;
use crate::resp::scanner::{ReplyScanner, RequestScanner, Scan};
use crate::session::CloseReason;

/// What the client can say, besides bytes of the tape. `%` is a word like no other, `~` the SHA1 of `SCRIPT`.
const REQUESTS: [&str; 64] = [
    "ECHO %",
    "PING",
    "SET k %",
    "GET k",
    "INCR n",
    "RPUSH q %",
    "RPUSH q %",
    "LPOP q",
    "LRANGE q 0 -1",
    "LRANGE k 0 -1",
    "HSET h f %",
    "HGETALL h",
    "MGET k n",
    "DEL k",
    "MULTI",
    "MULTI",
    "EXEC",
    "EXEC",
    "DISCARD",
    "SELECT 0",
    "SELECT 1",
    "SELECT 99",
    "BLPOP q 0",
    "BLPOP q 0.05",
    "BRPOP none q 0.2",
    "BLMOVE q r LEFT RIGHT 0",
    "HELLO 2",
    "HELLO 3",
    "HELLO 3",
    "HELLO 3 AUTH app app-secret SETNAME me",
    "HELLO 4",
    "AUTH app app-secret",
    "AUTH app wrong",
    "ACL WHOAMI",
    "RESET",
    "CLIENT SETNAME a",
    "CLIENT SETINFO lib-name x",
    "CLIENT GETNAME",
    "CLIENT REPLY OFF",
    "CLIENT REPLY ON",
    "CLIENT REPLY SKIP",
    "SUBSCRIBE a b",
    "UNSUBSCRIBE",
    "UNSUBSCRIBE b",
    "PSUBSCRIBE p*",
    "PUNSUBSCRIBE",
    "SSUBSCRIBE s",
    "SUNSUBSCRIBE",
    "PUBLISH a %",
    "SPUBLISH s %",
    "EVAL return(redis.call('rpush',KEYS[1],ARGV[1])) 1 q %",
    "EVAL return(redis.error_reply('READONLY mine')) 0",
    "SCRIPT LOAD return(redis.call('append',KEYS[1],ARGV[1]))",
    "EVALSHA ~ 1 k %",
    "NOPE %",
    "GET",
    "QUIT",
    "WATCH k",
    "UNWATCH",
    "WAIT 1 20",
    "CLIENT TRACKING ON",
    "CLIENT ID",
    "MONITOR",
    "PSYNC ? -1",
];
const SCRIPT: &str = "return(redis.call('append',KEYS[1],ARGV[1]))";
/// Where one of these was said, the contract or the number of the connection lets other replies come than a lone server's.
const OTHERWISE: [&[u8]; 7] = [b"WATCH", b"WAIT", b"TRACKING", b"MONITOR", b"PSYNC", b"REPLCONF", b"ID"];
/// More than this is perhaps not retained.
const RETAINED: usize = 60_000;
const MOST_STEPS: usize = 150;

/// The bytes that decide; behind its end, zeros.
struct Tape<'a>(&'a [u8]);

impl<'a> Tape<'a> {
    fn next(&mut self) -> Option<u8> {
        self.take(1).first().copied()
    }

    /// Less than `most`.
    fn below(&mut self, most: usize) -> usize {
        usize::from(self.next().unwrap_or_default()) % most
    }

    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

/// Plays a tape to its end, and judges what came of it.
pub fn play(tape: &[u8]) {
    let mut play = Play::new(Tape(tape));
    for _ in 0..MOST_STEPS {
        let Some(op) = play.tape.next() else { break };
        play.step(op);
    }
    play.finish();
    play.judge();
}

struct Play<'a> {
    tape: Tape<'a>,
    stage: Stage,
    /// Replies may be lost.
    is_harsh: bool,
    /// To be sent, and everything that was.
    unsent: Vec<u8>,
    sent: Vec<u8>,
    numbered: usize,
    has_left: bool,
}

impl<'a> Play<'a> {
    fn new(mut tape: Tape<'a>) -> Play<'a> {
        let flags = tape.below(256);
        let is_harsh = flags & 1 != 0;
        let mut stage = Stage::new(2, Duration::from_millis(1));
        stage.world.servers.iter_mut().for_each(add_user);
        if flags & 2 != 0 {
            stage.flow = Flow::Pieces(Dice::new(tape.below(256) as u64));
        }
        let client = stage.open();
        let session = &mut stage.sessions[client];
        (session.uses_pool, session.splices) = (flags & 4 != 0, flags & 8 != 0);
        if is_harsh && flags & 16 != 0 {
            session.socket = 20 + tape.below(100);
        }
        Play { tape, stage, is_harsh, unsent: Vec::new(), sent: Vec::new(), numbered: 0, has_left: false }
    }

    fn step(&mut self, op: u8) {
        let session = &mut self.stage.sessions[0];
        match op {
            0..192 => self.say(REQUESTS[usize::from(op) % REQUESTS.len()]),
            192..200 => {
                let bytes = self.tape.take(1 + usize::from(op - 192) * 3);
                self.unsent.extend_from_slice(bytes);
            }
            200 => self.unsent.extend(words(&format!("SET k {}", "x".repeat(20_000)))),
            201 => self.unsent.extend(words(&format!("SET k {}", "x".repeat(70_000)))),
            202..212 => {
                let kept = self.tape.below(64);
                self.send(kept);
            }
            212..222 => {
                let millis = self.tape.below(100);
                self.stage.run(millis as u64);
            }
            222..226 => (0..self.tape.below(4)).for_each(|_| _ = self.stage.round()),
            226 => session.tick(),
            227 => session.finish(),
            228 => session.abandon(),
            229 | 230 if self.may_stall() => self.stall(),
            231 if self.is_harsh => self.stage.sessions[0].is_mute ^= true,
            232..244 => self.deed(),
            _ => self.send(0),
        }
        self.has_left |= matches!(op, 227 | 228);
    }

    fn say(&mut self, request: &str) {
        self.numbered += 1;
        let request = request.replace('%', &format!("w{}.", self.numbered)).replace('~', &sha());
        self.unsent.extend(words(&request));
    }

    /// Sends all but the last bytes, and lets them arrive, or not.
    fn send(&mut self, kept: usize) {
        let count = self.unsent.len().saturating_sub(kept);
        let bytes: Vec<u8> = self.unsent.drain(..count).collect();
        if !self.has_left {
            self.sent.extend_from_slice(&bytes);
            self.stage.sessions[0].send(&bytes);
        }
        if self.tape.below(4) != 0 {
            self.stage.settle();
        }
    }

    /// What is not read in time is lost with the old master.
    fn may_stall(&self) -> bool {
        self.is_harsh || !self.stage.world.is_playing()
    }

    /// The client takes, or the session reads, only a little for now.
    fn stall(&mut self) {
        let (count, is_client) = (self.tape.below(64), self.tape.below(2) == 0);
        let session = &mut self.stage.sessions[0];
        if is_client {
            session.client.window = count;
        } else {
            session.limit_down(session.read_down + count);
        }
    }

    fn flow_freely(&mut self) {
        let session = &mut self.stage.sessions[0];
        session.is_mute = false;
        session.open_window(usize::MAX);
        session.limit_down(usize::MAX);
    }

    /// Something happens to the master, unless something still does.
    fn deed(&mut self) {
        if self.stage.world.is_playing() {
            return;
        }
        let deed = self.tape.below(16);
        let late = self.tape.below(256) as u64;
        if !self.is_harsh {
            self.flow_freely();
            self.stage.settle();
        }
        let (old, world) = (self.stage.world.master, &mut self.stage.world);
        let (new, other) = ((old + 1) % 3, (old + 2) % 3);
        let switch = |at: u64| {
            [
                (at, Act::Hold),
                (at + 60, Act::Promote(new)),
                (at + 70, Act::Commit { node: new, provisional: true }),
                (at + 100, Act::Confirm),
                (at + 110, Act::Follow { node: other, master: new }),
                (at + 200, Act::Follow { node: old, master: new }),
            ]
        };
        match if self.is_harsh { deed } else { deed % 4 } {
            0 => world.play(switch(late)),
            1 => world.play([(0, Act::Elect)].into_iter().chain(switch(late))),
            2 => world.play([(0, Act::Elect), (late, Act::Hold), (2 * late, Act::Release)]),
            3 => world.play([(0, Act::Stop), (late, Act::Release)]),
            4 | 5 => world.play([(0, Act::Crash(old))].into_iter().chain(switch(300))),
            6 => world
                .play([(0, Act::Hang(old)), (350 + late, Act::Thaw(old))].into_iter().chain(switch(300 + late / 2))),
            7 => world.play([(0, Act::Demote(old, Role::Replica))].into_iter().chain(switch(late))),
            8 => world.play([(0, Act::Demote(old, Role::Orphan))].into_iter().chain(switch(late))),
            9 => world
                .play([(0, Act::Crash(old)), (late, Act::Restart { node: old, keeps_data: late.is_multiple_of(2) })]),
            10 => world.play([(0, Act::Crash(old)), (14_800 + 4 * late, Act::Restart { node: old, keeps_data: true })]),
            11 => world.play([(0, Act::Freeze(new))].into_iter().chain(switch(late))),
            12 => world.play([(0, Act::Hang(old)), (4 * late, Act::Thaw(old))]),
            13 => world.play([(0, Act::Lack(old, true)), (late, Act::Lack(old, false))]),
            14 => world.play([
                (0, Act::Hold),
                (60, Act::Promote(new)),
                (70, Act::Commit { node: new, provisional: true }),
                (100 + late, Act::Hold),
                (160 + late, Act::Follow { node: new, master: old }),
                (200 + late, Act::Commit { node: old, provisional: false }),
            ]),
            _ => world.play(switch(late).into_iter().take(3).chain([
                (80 + late, Act::Follow { node: other, master: new }),
                (100 + late, Act::Crash(new)),
                (400 + late, Act::Hold),
                (450 + late, Act::Promote(other)),
                (460 + late, Act::Commit { node: other, provisional: false }),
                (500 + late, Act::Follow { node: new, master: other }),
                (510 + late, Act::Follow { node: old, master: other }),
            ])),
        }
    }

    /// Everything that is under way comes to its end; what blocks is let go.
    fn finish(&mut self) {
        self.flow_freely();
        self.send(0);
        self.stage.run_script();
        self.stage.run(20_000);
        for _ in 0..1000 {
            let session = &self.stage.sessions[0];
            let (world, link) = (&mut self.stage.world, session.link.as_ref());
            let Some(link) =
                link.filter(|link| session.ended.is_none() && world.servers[link.node].is_blocked(link.id))
            else {
                break;
            };
            world.servers[link.node].let_go(link.id, world.now);
            self.stage.run(300);
        }
        let Stage { world, sessions, flow, .. } = &mut self.stage;
        sessions.iter_mut().for_each(|session| session.check_rest(world, flow));
    }

    fn judge(&self) {
        let heard = Heard::of(&self.stage.sessions[0].client.heard);
        let lone = Lone::of(&self.sent);
        let may_differ = OTHERWISE.iter().any(|word| contains(&self.sent, word));
        if self.is_harsh || may_differ {
            self.judge_order(&heard);
            self.judge_runs();
        } else {
            self.judge_against(&heard, &lone);
        }
    }

    fn judge_against(&self, heard: &Heard, lone: &Lone) {
        let session = &self.stage.sessions[0];
        let direct = Heard::of(&lone.output);
        let ran = requests_of(&self.stage.world.servers[self.stage.world.master]);
        let should = requests_of(&lone.server);
        let Some(reason) = session.ended.filter(|_| !lone.has_ended() || self.has_left) else {
            assert_eq!(session.ended.is_some(), lone.has_ended(), "{:?}, {}", session.ended, self.shown());
            assert_eq!(heard, &direct, "{}", self.shown());
            assert_eq!(ran, should, "{}", self.shown());
            let link = session.link.as_ref().filter(|_| session.ended.is_none());
            let state = link.map(|link| self.stage.world.servers[link.node].state_of(link.id));
            assert!(state.is_none_or(|state| state == lone.server.state_of(lone.id)), "{}", self.shown());
            return;
        };
        let has = |word: &[u8]| contains(&self.sent, word);
        let is_strange = lone.is_broken() || (has(b"SUBSCRIBE") && (has(b"MULTI") || has(b"REPLY")));
        let is_fine = match reason {
            CloseReason::ClientClosed => self.has_left,
            CloseReason::UpstreamClosed => self.has_left && lone.is_broken(),
            CloseReason::Opaque => is_strange || self.sent.len() > RETAINED,
            CloseReason::NotReplayable => self.sent.len() > RETAINED || has(b"REPLY"),
            _ => false,
        };
        assert!(is_fine, "closed: {reason:?}, {}", self.shown());
        assert!(direct.begins_with(heard), "{heard:?} is not how {direct:?} begins, {}", self.shown());
        assert!(should.starts_with(&ran), "{ran:?} is not how {should:?} begins, {}", self.shown());
    }

    /// ECHOs are answered in their order, each once.
    fn judge_order(&self, heard: &Heard) {
        let numbers = heard.replies.iter().filter_map(|frame| {
            let text = std::str::from_utf8(frame).ok()?.split("\r\n").nth(1)?;
            text.strip_prefix('w')?.strip_suffix('.')?.parse::<usize>().ok()
        });
        let numbers: Vec<usize> = numbers.filter(|number| self.is_echo(*number)).collect();
        assert!(numbers.is_sorted_by(|one, next| one < next), "ECHOs: {numbers:?}, {}", self.shown());
    }

    fn is_echo(&self, number: usize) -> bool {
        contains(&self.sent, &words(&format!("ECHO w{number}.")))
    }

    /// No write that has its own word is there more often than it was sent.
    fn judge_runs(&self) {
        let ran = requests_of(&self.stage.world.servers[self.stage.world.master]);
        for request in &ran {
            let times = ran.iter().filter(|other| *other == request).count();
            let is_numbered = request.ends_with('.') && request.contains(" w");
            assert!(!is_numbered || times == 1, "{request} ran {times} times, {}", self.shown());
        }
    }

    fn shown(&self) -> String {
        format!("after {:?} (left: {})", Heard::requests(&self.sent), self.has_left)
    }
}

fn add_user(server: &mut Server) {
    server.users.insert("app".into(), b"app-secret".to_vec());
}

/// A server to which nothing happens, and what it says to the same bytes.
struct Lone {
    server: Server,
    id: u64,
    output: Vec<u8>,
}

impl Lone {
    fn of(bytes: &[u8]) -> Lone {
        let mut server = Server::new();
        add_user(&mut server);
        let id = server.connect().expect("it is up");
        let now = Instant::now();
        server.receive(id, bytes, now);
        while server.is_blocked(id) {
            server.let_go(id, now);
        }
        let output = server.take_output(id, usize::MAX);
        Lone { server, id, output }
    }

    fn has_ended(&self) -> bool {
        self.server.has_ended(self.id)
    }

    /// It was sent what is not RESP.
    fn is_broken(&self) -> bool {
        contains(&self.output, b"-ERR Protocol error")
    }
}

/// What a client heard. What is said unasked may come before or behind a reply.
#[derive(PartialEq, Eq)]
struct Heard {
    replies: Vec<Vec<u8>>,
    unasked: Vec<Vec<u8>>,
    rest: Vec<u8>,
}

impl Heard {
    fn of(mut bytes: &[u8]) -> Heard {
        let mut heard = Heard { replies: Vec::new(), unasked: Vec::new(), rest: Vec::new() };
        while !bytes.is_empty() {
            match ReplyScanner::default().scan(bytes) {
                Scan::Frame(length) => {
                    let (frame, rest) = bytes.split_at(length);
                    let is_push = frame[0] == b'>';
                    if is_push { &mut heard.unasked } else { &mut heard.replies }.push(frame.to_vec());
                    bytes = rest;
                }
                Scan::Partial => break,
                Scan::Invalid(why) => panic!("{why}: {}", bytes.escape_ascii()),
            }
        }
        heard.rest = bytes.to_vec();
        heard
    }

    fn begins_with(&self, other: &Heard) -> bool {
        self.replies.starts_with(&other.replies) && self.unasked.starts_with(&other.unasked)
    }

    fn requests(mut bytes: &[u8]) -> Vec<String> {
        let mut requests = Vec::new();
        while let Scan::Frame(length) = RequestScanner::default().scan(bytes)
            && !bytes.is_empty()
        {
            let request: Vec<_> = Args::new(&bytes[..length]).collect();
            requests.push(format!("{:.60}", request.join(&b' ').escape_ascii().to_string()));
            bytes = &bytes[length..];
        }
        requests.push(format!("{:.60}", bytes.escape_ascii().to_string()));
        requests
    }
}

impl std::fmt::Debug for Heard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let frames = self.replies.iter().chain(&self.unasked).chain([&self.rest]);
        f.debug_list().entries(frames.map(|frame| frame.escape_ascii().to_string())).finish()
    }
}

/// What ran in the history of this server; of what blocks without the time, of which some may have passed elsewhere.
fn requests_of(server: &Server) -> Vec<String> {
    let requests = server.history.iter().flat_map(|write| &write.requests);
    let is_time = |word: &&str| word.parse::<f64>().is_ok();
    requests
        .map(|request| {
            let request = request.escape_ascii().to_string();
            let blocks = request.starts_with(['B', 'b']);
            request.split(' ').filter(|word| !(blocks && is_time(word))).collect::<Vec<_>>().join(" ")
        })
        .collect()
}

fn sha() -> String {
    let loaded = Server::new().ask(&format!("SCRIPT LOAD {SCRIPT}"), Instant::now());
    let mut bytes = Vec::new();
    loaded.expect("a reply").write(false, &mut bytes);
    String::from_utf8_lossy(&bytes[5..45]).into_owned()
}

fn contains(bytes: &[u8], word: &[u8]) -> bool {
    bytes.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tapes_of_a_thousand_seeds() {
        let failed = (0..1000).filter(|seed| {
            let mut dice = Dice::new(*seed);
            let length = dice.below(120);
            let tape: Vec<u8> = (0..length).map(|_| dice.roll() as u8).collect();
            std::panic::catch_unwind(|| play(&tape)).is_err()
        });
        let failed: Vec<u64> = failed.collect();
        assert!(failed.is_empty(), "seeds {failed:?}");
    }
}
