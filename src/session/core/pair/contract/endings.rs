//! How sessions end that cannot go on, and what an outage without an end looks like.

use super::super::stage::words;
use super::super::world::Act;
use super::{ANY, DEATH, Deed, Scene, UNKNOWN, cases, row};
use crate::drain::Stage as Drain;
use crate::session::CloseReason;

const OUTAGE: &[Deed] = &[Deed::Outage];
const DOWN: &str = "-MASTERDOWN switchmaster: no master for 15 s: nobody took over";

cases! {
    row::HALF, &[Deed::Crash], half_a_reply_ends_the_connection;
    row::HALF, &[Deed::Planned], the_rest_of_a_reply_arrives_first;
    row::HALF, &[Deed::Planned], the_rest_arrives_also_at_a_client_that_reads_late;
    row::HALF, &[Deed::Planned], a_rest_that_never_comes_is_not_waited_for;
    row::CONNECTING, ANY, a_new_connection_is_held;
    row::AUTH, ANY, a_user_unknown_to_the_new_master_is_cut;
    row::AUTH, &[Deed::Planned], a_node_without_a_password_lets_in;
    row::OPAQUE, ANY, what_is_not_resp_is_cut;
    row::OPAQUE, ANY, a_replication_stream_ends;
    row::LARGE, DEATH, a_request_too_large_to_keep_ends_the_connection;
    row::LARGE, DEATH, a_large_write_whose_reply_is_lost_is_not_sent_again;
    row::CUT, &[Deed::Planned], client_kill_is_passed_on;
    row::CUT, &[Deed::Planned], client_kill_of_a_blocked_pop_is_passed_on;
    row::CUT, &[Deed::Planned], a_drain_ends_between_two_requests;
    row::DEADLINE, OUTAGE, held_requests_get_an_error;
    row::DEADLINE, OUTAGE, a_listener_may_have_less_patience;
    row::DEADLINE, OUTAGE, lost_writes_are_told_apart;
    row::DEADLINE, OUTAGE, a_held_aggregate_ends_the_connection;
    row::DEADLINE, OUTAGE, what_is_behind_a_close_is_not_taken_for_its_answer;
    row::DEADLINE, OUTAGE, a_silence_that_is_asked_for_late_is_refused;
    row::DEADLINE, OUTAGE, new_connections_are_told_at_once;
    row::DEADLINE, OUTAGE, a_blocked_pop_times_out;
    row::DEADLINE, OUTAGE, a_wait_behind_a_pop_is_no_lost_write;
    row::DEADLINE, OUTAGE, a_sent_exec_ends_the_connection;
    row::DEADLINE, OUTAGE, a_held_exec_ends_the_connection;
    row::DEADLINE, OUTAGE, reads_of_an_outage_get_an_error;
    row::DEADLINE, OUTAGE, quit_is_obeyed;
    row::DEADLINE, OUTAGE, a_subscriber_outlives_the_outage;
}

/// A reply of which the client has taken `taken` bytes.
fn half_delivered(scene: &mut Scene, size: usize, taken: usize) -> usize {
    let client = scene.open();
    scene.direct(0, &format!("SETRANGE k {} x", size - 1));
    scene.run(5);
    scene.sessions[client].open_window(taken);
    scene.say(client, "GET k");
    assert_eq!(scene.sessions[client].client.heard.len(), taken);
    client
}

fn half_a_reply_ends_the_connection(scene: &mut Scene) {
    let client = half_delivered(scene, 256 << 10, 1000);
    scene.failover(client, &[]);
    scene.switched();
    scene.sessions[client].open_window(usize::MAX);
    scene.settle();
    assert!(scene.sessions[client].client.is_closed && scene.sessions[client].client.heard.len() < 256 << 10);
    let ended = scene.sessions[client].ended;
    assert!(matches!(ended, Some(CloseReason::PartialReply)), "{ended:?}");
}

fn the_rest_of_a_reply_arrives_first(scene: &mut Scene) {
    let client = scene.open();
    scene.direct(0, "SETRANGE k 99999 x");
    scene.run(5);
    scene.sessions[client].splices = true;
    scene.sessions[client].limit_down(30_000 + 100);
    scene.say(client, "GET k");
    scene.failover(client, &[]);
    scene.run(300); // held, and left, but for the rest
    scene.sessions[client].limit_down(usize::MAX);
    let frame = scene.frame(client).unwrap();
    assert_eq!(frame.trim_end_matches('x').len() + 1, "$100000 ".len() + 100_000);
    scene.switched();
    scene.ask(client, "ECHO next", "$4 next");
}

fn the_rest_arrives_also_at_a_client_that_reads_late(scene: &mut Scene) {
    let size = 256 << 10;
    let client = half_delivered(scene, size, 1000);
    scene.say(client, "EXISTS k");
    scene.failover(client, &[]);
    scene.run(1000); // it has moved long since, but for the rest
    scene.direct(1, "DEL k");
    while scene.sessions[client].client.heard.len() < size && !scene.sessions[client].client.is_closed {
        scene.sessions[client].open_window(20_000);
        scene.run(100);
    }
    scene.sessions[client].open_window(usize::MAX);
    scene.hear(client, "$262144 …");
    scene.hear(client, ":0");
    scene.ask(client, "ECHO next", "$4 next");
}

fn a_rest_that_never_comes_is_not_waited_for(scene: &mut Scene) {
    let client = scene.open();
    scene.direct(0, "SETRANGE k 99999 x");
    scene.run(5);
    scene.sessions[client].limit_down(30_000 + 100);
    scene.say(client, "GET k");
    scene.failover(client, &[]);
    scene.run(2000);
    let session = &scene.sessions[client];
    assert!(matches!(session.ended, Some(CloseReason::PartialReply)), "{:?}", session.ended);
}

fn a_new_connection_is_held(scene: &mut Scene) {
    let other = scene.open();
    scene.failover(other, &[]);
    let client = scene.stage.open();
    scene.say_all(client, &["AUTH app app-secret", "SELECT 1", "INCR k"]);
    scene.hear_all(client, &["+OK", "+OK", ":1"]);
    scene.switched();
    scene.ask(client, "PING", "+PONG");
    assert!(scene.state(client).starts_with("user=Some(\"app\") db=1 "), "{}", scene.state(client));
}

/// Users are not replicated.
fn a_user_unknown_to_the_new_master_is_cut(scene: &mut Scene) {
    let client = scene.open();
    scene.world.servers[0].users.insert("rare".into(), b"secret".to_vec());
    scene.ask(client, "AUTH rare secret", "+OK");
    scene.failover(client, &[]);
    scene.switched();
    scene.say(client, "PING");
    scene.end(client);
    assert!(matches!(scene.sessions[client].ended, Some(CloseReason::AuthRefused)));
}

fn a_node_without_a_password_lets_in(scene: &mut Scene) {
    scene.world.servers[0].password = Some(b"pw".to_vec());
    let client = scene.stage.open();
    scene.ask(client, "GET k", "-NOAUTH…");
    scene.ask(client, "AUTH pw", "+OK");
    scene.failover(client, &["INCR k"]);
    scene.hear(client, ":1");
    scene.switched();
    scene.ask(client, "INCR k", ":2");
}

fn what_is_not_resp_is_cut(scene: &mut Scene) {
    let client = scene.open();
    scene.ask(client, "PING", "+PONG");
    scene.arm();
    scene.send(client, b"*1\r\nPING\r\n");
    scene.done();
    scene.switched();
    scene.settle();
    assert!(scene.sessions[client].client.is_closed, "still open");
}

fn a_replication_stream_ends(scene: &mut Scene) {
    let client = scene.open();
    scene.ask(client, "REPLCONF LISTENING-PORT 1", "+OK");
    scene.say(client, "PSYNC ? -1");
    scene.hear(client, "+FULLRESYNC…");
    scene.failover(client, &[]);
    scene.switched();
    assert!(scene.sessions[client].client.is_closed, "still open");
}

fn a_request_too_large_to_keep_ends_the_connection(scene: &mut Scene) {
    let client = scene.open();
    let request = words(&format!("SET k {}", "x".repeat(1 << 20)));
    scene.arm();
    scene.send(client, &request[..512 * 1024]);
    scene.done();
    scene.end(client);
    assert!(matches!(scene.sessions[client].ended, Some(CloseReason::NotReplayable)));
}

fn a_large_write_whose_reply_is_lost_is_not_sent_again(scene: &mut Scene) {
    scene.settings.on_lost_reply = crate::config::OnLostReply::RetryAll;
    let client = scene.open();
    scene.failover(client, &[&format!("SET k {}", "x".repeat(100 << 10))]);
    scene.run(2000);
    let heard = scene.sessions[client].client.heard.starts_with(b"-UNKNOWNRESULT");
    assert!(heard || scene.sessions[client].client.is_closed);
}

fn client_kill_is_passed_on(scene: &mut Scene) {
    let client = scene.open();
    scene.ask(client, "PING", "+PONG");
    scene.world.servers[0].kill_clients();
    scene.run(100);
    scene.end(client);
    assert!(matches!(scene.sessions[client].ended, Some(CloseReason::UpstreamClosed)));
}

fn client_kill_of_a_blocked_pop_is_passed_on(scene: &mut Scene) {
    let client = scene.open();
    scene.say(client, "BLPOP k 0");
    scene.world.servers[0].kill_clients();
    scene.run(100);
    scene.end(client);
}

fn a_drain_ends_between_two_requests(scene: &mut Scene) {
    let [idle, blocked, busy, multi] = [(); 4].map(|()| scene.open());
    let all = [idle, blocked, busy, multi];
    scene.say_all(blocked, &["BLPOP k 0", "INCR i"]);
    scene.ask(multi, "MULTI", "+OK");
    scene.world.play([(0, Act::Pause(0)), (50, Act::Resume(0))]);
    scene.run(1);
    scene.say(busy, "INCR b");
    for stage in [Drain::Settling, Drain::Ending] {
        all.iter().for_each(|client| scene.sessions[*client].set_stage(stage));
        scene.run(20);
    }
    scene.end(idle);
    let nil_array = scene.nil_array();
    scene.hear(blocked, nil_array);
    scene.run(50);
    scene.hear(busy, ":1");
    scene.end(busy);
    assert!(scene.sessions[multi].ended.is_none(), "a transaction is waited for");
    all.iter().for_each(|client| scene.sessions[*client].set_stage(Drain::Stopping));
    scene.run(20);
    scene.end(multi);
    scene.hear(blocked, ":1");
    scene.end(blocked);
}

fn held_requests_get_an_error(scene: &mut Scene) {
    let client = scene.open();
    scene.ask(client, "SELECT 1", "+OK");
    scene.failover(client, &[]);
    scene.say_all(client, &["SET k v", "GET k", "INCR k"]);
    scene.hear_all(client, &[DOWN, DOWN, DOWN]);
    let waited = scene.world.millis();
    assert!((15_000..15_200).contains(&waited), "{waited} ms");
    // From then on at once, until a master is back.
    scene.ask(client, "PING", DOWN);
    assert_eq!(scene.world.millis(), waited);
    scene.switched();
    scene.ask(client, "SET k v", "+OK");
    assert!(scene.state(client).contains(" db=1 "));
}

fn a_listener_may_have_less_patience(scene: &mut Scene) {
    scene.settings.hold_timeout = Some(std::time::Duration::from_secs(3));
    let client = scene.open();
    scene.ask(client, "PING", "+PONG");
    scene.failover(client, &[]);
    scene.say(client, "SET k v");
    scene.run(4000);
    scene.hear(client, "-MASTERDOWN switchmaster: …");
}

fn lost_writes_are_told_apart(scene: &mut Scene) {
    let client = scene.open();
    scene.failover(client, &["INCR k"]);
    scene.say(client, "INCR k");
    scene.hear(client, "-UNKNOWNRESULT…");
    scene.hear(client, DOWN);
    scene.switched();
    scene.master_says("GET k", "$1 1");
}

fn a_held_aggregate_ends_the_connection(scene: &mut Scene) {
    let client = scene.open();
    scene.ask(client, "PING", "+PONG");
    scene.failover(client, &[]);
    scene.ask(client, "ECHO before", DOWN);
    scene.say(client, "HGETALL k");
    scene.end(client);
    assert!(matches!(scene.sessions[client].ended, Some(CloseReason::Outage)));
}

/// The client takes the first error slowly: the close is at hand before that is out.
fn what_is_behind_a_close_is_not_taken_for_its_answer(scene: &mut Scene) {
    let client = scene.open();
    scene.ask(client, "PING", "+PONG");
    scene.failover(client, &[]);
    scene.sessions[client].open_window(5);
    scene.say_all(client, &["GET k", "HGETALL h", "GET k"]);
    scene.run(16_000);
    scene.sessions[client].open_window(usize::MAX);
    scene.hear(client, DOWN);
    scene.end(client);
}

/// Where it cannot be followed it would make a tunnel, and the requests behind it would never be answered.
fn a_silence_that_is_asked_for_late_is_refused(scene: &mut Scene) {
    let client = scene.open();
    let confirmed = scene.push(&["subscribe", "c"], ":1");
    scene.ask(client, "SUBSCRIBE c", &confirmed);
    scene.failover(client, &[]);
    scene.run(16_000);
    scene.ask(client, "CLIENT REPLY ON", DOWN);
    scene.ask(client, "PING", DOWN);
}

fn new_connections_are_told_at_once(scene: &mut Scene) {
    let client = scene.open();
    scene.failover(client, &[]);
    scene.run(100); // it is known by then that there is no master
    scene.ask(client, "PING", DOWN);
    let fresh = scene.stage.open();
    let asked = scene.world.now;
    scene.ask(fresh, "GET k", DOWN);
    assert_eq!(scene.world.now, asked);
    scene.switched();
    scene.ask(fresh, "SET k v", "+OK");
}

fn a_blocked_pop_times_out(scene: &mut Scene) {
    let client = scene.open();
    scene.say(client, "BLPOP k 0");
    scene.failover(client, &[]);
    let nil_array = scene.nil_array();
    scene.hear(client, nil_array);
    // One that comes only now would be asked again at once: it is refused, and an aggregate's refusal is a FIN.
    let late = scene.stage.open();
    scene.say(late, "BRPOP k 1");
    scene.end(late);
}

/// Unlike the write behind it.
fn a_wait_behind_a_pop_is_no_lost_write(scene: &mut Scene) {
    let client = scene.open();
    scene.say_all(client, &["BLPOP k 0", "WAIT 1 0", "INCR i"]);
    scene.failover(client, &[]);
    let nil_array = scene.nil_array();
    scene.hear_all(client, &[nil_array, DOWN, UNKNOWN]);
    assert_eq!(scene.sessions[client].counts.lost, 1);
}

fn a_sent_exec_ends_the_connection(scene: &mut Scene) {
    let client = scene.open();
    scene.ask(client, "MULTI", "+OK");
    scene.ask(client, "INCR k", "+QUEUED");
    scene.failover(client, &["EXEC"]);
    scene.end(client);
    assert!(matches!(scene.sessions[client].ended, Some(CloseReason::LostReply)));
}

fn a_held_exec_ends_the_connection(scene: &mut Scene) {
    let client = scene.open();
    scene.ask(client, "MULTI", "+OK");
    scene.ask(client, "INCR k", "+QUEUED");
    scene.failover(client, &[]);
    scene.say(client, "EXEC");
    scene.end(client);
    assert!(matches!(scene.sessions[client].ended, Some(CloseReason::Outage)));
}

fn reads_of_an_outage_get_an_error(scene: &mut Scene) {
    let client = scene.open();
    scene.failover(client, &["GET k", "STRLEN k"]);
    scene.hear_all(client, &[DOWN, DOWN]);
}

fn quit_is_obeyed(scene: &mut Scene) {
    let client = scene.open();
    scene.failover(client, &["GET k", "QUIT"]);
    scene.hear_all(client, &[DOWN, "+OK"]);
    scene.end(client);
}

fn a_subscriber_outlives_the_outage(scene: &mut Scene) {
    let client = scene.open();
    let confirmed = scene.push(&["subscribe", "c"], ":1");
    scene.ask(client, "SUBSCRIBE c", &confirmed);
    scene.failover(client, &[]);
    scene.switched();
    assert_eq!(scene.direct(0, "PUBLISH c x"), ":1");
    let message = scene.push(&["message", "c", "x"], "");
    scene.hear(client, &message);
}
