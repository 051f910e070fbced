//! Sessions, servers and time together: lets everything happen that can, then moves the time to what happens next.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::dice::Flow;
use super::session::{SETTINGS, Session};
use super::world::{Act, World};
use crate::resp::request::encode;
use crate::resp::scanner::{ReplyScanner, Scan};
use crate::session::core::Settings;
use crate::upstream::{KnownCredentials, Scripts};

/// More rounds without a moment of quiet are a session that spins.
const MOST_ROUNDS: usize = 100_000;

pub struct Stage {
    pub world: World,
    pub sessions: Vec<Session>,
    pub flow: Flow,
    pub settings: Settings,
    scripts: Rc<Scripts>,
    pub credentials: Rc<KnownCredentials>,
}

impl Stage {
    /// A master and so many replicas.
    pub fn new(replicas: usize, lag: Duration) -> Stage {
        Stage {
            world: World::new(replicas + 1, lag),
            sessions: Vec::new(),
            flow: Flow::Whole,
            settings: SETTINGS,
            scripts: Rc::default(),
            credentials: Rc::new(KnownCredentials::new(None, false)),
        }
    }

    /// A new client; its number.
    pub fn open(&mut self) -> usize {
        let session = Session::new(&self.world, self.settings, self.scripts.clone(), self.credentials.clone());
        self.sessions.push(session);
        self.settle();
        self.sessions.len() - 1
    }

    /// One round of everybody; true if something moved.
    pub fn round(&mut self) -> bool {
        let mut moved = false;
        for session in &mut self.sessions {
            moved |= session.poll(&mut self.world, &mut self.flow);
            moved |= session.carry(&mut self.world, &mut self.flow);
        }
        moved
    }

    /// Lets everything happen that can happen now.
    pub fn settle(&mut self) {
        for _ in 0..MOST_ROUNDS {
            if !self.round() {
                return;
            }
        }
        panic!("nothing comes to rest");
    }

    /// When something happens next by itself.
    pub fn next_event(&self) -> Option<Instant> {
        let wakes = self.sessions.iter().filter_map(Session::wake).min();
        [self.world.next_event(), wakes].into_iter().flatten().min()
    }

    /// Moves the time to there, settling whenever something has happened.
    pub fn run_to(&mut self, end: Instant) {
        self.settle();
        while self.world.now < end {
            let next = self.next_event().map_or(end, |next| next.min(end)).max(self.world.now);
            self.step_to(next);
            self.settle();
        }
    }

    /// Moves the time, without settling.
    pub fn step_to(&mut self, next: Instant) {
        if let Some(Act::Crash(node)) = self.world.next_act().filter(|_| self.world.is_due(next)).cloned() {
            for session in &mut self.sessions {
                session.reset_links(node, &mut self.flow);
            }
        }
        self.world.advance(next);
    }

    pub fn run(&mut self, millis: u64) {
        self.run_to(self.world.now + Duration::from_millis(millis));
    }

    /// Moves the time until the script has been played.
    pub fn run_script(&mut self) {
        while self.world.is_playing() {
            let next = self.next_event().expect("an act");
            self.run_to(next);
            if self.world.now >= next {
                self.run(1);
            }
        }
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, client: usize, bytes: &[u8]) {
        self.sessions[client].send(bytes);
        self.settle();
    }

    /// Sends a request written as words.
    pub fn say(&mut self, client: usize, request: &str) {
        self.send(client, &words(request));
    }

    /// Sends several in one write.
    pub fn say_all(&mut self, client: usize, requests: &[&str]) {
        let bytes: Vec<u8> = requests.iter().flat_map(|request| words(request)).collect();
        self.send(client, &bytes);
    }

    /// The next whole frame that a client was sent, with spaces for line ends; time passes until there is one.
    pub fn frame(&mut self, client: usize) -> Option<String> {
        let limit = self.world.now + Duration::from_secs(40);
        loop {
            self.settle();
            let heard = &mut self.sessions[client].client.heard;
            if !heard.is_empty()
                && let Scan::Frame(length) = ReplyScanner::default().scan(heard)
            {
                let frame: Vec<u8> = heard.drain(..length).collect();
                return Some(String::from_utf8_lossy(&frame).trim_end().replace("\r\n", " "));
            }
            let next = self.next_event().filter(|next| *next <= limit);
            let is_over = self.sessions[client].client.is_closed;
            let next = next.filter(|_| !is_over)?;
            self.step_to(next);
        }
    }

    /// The client hears this; one that ends with `…` names its beginning.
    #[track_caller]
    pub fn hear(&mut self, client: usize, expected: &str) {
        let frame = self.frame(client);
        let shown = || {
            let session = &self.sessions[client];
            let rest = session.client.heard.escape_ascii();
            format!("heard {frame:.200?}, not {expected:?} (ended: {:?}, more: {rest})", session.ended)
        };
        let fits = match (&frame, expected.strip_suffix('…')) {
            (Some(frame), Some(start)) => frame.starts_with(start),
            (Some(frame), None) => frame == expected,
            (None, _) => false,
        };
        assert!(fits, "{}", shown());
    }

    #[track_caller]
    pub fn hear_all(&mut self, client: usize, expected: &[&str]) {
        expected.iter().for_each(|one| self.hear(client, one));
    }

    #[track_caller]
    pub fn ask(&mut self, client: usize, request: &str, expected: &str) {
        self.say(client, request);
        self.hear(client, expected);
    }

    /// The connection is closed, and nothing came before that.
    #[track_caller]
    pub fn end(&mut self, client: usize) {
        let frame = self.frame(client);
        assert!(frame.is_none() && self.sessions[client].client.is_closed, "heard {frame:?}, not the end");
    }

    /// Nothing is heard for this long.
    #[track_caller]
    pub fn quiet(&mut self, client: usize, millis: u64) {
        self.run(millis);
        let heard = &self.sessions[client].client.heard;
        assert!(heard.is_empty(), "heard {}", heard.escape_ascii());
    }

    /// What a server answers an administrator.
    pub fn direct(&mut self, node: usize, request: &str) -> String {
        let now = self.world.now;
        let reply = self.world.servers[node].ask(request, now);
        self.settle();
        let mut bytes = Vec::new();
        reply.iter().for_each(|reply| reply.write(false, &mut bytes));
        String::from_utf8_lossy(&bytes).trim_end().replace("\r\n", " ")
    }

    /// What the master of the world answers an administrator.
    #[track_caller]
    pub fn master_says(&mut self, request: &str, expected: &str) {
        assert_eq!(self.direct(self.world.master, request), expected, "{request}");
    }
}

/// A request of words between spaces.
pub fn words(request: &str) -> Vec<u8> {
    let words: Vec<&[u8]> = request.split_whitespace().map(str::as_bytes).collect();
    encode(&words)
}
