//! The model says what Redis says.

use std::time::{Duration, Instant};

use super::{Health, Role, Server};
use crate::resp::request::encode;

struct Talk {
    server: Server,
    now: Instant,
}

impl Talk {
    fn new() -> Talk {
        Talk { server: Server::new(), now: Instant::now() }
    }

    fn open(&mut self) -> u64 {
        self.server.connect().expect("it listens")
    }

    fn say(&mut self, id: u64, request: &str) {
        let words: Vec<&[u8]> = request.split(' ').map(str::as_bytes).collect();
        self.server.receive(id, &encode(&words), self.now);
    }

    #[track_caller]
    fn hear(&mut self, id: u64, expected: &str) {
        let heard = self.server.take_output(id, usize::MAX);
        assert_eq!(String::from_utf8_lossy(&heard).replace("\r\n", " ").trim_end(), expected);
    }

    #[track_caller]
    fn ask(&mut self, id: u64, request: &str, expected: &str) {
        self.say(id, request);
        self.hear(id, expected);
    }

    fn later(&mut self, seconds: f64) {
        self.now += Duration::from_secs_f64(seconds);
        self.server.work(self.now);
    }
}

#[test]
fn it_answers_as_a_server_does() {
    let mut talk = Talk::new();
    let one = talk.open();
    for (request, reply) in [
        ("SET a 1", "+OK"),
        ("INCR a", ":2"),
        ("SET a x NX", "$-1"),
        ("LRANGE a 0 -1", "-WRONGTYPE Operation against a key holding the wrong kind of value"),
        ("NONE x", "-ERR unknown command 'NONE', with args beginning with:"),
        ("GET", "-ERR wrong number of arguments for 'get' command"),
        ("RPUSH l a b c", ":3"),
        ("LMOVE l m LEFT RIGHT", "$1 a"),
        ("HSET h f v", ":1"),
        ("HGETALL h", "*2 $1 f $1 v"),
        ("HELLO 3", "%2 $5 proto :3 $4 role $6 master"),
        ("HGETALL h", "%1 $1 f $1 v"),
        ("GET none", "_"),
        ("EVAL redis.call('incr',KEYS[1]);return(redis.call('get',KEYS[1])) 1 e", "$1 1"),
        ("EVALSHA ffff 0", "-NOSCRIPT No matching script. Please use EVAL."),
        ("RESET", "+RESET"),
        ("GET none", "$-1"),
        (
            "AUTH x",
            "-ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?",
        ),
        ("CLIENT REPLY OFF", ""),
        ("GET a", ""),
        ("CLIENT REPLY ON", "+OK"),
        ("CLIENT REPLY SKIP", ""),
        ("GET a", ""),
        ("GET a", "$1 2"),
        ("QUIT", "+OK"),
    ] {
        talk.ask(one, request, reply);
    }
    assert!(talk.server.has_ended(one));
}

#[test]
fn transactions_watch_and_abort() {
    let mut talk = Talk::new();
    let (one, other) = (talk.open(), talk.open());
    talk.ask(one, "WATCH a", "+OK");
    talk.ask(other, "SET a 1", "+OK");
    talk.ask(one, "MULTI", "+OK");
    talk.ask(one, "INCR a", "+QUEUED");
    talk.ask(one, "EXEC", "*-1");
    talk.ask(one, "MULTI", "+OK");
    talk.ask(one, "NOPE", "-ERR unknown command 'NOPE', with args beginning with:");
    talk.ask(one, "EXEC", "-EXECABORT Transaction discarded because of previous errors.");
    talk.ask(one, "MULTI", "+OK");
    talk.ask(one, "INCR a", "+QUEUED");
    talk.ask(one, "BLPOP none 0", "+QUEUED");
    talk.ask(one, "EXEC", "*2 :2 *-1");
    assert_eq!(talk.server.history.last().unwrap().requests, [b"INCR a"]);
    talk.ask(one, "MULTI", "+OK");
    talk.ask(one, "INCR a", "+QUEUED");
    talk.server.demote(Role::Replica, talk.now);
    let refused = "READONLY You can't write against a read only replica.";
    talk.ask(one, "EXEC", &format!("-EXECABORT Transaction discarded because of: {refused}"));
    talk.ask(one, "SET a 1", &format!("-{refused}"));
    talk.ask(one, "GET a", "$1 2");
}

#[test]
fn pops_block_are_served_in_turn_and_time_out() {
    let mut talk = Talk::new();
    let (one, other, pusher) = (talk.open(), talk.open(), talk.open());
    talk.ask(one, "BLPOP l 0", "");
    talk.ask(other, "BLPOP l 1.5", "");
    talk.say(one, "ECHO behind");
    talk.ask(pusher, "RPUSH l a", ":1");
    talk.hear(one, "*2 $1 l $1 a $6 behind");
    assert_eq!(talk.server.next_wake(), Some(talk.now + Duration::from_millis(1500)));
    talk.later(1.5);
    talk.hear(other, "*-1");
    talk.ask(other, "BLPOP l 0", "");
    talk.server.demote(Role::Replica, talk.now);
    talk.hear(other, "-UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)");
    assert!(talk.server.has_ended(other) && !talk.server.has_ended(one));
    let leaver = talk.open();
    talk.server.promote();
    assert!(talk.server.has_ended(leaver));
}

#[test]
fn subscribers_monitors_and_caches_are_told() {
    let mut talk = Talk::new();
    let (one, cache, monitor, other) = (talk.open(), talk.open(), talk.open(), talk.open());
    talk.ask(one, "SUBSCRIBE a b", "*3 $9 subscribe $1 a :1 *3 $9 subscribe $1 b :2");
    talk.ask(one, "PSUBSCRIBE a*", "*3 $10 psubscribe $2 a* :3");
    talk.ask(one, "PING", "*2 $4 pong $0");
    talk.ask(cache, "HELLO 3", "%2 $5 proto :3 $4 role $6 master");
    talk.ask(cache, "CLIENT TRACKING ON", "+OK");
    talk.ask(cache, "GET k", "_");
    talk.ask(monitor, "MONITOR", "+OK");
    talk.ask(other, "PUBLISH a x", ":2");
    talk.hear(one, "*3 $7 message $1 a $1 x *4 $8 pmessage $2 a* $1 a $1 x");
    talk.ask(other, "SET k v", "+OK");
    talk.hear(cache, ">2 $10 invalidate *1 $1 k");
    let lines = format!(
        "+1700000000.123456 [0 10.9.0.1:{other}] \"PUBLISH\" \"a\" \"x\" +1700000000.123456 [0 10.9.0.1:{other}] \"SET\" \"k\" \"v\""
    );
    talk.hear(monitor, &lines);
    talk.ask(one, "UNSUBSCRIBE", "*3 $11 unsubscribe $1 a :2 *3 $11 unsubscribe $1 b :1");
}

#[test]
fn replicas_have_what_they_were_given() {
    let mut talk = Talk::new();
    let mut replica = Server::new();
    replica.demote(Role::Replica, talk.now);
    let one = talk.open();
    talk.ask(one, "SET a 1", "+OK");
    talk.ask(one, "WAIT 1 0", "");
    replica.apply(&talk.server.history[0].clone());
    talk.server.acknowledge(vec![1], talk.now);
    talk.hear(one, ":1");
    assert_eq!(replica.history, talk.server.history);
    talk.server.pause(true, talk.now);
    talk.ask(one, "INCR a", "");
    talk.server.demote(Role::Orphan, talk.now);
    talk.hear(one, "-READONLY You can't write against a read only replica.");
    talk.ask(one, "GET a", "-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.");
    talk.server.hang(true, talk.now);
    talk.ask(one, "PING", "");
    talk.server.crash();
    assert!(talk.server.health == Health::Down && talk.server.connect().is_none() && talk.server.has_ended(one));
}
