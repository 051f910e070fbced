//! MULTI, its queue, WATCH and EXEC.

use super::super::stage::words;
use super::{ANY, DEATH, Deed, Scene, cases, row};

cases! {
    row::MULTI, ANY, an_open_queue_is_replayed;
    row::MULTI, ANY, queueing_under_way_goes_on;
    row::MULTI, ANY, multi_without_a_queue_goes_on;
    row::MULTI, ANY, a_discarded_queue_did_nothing;
    row::MULTI, ANY, a_nested_multi_is_refused_as_ever;
    row::MULTI, ANY, a_refused_command_still_aborts_exec;
    row::MULTI, ANY, an_error_while_running_stays_in_its_place;
    row::MULTI, ANY, a_select_inside_counts;
    row::LARGE, &[Deed::Planned], a_queue_too_large_to_keep_goes_through;
    row::MULTI, ANY, a_whole_transaction_of_the_hold_runs_once;
    row::WATCH, ANY, a_lost_watch_makes_exec_nil;
    row::WATCH, ANY, a_watch_before_multi_makes_exec_nil;
    row::WATCH, ANY, unwatch_ends_it;
    row::WATCH, ANY, a_discard_ends_it;
    row::WATCH, ANY, it_is_one_exec_that_is_nil;
    row::WATCH, &[Deed::Planned], a_watch_without_a_failover_holds;
    row::EXEC, &[Deed::Planned], an_exec_under_way_is_answered;
    row::EXEC, &[Deed::Planned], an_exec_that_surely_did_not_run_is_sent_again;
    row::EXEC, DEATH, a_lost_exec_ends_the_connection;
    row::EXEC, DEATH, a_lost_pipelined_transaction_ends_the_connection;
    row::REFUSED, &[Deed::Demotion], a_refused_exec_is_replayed;
    row::WATCH, &[Deed::Demotion], a_refused_exec_of_who_watches_is_nil;
    row::REFUSED, &[Deed::Demotion], a_refused_pipelined_transaction_is_replayed;
}

use super::super::world::Act;

fn an_open_queue_is_replayed(scene: &mut Scene) {
    let client = scene.open();
    scene.ask(client, "SELECT 1", "+OK");
    scene.ask(client, "MULTI", "+OK");
    scene.ask(client, "SET k v", "+QUEUED");
    scene.ask(client, "INCR i", "+QUEUED");
    scene.failover(client, &[]);
    scene.switched();
    scene.ask(client, "GET k", "+QUEUED");
    scene.ask(client, "EXEC", "*3 +OK :1 $1 v");
    scene.ask(client, "GET i", "$1 1");
}

fn queueing_under_way_goes_on(scene: &mut Scene) {
    let client = scene.open();
    scene.ask(client, "MULTI", "+OK");
    scene.ask(client, "INCR k", "+QUEUED");
    scene.failover(client, &["INCR k", "HGETALL h"]);
    scene.hear_all(client, &["+QUEUED", "+QUEUED"]);
    scene.switched();
    let ran = if scene.resp3 { "*3 :1 :2 %0" } else { "*3 :1 :2 *0" };
    scene.ask(client, "EXEC", ran);
    scene.ask(client, "GET k", "$1 2");
}

fn a_queue_too_large_to_keep_goes_through(scene: &mut Scene) {
    let client = scene.open();
    scene.ask(client, "MULTI", "+OK");
    scene.send(client, &words(&format!("SET k {}", "x".repeat(256 << 10))));
    scene.hear(client, "+QUEUED");
    scene.arm();
    scene.ask(client, "INCR i", "+QUEUED");
    scene.done();
    scene.hold();
    scene.ask(client, "EXEC", "*2 +OK :1");
    scene.switched();
    scene.master_says("STRLEN k", ":262144");
    scene.ask(client, "INCR i", ":2");
}

fn multi_without_a_queue_goes_on(scene: &mut Scene) {
    let client = scene.open();
    scene.failover(client, &["MULTI"]);
    scene.hear(client, "+OK");
    scene.switched();
    scene.ask(client, "INCR k", "+QUEUED");
    scene.ask(client, "EXEC", "*1 :1");
}

fn a_discarded_queue_did_nothing(scene: &mut Scene) {
    let client = scene.open();
    scene.ask(client, "MULTI", "+OK");
    scene.ask(client, "INCR k", "+QUEUED");
    scene.failover(client, &[]);
    scene.ask(client, "DISCARD", "+OK");
    let nil = scene.nil();
    scene.ask(client, "GET k", nil);
    scene.ask(client, "DISCARD", "-ERR DISCARD without MULTI");
    scene.switched();
    scene.ask(client, "EXEC", "-ERR EXEC without MULTI");
}

fn a_nested_multi_is_refused_as_ever(scene: &mut Scene) {
    let client = scene.open();
    let refusal = "-ERR MULTI calls can not be nested";
    scene.ask(client, "MULTI", "+OK");
    scene.ask(client, "MULTI", refusal);
    scene.ask(client, "INCR k", "+QUEUED");
    scene.failover(client, &[]);
    scene.switched();
    scene.ask(client, "MULTI", refusal);
    scene.ask(client, "WATCH k", "-ERR WATCH inside MULTI is not allowed");
    scene.ask(client, "EXEC", "*1 :1");
}

fn a_refused_command_still_aborts_exec(scene: &mut Scene) {
    let client = scene.open();
    scene.ask(client, "MULTI", "+OK");
    scene.ask(client, "INCR k", "+QUEUED");
    scene.ask(client, "GET", "-ERR wrong number of arguments for 'get' command");
    scene.failover(client, &[]);
    scene.switched();
    scene.ask(client, "INCR k", "+QUEUED");
    scene.ask(client, "EXEC", "-EXECABORT Transaction discarded because of previous errors.");
    let nil = scene.nil();
    scene.ask(client, "GET k", nil);
    scene.ask(client, "MULTI", "+OK");
    scene.ask(client, "NOSUCHCOMMAND", "-ERR unknown command…");
    scene.ask(client, "DISCARD", "+OK");
}

fn an_error_while_running_stays_in_its_place(scene: &mut Scene) {
    let client = scene.open();
    scene.ask(client, "RPUSH l x", ":1");
    scene.run(5);
    scene.ask(client, "MULTI", "+OK");
    scene.ask(client, "INCR l", "+QUEUED");
    scene.ask(client, "INCR k", "+QUEUED");
    scene.failover(client, &[]);
    scene.switched();
    let wrong = "-WRONGTYPE Operation against a key holding the wrong kind of value";
    scene.ask(client, "EXEC", &format!("*2 {wrong} :1"));
}

fn a_select_inside_counts(scene: &mut Scene) {
    let client = scene.open();
    for (request, reply) in [
        ("MULTI", "+OK"),
        ("SELECT 5", "+QUEUED"),
        ("EXEC", "*1 +OK"),
        ("MULTI", "+OK"),
        ("SELECT 6", "+QUEUED"),
        ("DISCARD", "+OK"),
    ] {
        scene.ask(client, request, reply);
    }
    scene.failover(client, &[]);
    scene.switched();
    scene.ask(client, "PING", "+PONG");
    assert!(scene.state(client).contains(" db=5 "), "{}", scene.state(client));
}

fn a_whole_transaction_of_the_hold_runs_once(scene: &mut Scene) {
    let client = scene.open();
    scene.ask(client, "PING", "+PONG");
    scene.failover(client, &[]);
    scene.hold();
    scene.say_all(client, &["MULTI", "INCR k", "RPUSH l a b", "EXEC", "GET k"]);
    scene.hear_all(client, &["+OK", "+QUEUED", "+QUEUED", "*2 :1 :2", "$1 1"]);
    scene.switched();
    scene.master_says("GET k", "$1 1");
}

fn a_lost_watch_makes_exec_nil(scene: &mut Scene) {
    let client = scene.open();
    scene.ask(client, "WATCH k", "+OK");
    scene.ask(client, "MULTI", "+OK");
    scene.ask(client, "INCR k", "+QUEUED");
    scene.failover(client, &[]);
    scene.switched();
    let (nil, nil_array) = (scene.nil(), scene.nil_array());
    scene.ask(client, "INCR k", "+QUEUED");
    scene.ask(client, "EXEC", nil_array);
    scene.ask(client, "GET k", nil);
    // The client tries again, as WATCH means.
    scene.ask(client, "WATCH k", "+OK");
    scene.say_all(client, &["MULTI", "INCR k", "EXEC"]);
    scene.hear_all(client, &["+OK", "+QUEUED", "*1 :1"]);
}

fn a_watch_before_multi_makes_exec_nil(scene: &mut Scene) {
    let client = scene.open();
    scene.ask(client, "WATCH k", "+OK");
    scene.failover(client, &[]);
    scene.switched();
    let (nil, nil_array) = (scene.nil(), scene.nil_array());
    scene.say_all(client, &["GET k", "MULTI", "INCR k", "EXEC", "GET k"]);
    scene.hear_all(client, &[nil, "+OK", "+QUEUED", nil_array, nil]);
    scene.say_all(client, &["MULTI", "INCR k", "EXEC"]);
    scene.hear_all(client, &["+OK", "+QUEUED", "*1 :1"]);
}

fn unwatch_ends_it(scene: &mut Scene) {
    let client = scene.open();
    scene.ask(client, "WATCH k", "+OK");
    scene.failover(client, &[]);
    scene.switched();
    scene.say_all(client, &["UNWATCH", "MULTI", "INCR k", "EXEC"]);
    scene.hear_all(client, &["+OK", "+OK", "+QUEUED", "*1 :1"]);
}

fn a_discard_ends_it(scene: &mut Scene) {
    let client = scene.open();
    scene.ask(client, "WATCH k", "+OK");
    scene.ask(client, "MULTI", "+OK");
    scene.failover(client, &[]);
    scene.switched();
    scene.say_all(client, &["DISCARD", "MULTI", "INCR k", "EXEC"]);
    scene.hear_all(client, &["+OK", "+OK", "+QUEUED", "*1 :1"]);
}

fn it_is_one_exec_that_is_nil(scene: &mut Scene) {
    let client = scene.open();
    scene.ask(client, "WATCH k", "+OK");
    scene.failover(client, &[]);
    scene.switched();
    let nil_array = scene.nil_array();
    scene.say_all(client, &["MULTI", "INCR k", "EXEC", "MULTI", "INCR k", "EXEC"]);
    scene.hear_all(client, &["+OK", "+QUEUED", nil_array, "+OK", "+QUEUED", "*1 :1"]);
}

/// A hold that ends with the same master.
fn a_watch_without_a_failover_holds(scene: &mut Scene) {
    let client = scene.open();
    scene.ask(client, "WATCH k", "+OK");
    scene.world.play([(0, Act::Hold), (100, Act::Release)]);
    scene.run(50);
    scene.say_all(client, &["MULTI", "INCR k", "EXEC"]);
    scene.hear_all(client, &["+OK", "+QUEUED", "*1 :1"]);
    scene.ask(client, "WATCH k", "+OK");
    scene.direct(0, "SET k 5");
    scene.say_all(client, &["MULTI", "INCR k", "EXEC"]);
    let nil_array = scene.nil_array();
    scene.hear_all(client, &["+OK", "+QUEUED", nil_array]);
}

fn an_exec_under_way_is_answered(scene: &mut Scene) {
    let client = scene.open();
    scene.ask(client, "MULTI", "+OK");
    scene.ask(client, "INCR k", "+QUEUED");
    scene.world.play([
        (0, Act::Hang(0)),
        (20, Act::Hold),
        (30, Act::Thaw(0)),
        (80, Act::Promote(1)),
        (90, Act::Commit { node: 1, provisional: true }),
    ]);
    scene.run(1);
    scene.say(client, "EXEC");
    scene.hear(client, "*1 :1");
    scene.master_says("GET k", "$1 1");
}

/// All that it would have done is in the part of the history that is thrown away; nothing of it was published.
fn an_exec_that_surely_did_not_run_is_sent_again(scene: &mut Scene) {
    let (client, publisher, pipeline) = (scene.open(), scene.open(), scene.open());
    scene.ask(pipeline, "PING", "+PONG");
    scene.ask(client, "MULTI", "+OK");
    scene.ask(client, "INCR k", "+QUEUED");
    scene.ask(publisher, "MULTI", "+OK");
    scene.ask(publisher, "PUBLISH c x", "+QUEUED");
    scene.world.play([
        (0, Act::Hang(0)),
        (20, Act::Hold),
        (60, Act::Promote(1)),
        (70, Act::Crash(0)),
        (90, Act::Commit { node: 1, provisional: true }),
    ]);
    scene.run(1);
    scene.say_all(client, &["EXEC", "GET k"]);
    scene.say(publisher, "EXEC");
    scene.say_all(pipeline, &["MULTI", "PUBLISH c x", "EXEC"]);
    scene.hear_all(client, &["*1 :1", "$1 1"]);
    scene.end(publisher);
    while scene.frame(pipeline).is_some_and(|frame| matches!(frame.as_str(), "+OK" | "+QUEUED")) {}
    scene.end(pipeline);
}

fn a_lost_exec_ends_the_connection(scene: &mut Scene) {
    let client = scene.open();
    scene.ask(client, "MULTI", "+OK");
    scene.ask(client, "INCR k", "+QUEUED");
    scene.failover(client, &["EXEC"]);
    scene.end(client);
    scene.switched();
    let ran = if scene.has_run() { "$1 1" } else { "$-1" };
    scene.master_says("GET k", ran);
}

fn a_lost_pipelined_transaction_ends_the_connection(scene: &mut Scene) {
    let client = scene.open();
    scene.failover(client, &["ECHO before", "MULTI", "INCR k", "EXEC", "ECHO behind"]);
    scene.hear(client, "$6 before");
    for expected in ["+OK", "+QUEUED"] {
        if let Some(frame) = scene.frame(client) {
            assert_eq!(frame, expected);
        }
    }
    scene.end(client);
    scene.switched();
    let ran = if scene.has_run() { "$1 1" } else { "$-1" };
    scene.master_says("GET k", ran);
}

fn a_refused_exec_is_replayed(scene: &mut Scene) {
    let client = scene.open();
    scene.ask(client, "MULTI", "+OK");
    scene.ask(client, "INCR k", "+QUEUED");
    scene.failover(client, &["EXEC"]);
    scene.hear(client, "*1 :1");
    scene.ask(client, "GET k", "$1 1");
}

/// What it watched may have changed.
fn a_refused_exec_of_who_watches_is_nil(scene: &mut Scene) {
    let client = scene.open();
    scene.ask(client, "WATCH k", "+OK");
    scene.ask(client, "MULTI", "+OK");
    scene.ask(client, "INCR k", "+QUEUED");
    scene.failover(client, &["EXEC"]);
    let (nil, nil_array) = (scene.nil(), scene.nil_array());
    scene.hear(client, nil_array);
    scene.ask(client, "GET k", nil);
}

fn a_refused_pipelined_transaction_is_replayed(scene: &mut Scene) {
    let client = scene.open();
    scene.failover(client, &["MULTI", "INCR k", "GET k", "EXEC", "INCR k"]);
    scene.hear_all(client, &["+OK", "+QUEUED", "+QUEUED", "*2 :1 $1 1", ":2"]);
}
