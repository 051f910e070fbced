//! Who waits for something: pops that block, subscribers, MONITOR, caches.

use std::time::Duration;

use super::{ANY, Deed, Scene, cases, row};

cases! {
    row::BLOCKED, ANY, blpop_goes_on;
    row::BLOCKED, ANY, brpop_goes_on;
    row::BLOCKED, ANY, blmove_goes_on;
    row::BLOCKED, ANY, blmpop_goes_on;
    row::BLOCKED, ANY, the_time_out_comes_in_time;
    row::BLOCKED, &[Deed::Planned], a_pop_with_hardly_any_time_left_times_out;
    row::BLOCKED, ANY, a_time_out_in_the_outage_is_answered;
    row::BLOCKED, ANY, what_is_pipelined_behind_a_pop_waits;
    row::BLOCKED, &[Deed::Planned, Deed::Demotion], writes_behind_a_pop_run_once;
    row::BLOCKED, &[Deed::Planned], writes_behind_a_wait_run_once;
    row::BLOCKED, &[Deed::Planned], an_element_goes_to_one_of_two_pops;
    row::BLOCKED, &[Deed::Planned, Deed::Demotion], a_pop_that_is_let_go_is_answered;
    row::SUBSCRIBED, ANY, a_channel_goes_on;
    row::SUBSCRIBED, ANY, channels_patterns_and_shards_go_on;
    row::SUBSCRIBED, ANY, a_subscription_under_way_is_confirmed_once;
    row::SUBSCRIBED, &[Deed::Crash], a_half_confirmed_subscription_is_confirmed_once;
    row::SUBSCRIBED, ANY, an_unsubscribe_under_way_is_confirmed_once;
    row::SUBSCRIBED, ANY, ping_in_pubsub;
    row::SUBSCRIBED, ANY, a_list_that_looks_like_a_message_is_a_reply;
    row::SUBSCRIBED, ANY, monitor_goes_on;
    row::SUBSCRIBED, ANY, a_tracking_cache_is_flushed_and_tracks_on;
    row::SUBSCRIBED, ANY, redirected_invalidations_end_the_connection;
}

/// Blocks for ever, lives through the deed, is given `feed` on the new master and hears this.
fn goes_on(scene: &mut Scene, request: &str, feed: &str, answer: &str) {
    let client = scene.open();
    scene.ask(client, "CLIENT SETNAME me", "+OK");
    scene.say(client, request);
    scene.failover(client, &[]);
    scene.switched();
    scene.direct(1, feed);
    scene.hear(client, answer);
    scene.ask(client, "PING", "+PONG");
    scene.ask(client, "CLIENT GETNAME", "$2 me");
}

fn blpop_goes_on(scene: &mut Scene) {
    goes_on(scene, "BLPOP k 0", "RPUSH k x", "*2 $1 k $1 x");
}

fn brpop_goes_on(scene: &mut Scene) {
    goes_on(scene, "BRPOP none k 0", "RPUSH k x y", "*2 $1 k $1 y");
}

fn blmove_goes_on(scene: &mut Scene) {
    goes_on(scene, "BLMOVE k to LEFT RIGHT 0", "RPUSH k x", "$1 x");
}

fn blmpop_goes_on(scene: &mut Scene) {
    goes_on(scene, "BLMPOP 0 1 k LEFT", "RPUSH k x", "*2 $1 k $1 x");
}

fn times_out(scene: &mut Scene, millis: u64) {
    let client = scene.open();
    let asked = scene.world.now;
    scene.say(client, &format!("BLPOP k {}", millis as f64 / 1000.0));
    scene.failover(client, &[]);
    let nil_array = scene.nil_array();
    scene.hear(client, nil_array);
    let (waited, limit) = (scene.world.now - asked, Duration::from_millis(millis));
    assert!(waited >= limit && waited < limit + Duration::from_millis(3), "timed out after {waited:?}");
    scene.ask(client, "PING", "+PONG");
}

fn the_time_out_comes_in_time(scene: &mut Scene) {
    times_out(scene, 12_000);
}

/// Less than a millisecond is not for ever.
fn a_pop_with_hardly_any_time_left_times_out(scene: &mut Scene) {
    let client = scene.open();
    scene.arm();
    scene.say(client, "BLPOP k 0.1804");
    scene.done();
    let nil_array = scene.nil_array();
    scene.hear(client, nil_array);
    assert!(scene.world.millis() < 200, "{} ms", scene.world.millis());
}

/// Nobody is there to say so at that moment; the next master is not asked in vain.
fn a_time_out_in_the_outage_is_answered(scene: &mut Scene) {
    let client = scene.open();
    scene.say(client, "BLPOP k 0.2");
    scene.failover(client, &["ECHO behind"]);
    let nil_array = scene.nil_array();
    scene.hear_all(client, &[nil_array, "$6 behind"]);
}

fn what_is_pipelined_behind_a_pop_waits(scene: &mut Scene) {
    let client = scene.open();
    scene.say_all(client, &["BLPOP k 0", "ECHO behind"]);
    scene.failover(client, &[]);
    scene.switched();
    scene.quiet(client, 50);
    scene.direct(1, "RPUSH k x");
    scene.hear_all(client, &["*2 $1 k $1 x", "$6 behind"]);
}

fn writes_behind_a_pop_run_once(scene: &mut Scene) {
    let client = scene.open();
    scene.say_all(client, &["BLPOP k 0", "INCR i", "MULTI", "INCR i", "EXEC"]);
    scene.failover(client, &[]);
    scene.switched();
    scene.quiet(client, 50);
    scene.master_says("EXISTS i", ":0");
    scene.direct(1, "RPUSH k x");
    scene.hear_all(client, &["*2 $1 k $1 x", ":1", "+OK", "+QUEUED", "*1 :2"]);
    scene.master_says("GET i", "$1 2");
}

fn writes_behind_a_wait_run_once(scene: &mut Scene) {
    let client = scene.open();
    scene.ask(client, "INCR k", ":1");
    scene.say_all(client, &["WAIT 9 0", "INCR k"]);
    scene.failover(client, &[]);
    scene.hear_all(client, &[":0", ":2"]);
    scene.switched();
    scene.master_says("GET k", "$1 2");
}

/// What is pushed while the pops move is neither lost nor given twice.
fn an_element_goes_to_one_of_two_pops(scene: &mut Scene) {
    let (first, second, pusher) = (scene.open(), scene.open(), scene.open());
    scene.say(first, "BLPOP k 0");
    scene.say(second, "BLPOP k 0");
    scene.failover(pusher, &[]);
    scene.run(80);
    scene.ask(pusher, "RPUSH k a", ":1");
    scene.run(60);
    scene.say(pusher, "RPUSH k b");
    let mut got = [first, second].map(|client| scene.frame(client).unwrap());
    got.sort();
    assert_eq!(got, ["*2 $1 k $1 a", "*2 $1 k $1 b"]);
    scene.hear(pusher, ":1");
    scene.switched();
    scene.master_says("LLEN k", ":0");
}

/// By an administrator, on the new master.
fn a_pop_that_is_let_go_is_answered(scene: &mut Scene) {
    let client = scene.open();
    scene.say(client, "BLPOP k 0");
    scene.failover(client, &[]);
    scene.switched();
    let (id, now) = (scene.sessions[client].link.as_ref().unwrap().id, scene.world.now);
    scene.world.servers[1].let_go(id, now);
    let nil_array = scene.nil_array();
    scene.hear(client, nil_array);
}

fn subscribe(scene: &mut Scene, client: usize, channel: &str, count: &str) {
    let confirmed = scene.push(&["subscribe", channel], count);
    scene.ask(client, &format!("SUBSCRIBE {channel}"), &confirmed);
}

fn a_channel_goes_on(scene: &mut Scene) {
    let client = scene.open();
    subscribe(scene, client, "c", ":1");
    scene.failover(client, &[]);
    while scene.world.entry.term == 1 {
        scene.run(1);
    }
    scene.run(1);
    assert_eq!(scene.direct(1, "PUBLISH c first"), ":1", "subscribed as soon as there is a master");
    let message = scene.push(&["message", "c", "first"], "");
    scene.hear(client, &message);
    let gone = scene.push(&["unsubscribe", "c"], ":0");
    scene.ask(client, "UNSUBSCRIBE", &gone);
    scene.ask(client, "SET k v", "+OK");
}

fn channels_patterns_and_shards_go_on(scene: &mut Scene) {
    let client = scene.open();
    scene.say(client, "SUBSCRIBE a b a");
    for (channel, count) in [("a", ":1"), ("b", ":2"), ("a", ":2")] {
        let confirmed = scene.push(&["subscribe", channel], count);
        scene.hear(client, &confirmed);
    }
    for (request, word, name, count) in [
        ("PSUBSCRIBE p*", "psubscribe", "p*", ":3"),
        ("SSUBSCRIBE s", "ssubscribe", "s", ":1"),
        ("UNSUBSCRIBE b", "unsubscribe", "b", ":2"),
    ] {
        let confirmed = scene.push(&[word, name], count);
        scene.ask(client, request, &confirmed);
    }
    scene.failover(client, &[]);
    scene.switched();
    assert_eq!(scene.direct(1, "PUBLISH b x"), ":0");
    assert_eq!(scene.direct(1, "PUBLISH p1 y"), ":1");
    let message = scene.push(&["pmessage", "p*", "p1", "y"], "");
    scene.hear(client, &message);
    assert_eq!(scene.direct(1, "SPUBLISH s z"), ":1");
    let message = scene.push(&["smessage", "s", "z"], "");
    scene.hear(client, &message);
    let nil = scene.nil();
    for (request, word, name, count) in [
        ("UNSUBSCRIBE", "unsubscribe", Some("a"), ":1"),
        ("UNSUBSCRIBE", "unsubscribe", None, ":1"),
        ("PUNSUBSCRIBE", "punsubscribe", Some("p*"), ":0"),
        ("SUNSUBSCRIBE", "sunsubscribe", Some("s"), ":0"),
    ] {
        let kind = if scene.resp3 { '>' } else { '*' };
        let gone = match name {
            Some(name) => scene.push(&[word, name], count),
            None => format!("{kind}3 ${} {word} {nil} {count}", word.len()),
        };
        scene.ask(client, request, &gone);
    }
    scene.ask(client, "ECHO hello", "$5 hello");
}

fn a_subscription_under_way_is_confirmed_once(scene: &mut Scene) {
    let client = scene.open();
    subscribe(scene, client, "a", ":1");
    scene.failover(client, &["SUBSCRIBE b c"]);
    for (channel, count) in [("b", ":2"), ("c", ":3")] {
        let confirmed = scene.push(&["subscribe", channel], count);
        scene.hear(client, &confirmed);
    }
    scene.switched();
    assert_eq!(scene.direct(1, "PUBLISH c x"), ":1");
    let message = scene.push(&["message", "c", "x"], "");
    scene.hear(client, &message);
}

fn a_half_confirmed_subscription_is_confirmed_once(scene: &mut Scene) {
    let client = scene.open();
    let [first, second, third] =
        [("a", ":1"), ("b", ":2"), ("c", ":3")].map(|(name, count)| scene.push(&["subscribe", name], count));
    let read = scene.sessions[client].read_down + first.len() + "\r\n".len() * 6 - 5;
    scene.sessions[client].limit_down(read);
    scene.say(client, "SUBSCRIBE a b c");
    scene.hear(client, &first);
    scene.failover(client, &[]);
    scene.run(1450);
    scene.sessions[client].limit_down(usize::MAX);
    scene.hear_all(client, &[&second, &third]);
    scene.switched();
    assert_eq!(scene.direct(1, "PUBLISH a x"), ":1");
    let message = scene.push(&["message", "a", "x"], "");
    scene.hear(client, &message);
}

fn an_unsubscribe_under_way_is_confirmed_once(scene: &mut Scene) {
    let client = scene.open();
    subscribe(scene, client, "a", ":1");
    subscribe(scene, client, "b", ":2");
    scene.failover(client, &["UNSUBSCRIBE"]);
    for (channel, count) in [("a", ":1"), ("b", ":0")] {
        let gone = scene.push(&["unsubscribe", channel], count);
        scene.hear(client, &gone);
    }
    scene.switched();
    scene.ask(client, "SET k v", "+OK");
}

fn ping_in_pubsub(scene: &mut Scene) {
    let client = scene.open();
    let [pong, pong_x] = if scene.resp3 { ["+PONG", "$1 x"] } else { ["*2 $4 pong $0", "*2 $4 pong $1 x"] };
    subscribe(scene, client, "c", ":1");
    scene.ask(client, "PING", pong);
    scene.failover(client, &["PING x"]);
    scene.hear(client, pong_x);
    scene.switched();
    scene.ask(client, "PING", pong);
    let refused = if scene.resp3 { "_" } else { "-ERR Can't execute 'get'…" };
    scene.ask(client, "GET k", refused);
}

fn a_list_that_looks_like_a_message_is_a_reply(scene: &mut Scene) {
    let client = scene.open();
    scene.ask(client, "RPUSH l message x", ":2");
    subscribe(scene, client, "c", ":1");
    let gone = scene.push(&["unsubscribe", "c"], ":0");
    scene.ask(client, "UNSUBSCRIBE c", &gone);
    scene.ask(client, "LRANGE l 0 -1", "*2 $7 message $1 x");
    scene.failover(client, &[]);
    scene.switched();
    // Were the list still owed, the answers would be off by one.
    scene.ask(client, "ECHO one", "$3 one");
    scene.ask(client, "ECHO two", "$3 two");
}

fn monitor_goes_on(scene: &mut Scene) {
    let client = scene.open();
    scene.ask(client, "MONITOR", "+OK");
    scene.direct(0, "ECHO before");
    while !scene.frame(client).unwrap().ends_with(r#""ECHO" "before""#) {}
    scene.failover(client, &[]);
    scene.switched();
    scene.direct(1, "ECHO after");
    while !scene.frame(client).unwrap().ends_with(r#""ECHO" "after""#) {}
    scene.say(client, "RESET");
    while scene.frame(client).as_deref() != Some("+RESET") {}
    scene.ask(client, "ECHO done", "$4 done");
}

fn a_tracking_cache_is_flushed_and_tracks_on(scene: &mut Scene) {
    let client = scene.open();
    if !scene.resp3 {
        return; // Invalidations need RESP3, or another connection.
    }
    scene.ask(client, "SET k v", "+OK");
    scene.run(5);
    scene.ask(client, "CLIENT TRACKING ON", "+OK");
    scene.ask(client, "GET k", "$1 v");
    scene.failover(client, &[]);
    scene.hear(client, ">2 $10 invalidate _");
    scene.switched();
    scene.ask(client, "GET k", "$1 v");
    scene.direct(1, "SET k w");
    scene.hear(client, ">2 $10 invalidate *1 $1 k");
    scene.ask(client, "GET k", "$1 w");
    scene.ask(client, "CLIENT TRACKING OFF", "+OK");
}

fn redirected_invalidations_end_the_connection(scene: &mut Scene) {
    let (receiver, client) = (scene.open(), scene.open());
    let id = scene.stage_id(receiver);
    scene.ask(client, &format!("CLIENT TRACKING ON REDIRECT {id}"), "+OK");
    scene.failover(client, &[]);
    scene.end(client);
}

impl Scene {
    /// CLIENT ID.
    fn stage_id(&mut self, client: usize) -> String {
        self.say(client, "CLIENT ID");
        self.frame(client).unwrap()[1..].to_owned()
    }
}
