//! What a connection has become by the commands before: reply modes, users, protocols, scripts, WAIT, RESET, QUIT.

use super::super::stage::words;
use super::super::world::Act;
use super::{ANY, DEATH, Deed, Scene, UNKNOWN, cases, row};
use crate::session::CloseReason;

cases! {
    row::IDLE, ANY, reply_off_stays_off;
    row::IDLE, ANY, reply_skip_skips_one;
    row::IDLE, ANY, what_several_commands_make_is_restored;
    row::IDLE, ANY, reset_forgets;
    row::IDLE, ANY, reset_under_way_is_answered_once;
    row::IDLE, ANY, quit_answers_and_ends;
    row::IDLE, ANY, hello_in_the_middle;
    row::IDLE, ANY, auth_is_a_barrier_and_may_fail;
    row::IDLE, ANY, a_failing_auth_changes_nothing;
    row::READ, ANY, a_failing_auth_under_way_is_answered;
    row::IDLE, ANY, loaded_scripts_are_known;
    row::IDLE, ANY, wait_answers_for_the_new_master;
    row::IDLE, ANY, an_idle_session_gives_its_backend_back;
    row::IDLE, &[Deed::Planned], a_connection_that_was_ready_is_reset_first;
    row::READ, DEATH, a_lost_wait_answers_zero;
    row::READ, ANY, auth_under_way_goes_on;
    row::IDLE, ANY, half_closed_clients_get_their_replies;
    row::WRITE, ANY, a_half_closed_client_is_told_what_became_of_its_requests;
    row::WRITE, &[Deed::Planned], clients_that_ask_once_and_say_no_more_are_answered;
    row::WRITE, &[Deed::Planned, Deed::Crash], what_a_client_gave_up_does_not_run_late;
    row::BLOCKED, ANY, a_pop_of_a_client_that_left_takes_nothing;
    row::BLOCKED, &[Deed::Planned], a_pop_of_a_client_that_left_behind_more_takes_nothing;
    row::BLOCKED, &[Deed::Hang], a_pop_that_was_not_reached_takes_nothing_for_a_client_that_left;
    row::SUBSCRIBED, &[Deed::Planned], hello_between_messages_is_answered_once;
    row::IDLE, ANY, a_client_that_silences_replies_runs_its_writes_once;
    row::LARGE, DEATH, a_large_request_without_a_reply_changes_nothing;
}

fn reply_off_stays_off(scene: &mut Scene) {
    let client = scene.open();
    scene.say_all(client, &["CLIENT REPLY OFF", "SET a 1", "SELECT 4"]);
    scene.quiet(client, 50);
    scene.failover(client, &[]);
    scene.switched();
    scene.say_all(client, &["SET b 1", "GET b", "CLIENT REPLY ON", "GET b"]);
    scene.hear_all(client, &["+OK", "$1 1"]);
    assert!(scene.state(client).contains(" db=4 "), "{}", scene.state(client));
}

fn reply_skip_skips_one(scene: &mut Scene) {
    let client = scene.open();
    scene.say_all(client, &["CLIENT REPLY SKIP", "SET a 1", "ECHO a"]);
    scene.hear(client, "$1 a");
    scene.say(client, "CLIENT REPLY SKIP");
    scene.failover(client, &[]);
    scene.switched();
    scene.say_all(client, &["SET b 2", "GET b"]);
    scene.hear(client, "$1 2");
}

/// What CLIENT and others build up, each on a connection of its own.
const BUILT_UP: [&[&str]; 8] = [
    &["CLIENT TRACKING ON BCAST PREFIX a", "CLIENT TRACKING ON BCAST PREFIX b NOLOOP", "CLIENT SETNAME me"],
    &["CLIENT TRACKING ON OPTIN", "CLIENT CACHING YES", "CLIENT SETNAME me"],
    &["CLIENT TRACKING ON OPTIN", "CLIENT CACHING YES", "ECHO a"],
    &["CLIENT TRACKING ON", "CLIENT TRACKING OFF", "CLIENT NO-EVICT ON", "CLIENT NO-EVICT OFF"],
    &["CLIENT SETINFO LIB-NAME a", "CLIENT SETINFO LIB-VER 1", "CLIENT SETINFO LIB-NAME b", "SELECT 2"],
    &["CLIENT SETNAME a", "AUTH app app-secret", "HELLO 3 SETNAME b", "SELECT 1"],
    &["SELECT 3", "MULTI", "SELECT 4", "SET k v"],
    &["CLIENT NO-EVICT ON", "SELECT 7", "AUTH app app-secret", "AUTH default x"],
];

fn what_several_commands_make_is_restored(scene: &mut Scene) {
    let mut clients = Vec::new();
    for requests in BUILT_UP {
        let client = scene.open();
        for request in requests {
            scene.say(client, request);
            scene.frame(client).unwrap();
        }
        clients.push((client, scene.state(client)));
    }
    scene.arm();
    scene.done();
    scene.switched();
    for (client, before) in clients {
        // Those that listen have a backend again, others make one when they ask.
        scene.say(client, "CLIENT GETNAME");
        scene.settle();
        let queued = |state: &str| state.split("multi=").nth(1).unwrap().split(" monitor").next().unwrap().to_owned();
        let after = scene.state(client);
        if !before.contains("multi=Some") {
            assert_eq!(after, before);
        }
        assert_eq!(queued(&before).starts_with("Some"), queued(&after).starts_with("Some"), "{before} | {after}");
    }
}

fn reset_forgets(scene: &mut Scene) {
    let client = scene.open();
    for request in ["AUTH app app-secret", "SELECT 3", "CLIENT SETNAME me", "MULTI"] {
        scene.ask(client, request, "+OK");
    }
    scene.ask(client, "INCR k", "+QUEUED");
    scene.ask(client, "RESET", "+RESET");
    scene.failover(client, &[]);
    scene.switched();
    scene.ask(client, "EXEC", "-ERR EXEC without MULTI");
    scene.ask(client, "ACL WHOAMI", "$7 default");
    let state = scene.state(client);
    assert!(state.contains(" db=0 resp3=false name= multi=None "), "{state}");
}

fn reset_under_way_is_answered_once(scene: &mut Scene) {
    let client = scene.open();
    scene.ask(client, "SELECT 3", "+OK");
    scene.failover(client, &["RESET", "ECHO behind"]);
    scene.hear_all(client, &["+RESET", "$6 behind"]);
    scene.switched();
    scene.ask(client, "PING", "+PONG");
    assert!(scene.state(client).contains(" db=0 resp3=false "), "{}", scene.state(client));
}

fn quit_answers_and_ends(scene: &mut Scene) {
    let client = scene.open();
    scene.failover(client, &["QUIT"]);
    scene.hear(client, "+OK");
    scene.end(client);
    scene.switched();
    let late = scene.open();
    scene.ask(late, "QUIT", "+OK");
    scene.end(late);
}

fn hello_in_the_middle(scene: &mut Scene) {
    let client = scene.open();
    scene.say_all(
        client,
        &["GET none", "HELLO 3 AUTH app app-secret SETNAME me", "GET none", "HELLO 2", "GET none", "HELLO 3"],
    );
    let nil = scene.nil();
    scene.hear_all(client, &[nil, "%2…", "_", "*4…", "$-1", "%2…"]);
    scene.failover(client, &[]);
    scene.switched();
    scene.ask(client, "GET none", "_");
    assert!(scene.state(client).starts_with("user=Some(\"app\") db=0 resp3=true name=me "), "{}", scene.state(client));
}

fn auth_is_a_barrier_and_may_fail(scene: &mut Scene) {
    scene.world.servers.iter_mut().for_each(|server| server.mutes_failing_auth = true);
    let client = scene.open();
    scene.failover(client, &[]);
    scene.hold();
    scene.say_all(client, &["INCR k", "AUTH app wrong", "INCR k", "AUTH app app-secret", "ACL WHOAMI"]);
    scene.hear_all(client, &[":1", "-WRONGPASS…", ":2", "+OK", "$3 app"]);
}

fn a_failing_auth_changes_nothing(scene: &mut Scene) {
    let client = scene.open();
    scene.ask(client, "AUTH app app-secret", "+OK");
    scene.ask(client, "AUTH app wrong", "-WRONGPASS…");
    scene.ask(client, "HELLO 3 AUTH app wrong", "-WRONGPASS…");
    scene.failover(client, &[]);
    scene.switched();
    scene.ask(client, "ACL WHOAMI", "$3 app");
    let nil = scene.nil();
    scene.ask(client, "GET k", nil);
}

/// What is behind it waits for its reply, on the next master too.
fn a_failing_auth_under_way_is_answered(scene: &mut Scene) {
    scene.world.servers.iter_mut().for_each(|server| server.mutes_failing_auth = true);
    let client = scene.open();
    scene.failover(client, &["AUTH app wrong", "ECHO behind"]);
    scene.hear_all(client, &["-WRONGPASS…", "$6 behind"]);
}

fn loaded_scripts_are_known(scene: &mut Scene) {
    let client = scene.open();
    scene.say(client, "SCRIPT LOAD return(redis.call('incr',KEYS[1]))");
    let sha = scene.frame(client).unwrap().split_off(4);
    scene.ask(client, &format!("EVALSHA {sha} 1 k"), ":1");
    scene.run(5);
    // So large that it may be passed on in parts.
    scene.say(client, &format!("SCRIPT LOAD return(7)--{}", "x".repeat(20 << 10)));
    let long = scene.frame(client).unwrap().split_off(4);
    scene.failover(client, &[]);
    scene.switched();
    let other = scene.open();
    scene.ask(other, &format!("EVALSHA {sha} 1 k"), ":2");
    scene.ask(client, &format!("EVALSHA {sha} 1 k"), ":3");
    scene.ask(client, &format!("EVALSHA {long} 0"), ":7");
    scene.ask(client, "EVALSHA ffffffffffffffffffffffffffffffffffffffff 0", "-NOSCRIPT…");
}

fn wait_answers_for_the_new_master(scene: &mut Scene) {
    let client = scene.open();
    scene.ask(client, "SET k v", "+OK");
    scene.ask(client, "WAIT 1 5000", ":…");
    scene.failover(client, &[]);
    scene.switched();
    // Longer than a reply is waited for here.
    scene.ask(client, "WAIT 1 600000", ":0");
    scene.say_all(client, &["SET k w", "WAIT 1 10000"]);
    scene.hear(client, "+OK");
    let replicas = scene.frame(client).unwrap();
    assert!(replicas == ":1" || replicas == ":2", "{replicas}");
}

fn an_idle_session_gives_its_backend_back(scene: &mut Scene) {
    let client = scene.open();
    scene.ask(client, "SELECT 3", "+OK");
    scene.ask(client, "SET k v", "+OK");
    let watcher = scene.open();
    scene.ask(watcher, "WATCH w", "+OK");
    for _ in 0..3 {
        scene.sessions[client].tick();
        scene.sessions[watcher].tick();
        scene.settle();
    }
    assert!(scene.sessions[client].link.is_none(), "it is idle");
    scene.ask(watcher, "MULTI", "+OK");
    scene.say_all(watcher, &["INCR w", "EXEC"]);
    scene.hear_all(watcher, &["+QUEUED", "*1 :1"]);
    scene.ask(client, "GET k", "$1 v");
    scene.run(5);
    scene.failover(client, &[]);
    scene.switched();
    scene.ask(client, "GET k", "$1 v");
}

fn a_connection_that_was_ready_is_reset_first(scene: &mut Scene) {
    for requests in
        [&["GET none", "SELECT 1"][..], &["AUTH app app-secret", "SELECT 1"], &["AUTH app wrong", "SELECT 1"]]
    {
        let client = scene.stage.open();
        scene.sessions[client].uses_pool = true;
        scene.say_all(client, requests);
        let replies = [scene.frame(client).unwrap(), scene.frame(client).unwrap()];
        let expected = if requests[0].starts_with("GET") { "$-1" } else { "" };
        assert!(replies[0] != "+RESET" && replies[0].starts_with(expected) && replies[1] == "+OK", "{replies:?}");
        scene.ask(client, "ECHO end", "$3 end");
    }
    // Behind a blank line it would be no request to every server.
    let client = scene.stage.open();
    scene.sessions[client].uses_pool = true;
    scene.stage.send(client, b"\r\n");
    scene.stage.send(client, b"PING end\r\n");
    scene.hear(client, "$3 end");
    let client = scene.stage.open();
    scene.sessions[client].uses_pool = true;
    scene.failover(client, &["INCR k"]);
    scene.hear(client, ":1");
    scene.switched();
    scene.ask(client, "INCR k", ":2");
}

fn a_lost_wait_answers_zero(scene: &mut Scene) {
    let client = scene.open();
    scene.ask(client, "SET k v", "+OK");
    scene.failover(client, &["WAIT 3 0", "ECHO behind"]);
    scene.hear_all(client, &[":0", "$6 behind"]);
}

fn auth_under_way_goes_on(scene: &mut Scene) {
    let client = scene.open();
    scene.failover(client, &["AUTH app app-secret", "SELECT 2"]);
    scene.hear_all(client, &["+OK", "+OK"]);
    scene.switched();
    scene.ask(client, "PING", "+PONG");
    assert!(scene.state(client).starts_with("user=Some(\"app\") db=2 "), "{}", scene.state(client));
}

fn half_closed_clients_get_their_replies(scene: &mut Scene) {
    let client = scene.open();
    scene.ask(client, "SET k v", "+OK");
    scene.run(5);
    scene.failover(client, &["GET k"]);
    scene.hear(client, "$1 v");
    scene.switched();
    scene.say_all(client, &["GET k", "ECHO last"]);
    scene.sessions[client].finish();
    scene.hear_all(client, &["$1 v", "$4 last"]);
    scene.end(client);
}

fn a_half_closed_client_is_told_what_became_of_its_requests(scene: &mut Scene) {
    let client = scene.open();
    scene.ask(client, "SET k v", "+OK");
    scene.run(5);
    scene.arm();
    scene.say_all(client, &["GET k", "INCR i"]);
    scene.sessions[client].finish();
    scene.settle();
    scene.done();
    scene.hear(client, "$1 v");
    let written = if scene.loses_replies() { UNKNOWN } else { ":1" };
    scene.hear(client, written);
    scene.end(client);
}

fn clients_that_ask_once_and_say_no_more_are_answered(scene: &mut Scene) {
    let first = scene.open();
    scene.failover(first, &[]);
    for count in 1..=60 {
        let client = scene.open();
        scene.say(client, "INCR k");
        scene.sessions[client].finish();
        scene.hear(client, &format!(":{count}"));
        scene.end(client);
        scene.run(6);
    }
    scene.switched();
    scene.master_says("GET k", "$2 60");
}

/// It has waited for longer than anybody who just asks and leaves.
fn what_a_client_gave_up_does_not_run_late(scene: &mut Scene) {
    let (patient, client) = (scene.open(), scene.open());
    scene.ask(client, "PING", "+PONG");
    scene.world.play([(0, Act::Hold), (200, Act::Release)]);
    scene.run(1);
    scene.say(patient, "INCR a");
    scene.sessions[patient].finish();
    scene.say(client, "INCR b");
    scene.run(150);
    scene.sessions[client].finish();
    scene.run(200);
    scene.hear(patient, ":1");
    scene.master_says("EXISTS b", ":0");
    scene.end(client);
}

/// As on a direct connection: the server lets go of it.
fn a_pop_of_a_client_that_left_takes_nothing(scene: &mut Scene) {
    let client = scene.open();
    scene.say_all(client, &["BLPOP k 0", "INCR i"]);
    scene.arm();
    scene.sessions[client].finish();
    scene.run(150);
    scene.done();
    scene.switched();
    scene.direct(1, "RPUSH k x");
    scene.run(10);
    scene.master_says("LLEN k", ":1");
    scene.master_says("EXISTS i", ":0");
    scene.end(client);
    let session = &scene.sessions[client];
    assert_eq!((session.ended, session.counts.lost), (Some(CloseReason::ClientClosed), 0));
}

/// Nobody is there to be given the element, though the new master has it.
fn a_pop_that_was_not_reached_takes_nothing_for_a_client_that_left(scene: &mut Scene) {
    let client = scene.open();
    scene.direct(0, "RPUSH k x");
    scene.arm();
    scene.say_all(client, &["ECHO before", "BLPOP k 0", "INCR i"]);
    scene.sessions[client].finish();
    scene.done();
    scene.hear(client, "$6 before");
    scene.end(client);
    scene.switched();
    scene.master_says("LLEN k", ":1");
    scene.master_says("EXISTS i", ":0");
    let session = &scene.sessions[client];
    assert_eq!((session.ended, session.counts.lost), (Some(CloseReason::ClientClosed), 0));
}

/// The protocol changes behind messages that are on their way in the old one.
fn hello_between_messages_is_answered_once(scene: &mut Scene) {
    let client = scene.open();
    let confirmed = scene.push(&["subscribe", "c"], ":1");
    scene.ask(client, "SUBSCRIBE c", &confirmed);
    let [before, after] = ["before", "after"].map(|text| scene.push(&["message", "c", text], ""));
    scene.world.play([(1, Act::Ask("PUBLISH c before".into()))]);
    scene.run(2);
    let pong = if scene.resp3 { "+PONG" } else { "*2 $4 pong $0" };
    let (request, answer) = if scene.resp3 { ("HELLO 3", "%2 $5 proto :3 $4 role $6 master") } else { ("PING", pong) };
    scene.failover(client, &[request]);
    scene.hear(client, &before);
    scene.hear(client, answer);
    scene.switched();
    scene.direct(1, "PUBLISH c after");
    scene.hear(client, &after);
    scene.ask(client, "PING", pong);
}

/// What is said in silence is not sent again where it may have run.
fn a_client_that_silences_replies_runs_its_writes_once(scene: &mut Scene) {
    let client = scene.open();
    scene.ask(client, "SET i 1", "+OK");
    scene.say_all(client, &["CLIENT REPLY OFF", "INCR i"]);
    scene.run(5);
    scene.failover(client, &[]);
    scene.switched();
    scene.say_all(client, &["INCR i", "CLIENT REPLY SKIP", "CLIENT REPLY ON", "CLIENT REPLY SKIP", "INCR i", "GET i"]);
    scene.hear_all(client, &["+OK", "$1 4"]);
}

/// What is behind it was not sent yet, and its FIN is not kept back for that.
fn a_pop_of_a_client_that_left_behind_more_takes_nothing(scene: &mut Scene) {
    let client = scene.open();
    scene.say_all(client, &["BLPOP k 0", "AUTH app app-secret", "INCR i"]);
    scene.sessions[client].finish();
    scene.run(150);
    scene.direct(0, "RPUSH k x");
    scene.run(10);
    scene.master_says("LLEN k", ":1");
    scene.master_says("EXISTS i", ":0");
    scene.end(client);
}

fn a_large_request_without_a_reply_changes_nothing(scene: &mut Scene) {
    let client = scene.open();
    // More than is read at once.
    let large = format!("SET k {}", "x".repeat(256 << 10));
    scene.say_all(client, &["CLIENT REPLY SKIP", &large, "SET b 1"]);
    scene.hear(client, "+OK");
    scene.say_all(client, &["CLIENT REPLY OFF", &large, "CLIENT REPLY ON"]);
    scene.hear(client, "+OK");
    scene.ask(client, "STRLEN k", ":262144");
    scene.failover(client, &[]);
    scene.switched();
    scene.ask(client, "ECHO still", "$5 still");
    let half = words(&large);
    scene.say(client, "CLIENT REPLY SKIP");
    scene.send(client, &half[..100_000]);
    scene.world.play([(0, Act::Hold), (10, Act::Promote(2)), (20, Act::Commit { node: 2, provisional: false })]);
    scene.run(30);
    scene.end(client);
}
