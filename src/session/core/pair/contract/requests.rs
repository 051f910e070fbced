//! Requests under way or about to be: idle sessions, held and half-sent requests, lost and refused replies.

use super::super::stage::words;
use super::{ANY, DEATH, Deed, Scene, UNKNOWN, cases, row};

cases! {
    row::IDLE, ANY, idle_session_is_restored;
    row::IDLE, ANY, idle_fresh_session_goes_on;
    row::IDLE, ANY, requests_of_the_hold_run_once_in_order;
    row::PART, ANY, half_a_request_is_completed_after_the_move;
    row::LARGE, &[Deed::Planned], a_large_request_under_way_goes_through;
    row::WRITE, &[Deed::Planned], a_stream_of_pipelines_keeps_its_order;
    row::WRITE, &[Deed::Planned, Deed::ShortOfReplicas], writes_before_and_after_run_once;
    row::WRITE, &[Deed::Planned], a_write_is_answered_only_when_the_new_master_has_it;
    row::WRITE, &[Deed::Planned], a_write_is_answered_only_when_every_replica_has_it;
    row::WRITE, &[Deed::Planned], what_runs_after_the_promotion_is_sent_again;
    row::WRITE, &[Deed::Planned], what_may_have_run_after_the_promotion_is_lost;
    row::WRITE, &[Deed::Planned], what_is_known_of_one_step_is_not_taken_for_another;
    row::WRITE, &[Deed::Planned], paused_writes_are_sent_again;
    row::WRITE, &[Deed::Planned], a_failover_given_up_delivers_what_was_withheld;
    row::WRITE, DEATH, what_never_reached_the_old_master_is_sent_again;
    row::WRITE, &[Deed::Planned], an_early_commit_that_is_undone_runs_nothing_twice;
    row::WRITE, &[Deed::Planned], what_ran_aside_is_not_sent_there_again;
    row::WRITE, &[Deed::Crash], a_write_of_long_ago_may_be_there;
    row::READ, ANY, reads_are_sent_again;
    row::READ, ANY, connection_commands_are_sent_again;
    row::READ, &[Deed::Planned], a_poison_read_is_sent_again_twice;
    row::WRITE, DEATH, one_error_for_each_lost_write;
    row::WRITE, DEATH, order_among_lost_writes_and_reads;
    row::WRITE, DEATH, a_lost_aggregate_ends_the_connection;
    row::WRITE, DEATH, large_writes_in_parts_run_once;
    row::REFUSED, &[Deed::Demotion], refused_writes_run_on_the_new_master;
    row::REFUSED, &[Deed::Demotion], refused_reads_run_on_the_new_master;
    row::REFUSED, &[Deed::Planned], nothing_is_sent_behind_a_refusal;
    row::REFUSED, &[Deed::Demotion], a_refusal_by_the_master_is_delivered;
    row::REFUSED, ANY, a_scripts_own_readonly_is_passed_on;
}

use super::super::server::Role;
use super::super::world::Act;

fn idle_session_is_restored(scene: &mut Scene) {
    let client = scene.open();
    scene.ask(client, "AUTH app app-secret", "+OK");
    scene.ask(client, "SELECT 3", "+OK");
    scene.ask(client, "CLIENT SETNAME me", "+OK");
    scene.ask(client, "CLIENT SETINFO LIB-NAME tests", "+OK");
    let before = scene.state(client);
    scene.failover(client, &[]);
    scene.switched();
    scene.ask(client, "CLIENT GETNAME", "$2 me");
    scene.ask(client, "ACL WHOAMI", "$3 app");
    assert_eq!(scene.state(client), before);
    scene.ask(client, "SET k here", "+OK");
    scene.ask(client, "SELECT 0", "+OK");
    let nil = scene.nil();
    scene.ask(client, "GET k", nil);
}

fn idle_fresh_session_goes_on(scene: &mut Scene) {
    let client = scene.stage.open();
    scene.failover(client, &[]);
    scene.switched();
    scene.ask(client, "PING", "+PONG");
}

fn requests_of_the_hold_run_once_in_order(scene: &mut Scene) {
    let client = scene.open();
    scene.ask(client, "PING", "+PONG");
    scene.failover(client, &[]);
    scene.hold();
    scene.say_all(client, &["INCR k", "RPUSH l a", "INCR k", "LRANGE l 0 -1", "GET k", "ECHO end"]);
    scene.hear_all(client, &[":1", ":1", ":2", "*1 $1 a", "$1 2", "$3 end"]);
    scene.switched();
    scene.master_says("GET k", "$1 2");
}

fn half_a_request_is_completed_after_the_move(scene: &mut Scene) {
    let (small, medium) = (scene.open(), scene.open());
    let requests = [words("SET s value"), words(&format!("SET m {}", "x".repeat(40_000)))];
    scene.arm();
    scene.send(small, &requests[0][..10]);
    scene.send(medium, &requests[1][..30_000]);
    scene.done();
    scene.switched();
    scene.send(small, &requests[0][10..]);
    scene.hear(small, "+OK");
    scene.ask(small, "GET s", "$5 value");
    scene.send(medium, &requests[1][30_000..]);
    scene.hear(medium, "+OK");
    scene.ask(medium, "STRLEN m", ":40000");
}

fn a_large_request_under_way_goes_through(scene: &mut Scene) {
    let client = scene.open();
    scene.ask(client, "PING", "+PONG");
    let request = words(&format!("SET k {}", "x".repeat(256 << 10)));
    scene.arm();
    scene.send(client, &request[..128 * 1024]);
    scene.done();
    scene.hold();
    scene.send(client, &request[128 * 1024..]);
    scene.hear(client, "+OK");
    scene.switched();
    scene.master_says("STRLEN k", ":262144");
}

fn a_stream_of_pipelines_keeps_its_order(scene: &mut Scene) {
    let client = scene.open();
    scene.failover(client, &[]);
    let mut expected = 0;
    for _ in 0..60 {
        scene.say_all(client, &["INCR k"; 8]);
        for _ in 0..8 {
            expected += 1;
            scene.hear(client, &format!(":{expected}"));
        }
        scene.run(5);
    }
    scene.switched();
    scene.master_says("GET k", &format!("$3 {expected}"));
}

fn writes_before_and_after_run_once(scene: &mut Scene) {
    let client = scene.open();
    scene.failover(client, &["INCR k", "LPUSH l x"]);
    scene.hear_all(client, &[":1", ":1"]);
    for count in 2..90 {
        scene.ask(client, "INCR k", &format!(":{count}"));
        scene.run(10);
    }
    scene.switched();
    scene.master_says("GET k", "$2 89");
}

/// It runs while requests are held already; the new master has it.
fn a_write_is_answered_only_when_the_new_master_has_it(scene: &mut Scene) {
    let client = scene.open();
    scene.world.play([
        (0, Act::Hang(0)),
        (20, Act::Hold),
        (30, Act::Thaw(0)),
        (80, Act::Promote(1)),
        (90, Act::Commit { node: 1, provisional: true }),
    ]);
    scene.run(1);
    scene.say(client, "INCR k");
    scene.quiet(client, 85);
    scene.hear(client, ":1");
    scene.master_says("GET k", "$1 1");
}

/// One replica stands still while a Sentinel chooses.
fn a_write_is_answered_only_when_every_replica_has_it(scene: &mut Scene) {
    let client = scene.open();
    scene.world.play([(0, Act::Freeze(2)), (10, Act::Elect), (300, Act::Release)]);
    scene.run(20);
    scene.say_all(client, &["GET k", "INCR k", "ECHO behind"]);
    let nil = scene.nil();
    scene.hear(client, nil);
    scene.quiet(client, 100);
    scene.hear_all(client, &[":1", "$6 behind"]);
    assert!(scene.world.millis() >= 300, "answered after {} ms", scene.world.millis());
}

/// The old master runs it behind the part of its history that the new one has: it surely is not there.
fn what_runs_after_the_promotion_is_sent_again(scene: &mut Scene) {
    let client = scene.open();
    scene.world.play([
        (0, Act::Hang(0)),
        (20, Act::Hold),
        (60, Act::Promote(1)),
        (70, Act::Thaw(0)),
        (90, Act::Commit { node: 1, provisional: true }),
    ]);
    scene.run(1);
    scene.say_all(client, &["RPUSH l a", "LLEN l"]);
    scene.hear_all(client, &[":1", ":1"]);
    assert_eq!(scene.direct(0, "LLEN l"), ":1", "it has run there");
    scene.master_says("LLEN l", ":1");
}

/// The same where the new master's history is longer than any that was seen: nobody knows.
fn what_may_have_run_after_the_promotion_is_lost(scene: &mut Scene) {
    let client = scene.open();
    scene.run(5);
    scene.world.look_later();
    scene.direct(0, "SET other x");
    scene.run(3);
    scene.world.play([
        (0, Act::Hang(0)),
        (20, Act::Hold),
        (60, Act::Promote(1)),
        (70, Act::Crash(0)),
        (90, Act::Commit { node: 1, provisional: true }),
    ]);
    scene.run(1);
    scene.say_all(client, &["RPUSH l a", "ECHO behind"]);
    scene.hear_all(client, &[UNKNOWN, "$6 behind"]);
    scene.master_says("LLEN l", ":0");
}

/// Two masters in one moment: what the second has of the first says nothing of the one that was left.
fn what_is_known_of_one_step_is_not_taken_for_another(scene: &mut Scene) {
    let client = scene.open();
    scene.run(5);
    scene.world.play([
        (0, Act::Freeze(1)),
        (0, Act::Hang(0)),
        (20, Act::Hold),
        (30, Act::Thaw(0)),
        (60, Act::Promote(1)),
    ]);
    scene.world.play([(70, Act::Follow { node: 2, master: 1 }), (90, Act::Commit { node: 1, provisional: false })]);
    scene.world.play([(90, Act::Hold), (90, Act::Promote(2)), (90, Act::Commit { node: 2, provisional: false })]);
    scene.run(1);
    scene.say_all(client, &["RPUSH l a", "ECHO behind"]);
    scene.hear_all(client, &[UNKNOWN, "$6 behind"]);
    scene.master_says("LLEN l", ":0");
}

fn paused_writes_are_sent_again(scene: &mut Scene) {
    let client = scene.open();
    scene.world.play([
        (0, Act::Pause(0)),
        (40, Act::Hold),
        (60, Act::Promote(1)),
        (70, Act::Follow { node: 0, master: 1 }),
    ]);
    scene.world.play([(90, Act::Commit { node: 1, provisional: false })]);
    scene.run(1);
    scene.say_all(client, &["GET k", "INCR k", "GET k"]);
    let nil = scene.nil();
    scene.hear_all(client, &[nil, ":1", "$1 1"]);
    scene.master_says("GET k", "$1 1");
}

fn a_failover_given_up_delivers_what_was_withheld(scene: &mut Scene) {
    let client = scene.open();
    scene.world.play([(0, Act::Hang(0)), (20, Act::Hold), (30, Act::Thaw(0)), (500, Act::Release)]);
    scene.run(1);
    scene.say_all(client, &["INCR k", "GET k"]);
    scene.quiet(client, 400);
    scene.hear_all(client, &[":1", "$1 1"]);
    scene.ask(client, "INCR k", ":2");
    assert_eq!(scene.world.entry.term, 1);
}

/// The socket to the old master was full: what is behind that was sent nowhere.
fn what_never_reached_the_old_master_is_sent_again(scene: &mut Scene) {
    let client = scene.open();
    scene.ask(client, "INCR a", ":1");
    let first = words("INCR a");
    scene.arm();
    if let Some(link) = &mut scene.sessions[client].link {
        link.size = first.len() + 3;
    }
    let now = scene.world.now;
    scene.world.servers[0].hang(true, now);
    scene.send(client, &[first, words("INCR b"), words("RPUSH l x"), words("INCR b")].concat());
    scene.done();
    scene.hear_all(client, &[UNKNOWN, ":1", ":1", ":2"]);
    scene.switched();
    scene.master_says("GET b", "$1 2");
}

/// What ran under the provisional master is gone with it; what is sent once more is not sent twice.
fn an_early_commit_that_is_undone_runs_nothing_twice(scene: &mut Scene) {
    let client = scene.open();
    scene.ask(client, "INCR k", ":1");
    scene.world.play([
        (10, Act::Hold),
        (60, Act::Promote(1)),
        (70, Act::Commit { node: 1, provisional: true }),
        (300, Act::Hang(1)),
        (320, Act::Hold),
    ]);
    scene.world.play([(350, Act::Follow { node: 1, master: 0 }), (400, Act::Commit { node: 0, provisional: false })]);
    scene.run(290);
    scene.ask(client, "PING", "+PONG");
    scene.run(20);
    scene.say_all(client, &["INCR k", "GET k"]);
    scene.hear_all(client, &[UNKNOWN, "$1 1"]);
    scene.ask(client, "INCR k", ":2");
    scene.master_says("GET k", "$1 2");
}

/// Sent again to a master that turns out to be none; the old one, which comes back, has run it.
fn what_ran_aside_is_not_sent_there_again(scene: &mut Scene) {
    let client = scene.open();
    let early = Act::Commit { node: 1, provisional: true };
    scene.world.play([(0, Act::Hang(0)), (20, Act::Hold), (60, Act::Promote(1)), (70, Act::Thaw(0))]);
    scene.world.play([(85, Act::Hang(1)), (90, early), (200, Act::Hold), (250, Act::Follow { node: 1, master: 0 })]);
    scene.world.play([(300, Act::Commit { node: 0, provisional: false })]);
    scene.run(1);
    scene.say_all(client, &["RPUSH l a", "ECHO behind"]);
    scene.hear_all(client, &[UNKNOWN, "$6 behind"]);
    scene.master_says("LLEN l", ":1");
}

/// The master's offset was looked at after it had run: that look proves nothing of it.
fn a_write_of_long_ago_may_be_there(scene: &mut Scene) {
    let client = scene.open();
    scene.arm();
    scene.say(client, "INCR k");
    scene.run(200);
    scene.done();
    scene.hear(client, UNKNOWN);
    scene.switched();
    scene.master_says("GET k", "$1 1");
}

fn reads_are_sent_again(scene: &mut Scene) {
    let client = scene.open();
    scene.ask(client, "MSET a 1 b 2", "+OK");
    scene.ask(client, "RPUSH l x y", ":2");
    scene.ask(client, "HSET h f v", ":1");
    scene.run(5);
    let reads = [
        "GET a",
        "MGET a b c",
        "LRANGE l 0 -1",
        "HGETALL h",
        "EVAL_RO return(redis.call('get',KEYS[1])) 1 b",
        "EXISTS a",
    ];
    scene.failover(client, &reads);
    let mget = format!("*3 $1 1 $1 2 {}", scene.nil());
    scene.hear_all(client, &["$1 1", &mget, "*2 $1 x $1 y"]);
    let hash = if scene.resp3 { "%1 $1 f $1 v" } else { "*2 $1 f $1 v" };
    scene.hear_all(client, &[hash, "$1 2", ":1"]);
}

fn connection_commands_are_sent_again(scene: &mut Scene) {
    let client = scene.open();
    scene.failover(client, &["SELECT 5", "CLIENT SETNAME me", "PING", "ECHO hello", "SET k v"]);
    scene.hear_all(client, &["+OK", "+OK", "+PONG", "$5 hello"]);
    let written = if scene.loses_replies() { UNKNOWN } else { "+OK" };
    scene.hear(client, written);
    scene.switched();
    scene.ask(client, "SET k w", "+OK");
    assert!(
        scene.state(client).contains(" db=5 ") && scene.state(client).contains(" name=me "),
        "{}",
        scene.state(client)
    );
    scene.ask(client, "SELECT 0", "+OK");
    let nil = scene.nil();
    scene.ask(client, "GET k", nil);
}

/// Each master that gets it dies of it.
fn a_poison_read_is_sent_again_twice(scene: &mut Scene) {
    let client = scene.stage.open();
    scene.ask(client, "PING", "+PONG");
    for (old, new) in [(0, 1), (1, 2), (2, 0)] {
        let now = scene.world.now;
        scene.world.servers[old].hang(true, now);
        if old == 0 {
            scene.say_all(client, &["GET poison", "GET other"]);
        }
        scene.settle();
        scene.world.play([(0, Act::Crash(old)), (100, Act::Hold), (150, Act::Restart { node: new, keeps_data: true })]);
        scene.world.play([(200, Act::Promote(new)), (210, Act::Commit { node: new, provisional: false })]);
        let term = scene.world.entry.term + 1;
        while scene.world.entry.term < term {
            scene.settle();
            let next = scene.next_event().expect("a commit");
            scene.step_to(next);
        }
    }
    scene.hear_all(client, &[UNKNOWN, UNKNOWN]);
}

fn one_error_for_each_lost_write(scene: &mut Scene) {
    let client = scene.open();
    scene.ask(client, "SELECT 2", "+OK");
    let writes = [
        "SET s v",
        "INCR i",
        "LPUSH l a",
        "SETNX n v",
        "DEL none",
        "PUBLISH c x",
        "EVAL return(redis.call('incr',KEYS[1])) 1 e",
        "GETDEL none",
        "APPEND a x",
    ];
    scene.failover(client, &writes);
    scene.hear_all(client, &[UNKNOWN; 9]);
    let ran = if scene.has_run() { "$1 1" } else { scene.nil() };
    scene.ask(client, "GET i", ran);
    scene.ask(client, "GET e", ran);
    let length = if scene.has_run() { ":1" } else { ":0" };
    scene.ask(client, "LLEN l", length);
    assert!(scene.state(client).contains(" db=2 "));
}

fn order_among_lost_writes_and_reads(scene: &mut Scene) {
    let client = scene.open();
    scene.failover(client, &["GET none", "SET k v", "GET k", "INCR i", "ECHO last"]);
    let (nil, ran) = (scene.nil(), scene.has_run());
    scene.hear_all(client, &[nil, UNKNOWN, if ran { "$1 v" } else { nil }, UNKNOWN, "$4 last"]);
    scene.ask(client, "GET i", if ran { "$1 1" } else { nil });
}

fn a_lost_aggregate_ends_the_connection(scene: &mut Scene) {
    let client = scene.open();
    scene.ask(client, "SADD k a b c", ":3");
    scene.run(5);
    scene.failover(client, &["ECHO before", "SPOP k 2", "ECHO behind"]);
    scene.hear(client, "$6 before");
    scene.end(client);
    scene.switched();
    let left = if scene.has_run() { ":1" } else { ":3" };
    scene.master_says("SCARD k", left);
}

/// Its beginning looks like what may run twice.
fn large_writes_in_parts_run_once(scene: &mut Scene) {
    let client = scene.open();
    let request = words(&format!("SET k {} NX", "x".repeat(30_000)));
    scene.arm();
    scene.send(client, &request[..20_000]);
    scene.send(client, &request[20_000..]);
    scene.done();
    scene.hear(client, UNKNOWN);
    scene.switched();
    let ran = if scene.has_run() { ":1" } else { ":0" };
    scene.master_says("EXISTS k", ran);
}

fn refused_writes_run_on_the_new_master(scene: &mut Scene) {
    let client = scene.open();
    scene.ask(client, "SELECT 4", "+OK");
    scene.failover(client, &["SET s v", "INCR k", "INCR k", "LPUSH l a", "SPOP none 2", "GET k"]);
    scene.hear_all(client, &["+OK", ":1", ":2", ":1"]);
    let empty = if scene.resp3 { "~0" } else { "*0" };
    scene.hear_all(client, &[empty, "$1 2"]);
    assert!(scene.state(client).contains(" db=4 "));
}

fn refused_reads_run_on_the_new_master(scene: &mut Scene) {
    let client = scene.open();
    scene.ask(client, "SET k v", "+OK");
    scene.run(5);
    scene.failover(client, &["GET k", "STRLEN k"]);
    scene.hear_all(client, &["$1 v", ":1"]);
    scene.ask(client, "SET k w", "+OK");
}

/// A replica refuses writes and publishes all the same.
fn nothing_is_sent_behind_a_refusal(scene: &mut Scene) {
    let client = scene.open();
    scene.ask(client, "PING", "+PONG");
    scene.world.play([(0, Act::Demote(0, Role::Replica)), (300, Act::Hold), (400, Act::Promote(1))]);
    scene.world.play([(410, Act::Commit { node: 1, provisional: false })]);
    let now = scene.world.now;
    scene.step_to(now);
    scene.say(client, "SET k v");
    scene.say(client, "PUBLISH c x");
    scene.hear_all(client, &["+OK", ":0"]);
    assert!(scene.world.servers[0].history.is_empty(), "{:?}", scene.world.servers[0].history);
}

/// It is the master all the same: its words are its client's.
fn a_refusal_by_the_master_is_delivered(scene: &mut Scene) {
    let client = scene.open();
    scene.world.play([(0, Act::Demote(0, Role::Loading)), (1, Act::Demote(0, Role::Master))]);
    let now = scene.world.now;
    scene.step_to(now);
    scene.say_all(client, &["SET k v", "ECHO behind"]);
    scene.hear_all(client, &["-LOADING…", "-LOADING…"]);
    scene.ask(client, "SET k v", "+OK");
}

fn a_scripts_own_readonly_is_passed_on(scene: &mut Scene) {
    let client = scene.open();
    let mine = crate::resp::request::encode(&[b"EVAL", b"return redis.error_reply('READONLY mine')", b"0"]);
    scene.send(client, &mine);
    scene.hear(client, "-READONLY mine");
    scene.failover(client, &[]);
    scene.switched();
    scene.send(client, &mine);
    scene.hear(client, "-READONLY mine");
    scene.ask(client, "PING", "+PONG");
}
