//! `on_lost_reply` and `on_lost_pop`: what becomes of writes and pops whose reply was lost, as the user chose.

use super::super::world::Act;
use super::{Deed, Scene, UNKNOWN, cases, row};
use crate::config::{OnLostPop, OnLostReply};

/// There what was outstanding has run: running twice shows.
const CRASH: &[Deed] = &[Deed::Crash];

cases! {
    row::WRITE, CRASH, close_ends_the_connection;
    row::WRITE, CRASH, close_spares_reads;
    row::WRITE, CRASH, retry_idempotent_repeats_what_may_be_repeated;
    row::WRITE, CRASH, retry_all_repeats_writes;
    row::EXEC, CRASH, retry_all_repeats_no_exec;
    row::BLOCKED, CRASH, a_lost_pop_is_sent_again;
    row::BLOCKED, CRASH, a_lost_pop_ends_the_connection;
    row::BLOCKED, CRASH, a_lost_pop_is_an_error;
    row::BLOCKED, &[Deed::Planned], a_pop_that_still_blocks_is_not_lost;
    row::BLOCKED, &[Deed::Planned], what_was_popped_in_the_last_moment_is_not_asked_for_again;
    row::BLOCKED, &[Deed::Planned], what_was_popped_in_the_last_moment_is_not_lost_without_a_word;
    row::DEADLINE, &[Deed::Outage], a_lost_pop_is_told_apart_in_an_outage;
}

fn open(scene: &mut Scene, reply: OnLostReply, pop: OnLostPop) -> usize {
    (scene.settings.on_lost_reply, scene.settings.on_lost_pop) = (reply, pop);
    scene.open()
}

fn close_ends_the_connection(scene: &mut Scene) {
    let client = open(scene, OnLostReply::Close, OnLostPop::Close);
    scene.failover(client, &["ECHO before", "SET k v", "ECHO behind"]);
    scene.hear(client, "$6 before");
    scene.end(client);
}

fn close_spares_reads(scene: &mut Scene) {
    let client = open(scene, OnLostReply::Close, OnLostPop::Close);
    scene.failover(client, &["GET k", "PING"]);
    let nil = scene.nil();
    scene.hear_all(client, &[nil, "+PONG"]);
    scene.ask(client, "SET k v", "+OK");
}

fn retry_idempotent_repeats_what_may_be_repeated(scene: &mut Scene) {
    let client = open(scene, OnLostReply::RetryIdempotent, OnLostPop::Resend);
    let writes = ["SET k v", "INCR i", "HSET h f v", "LPUSH l a", "SADD s m", "SET n v NX", "DEL none"];
    scene.failover(client, &writes);
    // Run twice, HSET and SADD find that it is there already.
    scene.hear_all(client, &["+OK", UNKNOWN, ":0", UNKNOWN, ":0", UNKNOWN, ":0"]);
    scene.ask(client, "GET i", "$1 1");
    scene.ask(client, "LLEN l", ":1");
}

fn retry_all_repeats_writes(scene: &mut Scene) {
    let client = open(scene, OnLostReply::RetryAll, OnLostPop::Resend);
    scene.failover(client, &["SET k v", "INCR i", "LPUSH l a", "SPOP none 2", "GET i"]);
    let empty = if scene.resp3 { "~0" } else { "*0" };
    scene.hear_all(client, &["+OK", ":2", ":2", empty, "$1 2"]);
}

fn retry_all_repeats_no_exec(scene: &mut Scene) {
    let client = open(scene, OnLostReply::RetryAll, OnLostPop::Resend);
    scene.ask(client, "MULTI", "+OK");
    scene.ask(client, "INCR k", "+QUEUED");
    scene.failover(client, &["EXEC"]);
    scene.end(client);
    scene.switched();
    scene.master_says("GET k", "$1 1");
}

fn a_lost_pop_is_sent_again(scene: &mut Scene) {
    let client = open(scene, OnLostReply::Error, OnLostPop::Resend);
    scene.ask(client, "RPUSH k a b", ":2");
    scene.failover(client, &["BLPOP k 0"]);
    scene.hear(client, "*2 $1 k $1 b");
}

fn a_lost_pop_ends_the_connection(scene: &mut Scene) {
    let client = open(scene, OnLostReply::Error, OnLostPop::Close);
    scene.ask(client, "RPUSH k a b", ":2");
    scene.failover(client, &["BLPOP k 0"]);
    scene.end(client);
    scene.switched();
    scene.master_says("LRANGE k 0 -1", "*1 $1 b");
}

fn a_lost_pop_is_an_error(scene: &mut Scene) {
    let client = open(scene, OnLostReply::Error, OnLostPop::Error);
    let list = scene.open();
    scene.ask(client, "RPUSH k a b", ":2");
    scene.ask(client, "RPUSH l a b", ":2");
    scene.arm();
    scene.say(client, "BLMOVE k to LEFT RIGHT 0");
    scene.failover(list, &["BLPOP l 0"]);
    scene.hear(client, UNKNOWN);
    scene.end(list);
    scene.switched();
    scene.master_says("LRANGE to 0 -1", "*1 $1 a");
}

/// The old master lives, and would have answered had it popped anything. What it has said is read first.
fn a_pop_that_still_blocks_is_not_lost(scene: &mut Scene) {
    let client = open(scene, OnLostReply::Error, OnLostPop::Close);
    let late = scene.open();
    scene.say(client, "BLPOP k 0");
    scene.say(late, "BLPOP l 0");
    scene.world.play([
        (0, Act::Hold),
        (10, Act::Ask("RPUSH l x".into())),
        (60, Act::Promote(1)),
        (70, Act::Commit { node: 1, provisional: true }),
    ]);
    scene.run(200);
    scene.hear(late, "*2 $1 l $1 x");
    scene.direct(1, "RPUSH k y");
    scene.hear(client, "*2 $1 k $1 y");
    scene.master_says("LLEN l", ":0");
}

/// The answer waits in the socket while the session hears of the next master: it is read first, and lost, as nobody
/// knows whether the next master has it.
fn what_was_popped_in_the_last_moment_is_not_asked_for_again(scene: &mut Scene) {
    popped_in_the_last_moment(scene, OnLostPop::Close);
}

/// Nobody would hear of the element otherwise: a pop is sent again only if the master that is left lives and has not
/// answered it, or is dead.
fn what_was_popped_in_the_last_moment_is_not_lost_without_a_word(scene: &mut Scene) {
    popped_in_the_last_moment(scene, OnLostPop::Resend);
}

fn popped_in_the_last_moment(scene: &mut Scene, policy: OnLostPop) {
    let client = open(scene, OnLostReply::Error, policy);
    scene.say(client, "BLPOP k 0");
    let read = scene.sessions[client].read_down;
    scene.sessions[client].limit_down(read);
    scene.world.play([(0, Act::Hold), (10, Act::Ask("RPUSH k x".into())), (60, Act::Promote(1))]);
    scene.world.play([(70, Act::Commit { node: 1, provisional: true })]);
    scene.run(65);
    scene.sessions[client].limit_down(usize::MAX);
    while scene.world.entry.term == 1 {
        let next = scene.next_event().expect("a commit");
        scene.step_to(next);
    }
    scene.end(client);
    scene.master_says("LLEN k", ":0");
}

fn a_lost_pop_is_told_apart_in_an_outage(scene: &mut Scene) {
    let client = open(scene, OnLostReply::Error, OnLostPop::Error);
    scene.failover(client, &["BLMOVE k to LEFT RIGHT 0"]);
    scene.hear(client, UNKNOWN);
}
