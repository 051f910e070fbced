//! Pops and reads that block: they go on with the time that is left.

use std::time::{Duration, Instant};

use super::client::{Told, ensure};
use super::stage::{Deed, Seat, cases};
use super::{ANY, row};

cases! {
    row::BLOCKED, ANY, blpop_goes_on;
    row::BLOCKED, ANY, brpop_goes_on;
    row::BLOCKED, ANY, blmove_goes_on;
    row::BLOCKED, ANY, brpoplpush_goes_on;
    row::BLOCKED, ANY, blmpop_goes_on;
    row::BLOCKED, ANY, bzpopmin_goes_on;
    row::BLOCKED, ANY, bzpopmax_goes_on;
    row::BLOCKED, ANY, bzmpop_goes_on;
    row::BLOCKED, ANY, xread_goes_on;
    row::BLOCKED, ANY, xreadgroup_goes_on;
    row::BLOCKED, ANY, the_time_out_comes_in_time;
    row::BLOCKED, ANY, milliseconds_are_kept_too;
    row::BLOCKED, ANY, what_is_pipelined_behind_a_pop_waits;
    row::BLOCKED, &[Deed::Planned], writes_behind_a_pop_run_once;
    row::BLOCKED, &[Deed::Planned], writes_behind_a_wait_run_once;
    row::BLOCKED, &[Deed::Planned], an_element_goes_to_one_of_two_pops;
    row::BLOCKED, &[Deed::Planned, Deed::Demotion], client_unblock_is_passed_on;
}

/// Blocks for ever, lives through the deed, is given `feed` on the new master and hears this.
async fn goes_on(seat: Seat, request: &str, feed: &str, answer: impl Fn(&str) -> String) -> Told {
    let mut client = seat.open().await?;
    client.ask("SELECT 1", "+OK").await?;
    client.ask("CLIENT SETNAME @", "+OK").await?;
    client.say(request).await?;
    seat.blocked_on(&mut seat.old().await?).await?;
    seat.failover(&mut client, &[]).await?;
    let mut direct = seat.switched().await?;
    seat.blocked_on(&mut direct).await?;
    direct.ask("SELECT 1", "+OK").await?;
    direct.get(feed).await?;
    client.hear(&answer(&client.bulk("@"))).await?;
    client.ask("PING", "+PONG").await
}

async fn blpop_goes_on(seat: Seat) -> Told {
    goes_on(seat, "BLPOP @ 0", "RPUSH @ x", |key| format!("*2 {key} $1 x")).await
}

async fn brpop_goes_on(seat: Seat) -> Told {
    goes_on(seat, "BRPOP @none @ 0", "RPUSH @ x y", |key| format!("*2 {key} $1 y")).await
}

async fn blmove_goes_on(seat: Seat) -> Told {
    goes_on(seat, "BLMOVE @ @to LEFT RIGHT 0", "RPUSH @ x", |_| "$1 x".into()).await
}

async fn brpoplpush_goes_on(seat: Seat) -> Told {
    goes_on(seat, "BRPOPLPUSH @ @to 0", "RPUSH @ x", |_| "$1 x".into()).await
}

async fn blmpop_goes_on(seat: Seat) -> Told {
    goes_on(seat, "BLMPOP 0 1 @ LEFT COUNT 2", "RPUSH @ x y z", |key| format!("*2 {key} *2 $1 x $1 y")).await
}

async fn bzpopmin_goes_on(seat: Seat) -> Told {
    let score = if seat.resp == 3 { ",1" } else { "$1 1" };
    goes_on(seat, "BZPOPMIN @ 0", "ZADD @ 1 a 2 b", |key| format!("*3 {key} $1 a {score}")).await
}

async fn bzpopmax_goes_on(seat: Seat) -> Told {
    let score = if seat.resp == 3 { ",2" } else { "$1 2" };
    goes_on(seat, "BZPOPMAX @ 0", "ZADD @ 1 a 2 b", |key| format!("*3 {key} $1 b {score}")).await
}

async fn bzmpop_goes_on(seat: Seat) -> Told {
    let score = if seat.resp == 3 { ",1" } else { "$1 1" };
    goes_on(seat, "BZMPOP 0 1 @ MIN", "ZADD @ 1 a", |key| format!("*2 {key} *1 *2 $1 a {score}")).await
}

async fn xread_goes_on(seat: Seat) -> Told {
    let entry = "*1 *2 $3 1-1 *2 $1 f $1 v";
    let resp3 = seat.resp == 3;
    let answer = |key: &str| if resp3 { format!("%1 {key} {entry}") } else { format!("*1 *2 {key} {entry}") };
    goes_on(seat, "XREAD BLOCK 0 STREAMS @ $", "XADD @ 1-1 f v", answer).await
}

async fn xreadgroup_goes_on(seat: Seat) -> Told {
    let mut direct = seat.old().await?;
    direct.ask("SELECT 1", "+OK").await?;
    direct.ask("XGROUP CREATE @ g $ MKSTREAM", "+OK").await?;
    let entry = "*1 *2 $3 1-1 *2 $1 f $1 v";
    let resp3 = seat.resp == 3;
    let answer = |key: &str| if resp3 { format!("%1 {key} {entry}") } else { format!("*1 *2 {key} {entry}") };
    goes_on(seat, "XREADGROUP GROUP g me BLOCK 0 STREAMS @ >", "XADD @ 1-1 f v", answer).await
}

async fn time_out(seat: Seat, request: &str, limit: Duration) -> Told {
    let mut client = seat.open().await?;
    let asked = Instant::now();
    client.say(request).await?;
    seat.failover(&mut client, &[]).await?;
    client.hear(client.nil_array()).await?;
    let waited = asked.elapsed();
    // How much is left is the ledger's to know, and tested there.
    let in_time = waited + Duration::from_millis(20) >= limit && waited < 2 * limit;
    ensure(in_time, format!("{request} timed out after {waited:?}"))?;
    client.ask("PING", "+PONG").await
}

/// Longer than a failover takes, so that it ends on the new master.
const LONG: Duration = Duration::from_secs(12);

async fn the_time_out_comes_in_time(seat: Seat) -> Told {
    time_out(seat, "BLPOP @ 12", LONG).await
}

async fn milliseconds_are_kept_too(seat: Seat) -> Told {
    time_out(seat, "XREAD BLOCK 12000 STREAMS @ $", LONG).await
}

async fn what_is_pipelined_behind_a_pop_waits(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.say_all(&["BLPOP @ 0", "ECHO behind"]).await?;
    seat.failover(&mut client, &[]).await?;
    let mut direct = seat.switched().await?;
    client.quiet(Duration::from_millis(50)).await?;
    direct.ask("RPUSH @ x", ":1").await?;
    client.hear(&format!("*2 {} $1 x", client.bulk("@"))).await?;
    client.hear("$6 behind").await
}

async fn writes_behind_a_pop_run_once(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.say_all(&["BLPOP @ 0", "INCR @i", "MULTI", "INCR @i", "EXEC"]).await?;
    seat.failover(&mut client, &[]).await?;
    let mut direct = seat.switched().await?;
    client.quiet(Duration::from_millis(50)).await?;
    direct.ask("EXISTS @i", ":0").await?;
    direct.ask("RPUSH @ x", ":1").await?;
    client.hear(&format!("*2 {} $1 x", client.bulk("@"))).await?;
    client.hear_all(&[":1", "+OK", "+QUEUED", "*1 :2"]).await?;
    direct.ask("GET @i", "$1 2").await
}

async fn writes_behind_a_wait_run_once(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.ask("INCR @", ":1").await?;
    client.say_all(&["WAIT 9 0", "INCR @"]).await?;
    seat.failover(&mut client, &[]).await?;
    client.hear_all(&[":0", ":2"]).await?;
    let mut direct = seat.switched().await?;
    direct.ask("GET @", "$1 2").await
}

/// An element that is pushed while the pops move is neither lost nor given twice.
async fn an_element_goes_to_one_of_two_pops(seat: Seat) -> Told {
    let mut first = seat.open().await?;
    let mut second = seat.open().await?;
    let mut pusher = seat.open().await?;
    first.say("BLPOP @ 0").await?;
    second.say("BLPOP @ 0").await?;
    seat.failover(&mut pusher, &[]).await?;
    for text in ["a", "b"] {
        tokio::time::sleep(Duration::from_millis(100)).await;
        pusher.get(&format!("RPUSH @ {text}")).await?;
    }
    let mut got = [first.frame().await?, second.frame().await?];
    got.sort();
    let expected = ["a", "b"].map(|text| format!("*2 {} $1 {text}", pusher.bulk("@")));
    ensure(got == expected, format!("{got:?}"))?;
    let mut direct = seat.switched().await?;
    direct.ask("LLEN @", ":0").await
}

/// The words of CLIENT UNBLOCK are for the client; only those of a demotion are not.
async fn client_unblock_is_passed_on(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.ask("CLIENT SETNAME @", "+OK").await?;
    client.say("BLPOP @ 0").await?;
    seat.failover(&mut client, &[]).await?;
    let mut direct = seat.switched().await?;
    let id = seat.blocked_on(&mut direct).await?;
    direct.ask(&format!("CLIENT UNBLOCK {id} ERROR"), ":1").await?;
    client.hear("-UNBLOCKED client unblocked via CLIENT UNBLOCK").await?;
    client.say("BLPOP @ 0").await?;
    let id = seat.blocked_on(&mut direct).await?;
    direct.ask(&format!("CLIENT UNBLOCK {id} TIMEOUT"), ":1").await?;
    client.hear(client.nil_array()).await
}
